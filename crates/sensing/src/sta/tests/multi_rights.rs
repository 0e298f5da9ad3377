//! What of a MultiDatastream is seen by whom: nothing of another department's, by whatever way it is asked.

use http::StatusCode;
use kernel::Caller;
use serde_json::{Value, json};

use super::{City, lamp, multi::wind, person};

/// dsd's mast with MultiDatastream 2 is its own; epd has nothing; everybody sees Thing 2 with MultiDatastream 4.
async fn departments() -> City {
    let city = City::new();
    for public in [false, true] {
        let mut thing = lamp(&format!("mast {public}"), "OM_Measurement", 1.0, 1.0);
        thing["@lamppost.public"] = json!(public);
        thing["MultiDatastreams"] = json!([wind(&format!("wind {public}"))]);
        thing["MultiDatastreams"][0]["Observations"] =
            json!([{"result": [1, "N", 2], "phenomenonTime": "2026-01-01T00:00:00Z"}]);
        city.made("/v1.1/Things", thing).await;
    }
    city
}

async fn json(city: &City, caller: &Caller, path: &str) -> Value {
    let answer = city.get_as(caller, path).await;
    assert_eq!(answer.status, StatusCode::OK, "{path} {}", answer.text);
    answer.json()
}

#[tokio::test]
async fn what_is_not_published_is_not_there() {
    let city = departments().await;
    let (dsd, strangers) = (person("dsd"), [Caller::anonymous(), person("epd")]);
    let observation = city.found("/v1.1/MultiDatastreams(2)/Observations").await["value"][0]["@iot.id"].clone();
    let observation = format!("/v1.1/Observations('{}')", observation.as_str().expect("id"));
    for path in [
        "/v1.1/MultiDatastreams(2)",
        "/v1.1/MultiDatastreams(2)/name",
        "/v1.1/MultiDatastreams(2)/unitOfMeasurements[0]",
        "/v1.1/MultiDatastreams(2)/Thing",
        "/v1.1/MultiDatastreams(2)/Sensor",
        "/v1.1/MultiDatastreams(2)/ObservedProperties",
        "/v1.1/MultiDatastreams(2)/ObservedProperties/$ref",
        "/v1.1/MultiDatastreams(2)/Observations",
        "/v1.1/MultiDatastreams(2)/Observations?$count=true&$top=0",
        "/v1.1/Things(1)/MultiDatastreams",
        "/v1.1/Sensors(2)/MultiDatastreams",
        "/v1.1/ObservedProperties(2)/MultiDatastreams",
        &observation,
        &format!("{observation}/MultiDatastream"),
        &format!("{observation}/result[0]"),
    ] {
        for caller in &strangers {
            assert_eq!(city.get_as(caller, path).await.status, StatusCode::NOT_FOUND, "{path}");
        }
        assert_eq!(city.get_as(&dsd, path).await.status, StatusCode::OK, "{path}");
    }
    for (path, own, others) in [
        ("/v1.1/MultiDatastreams?$count=true", 2, 1),
        ("/v1.1/MultiDatastreams?$count=true&$filter=startswith(name,'wind')", 2, 1),
        ("/v1.1/MultiDatastreams?$count=true&$filter=id eq 2", 1, 0),
        ("/v1.1/MultiDatastreams?$count=true&$filter=ObservedProperties/name eq 'Speed'", 2, 1),
        ("/v1.1/MultiDatastreams?$count=true&$filter=Observations/result[0] eq 1", 2, 1),
        ("/v1.1/Observations?$count=true", 2, 1),
        ("/v1.1/Observations?$count=true&$filter=MultiDatastream/id eq 2", 1, 0),
        ("/v1.1/Observations?$count=true&$filter=result[1] eq 'N'", 2, 1),
        ("/v1.1/Observations?$count=true&$resultFormat=dataArray", 2, 1),
        ("/v1.1/Things?$count=true&$filter=MultiDatastreams/name eq 'wind false'", 1, 0),
        ("/v1.1/Sensors?$count=true&$filter=MultiDatastreams/id gt 0", 2, 1),
        ("/v1.1/ObservedProperties?$count=true&$filter=MultiDatastreams/id gt 0", 6, 3),
        ("/v1.1/FeaturesOfInterest?$count=true", 2, 1),
    ] {
        assert_eq!(json(&city, &dsd, path).await["@iot.count"], own, "{path}");
        for caller in &strangers {
            let seen = json(&city, caller, path).await;
            assert_eq!(seen["@iot.count"], others, "{path}");
            assert!(
                !seen.to_string().contains("wind false") && !seen.to_string().contains("MultiDatastreams(2)"),
                "{seen}"
            );
        }
    }
}

