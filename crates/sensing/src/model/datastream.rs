use std::{fmt, sync::Arc};

use kernel::{Interval, Tenant};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

use super::{EntityId, EntityType, ResultValue};

/// The observation types of O&M that SensorThings lists (18-088 table 12), each with the results it admits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
pub enum ObservationType {
    /// A number.
    Measurement,
    /// A whole number.
    Count,
    /// `true` or `false`.
    Truth,
    /// A term or its URI: a string.
    Category,
    /// A string.
    Text,
    /// An ISO 8601 time or interval, as a string.
    Temporal,
    /// A GeoJSON geometry.
    Geometry,
    /// An object.
    Complex,
    /// Anything.
    Any,
}

/// Why a result may not stand where it was sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResultError {
    #[error("the Datastream's observationType is {observation_type}, so {expected} is expected")]
    Type { observation_type: &'static str, expected: &'static str },
    #[error(
        "the MultiDatastream has {wanted} multiObservationDataTypes, so an array of as many elements is expected, not {found}"
    )]
    Length { wanted: usize, found: Found },
    #[error("element {index} of the result is of the type {observation_type}, so {expected} or null is expected there")]
    Element { index: usize, observation_type: &'static str, expected: &'static str },
}

/// What stood where an array of the right length should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    Array(usize),
    Other,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Array(length) => write!(f, "one of {length}"),
            Self::Other => f.write_str("something else"),
        }
    }
}

impl ResultError {
    /// Where in an Observation the mistake is, as a JSON Pointer.
    pub fn place(&self) -> String {
        match self {
            Self::Type { .. } | Self::Length { .. } => "/result".to_owned(),
            Self::Element { index, .. } => format!("/result/{index}"),
        }
    }
}

const PREFIX: &str = "http://www.opengis.net/def/observationType/OGC-OM/2.0/";

impl ObservationType {
    const NAMES: [(Self, &'static str); 9] = [
        (Self::Measurement, "OM_Measurement"),
        (Self::Count, "OM_CountObservation"),
        (Self::Truth, "OM_TruthObservation"),
        (Self::Category, "OM_CategoryObservation"),
        (Self::Text, "OM_TextObservation"),
        (Self::Temporal, "OM_TemporalObservation"),
        (Self::Geometry, "OM_GeometryObservation"),
        (Self::Complex, "OM_ComplexObservation"),
        (Self::Any, "OM_Observation"),
    ];

    /// From the code (a URI); `None` for a code that the standard does not list, which then admits anything.
    pub fn from_code(code: &str) -> Option<Self> {
        let name = code.strip_prefix(PREFIX)?;
        Self::NAMES.iter().find(|(_, n)| *n == name).map(|(t, _)| *t)
    }
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(t, _)| *t == self).map_or("OM_Observation", |(_, n)| n)
    }
    pub fn code(self) -> String {
        format!("{PREFIX}{}", self.name())
    }

    /// Whether `result` may stand in a Datastream of this type. JSON `null` means "no result" and is always allowed; it then needs a reason in
    /// `resultQuality`, which the door adds.
    pub fn check(self, result: &ResultValue) -> Result<(), ResultError> {
        let ok = match result {
            ResultValue::Number(n) => self.admits_number(*n),
            ResultValue::Json(raw) => self.admits_json(raw.get()),
        };
        if ok { Ok(()) } else { Err(ResultError::Type { observation_type: self.name(), expected: self.expected() }) }
    }

    fn admits_number(self, n: f64) -> bool {
        match self {
            Self::Measurement | Self::Any => n.is_finite(),
            Self::Count => n.is_finite() && n.fract() == 0.0,
            _ => false,
        }
    }
    /// What is no number.
    fn admits_json(self, text: &str) -> bool {
        let text = text.trim_start();
        let first = text.as_bytes().first().copied().unwrap_or(b' ');
        match (self, first) {
            (_, b'n') | (Self::Any, _) => true,
            (Self::Truth, b't' | b'f') => true,
            (Self::Category | Self::Text, b'"') => true,
            (Self::Temporal, b'"') => serde_json::from_str::<Interval>(text).is_ok(),
            (Self::Complex, b'{') => true,
            (Self::Geometry, b'{') => serde_json::from_str::<geojson::Geometry>(text).is_ok(),
            _ => false,
        }
    }
    const fn expected(self) -> &'static str {
        match self {
            Self::Measurement => "a number",
            Self::Count => "a whole number",
            Self::Truth => "true or false",
            Self::Category | Self::Text => "a string",
            Self::Temporal => "a string with an ISO 8601 time or interval",
            Self::Geometry => "a GeoJSON geometry",
            Self::Complex => "an object",
            Self::Any => "a finite number or any other JSON",
        }
    }
}

