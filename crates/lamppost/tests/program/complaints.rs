//! What users of other servers complain about, each driven from outside. The name of a test is the complaint that must not come.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS};
use serde_json::{Value, json};

use crate::city::{PACK, TestCity};

const RULE: &str = r#"
[[rule]]
key = "complaints-high"
tenant = "dsd"
severity = "Minor"
name = { en = "High", zh-hant = "高", zh-hans = "高" }
select = { system = "complaints" }
when = { above = { raise = 1000, clear = 900 } }
"#;

const MEASUREMENT: &str = "http://www.opengis.net/def/observationType/OGC-OM/2.0/OM_Measurement";

struct Desk {
    city: TestCity,
    key: String,
    _pack: tempfile::TempDir,
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (entry, to) = (entry.as_ref().unwrap(), to.join(entry.as_ref().unwrap().file_name()));
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

impl Desk {
    async fn open() -> Self {
        let pack = tempfile::tempdir().unwrap();
        copy(Path::new(PACK), pack.path());
        std::fs::write(pack.path().join("rules/complaints.toml"), RULE).unwrap();
        let folder = pack.path().to_owned();
        let city = TestCity::with(|config| {
            config.pack = folder;
            config.mqtt = Some(lamppost::config::Mqtt { listen: ([127, 0, 0, 1], 0).into(), tls: None });
            config.http.timeout = Duration::from_secs(300);
            // Seals come when a test asks for one.
            config.lake_seal = Duration::from_secs(3_600);
        })
        .await;
        let key = city.key("dsd", "admin").await;
        Self { city, key, _pack: pack }
    }

