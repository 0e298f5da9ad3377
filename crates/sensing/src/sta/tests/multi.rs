//! The MultiDatastream extension (18-088 section 12): its three requirements, what follows from them for writing, and the order of what is tied.

use http::StatusCode;
use serde_json::{Value, json};

use super::{City, lamp, person, unit};

pub const COMPLEX: &str = "http://www.opengis.net/def/observationType/OGC-OM/2.0/OM_ComplexObservation";

pub fn kind(name: &str) -> String {
    format!("http://www.opengis.net/def/observationType/OGC-OM/2.0/{name}")
}

pub fn property(name: &str) -> Value {
    json!({"name": name, "definition": format!("http://example.org/{name}"), "description": "d"})
}

/// Wind: a number, a word and a count, with everything that it needs but a Thing.
pub fn wind(name: &str) -> Value {
    let none = json!({"name": null, "symbol": null, "definition": null});
    json!({
        "name": name, "description": "d", "observationType": COMPLEX,
        "multiObservationDataTypes": [kind("OM_Measurement"), kind("OM_CategoryObservation"), kind("OM_CountObservation")],
        "unitOfMeasurements": [unit(), none, none],
        "observedArea": {"type": "Polygon", "coordinates": [[[1, 1], [2, 1], [2, 2], [1, 1]]]},
        "properties": {"interval": 60},
        "Sensor": {"name": "Vane", "description": "d", "encodingType": "application/pdf", "metadata": "http://example.org/v.pdf"},
        "ObservedProperties": [property("Speed"), property("Direction"), property("Gusts")]
    })
}

/// Thing 1 with Datastream 1, and MultiDatastream 2 of the ObservedProperties 2, 3 and 4.
pub async fn mast() -> City {
    let city = City::new();
    city.made("/v1.1/Things", lamp("mast", "OM_Measurement", 1.0, 1.0)).await;
    assert_eq!(city.made("/v1.1/Things(1)/MultiDatastreams", wind("wind")).await, "/v1.1/MultiDatastreams(2)");
    city
}

pub async fn ids(city: &City, path: &str) -> Vec<i64> {
    let answer = city.get(path).await;
    assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.text);
    answer.ids().iter().map(|id| id.as_i64().expect("id")).collect()
}

fn field(answer: &super::Answer) -> String {
    answer.json()["errors"][0]["field"].as_str().unwrap_or_default().to_owned()
}

