//! What a connector is, as a pack declares it. Pure: serde shapes and their validation, no I/O, no clock.
//!
//! docs/connectors.md shows every field with examples. [`Connector::new`] turns a declaration into one that is known to make sense.

use std::{collections::BTreeMap, ops::Deref, time::Duration};

use kernel::{FieldError, Problem, Tenant, Text};
use serde::{Deserialize, Serialize};

use crate::rules::model::is_key;

use super::{
    guard,
    modbus::{self, Modbus},
    template::{self, Template},
    time::When,
};

/// The file of a pack: `[[connector]]` tables. Unknown fields are refused, so that a misspelt one is found when the pack is checked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectorFile {
    #[serde(default)]
    pub connector: Vec<Declaration>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Declaration {
    /// Unique in the city; `a-z 0-9 - .`.
    pub key: String,
    /// Whose Datastreams it writes; it reaches no others.
    pub tenant: Tenant,
    pub name: Text,
    /// ISO 8601 duration between two polls: `PT10M`.
    pub every: String,
    pub source: Source,
    #[serde(default = "polled")]
    pub time: Time,
    pub value: Vec<Value>,
    /// The character before a number's fraction: `,` where the source writes 1,5. Never one between thousands.
    #[serde(default = "point", skip_serializing_if = "is_point")]
    pub decimal: char,
    /// What stands where a result should be, and what it means.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub placeholders: BTreeMap<String, Placeholder>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<QualityField>,
    /// Lookup tables: the publisher's word to ours.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tables: BTreeMap<String, BTreeMap<String, String>>,
    /// Only rows whose field has one of these values; the others are counted as skipped.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub only: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    pub gaps: Gaps,
    #[serde(default = "yes")]
    pub enabled: bool,
}

/// Of what has no time but that of the asking; for anything else it is a mistake to say none.
const fn polled() -> Time {
    Time { fields: Vec::new(), format: None, zone: None, covers: None, stamp: Stamp::Start }
}

const fn point() -> char {
    '.'
}
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_point(decimal: &char) -> bool {
    *decimal == '.'
}

const fn yes() -> bool {
    true
}

/// Where the rows come from. Exactly one of `url`, `file`, `folder` and `modbus`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// A file; relative to the pack, or below a folder that the configuration allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// All files of a folder whose name fits `pattern`, in the order of their names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<String>,
    /// A file name in which one `*` stands for anything: `rain-*.csv`. All files when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// Registers of a controller or gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modbus: Option<Modbus>,
    pub format: Format,
    /// Used when the file begins with no byte-order mark, which otherwise decides.
    #[serde(default)]
    pub encoding: Encoding,
    /// CSV: the line of the header (from 1), or the text of one of its columns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<Header>,
    /// CSV: the character between two fields.
    #[serde(default = "comma")]
    pub delimiter: char,
    /// CSV: lines that begin so are notes (footers), not rows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skip: Vec<String>,
    /// JSON: the dotted path to the array of rows. XML: the dotted path to the element that repeats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
}

const fn comma() -> char {
    ','
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Csv,
    Json,
    Xml,
    Geojson,
    /// Registers: goes with `modbus`.
    Modbus,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Encoding {
    #[default]
    #[serde(rename = "utf-8")]
    Utf8,
    #[serde(rename = "utf-16le")]
    Utf16Le,
    #[serde(rename = "utf-16be")]
    Utf16Be,
    /// With the characters that Hong Kong has added (HKSCS-2008), as the WHATWG's Encoding Standard has it.
    #[serde(rename = "big5")]
    Big5,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Header {
    Line(u32),
    Column(String),
}

/// When it was measured, which is not when the file was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Time {
    /// One or several fields; their texts are joined by a space.
    pub fields: Vec<String>,
    /// As `strptime` has it (`%d-%m-%Y`); RFC 3339 or ISO 8601 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// IANA time zone of times that carry no offset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// ISO 8601 duration that a row covers, in calendar units of the zone: phenomenonTime is then an interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub covers: Option<String>,
    /// Which end of the interval the published time is.
    #[serde(default)]
    pub stamp: Stamp,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stamp {
    #[default]
    Start,
    End,
}

/// One result in a row (`field`), or one for each column that a table names (`columns`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Value {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The name of a table whose keys are columns; `{column}` is then the column's name in `datastream`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<String>,
    /// The Datastream's key: `air-{column|station}.daily-{POLLUTANT|pollutant}`.
    pub datastream: String,
    /// `result = published * scale + offset`.
    #[serde(default = "one")]
    pub scale: f64,
    #[serde(default)]
    pub offset: f64,
    /// A row without the field is no mistake.
    #[serde(default)]
    pub optional: bool,
}

const fn one() -> f64 {
    1.0
}

/// What a placeholder means: no result, or a result in the Datastream's own unit; with a code for `resultQuality`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Placeholder {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    pub quality: String,
}

