//! The doors through their router, on real stores.

use std::{io::Write as _, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use http::{Request, StatusCode, header};
use kernel::{Action, Caller, Clock, Decision, FixedClock, Policy, Principal, Resource, SystemClock, Tenant};
use lake::{Lake, Root};
use serde_json::{Value, json};
use stream::{Stream, TopicOptions};
use tower::ServiceExt as _;

use super::{Door, Ingest, api, declaration::IngestFile};
use crate::{
    Catalog,
    model::{EntityId, EntityType, Observation, ResultValue},
    observe::{self, Observe, SeriesQuery},
    sta::{Rights, Watch},
};

const DECLARED: &str = r#"
[[lorawan]]
key = "bins"
tenant = "fehd"
name = { en = "Bins" }
profiles = ["bin"]
thing = "bin-{site}"
[lorawan.devices]
24e124136b502217 = "thing"
[lorawan.payload]
format = "cayenne-lpp"
[[lorawan.value]]
field = "fill"
datastream = "{thing}.fill"
port = 85
[[lorawan.value]]
field = "temperatureSensor.1"
datastream = "{thing}.temperature"
port = 1
[[lorawan.value]]
field = "lid"
datastream = "{thing}.lid"
words = { "0" = "closed", "1" = "open" }
optional = true
[[lorawan.value]]
field = "$battery"
message = "status"
datastream = "{thing}.battery"
optional = true

[[line]]
key = "pumps"
tenant = "fehd"
name = { en = "Pumps" }
measurement = "pump"
[[line.value]]
field = "flow"
datastream = "{id}.fill"
scale = 10
[[line.value]]
field = "lid"
datastream = "{id}.lid"
[[line.value]]
field = "starts"
datastream = "{id}.count"

[[line]]
key = "many"
tenant = "fehd"
name = { en = "Many" }
measurement = "many"
others = "ignore"
[[line.value]]
field = "v"
datastream = "many-{n}"

[[line]]
key = "made"
tenant = "fehd"
name = { en = "Made" }
measurement = "made"
bucket = "field"
[line.create]
thing = "made-{id|slug}"
name = "Pump {id}"
description = "made"
[[line.value]]
field = "v"
datastream = "made-{id|slug}.v"
[line.value.shape]
name = "Flow"
observed_property = "property"
sensor = "sensor"
observation_type = "Measurement"
"#;

/// Everybody acts for their own tenant: `reader` reads, `operator` also observes, others do everything.
struct Own;
impl Policy for Own {
    fn decide(&self, caller: &Caller, action: Action, resource: &Resource<'_>) -> Decision {
        let own = caller.tenant.is_some() && caller.tenant.as_ref() == resource.tenant;
        let may = action.0.ends_with(":read")
            || !caller.has_role("reader") && (action.0 == "sensing:observe" || !caller.has_role("operator"));
        if own && may { Decision::Allow } else { Decision::Deny }
    }
}

fn key(tenant: &str, role: &'static str) -> Caller {
    let principal = Principal::Person { id: "p1".into(), name: "P".into() };
    Caller { principal, tenant: Some(Tenant::parse(tenant).expect("slug")), roles: [role.into()].into() }
}

struct City {
    clock: Arc<FixedClock>,
    catalog: Catalog,
    observe: Observe,
    ingest: Ingest,
    router: Router,
    _folder: tempfile::TempDir,
}

struct Answer {
    status: StatusCode,
    body: Value,
}

impl City {
    async fn open() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let clock = Arc::new(FixedClock::at("2026-11-22T00:00:00Z".parse().expect("time")));
        let shared: Arc<dyn Clock> = clock.clone();
        let records = crate::test_records::open(folder.path(), shared.clone());
        let catalog = Catalog::open(records, Arc::new(Own), shared).expect("catalogue");
        let topic = TopicOptions::new("observations").guarded().retain_bytes(1);
        let stream = Stream::open(stream::Options::local(folder.path().join("stream"), [topic]), Arc::new(SystemClock))
            .await
            .expect("stream");
        let lake = Lake::open(lake::Options::new(Root::Local(folder.path().join("lake")))).expect("lake");
        let tuned = observe::Options {
            seal_every: Duration::from_secs(3_600),
            ..observe::Options::new(folder.path().join("heads"))
        };
        let observe = Observe::open(tuned, stream.topic("observations").expect("topic"), &lake).await.expect("observe");
        // A device has nothing but the first Thing.
        let policy = catalog.scopes().policy().clone();
        let rights: Rights = Arc::new(move |caller, info| {
            let resource = Resource { kind: "Datastream", id: "", tenant: Some(&info.tenant), public: info.public };
            let own = !matches!(caller.principal, Principal::Device { .. }) || info.thing == EntityId(1);
            own && policy.allows(caller, Action("sensing:observe"), &resource)
        });
        let watch: Watch = Arc::new(|_, _| {});
        let ingest = Ingest::new(
            catalog.clone(),
            observe.clone(),
            Tenant::parse("city").expect("slug"),
            "Asia/Hong_Kong",
            1 << 20,
        )
        .guarded(rights, watch);
        ingest.declare(toml::from_str::<IngestFile>(DECLARED).expect("TOML")).expect("declared");
        let router = api::router(ingest.clone());
        let city = Self { clock, catalog, observe, ingest, router, _folder: folder };
        for (key, kind) in [
            ("thing.fill", "OM_Measurement"),
            ("thing.temperature", "OM_Measurement"),
            ("thing.battery", "OM_Measurement"),
            ("thing.lid", "OM_CategoryObservation"),
            ("thing.count", "OM_CountObservation"),
        ] {
            city.datastream("thing", key, kind).await;
        }
        city
    }

    /// A Datastream of a Thing of `fehd`.
    async fn datastream(&self, thing: &str, key: &str, kind: &str) -> EntityId {
        let (tenant, caller) = (Tenant::parse("fehd").expect("slug"), Caller::system("test"));
        let put = |entity, key: &str, body| {
            let (catalog, tenant, caller, key) = (self.catalog.clone(), tenant.clone(), caller.clone(), key.to_owned());
            async move { catalog.upsert(&caller, entity, &tenant, &key, body).await.expect("entity") }
        };
        put(EntityType::Thing, thing, json!({"name": thing, "description": "d"})).await;
        let sensor =
            json!({"name": "s", "description": "d", "encodingType": "text/html", "metadata": "https://example.org"});
        put(EntityType::Sensor, "sensor", sensor).await;
        let property = json!({"name": "p", "description": "d", "definition": "https://example.org/p"});
        put(EntityType::ObservedProperty, "property", property).await;
        let body = json!({
            "name": key, "description": "d",
            "observationType": format!("http://www.opengis.net/def/observationType/OGC-OM/2.0/{kind}"),
            "unitOfMeasurement": {"name": null, "symbol": null, "definition": null},
            "Thing": {"@iot.key": thing}, "Sensor": {"@iot.key": "sensor"}, "ObservedProperty": {"@iot.key": "property"},
        });
        put(EntityType::Datastream, key, body).await
    }

    async fn id(&self, key: &str) -> Option<EntityId> {
        let tenant = Tenant::parse("fehd").expect("slug");
        self.catalog.by_key(EntityType::Datastream, &tenant, key).await.expect("records")
    }

    /// Times and results, the oldest first.
    async fn series(&self, key: &str) -> Vec<(String, Value)> {
        let id = self.id(key).await.expect("a Datastream");
        let rows = self.observe.read(SeriesQuery { limit: 100, ..SeriesQuery::all(id) }).await.expect("rows");
        let result = |o: &Observation| match &o.result {
            ResultValue::Number(n) => json!(n),
            ResultValue::Json(raw) => serde_json::from_str(raw.get()).expect("JSON"),
        };
        rows.iter().map(|o| (o.phenomenon.to_string(), result(o))).collect()
    }

    async fn ask(&self, caller: Option<Caller>, request: Request<Body>) -> Answer {
        let mut request = request;
        if let Some(caller) = caller {
            request.extensions_mut().insert(caller);
        }
        let answer = self.router.clone().oneshot(request).await.expect("infallible");
        let status = answer.status();
        let bytes = axum::body::to_bytes(answer.into_body(), 1 << 20).await.expect("a body");
        Answer { status, body: serde_json::from_slice(&bytes).unwrap_or_default() }
    }

    async fn post(&self, caller: Option<Caller>, path: &str, body: impl Into<Body>) -> Answer {
        self.ask(caller, Request::post(path).body(body.into()).expect("a request")).await
    }

    async fn uplink(&self, more: Value) -> Answer {
        self.post(Some(key("fehd", "operator")), "/api/ingest/chirpstack?event=up", uplink(more).to_string()).await
    }
    async fn lines(&self, text: &str) -> Answer {
        self.post(Some(key("fehd", "operator")), "/api/v2/write?bucket=b&precision=s", text.to_owned()).await
    }
}

