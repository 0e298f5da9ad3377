//! Rows that are on the stream but not yet in the lake, by Datastream.
//!
//! A [`Generation`] takes everything between two seals. The applier alone writes; readers copy what they need under a
//! short shard lock. When a seal begins the generation is frozen and a new one opened, so nothing is ever copied to be sealed.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use ahash::AHashMap;
use kernel::Timestamp;
use parking_lot::RwLock;

use super::batch::{Extra, Run, observation};
use crate::model::{EntityId, Observation, ObservationId};

/// What identifies a row within its Datastream, in the order rows are kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Key {
    pub at: i64,
    pub feature: i64,
    pub result_time: Option<i64>,
}

impl Key {
    pub fn of(id: &ObservationId) -> Self {
        Self { at: id.at.as_micros(), feature: id.feature.0, result_time: id.result_time.map(Timestamp::as_micros) }
    }
    pub fn id(&self, datastream: EntityId) -> ObservationId {
        ObservationId {
            datastream,
            at: Timestamp::from_micros(self.at),
            feature: EntityId(self.feature),
            result_time: self.result_time.map(Timestamp::from_micros),
        }
    }
}

/// One row with its key.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub key: Key,
    pub value: f64,
    pub extra: Option<Arc<Extra>>,
}

impl Row {
    pub fn observation(&self, datastream: EntityId) -> Observation {
        observation(
            datastream,
            EntityId(self.key.feature),
            Timestamp::from_micros(self.key.at),
            self.value,
            self.extra.as_deref(),
        )
    }
}

/// The unsealed rows of one Datastream.
///
/// Plain rows (a number at an instant, of the usual feature) that come in order are two vectors; whatever is late, repeated or has more to it
/// is in `other`, which wins over a plain row of the same key. `removed` hides rows here and in everything older.
#[derive(Debug, Default)]
pub struct Series {
    feature: i64,
    times: Vec<i64>,
    values: Vec<f64>,
    other: BTreeMap<Key, (f64, Option<Arc<Extra>>)>,
    removed: BTreeSet<Key>,
    /// Keys that stand both in the vectors and in `other`.
    shadowed: usize,
}

impl Series {
    fn plain_key(&self, row: usize) -> Key {
        Key { at: self.times[row], feature: self.feature, result_time: None }
    }
    fn has_plain(&self, key: &Key) -> bool {
        key.feature == self.feature && key.result_time.is_none() && self.times.binary_search(&key.at).is_ok()
    }

    /// Whether a row of this key is visible here.
    pub fn contains(&self, key: &Key) -> bool {
        self.other.contains_key(key) || (self.has_plain(key) && !self.removed.contains(key))
    }
    pub fn is_removed(&self, key: &Key) -> bool {
        self.removed.contains(key)
    }
    /// Whether the row is newer than every row here, so that no lookup is needed to know that it is new.
    fn is_after_all(&self, key: &Key) -> bool {
        self.times.last().is_none_or(|&t| key.at > t) && self.other.last_key_value().is_none_or(|(k, _)| key > k)
    }

    /// Returns whether the row was new to this generation.
    fn put(&mut self, key: Key, value: f64, extra: Option<&Arc<Extra>>) -> bool {
        if self.times.is_empty() && self.other.is_empty() {
            self.feature = key.feature;
        }
        let plain = extra.is_none() && key.result_time.is_none() && key.feature == self.feature;
        if plain && self.is_after_all(&key) && self.removed.is_empty() {
            self.times.push(key.at);
            self.values.push(value);
            return true;
        }
        let was_removed = self.removed.remove(&key);
        let in_plain = self.has_plain(&key);
        let before = self.other.insert(key, (value, extra.cloned()));
        if before.is_none() && in_plain {
            self.shadowed += 1;
        }
        before.is_none() && (!in_plain || was_removed)
    }

    /// Returns whether a row was visible here.
    fn remove(&mut self, key: Key) -> bool {
        let in_plain = self.has_plain(&key);
        let visible_plain = in_plain && !self.removed.contains(&key);
        let in_other = self.other.remove(&key).is_some();
        if in_other && in_plain {
            self.shadowed -= 1;
        }
        self.removed.insert(key);
        in_other || visible_plain
    }

    /// Feature, times and values, when that is all there is.
    pub fn plain(&self) -> Option<(i64, &[i64], &[f64])> {
        let plain = self.other.is_empty() && self.removed.is_empty();
        plain.then_some((self.feature, &self.times[..], &self.values[..]))
    }

