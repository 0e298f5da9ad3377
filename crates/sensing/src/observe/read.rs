//! Reading one Datastream: memory and lake merged by key, memory winning.
//!
//! The generations are taken hold of before the lake is asked. A seal in between can then show a row twice, which the merge settles,
//! but never hide one.

use std::sync::Arc;

use kernel::{Interval, Timestamp};

use super::{
    Error, Generations, Head, Inner, Observe, columns,
    recent::{Key, Row, merge},
};
use crate::model::{EntityId, Observation, ObservationId};

/// By phenomenonTime, then FeatureOfInterest and resultTime.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Order {
    #[default]
    Ascending,
    Descending,
}

/// A page of one Datastream.
#[derive(Clone, Copy, Debug)]
pub struct SeriesQuery {
    pub datastream: EntityId,
    /// phenomenonTime (its start), both ends inclusive.
    pub from: Option<Timestamp>,
    pub to: Option<Timestamp>,
    pub order: Order,
    /// Continue after this Observation, in `order`.
    pub after: Option<ObservationId>,
    pub limit: usize,
}

impl SeriesQuery {
    pub fn all(datastream: EntityId) -> Self {
        Self { datastream, from: None, to: None, order: Order::Ascending, after: None, limit: usize::MAX }
    }
    pub fn latest(datastream: EntityId, limit: usize) -> Self {
        Self { order: Order::Descending, limit, ..Self::all(datastream) }
    }
}

/// Looks at the ends of a series whose rows come faster than they are looked at.
const REFRESHES: usize = 8;

const FIRST: i64 = i64::MIN;
const LAST: i64 = i64::MAX;

fn first_key(at: i64) -> Key {
    Key { at, feature: FIRST, result_time: None }
}
fn last_key(at: i64) -> Key {
    Key { at, feature: LAST, result_time: Some(LAST) }
}

fn next_key(key: Key) -> Key {
    Key { result_time: Some(key.result_time.map_or(FIRST, |t| t.saturating_add(1))), ..key }
}

/// The greatest key below `key`, near enough: nothing real stands between them.
fn previous_key(key: Key) -> Key {
    match key.result_time {
        Some(FIRST) => Key { result_time: None, ..key },
        Some(time) => Key { result_time: Some(time - 1), ..key },
        None if key.feature > FIRST => Key { feature: key.feature - 1, result_time: Some(LAST), ..key },
        None => last_key(key.at.saturating_sub(1)),
    }
}

impl Observe {
    /// The head of a Datastream; `None` when it has no Observation.
    pub fn head(&self, datastream: EntityId) -> Option<Head> {
        self.0.heads.get(datastream, |entry| entry.head()).flatten().filter(|head| head.count > 0)
    }

    /// How many Observations a Datastream has, exactly. O(1), but for rows that came late since the last seal, which are looked up.
    pub async fn count(&self, datastream: EntityId) -> Result<u64, Error> {
        let (count, doubtful) = self.0.heads.get(datastream, |e| (e.count(), e.is_doubtful())).unwrap_or_default();
        if !doubtful {
            return Ok(count);
        }
        // What memory holds that the lake holds too has been counted twice.
        let generations = self.0.unsealed.generations.load_full();
        let sealed = self.0.heads.get(datastream, |e| e.sealed.as_ref().map_or(0, |s| s.count)).unwrap_or(0);
        let memory = memory_rows(&generations, datastream, None, None, Order::Ascending, usize::MAX);
        let mut gone = memory.removed;
        gone.retain(|key| memory.rows.binary_search_by(|r| r.key.cmp(key)).is_err());
        let keys: Vec<Key> = memory.rows.iter().map(|r| r.key).collect();
        let view = self.0.table.view();
        let repeated = in_lake(&view, datastream, &keys).await?;
        let removed = in_lake(&view, datastream, &gone).await?;
        Ok((sealed + keys.len() as u64).saturating_sub(repeated + removed))
    }

