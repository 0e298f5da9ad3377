//! The router: who is connected, who subscribed to what, and the way of a message to all of them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use ahash::RandomState;
use bytes::Bytes;
use bytestring::ByteString;
use futures::StreamExt;
use kernel::{Caller, Clock, Tenant};
use parking_lot::{Mutex, RwLock};
use tokio_util::sync::CancellationToken;

use super::{
    Options,
    city::{Applied, Authenticate, Field, Keep, Live, RecordError, Rights, SavedMessage},
    render, saved,
    session::{self, Audience, Delivery, Link, Message, Position, Pushed, Session, Subscription},
    stats::Stats,
    throttle::Throttle,
    topic::{self, ALL_OBSERVATIONS},
    trie::Trie,
    wire::{QoS, Reason},
};
use crate::model::{DatastreamInfo, EntityId};

type Group = Option<Arc<str>>;
/// A retained message, the QoS it was published with, and whose it is.
pub type Retained = (Arc<Message>, QoS, Tenant);

/// A place in the tree of subscriptions.
struct Subscriber {
    session: Arc<Session>,
    subscription: Subscription,
    group: Group,
}

pub struct Hub {
    pub options: Options,
    pub stats: Arc<Stats>,
    pub field: Arc<dyn Field>,
    pub rights: Arc<dyn Rights>,
    pub authenticate: Arc<dyn Authenticate>,
    pub keep: Arc<dyn Keep>,
    pub clock: Arc<dyn Clock>,
    pub throttle: Throttle,
    pub stop: CancellationToken,
    pub sessions: Mutex<HashMap<String, Arc<Session>, RandomState>>,
    trie: RwLock<Trie<(u64, Group), Subscriber>>,
    retained: Mutex<BTreeMap<ByteString, Retained>>,
    /// The offset after the last frame that has been routed.
    next: AtomicU64,
    numbers: AtomicU64,
    turn: AtomicUsize,
}

/// What a connection holds of its session.
pub struct Attached {
    pub session: Arc<Session>,
    pub generation: u64,
    pub link: Arc<Link>,
    /// Session Present (section 3.2.2.1.1).
    pub present: bool,
}

/// The filter without its `$share/<group>/`, and the group.
pub fn split(filter: &str) -> (Group, &str) {
    match topic::shared(filter) {
        Ok(Some((group, filter))) => (Some(group.into()), filter),
        _ => (None, filter),
    }
}

impl Hub {
    #[expect(clippy::too_many_arguments, reason = "each is a part that the program gives, named once here")]
    pub fn new(
        options: Options,
        field: Arc<dyn Field>,
        rights: Arc<dyn Rights>,
        authenticate: Arc<dyn Authenticate>,
        keep: Arc<dyn Keep>,
        clock: Arc<dyn Clock>,
        stats: Arc<Stats>,
        stop: CancellationToken,
    ) -> Self {
        let next = field.end();
        Self {
            options,
            stats,
            field,
            rights,
            authenticate,
            keep,
            clock,
            throttle: Throttle::default(),
            stop,
            sessions: Mutex::default(),
            trie: RwLock::default(),
            retained: Mutex::default(),
            next: AtomicU64::new(next),
            numbers: AtomicU64::new(1),
            turn: AtomicUsize::new(0),
        }
    }

    pub fn next(&self) -> u64 {
        self.next.load(Ordering::Acquire)
    }

