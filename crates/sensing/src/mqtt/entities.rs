//! The way of an entity (18-088 section 14.2): from the events of the catalogue to everybody who follows it by one of its names.
//!
//! The events come from the stream, so it does not matter which door, command or server has made the change. An entity is read when it is
//! sent: two changes in quick succession may both show the later one. It is sent to those who may read it then.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use ahash::RandomState;
use bytestring::ByteString;
use futures::{StreamExt, stream::BoxStream};
use kernel::Interval;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{
    city::{Catalogue, Changed, Owner},
    hub::{Hub, Subscriber},
    render,
    session::{Audience, Message},
};
use crate::{
    catalog::{Entity, Field, Schema, schema},
    model::{DatastreamInfo, EntityId, EntityType},
    query::{Extent, Item, Leaf, Row},
    scope::Scope,
    sta::{Path, Tail},
};

/// Datastreams that wait to be sent because of their new Observations, and of which it is known what was sent last.
const TOUCHED: usize = 10_000;
/// The shortest time between two looks at what was touched: however many Observations come, a Datastream is read four times a second.
const PAUSE: Duration = Duration::from_millis(250);

/// Datastreams and MultiDatastreams whose `phenomenonTime` or `resultTime` may have grown.
#[derive(Default)]
pub struct Touched {
    waiting: Mutex<HashSet<(EntityType, EntityId), RandomState>>,
    wake: Notify,
}

/// What one message carries.
#[derive(Clone, PartialEq, Eq)]
enum Part {
    Whole,
    /// The index in the schema, the way into its JSON, and what the value is called.
    Property(usize, Vec<String>, String),
}

/// How long a message may wait.
#[derive(Clone, Default)]
struct Limits {
    expires: Option<Instant>,
    void: Option<Arc<AtomicBool>>,
}

/// Tasks that are with their devices, and the flags of the messages that say so.
pub type Tasks = Mutex<HashMap<EntityId, Arc<AtomicBool>, RandomState>>;

/// One name of an entity, and who else must be visible for it.
struct Name {
    topic: String,
    part: Part,
    also: Option<Owner>,
}

impl Name {
    fn new(topic: String, part: Part, also: Option<Owner>) -> Self {
        Self { topic, part, also }
    }
}

