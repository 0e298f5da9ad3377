//! Declarations on real stores: what waits, what is confirmed, what goes, and what is kept whatever is declared.

use std::{sync::Arc, time::Duration};

use axum::{Router, body::Body};
use http::{Request, StatusCode, header};
use kernel::{
    Action, Caller, Clock, Decision, FixedClock, Policy, Principal, Resource, SystemClock, Tenant, Timestamp,
};
use lake::{Lake, Root};
use records::AuditQuery;
use serde_json::{Value, json};
use stream::{Stream, TopicOptions};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::*;
use crate::observe::{self, Batch, Run as Rows, SeriesQuery};

/// Everybody acts for their own tenant; a `viewer` may only read.
struct Own;
impl Policy for Own {
    fn decide(&self, caller: &Caller, action: Action, resource: &Resource<'_>) -> Decision {
        let own = caller.tenant.is_some() && caller.tenant.as_ref() == resource.tenant;
        let reads = action.0 == "sensing:read" && (own || resource.public);
        if reads || (own && !caller.has_role("viewer")) { Decision::Allow } else { Decision::Deny }
    }
}

fn tenant(slug: &str) -> Tenant {
    Tenant::parse(slug).expect("slug")
}

fn person(slug: &str, role: &'static str) -> Caller {
    let principal = Principal::Person { id: "p1".into(), name: "P".into() };
    Caller { principal, tenant: Some(tenant(slug)), roles: [role.into()].into() }
}

fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

const NOW: &str = "2026-11-15T12:00:00Z";
/// Ten-second values of this day are older than thirteen months.
const OLD: &str = "2025-09-10T00:00:00Z";
const YOUNG: &str = "2026-11-14T00:00:00Z";

struct City {
    catalog: Catalog,
    observe: Observe,
    retention: Retention,
    clock: Arc<FixedClock>,
    stop: CancellationToken,
    _folder: tempfile::TempDir,
    _stream: Stream,
}

