//! A request body, checked against the schema before anything is written. Every complaint names its field by JSON Pointer.

use std::sync::Arc;

use kernel::{Interval, Tenant, Timestamp};
use serde_json::{Map, Value, value::RawValue};

use super::{
    entity::Field,
    multi,
    schema::{Kind, Link, Schema, Source},
};
use crate::{
    Error,
    model::{EntityId, EntityType, ResultValue, raw},
};

/// Levels of JSON in a body; GeoJSON in a deep insert needs about 14.
const DEPTH: u32 = 32;
/// Entities that one deep insert may create.
const ENTITIES: usize = 10_000;
/// Bytes of a name, and of any other text.
const NAME_BYTES: usize = 1_000;
const TEXT_BYTES: usize = 100_000;

/// What a link in a body points at.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    Id(EntityId),
    /// `{"@iot.key": "…"}`: the natural key within the tenant.
    Key(String),
    New(Box<Draft>),
}

/// A checked representation of one entity, with everything inside it.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub entity: EntityType,
    /// Where it stands in the body; empty for the body itself.
    pub pointer: String,
    pub key: Option<String>,
    pub tenant: Option<Tenant>,
    pub public: Option<bool>,
    /// In the schema's order; `None` where the body says nothing.
    pub fields: Vec<Option<Field>>,
    /// In the schema's order.
    pub links: Vec<Vec<Target>>,
    /// Observations to be recorded once the entity exists.
    pub observations: Vec<ObservationDraft>,
}

/// An Observation whose Datastream or MultiDatastream may not exist yet.
#[derive(Clone, Debug)]
pub(crate) struct ObservationDraft {
    pub pointer: String,
    pub phenomenon: Option<Interval>,
    pub result_time: Option<Timestamp>,
    pub result: ResultValue,
    pub quality: Option<Arc<RawValue>>,
    pub valid: Option<Interval>,
    pub parameters: Option<Arc<RawValue>>,
    /// The Datastream or MultiDatastream, and which of the two it is.
    pub datastream: Option<(EntityType, Target)>,
    pub feature: Option<Target>,
}

/// What the body is for: a whole entity, or the part of one that shall change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    Create,
    /// PUT: every property is set; ties that are not named stay.
    Replace,
    /// PATCH.
    Change,
}

impl Draft {
    pub fn parse(entity: EntityType, body: &Value, purpose: Purpose) -> Result<Self, Error> {
        check_depth(body, DEPTH)?;
        Parser { left: ENTITIES, purpose }.draft(entity, body, String::new(), None)
    }
    pub fn links(&self, name: &str) -> &[Target] {
        Schema::of(self.entity).navigation(name).and_then(|(index, _)| self.links.get(index)).map_or(&[], Vec::as_slice)
    }
    pub fn at(&self, name: &str) -> String {
        format!("{}/{name}", self.pointer)
    }
}

impl ObservationDraft {
    /// A result and nothing else.
    pub fn number(result: f64) -> Self {
        Self {
            pointer: String::new(),
            phenomenon: None,
            result_time: None,
            result: ResultValue::Number(result),
            quality: None,
            valid: None,
            parameters: None,
            datastream: None,
            feature: None,
        }
    }
    pub fn parse(body: &Value) -> Result<Self, Error> {
        check_depth(body, DEPTH)?;
        Parser { left: ENTITIES, purpose: Purpose::Create }.observation(body, String::new(), false)
    }
    /// Whether it would be named as a row that sums up others ([`crate::observe::thin`]): it would take the place of one, and what that stood for would be lost.
    pub fn claims_sum(&self) -> bool {
        self.phenomenon.is_some_and(|p| !p.is_instant() && self.result_time == Some(p.end.plus_micros(1)))
    }
}

/// Refuses JSON that is nested deeper than anything sensible.
fn check_depth(value: &Value, depth: u32) -> Result<(), Error> {
    let Some(depth) = depth.checked_sub(1) else {
        return Err(Error::bad_request(format!("The body is nested more than {DEPTH} levels deep.")));
    };
    match value {
        Value::Array(items) => items.iter().try_for_each(|v| check_depth(v, depth)),
        Value::Object(map) => map.values().try_for_each(|v| check_depth(v, depth)),
        _ => Ok(()),
    }
}

