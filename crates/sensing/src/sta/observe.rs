//! Observations coming in: one by one, and as dataArray.

use std::sync::Arc;

use axum::extract::State;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use kernel::{Caller, Interval, Problem, Resource};
use serde_json::Value;

use super::{
    MaybeCaller, Response, SensorThings, Sent, caller,
    data_array::{Known, Reader, Rows, Stop},
    empty,
    json::Writer,
    json_response, prefers,
};
use crate::{
    Error,
    catalog::{ObservationDraft, Target},
    model::{DatastreamInfo, EntityId, EntityType, Observation, ObservationId},
    observe::Batch,
    route::action,
};

impl SensorThings {
    /// Whether the caller may add Observations to this Datastream or MultiDatastream.
    pub(super) fn may_observe(&self, caller: &Caller, info: &DatastreamInfo) -> bool {
        if caller.is_system() {
            return true;
        }
        if let Some(rights) = &self.rights {
            return rights(caller, info);
        }
        // Policies see kinds, tenants and roles, never one thing.
        let resource =
            Resource { kind: info.entity().singular(), id: "", tenant: Some(&info.tenant), public: info.public };
        self.engine.catalog().scopes().policy().allows(caller, action::OBSERVE, &resource)
    }

    /// A Datastream or MultiDatastream that the caller may add to. `None` when there is none that it may see.
    pub async fn admitted(
        &self,
        caller: &Caller,
        (of, id): (EntityType, EntityId),
    ) -> Result<Option<Arc<DatastreamInfo>>, Error> {
        let catalog = self.engine.catalog();
        // Their ids are of one sequence, so a MultiDatastream's id finds something; but no Datastream.
        let Some(info) = catalog.datastream(id).await?.filter(|info| info.entity() == of) else { return Ok(None) };
        let allowed = self.may_observe(caller, &info);
        if allowed {
            return Ok(Some(info));
        }
        if caller.is_anonymous() {
            return Err(Problem::unauthenticated().into());
        }
        // A device may write where it may not read, so the right to observe was asked first.
        if catalog.scope(caller).admits(&info.tenant, info.public) {
            return Err(Problem::forbidden(format!("You may not add Observations to {}({id}).", of.set())).into());
        }
        Ok(None)
    }

    /// Records one Observation as it is posted to `Observations`, `Datastreams(1)/Observations` or `MultiDatastreams(2)/Observations`.
    pub async fn observe(
        &self,
        caller: &Caller,
        body: &Value,
        datastream: Option<(EntityType, EntityId)>,
        feature: Option<EntityId>,
    ) -> Result<Observation, Error> {
        let observation = self.observation(caller, body, datastream, feature).await?;
        self.engine.series().record(Batch::one(observation.clone())).await?;
        Ok(observation)
    }

    /// What [`SensorThings::observe`] would record: all that can be wrong with it is found here.
    pub(super) async fn observation(
        &self,
        caller: &Caller,
        body: &Value,
        datastream: Option<(EntityType, EntityId)>,
        feature: Option<EntityId>,
    ) -> Result<Observation, Error> {
        if caller.is_anonymous() {
            return Err(Problem::unauthenticated().into());
        }
        let catalog = self.engine.catalog();
        let draft = ObservationDraft::parse(body)?;
        let named = match (&draft.datastream, datastream) {
            (Some((of, Target::Id(id))), bound) if bound.is_none_or(|b| b == (*of, *id)) => Some((*of, *id)),
            (None, bound) => bound,
            _ => None,
        };
        let about = match (&draft.feature, feature) {
            (Some(Target::Id(id)), _) => Some(Some(*id)),
            (None, bound) => Some(bound),
            _ => None,
        };
        let nothing = |(of, id): (EntityType, EntityId)| {
            Error::field(format!("/{}", of.singular()), format!("there is no {}({id})", of.set()))
        };
        // Asked first, so that a device creates nothing on its way to being refused.
        let info = match named {
            Some(home) => Some(self.admitted(caller, home).await?.ok_or_else(|| nothing(home))?),
            None => None,
        };
        // The usual case needs no transaction; an entity inside the Observation does.
        let (Some(info), Some(about)) = (info, about) else {
            let whole = catalog.prepare_observation(caller, body, datastream, feature).await?;
            let of = draft.datastream.as_ref().map(|(of, _)| *of).or(datastream.map(|(of, _)| of));
            let home = (of.unwrap_or(EntityType::Datastream), whole.datastream);
            self.admitted(caller, home).await?.ok_or_else(|| nothing(home))?;
            return Ok(whole);
        };
        let id = info.id;
        info.check(&draft.result).map_err(|e| Error::field(e.place(), e.to_string()))?;
        let feature = about.unwrap_or(info.feature);
        if feature != info.feature && !catalog.admit_feature(caller, id, feature).await? {
            return Err(Error::field("/FeatureOfInterest", format!("there is no FeaturesOfInterest({feature})")));
        }
        Ok(draft.into_observation(id, feature, Interval::instant(catalog.now())))
    }

