//! The Observation that devices send a thousand times a second: a number, when it was, and perhaps whose. Read in one pass, without a tree of
//! values and without a string of its own.

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};

use super::{
    ObservationDraft, Target,
    body::{instant_of, interval_of},
};
use crate::model::{EntityId, EntityType, ResultValue};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Body<'a> {
    #[serde(borrow, default)]
    phenomenon_time: Option<&'a str>,
    #[serde(borrow, default)]
    result_time: Option<&'a str>,
    result: f64,
    /// A `null` here is a mistake, and not the absence that it is above.
    #[serde(rename = "Datastream", default, deserialize_with = "reference")]
    datastream: Option<i64>,
}

/// `{"@iot.id": 42}`, and not the array that a derived `Deserialize` takes for the same.
fn reference<'de, D: Deserializer<'de>>(from: D) -> Result<Option<i64>, D::Error> {
    struct Only;
    impl<'de> Visitor<'de> for Only {
        type Value = i64;
        fn expecting(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            to.write_str("an object with nothing but @iot.id")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<i64, A::Error> {
            let special = || A::Error::custom("special");
            if map.next_key::<&str>()? != Some("@iot.id") {
                return Err(special());
            }
            let id = map.next_value()?;
            if map.next_key::<&str>()?.is_some() { Err(special()) } else { Ok(id) }
        }
    }
    from.deserialize_map(Only).map(Some)
}

/// What [`ObservationDraft::parse`] makes of the same body, or `None` when it is not as plain as that: whatever is special or wrong about a body
/// is for the whole way, which has the words for it.
pub(crate) fn plain(body: &[u8]) -> Option<ObservationDraft> {
    // A derived `Deserialize` would take an array for the members in their order.
    if body.iter().find(|b| !b.is_ascii_whitespace()) != Some(&b'{') {
        return None;
    }
    // A string with an escape in it cannot be borrowed and is no time anyway.
    let Body { phenomenon_time, result_time, result, datastream } = serde_json::from_slice(body).ok()?;
    if !result.is_finite() || datastream.is_some_and(|id| id <= 0) {
        return None;
    }
    let draft = ObservationDraft {
        phenomenon: phenomenon_time.map(|text| interval_of("", text)).transpose().ok()?,
        result_time: result_time.map(|text| instant_of("", text)).transpose().ok()?,
        result: ResultValue::Number(result),
        datastream: datastream.map(|id| (EntityType::Datastream, Target::Id(EntityId(id)))),
        ..ObservationDraft::number(result)
    };
    (!draft.claims_sum()).then_some(draft)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Whatever the quick way takes, the whole way takes for the same.
    fn same(body: &[u8]) -> bool {
        let Some(quick) = plain(body) else { return false };
        let value = serde_json::from_slice(body).expect("the quick way takes nothing that is not JSON");
        let whole = ObservationDraft::parse(&value).expect("the quick way takes nothing that is wrong");
        assert_eq!(format!("{quick:?}"), format!("{whole:?}"), "{}", String::from_utf8_lossy(body));
        true
    }

    #[test]
    fn what_devices_send_is_plain() {
        for body in [
            r#"{"result":1.37}"#,
            r#"{"result":-7,"phenomenonTime":"2026-11-22T09:00:00Z"}"#,
            r#"{"result":1e3,"phenomenonTime":"2026-11-22T17:00:00+08:00","resultTime":"2026-11-22T09:00:01.5Z"}"#,
            r#"{"result":0,"phenomenonTime":"2026-11-22T09:00:00Z/2026-11-22T10:00:00Z","Datastream":{"@iot.id":12}}"#,
            r#" { "Datastream" : { "@iot.id" : 12 } , "result" : 18446744073709551615 , "resultTime" : null } "#,
            r#"{"result":-0.0}"#,
        ] {
            assert!(same(body.as_bytes()), "{body}");
        }
    }

    #[test]
    fn what_is_special_or_wrong_is_for_the_whole_way() {
        for body in [
            "",
            "[]",
            "{}",
            r#"{"result":null}"#,
            r#"{"result":"1"}"#,
            r#"{"result":true}"#,
            r#"{"result":1e400}"#,
            r#"{"result":1,"result":2}"#,
            r#"{"result":1,"phenomenonTime":"2026-11-22T09:00:00Z/2026-11-22T10:00:00Z","resultTime":"2026-11-22T10:00:00.000001Z"}"#,
            r#"{"result":1,"phenomenonTime":"yesterday"}"#,
            r#"{"result":1,"phenomenonTime":7}"#,
            r#"{"result":1,"parameters":{}}"#,
            r#"{"result":1,"Datastream":null}"#,
            r#"{"result":1,"Datastream":{}}"#,
            r#"{"result":1,"Datastream":{"@iot.id":0}}"#,
            r#"{"result":1,"Datastream":{"@iot.id":"7"}}"#,
            r#"{"result":1,"Datastream":{"@iot.id":7,"name":"x"}}"#,
            r#"{"result":1,"MultiDatastream":{"@iot.id":7}}"#,
            r#"{"result":1,"FeatureOfInterest":{"@iot.id":7}}"#,
            r#"{"result":1} x"#,
        ] {
            assert!(plain(body.as_bytes()).is_none(), "{body}");
        }
    }

    fn piece() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<f64>().prop_map(|n| format!("{n:e}")),
            any::<i64>().prop_map(|n| n.to_string()),
            Just("null".to_owned()),
            Just("\"2026-11-22T09:00:00Z\"".to_owned()),
            Just("\"2026-11-22T09:00:00Z/2026-11-22T10:00:00Z\"".to_owned()),
            Just("\"0001-01-01T00:00:00+14:00\"".to_owned()),
            Just("\"2026-11-22\\u005409:00:00Z\"".to_owned()),
            (-2i64..100).prop_map(|id| format!("{{\"@iot.id\":{id}}}")),
            Just("[1]".to_owned()),
        ]
    }
    fn name() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec!["result", "phenomenonTime", "resultTime", "Datastream", "validTime", "@iot.id", "id"])
    }

    proptest! {
        #[test]
        fn both_ways_agree(members in prop::collection::vec((name(), piece()), 0..5), tail in "[ ,}]{0,2}") {
            let members: Vec<String> = members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
            same(format!("{{{}}}{tail}", members.join(",")).as_bytes());
        }

        #[test]
        fn any_bytes_are_an_answer(body in prop::collection::vec(any::<u8>(), 0..60)) {
            same(&body);
        }
    }
}