/// A field that says how good the row is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QualityField {
    pub field: String,
    /// Texts that mean nothing is wrong; nothing is then written to `resultQuality`.
    #[serde(default)]
    pub good: Vec<String>,
    /// Other texts and the code they become. One that is not named here becomes `unknown`, with the text beside it.
    #[serde(default)]
    pub flags: BTreeMap<String, String>,
}

/// What becomes of steps that the rows leave out between two others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Gaps {
    #[default]
    Leave,
    /// An Observation without a result and with the quality `missing`, so that "not measured" is not mistaken for "not asked".
    Flag,
}

/// How one or many results of a row are found.
#[derive(Clone, Debug)]
pub enum Columns {
    One(String),
    /// The columns of a table, in order.
    Many(Vec<String>),
}

/// A [`Value`] that has been checked.
#[derive(Clone, Debug)]
pub struct Plan {
    pub columns: Columns,
    pub datastream: Template,
    pub scale: f64,
    pub offset: f64,
    pub optional: bool,
}

/// A declaration whose every field has been checked.
#[derive(Clone, Debug)]
pub struct Connector {
    declaration: Declaration,
    pub interval: Duration,
    pub when: When,
    pub plans: Vec<Plan>,
    /// SHA-256 of the declaration: when it changes, the whole source is read again.
    pub hash: String,
}

impl Deref for Connector {
    type Target = Declaration;
    fn deref(&self) -> &Declaration {
        &self.declaration
    }
}

const MIN_EVERY: Duration = Duration::from_secs(10);
/// Registers are few bytes from a machine that is there for it.
const fn least(source: &Source) -> Duration {
    if source.modbus.is_some() { Duration::from_secs(1) } else { MIN_EVERY }
}
const MAX_EVERY: Duration = Duration::from_secs(31 * 86_400);
/// Values of a row, entries of a table, placeholders.
const MAX_LIST: usize = 10_000;
const MAX_TEXT: usize = 500;

impl Connector {
    /// # Errors
    /// Everything that is wrong, each with its JSON Pointer (RFC 6901) and what would be right.
    pub fn new(mut declaration: Declaration) -> Result<Self, Vec<FieldError>> {
        if declaration.source.modbus.is_some() && declaration.time.fields.is_empty() {
            declaration.time.fields.push(modbus::AT.to_owned());
        }
        let mut errors = Vec::new();
        let mut wrong = |field: &str, detail: String| errors.push(FieldError { field: field.to_owned(), detail });
        let d = &declaration;
        if !is_key(&d.key) {
            wrong("/key", "use 1 to 80 of a-z, 0-9, '-' and '.', starting with a letter or digit".to_owned());
        }
        if let Err(detail) = Tenant::parse(d.tenant.as_str()) {
            wrong("/tenant", detail);
        }
        for (language, text) in
            [("en", Some(&d.name.en)), ("zh-hant", d.name.zh_hant.as_ref()), ("zh-hans", d.name.zh_hans.as_ref())]
        {
            if text.is_none_or(|t| t.trim().is_empty() || t.len() > MAX_TEXT) {
                wrong(&format!("/name/{language}"), format!("a text of at most {MAX_TEXT} bytes is expected"));
            }
        }
        let interval = match duration(&d.every) {
            Some(every) if (least(&d.source)..=MAX_EVERY).contains(&every) => every,
            _ => {
                wrong(
                    "/every",
                    "an ISO 8601 duration from PT10S (registers: PT1S) to P31D is expected, such as PT10M".to_owned(),
                );
                MAX_EVERY
            }
        };
        check_source(&d.source, &mut wrong);
        let when = When::new(&d.time).map_err(|(field, detail)| wrong(&format!("/time{field}"), detail)).ok();
        if d.gaps == Gaps::Flag && d.time.covers.is_none() {
            wrong("/gaps", "time.covers must say how long a step is before gaps can be found".to_owned());
        }
        if !matches!(d.decimal, '.' | ',') {
            wrong("/decimal", "'.' or ',' is expected".to_owned());
        }
        let plans = check_values(d, &mut wrong);
        check_lists(d, &mut wrong);
        match when {
            Some(when) if errors.is_empty() => {
                let hash = hash(&declaration);
                Ok(Self { interval, when, plans, hash, declaration })
            }
            _ => Err(errors),
        }
    }

