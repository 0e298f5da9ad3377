//! What the client is owed: repeated, queued, read from the stream, retained.

use std::{
    num::{NonZeroU16, NonZeroU32},
    sync::Arc,
    time::Instant,
};

use bytestring::ByteString;

use super::{Connection, End, OUT_BYTES};
use crate::{
    model::{DatastreamInfo, EntityId, EntityType},
    mqtt::{
        city::Applied,
        hub, render,
        session::{Delivery, Message, State, Subscription},
        topic,
        wire::{Packet, Publish, PublishAck, PublishAck2, PublishAck2Reason, QoS, Version},
    },
};

/// The user property that tells an MQTT 5 client how many records of the stream were gone before it came back.
const MISSED: &str = "missed-records";
/// Datastreams looked at in one step when a wildcard asks for retained values.
const PAGE: usize = 100;

/// A wildcard's retained values, still to be sent.
pub(super) struct Scan {
    pub filter: ByteString,
    pub subscription: Subscription,
    pub after: EntityId,
}

impl Connection {
    /// Repeats what the session had not finished (section 4.4).
    pub(super) fn resume(&mut self) {
        let unfinished = self.session.lock().unfinished();
        for (id, delivery) in unfinished {
            match delivery {
                Some(delivery) => {
                    // What has expired meanwhile must not hold its place among the unacknowledged for ever.
                    if !self.publish(Some(id), &delivery, true) {
                        self.session.lock().give_up(id);
                    }
                }
                None => {
                    let packet = Packet::PublishRelease(PublishAck2 { packet_id: id, ..PublishAck2::default() });
                    self.wire.encode(packet, &mut self.out);
                }
            }
        }
    }

    /// Moves messages towards the socket: what is queued, then what the stream holds, then retained values.
    pub(super) async fn fill(&mut self) -> Result<(), End> {
        loop {
            let room = OUT_BYTES.saturating_sub(self.out.len());
            if room == 0 {
                return Ok(());
            }
            let mut outgoing = std::mem::take(&mut self.outgoing);
            let (session, window) = (Arc::clone(&self.session), self.window);
            let state = session.own(self.generation, |state| {
                session.take(state, window, room, &mut outgoing);
                (state.resume_at(), state.has_room(&self.hub.options.queue))
            });
            let Some((behind, has_room)) = state else { return Err(End::Taken { ended: false }) };
            let moved = !outgoing.is_empty();
            for (id, delivery) in outgoing.drain(..) {
                if !self.publish(id, &delivery, false) {
                    self.hub.stats.unsendable.add(1);
                    if let Some(id) = id {
                        session.lock().give_up(id);
                    }
                }
            }
            self.outgoing = outgoing;
            if self.outgoing.capacity() > 64 {
                self.outgoing = Vec::new();
            }
            if has_room && let Some(at) = behind {
                if self.replay.is_none() {
                    self.note_missed(self.hub.field.start());
                    self.replay = Some(self.hub.field.replay(at.offset));
                }
                if let Some((applied, start)) = self.frame.take() {
                    self.read_frame(applied, start).await;
                    continue;
                }
            } else if has_room && let Some(scan) = self.scans.pop_front() {
                self.scan(scan).await;
                continue;
            }
            if !moved {
                return Ok(());
            }
        }
    }

    async fn read_frame(&mut self, applied: Applied, start: usize) {
        self.note_missed(applied.offset);
        // A shared subscription is live only: its members take turns, which the stream knows nothing of.
        let own: Vec<_> = {
            let state = self.session.lock();
            let all = state.subscriptions.iter().map(|(filter, subscription)| (hub::split(filter), subscription));
            let own = all.filter(|((group, ..), _)| group.is_none());
            own.map(|((.., bare), subscription)| (ByteString::from(bare), subscription.clone())).collect()
        };
        let (session, limits, generation) = (&self.session, self.hub.options.queue, self.generation);
        let put = |delivery| session.own(generation, |state| session.refill(state, delivery, &limits)).unwrap_or(false);
        let stopped = self.hub.replayed(session, &own, &applied, start, put).await;
        if stopped < applied.observations.len() {
            self.frame = Some((applied, stopped));
        } else if self.session.own(generation, |state| state.caught_up(applied.offset)).unwrap_or(true) {
            self.replay = None;
        }
    }

    /// The stream goes on at `start`: counts what lay before it and was never given to the client.
    fn note_missed(&self, start: u64) {
        let missed = self.session.own(self.generation, |state| state.overtaken(start)).unwrap_or(0);
        if missed > 0 {
            self.hub.stats.overtaken.add(1);
            self.hub.stats.overtaken_records.add(missed);
            let session = &self.session.key;
            tracing::warn!(session, missed, "a session was away for longer than the stream keeps its records");
        }
    }

