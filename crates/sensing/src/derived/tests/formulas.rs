//! Formulas, tables and declarations by themselves; the air quality index of the pack against published figures.

use jiff::tz::TimeZone;
use proptest::prelude::*;

use super::*;
use crate::derived::{
    compute::{Lead, Outcome, Point, grid, merge, outcomes, touched},
    model::{Between, Beyond, Definition, DerivedFile, Table},
};

fn definition(input: Value, tables: Value, formulas: Value) -> Result<Definition, kernel::Problem> {
    let body = json!({
        "key": "d", "tenant": "dsd", "name": {"en": "d", "zh-hant": "d", "zh-hans": "d"}, "output": 1,
        "input": input, "table": tables, "formula": formulas,
    });
    Definition::new(serde_json::from_value(body).expect("a shape"))
}

fn lead(at: i64, value: f64) -> Lead {
    Lead { at, end: at, feature: EntityId(1), own: Some(Point { at, value, good: true }) }
}

fn alone(formula: &str, tables: Value, value: f64) -> Option<f64> {
    let d =
        definition(json!([{"name": "x", "datastream": 2}]), tables, json!([{"expression": formula}])).expect("valid");
    outcomes(&d, &TimeZone::UTC, &[Vec::new()], &[lead(0, value)])[0].map(|o| o.value)
}

#[test]
fn formulas_say_what_they_mean() {
    let check = |formula: &str, value: f64, expected: Option<f64>| {
        assert_eq!(alone(formula, json!([]), value), expected, "{formula}");
    };
    check("x.value * 2", 3.0, Some(6.0));
    check("math.pow(x.value, 2.0) + math.sqrt(x.value)", 4.0, Some(18.0));
    check("math.exp(math.ln(x.value))", 1.0, Some(1.0));
    check("math.round(x.value) + math.floor(x.value) + math.ceil(x.value)", 2.5, Some(8.0));
    check("x.quality == 'good' ? x.value : 0.0", 5.0, Some(5.0));
    check("has(x.value) ? 1.0 : 0.0", 5.0, Some(1.0));
    check("x.value > 2.0", 3.0, Some(1.0));
    check("hour", 3.0, Some(0.0));
    check("x.value / 0.0", 3.0, None);
    check("math.ln(0.0 - x.value)", 3.0, None);
    check("1 / int(x.value)", 0.0, None);
}

#[test]
fn tables_run_through_their_points() {
    let points = || vec![[1.0, 10.0], [2.0, 20.0], [4.0, 80.0]];
    let table = |between, beyond| Table { name: "t".into(), points: points(), between, beyond };
    let linear = table(Between::Linear, Beyond::Nothing);
    for (x, y) in [(1.0, Some(10.0)), (1.5, Some(15.0)), (3.0, Some(50.0)), (4.0, Some(80.0)), (0.9, None), (4.1, None)]
    {
        assert_eq!(linear.at(x), y, "{x}");
    }
    assert_eq!(linear.at(f64::NAN), None);
    let held = table(Between::Linear, Beyond::Hold);
    assert_eq!((held.at(-1.0), held.at(9.0)), (Some(10.0), Some(80.0)));
    let step = table(Between::Step, Beyond::Hold);
    for (x, y) in [(0.5, 10.0), (1.0, 10.0), (1.01, 20.0), (2.0, 20.0), (2.01, 80.0)] {
        assert_eq!(step.at(x), Some(y), "{x}: a band ends with its point");
    }
    // y = 10 x² between 2 and 4 in logarithms: 20 → 80 is twice twice.
    let log = table(Between::Log, Beyond::Nothing).at(8f64.sqrt()).expect("between");
    assert!((log - 40.0).abs() < 1e-9, "{log}");
    assert_eq!(alone("t(x.value)", json!([{"name": "t", "points": points()}]), 1.5), Some(15.0));
}

