//! How many Observations there are, summed up by who owns their series: so that the number of all that a caller may see is a sum of a few
//! numbers and not a walk over a hundred thousand heads.
//!
//! It is off until somebody asks, and turns itself off when nobody asks any more. What a series counts is always set and never added to, by whoever
//! changes its head and while the head is held; so it does not matter who comes first, the change or the look.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use ahash::{AHashMap, AHashSet};
use kernel::Tenant;
use parking_lot::Mutex;

use super::{Inner, Observe};
use crate::{Scope, model::EntityId};

/// Changes of heads without a question in between, after which nobody is believed to ask any more.
const IDLE: u64 = 20_000_000;
/// Series that are kept; a city with more is counted by walking. Some 40 bytes each.
pub(crate) const MOST: usize = 1_000_000;

/// Who owns a series, and whether everybody may read it; `None` is a series that the catalogue does not have.
pub(crate) type Owner = Option<(Tenant, bool)>;

/// Not counted yet.
const UNSET: u64 = u64::MAX;

struct Known {
    owner: u32,
    count: u64,
}

#[derive(Default)]
struct State {
    series: AHashMap<i64, Known>,
    owners: Vec<Owner>,
    sums: Vec<u64>,
    /// Series whose count holds rows that the lake may hold too: they are looked up.
    doubtful: AHashSet<i64>,
    /// Series that have changed and whose owner is not known.
    strange: AHashSet<i64>,
    idle: u64,
}

/// What a question finds.
pub(crate) struct Total {
    /// Of all series that are certain.
    pub certain: u64,
    /// Those that must be counted one by one.
    pub doubtful: Vec<i64>,
}

#[derive(Default)]
pub struct Tally {
    on: AtomicBool,
    state: Mutex<State>,
    /// Held while owners are looked up; the catalogue's generation up to which they are known, `None` before the first.
    pub(crate) learning: tokio::sync::Mutex<Option<u64>>,
}

impl State {
    fn count(&mut self, series: i64, count: u64) {
        let Some(known) = self.series.get_mut(&series) else { return };
        let before = std::mem::replace(&mut known.count, count);
        if let Some(sum) = self.sums.get_mut(known.owner as usize) {
            let before = if before == UNSET { 0 } else { before };
            let after = if count == UNSET { 0 } else { count };
            *sum = sum.wrapping_sub(before).wrapping_add(after);
        }
    }

    fn owner(&mut self, owner: Owner) -> u32 {
        let at = self.owners.iter().position(|known| *known == owner).unwrap_or_else(|| {
            self.owners.push(owner);
            self.sums.push(0);
            self.owners.len() - 1
        });
        u32::try_from(at).unwrap_or(u32::MAX)
    }
}

impl Tally {
    pub(crate) fn is_on(&self) -> bool {
        self.on.load(Relaxed)
    }

    /// The head of a series counts this now; to be called while the head cannot change.
    pub(crate) fn now(&self, series: i64, count: u64, doubtful: bool) {
        if !self.is_on() {
            return;
        }
        let mut state = self.state.lock();
        state.idle += 1;
        if state.idle > IDLE {
            *state = State::default();
            self.on.store(false, Relaxed);
            return;
        }
        if !state.series.contains_key(&series) {
            state.strange.insert(series);
            return;
        }
        state.count(series, count);
        if doubtful {
            state.doubtful.insert(series);
        } else {
            state.doubtful.remove(&series);
        }
    }

    /// What was read of a settled head, without holding it: whoever has changed the head meanwhile knows better.
    pub(crate) fn settled(&self, series: i64, count: u64) {
        let mut state = self.state.lock();
        if state.series.get(&series).is_some_and(|known| known.count == UNSET) {
            state.count(series, count);
        }
    }

    /// Begins anew, with nothing known: from now on every change is noticed. To be called under [`Tally::learning`].
    pub(crate) fn begin(&self) {
        *self.state.lock() = State::default();
        // Whoever changes a head from here on finds the lock free and the series strange.
        self.on.store(true, Relaxed);
    }

