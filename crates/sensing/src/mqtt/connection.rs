//! One connection: packets in, acknowledgements and messages out.
//!
//! Everything that one read of the socket brings is decoded first and recorded together; the next read does not wait for it. So many
//! messages of a connection, and those of all connections, are made durable by the same flush, and acknowledgements still leave in
//! the order in which the messages came (section 4.6).

use std::{
    collections::{HashMap, VecDeque},
    num::{NonZeroU16, NonZeroU32},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use futures::{
    FutureExt, StreamExt,
    future::BoxFuture,
    stream::{BoxStream, FuturesOrdered},
};
use kernel::Caller;
use rmqtt_codec::v5::LastWill;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{
    city::{Applied, RecordError},
    handshake::Welcome,
    hub::{self, Attached, Hub},
    inbound::{Known, Routed},
    render,
    session::{Audience, Delivery, Message, Outcome, Position, Session, Subscription},
    topic,
    wire::{
        Disconnect, Packet, Publish, PublishAck, PublishAck2, PublishAck2Reason, PublishAckReason, PublishProperties,
        QoS, Reason, RetainHandling, Subscribe, SubscribeAck, SubscribeAckReason, UnsubscribeAck, UnsubscribeAckReason,
        Version, Wire, WireError,
    },
};
use crate::model::{EntityId, Observation};

/// Bytes of output that wait for the socket before no more is encoded.
const OUT_BYTES: usize = 64 << 10;
/// Bytes asked of the socket at once, at rest and at full speed.
const READ: std::ops::RangeInclusive<usize> = 2_048..=65_536;
/// Observations recorded by one call.
const BATCH: usize = 1_000;
/// Messages of one connection that wait to become durable; then it is read no further.
const PENDING: usize = 4_096;
/// Datastreams looked at in one step when a wildcard asks for retained values.
const PAGE: usize = 100;

/// Why a connection ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// DISCONNECT from the client: the will is discarded.
    Bye { expiry: Option<u32>, will: bool },
    /// The socket is gone.
    Lost,
    /// The server ends it, and says why when the version has words for it.
    Told(Reason),
    /// Another connection has the session; whether the session began anew.
    Taken { ended: bool },
}

struct Ack {
    id: Option<NonZeroU16>,
    qos: QoS,
    refused: Option<(PublishAckReason, String)>,
}

/// Messages that are recorded together.
#[derive(Default)]
struct Batch {
    observations: Vec<Observation>,
    acks: Vec<Ack>,
}

type Pending = BoxFuture<'static, (Vec<Ack>, Result<(), RecordError>)>;

/// A wildcard's retained values, still to be sent.
struct Scan {
    filter: ByteString,
    subscription: Subscription,
    after: EntityId,
}

pub struct Connection {
    hub: Arc<Hub>,
    session: Arc<Session>,
    link: Arc<super::session::Link>,
    generation: u64,
    caller: Arc<Caller>,
    wire: Wire,
    version: Version,
    input: BytesMut,
    out: BytesMut,
    window: usize,
    pending: FuturesOrdered<Pending>,
    waiting: usize,
    /// Of those, the ones whose acknowledgement the client awaits: its use of Receive Maximum.
    unacknowledged: usize,
    batch: Batch,
    known: Known,
    aliases_in: Vec<Option<ByteString>>,
    aliases_out: HashMap<ByteString, NonZeroU16>,
    alias_max: u16,
    will: Option<LastWill>,
    silence: Option<Duration>,
    scans: VecDeque<Scan>,
    replay: Option<BoxStream<'static, Applied>>,
    frame: Option<(Applied, usize)>,
    outgoing: Vec<(Option<NonZeroU16>, Delivery)>,
}

