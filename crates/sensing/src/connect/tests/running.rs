//! Whole runs: a publisher that answers over HTTP, and real stores.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::{Path as UrlPath, State},
    http::{HeaderMap, Request, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use kernel::{
    Action, Caller, Clock, Decision, FixedClock, Policy, Principal, Resource, SystemClock, Tenant, Timestamp,
};
use lake::{Lake, Root};
use parking_lot::Mutex;
use serde_json::json;
use stream::{Stream, TopicOptions};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::pack;
use crate::{
    Catalog,
    connect::{Allowed, Connect, ConnectorFile, Health, Options, View, api, declaration::Declaration, report::Report},
    model::{EntityId, EntityType},
    observe::{self, Observe},
};

/// Everybody acts for their own tenant; `reader` may only read.
struct Own;
impl Policy for Own {
    fn decide(&self, caller: &Caller, action: Action, resource: &Resource<'_>) -> Decision {
        let own = caller.tenant.is_some() && caller.tenant.as_ref() == resource.tenant;
        if own && (action.0.ends_with(":read") || !caller.has_role("reader")) {
            Decision::Allow
        } else {
            Decision::Deny
        }
    }
}

fn person(tenant: &str, role: &'static str) -> Caller {
    let principal = Principal::Person { id: "p1".into(), name: "P".into() };
    Caller { principal, tenant: Some(Tenant::parse(tenant).expect("slug")), roles: [role.into()].into() }
}

pub(super) struct City {
    pub(super) clock: Arc<FixedClock>,
    catalog: Catalog,
    pub(super) observe: Observe,
    connect: Connect,
    _folder: tempfile::TempDir,
}

impl City {
    pub(super) async fn open(change: impl FnOnce(&mut Options, &Path)) -> Self {
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
        let mut options = Options::new(folder.path().to_owned());
        change(&mut options, folder.path());
        let connect = Connect::open(options, catalog.clone(), observe.clone()).expect("connect");
        Self { clock, catalog, observe, connect, _folder: folder }
    }

    pub(super) async fn datastreams(&self, tenant: &str, keys: &[String]) -> Vec<EntityId> {
        let tenant = Tenant::parse(tenant).expect("slug");
        let caller = Caller::system("test");
        let named = |name: &str| json!({"name": name, "description": name});
        let with = |name: &str, more: serde_json::Value| {
            let mut body = named(name);
            body.as_object_mut().expect("object").extend(more.as_object().expect("object").clone());
            body
        };
        let put = |entity, key: &'static str, body| self.catalog.upsert(&caller, entity, &tenant, key, body);
        put(EntityType::Thing, "thing", named("thing")).await.expect("thing");
        put(
            EntityType::Sensor,
            "sensor",
            with("sensor", json!({"encodingType": "text/html", "metadata": "https://example.org"})),
        )
        .await
        .expect("sensor");
        put(EntityType::ObservedProperty, "property", with("property", json!({"definition": "https://example.org/p"})))
            .await
            .expect("property");
        let mut ids = Vec::new();
        for key in keys {
            let body = with(
                key,
                json!({
                    "observationType": "http://www.opengis.net/def/observationType/OGC-OM/2.0/OM_Measurement",
                    "unitOfMeasurement": {"name": "millimetre", "symbol": "mm", "definition": "ucum:mm"},
                    "Thing": {"@iot.key": "thing"}, "Sensor": {"@iot.key": "sensor"}, "ObservedProperty": {"@iot.key": "property"},
                }),
            );
            ids.push(
                self.catalog.upsert(&caller, EntityType::Datastream, &tenant, key, body).await.expect("datastream"),
            );
        }
        ids
    }

    pub(super) async fn apply(&self, declarations: Vec<Declaration>) {
        self.connect.apply(&Caller::system("pack"), declarations).await.expect("applied");
    }

    /// Lets everything that is due run, an interval later.
    pub(super) async fn poll(&self, key: &str) -> View {
        self.clock.advance_micros(600_000_000);
        assert_eq!(self.connect.run_due().await.expect("runs"), 1);
        self.view(key).await
    }

    pub(super) async fn view(&self, key: &str) -> View {
        self.connect.connector(&Caller::system("test"), key).await.expect("connector")
    }
}

fn of(view: View) -> Report {
    assert_eq!(view.error, None);
    let report = view.report.expect("a report");
    assert!(report.balances(), "{report:?}");
    report
}

/// A publisher: one document with an entity tag, and some misbehaviour.
#[derive(Default)]
struct Publisher {
    body: Mutex<Bytes>,
    asked: AtomicU64,
    unchanged: AtomicU64,
    port: AtomicU64,
}

impl Publisher {
    async fn start() -> Arc<Self> {
        let publisher = Arc::new(Self::default());
        let router = Router::new().route("/{what}", get(answer)).with_state(publisher.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listens");
        publisher.port.store(u64::from(listener.local_addr().expect("address").port()), SeqCst);
        tokio::spawn(async move { axum::serve(listener, router).await });
        publisher
    }
    fn place(&self) -> String {
        format!("127.0.0.1:{}", self.port.load(SeqCst))
    }
    fn url(&self, what: &str) -> String {
        format!("http://{}/{what}", self.place())
    }
    fn publish(&self, body: impl Into<Bytes>) {
        *self.body.lock() = body.into();
    }
}

async fn answer(
    State(publisher): State<Arc<Publisher>>,
    UrlPath(what): UrlPath<String>,
    headers: HeaderMap,
) -> Response {
    publisher.asked.fetch_add(1, SeqCst);
    let body = publisher.body.lock().clone();
    let etag = format!("\"{}\"", crc32fast::hash(&body));
    let location = |to: String| (StatusCode::FOUND, [(header::LOCATION, to)]).into_response();
    match what.as_str() {
        "feed.csv" if headers.get(header::IF_NONE_MATCH).is_some_and(|h| h.as_bytes() == etag.as_bytes()) => {
            publisher.unchanged.fetch_add(1, SeqCst);
            StatusCode::NOT_MODIFIED.into_response()
        }
        "feed.csv" => ([(header::ETAG, etag)], body).into_response(),
        "plain.csv" => body.into_response(),
        "moved" => location("/feed.csv".to_owned()),
        "round" => location("/round".to_owned()),
        "inside" => location(format!("http://localhost:{}/feed.csv", publisher.port.load(SeqCst))),
        "busy" => (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "900")]).into_response(),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

pub(super) fn declaration(text: &str) -> Declaration {
    toml::from_str::<ConnectorFile>(text).expect("valid").connector.remove(0)
}

fn simple(source: &str) -> Declaration {
    declaration(&format!(
        r#"
[[connector]]
key = "feed"
tenant = "hko"
name = {{ en = "Feed", zh-hant = "資料", zh-hans = "数据" }}
every = "PT10M"
source = {{ {source}, format = "csv", header = "t" }}
time = {{ fields = ["t"] }}
value = [{{ field = "v", datastream = "rain" }}]
"#
    ))
}

async fn city_with(publisher: &Publisher) -> City {
    let place = publisher.place();
    City::open(|options, _| options.allowed = Allowed::new([place])).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_record_is_written_once_and_then_only_what_changes() {
    let publisher = Publisher::start().await;
    let text = std::fs::read_to_string(pack().join("data/hko-daily-rainfall.csv")).expect("file");
    publisher.publish(text.clone());
    let city = city_with(&publisher).await;
    let rain = city.datastreams("hko", &["hko-record.daily-rainfall".to_owned()]).await[0];
    let packed = std::fs::read_to_string(pack().join("connectors/weather.toml")).expect("file");
    let mut connector = declaration(&packed);
    connector.source.url = Some(publisher.url("feed.csv"));
    city.apply(vec![connector.clone()]).await;

    let report = of(city.poll("hko-daily-rainfall").await);
    assert_eq!((report.rows, report.rows_skipped, report.rows_rejected), (49_039, 4, 1));
    assert_eq!((report.values, report.gaps, report.written), (49_034, 2_557, 51_591));
    assert_eq!((report.unchanged, report.rejected, report.flagged), (0, 0, 6_876 + 2_557));
    assert_eq!(city.observe.count(rain).await.expect("count"), 51_591);
    assert_eq!(
        city.view("hko-daily-rainfall").await.health,
        Health::Rejecting,
        "a day that never was stands in the file"
    );

    // Nothing is read again while the publisher says that nothing has changed.
    let before = city.view("hko-daily-rainfall").await;
    let after = city.poll("hko-daily-rainfall").await;
    assert_eq!((publisher.asked.load(SeqCst), publisher.unchanged.load(SeqCst)), (2, 1));
    assert_eq!((after.changed_at, &after.report), (before.changed_at, &before.report));
    assert!(after.succeeded_at > before.succeeded_at);

    // One value corrected and one day added: two Observations, with all of the rest in the lake.
    city.observe.seal().await.expect("sealed");
    publisher.publish(
        text.replace("1884,3,7,50.6,C", "1884,3,7,50.7,C")
            .replace("2025,5,31,Trace,C\n", "2025,5,31,Trace,C\n2025,6,1,12.5,#\n"),
    );
    let report = of(city.poll("hko-daily-rainfall").await);
    assert_eq!((report.written, report.unchanged, report.gaps), (2, 51_590, 2_557));
    let latest = city.observe.head(rain).expect("head").latest;
    assert_eq!(
        (latest.result.number(), latest.quality.expect("quality").get()),
        (Some(12.5), r#"{"code":"incomplete"}"#)
    );

    // An operator's run reads everything, and finds it as it is.
    let view = city.connect.run_now(&person("hko", "operator"), "hko-daily-rainfall").await.expect("allowed");
    assert_eq!(view.next_run, Some(city.clock.now()));
    assert_eq!(city.connect.run_due().await.expect("runs"), 1);
    assert_eq!(of(city.view("hko-daily-rainfall").await).written, 0);
    assert_eq!(publisher.unchanged.load(SeqCst), 1);

    // So does a changed declaration.
    connector.placeholders.get_mut("Trace").expect("declared").value = Some(0.0);
    city.apply(vec![connector]).await;
    assert_eq!(city.connect.run_due().await.expect("runs"), 1);
    assert_eq!(of(city.view("hko-daily-rainfall").await).written, 6_876);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wide_rows_go_to_many_datastreams() {
    let publisher = Publisher::start().await;
    let text = std::fs::read_to_string(pack().join("data/epd-air-quality-daily-2017-2024.csv")).expect("file");
    publisher.publish(text.lines().take(14 + 70).collect::<Vec<_>>().join("\n"));
    let city = city_with(&publisher).await;
    let packed = std::fs::read_to_string(pack().join("connectors/air.toml")).expect("file");
    let mut connector = declaration(&packed);
    let keys: Vec<String> = connector.tables["station"]
        .values()
        .flat_map(|s| connector.tables["pollutant"].values().map(move |p| format!("air-{s}.daily-{p}")))
        .collect();
    assert_eq!(keys.len(), 126);
    // One Datastream does not exist yet.
    city.datastreams("epd", &keys[1..]).await;
    connector.source.url = Some(publisher.url("feed.csv"));
    city.apply(vec![connector]).await;
    let report = of(city.poll("epd-daily-air").await);
    assert_eq!((report.values, report.written, report.rejected), (70 * 18, 70 * 18 - 10, 10));
    assert_eq!(report.examples[0].text, keys[0]);
    // What was refused comes again, although the publisher has changed nothing.
    city.datastreams("epd", &keys[..1]).await;
    let report = of(city.poll("epd-daily-air").await);
    assert_eq!((report.written, report.unchanged), (10, 70 * 18 - 10));
    assert_eq!(publisher.unchanged.load(SeqCst), 0);
    city.poll("epd-daily-air").await;
    assert_eq!(publisher.unchanged.load(SeqCst), 1);
}

#[tokio::test]
async fn failures_are_told_and_tried_again_later() {
    let publisher = Publisher::start().await;
    publisher.publish("t,v\n2024-01-01T00:00:00Z,1\n2024-01-01T00:00:00Z,2\n");
    let city = city_with(&publisher).await;
    let rain = city.datastreams("hko", &["rain".to_owned()]).await[0];
    let wait = |view: &View, city: &City| view.next_run.expect("enabled").micros_since(city.clock.now()) / 1_000_000;
    city.apply(vec![simple(&format!("url = \"{}\"", publisher.url("nothing?token=secret")))]).await;
    let view = city.poll("feed").await;
    assert_eq!(
        (view.health, view.failures, view.error.as_deref()),
        (Health::Failing, 1, Some("the publisher answered 404"))
    );
    assert_eq!(wait(&view, &city), 30);
    assert!(!view.source.contains("secret"));
    assert_eq!(wait(&city.poll("feed").await, &city), 60);
    let told = async |what: &str| {
        city.apply(vec![simple(&format!("url = \"{}\"", publisher.url(what)))]).await;
        city.poll("feed").await
    };
    let busy = told("busy").await;
    assert_eq!((wait(&busy, &city), busy.failures), (900, 1));
    city.clock.advance_micros(900_000_000);
    assert!(told("round").await.error.expect("fails").contains("redirects"));
    // A listed publisher's redirect to a name that is not listed does not lead inside.
    assert!(told("inside").await.error.expect("fails").contains("internal network"));
    let moved = told("moved").await;
    assert_eq!((moved.error.as_deref(), moved.failures, moved.health), (None, 0, Health::Ok));
    let report = of(moved);
    assert_eq!((report.values, report.written, report.repeated), (2, 1, 1));
    assert_eq!(city.observe.head(rain).expect("head").latest.result.number(), Some(2.0), "the later row stands");
    // The same bytes without an entity tag are known by their hash.
    let plain = told("plain.csv").await;
    assert_eq!(of(plain.clone()).unchanged, 1);
    assert_eq!(city.poll("feed").await.changed_at, plain.changed_at);
    city.clock.advance_micros(3_600_000_000);
    assert_eq!(city.view("feed").await.health, Health::Late);
}

#[tokio::test]
async fn nothing_inside_is_polled_that_is_not_listed() {
    let publisher = Publisher::start().await;
    publisher.publish("t,v\n");
    let city = City::open(|_, _| ()).await;
    city.apply(vec![simple(&format!("url = \"{}\"", publisher.url("feed.csv")))]).await;
    assert!(city.poll("feed").await.error.expect("fails").contains("internal network"));
    city.apply(vec![simple(&format!("url = \"http://localhost.:{}/feed.csv\"", publisher.port.load(SeqCst)))]).await;
    assert!(city.poll("feed").await.error.is_some());
    assert_eq!(publisher.asked.load(SeqCst), 0, "no request was made");
}

#[tokio::test]
async fn documents_have_a_limit() {
    let publisher = Publisher::start().await;
    publisher.publish(vec![b' '; 2_000]);
    let place = publisher.place();
    let city = City::open(|options, _| {
        options.allowed = Allowed::new([place]);
        options.max_bytes = 1_999;
    })
    .await;
    city.apply(vec![simple(&format!("url = \"{}\"", publisher.url("feed.csv")))]).await;
    assert!(city.poll("feed").await.error.expect("fails").contains("larger than 1999 bytes"));
}

#[tokio::test]
async fn a_folder_gives_its_new_files() {
    let drop = tempfile::tempdir().expect("folder");
    let inbox = drop.path().join("inbox");
    std::fs::create_dir(&inbox).expect("folder");
    let put = |name: &str, text: &str| std::fs::write(inbox.join(name), text).expect("written");
    put("rain-1.csv", "t,v\n2024-01-01T00:00:00Z,1\n");
    put("rain-2.csv.part", "t,v\n2024-01-01T00:00:00Z,9\n");
    put("notes.txt", "nothing");
    let city = City::open(|options, _| options.folders = vec![drop.path().to_owned()]).await;
    let rain = city.datastreams("hko", &["rain".to_owned()]).await[0];
    let source = |folder: &str| simple(&format!("folder = \"{folder}\", pattern = \"rain-*.csv\""));
    city.apply(vec![source(inbox.to_str().expect("path"))]).await;
    assert_eq!(of(city.poll("feed").await).written, 1);
    put("rain-2.csv", "t,v\n2024-01-01T01:00:00Z,2\n");
    let report = of(city.poll("feed").await);
    assert_eq!((report.rows, report.written), (1, 1), "the first file is not read again");
    put("rain-1.csv", "t,v\n2024-01-01T00:00:00Z,1\n2024-01-01T02:00:00Z,3\n");
    let report = of(city.poll("feed").await);
    assert_eq!((report.rows, report.written, report.unchanged), (2, 1, 1));
    assert_eq!(city.observe.count(rain).await.expect("count"), 3);
    // Outside of what is open to connectors, also through a link.
    std::os::unix::fs::symlink("/etc", drop.path().join("link")).expect("link");
    for outside in ["/etc".to_owned(), drop.path().join("link").display().to_string(), "../..".to_owned()] {
        city.apply(vec![source(&outside)]).await;
        let error = city.poll("feed").await.error.expect("fails");
        assert!(error.contains("lies outside"), "{error}");
    }
}

#[tokio::test]
async fn applying_is_idempotent_audited_and_guarded() {
    let city = City::open(|_, _| ()).await;
    let one = simple("url = \"https://example.org/a.csv\"");
    let two = Declaration {
        key: "other".to_owned(),
        tenant: Tenant::parse("epd").expect("slug"),
        enabled: false,
        ..one.clone()
    };
    let system = Caller::system("pack");
    let applied = city.connect.apply(&system, vec![one.clone(), two.clone()]).await.expect("applied");
    assert_eq!((applied.written, applied.removed, applied.unchanged), (2, 0, 0));
    let again = city.connect.apply(&system, vec![one.clone(), two.clone()]).await.expect("applied");
    assert_eq!((again.written, again.removed, again.unchanged), (0, 0, 2));
    assert!(
        city.connect.apply(&person("hko", "operator"), vec![one.clone()]).await.is_err(),
        "it would remove another tenant's"
    );
    let keys = |views: Vec<View>| views.into_iter().map(|v| v.key).collect::<Vec<_>>();
    assert_eq!(keys(city.connect.connectors(&person("hko", "reader")).await.expect("list")), ["feed"]);
    assert!(city.connect.connector(&person("hko", "reader"), "other").await.is_err());
    assert!(city.connect.run_now(&person("hko", "reader"), "feed").await.is_err());
    assert!(city.connect.run_now(&system, "other").await.is_err(), "it is disabled");
    assert_eq!(city.view("other").await.health, Health::Disabled);
    let removed = city.connect.apply(&system, vec![one]).await.expect("applied");
    assert_eq!((removed.written, removed.removed, removed.unchanged), (0, 1, 1));
}

#[tokio::test]
async fn the_api_asks_who_is_there() {
    let city = City::open(|_, _| ()).await;
    city.apply(vec![simple("url = \"https://example.org/a.csv\"")]).await;
    let call = async |method: &str, path: &str, caller: Option<Caller>| {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(caller) = caller {
            request = request.extension(caller);
        }
        let request = request.body(axum::body::Body::empty()).expect("request");
        let response = api::router(city.connect.clone()).oneshot(request).await.expect("answer");
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.expect("body");
        (status, serde_json::from_slice::<serde_json::Value>(&body).expect("JSON"))
    };
    for route in api::ROUTES {
        assert_eq!(call(route.method, &route.path.replace("{key}", "feed"), None).await.0, 401, "{}", route.path);
    }
    let reader = || Some(person("hko", "reader"));
    assert_eq!(call("GET", "/api/connectors", reader()).await.1["value"][0]["health"], "new");
    assert_eq!(call("GET", "/api/connectors/feed", reader()).await.0, 200);
    assert_eq!(call("GET", "/api/connectors/feed", Some(person("epd", "operator"))).await.0, 404);
    assert_eq!(call("POST", "/api/connectors/feed/run", Some(person("epd", "operator"))).await.0, 404);
    assert_eq!(call("POST", "/api/connectors/feed/run", reader()).await.0, 403);
    assert_eq!(call("POST", "/api/connectors/feed/run", Some(person("hko", "operator"))).await.0, 202);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_scheduler_runs_what_is_due_and_stops() {
    let publisher = Publisher::start().await;
    publisher.publish("t,v\n2024-01-01T00:00:00Z,1\n");
    let city = city_with(&publisher).await;
    let rain = city.datastreams("hko", &["rain".to_owned()]).await[0];
    let shutdown = CancellationToken::new();
    let scheduler = tokio::spawn(city.connect.clone().run(shutdown.clone()));
    let mut applied = city.observe.subscribe();
    city.apply(vec![simple(&format!("url = \"{}\"", publisher.url("feed.csv")))]).await;
    // Applying wakes it; the Observation's arrival is what is waited for.
    tokio::time::timeout(Duration::from_secs(60), applied.recv()).await.expect("in time").expect("applied");
    assert_eq!(
        city.observe.head(rain).expect("head").latest.phenomenon.start,
        "2024-01-01T00:00:00Z".parse::<Timestamp>().expect("time")
    );
    shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(60), scheduler).await.expect("stops").expect("without a panic");
}
