//! What the door needs of the rest of the city, and no more: three narrow traits, so that the protocol can be tested alone.

use std::{net::SocketAddr, sync::Arc};

use futures::{future::BoxFuture, stream::BoxStream};
use kernel::{Caller, Timestamp};

use crate::{
    model::{DatastreamInfo, EntityId, Observation},
    scope::Scope,
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

/// Datastreams and their Observations.
pub trait Field: Send + Sync + 'static {
    /// Resolves when the observations are durable and applied. Dropping the future may or may not undo it.
    fn record(&self, observations: Vec<Observation>) -> BoxFuture<'static, Result<(), RecordError>>;
    /// Everything recorded from now on, in stream order.
    fn live(&self) -> BoxStream<'static, Live>;
    /// Everything from `offset` on (or from the oldest that is kept), then live, without a gap; ends on failure.
    fn replay(&self, offset: u64) -> BoxStream<'static, Applied>;
    /// The offset that the next frame will have.
    fn end(&self) -> u64;
    fn latest(&self, datastream: EntityId) -> Option<Observation>;
    /// From memory, without waiting; `None` when it is not there, whether or not it exists.
    fn cached(&self, datastream: EntityId) -> Option<Arc<DatastreamInfo>>;
    fn datastream(&self, id: EntityId) -> BoxFuture<'static, Result<Option<Arc<DatastreamInfo>>, RecordError>>;
    /// The Datastream that a device calls `key`.
    fn of_device(&self, device: &str, key: &str) -> BoxFuture<'static, Result<Option<EntityId>, RecordError>>;
    /// Datastreams by id, after `after`, for a wildcard's retained values.
    fn page(&self, after: EntityId, limit: usize) -> BoxFuture<'static, Vec<Arc<DatastreamInfo>>>;
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
    /// `caller`'s connection has begun or ended.
    fn connected(&self, _caller: &Caller, _connected: bool) {}
}

/// What a client says of itself in CONNECT.
#[derive(Clone, Copy)]
pub struct Login<'a> {
    pub user: &'a str,
    pub password: &'a [u8],
    pub client_id: &'a str,
    pub peer: SocketAddr,
    /// The client's certificate (DER) when TLS asked for one and it has been verified.
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