/// Whether `result` is an array with one element for each of `types`, each of which fits its type or is null: a probe that has failed leaves
/// its place empty and does not silence the others (18-088 section 12, multi-datastream/constraints).
fn check_elements(types: &[ObservationType], result: &ResultValue) -> Result<(), ResultError> {
    let wanted = types.len();
    let ResultValue::Json(raw) = result else {
        return Err(ResultError::Length { wanted, found: Found::Other });
    };
    let elements: Vec<&RawValue> =
        serde_json::from_str(raw.get()).map_err(|_| ResultError::Length { wanted, found: Found::Other })?;
    if elements.len() != wanted {
        return Err(ResultError::Length { wanted, found: Found::Array(elements.len()) });
    }
    for (index, (kind, element)) in types.iter().zip(elements).enumerate() {
        let text = element.get();
        let fits = match text.as_bytes().first() {
            // What is too great for a number would come back as another one.
            Some(b'-' | b'0'..=b'9') => text.parse::<f64>().is_ok_and(|n| kind.admits_number(n)),
            _ => kind.admits_json(text),
        };
        if !fits {
            return Err(ResultError::Element { index, observation_type: kind.name(), expected: kind.expected() });
        }
    }
    Ok(())
}

/// What every door must know of a Datastream or MultiDatastream before it accepts an Observation; cached by `store::Catalog`.
#[derive(Clone, Debug, PartialEq)]
pub struct DatastreamInfo {
    pub id: EntityId,
    pub tenant: Tenant,
    /// Published to everybody.
    pub public: bool,
    pub thing: EntityId,
    pub name: Arc<str>,
    pub observation_type: ObservationType,
    /// `multiObservationDataTypes` of a MultiDatastream, in the order of a result's elements; `None` for a Datastream.
    pub elements: Option<Arc<[ObservationType]>>,
    /// `unitOfMeasurement.symbol`.
    pub unit: Option<Arc<str>>,
    /// The FeatureOfInterest of Observations that name none: made from the Thing's Location (18-088 section 10.2.2).
    pub feature: EntityId,
    /// Seconds between two Observations that the owner expects; older is shown as stale.
    pub interval: Option<u32>,
    /// Data made up for a demonstration, and labelled so wherever it is shown.
    pub simulated: bool,
}

impl DatastreamInfo {
    /// Which of the two this is: [`EntityType::SERIES`].
    pub fn entity(&self) -> EntityType {
        if self.elements.is_some() { EntityType::MultiDatastream } else { EntityType::Datastream }
    }
    /// Whether an Observation with this result may be added.
    pub fn check(&self, result: &ResultValue) -> Result<(), ResultError> {
        match &self.elements {
            Some(types) => check_elements(types, result),
            None => self.observation_type.check(result),
        }
    }
}