pub(crate) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn wrong(pointer: &str, expected: &str, found: &Value) -> Error {
    Error::field(pointer, format!("{expected} is expected, not {}", kind_of(found)))
}

/// An instant; the fix is in the error.
pub(crate) fn instant(pointer: &str, value: &Value) -> Result<Timestamp, Error> {
    let text = value.as_str().ok_or_else(|| wrong(pointer, "a time such as \"2026-11-22T09:00:00Z\"", value))?;
    instant_of(pointer, text)
}
pub(super) fn instant_of(pointer: &str, text: &str) -> Result<Timestamp, Error> {
    let at: Timestamp = text.parse().map_err(|e: kernel::TimeError| Error::field(pointer, e.to_string()))?;
    in_range(pointer, at)
}
pub(crate) fn interval(pointer: &str, value: &Value) -> Result<Interval, Error> {
    let text = value.as_str().ok_or_else(|| wrong(pointer, "a time or an interval start/end", value))?;
    interval_of(pointer, text)
}
pub(super) fn interval_of(pointer: &str, text: &str) -> Result<Interval, Error> {
    let interval: Interval = text.parse().map_err(|e: kernel::TimeError| Error::field(pointer, e.to_string()))?;
    in_range(pointer, interval.start)?;
    in_range(pointer, interval.end)?;
    Ok(interval)
}
/// An offset may carry a time past the years that text can name.
fn in_range(pointer: &str, at: Timestamp) -> Result<Timestamp, Error> {
    let inside = (Timestamp::MIN..=Timestamp::MAX).contains(&at);
    if inside { Ok(at) } else { Err(Error::field(pointer, "the time lies outside the years 1 to 9999")) }
}

