//! Doors for the fuzz targets in `fuzz/`: each takes what a stranger may send and must come back.

use std::{ops::ControlFlow, sync::OnceLock};

use kernel::{Limits, Tenant, Timestamp};

use crate::{
    connect::{ConnectorFile, declaration::Connector, map::Mapper, report::Report, rows},
    model::{DatastreamInfo, EntityId, EntityType, ObservationType},
    query::{Options, Plan, parse_filter},
    sta::{Known, Path, Reader, Rows, Stop, parse_batch},
};

/// The query part of an address, for every entity type. What parses must print and parse to the same.
pub fn filter(text: &str) {
    if let Ok(expr) = parse_filter(text) {
        let printed = expr.to_string();
        let again = parse_filter(&printed).map(|e| e.to_string());
        assert_eq!(again.as_deref(), Ok(printed.as_str()));
    }
    if let Ok(options) = Options::parse(text) {
        for entity in EntityType::ALL {
            let _ = Plan::new(entity, &options, &Limits::DEFAULT, Timestamp::from_secs(0));
        }
    }
    let _ = Path::parse(text);
}

/// A fence as an officer sends it, and a fix that is measured against it: a distance, or an answer that names what is wrong.
pub fn fence(bytes: &[u8]) {
    use crate::moving::{Fence, Zone, accuracy, fence::FenceDeclaration, place};
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let fix = place(text);
    let _ = accuracy(Some(text));
    let Ok(declaration) = serde_json::from_str::<FenceDeclaration>(text) else { return };
    match Fence::new(declaration) {
        Ok(fence) => {
            let bounds = *fence.bounds();
            let middle = crate::moving::Place {
                lon: (bounds.min_x + bounds.max_x) / 2.0,
                lat: (bounds.min_y + bounds.max_y) / 2.0,
            };
            let far = crate::moving::Place { lon: bounds.max_x + 1.0, lat: middle.lat };
            assert!(fence.distance(far) > 0.0, "what lies outside of the box is outside");
            let zone = Zone::new(vec![std::sync::Arc::new(fence)]);
            for place in [Some(middle), fix].into_iter().flatten() {
                assert!(zone.distance(place).is_some_and(|(metres, _)| metres.is_finite()));
            }
        }
        Err(errors) => assert!(!errors.is_empty()),
    }
}

/// A batch: the first line is its media type.
pub fn batch(bytes: &[u8]) {
    let end = memchr::memchr(b'\n', bytes).unwrap_or(bytes.len());
    let Ok(kind) = std::str::from_utf8(&bytes[..end]) else { return };
    let body = bytes::Bytes::copy_from_slice(bytes.get(end + 1..).unwrap_or_default());
    if let Ok(parts) = parse_batch(kind, &body) {
        assert!(parts <= crate::sta::BATCH_PARTS);
    }
}

