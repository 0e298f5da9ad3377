//! From a PUBLISH to observations: what the topic names, whether the caller may, what the payload says.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use ahash::RandomState;
use kernel::{Caller, Interval, Tenant, Timestamp};

use super::{
    city::RecordError,
    hub::Hub,
    payload::{self, MAX_ROWS},
    topic::Address,
    wire::PublishAckReason,
};
use crate::{
    catalog::Target,
    model::{DatastreamInfo, EntityId, EntityType, Observation},
    sta::{self, Reader, Rows, Stop},
};

/// How long a decision of the policy is believed. A revoked right ends within this time.
const BELIEVED: Duration = Duration::from_secs(10);
/// Datastreams that one connection remembers.
const REMEMBERED: usize = 1_024;

/// What a connection has learned of the Datastreams it publishes to.
#[derive(Default)]
pub struct Known {
    rights: HashMap<EntityId, (Arc<DatastreamInfo>, bool, Instant), RandomState>,
    /// The time that was last given to an Observation without one.
    last: Option<Timestamp>,
}

/// Where a published message goes.
pub enum Routed {
    Observations(Vec<Observation>),
    Tenant(Tenant),
    /// What a device says of a Task.
    Task(EntityId),
    /// A Task that is proposed, for this TaskingCapability or the one that the body names.
    Tasks(Option<EntityId>),
    /// What a device says of itself: `health` or `command`.
    Own(&'static str),
    /// Not to be had: the reason for MQTT 5, and a sentence for its owner.
    Refused(PublishAckReason, String),
    /// Could not be decided; the client is to send it again.
    Unavailable,
}

fn refused(reason: PublishAckReason, why: impl Into<String>) -> Routed {
    Routed::Refused(reason, why.into())
}

fn misfit(why: impl Into<String>) -> Routed {
    refused(PublishAckReason::PayloadFormatInvalid, why)
}

/// One answer for what does not exist and for what may not be seen, so that ids cannot be probed.
fn hidden() -> Routed {
    refused(PublishAckReason::NotAuthorized, "there is no such Datastream for you to publish to")
}

impl Known {
    /// The time of an Observation that brings none. An Observation is named by its time, so two messages of one read of the socket must
    /// not get the same one: the second would take the first one's place.
    fn moment(&mut self, now: Timestamp) -> Timestamp {
        let moment = self.last.map_or(now, |last| now.max(last.plus_micros(1)));
        self.last = Some(moment);
        moment
    }

    async fn datastream(
        &mut self,
        hub: &Hub,
        caller: &Caller,
        id: EntityId,
    ) -> Result<Option<Arc<DatastreamInfo>>, RecordError> {
        let info = match hub.field.cached(id) {
            Some(info) => info,
            None => match hub.field.datastream(id).await? {
                Some(info) => info,
                None => return Ok(None),
            },
        };
        let now = Instant::now();
        if let Some((known, allowed, at)) = self.rights.get(&id)
            && Arc::ptr_eq(known, &info)
            && now.duration_since(*at) < BELIEVED
        {
            return Ok(allowed.then_some(info));
        }
        let allowed = hub.rights.may_publish(caller, &info);
        if self.rights.len() >= REMEMBERED {
            self.rights.clear();
        }
        self.rights.insert(id, (Arc::clone(&info), allowed, now));
        Ok(allowed.then_some(info))
    }

    /// A Datastream (or MultiDatastream) that the caller may publish to, or the answer to give instead.
    async fn own(
        &mut self,
        hub: &Hub,
        caller: &Caller,
        (of, id): (EntityType, EntityId),
    ) -> Result<Arc<DatastreamInfo>, Routed> {
        match self.datastream(hub, caller, id).await {
            Ok(Some(info)) if info.entity() == of => Ok(info),
            // Under the other's address there is nothing, though the two share their ids.
            Ok(_) => Err(hidden()),
            Err(_) => Err(Routed::Unavailable),
        }
    }

    /// Decides about one message. Waits only for what is not in memory yet.
    pub async fn route(&mut self, hub: &Hub, caller: &Caller, topic: &str, body: &[u8]) -> Routed {
        let address = Address::of(topic);
        match &address {
            Address::Nothing => {
                return refused(PublishAckReason::TopicNameInvalid, "nothing is published under this topic");
            }
            Address::Tenant(tenant) => {
                return if !caller.is_anonymous() && caller.tenant.as_ref() == Some(tenant) {
                    Routed::Tenant(tenant.clone())
                } else {
                    refused(PublishAckReason::NotAuthorized, "this topic belongs to another tenant")
                };
            }
            _ if caller.is_anonymous() => {
                return refused(PublishAckReason::NotAuthorized, "sign in with a device's key to publish");
            }
            _ => {}
        }
        match address {
            Address::Task(id) => return Routed::Task(id),
            Address::Tasks(capability) => return Routed::Tasks(capability),
            Address::Own(what) => return Routed::Own(if what == "health" { "health" } else { "command" }),
            _ => {}
        }
        let observations = match address {
            Address::Observations(of) => self.one(hub, caller, body, of, None).await.map(|one| vec![one]),
            Address::OfFeature(id) => self.one(hub, caller, body, None, Some(id)).await.map(|one| vec![one]),
            Address::DataArray => self.array(hub, caller, body).await,
            // A device of no tenant has no names of its own.
            Address::Device { device, key } => match &caller.tenant {
                None => Err(hidden()),
                Some(tenant) => match hub.field.of_device(tenant, device, key).await {
                    Ok(Some(of)) => self.one(hub, caller, body, Some(of), None).await.map(|one| vec![one]),
                    Ok(None) => Err(hidden()),
                    Err(_) => Err(Routed::Unavailable),
                },
            },
            Address::Nothing | Address::Tenant(_) | Address::Task(_) | Address::Tasks(_) | Address::Own(_) => {
                Err(hidden())
            }
        };
        match observations {
            Ok(observations) => Routed::Observations(observations),
            Err(answer) => answer,
        }
    }

