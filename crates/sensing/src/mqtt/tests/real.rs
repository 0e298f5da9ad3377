//! The same door on what it stands on in the city: catalogue, stream, head, lake, records, in a temporary folder.

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use kernel::{Action, Caller, Decision, Limits, Policy, Principal, Resource, SystemClock};
use lake::{Lake, Root};
use records::Records;
use serde_json::{Value, json};
use stream::{Stream, Topic, TopicOptions};

use super::world::{Client, Law, Register, To, V3, V5, options, publish, tenant};
use crate::{
    Catalog,
    model::{EntityId, EntityType},
    mqtt::{
        Catalogued, Door, Observed, Options, Parts, QueueLimits, Store,
        wire::{Packet, Publish, QoS},
    },
    observe::{self, Observe, SeriesQuery},
    query::Engine,
    tasking::{Deed, Tasking},
};

struct Everything;

impl Policy for Everything {
    fn decide(&self, _: &Caller, _: Action, _: &Resource<'_>) -> Decision {
        Decision::Allow
    }
}

/// Thing 1 with Datastream 1, Sensor 1, ObservedProperty 1 and Location 1, all of them dsd's.
pub struct City {
    stream: Stream,
    pub observations: Topic,
    events: Topic,
    pub observe: Observe,
    records: Records,
    pub catalog: Catalog,
    pub engine: Engine,
    pub door: Door,
    pub tasking: Tasking,
    datastream: EntityId,
}

/// Whoever acts for a tenant.
pub fn of(slug: &str) -> Caller {
    Caller { principal: Principal::System { part: "test" }, tenant: Some(tenant(slug)), roles: BTreeSet::new() }
}

/// A Thing with one Datastream; `key` names the Datastream.
pub fn declared(key: &str) -> Value {
    json!({
        "name": "t", "description": "d",
        "Datastreams": [{
            "@iot.key": key, "name": "level", "description": "d",
            "observationType": "http://www.opengis.net/def/observationType/OGC-OM/2.0/OM_Measurement",
            "unitOfMeasurement": {"name": "metre", "symbol": "m", "definition": "ucum:m"},
            "Sensor": {"@iot.key": "s", "name": "s", "description": "d", "encodingType": "text/html", "metadata": "m"},
            "ObservedProperty": {"@iot.key": "p", "name": "p", "description": "d", "definition": "http://p"},
        }],
        "Locations": [{"@iot.key": "l", "name": "l", "description": "d", "encodingType": "application/geo+json",
            "location": {"type": "Point", "coordinates": [114.1, 22.3]}}],
    })
}

/// The same, tied to what [`declared`] has made.
pub fn again(key: &str) -> Value {
    let mut body = declared(key);
    for (tie, to) in [("Sensor", "s"), ("ObservedProperty", "p")] {
        body["Datastreams"][0][tie] = json!({"@iot.key": to});
    }
    body["Locations"] = json!([{"@iot.key": "l"}]);
    body
}

/// How the stream is kept.
#[derive(Clone, Default)]
pub struct Keeping {
    /// A NATS server instead of files.
    pub nats: Option<String>,
    pub retain_bytes: Option<u64>,
}

impl City {
    pub async fn open(folder: &Path) -> Self {
        Self::keeping(folder, &Keeping::default()).await
    }