fn uplink(more: Value) -> Value {
    let mut whole = json!({
        "time": "2026-11-22T01:00:00Z", "fCnt": 1, "fPort": 85,
        "deviceInfo": {"devEui": "24E124136B502217", "deviceProfileName": "bin", "tags": {}},
        "object": {"fill": 40.5, "lid": 1},
        "rxInfo": [{"rssi": -80, "snr": 5}],
    });
    whole.as_object_mut().expect("object").extend(more.as_object().expect("object").clone());
    whole
}

#[tokio::test(flavor = "multi_thread")]
async fn an_uplink_is_recorded_once_however_often_it_comes() {
    let city = City::open().await;
    for _ in 0..3 {
        let answer = city.uplink(json!({})).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
        assert_eq!(answer.body, json!({"device": "24e124136b502217", "thing": "thing", "recorded": 2}));
    }
    let at = "2026-11-22T01:00:00Z".to_owned();
    assert_eq!(city.series("thing.fill").await, [(at.clone(), json!(40.5))]);
    assert_eq!(city.series("thing.lid").await, [(at.clone(), json!("open"))]);
    // Late, and in its own place.
    city.uplink(json!({"time": "2026-11-21T01:00:00Z", "object": {"fill": 7}})).await;
    assert_eq!(city.series("thing.fill").await, [("2026-11-21T01:00:00Z".to_owned(), json!(7.0)), (at, json!(40.5))]);
    assert_eq!(city.ingest.stats(Door::ChirpStack).observations, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_are_read_where_nothing_else_has_read_them() {
    let city = City::open().await;
    let answer = city.uplink(json!({"object": null, "fPort": 1, "data": "AWcBEA=="})).await;
    assert_eq!(answer.body["recorded"], 1, "{}", answer.body);
    assert_eq!(city.series("thing.temperature").await, [("2026-11-22T01:00:00Z".to_owned(), json!(27.2))]);
    let answer = city.uplink(json!({"object": null, "fPort": 1, "data": "AWcB"})).await;
    assert_eq!((answer.status, &answer.body["errors"][0]["field"]), (StatusCode::BAD_REQUEST, &json!("/data")));
    // A frame without a payload is no mistake.
    let answer = city.uplink(json!({"object": null, "fPort": 1, "data": ""})).await;
    assert_eq!((answer.status, &answer.body["recorded"]), (StatusCode::OK, &json!(0)));
    // A decoder's null is an Observation without a result.
    let answer = city.uplink(json!({"time": "2026-11-22T02:00:00Z", "object": {"fill": null}})).await;
    assert_eq!(answer.body["recorded"], 1, "{}", answer.body);
    assert_eq!(city.series("thing.fill").await, [("2026-11-22T02:00:00Z".to_owned(), Value::Null)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_is_the_battery() {
    let city = City::open().await;
    let status = |more: Value| {
        let mut whole =
            json!({"time": "2026-11-22T01:00:00Z", "deviceInfo": uplink(json!({}))["deviceInfo"], "margin": 9});
        whole.as_object_mut().expect("object").extend(more.as_object().expect("object").clone());
        whole.to_string()
    };
    let path = "/api/ingest/chirpstack?event=status";
    let answer = city.post(Some(key("fehd", "operator")), path, status(json!({"batteryLevel": 75.5}))).await;
    assert_eq!(answer.body["recorded"], 1, "{}", answer.body);
    let answer = city.post(Some(key("fehd", "operator")), path, status(json!({"externalPowerSource": true}))).await;
    assert_eq!((answer.status, &answer.body["recorded"]), (StatusCode::OK, &json!(0)), "{}", answer.body);
    assert_eq!(city.series("thing.battery").await, [("2026-11-22T01:00:00Z".to_owned(), json!(75.5))]);
    for event in ["join", "ack", "txack", "log", "location", "integration"] {
        let path = format!("/api/ingest/chirpstack?event={event}");
        let answer = city.post(Some(key("fehd", "operator")), &path, status(json!({}))).await;
        assert_eq!(answer.status, StatusCode::OK, "{event}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strange_device_is_listed_and_nothing_is_made_for_it() {
    let city = City::open().await;
    let info = json!({"devEui": "24e124136b509999", "deviceProfileName": "bin", "deviceName": "new\nbin", "tags": {"site": "north"}});
    let before = city.observe.stats().observations;
    for _ in 0..2 {
        let answer = city.uplink(json!({"deviceInfo": info})).await;
        assert_eq!((answer.status, &answer.body["type"]), (StatusCode::NOT_FOUND, &json!("/problems/unknown-device")));
    }
    let other = json!({"devEui": "24e124136b508888", "deviceProfileName": "gate"});
    assert_eq!(city.uplink(json!({"deviceInfo": other})).await.status, StatusCode::NOT_FOUND);
    assert_eq!(city.observe.stats().observations, before);
    let list = |caller: Caller, path: &'static str| {
        city.ask(Some(caller), Request::get(path).body(Body::empty()).expect("a request"))
    };
    let listed = list(key("fehd", "reader"), "/api/ingest/unknown").await;
    let first = &listed.body["value"][1];
    assert_eq!(
        (listed.status, listed.body["value"].as_array().map(Vec::len)),
        (StatusCode::OK, Some(2)),
        "{}",
        listed.body
    );
    let of = listed.body["value"]
        .as_array()
        .expect("list")
        .iter()
        .find(|s| s["devEui"] == "24e124136b509999")
        .unwrap_or(first);
    assert_eq!((&of["messages"], &of["name"]), (&json!(2), &json!("new bin")));
    assert_eq!(list(key("dsd", "reader"), "/api/ingest/unknown?tenant=fehd").await.status, StatusCode::NOT_FOUND);
    assert_eq!(list(key("dsd", "reader"), "/api/ingest/unknown").await.body, json!({"value": []}));
    // Somebody makes its Thing, and it is a stranger no more.
    city.datastream("bin-north", "bin-north.fill", "OM_Measurement").await;
    city.datastream("bin-north", "bin-north.lid", "OM_CategoryObservation").await;
    let answer = city.uplink(json!({"deviceInfo": info})).await;
    assert_eq!((answer.status, &answer.body["thing"]), (StatusCode::OK, &json!("bin-north")), "{}", answer.body);
    assert_eq!(
        list(key("fehd", "reader"), "/api/ingest/unknown").await.body["value"].as_array().map(Vec::len),
        Some(1)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_is_told_so_and_changes_nothing() {
    let city = City::open().await;
    let device = |tenant: &str| Caller { principal: Principal::Device { id: "d".into() }, ..key(tenant, "none") };
    city.datastream("second", "second.fill", "OM_Measurement").await;
    city.datastream("second", "second.lid", "OM_CategoryObservation").await;
    let whole = uplink(json!({})).to_string();
    let second = "pump,id=second flow=1 1";
    for (path, body) in [
        ("/api/ingest/chirpstack?event=up", whole.as_str()),
        ("/api/ingest/things-stack", "{}"),
        ("/api/v2/write", "pump,id=thing flow=1"),
        ("/write?db=x", "pump,id=thing flow=1"),
    ] {
        let status = |caller: Option<Caller>| async { city.post(caller, path, body.to_owned()).await.status };
        assert_eq!(status(None).await, StatusCode::UNAUTHORIZED, "{path}");
        assert_eq!(status(Some(key("fehd", "reader"))).await, StatusCode::FORBIDDEN, "{path}");
        let nobody = Caller { tenant: None, ..key("fehd", "operator") };
        assert_eq!(status(Some(nobody)).await, StatusCode::FORBIDDEN, "{path}");
        // To another department these doors lead into its own rooms, where there is no such device and no such measurement.
        let strange = status(Some(key("dsd", "admin"))).await;
        assert!(matches!(strange, StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST), "{path}: {strange}");
    }
    assert_eq!(city.observe.stats().observations, 0);
    // A device writes to its own Thing and to no other.
    assert_eq!(city.post(Some(device("fehd")), "/api/ingest/chirpstack?event=up", whole).await.status, StatusCode::OK);
    let refused = city.post(Some(device("fehd")), "/api/v2/write", second).await;
    assert_eq!((refused.status, &refused.body["code"]), (StatusCode::FORBIDDEN, &json!("forbidden")));
    let both =
        city.post(Some(device("fehd")), "/api/v2/write?precision=s", format!("{second}\npump,id=thing flow=1 1")).await;
    let message = both.body["message"].as_str().expect("message");
    assert!(message.contains("line 1: you may not add Observations to 'second.fill'"), "{message}");
    assert_eq!(city.series("thing.fill").await.len(), 2, "its own was taken");
    assert_eq!(city.series("second.fill").await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_message_is_told_so() {
    let city = City::open().await;
    let operator = || Some(key("fehd", "operator"));
    let field = |answer: &Answer| answer.body["errors"][0]["field"].as_str().unwrap_or_default().to_owned();
    for (path, body, place) in [
        ("/api/ingest/chirpstack", "{}", "event"),
        ("/api/ingest/chirpstack?event=down", "{}", "event"),
        ("/api/ingest/chirpstack?event=up", "{}", "/deviceInfo"),
        ("/api/ingest/chirpstack?event=up", "{", ""),
        ("/api/ingest/things-stack", "[]", "/end_device_ids"),
        ("/api/v2/write?precision=d", "m v=1", "precision"),
        ("/api/v2/write", "m v=\u{1}", "line 1"),
    ] {
        let answer = city.post(operator(), path, body.to_owned()).await;
        assert_eq!(
            (answer.status, field(&answer)),
            (StatusCode::BAD_REQUEST, place.to_owned()),
            "{path} {}",
            answer.body
        );
    }
    let bytes = city.post(operator(), "/api/v2/write", vec![b'm', b'\n', 0xff]).await;
    assert_eq!((bytes.status, field(&bytes)), (StatusCode::BAD_REQUEST, "line 2".to_owned()));
    let request =
        Request::post("/api/ingest/chirpstack?event=up").header(header::CONTENT_TYPE, "application/octet-stream");
    let answer = city.ask(operator(), request.body(Body::from("x")).expect("a request")).await;
    assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    // A value that does not fit: the others are taken, and it is named.
    let answer = city.uplink(json!({"object": {"fill": "high", "lid": 0}})).await;
    assert_eq!(
        (answer.status, &answer.body["recorded"], &answer.body["refused"][0]["field"]),
        (StatusCode::OK, &json!(1), &json!("/fill"))
    );
    let answer = city.uplink(json!({"object": {"fill": "high", "lid": 2}})).await;
    assert_eq!(
        (answer.status, answer.body["errors"].as_array().map(Vec::len)),
        (StatusCode::BAD_REQUEST, Some(2)),
        "{}",
        answer.body
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_are_recorded_and_bad_ones_are_named() {
    let city = City::open().await;
    let answer = city
        .lines("pump,id=thing flow=4.05,lid=\"open\",starts=3i 1795348800\n# note\npump,id=thing flow=1 1795345200\n")
        .await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT, "{}", answer.body);
    assert_eq!(
        city.series("thing.fill").await,
        [("2026-11-22T11:00:00Z".to_owned(), json!(10.0)), ("2026-11-22T12:00:00Z".to_owned(), json!(40.5))]
    );
    assert_eq!(city.series("thing.lid").await, [("2026-11-22T12:00:00Z".to_owned(), json!("open"))]);
    assert_eq!(city.series("thing.count").await, [("2026-11-22T12:00:00Z".to_owned(), json!(3.0))]);
    let bad = [
        "pump,id=thing flow=\"high\" 1",
        "pump,id=thing starts=1.5 1",
        "pump,id=thing lid=1 1",
        "pump,id=thing what=1 1",
        "pump,id=nowhere flow=1 1",
        "pump flow=1 1",
        "fan,id=thing flow=1 1",
        "pump,id=thing flow",
        "pump,id=thing flow=1 now",
        "pump,id=thing flow=1 1795348800000000000",
        "pump,id=thing starts=9007199254740993i 1",
    ];
    let text = format!("{}\npump,id=thing flow=2 1795348860\n", bad.join("\n"));
    let answer = city.lines(&text).await;
    assert_eq!((answer.status, &answer.body["code"]), (StatusCode::BAD_REQUEST, &json!("invalid")), "{}", answer.body);
    assert_eq!(answer.body["type"], "/problems/partial-write");
    assert!(
        answer.body["message"].as_str().expect("message").starts_with("partial write: 11 of 12 lines"),
        "{}",
        answer.body
    );
    let named: Vec<&str> =
        answer.body["errors"].as_array().expect("errors").iter().filter_map(|e| e["field"].as_str()).collect();
    assert_eq!(named, (1..=11).map(|n| format!("line {n}")).collect::<Vec<_>>());
    assert_eq!(city.series("thing.fill").await.len(), 3, "the good line was taken");
    let twice = city.lines(&"pump,id=nowhere flow=1,what=1 1\n".repeat(30)).await;
    let said = twice.body["message"].as_str().expect("message");
    assert!(said.starts_with("partial write: 30 of 30 lines"), "wrong in two ways is one line: {said}");
    // Without a timestamp it is of now; sent again later it is another.
    assert_eq!(city.lines("pump,id=thing starts=1u").await.status, StatusCode::NO_CONTENT);
    city.clock.advance_micros(1_000_000);
    city.lines("pump,id=thing starts=2u\npump,id=thing starts=5u").await;
    let counts = city.series("thing.count").await;
    assert_eq!(
        counts[..2],
        [("2026-11-22T00:00:00Z".to_owned(), json!(1.0)), ("2026-11-22T00:00:01Z".to_owned(), json!(5.0))]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_may_be_compressed_but_not_a_bomb() {
    let city = City::open().await;
    let pack = |bytes: &[u8]| {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        packed.write_all(bytes).expect("memory");
        packed.finish().expect("memory")
    };
    let send = |encoding: &'static str, body: Vec<u8>| {
        let request = Request::post("/write?db=b&precision=s").header(header::CONTENT_ENCODING, encoding);
        city.ask(Some(key("fehd", "operator")), request.body(Body::from(body)).expect("a request"))
    };
    assert_eq!(send("gzip", pack(b"pump,id=thing flow=1 1")).await.status, StatusCode::NO_CONTENT);
    assert_eq!(send("gzip", b"pump,id=thing flow=1 1".to_vec()).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(send("br", Vec::new()).await.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let bomb = send("gzip", pack(&vec![b'\n'; 8 << 20])).await;
    assert_eq!((bomb.status, &bomb.body["code"]), (StatusCode::PAYLOAD_TOO_LARGE, &json!("request too large")));
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_lines_ask_the_store_once() {
    let city = City::open().await;
    let series = 300;
    for n in 0..series {
        city.datastream("thing", &format!("many-{n}"), "OM_Measurement").await;
    }
    let mut text = String::new();
    for at in 0..10_000 {
        text += &format!("many,n={} v={at},w=0 {at}\n", at % series);
    }
    let before = city.catalog.records().stats();
    assert_eq!(city.lines(&text).await.status, StatusCode::NO_CONTENT);
    let first = city.catalog.records().stats();
    assert!(first.reads - before.reads <= 1, "{} questions", first.reads - before.reads);
    assert!(first.commands - before.commands <= 1, "their features are made together");
    assert_eq!(city.lines(&text).await.status, StatusCode::NO_CONTENT);
    let second = city.catalog.records().stats();
    assert_eq!((second.reads - first.reads, second.commands - first.commands), (1, 0));
    let id = city.id("many-7").await.expect("a Datastream");
    assert_eq!(city.observe.count(id).await.expect("count"), 34, "sent twice, there once");
}

#[tokio::test(flavor = "multi_thread")]
async fn things_are_made_by_declaration_for_who_may_write() {
    let city = City::open().await;
    let text = "made,id=Tai\\ O v=1.5 1\nmade,id=Tai\\ O v=2 2\nmade,id=Cheung\\ Chau v=3 1\n";
    let path = "/api/v2/write?bucket=field&precision=s";
    let refused = city.post(Some(key("fehd", "operator")), path, text).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    assert!(
        refused.body["message"]
            .as_str()
            .expect("message")
            .contains("it would be made for a caller with the right to write")
    );
    assert_eq!(city.id("made-tai-o.v").await, None, "nothing was made");
    // Another bucket is another thing.
    let other = city.post(Some(key("fehd", "admin")), "/api/v2/write?bucket=b&precision=s", text).await;
    assert!(
        other.body["message"].as_str().expect("message").contains("nothing is declared for the measurement 'made'"),
        "{}",
        other.body
    );
    for _ in 0..2 {
        assert_eq!(city.post(Some(key("fehd", "admin")), path, text).await.status, StatusCode::NO_CONTENT);
    }
    let at = |second: u8| format!("1970-01-01T00:00:0{second}Z");
    assert_eq!(city.series("made-tai-o.v").await, [(at(1), json!(1.5)), (at(2), json!(2.0))]);
    assert_eq!(city.series("made-cheung-chau.v").await, [(at(1), json!(3.0))]);
    // Now that it is there, whoever may observe may add to it.
    assert_eq!(
        city.post(Some(key("fehd", "operator")), path, "made,id=Tai\\ O v=4 3").await.status,
        StatusCode::NO_CONTENT
    );
}

#[test]
fn declarations_are_checked() {
    let wrong = |text: &str| {
        let file: IngestFile = toml::from_str(text).expect("TOML");
        let problem = super::declaration::check_all(file).expect_err("mistakes");
        problem.errors.into_iter().map(|e| e.field).collect::<Vec<_>>()
    };
    let head = "key = \"k\"\ntenant = \"t\"\nname = { en = \"n\" }\n";
    assert_eq!(
        wrong(&format!(
            "[[lorawan]]\n{head}devices = {{ 24E1 = \"X\" }}\n[[lorawan.value]]\nfield = \"$loud\"\ndatastream = \"{{x\"\nscale = 0\n"
        )),
        [
            "/lorawan/k/devices/24E1",
            "/lorawan/k/devices/24E1",
            "/lorawan/k/value/0/scale",
            "/lorawan/k/value/0/field",
            "/lorawan/k/value/0/datastream"
        ]
    );
    assert_eq!(
        wrong(&format!(
            "[[line]]\n{head}measurement = \"\"\n[[line.value]]\nfield = \"a\"\ndatastream = \"{{b|c}}\"\n[line.value.shape]\nname = \"n\"\nobserved_property = \"o\"\nsensor = \"s\"\nobservation_type = \"Geometry\"\n"
        )),
        ["/line/k/measurement", "/line/k/value/0/datastream", "/line/k/value/0/shape"]
    );
    let unknown =
        format!("[[line]]\n{head}measurement = \"m\"\n[[line.value]]\nfield = \"a\"\ndatastream = \"b\"\nscael = 2\n");
    assert!(toml::from_str::<IngestFile>(&unknown).is_err(), "a misspelt key is found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_tried_first_and_then_recorded() {
    let city = City::open().await;
    let fill = city.id("thing.fill").await.expect("a Datastream");
    let post = |query: String, body: Vec<u8>| {
        city.post(Some(key("fehd", "operator")), Box::leak(format!("/api/ingest/csv?{query}").into_boxed_str()), body)
    };
    // A wide table of a Thing, as a spreadsheet saves it: Big5, semicolons, decimal commas, notes above, holes and words.
    let mut table = b"\xab\x42\xb6\x71\n\ndate;thing.fill;Temperature (\xa2\x4a);lid;notes\n".to_vec();
    table.extend(b"22/11/2026 08:00;1,5;N.A.;open;\n22/11/2026 09:00;Trace;20;;x\n13/11/2026 09:00;-0,25;***;closed;\n22/11/2026 10:00;high;21;open;\n32/11/2026 10:00;1;21;open;\n");
    let table = table.clone();
    let query = "thing=1&delimiter=;&format=%25d/%25m/%25Y%20%25H:%25M";
    let tried = post(query.to_owned(), table.clone()).await;
    assert_eq!((tried.status, &tried.body["committed"]), (StatusCode::OK, &json!(false)), "{}", tried.body);
    assert_eq!(city.observe.stats().observations, 0, "a dry run records nothing");
    let guess = &tried.body["guess"];
    assert_eq!(
        (&guess["encoding"], &guess["decimal"], &guess["header"], &guess["time"]),
        (&json!("big5"), &json!(","), &json!(3), &json!("date"))
    );
    let columns: Vec<&str> =
        tried.body["columns"].as_array().expect("columns").iter().filter_map(|c| c["name"].as_str()).collect();
    assert_eq!(columns, ["thing.fill", "thing.temperature", "thing.lid"]);
    let report = &tried.body["report"];
    assert_eq!(
        (&report["rows"], &report["written"], &report["rejected"], &report["rowsRejected"], &report["rows_rejected"]),
        (&json!(5), &json!(10), &json!(1), &Value::Null, &json!(1))
    );
    let told = &report["examples"];
    assert_eq!(
        (&told[0]["line"], &told[1]["field"], &told[1]["text"]),
        (&json!(8), &json!("thing.fill"), &json!("high")),
        "{told}"
    );
    for (times, written, unchanged) in [(1, 10, 0), (2, 0, 10)] {
        let done = post(format!("{query}&commit=true"), table.clone()).await;
        assert_eq!(
            (&done.body["report"]["written"], &done.body["report"]["unchanged"]),
            (&json!(written), &json!(unchanged)),
            "time {times}: {}",
            done.body
        );
    }
    assert_eq!(
        city.series("thing.fill").await,
        [
            ("2026-11-13T01:00:00Z".to_owned(), json!(-0.25)),
            ("2026-11-22T00:00:00Z".to_owned(), json!(1.5)),
            ("2026-11-22T01:00:00Z".to_owned(), Value::Null),
        ]
    );
    let rows = city.observe.read(SeriesQuery { limit: 10, ..SeriesQuery::all(fill) }).await.expect("rows");
    assert_eq!(rows[2].quality.as_ref().map(|q| q.get()), Some(r#"{"code":"trace"}"#));
    let audit =
        city.catalog.records().audit(records::AuditQuery { limit: 10, ..Default::default() }).await.expect("audit");
    assert_eq!(audit.rows.iter().filter(|row| row.action == "observations:upload").count(), 2);
    // One Datastream, and a column that says how good it is.
    let long = "time,value,quality\n2026-11-23T00:00:00Z,7,C\n2026-11-23T01:00:00Z,8,suspect\n";
    let done = post(format!("datastream={fill}&commit=true"), long.into()).await;
    assert_eq!(
        (&done.body["report"]["written"], &done.body["report"]["flagged"]),
        (&json!(2), &json!(1)),
        "{}",
        done.body
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_may_not_or_cannot_be_taken_changes_nothing() {
    let city = City::open().await;
    let fill = city.id("thing.fill").await.expect("a Datastream");
    let table = "time,value\n2026-11-23T00:00:00Z,7\n";
    let path: &str = &format!("/api/ingest/csv?commit=true&datastream={fill}");
    let status = |caller: Option<Caller>| async { city.post(caller, path, table).await.status };
    assert_eq!(status(None).await, StatusCode::UNAUTHORIZED);
    assert_eq!(status(Some(key("fehd", "reader"))).await, StatusCode::FORBIDDEN);
    assert_eq!(status(Some(key("dsd", "admin"))).await, StatusCode::NOT_FOUND);
    for (query, body, field) in [
        ("commit=true", table, "datastream"),
        ("commit=true&thing=1", "time,nothing\n2026-11-23,1\n", "columns"),
        ("commit=true&thing=1&time=when", table, "time"),
        ("commit=true&thing=1", "one column\n1\n", "delimiter"),
        ("commit=true&thing=1&zone=Mars", "time,lid\n2026-11-23,open\n", "/time/zone"),
        ("commit=true&thing=1&decimal=x", "time,lid\n2026-11-23,open\n", "/decimal"),
    ] {
        let answer = city.post(Some(key("fehd", "operator")), &format!("/api/ingest/csv?{query}"), body).await;
        assert_eq!(
            (answer.status, answer.body["errors"][0]["field"].as_str()),
            (StatusCode::BAD_REQUEST, Some(field)),
            "{query} {}",
            answer.body
        );
    }
    assert_eq!(city.observe.stats().observations, 0);
    assert_eq!(
        city.catalog
            .records()
            .audit(records::AuditQuery { limit: 10, ..Default::default() })
            .await
            .expect("audit")
            .rows
            .iter()
            .filter(|r| r.action == "observations:upload")
            .count(),
        0
    );
}
