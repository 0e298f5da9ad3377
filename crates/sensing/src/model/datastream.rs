use std::sync::Arc;

use kernel::{Interval, Tenant};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

use super::{EntityId, ResultValue};

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

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the Datastream's observationType is {observation_type}, so {expected} is expected")]
pub struct ResultError {
    pub observation_type: &'static str,
    pub expected: &'static str,
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
            ResultValue::Number(n) => match self {
                Self::Measurement | Self::Any => n.is_finite(),
                Self::Count => n.is_finite() && n.fract() == 0.0,
                _ => false,
            },
            ResultValue::Json(raw) => {
                let text = raw.get().trim_start();
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
        };
        let expected = match self {
            Self::Measurement => "a number",
            Self::Count => "a whole number",
            Self::Truth => "true or false",
            Self::Category | Self::Text => "a string",
            Self::Temporal => "a string with an ISO 8601 time or interval",
            Self::Geometry => "a GeoJSON geometry",
            Self::Complex => "an object",
            Self::Any => "a finite number or any other JSON",
        };
        if ok { Ok(()) } else { Err(ResultError { observation_type: self.name(), expected }) }
    }
}

/// What every door must know of a Datastream before it accepts an Observation; cached by `store::Catalog`.
#[derive(Clone, Debug, PartialEq)]
pub struct DatastreamInfo {
    pub id: EntityId,
    pub tenant: Tenant,
    /// Published to everybody.
    pub public: bool,
    pub thing: EntityId,
    pub name: Arc<str>,
    pub observation_type: ObservationType,
    /// `unitOfMeasurement.symbol`.
    pub unit: Option<Arc<str>>,
    /// The FeatureOfInterest of Observations that name none: made from the Thing's Location (18-088 section 10.2.2).
    pub feature: EntityId,
    /// Seconds between two Observations that the owner expects; older is shown as stale.
    pub interval: Option<u32>,
    /// Data made up for a demonstration, and labelled so wherever it is shown.
    pub simulated: bool,
}

/// Raw JSON from a value, for the few places that build a result themselves.
pub fn raw(value: &Value) -> Arc<RawValue> {
    // A serde_json::Value always serialises: its map keys are strings and its numbers finite.
    serde_json::value::to_raw_value(value).map_or_else(|_| RawValue::NULL.to_owned().into(), Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
