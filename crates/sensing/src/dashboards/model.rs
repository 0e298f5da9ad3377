//! What a dashboard says. Pure: serde shapes and their validation, no I/O, no clock.
//!
//! ```toml
//! [[dashboard]]
//! key = "toilets"
//! tenant = "fehd"
//! title = { en = "Public toilets", zh-hant = "公廁", zh-hans = "公厕" }
//! audience = "public"
//!
//! [[dashboard.tile]]
//! kind = "status"
//! title = { en = "Worst first", zh-hant = "最差優先", zh-hans = "最差优先" }
//! width = 4
//! select = { system = "toilet" }
//!
//! [[dashboard.tile.column]]
//! observed_property = "ammonia"
//!
//! [[scale]]                       # from which value on something is how bad, for all dashboards
//! observed_property = "ammonia"
//! levels = [{ state = "good" }, { at = 2.5, state = "warning" }, { at = 3.5, state = "alarm" }]
//! ```

use std::collections::{BTreeMap, BTreeSet};

use kernel::{FieldError, Problem, Tenant, Text};
use serde::{Deserialize, Serialize};

use crate::{
    model::ResultValue,
    rules::model::{Selection, Severity, is_key},
};

/// Dashboards that a pack, and a tenant by its own hand, may have.
pub const MAX_DASHBOARDS: usize = 1_000;
pub const MAX_OWN: usize = 200;
pub const MAX_TILES: usize = 24;
pub const MAX_COLUMNS: usize = 8;
pub const MAX_LEVELS: usize = 8;
const MAX_ROLES: usize = 20;
const MAX_TITLE: usize = 120;
const MAX_WORDS: usize = 4_000;
/// Rows of a list or table.
pub const MAX_ROWS: u16 = 200;
pub const ROWS: u16 = 20;
/// Weeks of a heat strip.
pub const MAX_WEEKS: u8 = 12;
/// Seconds between two looks of an open page.
pub const REFRESH: std::ops::RangeInclusive<u32> = 5..=3_600;
/// Width of the grid in columns.
pub const COLUMNS: u8 = 4;

/// Who sees a dashboard. What its tiles then show is a question of its own: nobody sees a Datastream that they may not read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Audience {
    /// Everybody.
    Public,
    /// Who may read the tenant's data.
    #[default]
    Tenant,
}

impl Audience {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Tenant => "tenant",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// One value now, with its level and a sparkline.
    Value,
    /// Things with their latest values, the worst first.
    Status,
    /// A line over a period, beside the same period before.
    Chart,
    /// Standing alarms by severity.
    Alarms,
    /// Where the Things are, and how.
    Map,
    /// Things with their latest values, by name.
    Table,
    /// Means by hour of the week.
    Heat,
    /// Words.
    Text,
}

impl Kind {
    pub const ALL: [Self; 8] =
        [Self::Value, Self::Status, Self::Chart, Self::Alarms, Self::Map, Self::Table, Self::Heat, Self::Text];
    pub const fn name(self) -> &'static str {
        match self {
            Self::Value => "value",
            Self::Status => "status",
            Self::Chart => "chart",
            Self::Alarms => "alarms",
            Self::Map => "map",
            Self::Table => "table",
            Self::Heat => "heat",
            Self::Text => "text",
        }
    }
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.name() == name)
    }
    const fn selects(self) -> bool {
        !matches!(self, Self::Alarms | Self::Text)
    }
    const fn has_columns(self) -> bool {
        matches!(self, Self::Status | Self::Table)
    }
}

/// How several Datastreams become one number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Combine {
    #[default]
    Mean,
    Min,
    Max,
    /// The values that stand at the same time, added up: vacant spaces of all car parks.
    Sum,
    /// All Observations of the period, added up: visitors in 24 hours.
    Total,
}

