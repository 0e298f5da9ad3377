use http::StatusCode;
use serde_json::{Value, json};

use super::{City, lamp, person, point, unit};

#[tokio::test]
async fn a_landing_page_names_the_sets_and_what_holds() {
    let city = City::new();
    let root = city.found("/v1.1").await;
    let sets: Vec<_> =
        root["value"].as_array().expect("sets").iter().map(|s| s["name"].as_str().expect("name")).collect();
    assert_eq!(
        sets,
        [
            "Things",
            "Locations",
            "HistoricalLocations",
            "Datastreams",
            "MultiDatastreams",
            "Sensors",
            "ObservedProperties",
            "Observations",
            "FeaturesOfInterest",
            "TaskingCapabilities",
            "Actuators",
            "Tasks"
        ]
    );
    for set in root["value"].as_array().expect("sets") {
        let path = set["url"].as_str().and_then(|u| u.strip_prefix("http://city.example")).expect("url");
        assert_eq!(city.found(path).await["value"], json!([]), "{path}");
    }
    assert!(root["serverSettings"]["conformance"].as_array().expect("list").len() > 10);
}

/// A.1.1 to A.1.8 and A.3: every entity by itself, with its mandatory properties, its links and its control information.
#[tokio::test]
async fn datamodel_and_create_entity() {
    let city = City::new();
    let thing = city
        .made("/v1.1/Things", json!({"name": "Oven", "description": "An oven", "properties": {"color": "Silver"}}))
        .await;
    assert_eq!(
        city.found(&thing).await,
        json!({
            "@iot.id": 1, "@iot.selfLink": "http://city.example/v1.1/Things(1)",
            "name": "Oven", "description": "An oven", "properties": {"color": "Silver"},
            "Locations@iot.navigationLink": "http://city.example/v1.1/Things(1)/Locations",
            "HistoricalLocations@iot.navigationLink": "http://city.example/v1.1/Things(1)/HistoricalLocations",
            "Datastreams@iot.navigationLink": "http://city.example/v1.1/Things(1)/Datastreams",
            "MultiDatastreams@iot.navigationLink": "http://city.example/v1.1/Things(1)/MultiDatastreams",
            "TaskingCapabilities@iot.navigationLink": "http://city.example/v1.1/Things(1)/TaskingCapabilities"
        })
    );
    let sensor =
        json!({"name": "S", "description": "d", "encodingType": "application/pdf", "metadata": {"any": ["thing"]}});
    assert_eq!(city.made("/v1.1/Sensors", sensor).await, "/v1.1/Sensors(1)");
    let property = json!({"name": "P", "description": "d", "definition": "http://example.org/p"});
    assert_eq!(city.made("/v1.1/ObservedProperties", property).await, "/v1.1/ObservedProperties(1)");
    let stream = json!({
        "name": "D", "description": "d", "unitOfMeasurement": unit(),
        "observationType": "http://www.opengis.net/def/observationType/OGC-OM/2.0/OM_Measurement",
        "Thing": {"@iot.id": 1}, "Sensor": {"@iot.id": 1}, "ObservedProperty": {"@iot.id": 1}
    });
    assert_eq!(city.made("/v1.1/Datastreams", stream.clone()).await, "/v1.1/Datastreams(1)");
    // Table 24: a Datastream without one of its three ties is refused, and nothing is left behind.
    for tie in ["Thing", "Sensor", "ObservedProperty"] {
        let mut without = stream.clone();
        without.as_object_mut().expect("object").shift_remove(tie);
        let answer = city.post("/v1.1/Datastreams", without).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
        assert_eq!(answer.json()["errors"][0]["field"], format!("/{tie}"), "{}", answer.text);
    }
    assert_eq!(city.found("/v1.1/Datastreams?$count=true").await["@iot.count"], 1);
    // Special case 1: without a Location there is still a feature, unlocated.
    let observation = city
        .made("/v1.1/Datastreams(1)/Observations", json!({"result": 21.5, "phenomenonTime": "2026-11-22T08:00:00Z"}))
        .await;
    let read = city.found(&observation).await;
    assert_eq!(
        (&read["result"], &read["phenomenonTime"], &read["resultTime"]),
        (&json!(21.5), &json!("2026-11-22T08:00:00Z"), &Value::Null)
    );
    assert_eq!(city.found(&format!("{observation}/FeatureOfInterest")).await["feature"]["geometry"], Value::Null);
    // Without a time the service's own clock counts.
    let now = city.made("/v1.1/Observations", json!({"result": 1, "Datastream": {"@iot.id": 1}})).await;
    assert_eq!(city.found(&now).await["phenomenonTime"], "2026-11-22T09:00:00Z");
    let stream = city.found("/v1.1/Datastreams(1)").await;
    assert_eq!(stream["phenomenonTime"], "2026-11-22T08:00:00Z/2026-11-22T09:00:00Z");
}

