//! Values while a predicate is decided, and how they compare.

use std::{borrow::Cow, cmp::Ordering, sync::Arc};

use geo::Geometry;
use kernel::{Interval, Timestamp};
use serde_json::Value as Json;

use super::ast::Operator;

#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    Null,
    Bool(bool),
    Number(f64),
    Text(Cow<'a, str>),
    /// An instant is an interval whose ends are equal.
    Time(Interval),
    Date(i64),
    TimeOfDay(i64),
    Duration(i64),
    Geometry(Arc<Geometry<f64>>),
    /// An object or array.
    Json(Cow<'a, Json>),
}

impl<'a> Value<'a> {
    pub fn instant(at: Timestamp) -> Self {
        Self::Time(Interval::instant(at))
    }
    pub fn from_json(json: &'a Json) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(value) => Self::Bool(*value),
            Json::Number(number) => number.as_f64().map_or(Self::Null, Self::Number),
            Json::String(text) => Self::Text(Cow::Borrowed(text)),
            Json::Array(_) | Json::Object(_) => Self::Json(Cow::Borrowed(json)),
        }
    }
    pub fn from_owned_json(json: Json) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(value) => Self::Bool(value),
            Json::Number(number) => number.as_f64().map_or(Self::Null, Self::Number),
            Json::String(text) => Self::Text(Cow::Owned(text)),
            other => Self::Json(Cow::Owned(other)),
        }
    }
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }
    pub fn as_number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            _ => None,
        }
    }
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
    /// A time, also one that JSON keeps as text.
    pub fn as_time(&self) -> Option<Interval> {
        match self {
            Self::Time(interval) => Some(*interval),
            Self::Date(days) => Some(Interval::instant(Timestamp::from_secs(days.saturating_mul(86_400)))),
            Self::Text(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// As it is shown to a client.
    pub fn to_json(&self) -> Json {
        match self {
            Self::Null | Self::Geometry(_) => Json::Null,
            Self::Bool(value) => Json::Bool(*value),
            Self::Number(n) if n.fract() == 0.0 && n.abs() < 9e15 => Json::from(*n as i64),
            Self::Number(n) => Json::from(*n),
            Self::Text(text) => Json::String(text.to_string()),
            Self::Time(interval) => Json::String(interval.to_string()),
            Self::Date(days) => Json::from(*days),
            Self::TimeOfDay(micros) | Self::Duration(micros) => Json::from(*micros),
            Self::Json(json) => json.as_ref().clone(),
        }
    }

    /// The order of $orderby: null first, then by kind, then by value (18-088 section 9.3.3.1).
    pub fn sort(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => a.cmp(b),
            (Self::Number(a), Self::Number(b)) => a.total_cmp(b),
            (Self::Text(a), Self::Text(b)) => a.cmp(b),
            (Self::Time(a), Self::Time(b)) => a.cmp(b),
            (Self::Date(a), Self::Date(b))
            | (Self::TimeOfDay(a), Self::TimeOfDay(b))
            | (Self::Duration(a), Self::Duration(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
    fn rank(&self) -> u8 {
        match self {
            Self::Null => 0,
            Self::Bool(_) => 1,
            Self::Number(_) => 2,
            Self::Text(_) => 3,
            Self::Time(_) => 4,
            Self::Date(_) => 5,
            Self::TimeOfDay(_) => 6,
            Self::Duration(_) => 7,
            Self::Geometry(_) => 8,
            Self::Json(_) => 9,
        }
    }

    pub fn into_owned(self) -> Value<'static> {
        match self {
            Self::Null => Value::Null,
            Self::Bool(v) => Value::Bool(v),
            Self::Number(v) => Value::Number(v),
            Self::Text(v) => Value::Text(Cow::Owned(v.into_owned())),
            Self::Time(v) => Value::Time(v),
            Self::Date(v) => Value::Date(v),
            Self::TimeOfDay(v) => Value::TimeOfDay(v),
            Self::Duration(v) => Value::Duration(v),
            Self::Geometry(v) => Value::Geometry(v),
            Self::Json(v) => Value::Json(Cow::Owned(v.into_owned())),
        }
    }
}

/// `None` when the answer is null: OData 4.0 Part 2 section 5.1.1.1. Values of different kinds are unequal and have no order.
pub fn compare(operator: Operator, left: &Value<'_>, right: &Value<'_>) -> Option<bool> {
    if left.is_null() || right.is_null() {
        let both = left.is_null() && right.is_null();
        return Some(match operator {
            Operator::Eq => both,
            Operator::Ne => !both,
            _ => false,
        });
    }
    // The table of functions compares `time(resultTime) le validTime`: a time of day with that of a time.
    match (left, right) {
        (Value::TimeOfDay(_), Value::Time(time)) => return compare(operator, left, &time_of_day(time.start)),
        (Value::Time(time), Value::TimeOfDay(_)) => return compare(operator, &time_of_day(time.start), right),
        _ => {}
    }
    if matches!(left, Value::Time(_)) || matches!(right, Value::Time(_)) {
        return match (left.as_time(), right.as_time()) {
            (Some(a), Some(b)) => Some(compare_times(operator, a, b)),
            _ => Some(operator == Operator::Ne),
        };
    }
    let order = match (left, right) {
        (Value::Number(a), Value::Number(b)) => a.partial_cmp(b),
        (Value::Text(a), Value::Text(b)) => Some(a.as_ref().cmp(b.as_ref())),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        (Value::Date(a), Value::Date(b))
        | (Value::TimeOfDay(a), Value::TimeOfDay(b))
        | (Value::Duration(a), Value::Duration(b)) => Some(a.cmp(b)),
        (Value::Date(a), Value::Text(b)) => b.parse::<Timestamp>().ok().map(|b| a.cmp(&day(b))),
        (Value::Json(a), Value::Json(b)) if a == b => Some(Ordering::Equal),
        _ => None,
    };
    Some(match operator {
        Operator::Eq => order == Some(Ordering::Equal),
        Operator::Ne => order != Some(Ordering::Equal),
        Operator::Lt => order == Some(Ordering::Less),
        Operator::Le => matches!(order, Some(Ordering::Less | Ordering::Equal)),
        Operator::Gt => order == Some(Ordering::Greater),
        Operator::Ge => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
        _ => return None,
    })
}

/// Instants compare as instants. An interval is before another when it ends before (or as) the other starts; `le` and `ge`
/// compare starts and ends so that an instant inside is neither.
fn compare_times(operator: Operator, a: Interval, b: Interval) -> bool {
    match operator {
        Operator::Eq => a == b,
        Operator::Ne => a != b,
        Operator::Lt => {
            a.end < b.start || (!(a.is_instant() && b.is_instant()) && a.end == b.start && a.start < b.start)
        }
        Operator::Le => a.end <= b.start || a == b,
        Operator::Gt => a.start > b.end || (!(a.is_instant() && b.is_instant()) && a.start == b.end && a.end > b.end),
        Operator::Ge => a.start >= b.end || a == b,
        _ => false,
    }
}

pub fn time_of_day(at: Timestamp) -> Value<'static> {
    Value::TimeOfDay(at.as_micros().rem_euclid(86_400_000_000))
}

pub fn day(at: Timestamp) -> i64 {
    at.as_micros().div_euclid(86_400_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Value<'static> {
        Value::Time(text.parse().expect("time"))
    }

    #[test]
    fn times_compare_as_the_standard_means() {
        let check = |a: &str, operator, b: &str, expect| {
            assert_eq!(compare(operator, &time(a), &time(b)), Some(expect), "{a} {operator:?} {b}");
        };
        let (d1, d2, d3) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z");
        check(d1, Operator::Lt, d2, true);
        check(d1, Operator::Lt, d1, false);
        check(d1, Operator::Le, d1, true);
        check(d2, Operator::Ge, d2, true);
        let span = format!("{d1}/{d2}");
        check(&span, Operator::Lt, d3, true);
        check(&span, Operator::Lt, d2, true);
        check(d2, Operator::Gt, d1, true);
        check(d3, Operator::Gt, &span, true);
        check(&span, Operator::Eq, &span, true);
        check(&span, Operator::Eq, d1, false);
    }

    #[test]
    fn null_is_only_equal_to_null() {
        assert_eq!(compare(Operator::Eq, &Value::Null, &Value::Null), Some(true));
        assert_eq!(compare(Operator::Ne, &Value::Null, &Value::Number(1.0)), Some(true));
        assert_eq!(compare(Operator::Lt, &Value::Null, &Value::Number(1.0)), Some(false));
        assert_eq!(compare(Operator::Eq, &Value::Text("1".into()), &Value::Number(1.0)), Some(false));
    }
}