impl Combine {
    pub const ALL: [Self; 5] = [Self::Mean, Self::Min, Self::Max, Self::Sum, Self::Total];
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Min => "min",
            Self::Max => "max",
            Self::Sum => "sum",
            Self::Total => "total",
        }
    }
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.name() == name)
    }
    /// `None` of nothing: an empty group has no mean, and its sum would look like a measurement.
    pub fn of(self, values: impl IntoIterator<Item = f64>) -> Option<f64> {
        let (mut count, mut sum, mut low, mut high) = (0u32, 0.0, f64::INFINITY, f64::NEG_INFINITY);
        for value in values.into_iter().filter(|v| v.is_finite()) {
            (count, sum, low, high) = (count + 1, sum + value, low.min(value), high.max(value));
        }
        (count > 0).then(|| match self {
            Self::Mean => sum / f64::from(count),
            Self::Min => low,
            Self::Max => high,
            Self::Sum | Self::Total => sum,
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Period {
    #[default]
    Day,
    Week,
    Month,
}

impl Period {
    pub const ALL: [Self; 3] = [Self::Day, Self::Week, Self::Month];
    pub const fn name(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
        }
    }
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.name() == name)
    }
    pub const fn seconds(self) -> i64 {
        match self {
            Self::Day => 86_400,
            Self::Week => 7 * 86_400,
            // Four weeks: the days of the week then lie on each other.
            Self::Month => 28 * 86_400,
        }
    }
}

/// How something is, from the best to the worst but for the last two, which say that nobody knows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    Unknown,
    Good,
    Notice,
    Offline,
    Warning,
    Alarm,
}

impl Standing {
    /// What a level may say.
    pub const LEVELS: [Self; 4] = [Self::Good, Self::Notice, Self::Warning, Self::Alarm];
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Good => "good",
            Self::Notice => "notice",
            Self::Offline => "offline",
            Self::Warning => "warning",
            Self::Alarm => "alarm",
        }
    }
    pub fn level(name: &str) -> Option<Self> {
        Self::LEVELS.into_iter().find(|s| s.name() == name)
    }
}

/// From `at` on (the first may leave it out: from below), or where the result is the word `is`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Level {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is: Option<String>,
    pub state: Standing,
    /// What it is called; the usual word of the state where it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub word: Option<Text>,
}

/// The level that a result is at.
pub fn judge<'l>(levels: &'l [Level], result: &ResultValue) -> Option<&'l Level> {
    match result {
        ResultValue::Number(n) => judge_number(levels, *n),
        ResultValue::Json(raw) => {
            let word: String = serde_json::from_str(raw.get()).ok()?;
            levels.iter().find(|l| l.is.as_deref() == Some(&word))
        }
    }
}

pub fn judge_number(levels: &[Level], value: f64) -> Option<&Level> {
    let reached = |l: &&Level| l.is.is_none() && l.at.is_none_or(|at| value >= at);
    levels.iter().rev().find(reached)
}

/// Levels of an ObservedProperty, wherever it is shown.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// Its natural key.
    pub observed_property: String,
    pub levels: Vec<Level>,
}

/// One column of a list or table.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Column {
    /// The natural key of the ObservedProperty.
    pub observed_property: String,
    /// Its name where it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<Text>,
    /// Those of the scale where they are not said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub levels: Vec<Level>,
    /// The name of a number among the Thing's `properties`: "3 of 8".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// Shows what is left of it, "5 free of 8", and not what is taken.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub left: bool,
}

const fn one() -> u8 {
    1
}
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_one(width: &u8) -> bool {
    *width == 1
}
const fn yes() -> bool {
    true
}
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_true(b: &bool) -> bool {
    *b
}
fn nothing(selection: &Selection) -> bool {
    *selection == Selection::default()
}

