//! What a Task's parameters may be: SWE Common 2.0 (08-094r1) in its JSON encoding (17-011r2), as far as a command needs it: a DataRecord of
//! Quantity, Count, Boolean, Text, Category and Time with their constraints, of DataRecords, and of DataChoices. Pure: JSON in, complaints out.

use std::collections::BTreeMap;

use kernel::{Text, Timestamp};
use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value};

use crate::{Error, catalog::kind_of};

/// Fields of one DataRecord with all that is inside it, and values or intervals of one constraint.
const FIELDS: usize = 64;
const ALLOWED: usize = 1_000;
/// DataRecords and DataChoices inside each other.
const DEPTH: usize = 3;
/// Bytes of a name, of a text that a Task may give, and of a pattern.
const NAME_BYTES: usize = 100;
const TEXT_BYTES: usize = 4_000;
const PATTERN_BYTES: usize = 500;
/// Bytes that a compiled pattern may take.
const PATTERN_SIZE: usize = 256 << 10;

/// A parameter's type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Quantity,
    Count,
    Boolean,
    Text,
    Category,
    Time,
    /// A DataRecord: all of its fields.
    Record,
    /// A DataChoice: exactly one of its items.
    Choice,
}

impl Kind {
    fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "Quantity" => Self::Quantity,
            "Count" => Self::Count,
            "Boolean" => Self::Boolean,
            "Text" => Self::Text,
            "Category" => Self::Category,
            "Time" => Self::Time,
            "DataRecord" => Self::Record,
            "DataChoice" => Self::Choice,
            _ => return None,
        })
    }
    const fn expects(self) -> &'static str {
        match self {
            Self::Quantity => "a number",
            Self::Count => "a whole number",
            Self::Boolean => "true or false",
            Self::Text | Self::Category => "a string",
            Self::Time => "a time such as 2026-11-22T17:05:00Z",
            Self::Record => "an object with a member for each field",
            Self::Choice => "an object with one member: the item that is chosen",
        }
    }
    const fn is_number(self) -> bool {
        matches!(self, Self::Quantity | Self::Count)
    }
    /// Whether it has parameters inside it.
    pub const fn is_aggregate(self) -> bool {
        matches!(self, Self::Record | Self::Choice)
    }
}

/// AllowedValues (numbers), AllowedTokens (texts) or AllowedTimes. Empty admits everything.
#[derive(Clone, Debug, Default)]
pub struct Constraint {
    pub values: Vec<f64>,
    /// Both ends inclusive.
    pub intervals: Vec<(f64, f64)>,
    pub tokens: Vec<String>,
    pub times: Vec<Timestamp>,
    /// Both ends inclusive.
    pub periods: Vec<(Timestamp, Timestamp)>,
    pattern: Option<Regex>,
}

/// One field of the record.
#[derive(Clone, Debug)]
pub struct Parameter {
    pub name: String,
    pub label: Option<String>,
    pub description: Option<String>,
    /// The unit's symbol, else its code, such as `%`.
    pub unit: Option<String>,
    pub kind: Kind,
    /// Whether a Task may leave it out.
    pub optional: bool,
    pub constraint: Constraint,
    /// The fields of a DataRecord, the items of a DataChoice.
    pub inside: Vec<Self>,
    /// The label in the city's languages (`@lamppost.label`), and those of its tokens (`@lamppost.tokens`): a label of SWE Common has one.
    named: Option<Text>,
    token_names: BTreeMap<String, Text>,
}

/// A TaskingCapability's `taskingParameters`.
#[derive(Clone, Debug)]
pub struct Record {
    pub parameters: Vec<Parameter>,
}

fn wrong(at: &str, expected: &str, found: &Value) -> Error {
    Error::field(at, format!("{expected} is expected, not {}", kind_of(found)))
}

/// A member by its name in the standard, or by its plural, which 17-011r2 uses in places.
fn member<'v>(map: &'v Map<String, Value>, name: &str) -> Option<&'v Value> {
    map.get(name).or_else(|| map.get(&format!("{name}s"))).filter(|v| !v.is_null())
}

fn text(at: &str, map: &Map<String, Value>, name: &str, most: usize) -> Result<Option<String>, Error> {
    match map.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.len() <= most => Ok(Some(text.clone())),
        Some(Value::String(_)) => {
            Err(Error::field(format!("{at}/{name}"), format!("it may have at most {most} bytes")))
        }
        Some(other) => Err(wrong(&format!("{at}/{name}"), "a string", other)),
    }
}