/// A.3: deep insert creates everything or nothing.
#[tokio::test]
async fn deep_insert() {
    let city = City::new();
    let mut oven = lamp("oven", "OM_Measurement", 10.0, 10.0);
    oven["Datastreams"][0]["Observations"] = json!([{
        "phenomenonTime": "2012-06-26T03:42:02-0600", "result": 70.4,
        "FeatureOfInterest": {"name": "CCIT", "description": "d", "encodingType": "application/geo+json",
            "feature": {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [[[100,50],[10,9],[23,4],[100,50]]]}, "properties": {}}}
    }, {"phenomenonTime": "2012-06-26T04:42:02-0600", "result": 71}]);
    let thing = city.made("/v1.1/Things", oven.clone()).await;
    let found = city.found(&format!("{thing}?$expand=Datastreams($expand=Sensor,ObservedProperty,Observations($expand=FeatureOfInterest)),Locations")).await;
    let stream = &found["Datastreams"][0];
    assert_eq!(stream["Sensor"]["name"], "DS18B20");
    assert_eq!(stream["Observations"][0]["FeatureOfInterest"]["name"], "CCIT");
    assert_eq!(stream["Observations"][0]["phenomenonTime"], "2012-06-26T09:42:02Z");
    // The second Observation's feature comes from the Thing's Location.
    assert_eq!(stream["Observations"][1]["FeatureOfInterest"]["feature"], point(10.0, 10.0));
    assert_eq!(city.found(&format!("{thing}/HistoricalLocations?$count=true")).await["@iot.count"], 1);

    // A mistake at the bottom: nothing at all is created.
    let counts = async || {
        let mut all = Vec::new();
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
            all.push(city.found(&format!("/v1.1/{set}?$count=true&$top=0")).await["@iot.count"].clone());
        }
        all
    };
    let before = counts().await;
    let mut wrong = oven.clone();
    wrong["Datastreams"][0]["Observations"][1]["result"] = json!("hot");
    let answer = city.post("/v1.1/Things", wrong).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert_eq!(answer.json()["errors"][0]["field"], "/Datastreams/0/Observations/1/result");
    assert_eq!(counts().await, before);
    // The store of Observations refuses after the rows are committed: they are taken back.
    *city.memory.broken.lock() = true;
    assert_eq!(city.post("/v1.1/Things", oven).await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(counts().await, before);
}

#[tokio::test]
async fn results_must_fit_the_observation_type() {
    let city = City::new();
    city.made("/v1.1/Things", lamp("a", "OM_TruthObservation", 1.0, 1.0)).await;
    let answer = city.post("/v1.1/Datastreams(1)/Observations", json!({"result": 5})).await;
    assert_eq!((answer.status, &answer.json()["errors"][0]["field"]), (StatusCode::BAD_REQUEST, &json!("/result")));
    let none = city.made("/v1.1/Datastreams(1)/Observations", json!({"result": null})).await;
    assert!(city.found(&none).await["resultQuality"]["nilReason"].is_string(), "a missing result says why");
    assert_eq!(city.found("/v1.1/Observations?$count=true").await["@iot.count"], 1);
}

