//! The catalogue and the observations as the live stream sees them.

use std::sync::Arc;

use kernel::Caller;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use super::live::{Directory, Live};
use crate::{
    Catalog, Scope,
    model::{DatastreamInfo, EntityId},
    observe::Observe,
};

impl Directory for Catalog {
    fn describe(&self, datastream: EntityId) -> Option<Arc<DatastreamInfo>> {
        self.datastream_cached(datastream)
    }
    fn scope(&self, caller: &Caller) -> Arc<Scope> {
        Catalog::scope(self, caller)
    }
    fn system(&self, datastream: EntityId) -> Option<Arc<str>> {
        self.system_cached(datastream)
    }
}

impl<D: Directory> Live<D> {
    /// Shows whatever is applied, until `stop`. A moment of too much is passed over: the board holds the latest values only.
    pub async fn follow_observations(self, observe: Observe, stop: CancellationToken) {
        let mut applied = observe.subscribe();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                next = applied.recv() => match next {
                    Ok(applied) => {
                        if let Some(batch) = applied.batch() {
                            self.observed(applied.offset, batch);
                        }
                    }
                    Err(RecvError::Lagged(missed)) => tracing::debug!(missed, "the live stream skipped records"),
                    Err(RecvError::Closed) => return,
                }
            }
        }
    }

    /// Shows the alarms among the records of `subscription` on the topic `events`, until `stop`.
    pub async fn follow_events(self, mut subscription: stream::Subscription, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                records = subscription.next() => match records {
                    Ok(records) => records.iter().for_each(|r| self.event(r.offset.0, &r.payload)),
                    Err(error) => {
                        tracing::error!(%error, "the live stream cannot read events; trying again");
                        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                        let next = subscription.position();
                        if let Err(error) = subscription.seek(next).await {
                            tracing::warn!(%error, "the events cannot be taken up again yet");
                        }
                    }
                }
            }
        }
    }
}