/// One tile. Which fields mean something depends on its kind; one that means nothing there is a mistake.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tile {
    pub kind: Kind,
    pub title: Text,
    /// Columns of the grid of four.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub width: u8,
    /// As a rule selects; a new Datastream that fits appears by itself.
    #[serde(default, skip_serializing_if = "nothing")]
    pub select: Selection,
    /// Only what this tenant owns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Tenant>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub levels: Vec<Level>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub combine: Option<Combine>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub period: Option<Period>,
    /// Beside the same period before.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub compare: bool,
    #[serde(default, rename = "column", skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<Column>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weeks: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity: Option<Severity>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<Text>,
}

impl Tile {
    pub fn new(kind: Kind, title: Text) -> Self {
        Self {
            kind,
            title,
            width: 1,
            select: Selection::default(),
            tenant: None,
            levels: Vec::new(),
            combine: None,
            period: None,
            compare: true,
            columns: Vec::new(),
            weeks: None,
            most: None,
            severity: None,
            text: None,
        }
    }
    pub fn rows(&self) -> usize {
        usize::from(self.most.unwrap_or(ROWS))
    }
}

/// A dashboard as the pack writes it, or an officer's form.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Declaration {
    /// Unique in the city; `a-z 0-9 -`. What officers make has the tenant before it: `fehd.night-shift`.
    pub key: String,
    pub tenant: Tenant,
    pub title: Text,
    /// What it is for, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<Text>,
    #[serde(default)]
    pub audience: Audience,
    /// Only people of the tenant with one of these roles; all of its readers when there is none.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub roles: BTreeSet<String>,
    /// Seconds between two looks of an open page.
    #[serde(default = "default_refresh")]
    pub refresh: u32,
    #[serde(default, rename = "tile")]
    pub tiles: Vec<Tile>,
}

const fn default_refresh() -> u32 {
    15
}

/// The file of a pack: `[[dashboard]]` and `[[scale]]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DashboardFile {
    #[serde(default)]
    pub dashboard: Vec<Declaration>,
    #[serde(default)]
    pub scale: Vec<Scale>,
}

/// Levels by ObservedProperty.
pub type Scales = BTreeMap<String, Vec<Level>>;

struct Wrong(Vec<FieldError>);

impl Wrong {
    fn at(&mut self, field: impl Into<String>, detail: impl Into<String>) {
        self.0.push(FieldError { field: field.into(), detail: detail.into() });
    }
    fn text(&mut self, text: &Text, field: &str, most: usize, lines: bool) {
        let forms = [("en", Some(&text.en)), ("zh-hant", text.zh_hant.as_ref()), ("zh-hans", text.zh_hans.as_ref())];
        for (language, form) in forms {
            let field = format!("{field}/{language}");
            match form.map(|t| t.trim()) {
                None | Some("") => self.at(field, "a text is expected"),
                Some(t) if t.len() > most => self.at(field, format!("at most {most} bytes are expected")),
                Some(t) if t.chars().any(|c| c.is_control() && !(lines && c == '\n')) => {
                    self.at(field, "a text without control characters is expected");
                }
                Some(_) => {}
            }
        }
    }
    fn word(&mut self, word: &str, field: String) {
        if word.is_empty() || word.len() > 200 || word.chars().any(char::is_control) {
            self.at(field, "1 to 200 bytes without control characters are expected");
        }
    }
    fn levels(&mut self, levels: &[Level], field: &str) {
        if levels.len() > MAX_LEVELS {
            self.at(field, format!("at most {MAX_LEVELS} levels are possible"));
        }
        let words = levels.iter().filter(|l| l.is.is_some()).count();
        if words > 0 && words < levels.len() {
            self.at(field, "levels are either all of numbers (at) or all of words (is)");
        }
        let mut before: Option<f64> = None;
        for (nth, level) in levels.iter().enumerate() {
            let at = format!("{field}/{nth}");
            if !Standing::LEVELS.contains(&level.state) {
                self.at(format!("{at}/state"), "good, notice, warning or alarm is expected");
            }
            if let Some(word) = &level.word {
                self.text(word, &format!("{at}/word"), MAX_TITLE, false);
            }
            if let Some(is) = &level.is {
                self.word(is, format!("{at}/is"));
                if level.at.is_some() {
                    self.at(format!("{at}/at"), "a level has 'at' or 'is', not both");
                }
                continue;
            }
            match level.at {
                None if nth > 0 => self.at(format!("{at}/at"), "only the first level may begin from below"),
                Some(n) if !n.is_finite() => self.at(format!("{at}/at"), "a finite number is expected"),
                Some(n) if before.is_some_and(|b| n <= b) => {
                    self.at(format!("{at}/at"), "levels ascend: a greater number than that before is expected");
                }
                _ => {}
            }
            before = level.at.or(before);
        }
    }
    fn selection(&mut self, s: &Selection, field: &str) {
        let fields = [
            ("system", &s.system),
            ("observed_property", &s.observed_property),
            ("thing", &s.thing),
            ("datastream", &s.datastream),
            ("district", &s.district),
        ];
        for (name, value) in fields {
            if let Some(value) = value {
                self.word(value, format!("{field}/{name}"));
            }
        }
    }