    /// The greatest key, visible or not.
    pub fn last(&self) -> Option<Key> {
        let plain = self.times.len().checked_sub(1).map(|row| self.plain_key(row));
        plain.max(self.other.last_key_value().map(|(key, _)| *key))
    }

    /// Adds rows that are all new, later than everything here, and of the usual feature; `false` when they are not, and nothing is done.
    fn put_plain(&mut self, run: &Run) -> bool {
        let Some(&first) = run.times.first() else { return true };
        if self.times.is_empty() && self.other.is_empty() {
            self.feature = run.feature.0;
        }
        let key = Key { at: first, feature: run.feature.0, result_time: None };
        if run.feature.0 != self.feature || !self.removed.is_empty() || !self.is_after_all(&key) {
            return false;
        }
        self.times.extend_from_slice(&run.times);
        self.values.extend_from_slice(&run.values);
        true
    }

    /// Visible rows.
    pub fn len(&self) -> usize {
        let hidden = self.removed.iter().filter(|k| self.has_plain(k)).count();
        self.times.len() + self.other.len() - self.shadowed - hidden
    }
    pub fn removed(&self) -> impl Iterator<Item = &Key> {
        self.removed.iter()
    }

    /// Visible rows with `from <= key <= to` (both optional), in key order, at most `limit`, from the end when `newest_first`.
    pub fn rows(&self, from: Option<&Key>, to: Option<&Key>, newest_first: bool, limit: usize) -> Vec<Row> {
        let lower = from.map_or(0, |k| self.times.partition_point(|t| *t < k.at));
        let upper = to.map_or(self.times.len(), |k| self.times.partition_point(|t| *t <= k.at));
        let lower = lower.min(upper);
        let inside = |key: &Key| from.is_none_or(|f| key >= f) && to.is_none_or(|t| key <= t);
        let plain = (lower..upper).map(|row| (self.plain_key(row), self.values[row]));
        let plain =
            plain.filter(|(key, _)| inside(key) && !self.removed.contains(key) && !self.other.contains_key(key));
        let plain = plain.map(|(key, value)| Row { key, value, extra: None });
        if from.zip(to).is_some_and(|(f, t)| f > t) {
            return Vec::new();
        }
        use std::ops::Bound::{Included, Unbounded};
        let bounds = (from.map_or(Unbounded, |k| Included(*k)), to.map_or(Unbounded, |k| Included(*k)));
        let other = self.other.range(bounds).map(|(key, (value, extra))| Row {
            key: *key,
            value: *value,
            extra: extra.clone(),
        });
        if newest_first {
            merge(plain.rev(), other.rev(), |a, b| b.cmp(a)).take(limit).collect()
        } else {
            merge(plain, other, Key::cmp).take(limit).collect()
        }
    }
}

/// Merges two runs of rows that are each in `order`. On equal keys the second wins.
pub fn merge(
    a: impl Iterator<Item = Row>,
    b: impl Iterator<Item = Row>,
    order: impl Fn(&Key, &Key) -> Ordering,
) -> impl Iterator<Item = Row> {
    let (mut a, mut b) = (a.peekable(), b.peekable());
    std::iter::from_fn(move || {
        let side = match (a.peek(), b.peek()) {
            (Some(x), Some(y)) => order(&x.key, &y.key),
            (Some(_), None) => Ordering::Less,
            (None, _) => Ordering::Greater,
        };
        match side {
            Ordering::Less => a.next(),
            Ordering::Equal => {
                a.next();
                b.next()
            }
            Ordering::Greater => b.next(),
        }
    })
}

const SHARDS: usize = 64;

/// Everything between two seals.
pub struct Generation {
    shards: [RwLock<AHashMap<i64, Series>>; SHARDS],
    dropped: RwLock<BTreeSet<i64>>,
    rows: AtomicUsize,
}

impl Default for Generation {
    fn default() -> Self {
        Self {
            shards: std::array::from_fn(|_| RwLock::default()),
            dropped: RwLock::default(),
            rows: AtomicUsize::new(0),
        }
    }
}

impl Generation {
    fn shard(&self, datastream: EntityId) -> &RwLock<AHashMap<i64, Series>> {
        &self.shards[datastream.0 as usize % SHARDS]
    }
    /// Rows taken in, which bounds the memory of a generation.
    pub fn rows(&self) -> usize {
        self.rows.load(Relaxed)
    }
    pub fn is_empty(&self) -> bool {
        self.rows() == 0
    }