    /// Sessions and retained messages as they were kept.
    pub async fn restore(&self) -> Result<(), RecordError> {
        let (sessions, messages) = self.keep.load().await?;
        let (end, now) = (self.next(), self.clock.now());
        for kept in sessions {
            let left = kept.expires_at.micros_since(now);
            let Some(body) = saved::read(&kept.body).filter(|_| left > 0) else { continue };
            let scope = Arc::new(crate::scope::Scope::public());
            let session = Arc::new(Session::new(self.number(), kept.key.clone(), Arc::clone(&self.stats), scope, end));
            {
                let mut state = session.lock();
                state.stand(body.position, end);
                state.saved = Some(body.position);
                state.expiry = body.expiry;
                state.expires = Some(Instant::now() + Duration::from_micros(left.unsigned_abs()));
            }
            self.stats.sessions.add(1);
            self.sessions.lock().insert(kept.key, Arc::clone(&session));
            for (filter, subscription) in body.subscriptions {
                self.subscribe(&session, &filter, subscription);
            }
        }
        for kept in messages {
            if let topic::Address::Tenant(tenant) = topic::Address::of(&kept.topic) {
                let qos = QoS::try_from(kept.qos).unwrap_or(QoS::AtMostOnce);
                let topic = ByteString::from(kept.topic);
                let message = Arc::new(Message {
                    topic: topic.clone(),
                    payload: kept.payload.into(),
                    properties: None,
                    position: None,
                    expires: None,
                    from: 0,
                    retain: true,
                });
                self.stats.retained.add(1);
                self.retained.lock().insert(topic, (message, qos, tenant));
            }
        }
        Ok(())
    }

    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Gives the session of `caller`'s client `client_id` to a new connection, ending the connection that has it.
    pub fn attach(&self, caller: &Caller, client_id: &str, clean: bool, expiry: u32) -> Attached {
        let scope = self.rights.scope(caller);
        // Nobody is not somebody: two anonymous clients never share a session, whatever they call themselves.
        let key = if caller.is_anonymous() {
            format!("anonymous#{}", self.number())
        } else {
            session::key(caller, client_id)
        };
        let mut sessions = self.sessions.lock();
        let mut present = true;
        let session = Arc::clone(sessions.entry(key).or_insert_with_key(|key| {
            present = false;
            self.stats.sessions.add(1);
            Arc::new(Session::new(self.number(), key.clone(), Arc::clone(&self.stats), Arc::clone(&scope), self.next()))
        }));
        let link = Arc::new(Link::default());
        let mut state = session.lock();
        if let Some(old) = state.link.take() {
            old.end(Reason::SessionTakenOver, clean);
            session.park(&mut state);
        }
        state.generation += 1;
        let generation = state.generation;
        let mut forgotten = Vec::new();
        if clean {
            present = false;
            session.clear(&mut state);
            forgotten = std::mem::take(&mut state.subscriptions).into_keys().collect();
            state.stand(Position::frame(self.next()), self.next());
        }
        state.link = Some(Arc::clone(&link));
        state.scope = scope;
        state.tenant = if caller.is_anonymous() { None } else { caller.tenant.clone() };
        state.caller = Some(caller.clone());
        state.expiry = if caller.is_anonymous() { 0 } else { expiry.min(self.options.session_seconds) };
        state.expires = None;
        state.dirty = true;
        if state.resume_at().is_some() && !state.subscriptions.values().any(|s| s.qos != QoS::AtMostOnce) {
            state.no_need_to_read();
        }
        drop(state);
        drop(sessions);
        for filter in forgotten {
            self.leave(&session, &filter);
        }
        Attached { session, generation, link, present }
    }

    /// The connection has ended; the session waits for its expiry, or ends too. `true` when it has ended.
    pub fn detach(&self, session: &Arc<Session>, generation: u64, expiry: Option<u32>) -> bool {
        let Some(ends) = session.own(generation, |state| {
            if let Some(expiry) = expiry
                && state.expiry > 0
            {
                state.expiry = expiry.min(self.options.session_seconds);
            }
            session.park(state);
            state.dirty = true;
            state.expires = Some(Instant::now() + Duration::from_secs(state.expiry.into()));
            state.expiry == 0
        }) else {
            return false;
        };
        ends && self.end(session, generation)
    }

    /// Ends a session that nobody is connected to.
    pub fn end(&self, session: &Arc<Session>, generation: u64) -> bool {
        let mut sessions = self.sessions.lock();
        let mut state = session.lock();
        if state.generation != generation || state.link.is_some() {
            return false;
        }
        session.clear(&mut state);
        let filters: Vec<ByteString> = std::mem::take(&mut state.subscriptions).into_keys().collect();
        drop(state);
        if sessions.get(&session.key).is_some_and(|s| Arc::ptr_eq(s, session)) {
            sessions.remove(&session.key);
            self.stats.sessions.sub(1);
        }
        drop(sessions);
        filters.iter().for_each(|filter| self.leave(session, filter));
        true
    }