    /// How many Observations of a Datastream began in a span, both ends inclusive, when it can be told without reading them: `None` where
    /// some of them last for a while, so that when they began does not say all.
    pub async fn count_between(
        &self,
        id: EntityId,
        from: Option<Timestamp>,
        to: Option<Timestamp>,
    ) -> Result<Option<u64>, Error> {
        let (from, to) = (from.unwrap_or(Timestamp::MIN), to.unwrap_or(Timestamp::MAX).plus_micros(1));
        if from >= to {
            return Ok(Some(0));
        }
        // Memory first, as everywhere: what is sealed in between is then in both, and is found to be.
        let mut memory = self.0.memory(id, from, to);
        if memory.rows.iter().any(|row| row.extra.as_ref().is_some_and(|e| e.end.is_some())) {
            return Ok(None);
        }
        let here = memory.rows.len() as u64;
        if memory.whole {
            return Ok(Some(here));
        }
        let view = self.0.table.view();
        let Some(sealed) = view.count(id.0, from, to, Some("phenomenon_end")).await? else { return Ok(None) };
        let keys: Vec<Key> = memory.rows.iter().map(|row| row.key).collect();
        memory.removed.retain(|key| keys.binary_search(key).is_err());
        let both = in_lake(&view, id, &keys).await? + in_lake(&view, id, &memory.removed).await?;
        Ok(Some((sealed + here).saturating_sub(both)))
    }

    pub async fn get(&self, id: &ObservationId) -> Result<Option<Observation>, Error> {
        let key = Key::of(id);
        Ok(self
            .0
            .rows(id.datastream, Some(key), Some(key), Order::Ascending, 1)
            .await?
            .pop()
            .map(|r| r.observation(id.datastream)))
    }

    /// A page of Observations, in order. Never more than `limit`; fewer only at the end.
    pub async fn read(&self, q: SeriesQuery) -> Result<Vec<Observation>, Error> {
        let rows = self.0.page(&q).await?;
        Ok(rows.iter().map(|row| row.observation(q.datastream)).collect())
    }

    /// Puts a head right whose newest or oldest row was removed.
    pub(super) async fn refresh(&self, datastream: EntityId) -> Result<(), Error> {
        let ends = [Order::Ascending, Order::Descending];
        for _ in 0..REFRESHES {
            let mark = self.0.heads.get(datastream, |e| e.stale.then(|| e.mark())).flatten();
            let Some(mark) = mark else { return Ok(()) };
            let mut found = Vec::new();
            for order in ends {
                found.extend(self.read(SeriesQuery { order, ..SeriesQuery::latest(datastream, 1) }).await?);
            }
            let extent = found
                .first()
                .zip(found.last())
                .map(|(a, b)| Interval { start: a.phenomenon.start, end: b.phenomenon.end });
            // A row that came while the ends were looked up must not be forgotten: reads believe the extent.
            let done = self.0.heads.change(datastream.0, |entry| {
                let same = entry.mark() == mark;
                if same {
                    entry.refreshed(found.last().cloned(), extent);
                }
                same
            });
            if done {
                return Ok(());
            }
        }
        // It stays stale, which is too wide and not too narrow, until the next seal looks.
        Ok(())
    }

    pub(super) async fn refresh_stale(&self) -> Result<(), Error> {
        // Only what the replay has changed can be stale.
        for id in self.0.heads.near() {
            self.refresh(EntityId(id)).await?;
        }
        Ok(())
    }
}

impl Inner {
    pub(super) async fn page(&self, q: &SeriesQuery) -> Result<Vec<Row>, Error> {
        let mut from = q.from.map(|t| first_key(t.as_micros()));
        let mut to = q.to.map(|t| last_key(t.as_micros()));
        if let Some(after) = q.after {
            let key = Key::of(&after);
            match q.order {
                Order::Ascending => from = from.max(Some(next_key(key))),
                Order::Descending => to = Some(to.map_or(previous_key(key), |t| t.min(previous_key(key)))),
            }
        }
        self.rows(q.datastream, from, to, q.order, q.limit).await
    }

