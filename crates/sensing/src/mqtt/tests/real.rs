//! The same door on what it stands on in the city: catalogue, stream, head, lake, records, in a temporary folder.

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use futures::FutureExt;
use kernel::{Action, Caller, Decision, Policy, Principal, Resource, SystemClock};
use lake::{Lake, Root};
use records::Records;
use serde_json::json;
use stream::{Stream, TopicOptions};

use super::world::{Client, Law, Register, To, V3, V5, options, tenant};
use crate::{
    Catalog,
    model::{EntityId, EntityType},
    mqtt::{
        Door, Observed, Options, Parts, QueueLimits, Store,
        wire::{Packet, QoS},
    },
    observe::{self, Observe, SeriesQuery},
};

struct Everything;

impl Policy for Everything {
    fn decide(&self, _: &Caller, _: Action, _: &Resource<'_>) -> Decision {
        Decision::Allow
    }
}

struct City {
    stream: Stream,
    observe: Observe,
    records: Records,
    door: Door,
    datastream: EntityId,
}

impl City {
    async fn open(folder: &Path) -> Self {
        let clock = Arc::new(SystemClock);
        let topic = TopicOptions::new("observations").guarded();
        let stream =
            Stream::open(stream::Options::local(folder.join("stream"), [topic]), clock.clone()).await.expect("stream");
        let lake = Lake::open(lake::Options::new(Root::Local(folder.join("lake")))).expect("lake");
        let way =
            observe::Options { seal_every: Duration::from_secs(3_600), ..observe::Options::new(folder.join("heads")) };
        let observe = Observe::open(way, stream.topic("observations").expect("topic"), &lake).await.expect("observe");
        let records =
            Records::open(&records::Options::sqlite(folder.join("records.db")), clock.clone()).expect("records");
        let catalog = Catalog::open(records.clone(), Arc::new(Everything), clock.clone()).expect("catalogue");
        let body = json!({
            "name": "t", "description": "d",
            "Datastreams": [{
                "@iot.key": "level", "name": "level", "description": "d",
                "observationType": "http://www.opengis.net/def/observationType/OGC-OM/2.0/OM_Measurement",
                "unitOfMeasurement": {"name": "metre", "symbol": "m", "definition": "ucum:m"},
                "Sensor": {"@iot.key": "s", "name": "s", "description": "d", "encodingType": "text/html", "metadata": "m"},
                "ObservedProperty": {"@iot.key": "p", "name": "p", "description": "d", "definition": "http://p"},
            }],
            "Locations": [{"@iot.key": "l", "name": "l", "description": "d", "encodingType": "application/geo+json",
                "location": {"type": "Point", "coordinates": [114.1, 22.3]}}],
        });
        let owner = tenant("dsd");
        let caller = Caller {
            principal: Principal::System { part: "test" },
            tenant: Some(owner.clone()),
            roles: BTreeSet::new(),
        };
        catalog.upsert(&caller, EntityType::Thing, &owner, "t", body).await.expect("declared");
        let find = catalog.by_key(EntityType::Datastream, &owner, "level").await.expect("found").expect("there");
        let keys = Arc::new(move |device: String, key: String| {
            async move { Ok((device == "d1" && key == "level").then_some(find)) }.boxed()
        });
        let parts = Parts {
            field: Arc::new(Observed::new(observe.clone(), catalog, keys)),
            rights: Arc::new(Law),
            authenticate: Arc::new(Register),
            keep: Arc::new(Store::open(records.clone()).expect("migrated")),
            clock,
        };
        let queue = QueueLimits { messages: 50, ..options().queue };
        let door = Door::open(Options { queue, ..options() }, parts).await.expect("opens");
        Self { stream, observe, records, door, datastream: find }
    }

    async fn close(self) {
        self.door.close().await;
        self.observe.close(Duration::from_secs(20)).await;
        self.stream.close().await;
        self.records.close().await;
    }

    async fn connect(&self, to: To<'_>) -> (Client, bool) {
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
