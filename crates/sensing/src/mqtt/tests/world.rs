//! A city of two tenants in memory.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    sync::Arc,
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::BoxStream};
use kernel::{Caller, Principal, SystemClock, Tenant};
use parking_lot::Mutex;
use tokio::sync::{broadcast, watch};

use crate::{
    catalog::Entity,
    model::{DatastreamInfo, EntityId, EntityType, Observation, ObservationType},
    mqtt::{
        Anchored, Applied, Authenticate, Catalogue, Door, Entities, Field, Handle, Keep, Live, Login, Options, Owner,
        Parent, Parts, RecordError, Refusal, Rights, SavedMessage, SavedSession,
    },
    query::Row,
    scope::Scope,
    sta::Path,
};

pub use super::client::{Ack, Client, To, V3, V5, ack, ack2, publish};

pub fn tenant(slug: &str) -> Tenant {
    Tenant::parse(slug).expect("slug")
}

/// Datastreams 1 to 8 are dsd's (1 is public), 11 to 18 are epd's (11 is public); 9 and 19 are MultiDatastreams of theirs, of a number and a
/// word. Device `d1` calls 1 `level`, 2 `rain` and 9 `weather`.
pub struct MemoryField {
    log: Mutex<Vec<Arc<Applied>>>,
    live: broadcast::Sender<Arc<Applied>>,
    heads: Mutex<HashMap<EntityId, Observation>>,
    /// Closed gate: nothing becomes durable.
    pub open: watch::Sender<bool>,
    pub fail: Mutex<Option<RecordError>>,
    pub recorded_calls: Mutex<u64>,
    turn: tokio::sync::Mutex<()>,
}

impl MemoryField {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            log: Mutex::default(),
            live: broadcast::channel(64).0,
            heads: Mutex::default(),
            open: watch::channel(true).0,
            fail: Mutex::default(),
            recorded_calls: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        })
    }
    pub fn values(&self) -> Vec<(i64, f64)> {
        let log = self.log.lock();
        log.iter()
            .flat_map(|a| &a.observations)
            .map(|o| (o.datastream.0, o.result.number().unwrap_or(f64::NAN)))
            .collect()
    }
    pub fn info(id: i64) -> Option<Arc<DatastreamInfo>> {
        let owner = match id {
            1..=9 => "dsd",
            11..=19 => "epd",
            _ => return None,
        };
        let multi = id % 10 == 9;
        Some(Arc::new(DatastreamInfo {
            id: EntityId(id),
            tenant: tenant(owner),
            public: id % 10 == 1,
            thing: EntityId(id),
            name: "x".into(),
            observation_type: if multi { ObservationType::Complex } else { ObservationType::Measurement },
            elements: multi.then(|| [ObservationType::Measurement, ObservationType::Category].into()),
            unit: None,
            feature: EntityId(100 + id),
            interval: None,
            simulated: false,
        }))
    }
}

/// The log and the receiver under one lock, so that a follower misses nothing between them.
struct Shared(Arc<MemoryField>);