/// multi-datastream/properties and multi-datastream/relations, and the inverse of each relation.
#[tokio::test]
async fn properties_and_relations() {
    let city = mast().await;
    let root = city.found("/v1.1").await;
    let conformance = root["serverSettings"]["conformance"].as_array().expect("list");
    assert!(conformance.contains(&json!("http://www.opengis.net/spec/iot_sensing/1.1/req/multi-datastream")));
    let none = json!({"name": null, "symbol": null, "definition": null});
    assert_eq!(
        city.found("/v1.1/MultiDatastreams(2)").await,
        json!({
            "@iot.id": 2, "@iot.selfLink": "http://city.example/v1.1/MultiDatastreams(2)",
            "name": "wind", "description": "d", "observationType": COMPLEX,
            "multiObservationDataTypes":
                [kind("OM_Measurement"), kind("OM_CategoryObservation"), kind("OM_CountObservation")],
            "unitOfMeasurements": [unit(), none, none],
            "observedArea": {"type": "Polygon", "coordinates": [[[1, 1], [2, 1], [2, 2], [1, 1]]]},
            "properties": {"interval": 60},
            "Thing@iot.navigationLink": "http://city.example/v1.1/MultiDatastreams(2)/Thing",
            "Sensor@iot.navigationLink": "http://city.example/v1.1/MultiDatastreams(2)/Sensor",
            "ObservedProperties@iot.navigationLink": "http://city.example/v1.1/MultiDatastreams(2)/ObservedProperties",
            "Observations@iot.navigationLink": "http://city.example/v1.1/MultiDatastreams(2)/Observations"
        })
    );
    let body = json!({"result": [1.5, "NW", 3], "phenomenonTime": "2026-11-22T08:00:00Z", "resultTime": "2026-11-22T08:00:01Z"});
    let observation = city.made("/v1.1/MultiDatastreams(2)/Observations", body).await;
    let plain = city.made("/v1.1/Datastreams(1)/Observations", json!({"result": 1})).await;
    // phenomenonTime and resultTime are what the Observations make them.
    let now = city.found("/v1.1/MultiDatastreams(2)").await;
    assert_eq!(
        (&now["phenomenonTime"], &now["resultTime"]),
        (&json!("2026-11-22T08:00:00Z"), &json!("2026-11-22T08:00:01Z"))
    );
    // Relations, from both ends.
    assert_eq!(city.found("/v1.1/MultiDatastreams(2)/Thing").await["name"], "mast");
    assert_eq!(city.found("/v1.1/MultiDatastreams(2)/Sensor").await["name"], "Vane");
    assert_eq!(ids(&city, "/v1.1/MultiDatastreams(2)/ObservedProperties").await, [2, 3, 4]);
    for path in [
        "/v1.1/MultiDatastreams",
        "/v1.1/Things(1)/MultiDatastreams",
        "/v1.1/Sensors(2)/MultiDatastreams",
        "/v1.1/ObservedProperties(3)/MultiDatastreams",
    ] {
        assert_eq!(ids(&city, path).await, [2], "{path}");
    }
    for path in ["/v1.1/Sensors(1)/MultiDatastreams", "/v1.1/ObservedProperties(1)/MultiDatastreams"] {
        assert_eq!(ids(&city, path).await, [] as [i64; 0], "{path}");
    }
    assert_eq!(city.get("/v1.1/Things(1)/MultiDatastreams(2)/name/$value").await.text, "wind");
    // An Observation names that of the two which it has; the other does not exist.
    let read = city.found(&observation).await;
    assert_eq!(read["MultiDatastream@iot.navigationLink"], format!("http://city.example{observation}/MultiDatastream"));
    assert_eq!(read.get("Datastream@iot.navigationLink"), None);
    assert_eq!(city.found(&plain).await.get("MultiDatastream@iot.navigationLink"), None);
    assert_eq!(city.found(&format!("{observation}/MultiDatastream")).await["@iot.id"], 2);
    for nothing in [
        format!("{observation}/Datastream"),
        format!("{plain}/MultiDatastream"),
        "/v1.1/Datastreams(2)".to_owned(),
        "/v1.1/MultiDatastreams(1)".to_owned(),
    ] {
        assert_eq!(city.get(&nothing).await.status, StatusCode::NOT_FOUND, "{nothing}");
    }
    let both = city.found("/v1.1/Observations?$expand=Datastream,MultiDatastream&$orderby=phenomenonTime").await;
    assert_eq!(
        (&both["value"][0]["Datastream"], &both["value"][0]["MultiDatastream"]["@iot.id"]),
        (&Value::Null, &json!(2))
    );
    assert_eq!(
        (&both["value"][1]["Datastream"]["@iot.id"], &both["value"][1]["MultiDatastream"]),
        (&json!(1), &Value::Null)
    );
    // A feature's Observations are those of both kinds.
    assert_eq!(city.found("/v1.1/FeaturesOfInterest(1)/Observations?$count=true").await["@iot.count"], 2);
}

