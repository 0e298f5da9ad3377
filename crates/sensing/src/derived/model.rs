//! What a declaration says, in a pack or over the API. Pure: serde shapes and their validation, no I/O, no clock.
//!
//! ```toml
//! [[derived]]
//! key = "flood-flow"
//! tenant = "dsd"
//! name = { en = "Flow from level", zh-hant = "由水位推算流量", zh-hans = "由水位推算流量" }
//! things = { system = "flood" }        # one for each of these Things; keys below are then parts of the Thing's own
//! output = "flow"
//!
//! [[derived.input]]                    # the first one leads: an output for each of its Observations
//! name = "level"
//! datastream = "level"
//!
//! [[derived.table]]
//! name = "curve"
//! points = [[0.2, 0.1], [1.0, 4.2], [3.0, 40.0]]
//! between = "log"
//!
//! [[derived.formula]]
//! expression = "curve(level.value)"
//! ```

use std::ops::{Deref, RangeInclusive};

use kernel::{FieldError, Problem, Tenant, Text, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    model::EntityId,
    rules::{
        cel::{self, Field, Names, Node, Type, Variable, is_reserved},
        model::is_key,
    },
};

/// Inputs of one declaration.
pub const MAX_INPUTS: usize = 8;
const MAX_TABLES: usize = 8;
const MAX_FORMULAS: usize = 64;
const MAX_POINTS: usize = 1_000;
const MAX_TEXT: usize = 1_000;
/// Declarations of a city.
pub const MAX_DECLARATIONS: usize = 10_000;

const DAY: u32 = 86_400;
/// Seconds of a window, and for which a value stands.
const SECONDS: RangeInclusive<u32> = 1..=31 * DAY;
/// Seconds between outputs.
const EVERY: RangeInclusive<u32> = 10..=31 * DAY;

/// A Datastream, by its id or by its natural key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "the id of a Datastream, or its key")]
pub enum Name {
    Id(EntityId),
    Key(String),
}

/// The Things that have one each: those of the declaration's tenant that fit every field given.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Things {
    /// `properties.system`.
    pub system: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thing: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub district: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// What formulas call it.
    pub name: String,
    /// With `things`, a key below the Thing's own; otherwise a whole key, or an id.
    pub datastream: Name,
    /// Always this Datastream, whatever the Thing: the key is then a whole one.
    #[serde(default, skip_serializing_if = "is_false")]
    pub shared: bool,
    /// Whose the key is; the declaration's own tenant where nothing is said. What is another's must be published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Tenant>,
    /// Seconds up to the output's time that mean, min, max, count and rate are of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<u32>,
    /// Seconds for which a value stands after it was measured; 3,600 where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<u32>,
    /// How many values the window must hold, or its figures are not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub need: Option<u32>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_false(value: &bool) -> bool {
    !*value
}

/// What lies between two points of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Between {
    #[default]
    Linear,
    /// A straight line between the logarithms of both, as rating curves are drawn.
    Log,
    /// The y of the first point whose x is not below the argument: bands by their upper ends.
    Step,
}

/// What lies before the first and after the last point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Beyond {
    /// Nothing: then there is no output.
    #[default]
    Nothing,
    /// The y of the end.
    Hold,
}

/// An interpolation table: a function of one number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    pub name: String,
    /// `[x, y]`, x ascending.
    pub points: Vec<[f64; 2]>,
    #[serde(default)]
    pub between: Between,
    #[serde(default)]
    pub beyond: Beyond,
}

impl Table {
    /// `None` where the table says nothing.
    pub fn at(&self, x: f64) -> Option<f64> {
        let (first, last) = (self.points.first()?, self.points.last()?);
        if !x.is_finite() {
            return None;
        }
        if x < first[0] || x > last[0] {
            return match self.beyond {
                Beyond::Nothing => None,
                Beyond::Hold => Some(if x < first[0] { first[1] } else { last[1] }),
            };
        }
        let above = self.points.partition_point(|p| p[0] < x);
        let b = self.points.get(above)?;
        if self.between == Between::Step || b[0] == x || above == 0 {
            return Some(b[1]);
        }
        let a = self.points[above - 1];
        let line = |x: f64, a: [f64; 2], b: [f64; 2]| a[1] + (b[1] - a[1]) * (x - a[0]) / (b[0] - a[0]);
        Some(match self.between {
            Between::Log => line(x.ln(), a.map(f64::ln), b.map(f64::ln)).exp(),
            _ => line(x, a, *b),
        })
    }

