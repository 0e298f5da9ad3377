//! Receiving updates (18-088 section 14.2, abstract test A.8.1.1), on the real catalogue and stream.

use axum::body::Body;
use http::Request;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::{
    real::{City, again, of},
    world::{Client, To, V3, V5, tenant},
};
use crate::{
    catalog::Update,
    model::{EntityId, EntityType},
    mqtt::wire::{Packet, QoS},
    sta::{self, SensorThings, Settings},
};

/// What a GET answers to somebody of dsd, with the links that the door's own base address gives.
pub(super) async fn get(city: &City, path: &str) -> Value {
    let settings = Settings { base_url: Some("http://c".to_owned()), ..Settings::default() };
    let router = sta::router(SensorThings::new(city.engine.clone(), settings));
    let request = Request::get(path).extension(of("dsd")).body(Body::empty()).expect("request");
    let response = router.oneshot(request).await.expect("answered");
    let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.expect("body");
    serde_json::from_slice(&body).unwrap_or(Value::Null)
}

async fn patch(city: &City, entity: EntityType, id: i64, body: Value) {
    city.catalog.update(&of("dsd"), entity, EntityId(id), &body, Update::Merge).await.expect("changed");
}

/// A client that follows one filter, and everything that has come when a change that is made last has come too.
pub(super) struct Follower {
    filter: &'static str,
    pub(super) client: Client,
}

pub(super) async fn follow(city: &City, user: &str, filter: &'static str) -> Follower {
    let (mut client, _) = city.connect(To::new(V5, user, filter)).await;
    assert_eq!(client.subscribe(filter, QoS::AtLeastOnce).await, 1, "{filter}");
    assert!(client.silent().await, "{filter}: nothing is retained");
    Follower { filter, client }
}

impl Follower {
    /// The topics and bodies that have come.
    pub(super) async fn all(&mut self) -> Vec<(String, Value)> {
        let mut all = Vec::new();
        for _ in 0..2 {
            self.client.send(Packet::PingRequest).await;
            loop {
                match self.client.next().await {
                    Packet::PingResponse => break,
                    Packet::Publish(p) => {
                        assert!(!p.retain);
                        all.push((p.topic.to_string(), serde_json::from_slice(&p.payload).expect("json")));
                        let id = p.packet_id.expect("QoS 1");
                        self.client.send(Packet::PublishAck(super::world::ack(id))).await;
                    }
                    other => panic!("{}: {other:?}", self.filter),
                }
            }
        }
        all
    }
}

/// Relays what has been changed, and waits until the followers have been told: a Sensor that is created last comes last.
pub(super) async fn told(city: &City, last: &mut Client) {
    let sensor = json!({"name": "last", "description": "d", "encodingType": "text/html", "metadata": "m"});
    let (id, _) = city.catalog.create(&of("dsd"), EntityType::Sensor, &sensor, None).await.expect("created");
    city.relay().await;
    loop {
        let body: Value = serde_json::from_str(&last.message().await.payload).expect("json");
        if body["@iot.id"] == json!(id.0) {
            return;
        }
    }
}