fn items<'v>(at: &str, value: &'v Value, most: usize) -> Result<&'v [Value], Error> {
    let items = value.as_array().ok_or_else(|| wrong(at, "an array", value))?;
    if (1..=most).contains(&items.len()) {
        Ok(items)
    } else {
        Err(Error::field(at, format!("it has 1 to {most} elements")))
    }
}

fn number(at: &str, value: &Value) -> Result<f64, Error> {
    value.as_f64().filter(|n| n.is_finite()).ok_or_else(|| wrong(at, "a number", value))
}

fn in_languages(at: &str, value: &Value) -> Result<Text, Error> {
    serde_json::from_value(value.clone())
        .map_err(|_| Error::field(at, "a text, or an object with en, zh-hant and zh-hans, is expected"))
}

fn moment(at: &str, value: &Value) -> Result<Timestamp, Error> {
    let parsed = value.as_str().and_then(|text| text.parse().ok());
    parsed.ok_or_else(|| wrong(at, "a time such as 2026-11-22T17:05:00Z", value))
}

impl Record {
    /// Reads a declaration that stands at `at`.
    ///
    /// # Errors
    /// What is not right, with its place.
    pub fn parse(at: &str, value: &Value) -> Result<Self, Error> {
        let map = value.as_object().ok_or_else(|| wrong(at, "an object", value))?;
        if map.get("type").and_then(Value::as_str) != Some("DataRecord") {
            return Err(Error::field(
                format!("{at}/type"),
                "\"DataRecord\" is expected: the parameters are its fields",
            ));
        }
        let mut left = FIELDS;
        Ok(Self { parameters: parse_all(at, map, "field", 1, &mut left)? })
    }

    pub fn parameter(&self, name: &str) -> Option<&Parameter> {
        self.parameters.iter().find(|p| p.name == name)
    }

    /// Whether `values`, which stand at `at`, are what a Task may ask for.
    ///
    /// # Errors
    /// The first parameter that is missing, unknown, of another type or not allowed.
    pub fn check(&self, at: &str, values: &Value) -> Result<(), Error> {
        let map = values.as_object().ok_or_else(|| wrong(at, "an object with a member for each parameter", values))?;
        check_all(&self.parameters, at, map)
    }
}

/// The fields of a DataRecord or the items of a DataChoice. `left` is how many there may still be.
fn parse_all(
    at: &str,
    map: &Map<String, Value>,
    name: &str,
    depth: usize,
    left: &mut usize,
) -> Result<Vec<Parameter>, Error> {
    let place = format!("{at}/{name}");
    if depth > DEPTH {
        return Err(Error::field(place, format!("at most {DEPTH} records and choices stand inside each other")));
    }
    let fields = member(map, name).ok_or_else(|| Error::field(&place, format!("there is no {name} here")))?;
    let mut parameters: Vec<Parameter> = Vec::new();
    for (i, field) in items(&place, fields, FIELDS)?.iter().enumerate() {
        let place = format!("{place}/{i}");
        *left = left
            .checked_sub(1)
            .ok_or_else(|| Error::field(&place, format!("a TaskingCapability has at most {FIELDS} parameters")))?;
        let parameter = Parameter::parse(&place, field, depth, left)?;
        if parameters.iter().any(|p| p.name == parameter.name) {
            return Err(Error::field(format!("{place}/name"), "another parameter has this name"));
        }
        parameters.push(parameter);
    }
    Ok(parameters)
}

fn check_all(parameters: &[Parameter], at: &str, map: &Map<String, Value>) -> Result<(), Error> {
    unknown(parameters, at, map)?;
    for parameter in parameters {
        let place = format!("{at}/{}", parameter.name);
        match map.get(&parameter.name) {
            None if parameter.optional => {}
            None => return Err(Error::field(place, "the TaskingCapability needs this parameter")),
            Some(value) => parameter.check(&place, value)?,
        }
    }
    Ok(())
}

fn unknown(parameters: &[Parameter], at: &str, map: &Map<String, Value>) -> Result<(), Error> {
    let Some(unknown) = map.keys().find(|name| parameters.iter().all(|p| p.name != **name)) else { return Ok(()) };
    let names: Vec<&str> = parameters.iter().map(|p| p.name.as_str()).collect();
    let shown: String = unknown.chars().take(NAME_BYTES).collect();
    let detail = format!("the TaskingCapability has no such parameter; it has {}", names.join(", "));
    Err(Error::field(format!("{at}/{shown}"), detail))
}