impl Field for Shared {
    fn record(&self, observations: Vec<Observation>) -> BoxFuture<'static, Result<(), RecordError>> {
        let field = Arc::clone(&self.0);
        async move {
            *field.recorded_calls.lock() += 1;
            // In the order of the calls, as the stream is.
            let _turn = field.turn.lock().await;
            let mut open = field.open.subscribe();
            let _ = open.wait_for(|open| *open).await;
            if let Some(error) = field.fail.lock().clone() {
                return Err(error);
            }
            let mut log = field.log.lock();
            for o in &observations {
                field.heads.lock().insert(o.datastream, o.clone());
            }
            let applied = Arc::new(Applied { offset: log.len() as u64, observations });
            log.push(Arc::clone(&applied));
            let _ = field.live.send(applied);
            Ok(())
        }
        .boxed()
    }
    fn live(&self) -> BoxStream<'static, Live> {
        tokio_stream::wrappers::BroadcastStream::new(self.0.live.subscribe())
            .map(|event| event.map_or(Live::Lagged, Live::Applied))
            .boxed()
    }
    fn replay(&self, offset: u64) -> BoxStream<'static, Applied> {
        let (history, live) = {
            let log = self.0.log.lock();
            (log[(offset as usize).min(log.len())..].to_vec(), self.0.live.subscribe())
        };
        let live = tokio_stream::wrappers::BroadcastStream::new(live)
            .take_while(|event| std::future::ready(event.is_ok()))
            .filter_map(|event| std::future::ready(event.ok()));
        futures::stream::iter(history).chain(live).map(|a| Applied::clone(&a)).boxed()
    }
    fn start(&self) -> u64 {
        0
    }
    fn end(&self) -> u64 {
        self.0.log.lock().len() as u64
    }
    fn latest(&self, datastream: EntityId) -> Option<Observation> {
        self.0.heads.lock().get(&datastream).cloned()
    }
    fn cached(&self, datastream: EntityId) -> Option<Arc<DatastreamInfo>> {
        // Odd ids are always looked up, so that both ways are walked.
        if datastream.0 % 2 == 0 { MemoryField::info(datastream.0) } else { None }
    }
    fn datastream(&self, id: EntityId) -> BoxFuture<'static, Result<Option<Arc<DatastreamInfo>>, RecordError>> {
        async move { Ok(MemoryField::info(id.0)) }.boxed()
    }
    fn of_device(
        &self,
        tenant: &Tenant,
        device: &str,
        key: &str,
    ) -> BoxFuture<'static, Result<Option<(EntityType, EntityId)>, RecordError>> {
        // epd's device has the same name as dsd's.
        let found = match (tenant.as_str(), device, key) {
            ("dsd", "d1", "level") => Some(1),
            ("dsd", "d1", "rain") => Some(2),
            ("dsd", "d1", "weather") => Some(9),
            ("epd", "d1", "level") => Some(11),
            _ => None,
        };
        let found = found.and_then(MemoryField::info).map(|info| (info.entity(), info.id));
        async move { Ok(found) }.boxed()
    }
    fn admits_feature(
        &self,
        _: &Caller,
        datastream: EntityId,
        feature: EntityId,
    ) -> BoxFuture<'static, Result<bool, RecordError>> {
        let known = feature.0 == 200 + datastream.0;
        async move { Ok(known) }.boxed()
    }
    fn complete(
        &self,
        _: &Caller,
        _: serde_json::Value,
        _: Option<(EntityType, EntityId)>,
        _: Option<EntityId>,
    ) -> BoxFuture<'static, Result<Option<Observation>, RecordError>> {
        async { Err(RecordError::Refused("there is no catalogue here".to_owned())) }.boxed()
    }
    fn page(&self, after: EntityId, limit: usize) -> BoxFuture<'static, Vec<Arc<DatastreamInfo>>> {
        async move { (after.0 + 1..20).filter_map(MemoryField::info).take(limit).collect() }.boxed()
    }
}

/// A catalogue in which nothing ever changes; `updates.rs` has a real one.
struct Still;

impl Entities for Still {
    fn changes(&self) -> BoxStream<'static, Catalogue> {
        futures::stream::pending().boxed()
    }
    fn row(&self, _: EntityType, _: EntityId) -> BoxFuture<'static, Option<Row>> {
        async { None }.boxed()
    }
    fn owner(&self, _: EntityType, id: EntityId) -> BoxFuture<'static, Option<Owner>> {
        // Features 101 to 109 and 201 to 209 are dsd's, and so on; those of public Datastreams are public.
        let found = MemoryField::info(id.0 % 100).map(|info| (info.tenant.clone(), info.public));
        async move { found }.boxed()
    }
    fn parents(&self, _: Arc<Entity>) -> BoxFuture<'static, Vec<Parent>> {
        async { Vec::new() }.boxed()
    }
    fn anchor(&self, _: Path) -> BoxFuture<'static, Option<Anchored>> {
        async { None }.boxed()
    }
    fn leads(&self, _: Arc<Scope>, _: Path, _: EntityId) -> BoxFuture<'static, bool> {
        async { false }.boxed()
    }
}

#[derive(Default)]
pub struct Law {
    pub looks: Arc<Mutex<Vec<String>>>,
}

impl Rights for Law {
    fn may_publish(&self, caller: &Caller, datastream: &DatastreamInfo) -> bool {
        caller.tenant.as_ref() == Some(&datastream.tenant)
    }
    fn scope(&self, caller: &Caller) -> Arc<Scope> {
        Arc::new(Scope::Tenants(caller.tenant.iter().cloned().collect()))
    }
    fn anonymous(&self) -> bool {
        true
    }
    fn command(&self, _: &Caller) -> BoxFuture<'static, Option<Vec<u8>>> {
        std::future::ready(Some(b"now".to_vec())).boxed()
    }
    /// Looks of the tenant `csd` go on record, and cannot once what is asked says so.
    fn looks<'a>(&'a self, caller: &'a Caller, what: String) -> BoxFuture<'a, bool> {
        let watched = caller.tenant.as_ref().is_some_and(|tenant| tenant.as_str() == "csd");
        let recorded = !watched || !what.contains("unwritten");
        if watched && recorded {
            self.looks.lock().push(format!("{} {what}", caller.label()));
        }
        std::future::ready(recorded).boxed()
    }
}

