//! The head: for every Datastream its latest Observation, how many there are, and the extent of their times, in O(1).
//!
//! A head has two parts. What is in the lake is summed up in a [`Sealed`], exact as of the last seal. What came since is in the
//! generations and counted as it arrives. The sealed part is kept on disk ([`super::kept`]) and found there; in memory are the heads that have
//! changed since the disk was last brought up to date, and they come first.

use std::{collections::BTreeMap, sync::Arc};

use ahash::AHashMap;
use arc_swap::ArcSwap;
use kernel::{Interval, Timestamp};
use parking_lot::RwLock;

use super::{batch::Run, kept::Base, recent::Key, tally::Tally};
use crate::model::{EntityId, Observation};

/// What is known of a Datastream without reading a single Observation.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// The Observation with the newest phenomenonTime.
    pub latest: Observation,
    /// How many there are. Exact, except that a row repeated from before the last seal may count twice until the next one;
    /// [`super::Observe::count`] is always exact.
    pub count: u64,
    /// `phenomenonTime` of the Datastream: the smallest interval that holds all of its Observations.
    pub phenomenon: Interval,
    /// `resultTime` of the Datastream, when any Observation has one.
    pub result_time: Option<Interval>,
}

/// The part of a head that is in the lake.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sealed {
    pub count: u64,
    pub latest: Observation,
    pub phenomenon: Interval,
    pub result_time: Option<Interval>,
}

/// A head as it is kept: the sealed part, and what has come since.
#[derive(Clone, Debug, Default)]
pub(super) struct Entry {
    pub sealed: Option<Sealed>,
    latest: Option<Observation>,
    phenomenon: Option<Interval>,
    result_time: Option<Interval>,
    /// Rows that came since the last seal and were not in memory before; in the generation being sealed, and in the open one.
    pub fresh: [u64; 2],
    /// Of those in the open generation and the sealing one: rows at or before the sealed extent's end, which may already be in the lake.
    pub doubtful: [u64; 2],
    /// Rows removed since the last seal that were only in the lake.
    pub gone: [u64; 2],
    /// The Datastream was dropped in that generation: what is sealed of it from before does not count.
    cut: [bool; 2],
    /// The Observation at the end was removed, so the latest must be looked up.
    pub stale: bool,
    /// The base on disk has this Datastream too, so this entry must not go before the base is written anew.
    pub in_base: bool,
}

fn widen(extent: &mut Option<Interval>, by: Interval) {
    *extent = Some(match *extent {
        Some(e) => Interval { start: e.start.min(by.start), end: e.end.max(by.end) },
        None => by,
    });
}

/// Index of the open generation in the counters of [`Entry`]; the other is the one being sealed.
pub(super) const OPEN: usize = 1;
const SEALING: usize = 0;

/// See [`Entry::mark`].
pub(super) type Mark = (Option<Observation>, Option<Interval>, [u64; 2], [u64; 2]);

impl Entry {
    pub fn from_sealed(sealed: Sealed) -> Self {
        Self {
            latest: Some(sealed.latest.clone()),
            phenomenon: Some(sealed.phenomenon),
            result_time: sealed.result_time,
            sealed: Some(sealed),
            ..Self::default()
        }
    }

    /// Takes note of one row; `new` says that no generation held its key.
    pub fn saw(&mut self, observation: impl FnOnce() -> Observation, key: &Key, end: i64, new: bool) {
        if new {
            self.fresh[OPEN] += 1;
            if self.sealed.as_ref().is_some_and(|s| key.at <= s.phenomenon.end.as_micros()) {
                self.doubtful[OPEN] += 1;
            }
        }
        let at = Timestamp::from_micros(key.at);
        widen(&mut self.phenomenon, Interval { start: at, end: Timestamp::from_micros(end) });
        if let Some(time) = key.result_time {
            widen(&mut self.result_time, Interval::instant(Timestamp::from_micros(time)));
        }
        if self.latest.as_ref().is_none_or(|l| Key::of(&l.id()) <= *key) {
            self.latest = Some(observation());
        }
    }

    /// Takes note of rows of a plain run ([`super::Run::is_plain`]), none of which any generation held.
    pub fn saw_run(&mut self, run: &Run) {
        let (Some(&first), Some(&last)) = (run.times.first(), run.times.last()) else { return };
        self.fresh[OPEN] += run.len() as u64;
        if let Some(sealed) = &self.sealed {
            let end = sealed.phenomenon.end.as_micros();
            self.doubtful[OPEN] += run.times.partition_point(|at| *at <= end) as u64;
        }
        widen(
            &mut self.phenomenon,
            Interval { start: Timestamp::from_micros(first), end: Timestamp::from_micros(last) },
        );
        let key = Key { at: last, feature: run.feature.0, result_time: None };
        if self.latest.as_ref().is_none_or(|l| Key::of(&l.id()) <= key) {
            self.latest = Some(run.observation(run.len() - 1));
        }
    }