#[test]
fn mistakes_are_named_with_their_place() {
    let x = || json!([{"name": "x", "datastream": 2}]);
    let check = |input: Value, tables: Value, formulas: Value, field: &str, words: &str| {
        let problem = definition(input, tables, formulas).expect_err(words);
        let found = problem.errors.iter().find(|e| e.field == field);
        assert!(found.is_some_and(|e| e.detail.contains(words)), "{field} {words}: {problem:?}");
    };
    let f = |text: &str| json!([{"expression": text}]);
    check(json!([]), json!([]), f("1.0"), "/input", "1 to 8 inputs");
    check(x(), json!([]), f("y.value"), "/formula/0/expression", "column 1: 'y' is not an input");
    check(x(), json!([]), f("x"), "/formula/0/expression", "write x.value");
    check(x(), json!([]), f("x.mean"), "/formula/0/expression", "needs a window");
    check(x(), json!([]), f("x.quality"), "/formula/0/expression", "this is a string");
    check(x(), json!([]), f("value * 2.0"), "/formula/0/expression", "'value' is not known");
    check(x(), json!([]), f("thing['rain'].value"), "/formula/0/expression", "only inputs have fields");
    check(x(), json!([]), f("curve(x.value)"), "/formula/0/expression", "'curve' is not known");
    check(json!([{"name": "math", "datastream": 2}]), json!([]), f("1.0"), "/input/0/name", "means nothing else");
    check(
        json!([{"name": "x", "datastream": 2, "window": 0}]),
        json!([]),
        f("1.0"),
        "/input/0/window",
        "seconds are expected",
    );
    check(x(), json!([{"name": "x", "points": [[0, 0], [1, 1]]}]), f("1.0"), "/table/0/name", "of its own");
    check(
        x(),
        json!([{"name": "t", "points": [[1, 0], [1, 1]]}]),
        f("1.0"),
        "/table/0/points",
        "greater from point to point",
    );
    check(
        x(),
        json!([{"name": "t", "points": [[0, 1], [1, 1]], "between": "log"}]),
        f("1.0"),
        "/table/0/points",
        "above 0",
    );
    let both = json!([{"expression": "1.0"}, {"expression": "x.value > 1.0", "from": "2026-01-01T00:00:00Z"}]);
    check(x(), json!([]), both, "/formula", "all truths");
    let order = json!([{"expression": "1.0", "from": "2026-01-01T00:00:00Z"}, {"expression": "2.0"}]);
    check(x(), json!([]), order, "/formula/1/from", "later");
}

#[test]
fn a_formula_holds_from_its_moment_on() {
    let formulas = json!([{"expression": "x.value"}, {"expression": "x.value * 10.0", "from": "1970-01-01T00:00:10Z"}]);
    let d = definition(json!([{"name": "x", "datastream": 2}]), json!([]), formulas).expect("valid");
    let leads = [lead(9_999_999, 1.0), lead(10_000_000, 1.0)];
    let found: Vec<Option<f64>> =
        outcomes(&d, &TimeZone::UTC, &[Vec::new()], &leads).into_iter().map(|o| o.map(|o| o.value)).collect();
    assert_eq!(found, [Some(1.0), Some(10.0)]);
}

fn pack() -> DerivedFile {
    let folder = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../packs/hong-kong/derived");
    let mut all = DerivedFile::default();
    for entry in std::fs::read_dir(folder).expect("the pack's folder") {
        let text = std::fs::read_to_string(entry.expect("entry").path()).expect("file");
        all.derived.extend(toml::from_str::<DerivedFile>(&text).expect("a file of declarations").derived);
    }
    all
}

fn of_pack(key: &str) -> Definition {
    let found = pack().derived.into_iter().find(|d| d.key == key).expect("the pack has it");
    Definition::new(found).expect("valid")
}

