//! Derived Datastreams on real stores: stream, lake and records as they are.

mod api;
mod correct;
mod formulas;
mod running;

use std::{sync::Arc, time::Duration};

use axum::{Router, body::Body};
use http::{Request, StatusCode, header};
use kernel::{
    Action, Caller, Clock, Decision, FixedClock, Interval, Policy, Principal, Resource, SystemClock, Tenant, Timestamp,
};
use lake::{Lake, Root};
use serde_json::{Value, json, value::RawValue};
use stream::{Stream, TopicOptions};
use tower::ServiceExt as _;

use super::{
    Derived, api as doors,
    engine::{Handle, Options},
    model::Declaration,
};
use crate::{
    Catalog,
    model::{EntityId, EntityType, Observation, ResultValue},
    observe::{self, Batch, Observe, SeriesQuery},
};

/// Everybody acts for their own tenant; a `viewer` may only read, a `duty` officer also observe.
struct Own;
impl Policy for Own {
    fn decide(&self, caller: &Caller, action: Action, resource: &Resource<'_>) -> Decision {
        let own = caller.tenant.is_some() && caller.tenant.as_ref() == resource.tenant;
        let allowed = match action.0 {
            "sensing:read" => resource.public || own,
            "sensing:observe" => own && !caller.has_role("viewer"),
            _ => own && caller.has_role("manager"),
        };
        if allowed { Decision::Allow } else { Decision::Deny }
    }
}

pub fn tenant(slug: &str) -> Tenant {
    Tenant::parse(slug).expect("slug")
}

pub fn person(slug: &str, role: &'static str) -> Caller {
    let principal = Principal::Person { id: "p1".into(), name: "P".into() };
    Caller { principal, tenant: Some(tenant(slug)), roles: [role.into()].into() }
}

pub fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

/// So many seconds into the day of the tests.
pub fn sec(seconds: i64) -> Timestamp {
    at("2026-11-22T00:00:00Z").plus_secs(seconds)
}

pub struct City {
    pub clock: Arc<FixedClock>,
    pub catalog: Catalog,
    pub observe: Observe,
    pub derived: Derived,
    folder: Arc<tempfile::TempDir>,
    /// A folder may have a database outside of it; who begins again begins on the same one.
    records: Arc<records::Options>,
    stream: Stream,
}

impl City {
    pub async fn open() -> Self {
        let folder = Arc::new(tempfile::tempdir().expect("folder"));
        let records = Arc::new(crate::test_records::options(folder.path()));
        Self::at(folder, records, "2026-11-22T12:00:00Z").await
    }

    async fn at(folder: Arc<tempfile::TempDir>, kept: Arc<records::Options>, now: &str) -> Self {
        let clock = Arc::new(FixedClock::at(at(now)));
        let shared: Arc<dyn Clock> = clock.clone();
        let records = records::Records::open(&kept, shared.clone()).expect("records");
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
        let derived = Derived::open(catalog.clone(), observe.clone()).expect("derived");
        Self { clock, catalog, observe, derived, folder, records: kept, stream }
    }

    /// Ends as a crash does, nothing written down that was not, and begins again on the same folders.
    pub async fn crash(self, handle: Handle) -> Self {
        handle.crash.cancel();
        handle.stop().await;
        let (folder, records) = (Arc::clone(&self.folder), Arc::clone(&self.records));
        self.observe.close(Duration::from_secs(5)).await;
        self.stream.close().await;
        self.catalog.records().close().await;
        drop((self.derived, self.catalog, self.observe, self.stream, self.clock));
        Self::at(folder, records, "2026-11-22T12:00:00Z").await
    }

    /// Nothing is written down but at the end, and the clock is looked at by hand.
    pub async fn start(&self) -> Handle {
        self.start_with(Duration::from_secs(3_600)).await
    }
    pub async fn start_with(&self, tick: Duration) -> Handle {
        let hour = Duration::from_secs(3_600);
        let options = Options { checkpoint: hour, tick, refresh: hour, ..Options::default() };
        let handle = self.derived.start(options).await.expect("the engine");
        handle.idle(0).await;
        handle
    }