/// multi-datastream/constraints 1, 2 and 4: three lists of one length. Whoever breaks it is told which, and nothing is left behind.
#[tokio::test]
async fn sizes_must_agree() {
    let city = City::new();
    city.made("/v1.1/Things", json!({"name": "t", "description": "d"})).await;
    let refused = async |change: &dyn Fn(&mut Value), at: &str| {
        let mut body = wind("w");
        change(&mut body);
        let answer = city.post("/v1.1/Things(1)/MultiDatastreams", body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{at}: {}", answer.text);
        assert_eq!(field(&answer), at, "{}", answer.text);
    };
    let pop = |body: &mut Value, name: &str| drop(body[name].as_array_mut().expect("array").pop());
    refused(&|b| pop(b, "unitOfMeasurements"), "/unitOfMeasurements").await;
    refused(&|b| pop(b, "ObservedProperties"), "/ObservedProperties").await;
    refused(&|b| pop(b, "multiObservationDataTypes"), "/unitOfMeasurements").await;
    refused(&|b| b["ObservedProperties"] = json!([]), "/ObservedProperties").await;
    refused(&|b| b["ObservedProperties"] = json!({"@iot.id": 1}), "/ObservedProperties").await;
    refused(&|b| b["multiObservationDataTypes"] = json!([]), "/multiObservationDataTypes").await;
    refused(&|b| b["multiObservationDataTypes"] = json!("OM_Measurement"), "/multiObservationDataTypes").await;
    refused(&|b| b["multiObservationDataTypes"][1] = json!(7), "/multiObservationDataTypes/1").await;
    refused(&|b| b["multiObservationDataTypes"][1] = json!("x".repeat(2_000)), "/multiObservationDataTypes/1").await;
    refused(&|b| b["unitOfMeasurements"][2] = json!(null), "/unitOfMeasurements/2").await;
    refused(&|b| b["unitOfMeasurements"][2] = json!({"name": "n", "symbol": "s"}), "/unitOfMeasurements/2/definition")
        .await;
    refused(&|b| b["unitOfMeasurements"][0]["symbol"] = json!(1), "/unitOfMeasurements/0/symbol").await;
    refused(&|b| b["unitOfMeasurements"] = json!({}), "/unitOfMeasurements").await;
    refused(&|b| b["observationType"] = json!(kind("OM_Measurement")), "/observationType").await;
    refused(&|b| b["observedArea"] = json!("everywhere"), "/observedArea").await;
    refused(&|b| b["ObservedProperties"][1] = json!({"@iot.id": 99}), "/ObservedProperties/1").await;
    refused(&|b| b["colour"] = json!("red"), "/colour").await;
    for needed in [
        "name",
        "description",
        "observationType",
        "multiObservationDataTypes",
        "unitOfMeasurements",
        "Sensor",
        "ObservedProperties",
    ] {
        refused(&|b| drop(b.as_object_mut().expect("object").shift_remove(needed)), &format!("/{needed}")).await;
    }
    let many = |n: usize| {
        let mut body = wind("w");
        body["multiObservationDataTypes"] = vec![json!(kind("OM_Measurement")); n].into();
        body["unitOfMeasurements"] = vec![unit(); n].into();
        body["ObservedProperties"] = vec![json!({"@iot.id": 1}); n].into();
        body
    };
    assert_eq!(field(&city.post("/v1.1/Things(1)/MultiDatastreams", many(101)).await), "/multiObservationDataTypes");
    for set in ["MultiDatastreams", "Sensors", "ObservedProperties"] {
        assert_eq!(city.found(&format!("/v1.1/{set}?$count=true")).await["@iot.count"], 0, "{set}");
    }
    // Without a Thing there is none, and a Thing in the body must be the one in the address.
    assert_eq!(field(&city.post("/v1.1/MultiDatastreams", wind("w")).await), "/Thing");
    city.made("/v1.1/Things", json!({"name": "u", "description": "d"})).await;
    let mut other = wind("w");
    other["Thing"] = json!({"@iot.id": 2});
    assert_eq!(field(&city.post("/v1.1/Things(1)/MultiDatastreams", other.clone()).await), "/Thing");
    city.made("/v1.1/MultiDatastreams", other).await;
    assert_eq!(ids(&city, "/v1.1/Things(2)/MultiDatastreams").await.len(), 1);
    assert_eq!(
        city.post("/v1.1/Things(1)/MultiDatastreams", many(100)).await.status,
        StatusCode::CREATED,
        "as many as there may be"
    );
}

/// Inside a Thing, a Sensor, an ObservedProperty, an Observation; everything or nothing.
#[tokio::test]
async fn deep_insert_from_every_side() {
    let city = City::new();
    let mut thing = lamp("mast", "OM_Measurement", 1.0, 1.0);
    let mut inner = wind("wind");
    inner["Observations"] = json!([
        {"result": [1, "N", 0], "phenomenonTime": "2026-01-01T00:00:00Z"}, {"result": [2, "E", 1], "phenomenonTime": "2026-01-02T00:00:00Z"}]);
    thing["MultiDatastreams"] = json!([inner, wind("second")]);
    city.made("/v1.1/Things", thing.clone()).await;
    let found = city
        .found("/v1.1/Things(1)?$expand=MultiDatastreams($expand=Sensor,ObservedProperties($select=name),Observations($select=result))")
        .await;
    let multi = &found["MultiDatastreams"];
    assert_eq!((multi.as_array().map(Vec::len), &multi[0]["Sensor"]["name"]), (Some(2), &json!("Vane")));
    assert_eq!(multi[0]["ObservedProperties"], json!([{"name": "Speed"}, {"name": "Direction"}, {"name": "Gusts"}]));
    assert_eq!(multi[0]["Observations"], json!([{"result": [1, "N", 0]}, {"result": [2, "E", 1]}]));
    // A mistake at the bottom, named from the top; and nothing remains of it.
    let all = [
        "Things",
        "MultiDatastreams",
        "Datastreams",
        "Sensors",
        "ObservedProperties",
        "Observations",
        "FeaturesOfInterest",
    ];
    let counts = async || {
        let mut counts = Vec::new();
        for set in all {
            counts.push(city.found(&format!("/v1.1/{set}?$count=true&$top=0")).await["@iot.count"].clone());
        }
        counts
    };
    let before = counts().await;
    for (change, at) in [
        (
            json!({"Observations": [{"result": [1, "N", 0]}, {"result": [1, 2, 0]}]}),
            "/MultiDatastreams/0/Observations/1/result/1",
        ),
        (json!({"Observations": [{"result": 1}]}), "/MultiDatastreams/0/Observations/0/result"),
        (json!({"unitOfMeasurements": [unit()]}), "/MultiDatastreams/0/unitOfMeasurements"),
    ] {
        let mut wrong = thing.clone();
        let target = wrong["MultiDatastreams"][0].as_object_mut().expect("object");
        target.extend(change.as_object().expect("object").clone());
        let answer = city.post("/v1.1/Things", wrong).await;
        assert_eq!((answer.status, field(&answer).as_str()), (StatusCode::BAD_REQUEST, at), "{}", answer.text);
    }
    let mut without = thing.clone();
    without["MultiDatastreams"][0].as_object_mut().expect("object").shift_remove("ObservedProperties");
    assert_eq!(field(&city.post("/v1.1/Things", without).await), "/MultiDatastreams/0/ObservedProperties");
    *city.memory.broken.lock() = true;
    assert_eq!(city.post("/v1.1/Things", thing).await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(counts().await, before);
    // Inside a Sensor: the Sensor is given, the rest is not.
    let mut inner = wind("of a sensor");
    inner.as_object_mut().expect("object").shift_remove("Sensor");
    inner["Thing"] = json!({"@iot.id": 1});
    let sensor =
        json!({"name": "S", "description": "d", "encodingType": "x", "metadata": "m", "MultiDatastreams": [inner]});
    let sensor = city.made("/v1.1/Sensors", sensor).await;
    assert_eq!(city.found(&format!("{sensor}/MultiDatastreams")).await["value"][0]["name"], "of a sensor");
    // Inside an ObservedProperty, which is then the only one; and at its address.
    let mut one = wind("of a property");
    one["Thing"] = json!({"@iot.id": 1});
    one["multiObservationDataTypes"] = json!([kind("OM_Measurement")]);
    one["unitOfMeasurements"] = json!([unit()]);
    let mut three = wind("of three");
    three["Thing"] = json!({"@iot.id": 1});
    assert_eq!(
        field(&city.post("/v1.1/ObservedProperties(1)/MultiDatastreams", three.clone()).await),
        "/ObservedProperties"
    );
    three["ObservedProperties"][1] = json!({"@iot.id": 1});
    let three = city.made("/v1.1/ObservedProperties(1)/MultiDatastreams", three).await;
    assert_eq!(ids(&city, &format!("{three}/ObservedProperties")).await[1], 1, "at the place where it was named");
    one.as_object_mut().expect("object").shift_remove("ObservedProperties");
    let at = city.made("/v1.1/ObservedProperties(1)/MultiDatastreams", one.clone()).await;
    assert_eq!(ids(&city, &format!("{at}/ObservedProperties")).await, [1]);
    let mut whole = property("Whole");
    whole["MultiDatastreams"] = json!([one]);
    let whole = city.made("/v1.1/ObservedProperties", whole).await;
    assert_eq!(city.found(&format!("{whole}/MultiDatastreams?$count=true")).await["@iot.count"], 1);
    // Inside an Observation.
    let mut body = wind("of an observation");
    body["Thing"] = json!({"@iot.id": 1});
    let observation = city.made("/v1.1/Observations", json!({"result": [1, "S", 2], "MultiDatastream": body})).await;
    assert_eq!(city.found(&format!("{observation}/MultiDatastream")).await["name"], "of an observation");
}

/// The ObservedProperties come in the order of the elements, and the same one may come twice.
#[tokio::test]
async fn the_order_of_observed_properties() {
    let city = mast().await;
    let list = async |order: &[i64]| {
        let mut body = wind("w");
        body["Sensor"] = json!({"@iot.id": 1});
        body["ObservedProperties"] = order.iter().map(|id| json!({"@iot.id": id})).collect();
        body["multiObservationDataTypes"] = vec![json!(kind("OM_Measurement")); order.len()].into();
        body["unitOfMeasurements"] = vec![unit(); order.len()].into();
        city.made("/v1.1/Things(1)/MultiDatastreams", body).await
    };
    for order in [vec![4, 2, 3], vec![3, 4], vec![2, 2], vec![4, 2, 4, 2, 4]] {
        let path = list(&order).await;
        assert_eq!(ids(&city, &format!("{path}/ObservedProperties")).await, order);
        let count = city.found(&format!("{path}/ObservedProperties?$count=true&$top=1")).await;
        assert_eq!(count["@iot.count"], order.len());
        let expanded = city.found(&format!("{path}?$expand=ObservedProperties($select=id;$count=true)")).await;
        let inline: Vec<i64> = expanded["ObservedProperties"]
            .as_array()
            .expect("list")
            .iter()
            .filter_map(|p| p["@iot.id"].as_i64())
            .collect();
        assert_eq!((inline, &expanded["ObservedProperties@iot.count"]), (order.clone(), &json!(order.len())));
        // Pages of the list, by its address and from an expansion.
        let (paged, pages) = city.pages(&format!("{path}/ObservedProperties?$top=2")).await;
        assert_eq!((paged, pages), (order.iter().map(|id| json!(id)).collect(), order.len().div_ceil(2)));
        let expanded = city.found(&format!("{path}?$expand=ObservedProperties($top=1;$filter=id ge 0)")).await;
        let mut all = vec![expanded["ObservedProperties"][0]["@iot.id"].clone()];
        if let Some(next) = expanded["ObservedProperties@iot.nextLink"].as_str() {
            all.extend(city.pages(next.strip_prefix("http://city.example").expect("own")).await.0);
        }
        assert_eq!(all, order.iter().map(|id| json!(id)).collect::<Vec<_>>());
        // Another order when it is asked for; equal ones keep theirs.
        let mut sorted = order.clone();
        sorted.sort_by_key(|id| std::cmp::Reverse(*id));
        assert_eq!(ids(&city, &format!("{path}/ObservedProperties?$orderby=id desc")).await, sorted);
        let (paged, _) = city.pages(&format!("{path}/ObservedProperties?$orderby=id desc&$top=1")).await;
        assert_eq!(paged, sorted.iter().map(|id| json!(id)).collect::<Vec<_>>());
        let of_two: Vec<i64> = order.iter().copied().filter(|id| *id == 2).collect();
        assert_eq!(ids(&city, &format!("{path}/ObservedProperties?$filter=name eq 'Speed'")).await, of_two);
        let references = city.found(&format!("{path}/ObservedProperties/$ref")).await;
        assert_eq!(
            references["value"][0]["@iot.selfLink"],
            format!("http://city.example/v1.1/ObservedProperties({})", order[0])
        );
        assert_eq!(city.get(&format!("{path}/ObservedProperties({})", order[1])).await.status, StatusCode::OK);
        assert_eq!(city.get(&format!("{path}/ObservedProperties(1)")).await.status, StatusCode::NOT_FOUND);
    }
    // From the other side each MultiDatastream comes once, however often the property stands in it.
    let of_two = ids(&city, "/v1.1/ObservedProperties(2)/MultiDatastreams").await;
    assert_eq!(of_two, [2, 3, 5, 6]);
    let expanded = city.found("/v1.1/ObservedProperties(2)?$expand=MultiDatastreams($select=id;$count=true)").await;
    assert_eq!(
        (expanded["MultiDatastreams"].as_array().map(Vec::len), &expanded["MultiDatastreams@iot.count"]),
        (Some(4), &json!(4))
    );
    let filtered =
        city.found("/v1.1/ObservedProperties(2)?$expand=MultiDatastreams($filter=id gt 2;$count=true)").await;
    assert_eq!(filtered["MultiDatastreams@iot.count"], 3);
}

#[tokio::test]
async fn update_keeps_the_lists_whole() {
    let city = mast().await;
    let path = "/v1.1/MultiDatastreams(2)";
    let send = async |method: &str, kind: &str, body: &Value| {
        city.send(&person("dsd"), method, path, kind, body.to_string().into_bytes()).await
    };
    let answer = city.patch(path, json!({"description": "new", "@iot.id": 77})).await;
    assert_eq!((answer.status, &answer.json()["description"]), (StatusCode::OK, &json!("new")), "{}", answer.text);
    // One list alone may not change its length.
    for (body, at) in [
        (json!({"unitOfMeasurements": [unit()]}), "/unitOfMeasurements"),
        (json!({"ObservedProperties": [{"@iot.id": 2}]}), "/ObservedProperties"),
        (json!({"ObservedProperties": []}), "/ObservedProperties"),
        (json!({"multiObservationDataTypes": [kind("OM_Measurement")]}), "/unitOfMeasurements"),
        (json!({"observationType": "x"}), "/observationType"),
        (json!({"unitOfMeasurements": null}), "/unitOfMeasurements"),
        (json!({"ObservedProperties": [property("Inline"), {"@iot.id": 3}, {"@iot.id": 4}]}), "/ObservedProperties/0"),
    ] {
        let answer = city.patch(path, body.clone()).await;
        assert_eq!((answer.status, field(&answer).as_str()), (StatusCode::BAD_REQUEST, at), "{body} {}", answer.text);
    }
    assert_eq!(ids(&city, &format!("{path}/ObservedProperties")).await, [2, 3, 4], "nothing has changed");
    // The order is a part of it.
    let order = json!({"ObservedProperties": [{"@iot.id": 4}, {"@iot.id": 3}, {"@iot.id": 2}]});
    assert_eq!(city.patch(path, order).await.status, StatusCode::OK);
    assert_eq!(ids(&city, &format!("{path}/ObservedProperties")).await, [4, 3, 2]);
    // All three together may, as long as nothing was observed.
    let two = json!({"ObservedProperties": [{"@iot.id": 2}, {"@iot.id": 3}], "unitOfMeasurements": [unit(), unit()],
        "multiObservationDataTypes": [kind("OM_Measurement"), kind("OM_Measurement")]});
    assert_eq!(city.patch(path, two.clone()).await.status, StatusCode::OK);
    city.made(&format!("{path}/Observations"), json!({"result": [1, 2]})).await;
    let one = json!({"ObservedProperties": [{"@iot.id": 2}], "unitOfMeasurements": [unit()], "multiObservationDataTypes": [kind("OM_Measurement")]});
    let answer = city.patch(path, one).await;
    assert_eq!(answer.status, StatusCode::CONFLICT, "{}", answer.text);
    assert!(answer.json()["detail"].as_str().is_some_and(|d| d.contains("have 2 elements")), "{}", answer.text);
    assert_eq!(city.patch(path, two).await.status, StatusCode::OK, "the same length is no change of it");
    // PUT replaces the properties and leaves the ties.
    let mut whole = wind("replaced");
    for tie in ["Sensor", "ObservedProperties"] {
        whole.as_object_mut().expect("object").shift_remove(tie);
    }
    whole["multiObservationDataTypes"] = json!([kind("OM_Measurement"), kind("OM_TruthObservation")]);
    whole["unitOfMeasurements"] = json!([unit(), unit()]);
    whole.as_object_mut().expect("object").shift_remove("observedArea");
    let answer = send("PUT", "application/json", &whole).await;
    assert_eq!((answer.status, answer.json().get("observedArea")), (StatusCode::OK, None), "{}", answer.text);
    assert_eq!(ids(&city, &format!("{path}/ObservedProperties")).await, [2, 3]);
    whole["unitOfMeasurements"] = json!([unit()]);
    assert_eq!(field(&send("PUT", "application/json", &whole).await), "/unitOfMeasurements");
    whole.as_object_mut().expect("object").shift_remove("unitOfMeasurements");
    assert_eq!(field(&send("PUT", "application/json", &whole).await), "/unitOfMeasurements");
    // From now on the second element is true or false: what the doors remember has followed.
    assert_eq!(
        city.post(&format!("{path}/Observations"), json!({"result": [1, 2]})).await.status,
        StatusCode::BAD_REQUEST
    );
    city.made(&format!("{path}/Observations"), json!({"result": [1, true]})).await;
    let operations = json!([{"op": "replace", "path": "/unitOfMeasurements/1/symbol", "value": "s"}, {"op": "test", "path": "/name", "value": "replaced"}]);
    let answer = send("PATCH", "application/json-patch+json", &operations).await;
    assert_eq!(
        (answer.status, &answer.json()["unitOfMeasurements"][1]["symbol"]),
        (StatusCode::OK, &json!("s")),
        "{}",
        answer.text
    );
    let operations = json!([{"op": "remove", "path": "/unitOfMeasurements/1"}]);
    assert_eq!(field(&send("PATCH", "application/json-patch+json", &operations).await), "/unitOfMeasurements");
    // Its place in the lists of others is set here and nowhere else; another Thing may have it.
    let from_there = city.patch("/v1.1/ObservedProperties(1)", json!({"MultiDatastreams": [{"@iot.id": 2}]})).await;
    assert_eq!((from_there.status, field(&from_there).as_str()), (StatusCode::BAD_REQUEST, "/MultiDatastreams/0"));
    city.made("/v1.1/Things", json!({"name": "u", "description": "d"})).await;
    assert_eq!(
        city.patch("/v1.1/Things(2)", json!({"MultiDatastreams": [{"@iot.id": 2}]})).await.status,
        StatusCode::OK
    );
    assert_eq!(ids(&city, "/v1.1/Things(2)/MultiDatastreams").await, [2]);
    assert_eq!(
        city.patch(path, json!({"Thing": {"@iot.id": 1}, "Sensor": {"@iot.id": 1}})).await.status,
        StatusCode::OK
    );
    assert_eq!(ids(&city, "/v1.1/Sensors(1)/MultiDatastreams").await, [2]);
    // A required list cannot be cleared, an optional property can.
    assert_eq!(city.delete(&format!("{path}/unitOfMeasurements")).await, StatusCode::BAD_REQUEST);
    assert_eq!(city.delete(&format!("{path}/properties")).await, StatusCode::NO_CONTENT);
    // Each command has left its row, the one about the order too.
    let query = records::AuditQuery { limit: 100, ..records::AuditQuery::default() };
    let rows = city.catalog.records().audit(query).await.expect("audit").rows;
    assert!(
        rows.iter().filter(|r| r.detail.to_string().contains("updated MultiDatastreams(2)")).count() >= 6,
        "{rows:?}"
    );
}

/// Table 25, with the extension: what a MultiDatastream cannot be without takes it along, and its Observations with it.
#[tokio::test]
async fn delete_entity() {
    for (path, left) in [
        (
            "MultiDatastreams(2)",
            [("MultiDatastreams", 1), ("Observations", 2), ("Things", 2), ("Sensors", 4), ("ObservedProperties", 8)],
        ),
        (
            "Things(1)",
            [("MultiDatastreams", 1), ("Observations", 1), ("Things", 1), ("Sensors", 4), ("ObservedProperties", 8)],
        ),
        (
            "Sensors(2)",
            [("MultiDatastreams", 1), ("Observations", 2), ("Things", 2), ("Sensors", 3), ("ObservedProperties", 8)],
        ),
        (
            "ObservedProperties(3)",
            [("MultiDatastreams", 1), ("Observations", 2), ("Things", 2), ("Sensors", 4), ("ObservedProperties", 7)],
        ),
        (
            "FeaturesOfInterest(1)",
            [("MultiDatastreams", 2), ("Observations", 1), ("Things", 2), ("Sensors", 4), ("ObservedProperties", 8)],
        ),
    ] {
        let city = mast().await;
        city.made("/v1.1/Things", lamp("other", "OM_Measurement", 2.0, 2.0)).await;
        let other = city.made("/v1.1/Things(2)/MultiDatastreams", wind("other")).await;
        for to in ["/v1.1/MultiDatastreams(2)", &other] {
            city.made(&format!("{to}/Observations"), json!({"result": [1, "N", 2]})).await;
        }
        city.made("/v1.1/Datastreams(1)/Observations", json!({"result": 1})).await;
        assert_eq!(city.delete(&format!("/v1.1/{path}")).await, StatusCode::NO_CONTENT, "{path}");
        for (set, n) in left {
            let count = city.found(&format!("/v1.1/{set}?$count=true&$top=0")).await["@iot.count"].clone();
            assert_eq!(count, n, "{path} leaves {set}");
        }
        assert_eq!(city.get(&format!("/v1.1/{path}")).await.status, StatusCode::NOT_FOUND);
        // An id that was a series' is never another's.
        let again = city.made("/v1.1/Things(2)/MultiDatastreams", wind("again")).await;
        assert_eq!(again, "/v1.1/MultiDatastreams(5)");
    }
}