    /// A row was removed; `held` says whether a generation held it.
    pub fn lost(&mut self, key: &Key, held: bool) {
        if held {
            self.fresh[OPEN] = self.fresh[OPEN].saturating_sub(1);
        } else {
            self.gone[OPEN] += 1;
        }
        let at_an_end = |extent: &Option<Interval>| {
            extent.is_some_and(|e| key.at <= e.start.as_micros() || key.at >= e.end.as_micros())
        };
        if at_an_end(&self.phenomenon) || self.latest.as_ref().is_none_or(|l| Key::of(&l.id()) <= *key) {
            self.stale = true;
        }
    }

    /// What is left of a head when its Datastream is dropped.
    fn drop_all(&mut self) {
        *self = Self { cut: [false, true], in_base: self.in_base, ..Self::default() };
    }

    /// Whether it says nothing but what was sealed.
    fn is_settled(&self) -> bool {
        let counted = [self.fresh, self.doubtful, self.gone] == [[0; 2]; 3];
        let sealed = self.sealed.as_ref();
        counted
            && self.cut == [false; 2]
            && !self.stale
            && self.latest.as_ref() == sealed.map(|s| &s.latest)
            && self.phenomenon == sealed.map(|s| s.phenomenon)
            && self.result_time == sealed.and_then(|s| s.result_time)
    }

    /// The open generation is being sealed and a new one begins.
    pub fn turn(&mut self) {
        self.cut = [self.cut[OPEN], false];
        for counters in [&mut self.fresh, &mut self.doubtful, &mut self.gone] {
            counters[SEALING] += counters[OPEN];
            counters[OPEN] = 0;
        }
    }

    /// The lake now holds `inserted` more and `deleted` fewer rows; `rows` is how many the sealed generation had.
    pub fn sealed(&mut self, inserted: u64, deleted: u64, rows: u64) {
        for counters in [&mut self.fresh, &mut self.doubtful, &mut self.gone] {
            counters[SEALING] = 0;
        }
        let before = self.sealed.as_ref().map_or(0, |s| s.count);
        let count = match self.cut {
            [_, true] => 0,
            [true, false] => rows,
            [false, false] => (before + inserted).saturating_sub(deleted),
        };
        self.cut[SEALING] = false;
        self.sealed = self
            .latest
            .clone()
            .zip(self.phenomenon)
            .filter(|_| count > 0)
            .map(|(latest, phenomenon)| Sealed { count, latest, phenomenon, result_time: self.result_time });
    }

    /// Rows of the lake were replaced by fewer: so many came, so many went. What is seen at the ends is to be looked up.
    pub fn thinned(&mut self, inserted: u64, deleted: u64, results: Option<Interval>) {
        if let Some(sealed) = &mut self.sealed {
            sealed.count = (sealed.count + inserted).saturating_sub(deleted);
        }
        if let Some(results) = results {
            widen(&mut self.result_time, results);
        }
        self.stale = true;
    }

    /// The sealed part says what is seen at the ends now.
    pub fn settle(&mut self) {
        let Some(count) = self.sealed.as_ref().map(|s| s.count) else { return };
        self.sealed = self
            .latest
            .clone()
            .zip(self.phenomenon)
            .filter(|_| count > 0)
            .map(|(latest, phenomenon)| Sealed { count, latest, phenomenon, result_time: self.result_time });
    }

    /// What differs after rows have come or gone.
    pub fn mark(&self) -> Mark {
        (self.latest.clone(), self.phenomenon, self.fresh, self.gone)
    }

    /// Replaces what can be seen, after a lookup found out what is left.
    pub fn refreshed(&mut self, latest: Option<Observation>, phenomenon: Option<Interval>) {
        self.latest = latest;
        self.phenomenon = phenomenon;
        self.stale = false;
    }

    pub fn count(&self) -> u64 {
        let sealed = self.sealed.as_ref().map_or(0, |s| s.count);
        (sealed + self.fresh.iter().sum::<u64>()).saturating_sub(self.gone.iter().sum())
    }
    pub fn is_doubtful(&self) -> bool {
        self.doubtful != [0, 0]
    }

    pub fn head(&self) -> Option<Head> {
        Some(Head {
            latest: self.latest.clone()?,
            count: self.count(),
            phenomenon: self.phenomenon?,
            result_time: self.result_time,
        })
    }
}

const SHARDS: usize = 32;

/// The heads of all Datastreams that have ever had an Observation.
#[derive(Default)]
pub(super) struct Heads {
    /// What has changed since the base. An entry here hides the one there, also when it is empty.
    shards: [RwLock<AHashMap<i64, Entry>>; SHARDS],
    base: ArcSwap<Base>,
    pub tally: Tally,
}

