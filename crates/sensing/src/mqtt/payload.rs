//! What devices publish: a bare number (a bare array for a MultiDatastream), or what the HTTP door takes as well (18-088 sections 10.2 and 13.2), read by the same code.

use kernel::Problem;
use serde_json::{Value, json};

use crate::{Error, catalog::ObservationDraft};

/// Observations in one data array. More belongs into several messages or HTTP.
pub const MAX_ROWS: usize = 10_000;

/// Why a payload is no Observation: a sentence for the device's owner.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PayloadError(pub String);

/// The sentence of an error, with the field that it is about.
pub fn sentence(error: Error) -> String {
    let problem = Problem::from(error);
    match problem.errors.first() {
        Some(first) => format!("{}: {}", first.field, first.detail),
        None => problem.detail,
    }
}

/// One Observation: nothing but a number or an array, or a JSON object with `result`. Of an object, the JSON itself is given too: what it brings
/// beside links by id is completed from it.
pub fn observation(payload: &[u8]) -> Result<(ObservationDraft, Option<Value>), PayloadError> {
    let trimmed = payload.trim_ascii();
    if matches!(trimmed.first(), Some(b'-' | b'0'..=b'9')) {
        return match fast_float2::parse::<f64, _>(trimmed) {
            Ok(n) if n.is_finite() => Ok((ObservationDraft::number(n), None)),
            _ => Err(PayloadError("the payload is not a number".to_owned())),
        };
    }
    let mut body: Value = serde_json::from_slice(trimmed)
        .map_err(|error| PayloadError(format!("the payload is not an Observation: {error}")))?;
    if body.as_array().is_some_and(|elements| !elements.is_empty()) {
        body = json!({ "result": body });
    }
    let draft = ObservationDraft::parse(&body).map_err(|error| PayloadError(sentence(error)))?;
    Ok((draft, Some(body)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        catalog::Target,
        model::{EntityId, EntityType, ResultValue},
    };
    use proptest::prelude::*;

    fn result(payload: &[u8]) -> ResultValue {
        observation(payload).expect("an Observation").0.result
    }

    #[test]
    fn reads_what_devices_send() {
        assert_eq!(result(b" 21.5\n"), ResultValue::Number(21.5));
        let full = br#"{"result":-3,"phenomenonTime":"2026-11-22T09:00:00Z/2026-11-22T10:00:00Z","resultTime":"2026-11-22T10:00:01Z",
            "Datastream":{"@iot.id":7},"parameters":{"a":[1]},"resultQuality":"good"}"#;
        let (draft, _) = observation(full).expect("object");
        assert!(matches!(draft.datastream, Some((EntityType::Datastream, Target::Id(EntityId(7))))));
        assert_eq!(draft.result, ResultValue::Number(-3.0));
        assert!(draft.phenomenon.is_some_and(|p| !p.is_instant()));
        assert_eq!(draft.parameters.expect("kept").get(), r#"{"a":[1]}"#);
        assert!(matches!(result(br#"{"result":null}"#), ResultValue::Json(_)));
        assert!(matches!(result(br#"{"result":"a\"b"}"#), ResultValue::Json(_)));
        let ResultValue::Json(bare) = result(b" [21.5, null, \"open\"] ") else { panic!("no array") };
        assert_eq!(bare.get(), r#"[21.5,null,"open"]"#);
        let several = br#"{"result":[1,2],"MultiDatastream":{"@iot.id":8}}"#;
        let (draft, _) = observation(several).expect("object");
        assert!(matches!(draft.datastream, Some((EntityType::MultiDatastream, Target::Id(EntityId(8))))));
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
            r#"{"result":1,"reslut":2}"#,
            r#"{"result":[1],"Datastream":{"@iot.id":7},"MultiDatastream":{"@iot.id":8}}"#,
            &deep,
        ] {
            assert!(observation(bad.as_bytes()).is_err(), "{bad}");
        }
        let Err(why) = observation(br#"{"result":1,"phenomenonTime":"soon"}"#) else { panic!("taken") };
        assert!(why.0.starts_with("/phenomenonTime: "), "{why}");
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = observation(&bytes);
        }
        #[test]
        fn numbers_arrive_exactly(n in any::<f64>().prop_filter("finite", |n| n.is_finite())) {
            let read = observation(n.to_string().as_bytes()).map(|(draft, _)| draft.result);
            prop_assert_eq!(read, Ok(ResultValue::Number(n)));
        }
    }
}