/// A `CreateObservations` body. Every row is in a batch or refused.
pub fn data_array(bytes: &[u8]) {
    let Ok(tenant) = Tenant::parse("t") else { return };
    let info = DatastreamInfo {
        id: EntityId(1),
        tenant,
        public: true,
        thing: EntityId(1),
        name: "n".into(),
        observation_type: ObservationType::Any,
        elements: None,
        unit: None,
        feature: EntityId(1),
        interval: None,
        simulated: false,
    };
    let elements = [ObservationType::Measurement, ObservationType::Text, ObservationType::Geometry];
    let several = DatastreamInfo { elements: Some(elements.into()), ..info.clone() };
    let mut reader = Reader::new(bytes);
    let mut rows = Rows::default();
    while let Ok(Some(group)) = reader.group() {
        let info = if group.of == several.entity() { &several } else { &info };
        loop {
            match reader.rows(&group, Some(info), &|_| Known::Yes, &mut rows) {
                Ok(Stop::End) => break,
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }
    let good = rows.total - rows.refused.len();
    let taken: usize = rows.take_batches().iter().map(crate::observe::Batch::len).sum();
    assert_eq!(good, taken);
}

/// Line protocol. Lines are numbered upwards, and a name that is read can be read again.
pub fn line(bytes: &[u8]) {
    use crate::ingest::line::parse;
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut before = 0;
    for row in parse::Lines::new(text) {
        let at = row.as_ref().map_or_else(|broken| broken.line, |row| row.line);
        assert!(at > before && at <= text.len() + 1);
        before = at;
        let Ok(row) = row else { continue };
        if let Ok(series) = parse::series(row.series) {
            assert!(!series.measurement.is_empty() && series.tags.iter().all(|(k, v)| !k.is_empty() && !v.is_empty()));
        }
        let count = row.fields().take_while(Result::is_ok).count();
        assert!(count <= parse::MAX_PARTS);
    }
}

/// A network server, an event and its message, a line each; and the payload in it, read in two ways.
pub fn device(bytes: &[u8]) {
    use crate::ingest::lorawan::{
        event::{self, Event},
        payload::{self, Payload},
    };
    let mut parts = bytes.splitn(3, |b| *b == b'\n');
    let mut next = || parts.next().unwrap_or_default();
    let (server, event, body) = (next(), String::from_utf8_lossy(next()), next());
    let Ok(whole) = serde_json::from_slice(body) else { return };
    let read = if server == b"chirpstack" { event::chirpstack(&event, whole) } else { event::things_stack(whole) };
    if let Ok(Event::Heard(heard)) = read {
        let place =
            |at, r#type| payload::Place { name: "n".to_owned(), at, r#type, order: payload::Order::Little, bits: None };
        let field = vec![place(0, payload::Kind::I24), place(1, payload::Kind::F32), place(240, payload::Kind::U16)];
        for payload in [Payload::CayenneLpp, Payload::Fields { port: None, field }] {
            if let Ok(object) = payload::read(&payload, &heard.bytes, heard.port) {
                assert!(object.len() <= heard.bytes.len().max(3));
            }
        }
    }
}

/// A connector for each format.
fn connectors() -> &'static [Connector] {
    static CONNECTORS: OnceLock<Vec<Connector>> = OnceLock::new();
    CONNECTORS.get_or_init(|| {
        let sources = [
            r##"format = "csv", header = "t", skip = ["#"]"##,
            r#"format = "json", at = "rows""#,
            r#"format = "geojson""#,
            r#"format = "xml", at = "rows.row""#,
        ];
        let one = |source: &str| {
            let text = format!(
                r#"
[[connector]]
key = "feed"
tenant = "t"
name = {{ en = "f", zh-hant = "f", zh-hans = "f" }}
every = "PT10M"
source = {{ url = "https://example.org/a", {source} }}
time = {{ fields = ["t"] }}
value = [{{ field = "v", datastream = "{{s|slug}}.v" }}]
placeholders = {{ "N.A." = {{ quality = "missing" }} }}
"#
            );
            let file: ConnectorFile = toml::from_str(&text).ok()?;
            Connector::new(file.connector.into_iter().next()?).ok()
        };
        sources.into_iter().filter_map(one).collect()
    })
}

/// The expression of a rule. What compiles is evaluated: nothing may be known too late.
pub fn expression(text: &str) {
    use crate::rules::{
        cel::{Compiled, Env, Memory},
        condition::Expression,
    };
    let form = Expression {
        expression: text.to_owned(),
        clear: None,
        hold: 0,
        clear_hold: 0,
        window: Some(600),
        windows: [("day".to_owned(), 86_400)].into(),
    };
    let Ok(compiled) = Compiled::new(&form) else { return };
    let mut memory = Memory::fitting(&compiled, None);
    for (at, value) in [(0, 1.0), (10, -2.5), (700, f64::MAX)] {
        let time = Timestamp::from_secs(at);
        memory.windows.iter_mut().for_each(|w| w.add(time, value));
        let env = Env {
            value,
            time,
            good: true,
            district: "Yuen Long",
            system: "flood",
            local: Some((0, 0, 4)),
            memory: &memory,
        };
        let verdict = compiled.verdict(&env);
        assert!(!(verdict.raise && verdict.clear), "both at once without a condition of its own");
        memory.previous = Some(value);
    }
}

/// The formula of a derived Datastream. What compiles is evaluated over inputs that are there, that are not, and that make no sense.
pub fn formula(text: &str) {
    use crate::derived::{
        compute::{Lead, Point, outcomes},
        model::{Declaration, Definition},
    };
    let form = serde_json::json!({
        "key": "f", "tenant": "t", "name": {"en": "f", "zh-hant": "f", "zh-hans": "f"}, "output": 1, "every": 60,
        "input": [{"name": "a", "datastream": 2, "window": 600}, {"name": "b", "datastream": 3, "window": 10, "need": 2}],
        "table": [{"name": "curve", "points": [[0.1, 1.0], [2.0, 5.0]], "between": "log", "beyond": "hold"}],
        "formula": [{"expression": text}],
    });
    let Ok(declaration) = serde_json::from_value::<Declaration>(form) else { return };
    let Ok(definition) = Definition::new(declaration) else { return };
    let point = |at, value| Point { at, value, good: at % 2 == 0 };
    let series =
        [vec![point(0, 1.0), point(10_000_000, f64::MAX), point(700_000_001, -0.0)], vec![point(5, f64::MIN_POSITIVE)]];
    let leads = [0, 60_000_000, 720_000_000].map(|at| Lead { at, end: at, feature: EntityId(1), own: None });
    let found = outcomes(&definition, &jiff::tz::TimeZone::UTC, &series, &leads);
    assert_eq!(found.len(), leads.len());
    assert!(found.iter().flatten().all(|o| o.value.is_finite()), "what is no number is no result");
}

/// A feed's document; the first byte says in which format. Every row is accounted for.
pub fn document(bytes: &[u8]) {
    let connectors = connectors();
    assert_eq!(connectors.len(), 4);
    let Some((&kind, bytes)) = bytes.split_first() else { return };
    let connector = &connectors[usize::from(kind) % connectors.len()];
    let (mut report, mut readings, mut seen) = (Report::default(), Vec::new(), 0);
    let mut mapper = Mapper::new(connector);
    let read = rows::read(connector, bytes, &mut |item| {
        seen += u64::from(!matches!(item, rows::Item::Columns(_)));
        mapper.take(&item, &mut report, &mut readings);
        ControlFlow::Continue(())
    });
    assert_eq!(report.rows, seen);
    assert_eq!(report.values, readings.len() as u64 + report.rejected);
    if let Err(reason) = read {
        assert!(reason.len() < 20_000, "a reason is a sentence");
    }
}

/// A TaskingCapability's parameters, and behind a line break the parameters of a Task. What is allowed once is allowed again as it was read.
pub fn tasking(bytes: &[u8]) {
    let end = memchr::memchr(b'\n', bytes).unwrap_or(bytes.len());
    let read = |part: &[u8]| serde_json::from_slice::<serde_json::Value>(part).ok();
    let Some(declared) = read(&bytes[..end]) else { return };
    let Ok(record) = crate::tasking::swe::Record::parse("", &declared) else { return };
    let Some(asked) = bytes.get(end + 1..).and_then(read) else { return };
    if record.check("", &asked).is_ok() {
        let again = read(asked.to_string().as_bytes());
        assert!(again.is_some_and(|again| record.check("", &again).is_ok()));
    }
    drop(crate::tasking::terms::Request::parse(&asked));
}

/// What an office or a device uploads: a sheet of devices, a form with a file, a certificate.
pub fn upload(bytes: &[u8]) {
    let sheet = crate::devices::bulk::sheet::read(bytes);
    assert!(!sheet.lines.is_empty() || !sheet.mistakes.is_empty());
    crate::pages::upload_probe(bytes);
    if let Some(certificate) = crate::devices::certificate::Certificate::read(bytes) {
        let _ = certificate.names();
    }
}

#[cfg(test)]
#[path = "../../../fuzz/src/mqtt.rs"]
mod mqtt;
#[cfg(test)]
#[path = "../../../fuzz/src/smoke.rs"]
mod smoke;

/// The targets over their seeds and mutations of them: what a fuzzer has once found stays found.
#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{mqtt, smoke};

    fn seeds(target: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target)
    }

    #[test]
    fn filters() {
        smoke::over(&seeds("filter"), 2_000, 1, |bytes| {
            if let Ok(text) = std::str::from_utf8(bytes) {
                super::filter(text);
            }
        });
    }

    #[test]
    fn batches() {
        smoke::over(&seeds("batch"), 2_000, 5, super::batch);
    }

    #[test]
    fn expressions() {
        smoke::over(&seeds("expression"), 300, 5, |bytes| {
            if let Ok(text) = std::str::from_utf8(bytes) {
                super::expression(text);
            }
        });
    }

    #[test]
    fn formulas() {
        smoke::over(&seeds("formula"), 300, 6, |bytes| {
            if let Ok(text) = std::str::from_utf8(bytes) {
                super::formula(text);
            }
        });
    }

    #[test]
    fn data_arrays() {
        smoke::over(&seeds("data_array"), 2_000, 2, super::data_array);
    }

    #[test]
    fn documents() {
        smoke::over(&seeds("document"), 2_000, 3, super::document);
    }

    #[test]
    fn tasks() {
        smoke::over(&seeds("tasking"), 2_000, 7, super::tasking);
    }

    #[test]
    fn uploads() {
        smoke::over(&seeds("upload"), 2_000, 6, super::upload);
    }

    #[test]
    fn lines() {
        smoke::over(&seeds("line"), 2_000, 6, super::line);
    }

    #[test]
    fn device_messages() {
        smoke::over(&seeds("device"), 2_000, 7, super::device);
    }

    #[test]
    fn fences() {
        smoke::over(&seeds("fence"), 2_000, 8, super::fence);
    }

    #[test]
    fn mqtt_packets() {
        smoke::over(&seeds("mqtt"), 100, 4, mqtt::run);
    }
}
