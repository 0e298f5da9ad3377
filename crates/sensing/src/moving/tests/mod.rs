//! What moves, on real stores: stream, lake and records as they are, asked over HTTP.

mod fences;
mod places;
mod tracks;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use http::{Request, StatusCode, header};
use kernel::{
    Action, Caller, Clock, Decision, FixedClock, Interval, Policy, Principal, Resource, SystemClock, Tenant, Timestamp,
};
use lake::{Lake, Root};
use serde_json::{Value, json, value::RawValue};
use stream::{Stream, TopicOptions};
use tower::ServiceExt as _;

use super::{Fences, Moving, api, fences::Districts};
use crate::{
    Catalog, Scopes,
    alarms::Alarms,
    model::{EntityId, EntityType, Observation, ResultValue},
    notify::guard::Allowed,
    observe::{self, Batch, Observe},
    rules::Rules,
};

/// Everybody acts for their own tenant; a `viewer` may only read. `csd` is sealed.
struct Own;
impl Policy for Own {
    fn decide(&self, caller: &Caller, action: Action, resource: &Resource<'_>) -> Decision {
        let own = caller.tenant.is_some() && caller.tenant.as_ref() == resource.tenant;
        let allowed = match action.0 {
            "sensing:read" => resource.public || own,
            _ => own && caller.has_role("manager"),
        };
        if allowed { Decision::Allow } else { Decision::Deny }
    }
    fn seals(&self, tenant: &Tenant) -> bool {
        tenant.as_str() == "csd"
    }
}

pub fn tenant(slug: &str) -> Tenant {
    Tenant::parse(slug).expect("slug")
}

pub fn person(slug: &str, role: &'static str) -> Caller {
    let principal = Principal::Person { id: "p1".into(), name: "P".into() };
    Caller { principal, tenant: Some(tenant(slug)), roles: BTreeSet::from([role.into()]) }
}

/// So many seconds into the day of the tests.
pub fn sec(seconds: i64) -> Timestamp {
    "2026-11-22T00:00:00Z".parse::<Timestamp>().expect("a time").plus_secs(seconds)
}

pub struct City {
    pub clock: Arc<FixedClock>,
    pub catalog: Catalog,
    pub observe: Observe,
    pub rules: Rules,
    pub moving: Moving,
    _stream: Stream,
    _folder: tempfile::TempDir,
}

