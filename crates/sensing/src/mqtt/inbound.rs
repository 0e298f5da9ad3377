//! From a PUBLISH to observations: what the topic names, whether the caller may, what the payload says.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use ahash::RandomState;
use kernel::{Caller, Tenant};

use super::{
    city::RecordError,
    hub::Hub,
    payload::{self, Sent},
    topic::Address,
    wire::PublishAckReason,
};
use crate::model::{DatastreamInfo, EntityId, Observation};

/// How long a decision of the policy is believed. A revoked right ends within this time.
const BELIEVED: Duration = Duration::from_secs(10);
/// Datastreams and device topics that one connection remembers.
const REMEMBERED: usize = 1_024;

/// What a connection has learned of the Datastreams it publishes to.
#[derive(Default)]
pub struct Known {
    rights: HashMap<EntityId, (Arc<DatastreamInfo>, bool, Instant), RandomState>,
    devices: HashMap<Box<str>, (EntityId, Instant), RandomState>,
}

/// Where a published message goes.
pub enum Routed {
    Observations(Vec<Observation>),
    Tenant(Tenant),
    /// Not to be had: the reason for MQTT 5, and a sentence for its owner.
    Refused(PublishAckReason, String),
    /// Could not be decided; the client is to send it again.
    Unavailable,
}

fn refused(reason: PublishAckReason, why: impl Into<String>) -> Routed {
    Routed::Refused(reason, why.into())
}

/// One answer for what does not exist and for what may not be seen, so that ids cannot be probed.
fn hidden() -> Routed {
    refused(PublishAckReason::NotAuthorized, "there is no such Datastream for you to publish to")
}

impl Known {
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

    async fn device(
        &mut self,
        hub: &Hub,
        topic: &str,
        device: &str,
        key: &str,
    ) -> Result<Option<EntityId>, RecordError> {
        let now = Instant::now();
        if let Some((id, at)) = self.devices.get(topic)
            && now.duration_since(*at) < BELIEVED
        {
            return Ok(Some(*id));
        }
        let found = hub.field.of_device(device, key).await?;
        if let Some(id) = found {
            if self.devices.len() >= REMEMBERED {
                self.devices.clear();
            }
            self.devices.insert(topic.into(), (id, now));
        }
        Ok(found)
    }

    /// Decides about one message. Waits only for what is not in memory yet.
    pub async fn route(&mut self, hub: &Hub, caller: &Caller, topic: &str, body: &[u8]) -> Routed {
        let (sent, mut datastream) = match Address::of(topic) {
            Address::Nothing => {
                return refused(PublishAckReason::TopicNameInvalid, "nothing is published under this topic");
            }
            Address::Tenant(tenant) => {
                return if !caller.is_anonymous() && caller.tenant.as_ref() == Some(&tenant) {
                    Routed::Tenant(tenant)
                } else {
                    refused(PublishAckReason::NotAuthorized, "this topic belongs to another tenant")
                };
            }
            _ if caller.is_anonymous() => {
                return refused(PublishAckReason::NotAuthorized, "sign in with a device's key to publish");
            }
            Address::Observations(id) => (payload::observation(body).map(|one| vec![one]), id),
            Address::DataArray => (payload::data_array(body), None),
            Address::Device { device, key } => match self.device(hub, topic, device, key).await {
                Ok(Some(id)) => (payload::observation(body).map(|one| vec![one]), Some(id)),
                Ok(None) => return hidden(),
                Err(_) => return Routed::Unavailable,
            },
        };
        let sent: Vec<Sent> = match sent {
            Ok(sent) => sent,
            Err(error) => return refused(PublishAckReason::PayloadFormatInvalid, error.to_string()),
        };
        let now = hub.clock.now();
        let mut observations = Vec::with_capacity(sent.len());
        let mut last: Option<Arc<DatastreamInfo>> = None;
        for one in sent {
            let Some(id) = datastream.take().or(one.datastream) else {
                return refused(PublishAckReason::PayloadFormatInvalid, "the body names no Datastream");
            };
            let info = match last.take().filter(|info| info.id == id) {
                Some(info) => info,
                None => match self.datastream(hub, caller, id).await {
                    Ok(Some(info)) => info,
                    Ok(None) => return hidden(),
                    Err(_) => return Routed::Unavailable,
                },
            };
            match one.into_observation(&info, now) {
                Ok(observation) => observations.push(observation),
                Err(error) => return refused(PublishAckReason::PayloadFormatInvalid, error.to_string()),
            }
            last = Some(info);
        }
        Routed::Observations(observations)
    }
}
