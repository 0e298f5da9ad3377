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
    fn data_arrays() {
        smoke::over(&seeds("data_array"), 2_000, 2, super::data_array);
    }

    #[test]
    fn documents() {
        smoke::over(&seeds("document"), 2_000, 3, super::document);
    }

    #[test]
    fn mqtt_packets() {
        smoke::over(&seeds("mqtt"), 100, 4, mqtt::run);
    }
}