/// The index for concentrations that have stood for three hours: NO2, SO2, O3, PM10, PM2.5 in µg/m³.
fn aqhi(at: &str, concentrations: [f64; 5]) -> Option<f64> {
    let d = of_pack("aqhi");
    let names: Vec<&str> = d.inputs.iter().map(|i| i.name.as_str()).collect();
    assert_eq!(names, ["no2", "so2", "o3", "pm10", "pm25"]);
    let now = super::at(at).as_micros();
    let series: Vec<Vec<Point>> = concentrations
        .iter()
        .map(|c| (0..18).rev().map(|n| Point { at: now - n * 600_000_000, value: *c, good: true }).collect())
        .collect();
    let lead = Lead { at: now, end: now, feature: EntityId(1), own: series[0].last().copied() };
    outcomes(&d, &TimeZone::UTC, &series, &[lead])[0].map(|o| o.value)
}

const BEFORE_2025: [f64; 5] = [0.000_446_255_9, 0.000_139_323_5, 0.000_511_632_8, 0.000_282_175_1, 0.000_218_056_7];

/// A concentration whose added health risk is so many percent.
fn concentration(percent: f64, beta: f64) -> f64 {
    (percent / 100.0).ln_1p() / beta
}

#[test]
fn the_air_quality_health_index_is_the_published_one() {
    // Tai Po on 29 March 2024 at 01:00, as the department's site showed it: SO2 0.034, NO2 2.766, O3 0.822, PM 1.022, together 4.64; band 3.
    let [no2, so2, o3, pm10, _] = BEFORE_2025;
    let shown = [
        concentration(2.766, no2),
        concentration(0.034, so2),
        concentration(0.822, o3),
        concentration(1.022, pm10),
        0.0,
    ];
    assert_eq!(aqhi("2024-03-28T17:00:00Z", shown), Some(3.0));
    // The bands by their published upper ends, from nitrogen dioxide alone: just within, and just beyond.
    let old = [1.88, 3.76, 5.64, 7.52, 9.41, 11.29, 12.91, 15.07, 17.22, 19.37];
    let new = [1.87, 3.73, 5.60, 7.46, 9.33, 11.20, 12.81, 14.94, 17.08, 19.21];
    for (when, ends) in [("2024-06-01T00:00:00Z", old), ("2026-06-01T00:00:00Z", new)] {
        for (nth, end) in ends.into_iter().enumerate() {
            let of = |percent: f64| aqhi(when, [concentration(percent, no2), 0.0, 0.0, 0.0, 0.0]);
            let band = nth as f64 + 1.0;
            assert_eq!((of(end - 0.001), of(end + 0.001)), (Some(band), Some(band + 1.0)), "{when}: {end}");
        }
    }
    // 10+ is 11, however bad it is.
    assert_eq!(aqhi("2026-06-01T00:00:00Z", [5_000.0, 0.0, 500.0, 0.0, 0.0]), Some(11.0));
    // Of the particulates the worse one counts, and only that: 60 of PM10 are 1.71 %, 60 of PM2.5 are 1.32 %; together they would be band 2.
    assert_eq!(aqhi("2024-06-01T00:00:00Z", [0.0, 0.0, 0.0, 60.0, 60.0]), Some(1.0));
    // Ozone counts for less since 22 March 2025: 36.4 µg/m³ are 1.88 % before and 1.80 % after.
    assert_eq!(aqhi("2025-03-21T15:00:00Z", [0.0, 0.0, 36.5, 0.0, 0.0]), Some(2.0));
    assert_eq!(aqhi("2025-03-22T03:00:00Z", [0.0, 0.0, 36.5, 0.0, 0.0]), Some(1.0));
}

#[test]
fn the_rating_curve_rises_with_the_water_and_ends_where_it_was_measured() {
    let d = of_pack("flood-flow");
    let flow = |level: f64| outcomes(&d, &TimeZone::UTC, &[Vec::new()], &[lead(0, level)])[0].map(|o| o.value);
    let curve: Vec<f64> = (0..40).filter_map(|n| flow(0.35 + f64::from(n) * 0.08)).collect();
    assert_eq!(curve.len(), 40);
    assert!(curve.windows(2).all(|two| two[0] < two[1]), "{curve:?}");
    assert_eq!(flow(99.0), None, "beyond the curve nothing is known");
}

