//! The sum by owners against the walk over all series, whatever happens to Observations and to whom they belong.

use std::{path::Path, sync::Arc, time::Duration};

use kernel::{Action, Caller, Decision, Interval, Limits, Policy, Principal, Resource, SystemClock, Tenant, Timestamp};
use lake::{Lake, Root};
use proptest::prelude::*;
use serde_json::json;
use stream::{Stream, TopicOptions};

use super::*;
use crate::{
    Catalog,
    catalog::Update,
    model::{Observation, ResultValue},
    observe::{self, Batch, Observe},
    query::{Options, Plan, Source, among::series},
    sta::{SensorThings, Settings},
};

/// Everybody may do everything in a department of their own, and nothing elsewhere.
struct Own;

impl Policy for Own {
    fn decide(&self, caller: &Caller, _: Action, resource: &Resource<'_>) -> Decision {
        let own = caller.tenant.is_some() && caller.tenant.as_ref() == resource.tenant;
        if own { Decision::Allow } else { Decision::Deny }
    }
}

fn tenant(slug: &str) -> Tenant {
    Tenant::parse(slug).expect("slug")
}

fn of(slug: &str) -> Caller {
    Caller {
        principal: Principal::Person { id: slug.into(), name: slug.into() },
        tenant: Some(tenant(slug)),
        ..Caller::anonymous()
    }
}

const OWNERS: [&str; 2] = ["dsd", "epd"];

struct City {
    stream: Stream,
    observe: Observe,
    catalog: Catalog,
    engine: Engine,
    door: SensorThings,
    /// Things that were made, with their Datastreams; those that are gone stay in the list.
    things: Vec<(i64, i64)>,
}

impl City {
    async fn open(folder: &Path) -> Self {
        let clock = Arc::new(SystemClock);
        let topic = TopicOptions::new("observations").guarded();
        let stream =
            Stream::open(stream::Options::local(folder.join("stream"), [topic]), clock.clone()).await.expect("stream");
        let lake = Lake::open(lake::Options::new(Root::Local(folder.join("lake")))).expect("lake");
        // So little that heads go to disk, and come back from there, every few seals.
        let options = observe::Options {
            heads_log: 600,
            seal_every: Duration::from_secs(3_600),
            ..observe::Options::new(folder.join("heads"))
        };
        let observe =
            Observe::open(options, stream.topic("observations").expect("topic"), &lake).await.expect("observe");
        let records = crate::test_records::open(folder, clock.clone());
        let catalog = Catalog::open(records, Arc::new(Own), clock).expect("catalogue");
        let engine = Engine::new(catalog.clone(), Arc::new(observe.clone()), Limits::DEFAULT);
        let door = SensorThings::new(engine.clone(), Settings::default());
        Self { stream, observe, catalog, engine, door, things: Vec::new() }
    }

    async fn close(self) {
        self.observe.close(Duration::from_secs(20)).await;
        self.stream.close().await;
    }

    async fn make(&mut self, owner: usize, public: bool, multi: bool) {
        let unit = json!({"name": "metre", "symbol": "m", "definition": "ucum:m"});
        let property = json!({"name": "p", "description": "d", "definition": "http://p"});
        let mut below = json!({"name": "s", "description": "d",
            "Sensor": {"name": "s", "description": "d", "encodingType": "text/html", "metadata": "http://s"}});
        let (set, of_entity) = if multi {
            below["observationType"] =
                json!("http://www.opengis.net/def/observationType/OGC-OM/2.0/OM_ComplexObservation");
            below["unitOfMeasurements"] = json!([unit]);
            below["multiObservationDataTypes"] =
                json!(["http://www.opengis.net/def/observationType/OGC-OM/2.0/OM_Measurement"]);
            below["ObservedProperties"] = json!([property]);
            ("MultiDatastreams", EntityType::MultiDatastream)
        } else {
            below["observationType"] = json!("http://www.opengis.net/def/observationType/OGC-OM/2.0/OM_Measurement");
            below["unitOfMeasurement"] = unit;
            below["ObservedProperty"] = property;
            ("Datastreams", EntityType::Datastream)
        };
        let mut body = json!({"name": "t", "description": "d", "@lamppost.public": public});
        body[set] = json!([below]);
        let (id, changes) =
            self.catalog.create(&of(OWNERS[owner]), EntityType::Thing, &body, None).await.expect("made");
        let stream = changes.list.iter().find(|c| c.entity == of_entity).expect("a series").id;
        self.things.push((id.0, stream.0));
    }

