//! The way of an Observation: from the stream to every subscription that matches one of its topics.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
};

use ahash::RandomState;
use bytes::Bytes;
use bytestring::ByteString;
use futures::{StreamExt, stream::BoxStream};
use kernel::Caller;

use super::{
    city::{Applied, Live, Owner},
    hub::{Anchors, Hub, Subscriber},
    interest::slot,
    render,
    session::{Audience, Delivery, Message, Position, Pushed, Session, Subscription},
    topic::{self, ALL_OBSERVATIONS},
    wire::QoS,
};
use crate::{
    catalog::Schema,
    model::{DatastreamInfo, EntityId, EntityType, Observation},
    query::{Leaf, Row},
};

type Infos = HashMap<EntityId, Arc<DatastreamInfo>, RandomState>;
type Features = HashMap<EntityId, Owner, RandomState>;

/// The topics of an Observation in the order in which they are sent.
const OWN: u8 = 0;
const ALL: u8 = 1;
const FEATURE: u8 = 2;
const SINGLE: u8 = 3;
const PATH: u8 = 4;

/// One topic of an Observation.
struct Name {
    kind: u8,
    topic: ByteString,
    /// The property that is sent under it, by the schema's index; `None` for the Observation itself.
    property: Option<usize>,
    /// Of what lies on the way, which must be visible too.
    also: Vec<Owner>,
}

/// The topics that only filters without wildcards reach: those of longer paths, its feature's, its own, and its properties'.
fn exact_names(o: &Observation, feature: Option<Owner>, singles: bool, anchors: &Anchors) -> Vec<Name> {
    let mut names = Vec::new();
    if !anchors.is_empty() {
        // No Datastream has the id of a MultiDatastream, so at most one of the first two is there.
        let [plain, multi] = EntityType::SERIES.map(|of| (of, o.datastream));
        for key in [plain, multi, (EntityType::FeatureOfInterest, o.feature)] {
            let paths = anchors.get(&key).into_iter().flatten();
            names.extend(paths.map(|(topic, also)| Name::new(PATH, topic.clone(), None, also.clone())));
        }
    }
    if let Some(owner) = feature {
        let topic = format!("v1.1/FeaturesOfInterest({})/Observations", o.feature).into();
        names.push(Name::new(FEATURE, topic, None, vec![owner]));
    }
    if singles {
        let id = o.id();
        for own in [format!("v1.1/Observations('{id}')"), format!("v1.1/Observations({id})")] {
            let properties = Schema::of(EntityType::Observation).properties.iter().enumerate();
            names.extend(properties.map(|(index, property)| {
                Name::new(SINGLE, format!("{own}/{}", property.name).into(), Some(index), Vec::new())
            }));
            names.push(Name::new(SINGLE, own.into(), None, Vec::new()));
        }
    }
    names
}

impl Name {
    fn new(kind: u8, topic: ByteString, property: Option<usize>, also: Vec<Owner>) -> Self {
        Self { kind, topic, property, also }
    }

    /// Names of one kind are told apart by their text; the two that everybody has need no look at it.
    fn slot(&self, subscription: &Subscription) -> u64 {
        let query = subscription.select.as_ref().map_or("", |select| &select.query);
        match self.kind {
            kind @ (SINGLE | PATH) => slot(kind, &format!("{}{query}", self.topic)),
            kind => slot(kind, query),
        }
    }
}

/// One Observation's messages, each encoded once.
struct Encoder<'a> {
    hub: &'a Hub,
    observation: &'a Observation,
    of: EntityType,
    row: Option<Row>,
    whole: Vec<(Box<str>, Bytes)>,
}

impl<'a> Encoder<'a> {
    fn new(hub: &'a Hub, observation: &'a Observation, of: EntityType) -> Self {
        Self { hub, observation, of, row: None, whole: Vec::new() }
    }

    fn message(&mut self, name: &Name, subscription: &Subscription, position: Position) -> Option<Message> {
        let query = subscription.select.as_ref().map_or("", |select| &select.query);
        let row = self.row.get_or_insert_with(|| render::observation(self.observation, self.of));
        let payload = match name.property {
            Some(index) => {
                let property = Schema::of(EntityType::Observation).properties.get(index)?;
                render::property(row, property.name, &Leaf::Property(index, Vec::new()))
            }
            None => match self.whole.iter().find(|(known, _)| **known == *query) {
                Some((_, payload)) => payload.clone(),
                None => {
                    let plan = self.hub.plan(EntityType::Observation, subscription.select.as_deref())?;
                    let payload = render::row(&self.hub.options.base, plan, row);
                    self.whole.push((query.into(), payload.clone()));
                    payload
                }
            },
        };
        let topic = if query.is_empty() { name.topic.clone() } else { format!("{}{query}", name.topic).into() };
        Some(Message {
            topic,
            payload,
            properties: None,
            position: Some(position),
            expires: None,
            void: None,
            from: 0,
            retain: false,
        })
    }
}

