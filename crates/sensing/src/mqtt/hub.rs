//! Who is connected and who subscribed to what. The way of an Observation to them is in [`super::route`], that of an entity in
//! [`super::entities`].

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use ahash::RandomState;
use bytestring::ByteString;
use kernel::{Caller, Clock, Limits, Tenant};
use parking_lot::{Mutex, RwLock};
use tokio_util::sync::CancellationToken;

use super::{
    Options,
    city::{Anchored, Authenticate, Entities, Field, Keep, Owner, RecordError, Rights, SavedMessage},
    entities::{Tasks, Touched},
    interest::{Interest, Selection, split_query},
    saved,
    session::{self, Audience, Link, Message, Position, Session, Subscription},
    stats::Stats,
    throttle::Throttle,
    topic,
    trie::Trie,
    wire::{QoS, Reason},
};
use crate::{
    model::{EntityId, EntityType},
    query::Plan,
    sta::Path,
};

pub type Group = Option<Arc<str>>;
/// A place in the tree under one filter: the session, its group, and the query behind the filter.
type Key = (u64, Group, Box<str>);
/// A retained message, the QoS it was published with, and whose it is.
pub type Retained = (Arc<Message>, QoS, Tenant);

/// Distinct paths that are walked when an entity changes ([`Interest::Path`]).
const PATHS: usize = 1_000;

/// A place in the tree of subscriptions.
pub struct Subscriber {
    pub session: Arc<Session>,
    pub subscription: Subscription,
    pub group: Group,
}

/// How many subscriptions there are of the kinds that cost something to look for.
#[derive(Default)]
pub struct Interests {
    pub entities: AtomicUsize,
    pub features: AtomicUsize,
    pub singles: AtomicUsize,
    /// By the topic, with the number of subscriptions.
    pub paths: Mutex<BTreeMap<Box<str>, (Path, usize)>>,
    series: Mutex<BTreeMap<Box<str>, (Path, usize)>>,
    /// Where the paths of `series` lead at present.
    anchors: RwLock<Arc<Anchors>>,
}

/// Topics of a Datastream's or feature's Observations beside those that everybody knows, and who owns what lies on the way.
pub type Anchors = HashMap<(EntityType, EntityId), Vec<(ByteString, Vec<Owner>)>, RandomState>;

impl Interests {
    /// `false` when there are too many of its kind.
    pub fn admits(&self, bare: &str) -> bool {
        match Interest::of(bare) {
            Ok(Interest::Path(_)) => {
                let paths = self.paths.lock();
                paths.len() < PATHS || paths.contains_key(bare)
            }
            Ok(Interest::Series(_)) => {
                let series = self.series.lock();
                series.len() < PATHS || series.contains_key(bare)
            }
            Ok(_) => true,
            Err(()) => false,
        }
    }

    fn count(&self, bare: &str, more: bool) {
        let change = |n: &AtomicUsize| {
            // One for each that was added, so it never goes below zero.
            if more {
                n.fetch_add(1, Ordering::AcqRel)
            } else {
                n.fetch_sub(1, Ordering::AcqRel)
            };
        };
        match Interest::of(bare) {
            Ok(Interest::Entities) => change(&self.entities),
            Ok(Interest::OfFeature) => change(&self.features),
            Ok(Interest::Single) => change(&self.singles),
            Ok(Interest::Path(path)) => {
                change(&self.entities);
                refer(&self.paths, bare, *path, more);
            }
            Ok(Interest::Series(path)) => refer(&self.series, bare, *path, more),
            Ok(Interest::Observations | Interest::Other) | Err(()) => {}
        }
    }
}

pub struct Hub {
    pub options: Options,
    pub stats: Arc<Stats>,
    pub field: Arc<dyn Field>,
    pub entities: Arc<dyn Entities>,
    pub rights: Arc<dyn Rights>,
    pub authenticate: Arc<dyn Authenticate>,
    pub keep: Arc<dyn Keep>,
    pub clock: Arc<dyn Clock>,
    pub throttle: Throttle,
    pub stop: CancellationToken,
    pub sessions: Mutex<HashMap<String, Arc<Session>, RandomState>>,
    pub trie: RwLock<Trie<Key, Subscriber>>,
    pub interests: Interests,
    /// Datastreams that have new Observations and followers who are to hear of it.
    pub touched: Touched,
    /// Tasks that are with their devices.
    pub tasks: Tasks,
    retained: Mutex<BTreeMap<ByteString, Retained>>,
    /// The offset after the last frame that has been routed.
    pub next: AtomicU64,
    numbers: AtomicU64,
    pub turn: AtomicUsize,
    /// What of an entity is sent where nothing was selected, by [`EntityType::ALL`].
    plans: Vec<Plan>,
}