impl Heads {
    fn shard(&self, id: i64) -> &RwLock<AHashMap<i64, Entry>> {
        &self.shards[id as usize % SHARDS]
    }

    pub fn get<T>(&self, id: EntityId, read: impl FnOnce(&Entry) -> T) -> Option<T> {
        if let Some(entry) = self.shard(id.0).read().get(&id.0) {
            return Some(read(entry));
        }
        // The base is looked at after memory: an entry leaves memory only when a base that has it is there.
        let kept = self.base.load_full().get(id.0)?;
        Some(read(&Entry::from_sealed(kept)))
    }

    pub fn change<T>(&self, id: i64, change: impl FnOnce(&mut Entry) -> T) -> T {
        // Told while the head is held, so that the tally hears of changes in their order.
        let change = |entry: &mut Entry| {
            let value = change(entry);
            self.tally.now(id, entry.count(), entry.is_doubtful());
            value
        };
        // The usual case: it is in memory.
        if let Some(entry) = self.shard(id).write().get_mut(&id) {
            return change(entry);
        }
        loop {
            // The disk is read before the lock is taken.
            let near = self.shard(id).read().contains_key(&id);
            let base = self.base.load_full();
            let kept = if near { None } else { base.get(id) };
            let mut shard = self.shard(id).write();
            if !shard.contains_key(&id) {
                if near || !Arc::ptr_eq(&base, &self.base.load()) {
                    // It left memory, or the base was written anew, in between.
                    continue;
                }
                let in_base = kept.is_some();
                shard.insert(id, Entry { in_base, ..kept.map(Entry::from_sealed).unwrap_or_default() });
            }
            return change(shard.entry(id).or_default());
        }
    }

    /// Tells the tally of a head that is in memory; `false` when it is not.
    pub fn tell_near(&self, id: i64) -> bool {
        let shard = self.shard(id).read();
        let Some(entry) = shard.get(&id) else { return false };
        self.tally.now(id, entry.count(), entry.is_doubtful());
        true
    }
    /// What the heads on disk count, and which base says so.
    pub fn kept_counts(&self) -> (Arc<Base>, AHashMap<i64, u64>) {
        let base = self.base.load_full();
        let counts = base.counts();
        (base, counts)
    }
    /// Whether this is the base still.
    pub fn has_base(&self, base: &Arc<Base>) -> bool {
        Arc::ptr_eq(base, &self.base.load())
    }

    pub fn insert(&self, id: i64, entry: Entry) {
        self.shard(id).write().insert(id, entry);
    }
    pub fn forget(&self, id: i64) {
        self.change(id, Entry::drop_all);
    }
    /// Removes a head with nothing left in it.
    pub fn tidy(&self, id: i64) {
        let mut shard = self.shard(id).write();
        if shard.get(&id).is_some_and(|e| e.sealed.is_none() && e.count() == 0 && !e.cut[OPEN] && !e.in_base) {
            shard.remove(&id);
        }
    }
    pub fn len(&self) -> usize {
        let (mut more, mut fewer) = (0, 0);
        for shard in &self.shards {
            for entry in shard.read().values() {
                more += usize::from(!entry.in_base && entry.latest.is_some());
                fewer += usize::from(entry.in_base && entry.latest.is_none());
            }
        }
        (self.base.load().heads() as usize + more).saturating_sub(fewer)
    }
    /// Ids of all Datastreams whose head is in memory, ascending.
    pub fn near(&self) -> Vec<i64> {
        let mut ids: Vec<i64> = self.shards.iter().flat_map(|s| s.read().keys().copied().collect::<Vec<_>>()).collect();
        ids.sort_unstable();
        ids
    }
    /// The sealed parts of all heads in memory; `None` for those that have none any more.
    pub fn changed(&self) -> BTreeMap<i64, Option<Sealed>> {
        let mut changed = BTreeMap::new();
        for shard in &self.shards {
            changed.extend(shard.read().iter().map(|(id, entry)| (*id, entry.sealed.clone())));
        }
        changed
    }
    /// This base holds what [`Heads::changed`] gave; `known` says of each whether it had a sealed part then. Memory lets go of everything that says
    /// no more than the base.
    pub fn rebase(&self, base: Arc<Base>, known: &AHashMap<i64, bool>) {
        self.base.store(base);
        for shard in &self.shards {
            let mut shard = shard.write();
            shard.retain(|id, entry| {
                // What came to memory since then was read from the old base, and stands in the new one as it did there.
                entry.in_base = known.get(id).copied().unwrap_or(entry.in_base);
                !entry.is_settled() || entry.in_base != entry.sealed.is_some()
            });
            shard.shrink_to_fit();
        }
    }
}
