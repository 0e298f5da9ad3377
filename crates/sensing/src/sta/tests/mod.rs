//! The service as a client sees it, named after the abstract tests of 18-088 annex A where there is one.

mod batch;
mod conformance;
mod formats;
mod ingest;
mod lambdas;
mod multi;
mod multi_observed;
mod multi_rights;
mod queries;
mod rights;
mod tables;

use std::{collections::BTreeMap, sync::Arc};

use axum::{Router, body::Body};
use futures::future::BoxFuture;
use http::{Request, StatusCode, header};
use kernel::{Action, Caller, Decision, FixedClock, Limits, Policy, Principal, Resource, Tenant, Timestamp};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::{SensorThings, Settings, router};
use crate::{
    Catalog, Error,
    model::{EntityId, Observation, ObservationId},
    observe::Batch,
    query::{Engine, Extent, Series, Span},
    tasking::Tasking,
};

/// Who acts for a tenant may do everything there, and nothing elsewhere.
pub struct OwnTenant;

impl Policy for OwnTenant {
    fn decide(&self, caller: &Caller, _: Action, resource: &Resource<'_>) -> Decision {
        let own = caller.tenant.is_some() && caller.tenant.as_ref() == resource.tenant;
        if own { Decision::Allow } else { Decision::Deny }
    }
}

/// Series in memory: the simplest thing that keeps the contract of [`Series`].
#[derive(Default)]
pub struct Memory {
    rows: Mutex<BTreeMap<ObservationKey, Observation>>,
    /// Fails the next write.
    pub broken: Mutex<bool>,
}

type ObservationKey = (EntityId, Timestamp, EntityId, Option<Timestamp>);

fn key(id: &ObservationId) -> ObservationKey {
    (id.datastream, id.at, id.feature, id.result_time)
}

impl Memory {
    fn of(&self, datastream: EntityId) -> Vec<Observation> {
        self.rows.lock().values().filter(|o| o.datastream == datastream).cloned().collect()
    }
}

impl Series for Memory {
    fn extent(&self, datastream: EntityId) -> Extent {
        let rows = self.of(datastream);
        let start = rows.iter().map(|o| o.phenomenon.start).min();
        let end = rows.iter().map(|o| o.phenomenon.end).max();
        let phenomenon = start.zip(end).map(|(start, end)| kernel::Interval { start, end });
        let results = || rows.iter().filter_map(|o| o.result_time);
        let result = results().min().zip(results().max()).map(|(start, end)| kernel::Interval { start, end });
        Extent { phenomenon, result }
    }
    fn latest(&self, datastream: EntityId) -> Option<Observation> {
        self.of(datastream).pop()
    }
    fn count(&self, datastream: EntityId) -> BoxFuture<'_, Result<u64, Error>> {
        Box::pin(async move { Ok(self.of(datastream).len() as u64) })
    }
    fn count_between(
        &self,
        datastream: EntityId,
        from: Option<Timestamp>,
        to: Option<Timestamp>,
    ) -> BoxFuture<'_, Result<Option<u64>, Error>> {
        Box::pin(async move {
            let mut rows = self.of(datastream);
            rows.retain(|o| {
                let at = o.phenomenon.start;
                from.is_none_or(|from| at >= from) && to.is_none_or(|to| at <= to)
            });
            Ok(rows.iter().all(|o| o.phenomenon.is_instant()).then_some(rows.len() as u64))
        })
    }
    fn read(&self, span: Span) -> BoxFuture<'_, Result<Vec<Observation>, Error>> {
        Box::pin(async move {
            let mut rows = self.of(span.datastream);
            if span.descending {
                rows.reverse();
            }
            rows.retain(|o| {
                let at = o.phenomenon.start;
                let beyond = span.after.is_none_or(|after| {
                    let (a, b) = (key(&o.id()), key(&after));
                    if span.descending { a < b } else { a > b }
                });
                span.from.is_none_or(|from| at >= from) && span.to.is_none_or(|to| at <= to) && beyond
            });
            rows.truncate(span.limit);
            Ok(rows)
        })
    }
    fn get(&self, id: ObservationId) -> BoxFuture<'_, Result<Option<Observation>, Error>> {
        Box::pin(async move { Ok(self.rows.lock().get(&key(&id)).cloned()) })
    }
    fn record(&self, batch: Batch) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            if std::mem::take(&mut *self.broken.lock()) {
                return Err(kernel::Problem::unavailable("the disk is full", 5).into());
            }
            let mut rows = self.rows.lock();
            for o in batch.observations() {
                rows.insert(key(&o.id()), o);
            }
            Ok(())
        })
    }
    fn remove(&self, ids: Vec<ObservationId>) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            let mut rows = self.rows.lock();
            ids.iter().for_each(|id| {
                rows.remove(&key(id));
            });
            Ok(())
        })
    }
    fn drop_datastream(&self, datastream: EntityId) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            self.rows.lock().retain(|_, o| o.datastream != datastream);
            Ok(())
        })
    }
}

pub struct City {
    pub catalog: Catalog,
    pub engine: Engine,
    pub memory: Arc<Memory>,
    pub clock: Arc<FixedClock>,
    pub tasking: Tasking,
    router: Router,
    _folder: tempfile::TempDir,
}

pub fn tenant(slug: &str) -> Tenant {
    Tenant::parse(slug).expect("slug")
}

pub fn person(slug: &str) -> Caller {
    Caller {
        principal: Principal::Person { id: format!("of-{slug}").into(), name: "Somebody".into() },
        tenant: Some(tenant(slug)),
        ..Caller::anonymous()
    }
}

