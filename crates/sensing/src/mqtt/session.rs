//! One client's session (MQTT 5 section 4.1): subscriptions, what is queued, what is under way, and where it stands on the stream.
//!
//! A session keeps no queue of observations for an absent or slow client. It keeps a *position*: the first observation that it has
//! not been given. [`Session::push`] fills a small outbox while the client keeps up; when the outbox is full the session falls
//! behind, nothing more is pushed, and the connection reads the stream from the position until it has caught up.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    num::{NonZeroU16, NonZeroU32},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use bytestring::ByteString;
use futures::future::{BoxFuture, Shared};
use kernel::{Caller, Tenant};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use super::{
    city::RecordError,
    interest::Selection,
    stats::Stats,
    wire::{PublishProperties, QoS, Reason},
};
use crate::scope::Scope;

/// A message's place: the stream offset of its frame, the Observation in the frame, and which of the messages that this Observation
/// becomes ([`super::interest::slot`]).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Position {
    pub offset: u64,
    pub index: u32,
    pub slot: u64,
}

impl Position {
    pub fn frame(offset: u64) -> Self {
        Self { offset, index: 0, slot: 0 }
    }
    fn after(self) -> Self {
        Self { slot: self.slot.saturating_add(1), ..self }
    }
}

/// A message on its way to any number of subscribers.
#[derive(Debug)]
pub struct Message {
    pub topic: ByteString,
    pub payload: Bytes,
    pub properties: Option<PublishProperties>,
    /// For an observation, its place on the stream.
    pub position: Option<Position>,
    pub expires: Option<Instant>,
    /// Raised when it must not be given out any more, however long it has waited: a Task that is over.
    pub void: Option<Arc<AtomicBool>>,
    /// The session that published it, for No Local; 0 when none did.
    pub from: u64,
    pub retain: bool,
}

impl Message {
    /// Whether it is of no use any more.
    pub fn is_void(&self) -> bool {
        self.void.as_ref().is_some_and(|void| void.load(Ordering::Acquire))
    }
    /// What it counts for in a queue: its own bytes and a share of the bookkeeping.
    fn cost(&self) -> usize {
        self.topic.len() + self.payload.len() + 96
    }
}

/// A message for one subscriber.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub message: Arc<Message>,
    pub qos: QoS,
    pub retain: bool,
    /// Subscription Identifiers (section 3.8.2.1.2).
    pub ids: Vec<NonZeroU32>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Subscription {
    pub qos: QoS,
    pub no_local: bool,
    pub retain_as_published: bool,
    pub id: Option<NonZeroU32>,
    /// Frames before this offset were there before the subscription.
    pub since: u64,
    /// The properties it asks for; `None` for whole entities.
    pub select: Option<Arc<Selection>>,
}

/// A QoS 1 or 2 message that the client has not finished acknowledging.
#[derive(Debug)]
struct Inflight {
    id: NonZeroU16,
    /// `None` once PUBREC has come: then only PUBREL is repeated.
    delivery: Option<Delivery>,
    position: Option<Position>,
}

/// The outcome of a QoS 2 message that came in, shared by its repetitions.
pub type Outcome = Shared<BoxFuture<'static, Result<(), RecordError>>>;

#[derive(Clone, Copy, Debug)]
pub struct QueueLimits {
    /// Messages waiting for one client.
    pub messages: usize,
    /// Bytes waiting for one client.
    pub bytes: usize,
    /// Bytes waiting for all clients.
    pub total_bytes: u64,
}

/// What became of a message that was offered to a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pushed {
    Queued,
    /// Not now: the client will be given it from the stream.
    Deferred,
    Dropped,
    /// Given already.
    Known,
}

pub struct Session {
    pub number: u64,
    /// Principal and client identifier: another principal's client of the same name is another session.
    pub key: String,
    stats: Arc<Stats>,
    state: Mutex<State>,
}

/// The way to the connection that owns a session at present.
#[derive(Debug, Default)]
pub struct Link {
    pub wake: Notify,
    /// Why the connection is to end, and whether the session ends with it.
    end: Mutex<Option<(Reason, bool)>>,
}

