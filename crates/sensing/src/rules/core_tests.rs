use kernel::{Tenant, Text};
use proptest::prelude::*;

use super::*;
use crate::{
    observe::Extra,
    rules::model::{Condition, Expression, Level, RuleDeclaration, Selection, Severity, Trust},
};

pub fn rule(key: &str, when: Condition) -> Arc<Rule> {
    let declaration = RuleDeclaration {
        key: key.to_owned(),
        name: Text::new("High water", "水位過高", "水位过高"),
        instruction: None,
        tenant: Tenant::parse("dsd").expect("slug"),
        severity: Severity::Severe,
        select: Selection { system: Some("flood".to_owned()), ..Selection::default() },
        when,
        quality: Trust::Good,
        max_age: 86_400,
        notify: Vec::new(),
        area: None,
        escalate: Vec::new(),
        public_alert: None,
        enabled: true,
    };
    Arc::new(Rule::new(declaration).expect("valid"))
}

fn facts(datastream: i64, thing: i64) -> Arc<Facts> {
    Arc::new(Facts {
        datastream: EntityId(datastream),
        thing: EntityId(thing),
        tenant: Tenant::parse("dsd").expect("slug"),
        public: true,
        datastream_key: None,
        thing_key: None,
        observed_property: None,
        system: Some("flood".to_owned()),
        district: None,
        thing_name: Text::plain("Gauge"),
        unit: None,
        position: None,
        simulated: false,
    })
}

fn above(hold: u32) -> Condition {
    Condition::Above(Level { raise: 10.0, clear: 8.0, hold, clear_hold: hold })
}

/// What it says depends on what it remembers.
fn rising(hold: u32) -> Condition {
    Condition::Expression(Box::new(Expression {
        expression: "mean > 8.5 && value - previous > 1.0".to_owned(),
        clear: Some("mean < 9.0".to_owned()),
        hold,
        clear_hold: hold / 2,
        window: Some(30),
        windows: std::collections::BTreeMap::new(),
    }))
}

/// A rule that asks for several Things of a district.
fn several(key: &str, when: Condition, at_least: u32, within: Option<u32>) -> Arc<Rule> {
    let one = rule(key, when);
    let area = Some(Together { at_least, within });
    Arc::new(Rule::new(RuleDeclaration { area, ..one.declaration().clone() }).expect("valid"))
}

fn secs(s: i64) -> Timestamp {
    Timestamp::from_secs(s)
}

/// Two rules over three Datastreams at two Things: 1 and 2 at the first, 3 at the second.
fn core(hold: u32) -> Core {
    let mut core = Core::new(secs(0));
    let rules = vec![rule("high", above(hold)), rule("silent", Condition::Absence { after: 60 })];
    core.install(rules, &[facts(1, 10), facts(2, 10), facts(3, 11)], &[], &[], secs(0));
    core
}

fn batch(rows: &[(i64, i64, f64)]) -> Batch {
    let mut batch = Batch::new();
    for &(datastream, at, value) in rows {
        let mut run = Run::new(EntityId(datastream), EntityId(1));
        run.push_number(secs(at), value);
        batch.push_run(run);
    }
    batch
}

fn shown(happenings: &[Happening]) -> Vec<(bool, Id<Alarm>, i64)> {
    let one = |h: &Happening| match h {
        Happening::Raised { id, at, .. } => (true, *id, at.as_micros() / 1_000_000),
        Happening::Cleared { id, at, .. } => (false, *id, at.as_micros() / 1_000_000),
    };
    happenings.iter().map(one).collect()
}

#[test]
fn further_datastreams_are_watched_as_if_they_had_always_been() {
    let rules = vec![rule("high", above(0)), rule("silent", Condition::Absence { after: 60 })];
    let all = [facts(1, 10), facts(2, 10), facts(3, 11)];
    let mut grown = Core::new(secs(0));
    grown.install(rules, &all[..1], &[], &[], secs(0));
    // The first is known already and must not be watched twice.
    grown.extend(&all);
    let mut whole = core(0);
    let happened = |core: &mut Core| {
        core.apply(0, secs(1), &batch(&[(1, 1, 11.0), (2, 1, 12.0), (3, 1, 5.0)]));
        core.tick(secs(100));
        shown(&core.take(true).happenings)
    };
    let expect = happened(&mut whole);
    assert_eq!(expect.len(), 3, "high water at the first Thing, silence at both");
    assert_eq!((happened(&mut grown), grown.slots()), (expect, whole.slots()));
}

