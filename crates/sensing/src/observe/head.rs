//! The head: for every Datastream its latest Observation, how many there are, and the extent of their times, in O(1).
//!
//! A head has two parts. What is in the lake is summed up in a [`Sealed`], exact as of the last seal. What came since is in the
//! generations and counted as it arrives. [`Checkpoint`] keeps the sealed part on disk, so that a start reads a summary and not the lake.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use ahash::AHashMap;
use kernel::{Interval, Timestamp};
use parking_lot::RwLock;

use super::{
    batch::{Batch, Run},
    frame::{self, Frame},
    recent::Key,
};
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
    pub fn dropped() -> Self {
        Self { cut: [false, true], ..Self::default() }
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
    shards: [RwLock<AHashMap<i64, Entry>>; SHARDS],
}

impl Heads {
    fn shard(&self, id: i64) -> &RwLock<AHashMap<i64, Entry>> {
        &self.shards[id as usize % SHARDS]
    }
    pub fn get<T>(&self, id: EntityId, read: impl FnOnce(&Entry) -> T) -> Option<T> {
        self.shard(id.0).read().get(&id.0).map(read)
    }
    pub fn change<T>(&self, id: i64, change: impl FnOnce(&mut Entry) -> T) -> T {
        change(self.shard(id).write().entry(id).or_default())
    }
    pub fn insert(&self, id: i64, entry: Entry) {
        self.shard(id).write().insert(id, entry);
    }
    pub fn forget(&self, id: i64) {
        self.shard(id).write().insert(id, Entry::dropped());
    }
    /// Removes a head with nothing left in it.
    pub fn tidy(&self, id: i64) {
        let mut shard = self.shard(id).write();
        if shard.get(&id).is_some_and(|e| e.sealed.is_none() && e.count() == 0 && !e.cut[OPEN]) {
            shard.remove(&id);
        }
    }
    pub fn len(&self) -> usize {
        self.shards.iter().map(|s| s.read().len()).sum()
    }
    /// Ids of all Datastreams with a head, ascending.
    pub fn ids(&self) -> Vec<i64> {
        let mut ids: Vec<i64> = self.shards.iter().flat_map(|s| s.read().keys().copied().collect::<Vec<_>>()).collect();
        ids.sort_unstable();
        ids
    }
}

/// The sealed heads on disk: a log of what each seal changed, rewritten when it has grown to several times what it says.
///
/// ```text
/// file  := entry*
/// entry := length:u32le crc32:u32le body      crc over body
/// body  := through:u64le dropped:u32le id:i64le* heads:u32le head*
/// head  := datastream:i64le count:u64le start:i64le end:i64le has_rt:u8 [start:i64le end:i64le] frame-length:u32le frame (of `latest`)
/// ```
/// It is a cache: when it does not end at the lake's own offset, the heads are read from the lake instead.
pub(super) struct Checkpoint {
    path: PathBuf,
    file: File,
    entries: usize,
}

pub(super) struct Loaded {
    pub through: Option<u64>,
    pub heads: AHashMap<i64, Sealed>,
}

/// Seals after which the log is rewritten.
const REWRITE_AFTER: usize = 240;

impl Checkpoint {
    pub fn open(path: &Path) -> io::Result<(Self, Loaded)> {
        let mut bytes = Vec::new();
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        file.read_to_end(&mut bytes)?;
        let mut loaded = Loaded { through: None, heads: AHashMap::new() };
        let (mut at, mut entries) = (0usize, 0usize);
        while let Some(end) = read_entry(&bytes, at, &mut loaded) {
            at = end;
            entries += 1;
        }
        // A torn last entry is what a crash leaves; it must not stand before the next one.
        file.set_len(at as u64)?;
        Ok((Self { path: path.to_owned(), file, entries }, loaded))
    }

    /// Appends what one seal changed. Durable on return.
    pub fn append<'a>(
        &mut self,
        through: u64,
        dropped: &[i64],
        heads: impl Iterator<Item = (i64, &'a Sealed)>,
    ) -> io::Result<()> {
        self.file.write_all(&entry(through, dropped, heads))?;
        self.file.sync_data()?;
        self.entries += 1;
        Ok(())
    }

    pub fn wants_rewrite(&self) -> bool {
        self.entries >= REWRITE_AFTER
    }

    /// Replaces the log by one entry.
    pub fn rewrite<'a>(&mut self, through: u64, heads: impl Iterator<Item = (i64, &'a Sealed)>) -> io::Result<()> {
        let fresh = self.path.with_extension("new");
        let mut file = File::create(&fresh)?;
        file.write_all(&entry(through, &[], heads))?;
        file.sync_all()?;
        std::fs::rename(&fresh, &self.path)?;
        if let Some(folder) = self.path.parent() {
            File::open(folder)?.sync_all()?;
        }
        self.file = OpenOptions::new().append(true).open(&self.path)?;
        self.entries = 1;
        Ok(())
    }
}