    /// Whether the filter is new to the session. A subscription that is made again loses nothing that waits for it (MQTT 5 section
    /// 3.8.4): clients subscribe at every start, also those whose session was kept.
    pub fn subscribe(&self, session: &Arc<Session>, filter: &ByteString, mut subscription: Subscription) -> bool {
        let (group, bare) = split(filter);
        let new = {
            let mut state = session.lock();
            let old = state.subscriptions.get(filter);
            if let Some(old) = old.filter(|old| old.qos != QoS::AtMostOnce) {
                subscription.since = old.since;
            }
            state.subscriptions.insert(filter.clone(), subscription).is_none()
        };
        let subscriber = Subscriber { session: Arc::clone(session), subscription, group: group.clone() };
        self.trie.write().insert(bare, (session.number, group), subscriber);
        self.stats.subscriptions.add(u64::from(new));
        new
    }

    /// Whether there was such a subscription.
    pub fn unsubscribe(&self, session: &Arc<Session>, filter: &str) -> bool {
        let had = session.lock().subscriptions.remove(filter).is_some();
        if had {
            self.leave(session, filter);
        }
        had
    }

    fn leave(&self, session: &Session, filter: &str) {
        let (group, bare) = split(filter);
        self.trie.write().remove(bare, &(session.number, group));
        self.stats.subscriptions.sub(1);
    }

    /// Routes frames as they become durable, until the door stops.
    pub async fn route(self: Arc<Self>, mut live: futures::stream::BoxStream<'static, Live>) {
        loop {
            let event = tokio::select! {
                () = self.stop.cancelled() => return,
                event = live.next() => event,
            };
            match event {
                Some(Live::Applied(applied)) => self.observations(&applied).await,
                Some(Live::Lagged) => {
                    // What was missed is on the stream; read it up to its present end, then go on live. What live
                    // brings twice lies below `next` and is skipped.
                    let end = self.field.end();
                    let mut missed = self.field.replay(self.next());
                    while self.next() < end
                        && let Some(applied) = missed.next().await
                    {
                        self.observations(&applied).await;
                    }
                }
                None => {
                    tracing::error!("the live feed of observations has ended; subscribers get nothing more");
                    return;
                }
            }
        }
    }

    /// The Datastreams of a frame, looked up before any lock is taken. What cannot be looked up is seen by nobody.
    async fn infos(&self, applied: &Applied) -> HashMap<EntityId, Arc<DatastreamInfo>, RandomState> {
        let mut infos: HashMap<_, _, RandomState> = HashMap::default();
        for o in &applied.observations {
            if infos.contains_key(&o.datastream) {
                continue;
            }
            if let Some(info) = self.info(o.datastream).await {
                infos.insert(o.datastream, info);
            }
        }
        infos
    }

    pub async fn info(&self, id: EntityId) -> Option<Arc<DatastreamInfo>> {
        match self.field.cached(id) {
            Some(info) => Some(info),
            None => self.field.datastream(id).await.ok().flatten(),
        }
    }