    /// Rows with `from <= key <= to`, in order, at most `limit`.
    pub(super) async fn rows(
        &self,
        id: EntityId,
        from: Option<Key>,
        to: Option<Key>,
        order: Order,
        limit: usize,
    ) -> Result<Vec<Row>, Error> {
        if limit == 0 || from.zip(to).is_some_and(|(f, t)| f > t) {
            return Ok(Vec::new());
        }
        let generations = self.unsealed.generations.load_full();
        let memory = memory_rows(&generations, id, from.as_ref(), to.as_ref(), order, limit);
        let sealed = self.heads.get(id, |e| e.sealed.as_ref().map(|s| s.phenomenon)).flatten();
        // What lies outside of all that is sealed is in memory alone: a head is brought up to date before a sealed generation goes.
        let outside = |extent: &Interval| {
            from.is_some_and(|f| f.at > extent.end.as_micros()) || to.is_some_and(|t| t.at < extent.start.as_micros())
        };
        if memory.whole || sealed.as_ref().is_some_and(outside) {
            return Ok(memory.rows);
        }
        // The newest rows are usually all in memory: then the lake need not be asked.
        let lake_can_add = match (&sealed, order, memory.rows.last()) {
            (Some(extent), Order::Descending, Some(last)) if memory.rows.len() == limit => {
                last.key.at <= extent.end.as_micros()
            }
            _ => true,
        };
        if !lake_can_add {
            return Ok(memory.rows);
        }
        let hidden = memory.removed;
        let sealed_rows = self
            .lake_rows(
                id,
                from,
                to,
                order,
                limit.saturating_add(hidden.len()).saturating_add(memory.rows.len().min(limit)),
                &hidden,
            )
            .await?;
        let compare = move |a: &Key, b: &Key| match order {
            Order::Ascending => a.cmp(b),
            Order::Descending => b.cmp(a),
        };
        Ok(merge(sealed_rows.into_iter(), memory.rows.into_iter(), compare).take(limit).collect())
    }

    async fn lake_rows(
        &self,
        id: EntityId,
        from: Option<Key>,
        to: Option<Key>,
        order: Order,
        limit: usize,
        hidden: &[Key],
    ) -> Result<Vec<Row>, Error> {
        let view = self.table.view();
        let mut rows: Vec<Row> = Vec::new();
        let (mut lower, mut upper) = (from.map_or(FIRST, |k| k.at), to.map_or(LAST, |k| k.at));
        let (mut fetch, mut seen) = (limit, None);
        loop {
            let query = lake::SeriesQuery {
                series: id.0,
                from: Timestamp::from_micros(lower),
                to: Timestamp::from_micros(upper.saturating_add(1)),
                order: match order {
                    Order::Ascending => lake::Order::Ascending,
                    Order::Descending => lake::Order::Descending,
                },
                limit: fetch,
                columns: None,
            };
            let found = columns::rows(&view.series(&query).await?);
            let (read, last) = (found.len(), found.last().map(|r| r.key));
            let is_new = |key: &Key| match (seen, order) {
                (None, _) => true,
                (Some(seen), Order::Ascending) => *key > seen,
                (Some(seen), Order::Descending) => *key < seen,
            };
            let in_range = |key: &Key| from.is_none_or(|f| *key >= f) && to.is_none_or(|t| *key <= t);
            let wanted = |r: &Row| is_new(&r.key) && in_range(&r.key) && hidden.binary_search(&r.key).is_err();
            rows.extend(found.into_iter().filter(wanted));
            // The lake knows ranges of time only. Where rows fell out for the finer parts of the key, go on from the last time; where
            // that is still the same time, more rows share it than were fetched.
            let Some(last) = last.filter(|_| rows.len() < limit && read == fetch) else { break };
            seen = Some(last);
            let edge = if order == Order::Ascending { &mut lower } else { &mut upper };
            if *edge == last.at {
                fetch = fetch.saturating_mul(2);
            }
            *edge = last.at;
        }
        Ok(rows)
    }