    pub async fn keeping(folder: &Path, keeping: &Keeping) -> Self {
        let clock = Arc::new(SystemClock);
        let mut topic = TopicOptions::new("observations").guarded();
        topic.retain_bytes = keeping.retain_bytes;
        let topics = [topic, TopicOptions::new("events")];
        let mut settings = match &keeping.nats {
            Some(url) => stream::Options::nats(url.as_str(), topics),
            None => stream::Options::local(folder.join("stream"), topics),
        };
        if let stream::EngineOptions::Local(local) = &mut settings.engine {
            // Small ones, so that retention has something to remove.
            local.segment_bytes = 1 << 10;
        }
        let stream = Stream::open(settings, clock.clone()).await.expect("stream");
        let observations = stream.topic("observations").expect("topic");
        let events = stream.topic("events").expect("topic");
        let lake = Lake::open(lake::Options::new(Root::Local(folder.join("lake")))).expect("lake");
        let way =
            observe::Options { seal_every: Duration::from_secs(3_600), ..observe::Options::new(folder.join("heads")) };
        let observe = Observe::open(way, observations.clone(), &lake).await.expect("observe");
        let records =
            Records::open(&records::Options::sqlite(folder.join("records.db")), clock.clone()).expect("records");
        let catalog = Catalog::open(records.clone(), Arc::new(Everything), clock.clone()).expect("catalogue");
        let owner = tenant("dsd");
        catalog.upsert(&of("dsd"), EntityType::Thing, &owner, "t", declared("d1.level")).await.expect("declared");
        let find = catalog.by_key(EntityType::Datastream, &owner, "d1.level").await.expect("found").expect("there");
        let engine = Engine::new(catalog.clone(), Arc::new(observe.clone()), Limits::DEFAULT);
        let tasking = Tasking::new(catalog.clone(), Arc::new(observe.clone()), Arc::new(|_, _, _| true));
        let parts = Parts {
            field: Arc::new(Observed::new(observe.clone(), catalog.clone()).tasking(tasking.clone())),
            entities: Arc::new(Catalogued::new(engine.clone(), events.clone())),
            rights: Arc::new(Law::default()),
            authenticate: Arc::new(Register),
            keep: Arc::new(Store::open(records.clone()).expect("migrated")),
            clock,
        };
        let queue = QueueLimits { messages: 50, ..options().queue };
        let city_events = events.clone();
        Self::relay_to(&records, &city_events).await;
        let door = Door::open(Options { queue, ..options() }, parts).await.expect("opens");
        Self { stream, observations, events, observe, records, catalog, engine, door, tasking, datastream: find }
    }

    pub async fn close(self) {
        self.door.close().await;
        self.observe.close(Duration::from_secs(20)).await;
        self.stream.close().await;
        self.records.close().await;
    }

    /// What the program's relay does all the time: the events of the outbox go to the stream.
    pub async fn relay(&self) {
        Self::relay_to(&self.records, &self.events).await;
    }

    async fn relay_to(records: &Records, events: &Topic) {
        let outbox = records.outbox();
        let mut position = outbox.delivered().await.expect("position");
        loop {
            let batch = outbox.fetch(position, 100).await.expect("fetched");
            let Some(last) = batch.last() else { return };
            position = last.position;
            for event in &batch {
                let record = json!({"id": event.id, "topic": event.topic, "key": event.key, "at": event.at, "payload": event.payload});
                events.append(record.to_string().into()).await.expect("appended");
            }
            outbox.mark_delivered(position).await.expect("marked");
        }
    }

    pub async fn connect(&self, to: To<'_>) -> (Client, bool) {
        let mut client = Client::dial(self.door.addresses()[0], to.version).await;
        let ack = client.hello(to).await;
        assert_eq!(ack.reason, 0);
        (client, ack.present)
    }