    async fn observations(&self, applied: &Applied) {
        if applied.offset < self.next() {
            return;
        }
        if !self.trie.read().is_empty() {
            let infos = self.infos(applied).await;
            let trie = self.trie.read();
            let mut all = Vec::new();
            trie.matches(ALL_OBSERVATIONS, &mut |s: &Subscriber, by_hash| {
                // A filter such as `v1.1/#` also matches the Datastream's own topic: once is enough.
                if !by_hash {
                    all.push(s);
                }
            });
            let mut found = Vec::new();
            for (index, o) in applied.observations.iter().enumerate() {
                let Some(info) = infos.get(&o.datastream) else { continue };
                let own_topic = topic::observations(o.datastream);
                found.clear();
                trie.matches(&own_topic, &mut |s, _| found.push(s));
                if found.is_empty() && all.is_empty() {
                    continue;
                }
                let payload = render::observation(&self.options.base, o);
                let audience = Audience::City { tenant: info.tenant.clone(), public: info.public };
                if !found.is_empty() {
                    self.deliver(
                        &mut found,
                        observation(own_topic.into(), payload.clone(), place(applied, index, false)),
                        &audience,
                    );
                }
                if !all.is_empty() {
                    let topic = ByteString::from_static(ALL_OBSERVATIONS);
                    self.deliver(&mut all.clone(), observation(topic, payload, place(applied, index, true)), &audience);
                }
            }
        }
        self.next.fetch_max(applied.offset + 1, Ordering::Release);
    }

    /// Gives a message to everyone in `found`: once to each session, and once to each shared group.
    fn deliver(&self, found: &mut Vec<&Subscriber>, message: Message, audience: &Audience) {
        let message = Arc::new(message);
        found.sort_by(|a, b| a.group.cmp(&b.group).then(a.session.number.cmp(&b.session.number)));
        let mut rest = found.as_slice();
        while let Some(first) = rest.first() {
            let same = |s: &&&Subscriber| {
                s.group == first.group && (first.group.is_some() || s.session.number == first.session.number)
            };
            let count = rest.iter().take_while(same).count();
            let (these, others) = rest.split_at(count);
            rest = others;
            if first.group.is_some() {
                self.deliver_shared(these, &message, audience);
            } else {
                self.offer(these, &message, audience);
            }
        }
    }

    /// One delivery for all of a session's overlapping subscriptions, at their highest QoS (section 3.3.4).
    fn offer(&self, these: &[&Subscriber], message: &Arc<Message>, audience: &Audience) -> Option<Pushed> {
        let session = &these.first()?.session;
        {
            // What an absent client may see is decided when it returns; now it is only noted that the stream holds something for it.
            let state = session.lock();
            let absent = state.link.is_none() && message.position.is_some();
            if !absent && !state.sees(audience) {
                return None;
            }
        }
        let delivery = merge(these.iter().map(|s| &s.subscription), session.number, message)?;
        Some(session.push(delivery, &self.options.queue))
    }

    /// One member of each group (4.8.2) gets it, in turn, of those who can take it now.
    fn deliver_shared(&self, members: &[&Subscriber], message: &Arc<Message>, audience: &Audience) {
        // Members of one group may share it under several filters; each filter is its own shared subscription only
        // when the filters differ, and then both deliver to somebody: that is what taking turns over all does.
        let start = self.turn.fetch_add(1, Ordering::Relaxed);
        for n in 0..members.len() {
            let member = members[(start + n) % members.len()];
            let ready = {
                let state = member.session.lock();
                state.ready(&self.options.queue) && state.sees(audience)
            };
            if ready && self.offer(&[member], message, audience) == Some(Pushed::Queued) {
                return;
            }
        }
        self.stats.dropped.add(1);
    }

    /// Publishes a tenant's own message, and keeps it when it is to be retained. Durable only as far as `keep` is.
    pub async fn publish_tenant(&self, tenant: Tenant, message: Message, qos: QoS) -> Result<(), RecordError> {
        if message.retain {
            self.retain(&tenant, &message, qos).await?;
        }
        let audience = Audience::Tenant(tenant);
        let trie = self.trie.read();
        let mut found = Vec::new();
        trie.matches(&message.topic.clone(), &mut |s, _| found.push(s));
        if !found.is_empty() {
            self.deliver_at(&mut found, message, qos, &audience);
        }
        Ok(())
    }

    fn deliver_at(&self, found: &mut Vec<&Subscriber>, message: Message, qos: QoS, audience: &Audience) {
        // A message is delivered at no more than the QoS it was published with (section 3.8.4).
        let lowered: Vec<Subscriber> = found
            .iter()
            .map(|s| Subscriber {
                session: Arc::clone(&s.session),
                subscription: Subscription { qos: s.subscription.qos.less_value(qos), ..s.subscription },
                group: s.group.clone(),
            })
            .collect();
        self.deliver(&mut lowered.iter().collect(), message, audience);
    }