impl City {
    async fn open() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let clock = Arc::new(FixedClock::at(at(NOW)));
        let shared: Arc<dyn Clock> = clock.clone();
        let records = crate::test_records::open(folder.path(), shared.clone());
        let catalog = Catalog::open(records, Arc::new(Own), shared).expect("catalogue");
        let topic = TopicOptions::new("observations").guarded();
        let stream = Stream::open(stream::Options::local(folder.path().join("stream"), [topic]), Arc::new(SystemClock))
            .await
            .expect("stream");
        let lake = Lake::open(lake::Options::new(Root::Local(folder.path().join("lake")))).expect("lake");
        let tuned = observe::Options {
            seal_every: Duration::from_secs(3_600),
            ..observe::Options::new(folder.path().join("heads"))
        };
        let observe = Observe::open(tuned, stream.topic("observations").expect("topic"), &lake).await.expect("observe");
        let retention = Retention::open(catalog.clone(), observe.clone(), TimeZone::UTC).expect("retention");
        let stop = CancellationToken::new();
        let (worker, until) = (retention.clone(), stop.clone());
        tokio::spawn(async move { worker.work(until.cancelled_owned()).await });
        Self { catalog, observe, retention, clock, stop, _folder: folder, _stream: stream }
    }

    /// A Datastream of a Thing of a system.
    async fn datastream(&self, owner: &str, key: &str, system: &str, properties: Value) -> EntityId {
        let (caller, tenant) = (Caller::system("test"), tenant(owner));
        let put = |entity, key: String, body: Value| {
            let (catalog, caller, tenant) = (self.catalog.clone(), caller.clone(), tenant.clone());
            async move { catalog.upsert(&caller, entity, &tenant, &key, body).await.expect("an entity") }
        };
        let thing = put(
            EntityType::Thing,
            key.to_owned(),
            json!({"name": key, "description": "d", "properties": {"system": system}}),
        )
        .await;
        let sensor = put(
            EntityType::Sensor,
            "gauge".to_owned(),
            json!({"name": "g", "description": "d", "encodingType": "text/html", "metadata": "https://example.org"}),
        )
        .await;
        let property = put(
            EntityType::ObservedProperty,
            "level".to_owned(),
            json!({"name": "l", "description": "d", "definition": "https://example.org/level"}),
        )
        .await;
        put(
            EntityType::Datastream,
            format!("{key}.level"),
            json!({
                "name": key, "description": "d", "properties": properties,
                "observationType": "http://www.opengis.net/def/observationType/OGC-OM/2.0/OM_Measurement",
                "unitOfMeasurement": {"name": "metre", "symbol": "m", "definition": "ucum:m"},
                "Thing": {"@iot.id": thing.0}, "Sensor": {"@iot.id": sensor.0}, "ObservedProperty": {"@iot.id": property.0},
            }),
        )
        .await
    }

    /// A value every ten seconds for two hours.
    async fn observed(&self, id: EntityId, from: &str) {
        let mut rows = Rows::new(id, EntityId(900));
        for i in 0..720 {
            rows.push_number(at(from).plus_secs(i * 10), (i % 60) as f64);
        }
        let mut batch = Batch::new();
        batch.push_run(rows);
        self.observe.record(batch).await.expect("recorded");
    }

    async fn rows(&self, id: EntityId) -> usize {
        self.observe.read(SeriesQuery::all(id)).await.expect("rows").len()
    }

    async fn declare(&self, keep: &str) {
        let text = format!(
            r#"[[retention]]
            key = "levels"
            tenant = "dsd"
            name = {{ en = "Levels", zh-hant = "水位", zh-hans = "水位" }}
            systems = ["flood"]
            keep = [{keep}]"#
        );
        let file: model::RetentionFile = toml::from_str(&text).expect("TOML");
        self.retention.apply(&Caller::system("pack"), file.retention).await.expect("applied");
    }

    async fn ask(&self, who: &Caller, method: &str, path: &str, body: Value) -> (StatusCode, Value) {
        let router: Router = api::router(self.retention.clone());
        let request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, "application/json");
        let mut request = request.body(Body::from(body.to_string())).expect("request");
        request.extensions_mut().insert(who.clone());
        let answer = router.oneshot(request).await.expect("answer");
        let status = answer.status();
        let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.expect("body");
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    /// Asks what would go, waits until that is known, and gives the run.
    async fn preview(&self, who: &Caller) -> Value {
        let (status, run) = self.ask(who, "POST", "/api/retention/levels/preview", json!({})).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{run}");
        let path = format!("/api/retention/runs/{}", run["id"].as_str().expect("id"));
        for _ in 0..2_000 {
            let (_, run) = self.ask(who, "GET", &path, Value::Null).await;
            if run["state"] == "done" {
                return run;
            }
            assert_ne!(run["state"], "failed", "{run}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the preview does not end");
    }

    async fn confirm(&self, who: &Caller, run: &Value) -> (StatusCode, Value) {
        self.ask(who, "POST", "/api/retention/levels/confirm", json!({"preview": run["id"]})).await
    }

    async fn view(&self) -> Value {
        self.ask(&person("dsd", "manager"), "GET", "/api/retention/levels", Value::Null).await.1
    }

    async fn audited(&self) -> Vec<String> {
        let query = AuditQuery { tenant: Some(tenant("dsd")), limit: 100, ..AuditQuery::default() };
        let page = self.catalog.records().audit(query).await.expect("audit");
        page.rows.into_iter().rev().map(|row| row.action).filter(|a| a.starts_with("retention:")).collect()
    }
}

