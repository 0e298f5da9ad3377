//! Rows of a batch as rules look at them: one by one where one may matter, all at once where none can.

use kernel::Timestamp;

use super::{
    machine::{MAX_AHEAD_SECS, State},
    model::{Condition, Rule, Trust},
    quality,
};
use crate::observe::Run;

/// An Observation as rules see it.
#[derive(Clone, Copy)]
pub struct Reading {
    /// The end of its phenomenonTime.
    pub at: Timestamp,
    /// `None` for results that are not numbers.
    pub value: Option<f64>,
    pub good: bool,
}

/// `None` when the rule does not believe it.
pub fn reading(run: &Run, row: usize, trust: Trust) -> Option<Reading> {
    let start = Timestamp::from_micros(run.times[row]);
    let Some(extra) = run.extra(row) else {
        return Some(Reading { at: start, value: Some(run.values[row]), good: true });
    };
    let good = !extra.quality.as_ref().is_some_and(|q| quality::is_faulty(q.get()));
    if trust == Trust::Good && !good {
        return None;
    }
    let value = match extra.result.as_ref().map(|r| r.get().trim()) {
        None => Some(run.values[row]),
        Some("null") => return None,
        // A Truth is a number to a rule: raise = 1, clear = 0.
        Some("true") => Some(1.0),
        Some("false") => Some(0.0),
        Some(_) => None,
    };
    Some(Reading { at: extra.end.unwrap_or(start), value, good })
}

/// What all slots of one run share, computed once.
pub struct Columns {
    /// No row has anything but an instant and a number.
    plain: bool,
    least: f64,
    greatest: f64,
    latest: i64,
    /// The first row with the latest time.
    pub newest: usize,
    sorted: Vec<u32>,
}

impl Columns {
    pub fn of(run: &Run) -> Self {
        let mut all = Self {
            plain: run.extras.is_empty(),
            least: f64::INFINITY,
            greatest: f64::NEG_INFINITY,
            latest: i64::MIN,
            newest: 0,
            sorted: Vec::new(),
        };
        for (row, (&time, &value)) in run.times.iter().zip(&run.values).enumerate() {
            all.least = all.least.min(value);
            all.greatest = all.greatest.max(value);
            if time > all.latest {
                (all.latest, all.newest) = (time, row);
            }
        }
        all
    }

    /// Whether no row can do more than become the newest.
    pub fn calm(&self, state: &State, rule: &Rule, arrived: Timestamp) -> bool {
        let ahead = self.latest > arrived.plus_secs(MAX_AHEAD_SECS).as_micros();
        self.plain
            && !ahead
            && state.turning.is_none()
            && match (&rule.when, state.raised) {
                // What an expression remembers is made of every row.
                (Condition::Expression(_), _) => false,
                // A plain number is no place.
                (Condition::Geofence(_), _) => false,
                (Condition::Absence { .. }, raised) => !raised,
                (Condition::Above(level), false) => self.greatest < level.raise,
                (Condition::Above(level), true) => self.least > level.clear,
                (Condition::Below(level), false) => self.least > level.raise,
                (Condition::Below(level), true) => self.greatest < level.clear,
            }
    }

    /// Rows in the order of the ends of their times.
    pub fn sorted(&mut self, run: &Run) -> &[u32] {
        if self.sorted.is_empty() {
            let end = |row: u32| {
                run.extra(row as usize).and_then(|e| e.end).map_or(run.times[row as usize], |e| e.as_micros())
            };
            self.sorted = (0..run.len() as u32).collect();
            self.sorted.sort_by_key(|row| end(*row));
        }
        &self.sorted
    }
}