/// Published entities tied to what is not: the tie leads nowhere, counts nothing, and no filter finds it.
#[tokio::test]
async fn a_tie_shows_nothing_of_the_other_side() {
    let city = departments().await;
    // The published MultiDatastream 4 gets an unpublished Sensor and an unpublished second ObservedProperty.
    let change =
        json!({"Sensor": {"@iot.id": 2}, "ObservedProperties": [{"@iot.id": 6}, {"@iot.id": 3}, {"@iot.id": 8}]});
    assert_eq!(city.patch("/v1.1/MultiDatastreams(4)", change).await.status, StatusCode::OK);
    // And a published Sensor and ObservedProperty are used by the unpublished MultiDatastream 2.
    let change =
        json!({"Sensor": {"@iot.id": 4}, "ObservedProperties": [{"@iot.id": 6}, {"@iot.id": 6}, {"@iot.id": 2}]});
    assert_eq!(city.patch("/v1.1/MultiDatastreams(2)", change).await.status, StatusCode::OK);
    let dsd = person("dsd");
    for stranger in [Caller::anonymous(), person("epd")] {
        let seen = json(
            &city,
            &stranger,
            "/v1.1/MultiDatastreams(4)?$expand=Sensor,ObservedProperties($count=true;$select=id)",
        )
        .await;
        assert_eq!(seen["Sensor"], Value::Null);
        assert_eq!(
            (&seen["ObservedProperties"], &seen["ObservedProperties@iot.count"]),
            (&json!([{"@iot.id": 6}, {"@iot.id": 8}]), &json!(2))
        );
        assert_eq!(
            city.get_as(&stranger, "/v1.1/MultiDatastreams(4)/ObservedProperties(3)").await.status,
            StatusCode::NOT_FOUND
        );
        let list = json(&city, &stranger, "/v1.1/MultiDatastreams(4)/ObservedProperties?$count=true").await;
        assert_eq!(list["@iot.count"], 2);
        for (entity, nothing) in [("Sensors(4)", 0), ("ObservedProperties(6)", 1)] {
            let path = format!("/v1.1/{entity}?$expand=MultiDatastreams($count=true;$select=id)");
            let seen = json(&city, &stranger, &path).await;
            assert_eq!(seen["MultiDatastreams@iot.count"], nothing, "{path} {seen}");
            let path = format!("/v1.1/{entity}/MultiDatastreams?$count=true");
            assert_eq!(json(&city, &stranger, &path).await["@iot.count"], nothing, "{path}");
        }
        for filter in [
            "Sensor/id eq 2",
            "Sensor/name eq 'Vane'",
            "ObservedProperties/id eq 3",
            "ObservedProperties/name eq 'Direction'",
        ] {
            let path = format!("/v1.1/MultiDatastreams?$count=true&$filter={filter}");
            assert_eq!(json(&city, &stranger, &path).await["@iot.count"], 0, "{path}");
            assert_ne!(json(&city, &dsd, &path).await["@iot.count"], 0, "{path}");
        }
        let by_order = json(&city, &stranger, "/v1.1/MultiDatastreams?$orderby=Sensor/name,id").await;
        assert_eq!(by_order["value"].as_array().map(Vec::len), Some(1));
    }
}

