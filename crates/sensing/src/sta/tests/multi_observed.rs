//! Observations of a MultiDatastream: what is taken, by which ways, and what can be asked of them.

use http::StatusCode;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    City, lamp,
    multi::{ids, kind, mast, wind},
    person, unit,
};
use crate::{
    Scope,
    model::EntityType,
    query::{Options, Plan, Source, encode},
};

/// multi-datastream/constraints 3: as many elements as there are ObservedProperties, each of its type; the answer names the one that is wrong.
#[tokio::test]
async fn results_must_fit_their_elements() {
    let city = mast().await;
    let to = "/v1.1/MultiDatastreams(2)/Observations";
    for result in [json!([1.5, "NW", 3]), json!([-2, "", 0]), json!([null, null, null]), json!([1, null, 2])] {
        let path = city.made(to, json!({"result": result})).await;
        assert_eq!(city.found(&path).await["result"], result);
        city.clock.advance_micros(1);
    }
    for (result, at, part) in [
        (
            json!([1, "NW"]),
            "/result",
            "has 3 multiObservationDataTypes, so an array of as many elements is expected, not one of 2",
        ),
        (json!([1, "NW", 3, 4]), "/result", "not one of 4"),
        (json!([]), "/result", "not one of 0"),
        (json!(5), "/result", "not something else"),
        (json!("[1,2,3]"), "/result", "not something else"),
        (json!({"a": 1}), "/result", "not something else"),
        (json!(null), "/result", "not something else"),
        (
            json!(["1", "NW", 3]),
            "/result/0",
            "element 0 of the result is of the type OM_Measurement, so a number or null is expected there",
        ),
        (
            json!([1, 2, 3]),
            "/result/1",
            "element 1 of the result is of the type OM_CategoryObservation, so a string or null",
        ),
        (
            json!([1, "NW", 3.5]),
            "/result/2",
            "element 2 of the result is of the type OM_CountObservation, so a whole number or null",
        ),
        (json!([1, "NW", [3]]), "/result/2", "element 2"),
    ] {
        for (path, body) in [
            (to, json!({"result": result})),
            ("/v1.1/Observations", json!({"result": result, "MultiDatastream": {"@iot.id": 2}})),
            (
                "/v1.1/Observations",
                json!({"result": result, "MultiDatastream": {"@iot.id": 2},
                "FeatureOfInterest": {"name": "f", "description": "d", "encodingType": "text/plain", "feature": "here"}}),
            ),
        ] {
            let answer = city.post(path, body).await;
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{result} {}", answer.text);
            let error = &answer.json()["errors"][0];
            assert_eq!(error["field"], at, "{result} {}", answer.text);
            assert!(error["detail"].as_str().is_some_and(|d| d.contains(part)), "{result} {}", answer.text);
        }
    }
    assert_eq!(city.found("/v1.1/MultiDatastreams(2)/Observations?$count=true").await["@iot.count"], 4);
    // A type that the standard does not list admits anything, as it does in a Datastream.
    let mut body = wind("any");
    body["multiObservationDataTypes"] = json!(["urn:x", kind("OM_Observation"), kind("OM_ComplexObservation")]);
    let any = city.made("/v1.1/Things(1)/MultiDatastreams", body).await;
    city.made(&format!("{any}/Observations"), json!({"result": [[1, [2]], "x", {"a": 1}]})).await;
    // An array is not what a Datastream of numbers takes.
    assert_eq!(
        city.post("/v1.1/Datastreams(1)/Observations", json!({"result": [1]})).await.status,
        StatusCode::BAD_REQUEST
    );
}