    /// One Observation, where the topic may name its Datastream, its MultiDatastream or its feature (18-088 section 14.1).
    async fn one(
        &mut self,
        hub: &Hub,
        caller: &Caller,
        body: &[u8],
        datastream: Option<(EntityType, EntityId)>,
        feature: Option<EntityId>,
    ) -> Result<Observation, Routed> {
        let (draft, json) = payload::observation(body).map_err(|error| misfit(error.to_string()))?;
        let named = match (&draft.datastream, datastream) {
            (Some((of, Target::Id(id))), Some(bound)) if (*of, *id) != bound => {
                return Err(misfit(format!("the body names another {} than the topic", of.singular())));
            }
            (Some((of, Target::Id(id))), _) => Some((*of, *id)),
            (None, None) => return Err(misfit("the body names no Datastream")),
            (_, bound) => bound,
        };
        // Asked first, so that a device creates nothing on its way to being refused.
        let info = match named {
            Some(named) => Some(self.own(hub, caller, named).await?),
            None => None,
        };
        let about = match (&draft.feature, feature) {
            (Some(Target::Id(id)), _) => Some(Some(*id)),
            (None, bound) => Some(bound),
            _ => None,
        };
        let by_id = matches!(draft.datastream, None | Some((_, Target::Id(_))));
        let (Some(info), Some(about), true) = (info, about, by_id) else {
            // An entity inside the Observation, or one that is named by its key.
            let body = json.ok_or_else(|| misfit("the payload is not an Observation"))?;
            let whole = match hub.field.complete(caller, body, datastream, feature).await {
                Ok(Some(whole)) => whole,
                Ok(None) => return Err(hidden()),
                Err(RecordError::Refused(why)) => return Err(misfit(why)),
                Err(RecordError::Unavailable) => return Err(Routed::Unavailable),
            };
            let of = draft.datastream.as_ref().map(|(of, _)| *of).or(datastream.map(|(of, _)| of));
            self.own(hub, caller, (of.unwrap_or(EntityType::Datastream), whole.datastream)).await?;
            return Ok(whole);
        };
        info.check(&draft.result).map_err(|error| misfit(error.to_string()))?;
        let feature = about.unwrap_or(info.feature);
        if feature != info.feature {
            match hub.field.admits_feature(caller, info.id, feature).await {
                Ok(true) => {}
                Ok(false) => return Err(misfit(format!("there is no FeaturesOfInterest({feature})"))),
                Err(_) => return Err(Routed::Unavailable),
            }
        }
        let now = self.moment(hub.clock.now());
        Ok(draft.into_observation(info.id, feature, Interval::instant(now)))
    }

    /// A data array (18-088 section 13.2), all or nothing: a PUBACK has no room for the fate of each row.
    async fn array(&mut self, hub: &Hub, caller: &Caller, body: &[u8]) -> Result<Vec<Observation>, Routed> {
        let broken = |error: sta::Broken| misfit(error.to_string());
        let mut reader = Reader::new(body);
        let mut rows = Rows::default();
        while let Some(group) = reader.group().map_err(broken)? {
            let info = self.own(hub, caller, (group.of, group.datastream)).await?;
            let mut admitted = HashSet::new();
            loop {
                let stop = {
                    let known = |feature| {
                        if admitted.contains(&feature) { sta::Known::Yes } else { sta::Known::Unknown }
                    };
                    reader.rows(&group, Some(&info), &known, &mut rows).map_err(broken)?
                };
                if rows.total > MAX_ROWS {
                    return Err(misfit(format!("a data array has 1 to {MAX_ROWS} rows")));
                }
                match stop {
                    Stop::End => break,
                    Stop::Turn => tokio::task::yield_now().await,
                    Stop::Feature(feature) => match hub.field.admits_feature(caller, info.id, feature).await {
                        Ok(true) => {
                            admitted.insert(feature);
                        }
                        Ok(false) => return Err(misfit(format!("there is no FeaturesOfInterest({feature})"))),
                        Err(_) => return Err(Routed::Unavailable),
                    },
                }
            }
        }
        if let Some(at) = rows.refused.first() {
            return Err(misfit(format!("row {} of the data array does not fit its Datastream", at + 1)));
        }
        if rows.total == 0 {
            return Err(misfit(format!("a data array has 1 to {MAX_ROWS} rows")));
        }
        Ok(rows.take_batches().iter().flat_map(crate::observe::Batch::observations).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_messages_of_a_connection_get_the_same_time() {
        let mut known = Known::default();
        let at = |micros| Timestamp::from_micros(micros);
        let given: Vec<_> = [5, 5, 5, 9, 2].into_iter().map(|now| known.moment(at(now))).collect();
        assert_eq!(given, [5, 6, 7, 9, 10].map(at));
    }
}