/// The `@iot.id` of a catalogue entity: a number, or the same as text.
pub(crate) fn entity_id(pointer: &str, value: &Value) -> Result<EntityId, Error> {
    let id = match value {
        Value::Number(n) => n.as_i64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    id.filter(|id| *id > 0)
        .map(EntityId)
        .ok_or_else(|| Error::field(pointer, "an id is a positive whole number, such as 42"))
}

/// Annotations and read-only names that clients send back from an answer.
fn ignored(name: &str) -> bool {
    name == "id" || name == "selfLink" || name.contains("@iot.")
}

struct Parser {
    left: usize,
    purpose: Purpose,
}

impl Parser {
    fn object<'v>(&mut self, value: &'v Value, pointer: &str) -> Result<&'v Map<String, Value>, Error> {
        let map = value.as_object().ok_or_else(|| wrong(pointer, "an object", value))?;
        self.left = self.left.checked_sub(1).ok_or_else(|| {
            Error::bad_request(format!("One request may create at most {ENTITIES} entities; send several requests."))
        })?;
        Ok(map)
    }

    /// `parent` is the navigation property of this entity that the place in the body already decides.
    fn draft(
        &mut self,
        entity: EntityType,
        body: &Value,
        pointer: String,
        parent: Option<&str>,
    ) -> Result<Draft, Error> {
        if entity == EntityType::Task {
            let detail = "a Task is created alone, with POST /v1.1/Tasks or /v1.1/TaskingCapabilities(1)/Tasks (17-079 section 8)";
            return Err(Error::field(pointer, detail));
        }
        let schema = Schema::of(entity);
        let map = self.object(body, &pointer)?;
        let mut draft = Draft {
            entity,
            key: None,
            tenant: None,
            public: None,
            fields: vec![None; schema.properties.len()],
            links: vec![Vec::new(); schema.navigation.len()],
            observations: Vec::new(),
            pointer,
        };
        for (name, value) in map {
            let at = draft.at(name);
            match name.as_str() {
                "@iot.key" => draft.key = Some(key(&at, value)?),
                "@lamppost.tenant" => {
                    let slug = value.as_str().ok_or_else(|| wrong(&at, "a tenant", value))?;
                    draft.tenant = Some(Tenant::parse(slug).map_err(|e| Error::field(&at, e))?);
                }
                "@lamppost.public" => {
                    draft.public = Some(value.as_bool().ok_or_else(|| wrong(&at, "true or false", value))?);
                }
                name if ignored(name) => {}
                name => self.member(schema, &mut draft, name, value, &at)?,
            }
        }
        self.complete(schema, &mut draft, parent)?;
        Ok(draft)
    }

    fn member(
        &mut self,
        schema: &'static Schema,
        draft: &mut Draft,
        name: &str,
        value: &Value,
        at: &str,
    ) -> Result<(), Error> {
        if let Some((index, property)) = schema.property(name) {
            if !matches!(property.source, Source::Column(_)) {
                return Ok(());
            }
            draft.fields[index] = Some(field(at, name, property.kind, property.required, value)?);
            if schema.entity == EntityType::MultiDatastream {
                multi::check(at, name, value)?;
            }
            return Ok(());
        }
        let Some((index, navigation)) = schema.navigation(name) else {
            let entity = schema.entity.singular();
            return Err(Error::field(at, format!("a {entity} has no such property; it has {}", schema.names())));
        };
        if navigation.link == Link::Series {
            if self.purpose != Purpose::Create {
                return Err(Error::field(at, "Observations are added with POST, not as part of a change"));
            }
            let items = value.as_array().ok_or_else(|| wrong(at, "an array", value))?;
            for (i, item) in items.iter().enumerate() {
                let observation = self.observation(item, format!("{at}/{i}"), true)?;
                draft.observations.push(observation);
            }
            return Ok(());
        }
        if navigation.target == EntityType::Task {
            let detail = "a Task stays with the TaskingCapability that it was created for; create Tasks with POST";
            return Err(Error::field(at, detail));
        }
        let targets = if navigation.to_many() {
            let items = value.as_array().ok_or_else(|| wrong(at, "an array", value))?;
            if navigation.is_list() {
                multi::bounded(at, items.len())?;
            }
            let read = |(i, item): (usize, &Value)| self.target(navigation, item, format!("{at}/{i}"));
            items.iter().enumerate().map(read).collect::<Result<_, _>>()?
        } else {
            vec![self.target(navigation, value, at.to_owned())?]
        };
        draft.links[index] = targets;
        Ok(())
    }

    fn target(
        &mut self,
        navigation: &'static super::schema::Navigation,
        value: &Value,
        at: String,
    ) -> Result<Target, Error> {
        if let Some(reference) = reference(value, &at)? {
            return Ok(reference);
        }
        if self.purpose != Purpose::Create {
            return Err(Error::field(
                at,
                "a change may only link to what exists: {\"@iot.id\": 42} (18-088 section 10.3.1); create new entities with POST",
            ));
        }
        let inverse = Some(navigation.inverse);
        Ok(Target::New(Box::new(self.draft(navigation.target, value, at, inverse)?)))
    }

    /// Whether everything is there that the purpose needs.
    fn complete(&self, schema: &'static Schema, draft: &mut Draft, parent: Option<&str>) -> Result<(), Error> {
        if self.purpose == Purpose::Change {
            return Ok(());
        }
        for (index, property) in schema.properties.iter().enumerate() {
            if draft.fields[index].is_some() || !matches!(property.source, Source::Column(_)) {
                continue;
            }
            if property.required {
                return Err(Error::field(draft.at(property.name), format!("a {} needs it", schema.entity.singular())));
            }
            draft.fields[index] = Some(Field::Null);
        }
        if self.purpose == Purpose::Create {
            for (index, navigation) in schema.navigation.iter().enumerate() {
                let given = !draft.links[index].is_empty() || parent == Some(navigation.name);
                // At the top level the address may supply the tie (Things(1)/Datastreams); the catalogue checks again.
                if navigation.required && !given && !draft.pointer.is_empty() {
                    return Err(missing(schema.entity, navigation.name, &draft.pointer));
                }
            }
        }
        Ok(())
    }

    /// `inside` an entity that supplies the tie.
    fn observation(&mut self, body: &Value, pointer: String, inside: bool) -> Result<ObservationDraft, Error> {
        let map = self.object(body, &pointer)?;
        let mut draft = ObservationDraft { pointer, ..ObservationDraft::number(f64::NAN) };
        let mut has_result = false;
        for (name, value) in map {
            let at = format!("{}/{name}", draft.pointer);
            let absent = value.is_null();
            match name.as_str() {
                "result" => {
                    draft.result = result(value);
                    has_result = true;
                }
                "phenomenonTime" | "resultTime" | "validTime" | "resultQuality" | "parameters" if absent => {}
                "phenomenonTime" => draft.phenomenon = Some(interval(&at, value)?),
                "resultTime" => draft.result_time = Some(instant(&at, value)?),
                "validTime" => draft.valid = Some(interval(&at, value)?),
                "resultQuality" => draft.quality = Some(raw(value)),
                "parameters" if value.is_object() => draft.parameters = Some(raw(value)),
                "parameters" => return Err(wrong(&at, "an object", value)),
                "Datastream" | "MultiDatastream" if draft.datastream.is_some() => {
                    let detail = "an Observation belongs to a Datastream or to a MultiDatastream, not to both (18-088 section 12)";
                    return Err(Error::field(at, detail));
                }
                "Datastream" => {
                    draft.datastream = Some((EntityType::Datastream, self.end(EntityType::Datastream, value, at)?));
                }
                "MultiDatastream" => {
                    let target = self.end(EntityType::MultiDatastream, value, at)?;
                    draft.datastream = Some((EntityType::MultiDatastream, target));
                }
                "FeatureOfInterest" => draft.feature = Some(self.end(EntityType::FeatureOfInterest, value, at)?),
                name if ignored(name) => {}
                _ => {
                    let names = Schema::of(EntityType::Observation).names();
                    return Err(Error::field(at, format!("an Observation has no such property; it has {names}")));
                }
            }
        }
        if !has_result {
            return Err(Error::field(format!("{}/result", draft.pointer), "an Observation needs it"));
        }
        if draft.claims_sum() {
            let detail = "a microsecond after the end of phenomenonTime is kept for Observations that sum up others; leave it out";
            return Err(Error::field(format!("{}/resultTime", draft.pointer), detail));
        }
        if !inside && draft.datastream.is_none() && !draft.pointer.is_empty() {
            return Err(missing(EntityType::Observation, "Datastream", &draft.pointer));
        }
        Ok(draft)
    }

    fn end(&mut self, entity: EntityType, value: &Value, at: String) -> Result<Target, Error> {
        match reference(value, &at)? {
            Some(reference) => Ok(reference),
            None => Ok(Target::New(Box::new(self.draft(entity, value, at, None)?))),
        }
    }
}