/// An Observation has one of the two, whatever is changed; and an id is only one of the two.
#[tokio::test]
async fn an_observation_belongs_to_one_of_the_two() {
    let city = mast().await;
    let refused = async |path: &str, body: Value, at: &str| {
        let answer = city.post(path, body).await;
        assert_eq!(
            (answer.status, &answer.json()["errors"][0]["field"]),
            (StatusCode::BAD_REQUEST, &json!(at)),
            "{}",
            answer.text
        );
    };
    let (plain, multi) = (json!({"@iot.id": 1}), json!({"@iot.id": 2}));
    refused(
        "/v1.1/Observations",
        json!({"result": 1, "Datastream": plain, "MultiDatastream": multi}),
        "/MultiDatastream",
    )
    .await;
    refused("/v1.1/Observations", json!({"result": 1}), "/Datastream").await;
    refused("/v1.1/Observations", json!({"result": 1, "MultiDatastream": plain}), "/MultiDatastream").await;
    refused("/v1.1/Observations", json!({"result": [1, "N", 2], "Datastream": multi}), "/Datastream").await;
    refused(
        "/v1.1/MultiDatastreams(2)/Observations",
        json!({"result": [1, "N", 2], "Datastream": multi}),
        "/Datastream",
    )
    .await;
    refused("/v1.1/Datastreams(1)/Observations", json!({"result": 1, "MultiDatastream": multi}), "/MultiDatastream")
        .await;
    refused(
        "/v1.1/MultiDatastreams(2)/Observations",
        json!({"result": [1, "N", 2], "MultiDatastream": {"@iot.id": 9}}),
        "/MultiDatastream",
    )
    .await;
    assert_eq!(
        city.post("/v1.1/Datastreams(2)/Observations", json!({"result": 1})).await.status,
        StatusCode::NOT_FOUND
    );
    assert_eq!(city.found("/v1.1/Observations?$count=true").await["@iot.count"], 0);
    let body = json!({"result": [1, "N", 2], "phenomenonTime": "2026-01-01T00:00:00Z"});
    let path = city.made("/v1.1/MultiDatastreams(2)/Observations", body).await;
    assert_eq!(city.patch(&path, json!({"Datastream": plain})).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(city.patch(&path, json!({"result": 1})).await.status, StatusCode::BAD_REQUEST);
    let answer = city.patch(&path, json!({"result": [1, "N", 2.5]})).await;
    assert_eq!(answer.json()["errors"][0]["field"], "/result/2", "{}", answer.text);
    let answer = city.patch(&path, json!({"result": [7, null, 2]})).await;
    assert_eq!((answer.status, &answer.json()["result"]), (StatusCode::OK, &json!([7, null, 2])), "{}", answer.text);
    let operations = json!([{"op": "replace", "path": "/result/1", "value": "S"}]).to_string().into_bytes();
    let answer = city.send(&person("dsd"), "PATCH", &path, "application/json-patch+json", operations).await;
    assert_eq!((answer.status, &answer.json()["result"]), (StatusCode::OK, &json!([7, "S", 2])), "{}", answer.text);
    let put = json!({"result": [0, "E", 0], "phenomenonTime": "2026-01-02T00:00:00Z"}).to_string().into_bytes();
    let answer = city.send(&person("dsd"), "PUT", &path, "application/json", put).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    assert_eq!(city.found("/v1.1/MultiDatastreams(2)/Observations").await["value"].as_array().map(Vec::len), Some(1));
    let path = answer.path();
    assert_eq!(
        city.get(&format!("/v1.1/MultiDatastreams(2)/{}", &path["/v1.1/".len()..])).await.status,
        StatusCode::OK
    );
    assert_eq!(
        city.get(&format!("/v1.1/Datastreams(1)/{}", &path["/v1.1/".len()..])).await.status,
        StatusCode::NOT_FOUND
    );
    assert_eq!(city.delete(&path).await, StatusCode::NO_CONTENT);
    assert_eq!(city.found("/v1.1/Observations?$count=true").await["@iot.count"], 0);
}

/// data-array with MultiDatastream, in both directions.
#[tokio::test]
async fn data_arrays() {
    let city = mast().await;
    let answer = city
        .post(
            "/v1.1/CreateObservations",
            json!([
                {"MultiDatastream": {"@iot.id": 2}, "components": ["phenomenonTime", "result", "parameters"], "dataArray": [
                    ["2026-01-01T00:00:00Z", [1.5, "N", 1], {"k": 1}], ["2026-01-01T01:00:00Z", [1, 2, 3], null],
                    ["2026-01-01T02:00:00Z", [1, "N"], null], ["2026-01-01T03:00:00Z", 7, null], ["2026-01-01T04:00:00Z", [null, "S", 2], null]]},
                {"dataArray": [["2026-01-01T00:00:00Z", 4]], "components": ["phenomenonTime", "result"], "Datastream": {"@iot.id": 1}},
                // Each under the other's name: there is no such thing.
                {"Datastream": {"@iot.id": 2}, "components": ["phenomenonTime", "result"], "dataArray": [["2026-01-01T05:00:00Z", [1, "N", 1]]]},
                {"MultiDatastream": {"@iot.id": 1}, "components": ["phenomenonTime", "result"], "dataArray": [["2026-01-01T05:00:00Z", 1]]}
            ]),
        )
        .await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
    let fate: Vec<bool> = answer.json().as_array().expect("links").iter().map(|link| link == "error").collect();
    assert_eq!(fate, [false, true, true, true, false, false, true, true]);
    for (bad, part) in [
        (
            r#"[{"Datastream":{"@iot.id":1},"MultiDatastream":{"@iot.id":2},"components":["phenomenonTime","result"],"dataArray":[]}]"#,
            "one Datastream or one MultiDatastream",
        ),
        (
            r#"[{"MultiDatastream":{"@iot.id":2},"components":["phenomenonTime","result"],"dataArray":[],"MultiDatastream":{"@iot.id":2}}]"#,
            "'MultiDatastream' only once",
        ),
        (
            r#"[{"MultiDatastream":2,"components":["phenomenonTime","result"],"dataArray":[]}]"#,
            "a MultiDatastream such as",
        ),
        (
            r#"[{"MultiDatastream":{"@iot.id":2},"components":["phenomenonTime","result"],"dataArray":[["2026-01-01T00:00:00Z",[1,"N",]]]}]"#,
            "a value",
        ),
    ] {
        let answer = city
            .send(&person("dsd"), "POST", "/v1.1/CreateObservations", "application/json", bad.as_bytes().to_vec())
            .await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{bad}");
        assert!(answer.json()["detail"].as_str().is_some_and(|d| d.contains(part)), "{bad}: {}", answer.text);
    }
    let found = city.found("/v1.1/Observations?$resultFormat=dataArray&$select=result,phenomenonTime").await;
    assert_eq!(
        found["value"],
        json!([
            {"Datastream@iot.navigationLink": "http://city.example/v1.1/Datastreams(1)", "components": ["phenomenonTime", "result"],
             "dataArray@iot.count": 1, "dataArray": [["2026-01-01T00:00:00Z", 4]]},
            {"MultiDatastream@iot.navigationLink": "http://city.example/v1.1/MultiDatastreams(2)", "components": ["phenomenonTime", "result"],
             "dataArray@iot.count": 2, "dataArray": [["2026-01-01T00:00:00Z", [1.5, "N", 1]], ["2026-01-01T04:00:00Z", [null, "S", 2]]]}
        ])
    );
}

/// Three masts of ten Observations each beside two lamps.
async fn field() -> City {
    let city = City::new();
    for name in ["a", "b"] {
        city.made("/v1.1/Things", lamp(name, "OM_Measurement", 1.0, 1.0)).await;
    }
    for (i, thing) in [1, 1, 2].into_iter().enumerate() {
        let mut body = wind(&format!("wind {i}"));
        if i > 0 {
            body["Sensor"] = json!({"@iot.id": 3});
            body["ObservedProperties"] = json!([{"@iot.id": 3 + i}, {"@iot.id": 4}, {"@iot.id": 1}]);
            body["unitOfMeasurements"][0]["symbol"] = json!("km");
        }
        let path = city.made(&format!("/v1.1/Things({thing})/MultiDatastreams"), body).await;
        for j in 0..10 {
            let at = kernel::Timestamp::from_secs(1_767_225_600 + j * 3_600 + i as i64 * 60).to_string();
            let direction = if j % 2 == 0 { "N" } else { "S" };
            let result = json!([i as f64 * 10.0 + j as f64 / 2.0, direction, j]);
            city.made(&format!("{path}/Observations"), json!({"result": result, "phenomenonTime": at})).await;
        }
    }
    for j in 0..10 {
        let at = kernel::Timestamp::from_secs(1_767_225_600 + j * 3_600).to_string();
        city.made("/v1.1/Datastreams(1)/Observations", json!({"result": j, "phenomenonTime": at})).await;
    }
    city
}

fn query(path: &str, options: &[(&str, &str)]) -> String {
    let mut text = format!("/v1.1/{path}?");
    for (name, value) in options {
        text.push_str(&format!("{name}="));
        encode(value, &mut text);
        text.push('&');
    }
    text
}

/// $filter, $orderby, $select and $expand through every new relation, and into the elements of a result.
#[tokio::test]
async fn questions_through_the_relations() {
    let city = field().await;
    let check = async |path: &str, filter: &str, expect: &[i64]| {
        let found = ids(&city, &query(path, &[("$filter", filter), ("$top", "1000")])).await;
        assert_eq!(found, expect, "{path} {filter}");
    };
    check("MultiDatastreams", "name eq 'wind 1'", &[4]).await;
    check("MultiDatastreams", "Thing/name eq 'a'", &[3, 4]).await;
    check("MultiDatastreams", "Thing/id eq 2", &[5]).await;
    check("MultiDatastreams", "Sensor/name eq 'Vane' and id gt 3", &[4, 5]).await;
    check("MultiDatastreams", "ObservedProperties/name eq 'Speed'", &[3]).await;
    check("MultiDatastreams", "ObservedProperty/name eq 'Level'", &[4, 5]).await;
    check("MultiDatastreams", "unitOfMeasurements[0]/symbol eq 'km'", &[4, 5]).await;
    check("MultiDatastreams", "unitOfMeasurements[1]/symbol eq null and id eq 3", &[3]).await;
    check(
        "MultiDatastreams",
        &format!("multiObservationDataTypes[2] eq '{}'", kind("OM_CountObservation")),
        &[3, 4, 5],
    )
    .await;
    check("MultiDatastreams", "multiObservationDataTypes[3] eq null", &[3, 4, 5]).await;
    check("MultiDatastreams", "properties/interval eq 60 and phenomenonTime gt 2026-01-01T00:01:30Z", &[5]).await;
    check("MultiDatastreams", "Observations/result[0] gt 24", &[5]).await;
    check("MultiDatastreams", "st_intersects(observedArea, geography'POINT(1.9 1.5)')", &[3, 4, 5]).await;
    check("Things", "MultiDatastreams/name eq 'wind 2'", &[2]).await;
    check("Things", "MultiDatastreams/ObservedProperties/name eq 'Gusts'", &[1, 2]).await;
    check("Things", "MultiDatastreams/Observations/result[0] lt 4 and Datastreams/id eq 1", &[1]).await;
    check("Sensors", "MultiDatastreams/id eq 4", &[3]).await;
    check("ObservedProperties", "MultiDatastreams/Thing/name eq 'b'", &[1, 4, 5]).await;
    check("Datastreams", "Thing/MultiDatastreams/name eq 'wind 2'", &[2]).await;
    let count = async |path: &str, filter: &str, expect: usize| {
        let answer = city.get(&query(path, &[("$filter", filter), ("$top", "1000"), ("$count", "true")])).await;
        assert_eq!(answer.status, StatusCode::OK, "{filter}: {}", answer.text);
        assert_eq!((answer.ids().len(), &answer.json()["@iot.count"]), (expect, &json!(expect)), "{path} {filter}");
    };
    count("Observations", "result[0] gt 5", 20).await;
    count("Observations", "result[1] eq 'N' and result[2] ge 4", 9).await;
    count("Observations", "result[0] add result[2] gt 30", 3).await;
    count("Observations", "result[0] gt 20 or result gt 7", 11).await;
    count("Observations", "result[3] eq null", 40).await;
    count("Observations", "MultiDatastream/id eq 4", 10).await;
    count("Observations", "MultiDatastream/id ne 4", 30).await;
    count("Observations", "MultiDatastream/id eq null", 10).await;
    count("Observations", "Datastream/id eq null", 30).await;
    count("Observations", "Datastream/name ne 'a level'", 30).await;
    count("Observations", "Datastream/id eq 4", 0).await;
    count("Observations", "Datastream/id eq 1 or MultiDatastream/id eq 5", 20).await;
    count("Observations", "MultiDatastream/Thing/name eq 'a' and result[0] lt 2", 4).await;
    count("Observations", "MultiDatastream/ObservedProperties/name eq 'Speed'", 10).await;
    count("Observations", "FeatureOfInterest/id eq 1", 30).await;
    count("MultiDatastreams(5)/Observations", "result[2] lt 3 and phenomenonTime ge 2026-01-01T01:00:00Z", 2).await;
    // Everything in pages, in every order, once.
    for order in ["", "phenomenonTime desc", "result[0] desc,id", "MultiDatastream/id desc,phenomenonTime"] {
        let options: Vec<_> =
            [("$top", "7")].into_iter().chain((!order.is_empty()).then_some(("$orderby", order))).collect();
        let (paged, pages) = city.pages(&query("Observations", &options)).await;
        assert_eq!((paged.len(), pages), (40, 6), "{order}");
        let (whole, _) = city.pages(&query("Observations", &[&[("$top", "1000")], &options[1..]].concat())).await;
        assert_eq!(paged, whole, "{order}");
    }
    let first = city
        .found(&query(
            "Observations",
            &[("$orderby", "result[0] desc"), ("$filter", "result[1] eq 'S'"), ("$top", "1")],
        ))
        .await;
    assert_eq!(first["value"][0]["result"], json!([24.5, "S", 9]));
    assert!(first["@iot.nextLink"].as_str().is_some_and(|l| l.contains("result%5B1%5D")), "{first}");
    let (multi, _) = city.pages("/v1.1/MultiDatastreams?$orderby=name desc&$top=1").await;
    assert_eq!(multi, [5, 4, 3].map(|id| json!(id)));
    let deep = city
        .found("/v1.1/Things?$select=name&$expand=MultiDatastreams($select=name;$top=1;$count=true;$expand=Observations($top=1;$orderby=phenomenonTime desc;$select=result;$count=true))")
        .await;
    let stream = &deep["value"][0]["MultiDatastreams"][0];
    assert_eq!(
        (&stream["Observations"], &stream["Observations@iot.count"]),
        (&json!([{"result": [4.5, "S", 9]}]), &json!(10))
    );
    assert_eq!(deep["value"][0]["MultiDatastreams@iot.count"], 2);
    let next = deep["value"][0]["MultiDatastreams@iot.nextLink"]
        .as_str()
        .and_then(|l| l.strip_prefix("http://city.example"))
        .expect("link");
    assert_eq!(city.found(next).await["value"][0]["name"], "wind 1");
}

/// One element of a result by its address, as it is written there.
#[tokio::test]
async fn elements_have_addresses() {
    let city = mast().await;
    let path = city
        .made(
            "/v1.1/MultiDatastreams(2)/Observations",
            json!({"result": [1.5, "NW", null], "phenomenonTime": "2026-01-01T00:00:00Z"}),
        )
        .await;
    assert_eq!(city.found(&format!("{path}/result[0]")).await, json!({"result[0]": 1.5}));
    assert_eq!(city.get(&format!("{path}/result[1]/$value")).await.text, "NW");
    assert_eq!(city.get(&format!("{path}/result[2]")).await.status, StatusCode::NO_CONTENT);
    assert_eq!(city.get(&format!("{path}/result[9]")).await.status, StatusCode::NO_CONTENT);
    assert_eq!(city.found("/v1.1/MultiDatastreams(2)/unitOfMeasurements[0]/symbol").await, json!({"symbol": "m"}));
    assert_eq!(
        city.found("/v1.1/MultiDatastreams(2)/multiObservationDataTypes[1]").await["multiObservationDataTypes[1]"],
        kind("OM_CategoryObservation")
    );
    for bad in ["result[-1]", "result[x]", "result[", "result[01]", "results[0]"] {
        assert_eq!(city.get(&format!("{path}/{bad}")).await.status, StatusCode::NOT_FOUND, "{bad}");
    }
    for (filter, part) in [
        ("result[-1] gt 5", "at character 8: a place in an array, from 0, is expected"),
        ("result[1.5] gt 5", "a place in an array"),
        ("result[0 gt 5", "']' is expected"),
        ("result[] gt 5", "a place in an array"),
        ("name[0] eq 'x'", "'name' is a text and has no parts"),
        ("[0] gt 5", "a property, a value or a function is expected"),
    ] {
        let set = if filter.starts_with("name") { "MultiDatastreams" } else { "Observations" };
        let answer = city.get(&query(set, &[("$filter", filter)])).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{filter}");
        let detail = answer.json()["errors"][0]["detail"].as_str().unwrap_or_default().to_owned();
        assert!(detail.contains(part), "{filter}: {detail}");
    }
    let selected = city.found(&query("Observations", &[("$select", "result[0],phenomenonTime"), ("$top", "1")])).await;
    assert_eq!(
        selected["value"][0]["result"],
        json!([1.5, "NW", null]),
        "more than what was asked for, as OData allows"
    );
}

fn shared() -> &'static (tokio::runtime::Runtime, City) {
    static CITY: std::sync::OnceLock<(tokio::runtime::Runtime, City)> = std::sync::OnceLock::new();
    CITY.get_or_init(|| {
        let runtime = tokio::runtime::Runtime::new().expect("runtime");
        let city = runtime.block_on(field());
        (runtime, city)
    })
}

