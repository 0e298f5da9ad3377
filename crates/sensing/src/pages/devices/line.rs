//! The line that somebody copies to try a new key.

use http::HeaderMap;

use crate::{devices::Stream, model::ObservationType};

/// Where devices connect by MQTT, as they know it.
#[derive(Clone, Debug)]
pub struct Door {
    /// `None`: the host under which the page itself was asked for.
    pub host: Option<String>,
    pub port: u16,
    pub tls: bool,
}

/// A text as one word of a POSIX shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// A result that fits the Datastream or MultiDatastream.
fn example(stream: &Stream) -> String {
    let one = |kind: ObservationType| match kind {
        ObservationType::Measurement => "21.5",
        ObservationType::Count => "3",
        ObservationType::Truth => "true",
        ObservationType::Category | ObservationType::Text | ObservationType::Any => "\"ok\"",
        ObservationType::Temporal => "\"2026-01-01T00:00:00Z\"",
        ObservationType::Geometry => r#"{"type": "Point", "coordinates": [114.17, 22.28]}"#,
        ObservationType::Complex => "{}",
    };
    match &stream.elements {
        Some(kinds) => format!("[{}]", kinds.iter().map(|kind| one(*kind)).collect::<Vec<_>>().join(", ")),
        None => one(stream.observation_type.unwrap_or(ObservationType::Measurement)).to_owned(),
    }
}

/// Host and port under which this page was asked for; only what can stand in an authority is taken.
fn host(headers: &HeaderMap) -> Option<&str> {
    let host = headers.get(http::header::HOST)?.to_str().ok()?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']' | b'_');
    (!host.is_empty() && host.len() <= 255 && host.bytes().all(plain)).then_some(host)
}

fn without_port(authority: &str) -> &str {
    if authority.starts_with('[') {
        return authority.split_once(']').map_or(authority, |(v6, _)| v6.trim_start_matches('['));
    }
    authority.split(':').next().unwrap_or(authority)
}

/// `mosquitto_pub …` for one Datastream; `curl …` where the MQTT door is closed.
pub fn line(door: Option<&Door>, headers: &HeaderMap, name: &str, secret: &str, stream: &Stream) -> String {
    let body = quoted(&format!("{{\"result\": {}}}", example(stream)));
    let asked = host(headers).unwrap_or("localhost");
    let Some(door) = door else {
        let url = quoted(&format!("http://{asked}/v1.1/{}({})/Observations", stream.entity().set(), stream.id));
        let key = quoted(&format!("Authorization: Bearer {secret}"));
        return format!("curl -H {key} -H 'Content-Type: application/json' -d {body} {url}");
    };
    let host = door.host.as_deref().unwrap_or_else(|| without_port(asked));
    let tls = if door.tls { " --tls-use-os-certs" } else { "" };
    let topic = quoted(&format!("v1.1/{}({})/Observations", stream.entity().set(), stream.id));
    format!(
        "mosquitto_pub -h {host} -p {}{tls} -u {} -P {} -q 1 -t {topic} -m {body}",
        door.port,
        quoted(name),
        quoted(secret)
    )
}

#[cfg(test)]
mod tests {
    use kernel::Text;

    use super::*;
    use crate::model::EntityId;

    fn stream(observation_type: ObservationType) -> Stream {
        let (name, unit) = (Text::plain("Level"), "m".to_owned());
        Stream {
            id: EntityId(12),
            name,
            unit,
            observation_type: Some(observation_type),
            elements: None,
            interval: None,
        }
    }

    #[test]
    fn a_line_can_be_pasted_into_a_shell() {
        let mut headers = HeaderMap::new();
        headers.insert("host", "city.example:8080".parse().expect("a header"));
        let door = Door { host: None, port: 1883, tls: false };
        let line = line(Some(&door), &headers, "it's $HOME", "lpd_a_b", &stream(ObservationType::Truth));
        assert_eq!(
            line,
            r#"mosquitto_pub -h city.example -p 1883 -u 'it'\''s $HOME' -P 'lpd_a_b' -q 1 -t 'v1.1/Datastreams(12)/Observations' -m '{"result": true}'"#
        );
    }

    #[test]
    fn a_host_that_is_none_is_not_repeated() {
        let mut headers = HeaderMap::new();
        headers.insert("host", "x; rm -rf".parse().expect("a header"));
        let line = line(None, &headers, "k", "lpd_a_b", &stream(ObservationType::Count));
        assert!(line.ends_with("-d '{\"result\": 3}' 'http://localhost/v1.1/Datastreams(12)/Observations'"), "{line}");
        assert_eq!([without_port("[::1]:80"), without_port("a:1"), without_port("a")], ["::1", "a", "a"]);
    }

    #[test]
    fn every_example_fits_its_type() {
        use crate::model::ResultValue;
        for kind in [
            ObservationType::Measurement,
            ObservationType::Count,
            ObservationType::Truth,
            ObservationType::Category,
            ObservationType::Text,
            ObservationType::Temporal,
            ObservationType::Geometry,
            ObservationType::Complex,
            ObservationType::Any,
        ] {
            let value: serde_json::Value = serde_json::from_str(&example(&stream(kind))).expect("JSON");
            let result = match value.as_f64() {
                Some(n) => ResultValue::Number(n),
                None => ResultValue::Json(crate::model::raw(&value)),
            };
            assert!(kind.check(&result).is_ok(), "{kind:?}");
        }
        let kinds = vec![ObservationType::Measurement, ObservationType::Text];
        let several = Stream { elements: Some(kinds), ..stream(ObservationType::Complex) };
        assert_eq!(example(&several), r#"[21.5, "ok"]"#);
        let line = line(None, &HeaderMap::new(), "k", "lpd_a_b", &several);
        assert!(line.ends_with("'http://localhost/v1.1/MultiDatastreams(12)/Observations'"), "{line}");
    }
}