    async fn act(&mut self, act: &Act) {
        let thing = |n: &usize| self.things.get(n % self.things.len().max(1)).copied();
        let whose = [of(OWNERS[0]), of(OWNERS[1])];
        match act {
            Act::Make { owner, public, multi } => self.make(*owner, *public, *multi).await,
            Act::Observe(n, times) => {
                let Some((_, stream)) = thing(n) else { return };
                let mut batch = Batch::new();
                times.iter().for_each(|at| batch.push(observation(stream, *at)));
                self.observe.record(batch).await.expect("recorded");
            }
            Act::Remove(n, at) => {
                let Some((_, stream)) = thing(n) else { return };
                self.observe.remove(vec![observation(stream, *at).id()]).await.expect("removed");
            }
            Act::Publish(n, public) => {
                let Some((id, _)) = thing(n) else { return };
                for caller in &whose {
                    let body = json!({"@lamppost.public": public});
                    // One of them owns it, if it is there.
                    let _ = self.catalog.update(caller, EntityType::Thing, EntityId(id), &body, Update::Merge).await;
                }
            }
            Act::Delete(n) => {
                let Some((id, _)) = thing(n) else { return };
                for caller in &whose {
                    if let Ok(changes) = self.catalog.delete(caller, EntityType::Thing, EntityId(id)).await {
                        self.door.settle(&changes).await.expect("settled");
                    }
                }
            }
            Act::Seal => self.observe.seal().await.expect("sealed"),
            Act::Ask => {}
        }
    }

    /// What the question gave before there was a sum.
    async fn walked(&self, scope: &Scope) -> u64 {
        let plan =
            Plan::new(EntityType::Observation, &Options::default(), &Limits::DEFAULT, Timestamp::MIN).expect("plan");
        let mut count = 0;
        for home in series(&self.engine, scope, &plan, &Source::All, None).await.expect("series") {
            count += self.observe.count(home.id).await.expect("counted");
        }
        count
    }

    async fn compare(&self) {
        let mut scopes = vec![Scope::public(), Scope::Everything];
        scopes.extend(OWNERS.map(|owner| (*self.catalog.scope(&of(owner))).clone()));
        for scope in scopes {
            let summed = self.engine.total(&scope).await.expect("answers").expect("nothing else happens meanwhile");
            assert_eq!(summed, self.walked(&scope).await, "{scope:?}");
        }
    }
}

fn observation(stream: i64, at: i64) -> Observation {
    Observation {
        datastream: EntityId(stream),
        phenomenon: Interval::instant(Timestamp::from_secs(1_700_000_000 + at)),
        result_time: None,
        result: ResultValue::Number(at as f64),
        feature: EntityId(1),
        quality: None,
        valid: None,
        parameters: None,
    }
}

#[derive(Clone, Debug)]
enum Act {
    Make { owner: usize, public: bool, multi: bool },
    Observe(usize, Vec<i64>),
    Remove(usize, i64),
    Publish(usize, bool),
    Delete(usize),
    Seal,
    Ask,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let which = 0usize..6;
    let act = prop_oneof![
        3 => (0usize..2, any::<bool>(), any::<bool>()).prop_map(|(owner, public, multi)| Act::Make { owner, public, multi }),
        8 => (which.clone(), prop::collection::vec(0i64..30, 1..8)).prop_map(|(n, times)| Act::Observe(n, times)),
        2 => (which.clone(), 0i64..30).prop_map(|(n, at)| Act::Remove(n, at)),
        2 => (which.clone(), any::<bool>()).prop_map(|(n, public)| Act::Publish(n, public)),
        1 => which.prop_map(Act::Delete),
        2 => Just(Act::Seal),
        4 => Just(Act::Ask),
    ];
    prop::collection::vec(act, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn a_sum_is_a_walk(acts in acts()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(async {
            let folder = tempfile::tempdir().expect("folder");
            let mut city = City::open(folder.path()).await;
            for act in &acts {
                city.act(act).await;
                if matches!(act, Act::Ask) {
                    city.compare().await;
                }
            }
            city.compare().await;
            city.close().await;
        });
    }
}

/// While Observations come in, a sum is never less than what was acknowledged before the question, nor more than what was sent by its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sum_under_load_lies_between() {
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
    let folder = tempfile::tempdir().expect("folder");
    let mut city = City::open(folder.path()).await;
    for _ in 0..4 {
        city.make(0, true, false).await;
    }
    let (sent, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut writing = tokio::task::JoinSet::new();
    for (_, stream) in city.things.clone() {
        let (observe, sent, done) = (city.observe.clone(), sent.clone(), done.clone());
        writing.spawn(async move {
            for at in 0..300 {
                sent.fetch_add(1, SeqCst);
                observe.record(Batch::one(observation(stream, at))).await.expect("recorded");
                done.fetch_add(1, SeqCst);
            }
        });
    }
    let mut asked = 0;
    while done.load(SeqCst) < 1_200 {
        let least = done.load(SeqCst);
        if let Some(count) = city.engine.total(&Scope::public()).await.expect("answers") {
            asked += 1;
            let most = sent.load(SeqCst);
            assert!((least..=most).contains(&count), "{least} <= {count} <= {most}");
        }
        if asked % 7 == 0 {
            city.observe.seal().await.expect("sealed");
        }
        tokio::task::yield_now().await;
    }
    while writing.join_next().await.is_some() {}
    assert!(asked > 0);
    city.compare().await;
    city.close().await;
}