    fn tile(&mut self, tile: &Tile, field: &str) {
        let kind = tile.kind;
        self.text(&tile.title, &format!("{field}/title"), MAX_TITLE, false);
        if !(1..=COLUMNS).contains(&tile.width) {
            self.at(format!("{field}/width"), format!("1 to {COLUMNS} is expected"));
        }
        self.selection(&tile.select, &format!("{field}/select"));
        let Selection { system, observed_property, thing, datastream, .. } = &tile.select;
        // A district alone has no index over Datastreams, and would be a list of everything that stands there.
        if kind.selects() && system.is_none() && observed_property.is_none() && thing.is_none() && datastream.is_none()
        {
            self.at(format!("{field}/select"), "give at least one of system, observed_property, thing and datastream");
        }
        if tile.select.within.is_some() {
            self.at(format!("{field}/select/within"), "a tile chooses by district and not by fence: take it out");
        }
        if kind == Kind::Text && !nothing(&tile.select) {
            self.at(format!("{field}/select"), "a text selects nothing: take it out");
        }
        if kind == Kind::Alarms {
            for (name, value) in
                [("observed_property", observed_property), ("thing", thing), ("datastream", datastream)]
            {
                if value.is_some() {
                    self.at(format!("{field}/select/{name}"), "alarms are chosen by system and district");
                }
            }
        }
        self.levels(&tile.levels, &format!("{field}/levels"));
        let mut only = |given: bool, name: &str, kinds: &[Kind]| {
            if given && !kinds.contains(&kind) {
                let kinds: Vec<&str> = kinds.iter().map(|k| k.name()).collect();
                self.at(
                    format!("{field}/{name}"),
                    format!("it means nothing for '{}', only for {}", kind.name(), kinds.join(", ")),
                );
            }
        };
        only(!tile.levels.is_empty(), "levels", &[Kind::Value, Kind::Map]);
        only(tile.combine.is_some(), "combine", &[Kind::Value, Kind::Chart, Kind::Heat]);
        only(tile.period.is_some(), "period", &[Kind::Chart]);
        only(!tile.compare, "compare", &[Kind::Chart]);
        only(!tile.columns.is_empty(), "column", &[Kind::Status, Kind::Table]);
        only(tile.weeks.is_some(), "weeks", &[Kind::Heat]);
        only(tile.most.is_some(), "most", &[Kind::Status, Kind::Table, Kind::Map, Kind::Alarms]);
        only(tile.severity.is_some(), "severity", &[Kind::Alarms]);
        only(tile.text.is_some(), "text", &[Kind::Text]);
        only(tile.tenant.is_some(), "tenant", &Kind::ALL[..7]);
        if let Some(most) = tile.most
            && !(1..=MAX_ROWS).contains(&most)
        {
            self.at(format!("{field}/most"), format!("1 to {MAX_ROWS} is expected"));
        }
        if let Some(weeks) = tile.weeks
            && !(1..=MAX_WEEKS).contains(&weeks)
        {
            self.at(format!("{field}/weeks"), format!("1 to {MAX_WEEKS} is expected"));
        }
        match &tile.text {
            Some(text) if kind == Kind::Text => self.text(text, &format!("{field}/text"), MAX_WORDS, true),
            None if kind == Kind::Text => self.at(format!("{field}/text"), "a text is expected"),
            _ => {}
        }
        if kind.has_columns() && !(1..=MAX_COLUMNS).contains(&tile.columns.len()) {
            self.at(format!("{field}/column"), format!("1 to {MAX_COLUMNS} columns are expected"));
        }
        let mut seen = BTreeSet::new();
        for (nth, column) in tile.columns.iter().enumerate() {
            let field = format!("{field}/column/{nth}");
            self.word(&column.observed_property, format!("{field}/observed_property"));
            if !seen.insert((&column.observed_property, column.left)) {
                self.at(format!("{field}/observed_property"), "the column is there already");
            }
            if let Some(title) = &column.title {
                self.text(title, &format!("{field}/title"), MAX_TITLE, false);
            }
            self.levels(&column.levels, &format!("{field}/levels"));
            if let Some(of) = &column.of {
                self.word(of, format!("{field}/of"));
            } else if column.left {
                self.at(
                    format!("{field}/left"),
                    "say of what with 'of': the name of a number among the Thing's properties",
                );
            }
        }
    }
}