/// A.3: PATCH merges, PUT replaces, JSON Patch follows its operations; the id in a body is ignored.
#[tokio::test]
async fn update_entity() {
    let city = City::new();
    let thing = city.made("/v1.1/Things", lamp("a", "OM_Measurement", 1.0, 1.0)).await;
    let answer = city.patch(&thing, json!({"@iot.id": 99, "description": "new"})).await;
    assert_eq!(
        (answer.status, &answer.json()["description"], &answer.json()["name"]),
        (StatusCode::OK, &json!("new"), &json!("a"))
    );
    let put = city
        .send(
            &person("dsd"),
            "PUT",
            &thing,
            "application/json",
            json!({"name": "b", "description": "c"}).to_string().into_bytes(),
        )
        .await;
    assert_eq!((put.status, put.json().get("properties")), (StatusCode::OK, None), "{}", put.text);
    let missing = city
        .send(&person("dsd"), "PUT", &thing, "application/json", json!({"name": "b"}).to_string().into_bytes())
        .await;
    assert_eq!(missing.status, StatusCode::BAD_REQUEST);
    let operations = json!([{"op": "add", "path": "/properties", "value": {"k": 1}}, {"op": "replace", "path": "/name", "value": "z"}]);
    let patched = city
        .send(&person("dsd"), "PATCH", &thing, "application/json-patch+json", operations.to_string().into_bytes())
        .await;
    assert_eq!(
        (&patched.json()["name"], &patched.json()["properties"]["k"]),
        (&json!("z"), &json!(1)),
        "{}",
        patched.text
    );
    assert_eq!(city.patch("/v1.1/Things(77)", json!({"name": "x"})).await.status, StatusCode::NOT_FOUND);
    // 10.3.1: no inline entities in an update.
    let inline = city
        .patch(&thing, json!({"Locations": [{"name": "x", "description": "y", "encodingType": "z", "location": "w"}]}))
        .await;
    assert_eq!(inline.status, StatusCode::BAD_REQUEST);
    // An Observation: same identity, new result.
    let observation = city
        .made("/v1.1/Datastreams(1)/Observations", json!({"result": 1, "phenomenonTime": "2026-01-01T00:00:00Z"}))
        .await;
    let changed = city.patch(&observation, json!({"result": 2})).await;
    assert_eq!((changed.status, &changed.json()["result"]), (StatusCode::OK, &json!(2)), "{}", changed.text);
    assert_eq!(city.found("/v1.1/Observations").await["value"].as_array().map(Vec::len), Some(1));
}

/// A.3: JSON Patch (RFC 6902) on an Observation, which *is* its Datastream, phenomenonTime, FeatureOfInterest and resultTime.
#[tokio::test]
async fn json_patch_on_an_observation() {
    let city = City::new();
    city.made("/v1.1/Things", lamp("a", "OM_Measurement", 1.0, 1.0)).await;
    let body = json!({"result": 1, "phenomenonTime": "2026-01-01T00:00:00Z", "parameters": {"a": [1, 2]}});
    let old = city.made("/v1.1/Datastreams(1)/Observations", body).await;
    let patch = async |path: &str, operations: Value| {
        let body = operations.to_string().into_bytes();
        city.send(&person("dsd"), "PATCH", path, "application/json-patch+json", body).await
    };
    let all = async || city.found("/v1.1/Observations").await["value"].as_array().cloned().expect("a list");
    // What does not identify it: the same Observation, all operations together.
    let answer = patch(
        &old,
        json!([
            {"op": "test", "path": "/resultTime", "value": null},
            {"op": "test", "path": "/phenomenonTime", "value": "2026-01-01T00:00:00Z"},
            {"op": "replace", "path": "/result", "value": 2},
            {"op": "remove", "path": "/parameters/a/0"},
            {"op": "add", "path": "/resultQuality", "value": "good"},
        ]),
    )
    .await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    let now = city.found(&old).await;
    assert_eq!(
        (&now["result"], &now["parameters"], &now["resultQuality"]),
        (&json!(2), &json!({"a": [2]}), &json!("good"))
    );
    assert_eq!(all().await.len(), 1);
    // A failed operation changes nothing, whatever came before it; nor does a result of the wrong type, or taking away what must be there.
    for (operations, field) in [
        (
            json!([{"op": "replace", "path": "/result", "value": 3}, {"op": "test", "path": "/result", "value": 4}]),
            "/1",
        ),
        (json!([{"op": "replace", "path": "/result", "value": "high"}]), "/result"),
        (json!([{"op": "remove", "path": "/result"}]), "/result"),
        (json!([{"op": "remove", "path": "/phenomenonTime"}]), "/phenomenonTime"),
        (json!([{"op": "remove", "path": "/FeatureOfInterest"}]), "/FeatureOfInterest"),
        (json!([{"op": "add", "path": "/colour", "value": 1}]), "/colour"),
    ] {
        let answer = patch(&old, operations.clone()).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{operations} {}", answer.text);
        assert_eq!(answer.json()["errors"][0]["field"], field, "{operations}");
    }
    assert_eq!(patch(&old, json!({"result": 3})).await.status, StatusCode::BAD_REQUEST, "a patch is an array");
    assert_eq!(all().await, [now]);
    // What identifies it: another Observation, and the old one is gone.
    let operations = json!([{"op": "replace", "path": "/phenomenonTime", "value": "2026-01-02T00:00:00Z"},
        {"op": "replace", "path": "/resultTime", "value": "2026-01-02T00:00:05Z"}]);
    let answer = patch(&old, operations).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    let moved = all().await;
    assert_eq!(moved.len(), 1);
    assert_eq!((&moved[0]["phenomenonTime"], &moved[0]["result"]), (&json!("2026-01-02T00:00:00Z"), &json!(2)));
    assert_eq!(answer.json()["@iot.id"], moved[0]["@iot.id"]);
    assert_eq!(patch(&old, json!([])).await.status, StatusCode::NOT_FOUND);
    // Another department can neither change it nor learn that it is there.
    let new = format!("/v1.1/Observations('{}')", moved[0]["@iot.id"].as_str().expect("id"));
    let body = json!([{"op": "replace", "path": "/result", "value": 7}]).to_string().into_bytes();
    let answer = city.send(&person("epd"), "PATCH", &new, "application/json-patch+json", body).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
}

