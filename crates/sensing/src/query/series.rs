//! Where Observations are, as the query layer and the HTTP door see it.

use futures::future::BoxFuture;
use kernel::Timestamp;

use super::load::Extent;
use crate::{
    Error,
    model::{EntityId, Observation, ObservationId},
    observe::{Batch, Observe, Order, SeriesQuery, Tally},
};

/// A stretch of one Datastream's series.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    pub datastream: EntityId,
    /// phenomenonTime (its start), both ends inclusive.
    pub from: Option<Timestamp>,
    pub to: Option<Timestamp>,
    pub descending: bool,
    /// Continue after this Observation, in the order asked for.
    pub after: Option<ObservationId>,
    pub limit: usize,
}

/// Where Observations are: head, recent memory and lake as one. A trait, so that the query layer is tested without a stream and a lake.
pub trait Series: Send + Sync + 'static {
    /// What is known of a Datastream without reading it.
    fn extent(&self, datastream: EntityId) -> Extent;
    /// The Observation with the newest phenomenonTime.
    fn latest(&self, datastream: EntityId) -> Option<Observation>;
    /// Exactly.
    fn count(&self, datastream: EntityId) -> BoxFuture<'_, Result<u64, Error>>;
    /// Those whose phenomenonTime lies between both ends, inclusive; `None` when they must be read to know.
    fn count_between(
        &self,
        datastream: EntityId,
        from: Option<Timestamp>,
        to: Option<Timestamp>,
    ) -> BoxFuture<'_, Result<Option<u64>, Error>>;
    /// By phenomenonTime, FeatureOfInterest, resultTime; never more than the limit, fewer only at the end.
    fn read(&self, span: Span) -> BoxFuture<'_, Result<Vec<Observation>, Error>>;
    fn get(&self, id: ObservationId) -> BoxFuture<'_, Result<Option<Observation>, Error>>;
    /// Resolves once durable and visible.
    fn record(&self, batch: Batch) -> BoxFuture<'_, Result<(), Error>>;
    fn remove(&self, ids: Vec<ObservationId>) -> BoxFuture<'_, Result<(), Error>>;
    fn drop_datastream(&self, datastream: EntityId) -> BoxFuture<'_, Result<(), Error>>;

    /// Counts by owner, where they are kept; without them all series are walked.
    fn tally(&self) -> Option<&Tally> {
        None
    }
    /// Tells the tally what a series counts now.
    fn tell(&self, _series: EntityId) {}
    fn tell_all(&self, _series: Vec<i64>) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

impl Series for Observe {
    fn extent(&self, datastream: EntityId) -> Extent {
        self.head(datastream)
            .map_or(Extent::default(), |h| Extent { phenomenon: Some(h.phenomenon), result: h.result_time })
    }
    fn latest(&self, datastream: EntityId) -> Option<Observation> {
        self.head(datastream).map(|h| h.latest)
    }
    fn count(&self, datastream: EntityId) -> BoxFuture<'_, Result<u64, Error>> {
        Box::pin(async move { Ok(Self::count(self, datastream).await?) })
    }
    fn count_between(
        &self,
        datastream: EntityId,
        from: Option<Timestamp>,
        to: Option<Timestamp>,
    ) -> BoxFuture<'_, Result<Option<u64>, Error>> {
        Box::pin(async move { Ok(Self::count_between(self, datastream, from, to).await?) })
    }
    fn read(&self, span: Span) -> BoxFuture<'_, Result<Vec<Observation>, Error>> {
        let Span { datastream, from, to, descending, after, limit } = span;
        let order = if descending { Order::Descending } else { Order::Ascending };
        Box::pin(async move { Ok(Self::read(self, SeriesQuery { datastream, from, to, order, after, limit }).await?) })
    }
    fn get(&self, id: ObservationId) -> BoxFuture<'_, Result<Option<Observation>, Error>> {
        Box::pin(async move { Ok(Self::get(self, &id).await?) })
    }
    fn record(&self, batch: Batch) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            if batch.len() == 1 {
                let one = batch.observations().collect();
                return self.record_together(one).await.map_err(|error| Error::from(&*error));
            }
            Ok(Self::record(self, batch).await.map(|_| ())?)
        })
    }
    fn remove(&self, ids: Vec<ObservationId>) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move { Ok(Self::remove(self, ids).await.map(|_| ())?) })
    }
    fn drop_datastream(&self, datastream: EntityId) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move { Ok(Self::drop_datastream(self, datastream).await.map(|_| ())?) })
    }
    fn tally(&self) -> Option<&Tally> {
        Some(Self::tally(self))
    }
    fn tell(&self, series: EntityId) {
        Self::tell(self, series);
    }
    fn tell_all(&self, series: Vec<i64>) -> BoxFuture<'_, ()> {
        Box::pin(Self::tell_all(self, series))
    }
}
