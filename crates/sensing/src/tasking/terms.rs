//! What a TaskingCapability says of its Tasks in `properties.tasking`, and what the body of a Task may say beside 17-079. Pure.

use kernel::{Text, Timestamp};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::{
    model::{Busy, Hold},
    swe::{Kind, Record},
};
use crate::{
    Error,
    catalog::{kind_of, schema},
    model::EntityId,
};

/// The longest and shortest times that may be declared, in seconds.
const WEEK: i64 = 7 * 86_400;
/// A shorter hold would be renewed more often than a network can promise.
const SHORTEST_HOLD: i64 = 5;
/// Bytes of an idempotency key, and of a reason.
pub const KEY_BYTES: usize = 200;
pub const REASON_BYTES: usize = 2_000;
/// Bytes of a Task's body.
const BODY_BYTES: usize = 64 << 10;

/// `{"@iot.id": 5}` or `{"@iot.key": "…"}`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub enum Reference {
    #[serde(rename = "@iot.id")]
    Id(EntityId),
    /// The natural key within the tenant, for packs, which know no ids.
    #[serde(rename = "@iot.key")]
    Key(String),
}

/// The read-back as a capability declares it: what a parameter asks for is to be observed.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadBack {
    #[serde(rename = "Datastream")]
    pub datastream: Reference,
    pub parameter: String,
    #[serde(default)]
    pub tolerance: f64,
    pub seconds: i64,
    /// What the Datastream says for a value of the parameter, where that is something else: `{"on": 1}`.
    #[serde(default)]
    pub values: Map<String, Value>,
}

/// `properties.tasking` of a TaskingCapability.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Terms {
    /// Whether a second person must approve each Task.
    pub four_eyes: bool,
    /// What a Task does while another has the actuator, unless it says so itself.
    pub busy: Busy,
    pub acknowledge_seconds: i64,
    /// How long a Task is of use before it is sent, unless it says so itself.
    pub expire_seconds: i64,
    pub verify: Option<ReadBack>,
    /// Of every Task.
    pub hold: Option<Hold>,
    pub undo: Option<Map<String, Value>>,
    /// What follows when a Task is done: whoever approves is told.
    pub consequences: Option<Text>,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            four_eyes: false,
            busy: Busy::Wait,
            acknowledge_seconds: 30,
            expire_seconds: 3_600,
            verify: None,
            hold: None,
            undo: None,
            consequences: None,
        }
    }
}

fn read<T: DeserializeOwned>(at: &str, value: &Value) -> Result<T, Error> {
    serde_json::from_value(value.clone()).map_err(|e| Error::field(at, format!("it is not as expected: {e}")))
}

fn seconds(at: &str, seconds: i64, least: i64) -> Result<(), Error> {
    let good = (least..=WEEK).contains(&seconds);
    if good { Ok(()) } else { Err(Error::field(at, format!("{least} to {WEEK} seconds are expected"))) }
}

fn tolerance(at: &str, tolerance: f64) -> Result<(), Error> {
    let good = tolerance.is_finite() && tolerance >= 0.0;
    if good { Ok(()) } else { Err(Error::field(at, "a tolerance is 0 or more")) }
}

fn check_hold(at: &str, hold: &Hold, record: &Record) -> Result<(), Error> {
    seconds(&format!("{at}/seconds"), hold.seconds, SHORTEST_HOLD)?;
    record.check(&format!("{at}/fallback"), &Value::Object(hold.fallback.clone()))
}

impl Terms {
    /// Reads `properties.tasking`, which stands at `at`; `record` are the parameters that it speaks of.
    ///
    /// # Errors
    /// What is not right, with its place.
    pub fn parse(at: &str, properties: &Map<String, Value>, record: &Record) -> Result<Self, Error> {
        let Some(declared) = properties.get("tasking") else { return Ok(Self::default()) };
        let at = format!("{at}/tasking");
        let terms: Self = read(&at, declared)?;
        seconds(&format!("{at}/acknowledge_seconds"), terms.acknowledge_seconds, 1)?;
        seconds(&format!("{at}/expire_seconds"), terms.expire_seconds, 1)?;
        if let Some(verify) = &terms.verify {
            seconds(&format!("{at}/verify/seconds"), verify.seconds, 1)?;
            tolerance(&format!("{at}/verify/tolerance"), verify.tolerance)?;
            if record.parameter(&verify.parameter).is_none() {
                return Err(Error::field(format!("{at}/verify/parameter"), "there is no parameter of this name"));
            }
        }
        if let Some(hold) = &terms.hold {
            check_hold(&format!("{at}/hold"), hold, record)?;
        }
        if let Some(undo) = &terms.undo {
            record.check(&format!("{at}/undo"), &Value::Object(undo.clone()))?;
        }
        Ok(terms)
    }
}