    async fn count(&self) -> usize {
        let query = SeriesQuery { limit: 10_000, ..SeriesQuery::all(self.datastream) };
        self.observe.read(query).await.expect("read").len()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_the_device_to_the_lake_and_back_over_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let city = City::open(folder.path()).await;
    let to = To::new(V5, "dsd-r", "r").lasting();
    let (mut reader, _) = city.connect(to).await;
    assert_eq!(reader.subscribe("v1.1/#", QoS::AtLeastOnce).await, 1);
    let (mut device, _) = city.connect(To::new(V3, "dsd-d1", "d")).await;
    let values = 0..300u16;
    for value in values.clone() {
        let body =
            format!(r#"{{"result":{value},"phenomenonTime":"2026-01-01T{:02}:{:02}:00Z"}}"#, value / 60, value % 60);
        device.publish("devices/d1/level", &body, QoS::AtLeastOnce, value + 1).await;
    }
    for value in values.clone() {
        match device.next().await {
            Packet::PublishAck(ack) => assert_eq!(ack.packet_id.get(), value + 1),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(city.count().await, 300, "acknowledged is recorded");
    // A queue of 50: most of them come from the stream.
    for value in values.clone() {
        assert_eq!(reader.message().await.number(), f64::from(value));
    }
    drop(reader);
    device.publish("devices/d1/level", "1000", QoS::AtLeastOnce, 1).await;
    assert!(matches!(device.next().await, Packet::PublishAck(_)));
    city.close().await;

    let city = City::open(folder.path()).await;
    assert_eq!(city.count().await, 301);
    let (mut reader, present) = city.connect(to).await;
    assert!(present);
    assert_eq!(reader.message().await.number(), 1000.0);
    assert!(reader.silent().await);
    let (mut late, _) = city.connect(To::new(V5, "dsd-x", "x")).await;
    late.subscribe("v1.1/+/Observations", QoS::AtMostOnce).await;
    let got = late.message().await;
    assert_eq!((got.number(), got.retain), (1000.0, true));
    let (mut spy, _) = city.connect(To::new(V5, "epd-x", "x")).await;
    spy.subscribe("#", QoS::AtMostOnce).await;
    device_sends(&city).await;
    assert_eq!(late.message().await.number(), 7.0);
    assert!(spy.silent().await);
    city.close().await;
}

async fn device_sends(city: &City) {
    let (mut device, _) = city.connect(To::new(V5, "dsd-d1", "d")).await;
    device.publish("devices/d1/level", "7", QoS::AtLeastOnce, 1).await;
    assert!(matches!(device.next().await, Packet::PublishAck(_)));
}

/// A device's own names are its tenant's: another department may use the same. What was deleted is not believed to be there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_devices_names_are_its_tenants_and_follow_the_catalogue() {
    let folder = tempfile::tempdir().expect("a folder");
    let city = City::open(folder.path()).await;
    let owner = tenant("epd");
    city.catalog.upsert(&of("epd"), EntityType::Thing, &owner, "t", declared("d1.level")).await.expect("declared");
    let theirs = city.catalog.by_key(EntityType::Datastream, &owner, "d1.level").await.expect("found").expect("there");
    let (mut dsd, _) = city.connect(To::new(V5, "dsd-d1", "d")).await;
    let (mut epd, _) = city.connect(To::new(V5, "epd-d1", "d")).await;
    let latest = |id: EntityId| city.observe.head(id).and_then(|head| head.latest.result.number());
    for (device, value) in [(&mut dsd, "1"), (&mut epd, "2")] {
        device.publish("devices/d1/level", value, QoS::AtLeastOnce, 1).await;
        assert_eq!(acknowledged(device).await, 0);
    }
    assert_eq!((latest(city.datastream), latest(theirs)), (Some(1.0), Some(2.0)));

    // Deleted: at once there is nothing to publish to, on the connection that has just used it.
    city.catalog.delete(&of("dsd"), EntityType::Datastream, city.datastream).await.expect("deleted");
    dsd.publish("devices/d1/level", "3", QoS::AtLeastOnce, 2).await;
    assert_eq!(acknowledged(&mut dsd).await, 0x87);
    // Made again under the same key: it is the new one that counts.
    city.catalog.upsert(&of("dsd"), EntityType::Thing, &tenant("dsd"), "t", again("d1.level")).await.expect("declared");
    let again = city.catalog.by_key(EntityType::Datastream, &tenant("dsd"), "d1.level").await.expect("found");
    let again = again.filter(|id| *id != city.datastream).expect("another one");
    dsd.publish("devices/d1/level", "4", QoS::AtLeastOnce, 3).await;
    assert_eq!(acknowledged(&mut dsd).await, 0);
    assert_eq!(latest(again), Some(4.0));

    // Given to the other department with its Thing: its old owner's device has lost it.
    let thing = city.catalog.by_key(EntityType::Thing, &tenant("dsd"), "t").await.expect("found").expect("there");
    let away = json!({"@lamppost.tenant": "hyd"});
    city.catalog
        .update(&of("dsd"), EntityType::Thing, thing, &away, crate::catalog::Update::Merge)
        .await
        .expect("given away");
    dsd.publish("devices/d1/level", "5", QoS::AtLeastOnce, 4).await;
    assert_eq!(acknowledged(&mut dsd).await, 0x87);
    assert_eq!((latest(again), latest(theirs)), (Some(4.0), Some(2.0)));
    city.close().await;
}

async fn acknowledged(client: &mut Client) -> u8 {
    match client.next().await {
        Packet::PublishAck(ack) => ack.reason_code.into(),
        other => panic!("{other:?}"),
    }
}

/// Both doors read the same bodies: by key, with an entity inside, by the feature's address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_observation_may_bring_what_it_needs() {
    let folder = tempfile::tempdir().expect("a folder");
    let city = City::open(folder.path()).await;
    let (mut device, _) = city.connect(To::new(V5, "dsd-d1", "d")).await;
    let feature = json!({"name": "weir", "description": "d", "encodingType": "application/geo+json",
        "feature": {"type": "Point", "coordinates": [114.2, 22.4]}});
    let whole = json!({"result": 1, "phenomenonTime": "2026-01-01T00:00:00Z", "FeatureOfInterest": feature});
    device.publish("v1.1/Datastreams(1)/Observations", &whole.to_string(), QoS::AtLeastOnce, 1).await;
    assert_eq!(acknowledged(&mut device).await, 0);
    let made = city.observe.head(city.datastream).expect("observed").latest.feature;
    let by_key = r#"{"result":2,"phenomenonTime":"2026-01-01T00:01:00Z","Datastream":{"@iot.key":"d1.level"}}"#;
    device.publish(&format!("v1.1/FeaturesOfInterest({made})/Observations"), by_key, QoS::AtLeastOnce, 2).await;
    assert_eq!(acknowledged(&mut device).await, 0);
    let head = city.observe.head(city.datastream).expect("observed");
    assert_eq!((head.latest.feature, head.latest.result.number()), (made, Some(2.0)));
    let rows = format!(
        r#"[{{"Datastream":{{"@iot.id":1}},"components":["phenomenonTime","result","FeatureOfInterest/id"],
            "dataArray":[["2026-01-01T00:02:00Z",3,{made}]]}}]"#
    );
    device.publish("v1.1/CreateObservations", &rows, QoS::AtLeastOnce, 3).await;
    assert_eq!(acknowledged(&mut device).await, 0);
    assert_eq!(city.observe.head(city.datastream).expect("observed").latest.feature, made);
    // Nothing is created on the way to a refusal: the Datastream is another tenant's.
    let owner = tenant("epd");
    city.catalog.upsert(&of("epd"), EntityType::Thing, &owner, "t", declared("d1.level")).await.expect("declared");
    let theirs = city.catalog.by_key(EntityType::Datastream, &owner, "d1.level").await.expect("found").expect("there");
    // It is given its own feature when it is first looked at; that is none of the device's doing.
    city.catalog.datastream(theirs).await.expect("found");
    let before = crate::catalog::last_ids(city.catalog.records()).await;
    device.publish(&format!("v1.1/Datastreams({theirs})/Observations"), &whole.to_string(), QoS::AtLeastOnce, 4).await;
    assert_eq!(acknowledged(&mut device).await, 0x87);
    assert_eq!(format!("{:?}", crate::catalog::last_ids(city.catalog.records()).await), format!("{before:?}"));
    assert_eq!(city.count().await, 3);
    city.close().await;
}