fn filters() -> impl Strategy<Value = String> {
    let atoms = prop::sample::select(vec![
        "MultiDatastream/id eq 4",
        "MultiDatastream/id ne 4",
        "MultiDatastream/id eq null",
        "MultiDatastream/name ge 'wind 1'",
        "MultiDatastream/name ne 'wind 1'",
        "MultiDatastream/Thing/name eq 'a'",
        "MultiDatastream/Thing/name ne 'a'",
        "MultiDatastream/ObservedProperties/name eq 'Level'",
        "MultiDatastream/Sensor/id eq 3",
        "startswith(MultiDatastream/name,'wind')",
        "Datastream/id eq 1",
        "Datastream/id ne 1",
        "Datastream/id eq null",
        "Datastream/name ne 'a level'",
        "null eq Datastream/Thing/name",
        "Datastream/Thing/id eq MultiDatastream/Thing/id",
        "result[0] gt 12",
        "result[1] eq 'N'",
        "result gt 4",
        "FeatureOfInterest/id eq 1",
        "true eq true",
        "false eq true",
        "phenomenonTime lt 2026-01-01T03:00:30Z",
    ])
    .prop_map(str::to_owned);
    atoms.prop_recursive(3, 12, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} and {b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} or {b})")),
            inner.prop_map(|a| format!("not ({a})")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Which series are left unread changes no answer.
    #[test]
    fn leaving_series_out_changes_nothing(filter in filters(), order in prop::sample::select(vec!["", "phenomenonTime desc", "result[0]"])) {
        let (runtime, city) = shared();
        let mut text = "$top=9&$count=true&$filter=".to_owned();
        encode(&filter, &mut text);
        if !order.is_empty() {
            text.push_str("&$orderby=");
            encode(order, &mut text);
        }
        let options = Options::parse(&text).expect("parses");
        let answer = |pushdown: bool| {
            let engine = city.engine.clone().with_pushdown(pushdown);
            let plan = Plan::new(EntityType::Observation, &options, engine.limits(), kernel::Timestamp::from_secs(0)).expect("plans");
            runtime.block_on(engine.answer(&Scope::Everything, &plan, &Source::All)).map(|a| {
                let places: Vec<String> = a.rows.iter().map(|r| r.item.value(&crate::query::Leaf::Id).to_json().to_string()).collect();
                (places, a.count)
            })
        };
        prop_assert_eq!(answer(true).expect("answers"), answer(false).expect("answers"), "{}", filter);
    }

    /// Whatever is indexed prints as it is read.
    #[test]
    fn paths_print_as_they_are_read(parts in prop::collection::vec(prop_oneof![
        (0u32..1_000_000_000).prop_map(|n| format!("[{n}]")), Just("/a".to_owned()), Just("/'b c'".to_owned()), Just("/'0'".to_owned()),
        Just("/'007'".to_owned()), Just("/'1234567890'".to_owned()),
    ], 0..8)) {
        let text = format!("result{} eq 1", parts.concat());
        let expr = crate::query::parse_filter(&text).expect("reads");
        let printed = expr.to_string();
        prop_assert_eq!(crate::query::parse_filter(&printed).map(|e| e.to_string()), Ok(printed));
        let options = Options::parse(&format!("$select={}", parts.iter().fold("result".to_owned(), |all, part| all + part)).replace(' ', "%20")).expect("parses");
        let again = options.select_text().expect("selects");
        let mut encoded = "$select=".to_owned();
        encode(&again, &mut encoded);
        prop_assert_eq!(Options::parse(&encoded).expect("parses").select_text(), Some(again));
    }
}

/// Units stand for themselves, and a unit of a kind that has none is null, also when it is given late.
#[tokio::test]
async fn what_was_taken_is_what_is_given() {
    let city = mast().await;
    let whole = city.found("/v1.1/MultiDatastreams(2)").await;
    let put = city
        .send(&person("dsd"), "PUT", "/v1.1/MultiDatastreams(2)", "application/json", whole.to_string().into_bytes())
        .await;
    assert_eq!((put.status, put.json()), (StatusCode::OK, whole), "an answer can be sent back");
    let mut units = json!([unit(), unit(), unit()]);
    units[2] = json!({"name": null, "symbol": null, "definition": null, "more": [1]});
    let patched = city.patch("/v1.1/MultiDatastreams(2)", json!({"unitOfMeasurements": units})).await;
    assert_eq!(patched.json()["unitOfMeasurements"], units);
}