/// Everything that is wrong with a dashboard, each with its JSON Pointer (RFC 6901) and what would be right. `sealed` says of a tenant whether
/// nothing of it may be published.
pub fn check(d: &Declaration, sealed: &dyn Fn(&Tenant) -> bool) -> Vec<FieldError> {
    let mut wrong = Wrong(Vec::new());
    let own = d.key.strip_prefix(d.tenant.as_str()).and_then(|rest| rest.strip_prefix('.'));
    if !is_key(own.unwrap_or(&d.key)) || own.unwrap_or(&d.key).contains('.') || d.key.len() > 80 {
        wrong.at("/key", "use 1 to 80 of a-z, 0-9 and '-', starting with a letter or digit");
    }
    if d.key == "new" {
        wrong.at("/key", "'new' is the address of the form; choose another");
    }
    if let Err(detail) = Tenant::parse(d.tenant.as_str()) {
        wrong.at("/tenant", detail);
    }
    wrong.text(&d.title, "/title", MAX_TITLE, false);
    if let Some(about) = &d.about {
        wrong.text(about, "/about", 500, false);
    }
    if d.audience == Audience::Public {
        if sealed(&d.tenant) {
            wrong.at("/audience", format!("'{}' is sealed: nothing of it is published. Say tenant.", d.tenant));
        }
        if !d.roles.is_empty() {
            wrong.at("/roles", "everybody sees what is public: take the roles out, or say audience = \"tenant\"");
        }
    }
    if d.roles.len() > MAX_ROLES {
        wrong.at("/roles", format!("at most {MAX_ROLES} roles are possible"));
    }
    for role in &d.roles {
        if !is_key(role) {
            wrong.at("/roles", "keys of roles are expected");
        }
    }
    if !REFRESH.contains(&d.refresh) {
        wrong.at("/refresh", format!("{} to {} seconds are expected", REFRESH.start(), REFRESH.end()));
    }
    if d.tiles.len() > MAX_TILES {
        wrong.at("/tile", format!("at most {MAX_TILES} tiles are possible; make a second dashboard"));
    }
    for (nth, tile) in d.tiles.iter().take(MAX_TILES).enumerate() {
        wrong.tile(tile, &format!("/tile/{nth}"));
    }
    wrong.0
}