/// A.3: historical-location-auto-creation and -manual-creation.
#[tokio::test]
async fn historical_locations() {
    let city = City::new();
    let thing = city.made("/v1.1/Things", lamp("a", "OM_Measurement", 1.0, 1.0)).await;
    city.clock.advance_micros(60_000_000);
    let place = |x: f64| json!({"name": format!("at {x}"), "description": "d", "encodingType": "application/geo+json", "location": point(x, 2.0)});
    city.made(&format!("{thing}/Locations"), place(5.0)).await;
    let history = city.found(&format!("{thing}/HistoricalLocations?$expand=Locations&$orderby=time desc")).await;
    assert_eq!(history["value"].as_array().map(Vec::len), Some(2));
    assert_eq!(history["value"][0]["Locations"][0]["name"], "at 5");
    assert_eq!(history["value"][0]["time"], "2026-11-22T09:01:00Z");
    assert_eq!(city.found(&format!("{thing}/Locations")).await["value"][0]["name"], "at 5");
    // Naming the same Location again is no move.
    city.patch(&thing, json!({"Locations": [{"@iot.id": 2}]})).await;
    assert_eq!(city.found(&format!("{thing}/HistoricalLocations?$count=true")).await["@iot.count"], 2);
    // An older HistoricalLocation is only history; a newer one moves the Thing.
    let old = json!({"time": "2020-01-01T00:00:00Z", "Thing": {"@iot.id": 1}, "Locations": [{"@iot.id": 1}]});
    city.made("/v1.1/HistoricalLocations", old).await;
    assert_eq!(city.found(&format!("{thing}/Locations")).await["value"][0]["@iot.id"], 2);
    let new = json!({"time": "2027-01-01T00:00:00Z", "Thing": {"@iot.id": 1}, "Locations": [{"@iot.id": 1}]});
    city.made("/v1.1/HistoricalLocations", new).await;
    assert_eq!(city.found(&format!("{thing}/Locations")).await["value"][0]["@iot.id"], 1);
}