impl Parameter {
    fn parse(at: &str, value: &Value, depth: usize, left: &mut usize) -> Result<Self, Error> {
        let map = value.as_object().ok_or_else(|| wrong(at, "an object", value))?;
        let name = text(at, map, "name", NAME_BYTES)?.filter(|n| !n.is_empty() && !n.chars().any(char::is_control));
        let name = name.ok_or_else(|| Error::field(format!("{at}/name"), "a parameter needs a name"))?;
        let kind = map.get("type").and_then(Value::as_str).and_then(Kind::from_name).ok_or_else(|| {
            let detail = "Quantity, Count, Boolean, Text, Category, Time, DataRecord or DataChoice is expected";
            Error::field(format!("{at}/type"), detail)
        })?;
        let optional = match map.get("optional") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(optional)) => *optional,
            Some(other) => return Err(wrong(&format!("{at}/optional"), "true or false", other)),
        };
        let constraint = match member(map, "constraint") {
            Some(value) => Constraint::parse(&format!("{at}/constraint"), kind, value)?,
            None => Constraint::default(),
        };
        let inside = match kind {
            Kind::Record => parse_all(at, map, "field", depth + 1, left)?,
            Kind::Choice => parse_all(at, map, "item", depth + 1, left)?,
            _ => Vec::new(),
        };
        let unit = match map.get("uom") {
            // The symbol is for people, the code (UCUM) for programs.
            Some(Value::Object(uom)) => match text(&format!("{at}/uom"), uom, "symbol", NAME_BYTES)? {
                Some(symbol) => Some(symbol),
                None => text(&format!("{at}/uom"), uom, "code", NAME_BYTES)?,
            },
            None | Some(Value::Null) => None,
            Some(other) => return Err(wrong(&format!("{at}/uom"), "an object such as {\"code\": \"m3/h\"}", other)),
        };
        let named = match map.get("@lamppost.label").filter(|v| !v.is_null()) {
            Some(value) => Some(in_languages(&format!("{at}/@lamppost.label"), value)?),
            None => None,
        };
        let mut token_names = BTreeMap::new();
        if let Some(tokens) = map.get("@lamppost.tokens").filter(|v| !v.is_null()) {
            let place = format!("{at}/@lamppost.tokens");
            let tokens = tokens.as_object().filter(|t| t.len() <= ALLOWED);
            let tokens =
                tokens.ok_or_else(|| Error::field(&place, "an object with a text for each token is expected"))?;
            for (token, text) in tokens {
                token_names.insert(token.clone(), in_languages(&format!("{place}/{token}"), text)?);
            }
        }
        let (label, description) = (text(at, map, "label", 1_000)?, text(at, map, "description", 10_000)?);
        Ok(Self { name, label, description, unit, kind, optional, constraint, inside, named, token_names })
    }

    /// The same, but that it may be left out, or must not.
    #[must_use]
    pub fn as_optional(&self, optional: bool) -> Self {
        Self { optional, ..self.clone() }
    }
    /// What people call it.
    pub fn title(&self) -> Text {
        self.named.clone().unwrap_or_else(|| Text {
            en: self.label.clone().unwrap_or_else(|| self.name.clone()),
            zh_hant: None,
            zh_hans: None,
        })
    }
    /// What people call one of its tokens.
    pub fn token_title(&self, token: &str) -> Text {
        let named = self.token_names.get(token).cloned();
        named.unwrap_or_else(|| Text { en: token.to_owned(), zh_hant: None, zh_hans: None })
    }

    /// Whether one value fits.
    ///
    /// # Errors
    /// What would have been right.
    pub fn check(&self, at: &str, value: &Value) -> Result<(), Error> {
        let expected = || wrong(at, self.kind.expects(), value);
        match self.kind {
            Kind::Boolean => value.as_bool().map(|_| ()).ok_or_else(expected),
            Kind::Quantity => {
                let number = value.as_f64().filter(|n| n.is_finite()).ok_or_else(expected)?;
                self.constraint.number(at, number)
            }
            Kind::Count => {
                let whole = value.as_f64().filter(|n| n.fract() == 0.0 && n.abs() < 9e15).ok_or_else(expected)?;
                self.constraint.number(at, whole)
            }
            Kind::Time => {
                let at_time = value.as_str().and_then(|t| t.parse::<Timestamp>().ok()).ok_or_else(expected)?;
                self.constraint.time(at, at_time)
            }
            Kind::Record => check_all(&self.inside, at, value.as_object().ok_or_else(expected)?),
            Kind::Choice => {
                let map = value.as_object().filter(|map| !map.is_empty()).ok_or_else(expected)?;
                unknown(&self.inside, at, map)?;
                let mut chosen = self.inside.iter().filter_map(|item| Some((item, map.get(&item.name)?)));
                match (chosen.next(), chosen.next()) {
                    (Some((item, value)), None) => item.check(&format!("{at}/{}", item.name), value),
                    _ => Err(Error::field(at, "exactly one of its items is chosen")),
                }
            }
            Kind::Text | Kind::Category => {
                let text = value.as_str().ok_or_else(expected)?;
                if text.len() > TEXT_BYTES || text.contains('\0') {
                    return Err(Error::field(at, format!("it has at most {TEXT_BYTES} bytes, and no NUL")));
                }
                self.constraint.token(at, text)
            }
        }
    }
}