#[test]
fn two_datastreams_of_one_thing_are_one_alarm() {
    let mut core = core(0);
    core.apply(0, secs(5), &batch(&[(1, 5, 11.0), (2, 5, 12.0), (3, 5, 1.0)]));
    core.apply(1, secs(6), &batch(&[(1, 6, 7.0)]));
    let raised = shown(&core.take(false).happenings);
    assert_eq!(raised.len(), 1, "still standing at the second Datastream: {raised:?}");
    core.apply(2, secs(7), &batch(&[(2, 7, 7.0)]));
    assert_eq!(shown(&core.take(false).happenings), [(false, raised[0].1, 7)]);
}

/// Three Things of one district and one of another, each with one Datastream.
fn districts(together: Arc<Rule>) -> Core {
    let of = |datastream: i64, district: &str| {
        let facts = Facts { district: Some(district.to_owned()), ..Facts::clone(&facts(datastream, datastream + 100)) };
        Arc::new(facts)
    };
    let mut core = Core::new(secs(0));
    let facts = [of(1, "North"), of(2, "North"), of(3, "North"), of(4, "South")];
    core.install(vec![together], &facts, &[], &[], secs(0));
    core
}

#[test]
fn several_things_of_a_district_are_one_alarm() {
    let mut core = districts(several("several", above(0), 2, None));
    let happened = |core: &mut Core| shown(&core.take(false).happenings);
    core.apply(0, secs(1), &batch(&[(1, 1, 11.0), (4, 1, 11.0)]));
    assert!(happened(&mut core).is_empty(), "one in each district is too few");
    core.apply(1, secs(900), &batch(&[(2, 900, 11.0)]));
    let raised = happened(&mut core);
    assert_eq!(raised.iter().map(|h| (h.0, h.2)).collect::<Vec<_>>(), [(true, 900)]);
    core.apply(2, secs(901), &batch(&[(3, 901, 11.0)]));
    core.apply(3, secs(902), &batch(&[(1, 902, 1.0)]));
    assert!(happened(&mut core).is_empty(), "two are left");
    core.apply(4, secs(903), &batch(&[(3, 903, 1.0)]));
    assert_eq!(happened(&mut core), [(false, raised[0].1, 903)]);
    core.apply(5, secs(904), &batch(&[(1, 904, 11.0)]));
    assert_eq!(happened(&mut core).len(), 1, "again enough, and another alarm");
}

#[test]
fn several_things_must_begin_within_the_span() {
    let mut core = districts(several("several", above(0), 2, Some(60)));
    core.apply(0, secs(1), &batch(&[(1, 1, 11.0)]));
    core.apply(1, secs(100), &batch(&[(2, 100, 11.0)]));
    assert!(!core.has_happened(), "the first began too long before");
    core.apply(2, secs(130), &batch(&[(3, 130, 11.0)]));
    assert_eq!(shown(&core.take(false).happenings).len(), 1);
    // A changed rule that asks for more lets the alarm go.
    let facts: Vec<_> = core.slots.iter().map(|s| Arc::clone(&s.facts)).collect();
    core.install(vec![several("several", above(0), 4, None)], &facts, &[], &[], secs(131));
    assert!(matches!(&core.take(false).happenings[..], [Happening::Cleared { .. }]));
}

#[test]
fn a_late_record_is_not_near_what_came_long_after_it() {
    let mut core = districts(several("several", above(0), 2, Some(60)));
    core.apply(0, secs(1_000), &batch(&[(2, 1_000, 11.0)]));
    core.apply(1, secs(1_001), &batch(&[(1, 100, 11.0)]));
    assert!(!core.has_happened(), "they are 900 seconds apart");
    core.apply(2, secs(1_002), &batch(&[(3, 990, 11.0)]));
    assert_eq!(shown(&core.take(false).happenings).len(), 1, "late, and ten seconds apart");
}

#[test]
fn one_that_is_made_up_makes_all_of_a_district_an_exercise() {
    let mut core = districts(several("several", above(0), 2, None));
    let rules = core.rules.clone();
    let all = core.slots.iter().map(|s| Arc::clone(&s.facts));
    let facts: Vec<_> = all
        .map(|f| if f.datastream.0 == 1 { Arc::new(Facts { simulated: true, ..(*f).clone() }) } else { f })
        .collect();
    core.install(rules, &facts, &[], &[], secs(0));
    core.apply(0, secs(1), &batch(&[(1, 1, 11.0)]));
    core.apply(1, secs(2), &batch(&[(2, 2, 11.0)]));
    let happened = core.take(false).happenings;
    assert!(matches!(&happened[..], [Happening::Raised { facts, .. }] if facts.simulated && facts.datastream.0 == 2));
}

