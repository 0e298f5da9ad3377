use std::collections::BTreeMap;

use kernel::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::rules::cel::compile::RESERVED;

fn form(text: &str) -> Expression {
    Expression {
        expression: text.to_owned(),
        clear: None,
        hold: 0,
        clear_hold: 0,
        window: Some(600),
        windows: BTreeMap::from([("day".to_owned(), 86_400)]),
    }
}

/// Values every ten seconds up to the last one; the last is what is looked at.
fn judged(text: &str, values: &[f64]) -> Option<bool> {
    let compiled = Compiled::new(&form(text)).unwrap_or_else(|e| panic!("{text}: {e:?}"));
    let mut memory = Memory::fitting(&compiled, None);
    let mut last = None;
    for (nth, value) in values.iter().enumerate() {
        let at = Timestamp::from_secs(1_000_000 + 10 * nth as i64);
        memory.previous = last;
        memory.windows.iter_mut().for_each(|w| w.add(at, *value));
        last = Some(*value);
    }
    memory.heard(0, Sample { at: 1_000_000_000_000, value: 0.5, good: true });
    let time = Timestamp::from_secs(1_000_000 + 10 * (values.len() as i64 - 1));
    let env = Env {
        value: *values.last().expect("a value"),
        time,
        good: true,
        district: "Yuen Long",
        system: "flood",
        local: Some(local(time, &jiff::tz::TimeZone::UTC)),
        memory: &memory,
    };
    env.truth(&compiled.raise)
}

#[test]
fn says_what_it_means() {
    let check = |text: &str, values: &[f64], expect: Option<bool>| assert_eq!(judged(text, values), expect, "{text}");
    check("value > 1", &[1.5], Some(true));
    check("value * 2 > 2.9 && !(value >= 2.0)", &[1.5], Some(true));
    check("value - previous > 0.4", &[1.0, 1.5], Some(true));
    check("value - previous > 0.4", &[1.5], None);
    check("value > 1.0 || value - previous > 0.4", &[1.5], Some(true));
    check("value < 1.0 && previous > 0.0", &[1.5], Some(false));
    check("rate > 0.049 && rate < 0.051", &[1.0, 1.5], Some(true));
    check("rate > 0.0", &[1.0], None);
    check("mean == 2.0 && min == 1.0 && max == 3.0 && count == 3", &[1.0, 3.0, 2.0], Some(true));
    check("day.count >= 2 ? day.max > 2.0 : false", &[1.0, 3.0], Some(true));
    check("thing[\"rain\"].value == 0.5 && has(thing.rain.value)", &[1.0], Some(true));
    check("thing[\"rain\"].quality == 'good' && thing[\"rain\"].time == 1000000", &[1.0], Some(true));
    check("has(thing[\"other\"].value) || thing[\"rain\"].value > 0.0", &[1.0], Some(true));
    check("district in ['Yuen Long', \"North\"] && system == 'flood'", &[1.0], Some(true));
    check("district.startsWith('Yuen') && !district.contains('x') && quality != 'faulty'", &[1.0], Some(true));
    // 1,000,000 seconds after 1970 began it was Monday, 12 January, 13:46.
    check("hour == 13 && minute == 46 && weekday == 1 && time == 1000000", &[1.0], Some(true));
    check("int(value) % 2 == 1 && math.abs(-value) == 3.7", &[3.7], Some(true));
    check("math.greatest(value, 2.0) == 2.0 && math.least(1, 2) == 1", &[1.0], Some(true));
    check("1 / int(value - value) == 1", &[1.0], None);
    check("value / 0.0 > 1000.0", &[1.0], Some(true));
    check("value / 0.0 < 1.0 || value / value >= 1.0", &[0.0], Some(false));
}