    /// What is wrong with it.
    pub fn mistake(&self) -> Option<String> {
        if !(2..=MAX_POINTS).contains(&self.points.len()) {
            return Some(format!("2 to {MAX_POINTS} points are expected"));
        }
        if self.points.iter().flatten().any(|v| !v.is_finite()) {
            return Some("finite numbers are expected".to_owned());
        }
        if self.points.windows(2).any(|two| two[0][0] >= two[1][0]) {
            return Some("x must be greater from point to point".to_owned());
        }
        let positive = self.points.iter().flatten().all(|v| *v > 0.0);
        (self.between == Between::Log && !positive)
            .then(|| "numbers above 0 are expected: they are drawn by their logarithms".to_owned())
    }
}

/// How the result is computed, from a moment on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Formula {
    /// In the Common Expression Language: a number, or a truth for a Datastream of truths.
    pub expression: String,
    /// For phenomenonTimes from here on; without it, from the beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Timestamp>,
    /// Why, or where it is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What becomes of Observations whose `resultQuality` names a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Faulty {
    /// They count, and what is computed from them is marked as suspect.
    #[default]
    Carry,
    /// They are passed over as if they were not there.
    Skip,
}

/// How much of what is there already is computed when it is declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backfill {
    #[default]
    All,
    Nothing,
}

const fn yes() -> bool {
    true
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Declaration {
    pub key: String,
    /// Whose the outputs are.
    pub tenant: Tenant,
    pub name: Text,
    /// Where the formula is published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub things: Option<Things>,
    pub output: Name,
    #[serde(rename = "input", default)]
    pub inputs: Vec<Input>,
    #[serde(rename = "table", default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<Table>,
    #[serde(rename = "formula", default)]
    pub formulas: Vec<Formula>,
    /// Seconds between outputs, counted from 1970 in UTC. Without it there is an output for each Observation of the first input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<u32>,
    #[serde(default)]
    pub faulty: Faulty,
    #[serde(default)]
    pub backfill: Backfill,
    #[serde(default = "yes")]
    pub enabled: bool,
}

/// The file of a pack: `derived/*.toml`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DerivedFile {
    #[serde(default)]
    pub derived: Vec<Declaration>,
}

/// One formula, ready to be evaluated.
#[derive(Clone, Debug, PartialEq)]
pub struct Compiled {
    /// Microseconds since 1970.
    pub from: i64,
    pub node: Node,
    /// By input: whether its value is looked at, and whether a figure of its window is.
    pub looks: Vec<(bool, bool)>,
    /// Whether hour, minute or weekday is asked for.
    pub local: bool,
}

/// A declaration whose every field has been checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    declaration: Declaration,
    /// By the time from which they hold.
    compiled: Vec<Compiled>,
    pub truth: bool,
}

impl Deref for Definition {
    type Target = Declaration;
    fn deref(&self) -> &Declaration {
        &self.declaration
    }
}

