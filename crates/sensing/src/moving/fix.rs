//! Where a Thing said it was: an Observation of its position Datastream, whose result is a GeoJSON Point (RFC 7946 section 3.1.2).

use kernel::Timestamp;
use serde::Deserialize;

use super::plane::Place;
use crate::model::{Observation, ResultValue};

/// One fix.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Fix {
    pub at: Timestamp,
    pub place: Place,
    /// Metres that it may be wrong by, with 95 % confidence (`parameters.accuracy`, as the W3C Geolocation API has it).
    pub accuracy: Option<f64>,
}

#[derive(Deserialize)]
struct Point {
    r#type: String,
    coordinates: Vec<f64>,
}

#[derive(Deserialize)]
struct Said {
    #[serde(default)]
    accuracy: Option<f64>,
}

/// The place in a result; `None` for everything but a Point on the Earth.
pub fn place(result: &str) -> Option<Place> {
    // Numbers and words are not worth a parser.
    if !result.trim_start().starts_with('{') {
        return None;
    }
    let point: Point = serde_json::from_str(result).ok()?;
    match (point.r#type.as_str(), point.coordinates.as_slice()) {
        // Height comes third; what may stand behind it is ignored (RFC 7946 section 3.1.1).
        ("Point", [lon, lat, ..]) => Place::new(*lon, *lat),
        _ => None,
    }
}

/// The accuracy among the parameters of an Observation.
pub fn accuracy(parameters: Option<&str>) -> Option<f64> {
    let said: Said = serde_json::from_str(parameters?).ok()?;
    said.accuracy.filter(|metres| metres.is_finite() && *metres >= 0.0)
}

impl Fix {
    pub fn of(observation: &Observation) -> Option<Self> {
        let ResultValue::Json(raw) = &observation.result else { return None };
        Some(Self {
            at: observation.phenomenon.end,
            place: place(raw.get())?,
            accuracy: accuracy(observation.parameters.as_ref().map(|p| p.get())),
        })
    }
}

/// A place as the result of an Observation.
pub fn point(place: Place) -> String {
    format!(r#"{{"type":"Point","coordinates":[{},{}]}}"#, place.lon, place.lat)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_a_point_on_the_earth_is_a_place() {
        let there = Some(Place { lon: 114.1, lat: 22.3 });
        assert_eq!(place(r#"{"type":"Point","coordinates":[114.1,22.3]}"#), there);
        assert_eq!(place(r#" {"coordinates":[114.1,22.3,-4.5,7],"type":"Point","bbox":[1]}"#), there);
        for not in [
            "",
            "3",
            "null",
            "[114.1,22.3]",
            r#"{"type":"Point","coordinates":[114.1]}"#,
            r#"{"type":"Point","coordinates":[114.1,"22.3"]}"#,
            r#"{"type":"Point","coordinates":[181,22.3]}"#,
            r#"{"type":"Point","coordinates":[114.1,1e999]}"#,
            r#"{"type":"LineString","coordinates":[[114.1,22.3],[114.2,22.3]]}"#,
            r#"{"type":"Point"}"#,
        ] {
            assert_eq!(place(not), None, "{not}");
        }
        assert_eq!(accuracy(Some(r#"{"accuracy": 12.5, "speed": "fast"}"#)), Some(12.5));
        for not in [None, Some("[]"), Some(r#"{"accuracy": -1}"#), Some(r#"{"accuracy": "good"}"#), Some("{")] {
            assert_eq!(accuracy(not), None, "{not:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_an_answer_not_a_panic(text in "\\PC{0,80}") {
            let _ = (place(&text), accuracy(Some(&text)));
        }
        #[test]
        fn a_place_comes_back(lon in -180.0f64..=180.0, lat in -90.0f64..=90.0) {
            // But for the last digit of a reader that is quick rather than exact.
            let back = place(&point(Place { lon, lat })).expect("a place");
            prop_assert!((back.lon - lon).abs() < 1e-9 && (back.lat - lat).abs() < 1e-9);
        }
    }
}
