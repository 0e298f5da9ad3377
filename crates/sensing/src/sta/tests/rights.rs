use http::StatusCode;
use kernel::Caller;
use serde_json::{Value, json};

use super::{City, lamp, person, point};

async fn count(city: &City, caller: &Caller, path: &str) -> i64 {
    let answer = city.get_as(caller, path).await;
    assert_eq!(answer.status, StatusCode::OK, "{path} {}", answer.text);
    let json = answer.json();
    assert_eq!(json["@iot.count"].as_u64(), json["value"].as_array().map(|v| v.len() as u64), "{path}");
    json["@iot.count"].as_i64().expect("count")
}

/// Two departments, one published Thing each and one of its own.
async fn departments() -> City {
    let city = City::new();
    for slug in ["dsd", "epd"] {
        for public in [true, false] {
            let mut body = lamp(&format!("{slug} {public}"), "OM_Measurement", 1.0, 1.0);
            body["@lamppost.public"] = json!(public);
            body["Datastreams"][0]["Observations"] = json!([{"result": 1}]);
            let answer = city
                .send(&person(slug), "POST", "/v1.1/Things", "application/json", body.to_string().into_bytes())
                .await;
            assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
        }
    }
    city
}

#[tokio::test]
async fn everybody_sees_what_is_published_and_their_own() {
    let city = departments().await;
    let (nobody, dsd, epd) = (Caller::anonymous(), person("dsd"), person("epd"));
    for set in [
        "Things",
        "Locations",
        "HistoricalLocations",
        "Datastreams",
        "Sensors",
        "ObservedProperties",
        "FeaturesOfInterest",
        "Observations",
    ] {
        let path = format!("/v1.1/{set}?$count=true");
        assert_eq!(count(&city, &nobody, &path).await, 2, "{set}");
        assert_eq!(count(&city, &dsd, &path).await, 3, "{set}");
        assert_eq!(count(&city, &epd, &path).await, 3, "{set}");
    }
    // Thing 2 is dsd's own: for others it is not there, by whatever way.
    for path in [
        "/v1.1/Things(2)",
        "/v1.1/Things(2)/Datastreams",
        "/v1.1/Datastreams(2)",
        "/v1.1/Datastreams(2)/Observations",
        "/v1.1/Sensors(2)/name",
        "/v1.1/Locations(2)/Things",
        "/v1.1/FeaturesOfInterest(2)/Observations",
    ] {
        assert_eq!(city.get_as(&nobody, path).await.status, StatusCode::NOT_FOUND, "{path}");
        assert_eq!(city.get_as(&epd, path).await.status, StatusCode::NOT_FOUND, "{path}");
        assert_eq!(city.get_as(&dsd, path).await.status, StatusCode::OK, "{path}");
    }
    // Nor can it be told from a filter that looks through a tie.
    let probe = "/v1.1/Datastreams?$filter=startswith(Sensor/name,'DS')&$count=true";
    assert_eq!(count(&city, &nobody, probe).await, 2);
}