    async fn ask(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let mut request = self.city.request(method, path).bearer_auth(&self.key);
        if !body.is_null() {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }

    /// A Thing with one Datastream; their ids.
    async fn thing(&self, name: &str) -> (i64, i64) {
        let body = json!({
        "name": name, "description": "d", "properties": {"system": "complaints"},
        "Datastreams": [{
            "name": name, "description": "d", "observationType": MEASUREMENT,
            "unitOfMeasurement": {"name": "metre", "symbol": "m", "definition": "ucum:m"},
            "Sensor": {"name": "s", "description": "d", "encodingType": "text/html", "metadata": "https://example.org"},
            "ObservedProperty": {"name": "p", "description": "d", "definition": "https://example.org/p"},
        }]});
        let (status, _) = self.ask("POST", "/v1.1/Things", body).await;
        assert_eq!(status, 201);
        let path = format!("/v1.1/Things?$filter=name%20eq%20'{name}'&$expand=Datastreams");
        let (_, found) = self.ask("GET", &path, Value::Null).await;
        let thing = &found["value"][0];
        (thing["@iot.id"].as_i64().unwrap(), thing["Datastreams"][0]["@iot.id"].as_i64().unwrap())
    }

    /// So many Observations, one a second, in one request.
    async fn load(&self, datastream: i64, from: usize, rows: usize) -> u16 {
        let start: kernel::Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let rows: Vec<Value> =
            (from..from + rows).map(|i| json!([start.plus_secs(i as i64).to_string(), i % 100])).collect();
        let body = json!([{"Datastream": {"@iot.id": datastream}, "components": ["phenomenonTime", "result"], "dataArray": rows}]);
        let request = self.city.request("POST", "/v1.1/CreateObservations").bearer_auth(&self.key);
        request.header("prefer", "return=minimal").body(body.to_string()).send().await.unwrap().status().as_u16()
    }

    async fn count(&self, datastream: i64) -> u64 {
        let path = format!("/v1.1/Datastreams({datastream})/Observations?$count=true&$top=0");
        self.ask("GET", &path, Value::Null).await.1["@iot.count"].as_u64().unwrap()
    }

    /// A device that may speak for a Thing, connected.
    async fn device(&self, name: &str, thing: i64) -> (AsyncClient, EventLoop) {
        let body = json!({"tenant": "dsd", "key": name, "kind": "gauge", "things": [thing]});
        let (_, device) = self.ask("POST", "/api/devices", body).await;
        let id = device["id"].as_str().unwrap();
        let (_, key) = self.ask("POST", &format!("/api/devices/{id}/keys"), json!({})).await;
        let port = self.city.running().mqtt.unwrap().port();
        let mut options = MqttOptions::new(name, "127.0.0.1", port);
        options.set_credentials(id, key["key"].as_str().unwrap());
        options.set_max_packet_size(1 << 20, 1 << 20);
        options.set_inflight(100);
        AsyncClient::new(options, 100)
    }
}

/// Reads until the next packet for which `wanted` gives something; too long is a failure.
async fn next<T>(events: &mut EventLoop, what: &str, mut wanted: impl FnMut(&Packet) -> Option<T>) -> T {
    let found = async {
        loop {
            if let Event::Incoming(packet) = events.poll().await.unwrap()
                && let Some(found) = wanted(&packet)
            {
                return found;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(120), found).await.unwrap_or_else(|_| panic!("no {what}"))
}

/// "To show a map I need ten thousand requests, one for the latest value of each Thing."
#[tokio::test(flavor = "multi_thread")]
async fn the_latest_value_of_ten_thousand_things_takes_ten_thousand_requests() {
    const THINGS: usize = 10_000;
    let desk = Desk::open().await;
    let (first, stream) = desk.thing("pattern").await;
    let path = format!("/v1.1/Datastreams({stream})?$expand=Sensor,ObservedProperty");
    let (_, found) = desk.ask("GET", &path, Value::Null).await;
    let (caller, tenant) = (kernel::Caller::system("test"), kernel::Tenant::parse("dsd").unwrap());
    let catalog = &desk.city.running().catalog;
    let declared =
        |entity, i: usize, body: Value| sensing::catalog::Declared { entity, key: format!("many-{i}"), body };
    let things = (1..THINGS).map(|i| {
        let body = json!({"name": format!("many {i}"), "description": "d", "properties": {"system": "complaints"}});
        declared(sensing::model::EntityType::Thing, i, body)
    });
    let mut things = catalog.upsert_all(&caller, &tenant, things.collect()).await.unwrap();
    let streams = things.iter().enumerate().map(|(i, thing)| {
        let body = json!({
            "name": format!("many {i}"), "description": "d", "observationType": MEASUREMENT,
            "unitOfMeasurement": {"name": "metre", "symbol": "m", "definition": "ucum:m"}, "Thing": {"@iot.id": thing.0},
            "Sensor": {"@iot.id": found["Sensor"]["@iot.id"]},
            "ObservedProperty": {"@iot.id": found["ObservedProperty"]["@iot.id"]},
        });
        declared(sensing::model::EntityType::Datastream, i, body)
    });
    let mut streams = catalog.upsert_all(&caller, &tenant, streams.collect()).await.unwrap();
    things.push(sensing::model::EntityId(first));
    streams.push(sensing::model::EntityId(stream));
    // Two each: the older one must not be the answer.
    for chunk in streams.chunks(2_500) {
        let groups: Vec<Value> = chunk
            .iter()
            .map(|id| {
                let rows = json!([["2026-01-01T00:00:00Z", 1], ["2026-01-02T00:00:00Z", id.0]]);
                json!({"Datastream": {"@iot.id": id.0}, "components": ["phenomenonTime", "result"], "dataArray": rows})
            })
            .collect();
        assert_eq!(desk.ask("POST", "/v1.1/CreateObservations", json!(groups)).await.0, 201);
    }
    let path = "/v1.1/Things?$filter=properties/system%20eq%20'complaints'&$top=10000&$select=id\
                &$expand=Datastreams($select=id;$expand=Observations($select=result;$top=1;$orderby=phenomenonTime%20desc))";
    let (status, answer) = desk.ask("GET", path, Value::Null).await;
    assert_eq!(status, 200, "{answer}");
    let values = answer["value"].as_array().unwrap();
    assert_eq!((values.len(), answer.get("@iot.nextLink")), (THINGS, None), "all of them, in one answer");
    for thing in values {
        let stream = &thing["Datastreams"][0];
        let observations = stream["Observations"].as_array().unwrap();
        assert_eq!(observations.len(), 1);
        assert_eq!(observations[0]["result"].as_f64(), stream["@iot.id"].as_i64().map(|id| id as f64), "{thing}");
    }
}

fn parquet_below(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            parquet_below(&path, found);
        } else if path.extension().is_some_and(|e| e == "parquet") {
            found.push(path);
        }
    }
}

/// "$count reads every row." Here the rows are taken away, and it still knows. (Sizes: `bench sta`.)
#[tokio::test(flavor = "multi_thread")]
async fn a_count_scans_the_table() {
    const ROWS: usize = 120_000;
    let desk = Desk::open().await;
    let (_, stream) = desk.thing("counted").await;
    for from in (0..ROWS).step_by(40_000) {
        assert_eq!(desk.load(stream, from, 40_000).await, 204);
    }
    desk.city.running().city.observe.seal().await.unwrap();
    assert_eq!(desk.count(stream).await, ROWS as u64);
    if testkit::outside() {
        // The rows lie in somebody else's store then; that nothing of it is asked for is shown by the run on a folder.
        return;
    }
    let mut files = Vec::new();
    parquet_below(&desk.city.folder.path().join("data"), &mut files);
    let rows: Vec<_> = files.iter().filter(|f| !f.components().any(|c| c.as_os_str() == "_delta_log")).collect();
    assert!(!rows.is_empty(), "the rows are in the lake");
    rows.iter().for_each(|file| std::fs::remove_file(file).unwrap());
    // Two more, which are in memory: they are the page, and the count is of all.
    assert_eq!(desk.load(stream, ROWS, 2).await, 204);
    let path = format!("/v1.1/Datastreams({stream})/Observations?$count=true&$top=1&$orderby=phenomenonTime%20desc");
    let (status, page) = desk.ask("GET", &path, Value::Null).await;
    assert_eq!((status, &page["@iot.count"]), (200, &json!(ROWS + 2)), "no row was read for it: {page}");
    let path = format!("/v1.1/Datastreams({stream})?$select=phenomenonTime");
    let (_, found) = desk.ask("GET", &path, Value::Null).await;
    assert_eq!(found["phenomenonTime"], "2026-01-01T00:00:00Z/2026-01-02T09:20:01Z", "nor for its extent");
}

/// "While somebody loads years of data, nobody else is answered." Decided by what happens between what, not by the clock.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_bulk_load_starves_readers() {
    const LOADS: usize = 12;
    let desk = Arc::new(Desk::open().await);
    let (_, bulk) = desk.thing("bulk").await;
    let (_, other) = desk.thing("other").await;
    assert_eq!(desk.load(other, 0, 100).await, 204);
    let (over, loads, reads) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let loaders: Vec<_> = (0..2)
        .map(|n| {
            let (desk, loads) = (desk.clone(), loads.clone());
            tokio::spawn(async move {
                for i in 0..LOADS / 2 {
                    let from = (n * LOADS / 2 + i) * 20_000;
                    assert_eq!(desk.load(bulk, from, 20_000).await, 204);
                    loads.fetch_add(1, SeqCst);
                }
            })
        })
        .collect();
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (desk, over, loads, reads) = (desk.clone(), over.clone(), loads.clone(), reads.clone());
            tokio::spawn(async move {
                let mut most = 0;
                while !over.load(SeqCst) {
                    let before = loads.load(SeqCst);
                    let path = format!("/v1.1/Datastreams({other})/Observations?$top=1&$orderby=phenomenonTime%20desc");
                    let (status, answer) = desk.ask("GET", &path, Value::Null).await;
                    assert_eq!((status, answer["value"][0]["result"].as_f64()), (200, Some(99.0)), "{answer}");
                    reads.fetch_add(1, SeqCst);
                    most = most.max(loads.load(SeqCst) - before);
                }
                most
            })
        })
        .collect();
    for loader in loaders {
        loader.await.unwrap();
    }
    over.store(true, SeqCst);
    for reader in readers {
        // A reader that waited for the loads would see several of them end during one question.
        let passed = reader.await.unwrap();
        assert!(passed <= 2, "{passed} loads went by while one reader waited");
    }
    let reads = reads.load(SeqCst);
    assert!(reads >= LOADS, "{reads} reads were answered during {LOADS} loads");
    assert_eq!(desk.count(bulk).await, (LOADS * 20_000) as u64);
}

