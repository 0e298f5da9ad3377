//! What devices publish: a create body of an Observation (18-088 section 10.2), a bare number, or a data array (section 12).

use std::borrow::Cow;

use kernel::{Interval, Timestamp};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::model::{DatastreamInfo, EntityId, Observation, ResultValue};

/// Observations in one data array. More belongs into several messages or HTTP.
pub const MAX_ROWS: usize = 10_000;

/// Levels of nesting in a result or in parameters.
const MAX_DEPTH: usize = 32;

/// An Observation as a device sent it, before its Datastream has been looked up.
#[derive(Debug)]
pub struct Sent {
    pub datastream: Option<EntityId>,
    pub feature: Option<EntityId>,
    pub phenomenon: Option<Interval>,
    pub result_time: Option<Timestamp>,
    pub result: ResultValue,
    pub quality: Option<std::sync::Arc<RawValue>>,
    pub valid: Option<Interval>,
    pub parameters: Option<std::sync::Arc<RawValue>>,
}

/// Why a payload is no Observation: a sentence for the device's owner.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PayloadError(pub Cow<'static, str>);

fn bad<T>(why: impl Into<Cow<'static, str>>) -> Result<T, PayloadError> {
    Err(PayloadError(why.into()))
}

#[derive(Deserialize)]
struct Link {
    #[serde(rename = "@iot.id")]
    id: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    result: Option<&'a RawValue>,
    #[serde(borrow)]
    phenomenon_time: Option<Cow<'a, str>>,
    #[serde(borrow)]
    result_time: Option<Cow<'a, str>>,
    #[serde(borrow)]
    valid_time: Option<Cow<'a, str>>,
    #[serde(borrow)]
    result_quality: Option<&'a RawValue>,
    #[serde(borrow)]
    parameters: Option<&'a RawValue>,
    #[serde(rename = "Datastream")]
    datastream: Option<Link>,
    #[serde(rename = "FeatureOfInterest")]
    feature: Option<Link>,
}

/// `null` is a result too, and not the same as none; serde's Option would read both alike.
fn present<'de: 'a, 'a, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

fn time(field: &'static str, text: Option<Cow<'_, str>>) -> Result<Option<Interval>, PayloadError> {
    match text {
        None => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|e| PayloadError(format!("{field}: {e}").into())),
    }
}

fn instant(field: &'static str, text: Option<Cow<'_, str>>) -> Result<Option<Timestamp>, PayloadError> {
    match text {
        None => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|e| PayloadError(format!("{field}: {e}").into())),
    }
}

/// A JSON value as a result. Numbers become numbers, everything else keeps its text.
fn result(raw: &RawValue) -> Result<ResultValue, PayloadError> {
    let text = raw.get();
    match text.as_bytes().first() {
        Some(b'-' | b'0'..=b'9') => match fast_float2::parse::<f64, _>(text) {
            Ok(n) if n.is_finite() => Ok(ResultValue::Number(n)),
            _ => bad("the result is a number too large to keep"),
        },
        _ => Ok(ResultValue::Json(kept(raw)?)),
    }
}

/// Nesting is bounded because whoever reads the value later may parse it recursively.
fn kept(raw: &RawValue) -> Result<std::sync::Arc<RawValue>, PayloadError> {
    let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
    for byte in raw.get().bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'[' | b'{' if !quoted => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return bad("the JSON is nested too deeply");
                }
            }
            b']' | b'}' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(raw.to_owned().into())
}

fn sent(body: Body<'_>) -> Result<Sent, PayloadError> {
    let Some(raw) = body.result else { return bad("'result' is missing") };
    let object = |field: &str, raw: Option<&RawValue>| match raw {
        None => Ok(None),
        Some(raw) if field != "parameters" || raw.get().starts_with('{') => kept(raw).map(Some),
        Some(_) => bad("'parameters' must be an object"),
    };
    Ok(Sent {
        datastream: body.datastream.map(|link| EntityId(link.id)),
        feature: body.feature.map(|link| EntityId(link.id)),
        phenomenon: time("phenomenonTime", body.phenomenon_time)?,
        result_time: instant("resultTime", body.result_time)?,
        result: result(raw)?,
        quality: object("resultQuality", body.result_quality)?,
        valid: time("validTime", body.valid_time)?,
        parameters: object("parameters", body.parameters)?,
    })
}

/// One Observation: a JSON object with `result`, or nothing but a number.
pub fn observation(payload: &[u8]) -> Result<Sent, PayloadError> {
    let trimmed = payload.trim_ascii();
    if matches!(trimmed.first(), Some(b'-' | b'0'..=b'9')) {
        return match fast_float2::parse::<f64, _>(trimmed) {
            Ok(n) if n.is_finite() => Ok(Sent {
                datastream: None,
                feature: None,
                phenomenon: None,
                result_time: None,
                result: ResultValue::Number(n),
                quality: None,
                valid: None,
                parameters: None,
            }),
            _ => bad("the payload is not a number"),
        };
    }
    match serde_json::from_slice::<Body<'_>>(trimmed) {
        Ok(body) => sent(body),
        Err(error) => bad(format!("the payload is not an Observation: {error}")),
    }
}

#[derive(Deserialize)]
struct Array<'a> {
    #[serde(rename = "Datastream")]
    datastream: Link,
    #[serde(borrow)]
    components: Vec<Cow<'a, str>>,
    #[serde(rename = "dataArray", borrow)]
    rows: Vec<Vec<&'a RawValue>>,
}

