//! The catalogue and the observations as the live stream sees them.

use std::{ops::ControlFlow, sync::Arc};

use kernel::Caller;
use records::params;
use serde_json::Value;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use super::live::{Directory, Live};
use crate::{
    Catalog, Error, Scope, alarms,
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
    async fn layer(&self, system: &str) -> Result<Vec<EntityId>, Error> {
        let system = system.to_owned();
        let read = self.records().read(move |read| {
            let mut found = Vec::new();
            let all = "SELECT d.id, t.properties FROM sensing_datastream d JOIN sensing_thing t ON t.id = d.thing_id";
            read.for_each(all, params![], |row| {
                // Most Things do not even name the system: their JSON is not worth reading.
                let properties = row.get::<Option<String>>(1)?.filter(|p| p.contains(&system));
                let value = properties.and_then(|p| serde_json::from_str::<Value>(&p).ok());
                if value.is_some_and(|v| v.get("system").and_then(Value::as_str) == Some(&system)) {
                    found.push(EntityId(row.get(0)?));
                }
                Ok(ControlFlow::Continue(()))
            })?;
            Ok::<_, records::Error>(found)
        });
        read.await.map_err(alarms::stored)
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