    /// Adds a run that is plain and ascends, when all of it is later than what is here: two copies, whatever its length.
    pub fn put_plain(&self, run: &Run) -> bool {
        let added = self.shard(run.datastream).write().entry(run.datastream.0).or_default().put_plain(run);
        if added {
            self.rows.fetch_add(run.len(), Relaxed);
        }
        added
    }

    /// Adds a run and calls `each(key, new here)` for every row, under the shard's lock.
    pub fn put(&self, run: &Run, mut each: impl FnMut(Key, bool)) {
        let mut shard = self.shard(run.datastream).write();
        let series = shard.entry(run.datastream.0).or_default();
        series.times.reserve(run.len());
        series.values.reserve(run.len());
        for row in 0..run.len() {
            let extra = run.extra(row);
            let key = Key {
                at: run.times[row],
                feature: run.feature.0,
                result_time: extra.and_then(|e| e.result_time).map(Timestamp::as_micros),
            };
            let new = series.put(key, run.values[row], extra);
            each(key, new);
        }
        self.rows.fetch_add(run.len(), Relaxed);
    }

    /// Returns whether the row was visible in this generation.
    pub fn remove(&self, id: &ObservationId) -> bool {
        self.rows.fetch_add(1, Relaxed);
        self.shard(id.datastream).write().entry(id.datastream.0).or_default().remove(Key::of(id))
    }

    /// Forgets the Datastream here and remembers that everything older of it is gone.
    pub fn drop_datastream(&self, id: EntityId) {
        self.shard(id).write().remove(&id.0);
        self.dropped.write().insert(id.0);
        self.rows.fetch_add(1, Relaxed);
    }
    pub fn is_dropped(&self, id: EntityId) -> bool {
        self.dropped.read().contains(&id.0)
    }
    pub fn dropped(&self) -> Vec<i64> {
        self.dropped.read().iter().copied().collect()
    }

    pub fn with<T>(&self, datastream: EntityId, read: impl FnOnce(&Series) -> T) -> Option<T> {
        self.shard(datastream).read().get(&datastream.0).map(read)
    }

    /// Datastreams with anything in this generation, ascending.
    pub fn datastreams(&self) -> Vec<i64> {
        let mut ids: Vec<i64> = self.shards.iter().flat_map(|s| s.read().keys().copied().collect::<Vec<_>>()).collect();
        ids.sort_unstable();
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::{batch::Batch, frame::tests::an_observation};
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Put(Observation),
        Remove(Observation),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![4 => an_observation().prop_map(Step::Put), 1 => an_observation().prop_map(Step::Remove)];
        proptest::collection::vec(step, 0..120)
    }

    proptest! {
        /// The two-tier series is a map from key to the last row put, nothing else.
        #[test]
        fn a_series_is_a_map(steps in steps(), from in proptest::option::of(0i64..100), to in proptest::option::of(0i64..100), limit in 0usize..80, newest in any::<bool>()) {
            let generation = Generation::default();
            let mut model: BTreeMap<(i64, Key), Observation> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Put(o) => {
                        let key = (o.datastream.0, Key::of(&o.id()));
                        let new = model.insert(key, o.clone()).is_none();
                        for run in Batch::one(o).runs() {
                            generation.put(run, |_, n| assert_eq!(n, new));
                        }
                    }
                    Step::Remove(o) => {
                        let was = model.remove(&(o.datastream.0, Key::of(&o.id()))).is_some();
                        prop_assert_eq!(generation.remove(&o.id()), was);
                    }
                }
            }
            let edge = |n: i64| Key { at: (1_700_000_000 + n) * 1_000_000, feature: 0, result_time: None };
            let (from, to) = (from.map(edge), to.map(edge));
            for ds in 1i64..4 {
                let mut expected: Vec<_> = model.iter().filter(|((d, k), _)| *d == ds && from.is_none_or(|f| *k >= f) && to.is_none_or(|t| *k <= t)).map(|(_, o)| o.clone()).collect();
                if newest {
                    expected.reverse();
                }
                expected.truncate(limit);
                let found = generation.with(EntityId(ds), |s| s.rows(from.as_ref(), to.as_ref(), newest, limit)).unwrap_or_default();
                let found: Vec<_> = found.iter().map(|r| r.observation(EntityId(ds))).collect();
                prop_assert_eq!(found, expected);
                let len = generation.with(EntityId(ds), Series::len).unwrap_or(0);
                prop_assert_eq!(len, model.keys().filter(|(d, _)| *d == ds).count());
            }
        }
    }
}
