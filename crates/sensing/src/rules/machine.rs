//! When a rule raises and clears: one small state machine for each rule and Datastream. Pure, deterministic and replayable: time comes
//! in with the events.
//!
//! Two times matter. *phenomenonTime* (when it was measured) orders Observations: one that is not newer than the newest
//! changes nothing, so duplicates and stragglers can neither double an alarm nor make it flap. *Arrival* (when the stream made it
//! durable) measures silence and holds, so that a feed which is always an hour late is not an hour absent.
//!
//! A value stands until a newer one arrives. A hold is therefore over when an Observation measured that much later agrees, or when
//! that much time has passed since the arrival of the first without another saying otherwise.

use kernel::Timestamp;

use super::{
    cel::Verdict,
    model::{Condition, Rule},
};

/// Observations that claim to come from further in the future are not evaluated: a device whose clock is years ahead would otherwise
/// make all its later Observations look old.
pub const MAX_AHEAD_SECS: i64 = 600;

/// What the machine remembers of one rule and one Datastream.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct State {
    /// The end of the phenomenonTime of the newest Observation evaluated.
    pub latest: Option<Timestamp>,
    /// When that one arrived.
    pub seen: Option<Timestamp>,
    /// Its number.
    pub value: Option<f64>,
    pub raised: bool,
    /// Since when it is raised.
    pub since: Option<Timestamp>,
    /// The value is beyond the limit that would turn the state, but not yet for long enough.
    pub turning: Option<Turning>,
    /// How many times it was raised, ever: the number that tells this alarm from the next one.
    pub raises: u32,
}

/// Since when the value is beyond the limit: as measured, and as arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Turning {
    pub since: Timestamp,
    pub arrived: Timestamp,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Event {
    /// An Observation that the rule believes. `at` is the end of its phenomenonTime; `value` is `None` for results that are not numbers.
    Observation { at: Timestamp, arrived: Timestamp, value: Option<f64> },
    /// An Observation of a rule with an expression or a geofence, and what that says of it.
    Judged { at: Timestamp, arrived: Timestamp, value: f64, verdict: Verdict },
    /// It is `now`, and everything that arrived before has been evaluated. Silence counts from `grace` at the earliest: the moment since which
    /// this program has been listening without interruption.
    Tick { now: Timestamp, grace: Timestamp },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    Raise,
    Clear,
}

/// A raise or a clear. `at` depends only on what was measured or heard, never on when it was computed.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Transition {
    pub turn: Turn,
    pub at: Timestamp,
    pub value: Option<f64>,
}

/// Whether an Observation moves anything: it is newer than all before it, and not from too far ahead.
pub fn counts(state: &State, at: Timestamp, arrived: Timestamp) -> bool {
    state.latest.is_none_or(|latest| at > latest) && at <= arrived.plus_secs(MAX_AHEAD_SECS)
}

/// The next state, and what happened.
pub fn step(state: &State, rule: &Rule, event: &Event) -> (State, Option<Transition>) {
    match *event {
        Event::Observation { at, arrived, value } => {
            if !counts(state, at, arrived) {
                return (*state, None);
            }
            let fresh = State { latest: Some(at), seen: Some(arrived), value, ..*state };
            let now = Turning { since: at, arrived };
            match (&rule.when, value) {
                (Condition::Absence { .. }, _) if state.raised => turn(fresh, arrived),
                (Condition::Absence { .. }, _) => (fresh, None),
                (Condition::Above(level), Some(value)) => {
                    let beyond = if state.raised { value <= level.clear } else { value >= level.raise };
                    measure(fresh, rule, now, beyond)
                }
                (Condition::Below(level), Some(value)) => {
                    let beyond = if state.raised { value >= level.clear } else { value <= level.raise };
                    measure(fresh, rule, now, beyond)
                }
                // Without a number, and for an expression or a fence without its verdict, there is nothing to decide by.
                (Condition::Above(_) | Condition::Below(_) | Condition::Expression(_) | Condition::Geofence(_), _) => {
                    (*state, None)
                }
            }
        }
        Event::Judged { at, arrived, value, verdict } => {
            if !counts(state, at, arrived) {
                return (*state, None);
            }
            let fresh = State { latest: Some(at), seen: Some(arrived), value: Some(value), ..*state };
            let beyond = if state.raised { verdict.clear } else { verdict.raise };
            measure(fresh, rule, Turning { since: at, arrived }, beyond)
        }
        Event::Tick { now, grace } => match (&rule.when, state.turning) {
            (Condition::Absence { .. }, _) => match deadline(state, rule, grace) {
                Some(due) if due <= now => turn(*state, due),
                _ => (*state, None),
            },
            (_, Some(t)) if now >= t.arrived.plus_secs(hold(state, rule)) => {
                turn(*state, t.since.plus_secs(hold(state, rule)))
            }
            _ => (*state, None),
        },
    }
}

/// When a tick would next change something; `None` when only an Observation can.
pub fn deadline(state: &State, rule: &Rule, grace: Timestamp) -> Option<Timestamp> {
    match &rule.when {
        Condition::Absence { .. } if state.raised => None,
        Condition::Absence { after } => {
            let heard = state.seen.map_or(grace, |seen| seen.max(grace));
            Some(heard.plus_secs(i64::from(*after)))
        }
        Condition::Above(_) | Condition::Below(_) | Condition::Expression(_) | Condition::Geofence(_) => {
            state.turning.map(|t| t.arrived.plus_secs(hold(state, rule)))
        }
    }
}

/// The state after the clock was set to `now`: an arrival that now lies in the future would hide every silence until then.
pub fn forgive(state: &State, now: Timestamp) -> State {
    let turning = state.turning.map(|t| Turning { arrived: t.arrived.min(now), ..t });
    State { seen: state.seen.map(|seen| seen.min(now)), turning, ..*state }
}

fn hold(state: &State, rule: &Rule) -> i64 {
    let (hold, clear_hold) = rule.when.holds().unwrap_or_default();
    i64::from(if state.raised { clear_hold } else { hold })
}

/// `beyond`: the value would turn the state, if it stays so for long enough.
fn measure(mut state: State, rule: &Rule, now: Turning, beyond: bool) -> (State, Option<Transition>) {
    let stale = now.arrived.micros_since(now.since) > i64::from(rule.max_age) * 1_000_000;
    if !beyond || (stale && !state.raised) {
        state.turning = None;
        return (state, None);
    }
    let since = state.turning.get_or_insert(now).since;
    let hold = hold(&state, rule);
    if now.since >= since.plus_secs(hold) { turn(state, since.plus_secs(hold)) } else { (state, None) }
}

fn turn(state: State, at: Timestamp) -> (State, Option<Transition>) {
    let turn = if state.raised { Turn::Clear } else { Turn::Raise };
    let raises = if state.raised { state.raises } else { state.raises.saturating_add(1) };
    let since = (!state.raised).then_some(at);
    let next = State { raised: !state.raised, since, turning: None, raises, ..state };
    (next, Some(Transition { turn, at, value: state.value }))
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
