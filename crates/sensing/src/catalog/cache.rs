//! What the doors must know of a Datastream, kept near: one look-up per batch on the way of an observation.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use ahash::RandomState;
use parking_lot::RwLock;

use crate::model::{DatastreamInfo, EntityId};

const SHARDS: usize = 16;
/// Entries in all: 100 MB at most.
const CAPACITY: usize = 400_000;
/// Features kept for each Datastream.
const FEATURES: usize = 64;

/// A bounded map. When a shard is full an arbitrary quarter of it goes: the next use brings back what is needed, and no order has to be
/// kept on the hot path.
pub(super) struct Cache {
    shards: [RwLock<HashMap<EntityId, Entry, RandomState>>; SHARDS],
    /// Counts invalidations, so that a row read before a change is not put in after it.
    generation: AtomicU64,
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
        Self { shards: std::array::from_fn(|_| RwLock::default()), generation: AtomicU64::new(0) }
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
        self.generation.fetch_add(1, SeqCst);
        for id in ids {
            self.shard(id).write().remove(&id);
        }
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
    fn what_was_read_before_a_change_is_not_kept() {
        let cache = Cache::new();
        let before = cache.generation();
        cache.forget([EntityId(7)]);
        cache.put(info(7), "".into(), before);
        assert!(cache.get(EntityId(7)).is_none());
    }
}
