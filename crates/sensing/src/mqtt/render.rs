//! Entities as subscribers receive them: what a GET answers (18-088 section 14.2), encoded once for all of them.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::json;

use crate::{
    model::{EntityType, Observation},
    query::{Item, Leaf, Plan, Row},
    sta::Writer,
};

/// `base` is the service root, such as `https://city.example/v1.1`, without a slash at the end; `plan` says which properties.
pub fn row(base: &str, plan: &Plan, row: &Row) -> Bytes {
    let mut out = Writer::new(base);
    out.row(plan, row);
    Bytes::from(out.out)
}

/// `of` is what it belongs to: a Datastream or a MultiDatastream.
pub fn observation(o: &Observation, of: EntityType) -> Row {
    Row { item: Item::Observation(Arc::new(o.clone()), of), expanded: Vec::new() }
}

/// `{"name": "…"}` (18-088 section 9.2.4); null where GET would answer that there is nothing.
pub fn property(row: &Row, name: &str, leaf: &Leaf) -> Bytes {
    Bytes::from(json!({ name: row.item.value(leaf).to_json() }).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{EntityId, ResultValue};
    use kernel::{Interval, Limits, Timestamp};

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
        let plan = Plan::all(EntityType::Observation, &Limits::DEFAULT);
        let row = observation(&o, EntityType::Datastream);
        let json: serde_json::Value = serde_json::from_slice(&super::row("http://x/v1.1", &plan, &row)).expect("json");
        assert_eq!(json["@iot.id"], "42-1732240000000000-7");
        assert_eq!(json["@iot.selfLink"], "http://x/v1.1/Observations('42-1732240000000000-7')");
        assert_eq!(json["result"].to_string(), "3");
        assert_eq!(json["phenomenonTime"], "2024-11-22T01:46:40Z");
        assert_eq!(json["parameters"]["a"], 1);
        let result = property(&row, "result", &Leaf::Property(2, Vec::new()));
        assert_eq!(result.as_ref(), br#"{"result":3}"#);
    }
}