#[test]
fn a_batch_in_the_wrong_order_is_read_in_the_order_of_measurement() {
    let mut core = core(0);
    core.apply(0, secs(9), &batch(&[(1, 7, 7.0), (1, 6, 11.0), (1, 5, 7.0)]));
    let happened = shown(&core.take(false).happenings);
    assert_eq!(happened.iter().map(|h| (h.0, h.2)).collect::<Vec<_>>(), [(true, 6), (false, 7)]);
}

#[test]
fn silence_is_found_without_a_scan_and_only_once() {
    let mut core = core(0);
    for second in 0..100 {
        core.apply(second as u64, secs(second), &batch(&[(1, second, 1.0), (2, second, 1.0), (3, second, 1.0)]));
    }
    assert!(core.heap.len() <= 6, "one entry a slot, not one an Observation: {}", core.heap.len());
    core.tick(secs(158));
    assert!(!core.has_happened());
    core.tick(secs(159));
    core.tick(secs(1_000));
    assert_eq!(
        shown(&core.take(false).happenings).iter().map(|h| (h.0, h.2)).collect::<Vec<_>>(),
        [(true, 159), (true, 159)]
    );
}

#[test]
fn of_two_silences_the_earlier_is_the_alarm() {
    let mut core = core(0);
    core.apply(0, secs(10), &batch(&[(1, 10, 1.0), (2, 10, 1.0), (3, 10, 1.0)]));
    core.apply(1, secs(30), &batch(&[(2, 30, 1.0)]));
    core.apply(2, secs(31), &batch(&[(1, 31, 1.0), (3, 31, 1.0)]));
    core.tick(secs(500));
    let at: Vec<i64> = shown(&core.take(false).happenings).iter().map(|h| h.2).collect();
    assert_eq!(at, [90, 91], "in the order of the silences, whatever stood in the heap");
}

