use kernel::{Tenant, Text};
use proptest::prelude::*;

use super::*;
use crate::rules::model::Level;
use crate::rules::model::{RuleDeclaration, Selection, Severity, Trust};

fn rule(when: Condition) -> Rule {
    let select = Selection { system: Some("flood".to_owned()), ..Selection::default() };
    Rule::new(RuleDeclaration {
        key: "r".to_owned(),
        name: Text::new("R", "R", "R"),
        instruction: None,
        tenant: Tenant::parse("dsd").expect("slug"),
        severity: Severity::Severe,
        select,
        when,
        quality: Trust::Good,
        max_age: 86_400,
        notify: Vec::new(),
        area: None,
        escalate: Vec::new(),
        public_alert: None,
        enabled: true,
    })
    .expect("valid")
}

fn above(hold: u32, clear_hold: u32) -> Rule {
    rule(Condition::Above(Level { raise: 10.0, clear: 8.0, hold, clear_hold }))
}

fn secs(s: i64) -> Timestamp {
    Timestamp::from_secs(s)
}

fn seen(at: i64, arrived: i64, value: f64) -> Event {
    Event::Observation { at: secs(at), arrived: secs(arrived), value: Some(value) }
}

fn tick(now: i64, grace: i64) -> Event {
    Event::Tick { now: secs(now), grace: secs(grace) }
}

fn run(rule: &Rule, events: &[Event]) -> (State, Vec<(Turn, i64)>) {
    let mut state = State::default();
    let mut out = Vec::new();
    for event in events {
        let (next, happened) = step(&state, rule, event);
        state = next;
        out.extend(happened.map(|t| (t.turn, t.at.as_micros() / 1_000_000)));
    }
    (state, out)
}

fn check(rule: &Rule, events: &[Event], expect: &[(Turn, i64)]) {
    assert_eq!(run(rule, events).1, expect);
}

use Turn::{Clear, Raise};

#[test]
fn hysteresis_keeps_a_trembling_value_quiet() {
    let values = [9.0, 10.0, 9.0, 10.5, 8.1, 11.0, 8.0, 9.9, 8.0];
    let events: Vec<_> = values.iter().enumerate().map(|(n, v)| seen(n as i64, n as i64, *v)).collect();
    check(&above(0, 0), &events, &[(Raise, 1), (Clear, 6)]);
    let below = rule(Condition::Below(Level { raise: 10.0, clear: 12.0, hold: 0, clear_hold: 0 }));
    check(&below, &[seen(1, 1, 11.0), seen(2, 2, 10.0), seen(3, 3, 11.9), seen(4, 4, 12.0)], &[(Raise, 2), (Clear, 4)]);
}

#[test]
fn a_hold_ends_by_measurement_or_by_time() {
    let rule = above(60, 30);
    check(&rule, &[seen(0, 0, 11.0), seen(59, 59, 11.0)], &[]);
    check(&rule, &[seen(0, 0, 11.0), seen(60, 60, 11.0)], &[(Raise, 60)]);
    check(&rule, &[seen(0, 0, 11.0), tick(59, 0), tick(60, 0)], &[(Raise, 60)]);
    check(&rule, &[seen(0, 0, 11.0), seen(30, 30, 9.0), tick(60, 0), seen(70, 70, 11.0), tick(129, 0)], &[]);
    check(&rule, &[seen(0, 0, 11.0), tick(60, 0), seen(90, 90, 7.0), tick(120, 0)], &[(Raise, 60), (Clear, 120)]);
}

#[test]
fn a_late_file_is_read_to_its_end_before_its_holds_run_out() {
    // An hour late: by the wall clock the hold is long over, but the file itself says that the water fell after 30 s.
    check(&above(60, 0), &[seen(0, 3_600, 11.0), seen(30, 3_600, 7.0), tick(3_601, 0)], &[]);
    check(&above(60, 0), &[seen(0, 3_600, 11.0), tick(3_659, 0), tick(3_660, 0)], &[(Raise, 60)]);
}

