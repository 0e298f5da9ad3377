//! temporary
use crate::*;
pub(crate) struct Engine;
pub(crate) struct Shared { pub queue: queue::Queue, pub max_payload: usize, pub options: TopicOptions }
pub(crate) struct Subscription;
pub(crate) struct Stored;
impl Engine {
    pub(crate) async fn open(_: NatsOptions, _: &[TopicOptions], _: usize) -> Result<Self, Error> { Err(Error::Unsupported("not yet")) }
    pub(crate) fn topic(&self, _: &str) -> Option<Arc<Shared>> { None }
    pub(crate) fn topics(&self) -> impl Iterator<Item = &Arc<Shared>> { [].iter() }
    pub(crate) async fn close(&self) {}
}
impl Shared {
    pub(crate) fn end(&self) -> Offset { Offset(0) }
    pub(crate) fn start(&self) -> Offset { Offset(0) }
    pub(crate) fn stats(&self) -> TopicStats { unreachable!() }
    pub(crate) async fn subscribe(self: &Arc<Self>, _: Offset) -> Result<Subscription, Error> { Err(Error::Closed) }
    pub(crate) async fn stored(&self, _: &str) -> Result<Arc<Stored>, Error> { Err(Error::Closed) }
    pub(crate) async fn commit(&self, _: &Stored, _: Offset) -> Result<(), Error> { Err(Error::Closed) }
    pub(crate) async fn forget(&self, _: &str) -> Result<(), Error> { Err(Error::Closed) }
    pub(crate) fn consumer_statuses(&self) -> Vec<ConsumerStatus> { vec![] }
    pub(crate) fn keep_from(&self, _: Offset) {}
}
impl Stored { pub(crate) fn next(&self) -> Offset { Offset(0) } }
impl Subscription {
    pub(crate) async fn next(&mut self) -> Result<Vec<Record>, Error> { Err(Error::Closed) }
    pub(crate) async fn seek(&mut self, _: Offset) -> Result<(), Error> { Err(Error::Closed) }
    pub(crate) fn position(&self) -> Offset { Offset(0) }
}
