use http::StatusCode;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{City, lamp, person};
use crate::{
    model::{DatastreamInfo, EntityId, ObservationType},
    observe::Batch,
    sta::{Known, Reader, Rows, Stop},
};

async fn send(city: &City, body: &Value) -> super::Answer {
    city.post("/v1.1/CreateObservations", body.clone()).await
}

/// A.8: data-array.
#[tokio::test]
async fn create_observations() {
    let city = City::new();
    city.made("/v1.1/Things", lamp("a", "OM_Measurement", 1.0, 1.0)).await;
    city.made("/v1.1/Things", lamp("b", "OM_TruthObservation", 2.0, 2.0)).await;
    let answer = send(&city, &json!([
        {"Datastream": {"@iot.id": 1}, "components": ["phenomenonTime", "result", "FeatureOfInterest/id"], "dataArray@iot.count": 3,
         "dataArray": [["2010-12-23T10:20:00-0700", 20, 1], ["2010-12-23T10:21:00-0700", "hot", 1], ["2010-12-23T10:22:00-0700", 30, 99]]},
        {"dataArray": [["2026-01-01T00:00:00Z/2026-01-01T01:00:00Z", true, "2026-01-01T02:00:00Z", {"k": 1}, null]],
         "components": ["phenomenonTime", "result", "resultTime", "parameters", "resultQuality"], "Datastream": {"@iot.id": 2}},
        {"Datastream": {"@iot.id": 7}, "components": ["result", "phenomenonTime"], "dataArray": [[1, "2026-01-01T00:00:00Z"]]}
    ])).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
    let links = answer.json();
    // Feature 1 is the Datastream's own; a text is no measurement; there is no feature 99 and no Datastream 7.
    assert_eq!(
        links.as_array().expect("array").iter().map(|l| l == "error").collect::<Vec<_>>(),
        [false, true, true, false, true]
    );
    let link = links[3].as_str().and_then(|l| l.strip_prefix("http://city.example")).expect("link");
    let read = city.found(link).await;
    assert_eq!(read["phenomenonTime"], "2026-01-01T00:00:00Z/2026-01-01T01:00:00Z");
    assert_eq!(
        (&read["result"], &read["resultTime"], &read["parameters"]),
        (&json!(true), &json!("2026-01-01T02:00:00Z"), &json!({"k": 1}))
    );
    let answer = send(
        &city,
        &json!([{"Datastream": {"@iot.id": 1}, "components": ["phenomenonTime", "result"],
        "dataArray": [["2026-01-01T00:00:00Z", 1.5], ["2026-01-01T00:00:01.5+08:00", -2e3]]}]),
    )
    .await;
    assert!(answer.json().as_array().expect("array").iter().all(|l| l != "error"));
    let own = city
        .made(
            "/v1.1/FeaturesOfInterest",
            json!({"name": "f", "description": "d", "encodingType": "text/plain", "feature": "here"}),
        )
        .await;
    let id: i64 = own.trim_start_matches("/v1.1/FeaturesOfInterest(").trim_end_matches(')').parse().expect("id");
    let answer = send(&city, &json!([{"Datastream": {"@iot.id": 1}, "components": ["phenomenonTime", "result", "FeatureOfInterest/id"],
        "dataArray": [["2026-01-02T00:00:00Z", 1, id], ["2026-01-02T00:00:01Z", 2, id], ["2026-01-02T00:00:02Z", 3, null]]}])).await;
    assert!(answer.json().as_array().expect("array").iter().all(|l| l != "error"), "{}", answer.text);
    assert_eq!(city.found(&format!("{own}/Observations?$count=true")).await["@iot.count"], 2);
    assert_eq!(city.found("/v1.1/Datastreams(1)/Observations?$count=true").await["@iot.count"], 6);
}