#[test]
fn the_packs_declarations_are_valid() {
    let all = crate::derived::model::check_all(pack().derived).unwrap_or_else(|p| panic!("{p:?}"));
    assert!(all.len() >= 2);
}

proptest! {
    /// A window's figures by the plain definition, however the leads are grouped.
    #[test]
    fn figures_are_those_of_the_plain_definition(
        gaps in proptest::collection::vec(1i64..900, 1..60), window in 1i64..3_000, split in 0usize..60,
    ) {
        let input = json!([{"name": "x", "datastream": 2, "window": window}]);
        let formula = "x.mean * 1000000.0 + x.max - x.min + double(x.count)";
        let d = definition(input, json!([]), json!([{"expression": formula}])).expect("valid");
        let mut at = 1_000_000_000_000_000i64;
        let points: Vec<Point> = gaps.iter().enumerate().map(|(n, gap)| {
            at += gap * 1_000_000;
            Point { at, value: ((n * 7_919) % 101) as f64, good: true }
        }).collect();
        let leads: Vec<Lead> = points.iter().map(|p| Lead { at: p.at, end: p.at, feature: EntityId(1), own: Some(*p) }).collect();
        let series = [points.clone()];
        let whole = outcomes(&d, &TimeZone::UTC, &series, &leads);
        let split = split.min(leads.len());
        let mut parts = outcomes(&d, &TimeZone::UTC, &series, &leads[..split]);
        parts.extend(outcomes(&d, &TimeZone::UTC, &series, &leads[split..]));
        prop_assert_eq!(&whole, &parts, "the same bits, whatever is computed with them");
        for (lead, found) in leads.iter().zip(whole) {
            let seen: Vec<f64> = points.iter().filter(|p| p.at <= lead.at && p.at > lead.at - window * 1_000_000).map(|p| p.value).collect();
            let (most, least) = (seen.iter().copied().fold(f64::MIN, f64::max), seen.iter().copied().fold(f64::MAX, f64::min));
            let plain = seen.iter().sum::<f64>() / seen.len() as f64 * 1_000_000.0 + most - least + seen.len() as f64;
            prop_assert_eq!(found, Some(Outcome { value: plain, faulty: false }));
        }
    }

    /// Every output that an Observation can change lies in a touched span, and spans are apart.
    #[test]
    fn what_is_touched_is_covered(times in proptest::collection::vec(0i64..10_000, 0..40), reach in 0i64..500) {
        let mut spans = Vec::new();
        touched(times.iter().copied(), reach, &mut spans);
        for at in &times {
            prop_assert!(spans.iter().any(|(from, to)| from <= at && at + reach <= *to));
        }
        prop_assert!(spans.windows(2).all(|two| two[0].1 + 1 < two[1].0));
        let again = { let mut again = spans.clone(); merge(&mut again); again };
        prop_assert_eq!(again, spans);
    }

    #[test]
    fn a_grid_holds_the_multiples_and_no_others(from in -5_000i64..5_000, length in 0i64..3_000, every in 1i64..700) {
        let found = grid(from, from + length, every, usize::MAX);
        let plain: Vec<i64> = (from..=from + length).filter(|at| at.rem_euclid(every) == 0).collect();
        prop_assert_eq!(found, plain);
    }

    /// No text and no numbers are too strange.
    #[test]
    fn any_declaration_is_an_answer(text in "\\PC{0,60}", points in proptest::collection::vec(any::<[f64; 2]>(), 0..6), x in any::<f64>()) {
        let formulas = json!([{"expression": text}]);
        let _ = definition(json!([{"name": "x", "datastream": 2, "window": 60}]), json!([]), formulas);
        for between in [Between::Linear, Between::Log, Between::Step] {
            let table = Table { name: "t".into(), points: points.clone(), between, beyond: Beyond::Hold };
            if table.mistake().is_none() {
                let _ = table.at(x);
            }
        }
    }
}