impl Definition {
    /// # Errors
    /// 400 with every mistake and its place.
    pub fn new(declaration: Declaration) -> Result<Self, Problem> {
        let mut errors: Vec<FieldError> = Vec::new();
        let d = &declaration;
        let mut wrong = |field: String, detail: String| errors.push(FieldError { field, detail });
        if !is_key(&d.key) {
            wrong(
                "/key".into(),
                "1 to 80 of a-z, 0-9, '-' and '.' are expected, beginning with a letter or digit".into(),
            );
        }
        let one_line = |text: &str| (1..=MAX_TEXT).contains(&text.len()) && !text.chars().any(char::is_control);
        let forms =
            [("en", Some(&d.name.en)), ("zh-hant", d.name.zh_hant.as_ref()), ("zh-hans", d.name.zh_hans.as_ref())];
        for (language, form) in forms {
            if !form.is_some_and(|text| one_line(text.trim())) {
                wrong(format!("/name/{language}"), format!("one line of up to {MAX_TEXT} bytes is expected"));
            }
        }
        if d.source.as_ref().is_some_and(|text| !one_line(text)) {
            wrong("/source".into(), format!("one line of up to {MAX_TEXT} bytes is expected"));
        }
        let shared = |name: &Name, alone: bool| match name {
            Name::Key(key) if key.is_empty() || key.len() > 200 || key.contains('\0') => {
                Some("a key of 1 to 200 characters is expected")
            }
            Name::Id(_) if !alone => Some("with 'things', a key below the Thing's own is expected"),
            _ => None,
        };
        if let Some(detail) = shared(&d.output, d.things.is_none()) {
            wrong("/output".into(), detail.into());
        }
        if d.inputs.is_empty() || d.inputs.len() > MAX_INPUTS {
            wrong("/input".into(), format!("1 to {MAX_INPUTS} inputs are expected"));
        }
        if d.every.is_some_and(|s| !EVERY.contains(&s)) {
            wrong("/every".into(), format!("{} to {} seconds are expected", EVERY.start(), EVERY.end()));
        }
        for (at, input) in d.inputs.iter().enumerate() {
            let place = |field: &str| format!("/input/{at}/{field}");
            if !is_name(&input.name) {
                wrong(
                    place("name"),
                    "a name of 1 to 40 of a-z, 0-9 and '_' is expected that means nothing else".into(),
                );
            }
            if d.inputs[..at].iter().any(|i| i.name == input.name) {
                wrong(place("name"), "the name is used twice".into());
            }
            if let Some(detail) = shared(&input.datastream, d.things.is_none() || input.shared) {
                wrong(place("datastream"), detail.into());
            }
            if input.tenant.is_some() && d.things.is_some() && !input.shared {
                wrong(place("tenant"), "a Thing's own Datastreams are its owner's; say shared = true".into());
            }
            for (name, seconds) in [("window", input.window), ("within", input.within)] {
                if seconds.is_some_and(|s| !SECONDS.contains(&s)) {
                    wrong(place(name), format!("{} to {} seconds are expected", SECONDS.start(), SECONDS.end()));
                }
            }
            if input.need.is_some() && input.window.is_none() {
                wrong(place("need"), "it counts the values of a window: add window = 3600 (seconds)".into());
            }
        }
        if d.tables.len() > MAX_TABLES {
            wrong("/table".into(), format!("at most {MAX_TABLES} tables are possible"));
        }
        for (at, table) in d.tables.iter().enumerate() {
            let taken = d.inputs.iter().map(|i| &i.name).chain(d.tables[..at].iter().map(|t| &t.name));
            if !is_name(&table.name) || taken.into_iter().any(|n| *n == table.name) {
                wrong(format!("/table/{at}/name"), "a name of its own is expected, of a-z, 0-9 and '_'".into());
            }
            if let Some(detail) = table.mistake() {
                wrong(format!("/table/{at}/points"), detail);
            }
        }
        if d.formulas.is_empty() || d.formulas.len() > MAX_FORMULAS {
            wrong("/formula".into(), format!("1 to {MAX_FORMULAS} formulas are expected"));
        }
        let mut compiled: Vec<(Compiled, Type)> = Vec::new();
        for (at, formula) in d.formulas.iter().enumerate() {
            let from = formula.from.map_or(i64::MIN, Timestamp::as_micros);
            if compiled.last().is_some_and(|(before, _)| before.from >= from) {
                wrong(format!("/formula/{at}/from"), "it must be later than that of the formula before".into());
            }
            if formula.note.as_ref().is_some_and(|text| !one_line(text)) {
                wrong(format!("/formula/{at}/note"), format!("one line of up to {MAX_TEXT} bytes is expected"));
            }
            match compile(d, &formula.expression, from) {
                Ok(found) => compiled.push(found),
                Err(detail) => wrong(format!("/formula/{at}/expression"), detail),
            }
        }
        let truth = compiled.first().is_some_and(|(_, kind)| *kind == Type::Bool);
        if compiled.iter().any(|(_, kind)| (*kind == Type::Bool) != truth) {
            wrong("/formula".into(), "all formulas must be numbers, or all truths".into());
        }
        match errors.first() {
            None => Ok(Self { compiled: compiled.into_iter().map(|(c, _)| c).collect(), truth, declaration }),
            Some(first) => {
                let mut problem = Problem::field(first.field.clone(), first.detail.clone());
                problem.errors = errors;
                Err(problem)
            }
        }
    }

