//! What the door needs of the rest of the city, and no more: three narrow traits, so that the protocol can be tested alone.

use std::{net::SocketAddr, sync::Arc};

use futures::{future::BoxFuture, stream::BoxStream};
use kernel::{Caller, Tenant, Timestamp};
use serde_json::Value;

use crate::{
    catalog::Entity,
    model::{DatastreamInfo, EntityId, EntityType, Observation},
    query::Row,
    scope::Scope,
    sta::Path,
};

/// Observations that are durable and in the head: one frame of the stream.
#[derive(Clone, Debug)]
pub struct Applied {
    pub offset: u64,
    pub observations: Vec<Observation>,
}

/// What the live feed says.
#[derive(Clone, Debug)]
pub enum Live {
    Applied(Arc<Applied>),
    /// The listener was too slow and frames are missing; they are still on the stream.
    Lagged,
}

/// Why observations were not recorded.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecordError {
    /// Not acceptable, however often it is sent.
    #[error("{0}")]
    Refused(String),
    /// Acceptable, but not now: the disk is full, the stream is away.
    #[error("not recorded; send it again later")]
    Unavailable,
}

/// Datastreams, MultiDatastreams and their Observations.
pub trait Field: Send + Sync + 'static {
    /// Resolves when the observations are durable and applied. Dropping the future may or may not undo it.
    fn record(&self, observations: Vec<Observation>) -> BoxFuture<'static, Result<(), RecordError>>;
    /// Everything recorded from now on, in stream order.
    fn live(&self) -> BoxStream<'static, Live>;
    /// Everything from `offset` on (or from the oldest that is kept), then live, without a gap; ends on failure, also when retention
    /// overtakes the reader.
    fn replay(&self, offset: u64) -> BoxStream<'static, Applied>;
    /// The oldest offset that is kept.
    fn start(&self) -> u64;
    /// The offset that the next frame will have.
    fn end(&self) -> u64;
    fn latest(&self, datastream: EntityId) -> Option<Observation>;
    /// From memory, without waiting; `None` when it is not there, whether or not it exists.
    fn cached(&self, datastream: EntityId) -> Option<Arc<DatastreamInfo>>;
    fn datastream(&self, id: EntityId) -> BoxFuture<'static, Result<Option<Arc<DatastreamInfo>>, RecordError>>;
    /// The Datastream or MultiDatastream that a device of `tenant` calls `key`, as it is now.
    fn of_device(
        &self,
        tenant: &Tenant,
        device: &str,
        key: &str,
    ) -> BoxFuture<'static, Result<Option<(EntityType, EntityId)>, RecordError>>;
    /// Whether Observations of `datastream` may be about `feature`, which is not its own.
    fn admits_feature(
        &self,
        caller: &Caller,
        datastream: EntityId,
        feature: EntityId,
    ) -> BoxFuture<'static, Result<bool, RecordError>>;
    /// Completes an Observation whose body holds entities or names them by key: they are found or created. `None` when the caller may not.
    fn complete(
        &self,
        caller: &Caller,
        body: Value,
        datastream: Option<(EntityType, EntityId)>,
        feature: Option<EntityId>,
    ) -> BoxFuture<'static, Result<Option<Observation>, RecordError>>;
    /// What `caller` says of a Task: resolves when it is durable.
    fn task(&self, _caller: &Caller, _task: EntityId, _body: Vec<u8>) -> BoxFuture<'static, Result<(), RecordError>> {
        Box::pin(std::future::ready(Err(RecordError::Refused("no Tasks are taken here".to_owned()))))
    }
    /// A Task that `caller` proposes: resolves when it is durable. `message` names the message within its client, and says whether it may have
    /// come before.
    fn propose(
        &self,
        _caller: &Caller,
        _capability: Option<EntityId>,
        _body: Vec<u8>,
        _message: (Option<String>, bool),
    ) -> BoxFuture<'static, Result<(), RecordError>> {
        Box::pin(std::future::ready(Err(RecordError::Refused("no Tasks are taken here".to_owned()))))
    }
    /// Datastreams and MultiDatastreams by id, after `after`, for a wildcard's retained values.
    fn page(&self, after: EntityId, limit: usize) -> BoxFuture<'static, Vec<Arc<DatastreamInfo>>>;
}

/// One entity of the catalogue that was created or changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Changed {
    pub created: bool,
    pub entity: EntityType,
    pub id: EntityId,
    /// Of a change, the properties that have another value now.
    pub properties: Vec<String>,
}

/// What the feed of the catalogue says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Catalogue {
    /// What one command has changed.
    Changed(Vec<Changed>),
    /// So many records are gone that the listener has not seen.
    Missed(u64),
}

/// Who owns an entity, and whether everybody may read it.
pub type Owner = (Tenant, bool);

/// An entity to which another one is tied, as the place where it can be found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Parent {
    /// `Things(3)/Datastreams`.
    pub collection: String,
    pub owner: Owner,
}