/// Errors say the same of what is hidden as of what was never there, and a right is asked for wherever something is written.
#[tokio::test]
async fn writing_needs_a_right() {
    let city = departments().await;
    let send = async |caller: &Caller, method: &str, path: &str, body: &Value| {
        let answer = city.send(caller, method, path, "application/json", body.to_string().into_bytes()).await;
        (answer.status, answer.text)
    };
    let epd = person("epd");
    let mut whole = wind("mine");
    for tie in ["Sensor", "ObservedProperties"] {
        whole.as_object_mut().expect("object").shift_remove(tie);
    }
    let fresh = json!({"result": [1, "N", 2]});
    for (method, path, body) in [
        ("PATCH", "/v1.1/MultiDatastreams({})", json!({"name": "mine"})),
        ("PUT", "/v1.1/MultiDatastreams({})", whole),
        ("DELETE", "/v1.1/MultiDatastreams({})", json!({})),
        ("POST", "/v1.1/MultiDatastreams({})/Observations", fresh.clone()),
        ("POST", "/v1.1/Observations", json!({"result": [1], "MultiDatastream": {"@iot.id": 0}})),
        (
            "POST",
            "/v1.1/CreateObservations",
            json!([{"MultiDatastream": {"@iot.id": 0}, "components": ["phenomenonTime", "result"],
            "dataArray": [["2026-01-01T00:00:00Z", [1, "N", 2]]]}]),
        ),
        (
            "POST",
            "/v1.1/Observations",
            json!({"result": [1], "MultiDatastream": {"@iot.id": 0},
            "FeatureOfInterest": {"name": "f", "description": "d", "encodingType": "text/plain", "feature": "here"}}),
        ),
    ] {
        let asked = |id: &str| {
            (
                path.replace("{}", id),
                serde_json::from_str(&body.to_string().replace("\"@iot.id\":0", &format!("\"@iot.id\":{id}")))
                    .expect("json"),
            )
        };
        // 2 is dsd's, 1 is dsd's Datastream, 99 is nobody's: for epd there is no difference.
        let mut answers = Vec::new();
        for id in ["2", "1", "99"] {
            let (path, body) = asked(id);
            let (status, text) = send(&epd, method, &path, &body).await;
            assert!(status.is_client_error() || text.contains("error"), "{method} {path}: {status} {text}");
            answers.push((status, text.replace(&format!("({id})"), "()")));
        }
        assert!(answers.iter().all(|a| a == &answers[0]), "{method} {path}: {answers:?}");
        // What is published is known, and still not theirs.
        let (path, body) = asked("4");
        assert_eq!(send(&epd, method, &path, &body).await.0, StatusCode::FORBIDDEN, "{method} {path}");
        assert_eq!(
            send(&Caller::anonymous(), method, &path, &body).await.0,
            StatusCode::UNAUTHORIZED,
            "{method} {path}"
        );
    }
    assert_eq!(send(&epd, "POST", "/v1.1/Things(2)/MultiDatastreams", &wind("mine")).await.0, StatusCode::FORBIDDEN);
    assert_eq!(send(&epd, "POST", "/v1.1/Things(1)/MultiDatastreams", &wind("mine")).await.0, StatusCode::NOT_FOUND);
    // Nor may one department's ObservedProperty take another's MultiDatastream along when it goes.
    let own = json!({"name": "own", "definition": "d", "description": "d", "@lamppost.public": true});
    let (status, _) = send(&epd, "POST", "/v1.1/ObservedProperties", &own).await;
    assert_eq!(status, StatusCode::CREATED);
    let id = json(&city, &epd, "/v1.1/ObservedProperties?$filter=name eq 'own'").await["value"][0]["@iot.id"].clone();
    let change = json!({"ObservedProperties": [{"@iot.id": id}, {"@iot.id": 3}, {"@iot.id": 4}]});
    assert_eq!(city.patch("/v1.1/MultiDatastreams(2)", change).await.status, StatusCode::OK);
    let (status, text) = send(&epd, "DELETE", &format!("/v1.1/ObservedProperties({id})"), &json!({})).await;
    assert_eq!(status, StatusCode::CONFLICT, "{text}");
    assert!(text.contains("Something that you may not see") && !text.contains("MultiDatastream"), "{text}");
    assert_eq!(json(&city, &person("dsd"), "/v1.1/MultiDatastreams?$count=true").await["@iot.count"], 2);
}

#[tokio::test]
async fn publishing_a_thing_publishes_its_multi_datastreams() {
    let city = departments().await;
    let path = "/v1.1/MultiDatastreams(2)/Observations";
    let seen = async || city.get_as(&Caller::anonymous(), path).await.status;
    assert_eq!(seen().await, StatusCode::NOT_FOUND);
    assert_eq!(city.patch("/v1.1/Things(1)", json!({"@lamppost.public": true})).await.status, StatusCode::OK);
    assert_eq!(seen().await, StatusCode::OK);
    assert_eq!(city.patch("/v1.1/Things(1)", json!({"@lamppost.public": false})).await.status, StatusCode::OK);
    assert_eq!(seen().await, StatusCode::NOT_FOUND);
}
