//! What the doors must know of a Datastream, kept near: one look-up per batch on the way of an observation.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use ahash::RandomState;
use parking_lot::{Mutex, RwLock};

use crate::model::{DatastreamInfo, EntityId};

const SHARDS: usize = 16;
/// Entries in all: 100 MB at most.
const CAPACITY: usize = 400_000;
/// Features kept for each Datastream.
const FEATURES: usize = 64;
/// Invalidations that are remembered for whoever asks what has changed.
const LOG: usize = 10_000;

/// A bounded map. When a shard is full an arbitrary quarter of it goes: the next use brings back what is needed, and no order has to be
/// kept on the hot path.
pub(super) struct Cache {
    shards: [RwLock<HashMap<EntityId, Entry, RandomState>>; SHARDS],
    /// Counts invalidations, so that a row read before a change is not put in after it.
    generation: AtomicU64,
    log: Mutex<Log>,
}

/// What was invalidated, the newest last.
#[derive(Default)]
struct Log {
    ids: VecDeque<(u64, EntityId)>,
    /// The generation after which the log is whole.
    from: u64,
}

struct Entry {
    info: Arc<DatastreamInfo>,
    /// Of its Thing.
    system: Arc<str>,
    /// Features beside the default one that are known to exist and to be registered.
    features: HashSet<EntityId, RandomState>,
}

impl Cache {
    pub fn new() -> Self {
        Self {
            shards: std::array::from_fn(|_| RwLock::default()),
            generation: AtomicU64::new(0),
            log: Mutex::default(),
        }
    }
    fn shard(&self, id: EntityId) -> &RwLock<HashMap<EntityId, Entry, RandomState>> {
        &self.shards[id.0 as usize % SHARDS]
    }
    pub fn get(&self, id: EntityId) -> Option<Arc<DatastreamInfo>> {
        self.shard(id).read().get(&id).map(|e| Arc::clone(&e.info))
    }
    pub fn system(&self, id: EntityId) -> Option<Arc<str>> {
        self.shard(id).read().get(&id).map(|e| Arc::clone(&e.system))
    }
    pub fn knows_feature(&self, id: EntityId, feature: EntityId) -> bool {
        self.shard(id).read().get(&id).is_some_and(|e| e.info.feature == feature || e.features.contains(&feature))
    }
    /// To be taken before the rows are read.
    pub fn generation(&self) -> u64 {
        self.generation.load(SeqCst)
    }
    pub fn put(&self, info: Arc<DatastreamInfo>, system: Arc<str>, generation: u64) {
        let mut shard = self.shard(info.id).write();
        if self.generation() != generation {
            return;
        }
        if shard.len() >= CAPACITY / SHARDS {
            let mut seen = 0usize;
            shard.retain(|_, _| {
                seen += 1;
                !seen.is_multiple_of(4)
            });
        }
        shard.insert(info.id, Entry { info, system, features: HashSet::default() });
    }
    pub fn put_feature(&self, id: EntityId, feature: EntityId, generation: u64) {
        let mut shard = self.shard(id).write();
        if self.generation() == generation
            && let Some(entry) = shard.get_mut(&id)
        {
            if entry.features.len() >= FEATURES {
                entry.features.clear();
            }
            entry.features.insert(feature);
        }
    }
    pub fn forget(&self, ids: impl IntoIterator<Item = EntityId>) {
        // First the generation: whoever read the old rows finds it changed, whether before or after its entry is removed.
        let ids: Vec<EntityId> = ids.into_iter().collect();
        {
            let mut log = self.log.lock();
            let generation = self.generation.fetch_add(1, SeqCst) + 1;
            log.ids.extend(ids.iter().map(|id| (generation, *id)));
            while log.ids.len() > LOG {
                log.from = log.ids.pop_front().map_or(log.from, |(generation, _)| generation);
            }
        }
        for id in ids {
            self.shard(id).write().remove(&id);
        }
    }
    pub fn forget_everything(&self) {
        {
            let mut log = self.log.lock();
            log.from = self.generation.fetch_add(1, SeqCst) + 1;
            log.ids.clear();
        }
        self.shards.iter().for_each(|shard| shard.write().clear());
    }
    /// The generation now, and what was invalidated since `since`; `None` when that is too long ago to be known.
    pub fn invalidated(&self, since: Option<u64>) -> (u64, Option<Vec<EntityId>>) {
        let log = self.log.lock();
        let ids = since.filter(|since| *since >= log.from).map(|since| {
            let first = log.ids.partition_point(|(generation, _)| *generation <= since);
            log.ids.range(first..).map(|(_, id)| *id).collect()
        });
        (self.generation(), ids)
    }
    pub fn len(&self) -> usize {
        self.shards.iter().map(|s| s.read().len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ObservationType;
    use kernel::Tenant;

    fn info(id: i64) -> Arc<DatastreamInfo> {
        Arc::new(DatastreamInfo {
            id: EntityId(id),
            tenant: Tenant::parse("t").expect("slug"),
            public: true,
            thing: EntityId(1),
            name: "n".into(),
            observation_type: ObservationType::Any,
            elements: None,
            unit: None,
            feature: EntityId(1),
            interval: None,
            simulated: false,
        })
    }

    #[test]
    fn stays_within_its_bounds() {
        let cache = Cache::new();
        for id in 0..CAPACITY as i64 * 2 {
            cache.put(info(id), "".into(), 0);
        }
        assert!(cache.len() <= CAPACITY, "{}", cache.len());
        assert!(cache.get(EntityId(CAPACITY as i64 * 2 - 1)).is_some());
    }

    #[test]
    fn what_was_invalidated_is_remembered_for_a_while() {
        let cache = Cache::new();
        cache.forget([EntityId(1), EntityId(2)]);
        let (seen, none) = cache.invalidated(None);
        assert_eq!((seen, none), (1, None));
        cache.forget([EntityId(3)]);
        assert_eq!(cache.invalidated(Some(seen)), (2, Some(vec![EntityId(3)])));
        assert_eq!(cache.invalidated(Some(2)), (2, Some(vec![])));
        cache.forget((0..LOG as i64).map(EntityId));
        assert_eq!(cache.invalidated(Some(seen)), (3, None), "number 3 may have left the log");
        assert_eq!(cache.invalidated(Some(2)).1.map(|ids| ids.len()), Some(LOG));
        cache.forget([EntityId(7)]);
        assert_eq!(cache.invalidated(Some(2)).1, None);
        assert_eq!(cache.invalidated(Some(3)), (4, Some(vec![EntityId(7)])));
        cache.forget_everything();
        assert_eq!(cache.invalidated(Some(4)), (5, None));
        assert_eq!(cache.invalidated(Some(5)), (5, Some(vec![])));
    }

    #[test]
    fn what_was_read_before_a_change_is_not_kept() {
        let cache = Cache::new();
        let before = cache.generation();
        cache.forget([EntityId(7)]);
        cache.put(info(7), "".into(), before);
        assert!(cache.get(EntityId(7)).is_none());
    }
}