impl Drop for City {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

const YEAR: &str = r#"{ for = "13mo", as = "raw" }, { for = "5y", as = "10m" }, { as = "1h" }"#;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_goes_before_somebody_has_seen_and_said_so() {
    let city = City::open().await;
    let officer = person("dsd", "manager");
    let level = city.datastream("dsd", "gauge", "flood", json!({})).await;
    let other = city.datastream("dsd", "lamp", "light", json!({})).await;
    for id in [level, other] {
        city.observed(id, OLD).await;
        city.observed(id, YOUNG).await;
    }
    city.declare(YEAR).await;
    assert!(city.retention.sweep_now().await.expect("swept").is_empty(), "nothing is confirmed");
    assert_eq!(city.rows(level).await, 1_440);
    assert_eq!(
        (city.view().await["waits"].clone(), city.view().await["confirmed"].clone()),
        (json!(true), Value::Null)
    );

    let run = city.preview(&officer).await;
    let report = &run["report"];
    assert_eq!((&report["summed"], &report["sums"], &report["gone"]), (&json!(720), &json!(12), &json!(0)), "{report}");
    assert_eq!(report["months"][0]["month"], "2025-09");
    assert_eq!(report["streams"][0]["datastream"], json!(level.0));
    assert!(report["bytes"].as_u64().is_some_and(|bytes| bytes > 0));
    assert_eq!(city.rows(level).await, 1_440, "looking changes nothing");