fn text(raw: &RawValue) -> Result<Option<Cow<'_, str>>, PayloadError> {
    serde_json::from_str(raw.get()).map_err(|_| PayloadError("a time in the data array is not a string".into()))
}

/// Data arrays of one or more Datastreams (section 12.2).
pub fn data_array(payload: &[u8]) -> Result<Vec<Sent>, PayloadError> {
    let arrays: Vec<Array<'_>> = serde_json::from_slice(payload)
        .map_err(|e| PayloadError(format!("the payload is not a data array: {e}").into()))?;
    let rows: usize = arrays.iter().map(|a| a.rows.len()).sum();
    if rows == 0 || rows > MAX_ROWS {
        return bad(format!("a data array has 1 to {MAX_ROWS} rows"));
    }
    let mut all = Vec::with_capacity(rows);
    for array in arrays {
        for row in array.rows {
            if row.len() != array.components.len() {
                return bad("a row has not as many values as there are components");
            }
            let mut body = Body {
                result: None,
                phenomenon_time: None,
                result_time: None,
                valid_time: None,
                result_quality: None,
                parameters: None,
                datastream: Some(Link { id: array.datastream.id }),
                feature: None,
            };
            for (name, raw) in array.components.iter().zip(row) {
                match name.as_ref() {
                    "result" => body.result = Some(raw),
                    "phenomenonTime" => body.phenomenon_time = text(raw)?,
                    "resultTime" => body.result_time = text(raw)?,
                    "validTime" => body.valid_time = text(raw)?,
                    "resultQuality" => body.result_quality = Some(raw),
                    "parameters" => body.parameters = Some(raw),
                    "FeatureOfInterest/id" => {
                        let id = raw
                            .get()
                            .parse()
                            .map_err(|_| PayloadError("FeatureOfInterest/id must be a number".into()))?;
                        body.feature = Some(Link { id });
                    }
                    other => {
                        return bad(format!("'{}' is not a component", other.chars().take(40).collect::<String>()));
                    }
                }
            }
            all.push(sent(body)?);
        }
    }
    Ok(all)
}

impl Sent {
    /// The Observation in `datastream`; `now` where the device gave no time (18-088 section 10.2.1).
    pub fn into_observation(self, datastream: &DatastreamInfo, now: Timestamp) -> Result<Observation, PayloadError> {
        if self.datastream.is_some_and(|id| id != datastream.id) {
            return bad("the body names another Datastream than the topic");
        }
        if self.feature.is_some_and(|id| id != datastream.feature) {
            return bad("another FeatureOfInterest than the Datastream's own is accepted over HTTP only");
        }
        datastream.observation_type.check(&self.result).map_err(|e| PayloadError(e.to_string().into()))?;
        Ok(Observation {
            datastream: datastream.id,
            phenomenon: self.phenomenon.unwrap_or_else(|| Interval::instant(now)),
            result_time: self.result_time,
            result: self.result,
            feature: datastream.feature,
            quality: self.quality,
            valid: self.valid,
            parameters: self.parameters,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_devices_send() {
        assert_eq!(observation(b" 21.5\n").expect("number").result, ResultValue::Number(21.5));
        let full = br#"{"result":-3,"phenomenonTime":"2026-11-22T09:00:00Z/2026-11-22T10:00:00Z","resultTime":"2026-11-22T10:00:01Z",
            "Datastream":{"@iot.id":7},"parameters":{"a":[1]},"resultQuality":"good"}"#;
        let sent = observation(full).expect("object");
        assert_eq!(sent.datastream, Some(EntityId(7)));
        assert_eq!(sent.result, ResultValue::Number(-3.0));
        assert!(sent.phenomenon.is_some_and(|p| !p.is_instant()));
        assert_eq!(sent.parameters.expect("kept").get(), r#"{"a":[1]}"#);
        assert!(matches!(observation(br#"{"result":null}"#).expect("null").result, ResultValue::Json(_)));
        assert!(matches!(observation(br#"{"result":"a\"b"}"#).expect("text").result, ResultValue::Json(_)));
    }

    #[test]
    fn refuses_what_is_none() {
        let deep = format!(r#"{{"result":{}{}}}"#, "[".repeat(40), "]".repeat(40));
        for bad in [
            "",
            "nan",
            "1e999",
            "{}",
            "[]",
            "{\"result\":1e999}",
            "1 2",
            r#"{"result":1,"phenomenonTime":"soon"}"#,
            &deep,
        ] {
            assert!(observation(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn reads_data_arrays() {
        let rows = br#"[{"Datastream":{"@iot.id":1},"components":["phenomenonTime","result"],"dataArray@iot.count":2,
            "dataArray":[["2026-11-22T09:00:00Z",1],["2026-11-22T09:01:00Z",null]]}]"#;
        let sent = data_array(rows).expect("array");
        assert_eq!(sent.len(), 2);
        assert_eq!(sent[0].result, ResultValue::Number(1.0));
        for bad in ["[]", r#"[{"Datastream":{"@iot.id":1},"components":["result"],"dataArray":[[1,2]]}]"#] {
            assert!(data_array(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (observation(&bytes), data_array(&bytes));
        }
        #[test]
        fn numbers_arrive_exactly(n in any::<f64>().prop_filter("finite", |n| n.is_finite())) {
            prop_assert_eq!(observation(n.to_string().as_bytes()).map(|s| s.result), Ok(ResultValue::Number(n)));
        }
    }
}