/// A Thing that moves gets a new FeatureOfInterest; its past Observations keep the old one.
#[tokio::test]
async fn features_follow_the_location() {
    let city = City::new();
    city.made("/v1.1/Things", lamp("a", "OM_Measurement", 1.0, 1.0)).await;
    let observe = async |at: &str| {
        city.made("/v1.1/Datastreams(1)/Observations", json!({"result": 1, "phenomenonTime": at})).await
    };
    let first = observe("2026-01-01T00:00:00Z").await;
    let again = observe("2026-01-02T00:00:00Z").await;
    assert_eq!(city.patch("/v1.1/Locations(1)", json!({"location": point(7.0, 7.0)})).await.status, StatusCode::OK);
    let moved = observe("2026-01-03T00:00:00Z").await;
    let feature = async |observation: &str| city.found(&format!("{observation}/FeatureOfInterest")).await;
    assert_eq!(feature(&first).await["@iot.id"], feature(&again).await["@iot.id"], "made once");
    assert_eq!(feature(&again).await["feature"], point(1.0, 1.0));
    assert_eq!(feature(&moved).await["feature"], point(7.0, 7.0));
    assert_eq!(city.found("/v1.1/FeaturesOfInterest(1)/Observations?$count=true").await["@iot.count"], 2);
    assert_eq!(city.found("/v1.1/FeaturesOfInterest(2)/Observations?$count=true").await["@iot.count"], 1);
}

/// Table 25.
#[tokio::test]
async fn delete_entity() {
    let count = async |city: &City, set: &str| {
        city.found(&format!("/v1.1/{set}?$count=true&$top=0")).await["@iot.count"].as_i64().expect("count")
    };
    let full = async || {
        let city = City::new();
        for name in ["a", "b"] {
            city.made("/v1.1/Things", lamp(name, "OM_Measurement", 1.0, 1.0)).await;
        }
        for datastream in [1, 2] {
            city.made(&format!("/v1.1/Datastreams({datastream})/Observations"), json!({"result": 1})).await;
        }
        city
    };
    for (path, gone) in [
        (
            "Things(1)",
            [("Things", 1), ("Datastreams", 1), ("HistoricalLocations", 1), ("Observations", 1), ("Locations", 2)],
        ),
        (
            "Locations(1)",
            [("Things", 2), ("Datastreams", 2), ("HistoricalLocations", 1), ("Observations", 2), ("Locations", 1)],
        ),
        (
            "Sensors(1)",
            [("Sensors", 1), ("Datastreams", 1), ("ObservedProperties", 2), ("Observations", 1), ("Things", 2)],
        ),
        (
            "ObservedProperties(1)",
            [("Sensors", 2), ("Datastreams", 1), ("ObservedProperties", 1), ("Observations", 1), ("Things", 2)],
        ),
        (
            "Datastreams(1)",
            [("Datastreams", 1), ("Observations", 1), ("Sensors", 2), ("Things", 2), ("ObservedProperties", 2)],
        ),
        (
            "FeaturesOfInterest(1)",
            [("FeaturesOfInterest", 1), ("Observations", 1), ("Datastreams", 2), ("Locations", 2), ("Things", 2)],
        ),
        (
            "HistoricalLocations(1)",
            [("HistoricalLocations", 1), ("Things", 2), ("Locations", 2), ("Datastreams", 2), ("Observations", 2)],
        ),
    ] {
        let city = full().await;
        assert_eq!(city.delete(&format!("/v1.1/{path}")).await, StatusCode::NO_CONTENT, "{path}");
        assert_eq!(city.get(&format!("/v1.1/{path}")).await.status, StatusCode::NOT_FOUND);
        for (set, left) in gone {
            assert_eq!(count(&city, set).await, left, "{set} after {path}");
        }
    }
    let city = full().await;
    let observation = city.get("/v1.1/Observations?$top=1").await.ids()[0].clone();
    let path = format!("/v1.1/Observations('{}')", observation.as_str().expect("id"));
    assert_eq!(city.delete(&path).await, StatusCode::NO_CONTENT);
    assert_eq!(city.delete(&path).await, StatusCode::NOT_FOUND);
    // A deleted feature of a Location is made anew when it is needed.
    assert_eq!(city.delete("/v1.1/FeaturesOfInterest(2)").await, StatusCode::NO_CONTENT);
    let observation = city.made("/v1.1/Datastreams(2)/Observations", json!({"result": 1})).await;
    assert_eq!(city.found(&format!("{observation}/FeatureOfInterest")).await["@iot.id"], 3);
}