impl Hub {
    /// Routes frames as they become durable, until the door stops.
    pub async fn route(self: Arc<Self>, mut live: BoxStream<'static, Live>) {
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
    async fn infos(&self, applied: &Applied) -> Infos {
        let mut infos = Infos::default();
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

    /// Who owns the features of a frame, as far as somebody follows them by their address.
    async fn features(&self, applied: &Applied) -> Features {
        let mut features = Features::default();
        if self.interests.features.load(Ordering::Acquire) == 0 {
            return features;
        }
        let mut looked_at = std::collections::HashSet::new();
        for o in &applied.observations {
            if !looked_at.insert(o.feature) {
                continue;
            }
            let followed = {
                let mut any = false;
                let topic = format!("v1.1/FeaturesOfInterest({})/Observations", o.feature);
                self.trie.read().exact(&topic, &mut |_| any = true);
                any
            };
            if followed && let Some(owner) = self.entities.owner(EntityType::FeatureOfInterest, o.feature).await {
                features.insert(o.feature, owner);
            }
        }
        features
    }

    async fn observations(&self, applied: &Applied) {
        if applied.offset < self.next() {
            return;
        }
        if !self.trie.read().is_empty() {
            let infos = self.infos(applied).await;
            let features = self.features(applied).await;
            self.deliver_frame(applied, &infos, &features);
            self.touch(&infos);
        }
        self.next.fetch_max(applied.offset + 1, Ordering::Release);
    }

    fn deliver_frame(&self, applied: &Applied, infos: &Infos, features: &Features) {
        let singles = self.interests.singles.load(Ordering::Acquire) > 0;
        let anchors = self.anchors();
        let trie = self.trie.read();
        let mut all = Vec::new();
        trie.matches(ALL_OBSERVATIONS, &mut |s: &Subscriber, by_hash| {
            // A filter such as `v1.1/#` also matches the Datastream's own topic: once is enough.
            if !by_hash {
                all.push(s);
            }
        });
        let mut found: Vec<(u64, usize, &Subscriber)> = Vec::new();
        for (index, o) in applied.observations.iter().enumerate() {
            let Some(info) = infos.get(&o.datastream) else { continue };
            let own = Name::new(OWN, topic::observations(info.entity(), o.datastream).into(), None, Vec::new());
            found.clear();
            trie.matches(&own.topic, &mut |s, _| found.push((own.slot(&s.subscription), OWN.into(), s)));
            let rest = exact_names(o, features.get(&o.feature).cloned(), singles, &anchors);
            for (at, name) in rest.iter().enumerate() {
                trie.exact(&name.topic, &mut |s| found.push((name.slot(&s.subscription), at + 2, s)));
            }
            if found.is_empty() && all.is_empty() {
                continue;
            }
            let every = Name::new(ALL, ByteString::from_static(ALL_OBSERVATIONS), None, Vec::new());
            found.extend(all.iter().map(|s| (every.slot(&s.subscription), usize::from(ALL), *s)));
            found.sort_by_key(|(slot, ..)| *slot);
            let mut encoder = Encoder::new(self, o, info.entity());
            for same in found.chunk_by(|a, b| a.0 == b.0) {
                let Some((slot, at, first)) = same.first() else { continue };
                let name = match at {
                    0 => &own,
                    1 => &every,
                    at => &rest[at - 2],
                };
                let position = Position { offset: applied.offset, index: index as u32, slot: *slot };
                let Some(message) = encoder.message(name, &first.subscription, position) else { continue };
                let audience =
                    Audience::City { tenant: info.tenant.clone(), public: info.public, also: name.also.clone() };
                self.deliver(&mut same.iter().map(|(.., s)| *s).collect(), message, &audience);
            }
        }
    }

    /// Gives a message to everyone in `found`: once to each session, and once to each shared group.
    pub fn deliver(&self, found: &mut Vec<&Subscriber>, message: Message, audience: &Audience) {
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

    /// What a device is told to do.
    pub fn command(payload: Bytes, retain: bool) -> Message {
        let topic = ByteString::from_static(topic::COMMAND);
        Message { topic, payload, properties: None, position: None, expires: None, void: None, from: 0, retain }
    }

    /// Tells those of `labels` that listen now; the others are told when they begin to. Answers how many.
    pub fn tell(&self, labels: &std::collections::HashSet<String>, payload: Bytes) -> usize {
        let trie = self.trie.read();
        let mut found: Vec<&Subscriber> = Vec::new();
        trie.exact(topic::COMMAND, &mut |s: &Subscriber| found.push(s));
        let message = Arc::new(Self::command(payload, false));
        let told = found.into_iter().filter(|s| s.group.is_none()).filter(|s| {
            // For one that is away nothing is kept: it is told when it comes back what it is to do then, which this may not be any more.
            let state = s.session.lock();
            let label = state.caller.as_ref().filter(|_| state.link.is_some()).map(Caller::label);
            drop(state);
            label.is_some_and(|label| {
                labels.contains(&label) && self.offer(&[s], &message, &Audience::Own(label)).is_some()
            })
        });
        told.count()
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

    /// One frame, for one session that reads it from the stream: its deliveries from `start` on. Calls `put` until it returns false,
    /// and returns where it stopped. `subscriptions` are the session's own, by their filters without query.
    pub async fn replayed(
        &self,
        session: &Session,
        subscriptions: &[(ByteString, Subscription)],
        applied: &Applied,
        start: usize,
        mut put: impl FnMut(Delivery) -> bool,
    ) -> usize {
        let reliable: Vec<_> = subscriptions.iter().filter(|(_, s)| s.qos != QoS::AtMostOnce).collect();
        let some = |prefix: &str| reliable.iter().any(|(filter, _)| filter.starts_with(prefix));
        let (features, singles, anchors) =
            (some("v1.1/FeaturesOfInterest("), some("v1.1/Observations("), self.anchors());
        for (index, o) in applied.observations.iter().enumerate().skip(start) {
            // Which of the two it belongs to is looked up once somebody wants it.
            let own = |of| Name::new(OWN, topic::observations(of, o.datastream).into(), None, Vec::new());
            let mut names: Vec<Name> = EntityType::SERIES.into_iter().map(own).collect();
            names.push(Name::new(ALL, ByteString::from_static(ALL_OBSERVATIONS), None, Vec::new()));
            let feature = match features {
                true => self.entities.owner(EntityType::FeatureOfInterest, o.feature).await,
                false => None,
            };
            names.extend(exact_names(o, feature, singles, &anchors));
            let mut wanted: Vec<(u64, &Name, &Subscription)> = Vec::new();
            for name in &names {
                for (filter, subscription) in &reliable {
                    let matches = match name.kind {
                        OWN => topic::matches(filter, &name.topic),
                        ALL => !filter.ends_with('#') && topic::matches(filter, &name.topic),
                        _ => *filter == name.topic,
                    };
                    if matches {
                        wanted.push((name.slot(subscription), name, subscription));
                    }
                }
            }
            if wanted.is_empty() {
                continue;
            }
            let Some(info) = self.info(o.datastream).await else { continue };
            if !session.lock().scope.admits(&info.tenant, info.public) {
                continue;
            }
            let own = topic::observations(info.entity(), o.datastream);
            wanted.retain(|(_, name, _)| name.kind != OWN || *name.topic == *own);
            {
                let state = session.lock();
                wanted.retain(|(_, name, _)| {
                    name.also.iter().all(|(tenant, public)| state.scope.admits(tenant, *public))
                });
            }
            wanted.sort_by_key(|(slot, ..)| *slot);
            let mut encoder = Encoder::new(self, o, info.entity());
            for same in wanted.chunk_by(|a, b| a.0 == b.0) {
                let Some((slot, name, first)) = same.first() else { continue };
                let position = Position { offset: applied.offset, index: index as u32, slot: *slot };
                let Some(message) = encoder.message(name, first, position) else { continue };
                if let Some(delivery) = merge(same.iter().map(|(.., s)| *s), session.number, &Arc::new(message))
                    && !put(delivery)
                {
                    return index;
                }
            }
        }
        applied.observations.len()
    }
}

/// One delivery for a session's subscriptions that match `message`; `None` when none of them wants it.
fn merge<'a>(
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