#[test]
fn history_does_not_raise_but_clears() {
    let day = 86_400;
    check(&above(0, 0), &[seen(0, day + 1, 11.0)], &[]);
    check(&above(0, 0), &[seen(0, day, 11.0), seen(1, 9 * day, 7.0)], &[(Raise, 0), (Clear, 1)]);
}

#[test]
fn a_clock_in_the_future_does_not_blind_the_rule() {
    let events = [seen(100_000, 0, 11.0), seen(5, 5, 11.0), seen(900, 300, 7.0)];
    check(&above(0, 0), &events, &[(Raise, 5), (Clear, 900)]);
}

#[test]
fn silence_is_measured_by_arrival() {
    let rule = rule(Condition::Absence { after: 600 });
    // A feed that is always an hour behind is not absent.
    check(&rule, &[seen(0, 3_600, 1.0), tick(4_199, 0), seen(300, 4_199, 1.0), tick(4_700, 0)], &[]);
    check(
        &rule,
        &[seen(0, 10, 1.0), tick(609, 0), tick(610, 0), tick(700, 0), seen(650, 800, 1.0)],
        &[(Raise, 610), (Clear, 800)],
    );
    // Old and repeated data are no sign of life.
    check(&rule, &[seen(9, 10, 1.0), seen(9, 500, 1.0), seen(3, 600, 1.0), tick(610, 0)], &[(Raise, 610)]);
    // Results that are not numbers are.
    let text = Event::Observation { at: secs(9), arrived: secs(600), value: None };
    check(&rule, &[seen(1, 10, 1.0), text, tick(1_199, 0)], &[]);
}

#[test]
fn a_restart_or_a_jump_gives_everybody_grace() {
    let rule = rule(Condition::Absence { after: 600 });
    check(&rule, &[seen(0, 10, 1.0), tick(10_000, 9_900), tick(10_499, 9_900)], &[]);
    check(&rule, &[seen(0, 10, 1.0), tick(10_500, 9_900)], &[(Raise, 10_500)]);
    check(&rule, &[tick(599, 0), tick(600, 0)], &[(Raise, 600)]);
    // Set back by a day: the arrival lies in the future and hides nothing.
    let before = run(&rule, &[seen(86_400, 86_400, 1.0)]).0;
    let set_back = forgive(&before, secs(50));
    assert_eq!(step(&set_back, &rule, &tick(649, 50)).1, None);
    assert_eq!(step(&set_back, &rule, &tick(650, 50)).1.map(|t| t.at), Some(secs(650)));
    // What is raised stays raised through a restart.
    check(&rule, &[tick(600, 0), tick(90_000, 90_000), seen(90_001, 90_001, 1.0)], &[(Raise, 600), (Clear, 90_001)]);
}

/// The slow and obvious way: keep everything that counts, and read it from the beginning each time.
fn naive(rule: &Rule, events: &[Event]) -> Vec<(Turn, i64)> {
    let mut kept: Vec<(i64, i64, f64)> = Vec::new();
    let mut flips: Vec<(Turn, i64)> = Vec::new();
    // Index into `kept` from which the present state may begin to turn.
    let mut from = 0;
    let (raise, clear, hold, clear_hold) = match rule.when {
        Condition::Above(l) => (l.raise, l.clear, i64::from(l.hold), i64::from(l.clear_hold)),
        _ => unreachable!("the naive model knows one kind"),
    };
    for event in events {
        let now = match *event {
            Event::Observation { at, arrived, value } => {
                let (at, arrived) = (at.as_micros() / 1_000_000, arrived.as_micros() / 1_000_000);
                if kept.iter().any(|k| k.0 >= at) || at > arrived + MAX_AHEAD_SECS {
                    continue;
                }
                kept.push((at, arrived, value.expect("numbers")));
                None
            }
            Event::Judged { .. } => unreachable!("the rule has no expression"),
            Event::Tick { now, .. } => Some(now.as_micros() / 1_000_000),
        };
        let raised = flips.len() % 2 == 1;
        let need = if raised { clear_hold } else { hold };
        let turns = |v: f64| if raised { v <= clear } else { v >= raise };
        let tail = kept[from..].iter().rev().take_while(|k| turns(k.2)).count();
        let Some(first) = kept[kept.len() - tail..].first().copied() else { continue };
        let over = match now {
            None => kept.last().expect("just pushed").0 - first.0 >= need,
            Some(now) => now - first.1 >= need,
        };
        if over {
            flips.push((if raised { Clear } else { Raise }, first.0 + need));
            from = kept.len();
        }
    }
    flips
}