/// Whose Observations a path leads to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Anchored {
    pub entity: EntityType,
    pub id: EntityId,
    /// All of them must be visible to whoever follows the path.
    pub owners: Vec<Owner>,
}

/// The catalogue as those see it who follow its entities. What is to be sent is read when it is sent.
pub trait Entities: Send + Sync + 'static {
    /// Everything from now on, in the order of the stream, whichever server has done it.
    fn changes(&self) -> BoxStream<'static, Catalogue>;
    fn row(&self, entity: EntityType, id: EntityId) -> BoxFuture<'static, Option<Row>>;
    fn owner(&self, entity: EntityType, id: EntityId) -> BoxFuture<'static, Option<Owner>>;
    /// The collections that this entity is in by a tie of its own.
    fn parents(&self, entity: Arc<Entity>) -> BoxFuture<'static, Vec<Parent>>;
    /// The Datastream or feature whose Observations are where the path leads, and who owns what lies on the way.
    fn anchor(&self, path: Path) -> BoxFuture<'static, Option<Anchored>>;
    /// Whether whoever has this scope finds the entity where the path leads.
    fn leads(&self, scope: Arc<Scope>, path: Path, id: EntityId) -> BoxFuture<'static, bool>;
}

/// Who may do what.
pub trait Rights: Send + Sync + 'static {
    /// Whether `caller` may add Observations to `datastream`; a device only to its own Thing's.
    fn may_publish(&self, caller: &Caller, datastream: &DatastreamInfo) -> bool;
    /// What `caller` may read.
    fn scope(&self, caller: &Caller) -> Arc<Scope>;
    /// Whether a client that gives no user name may come in, to read what is public.
    fn anonymous(&self) -> bool;

    /// `count` Observations of `caller` have become durable; `latest` is their newest phenomenonTime. For the health of devices.
    fn recorded(&self, _caller: &Caller, _latest: Option<Timestamp>, _count: u64) {}
    /// A message of `caller` was refused, and why.
    fn refused(&self, _caller: &Caller, _why: &str) {}
    /// What `caller` says of itself, `health` or `command`: resolves when it is kept as far as it is to be kept.
    fn said(
        &self,
        _caller: &Caller,
        _what: &'static str,
        _body: Vec<u8>,
    ) -> BoxFuture<'static, Result<(), RecordError>> {
        Box::pin(std::future::ready(Err(RecordError::Refused("nobody listens to this here".to_owned()))))
    }
    /// What `caller` is to do, as it is told to a device that begins to listen.
    fn command(&self, _caller: &Caller) -> BoxFuture<'static, Option<Vec<u8>>> {
        Box::pin(std::future::ready(None))
    }
    /// `caller`'s connection has begun or ended.
    fn connected(&self, _caller: &Caller, _connected: bool) {}
    /// `caller` follows Tasks that it did not follow before.
    fn follows_tasks(&self, _caller: &Caller) {}
    /// `caller` is about to be shown something: `SUBSCRIBE v1.1/Things`, or what an earlier session asked for. Resolves when that is on record,
    /// where it has to be; `false` when it cannot be, and then nothing is shown.
    fn looks<'a>(&'a self, _caller: &'a Caller, _what: String) -> BoxFuture<'a, bool> {
        Box::pin(std::future::ready(true))
    }
}

/// What a client says of itself in CONNECT.
#[derive(Clone, Copy)]
pub struct Login<'a> {
    pub user: &'a str,
    pub password: &'a [u8],
    pub client_id: &'a str,
    pub peer: SocketAddr,
    /// The client's certificate (DER) when TLS asked for one and it has been verified. Who shows one and no user name signs in with it.
    pub certificate: Option<&'a [u8]>,
}

/// Why a client may not come in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The user name or the key is wrong. Never says which.
    Credentials,
    /// Known, but not allowed here.
    Forbidden,
    /// Cannot be told now.
    Unavailable,
}

/// Verifies a device's or program's key.
pub trait Authenticate: Send + Sync + 'static {
    fn authenticate<'a>(&'a self, login: Login<'a>) -> BoxFuture<'a, Result<Caller, Refusal>>;
}

/// A session that outlives its connection, as it is kept in `records`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SavedSession {
    /// Principal and client identifier.
    pub key: String,
    /// JSON of the subscriptions; this door alone reads it.
    pub body: String,
    pub expires_at: Timestamp,
}

/// A retained message of a tenant's own topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SavedMessage {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: u8,
}

/// Everything that was kept.
pub type Kept = (Vec<SavedSession>, Vec<SavedMessage>);

/// Where sessions and retained messages survive a restart.
pub trait Keep: Send + Sync + 'static {
    fn load(&self) -> BoxFuture<'static, Result<Kept, RecordError>>;
    fn save(&self, sessions: Vec<SavedSession>, ended: Vec<String>) -> BoxFuture<'static, Result<(), RecordError>>;
    /// An empty payload removes the message.
    fn retain(&self, message: SavedMessage) -> BoxFuture<'static, Result<(), RecordError>>;
}