/// Checks a TaskingCapability as a whole: its parameters, and what it says of its Tasks.
///
/// # Errors
/// What is not right, with its place below `pointer`.
pub fn check_capability(pointer: &str, parameters: &Value, properties: &Map<String, Value>) -> Result<(), Error> {
    let record = Record::parse(&format!("{pointer}/taskingParameters"), parameters)?;
    Terms::parse(&format!("{pointer}/properties"), properties, &record).map(|_| ())
}

/// An expected state, or a read-back of the Task's own.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expectation {
    #[serde(rename = "Datastream")]
    pub datastream: Reference,
    pub value: Value,
    #[serde(default)]
    pub tolerance: f64,
    /// Of a read-back: how long it may take.
    pub seconds: Option<i64>,
}

/// The body of a POST to Tasks.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    pub parameters: Value,
    pub capability: Option<Reference>,
    pub expires: Option<Timestamp>,
    pub expect: Option<Expectation>,
    pub verify: Option<Expectation>,
    pub hold: Option<Hold>,
    pub undo: Option<Map<String, Value>>,
    pub busy: Option<Busy>,
    pub key: Option<String>,
    /// Why, in the proposer's words.
    pub reason: String,
}

/// What is wrong with an idempotency key, if anything.
///
/// # Errors
/// What would have been right.
pub fn check_key(at: &str, key: &str) -> Result<(), Error> {
    let good = (1..=KEY_BYTES).contains(&key.len()) && !key.chars().any(char::is_control);
    if good { Ok(()) } else { Err(Error::field(at, format!("a key is 1 to {KEY_BYTES} bytes of printable text"))) }
}

impl Request {
    /// Reads a body; what its TaskingCapability says of the parameters comes later.
    ///
    /// # Errors
    /// The member that is missing, unknown or not right.
    pub fn parse(body: &Value) -> Result<Self, Error> {
        let map = body
            .as_object()
            .ok_or_else(|| Error::field("", format!("an object is expected, not {}", kind_of(body))))?;
        if body.to_string().len() > BODY_BYTES {
            return Err(Error::bad_request(format!("A Task may have at most {BODY_BYTES} bytes.")));
        }
        let mut request = Self {
            parameters: Value::Null,
            capability: None,
            expires: None,
            expect: None,
            verify: None,
            hold: None,
            undo: None,
            busy: None,
            key: None,
            reason: String::new(),
        };
        for (name, value) in map {
            let at = format!("/{name}");
            match name.as_str() {
                "taskingParameters" => request.parameters = value.clone(),
                "TaskingCapability" => request.capability = Some(read(&at, value)?),
                "@lamppost.expires" => request.expires = Some(read(&at, value)?),
                "@lamppost.expect" => request.expect = Some(read(&at, value)?),
                "@lamppost.verify" => request.verify = Some(read(&at, value)?),
                "@lamppost.hold" => request.hold = Some(read(&at, value)?),
                "@lamppost.undo" => request.undo = Some(read(&at, value)?),
                "@lamppost.busy" => request.busy = Some(read(&at, value)?),
                "@lamppost.idempotencyKey" => {
                    let key: String = read(&at, value)?;
                    check_key(&at, &key)?;
                    request.key = Some(key);
                }
                "@lamppost.reason" => {
                    let reason: String = read(&at, value)?;
                    if reason.len() > REASON_BYTES || reason.contains('\0') {
                        return Err(Error::field(at, format!("at most {REASON_BYTES} bytes, and no NUL")));
                    }
                    reason.trim().clone_into(&mut request.reason);
                }
                // What an answer carries and the service alone writes.
                "creationTime" | "id" | schema::STATUS | schema::DUE | schema::HELD_UNTIL | schema::FALLBACK => {}
                name if name.contains("@iot.") => {}
                _ => {
                    let detail = "a Task has no such property; it has taskingParameters, TaskingCapability, and @lamppost.expires, expect, \
                                  verify, hold, undo, busy, reason and idempotencyKey";
                    return Err(Error::field(at, detail));
                }
            }
        }
        if request.parameters.is_null() {
            return Err(Error::field("/taskingParameters", "a Task needs it"));
        }
        Ok(request)
    }