#[tokio::test]
async fn a_public_entity_tied_to_a_private_one_does_not_show_it() {
    let city = departments().await;
    // dsd's published Datastream uses dsd's unpublished Sensor.
    let answer = city.patch("/v1.1/Datastreams(1)", json!({"Sensor": {"@iot.id": 2}})).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    let seen = city.get_as(&Caller::anonymous(), "/v1.1/Datastreams(1)?$expand=Sensor").await.json();
    assert_eq!(seen["Sensor"], Value::Null);
    let hidden = city
        .get_as(&Caller::anonymous(), "/v1.1/Datastreams?$filter=Sensor/name eq 'DS18B20'&$count=true")
        .await
        .json();
    assert_eq!(hidden["@iot.count"], 1, "only epd's published one");
    assert_eq!(city.get_as(&Caller::anonymous(), "/v1.1/Datastreams(1)/Sensor").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn writing_needs_a_right() {
    let city = departments().await;
    let thing = lamp("x", "OM_Measurement", 1.0, 1.0);
    let send = async |caller: &Caller, method: &str, path: &str, body: &Value| {
        city.send(caller, method, path, "application/json", body.to_string().into_bytes()).await.status
    };
    let nobody = Caller::anonymous();
    for (method, path) in [
        ("POST", "/v1.1/Things"),
        ("PATCH", "/v1.1/Things(1)"),
        ("PUT", "/v1.1/Things(1)"),
        ("DELETE", "/v1.1/Things(1)"),
        ("POST", "/v1.1/CreateObservations"),
        ("POST", "/v1.1/Observations"),
    ] {
        assert_eq!(send(&nobody, method, path, &thing).await, StatusCode::UNAUTHORIZED, "{method} {path}");
    }
    let epd = person("epd");
    // Published by another department: known, but not theirs to change.
    assert_eq!(send(&epd, "PATCH", "/v1.1/Things(1)", &json!({"name": "mine"})).await, StatusCode::FORBIDDEN);
    assert_eq!(send(&epd, "DELETE", "/v1.1/Things(1)", &json!({})).await, StatusCode::FORBIDDEN);
    assert_eq!(
        send(&epd, "POST", "/v1.1/Datastreams(1)/Observations", &json!({"result": 1})).await,
        StatusCode::FORBIDDEN
    );
    assert_eq!(send(&epd, "POST", "/v1.1/Things(1)/Locations", &json!({"name": "n", "description": "d", "encodingType": "application/geo+json", "location": point(1.0, 1.0)})).await, StatusCode::FORBIDDEN);
    // Not published: not there.
    assert_eq!(send(&epd, "PATCH", "/v1.1/Things(2)", &json!({"name": "mine"})).await, StatusCode::NOT_FOUND);
    assert_eq!(
        send(&epd, "POST", "/v1.1/Datastreams(2)/Observations", &json!({"result": 1})).await,
        StatusCode::NOT_FOUND
    );
    // A department cannot give itself another's name.
    let mut forged = thing.clone();
    forged["@lamppost.tenant"] = json!("dsd");
    assert_eq!(send(&epd, "POST", "/v1.1/Things", &forged).await, StatusCode::FORBIDDEN);
    // Deleting an own Sensor must not delete another department's Datastream that uses it.
    let dsd = person("dsd");
    assert_eq!(send(&dsd, "PATCH", "/v1.1/Datastreams(1)", &json!({"Sensor": {"@iot.id": 3}})).await, StatusCode::OK);
    assert_eq!(send(&epd, "DELETE", "/v1.1/Sensors(3)", &json!({})).await, StatusCode::FORBIDDEN);
    assert_eq!(count(&city, &dsd, "/v1.1/Datastreams?$count=true").await, 3);
}

#[tokio::test]
async fn publishing_a_thing_publishes_what_belongs_to_it() {
    let city = departments().await;
    assert_eq!(
        city.get_as(&Caller::anonymous(), "/v1.1/Datastreams(2)/Observations").await.status,
        StatusCode::NOT_FOUND
    );
    assert_eq!(city.patch("/v1.1/Things(2)", json!({"@lamppost.public": true})).await.status, StatusCode::OK);
    assert_eq!(city.get_as(&Caller::anonymous(), "/v1.1/Datastreams(2)/Observations").await.ids().len(), 1);
    assert_eq!(city.patch("/v1.1/Things(2)", json!({"@lamppost.public": false})).await.status, StatusCode::OK);
    assert_eq!(
        city.get_as(&Caller::anonymous(), "/v1.1/Datastreams(2)/Observations").await.status,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn every_command_leaves_an_audit_row_and_an_event() {
    let city = City::new();
    city.made("/v1.1/Things", lamp("a", "OM_Measurement", 1.0, 1.0)).await;
    city.patch("/v1.1/Things(1)", json!({"name": "b"})).await;
    city.patch("/v1.1/Things(1)", json!({"name": "b"})).await;
    assert_eq!(city.delete("/v1.1/Things(1)").await, StatusCode::NO_CONTENT);
    let query = records::AuditQuery { limit: 10, ..records::AuditQuery::default() };
    let rows = city.catalog.records().audit(query).await.expect("audit").rows;
    let actions: Vec<_> = rows.iter().map(|r| (r.action.as_str(), r.caller.as_str())).collect();
    assert_eq!(
        actions,
        [("sensing:delete", "person:of-dsd"), ("sensing:write", "person:of-dsd"), ("sensing:write", "person:of-dsd")]
    );
    // The refused and the empty leave none.
    assert_eq!(city.post("/v1.1/Things", json!({"name": "x"})).await.status, StatusCode::BAD_REQUEST);
    let query = records::AuditQuery { limit: 10, ..records::AuditQuery::default() };
    assert_eq!(city.catalog.records().audit(query).await.expect("audit").rows.len(), 3);
}