    /// What memory has of a Datastream from `from` up to `to` (exclusive).
    pub(super) fn memory(&self, id: EntityId, from: Timestamp, to: Timestamp) -> Memory {
        let (first, last) = (first_key(from.as_micros()), last_key(to.as_micros().saturating_sub(1)));
        let generations = self.unsealed.generations.load_full();
        let mut memory = memory_rows(&generations, id, Some(&first), Some(&last), Order::Ascending, usize::MAX);
        memory.removed.retain(|key| (&first..=&last).contains(&key));
        memory
    }
}

/// How many of the keys (ascending) the lake holds.
async fn in_lake(view: &lake::View, id: EntityId, keys: &[Key]) -> Result<u64, Error> {
    if keys.is_empty() {
        return Ok(0);
    }
    let keys: Vec<(i64, Key)> = keys.iter().map(|key| (id.0, *key)).collect();
    Ok(view.get(&columns::keys(&keys)?).await?.num_rows() as u64)
}

/// What the generations together show of a Datastream.
pub(super) struct Memory {
    pub rows: Vec<Row>,
    /// Keys that the lake may still have but that are removed, ascending.
    pub removed: Vec<Key>,
    /// The Datastream was dropped in one of them, so the lake has nothing that still counts.
    pub whole: bool,
}

fn removed(generations: &Arc<Generations>, id: EntityId) -> Vec<Key> {
    let mut keys: Vec<Key> =
        generations.each().filter_map(|g| g.with(id, |s| s.removed().copied().collect::<Vec<_>>())).flatten().collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

pub(super) fn memory_rows(
    generations: &Arc<Generations>,
    id: EntityId,
    from: Option<&Key>,
    to: Option<&Key>,
    order: Order,
    limit: usize,
) -> Memory {
    let newest_first = order == Order::Descending;
    let (mut rows, mut whole) = (Vec::new(), false);
    let hidden = removed(generations, id);
    // A newer generation may take rows away that an older one has given: then there must be others in their place.
    let enough = limit.saturating_add(hidden.len());
    // Oldest generation first; each newer one hides and replaces.
    for generation in generations.each().rev() {
        if generation.is_dropped(id) {
            rows.clear();
            whole = true;
        }
        generation.with(id, |series| {
            rows.retain(|row: &Row| !series.is_removed(&row.key));
            let newer = series.rows(from, to, newest_first, enough);
            let compare = move |a: &Key, b: &Key| if newest_first { b.cmp(a) } else { a.cmp(b) };
            rows = merge(std::mem::take(&mut rows).into_iter(), newer.into_iter(), compare).collect();
        });
    }
    rows.truncate(limit);
    Memory { rows, removed: hidden, whole }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::{Run, recent::Generation};

    /// What is removed while its generation is being sealed makes room on the page for what comes after it.
    #[test]
    fn what_goes_meanwhile_leaves_no_short_page() {
        let (id, feature) = (EntityId(1), EntityId(2));
        let mut run = Run::new(id, feature);
        for at in 0..5 {
            run.times.push(at);
            run.values.push(at as f64);
        }
        let (sealing, open) = (Generation::default(), Generation::default());
        sealing.put(&run, |_, _| {});
        let gone = Key { at: 4, feature: feature.0, result_time: None };
        open.remove(&gone.id(id));
        let generations =
            Arc::new(Generations { open: Arc::new(open), sealing: Some(Arc::new(sealing)), open_from: 0, from: 0 });
        let newest = memory_rows(&generations, id, None, None, Order::Descending, 2);
        assert_eq!(newest.rows.iter().map(|row| row.key.at).collect::<Vec<_>>(), [3, 2]);
        assert_eq!(newest.removed, [gone]);
    }
}