    pub fn declaration(&self) -> &Declaration {
        &self.declaration
    }

    /// Fields that every row of a table with a header must have.
    pub fn needed(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.time.fields.iter().map(String::as_str).collect();
        names.extend(self.quality.iter().map(|q| q.field.as_str()));
        names.extend(self.only.keys().map(String::as_str));
        for plan in &self.plans {
            if let (Columns::One(field), false) = (&plan.columns, plan.optional) {
                names.push(field);
            }
            names.extend(plan.datastream.fields().filter(|f| *f != template::COLUMN));
        }
        names.sort_unstable();
        names.dedup();
        names
    }
}

impl Source {
    /// Where it reads, without the query of an address, which may hold a secret.
    pub fn address(&self) -> &str {
        if let Some(modbus) = &self.modbus {
            return &modbus.address;
        }
        let place = self.url.as_ref().or(self.file.as_ref()).or(self.folder.as_ref());
        place.map_or("", |p| if self.url.is_some() { p.split(['?', '#']).next().unwrap_or_default() } else { p })
    }
}

/// SHA-256 of the declaration's JSON, which has one form for one meaning because its maps are sorted.
fn hash(declaration: &Declaration) -> String {
    use sha2::{Digest, Sha256};
    hex::encode(Sha256::digest(serde_json::to_vec(declaration).unwrap_or_default()))
}

fn duration(text: &str) -> Option<Duration> {
    let span: jiff::Span = text.parse().ok()?;
    let duration = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).ok()?;
    Duration::try_from(duration).ok()
}

fn check_source(source: &Source, wrong: &mut impl FnMut(&str, String)) {
    let given = [&source.url, &source.file, &source.folder].iter().filter(|s| s.is_some()).count();
    if given + usize::from(source.modbus.is_some()) != 1 {
        wrong("/source", "give exactly one of url, file, folder and modbus".to_owned());
    }
    if source.modbus.is_some() != (source.format == Format::Modbus) {
        wrong("/source/format", "modbus goes with modbus and with nothing else".to_owned());
    }
    for (field, detail) in source.modbus.iter().flat_map(Modbus::check) {
        wrong(&format!("/source/modbus{field}"), detail);
    }
    if let Some(url) = &source.url
        && let Err(detail) = guard::parse(url)
    {
        wrong("/source/url", detail);
    }
    if source.pattern.is_some() && source.folder.is_none() {
        wrong("/source/pattern", "it goes with folder".to_owned());
    }
    if source.pattern.as_ref().is_some_and(|p| p.matches('*').count() > 1 || p.contains('/')) {
        wrong("/source/pattern", "a file name with at most one '*' is expected".to_owned());
    }
    match source.format {
        Format::Csv => {
            match &source.header {
                None => wrong(
                    "/source/header",
                    "say which line is the header (from 1), or the text of one of its columns".to_owned(),
                ),
                Some(Header::Line(line)) if !(1..=1_000).contains(line) => {
                    wrong("/source/header", "a line from 1 to 1000 is expected".to_owned());
                }
                Some(_) => {}
            }
            if source.at.is_some() {
                wrong("/source/at", "it goes with json and xml".to_owned());
            }
            if !source.delimiter.is_ascii() || matches!(source.delimiter, '"' | '\n' | '\r') {
                wrong("/source/delimiter", "one ASCII character is expected".to_owned());
            }
        }
        Format::Modbus => {}
        Format::Json | Format::Xml | Format::Geojson => {
            if source.header.is_some() || !source.skip.is_empty() {
                wrong("/source/header", "header and skip go with csv".to_owned());
            }
            if source.format == Format::Xml && source.at.as_ref().is_none_or(|at| at.is_empty()) {
                wrong("/source/at", "give the path to the element that repeats, such as stations.station".to_owned());
            }
            if source.format == Format::Geojson && source.at.is_some() {
                wrong("/source/at", "the rows of GeoJSON are its features".to_owned());
            }
        }
    }
}