impl Constraint {
    fn parse(at: &str, kind: Kind, value: &Value) -> Result<Self, Error> {
        let map = value.as_object().ok_or_else(|| wrong(at, "an object", value))?;
        let expected = match kind {
            Kind::Time => "AllowedTimes",
            kind if kind.is_number() => "AllowedValues",
            _ => "AllowedTokens",
        };
        if kind == Kind::Boolean || kind.is_aggregate() {
            return Err(Error::field(at, "only numbers, texts and times have a constraint"));
        }
        if map.get("type").and_then(Value::as_str).is_some_and(|name| name != expected) {
            return Err(Error::field(format!("{at}/type"), format!("{expected} is expected of this type")));
        }
        let mut constraint = Self::default();
        if let Some(values) = member(map, "value") {
            let place = format!("{at}/value");
            for (i, value) in items(&place, values, ALLOWED)?.iter().enumerate() {
                let place = format!("{place}/{i}");
                if kind == Kind::Time {
                    constraint.times.push(moment(&place, value)?);
                } else if kind.is_number() {
                    constraint.values.push(number(&place, value)?);
                } else {
                    let token = value.as_str().ok_or_else(|| wrong(&place, "a string", value))?;
                    constraint.tokens.push(token.to_owned());
                }
            }
        }
        if let Some(intervals) = member(map, "interval") {
            let place = format!("{at}/interval");
            if !kind.is_number() && kind != Kind::Time {
                return Err(Error::field(place, "only numbers and times have intervals"));
            }
            for (i, pair) in items(&place, intervals, ALLOWED)?.iter().enumerate() {
                let place = format!("{place}/{i}");
                let [low, high] = items(&place, pair, 2)? else {
                    return Err(Error::field(place, "an interval has two ends: [0, 100]"));
                };
                if kind == Kind::Time {
                    let (low, high) = (moment(&place, low)?, moment(&place, high)?);
                    if low > high {
                        return Err(Error::field(place, "the earlier end comes first"));
                    }
                    constraint.periods.push((low, high));
                    continue;
                }
                let (low, high) = (number(&place, low)?, number(&place, high)?);
                if low > high {
                    return Err(Error::field(place, "the lower end comes first"));
                }
                constraint.intervals.push((low, high));
            }
        }
        if let Some(pattern) = map.get("pattern") {
            let place = format!("{at}/pattern");
            let text = pattern.as_str().ok_or_else(|| wrong(&place, "a string", pattern))?;
            if !matches!(kind, Kind::Text | Kind::Category) || text.len() > PATTERN_BYTES {
                return Err(Error::field(
                    place,
                    format!("a pattern is of a text, and has at most {PATTERN_BYTES} bytes"),
                ));
            }
            // The whole value must match, as in XML Schema, from which SWE Common takes its patterns.
            let compiled = RegexBuilder::new(&format!("^(?:{text})$")).size_limit(PATTERN_SIZE).build();
            constraint.pattern = Some(compiled.map_err(|_| Error::field(place, "it is not a regular expression"))?);
        }
        Ok(constraint)
    }

    fn number(&self, at: &str, number: f64) -> Result<(), Error> {
        let free = self.values.is_empty() && self.intervals.is_empty();
        // An allowed value is meant exactly as it is written.
        let listed = self.values.contains(&number);
        if free || listed || self.intervals.iter().any(|(low, high)| (*low..=*high).contains(&number)) {
            return Ok(());
        }
        let mut allowed: Vec<String> = self.intervals.iter().map(|(low, high)| format!("{low} to {high}")).collect();
        allowed.extend(self.values.iter().map(f64::to_string));
        allowed.truncate(20);
        Err(Error::field(at, format!("{number} is not allowed; it is {}", allowed.join(" or "))))
    }