#[test]
fn what_is_not_believed_is_not_there() {
    let mut core = core(0);
    let mut run = Run::new(EntityId(1), EntityId(1));
    let raw = |text: &str| serde_json::value::RawValue::from_string(text.to_owned()).expect("json").into();
    run.push(secs(5), 99.0, Extra { quality: Some(raw(r#"{"flag":"placeholder"}"#)), ..Extra::default() });
    run.push(secs(6), f64::NAN, Extra { result: Some(raw("null")), ..Extra::default() });
    let mut all = Batch::new();
    all.push_run(run);
    core.apply(0, secs(7), &all);
    assert!(!core.has_happened());
    assert_eq!(core.slots[0].state, State::default());
}

#[test]
fn rules_and_things_that_go_clear_their_alarms() {
    let mut core = core(0);
    core.apply(0, secs(5), &batch(&[(1, 5, 11.0), (3, 5, 11.0)]));
    let raised = core.take(false);
    assert_eq!((raised.happenings.len(), raised.slots.len()), (2, 2));
    core.dropped(EntityId(3), secs(6));
    let dropped = core.take(false);
    assert_eq!((dropped.happenings.len(), dropped.gone.len()), (1, 2));
    core.install(vec![rule("silent", Condition::Absence { after: 60 })], &[facts(1, 10)], &[], &[], secs(7));
    let removed = core.take(false);
    assert!(matches!(&removed.happenings[..], [Happening::Cleared { rule, .. }] if rule == "high"), "{removed:?}");
}

#[derive(Clone, Debug)]
enum Script {
    Record(Vec<(i64, i64, f64)>),
    Tick,
}

fn script() -> impl Strategy<Value = Vec<(i64, Script)>> {
    let value = prop_oneof![Just(7.0), Just(9.0), Just(11.0)];
    let row = (1i64..=4, -5i64..90, value);
    let one = prop_oneof![
        4 => proptest::collection::vec(row, 1..6).prop_map(Script::Record),
        1 => Just(Script::Tick),
    ];
    proptest::collection::vec((0i64..40, one), 1..60)
}

/// What the database would hold: alarms by id with their ends, and state rows.
#[derive(Default, Debug, PartialEq, Clone)]
struct Stored {
    alarms: std::collections::BTreeMap<Id<Alarm>, (String, i64, Timestamp, Option<Timestamp>)>,
    rows: std::collections::BTreeMap<(String, i64), SlotRow>,
    position: usize,
}

impl Stored {
    fn write(&mut self, changes: Changes) {
        for happening in changes.happenings {
            match happening {
                Happening::Raised { id, rule, facts, at, .. } => {
                    let open = self.alarms.values().any(|a| a.0 == rule.key && a.1 == facts.thing.0 && a.3.is_none());
                    assert!(!open, "a second open alarm");
                    let before = self.alarms.insert(id, (rule.key.clone(), facts.thing.0, at, None));
                    assert_eq!(before, None, "raised twice");
                }
                Happening::Cleared { id, at, .. } => {
                    let alarm = self.alarms.get_mut(&id).expect("raised before");
                    assert_eq!(alarm.3, None, "cleared twice");
                    alarm.3 = Some(at);
                }
            }
        }
        self.rows.extend(changes.slots.into_iter().map(|r| ((r.rule.clone(), r.datastream.0), r)));
    }
    fn load(&self, hold: u32) -> Core {
        let mut core = Core::new(secs(0));
        let rows: Vec<_> = self.rows.values().cloned().collect();
        let open: Vec<_> = self
            .alarms
            .iter()
            .filter(|(_, a)| a.3.is_none())
            .map(|(id, a)| Open { rule: a.0.clone(), thing: EntityId(a.1), district: None, id: *id })
            .collect();
        let mut rules = vec![rule("high", above(hold)), rule("silent", Condition::Absence { after: 60 })];
        rules.extend([rule("rising", rising(hold)), several("several", above(hold), 2, Some(30))]);
        core.install(rules, &[facts(1, 10), facts(2, 10), facts(3, 11)], &rows, &open, secs(1 << 30));
        core
    }
}

/// Runs the script; at each step in `crashes` everything in memory is lost and reading begins at the last checkpoint. Ticks are kept by
/// the script, as the arrivals of records keep them on the stream.
fn play(script: &[(i64, Script)], hold: u32, crashes: &[usize], checkpoints: &[usize]) -> Stored {
    let mut stored = Stored::default();
    let mut core = stored.load(hold);
    let mut crashes: std::collections::BTreeSet<usize> = crashes.iter().copied().collect();
    let arrivals: Vec<i64> = script
        .iter()
        .scan(100, |now, (passed, _)| {
            *now += passed;
            Some(*now)
        })
        .collect();
    let mut at = 0;
    while at < script.len() {
        match &script[at].1 {
            Script::Record(rows) => {
                let rows: Vec<_> = rows.iter().map(|(ds, late, v)| (*ds, arrivals[at] - late, *v)).collect();
                core.apply(at as u64, secs(arrivals[at]), &batch(&rows));
            }
            Script::Tick => core.tick(secs(arrivals[at])),
        }
        if core.has_happened() {
            stored.write(core.take(false));
        }
        if checkpoints.contains(&at) {
            stored.write(core.take(true));
            stored.position = at + 1;
        }
        at += 1;
        if crashes.remove(&at) {
            core = stored.load(hold);
            at = stored.position;
        }
    }
    stored.write(core.take(true));
    stored
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn crashes_change_nothing(
        script in script(), hold in prop_oneof![Just(0u32), 1u32..50],
        crashes in proptest::collection::vec(0usize..60, 0..6), checkpoints in proptest::collection::vec(0usize..60, 0..6),
    ) {
        let straight = play(&script, hold, &[], &[]);
        let crashed = play(&script, hold, &crashes, &checkpoints);
        prop_assert_eq!(&straight.alarms, &crashed.alarms);
        let states = |s: &Stored| s.rows.iter().map(|(k, r)| (k.clone(), r.state)).collect::<Vec<_>>();
        prop_assert_eq!(states(&straight), states(&crashed));
    }

    #[test]
    fn columns_agree_with_rows(
        runs in proptest::collection::vec(proptest::collection::vec((-20i64..900, prop_oneof![Just(7.0), Just(9.0), Just(11.0)]), 1..30), 1..10),
        hold in prop_oneof![Just(0u32), 1u32..50],
    ) {
        let (mut fast, mut slow) = (core(hold), core(hold));
        for (offset, rows) in runs.iter().enumerate() {
            let arrived = secs(1_000 + offset as i64 * 10);
            let mut run = Run::new(EntityId(1), EntityId(1));
            rows.iter().for_each(|(at, v)| run.push_number(secs(*at), *v));
            let mut plain = Batch::new();
            plain.push_run(run.clone());
            // An extra that means nothing takes the same rows the slow way.
            run.extras = vec![None; run.len()];
            let mut rough = Batch::new();
            rough.push_run(run);
            fast.apply(offset as u64, arrived, &plain);
            slow.apply(offset as u64, arrived, &rough);
            for (a, b) in fast.slots.iter().zip(&slow.slots) {
                prop_assert_eq!(a.state, b.state);
            }
        }
        prop_assert_eq!(shown(&fast.take(true).happenings), shown(&slow.take(true).happenings));
    }
}