/// "It takes a text for a number and the chart breaks a week later."
#[tokio::test(flavor = "multi_thread")]
async fn results_of_a_wrong_type_are_accepted() {
    let desk = Desk::open().await;
    let (thing, stream) = desk.thing("typed").await;
    let at = "2026-01-01T00:00:00Z";
    for wrong in [json!("12"), json!("n/a"), json!(true), json!({"v": 1}), json!([1])] {
        let body = json!({"phenomenonTime": at, "result": wrong});
        let (status, problem) = desk.ask("POST", &format!("/v1.1/Datastreams({stream})/Observations"), body).await;
        assert_eq!(status, 400, "{wrong}");
        assert!(problem["errors"][0]["field"].as_str().is_some_and(|f| f.starts_with("/result")), "{problem}");
    }
    let rows = json!([[at, "12"], ["2026-01-02T00:00:00Z", 12]]);
    let body =
        json!([{"Datastream": {"@iot.id": stream}, "components": ["phenomenonTime", "result"], "dataArray": rows}]);
    let (status, said) = desk.ask("POST", "/v1.1/CreateObservations", body).await;
    assert_eq!((status, &said[0]), (201, &json!("error")), "{said}");
    assert_eq!(desk.count(stream).await, 1);
    let (client, mut events) = desk.device("typed", thing).await;
    let topic = format!("v1.1/Datastreams({stream})/Observations");
    // MQTT 3.1.1 has no other word for a refusal than the end of the connection.
    client.publish(&topic, QoS::AtLeastOnce, false, r#"{"result": "12"}"#).await.unwrap();
    let refused = tokio::time::timeout(Duration::from_secs(120), async { while events.poll().await.is_ok() {} });
    refused.await.expect("the connection ends");
    assert_eq!(desk.count(stream).await, 1, "nothing came of it");
}

/// "What is posted over HTTP is published to subscribers; what is published by MQTT is not." And: "Under load some notifications are lost."
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn observations_by_mqtt_are_not_published_and_some_are_lost_under_load() {
    const EACH: usize = 1_500;
    let desk = Arc::new(Desk::open().await);
    let (thing, stream) = desk.thing("told").await;
    let topic = format!("v1.1/Datastreams({stream})/Observations");
    let (listener, mut heard) = desk.device("listener", thing).await;
    listener.subscribe(&topic, QoS::AtLeastOnce).await.unwrap();
    next(&mut heard, "an answer to the subscription", |p| matches!(p, Packet::SubAck(_)).then_some(())).await;
    let (speaker, mut spoken) = desk.device("speaker", thing).await;
    let pumping = tokio::spawn(async move {
        let mut acknowledged = 0;
        next(&mut spoken, "all acknowledgements", |packet| {
            acknowledged += usize::from(matches!(packet, Packet::PubAck(_)));
            (acknowledged == EACH).then_some(())
        })
        .await;
    });
    let (by_mqtt, by_http) = (topic.clone(), desk.clone());
    let start: kernel::Timestamp = "2026-02-01T00:00:00Z".parse().unwrap();
    let publishing = tokio::spawn(async move {
        for i in 0..EACH {
            let body = json!({"phenomenonTime": start.plus_secs(i as i64).to_string(), "result": i});
            speaker.publish(&by_mqtt, QoS::AtLeastOnce, false, body.to_string()).await.unwrap();
        }
        // The connection lives until everything is acknowledged.
        pumping.await.unwrap();
        drop(speaker);
    });
    let posting = tokio::spawn(async move {
        for from in (0..EACH).step_by(100) {
            assert_eq!(by_http.load(stream, from, 100).await, 204);
        }
    });
    let mut results: BTreeMap<String, usize> = BTreeMap::new();
    next(&mut heard, "every Observation", |packet| {
        if let Packet::Publish(publish) = packet
            && !publish.retain
        {
            let body: Value = serde_json::from_slice(&publish.payload).unwrap();
            *results.entry(body["phenomenonTime"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        (results.len() == 2 * EACH).then_some(())
    })
    .await;
    publishing.await.unwrap();
    posting.await.unwrap();
    let twice: Vec<_> = results.iter().filter(|(_, n)| **n > 1).collect();
    assert!(twice.is_empty(), "told more than once: {twice:?}");
    assert_eq!(desk.count(stream).await, 2 * EACH as u64);
}

/// "Two messages within a millisecond make two alarms."
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn messages_at_nearly_the_same_time_raise_alarms_twice() {
    let desk = Arc::new(Desk::open().await);
    let (_, stream) = desk.thing("alarmed").await;
    let now = desk.city.running().stores.records.now();
    let sent: Vec<_> = (0..200)
        .map(|i| {
            let desk = desk.clone();
            tokio::spawn(async move {
                // The same moment, a few microseconds apart, and in no order.
                let body = json!({"phenomenonTime": now.plus_micros(i % 50).to_string(), "result": 2_000 + i});
                desk.ask("POST", &format!("/v1.1/Datastreams({stream})/Observations"), body).await.0
            })
        })
        .collect();
    for answer in sent {
        assert_eq!(answer.await.unwrap(), 201);
    }
    // The rules read in the order of the stream: when what came last has raised its alarm, everything before has been looked at.
    let (_, last) = desk.thing("last").await;
    let body = json!({"phenomenonTime": now.to_string(), "result": 3_000});
    assert_eq!(desk.ask("POST", &format!("/v1.1/Datastreams({last})/Observations"), body).await.0, 201);
    let mut tries = 0..1_200;
    let found = loop {
        tries.next().expect("the last alarm");
        let (_, found) = desk.ask("GET", "/api/alarms?rule=complaints-high", Value::Null).await;
        let found = found["alarms"].as_array().unwrap().clone();
        if found.iter().any(|alarm| alarm["datastream"] == json!(last)) {
            break found;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let of_first = found.iter().filter(|alarm| alarm["datastream"] == json!(stream)).count();
    assert_eq!((of_first, found.len()), (1, 2), "{found:?}");
}

/// "One address with many $expand in each other stops the server."
#[tokio::test(flavor = "multi_thread")]
async fn a_deep_expand_melts_the_server() {
    let desk = Desk::open().await;
    let (_, stream) = desk.thing("deep").await;
    assert_eq!(desk.load(stream, 0, 9_000).await, 204);
    let nested = |depth: usize| {
        (0..depth).fold("Datastreams".to_owned(), |inner, i| {
            format!("{}($expand={inner})", if i % 2 == 0 { "Thing" } else { "Datastreams" })
        })
    };
    let (status, problem) = desk.ask("GET", &format!("/v1.1/Datastreams?$expand={}", nested(60)), Value::Null).await;
    assert_eq!((status, &problem["errors"][0]["field"]), (400, &json!("$expand")), "{problem}");
    let long = format!("/v1.1/Things?$expand={}", "Datastreams,".repeat(4_000));
    let (status, problem) = desk.ask("GET", &long, Value::Null).await;
    assert!((400..500).contains(&status), "{status} {problem}");
    // Few are read and a great many would be written: each of nine thousand with all nine thousand under it.
    let wide = format!(
        "/v1.1/Datastreams({stream})/Observations?$top=9000&$expand=Datastream($expand=Observations($top=9000))"
    );
    let (status, problem) = desk.ask("GET", &wide, Value::Null).await;
    assert_eq!(status, 400);
    assert!(problem["detail"].as_str().unwrap().contains("more than 100000 entities"), "{problem}");
    // What is asked for every day is not among it.
    let usual = format!(
        "/v1.1/Datastreams({stream})/Observations?$top=9000&$expand=Datastream($expand=Thing),FeatureOfInterest"
    );
    let (status, answer) = desk.ask("GET", &usual, Value::Null).await;
    assert_eq!((status, answer["value"].as_array().map(Vec::len)), (200, Some(9_000)));
}