impl Link {
    /// Asks the connection to end; the first reason stands.
    pub fn end(&self, reason: Reason, session_too: bool) {
        self.end.lock().get_or_insert((reason, session_too));
        self.wake.notify_one();
    }
    pub fn ending(&self) -> Option<(Reason, bool)> {
        *self.end.lock()
    }
}

pub struct State {
    pub subscriptions: BTreeMap<ByteString, Subscription>,
    pub scope: Arc<Scope>,
    pub tenant: Option<Tenant>,
    /// Which connection owns the session; changes with every takeover.
    pub generation: u64,
    /// The connection, while there is one.
    pub link: Option<Arc<Link>>,
    pub caller: Option<Caller>,
    pub expiry: u32,
    pub expires: Option<Instant>,
    /// Inbound QoS 2 packet ids that have been taken over but not released (method A, section 4.3.3).
    pub received: HashMap<NonZeroU16, Outcome>,
    outbox: VecDeque<Delivery>,
    outbox_bytes: usize,
    inflight: VecDeque<Inflight>,
    next_id: u16,
    behind: bool,
    /// The first observation that has not been put into the outbox.
    next: Position,
    /// While behind: frames below this were skipped and must be read from the stream.
    skipped: u64,
    /// Records that retention removed before the client was given them, and of which it has not been told.
    pub missed: u64,
    /// What was last saved.
    pub saved: Option<Position>,
    pub dirty: bool,
}