/// Away for longer than the stream keeps: what is left comes, and what is gone is told (5) and counted (both).
async fn overtaken(keeping: &Keeping) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut city = City::keeping(folder.path(), keeping).await;
    let readers = [To::new(V5, "dsd-r", "five").lasting(), To::new(V3, "dsd-r", "three").lasting()];
    for to in readers {
        let (mut reader, _) = city.connect(to).await;
        assert_eq!(reader.subscribe("v1.1/Datastreams(1)/Observations", QoS::AtLeastOnce).await, 1);
    }
    let (mut device, _) = city.connect(To::new(V3, "dsd-d1", "d")).await;
    let from = city.observations.end().0;
    for value in 0..200u16 {
        device.publish("devices/d1/level", &value.to_string(), QoS::AtLeastOnce, value + 1).await;
        assert!(matches!(device.next().await, Packet::PublishAck(_)));
    }
    // Until it is sealed it is kept, whatever the limit says.
    city.observations.retain().await.expect("retained");
    assert_eq!(city.observations.start().0, 0);
    city.observe.seal().await.expect("sealed");
    // The sealer says so a moment after the lake has it.
    while city.observations.start().0 <= from {
        city.observations.retain().await.expect("retained");
        tokio::task::yield_now().await;
    }
    // Who was away finds the same after the server has been restarted.
    city.close().await;
    city = City::keeping(folder.path(), keeping).await;
    let start = city.observations.start().0;
    let (missed, end) = (start - from, city.observations.end().0);
    assert!(missed > 0 && start < end, "{start} {end}");
    for (n, to) in readers.into_iter().enumerate() {
        let (mut reader, present) = city.connect(to).await;
        assert!(present);
        for value in missed..200 {
            let got = reader.message().await;
            assert_eq!(got.number(), value as f64);
            if let Some(properties) = got.properties {
                let told = properties.user_properties.iter().find(|(name, _)| name == "missed-records");
                let expect = (value == missed).then(|| missed.to_string());
                assert_eq!(told.map(|(_, n)| n.to_string()), expect, "told once, with the first message");
            }
        }
        assert!(reader.silent().await);
        let handle = city.door.handle();
        let stats = handle.stats();
        let n = n as u64 + 1;
        assert_eq!((stats.overtaken.get(), stats.overtaken_records.get()), (n, n * missed));
    }
    // From here on it is as if nothing had been.
    let (mut reader, _) = city.connect(readers[0]).await;
    let (mut device, _) = city.connect(To::new(V3, "dsd-d1", "d")).await;
    device.publish("devices/d1/level", "1000", QoS::AtLeastOnce, 1).await;
    let got = reader.message().await;
    assert_eq!((got.number(), got.properties.expect("5").user_properties.len()), (1000.0, 0));
    city.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_overtaken_by_retention_is_told() {
    overtaken(&Keeping { nats: None, retain_bytes: Some(4 << 10) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_overtaken_by_retention_is_told_with_nats() {
    let server = testkit::nats::Server::start();
    overtaken(&Keeping { nats: Some(server.url()), retain_bytes: Some(4 << 10) }).await;
}

/// 17-079 section 9: a device that follows Tasks is told of each when it is sent, once, also when it was away; and not before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_is_told_of_a_task_when_it_is_sent() {
    let folder = tempfile::tempdir().expect("a folder");
    let city = City::open(folder.path()).await;
    let fan = json!({
        "name": "fan", "description": "d", "Thing": {"@iot.key": "t"}, "properties": {"tasking": {"four_eyes": true}},
        "taskingParameters": {"type": "DataRecord", "field": [{"name": "speed", "type": "Count"}]},
        "Actuator": {"@iot.key": "m", "name": "m", "description": "d", "encodingType": "text/html", "metadata": "m"},
    });
    let fan = city
        .catalog
        .upsert(&of("dsd"), EntityType::TaskingCapability, &tenant("dsd"), "fan", fan)
        .await
        .expect("declared");
    let to = To::new(V5, "dsd-d1", "d").lasting();
    let (mut device, _) = city.connect(to).await;
    let topic = format!("v1.1/TaskingCapabilities({fan})/Tasks");
    assert_eq!(device.subscribe(&topic, QoS::AtLeastOnce).await, 1);
    let asked = json!({"taskingParameters": {"speed": 3}});
    let id = city.tasking.propose(&of("dsd"), &asked, Some(fan), None).await.expect("proposed");
    city.relay().await;
    assert!(device.silent().await, "nobody has approved it");
    drop(device);

    let second = Caller { principal: Principal::System { part: "second" }, ..of("dsd") };
    let (seen, _) = city.tasking.get(&second, id).await.expect("there");
    let approved = city.tasking.act(&second, id, Deed::Approve, Some(seen.task.version), "").await.expect("approved");
    assert_eq!(approved.task.status.name(), "sent");
    city.relay().await;
    let (mut device, present) = city.connect(to).await;
    assert!(present);
    let got = device.message().await;
    let sent: Value = serde_json::from_str(&got.payload).expect("json");
    assert_eq!((got.topic.as_str(), &sent["taskingParameters"]["speed"]), (topic.as_str(), &json!(3)));
    assert_eq!(sent["@lamppost.status"], "sent");
    let address = format!("v1.1/Tasks({id})");
    device.publish(&address, r#"{"@lamppost.status": "done"}"#, QoS::AtLeastOnce, 1).await;
    assert_ne!(acknowledged(&mut device).await, 0, "no such word");
    device.publish(&address, r#"{"@lamppost.status": "acknowledged"}"#, QoS::AtLeastOnce, 2).await;
    assert_eq!(acknowledged(&mut device).await, 0);
    let (done, _) = city.tasking.get(&second, id).await.expect("there");
    assert_eq!(done.task.status.name(), "completed", "acknowledged is durable");
    city.relay().await;
    assert!(device.silent().await, "it is told once");
    city.close().await;
}

/// A fan of the Thing, whose Tasks a second person approves.
async fn fan(city: &City, terms: Value) -> (EntityId, String) {
    let fan = json!({
        "name": "fan", "description": "d", "Thing": {"@iot.key": "t"}, "properties": { "tasking": terms },
        "taskingParameters": {"type": "DataRecord", "field": [{"name": "speed", "type": "Count"}]},
        "Actuator": {"@iot.key": "m", "name": "m", "description": "d", "encodingType": "text/html", "metadata": "m"},
    });
    let made = city.catalog.upsert(&of("dsd"), EntityType::TaskingCapability, &tenant("dsd"), "fan", fan).await;
    let fan = made.expect("declared");
    (fan, format!("v1.1/TaskingCapabilities({fan})/Tasks"))
}

/// 17-079 section 9.1. A client that has not seen its PUBACK sends the message again and says so; the next message of the same number is another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_proposes_a_task_is_one_task_however_often_it_comes() {
    let folder = tempfile::tempdir().expect("a folder");
    let city = City::open(folder.path()).await;
    let (fan, topic) = fan(&city, json!({"four_eyes": true})).await;
    let (mut client, _) = city.connect(To::new(V5, "dsd-d1", "d").lasting()).await;
    let count = async || city.tasking.list(&of("dsd"), None, (None, None), None).await.expect("listed").len();
    let body = r#"{"taskingParameters": {"speed": 3}}"#;
    client.publish(&topic, body, QoS::AtLeastOnce, 7).await;
    assert_eq!((acknowledged(&mut client).await, count().await), (0, 1));
    let again = Publish { dup: true, ..publish(&topic, body, QoS::AtLeastOnce, 7) };
    client.send(again.into()).await;
    assert_eq!((acknowledged(&mut client).await, count().await), (0, 1), "the same message");
    client.publish(&topic, body, QoS::AtLeastOnce, 7).await;
    assert_eq!((acknowledged(&mut client).await, count().await), (0, 2), "another one with the same number");
    // A client that was started anew numbers from the start, and its first message may have been lost on the way.
    let lost = publish(&topic, r#"{"taskingParameters": {"speed": 9}}"#, QoS::AtLeastOnce, 7);
    client.send(Publish { dup: true, ..lost }.into()).await;
    assert_eq!(
        (acknowledged(&mut client).await, count().await),
        (0, 3),
        "it is no repetition of what says something else"
    );
    let linked = format!(r#"{{"taskingParameters": {{"speed": 4}}, "TaskingCapability": {{"@iot.id": {fan}}}}}"#);
    client.publish("v1.1/Tasks", &linked, QoS::AtLeastOnce, 8).await;
    assert_eq!((acknowledged(&mut client).await, count().await), (0, 4));
    for (topic, bad) in [
        (topic.as_str(), r#"{"taskingParameters": {"speed": "fast"}}"#),
        (topic.as_str(), r#"{"taskingParameters": {}}"#),
        ("v1.1/Tasks", body),
        ("v1.1/TaskingCapabilities(99)/Tasks", body),
        (topic.as_str(), "no JSON"),
    ] {
        client.publish(topic, bad, QoS::AtLeastOnce, 9).await;
        assert_ne!(acknowledged(&mut client).await, 0, "{topic} {bad}");
    }
    assert_eq!(count().await, 4, "what is refused is not there");
    city.close().await;
}

/// What is over is not done late. (What nobody has answered in time is with e2e/tasking.py: a message expires by the real clock.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_was_away_is_not_told_of_what_is_over() {
    let folder = tempfile::tempdir().expect("a folder");
    let city = City::open(folder.path()).await;
    let (fan, topic) = fan(&city, json!({})).await;
    let to = To::new(V5, "dsd-d1", "d").lasting();
    let (mut device, _) = city.connect(to).await;
    assert_eq!(device.subscribe(&topic, QoS::AtLeastOnce).await, 1);
    drop(device);
    let ask = async |speed: i64| {
        let body = json!({"taskingParameters": { "speed": speed }});
        let id = city.tasking.propose(&of("dsd"), &body, Some(fan), None).await.expect("proposed");
        city.relay().await;
        id
    };
    let cancelled = ask(1).await;
    city.tasking.act(&of("dsd"), cancelled, Deed::Cancel, None, "").await.expect("cancelled");
    city.relay().await;
    let kept = ask(3).await;
    let (mut device, present) = city.connect(to).await;
    assert!(present);
    let got: Value = serde_json::from_str(&device.message().await.payload).expect("json");
    assert_eq!((&got["@iot.id"], &got["taskingParameters"]["speed"]), (&json!(kept), &json!(3)));
    assert!(device.silent().await, "nothing else");
    // A start later it is told again of what it has not answered.
    let caller = Caller { principal: Principal::Device { id: "d1".into() }, ..of("dsd") };
    assert_eq!((city.tasking.comes_first(&caller), city.tasking.comes_first(&caller)), (true, false));
    city.tasking.tell_again(&caller).await.expect("told");
    city.relay().await;
    let again: Value = serde_json::from_str(&device.message().await.payload).expect("json");
    assert_eq!(again["@iot.id"], json!(kept));
    city.close().await;
}
