use std::{fmt, str::FromStr, sync::Arc};

use kernel::{Interval, Timestamp};
use serde_json::value::RawValue;

use super::EntityId;

/// What was observed. Numbers stay numbers all the way to Parquet; everything else is kept as the JSON that came.
#[derive(Clone, Debug)]
pub enum ResultValue {
    Number(f64),
    /// A string, boolean, object, array or null, as its exact JSON text.
    Json(Arc<RawValue>),
}

impl PartialEq for ResultValue {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Number(a), Self::Number(b)) => a.to_bits() == b.to_bits(),
            (Self::Json(a), Self::Json(b)) => a.get() == b.get(),
            _ => false,
        }
    }
}

impl ResultValue {
    pub fn number(&self) -> Option<f64> {
        match self {
            Self::Number(n) => Some(*n),
            Self::Json(_) => None,
        }
    }
}

/// One Observation (18-088 section 8.2.7).
#[derive(Clone, Debug)]
pub struct Observation {
    pub datastream: EntityId,
    /// When the result applies: an instant or a closed interval.
    pub phenomenon: Interval,
    /// When the result came to be; `None` when the device did not say.
    pub result_time: Option<Timestamp>,
    pub result: ResultValue,
    /// The FeatureOfInterest.
    pub feature: EntityId,
    /// DQ_Element JSON (`resultQuality`).
    pub quality: Option<Arc<RawValue>>,
    pub valid: Option<Interval>,
    /// A JSON object.
    pub parameters: Option<Arc<RawValue>>,
}

impl PartialEq for Observation {
    fn eq(&self, other: &Self) -> bool {
        fn text(raw: &Option<Arc<RawValue>>) -> Option<&str> {
            raw.as_ref().map(|r| r.get())
        }
        self.id() == other.id()
            && self.phenomenon == other.phenomenon
            && self.result == other.result
            && self.valid == other.valid
            && text(&self.quality) == text(&other.quality)
            && text(&self.parameters) == text(&other.parameters)
    }
}

impl Observation {
    pub fn id(&self) -> ObservationId {
        ObservationId {
            datastream: self.datastream,
            at: self.phenomenon.start,
            feature: self.feature,
            result_time: self.result_time,
        }
    }
}

/// The identity of an Observation, and its `@iot.id` as text: `<datastream>-<µs>-<feature>[-<result µs>]`, for example
/// `42-1732240000000000-7`.
///
/// An Observation *is* its Datastream, phenomenonTime, FeatureOfInterest and resultTime: sending the same once more (a
/// device's retry, a file read twice) is the same Observation and the later result stands. So delivery at least once
/// ends up right, no id column is stored, and an id alone finds its page in the lake.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ObservationId {
    pub datastream: EntityId,
    pub at: Timestamp,
    pub feature: EntityId,
    pub result_time: Option<Timestamp>,
}

impl fmt::Display for ObservationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.datastream, Signed(self.at), self.feature)?;
        self.result_time.map_or(Ok(()), |t| write!(f, "-{}", Signed(t)))
    }
}

/// Times before 1970 are negative; `n` instead of `-` keeps the separator unambiguous.
struct Signed(Timestamp);

impl fmt::Display for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_micros();
        if micros < 0 { write!(f, "n{}", micros.unsigned_abs()) } else { write!(f, "{micros}") }
    }
}

fn unsigned(text: &str) -> Option<i64> {
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

fn signed(text: &str) -> Option<Timestamp> {
    let micros = match text.strip_prefix('n') {
        Some(rest) => -unsigned(rest)?,
        None => unsigned(text)?,
    };
    Some(Timestamp::from_micros(micros))
}

impl FromStr for ObservationId {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let read = || {
            let mut parts = s.split('-');
            let id = Self {
                datastream: EntityId(unsigned(parts.next()?)?),
                at: signed(parts.next()?)?,
                feature: EntityId(unsigned(parts.next()?)?),
                result_time: match parts.next() {
                    Some(text) => Some(signed(text)?),
                    None => None,
                },
            };
            parts.next().is_none().then_some(id)
        };
        // Only the canonical spelling is an id: '007-…' must not be a second name of '7-…'.
        read().filter(|id| id.to_string() == s).ok_or_else(|| {
            format!(
                "'{}' is not an Observation id; it looks like '42-1732240000000000-7'",
                s.chars().take(60).collect::<String>()
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ids_round_trip(ds in 1i64..1 << 53, at in any::<i32>(), foi in 1i64..1 << 53, rt in proptest::option::of(any::<i32>())) {
            let id = ObservationId {
                datastream: EntityId(ds),
                at: Timestamp::from_micros(i64::from(at) * 1_000_003),
                feature: EntityId(foi),
                result_time: rt.map(|t| Timestamp::from_micros(i64::from(t))),
            };
            prop_assert_eq!(id.to_string().parse(), Ok(id));
        }

        #[test]
        fn any_text_is_an_answer_not_a_panic(text in ".{0,60}") {
            let _ = text.parse::<ObservationId>();
        }
    }

    #[test]
    fn only_canonical_text_is_an_id() {
        for bad in ["", "1", "1-2", "01-2-3", "1-2-3-", "1-2-3-4-5", "+1-2-3", "1--2-3", "n1-2-3", "1-n0-3"] {
            assert!(bad.parse::<ObservationId>().is_err(), "{bad}");
        }
    }
}