/// Raw JSON from a value, for the few places that build a result themselves.
pub fn raw(value: &Value) -> Arc<RawValue> {
    // A serde_json::Value always serialises: its map keys are strings and its numbers finite.
    serde_json::value::to_raw_value(value).map_or_else(|_| RawValue::NULL.to_owned().into(), Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(code: &str, json: &str, ok: bool) {
        let value: Value = serde_json::from_str(json).expect("json");
        let result = match value.as_f64() {
            Some(n) => ResultValue::Number(n),
            None => ResultValue::Json(raw(&value)),
        };
        let kind = ObservationType::from_code(&format!("{PREFIX}{code}")).expect("listed");
        assert_eq!(kind.check(&result).is_ok(), ok, "{code} {json}");
    }

    #[test]
    fn results_must_fit_their_type() {
        check("OM_Measurement", "1.5", true);
        check("OM_Measurement", "\"1.5\"", false);
        check("OM_CountObservation", "3", true);
        check("OM_CountObservation", "3.5", false);
        check("OM_TruthObservation", "true", true);
        check("OM_TruthObservation", "1", false);
        check("OM_CategoryObservation", "\"open\"", true);
        check("OM_CategoryObservation", "{}", false);
        check("OM_TemporalObservation", "\"2026-01-01T00:00:00Z\"", true);
        check("OM_TemporalObservation", "\"yesterday\"", false);
        check("OM_GeometryObservation", r#"{"type":"Point","coordinates":[114,22]}"#, true);
        check("OM_GeometryObservation", r#"{"type":"Dot"}"#, false);
        check("OM_Observation", "[1,2]", true);
        check("OM_Measurement", "null", true);
    }

    fn types(names: &[&str]) -> Vec<ObservationType> {
        names.iter().map(|n| ObservationType::from_code(&format!("{PREFIX}{n}")).expect("listed")).collect()
    }
    fn json(text: &str) -> ResultValue {
        ResultValue::Json(RawValue::from_string(text.to_owned()).expect("json").into())
    }

    #[test]
    fn a_result_of_several_has_one_of_each_type() {
        let types = types(&["OM_Measurement", "OM_CategoryObservation", "OM_CountObservation"]);
        for good in [r#"[1.5,"open",3]"#, r#" [ -1e3 , "" , 0 ] "#, r#"[null,null,null]"#, r#"[1,"x",3.0]"#] {
            assert_eq!(check_elements(&types, &json(good)), Ok(()), "{good}");
        }
        let wrong = |text: &str| check_elements(&types, &json(text)).expect_err(text);
        for (bad, place) in [
            (r#"["1.5","open",3]"#, "/result/0"),
            (r#"[1e999,"open",3]"#, "/result/0"),
            (r#"[1,2,3]"#, "/result/1"),
            (r#"[1,"open",3.5]"#, "/result/2"),
            (r#"[1,"open",true]"#, "/result/2"),
            (r#"[1,"open"]"#, "/result"),
            (r#"[1,"open",3,4]"#, "/result"),
            (r#"[]"#, "/result"),
            (r#"{"0":1,"1":"open","2":3}"#, "/result"),
            ("null", "/result"),
            (r#""[1,\"open\",3]""#, "/result"),
        ] {
            assert_eq!(wrong(bad).place(), place, "{bad}");
        }
        assert!(wrong(r#"[1,2,3]"#).to_string().contains("element 1 of the result"), "the element is named");
        assert!(wrong("[1]").to_string().contains("an array of as many elements is expected, not one of 1"));
        assert_eq!(check_elements(&types, &ResultValue::Number(1.0)).expect_err("a number").place(), "/result");
    }

    proptest! {
        /// An array fits when each element by itself would fit a Datastream of its type.
        #[test]
        fn elements_are_judged_as_results_are(
            columns in proptest::collection::vec((0..ObservationType::NAMES.len(), prop::sample::select(vec![
                "1", "-2.5", "1e3", "true", "false", "null", "\"a\"", "\"2026-01-01T00:00:00Z\"", "{}", "[]", "[1,2]",
                r#"{"type":"Point","coordinates":[1,2]}"#,
            ])), 1..8),
        ) {
            let types: Vec<_> = columns.iter().map(|(kind, _)| ObservationType::NAMES[*kind].0).collect();
            let text = format!("[{}]", columns.iter().map(|(_, text)| *text).collect::<Vec<_>>().join(","));
            let alone = |kind: ObservationType, text: &str| match text.parse::<f64>() {
                Ok(n) => kind.check(&ResultValue::Number(n)).is_ok(),
                Err(_) => kind.check(&json(text)).is_ok(),
            };
            let first_wrong = columns.iter().zip(&types).position(|((_, text), kind)| !alone(*kind, text));
            let place = check_elements(&types, &json(&text)).err().map(|e| e.place());
            prop_assert_eq!(place, first_wrong.map(|index| format!("/result/{index}")));
        }

        #[test]
        fn any_result_is_an_answer_not_a_panic(text in ".{0,60}") {
            if let Ok(raw) = RawValue::from_string(text) {
                let _ = check_elements(&[ObservationType::Measurement, ObservationType::Geometry], &ResultValue::Json(raw.into()));
            }
        }
    }
}