    /// A Thing of a system with Datastreams `<thing>.<shape>`.
    pub async fn thing(&self, owner: &str, thing: &str, shapes: &[&str], more: Value) -> Vec<EntityId> {
        let tenant = tenant(owner);
        let caller = Caller::system("test");
        let merged = |mut body: Value, more: &Value| {
            let more = more.as_object().expect("object").clone();
            body.as_object_mut().expect("object").extend(more);
            body
        };
        let put = |entity, key: String, body| {
            let (catalog, caller, tenant) = (self.catalog.clone(), caller.clone(), tenant.clone());
            async move { catalog.upsert(&caller, entity, &tenant, &key, body).await.expect("an entity") }
        };
        let named = |name: &str| json!({"name": name, "description": name});
        put(
            EntityType::Thing,
            thing.to_owned(),
            merged(
                merged(named(thing), &json!({"properties": {"key": thing, "system": "flood"}})),
                &json!({"@lamppost.public": more.get("@lamppost.public").cloned().unwrap_or(json!(false))}),
            ),
        )
        .await;
        put(
            EntityType::Sensor,
            "sensor".into(),
            merged(named("s"), &json!({"encodingType": "text/html", "metadata": "https://example.org"})),
        )
        .await;
        put(
            EntityType::ObservedProperty,
            "property".into(),
            merged(named("p"), &json!({"definition": "https://example.org/p"})),
        )
        .await;
        let mut ids = Vec::new();
        for shape in shapes {
            let key = format!("{thing}.{shape}");
            let body = merged(
                named(&key),
                &json!({
                    "observationType": "http://www.opengis.net/def/observationType/OGC-OM/2.0/OM_Measurement",
                    "unitOfMeasurement": {"name": "metre", "symbol": "m", "definition": "ucum:m"},
                    "properties": {"key": key},
                    "Thing": {"@iot.key": thing}, "Sensor": {"@iot.key": "sensor"}, "ObservedProperty": {"@iot.key": "property"},
                }),
            );
            ids.push(put(EntityType::Datastream, key, merged(body, &more)).await);
        }
        ids
    }

    pub async fn observation(&self, datastream: EntityId, time: Timestamp, value: f64) -> Observation {
        let feature = self.catalog.datastream(datastream).await.expect("read").expect("there").feature;
        Observation {
            datastream,
            phenomenon: Interval::instant(time),
            result_time: None,
            result: ResultValue::Number(value),
            feature,
            quality: None,
            valid: None,
            parameters: None,
        }
    }

    pub async fn send(&self, datastream: EntityId, values: &[(i64, f64)]) {
        let mut batch = Batch::new();
        for (seconds, value) in values {
            batch.push(self.observation(datastream, sec(*seconds), *value).await);
        }
        self.observe.record(batch).await.expect("recorded");
    }

    pub async fn send_faulty(&self, datastream: EntityId, seconds: i64, value: f64) {
        let quality = RawValue::from_string(r#"{"code":"bad"}"#.to_owned()).expect("json");
        let o =
            Observation { quality: Some(quality.into()), ..self.observation(datastream, sec(seconds), value).await };
        self.observe.record(Batch::one(o)).await.expect("recorded");
    }

    /// Seconds, results and codes of the quality, in order of time.
    pub async fn read(&self, datastream: EntityId) -> Vec<(i64, f64, String)> {
        let rows = self.observe.read(SeriesQuery::all(datastream)).await.expect("rows");
        let code = |o: &Observation| {
            let quality: Value =
                o.quality.as_ref().map(|q| serde_json::from_str(q.get()).expect("json")).unwrap_or_default();
            quality["code"].as_str().unwrap_or_default().to_owned()
        };
        let start = sec(0);
        rows.iter()
            .map(|o| {
                (o.phenomenon.start.micros_since(start) / 1_000_000, o.result.number().unwrap_or(f64::NAN), code(o))
            })
            .collect()
    }

    pub async fn values(&self, datastream: EntityId) -> Vec<(i64, f64)> {
        self.read(datastream).await.into_iter().map(|(at, value, _)| (at, value)).collect()
    }

    /// Waits until everything that was sent has been evaluated, and what that wrote, and so on.
    pub async fn settled(&self, handle: &Handle) {
        let mut end = self.observe.next_offset();
        loop {
            handle.evaluated(end).await;
            let next = self.observe.next_offset();
            if next == end {
                return;
            }
            end = next;
        }
    }

    pub async fn declare(&self, handle: &Handle, declaration: Value) {
        let seen = handle.idled();
        let declaration: Declaration = serde_json::from_value(declaration).expect("a declaration");
        self.derived.declare(&person("dsd", "manager"), declaration).await.expect("declared");
        handle.idle(seen).await;
        self.settled(handle).await;
    }

    pub async fn ask(&self, caller: Option<&Caller>, method: &str, path: &str, body: &str) -> (StatusCode, Value) {
        let router: Router = doors::router(self.derived.clone());
        let mut request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, "application/json");
        if let Some(caller) = caller {
            request = request.extension(caller.clone());
        }
        let request = request.body(Body::from(body.to_owned())).expect("request");
        let response = router.oneshot(request).await.expect("infallible");
        let status = response.status();
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.expect("body");
        (status, serde_json::from_slice(&bytes).unwrap_or_default())
    }
}

/// One of these Things' own.
pub fn of_things(key: &str, output: &str, input: Value, formula: &str) -> Value {
    json!({
        "key": key, "tenant": "dsd", "name": {"en": key, "zh-hant": key, "zh-hans": key},
        "things": {"system": "flood"}, "output": output, "input": input, "formula": [{"expression": formula}],
    })
}