    pub fn declaration(&self) -> &Declaration {
        &self.declaration
    }

    /// The formula that holds at a time.
    pub fn formula(&self, at: i64) -> Option<&Compiled> {
        let after = self.compiled.partition_point(|f| f.from <= at);
        after.checked_sub(1).map(|at| &self.compiled[at])
    }

    /// How long after an Observation of an input outputs may still depend on it, in microseconds.
    pub fn reach(&self, input: usize) -> i64 {
        let Some(i) = self.inputs.get(input) else { return 0 };
        let stands = if input == 0 && self.every.is_none() { 0 } else { i.within() };
        stands.max(i.window.map_or(0, |s| i64::from(s) * 1_000_000))
    }
}

impl Input {
    /// Microseconds for which a value stands.
    pub fn within(&self) -> i64 {
        i64::from(self.within.unwrap_or(3_600)) * 1_000_000
    }
}

fn is_name(name: &str) -> bool {
    (1..=40).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        && !is_reserved(name)
        && !matches!(name, "int" | "double" | "has" | "last")
}

fn compile(d: &Declaration, expression: &str, from: i64) -> Result<(Compiled, Type), String> {
    let inputs: Vec<String> = d.inputs.iter().map(|i| i.name.clone()).collect();
    let tables: Vec<String> = d.tables.iter().map(|t| t.name.clone()).collect();
    let mut scope = cel::Scope::of(Names { inputs: &inputs, tables: &tables });
    let (node, kind) = scope.typed(expression).map_err(|m| format!("column {}: {}", m.column, m.detail))?;
    if kind == Type::Text {
        return Err("a number or a truth is expected, this is a string".to_owned());
    }
    let mut looks = vec![(false, false); inputs.len()];
    node.visit(&mut |node| match node {
        Node::Variable(Variable::Input(at, field)) if *field != Field::Time => looks[usize::from(*at)].0 = true,
        Node::Variable(Variable::Window(at, _)) => looks[usize::from(*at)].1 = true,
        _ => {}
    });
    for (input, (_, figures)) in d.inputs.iter().zip(&looks) {
        if *figures && input.window.is_none() {
            return Err(format!(
                "a figure of '{}' needs a window: add window = 3600 (seconds) to the input",
                input.name
            ));
        }
    }
    Ok((Compiled { from, node, looks, local: scope.local }, kind))
}

/// Checks a whole set: every declaration by itself, and no key twice.
///
/// # Errors
/// 400 with every mistake; places begin with the declaration's number.
pub fn check_all(declarations: Vec<Declaration>) -> Result<Vec<Definition>, Problem> {
    if declarations.len() > MAX_DECLARATIONS {
        return Err(Problem::too_large(format!("At most {MAX_DECLARATIONS} declarations are possible.")));
    }
    let (mut errors, mut all, mut keys) = (Vec::new(), Vec::new(), std::collections::BTreeSet::new());
    for (at, declaration) in declarations.into_iter().enumerate() {
        let key = declaration.key.clone();
        match Definition::new(declaration) {
            Ok(definition) => all.push(definition),
            Err(problem) => {
                let found = problem.errors.into_iter();
                errors.extend(found.map(|e| FieldError {
                    field: format!("/{at}{}", e.field),
                    detail: format!("'{key}': {}", e.detail),
                }));
            }
        }
        if !keys.insert(key) {
            errors.push(FieldError { field: format!("/{at}/key"), detail: "the key is used twice".to_owned() });
        }
    }
    match errors.first() {
        None => Ok(all),
        Some(first) => {
            let mut problem = Problem::field(first.field.clone(), first.detail.clone());
            problem.errors = errors;
            Err(problem)
        }
    }
}