    async fn retain(&self, tenant: &Tenant, message: &Message, qos: QoS) -> Result<(), RecordError> {
        {
            let retained = self.retained.lock();
            let bytes: usize = retained.values().map(|(m, ..)| m.payload.len()).sum();
            let new = !retained.contains_key(&message.topic) && !message.payload.is_empty();
            if (new && retained.len() >= self.options.retained)
                || bytes + message.payload.len() > self.options.retained_bytes
            {
                return Err(RecordError::Refused("no more messages can be retained".to_owned()));
            }
        }
        let kept =
            SavedMessage { topic: message.topic.to_string(), payload: message.payload.to_vec(), qos: qos.value() };
        self.keep.retain(kept).await?;
        let mut retained = self.retained.lock();
        let had = if message.payload.is_empty() {
            let had = retained.remove(&message.topic).is_some();
            self.stats.retained.sub(u64::from(had));
            true
        } else {
            let copy = Message {
                topic: message.topic.clone(),
                payload: message.payload.clone(),
                properties: message.properties.clone(),
                position: None,
                expires: message.expires,
                from: message.from,
                retain: true,
            };
            retained.insert(message.topic.clone(), (Arc::new(copy), qos, tenant.clone())).is_some()
        };
        self.stats.retained.add(u64::from(!had));
        Ok(())
    }

    /// Retained tenant messages for a new subscription.
    pub fn retained(&self, filter: &str) -> Vec<Retained> {
        let retained = self.retained.lock();
        retained
            .iter()
            .filter(|(topic, (m, ..))| topic::matches(filter, topic) && m.expires.is_none_or(|at| at > Instant::now()))
            .map(|(_, kept)| kept.clone())
            .collect()
    }

    /// Tells subscribers of an entity that was created or changed (18-088 section 14.2): `topics` are all that name it, such as
    /// `v1.1/Things(1)` and `v1.1/Things`. Live only: an absent client reads the entity when it returns.
    pub fn entity(&self, tenant: &Tenant, public: bool, topics: &[String], json: &Bytes) {
        let audience = Audience::City { tenant: tenant.clone(), public };
        let trie = self.trie.read();
        for name in topics {
            let mut found = Vec::new();
            trie.matches(name, &mut |s, _| found.push(s));
            if !found.is_empty() {
                let message = Message {
                    topic: name.as_str().into(),
                    payload: json.clone(),
                    properties: None,
                    position: None,
                    expires: None,
                    from: 0,
                    retain: false,
                };
                self.deliver(&mut found, message, &audience);
            }
        }
    }

    /// Ends expired sessions, renews what callers may see, and saves what has moved. Called every few seconds.
    pub async fn sweep(&self) {
        let now = Instant::now();
        let all: Vec<Arc<Session>> = self.sessions.lock().values().cloned().collect();
        let (mut changed, mut ended) = (Vec::new(), Vec::new());
        for session in &all {
            let caller = session.lock().caller.clone();
            let scope = caller.map(|caller| self.rights.scope(&caller));
            let (expired, generation) = {
                let mut state = session.lock();
                if let Some(scope) = scope {
                    state.scope = scope;
                }
                (state.link.is_none() && state.expires.is_some_and(|at| at <= now), state.generation)
            };
            if expired && self.end(session, generation) {
                ended.push(session.key.clone());
            } else if let Some(kept) = self.saved(session, false) {
                changed.push(kept);
            }
        }
        if (!changed.is_empty() || !ended.is_empty()) && self.keep.save(changed, ended).await.is_err() {
            tracing::warn!("sessions could not be saved; they are tried again");
            all.iter().for_each(|session| session.lock().dirty = true);
        }
        self.throttle.forget_old(now);
    }

