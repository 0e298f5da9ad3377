//! Documents in every format, and what is none.

use kernel::{Interval, Tenant, Timestamp};
use proptest::prelude::*;

use super::{map, parse};
use crate::{
    connect::{
        ConnectorFile,
        declaration::{Connector, Declaration, check_all},
        fit,
        map::{Content, Reading},
    },
    model::{DatastreamInfo, EntityId, ObservationType},
};

const SHAPE: &str = r#"
[[connector]]
key = "feed"
tenant = "hko"
name = { en = "Feed", zh-hant = "資料", zh-hans = "数据" }
every = "PT10M"
"#;

fn connector(rest: &str) -> Connector {
    parse(&format!("{SHAPE}{rest}")).remove(0)
}

const CSV: &str = r##"
only = { kind = ["hourly", ""] }
source = { url = "https://example.org/a.csv", format = "csv", header = "t", skip = ["#"] }
time = { fields = ["t"] }
value = [{ field = "v", datastream = "{s|slug}.v", scale = 10.0 }]
placeholders = { "N.A." = { quality = "missing" }, "Trace" = { value = 0.5, quality = "trace" } }
quality = { field = "q", good = [""], flags = { "?" = "suspect" } }
"##;

/// Readings as short lines: Datastream, start, content, quality.
fn told(readings: &[Reading]) -> Vec<String> {
    let content = |c: &Content| match c {
        Content::Text(text) => text.to_string(),
        Content::Number(n) => format!("={n}"),
        Content::Missing => "none".to_owned(),
    };
    let quality = |r: &Reading| r.quality.as_ref().map_or(String::new(), |q| format!(" {q}"));
    readings.iter().map(|r| format!("{} {} {}{}", r.datastream, r.at, content(&r.content), quality(r))).collect()
}

#[test]
fn csv_with_everything_that_publishers_do() {
    let text = "\u{feff}Title with \"one quote,\r\nmade on 2026-01-01\r\n\r\nt , s,v,kind,q,new\r\n\
        2024-01-01T00:00:00Z,\"Sha Tin, North\",1.5,hourly,,\r\n\
        2024-01-01T01:00:00Z,Tai Po, N.A. ,hourly,?,\r\n\
        2024-01-01T02:00:00Z,Tai Po,Trace,hourly,,\r\n\
        2024-01-01T03:00:00Z,Tai Po,7,hourly,@,\r\n\
        2024-01-01T03:00:00Z,Tai Po,7,daily,,\r\n\
        yesterday,Tai Po,7,hourly,,\r\n\
        2024-01-01T04:00:00Z,Tai Po,7\r\n\
        # a note, with a comma\r\n\r\n,,,,,\r\n";
    let (report, readings) = map(&connector(CSV), text.as_bytes()).expect("read");
    assert_eq!(
        told(&readings),
        [
            "sha-tin-north.v 2024-01-01T00:00:00Z 1.5",
            "tai-po.v 2024-01-01T01:00:00Z none {\"code\":\"missing\"}",
            "tai-po.v 2024-01-01T02:00:00Z =0.5 {\"code\":\"trace\"}",
            "tai-po.v 2024-01-01T03:00:00Z 7 {\"code\":\"unknown\",\"flag\":\"@\"}",
        ]
    );
    assert_eq!((report.rows, report.rows_skipped, report.rows_rejected, report.values), (9, 3, 2, 4));
    assert_eq!(report.unread_columns, ["new"]);
    let told: Vec<(u64, &str)> = report.examples.iter().map(|e| (e.line, e.text.as_str())).collect();
    assert_eq!(told, [(10, "yesterday"), (11, "2024-01-01T04:00:00Z")], "lines are those of the file");
}

#[test]
fn a_file_that_is_not_what_it_was_fails_as_a_whole() {
    let wrong = |text: &str, expect: &str| {
        let error = map(&connector(CSV), text.as_bytes()).expect_err(expect);
        assert!(error.contains(expect), "{error}");
    };
    wrong("", "no line has a column 't'");
    wrong("<html>Service unavailable</html>", "no line has a column 't'");
    wrong("t,s,value,kind,q\n", "no column 'v'");
    wrong("t,s,v,v,kind,q\n", "'v' twice");
    let error = map(&connector(CSV), b"t,s,v,kind,q\n\xff\xff").expect_err("encoding");
    assert_eq!(error, "not UTF-8 at byte 13");
}