    /// One page of a wildcard's retained values.
    async fn scan(&mut self, mut scan: Scan) {
        let page = self.hub.field.page(scan.after, PAGE).await;
        for info in &page {
            scan.after = info.id;
            if topic::matches(&scan.filter, &topic::observations(info.entity(), info.id)) {
                self.retained_value(info, &scan.subscription);
            }
        }
        if !page.is_empty() {
            self.scans.push_front(scan);
        }
    }

    pub(super) fn retained_value(&self, info: &DatastreamInfo, subscription: &Subscription) {
        if !self.session.lock().scope.admits(&info.tenant, info.public) {
            return;
        }
        let Some(latest) = self.hub.field.latest(info.id) else { return };
        let select = subscription.select.as_deref();
        let Some(plan) = self.hub.plan(EntityType::Observation, select) else { return };
        let query = select.map_or("", |select| &select.query);
        let message = Message {
            topic: format!("{}{query}", topic::observations(info.entity(), info.id)).into(),
            payload: render::row(&self.hub.options.base, plan, &render::observation(&latest, info.entity())),
            properties: None,
            position: None,
            expires: None,
            void: None,
            from: 0,
            retain: true,
        };
        self.give_retained(Arc::new(message), subscription.qos, subscription);
    }

    pub(super) fn give_retained(&self, message: Arc<Message>, qos: QoS, subscription: &Subscription) {
        let delivery = Delivery { message, qos, retain: true, ids: subscription.id.into_iter().collect() };
        self.session.push(delivery, &self.hub.options.queue);
    }

    /// Encodes a PUBLISH; `false` when this client can never take it.
    fn publish(&mut self, id: Option<NonZeroU16>, delivery: &Delivery, dup: bool) -> bool {
        let message = &delivery.message;
        if message.is_void() {
            return false;
        }
        let mut topic = message.topic.clone();
        let mut properties = None;
        if self.version == Version::V5 {
            let mut props = message.properties.clone().unwrap_or_default();
            props.topic_alias = None;
            props.subscription_ids.clone_from(&delivery.ids);
            let missed = self.session.own(self.generation, State::told).unwrap_or(0);
            if missed > 0 {
                props.user_properties.push((MISSED.into(), missed.to_string().into()));
            }
            if let Some(at) = message.expires {
                let left = at.saturating_duration_since(Instant::now()).as_secs();
                match NonZeroU32::new(u32::try_from(left).unwrap_or(u32::MAX)) {
                    Some(left) => props.message_expiry_interval = Some(left),
                    None => return false,
                }
            }
            if let Some(alias) = self.aliases_out.get(&topic) {
                props.topic_alias = Some(*alias);
                topic = ByteString::new();
            } else if self.aliases_out.len() < usize::from(self.alias_max) {
                let alias = NonZeroU16::new(self.aliases_out.len() as u16 + 1);
                if let Some(alias) = alias {
                    props.topic_alias = Some(alias);
                    self.aliases_out.insert(topic.clone(), alias);
                }
            }
            properties = Some(props);
        } else if message.expires.is_some_and(|at| at <= Instant::now()) {
            return false;
        }
        let packet = Publish {
            dup,
            retain: delivery.retain,
            qos: delivery.qos,
            topic,
            packet_id: id,
            payload: message.payload.clone(),
            properties,
        };
        let fits = self.wire.encode(packet.into(), &mut self.out);
        if fits {
            self.hub.stats.sent.add(1);
        } else {
            // The alias was announced in a packet that never left.
            self.aliases_out.remove(&message.topic);
            self.alias_max = self.alias_max.min(self.aliases_out.len() as u16);
        }
        fits
    }

    pub(super) fn pubrec(&mut self, ack: &PublishAck) {
        let refused = u8::from(ack.reason_code) >= 0x80;
        let found = self
            .session
            .own(self.generation, |state| {
                let found = state.released(ack.packet_id);
                if found && refused {
                    state.done(ack.packet_id, true);
                }
                found
            })
            .unwrap_or(false);
        if refused {
            return;
        }
        let reason_code = if found { PublishAck2Reason::Success } else { PublishAck2Reason::PacketIdNotFound };
        let answer = PublishAck2 { packet_id: ack.packet_id, reason_code, ..PublishAck2::default() };
        self.wire.encode(Packet::PublishRelease(answer), &mut self.out);
    }
}