#[tokio::test]
async fn broken_requests_change_nothing() {
    let city = City::new();
    city.made("/v1.1/Things", lamp("a", "OM_Measurement", 1.0, 1.0)).await;
    let good = r#"[{"Datastream":{"@iot.id":1},"components":["phenomenonTime","result"],"dataArray":[["2026-01-01T00:00:00Z",1],["2026-01-01T00:00:01Z",2]]}]"#;
    for end in 0..good.len() {
        let answer = city
            .send(
                &person("dsd"),
                "POST",
                "/v1.1/CreateObservations",
                "application/json",
                good.as_bytes()[..end].to_vec(),
            )
            .await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{end}: {}", answer.text);
    }
    for (bad, part) in [
        (
            r#"[{"Datastream":{"@iot.id":1},"components":["result"],"dataArray":[[1]]}]"#,
            "at least phenomenonTime and result",
        ),
        (
            r#"[{"Datastream":{"@iot.id":1},"components":["phenomenonTime","colour"],"dataArray":[]}]"#,
            "instead of 'colour'",
        ),
        (
            r#"[{"Datastream":{"@iot.id":1},"components":["phenomenonTime","result"],"dataArray":[["2026-01-01T00:00:00Z"]]}]"#,
            "at byte 106: ',' is expected",
        ),
        (
            r#"[{"Datastream":{"@iot.id":1},"components":["phenomenonTime","result"],"dataArray":[["2026-01-01T00:00:00Z",01]]}]"#,
            "at byte 107",
        ),
        (r#"[{"Datastream":5,"components":["phenomenonTime","result"],"dataArray":[]}]"#, "a Datastream such as"),
        (r#"[{"dataArray":[]}]"#, "Datastream, components and dataArray"),
        (r"{}", "'['"),
        (r"[] x", "the end of the request"),
    ] {
        let answer = city
            .send(&person("dsd"), "POST", "/v1.1/CreateObservations", "application/json", bad.as_bytes().to_vec())
            .await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{bad}");
        assert!(answer.json()["detail"].as_str().is_some_and(|d| d.contains(part)), "{bad}: {}", answer.text);
    }
    let deep = format!(
        r#"[{{"Datastream":{{"@iot.id":1}},"components":["phenomenonTime","result"],"dataArray":[["2026-01-01T00:00:00Z",{}1{}]]}}]"#,
        "[".repeat(50_000),
        "]".repeat(50_000)
    );
    let answer =
        city.send(&person("dsd"), "POST", "/v1.1/CreateObservations", "application/json", deep.into_bytes()).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    let huge =
        city.send(&person("dsd"), "POST", "/v1.1/CreateObservations", "application/json", vec![b' '; 5 << 20]).await;
    assert_eq!(huge.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(city.found("/v1.1/Observations?$count=true").await["@iot.count"], 0);
    let minimal = city
        .send_with(
            &person("dsd"),
            "POST",
            "/v1.1/CreateObservations",
            &[("prefer", "return=minimal")],
            good.as_bytes().to_vec(),
        )
        .await;
    assert_eq!((minimal.status, minimal.text.as_str()), (StatusCode::NO_CONTENT, ""));
    assert_eq!(city.found("/v1.1/Observations?$count=true").await["@iot.count"], 2);
}

fn info(kind: ObservationType) -> DatastreamInfo {
    DatastreamInfo {
        id: EntityId(4),
        tenant: super::tenant("dsd"),
        public: true,
        thing: EntityId(1),
        name: "n".into(),
        observation_type: kind,
        elements: None,
        unit: None,
        feature: EntityId(9),
        interval: None,
        simulated: false,
    }
}

fn read(bytes: &[u8], kind: ObservationType) -> Result<(Vec<Batch>, Vec<bool>), crate::sta::Broken> {
    let info = info(kind);
    let mut reader = Reader::new(bytes);
    let mut rows = Rows::default();
    while let Some(group) = reader.group()? {
        while reader.rows(&group, Some(&info), &|_| Known::Yes, &mut rows)? != Stop::End {}
    }
    let fate = (0..rows.total).map(|row| !rows.refused.contains(&row)).collect();
    Ok((rows.take_batches(), fate))
}

proptest! {
    /// The quick path and the general path are one: what was written is what is read, in whatever shape it comes.
    #[test]
    fn rows_are_read_as_they_are_written(
        rows in prop::collection::vec((0i64..4_000_000_000_000_000, prop_oneof![any::<f64>().prop_filter("finite", |f| f.is_finite()), (-1000i32..1000).prop_map(f64::from)], any::<bool>()), 0..40),
        spaced in any::<bool>(),
    ) {
        let array: Vec<Value> = rows.iter().map(|(at, value, extended)| {
            let at = kernel::Timestamp::from_micros(*at);
            // An interval of no length is an instant, but takes the general path.
            let time = if *extended { format!("{at}/{at}") } else { at.to_string() };
            json!([time, value])
        }).collect();
        let request = json!([{"Datastream": {"@iot.id": 4}, "components": ["phenomenonTime", "result"], "dataArray": array}]);
        let text = if spaced { serde_json::to_string_pretty(&request) } else { serde_json::to_string(&request) }.expect("json");
        let (batches, fate) = read(text.as_bytes(), ObservationType::Measurement).expect("reads");
        prop_assert!(fate.iter().all(|good| *good));
        let read: Vec<(i64, f64)> = batches.iter().flat_map(|b| b.observations().map(|o| (o.phenomenon.start.as_micros(), o.result.number().expect("number"))).collect::<Vec<_>>()).collect();
        let written: Vec<(i64, f64)> = rows.iter().map(|(at, value, _)| (*at, *value)).collect();
        prop_assert_eq!(read, written);
    }

    /// However a number is spelled, it is the one that Rust reads there.
    #[test]
    fn numbers_are_read_exactly(text in "-?(0|[1-9][0-9]{0,17})(\\.[0-9]{1,18})?([eE][+-]?[0-9]{1,2})?") {
        let request = format!(r#"[{{"Datastream":{{"@iot.id":4}},"components":["phenomenonTime","result"],"dataArray":[["2026-01-01T00:00:00Z",{text}]]}}]"#);
        let (batches, fate) = read(request.as_bytes(), ObservationType::Measurement).expect("reads");
        prop_assert_eq!(fate, [true]);
        let expected: f64 = text.parse().expect("a number");
        prop_assert_eq!(batches[0].runs()[0].values[0].to_bits(), expected.to_bits());
    }

    #[test]
    fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(&bytes, ObservationType::Any);
    }

    /// Damage to a good request is either refused or read as JSON would read it.
    #[test]
    fn damage_never_panics(at in 0usize..160, byte in any::<u8>()) {
        let mut text = br#"[{"Datastream":{"@iot.id":4},"components":["phenomenonTime","result","parameters"],"dataArray":[["2026-01-01T00:00:00Z",1.5,{"a":[1]}],["2026-01-01T00:00:01Z",null,null]]}]"#.to_vec();
        if let Some(slot) = text.get_mut(at) {
            *slot = byte;
        }
        if let Ok((_, fate)) = read(&text, ObservationType::Any)
            && fate.iter().all(|good| *good)
        {
            prop_assert!(serde_json::from_slice::<Value>(&text).is_ok(), "{}", String::from_utf8_lossy(&text));
        }
    }
}