    fn time(&self, at: &str, time: Timestamp) -> Result<(), Error> {
        let free = self.times.is_empty() && self.periods.is_empty();
        let within = |(from, to): &(Timestamp, Timestamp)| (*from..=*to).contains(&time);
        if free || self.times.contains(&time) || self.periods.iter().any(within) {
            return Ok(());
        }
        let mut allowed: Vec<String> = self.periods.iter().map(|(from, to)| format!("{from} to {to}")).collect();
        allowed.extend(self.times.iter().map(ToString::to_string));
        allowed.truncate(20);
        Err(Error::field(at, format!("{time} is not allowed; it is {}", allowed.join(" or "))))
    }

    fn token(&self, at: &str, text: &str) -> Result<(), Error> {
        let listed = self.tokens.is_empty() || self.tokens.iter().any(|t| t == text);
        if listed && self.pattern.as_ref().is_none_or(|p| p.is_match(text)) {
            return Ok(());
        }
        if !self.tokens.is_empty() {
            let shown: Vec<&str> = self.tokens.iter().take(20).map(String::as_str).collect();
            return Err(Error::field(at, format!("it is not an allowed token; it is {}", shown.join(" or "))));
        }
        Err(Error::field(at, "it does not have the form that the TaskingCapability's pattern asks for"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn record() -> Record {
        let declared = json!({"type": "DataRecord", "field": [
            {"name": "speed", "type": "Quantity", "uom": {"code": "%"},
             "constraint": {"type": "AllowedValues", "interval": [[0, 80]], "value": [100]}},
            {"name": "steps", "type": "Count", "optional": true},
            {"name": "on", "type": "Boolean", "optional": true},
            {"name": "mode", "type": "Category", "optional": true, "constraint": {"type": "AllowedTokens", "value": ["day", "night"]}},
            {"name": "colour", "type": "Text", "optional": true,
             "constraint": {"type": "AllowedTokens", "pattern": "^#([A-Fa-f0-9]{6}|[A-Fa-f0-9]{3})$"}},
        ]});
        Record::parse("", &declared).expect("a record")
    }

    fn refused(result: Result<impl std::fmt::Debug, Error>, field: &str) {
        match result {
            Err(Error::Refused(problem)) => assert_eq!(problem.errors[0].field, field, "{problem}"),
            other => panic!("{field}: {other:?}"),
        }
    }

    #[test]
    fn complaints_name_the_parameter() {
        let record = record();
        for good in [
            json!({"speed": 0}),
            json!({"speed": 80.0}),
            json!({"speed": 100}),
            json!({"speed": 1, "steps": -3, "on": true, "mode": "night", "colour": "#0fA"}),
        ] {
            record.check("", &good).unwrap_or_else(|e| panic!("{good}: {e}"));
        }
        for (bad, field) in [
            (json!({}), "/speed"),
            (json!({"speed": null}), "/speed"),
            (json!({"speed": "1"}), "/speed"),
            (json!({"speed": 80.1}), "/speed"),
            (json!({"speed": -1}), "/speed"),
            (json!({"speed": 1, "colour": "red"}), "/colour"),
            (json!({"speed": 1, "colour": "x#fff"}), "/colour"),
            (json!({"speed": 1, "mode": "noon"}), "/mode"),
            (json!({"speed": 1, "on": 1}), "/on"),
            (json!({"speed": 1, "steps": 1.5}), "/steps"),
            (json!({"speed": 1, "sped": 1}), "/sped"),
            (json!([1]), ""),
        ] {
            refused(record.check("", &bad), field);
        }
    }

    #[test]
    fn declarations_are_checked() {
        let one = |field: Value| Record::parse("", &json!({"type": "DataRecord", "field": [field]}));
        refused(Record::parse("", &json!({"type": "DataArray"})), "/type");
        refused(Record::parse("", &json!({"type": "DataRecord"})), "/field");
        refused(Record::parse("", &json!({"type": "DataRecord", "field": []})), "/field");
        refused(one(json!({"type": "Count"})), "/field/0/name");
        refused(one(json!({"name": "a", "type": "Matrix"})), "/field/0/type");
        let constrained =
            |kind: &str, constraint: Value| one(json!({"name": "a", "type": kind, "constraint": constraint}));
        refused(constrained("Count", json!({"type": "AllowedTokens"})), "/field/0/constraint/type");
        refused(constrained("Count", json!({"interval": [[2, 1]]})), "/field/0/constraint/interval/0");
        refused(constrained("Text", json!({"pattern": "("})), "/field/0/constraint/pattern");
        refused(constrained("Boolean", json!({"value": [true]})), "/field/0/constraint");
        let twice =
            json!({"type": "DataRecord", "fields": [{"name": "a", "type": "Count"}, {"name": "a", "type": "Count"}]});
        refused(Record::parse("", &twice), "/field/1/name");
    }

    fn deep() -> Record {
        let declared = json!({"type": "DataRecord", "field": [
            {"name": "from", "type": "Time", "optional": true,
             "constraint": {"type": "AllowedTimes", "interval": [["2026-01-01T00:00:00Z", "2026-12-31T00:00:00Z"]]}},
            {"name": "mode", "type": "DataChoice", "item": [
                {"name": "auto", "type": "Boolean"},
                {"name": "hand", "type": "DataRecord", "field": [
                    {"name": "speed", "type": "Count", "constraint": {"interval": [[0, 5]]}},
                    {"name": "note", "type": "Text", "optional": true}]}]},
        ]});
        Record::parse("", &declared).expect("a record")
    }

    #[test]
    fn times_choices_and_records_inside() {
        let record = deep();
        for good in [
            json!({"mode": {"auto": true}}),
            json!({"from": "2026-03-01T08:00:00+08:00", "mode": {"hand": {"speed": 3}}}),
            json!({"mode": {"hand": {"speed": 3, "note": "slowly"}}}),
        ] {
            record.check("", &good).unwrap_or_else(|e| panic!("{good}: {e}"));
        }
        for (bad, field) in [
            (json!({}), "/mode"),
            (json!({"mode": {}}), "/mode"),
            (json!({"mode": {"auto": true, "hand": {"speed": 3}}}), "/mode"),
            (json!({"mode": {"other": 1}}), "/mode/other"),
            (json!({"mode": {"hand": {"speed": 6}}}), "/mode/hand/speed"),
            (json!({"mode": {"hand": {}}}), "/mode/hand/speed"),
            (json!({"mode": {"hand": 3}}), "/mode/hand"),
            (json!({"from": "tomorrow", "mode": {"auto": true}}), "/from"),
            (json!({"from": "2027-03-01T00:00:00Z", "mode": {"auto": true}}), "/from"),
        ] {
            refused(record.check("", &bad), field);
        }
        let mut nested = json!({"name": "a", "type": "Count"});
        for _ in 0..4 {
            nested = json!({"name": "a", "type": "DataRecord", "field": [nested]});
        }
        refused(Record::parse("", &nested), "/field/0/field/0/field/0/field");
        let many: Vec<Value> = (0..40).map(|n| json!({"name": format!("p{n}"), "type": "Count"})).collect();
        let twice = json!({"type": "DataRecord", "field": [
            {"name": "one", "type": "DataRecord", "field": many.clone()}, {"name": "two", "type": "DataRecord", "field": many}]});
        refused(Record::parse("", &twice), "/field/1/field/22");
        let empty = json!({"type": "DataRecord", "field": [{"name": "a", "type": "DataChoice"}]});
        refused(Record::parse("", &empty), "/field/0/item");
    }

    proptest! {
        #[test]
        fn whatever_is_declared_or_asked_is_answered(declared in any_json(), asked in any_json()) {
            if let Ok(record) = Record::parse("", &declared) {
                drop(record.check("", &asked));
            }
            drop(deep().check("", &asked));
        }


        #[test]
        fn any_number_is_in_the_interval_or_refused(n in -200.0..200.0f64) {
            let fits = record().check("", &json!({"speed": n})).is_ok();
            prop_assert_eq!(fits, (0.0..=80.0).contains(&n));
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let word = prop_oneof![
            Just("type"),
            Just("field"),
            Just("item"),
            Just("name"),
            Just("DataRecord"),
            Just("DataChoice"),
            Just("Time"),
            Just("Count"),
            Just("constraint"),
            Just("interval"),
            Just("value"),
            Just("mode"),
            Just("hand"),
            Just("speed"),
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            word.clone().prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 60, 6, move |inner| {
            let object = proptest::collection::vec((word.clone(), inner.clone()), 0..6);
            prop_oneof![
                proptest::collection::vec(inner, 0..5).prop_map(Value::from),
                object.prop_map(|all| Value::Object(all.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())),
            ]
        })
    }
}