/// A.2: resource paths.
#[tokio::test]
async fn resource_path_to_entities() {
    let city = City::new();
    for name in ["a", "b"] {
        city.made("/v1.1/Things", lamp(name, "OM_Measurement", 1.0, 1.0)).await;
    }
    let observation = city
        .made("/v1.1/Datastreams(1)/Observations", json!({"result": 1.5, "resultTime": "2026-01-01T00:00:00Z"}))
        .await;
    let id = observation.strip_prefix("/v1.1/").expect("path");
    assert_eq!(city.found("/v1.1/Things(1)/name").await, json!({"name": "a"}));
    assert_eq!(city.get("/v1.1/Things(1)/name/$value").await.text, "a");
    assert_eq!(city.found("/v1.1/Things(1)/properties/ward/code").await, json!({"code": "YTM"}));
    assert_eq!(city.get(&format!("{observation}/resultTime/$value")).await.text, "2026-01-01T00:00:00Z");
    assert_eq!(city.get(&format!("{observation}/result/$value")).await.text, "1.5");
    assert_eq!(city.get(&format!("{observation}/validTime")).await.status, StatusCode::NO_CONTENT);
    assert_eq!(city.found(&format!("/v1.1/Datastreams(1)/{id}/result")).await, json!({"result": 1.5}));
    assert_eq!(city.get(&format!("/v1.1/Datastreams(2)/{id}")).await.status, StatusCode::NOT_FOUND);
    assert_eq!(city.get("/v1.1/Things(1)/Datastreams(2)").await.status, StatusCode::NOT_FOUND);
    assert_eq!(city.get("/v1.1/Things(1)/Locations(2)").await.status, StatusCode::NOT_FOUND);
    assert_eq!(city.found("/v1.1/Things(2)/Locations(2)/Things(2)/Datastreams(2)/Sensor").await["@iot.id"], 2);
    assert_eq!(
        city.found("/v1.1/Things(1)/Datastreams/$ref").await,
        json!({"value": [{"@iot.selfLink": "http://city.example/v1.1/Datastreams(1)"}]})
    );
    for nothing in [
        "/v1.1/Lamps",
        "/v1.1/Things(9)",
        "/v1.1/Things(1)/colour",
        "/v1.1/Things(9)/Datastreams",
        "/v1.1/Things(x)",
        "/v1.1/Observations('x')",
    ] {
        assert_eq!(city.get(nothing).await.status, StatusCode::NOT_FOUND, "{nothing}");
    }
}

#[tokio::test]
async fn upsert_by_natural_key_changes_only_what_differs() {
    use crate::model::EntityType;
    let city = City::new();
    let caller = kernel::Caller::system("pack");
    let tenant = super::tenant("dsd");
    let body = |description: &str| {
        json!({"name": "Pole 7", "description": description, "@lamppost.public": true,
               "Locations": [{"@iot.key": "place-7", "name": "p", "description": "d", "encodingType": "application/geo+json", "location": point(1.0, 2.0)}]})
    };
    let rows = async || {
        let sql =
            "SELECT (SELECT COUNT(*) FROM records_audit) + 1000 * (SELECT COUNT(*) FROM sensing_historical_location)";
        city.catalog
            .records()
            .read(|read| read.query_one(sql, &[], |row| row.get::<i64>(0)))
            .await
            .map_err(|e: records::Error| e)
            .expect("count")
    };
    let id = city.catalog.upsert(&caller, EntityType::Thing, &tenant, "pole-7", body("one")).await.expect("created");
    let after_first = rows().await;
    assert_eq!(
        city.catalog.upsert(&caller, EntityType::Thing, &tenant, "pole-7", body("one")).await.expect("same"),
        id
    );
    assert_eq!(rows().await, after_first, "an equal declaration writes nothing");
    assert_eq!(
        city.catalog.upsert(&caller, EntityType::Thing, &tenant, "pole-7", body("two")).await.expect("changed"),
        id
    );
    assert_eq!(rows().await, after_first + 1);
    assert_eq!(city.catalog.by_key(EntityType::Thing, &tenant, "pole-7").await.expect("key"), Some(id));
    assert_eq!(city.found("/v1.1/Things(1)").await["description"], "two");
}
