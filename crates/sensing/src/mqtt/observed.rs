//! [`Field`] on the room's own `observe` and `catalog`.

use std::{collections::HashMap, sync::Arc};

use ahash::RandomState;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::BoxStream};
use kernel::{Caller, Tenant};
use parking_lot::RwLock;
use records::params;
use serde_json::Value;
use tokio::sync::broadcast;

use super::{
    city::{Applied, Field, Live, RecordError},
    payload,
};
use crate::{
    Catalog,
    model::{DatastreamInfo, EntityId, EntityType, Observation},
    observe::{self, Observe},
    tasking::Tasking,
};

/// Names of devices' Datastreams whose ids are remembered.
const NAMES: usize = 100_000;

/// A tenant, and `<device>.<key>`.
type Name = (Tenant, Box<str>);

/// Records through [`Observe`], many connections' observations in one frame; looks up in [`Catalog`].
#[derive(Clone)]
pub struct Observed {
    observe: Observe,
    catalog: Catalog,
    /// What was found once. It is a hint: the Datastream is looked at again before it is believed.
    names: Arc<RwLock<HashMap<Name, EntityId, RandomState>>>,
    tasking: Option<Tasking>,
}

impl Observed {
    pub fn new(observe: Observe, catalog: Catalog) -> Self {
        Self { observe, catalog, names: Arc::default(), tasking: None }
    }
    /// Takes what devices say of Tasks.
    #[must_use]
    pub fn tasking(mut self, tasking: Tasking) -> Self {
        self.tasking = Some(tasking);
        self
    }
}

fn refused(error: &observe::Error) -> RecordError {
    match error {
        observe::Error::TooMany(_) => RecordError::Refused(error.to_string()),
        _ => RecordError::Unavailable,
    }
}

fn applied(applied: &observe::Applied) -> Applied {
    let observations = applied.batch().map(|batch| batch.observations().collect()).unwrap_or_default();
    Applied { offset: applied.offset, observations }
}