pub struct Answer {
    pub status: StatusCode,
    pub location: Option<String>,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }
    /// The ids in `value`.
    pub fn ids(&self) -> Vec<Value> {
        self.json()["value"]
            .as_array()
            .unwrap_or_else(|| panic!("{}", self.text))
            .iter()
            .map(|v| v["@iot.id"].clone())
            .collect()
    }
    /// The path of the Location header.
    pub fn path(&self) -> String {
        let location = self.location.as_deref().unwrap_or_else(|| panic!("no Location: {} {}", self.status, self.text));
        location.strip_prefix("http://city.example").expect("own address").to_owned()
    }
}

impl City {
    pub fn new() -> Self {
        Self::with(Limits { page_default: 100, page_max: 1_000, body_bytes: 4 << 20, depth: 32 })
    }
    pub fn with(limits: Limits) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let clock = Arc::new(FixedClock::at("2026-11-22T09:00:00Z".parse().expect("time")));
        let records = crate::test_records::open(folder.path(), clock.clone());
        let catalog = Catalog::open(records, Arc::new(OwnTenant), clock.clone()).expect("catalogue");
        let memory = Arc::new(Memory::default());
        let engine = Engine::new(catalog.clone(), memory.clone(), limits);
        // The device `gauge` has every Thing of its department.
        let owns = |caller: &Caller, tenant: &Tenant, _: EntityId| {
            caller.label() == "device:gauge" && caller.tenant.as_ref() == Some(tenant)
        };
        let tasking = Tasking::new(catalog.clone(), memory.clone(), Arc::new(owns));
        let door = SensorThings::new(engine.clone(), Settings::default()).tasking(tasking.clone());
        let router = router(door).merge(crate::tasking::api::router(tasking.clone()));
        Self { catalog, engine, memory, clock, tasking, router, _folder: folder }
    }

    pub async fn send(&self, caller: &Caller, method: &str, path: &str, kind: &str, body: Vec<u8>) -> Answer {
        self.send_with(caller, method, path, &[("content-type", kind)], body).await
    }
    pub async fn send_with(
        &self,
        caller: &Caller,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Answer {
        let path = path.replace(' ', "%20");
        let mut request = Request::builder().method(method).uri(&path).header(header::HOST, "city.example");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(Body::from(body)).unwrap_or_else(|e| panic!("{path}: {e}"));
        request.extensions_mut().insert(caller.clone());
        let response = self.router.clone().oneshot(request).await.expect("infallible");
        let (status, location) = (response.status(), response.headers().get(header::LOCATION).cloned());
        let bytes = axum::body::to_bytes(response.into_body(), 64 << 20).await.expect("body");
        Answer {
            status,
            location: location.map(|v| v.to_str().expect("ascii").to_owned()),
            text: String::from_utf8(bytes.to_vec()).expect("utf-8"),
        }
    }
    pub async fn get_as(&self, caller: &Caller, path: &str) -> Answer {
        self.send(caller, "GET", path, "application/json", Vec::new()).await
    }
    pub async fn get(&self, path: &str) -> Answer {
        self.get_as(&person("dsd"), path).await
    }
    pub async fn found(&self, path: &str) -> Value {
        let answer = self.get(path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.text);
        answer.json()
    }
    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(&person("dsd"), "POST", path, "application/json", body.to_string().into_bytes()).await
    }
    pub async fn made(&self, path: &str, body: Value) -> String {
        let answer = self.post(path, body.clone()).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{path} {body}: {}", answer.text);
        answer.path()
    }
    pub async fn patch(&self, path: &str, body: Value) -> Answer {
        self.send(&person("dsd"), "PATCH", path, "application/json", body.to_string().into_bytes()).await
    }
    pub async fn delete(&self, path: &str) -> StatusCode {
        self.send(&person("dsd"), "DELETE", path, "application/json", Vec::new()).await.status
    }
    /// Ids of all pages, following the next links.
    pub async fn pages(&self, path: &str) -> (Vec<Value>, usize) {
        let (mut all, mut pages, mut next) = (Vec::new(), 0, Some(path.to_owned()));
        while let Some(path) = next {
            let answer = self.get(&path).await;
            assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.text);
            all.extend(answer.ids());
            pages += 1;
            assert!(pages < 10_000, "paging does not end");
            next = answer.json()["@iot.nextLink"]
                .as_str()
                .map(|l| l.strip_prefix("http://city.example").expect("own").to_owned());
        }
        (all, pages)
    }
}

pub fn unit() -> Value {
    json!({"name": "metre", "symbol": "m", "definition": "http://unitsofmeasure.org/ucum.html#para-30"})
}

pub fn point(x: f64, y: f64) -> Value {
    json!({"type": "Point", "coordinates": [x, y]})
}

/// A Thing with a Location and one Datastream of this type.
pub fn lamp(name: &str, observation_type: &str, x: f64, y: f64) -> Value {
    json!({
        "name": name, "description": format!("The lamp {name}"), "properties": {"pole": name, "height": 8.5, "ward": {"code": "YTM"}},
        "Locations": [{"name": format!("Place of {name}"), "description": "On the kerb", "encodingType": "application/geo+json", "location": point(x, y)}],
        "Datastreams": [{
            "name": format!("{name} level"), "description": "d", "unitOfMeasurement": unit(),
            "observationType": format!("http://www.opengis.net/def/observationType/OGC-OM/2.0/{observation_type}"),
            "Sensor": {"name": "DS18B20", "description": "d", "encodingType": "application/pdf", "metadata": "http://example.org/ds.pdf"},
            "ObservedProperty": {"name": "Level", "definition": "http://example.org/level", "description": "d"}
        }]
    })
}