#[test]
fn what_does_not_make_sense_is_refused_with_its_place() {
    let check = |text: &str, column: usize, words: &str| {
        let mistakes = Compiled::new(&form(text)).expect_err(text);
        assert_eq!(mistakes[0].0, "expression");
        let Mistake { column: found, detail } = &mistakes[0].1;
        assert!(detail.contains(words), "{text}: {detail}");
        assert_eq!(*found, column, "{text}: {detail}");
    };
    check("", 1, "is expected");
    check("value", 1, "a condition is expected");
    check("value > 'high'", 7, "a double cannot be compared with a string");
    check("value > 1.0 && levle > 2.0", 16, "'levle' is not known");
    check("value > 1.0 && hour", 16, "a bool is expected, this is a int");
    check("value + hour > 1.0", 7, "double(");
    check("value > 1.0 &&", 15, "");
    check("[1, 2].exists(x, x > 1)", 14, "not known here");
    check("day > 1.0", 1, "write day.mean");
    check("day.median > 1.0", 4, "mean, min, max, count and rate");
    check("week.mean > 1.0", 1, "'week' is not a window");
    check("thing[\"rain\"] > 1.0", 6, "write thing");
    check("thing[\"rain\"].level > 1.0", 14, "value, time and quality");
    check("matches(district, 'a+')", 8, "'matches' is not known");
    check(&"(".repeat(1_000), 1, "levels");
    let long = format!("value > 1.0{}", " || value > 1.0".repeat(120));
    let mistakes = Compiled::new(&form(&long)).expect_err("too long");
    assert!(mistakes[0].1.detail.contains("more than 250 parts"), "{mistakes:?}");
}

#[test]
fn names_that_mean_something_cannot_be_windows() {
    for name in RESERVED.iter().chain(&["in", "true", "math"]) {
        assert!(is_reserved(name), "{name}");
    }
    assert!(!is_reserved("hourly"));
}

#[test]
fn memory_survives_its_row_and_a_changed_rule() {
    let compiled = Compiled::new(&form("rate > 1.0 && thing['rain'].value > 1.0")).expect("valid");
    let mut memory = Memory::fitting(&compiled, None);
    memory.windows.iter_mut().for_each(|w| w.add(Timestamp::from_secs(5), 1.5));
    assert!(memory.heard(0, Sample { at: 7, value: 2.0, good: true }));
    assert!(!memory.heard(0, Sample { at: 7, value: 3.0, good: true }), "not newer");
    let again = Memory::decode(&memory.encode()).expect("its own");
    assert_eq!(again, memory);
    let other = Compiled::new(&form("mean > 1.0 && thing['wind'].value > thing['rain'].value")).expect("valid");
    let fitted = Memory::fitting(&other, Some(again));
    assert_eq!((fitted.windows[0].count(), fitted.input(0)), (1, None));
    assert_eq!(fitted.input(1).map(|s| s.value), Some(2.0));
    assert_eq!(Memory::decode("nonsense"), None);
}