/// Checks a pack's file: each entry by itself, and no key twice. Pointers begin with the table: `/dashboard/0/tile/3/select`.
pub fn check_file(file: &DashboardFile, sealed: &dyn Fn(&Tenant) -> bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if file.dashboard.len() > MAX_DASHBOARDS {
        let detail = format!("at most {MAX_DASHBOARDS} dashboards are possible");
        errors.push(FieldError { field: "/dashboard".to_owned(), detail });
    }
    let mut keys = BTreeSet::new();
    for (at, d) in file.dashboard.iter().enumerate() {
        let found = check(d, sealed).into_iter();
        errors.extend(found.map(|e| FieldError { field: format!("/dashboard/{at}{}", e.field), ..e }));
        if d.key.contains('.') {
            let detail = "a key with a point is one that an officer has made; leave the point out".to_owned();
            errors.push(FieldError { field: format!("/dashboard/{at}/key"), detail });
        }
        if d.tiles.is_empty() {
            let detail = "at least one tile is expected".to_owned();
            errors.push(FieldError { field: format!("/dashboard/{at}/tile"), detail });
        }
        if !keys.insert(&d.key) {
            let detail = format!("the key '{}' is used twice", d.key);
            errors.push(FieldError { field: format!("/dashboard/{at}/key"), detail });
        }
    }
    let mut seen = BTreeSet::new();
    for (at, scale) in file.scale.iter().enumerate() {
        let field = format!("/scale/{at}");
        let mut wrong = Wrong(Vec::new());
        wrong.word(&scale.observed_property, format!("{field}/observed_property"));
        if scale.levels.is_empty() {
            wrong.at(format!("{field}/levels"), "at least one level is expected");
        }
        wrong.levels(&scale.levels, &format!("{field}/levels"));
        if !seen.insert(&scale.observed_property) {
            wrong.at(format!("{field}/observed_property"), "there is a scale for it already; put both in one");
        }
        errors.extend(wrong.0);
    }
    errors
}

/// Several mistakes as one answer.
pub fn refused(errors: Vec<FieldError>) -> Problem {
    let first = errors.first().cloned().unwrap_or(FieldError { field: String::new(), detail: String::new() });
    let mut problem = Problem::field(first.field, first.detail);
    problem.errors = errors;
    problem
}

/// Levels as officers type them: `12 warning, 20 alarm`, or `fault alarm, closed notice` for words. What is below the first is good.
///
/// # Errors
/// What is not understood, and how it is written.
pub fn parse_levels(text: &str) -> Result<Vec<Level>, String> {
    let mut levels = Vec::new();
    for part in text.split([',', '\n']).map(str::trim).filter(|p| !p.is_empty()) {
        let shown: String = part.chars().take(40).collect();
        let (from, state) = part.rsplit_once(char::is_whitespace).ok_or_else(|| {
            format!("'{shown}': write a number or word and one of good, notice, warning, alarm, such as 12 warning")
        })?;
        let state = Standing::level(state)
            .ok_or_else(|| format!("'{shown}': good, notice, warning or alarm is expected at its end"))?;
        let from = from.trim();
        let level = match from.parse::<f64>() {
            Ok(at) if at.is_finite() => Level { at: Some(at), is: None, state, word: None },
            _ => Level { at: None, is: Some(from.to_owned()), state, word: None },
        };
        levels.push(level);
        if levels.len() > MAX_LEVELS {
            return Err(format!("at most {MAX_LEVELS} levels are possible"));
        }
    }
    if levels.first().is_some_and(|l| l.at.is_some() && l.state != Standing::Good) {
        levels.insert(0, Level { at: None, is: None, state: Standing::Good, word: None });
    }
    Ok(levels)
}

/// What [`parse_levels`] reads.
pub fn show_levels(levels: &[Level]) -> String {
    let one = |l: &Level| match (&l.is, l.at) {
        (Some(word), _) => Some(format!("{word} {}", l.state.name())),
        (None, Some(at)) => Some(format!("{at} {}", l.state.name())),
        (None, None) => None,
    };
    levels.iter().filter_map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;