    /// The session as it is kept, if it is to be kept and has changed.
    fn saved(&self, session: &Session, always: bool) -> Option<super::city::SavedSession> {
        let mut state = session.lock();
        if state.expiry == 0 {
            return None;
        }
        let low = state.low(self.next());
        if !always && !state.dirty && state.saved == Some(low) {
            return None;
        }
        state.dirty = false;
        state.saved = Some(low);
        let expires_at = self.clock.now().plus_secs(state.expiry.into());
        Some(super::city::SavedSession { key: session.key.clone(), body: saved::write(&state, low), expires_at })
    }

    /// Keeps one session now: its subscriptions are acknowledged only when they will survive.
    pub async fn save(&self, session: &Session) -> Result<(), RecordError> {
        match self.saved(session, true) {
            Some(kept) => self.keep.save(vec![kept], Vec::new()).await,
            None => Ok(()),
        }
    }

    /// Forgets a session that is kept no longer.
    pub async fn forget(&self, key: String) {
        // When this fails the row stays until its own expiry, and a reconnecting client finds an older session.
        if self.keep.save(Vec::new(), vec![key]).await.is_err() {
            tracing::warn!("an ended session could not be removed");
        }
    }
}

/// An observation is two messages, one for its Datastream's topic and one for that of all, each with a place of its own.
fn place(applied: &Applied, index: usize, of_all: bool) -> Position {
    Position { offset: applied.offset, index: (index as u32) * 2 + u32::from(of_all) }
}

fn observation(topic: ByteString, payload: Bytes, position: Position) -> Message {
    Message { topic, payload, properties: None, position: Some(position), expires: None, from: 0, retain: false }
}

/// One delivery for a session's subscriptions that match `message`; `None` when none of them wants it.
pub fn merge<'a>(
    subscriptions: impl Iterator<Item = &'a Subscription>,
    number: u64,
    message: &Arc<Message>,
) -> Option<Delivery> {
    let mut merged: Option<Delivery> = None;
    for s in subscriptions {
        let early = message.position.is_some_and(|at| at.offset < s.since);
        if early || (s.no_local && message.from == number) {
            continue;
        }
        let delivery = merged.get_or_insert_with(|| Delivery {
            message: Arc::clone(message),
            qos: QoS::AtMostOnce,
            retain: false,
            ids: Vec::new(),
        });
        if s.qos > delivery.qos {
            delivery.qos = s.qos;
        }
        delivery.retain |= s.retain_as_published && message.retain;
        delivery.ids.extend(s.id);
    }
    merged
}

/// One frame, for one session that reads it from the stream: its deliveries from `start` on. Calls `put` until it returns false, and
/// returns where it stopped.
pub async fn from_stream(
    hub: &Hub,
    session: &Session,
    subscriptions: &[(ByteString, Subscription)],
    applied: &Applied,
    start: usize,
    mut put: impl FnMut(Delivery) -> bool,
) -> usize {
    for (index, o) in applied.observations.iter().enumerate().skip(start) {
        let own_topic = ByteString::from(topic::observations(o.datastream));
        let mut payload = None;
        for name in [own_topic, ByteString::from_static(ALL_OBSERVATIONS)] {
            let alias = name == ALL_OBSERVATIONS;
            let wanted: Vec<&Subscription> = subscriptions
                .iter()
                .filter(|(filter, s)| {
                    s.qos != QoS::AtMostOnce && !(alias && filter.ends_with('#')) && topic::matches(filter, &name)
                })
                .map(|(_, s)| s)
                .collect();
            if wanted.is_empty() {
                continue;
            }
            let Some(info) = hub.info(o.datastream).await else { continue };
            if !session.lock().scope.admits(&info.tenant, info.public) {
                continue;
            }
            let payload = payload.get_or_insert_with(|| render::observation(&hub.options.base, o)).clone();
            let message = Arc::new(observation(name, payload, place(applied, index, alias)));
            if let Some(delivery) = merge(wanted.into_iter(), session.number, &message)
                && !put(delivery)
            {
                return index;
            }
        }
    }
    applied.observations.len()
}