fn check_values(d: &Declaration, wrong: &mut impl FnMut(&str, String)) -> Vec<Plan> {
    let mut plans = Vec::with_capacity(d.value.len());
    if d.value.is_empty() || d.value.len() > 1_000 {
        wrong("/value", "1 to 1000 values are expected".to_owned());
    }
    for (at, value) in d.value.iter().enumerate() {
        let place = format!("/value/{at}");
        let columns = match (&value.field, &value.columns) {
            (Some(field), None) => Columns::One(field.clone()),
            (None, Some(name)) => match d.tables.get(name) {
                Some(table) => Columns::Many(table.keys().cloned().collect()),
                None => {
                    wrong(&format!("{place}/columns"), format!("there is no table '{name}'"));
                    continue;
                }
            },
            _ => {
                wrong(&place, "give either field or columns".to_owned());
                continue;
            }
        };
        if !value.scale.is_finite() || value.scale == 0.0 || !value.offset.is_finite() {
            wrong(&format!("{place}/scale"), "finite numbers are expected, and a scale that is not 0".to_owned());
        }
        match Template::parse(&value.datastream) {
            Err(detail) => wrong(&format!("{place}/datastream"), detail),
            Ok(template) => {
                if let Some(table) = template.tables().find(|t| !d.tables.contains_key(*t)) {
                    wrong(&format!("{place}/datastream"), format!("there is no table '{table}'"));
                }
                if template.fields().any(|f| f == template::COLUMN) && value.columns.is_none() {
                    wrong(&format!("{place}/datastream"), "{column} goes with columns".to_owned());
                }
                let Value { scale, offset, optional, .. } = *value;
                plans.push(Plan { columns, datastream: template, scale, offset, optional });
            }
        }
    }
    plans
}

fn check_lists(d: &Declaration, wrong: &mut impl FnMut(&str, String)) {
    let entries = d.tables.values().map(BTreeMap::len).sum::<usize>()
        + d.placeholders.len()
        + d.only.values().map(Vec::len).sum::<usize>();
    if entries > MAX_LIST {
        wrong("/tables", format!("at most {MAX_LIST} entries of tables, placeholders and only are expected"));
    }
    if d.tables.contains_key(template::SLUG) {
        wrong("/tables/slug", "this name is taken: {field|slug} lowers a text to a key".to_owned());
    }
    for (text, placeholder) in &d.placeholders {
        if !is_code(&placeholder.quality) {
            wrong(
                &format!("/placeholders/{text}/quality"),
                "a code of 1 to 40 of a-z, 0-9 and '-' is expected".to_owned(),
            );
        }
        if placeholder.value.is_some_and(|v| !v.is_finite()) {
            wrong(&format!("/placeholders/{text}/value"), "a finite number is expected".to_owned());
        }
    }
    for (flag, code) in d.quality.iter().flat_map(|q| &q.flags) {
        if !is_code(code) {
            wrong(&format!("/quality/flags/{flag}"), "a code of 1 to 40 of a-z, 0-9 and '-' is expected".to_owned());
        }
    }
}

fn is_code(code: &str) -> bool {
    (1..=40).contains(&code.len()) && code.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// Connectors that one city may have.
pub const MAX_CONNECTORS: usize = 10_000;

/// Checks a whole set: every connector by itself, and no key twice.
///
/// # Errors
/// A 400 whose fields begin with the connector's place, such as `/3/source/url`.
pub fn check_all(declarations: Vec<Declaration>) -> Result<Vec<Connector>, Problem> {
    if declarations.len() > MAX_CONNECTORS {
        return Err(Problem::too_large(format!("At most {MAX_CONNECTORS} connectors are possible.")));
    }
    let mut keys = std::collections::BTreeSet::new();
    let mut errors = Vec::new();
    let mut connectors = Vec::with_capacity(declarations.len());
    for (at, declaration) in declarations.into_iter().enumerate() {
        if !keys.insert(declaration.key.clone()) {
            errors.push(FieldError { field: format!("/{at}/key"), detail: "the key is used twice".to_owned() });
        }
        match Connector::new(declaration) {
            Ok(connector) => connectors.push(connector),
            Err(found) => {
                errors.extend(found.into_iter().map(|e| FieldError { field: format!("/{at}{}", e.field), ..e }))
            }
        }
    }
    let Some(first) = errors.first() else { return Ok(connectors) };
    let mut problem = Problem::field(first.field.clone(), first.detail.clone());
    problem.errors = errors;
    Err(problem)
}