impl Session {
    pub fn new(number: u64, key: String, stats: Arc<Stats>, scope: Arc<Scope>, next: u64) -> Self {
        let state = State {
            subscriptions: BTreeMap::new(),
            scope,
            tenant: None,
            generation: 0,
            link: None,
            caller: None,
            expiry: 0,
            expires: None,
            received: HashMap::new(),
            outbox: VecDeque::new(),
            outbox_bytes: 0,
            inflight: VecDeque::new(),
            next_id: 0,
            behind: false,
            next: Position::frame(next),
            skipped: next,
            missed: 0,
            saved: None,
            dirty: false,
        };
        Self { number, key, stats, state: Mutex::new(state) }
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Runs `f` if connection `generation` still owns the session.
    pub fn own<T>(&self, generation: u64, f: impl FnOnce(&mut State) -> T) -> Option<T> {
        let mut state = self.lock();
        (state.generation == generation).then(|| f(&mut state))
    }

    /// Offers a message.
    pub fn push(&self, delivery: Delivery, limits: &QueueLimits) -> Pushed {
        let mut state = self.lock();
        let pushed = state.push(delivery, limits, &self.stats, false);
        match pushed {
            Pushed::Queued => {}
            Pushed::Deferred => self.stats.deferred.add(1),
            Pushed::Dropped => self.stats.dropped.add(1),
            Pushed::Known => return pushed,
        }
        if let Some(link) = &state.link {
            link.wake.notify_one();
        }
        pushed
    }

    /// Puts what was read from the stream into the outbox; `false` when there is no room.
    pub fn refill(&self, state: &mut State, delivery: Delivery, limits: &QueueLimits) -> bool {
        matches!(state.push(delivery, limits, &self.stats, true), Pushed::Queued | Pushed::Known)
    }

    /// Takes the next messages that may be sent with at most `window` unacknowledged, until `room` bytes are taken.
    pub fn take(
        &self,
        state: &mut State,
        window: usize,
        mut room: usize,
        out: &mut Vec<(Option<NonZeroU16>, Delivery)>,
    ) {
        while let Some(front) = state.outbox.front() {
            let reliable = front.qos != QoS::AtMostOnce;
            if room == 0 || (reliable && state.inflight.len() >= window) {
                return;
            }
            let Some(delivery) = state.outbox.pop_front() else { return };
            let cost = delivery.message.cost();
            state.outbox_bytes -= cost;
            self.stats.queued_bytes.sub(cost as u64);
            room = room.saturating_sub(cost);
            let id = reliable.then(|| {
                let id = state.free_id();
                let position = delivery.message.position;
                state.inflight.push_back(Inflight { id, delivery: Some(delivery.clone()), position });
                id
            });
            out.push((id, delivery));
        }
        if state.outbox.capacity() > 64 {
            state.outbox.shrink_to(0);
        }
    }

    /// Forgets everything queued; the session is over or starts anew.
    pub fn clear(&self, state: &mut State) {
        self.stats.queued_bytes.sub(state.outbox_bytes as u64);
        state.outbox = VecDeque::new();
        state.outbox_bytes = 0;
        state.inflight = VecDeque::new();
        state.received = HashMap::new();
    }

    /// The connection is gone: observations go back to the stream, QoS 0 is forgotten (section 4.1), the rest waits.
    pub fn park(&self, state: &mut State) {
        let waiting = state.outbox.iter().filter(|d| d.qos != QoS::AtMostOnce).find_map(|d| d.message.position);
        if let Some(first) = waiting
            && first < state.next
        {
            state.skipped = state.skipped.max(state.next.offset + 1);
            state.next = first;
            state.behind = true;
        }
        state.outbox.retain(|d| d.qos != QoS::AtMostOnce && d.message.position.is_none());
        state.outbox.shrink_to_fit();
        let bytes = state.outbox.iter().map(|d| d.message.cost()).sum::<usize>();
        self.stats.queued_bytes.sub((state.outbox_bytes - bytes) as u64);
        state.outbox_bytes = bytes;
        state.link = None;
    }
}

impl State {
    fn push(&mut self, delivery: Delivery, limits: &QueueLimits, stats: &Stats, refill: bool) -> Pushed {
        let reliable = delivery.qos != QoS::AtMostOnce;
        let position = delivery.message.position.filter(|_| reliable);
        if let Some(at) = position {
            if at < self.next {
                return Pushed::Known;
            }
            // An absent client is behind by definition: its observations wait on the stream.
            if !refill && (self.behind || self.link.is_none()) {
                if !self.behind {
                    self.behind = true;
                    self.next = at;
                }
                self.skipped = self.skipped.max(at.offset + 1);
                return Pushed::Known;
            }
        } else if !reliable && self.link.is_none() {
            return Pushed::Known;
        }
        let cost = delivery.message.cost();
        let full = self.outbox.len() >= limits.messages
            || self.outbox_bytes + cost > limits.bytes
            || stats.queued_bytes.get() + cost as u64 > limits.total_bytes;
        // A single message larger than the whole budget of a client still passes when nothing else waits.
        if full && !(self.outbox.is_empty() && cost > limits.bytes) {
            return match position {
                Some(_) if refill => Pushed::Dropped,
                Some(at) => {
                    self.behind = true;
                    self.next = at;
                    self.skipped = at.offset + 1;
                    Pushed::Deferred
                }
                None => Pushed::Dropped,
            };
        }
        if let Some(at) = position {
            self.next = at.after();
        }
        self.outbox.push_back(delivery);
        self.outbox_bytes += cost;
        stats.queued_bytes.add(cost as u64);
        Pushed::Queued
    }

    /// Sets where a new or restored session stands.
    pub fn stand(&mut self, next: Position, end: u64) {
        self.next = next;
        self.skipped = end;
        self.behind = next.offset < end;
    }

    /// Where to read the stream from, while behind.
    pub fn resume_at(&self) -> Option<Position> {
        self.behind.then_some(self.next)
    }

    /// The stream begins at `start`: what the client stood before has gone. How many records that were.
    pub fn overtaken(&mut self, start: u64) -> u64 {
        let lost = start.saturating_sub(self.next.offset);
        if lost > 0 {
            self.missed += lost;
            self.next = Position::frame(start);
            self.dirty = true;
        }
        lost
    }

    /// What the client has missed; it is told now.
    pub fn told(&mut self) -> u64 {
        self.dirty |= self.missed > 0;
        std::mem::take(&mut self.missed)
    }

    /// A whole frame has been read from the stream and put into the outbox. `true` when that was all that had been skipped.
    pub fn caught_up(&mut self, offset: u64) -> bool {
        self.next = self.next.max(Position::frame(offset + 1));
        if self.next.offset >= self.skipped {
            self.behind = false;
        }
        !self.behind
    }