pub(crate) fn missing(entity: EntityType, navigation: &str, pointer: &str) -> Error {
    let entity = entity.singular();
    Error::field(
        format!("{pointer}/{navigation}"),
        format!(
            "a {entity} must link to its {navigation}: {{\"@iot.id\": 42}}, or the entity itself (18-088 table 24)"
        ),
    )
}

/// A result as it is stored: numbers as numbers, the rest as JSON.
pub(crate) fn result(value: &Value) -> ResultValue {
    match value.as_f64() {
        Some(number) if number.is_finite() => ResultValue::Number(number),
        _ => ResultValue::Json(raw(value)),
    }
}

fn reference(value: &Value, at: &str) -> Result<Option<Target>, Error> {
    let map = value.as_object().ok_or_else(|| wrong(at, "an object such as {\"@iot.id\": 42}", value))?;
    if let Some(id) = map.get("@iot.id").or_else(|| map.get("id").filter(|_| map.len() == 1)) {
        // A representation that carries an id and its content is a new entity whose id is ignored (18-088 section 10.2.1.2),
        // unless the rest is only links and annotations.
        if map.keys().all(|name| ignored(name)) {
            return Ok(Some(Target::Id(entity_id(&format!("{at}/@iot.id"), id)?)));
        }
    }
    match map.get("@iot.key") {
        Some(key_value) if map.len() == 1 => Ok(Some(Target::Key(key(&format!("{at}/@iot.key"), key_value)?))),
        _ => Ok(None),
    }
}

fn key(at: &str, value: &Value) -> Result<String, Error> {
    let text = value.as_str().ok_or_else(|| wrong(at, "a string", value))?;
    check_key(text).map_err(|e| Error::field(at, e))?;
    Ok(text.to_owned())
}

pub(crate) fn check_key(key: &str) -> Result<(), String> {
    if (1..=200).contains(&key.len()) && !key.chars().any(char::is_control) {
        Ok(())
    } else {
        Err("a key is 1 to 200 bytes of printable text".to_owned())
    }
}