    let wrong = city.ask(&officer, "POST", "/api/retention/levels/confirm", json!({"preview": "x"})).await;
    assert_eq!((wrong.0, &wrong.1["errors"][0]["field"]), (StatusCode::BAD_REQUEST, &json!("/preview")));
    assert_eq!(city.confirm(&person("dsd", "viewer"), &run).await.0, StatusCode::FORBIDDEN);
    assert_eq!(city.confirm(&person("epd", "manager"), &run).await.0, StatusCode::NOT_FOUND);
    assert_eq!(city.confirm(&Caller::anonymous(), &run).await.0, StatusCode::UNAUTHORIZED);
    city.clock.advance_micros(2 * 86_400_000_000);
    assert_eq!(city.confirm(&officer, &run).await.0, StatusCode::CONFLICT, "seen too long ago");
    let run = city.preview(&officer).await;
    let (status, view) = city.confirm(&officer, &run).await;
    assert_eq!((status, &view["waits"]), (StatusCode::OK, &json!(false)), "{view}");
    // The sweep begins by itself; this one waits for it or does it.
    city.retention.sweep_now().await.expect("swept");
    assert_eq!((city.rows(level).await, city.rows(other).await), (732, 1_440));
    assert_eq!(city.observe.head(level).expect("head").count, 732);
    assert_eq!(
        city.retention.borders(level).await.expect("borders").last(),
        Some(&Border { until: at("2025-10-01T00:00:00Z"), interval: "PT10M".to_owned() })
    );
    let said = city.audited().await;
    assert_eq!(
        said,
        ["retention:declare", "retention:preview", "retention:preview", "retention:confirm", "retention:apply"]
    );
    let runs = city.view().await["runs"].clone();
    assert_eq!((&runs[0]["kind"], &runs[0]["report"]["summed"]), (&json!("applied"), &json!(720)), "{runs}");
    // Late, for a time that was summed up: merged in by the next sweep, and by no other after it.
    city.observed(level, "2025-09-10T01:00:05Z").await;
    city.retention.sweep_now().await.expect("swept");
    let found = city.observe.read(SeriesQuery::all(level)).await.expect("rows");
    assert_eq!(found.len(), 720 + 18, "three hours in ten minutes, and what is young");
    let counted = found.iter().filter(|o| o.is_summed()).map(|o| {
        let said: Value = serde_json::from_str(o.parameters.as_ref().expect("parameters").get()).expect("JSON");
        said["aggregate"]["count"].as_u64().expect("count")
    });
    assert_eq!(counted.sum::<u64>(), 1_440);
    assert!(city.retention.sweep_now().await.expect("swept")["levels"].is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_deletes_more_waits_and_what_keeps_more_does_not() {
    let city = City::open().await;
    let officer = person("dsd", "manager");
    let level = city.datastream("dsd", "gauge", "flood", json!({})).await;
    city.observed(level, OLD).await;
    city.observed(level, YOUNG).await;
    city.declare(r#"{ for = "2y", as = "raw" }, { as = "10m" }"#).await;
    let run = city.preview(&officer).await;
    assert_eq!(run["report"]["summed"], 0);
    assert_eq!(city.confirm(&officer, &run).await.0, StatusCode::OK);
    // Less is kept: what was confirmed holds on.
    city.declare(r#"{ for = "6mo", as = "raw" }"#).await;
    assert_eq!(city.confirm(&officer, &run).await.0, StatusCode::CONFLICT, "another declaration was seen");
    city.retention.sweep_now().await.expect("swept");
    assert_eq!(city.rows(level).await, 1_440);
    let view = city.view().await;
    assert_eq!((&view["waits"], &view["confirmed"]["keep"][0]["for"]), (&json!(true), &json!("2y")));
    // More is kept than was confirmed: at once.
    city.declare(r#"{ for = "9y", as = "raw" }, { as = "10m" }"#).await;
    let view = city.view().await;
    assert_eq!((&view["waits"], &view["confirmed"]["keep"][0]["for"]), (&json!(false), &json!("9y")));
    // A Datastream that comes under a declaration with something to lose waits; one that has nothing to lose does not.
    city.declare(r#"{ for = "6mo", as = "raw" }"#).await;
    let run = city.preview(&officer).await;
    assert_eq!(run["report"]["gone"], 720);
    assert_eq!(city.confirm(&officer, &run).await.0, StatusCode::OK);
    city.clock.advance_micros(1_000_000);
    let late = city.datastream("dsd", "late", "flood", json!({})).await;
    let fresh = city.datastream("dsd", "fresh", "flood", json!({})).await;
    city.observed(late, OLD).await;
    city.retention.sweep_now().await.expect("swept");
    city.observed(fresh, OLD).await;
    city.retention.sweep_now().await.expect("swept");
    assert_eq!((city.rows(level).await, city.rows(late).await), (720, 720));
    assert_eq!(city.observe.count(fresh).await.expect("count"), 0);
    assert!(city.observe.head(fresh).is_none(), "nothing is left, and the head says so");
    assert_eq!(city.view().await["waiting_datastreams"], 1);
    let run = city.preview(&officer).await;
    assert_eq!(city.confirm(&officer, &run).await.0, StatusCode::OK);
    city.retention.sweep_now().await.expect("swept");
    assert_eq!(city.rows(late).await, 0);
    // Withdrawn from the pack, it does nothing any more.
    city.observed(late, OLD).await;
    city.retention.apply(&Caller::system("pack"), Vec::new()).await.expect("applied");
    city.retention.sweep_now().await.expect("swept");
    assert_eq!(city.rows(late).await, 720);
    assert_eq!(city.ask(&officer, "POST", "/api/retention/levels/preview", json!({})).await.0, StatusCode::CONFLICT);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_keeps_whatever_is_declared() {
    let city = City::open().await;
    let officer = person("dsd", "manager");
    let held = city.datastream("dsd", "held", "flood", json!({})).await;
    let level = city.datastream("dsd", "gauge", "flood", json!({})).await;
    let forever = city.datastream("dsd", "museum", "flood", json!({"retention": "forever"})).await;
    let strange = city.datastream("epd", "air", "flood", json!({})).await;
    for id in [held, level, forever, strange] {
        city.observed(id, OLD).await;
    }
    city.declare(r#"{ for = "30d", as = "raw" }"#).await;
    for (body, field) in [
        (json!({"reason": " "}), "/reason"),
        (json!({"datastream": strange.0, "reason": "case 7"}), "/datastream"),
        (json!({"thing": 999_999, "reason": "case 7"}), "/thing"),
    ] {
        let (status, problem) = city.ask(&officer, "POST", "/api/retention/holds", body).await;
        assert_eq!((status, &problem["errors"][0]["field"]), (StatusCode::BAD_REQUEST, &json!(field)), "{problem}");
    }
    let wish = json!({"datastream": held.0, "reason": "case 7"});
    let denied = city.ask(&person("dsd", "viewer"), "POST", "/api/retention/holds", wish.clone()).await;
    assert_eq!(denied.0, StatusCode::FORBIDDEN);
    let (status, hold) = city.ask(&officer, "POST", "/api/retention/holds", wish).await;
    assert_eq!(status, StatusCode::CREATED, "{hold}");
    let run = city.preview(&officer).await;
    assert_eq!((&run["report"]["held"], &run["report"]["gone"]), (&json!(1), &json!(720)));
    assert_eq!(city.confirm(&officer, &run).await.0, StatusCode::OK);
    city.retention.sweep_now().await.expect("swept");
    assert_eq!((city.rows(held).await, city.rows(level).await), (720, 0));
    assert_eq!((city.rows(forever).await, city.rows(strange).await), (720, 720));
    let path = format!("/api/retention/holds/{}/lift", hold["id"].as_str().expect("id"));
    assert_eq!(city.ask(&officer, "POST", &path, json!({})).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(
        city.ask(&person("epd", "manager"), "POST", &path, json!({"reason": "x"})).await.0,
        StatusCode::NOT_FOUND
    );
    assert_eq!(city.ask(&officer, "POST", &path, json!({"reason": "the case is closed"})).await.0, StatusCode::OK);
    assert_eq!(city.ask(&officer, "POST", &path, json!({"reason": "again"})).await.0, StatusCode::CONFLICT);
    city.retention.sweep_now().await.expect("swept");
    assert_eq!(city.rows(held).await, 0);
    assert_eq!(city.rows(forever).await, 720);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_is_not_deleted_by_hand() {
    let city = City::open().await;
    let (officer, system) = (person("dsd", "manager"), Caller::system("test"));
    let held = city.datastream("dsd", "held", "flood", json!({})).await;
    let free = city.datastream("dsd", "gauge", "flood", json!({})).await;
    let info = city.catalog.datastream(held).await.expect("catalogue").expect("the Datastream");
    let (_, hold) =
        city.ask(&officer, "POST", "/api/retention/holds", json!({"datastream": held.0, "reason": "case 7"})).await;
    let id = hold["id"].as_str().expect("id").to_owned();
    let kept = |error: Error| {
        let problem = Problem::from(error);
        assert_eq!(problem.status, StatusCode::CONFLICT, "{problem:?}");
        assert!(problem.detail.contains(&id), "{problem:?}");
    };
    let delete = async |entity, id| city.catalog.delete(&system, entity, id).await;
    kept(delete(EntityType::Datastream, held).await.expect_err("held"));
    kept(delete(EntityType::Thing, info.thing).await.expect_err("its Thing"));
    let sensor = city.catalog.by_key(EntityType::Sensor, &tenant("dsd"), "gauge").await.expect("catalogue");
    kept(delete(EntityType::Sensor, sensor.expect("a Sensor")).await.expect_err("what it is measured by"));
    kept(city.catalog.unheld(&info).await.expect_err("its Observations"));
    let other = city.catalog.datastream(free).await.expect("catalogue").expect("the other");
    city.catalog.unheld(&other).await.expect("free");
    // Nor does it leave by going to another Thing, or with its department.
    let path = format!("/api/retention/holds/{id}/lift");
    let (_, hold) =
        city.ask(&officer, "POST", "/api/retention/holds", json!({"thing": other.thing.0, "reason": "case 8"})).await;
    let away = json!({"Thing": {"@iot.id": info.thing.0}});
    let moved = city.catalog.update(&system, EntityType::Datastream, free, &away, crate::catalog::Update::Merge).await;
    assert_eq!(Problem::from(moved.expect_err("held with its Thing")).status, StatusCode::CONFLICT);
    let named = json!({"name": "still a gauge"});
    let named = city.catalog.update(&system, EntityType::Datastream, free, &named, crate::catalog::Update::Merge).await;
    named.expect("a name is not what is held");
    for path in [path, format!("/api/retention/holds/{}/lift", hold["id"].as_str().expect("id"))] {
        assert_eq!(city.ask(&officer, "POST", &path, json!({"reason": "closed"})).await.0, StatusCode::OK);
    }
    delete(EntityType::Thing, info.thing).await.expect("lifted");
    delete(EntityType::Datastream, free).await.expect("lifted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_takes_a_week_at_most() {
    let city = City::open().await;
    let officer = person("dsd", "manager");
    let level = city.datastream("dsd", "gauge", "flood", json!({})).await;
    city.observed(level, YOUNG).await;
    city.declare(r#"{ for = "30d", as = "raw" }"#).await;
    let run = city.preview(&officer).await;
    assert_eq!(city.confirm(&officer, &run).await.0, StatusCode::OK);
    city.retention.sweep_now().await.expect("swept");
    // Twenty years: all of it would be gone.
    city.clock.advance_micros(20 * 365 * 86_400_000_000);
    city.retention.sweep_now().await.expect("swept");
    assert_eq!(city.rows(level).await, 720);
    assert!(city.retention.stats().behind.load(Relaxed) > 19 * 365 * 86_400);
    let run = city.preview(&officer).await;
    assert_eq!(run["report"]["gone"], 0, "and that is what is shown");
}

/// A row of a sweep that a crash has broken off is not said to go on for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_that_was_broken_off_has_failed() {
    let city = City::open().await;
    let officer = person("dsd", "manager");
    let level = city.datastream("dsd", "gauge", "flood", json!({})).await;
    city.observed(level, OLD).await;
    city.declare(YEAR).await;
    let run = city.preview(&officer).await;
    assert_eq!(city.confirm(&officer, &run).await.0, StatusCode::OK);
    city.retention.sweep_now().await.expect("swept");
    let broken: Result<(), records::Error> = city
        .catalog
        .records()
        .write(|tx| {
            let mut run = store::runs(tx, "levels", 1)?.remove(0);
            run.id = Id::generate();
            (run.kind, run.state, run.ended_at) = (RunKind::Applied, RunState::Running, None);
            store::put_run(tx, &run)
        })
        .await;
    broken.expect("written");
    city.retention.sweep_now().await.expect("swept");
    let runs = city.view().await["runs"].clone();
    let states: Vec<&str> = runs.as_array().expect("runs").iter().filter_map(|run| run["state"].as_str()).collect();
    assert!(states.contains(&"failed") && !states.contains(&"running"), "{runs}");
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_of_a_pack_are_named() {
    let city = City::open().await;
    let file: model::RetentionFile = toml::from_str(
        r#"[[retention]]
        key = "Levels"
        tenant = "dsd"
        name = { en = "Levels" }
        keep = [{ as = "raw" }, { as = "10m" }]"#,
    )
    .expect("TOML");
    let error = city.retention.apply(&Caller::system("pack"), file.retention).await.expect_err("wrong");
    let problem = Problem::from(error);
    let fields: Vec<&str> = problem.errors.iter().map(|e| e.field.as_str()).collect();
    assert_eq!(fields, ["/retention/0/key", "/retention/0/name", "/retention/0/keep/0/for"]);
    for bad in ["for = \"3w\", as = \"raw\"", "as = \"7m\"", "as = \"raw\", fro = \"1d\""] {
        let text =
            format!("[[retention]]\nkey = \"a\"\ntenant = \"dsd\"\nname = {{ en = \"a\" }}\nkeep = [{{ {bad} }}]");
        assert!(toml::from_str::<model::RetentionFile>(&text).is_err(), "{bad}");
    }
}