    /// Reads a `CreateObservations` request and records it. With `ids` the answer says what each row became.
    pub async fn create_observations(&self, caller: &Caller, body: &[u8], ids: bool) -> Result<Created, Error> {
        if caller.is_anonymous() {
            return Err(Problem::unauthenticated().into());
        }
        let catalog = self.engine.catalog();
        let broken = |e: super::Broken| Error::from(Problem::field("body", e.to_string()));
        let mut reader = Reader::new(body);
        let mut rows = Rows::default();
        // The Datastream of the group before: what may be added to it may be added to the next of the same owner, unless a device asks,
        // which has some of them only.
        let mut before: Option<Arc<DatastreamInfo>> = None;
        let device = matches!(caller.principal, kernel::Principal::Device { .. });
        while let Some(group) = reader.group().map_err(broken)? {
            let near = catalog.datastream_cached(group.datastream);
            let like = before.take().zip(near).filter(|(before, info)| {
                let same =
                    (&before.tenant, before.public, before.entity()) == (&info.tenant, info.public, info.entity());
                !device && same && info.entity() == group.of
            });
            let info = match like {
                Some((_, info)) => Some(info),
                None => self.admitted(caller, (group.of, group.datastream)).await?,
            };
            before.clone_from(&info);
            let mut refused: Vec<EntityId> = Vec::new();
            loop {
                let known = |feature: EntityId| {
                    if catalog.feature_cached(group.datastream, feature) {
                        Known::Yes
                    } else if refused.contains(&feature) {
                        Known::No
                    } else {
                        Known::Unknown
                    }
                };
                match reader.rows(&group, info.as_deref(), &known, &mut rows).map_err(broken)? {
                    Stop::End => break,
                    Stop::Turn => tokio::task::yield_now().await,
                    Stop::Feature(feature) => {
                        let admitted = catalog.admit_feature(caller, group.datastream, feature).await?;
                        // Evicted again at once: ask as often as needed, but never wait for the cache.
                        if !admitted || !catalog.feature_cached(group.datastream, feature) {
                            refused.push(feature);
                        }
                    }
                }
            }
        }
        let mut created = Created { ids: Vec::new(), refused: std::mem::take(&mut rows.refused) };
        for batch in rows.take_batches() {
            if ids || !created.refused.is_empty() {
                created.ids.extend(batch.ids());
            }
            self.engine.series().record(batch).await?;
        }
        Ok(created)
    }
}

/// What became of a `CreateObservations` request.
pub struct Created {
    /// Of the rows that were recorded, in order, when they are wanted or some row was not.
    pub ids: Vec<ObservationId>,
    /// Numbers of the rows that do not fit, ascending.
    pub refused: Vec<usize>,
}

pub async fn create_observations(
    State(state): State<SensorThings>,
    extension: MaybeCaller,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Error> {
    let minimal = prefers(&headers, "return=minimal");
    let caller = caller(extension);
    // A device's newest row is on the desk; whoever sends millions of rows is no device, and they are not gone through for nothing.
    let device = matches!(caller.principal, kernel::Principal::Device { .. });
    let created = state.create_observations(&caller, &body, !minimal || device).await;
    match &created {
        Ok(_) if !device => {}
        Ok(created) => {
            if let Some(newest) = created.ids.iter().map(|id| id.at).max() {
                state.sent(&caller, Sent::Recorded(created.ids.len() as u64, Some(newest)));
            }
            if !created.refused.is_empty() {
                let refused = format!("{} rows of a data array were refused", created.refused.len());
                state.sent(&caller, Sent::Refused(&refused));
            }
        }
        Err(error) => state.told(&caller, error),
    }
    let created = created?;
    if minimal && created.refused.is_empty() {
        let mut response = empty(StatusCode::NO_CONTENT);
        response.headers_mut().insert("preference-applied", http::HeaderValue::from_static("return=minimal"));
        return Ok(response);
    }
    let base = state.base(&headers);
    let mut out = Writer::new(&base);
    out.raw("[");
    let (mut ids, mut refused) = (created.ids.iter(), created.refused.iter().peekable());
    for row in 0..created.ids.len() + created.refused.len() {
        if row > 0 {
            out.raw(",");
        }
        if refused.next_if(|r| **r == row).is_some() {
            out.raw("\"error\"");
        } else if let Some(id) = ids.next() {
            out.observation_link(id);
        }
    }
    out.raw("]");
    Ok(json_response(StatusCode::CREATED, out.out))
}
