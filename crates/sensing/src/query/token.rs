//! Where a page ended. The client hands it back as `$skiptoken` and must not care what it says; so it is read as distrustfully as any input.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use kernel::{Interval, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Fault, plan::Plan, value::Value};
use crate::model::{EntityId, EntityType, ObservationId};

/// Longer ones do not fit into an address; the next link then counts instead.
const MAX_TOKEN: usize = 3_000;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Key {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    Time(i64, i64),
    Date(i64),
    TimeOfDay(i64),
    Duration(i64),
    /// An object or array: all of them are equal in order.
    Other,
}

#[derive(Serialize, Deserialize)]
struct Form {
    keys: Vec<Key>,
    id: String,
}

/// The order keys and the id of the last entity of a page.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    pub keys: Vec<Value<'static>>,
    pub id: TokenId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TokenId {
    Entity(EntityId),
    Observation(ObservationId),
}

impl Token {
    /// `None` when it would be too long.
    pub fn print(&self) -> Option<String> {
        let key = |value: &Value<'static>| match value {
            Value::Null => Key::Null,
            Value::Bool(v) => Key::Bool(*v),
            Value::Number(v) => Key::Number(*v),
            Value::Text(v) => Key::Text(v.to_string()),
            Value::Time(v) => Key::Time(v.start.as_micros(), v.end.as_micros()),
            Value::Date(v) => Key::Date(*v),
            Value::TimeOfDay(v) => Key::TimeOfDay(*v),
            Value::Duration(v) => Key::Duration(*v),
            Value::Geometry(_) | Value::Json(_) => Key::Other,
        };
        let id = match self.id {
            TokenId::Entity(id) => id.to_string(),
            TokenId::Observation(id) => id.to_string(),
        };
        let bytes = postcard::to_stdvec(&Form { keys: self.keys.iter().map(key).collect(), id }).ok()?;
        Some(URL_SAFE_NO_PAD.encode(bytes)).filter(|text| text.len() <= MAX_TOKEN)
    }

    pub fn parse(text: &str, plan: &Plan) -> Result<Self, Fault> {
        let read = || {
            let bytes = URL_SAFE_NO_PAD.decode(text).ok().filter(|b| b.len() <= MAX_TOKEN)?;
            let form: Form = postcard::from_bytes(&bytes).ok()?;
            let id = match plan.entity {
                EntityType::Observation => TokenId::Observation(form.id.parse().ok()?),
                _ => TokenId::Entity(EntityId(form.id.parse().ok()?)),
            };
            let keys = form.keys.into_iter().map(|key| {
                Some(match key {
                    Key::Null => Value::Null,
                    Key::Bool(v) => Value::Bool(v),
                    Key::Number(v) => Value::Number(v),
                    Key::Text(v) if !v.contains('\0') => Value::Text(v.into()),
                    Key::Text(_) => return None,
                    Key::Time(start, end) => {
                        Value::Time(Interval { start: Timestamp::from_micros(start), end: Timestamp::from_micros(end) })
                    }
                    Key::Date(v) => Value::Date(v),
                    Key::TimeOfDay(v) => Value::TimeOfDay(v),
                    Key::Duration(v) => Value::Duration(v),
                    Key::Other => Value::Json(std::borrow::Cow::Owned(serde_json::Value::Array(Vec::new()))),
                })
            });
            let keys: Vec<_> = keys.collect::<Option<_>>()?;
            (keys.len() == plan.order.len()).then_some(Self { keys, id })
        };
        let detail = "this is not the token of a next link for this question; follow @iot.nextLink as it is";
        read().ok_or_else(|| Fault::in_option("$skiptoken", 1, detail))
    }
}