fn field(at: &str, name: &str, kind: Kind, required: bool, value: &Value) -> Result<Field, Error> {
    if value.is_null() {
        return if required { Err(Error::field(at, "it is required and cannot be null")) } else { Ok(Field::Null) };
    }
    Ok(match kind {
        Kind::Text => {
            let text = value.as_str().ok_or_else(|| wrong(at, "a string", value))?;
            let most = if name == "name" { NAME_BYTES } else { TEXT_BYTES };
            if text.len() > most {
                return Err(Error::field(at, format!("it may have at most {most} bytes, not {}", text.len())));
            }
            if text.contains('\0') {
                return Err(Error::field(at, "it contains a NUL character"));
            }
            Field::Text(text.to_owned())
        }
        Kind::Object => {
            let map = value.as_object().ok_or_else(|| wrong(at, "an object", value))?;
            if name == "unitOfMeasurement" {
                unit(at, map)?;
            }
            Field::Json(json_text(at, value)?)
        }
        Kind::Json => Field::Json(json_text(at, value)?),
        Kind::Time | Kind::Interval => Field::Time(instant(at, value)?),
    })
}

/// Escapes keep NUL out of the text itself, so any JSON can be stored.
fn json_text(at: &str, value: &Value) -> Result<String, Error> {
    const MOST: usize = 4 << 20;
    let text = value.to_string();
    if text.len() > MOST { Err(Error::field(at, format!("it may have at most {MOST} bytes"))) } else { Ok(text) }
}

/// 18-088 table 8: three members, each a string or null.
pub(super) fn unit(at: &str, map: &Map<String, Value>) -> Result<(), Error> {
    for member in ["name", "symbol", "definition"] {
        match map.get(member) {
            Some(Value::String(_) | Value::Null) => {}
            Some(other) => return Err(wrong(&format!("{at}/{member}"), "a string or null", other)),
            None => {
                return Err(Error::field(format!("{at}/{member}"), "it is required; null when there is no unit"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refused(entity: EntityType, body: Value, field: &str) {
        match Draft::parse(entity, &body, Purpose::Create) {
            Err(Error::Refused(problem)) => {
                assert_eq!(problem.errors.first().map(|e| e.field.as_str()), Some(field), "{body} {problem}");
            }
            other => panic!("{body}: {other:?}"),
        }
    }

    #[test]
    fn complaints_name_the_field() {
        use EntityType as E;
        refused(E::Thing, json!({"description": "d"}), "/name");
        refused(E::Thing, json!({"name": 1, "description": "d"}), "/name");
        refused(E::Thing, json!({"name": "n", "description": null}), "/description");
        refused(E::Thing, json!({"name": "n", "description": "d", "properties": []}), "/properties");
        refused(E::Thing, json!({"name": "n", "description": "d", "colour": "red"}), "/colour");
        refused(
            E::Thing,
            json!({"name": "n", "description": "d", "Locations": [{"@iot.id": -1}]}),
            "/Locations/0/@iot.id",
        );
        let datastream = json!({"name": "n", "description": "d", "observationType": "x",
            "unitOfMeasurement": {"name": "a", "symbol": 5, "definition": null}});
        refused(E::Datastream, datastream, "/unitOfMeasurement/symbol");
        let nested = json!({"name": "n", "description": "d", "Datastreams": [{"name": "n", "description": "d", "observationType": "x",
            "unitOfMeasurement": {"name": null, "symbol": null, "definition": null}, "Sensor": {"@iot.id": 1}}]});
        refused(E::Thing, nested, "/Datastreams/0/ObservedProperty");
        refused(E::HistoricalLocation, json!({"time": "yesterday"}), "/time");
    }

    #[test]
    fn answers_can_be_sent_back() {
        let body = json!({"@iot.id": 5, "@iot.selfLink": "x", "Datastreams@iot.navigationLink": "x", "name": "n", "description": "d"});
        assert!(Draft::parse(EntityType::Thing, &body, Purpose::Create).is_ok());
        let body = json!({"phenomenonTime": "x", "name": "n"});
        assert!(
            Draft::parse(EntityType::Datastream, &body, Purpose::Change).is_ok(),
            "computed properties are ignored"
        );
    }

    #[test]
    fn deep_bodies_are_refused() {
        let mut value = json!(1);
        for _ in 0..100 {
            value = json!([value]);
        }
        let body = json!({"name": "n", "description": "d", "properties": {"x": value}});
        assert!(Draft::parse(EntityType::Thing, &body, Purpose::Create).is_err());
    }
}