#[test]
fn json_rows_with_the_time_of_the_document() {
    let connector = connector(
        r#"
source = { url = "https://example.org/a.json", format = "json", at = "result.rows" }
time = { fields = ["$.result.updated"] }
tables = { place = { "Sha Tin" = "sha-tin" } }
value = [{ field = "reading.value", datastream = "{place|place}.v" }, { field = "wind.0", datastream = "{place|place}.w", optional = true }]
placeholders = { "" = { quality = "missing" } }
"#,
    );
    let text = r#"{"result":{"updated":"2024-01-01T08:00:00+08:00","rows":[
        {"place":"Sha Tin","reading":{"value":21.5},"wind":[3,4]},
        {"place":"Sha Tin","reading":{"value":null}},
        {"place":"Nowhere","reading":{"value":1}},
        {"place":"Sha Tin"}, 7]}}"#;
    let (report, readings) = map(&connector, text.as_bytes()).expect("read");
    assert_eq!(
        told(&readings),
        [
            "sha-tin.v 2024-01-01T00:00:00Z 21.5",
            "sha-tin.w 2024-01-01T00:00:00Z 3",
            "sha-tin.v 2024-01-01T00:00:00Z none {\"code\":\"missing\"}",
        ]
    );
    assert_eq!((report.rows, report.rows_rejected, report.values, report.rejected), (5, 1, 5, 2));
    assert!(map(&connector, br#"{"result":{}}"#).expect_err("array").contains("no array"));
    assert!(map(&connector, b"[").is_err());
    assert!(map(&connector, "[".repeat(100_000).as_bytes()).is_err(), "depth is bounded");
}

#[test]
fn geojson_features_are_rows() {
    let connector = connector(
        r#"
source = { url = "https://example.org/a.geojson", format = "geojson" }
time = { fields = ["at"], zone = "Asia/Hong_Kong" }
value = [{ field = "level", datastream = "flood-{id}.level" }]
"#,
    );
    let text = r#"{"type":"FeatureCollection","features":[
        {"type":"Feature","id":"x","geometry":null,"properties":{"at":"2024-01-01T08:00","level":"1.25"}},
        {"type":"Dot"}]}"#;
    let (report, readings) = map(&connector, text.as_bytes()).expect("read");
    assert_eq!(told(&readings), ["flood-x.level 2024-01-01T00:00:00Z 1.25"]);
    assert_eq!((report.rows, report.rows_rejected), (2, 1));
    assert!(map(&connector, br#"{"type":"Feature"}"#).is_err());
}

const XML: &str = r#"
source = { url = "https://example.org/a.xml", format = "xml", at = "stations.station" }
time = { fields = ["time"] }
value = [{ field = "reading.value", datastream = "{@id|slug}.v" }, { field = "reading.@state", datastream = "{@id|slug}.s", optional = true }]
"#;

#[test]
fn xml_elements_are_rows() {
    let text = r#"<?xml version="1.0"?><w:stations xmlns:w="urn:w"><made>today</made>
        <w:station id="A&amp;B"><time> 2024-01-01T00:00:00Z </time><reading state="on"><value><![CDATA[1]]>.5</value></reading></w:station>
        <w:station id="C"><time>2024-01-01T00:00:00Z</time><reading><value>&#50;</value></reading></w:station>
        <w:station id="D"/></w:stations>"#;
    let (report, readings) = map(&connector(XML), text.as_bytes()).expect("read");
    assert_eq!(
        told(&readings),
        ["a-b.v 2024-01-01T00:00:00Z 1.5", "a-b.s 2024-01-01T00:00:00Z on", "c.v 2024-01-01T00:00:00Z 2"]
    );
    assert_eq!((report.rows, report.rows_rejected), (3, 1));
    let wrong = |text: &str| map(&connector(XML), text.as_bytes()).expect_err("not well formed");
    wrong("<stations><station>");
    wrong("<stations></station>");
    wrong(&"<stations>".repeat(1_000));
    // Entities that multiply are never expanded.
    wrong(
        r#"<!DOCTYPE s [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><stations><station><time>&b;</time></station></stations>"#,
    );
}

#[test]
fn utf_16_is_read_by_its_mark() {
    let text = "\u{feff}t,s,v,kind,q\n2024-01-01T00:00:00Z,雨,1,hourly,\n";
    let bytes: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let connector = connector(&CSV.replace("{s|slug}.v", "one.v"));
    assert_eq!(map(&connector, &bytes).expect("read").1.len(), 1);
}

#[test]
fn mistakes_in_a_declaration_are_named() {
    let file: ConnectorFile = toml::from_str(&format!("{SHAPE}{CSV}")).expect("valid");
    let valid = file.connector.into_iter().next().expect("one");
    let check = |change: &dyn Fn(&mut Declaration), field: &str| {
        let mut declaration = valid.clone();
        change(&mut declaration);
        let errors = Connector::new(declaration).expect_err(field);
        assert_eq!(errors.iter().map(|e| e.field.as_str()).collect::<Vec<_>>(), [field], "{errors:?}");
    };
    check(&|d| d.key = "Feed".to_owned(), "/key");
    check(&|d| d.name.zh_hans = None, "/name/zh-hans");
    check(&|d| d.every = "10 minutes or so".to_owned(), "/every");
    check(&|d| d.every = "PT1S".to_owned(), "/every");
    check(&|d| d.source.file = Some("x".to_owned()), "/source");
    check(&|d| d.source.url = Some("file:///etc/passwd".to_owned()), "/source/url");
    check(&|d| d.source.header = None, "/source/header");
    check(&|d| d.source.pattern = Some("*".to_owned()), "/source/pattern");
    check(&|d| d.time.zone = Some("Hong Kong".to_owned()), "/time/zone");
    check(&|d| d.gaps = crate::connect::declaration::Gaps::Flag, "/gaps");
    check(&|d| d.value.clear(), "/value");
    check(&|d| d.value[0].columns = Some("x".to_owned()), "/value/0");
    check(&|d| d.value[0].scale = 0.0, "/value/0/scale");
    check(&|d| d.value[0].datastream = "{s|nothing}".to_owned(), "/value/0/datastream");
    check(&|d| d.value[0].datastream = "{column}".to_owned(), "/value/0/datastream");
    let twice = check_all(vec![valid.clone(), valid.clone()]).expect_err("twice");
    assert_eq!(twice.errors[0].field, "/1/key");
    assert!(toml::from_str::<ConnectorFile>(&format!("{SHAPE}{CSV}").replace("scale", "scales")).is_err());
    let (a, mut b) = (Connector::new(valid.clone()).expect("valid"), valid);
    b.value[0].scale = 2.0;
    assert_ne!(a.hash, Connector::new(b).expect("valid").hash);
}

fn info(kind: ObservationType) -> DatastreamInfo {
    DatastreamInfo {
        id: EntityId(1),
        tenant: Tenant::parse("hko").expect("slug"),
        public: true,
        thing: EntityId(2),
        name: "d".into(),
        observation_type: kind,
        elements: None,
        unit: None,
        feature: EntityId(3),
        interval: None,
        simulated: false,
    }
}

#[test]
fn texts_become_what_the_datastream_admits() {
    use ObservationType::{Any, Category, Complex, Count, Measurement, Truth};
    let connector = connector(CSV);
    let check = |kind, text: &str, expect: Option<&str>| {
        let reading = Reading {
            line: 1,
            field: "v".into(),
            datastream: "d".into(),
            plan: 0,
            at: Interval::instant(Timestamp::from_secs(0)),
            content: Content::Text(text.into()),
            quality: None,
        };
        let got = fit::fit(&reading, &connector.plans[0], &info(kind)).ok().map(|o| match o.result {
            crate::model::ResultValue::Number(n) => n.to_string(),
            crate::model::ResultValue::Json(raw) => raw.get().to_owned(),
        });
        assert_eq!(got.as_deref(), expect, "{kind:?} {text}");
    };
    check(Measurement, "1.5", Some("15"));
    check(Measurement, "1,5", None);
    check(Measurement, "", None);
    check(Measurement, "NaN", None);
    check(Measurement, "1e400", None);
    check(Measurement, "1e308", None);
    check(Count, "0.5", Some("5"));
    check(Count, "0.25", None);
    check(Truth, "TRUE", Some("true"));
    check(Truth, "maybe", None);
    check(Category, "open", Some("\"open\""));
    check(Category, "", None);
    check(Complex, "{\"a\":1}", Some("{\"a\":1}"));
    check(Complex, "1", None);
    check(Any, "x", Some("\"x\""));
    check(Any, "2", Some("20"));
}

fn rows() -> impl Strategy<Value = String> {
    let field = prop_oneof![
        4 => Just("2024-01-01T00:00:00Z".to_owned()),
        4 => Just("1.5".to_owned()),
        2 => Just("N.A.".to_owned()),
        2 => Just("hourly".to_owned()),
        1 => Just("\"".to_owned()),
        1 => Just("#".to_owned()),
        1 => Just(String::new()),
        1 => ".{0,8}",
    ];
    let row = proptest::collection::vec(field, 0..7).prop_map(|fields| fields.join(","));
    proptest::collection::vec(row, 0..20).prop_map(|rows| format!("t,s,v,kind,q\n{}", rows.join("\n")))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// `map` asserts that everything is accounted for.
    #[test]
    fn any_bytes_are_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let json = r#"
source = { url = "https://example.org/a", format = "json" }
time = { fields = ["t"] }
value = [{ field = "v", datastream = "d" }]
"#;
        for shape in [CSV, XML, json, &json.replace("\"json\"", "\"geojson\"")] {
            let _ = map(&connector(shape), &bytes);
        }
    }

    #[test]
    fn any_rows_are_accounted_for(text in rows()) {
        map(&connector(CSV), text.as_bytes()).expect("the header is right");
    }

    #[test]
    fn any_elements_are_an_answer(text in "(<stations>|<station id=\"1\">|<time>|2024-01-01T00:00:00Z|</time>|</station>|</stations>|&amp;|&x;|<!--|]]>| ){0,30}") {
        let _ = map(&connector(XML), text.as_bytes());
    }

    /// Whatever days a file holds, in whatever order and however cut: every day between the first and the last is there once.
    #[test]
    fn gaps_are_filled_once(days in proptest::collection::vec(0i64..60, 1..40), cut in 0usize..40) {
        let connector = connector(r#"
gaps = "flag"
source = { url = "https://example.org/a", format = "csv", header = "t" }
time = { fields = ["t"], zone = "Asia/Hong_Kong", covers = "P1D" }
value = [{ field = "v", datastream = "d" }]
"#);
        let day = |n: i64| jiff::civil::date(2024, 1, 1).checked_add(jiff::Span::new().days(n)).expect("date");
        let text: String = days.iter().map(|n| format!("{},{n}\n", day(*n))).collect();
        let (_, readings) = map(&connector, format!("t,v\n{text}").as_bytes()).expect("read");
        let cut = cut.min(readings.len());
        // Ascending or descending windows are what files have; windows that lie across each other fill less, never wrongly.
        let sorted = days.is_sorted() || days.iter().rev().is_sorted();
        let (mut stored, mut extent, mut left) = (std::collections::HashMap::new(), None, fit::MAX_GAPS);
        for window in [&readings[..cut], &readings[cut..]] {
            let fitted = window.iter().map(|r| fit::fit(r, &connector.plans[0], &info(ObservationType::Measurement)).expect("fits"));
            let (mut kept, _) = fit::settle(fitted.collect());
            fit::fill(&connector.when, &mut kept, &mut extent, &mut left).expect("few");
            for observation in fit::changed(kept.clone(), &stored) {
                stored.insert(observation.id(), observation);
            }
            prop_assert_eq!(fit::changed(kept, &stored).len(), 0, "the second time nothing is new");
        }
        let given: std::collections::BTreeSet<i64> = days.iter().copied().collect();
        let span = given.last().expect("one") - given.first().expect("one") + 1;
        let numbers = stored.values().filter(|o| o.result.number().is_some()).count();
        prop_assert_eq!(numbers, given.len(), "no gap replaces a day that is given");
        if sorted || cut == 0 || cut == readings.len() {
            prop_assert_eq!(stored.len() as i64, span);
        }
    }
}