impl Connection {
    pub fn new(hub: Arc<Hub>, welcome: Welcome) -> Self {
        let Welcome { wire, input, out, caller, attached, will, keep_alive, receive_max, alias_max } = welcome;
        let Attached { session, generation, link, .. } = attached;
        let version = wire.version().unwrap_or(Version::V3);
        let window = usize::from(receive_max).min(hub.options.window);
        Self {
            session,
            link,
            generation,
            caller: Arc::new(caller),
            wire,
            version,
            input,
            out,
            window,
            pending: FuturesOrdered::new(),
            waiting: 0,
            unacknowledged: 0,
            batch: Batch::default(),
            known: Known::default(),
            aliases_in: vec![None; usize::from(hub.options.topic_aliases)],
            aliases_out: HashMap::new(),
            alias_max,
            will,
            // Section 3.1.2.10: one and a half times the keep alive.
            silence: (keep_alive > 0).then(|| Duration::from_millis(u64::from(keep_alive) * 1_500)),
            scans: VecDeque::new(),
            replay: None,
            frame: None,
            outgoing: Vec::new(),
            hub,
        }
    }

    /// Serves the connection to its end, including what follows from it: the will, the session's expiry.
    pub async fn run<S: AsyncRead + AsyncWrite + Unpin>(mut self, stream: S) {
        let (mut reader, mut writer) = tokio::io::split(stream);
        self.hub.rights.connected(&self.caller, true);
        let end = self.turn(&mut reader, &mut writer).await;
        self.settle().await;
        if let End::Told(reason) = end {
            if !matches!(reason, Reason::ServerShuttingDown | Reason::SessionTakenOver | Reason::KeepAliveTimeout) {
                self.hub.stats.violations.add(1);
            }
            self.wire.encode(Disconnect::new(reason).into(), &mut self.out);
        }
        if let End::Taken { .. } = end {
            self.wire.encode(Disconnect::new(Reason::SessionTakenOver).into(), &mut self.out);
        }
        if end != End::Lost {
            let _ = tokio::time::timeout(Duration::from_secs(2), async {
                writer.write_all_buf(&mut self.out).await?;
                writer.shutdown().await
            })
            .await;
        }
        self.hub.rights.connected(&self.caller, false);
        self.finish(end).await;
    }

    async fn finish(mut self, end: End) {
        let expiry = match end {
            End::Bye { expiry, .. } => expiry,
            _ => None,
        };
        let kept = self.session.lock().expiry > 0;
        let ended = self.hub.detach(&self.session, self.generation, expiry);
        if ended && kept {
            self.hub.forget(self.session.key.clone()).await;
        } else if !ended && !matches!(end, End::Taken { .. }) && self.hub.save(&self.session).await.is_err() {
            tracing::warn!("a session could not be saved at its client's departure; it is tried again");
            self.session.lock().dirty = true;
        }
        let wanted = !matches!(end, End::Bye { will: false, .. });
        let Some(will) = self.will.take().filter(|_| wanted) else { return };
        let over = ended || matches!(end, End::Taken { ended: true });
        let delay = Duration::from_secs(will.will_delay_interval_sec.unwrap_or(0).into());
        if over || delay.is_zero() {
            self.send_will(will).await;
        } else if !matches!(end, End::Taken { .. }) {
            // Section 3.1.3.2.2: sent when the delay has passed or the session ends, and not if the client returns before.
            let expiry = Duration::from_secs(self.session.lock().expiry.into());
            let hub = Arc::clone(&self.hub);
            tokio::spawn(async move {
                let stopped = tokio::time::timeout(delay.min(expiry), hub.stop.cancelled()).await.is_ok();
                let returned = {
                    let state = self.session.lock();
                    state.generation != self.generation
                };
                if !stopped && !returned {
                    self.send_will(will).await;
                }
            });
        }
    }

    async fn send_will(&mut self, will: LastWill) {
        let properties = PublishProperties {
            correlation_data: will.correlation_data,
            message_expiry_interval: will.message_expiry_interval,
            content_type: will.content_type,
            user_properties: will.user_properties,
            is_utf8_payload: will.is_utf8_payload.unwrap_or(false),
            response_topic: will.response_topic,
            ..PublishProperties::default()
        };
        match self.known.route(&self.hub, &self.caller, &will.topic, &will.message).await {
            Routed::Observations(observations) => {
                let count = observations.len() as u64;
                if self.hub.field.record(observations).await.is_ok() {
                    self.hub.stats.recorded.add(count);
                }
            }
            Routed::Tenant(tenant) => {
                let message = message(&will.topic, &will.message, Some(properties), 0, will.retain);
                let _ = self.hub.publish_tenant(tenant, message, will.qos).await;
            }
            Routed::Refused(..) | Routed::Unavailable => self.hub.stats.rejected.add(1),
        }
    }

