//! MultiDatastreams over MQTT (18-088 sections 12 and 14): publishing arrays, and following them by every name.

use serde_json::{Value, json};

use super::{
    real::{City, of},
    updates::{follow, get, told, watch},
    world::{Client, To, V3, V5, World, tenant},
};
use crate::{
    catalog::Parent,
    model::{EntityId, EntityType, ResultValue},
    mqtt::wire::{Packet, QoS},
};

const TOPIC: &str = "v1.1/MultiDatastreams(9)/Observations";

/// Publishes with QoS 1: the reason of the answer, and its words.
async fn answered(client: &mut Client, topic: &str, payload: &str) -> (u8, String) {
    client.publish(topic, payload, QoS::AtLeastOnce, 1).await;
    match client.next().await {
        Packet::PublishAck(ack) => {
            (ack.reason_code.into(), ack.reason_string.map(|words| words.to_string()).unwrap_or_default())
        }
        other => panic!("{topic}: {other:?}"),
    }
}

fn result(payload: &str) -> Value {
    serde_json::from_str::<Value>(payload).expect("json")["result"].clone()
}

#[tokio::test]
async fn arrays_are_taken_by_every_address_and_checked_element_by_element() {
    let world = World::new().await;
    let mut reader = world.connect(To::new(V5, "dsd-r", "r")).await;
    assert_eq!(reader.subscribe(TOPIC, QoS::AtLeastOnce).await, 1);
    let mut device = world.connect(To::new(V5, "dsd-d1", "d")).await;
    let array = r#"[{"MultiDatastream":{"@iot.id":9},"components":["phenomenonTime","result"],"dataArray":[["2026-01-01T00:00:00Z",[5,"five"]]]}]"#;
    for (topic, payload, expect) in [
        (TOPIC, r#"{"result":[1.5,"one"]}"#, json!([1.5, "one"])),
        (TOPIC, r#" [2, "two"] "#, json!([2, "two"])),
        (TOPIC, r#"{"result":[2,"two"],"MultiDatastream":{"@iot.id":9}}"#, json!([2, "two"])),
        ("v1.1/Observations", r#"{"result":[3,null],"MultiDatastream":{"@iot.id":9}}"#, json!([3, null])),
        ("devices/d1/weather", r#"[null,"four"]"#, json!([null, "four"])),
        ("v1.1/CreateObservations", array, json!([5, "five"])),
    ] {
        assert_eq!(answered(&mut device, topic, payload).await.0, 0, "{topic} {payload}");
        let got = reader.message().await;
        assert_eq!((got.topic.as_str(), result(&got.payload)), (TOPIC, expect), "{topic} {payload}");
        let body: Value = serde_json::from_str(&got.payload).expect("json");
        assert!(body["MultiDatastream@iot.navigationLink"].is_string(), "{body}");
        assert_eq!(body.get("Datastream@iot.navigationLink"), None);
    }
    let count = world.field.values().len();
    for (topic, payload, part) in [
        (TOPIC, "7", "an array of as many elements is expected"),
        (TOPIC, r#"{"result":null}"#, "an array of as many elements is expected"),
        (TOPIC, r#"[1]"#, "not one of 1"),
        (TOPIC, r#"[1,"a","b"]"#, "not one of 3"),
        (TOPIC, r#"["1","a"]"#, "element 0 of the result"),
        (TOPIC, r#"{"result":[1,2]}"#, "element 1 of the result"),
        ("devices/d1/weather", "[1,2]", "element 1 of the result"),
        (TOPIC, "[]", "expected"),
        (TOPIC, "[1,", "not an Observation"),
        (TOPIC, r#"{"result":[1,"a"],"Datastream":{"@iot.id":1}}"#, "names another Datastream"),
        (TOPIC, r#"{"result":[1,"a"],"MultiDatastream":{"@iot.id":8}}"#, "names another MultiDatastream"),
        (
            "v1.1/Observations",
            r#"{"result":[1,"a"],"Datastream":{"@iot.id":1},"MultiDatastream":{"@iot.id":9}}"#,
            "not to both",
        ),
        ("v1.1/CreateObservations", &array.replace("[5,\"five\"]", "[5]"), "row 1 of the data array"),
        ("v1.1/Datastreams(1)/Observations", "[1]", "a number is expected"),
    ] {
        let (reason, words) = answered(&mut device, topic, payload).await;
        assert_eq!(reason, 0x99, "{topic} {payload}: {words}");
        assert!(words.contains(part), "{topic} {payload}: {words}");
    }
    // The other's address, another tenant's and nobody's: the same answer, so that ids cannot be probed.
    let mut hidden = Vec::new();
    for (topic, payload) in [
        ("v1.1/Datastreams(9)/Observations", "7"),
        ("v1.1/MultiDatastreams(1)/Observations", r#"[1,"a"]"#),
        ("v1.1/MultiDatastreams(19)/Observations", r#"[1,"a"]"#),
        ("v1.1/MultiDatastreams(99)/Observations", r#"[1,"a"]"#),
        ("v1.1/Observations", r#"{"result":1,"Datastream":{"@iot.id":9}}"#),
        ("v1.1/Observations", r#"{"result":[1,"a"],"MultiDatastream":{"@iot.id":1}}"#),
        ("v1.1/CreateObservations", &array.replace("Multi", "")),
        ("v1.1/CreateObservations", &array.replace(":9", ":19")),
    ] {
        hidden.push(answered(&mut device, topic, payload).await);
    }
    assert!(hidden.iter().all(|answer| answer.0 == 0x87 && *answer == hidden[0]), "{hidden:?}");
    let nothing = answered(&mut device, "v1.1/MultiDatastreams(09)/Observations", r#"[1,"a"]"#).await;
    assert_eq!(nothing.0, 0x90, "no such topic");
    assert_eq!(world.field.values().len(), count, "nothing of it was recorded");
    assert!(reader.silent().await);
}

/// Live, retained and after an absence: under the one name that it has, to those who may.
#[tokio::test]
async fn subscribers_get_it_under_its_own_topic() {
    let world = World::new().await;
    let mut device = world.connect(To::new(V3, "dsd-d1", "d")).await;
    let filters = [TOPIC, "v1.1/+/Observations", "#", "v1.1/Datastreams(9)/Observations", "v1.1/Observations"];
    let expected = [Some(TOPIC), Some(TOPIC), Some(TOPIC), None, Some("v1.1/Observations")];
    let lasting = |id| To::new(V5, "dsd-r", id).lasting();
    for filter in filters {
        let mut client = world.connect(lasting(filter)).await;
        client.subscribe(filter, QoS::AtLeastOnce).await;
        drop(client);
    }
    let mut live = Vec::new();
    for filter in filters {
        let mut client = world.connect(To::new(V5, "dsd-r", &format!("live {filter}"))).await;
        client.subscribe(filter, QoS::AtMostOnce).await;
        live.push(client);
    }
    let mut spies = Vec::new();
    for user in ["epd-r", ""] {
        for filter in filters {
            let mut spy = world.connect(To::new(V5, user, &format!("spy {filter}"))).await;
            spy.subscribe(filter, QoS::AtLeastOnce).await;
            spies.push(spy);
        }
    }
    device.publish(TOPIC, r#"[1,"a"]"#, QoS::AtLeastOnce, 1).await;
    assert!(matches!(device.next().await, Packet::PublishAck(_)));
    world.routed().await;
    for ((client, filter), expect) in live.iter_mut().zip(filters).zip(expected) {
        if let Some(topic) = expect {
            let got = client.message().await;
            assert_eq!((got.topic.as_str(), result(&got.payload)), (topic, json!([1, "a"])), "{filter}");
        }
        assert!(client.silent().await, "{filter}");
    }
    for spy in &mut spies {
        assert!(spy.silent().await);
    }
    for (filter, expect) in filters.into_iter().zip(expected) {
        let mut client = world.connect(lasting(filter)).await;
        if let Some(topic) = expect {
            let got = client.message().await;
            assert_eq!((got.topic.as_str(), result(&got.payload)), (topic, json!([1, "a"])), "{filter}");
        }
        assert!(client.silent().await, "{filter}");
    }
    for (filter, expect) in filters.into_iter().zip([1, 1, 1, 0, 0]) {
        let mut late = world.connect(To::new(V5, "dsd-r", &format!("late {filter}"))).await;
        late.subscribe(filter, QoS::AtMostOnce).await;
        for _ in 0..expect {
            let got = late.message().await;
            assert_eq!((got.topic.as_str(), got.retain), (TOPIC, true), "{filter}");
        }
        assert!(late.silent().await, "{filter}");
        let mut spy = world.connect(To::new(V5, "epd-r", &format!("late {filter}"))).await;
        spy.subscribe(filter, QoS::AtMostOnce).await;
        assert!(spy.silent().await, "{filter}");
    }
}

/// On the real catalogue, stream and lake: what is told is what a GET answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_told_is_what_a_get_answers() {
    let folder = tempfile::tempdir().expect("a folder");
    let city = City::open(folder.path()).await;
    let mut last = watch(&city).await;
    let topics = [
        "v1.1/MultiDatastreams",
        "v1.1/Things(1)/MultiDatastreams",
        "v1.1/Sensors(1)/MultiDatastreams",
        "v1.1/ObservedProperties(1)/MultiDatastreams",
        "v1.1/MultiDatastreams(2)/unitOfMeasurements",
    ];
    let mut followers = Vec::new();
    for topic in topics {
        followers.push(follow(&city, "dsd-r", topic).await);
    }
    let mut stranger = follow(&city, "epd-r", "v1.1/#").await;
    let body = json!({
        "@iot.key": "d1.weather", "name": "weather", "description": "d",
        "observationType": "http://www.opengis.net/def/observationType/OGC-OM/2.0/OM_ComplexObservation",
        "multiObservationDataTypes": ["http://www.opengis.net/def/observationType/OGC-OM/2.0/OM_Measurement", "urn:any"],
        "unitOfMeasurements": [{"name": "metre", "symbol": "m", "definition": "ucum:m"}, {"name": null, "symbol": null, "definition": null}],
        "Sensor": {"@iot.id": 1}, "ObservedProperties": [{"@iot.id": 1}, {"@iot.id": 1}],
    });
    let parent = Parent { entity: EntityType::Thing, id: EntityId(1), navigation: "MultiDatastreams" };
    let (id, _) =
        city.catalog.create(&of("dsd"), EntityType::MultiDatastream, &body, Some(parent)).await.expect("created");
    assert_eq!(id, EntityId(2), "after Datastream 1");
    told(&city, &mut last).await;
    let entity = get(&city, "/v1.1/MultiDatastreams(2)").await;
    for (follower, topic) in followers.iter_mut().zip(topics) {
        let expect = match topic.strip_suffix("/unitOfMeasurements") {
            Some(_) => json!({"unitOfMeasurements": entity["unitOfMeasurements"]}),
            None => entity.clone(),
        };
        assert_eq!(follower.all().await, [(topic.to_owned(), expect)], "once");
    }
    // An Observation, under its topic and along a path; then its MultiDatastream, whose times it has moved.
    let mut own = follow(&city, "dsd-r", "v1.1/MultiDatastreams(2)/Observations").await;
    let mut path = follow(&city, "dsd-r", "v1.1/Things(1)/MultiDatastreams(2)/Observations").await;
    let mut property =
        follow(&city, "dsd-r", "v1.1/ObservedProperties(1)/MultiDatastreams(2)/Observations?$select=result").await;
    let mut times = follow(&city, "dsd-r", "v1.1/MultiDatastreams(2)/phenomenonTime").await;
    let mut wrong = follow(&city, "dsd-r", "v1.1/Datastreams(2)/Observations").await;
    let (mut device, _) = city.connect(To::new(V5, "dsd-d1", "d")).await;
    let body = r#"{"result":[1.5,{"a":[1]}],"phenomenonTime":"2026-01-01T00:00:00Z"}"#;
    assert_eq!(answered(&mut device, "devices/d1/weather", body).await.0, 0);
    let latest = city.observe.head(id).expect("observed").latest;
    assert!(matches!(&latest.result, ResultValue::Json(raw) if raw.get() == r#"[1.5,{"a":[1]}]"#));
    let expect = get(&city, &format!("/v1.1/Observations('{}')", latest.id())).await;
    assert_eq!(expect["result"], json!([1.5, {"a": [1]}]));
    for follower in [&mut own, &mut path] {
        let got = follower.client.message().await;
        assert_eq!(serde_json::from_str::<Value>(&got.payload).expect("json"), expect);
    }
    assert_eq!(result(&property.client.message().await.payload), expect["result"]);
    let got = times.client.message().await;
    let moved = get(&city, "/v1.1/MultiDatastreams(2)/phenomenonTime").await;
    assert!(moved["phenomenonTime"].as_str().is_some_and(|t| t.starts_with("2026-01-01")), "{moved}");
    assert_eq!(serde_json::from_str::<Value>(&got.payload).expect("json"), moved);
    assert!(wrong.client.silent().await && stranger.client.silent().await);
    // Retained: the scan of a wildcard finds both kinds.
    assert_eq!(answered(&mut device, "devices/d1/level", "7").await.0, 0);
    let (mut late, _) = city.connect(To::new(V5, "dsd-x", "x")).await;
    late.subscribe("v1.1/+/Observations", QoS::AtMostOnce).await;
    let mut seen = [late.message().await.topic, late.message().await.topic];
    seen.sort();
    assert_eq!(seen, ["v1.1/Datastreams(1)/Observations", "v1.1/MultiDatastreams(2)/Observations"]);
    // Deleted with its Thing: the device has nothing to write to any more, on the same connection.
    city.catalog.delete(&of("dsd"), EntityType::Thing, EntityId(1)).await.expect("deleted");
    assert_eq!(answered(&mut device, "devices/d1/weather", "[1,2]").await.0, 0x87);
    let gone = city.catalog.by_key(EntityType::MultiDatastream, &tenant("dsd"), "d1.weather").await.expect("asked");
    assert_eq!(gone, None);
    city.close().await;
}