/// `<tenant>-<name>` with the key `secret`.
pub struct Register;

impl Authenticate for Register {
    fn authenticate<'a>(&'a self, login: Login<'a>) -> BoxFuture<'a, Result<Caller, Refusal>> {
        async move {
            let (slug, _) = login.user.split_once('-').ok_or(Refusal::Credentials)?;
            if login.password != b"secret" {
                return Err(Refusal::Credentials);
            }
            Ok(Caller {
                principal: Principal::Device { id: login.user.into() },
                tenant: Some(Tenant::parse(slug).map_err(|_| Refusal::Forbidden)?),
                roles: BTreeSet::new(),
            })
        }
        .boxed()
    }
}

#[derive(Default)]
pub struct MemoryKeep {
    pub sessions: Mutex<BTreeMap<String, SavedSession>>,
    pub messages: Mutex<BTreeMap<String, SavedMessage>>,
}

struct Kept(Arc<MemoryKeep>);

impl Keep for Kept {
    fn load(&self) -> BoxFuture<'static, Result<(Vec<SavedSession>, Vec<SavedMessage>), RecordError>> {
        let all =
            (self.0.sessions.lock().values().cloned().collect(), self.0.messages.lock().values().cloned().collect());
        async move { Ok(all) }.boxed()
    }
    fn save(&self, sessions: Vec<SavedSession>, ended: Vec<String>) -> BoxFuture<'static, Result<(), RecordError>> {
        let mut all = self.0.sessions.lock();
        all.extend(sessions.into_iter().map(|s| (s.key.clone(), s)));
        ended.iter().for_each(|key| drop(all.remove(key)));
        async { Ok(()) }.boxed()
    }
    fn retain(&self, message: SavedMessage) -> BoxFuture<'static, Result<(), RecordError>> {
        let mut all = self.0.messages.lock();
        if message.payload.is_empty() {
            all.remove(&message.topic);
        } else {
            all.insert(message.topic.clone(), message);
        }
        async { Ok(()) }.boxed()
    }
}

pub struct World {
    pub field: Arc<MemoryField>,
    pub keep: Arc<MemoryKeep>,
    pub door: Door,
    pub handle: Handle,
    pub address: SocketAddr,
    /// What the watched tenant was shown.
    pub looks: Arc<Mutex<Vec<String>>>,
}

pub fn options() -> Options {
    Options { plain: Some(([127, 0, 0, 1], 0).into()), base: "http://c/v1.1".to_owned(), ..Options::default() }
}

impl World {
    pub async fn new() -> Self {
        Self::with(options(), MemoryField::new(), Arc::default()).await
    }
    pub async fn with(options: Options, field: Arc<MemoryField>, keep: Arc<MemoryKeep>) -> Self {
        let law = Law::default();
        let looks = Arc::clone(&law.looks);
        let parts = Parts {
            field: Arc::new(Shared(Arc::clone(&field))),
            entities: Arc::new(Still),
            rights: Arc::new(law),
            authenticate: Arc::new(Register),
            keep: Arc::new(Kept(Arc::clone(&keep))),
            clock: Arc::new(SystemClock),
        };
        let door = Door::open(options, parts).await.expect("the door opens");
        let (handle, address) = (door.handle(), door.addresses()[0]);
        Self { field, keep, door, handle, address, looks }
    }
    /// The server ends and another begins with what was kept.
    pub async fn restart(self, options: Options) -> Self {
        let Self { field, keep, door, .. } = self;
        door.close().await;
        Self::with(options, field, keep).await
    }
    /// Waits until everything that is recorded has been routed, so that silence means something.
    pub async fn routed(&self) {
        let end = self.field.log.lock().len() as u64;
        while self.handle.0.next() < end {
            tokio::task::yield_now().await;
        }
    }
    pub async fn connect(&self, login: To<'_>) -> Client {
        let (client, ack) = self.try_connect(login).await;
        assert_eq!(ack.reason, 0, "{:?}", login.user);
        client
    }
    pub async fn try_connect(&self, login: To<'_>) -> (Client, Ack) {
        let mut client = Client::dial(self.address, login.version).await;
        let ack = client.hello(login).await;
        (client, ack)
    }
}
