//! An Observation as subscribers receive it: the JSON entity of 18-088 section 9.3, encoded once for all of them.

use std::fmt::Write;

use bytes::Bytes;

use crate::model::{Observation, ResultValue};

/// `base` is the service root, such as `https://city.example/v1.1`, without a slash at the end.
pub fn observation(base: &str, o: &Observation) -> Bytes {
    let id = o.id();
    let mut json = String::with_capacity(512);
    // Writing to a String cannot fail. Ids, times and the base hold nothing that JSON escapes.
    let _ = write!(
        json,
        r#"{{"@iot.selfLink":"{base}/Observations({id})","@iot.id":"{id}","phenomenonTime":"{}""#,
        o.phenomenon
    );
    match o.result_time {
        Some(at) => {
            let _ = write!(json, r#","resultTime":"{at}""#);
        }
        None => json.push_str(r#","resultTime":null"#),
    }
    json.push_str(r#","result":"#);
    match &o.result {
        ResultValue::Number(n) => number(&mut json, *n),
        ResultValue::Json(raw) => json.push_str(raw.get()),
    }
    if let Some(quality) = &o.quality {
        let _ = write!(json, r#","resultQuality":{quality}"#);
    }
    if let Some(valid) = &o.valid {
        let _ = write!(json, r#","validTime":"{valid}""#);
    }
    if let Some(parameters) = &o.parameters {
        let _ = write!(json, r#","parameters":{parameters}"#);
    }
    let _ = write!(
        json,
        r#","Datastream@iot.navigationLink":"{base}/Observations({id})/Datastream","FeatureOfInterest@iot.navigationLink":"{base}/Observations({id})/FeatureOfInterest","Datastream":{{"@iot.id":{}}}}}"#,
        o.datastream
    );
    Bytes::from(json)
}

fn number(json: &mut String, n: f64) {
    // A whole number that a double holds exactly is written as one: 3, not 3.0.
    if n.fract() == 0.0 && n.abs() < 9_007_199_254_740_992.0 && (n != 0.0 || n.is_sign_positive()) {
        json.push_str(itoa::Buffer::new().format(n as i64));
    } else if n.is_finite() {
        json.push_str(ryu::Buffer::new().format_finite(n));
    } else {
        json.push_str("null");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::EntityId;
    use kernel::{Interval, Timestamp};

    #[test]
    fn is_the_json_of_the_standard() {
        let o = Observation {
            datastream: EntityId(42),
            phenomenon: Interval::instant(Timestamp::from_secs(1_732_240_000)),
            result_time: None,
            result: ResultValue::Number(3.0),
            feature: EntityId(7),
            quality: None,
            valid: None,
            parameters: Some(serde_json::from_str(r#"{"a":1}"#).expect("json")),
        };
        let json: serde_json::Value = serde_json::from_slice(&observation("http://x/v1.1", &o)).expect("json");
        assert_eq!(json["@iot.id"], "42-1732240000000000-7");
        assert_eq!(json["result"].to_string(), "3");
        assert_eq!(json["phenomenonTime"], "2024-11-22T01:46:40Z");
        assert_eq!(json["parameters"]["a"], 1);
    }
}