/// Expressions over `value`, `hour` and `district` that both evaluators know.
fn any_condition() -> impl Strategy<Value = String> {
    let number =
        prop_oneof![Just("value".to_owned()), (-50i32..50).prop_map(|n| format!("{:.1}", f64::from(n) / 2.0)),];
    let number = number.prop_recursive(3, 12, 2, |inner| {
        let operator = prop_oneof![Just("+"), Just("-"), Just("*")];
        prop_oneof![
            (inner.clone(), operator, inner.clone()).prop_map(|(a, o, b)| format!("({a} {o} {b})")),
            // By no zero: the other evaluator answers an ordering of NaN with an error, where CEL has it false as IEEE 754 does.
            inner.clone().prop_map(|a| format!("({a} / 2.5)")),
            inner.prop_map(|a| format!("(-({a}))")),
        ]
    });
    let whole = prop_oneof![Just("hour".to_owned()), (-3i64..30).prop_map(|n| n.to_string())];
    let whole = whole.prop_recursive(2, 6, 2, |inner| {
        let operator = prop_oneof![Just("+"), Just("-"), Just("*"), Just("/"), Just("%")];
        (inner.clone(), operator, inner).prop_map(|(a, o, b)| format!("({a} {o} {b})"))
    });
    let comparison = || prop_oneof![Just("<"), Just("<="), Just(">"), Just(">="), Just("=="), Just("!=")];
    let leaf = prop_oneof![
        (number.clone(), comparison(), number).prop_map(|(a, c, b)| format!("{a} {c} {b}")),
        (whole.clone(), comparison(), whole.clone()).prop_map(|(a, c, b)| format!("{a} {c} {b}")),
        (whole.clone(), proptest::collection::vec(whole, 0..3)).prop_map(|(a, l)| format!("{a} in [{}]", l.join(", "))),
        Just("district == 'North'".to_owned()),
        Just("district.startsWith('Y')".to_owned()),
        any::<bool>().prop_map(|b| b.to_string()),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} && {b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} || {b})")),
            inner.clone().prop_map(|a| format!("!({a})")),
            (inner.clone(), inner.clone(), inner).prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// The crate's own interpreter is the other opinion.
    #[test]
    fn agrees_with_the_interpreter_of_others(text in any_condition(), value in -20i32..20, hour in 0i64..24) {
        let Ok(compiled) = Compiled::new(&form(&text)) else {
            // Too deep or too long: nothing else of these may be refused.
            prop_assert!(text.matches(['(', '-', '!', '?', ':']).count() > 20, "{}", text);
            return Ok(());
        };
        let memory = Memory::fitting(&compiled, None);
        let value = f64::from(value) / 2.0;
        let env = Env {
            value,
            time: Timestamp::from_secs(hour * 3_600),
            good: true,
            district: "Yuen Long",
            system: "flood",
            local: Some((hour, 0, 4)),
            memory: &memory,
        };
        let mut context = cel::Context::default();
        context.add_variable_from_value("value", value);
        context.add_variable_from_value("hour", hour);
        context.add_variable_from_value("district", "Yuen Long".to_owned());
        let program = cel::Program::compile(&text).expect("parsed before");
        let other = match program.execute(&context) {
            Ok(cel::Value::Bool(b)) => Some(b),
            _ => None,
        };
        prop_assert_eq!(env.truth(&compiled.raise), other, "{}", text);
    }

    #[test]
    fn no_text_is_too_strange(text in "[ -~\\n]{0,80}", odd in "\\PC{0,60}") {
        let _ = Compiled::new(&form(&text));
        let _ = Compiled::new(&form(&odd));
        let _ = Compiled::new(&form(&format!("value > {text}")));
    }

    /// By the plain definition over all values, with the window's edge somewhere in its last thirtieth.
    #[test]
    fn a_window_is_what_it_says(gaps in proptest::collection::vec(0i64..400, 1..60), seconds in 30u32..3_000) {
        let mut window = memory::Window::new(seconds);
        let mut all: Vec<(i64, f64)> = Vec::new();
        let mut at = 1_000_000i64;
        for (nth, gap) in gaps.iter().enumerate() {
            at += gap + 1;
            let value = ((nth * 7919) % 101) as f64;
            window.add(Timestamp::from_secs(at), value);
            all.push((at, value));
        }
        let within = |span: f64| all.iter().filter(|(t, _)| ((at - t) as f64) < span).count() as i64;
        let (least, most) = (within(f64::from(seconds) * 29.0 / 30.0 - 1.0), within(f64::from(seconds) + 1.0));
        prop_assert!((least..=most).contains(&window.count()), "{} not in {}..={}", window.count(), least, most);
        let kept: Vec<f64> = all.iter().rev().take(window.count() as usize).map(|(_, v)| *v).collect();
        prop_assert_eq!(window.min(), kept.iter().copied().reduce(f64::min));
        prop_assert_eq!(window.max(), kept.iter().copied().reduce(f64::max));
        let mean = kept.iter().sum::<f64>() / kept.len() as f64;
        prop_assert!((window.mean().expect("not empty") - mean).abs() < 1e-9);
        let oldest = all[all.len() - kept.len()];
        let newest = all[all.len() - 1];
        let rate = (newest.0 > oldest.0).then(|| (newest.1 - oldest.1) / (newest.0 - oldest.0) as f64);
        match (window.rate(Timestamp::from_secs(at), newest.1), rate) {
            (Some(a), Some(b)) => prop_assert!((a - b).abs() < 1e-9),
            (a, b) => prop_assert_eq!(a, b),
        }
    }
}