pub(super) async fn watch(city: &City) -> Client {
    let (mut last, _) = city.connect(To::new(V3, "dsd-last", "last")).await;
    last.subscribe("v1.1/Sensors", QoS::AtLeastOnce).await;
    last
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_name_of_an_entity_tells_of_its_change() {
    let folder = tempfile::tempdir().expect("a folder");
    let city = City::open(folder.path()).await;
    let mut last = watch(&city).await;
    let whole = |topic: &str| vec![(topic.to_owned(), "whole")];
    let name = |topic: &str| vec![(topic.to_owned(), "name")];
    let expected = [
        ("dsd-r", "v1.1/Things", whole("v1.1/Things")),
        ("dsd-r", "v1.1/Things(1)", whole("v1.1/Things(1)")),
        ("dsd-r", "v1.1/Things(2)", vec![]),
        ("dsd-r", "v1.1/Things(1)/name", name("v1.1/Things(1)/name")),
        ("dsd-r", "v1.1/Things(1)/description", vec![]),
        ("dsd-r", "v1.1/Locations(1)/Things", whole("v1.1/Locations(1)/Things")),
        ("dsd-r", "v1.1/Locations(1)/Things(1)", whole("v1.1/Locations(1)/Things(1)")),
        ("dsd-r", "v1.1/Datastreams(1)/Thing", whole("v1.1/Datastreams(1)/Thing")),
        ("dsd-r", "v1.1/Datastreams(1)/Thing/name", name("v1.1/Datastreams(1)/Thing/name")),
        ("dsd-r", "v1.1/Datastreams(9)/Thing", vec![]),
        ("dsd-r", "v1.1/Things(1)/Datastreams", vec![]),
        ("dsd-r", "v1.1/Things?$select=name,id", vec![("v1.1/Things?$select=name,id".to_owned(), "selected")]),
        ("dsd-r", "v1.1/Things(1)?$select=name,id", vec![("v1.1/Things(1)?$select=name,id".to_owned(), "selected")]),
        ("dsd-r", "v1.1/+", [whole("v1.1/Things(1)"), whole("v1.1/Things")].concat()),
        ("dsd-r", "v1.1/#", whole("v1.1/Things(1)")),
        ("dsd-r", "#", whole("v1.1/Things(1)")),
        ("dsd-r", "v1.1/Things(1)/#", whole("v1.1/Things(1)")),
        ("dsd-r", "v1.1/+/name", name("v1.1/Things(1)/name")),
        ("dsd-r", "$share/g/v1.1/Things", whole("v1.1/Things")),
        // What may not be seen does not happen.
        ("epd-r", "v1.1/Things", vec![]),
        ("epd-r", "v1.1/Datastreams(1)/Thing", vec![]),
        ("epd-r", "#", vec![]),
        ("", "v1.1/Things(1)", vec![]),
    ];
    let mut followers = Vec::new();
    for (user, filter, expect) in expected {
        followers.push((follow(&city, user, filter).await, expect));
    }
    patch(&city, EntityType::Thing, 1, json!({"name": "new"})).await;
    // Nothing changes, nothing is told.
    patch(&city, EntityType::Thing, 1, json!({"name": "new"})).await;
    city.catalog.upsert(&of("dsd"), EntityType::Sensor, &tenant("dsd"), "s", sensor()).await.expect("same");
    told(&city, &mut last).await;
    let entity = get(&city, "/v1.1/Things(1)").await;
    assert_eq!(entity["name"], "new");
    for (follower, expect) in &mut followers {
        let shown = |what: &str| match what {
            "whole" => entity.clone(),
            "selected" => json!({"@iot.id": 1, "name": "new"}),
            _ => json!({"name": "new"}),
        };
        let expect: Vec<_> = expect.iter().map(|(topic, what)| (topic.clone(), shown(what))).collect();
        // Everybody who follows sensors too has been told of the last one.
        let mut came = follower.all().await;
        came.retain(|(topic, _)| !topic.starts_with("v1.1/Sensors"));
        came.sort_by(|a, b| b.0.cmp(&a.0));
        let mut expect = expect;
        expect.sort_by(|a, b| b.0.cmp(&a.0));
        assert_eq!(came, expect, "{}", follower.filter);
    }
    city.close().await;
}

fn sensor() -> Value {
    json!({"name": "s", "description": "d", "encodingType": "text/html", "metadata": "m"})
}

/// Deep insert, pack, PUT, JSON Patch, a move and a change of owner: every way of writing tells.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_of_writing_tells() {
    let folder = tempfile::tempdir().expect("a folder");
    let city = City::open(folder.path()).await;
    let mut last = watch(&city).await;
    let mut things = follow(&city, "dsd-r", "v1.1/Things").await;
    let mut streams = follow(&city, "dsd-r", "v1.1/Datastreams").await;
    let mut area = follow(&city, "dsd-r", "v1.1/Datastreams(1)/observedArea").await;
    let mut inner = follow(&city, "dsd-r", "v1.1/Things(1)/properties/colour").await;
    let mut here = follow(&city, "dsd-r", "v1.1/Things(1)/Locations").await;
    let mut history = follow(&city, "dsd-r", "v1.1/Things(1)/HistoricalLocations").await;
    let mut public = follow(&city, "", "v1.1/Things(1)").await;
    let ids = |came: &[(String, Value)]| came.iter().map(|(_, body)| body["@iot.id"].clone()).collect::<Vec<_>>();

    let second = again("d2.level");
    let caller = of("dsd");
    city.catalog.upsert(&caller, EntityType::Thing, &tenant("dsd"), "second", second).await.expect("declared");
    told(&city, &mut last).await;
    assert_eq!(ids(&things.all().await), [json!(2)]);
    let came = streams.all().await;
    assert_eq!(came, [("v1.1/Datastreams".to_owned(), get(&city, "/v1.1/Datastreams(2)").await)]);

    let place = json!({"type": "Polygon", "coordinates": [[[0, 0], [0, 1], [1, 1], [0, 0]]]});
    let operations = json!([{"op": "add", "path": "/observedArea", "value": place}]);
    city.catalog
        .update(&caller, EntityType::Datastream, EntityId(1), &operations, Update::JsonPatch)
        .await
        .expect("patched");
    let put = json!({"name": "t", "description": "d", "properties": {"colour": "red", "height": 3}});
    city.catalog.update(&caller, EntityType::Thing, EntityId(1), &put, Update::Replace).await.expect("put");
    told(&city, &mut last).await;
    assert_eq!(area.all().await, [("v1.1/Datastreams(1)/observedArea".to_owned(), json!({"observedArea": place}))]);
    assert_eq!(inner.all().await, [("v1.1/Things(1)/properties/colour".to_owned(), json!({"colour": "red"}))]);
    assert_eq!((ids(&streams.all().await), ids(&things.all().await)), (vec![json!(1)], vec![json!(1)]));

    // A move: the Location was there before, and comes into the Thing's collection now.
    let location = json!({"name": "there", "description": "d", "encodingType": "application/geo+json",
        "location": {"type": "Point", "coordinates": [114.3, 22.5]}});
    let (there, _) = city.catalog.create(&caller, EntityType::Location, &location, None).await.expect("created");
    told(&city, &mut last).await;
    assert_eq!(here.all().await, []);
    patch(&city, EntityType::Thing, 1, json!({"Locations": [{"@iot.id": there.0}]})).await;
    told(&city, &mut last).await;
    let moved = get(&city, &format!("/v1.1/Locations({there})")).await;
    assert_eq!(here.all().await, [("v1.1/Things(1)/Locations".to_owned(), moved)]);
    assert_eq!(history.all().await.len(), 1);

    // From the moment it is published the public is told.
    assert_eq!(public.all().await, []);
    patch(&city, EntityType::Thing, 1, json!({"@lamppost.public": true})).await;
    patch(&city, EntityType::Thing, 1, json!({"description": "open"})).await;
    told(&city, &mut last).await;
    let came = public.all().await;
    assert_eq!(came.last().map(|(_, body)| body["description"].clone()), Some(json!("open")));
    assert_eq!(came.len(), 2);
    // What is deleted is told to nobody: the standard has no message for it.
    things.all().await;
    city.catalog.delete(&caller, EntityType::Thing, EntityId(2)).await.expect("deleted");
    told(&city, &mut last).await;
    assert_eq!(things.all().await, []);
    city.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn observations_move_the_times_of_their_datastream() {
    let folder = tempfile::tempdir().expect("a folder");
    let city = City::open(folder.path()).await;
    let mut times = follow(&city, "dsd-r", "v1.1/Datastreams(1)/phenomenonTime").await;
    let mut set = follow(&city, "dsd-r", "v1.1/Things(1)/Datastreams").await;
    let mut all = follow(&city, "dsd-r", "v1.1/#").await;
    let mut stranger = follow(&city, "epd-r", "v1.1/Datastreams(1)/phenomenonTime").await;
    let (mut device, _) = city.connect(To::new(V5, "dsd-d1", "d")).await;
    device
        .publish("devices/d1/level", r#"{"result":1,"phenomenonTime":"2026-01-01T00:00:00Z"}"#, QoS::AtLeastOnce, 1)
        .await;
    assert!(matches!(device.next().await, Packet::PublishAck(_)));
    let message = times.client.message().await;
    let expect = get(&city, "/v1.1/Datastreams(1)/phenomenonTime").await;
    assert!(expect["phenomenonTime"].as_str().is_some_and(|t| t.starts_with("2026-01-01T00:00:00Z")));
    assert_eq!(serde_json::from_str::<Value>(&message.payload).expect("json"), expect);
    let message = set.client.message().await;
    assert_eq!(message.topic, "v1.1/Things(1)/Datastreams");
    assert_eq!(
        serde_json::from_str::<Value>(&message.payload).expect("json"),
        get(&city, "/v1.1/Datastreams(1)").await
    );
    // Whoever follows everything hears of it by the Observation, once.
    assert_eq!(all.client.message().await.topic, "v1.1/Datastreams(1)/Observations");
    // Earlier than what is there already, and then the same again: the times do not move, and nobody is told.
    device
        .publish("devices/d1/level", r#"{"result":2,"phenomenonTime":"2026-01-01T00:00:00Z"}"#, QoS::AtLeastOnce, 2)
        .await;
    assert!(matches!(device.next().await, Packet::PublishAck(_)));
    device
        .publish("devices/d1/level", r#"{"result":3,"phenomenonTime":"2026-01-02T00:00:00Z"}"#, QoS::AtLeastOnce, 3)
        .await;
    assert!(matches!(device.next().await, Packet::PublishAck(_)));
    let message = times.client.message().await;
    assert!(message.payload.contains("2026-01-02"), "{}", message.payload);
    assert!(stranger.client.silent().await);
    city.close().await;
}

/// Whole and selected, by Datastream, by feature and one by one; live and after an absence the same, in the same order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn observations_have_all_their_names() {
    let folder = tempfile::tempdir().expect("a folder");
    let city = City::open(folder.path()).await;
    let to = To::new(V5, "dsd-r", "r").lasting();
    let (mut reader, _) = city.connect(to).await;
    let (mut device, _) = city.connect(To::new(V5, "dsd-d1", "d")).await;
    let mut number = 0;
    let mut send = async |result: f64| {
        number += 1;
        let body = json!({"result": result, "phenomenonTime": format!("2026-01-01T00:00:{number:02}Z")});
        device.publish("devices/d1/level", &body.to_string(), QoS::AtLeastOnce, number).await;
        assert!(matches!(device.next().await, Packet::PublishAck(_)));
    };
    send(0.5).await;
    let first = city.observe.head(EntityId(1)).expect("observed").latest;
    let (feature, id) = (first.feature, first.id());
    let filters = [
        "v1.1/Datastreams(1)/Observations".to_owned(),
        "v1.1/Datastreams(1)/Observations?$select=phenomenonTime,result".to_owned(),
        "v1.1/Datastreams(1)/Observations?$select=result".to_owned(),
        "v1.1/+/Observations?$select=id".to_owned(),
        "v1.1/Observations?$select=result".to_owned(),
        format!("v1.1/FeaturesOfInterest({feature})/Observations"),
        format!("v1.1/Observations('{id}')/result"),
        format!("v1.1/Observations('{id}')"),
        "v1.1/Things(1)/Datastreams(1)/Observations".to_owned(),
        "v1.1/Sensors(1)/Datastreams(1)/Thing/Datastreams(1)/Observations?$select=result".to_owned(),
        "v1.1/Things(2)/Datastreams(1)/Observations".to_owned(),
    ];
    for filter in &filters {
        assert_eq!(reader.subscribe(filter, QoS::ExactlyOnce).await, 2, "{filter}");
        reader.drain().await;
    }
    let bodies = async |reader: &mut Client, count: usize| {
        let mut bodies = Vec::new();
        for _ in 0..count {
            let got = reader.message().await;
            bodies.push((got.topic, serde_json::from_str::<Value>(&got.payload).expect("json")));
        }
        assert!(reader.silent().await);
        bodies
    };
    send(1.5).await;
    let live = bodies(&mut reader, 8).await;
    let topics = |of: &[(String, Value)]| of.iter().map(|(topic, _)| topic.clone()).collect::<Vec<_>>();
    for topic in topics(&live) {
        let expect = filters.iter().any(|f| {
            *f == topic.replace("v1.1/Datastreams(1)/Observations?$select=id", "v1.1/+/Observations?$select=id")
        });
        assert!(expect, "{topic}");
    }
    let found = |topic: &str| live.iter().find(|(t, _)| t == topic).map(|(_, body)| body.clone());
    let newest = city.observe.head(EntityId(1)).expect("observed").latest.id();
    let entity = get(&city, &format!("/v1.1/Observations('{newest}')")).await;
    assert_eq!(found("v1.1/Datastreams(1)/Observations"), Some(entity.clone()));
    assert_eq!(found(&filters[5]), Some(entity.clone()));
    let selected = json!({"phenomenonTime": "2026-01-01T00:00:02Z", "result": 1.5});
    assert_eq!(found(&filters[1]), Some(selected));
    assert_eq!(found(&filters[2]), Some(json!({"result": 1.5})));
    assert_eq!((found(&filters[8]), found(&filters[9])), (Some(entity), Some(json!({"result": 1.5}))));

    drop(reader);
    send(2.5).await;
    send(3.5).await;
    let (mut reader, present) = city.connect(to).await;
    assert!(present);
    let away = bodies(&mut reader, 16).await;
    assert_eq!(topics(&away), [topics(&live), topics(&live)].concat(), "the same names in the same order");
    // The first one is written again: its own name tells.
    let again = json!({"result": 9.5, "phenomenonTime": "2026-01-01T00:00:01Z"});
    let (mut other, _) = city.connect(To::new(V5, "dsd-d1", "other")).await;
    other.publish("devices/d1/level", &again.to_string(), QoS::AtLeastOnce, 1).await;
    assert!(matches!(other.next().await, Packet::PublishAck(_)));
    let own = bodies(&mut reader, 10).await;
    let result = own.iter().find(|(topic, _)| *topic == filters[6]).map(|(_, body)| body.clone());
    assert_eq!(result, Some(json!({"result": 9.5})));
    assert!(own.iter().any(|(topic, _)| *topic == filters[7]));
    // The Datastream goes to another Thing, which has another feature: from then on the other path leads to it.
    let other_thing = json!({"name": "other", "description": "d"});
    city.catalog.create(&of("dsd"), EntityType::Thing, &other_thing, None).await.expect("created");
    let mut last = watch(&city).await;
    patch(&city, EntityType::Datastream, 1, json!({"Thing": {"@iot.id": 2}})).await;
    told(&city, &mut last).await;
    told(&city, &mut last).await;
    send(4.5).await;
    let moved = topics(&bodies(&mut reader, 7).await);
    assert!(moved.contains(&filters[10]) && !moved.contains(&filters[8]), "{moved:?}");
    city.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_that_can_match_nothing_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let city = City::open(folder.path()).await;
    for version in [V3, V5] {
        let (mut client, _) = city.connect(To::new(version, "dsd-r", "r")).await;
        for filter in ["v1.1/Lamps", "v1.1/Things?$filter=id eq 1", "v1.1/Things?$select=colour", "v1.1/Things(1)/$ref"]
        {
            assert!(client.subscribe(filter, QoS::AtMostOnce).await >= 0x80, "{filter}");
        }
        // What might exist is granted, whether or not it does.
        assert_eq!(client.subscribe("v1.1/Things(4711)/name", QoS::AtMostOnce).await, 0);
    }
    city.close().await;
}