    /// These series may belong to somebody else now, or be gone.
    pub(crate) fn doubt(&self, series: impl IntoIterator<Item = i64>) {
        let mut state = self.state.lock();
        for id in series {
            state.strange.insert(id);
        }
    }

    /// Series whose owner must be looked up. They stay in until they have been: whoever looks may be gone before the answer comes.
    pub(crate) fn strangers(&self) -> Vec<i64> {
        let mut strange: Vec<i64> = self.state.lock().strange.iter().copied().collect();
        strange.sort_unstable();
        strange
    }

    /// These have been looked up and learned.
    pub(crate) fn met(&self, series: &[i64]) {
        let mut state = self.state.lock();
        for id in series {
            state.strange.remove(id);
        }
    }

    /// Learns to whom series belong. What they count must be told next, each by its head. `false` when there are too many.
    pub(crate) fn learn(&self, found: impl IntoIterator<Item = (i64, Owner)>) -> bool {
        let mut state = self.state.lock();
        let mut near: Option<(Owner, u32)> = None;
        for (series, owner) in found {
            let number = match &near {
                Some((known, number)) if *known == owner => *number,
                _ => state.owner(owner.clone()),
            };
            near = Some((owner, number));
            // What it counted so far is taken from whom it belonged to.
            state.count(series, UNSET);
            state.series.insert(series, Known { owner: number, count: UNSET });
            state.doubtful.remove(&series);
            if state.series.len() > MOST {
                *state = State::default();
                self.on.store(false, Relaxed);
                return false;
            }
        }
        true
    }

    /// What a caller may see, all of it. `None` when it was turned off or something changed meanwhile whose owner is not known yet.
    pub(crate) fn total(&self, scope: &Scope) -> Option<Total> {
        let mut state = self.state.lock();
        if !self.is_on() || !state.strange.is_empty() {
            return None;
        }
        state.idle = 0;
        let admits: Vec<bool> = state
            .owners
            .iter()
            .map(|owner| owner.as_ref().is_some_and(|(tenant, public)| scope.admits(tenant, *public)))
            .collect();
        let mut certain: u64 = state.sums.iter().zip(&admits).filter(|(_, admits)| **admits).map(|(sum, _)| *sum).sum();
        let mut doubtful = Vec::new();
        for id in &state.doubtful {
            let Some(known) = state.series.get(id).filter(|known| admits[known.owner as usize]) else { continue };
            certain -= if known.count == UNSET { 0 } else { known.count };
            doubtful.push(*id);
        }
        Some(Total { certain, doubtful })
    }
}

impl Inner {
    /// Of many series, which are told at once: the kept heads are read from front to back.
    fn tell_all(&self, series: &[i64]) {
        let (base, kept) = self.heads.kept_counts();
        for id in series {
            if self.heads.tell_near(*id) {
                continue;
            }
            // A head leaves memory for a base that is newer than the one that was read.
            let count = match self.heads.has_base(&base) {
                true => kept.get(id).copied(),
                false => self.heads.get(EntityId(*id), super::head::Entry::count),
            };
            self.heads.tally.settled(*id, count.unwrap_or(0));
        }
    }
}

impl Observe {
    pub(crate) fn tally(&self) -> &Tally {
        &self.0.heads.tally
    }
    /// Tells the tally what a series counts now.
    pub(crate) fn tell(&self, series: EntityId) {
        let heads = &self.0.heads;
        if !heads.tell_near(series.0) {
            heads.tally.settled(series.0, heads.get(series, super::head::Entry::count).unwrap_or(0));
        }
    }
    pub(crate) async fn tell_all(&self, series: Vec<i64>) {
        let inner = Arc::clone(&self.0);
        // Only a panic ends it early; then some series have no count, and the walk says the same again.
        let _ = tokio::task::spawn_blocking(move || inner.tell_all(&series)).await;
    }
}
