//! Bytes on a connection of the MQTT door: codec, handshake, session, router. Whatever comes, the door answers or hangs up; it does not panic,
//! does not grow, and records nothing that was not allowed.

use std::sync::Arc;

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::BoxStream};
use kernel::{Caller, Interval, Principal, SystemClock, Tenant};
use sensing::{
    Scope,
    catalog::Entity,
    model::{DatastreamInfo, EntityId, EntityType, Observation, ObservationType, ResultValue},
    mqtt::{
        Anchored, Applied, Authenticate, Catalogue, Door, Entities, Field, Keep, Live, Login, Options, Owner, Parent,
        Parts, RecordError, Refusal, Rights, SavedMessage, SavedSession,
    },
    query::Row,
    sta::Path,
};
use tokio::io::AsyncWriteExt;

/// One Datastream, and no memory.
struct City;

fn info() -> Arc<DatastreamInfo> {
    Arc::new(DatastreamInfo {
        id: EntityId(1),
        tenant: Tenant::parse("a").expect("a slug"),
        public: true,
        thing: EntityId(1),
        name: "x".into(),
        observation_type: ObservationType::Measurement,
        elements: None,
        unit: None,
        feature: EntityId(1),
        interval: None,
        simulated: false,
    })
}

impl Field for City {
    fn record(&self, observations: Vec<Observation>) -> BoxFuture<'static, Result<(), RecordError>> {
        assert!(
            observations.iter().all(|o| o.datastream == EntityId(1) && o.result.number().is_none_or(f64::is_finite))
        );
        async { Ok(()) }.boxed()
    }
    fn live(&self) -> BoxStream<'static, Live> {
        futures::stream::pending().boxed()
    }
    fn replay(&self, _: u64) -> BoxStream<'static, Applied> {
        futures::stream::pending().boxed()
    }
    fn start(&self) -> u64 {
        0
    }
    fn end(&self) -> u64 {
        0
    }
    fn latest(&self, datastream: EntityId) -> Option<Observation> {
        (datastream == EntityId(1)).then(|| Observation {
            datastream,
            phenomenon: Interval::instant(kernel::Timestamp::default()),
            result_time: None,
            result: ResultValue::Number(1.0),
            feature: EntityId(1),
            quality: None,
            valid: None,
            parameters: None,
        })
    }
    fn cached(&self, datastream: EntityId) -> Option<Arc<DatastreamInfo>> {
        (datastream == EntityId(1)).then(info)
    }
    fn datastream(&self, id: EntityId) -> BoxFuture<'static, Result<Option<Arc<DatastreamInfo>>, RecordError>> {
        std::future::ready(Ok((id == EntityId(1)).then(info))).boxed()
    }
    fn of_device(
        &self,
        _: &Tenant,
        _: &str,
        _: &str,
    ) -> BoxFuture<'static, Result<Option<(EntityType, EntityId)>, RecordError>> {
        std::future::ready(Ok(Some((EntityType::Datastream, EntityId(1))))).boxed()
    }
    fn admits_feature(
        &self,
        _: &Caller,
        _: EntityId,
        feature: EntityId,
    ) -> BoxFuture<'static, Result<bool, RecordError>> {
        std::future::ready(Ok(feature == EntityId(1))).boxed()
    }
    fn complete(
        &self,
        _: &Caller,
        _: serde_json::Value,
        _: Option<(EntityType, EntityId)>,
        _: Option<EntityId>,
    ) -> BoxFuture<'static, Result<Option<Observation>, RecordError>> {
        std::future::ready(Ok(None)).boxed()
    }
    fn page(&self, after: EntityId, _: usize) -> BoxFuture<'static, Vec<Arc<DatastreamInfo>>> {
        std::future::ready(if after < EntityId(1) { vec![info()] } else { Vec::new() }).boxed()
    }
}

impl Entities for City {
    fn changes(&self) -> BoxStream<'static, Catalogue> {
        futures::stream::pending().boxed()
    }
    fn row(&self, _: EntityType, _: EntityId) -> BoxFuture<'static, Option<Row>> {
        std::future::ready(None).boxed()
    }
    fn owner(&self, _: EntityType, _: EntityId) -> BoxFuture<'static, Option<Owner>> {
        std::future::ready(Tenant::parse("a").ok().map(|tenant| (tenant, true))).boxed()
    }
    fn parents(&self, _: Arc<Entity>) -> BoxFuture<'static, Vec<Parent>> {
        std::future::ready(Vec::new()).boxed()
    }
    fn anchor(&self, _: Path) -> BoxFuture<'static, Option<Anchored>> {
        std::future::ready(None).boxed()
    }
    fn leads(&self, _: Arc<Scope>, _: Path, _: EntityId) -> BoxFuture<'static, bool> {
        std::future::ready(true).boxed()
    }
}

impl Rights for City {
    fn may_publish(&self, _: &Caller, _: &DatastreamInfo) -> bool {
        true
    }
    fn scope(&self, _: &Caller) -> Arc<Scope> {
        Arc::new(Scope::public())
    }
    fn anonymous(&self) -> bool {
        true
    }
}

impl Authenticate for City {
    fn authenticate<'a>(&'a self, login: Login<'a>) -> BoxFuture<'a, Result<Caller, Refusal>> {
        let tenant = Tenant::parse("a").ok();
        let principal = Principal::Device { id: login.user.into() };
        std::future::ready(Ok(Caller { principal, tenant, ..Caller::anonymous() })).boxed()
    }
}

impl Keep for City {
    fn load(&self) -> BoxFuture<'static, Result<(Vec<SavedSession>, Vec<SavedMessage>), RecordError>> {
        std::future::ready(Ok(Default::default())).boxed()
    }
    fn save(&self, _: Vec<SavedSession>, _: Vec<String>) -> BoxFuture<'static, Result<(), RecordError>> {
        std::future::ready(Ok(())).boxed()
    }
    fn retain(&self, _: SavedMessage) -> BoxFuture<'static, Result<(), RecordError>> {
        std::future::ready(Ok(())).boxed()
    }
}

pub fn run(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let city = Arc::new(City);
        let parts = Parts {
            field: city.clone(),
            rights: city.clone(),
            authenticate: city.clone(),
            entities: city.clone(),
            keep: city,
            clock: Arc::new(SystemClock),
        };
        let door = Door::open(Options { max_packet: 4_096, ..Options::default() }, parts).await.expect("opens");
        let handle = door.handle();
        let (mut client, server) = tokio::io::duplex(1 << 20);
        // Half of the inputs are spared the search for a CONNECT.
        if let [first, rest @ ..] = bytes {
            match first % 3 {
                0 => client
                    .write_all(&[0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, 1, b'c'])
                    .await
                    .expect("fits"),
                1 => client
                    .write_all(&[0x10, 14, 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 0, 0, 0, 1, b'c'])
                    .await
                    .expect("fits"),
                _ => {}
            }
            client.write_all(rest).await.expect("fits");
        }
        client.shutdown().await.expect("shut");
        handle.serve(server, ([127, 0, 0, 1], 1).into()).await;
        assert_eq!(handle.stats().connections.get(), 0);
        door.close().await;
    });
}