impl City {
    pub async fn open() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let kept = crate::test_records::options(folder.path());
        let clock = Arc::new(FixedClock::at(sec(43_200)));
        let shared: Arc<dyn Clock> = clock.clone();
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
        let observed = observe.clone();
        let open = tokio::task::spawn_blocking(move || {
            let records = records::Records::open(&kept, shared.clone()).expect("records");
            let catalog = Catalog::open(records.clone(), Arc::new(Own), shared).expect("catalogue");
            let alarms = Alarms::open(records, Arc::new(Scopes::new(Arc::new(Own)))).expect("alarms");
            let square = json!({"type": "Polygon", "coordinates": [[[114.1, 22.2], [114.2, 22.2], [114.2, 22.3], [114.1, 22.3], [114.1, 22.2]]]});
            let fences =
                Fences::open(alarms.clone(), Districts::from([("Southern".to_owned(), square)])).expect("fences");
            let moving = Moving::open(catalog.clone(), observed, fences).expect("moving");
            (catalog, Rules::new(alarms, Allowed::new([])), moving)
        });
        let (catalog, rules, moving) = open.await.expect("opens");
        Self { clock, catalog, observe, rules, moving, _stream: stream, _folder: folder }
    }

    /// A Thing with a position Datastream and one with a number; its id and theirs.
    pub async fn vessel(&self, owner: &str, key: &str, public: bool) -> (EntityId, EntityId, EntityId) {
        let tenant = tenant(owner);
        let put = |entity, key: String, body: Value| {
            let (catalog, tenant) = (self.catalog.clone(), tenant.clone());
            async move { catalog.upsert(&Caller::system("test"), entity, &tenant, &key, body).await.expect("an entity") }
        };
        let named = |name: &str| json!({"name": name, "description": name});
        let merged = |mut body: Value, more: Value| {
            let more = more.as_object().expect("object").clone();
            body.as_object_mut().expect("object").extend(more);
            body
        };
        let place = json!({"encodingType": "application/geo+json", "location": {"type": "Point", "coordinates": [114.0, 22.0]}, "@lamppost.public": public});
        put(EntityType::Location, key.to_owned(), merged(named("pier"), place)).await;
        let thing = json!({"properties": {"key": key, "system": "vessel"}, "Locations": [{"@iot.key": key}], "@lamppost.public": public});
        let thing = put(EntityType::Thing, key.to_owned(), merged(named(key), thing)).await;
        let sensor = json!({"encodingType": "text/html", "metadata": "https://example.org"});
        put(EntityType::Sensor, "sensor".into(), merged(named("s"), sensor)).await;
        let property = json!({"definition": "https://example.org/p"});
        put(EntityType::ObservedProperty, "property".into(), merged(named("p"), property)).await;
        let stream = |kind: &str, unit: Value, more: Value| {
            json!({
                "observationType": format!("http://www.opengis.net/def/observationType/OGC-OM/2.0/{kind}"),
                "unitOfMeasurement": {"name": unit, "symbol": unit, "definition": unit}, "properties": more,
                "Thing": {"@iot.key": key}, "Sensor": {"@iot.key": "sensor"}, "ObservedProperty": {"@iot.key": "property"},
                "@lamppost.public": public,
            })
        };
        let limits = json!({"track": {"max_speed": 20.0, "gap": 120}});
        let track = put(
            EntityType::Datastream,
            format!("{key}.track"),
            merged(named("track"), stream("OM_GeometryObservation", Value::Null, limits)),
        );
        let track = track.await;
        let depth = put(
            EntityType::Datastream,
            format!("{key}.oxygen"),
            merged(named("oxygen"), stream("OM_Measurement", json!("mg/L"), json!({}))),
        );
        (thing, track, depth.await)
    }

    pub async fn observed(
        &self,
        datastream: EntityId,
        second: i64,
        result: Value,
        parameters: Option<Value>,
    ) -> Observation {
        let feature = self.catalog.datastream(datastream).await.expect("read").expect("there").feature;
        let raw = |v: Value| Arc::<RawValue>::from(RawValue::from_string(v.to_string()).expect("json"));
        Observation {
            datastream,
            phenomenon: Interval::instant(sec(second)),
            result_time: None,
            result: result.as_f64().map_or_else(|| ResultValue::Json(raw(result.clone())), ResultValue::Number),
            feature,
            quality: None,
            valid: None,
            parameters: parameters.map(raw),
        }
    }

    /// Fixes: second, longitude, latitude.
    pub async fn sail(&self, track: EntityId, fixes: &[(i64, f64, f64)]) {
        let mut batch = Batch::new();
        for (second, lon, lat) in fixes {
            batch.push(self.observed(track, *second, json!({"type": "Point", "coordinates": [lon, lat]}), None).await);
        }
        self.observe.record(batch).await.expect("recorded");
    }

    pub async fn ask(&self, caller: Option<&Caller>, method: &str, path: &str, body: &str) -> (StatusCode, Value) {
        let router: Router = api::router(self.moving.clone());
        let mut request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, "application/json");
        if let Some(caller) = caller {
            request = request.extension(caller.clone());
        }
        let request = request.body(Body::from(body.to_owned())).expect("request");
        let response = router.oneshot(request).await.expect("infallible");
        let status = response.status();
        let bytes = axum::body::to_bytes(response.into_body(), 8 << 20).await.expect("body");
        (status, serde_json::from_slice(&bytes).unwrap_or_default())
    }
}