impl Field for Observed {
    fn record(&self, observations: Vec<Observation>) -> BoxFuture<'static, Result<(), RecordError>> {
        let observe = self.observe.clone();
        async move { observe.record_together(observations).await.map_err(|error| refused(&error)) }.boxed()
    }

    fn live(&self) -> BoxStream<'static, Live> {
        futures::stream::unfold(self.observe.subscribe(), |mut live| async move {
            let event = match live.recv().await {
                Ok(frame) => Live::Applied(Arc::new(applied(&frame))),
                Err(broadcast::error::RecvError::Lagged(_)) => Live::Lagged,
                Err(broadcast::error::RecvError::Closed) => return None,
            };
            Some((event, live))
        })
        .boxed()
    }

    fn replay(&self, offset: u64) -> BoxStream<'static, Applied> {
        let observe = self.observe.clone();
        let opened =
            async move { observe.replay(offset).await.map_err(|e| tracing::warn!(error = %e, "no replay")).ok() };
        opened
            .into_stream()
            .filter_map(std::future::ready)
            .flat_map(|replay| {
                futures::stream::unfold(replay, |mut replay| async move {
                    match replay.next().await {
                        Ok(frame) => Some((applied(&frame), replay)),
                        Err(error) => {
                            tracing::warn!(%error, "a replay for an MQTT session ended");
                            None
                        }
                    }
                })
            })
            .boxed()
    }

    fn start(&self) -> u64 {
        self.observe.first_offset()
    }

    fn end(&self) -> u64 {
        self.observe.next_offset()
    }

    fn latest(&self, datastream: EntityId) -> Option<Observation> {
        self.observe.head(datastream).map(|head| head.latest)
    }

    fn cached(&self, datastream: EntityId) -> Option<Arc<DatastreamInfo>> {
        self.catalog.datastream_cached(datastream)
    }

    fn datastream(&self, id: EntityId) -> BoxFuture<'static, Result<Option<Arc<DatastreamInfo>>, RecordError>> {
        let catalog = self.catalog.clone();
        async move {
            catalog.datastream(id).await.map_err(|error| {
                tracing::warn!(%error, "a Datastream could not be looked up");
                RecordError::Unavailable
            })
        }
        .boxed()
    }

    /// `<device>.<key>` is the Datastream's natural key within the tenant, as packs and the register of devices name it. Whether the
    /// device may write to it is asked afterwards.
    fn of_device(
        &self,
        tenant: &Tenant,
        device: &str,
        key: &str,
    ) -> BoxFuture<'static, Result<Option<(EntityType, EntityId)>, RecordError>> {
        let name: Name = (tenant.clone(), format!("{device}.{key}").into());
        let (catalog, names) = (self.catalog.clone(), Arc::clone(&self.names));
        async move {
            let unavailable = |error: crate::Error| {
                tracing::warn!(%error, "a device's Datastream could not be looked up");
                RecordError::Unavailable
            };
            let hint = names.read().get(&name).copied();
            if let Some(id) = hint {
                // Keys do not change, but a Datastream may be deleted, or go to another tenant with its Thing. What the
                // catalogue keeps in memory follows its changes, so looking there is both cheap and true.
                let info = catalog.datastream(id).await.map_err(unavailable)?;
                if let Some(info) = info.filter(|info| info.tenant == name.0) {
                    return Ok(Some((info.entity(), id)));
                }
                names.write().remove(&name);
            }
            let mut found = None;
            for of in EntityType::SERIES {
                if found.is_none() {
                    let id = catalog.by_key(of, &name.0, &name.1).await.map_err(unavailable)?;
                    found = id.map(|id| (of, id));
                }
            }
            if let Some((_, id)) = found {
                let mut names = names.write();
                if names.len() >= NAMES {
                    names.clear();
                }
                names.insert(name, id);
            }
            Ok(found)
        }
        .boxed()
    }

    fn admits_feature(
        &self,
        caller: &Caller,
        datastream: EntityId,
        feature: EntityId,
    ) -> BoxFuture<'static, Result<bool, RecordError>> {
        let (catalog, caller) = (self.catalog.clone(), caller.clone());
        async move {
            catalog.admit_feature(&caller, datastream, feature).await.map_err(|error| {
                tracing::warn!(%error, "a FeatureOfInterest could not be looked up");
                RecordError::Unavailable
            })
        }
        .boxed()
    }

    fn complete(
        &self,
        caller: &Caller,
        body: Value,
        datastream: Option<(EntityType, EntityId)>,
        feature: Option<EntityId>,
    ) -> BoxFuture<'static, Result<Option<Observation>, RecordError>> {
        let (catalog, caller) = (self.catalog.clone(), caller.clone());
        async move {
            match catalog.prepare_observation(&caller, &body, datastream, feature).await {
                Ok(observation) => Ok(Some(observation)),
                Err(crate::Error::Refused(problem)) => match problem.status.as_u16() {
                    401 | 403 | 404 => Ok(None),
                    400..500 => Err(RecordError::Refused(payload::sentence(crate::Error::Refused(problem)))),
                    _ => Err(RecordError::Unavailable),
                },
                Err(error) => {
                    tracing::warn!(%error, "an Observation could not be completed");
                    Err(RecordError::Unavailable)
                }
            }
        }
        .boxed()
    }

    fn task(&self, caller: &Caller, task: EntityId, body: Vec<u8>) -> BoxFuture<'static, Result<(), RecordError>> {
        let (tasking, caller) = (self.tasking.clone(), caller.clone());
        async move {
            let Some(tasking) = tasking else {
                return Err(RecordError::Refused("no Tasks are taken here".to_owned()));
            };
            heard(tasking.published(&caller, task, &body).await)
        }
        .boxed()
    }

    fn propose(
        &self,
        caller: &Caller,
        capability: Option<EntityId>,
        body: Vec<u8>,
        message: (Option<String>, bool),
    ) -> BoxFuture<'static, Result<(), RecordError>> {
        let (tasking, caller) = (self.tasking.clone(), caller.clone());
        async move {
            let Some(tasking) = tasking else {
                return Err(RecordError::Refused("no Tasks are taken here".to_owned()));
            };
            let message = (message.0.as_deref(), message.1);
            heard(tasking.propose_published(&caller, capability, &body, message).await.map(drop))
        }
        .boxed()
    }

    fn page(&self, after: EntityId, limit: usize) -> BoxFuture<'static, Vec<Arc<DatastreamInfo>>> {
        let (catalog, observe) = (self.catalog.clone(), self.observe.clone());
        async move {
            let sql = "SELECT id FROM sensing_datastream WHERE id > $1
                       UNION ALL SELECT id FROM sensing_multi_datastream WHERE id > $1 ORDER BY id LIMIT $2";
            let (mut after, limit) = (after.0, limit as i64);
            let mut page = Vec::new();
            // Where nothing was ever observed, nothing is retained, and the catalogue is not even asked. A page is empty only at the end.
            while page.is_empty() {
                let ids = catalog
                    .records()
                    .read(move |read| read.query(sql, params![after, limit], |row| row.get::<i64>(0)))
                    .await
                    .unwrap_or_else(|error: records::Error| {
                        tracing::warn!(%error, "Datastreams could not be listed for retained values");
                        Vec::new()
                    });
                let Some(last) = ids.last() else { break };
                after = *last;
                for id in ids.into_iter().filter(|id| observe.head(EntityId(*id)).is_some()) {
                    if let Ok(Some(info)) = catalog.datastream(EntityId(id)).await {
                        page.push(info);
                    }
                }
            }
            page
        }
        .boxed()
    }
}

/// What a client that has spoken of Tasks is answered.
fn heard(outcome: Result<(), crate::Error>) -> Result<(), RecordError> {
    match outcome {
        Ok(()) => Ok(()),
        Err(crate::Error::Refused(problem)) if problem.status.is_client_error() => {
            Err(RecordError::Refused(payload::sentence(crate::Error::Refused(problem))))
        }
        Err(error) => {
            tracing::warn!(%error, "what was said of Tasks could not be written");
            Err(RecordError::Unavailable)
        }
    }
}