impl Hub {
    /// Follows the catalogue until the door stops.
    pub async fn follow(self: Arc<Self>, mut changes: BoxStream<'static, Catalogue>) {
        let mut told: HashMap<EntityId, (Option<Interval>, Option<Interval>), RandomState> = HashMap::default();
        let (mut due, mut earliest) = (false, tokio::time::Instant::now());
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                change = changes.next() => match change {
                    Some(Catalogue::Changed(list)) => {
                        for changed in &list {
                            self.changed(changed, &list).await;
                        }
                        self.anchor_all().await;
                    }
                    Some(Catalogue::Missed(records)) => {
                        self.stats.untold.add(records);
                        tracing::warn!(records, "events were gone before the followers of entities could be told of them");
                    }
                    None => {
                        tracing::error!("the feed of the catalogue has ended; followers of entities get nothing more");
                        return;
                    }
                },
                () = self.touched.wake.notified(), if !due => due = true,
                () = tokio::time::sleep_until(earliest), if due => {
                    due = false;
                    let waiting = std::mem::take(&mut *self.touched.waiting.lock());
                    for grown in waiting {
                        self.grown(grown, &mut told).await;
                    }
                    earliest = tokio::time::Instant::now() + PAUSE;
                }
            }
        }
    }

    /// Notes the Datastreams of a frame that somebody follows. A filter that ends in `#` hears of it by the Observation itself.
    pub fn touch(&self, infos: &HashMap<EntityId, Arc<DatastreamInfo>, RandomState>) {
        if self.interests.entities.load(Ordering::Acquire) == 0 {
            return;
        }
        let walked = {
            let paths = self.interests.paths.lock();
            EntityType::SERIES.map(|of| paths.values().any(|(path, _)| path.entity == of))
        };
        let trie = self.trie.read();
        let mut any = false;
        let follows = |topic: &str| {
            let mut found = false;
            trie.matches(topic, &mut |_: &Subscriber, by_hash| found |= !by_hash);
            found
        };
        // Asked once for the frame; the rest is of each Datastream.
        let set = EntityType::SERIES.map(|of| follows(&format!("v1.1/{}", of.set())));
        for (id, info) in infos {
            let of = info.entity();
            let (at, set_name) = (usize::from(of == EntityType::MultiDatastream), of.set());
            let own = format!("v1.1/{set_name}({id})");
            let followed = walked[at]
                || set[at]
                || follows(&own)
                || follows(&format!("{own}/phenomenonTime"))
                || follows(&format!("{own}/resultTime"))
                || follows(&format!("v1.1/Things({})/{set_name}", info.thing))
                || follows(&format!("v1.1/Things({})/{set_name}({id})", info.thing));
            if !followed {
                continue;
            }
            let mut waiting = self.touched.waiting.lock();
            if waiting.len() < TOUCHED {
                waiting.insert((of, *id));
                any = true;
            } else {
                self.stats.untold.add(1);
            }
        }
        if any {
            self.touched.wake.notify_one();
        }
    }

    /// Sends a Datastream or MultiDatastream again when its Observations have moved its times.
    async fn grown(
        &self,
        (entity, id): (EntityType, EntityId),
        told: &mut HashMap<EntityId, (Option<Interval>, Option<Interval>), RandomState>,
    ) {
        let Some(row) = self.entities.row(entity, id).await else { return };
        let Item::Entity(_, Extent { phenomenon, result }) = row.item else { return };
        let (before, after) = (told.get(&id).copied().unwrap_or_default(), (phenomenon, result));
        let mut properties = Vec::new();
        if before.0 != after.0 {
            properties.push("phenomenonTime".to_owned());
        }
        if before.1 != after.1 {
            properties.push("resultTime".to_owned());
        }
        if properties.is_empty() {
            return;
        }
        if told.len() >= TOUCHED {
            told.clear();
        }
        told.insert(id, after);
        let changed = Changed { created: false, entity, id, properties };
        self.send(&changed, &row, false).await;
    }

    /// One of the changes that came together.
    async fn changed(&self, changed: &Changed, together: &[Changed]) {
        if self.interests.entities.load(Ordering::Acquire) == 0 {
            return;
        }
        // It may be gone again.
        let Some(row) = self.entities.row(changed.entity, changed.id).await else { return };
        self.send(changed, &row, true).await;
        // A Thing has moved: the Location has come into its collection, and it into the Location's.
        if changed.created
            && changed.entity == EntityType::HistoricalLocation
            && let Item::Entity(history, _) = &row.item
            && let Some(thing) = history.one("Thing")
        {
            self.moved(thing, together).await;
        }
    }

    /// The Locations of a Thing under the Thing's name, and the other way round: each has come into the other's collection. What was
    /// created with the tie has been sent there already.
    async fn moved(&self, thing: EntityId, together: &[Changed]) {
        let new = |entity, id| together.iter().any(|c| c.created && c.entity == entity && c.id == id);
        let Some(row) = self.entities.row(EntityType::Thing, thing).await else { return };
        let Some(entity) = row.item.as_entity().cloned() else { return };
        let owner = (entity.tenant.clone(), entity.public);
        let topic = format!("v1.1/Things({thing})/Locations");
        let followed = self.follows(&topic);
        for parent in self.entities.parents(Arc::clone(&entity)).await {
            let Some(location) = location_of(&parent.collection) else { continue };
            if !new(EntityType::Thing, thing) {
                let name = Name::new(format!("v1.1/{}", parent.collection), Part::Whole, Some(parent.owner));
                self.under(&[name], &row, false, &Limits::default());
            }
            if followed
                && !new(EntityType::Location, location)
                && let Some(row) = self.entities.row(EntityType::Location, location).await
            {
                self.under(
                    &[Name::new(topic.clone(), Part::Whole, Some(owner.clone()))],
                    &row,
                    false,
                    &Limits::default(),
                );
            }
        }
    }

    fn follows(&self, topic: &str) -> bool {
        let mut found = false;
        self.trie.read().matches(topic, &mut |_, by_hash| found |= !by_hash);
        found
    }

    /// Until when a Task that is being sent may be given to its device, and what takes it out of the queues should it be over before that. A device
    /// that comes back too late is not told of it: it would do what nobody waits for any more.
    fn limits(&self, changed: &Changed, entity: &Entity) -> Limits {
        if entity.entity != EntityType::Task {
            return Limits::default();
        }
        let status = entity.text(schema::STATUS);
        let mut out = self.tasks.lock();
        if status != "sent" {
            // A device that has answered has it; every other copy of it is of no use to anybody.
            if let Some(void) = out.remove(&entity.id) {
                void.store(status != "acknowledged", Ordering::Release);
            }
            // It was over before this could be said.
            let void = changed.created.then(|| Arc::new(AtomicBool::new(true)));
            return Limits { void, ..Limits::default() };
        }
        if !changed.created {
            return Limits::default();
        }
        if out.len() >= TOUCHED {
            // As many cannot be waited for; their time limits hold all the same.
            out.clear();
        }
        let void = out.entry(entity.id).or_default();
        let expires = match entity.field(schema::DUE) {
            Field::Time(due) => {
                let left = due.micros_since(self.clock.now()).max(0).unsigned_abs();
                Some(Instant::now() + Duration::from_micros(left))
            }
            _ => None,
        };
        Limits { expires, void: Some(Arc::clone(void)) }
    }

    /// Sends an entity under all its names.
    async fn send(&self, changed: &Changed, row: &Row, to_hash: bool) {
        let Some(entity) = row.item.as_entity().cloned() else { return };
        self.stats.entities.add(1);
        let limits = self.limits(changed, &entity);
        let mut names = own_names(&entity, changed, row);
        if changed.entity == EntityType::Task && !changed.created {
            // A device that follows Tasks is to be told of each once, when it is sent; what becomes of it has a name of its own.
            names.retain(|name| matches!(name.part, Part::Property(..)));
            self.under(&names, row, false, &limits);
            return;
        }
        for parent in self.entities.parents(Arc::clone(&entity)).await {
            let topic = format!("v1.1/{}", parent.collection);
            names.push(Name::new(format!("{topic}({})", entity.id), Part::Whole, Some(parent.owner.clone())));
            names.push(Name::new(topic, Part::Whole, Some(parent.owner)));
        }
        self.under(&names, row, to_hash, &limits);
        self.by_paths(changed, &entity, row, &limits).await;
    }

    /// Delivers under names that anybody may have matched. A filter that ends in `#` gets an entity once, under the first of its names
    /// that it matches.
    fn under(&self, names: &[Name], row: &Row, to_hash: bool, limits: &Limits) {
        let trie = self.trie.read();
        let mut by_hash: HashSet<*const Subscriber> = HashSet::new();
        for name in names {
            let mut found = Vec::new();
            trie.matches(&name.topic, &mut |s: &Subscriber, hash| {
                if !hash || (to_hash && by_hash.insert(std::ptr::from_ref(s))) {
                    found.push(s);
                }
            });
            self.give(name, found, row, limits);
        }
    }

    /// Walks the paths that lead to entities of this type, as each of their followers would find it.
    async fn by_paths(&self, changed: &Changed, entity: &Arc<Entity>, row: &Row, limits: &Limits) {
        let paths: Vec<(Box<str>, Path)> = {
            let all = self.interests.paths.lock();
            let of_type = all.iter().filter(|(_, (path, _))| path.entity == changed.entity);
            of_type.map(|(topic, (path, _))| (topic.clone(), path.clone())).collect()
        };
        for (topic, path) in paths {
            let part = match &path.tail {
                Tail::Property(index, inner) => {
                    let name = Schema::of(path.entity).properties.get(*index).map_or("", |p| p.name);
                    if !changed.created && !changed.properties.iter().any(|p| p == name) {
                        continue;
                    }
                    Part::Property(*index, inner.clone(), path.shown.clone())
                }
                _ => Part::Whole,
            };
            let scopes: Vec<Arc<Scope>> = {
                let mut scopes: Vec<Arc<Scope>> = Vec::new();
                self.trie.read().exact(&topic, &mut |s| {
                    let scope = Arc::clone(&s.session.lock().scope);
                    if !scopes.iter().any(|known| **known == *scope) {
                        scopes.push(scope);
                    }
                });
                scopes
            };
            for scope in scopes {
                if !self.entities.leads(Arc::clone(&scope), path.clone(), entity.id).await {
                    continue;
                }
                let name = Name::new(topic.to_string(), part.clone(), None);
                let trie = self.trie.read();
                let mut found = Vec::new();
                trie.exact(&topic, &mut |s: &Subscriber| {
                    if *s.session.lock().scope == *scope {
                        found.push(s);
                    }
                });
                self.give(&name, found, row, limits);
            }
        }
    }

    /// One message for each query among the subscribers.
    fn give(&self, name: &Name, mut found: Vec<&Subscriber>, row: &Row, limits: &Limits) {
        let Some(entity) = row.item.as_entity() else { return };
        fn query<'a>(s: &&'a Subscriber) -> &'a str {
            s.subscription.select.as_ref().map_or("", |select| &select.query)
        }
        found.sort_by(|a, b| query(a).cmp(query(b)));
        for same in found.chunk_by(|a, b| query(a) == query(b)) {
            let Some(first) = same.first() else { continue };
            let payload = match &name.part {
                Part::Whole => match self.plan(entity.entity, first.subscription.select.as_deref()) {
                    Some(plan) => render::row(&self.options.base, plan, row),
                    None => continue,
                },
                Part::Property(index, inner, shown) => {
                    render::property(row, shown, &Leaf::Property(*index, inner.clone()))
                }
            };
            let message = Message {
                topic: ByteString::from(format!("{}{}", name.topic, query(first))),
                payload,
                properties: None,
                position: None,
                // What becomes of a Task is news whenever it comes.
                expires: limits.expires.filter(|_| name.part == Part::Whole),
                void: limits.void.clone().filter(|_| name.part == Part::Whole),
                from: 0,
                retain: false,
            };
            let also = name.also.clone().into_iter().collect();
            let audience = Audience::City { tenant: entity.tenant.clone(), public: entity.public, also };
            self.deliver(&mut same.to_vec(), message, &audience);
        }
    }
}

/// An entity's own name, its set's, and those of the properties that are new or have changed.
fn own_names(entity: &Entity, changed: &Changed, row: &Row) -> Vec<Name> {
    let own = format!("v1.1/{}({})", changed.entity.set(), changed.id);
    let mut names = vec![
        Name::new(own.clone(), Part::Whole, None),
        Name::new(format!("v1.1/{}", changed.entity.set()), Part::Whole, None),
    ];
    for (index, property) in entity.schema().properties.iter().enumerate() {
        let leaf = Leaf::Property(index, Vec::new());
        let sent = match changed.created {
            true => !row.item.value(&leaf).to_json().is_null(),
            false => changed.properties.iter().any(|name| name == property.name),
        };
        if sent {
            let part = Part::Property(index, Vec::new(), property.name.to_owned());
            names.push(Name::new(format!("{own}/{}", property.name), part, None));
        }
    }
    names
}

/// The Location of `Locations(3)/Things`.
fn location_of(collection: &str) -> Option<EntityId> {
    collection.strip_prefix("Locations(")?.strip_suffix(")/Things")?.parse().ok().map(EntityId)
}