    /// Of a Task that is there, its terms stay as they are: they are what it was proposed with.
    ///
    /// # Errors
    /// The member that would change something else.
    pub fn parameters_only(&self) -> Result<(), Error> {
        let others = [
            ("TaskingCapability", self.capability.is_some()),
            ("@lamppost.expires", self.expires.is_some()),
            ("@lamppost.expect", self.expect.is_some()),
            ("@lamppost.verify", self.verify.is_some()),
            ("@lamppost.hold", self.hold.is_some()),
            ("@lamppost.undo", self.undo.is_some()),
            ("@lamppost.busy", self.busy.is_some()),
            ("@lamppost.idempotencyKey", self.key.is_some()),
            ("@lamppost.reason", !self.reason.is_empty()),
        ];
        match others.iter().find(|(_, given)| *given) {
            Some((name, _)) => {
                Err(Error::field(format!("/{name}"), "of a Task that is there only taskingParameters change"))
            }
            None => Ok(()),
        }
    }

    /// What depends on the capability.
    ///
    /// # Errors
    /// The parameter that does not fit.
    pub fn check(&self, record: &Record, now: Timestamp) -> Result<(), Error> {
        record.check("/taskingParameters", &self.parameters)?;
        if let Some(undo) = &self.undo {
            record.check("/@lamppost.undo", &Value::Object(undo.clone()))?;
        }
        if let Some(hold) = &self.hold {
            check_hold("/@lamppost.hold", hold, record)?;
        }
        if let Some(expect) = &self.expect {
            tolerance("/@lamppost.expect/tolerance", expect.tolerance)?;
        }
        if let Some(verify) = &self.verify {
            tolerance("/@lamppost.verify/tolerance", verify.tolerance)?;
            let within =
                verify.seconds.ok_or_else(|| Error::field("/@lamppost.verify/seconds", "a read-back needs it"))?;
            seconds("/@lamppost.verify/seconds", within, 1)?;
        }
        match self.expires {
            Some(at) if at <= now || at > now.plus_secs(WEEK) => {
                Err(Error::field("/@lamppost.expires", "a time within the next seven days is expected"))
            }
            _ => Ok(()),
        }
    }
}

/// What the read-back shall be for a parameter's value.
pub fn expected(verify: &ReadBack, record: &Record, parameters: &Value) -> Option<Value> {
    let value = parameters.get(&verify.parameter)?;
    let name = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    if let Some(mapped) = verify.values.get(&name) {
        return Some(mapped.clone());
    }
    // A Datastream of truth observes true or false, one of numbers 1 or 0: without a mapping the value stands for itself.
    record.parameter(&verify.parameter).filter(|p| p.kind != Kind::Text).map(|_| value.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn terms_speak_of_the_parameters() {
        let parameters = json!({"type": "DataRecord", "field": [
            {"name": "speed", "type": "Count", "constraint": {"interval": [[0, 5]]}}]});
        let check = |tasking: Value| {
            let properties = json!({ "tasking": tasking });
            check_capability("", &parameters, properties.as_object().expect("object"))
        };
        let verify = json!({"Datastream": {"@iot.key": "a"}, "parameter": "speed", "seconds": 60});
        assert!(check(json!({"four_eyes": true, "busy": "refuse", "verify": verify, "undo": {"speed": 0}})).is_ok());
        for (bad, field) in [
            (json!({"foureyes": true}), "/properties/tasking"),
            (json!({"acknowledge_seconds": 0}), "/properties/tasking/acknowledge_seconds"),
            (json!({"undo": {"speed": 9}}), "/properties/tasking/undo/speed"),
            (json!({"hold": {"seconds": 60, "fallback": {}}}), "/properties/tasking/hold/fallback/speed"),
            (json!({"hold": {"seconds": 1, "fallback": {"speed": 0}}}), "/properties/tasking/hold/seconds"),
            (
                json!({"verify": {"Datastream": {"@iot.id": 1}, "parameter": "sped", "seconds": 60}}),
                "/properties/tasking/verify/parameter",
            ),
        ] {
            let Err(Error::Refused(problem)) = check(bad.clone()) else { panic!("{bad}") };
            assert_eq!(problem.errors[0].field, field, "{bad}");
        }
    }
}