/// What arrives: measured a little before it arrives, often late, twice or out of order; ticks in between.
fn arrivals() -> impl Strategy<Value = Vec<Event>> {
    let one = (0i64..20, -30i64..200, 0usize..6, any::<bool>());
    proptest::collection::vec(one, 0..80).prop_map(|all| {
        let mut now = 1_000;
        all.into_iter()
            .map(|(passed, late, value, is_tick)| {
                now += passed;
                let value = [7.0, 8.0, 9.0, 10.0, 11.0, 12.0][value];
                if is_tick { tick(now, 0) } else { seen(now - late, now, value) }
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn agrees_with_the_naive_model(events in arrivals(), hold in 0u32..40, clear_hold in 0u32..40) {
        let rule = above(hold, clear_hold);
        prop_assert_eq!(run(&rule, &events).1, naive(&rule, &events));
    }

    #[test]
    fn what_was_seen_changes_nothing_when_it_comes_again(events in arrivals(), hold in 0u32..40, absence in any::<bool>(), picks in proptest::collection::vec((0usize..80, 0usize..80), 0..20)) {
        let rule = if absence { rule(Condition::Absence { after: 1 + hold }) } else { above(hold, hold) };
        let mut more = events.clone();
        for (from, to) in picks {
            // A copy of an Observation, at any place after the original.
            let Some(copy) = more.get(from).copied().filter(|e| matches!(e, Event::Observation { .. })) else { continue };
            let to = to.clamp(from + 1, more.len().max(from + 1));
            more.insert(to, copy);
        }
        prop_assert_eq!(run(&rule, &more), run(&rule, &events));
    }

    #[test]
    fn raises_and_clears_alternate_in_order(events in arrivals(), hold in 0u32..40, absence in any::<bool>()) {
        let rule = if absence { rule(Condition::Absence { after: 1 + hold }) } else { above(hold, hold) };
        let (state, turns) = run(&rule, &events);
        for (n, (turn, _)) in turns.iter().enumerate() {
            prop_assert_eq!(*turn, if n % 2 == 0 { Raise } else { Clear });
        }
        prop_assert!(turns.windows(2).all(|w| w[0].1 <= w[1].1), "{:?}", turns);
        prop_assert_eq!(state.raises as usize, turns.len().div_ceil(2));
    }

    #[test]
    fn a_deadline_is_the_first_tick_that_matters(events in arrivals(), hold in 1u32..40, absence in any::<bool>()) {
        let rule = if absence { rule(Condition::Absence { after: hold }) } else { above(hold, hold) };
        let (state, _) = run(&rule, &events);
        match deadline(&state, &rule, secs(0)) {
            Some(due) => {
                let before = Event::Tick { now: due.plus_micros(-1), grace: secs(0) };
                let then = Event::Tick { now: due, grace: secs(0) };
                prop_assert_eq!(step(&state, &rule, &before).1, None);
                prop_assert!(step(&state, &rule, &then).1.is_some());
            }
            None => prop_assert_eq!(step(&state, &rule, &tick(1 << 40, 0)).1, None),
        }
    }
}