/// Counts one subscription of a path more or less.
fn refer(paths: &Mutex<BTreeMap<Box<str>, (Path, usize)>>, bare: &str, path: Path, more: bool) {
    let mut paths = paths.lock();
    if more {
        paths.entry(bare.into()).or_insert((path, 0)).1 += 1;
    } else if let Some(entry) = paths.get_mut(bare) {
        entry.1 -= 1;
        if entry.1 == 0 {
            paths.remove(bare);
        }
    }
}

/// What a connection holds of its session.
pub struct Attached {
    pub session: Arc<Session>,
    pub generation: u64,
    pub link: Arc<Link>,
    /// Session Present (section 3.2.2.1.1).
    pub present: bool,
}

/// A filter's group, the filter without its `$share/<group>/`, which is what [`Selection::of`] reads, and without its query too.
pub fn split(filter: &str) -> (Group, &str, &str) {
    let (group, rest) = match topic::shared(filter) {
        Ok(Some((group, filter))) => (Some(group.into()), filter),
        _ => (None, filter),
    };
    (group, rest, split_query(rest).0)
}

impl Hub {
    #[expect(clippy::too_many_arguments, reason = "each is a part that the program gives, named once here")]
    pub fn new(
        options: Options,
        field: Arc<dyn Field>,
        entities: Arc<dyn Entities>,
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
            entities,
            rights,
            authenticate,
            keep,
            clock,
            throttle: Throttle::default(),
            stop,
            sessions: Mutex::default(),
            trie: RwLock::default(),
            interests: Interests::default(),
            touched: Touched::default(),
            tasks: Tasks::default(),
            retained: Mutex::default(),
            next: AtomicU64::new(next),
            numbers: AtomicU64::new(1),
            turn: AtomicUsize::new(0),
            plans: EntityType::ALL.into_iter().map(|entity| Plan::all(entity, &Limits::DEFAULT)).collect(),
        }
    }

    /// What of an entity is sent: what was selected, else everything.
    pub fn plan<'a>(&'a self, entity: EntityType, select: Option<&'a Selection>) -> Option<&'a Plan> {
        match select {
            Some(select) => (select.plan.entity == entity).then_some(&select.plan),
            None => self.plans.iter().find(|plan| plan.entity == entity),
        }
    }

    pub fn anchors(&self) -> Arc<Anchors> {
        Arc::clone(&self.interests.anchors.read())
    }

    /// Walks the paths to Observations again: one is new, or the catalogue has changed.
    pub async fn anchor_all(&self) {
        let paths: Vec<(Box<str>, Path)> = {
            let series = self.interests.series.lock();
            series.iter().map(|(topic, (path, _))| (topic.clone(), path.clone())).collect()
        };
        if paths.is_empty() && self.anchors().is_empty() {
            return;
        }
        let mut anchors = Anchors::default();
        for (topic, path) in paths {
            if let Some(Anchored { entity, id, owners }) = self.entities.anchor(path).await {
                anchors.entry((entity, id)).or_default().push((topic.to_string().into(), owners));
            }
        }
        *self.interests.anchors.write() = Arc::new(anchors);
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
                state.missed = body.missed;
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
                    void: None,
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
        // Over is over, also where the sweeper has not been yet (MQTT 5 section 3.1.2.11.2).
        let over = state.link.is_none() && state.expires.is_some_and(|at| at <= Instant::now());
        let clean = clean || over;
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
        let (group, rest, bare) = split(filter);
        let new = {
            let mut state = session.lock();
            let old = state.subscriptions.get(filter);
            if let Some(old) = old.filter(|old| old.qos != QoS::AtMostOnce) {
                subscription.since = old.since;
            }
            state.subscriptions.insert(filter.clone(), subscription.clone()).is_none()
        };
        let subscriber = Subscriber { session: Arc::clone(session), subscription, group: group.clone() };
        if new {
            self.interests.count(bare, true);
        }
        self.trie.write().insert(bare, (session.number, group, split_query(rest).1.into()), subscriber);
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
        let (group, rest, bare) = split(filter);
        self.trie.write().remove(bare, &(session.number, group, split_query(rest).1.into()));
        self.interests.count(bare, false);
        self.stats.subscriptions.sub(1);
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
                subscription: Subscription { qos: s.subscription.qos.less_value(qos), ..s.subscription.clone() },
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
                void: None,
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