    /// Nothing that the session wants is on the stream: it stands at the live end.
    pub fn no_need_to_read(&mut self) {
        self.behind = false;
        self.next = self.next.max(Position::frame(self.skipped));
    }

    pub fn has_room(&self, limits: &QueueLimits) -> bool {
        self.outbox.len() < limits.messages / 2 && self.outbox_bytes < limits.bytes / 2
    }

    /// Whether a shared subscription may choose this member.
    pub fn ready(&self, limits: &QueueLimits) -> bool {
        self.link.is_some() && !self.behind && self.outbox.len() < limits.messages && self.outbox_bytes < limits.bytes
    }

    /// The first observation that the client has not acknowledged: where a session that is restored from disk begins.
    pub fn low(&self, live: u64) -> Position {
        let inflight = self.inflight.iter().filter(|i| i.delivery.is_some()).filter_map(|i| i.position);
        let queued = self.outbox.iter().filter(|d| d.qos != QoS::AtMostOnce).filter_map(|d| d.message.position);
        let next = if self.behind { self.next } else { self.next.max(Position::frame(live)) };
        inflight.chain(queued).min().map_or(next, |first| first.min(next))
    }

    fn free_id(&mut self) -> NonZeroU16 {
        // The window is far smaller than 65,535, so this ends after a few steps.
        loop {
            self.next_id = self.next_id.wrapping_add(1);
            if let Some(id) = NonZeroU16::new(self.next_id)
                && !self.inflight.iter().any(|i| i.id == id)
            {
                return id;
            }
        }
    }

    /// PUBACK, PUBCOMP, or a PUBREC that refuses: the message is done with. `false` for an unknown id.
    pub fn done(&mut self, id: NonZeroU16, completes: bool) -> bool {
        match self.inflight.iter().position(|i| i.id == id) {
            // PUBCOMP only after PUBREC, PUBACK only for QoS 1.
            Some(at) if completes == self.inflight[at].delivery.is_none() => {
                self.inflight.remove(at);
                true
            }
            _ => false,
        }
    }

    /// PUBREC: from here on only PUBREL is repeated.
    pub fn released(&mut self, id: NonZeroU16) -> bool {
        match self.inflight.iter_mut().find(|i| i.id == id) {
            Some(inflight) => {
                inflight.delivery = None;
                true
            }
            None => false,
        }
    }

    /// Drops a message that cannot be sent at all (section 3.1.2.11.4: as if it had been sent).
    pub fn give_up(&mut self, id: NonZeroU16) {
        self.inflight.retain(|i| i.id != id);
    }

    /// What a resumed session repeats, in order: messages (then with DUP), or only their PUBREL.
    pub fn unfinished(&self) -> Vec<(NonZeroU16, Option<Delivery>)> {
        self.inflight.iter().map(|i| (i.id, i.delivery.clone())).collect()
    }

    /// Whether a message of `tenant` is for this session's eyes.
    pub fn sees(&self, audience: &Audience) -> bool {
        match audience {
            Audience::City { tenant, public, also } => {
                self.scope.admits(tenant, *public)
                    && also.iter().all(|(tenant, public)| self.scope.admits(tenant, *public))
            }
            Audience::Tenant(tenant) => self.tenant.as_ref() == Some(tenant),
            Audience::Own(label) => self.caller.as_ref().is_some_and(|caller| caller.label() == *label),
        }
    }
}

/// Who may see a message.
#[derive(Clone, Debug)]
pub enum Audience {
    /// An entity of the city: whoever may read it, and those under whose address it is sent.
    City { tenant: Tenant, public: bool, also: Vec<(Tenant, bool)> },
    /// A tenant's own message: its signed-in callers.
    Tenant(Tenant),
    /// One caller's own, by its label.
    Own(String),
}

/// The session key of a caller's client.
pub fn key(caller: &Caller, client_id: &str) -> String {
    format!("{}|{client_id}", caller.label())
}
