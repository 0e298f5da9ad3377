//! What the client publishes: gathered, recorded together, acknowledged in order.

use std::{
    num::NonZeroU16,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use bytestring::ByteString;
use futures::{FutureExt, StreamExt};
use sha2::{Digest, Sha256};

use super::{Connection, End};
use crate::{
    model::Observation,
    mqtt::{
        city::RecordError,
        inbound::Routed,
        session::{Message, Outcome, Position},
        topic,
        wire::{
            Packet, Publish, PublishAck, PublishAck2, PublishAck2Reason, PublishAckReason, PublishProperties, QoS,
            Reason, Version,
        },
    },
};

/// Observations recorded by one call.
const BATCH: usize = 1_000;

pub(super) struct Ack {
    id: Option<NonZeroU16>,
    qos: QoS,
    refused: Option<(PublishAckReason, String)>,
}

/// Messages that are recorded together.
#[derive(Default)]
pub(super) struct Batch {
    observations: Vec<Observation>,
    acks: Vec<Ack>,
    /// Of the acknowledgements, those that the client awaits, and of these the ones of QoS 2.
    awaited: usize,
    exactly_once: usize,
}

impl Batch {
    fn push(&mut self, ack: Ack) {
        self.awaited += usize::from(ack.id.is_some());
        self.exactly_once += usize::from(ack.id.is_some() && ack.qos == QoS::ExactlyOnce);
        self.acks.push(ack);
    }
}

impl Connection {
    /// What was sent before the end is recorded, and acknowledged if anybody still listens.
    pub(super) async fn settle(&mut self) {
        let all = async {
            while let Some((acks, result)) = self.pending.next().await {
                if self.acknowledge(acks, result).is_err() {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(5), all).await;
    }

    pub(super) async fn received(&mut self, mut publish: Publish) -> Result<(), End> {
        self.hub.stats.received.add(1);
        self.resolve_alias(&mut publish)?;
        if !topic::is_name(&publish.topic) {
            return Err(End::Told(Reason::TopicNameInvalid));
        }
        if let Some(id) = publish.packet_id.filter(|_| publish.qos == QoS::ExactlyOnce) {
            let known = {
                let state = self.session.lock();
                if state.received.len() + self.batch.exactly_once >= usize::from(self.hub.options.receive_max.get())
                    && !state.received.contains_key(&id)
                {
                    return Err(End::Told(Reason::ReceiveMaximumExceeded));
                }
                // A message that could not be recorded has not been received.
                state.received.get(&id).filter(|outcome| !matches!(outcome.peek(), Some(Err(_)))).cloned()
            };
            if let Some(outcome) = known {
                self.flush();
                let acks = vec![Ack { id: Some(id), qos: publish.qos, refused: None }];
                self.wait(acks, outcome);
                return Ok(());
            }
        }
        if self.version == Version::V5
            && publish.qos != QoS::AtMostOnce
            && self.unacknowledged + self.batch.awaited >= usize::from(self.hub.options.receive_max.get())
        {
            return Err(End::Told(Reason::ReceiveMaximumExceeded));
        }
        let mut ack = Ack { id: publish.packet_id, qos: publish.qos, refused: None };
        match self.known.route(&self.hub, &self.caller, &publish.topic, &publish.payload).await {
            Routed::Observations(observations) => {
                self.batch.observations.extend(observations);
                self.batch.push(ack);
                if self.batch.observations.len() >= BATCH {
                    self.flush();
                }
            }
            Routed::Tenant(tenant) => {
                // In order behind the observations that came before.
                self.flush();
                let hub = Arc::clone(&self.hub);
                let message =
                    message(&publish.topic, &publish.payload, publish.properties, self.session.number, publish.retain);
                let outcome = async move { hub.publish_tenant(tenant, message, publish.qos).await }.boxed().shared();
                self.remember(std::slice::from_ref(&ack), &outcome);
                self.wait(vec![ack], outcome);
            }
            Routed::Task(id) => {
                // In order behind the observations that came before: a reading may be among them.
                self.flush();
                let outcome = self.hub.field.task(&self.caller, id, publish.payload.to_vec()).boxed().shared();
                self.remember(std::slice::from_ref(&ack), &outcome);
                self.wait(vec![ack], outcome);
            }
            Routed::Tasks(capability) => {
                self.flush();
                // Within a session a packet's identifier names the message until it is acknowledged; the session's key says whose it is.
                let message = publish.packet_id.map(|id| format!("{} {id}", self.session.key));
                let message = (message.map(|name| hex::encode(Sha256::digest(name))), publish.dup);
                let body = publish.payload.to_vec();
                let outcome = self.hub.field.propose(&self.caller, capability, body, message).boxed().shared();
                self.remember(std::slice::from_ref(&ack), &outcome);
                self.wait(vec![ack], outcome);
            }
            Routed::Own(what) => {
                self.flush();
                let outcome = self.hub.rights.said(&self.caller, what, publish.payload.to_vec()).boxed().shared();
                self.remember(std::slice::from_ref(&ack), &outcome);
                self.wait(vec![ack], outcome);
            }
            Routed::Refused(reason, why) => {
                self.hub.stats.rejected.add(1);
                self.hub.rights.refused(&self.caller, &why);
                if self.version == Version::V3 && publish.qos != QoS::AtMostOnce {
                    // 3.1.1 can only acknowledge or hang up (section 3.3.5), and an acknowledgement would be a lie.
                    return Err(End::Told(Reason::NotAuthorized));
                }
                ack.refused = Some((reason, why));
                self.batch.push(ack);
            }
            Routed::Unavailable => {
                self.hub.stats.unavailable.add(1);
                if publish.qos != QoS::AtMostOnce {
                    return Err(End::Told(Reason::ServerBusy));
                }
            }
        }
        Ok(())
    }

    fn resolve_alias(&mut self, publish: &mut Publish) -> Result<(), End> {
        let alias = publish.properties.as_ref().and_then(|p| p.topic_alias);
        if publish.properties.as_ref().is_some_and(|p| !p.subscription_ids.is_empty()) {
            return Err(End::Told(Reason::ProtocolError));
        }
        let Some(alias) = alias else {
            return if publish.topic.is_empty() { Err(End::Told(Reason::ProtocolError)) } else { Ok(()) };
        };
        let Some(slot) = self.aliases_in.get_mut(usize::from(alias.get()) - 1) else {
            return Err(End::Told(Reason::TopicAliasInvalid));
        };
        if publish.topic.is_empty() {
            publish.topic = slot.clone().ok_or(End::Told(Reason::ProtocolError))?;
        } else {
            // A copy: the topic is a slice of the read buffer, which would otherwise live as long as the alias.
            *slot = Some(ByteString::from(publish.topic.to_string()));
        }
        Ok(())
    }

    /// Hands the batch on to be recorded, and lets the acknowledgements wait for it.
    pub(super) fn flush(&mut self) {
        if self.batch.acks.is_empty() && self.batch.observations.is_empty() {
            return;
        }
        let Batch { observations, acks, exactly_once, .. } = std::mem::take(&mut self.batch);
        let count = observations.len() as u64;
        if count == 0 {
            self.wait(acks, std::future::ready(Ok(())));
            return;
        }
        let (hub, caller) = (Arc::clone(&self.hub), Arc::clone(&self.caller));
        let latest = observations.iter().map(|o| o.phenomenon.end).max();
        let outcome = async move {
            let result = hub.field.record(observations).await;
            match &result {
                Ok(()) => {
                    hub.stats.recorded.add(count);
                    hub.rights.recorded(&caller, latest, count);
                }
                Err(RecordError::Unavailable) => hub.stats.unavailable.add(count),
                Err(RecordError::Refused(_)) => hub.stats.rejected.add(count),
            }
            result
        };
        if exactly_once == 0 {
            self.wait(acks, outcome);
            return;
        }
        let outcome = outcome.boxed().shared();
        self.remember(&acks, &outcome);
        self.wait(acks, outcome);
    }

    /// QoS 2: the id is known from now on, and the outcome no longer depends on this connection.
    fn remember(&self, acks: &[Ack], outcome: &Outcome) {
        let mut any = false;
        for ack in acks.iter().filter(|a| a.qos == QoS::ExactlyOnce && a.refused.is_none()) {
            if let Some(id) = ack.id {
                self.session.own(self.generation, |state| state.received.insert(id, outcome.clone()));
                any = true;
            }
        }
        if any {
            tokio::spawn(outcome.clone());
        }
    }

    fn wait(&mut self, acks: Vec<Ack>, outcome: impl Future<Output = Result<(), RecordError>> + Send + 'static) {
        self.waiting += acks.len();
        self.unacknowledged += acks.iter().filter(|ack| ack.id.is_some()).count();
        self.pending.push_back(Box::pin(async move { (acks, outcome.await) }));
    }

    /// Acknowledges what has become durable, or says why not.
    pub(super) fn acknowledge(&mut self, acks: Vec<Ack>, result: Result<(), RecordError>) -> Result<(), End> {
        self.waiting -= acks.len();
        self.unacknowledged -= acks.iter().filter(|ack| ack.id.is_some()).count();
        for ack in acks {
            let Some(packet_id) = ack.id else { continue };
            let refused = match (&ack.refused, &result) {
                (Some((reason, why)), _) => Some((*reason, why.clone())),
                (None, Ok(())) => None,
                (None, Err(RecordError::Refused(why))) => Some((PublishAckReason::QuotaExceeded, why.clone())),
                // No acknowledgement of any kind: the client keeps the message and sends it again.
                (None, Err(RecordError::Unavailable)) => return Err(End::Told(Reason::ServerBusy)),
            };
            if refused.is_some() {
                if self.version == Version::V3 {
                    return Err(End::Told(Reason::NotAuthorized));
                }
                if ack.qos == QoS::ExactlyOnce {
                    self.session.own(self.generation, |state| state.received.remove(&packet_id));
                }
            }
            let (reason_code, reason_string) = match refused {
                Some((reason, why)) => (reason, Some(why.into())),
                None => (PublishAckReason::Success, None),
            };
            let answer = PublishAck { packet_id, reason_code, properties: Vec::new(), reason_string };
            let packet = match ack.qos {
                QoS::ExactlyOnce => Packet::PublishReceived(answer),
                _ => Packet::PublishAck(answer),
            };
            self.wire.encode(packet, &mut self.out);
        }
        Ok(())
    }

    pub(super) fn pubrel(&mut self, id: NonZeroU16) -> Result<(), End> {
        let found = {
            let mut state = self.session.lock();
            match state.received.get(&id) {
                // PUBREL before its PUBREC was sent.
                Some(outcome) if outcome.peek().is_none() => return Err(End::Told(Reason::ProtocolError)),
                Some(_) => state.received.remove(&id).is_some(),
                None => false,
            }
        };
        let reason_code = if found { PublishAck2Reason::Success } else { PublishAck2Reason::PacketIdNotFound };
        let answer = PublishAck2 { packet_id: id, reason_code, ..PublishAck2::default() };
        self.wire.encode(Packet::PublishComplete(answer), &mut self.out);
        Ok(())
    }
}

/// A tenant's message, copied out of the read buffer: it may wait in queues for long.
pub(super) fn message(
    topic: &str,
    payload: &[u8],
    properties: Option<PublishProperties>,
    from: u64,
    retain: bool,
) -> Message {
    let expires = properties
        .as_ref()
        .and_then(|p| p.message_expiry_interval)
        .map(|secs| Instant::now() + Duration::from_secs(secs.get().into()));
    Message {
        topic: topic.into(),
        payload: Bytes::copy_from_slice(payload),
        properties: properties.map(|p| PublishProperties { topic_alias: None, ..p }),
        position: None::<Position>,
        expires,
        void: None,
        from,
        retain,
    }
}