fn entry<'a>(through: u64, dropped: &[i64], heads: impl Iterator<Item = (i64, &'a Sealed)>) -> Vec<u8> {
    let mut out = vec![0u8; 8];
    out.extend(through.to_le_bytes());
    out.extend((dropped.len() as u32).to_le_bytes());
    dropped.iter().for_each(|id| out.extend(id.to_le_bytes()));
    let count_at = out.len();
    out.extend(0u32.to_le_bytes());
    let mut count = 0u32;
    for (id, head) in heads {
        count += 1;
        out.extend(id.to_le_bytes());
        out.extend(head.count.to_le_bytes());
        let interval = |out: &mut Vec<u8>, i: Interval| {
            out.extend(i.start.as_micros().to_le_bytes());
            out.extend(i.end.as_micros().to_le_bytes());
        };
        interval(&mut out, head.phenomenon);
        out.push(u8::from(head.result_time.is_some()));
        if let Some(extent) = head.result_time {
            interval(&mut out, extent);
        }
        let latest = frame::encode(&Frame::Observed(Batch::one(head.latest.clone())));
        out.extend((latest.len() as u32).to_le_bytes());
        out.extend(latest);
    }
    out[count_at..count_at + 4].copy_from_slice(&count.to_le_bytes());
    let (length, crc) = ((out.len() - 8) as u32, crc32fast::hash(&out[8..]));
    out[..4].copy_from_slice(&length.to_le_bytes());
    out[4..8].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Applies the entry at `at` and returns where it ends, or `None` at the end of what is whole.
fn read_entry(bytes: &[u8], at: usize, loaded: &mut Loaded) -> Option<usize> {
    let (length, rest) = bytes.get(at..)?.split_first_chunk::<4>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let body = rest.get(..u32::from_le_bytes(*length) as usize)?;
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return None;
    }
    let mut input = body;
    let mut i64s = |n: usize| -> Option<Vec<i64>> {
        let (head, tail) = input.split_at_checked(n * 8)?;
        input = tail;
        Some(head.as_chunks::<8>().0.iter().map(|c| i64::from_le_bytes(*c)).collect())
    };
    let through = i64s(1)?[0] as u64;
    let u32_of = |input: &mut &[u8]| -> Option<u32> {
        let (head, tail) = input.split_first_chunk::<4>()?;
        *input = tail;
        Some(u32::from_le_bytes(*head))
    };
    let count = u32_of(&mut input)? as usize;
    let (dropped, tail) = input.split_at_checked(count * 8)?;
    input = tail;
    let mut heads = Vec::new();
    for _ in 0..u32_of(&mut input)? {
        let (fixed, tail) = input.split_first_chunk::<33>()?;
        input = tail;
        let int = |i: usize| i64::from_le_bytes(fixed[i * 8..i * 8 + 8].try_into().unwrap_or_default());
        let interval =
            |start: i64, end: i64| Interval { start: Timestamp::from_micros(start), end: Timestamp::from_micros(end) };
        let result_time = if fixed[32] == 1 {
            let (rt, tail) = input.split_first_chunk::<16>()?;
            input = tail;
            let int = |i: usize| i64::from_le_bytes(rt[i * 8..i * 8 + 8].try_into().unwrap_or_default());
            Some(interval(int(0), int(1)))
        } else {
            None
        };
        let length = u32_of(&mut input)? as usize;
        let (latest, tail) = input.split_at_checked(length)?;
        input = tail;
        let Ok(Frame::Observed(batch)) = frame::decode(latest) else { return None };
        let latest = batch.observations().next()?;
        heads
            .push((int(0), Sealed { count: int(1) as u64, latest, phenomenon: interval(int(2), int(3)), result_time }));
    }
    for id in dropped.as_chunks::<8>().0 {
        loaded.heads.remove(&i64::from_le_bytes(*id));
    }
    loaded.heads.extend(heads);
    loaded.through = Some(through);
    Some(at + 8 + body.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::frame::tests::an_observation;
    use proptest::prelude::*;

    fn sealed() -> impl Strategy<Value = Sealed> {
        (an_observation(), 1u64..1_000, proptest::option::of(Just(Interval::instant(Timestamp::from_secs(5)))))
            .prop_map(|(latest, count, result_time)| Sealed {
                count,
                phenomenon: latest.phenomenon,
                latest,
                result_time,
            })
    }

    proptest! {
        #[test]
        fn heads_survive_a_restart_and_a_torn_end(
            seals in proptest::collection::vec(proptest::collection::vec((1i64..9, sealed()), 0..5), 1..8), torn in 0usize..40, rewrite in any::<bool>(),
        ) {
            let folder = tempfile::tempdir().expect("folder");
            let path = folder.path().join("heads");
            let mut model: AHashMap<i64, Sealed> = AHashMap::new();
            let mut whole = 0;
            {
                let (mut checkpoint, _) = Checkpoint::open(&path).expect("open");
                for (n, seal) in seals.iter().enumerate() {
                    checkpoint.append(n as u64, &[(n as i64) % 9], seal.iter().map(|(id, s)| (*id, s))).expect("append");
                    model.remove(&((n as i64) % 9));
                    model.extend(seal.iter().cloned());
                    if rewrite && n == 2 {
                        checkpoint.rewrite(n as u64, model.iter().map(|(id, s)| (*id, s))).expect("rewrite");
                    }
                    whole = std::fs::metadata(&path).expect("size").len();
                }
            }
            // A crash in the middle of the next append leaves some of its bytes.
            let mut next = entry(99, &[], std::iter::empty());
            next.truncate(torn.min(next.len() - 1));
            OpenOptions::new().append(true).open(&path).expect("open").write_all(&next).expect("write");
            let (_, loaded) = Checkpoint::open(&path).expect("open");
            prop_assert_eq!(loaded.through, Some(seals.len() as u64 - 1));
            prop_assert_eq!(loaded.heads, model);
            prop_assert_eq!(std::fs::metadata(&path).expect("size").len(), whole);
        }
    }
}