    async fn turn<R, W>(&mut self, reader: &mut R, writer: &mut W) -> End
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let stop = self.hub.stop.clone();
        let stall = self.hub.options.stall;
        let tick = self.silence.unwrap_or(stall).min(stall) / 4;
        let mut timer = tokio::time::interval(tick.max(Duration::from_millis(50)));
        let (mut heard, mut progress) = (Instant::now(), Instant::now());
        let mut chunk = *READ.start();
        self.resume();
        // CONNECT may have brought more packets with it.
        if let Err(end) = self.decode().await {
            return end;
        }
        loop {
            if let Some((reason, ended)) = self.link.ending() {
                return if reason == Reason::SessionTakenOver { End::Taken { ended } } else { End::Told(reason) };
            }
            if let Err(end) = self.fill().await {
                return end;
            }
            if self.out.is_empty() {
                progress = Instant::now();
            }
            // A burst must not be paid for by an idle connection for ever.
            if self.input.is_empty() && self.input.capacity() > 2 * chunk {
                self.input = BytesMut::new();
            }
            let wants_frame = self.frame.is_none() && self.replay.is_some() && self.out.len() < OUT_BYTES;
            let may_read = self.waiting < PENDING && self.out.len() < 4 * OUT_BYTES;
            if may_read {
                self.input.reserve(chunk);
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return End::Told(Reason::ServerShuttingDown),
                written = writer.write_buf(&mut self.out), if !self.out.is_empty() => match written {
                    Ok(n) if n > 0 => progress = Instant::now(),
                    _ => return End::Lost,
                },
                Some((acks, result)) = self.pending.next(), if !self.pending.is_empty() => {
                    if let Err(end) = self.acknowledge(acks, result) {
                        return end;
                    }
                    while let Some(Some((acks, result))) = self.pending.next().now_or_never() {
                        if let Err(end) = self.acknowledge(acks, result) {
                            return end;
                        }
                    }
                }
                read = reader.read_buf(&mut self.input), if may_read => match read {
                    Ok(n) if n > 0 => {
                        heard = Instant::now();
                        chunk = if n >= chunk { (chunk * 2).min(*READ.end()) } else if n < chunk / 4 { (chunk / 2).max(*READ.start()) } else { chunk };
                        if let Err(end) = self.decode().await {
                            return end;
                        }
                    }
                    _ => return End::Lost,
                },
                () = self.link.wake.notified() => {}
                frame = next_frame(&mut self.replay), if wants_frame => match frame {
                    Some(applied) => self.frame = Some((applied, 0)),
                    // The stream could not be read: the session stays behind, and the client comes back.
                    None => return End::Told(Reason::ServerBusy),
                },
                _ = timer.tick() => {
                    if self.silence.is_some_and(|silence| heard.elapsed() > silence) && may_read {
                        return End::Told(Reason::KeepAliveTimeout);
                    }
                    if !self.out.is_empty() && progress.elapsed() > stall {
                        self.hub.stats.stalled.add(1);
                        return End::Lost;
                    }
                }
            }
        }
    }

    /// Repeats what the session had not finished (section 4.4).
    fn resume(&mut self) {
        let unfinished = self.session.lock().unfinished();
        for (id, delivery) in unfinished {
            match delivery {
                Some(delivery) => {
                    self.publish(Some(id), &delivery, true);
                }
                None => {
                    let packet = Packet::PublishRelease(PublishAck2 { packet_id: id, ..PublishAck2::default() });
                    self.wire.encode(packet, &mut self.out);
                }
            }
        }
    }

    /// Moves messages towards the socket: what is queued, then what the stream holds, then retained values.
    async fn fill(&mut self) -> Result<(), End> {
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
        let subscriptions: Vec<_> = self
            .session
            .lock()
            .subscriptions
            .iter()
            .map(|(f, s)| (ByteString::from(hub::split(f).1), *s, hub::split(f).0))
            .collect();
        // A shared subscription is live only: its members take turns, which the stream knows nothing of.
        let own: Vec<_> =
            subscriptions.into_iter().filter(|(.., group)| group.is_none()).map(|(f, s, _)| (f, s)).collect();
        let (session, limits, generation) = (&self.session, self.hub.options.queue, self.generation);
        let put = |delivery| session.own(generation, |state| session.refill(state, delivery, &limits)).unwrap_or(false);
        let stopped = hub::from_stream(&self.hub, session, &own, &applied, start, put).await;
        if stopped < applied.observations.len() {
            self.frame = Some((applied, stopped));
        } else if self.session.own(generation, |state| state.caught_up(applied.offset)).unwrap_or(true) {
            self.replay = None;
        }
    }

    /// One page of a wildcard's retained values.
    async fn scan(&mut self, mut scan: Scan) {
        let page = self.hub.field.page(scan.after, PAGE).await;
        for info in &page {
            scan.after = info.id;
            if topic::matches(&scan.filter, &topic::observations(info.id)) {
                self.retained_value(info.id, &info.tenant, info.public, &scan.subscription);
            }
        }
        if !page.is_empty() {
            self.scans.push_front(scan);
        }
    }

    fn retained_value(&self, id: EntityId, tenant: &kernel::Tenant, public: bool, subscription: &Subscription) {
        if !self.session.lock().scope.admits(tenant, public) {
            return;
        }
        let Some(latest) = self.hub.field.latest(id) else { return };
        let message = Message {
            topic: topic::observations(id).into(),
            payload: render::observation(&self.hub.options.base, &latest),
            properties: None,
            position: None,
            expires: None,
            from: 0,
            retain: true,
        };
        self.give_retained(Arc::new(message), subscription.qos, subscription);
    }

    fn give_retained(&self, message: Arc<Message>, qos: QoS, subscription: &Subscription) {
        let delivery = Delivery { message, qos, retain: true, ids: subscription.id.into_iter().collect() };
        self.session.push(delivery, &self.hub.options.queue);
    }

    /// Encodes a PUBLISH; `false` when this client can never take it.
    fn publish(&mut self, id: Option<NonZeroU16>, delivery: &Delivery, dup: bool) -> bool {
        let message = &delivery.message;
        let mut topic = message.topic.clone();
        let mut properties = None;
        if self.version == Version::V5 {
            let mut props = message.properties.clone().unwrap_or_default();
            props.topic_alias = None;
            props.subscription_ids.clone_from(&delivery.ids);
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

    async fn decode(&mut self) -> Result<(), End> {
        let result = loop {
            match self.wire.decode(&mut self.input) {
                Ok(None) => break Ok(()),
                Ok(Some(packet)) => {
                    if let Err(end) = self.handle(packet).await {
                        break Err(end);
                    }
                }
                Err(error) => break Err(End::Told(WireError::reason(error))),
            }
        };
        // What came before a bad packet stands.
        self.flush();
        result
    }

    async fn handle(&mut self, packet: Packet) -> Result<(), End> {
        match packet {
            Packet::Publish(publish) => self.received(*publish).await,
            Packet::PublishAck(ack) => {
                self.session.own(self.generation, |state| state.done(ack.packet_id, false));
                Ok(())
            }
            Packet::PublishReceived(ack) => {
                self.pubrec(&ack);
                Ok(())
            }
            Packet::PublishComplete(ack) => {
                self.session.own(self.generation, |state| state.done(ack.packet_id, true));
                Ok(())
            }
            Packet::PublishRelease(ack) => self.pubrel(ack.packet_id),
            Packet::Subscribe(subscribe) => self.subscribe(subscribe).await,
            Packet::Unsubscribe(unsubscribe) => {
                let status = unsubscribe
                    .topic_filters
                    .iter()
                    .map(|filter| match self.hub.unsubscribe(&self.session, filter) {
                        true => UnsubscribeAckReason::Success,
                        false => UnsubscribeAckReason::NoSubscriptionExisted,
                    })
                    .collect();
                self.keep_subscriptions().await?;
                let ack = UnsubscribeAck {
                    packet_id: unsubscribe.packet_id,
                    properties: Vec::new(),
                    reason_string: None,
                    status,
                };
                self.wire.encode(ack.into(), &mut self.out);
                Ok(())
            }
            Packet::PingRequest => {
                self.wire.encode(Packet::PingResponse, &mut self.out);
                Ok(())
            }
            Packet::Disconnect(bye) => {
                // Section 3.14.2.2.2: an expiry of 0 cannot be raised afterwards.
                if bye.session_expiry_interval_secs.is_some_and(|s| s > 0) && self.session.lock().expiry == 0 {
                    return Err(End::Told(Reason::ProtocolError));
                }
                let will = bye.reason_code != Reason::NormalDisconnection;
                Err(End::Bye { expiry: bye.session_expiry_interval_secs, will })
            }
            _ => Err(End::Told(Reason::ProtocolError)),
        }
    }

    /// What was sent before the end is recorded, and acknowledged if anybody still listens.
    async fn settle(&mut self) {
        let all = async {
            while let Some((acks, result)) = self.pending.next().await {
                if self.acknowledge(acks, result).is_err() {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(5), all).await;
    }

    async fn received(&mut self, mut publish: Publish) -> Result<(), End> {
        self.hub.stats.received.add(1);
        self.resolve_alias(&mut publish)?;
        if !topic::is_name(&publish.topic) {
            return Err(End::Told(Reason::TopicNameInvalid));
        }
        if let Some(id) = publish.packet_id.filter(|_| publish.qos == QoS::ExactlyOnce) {
            let known = {
                let state = self.session.lock();
                if state.received.len() >= usize::from(self.hub.options.receive_max.get())
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
            && self.unacknowledged + self.batch.acks.iter().filter(|ack| ack.id.is_some()).count()
                >= usize::from(self.hub.options.receive_max.get())
        {
            return Err(End::Told(Reason::ReceiveMaximumExceeded));
        }
        let mut ack = Ack { id: publish.packet_id, qos: publish.qos, refused: None };
        match self.known.route(&self.hub, &self.caller, &publish.topic, &publish.payload).await {
            Routed::Observations(observations) => {
                self.batch.observations.extend(observations);
                self.batch.acks.push(ack);
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
            Routed::Refused(reason, why) => {
                self.hub.stats.rejected.add(1);
                self.hub.rights.refused(&self.caller, &why);
                if self.version == Version::V3 && publish.qos != QoS::AtMostOnce {
                    // 3.1.1 can only acknowledge or hang up (section 3.3.5), and an acknowledgement would be a lie.
                    return Err(End::Told(Reason::NotAuthorized));
                }
                ack.refused = Some((reason, why));
                self.batch.acks.push(ack);
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
    fn flush(&mut self) {
        if self.batch.acks.is_empty() && self.batch.observations.is_empty() {
            return;
        }
        let Batch { observations, acks } = std::mem::take(&mut self.batch);
        let count = observations.len() as u64;
        if count == 0 {
            self.expect(&acks);
            let acks: Pending = Box::pin(std::future::ready((acks, Ok(()))));
            self.pending.push_back(acks);
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
        }
        .boxed()
        .shared();
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

    fn wait(&mut self, acks: Vec<Ack>, outcome: Outcome) {
        self.expect(&acks);
        self.pending.push_back(Box::pin(async move { (acks, outcome.await) }));
    }

    fn expect(&mut self, acks: &[Ack]) {
        self.waiting += acks.len();
        self.unacknowledged += acks.iter().filter(|ack| ack.id.is_some()).count();
    }

    /// Acknowledges what has become durable, or says why not.
    fn acknowledge(&mut self, acks: Vec<Ack>, result: Result<(), RecordError>) -> Result<(), End> {
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

    fn pubrec(&mut self, ack: &PublishAck) {
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

    fn pubrel(&mut self, id: NonZeroU16) -> Result<(), End> {
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

    async fn subscribe(&mut self, subscribe: Subscribe) -> Result<(), End> {
        let mut status = Vec::with_capacity(subscribe.topic_filters.len());
        let mut retained = Vec::new();
        for (filter, options) in &subscribe.topic_filters {
            let filter = ByteString::from(filter.to_string());
            if options.no_local && filter.starts_with("$share/") {
                return Err(End::Told(Reason::ProtocolError));
            }
            if let Err(reason) = self.may_subscribe(&filter) {
                status.push(reason);
                continue;
            }
            let subscription = Subscription {
                qos: options.qos,
                no_local: options.no_local,
                retain_as_published: options.retain_as_published,
                id: subscribe.id,
                since: self.hub.next(),
            };
            let new = self.hub.subscribe(&self.session, &filter, subscription);
            let wants = match options.retain_handling {
                RetainHandling::AtSubscribe => true,
                RetainHandling::AtSubscribeNew => new,
                RetainHandling::NoAtSubscribe => false,
            };
            if wants && hub::split(&filter).0.is_none() {
                retained.push((filter, subscription));
            }
            status.push(match options.qos {
                QoS::AtMostOnce => SubscribeAckReason::GrantedQos0,
                QoS::AtLeastOnce => SubscribeAckReason::GrantedQos1,
                QoS::ExactlyOnce => SubscribeAckReason::GrantedQos2,
            });
        }
        self.keep_subscriptions().await?;
        let ack = SubscribeAck { packet_id: subscribe.packet_id, properties: Vec::new(), reason_string: None, status };
        self.wire.encode(ack.into(), &mut self.out);
        for (filter, subscription) in retained {
            self.retained_for(filter, subscription).await;
        }
        Ok(())
    }

    async fn keep_subscriptions(&mut self) -> Result<(), End> {
        self.hub.save(&self.session).await.map_err(|_| End::Told(Reason::ServerBusy))
    }

    fn may_subscribe(&self, filter: &str) -> Result<(), SubscribeAckReason> {
        let Ok(shared) = topic::shared(filter) else { return Err(SubscribeAckReason::TopicFilterInvalid) };
        let bare = shared.map_or(filter, |(_, bare)| bare);
        if !topic::is_filter(bare) || filter.len() > topic::MAX_BYTES {
            return Err(SubscribeAckReason::TopicFilterInvalid);
        }
        if bare.starts_with('$') {
            return Err(SubscribeAckReason::NotAuthorized);
        }
        if let Some(rest) = bare.strip_prefix("tenant/") {
            let slug = rest.split('/').next().unwrap_or_default();
            let own = self.caller.tenant.as_ref().is_some_and(|t| t.as_str() == slug);
            if self.caller.is_anonymous() || !(own || slug == "+" || slug == "#") {
                return Err(SubscribeAckReason::NotAuthorized);
            }
        }
        let state = self.session.lock();
        if state.subscriptions.len() >= self.hub.options.subscriptions && !state.subscriptions.contains_key(filter) {
            return Err(SubscribeAckReason::QuotaExceeded);
        }
        Ok(())
    }

    /// The latest value of each Datastream is what its topic retains; it is read from the head, not stored again.
    async fn retained_for(&mut self, filter: ByteString, subscription: Subscription) {
        for (message, qos, tenant) in self.hub.retained(&filter) {
            if self.session.lock().sees(&Audience::Tenant(tenant)) {
                self.give_retained(message, qos.less_value(subscription.qos), &subscription);
            }
        }
        if let Some(id) = topic::datastream_of(&filter) {
            if let Some(info) = self.hub.info(id).await {
                self.retained_value(id, &info.tenant, info.public, &subscription);
            }
        } else if filter.contains(['+', '#']) {
            self.scans.push_back(Scan { filter, subscription, after: EntityId(0) });
        }
    }
}

async fn next_frame(replay: &mut Option<BoxStream<'static, Applied>>) -> Option<Applied> {
    match replay {
        Some(replay) => replay.next().await,
        None => std::future::pending().await,
    }
}

/// A tenant's message, copied out of the read buffer: it may wait in queues for long.
fn message(topic: &str, payload: &[u8], properties: Option<PublishProperties>, from: u64, retain: bool) -> Message {
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
        from,
        retain,
    }
}
