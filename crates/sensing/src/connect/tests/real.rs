//! The published files of the Hong Kong pack, read by the pack's own connectors.

use std::collections::{BTreeMap, BTreeSet};

use super::{map, of_pack, pack};
use crate::connect::{
    map::{Content, Reading},
    report::Report,
};

fn read(key: &str, file: &str) -> (Report, Vec<Reading>) {
    map(&of_pack(key), &std::fs::read(pack().join("data").join(file)).expect("file")).expect("read")
}

fn qualities(readings: &[Reading]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for quality in readings.iter().filter_map(|r| r.quality.as_ref()) {
        *counts.entry(quality.get()).or_default() += 1;
    }
    counts
}

#[test]
fn a_century_of_rain() {
    let (report, readings) = read("hko-daily-rainfall", "hko-daily-rainfall.csv");
    assert_eq!((report.rows, report.rows_skipped, report.rows_rejected), (49_039, 4, 1));
    assert_eq!((report.values, report.rejected, readings.len()), (49_034, 0, 49_034));
    // The publisher lists a day that never was.
    assert_eq!((report.examples[0].line, report.examples[0].text.as_str()), (5_847, "1900 2 29"));
    assert!(report.unread_columns.is_empty());
    assert_eq!(qualities(&readings), BTreeMap::from([(r#"{"code":"trace"}"#, 6_876)]));
    // Before 1904 the clocks of Hong Kong followed its own meridian.
    assert_eq!(readings[0].at.to_string(), "1884-02-29T16:23:18Z/1884-03-01T16:23:18Z");
    let last = readings.last().expect("rows");
    assert_eq!(last.at.to_string(), "2025-05-30T16:00:00Z/2025-05-31T16:00:00Z");
    assert_eq!((last.datastream.as_ref(), &last.content), ("hko-record.daily-rainfall", &Content::Number(0.025)));
}

#[test]
fn wind_with_what_was_not_measured() {
    let (report, readings) = read("hko-waglan-wind", "waglan-daily-windspeed.csv");
    assert_eq!((report.rows, report.rows_skipped, report.rows_rejected), (18_417, 3, 0));
    assert_eq!(readings.len(), 18_414);
    assert_eq!(
        qualities(&readings),
        BTreeMap::from([(r#"{"code":"incomplete"}"#, 1_840), (r#"{"code":"missing"}"#, 480)])
    );
    assert_eq!(readings.iter().filter(|r| r.content == Content::Missing).count(), 480);
}

#[test]
fn air_of_eighteen_stations_and_seven_pollutants() {
    let (report, readings) = read("epd-daily-air", "epd-air-quality-daily-2017-2024.csv");
    assert_eq!((report.rows, report.rows_skipped, report.rows_rejected), (20_454, 0, 0));
    assert_eq!((report.values, report.rejected, readings.len()), (368_172, 0, 368_172));
    assert!(report.unread_columns.is_empty());
    assert_eq!(qualities(&readings), BTreeMap::from([(r#"{"code":"missing"}"#, 45_843)]));
    // The connector names the same Datastreams as the pack's things.
    let stations = std::fs::read_to_string(pack().join("data/air-stations.csv")).expect("file");
    let codes = stations.lines().skip(1).filter_map(|l| l.split(',').next());
    let pollutants = ["co", "pm25", "no2", "nox", "o3", "pm10", "so2"];
    let declared: BTreeSet<String> = codes.flat_map(|c| pollutants.map(|p| format!("air-{c}.daily-{p}"))).collect();
    let named: BTreeSet<String> = readings.iter().map(|r| r.datastream.to_string()).collect();
    assert_eq!(named, declared);
    let central = readings.iter().find(|r| r.datastream.as_ref() == "air-central.daily-co").expect("Central");
    assert_eq!((central.line, &central.content), (15, &Content::Text("61".into())));
    assert_eq!(central.at.to_string(), "2016-12-31T16:00:00Z/2017-01-01T16:00:00Z");
}

#[test]
fn the_rules_of_the_pack_watch_what_the_pack_has() {
    let things: String = ["flood", "hepa", "lampposts", "parking", "toilets"]
        .map(|name| std::fs::read_to_string(pack().join(format!("things/{name}.toml"))).expect("file"))
        .concat();
    let mut all = Vec::new();
    for name in ["flood", "hepa", "city"] {
        let text = std::fs::read_to_string(pack().join(format!("rules/{name}.toml"))).expect("file");
        all.extend(toml::from_str::<crate::rules::model::RuleFile>(&text).expect("a rule file").rule);
    }
    let rules = crate::rules::model::check_all(all).expect("valid");
    assert_eq!(rules.len(), 8);
    for rule in rules {
        let (system, property) = (
            rule.select.system.as_deref().expect("system"),
            rule.select.observed_property.as_deref().expect("property"),
        );
        assert!(things.contains(&format!("tenant = \"{}\"\nsystem = \"{system}\"", rule.tenant)), "{}", rule.key);
        assert!(things.contains(&format!("observed_property = \"{property}\"")), "{}", rule.key);
    }
}
