//! What a rule says, as a pack declares it. Pure: serde shapes and their validation, no I/O, no clock.
//!
//! ```toml
//! [[rule]]
//! key = "flood-level"
//! tenant = "dsd"
//! severity = "Severe"
//! name = { en = "High water", zh-hant = "水位過高", zh-hans = "水位过高" }
//! select = { system = "flood", observed_property = "water-level" }
//! when = { above = { raise = 2.5, clear = 2.2, hold = 60, clear_hold = 300 } }
//! notify = ["dsd-duty"]
//!
//! [[rule]]
//! key = "lamppost-silent"
//! tenant = "hyd"
//! severity = "Minor"
//! name = { en = "No data", zh-hant = "沒有數據", zh-hans = "没有数据" }
//! select = { system = "lamppost" }
//! when = { absence = { after = 1800 } }
//!
//! [[rule]]
//! key = "flood-rising"
//! …
//! when = { expression = "rate * 600.0 > 0.3 && value > 0.5", window = 900, hold = 60 }
//! ```

use std::{fmt, ops::Deref, sync::Arc};

use kernel::{FieldError, Problem, Tenant, Text};
use serde::{Deserialize, Serialize};

pub use super::condition::{Condition, Expression, Geofence, Level, Side};
use super::{cel::Compiled, condition};
use crate::{
    alerts::model::{self as warning, PublicAlert},
    model::EntityId,
    moving::{Place, Zone},
    notify::{self, escalate::Step},
};

/// How grave it is: `severity` of the Common Alerting Protocol (OASIS CAP 1.2 section 3.2.2), without `Unknown`, because whoever
/// writes a rule knows. Ordered: `Extreme` is the greatest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Severity {
    Minor,
    Moderate,
    Severe,
    Extreme,
}

impl Severity {
    pub const ALL: [Self; 4] = [Self::Minor, Self::Moderate, Self::Severe, Self::Extreme];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Minor => "Minor",
            Self::Moderate => "Moderate",
            Self::Severe => "Severe",
            Self::Extreme => "Extreme",
        }
    }
    /// Reads a name in any letter case, as people type it into an address.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.name().eq_ignore_ascii_case(name))
    }
    /// The number in the database; greater is graver.
    pub const fn rank(self) -> i64 {
        self as i64
    }
    pub fn from_rank(rank: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.rank() == rank)
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which Datastreams a rule watches: those of the rule's tenant that fit every field given. At least one must be given.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selection {
    /// `properties.system` of the Thing, such as `flood`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// The natural key of the ObservedProperty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_property: Option<String>,
    /// The natural key of the Thing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thing: Option<String>,
    /// The natural key of the Datastream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datastream: Option<String>,
    /// `properties.district` of the Thing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub district: Option<String>,
    /// The key of a fence that the Thing stands in, as the catalogue has its Location.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<String>,
}

/// What a rule may look at when it selects: one Datastream, its Thing and its ObservedProperty.
#[derive(Clone, PartialEq, Debug)]
pub struct Facts {
    pub datastream: EntityId,
    pub thing: EntityId,
    pub tenant: Tenant,
    /// Whether everybody may see the Datastream; its alarms follow it.
    pub public: bool,
    pub datastream_key: Option<String>,
    pub thing_key: Option<String>,
    pub observed_property: Option<String>,
    pub system: Option<String>,
    pub district: Option<String>,
    /// The Thing's name for people.
    pub thing_name: Text,
    pub unit: Option<String>,
    /// Longitude and latitude of the Thing.
    pub position: Option<[f64; 2]>,
    /// Whether Thing or Datastream says that its values are made up.
    pub simulated: bool,
}

impl Selection {
    fn fields(&self) -> [(&'static str, Option<&String>); 6] {
        [
            ("system", self.system.as_ref()),
            ("observed_property", self.observed_property.as_ref()),
            ("thing", self.thing.as_ref()),
            ("datastream", self.datastream.as_ref()),
            ("district", self.district.as_ref()),
            ("within", self.within.as_ref()),
        ]
    }

    /// Whether the Datastream fits every field given; the tenant and the fence are compared by [`Rule::selects`].
    pub fn matches(&self, facts: &Facts) -> bool {
        let fits = |want: &Option<String>, have: &Option<String>| want.is_none() || want == have;
        fits(&self.system, &facts.system)
            && fits(&self.observed_property, &facts.observed_property)
            && fits(&self.thing, &facts.thing_key)
            && fits(&self.datastream, &facts.datastream_key)
            && fits(&self.district, &facts.district)
    }
}

/// Which Observations a rule believes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trust {
    /// Those whose `resultQuality` names no fault (see [`super::quality`]).
    #[default]
    Good,
    /// All that carry a result.
    Any,
}

/// How many Things of one district must fulfil a rule's condition before it is raised there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Together {
    pub at_least: u32,
    /// Seconds within which they must have begun to, by the time of measurement; without it, it is enough that they do at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<u32>,
}

/// A rule as the pack writes it. [`Rule::new`] turns it into one that is known to make sense.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleDeclaration {
    /// Unique in the city; `a-z 0-9 - .`. It is the rule's identity: changing anything else changes the rule, changing the key makes another.
    pub key: String,
    pub name: Text,
    /// What whoever receives the alarm should do (CAP `instruction`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instruction: Option<Text>,
    /// Whose Datastreams are watched and whose operators answer.
    pub tenant: Tenant,
    pub severity: Severity,
    pub select: Selection,
    pub when: Condition,
    #[serde(default)]
    pub quality: Trust,
    /// Seconds after which an Observation is too old to raise: history that is loaded later is no emergency now.
    #[serde(default = "default_max_age")]
    pub max_age: u32,
    /// Keys of the recipients who are told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notify: Vec<String>,
    /// Who is told when nobody has acknowledged it in time, the most patient last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub escalate: Vec<Step>,
    /// Makes one alarm of several Things in a district.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub area: Option<Together>,
    /// Makes the alarm a public warning as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_alert: Option<PublicAlert>,
    #[serde(default = "yes")]
    pub enabled: bool,
}

const fn default_max_age() -> u32 {
    DAY
}
const fn yes() -> bool {
    true
}

pub(super) const DAY: u32 = 86_400;
/// The longest time a rule may wait for anything.
pub(super) const MAX_WAIT: u32 = 366 * DAY;
const MAX_TEXT: usize = 500;
const MAX_RECIPIENTS: usize = 32;

/// A declaration whose every field has been checked.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(transparent)]
pub struct Rule {
    declaration: RuleDeclaration,
    #[serde(skip)]
    compiled: Option<Arc<Compiled>>,
    #[serde(skip)]
    places: Places,
}

/// The fences that a rule names, found by [`crate::moving::fences::attach`].
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Places {
    /// Of its condition.
    pub zone: Option<Arc<Zone>>,
    /// Of its selection.
    pub within: Option<Arc<Zone>>,
}

impl Deref for Rule {
    type Target = RuleDeclaration;
    fn deref(&self) -> &RuleDeclaration {
        &self.declaration
    }
}

impl Rule {
    /// # Errors
    /// Everything that is wrong, each with its JSON Pointer (RFC 6901) and what would be right.
    pub fn new(declaration: RuleDeclaration) -> Result<Self, Vec<FieldError>> {
        let mut errors = Vec::new();
        let mut wrong = |field: &str, detail: String| errors.push(FieldError { field: field.to_owned(), detail });
        let d = &declaration;
        if !is_key(&d.key) {
            wrong("/key", "use 1 to 80 of a-z, 0-9, '-' and '.', starting with a letter or digit".to_owned());
        }
        if let Err(detail) = Tenant::parse(d.tenant.as_str()) {
            wrong("/tenant", detail);
        }
        check_text(&d.name, "/name", &mut wrong);
        if let Some(text) = &d.instruction {
            check_text(text, "/instruction", &mut wrong);
        }
        if d.select.fields().iter().all(|(_, value)| value.is_none()) {
            wrong(
                "/select",
                "give at least one of system, observed_property, thing, datastream, district, within".to_owned(),
            );
        }
        for (name, value) in d.select.fields() {
            if value.is_some_and(|v| v.is_empty() || v.len() > 200) {
                wrong(&format!("/select/{name}"), "1 to 200 characters are expected".to_owned());
            }
        }
        let compiled = condition::check(&d.key, &d.when, &mut wrong);
        if d.max_age == 0 || d.max_age > MAX_WAIT {
            wrong("/max_age", format!("1 to {MAX_WAIT} seconds are expected"));
        }
        if d.notify.len() > MAX_RECIPIENTS {
            wrong("/notify", format!("at most {MAX_RECIPIENTS} recipients can be told"));
        }
        for (at, key) in d.notify.iter().enumerate() {
            if !is_key(key) {
                wrong(&format!("/notify/{at}"), format!("'{}' is not the key of a recipient", shorten(key)));
            }
        }
        notify::escalate::check(&d.escalate, &mut wrong);
        if let Some(Together { at_least, within }) = d.area {
            if !(2..=1_000).contains(&at_least) {
                wrong("/area/at_least", "2 to 1,000 Things are expected".to_owned());
            }
            if within.is_some_and(|within| within == 0 || within > MAX_WAIT) {
                wrong("/area/within", format!("1 to {MAX_WAIT} seconds are expected"));
            }
        }
        if let Some(alert) = &d.public_alert {
            errors.extend(warning::check(alert));
        }
        if errors.is_empty() { Ok(Self { declaration, compiled, places: Places::default() }) } else { Err(errors) }
    }

    pub fn declaration(&self) -> &RuleDeclaration {
        &self.declaration
    }

    /// The same rule with the fences that it names.
    #[must_use]
    pub fn placed(&self, places: Places) -> Self {
        Self { places, ..self.clone() }
    }
    /// The fences of its condition; `None` for other conditions, and until they have been found.
    pub fn zone(&self) -> Option<&Arc<Zone>> {
        self.places.zone.as_ref()
    }
    /// The fences that what it watches stands in.
    pub fn within(&self) -> Option<&Arc<Zone>> {
        self.places.within.as_ref()
    }
    /// Whether it names fences.
    pub fn is_placed(&self) -> bool {
        self.select.within.is_some() || matches!(self.when, Condition::Geofence(_))
    }
    /// Whether it names this fence by its key.
    pub fn names_fence(&self, key: &str) -> bool {
        let of_condition = match &self.when {
            Condition::Geofence(form) => form.fences.iter().any(|f| f == key),
            _ => false,
        };
        of_condition || self.select.within.as_deref() == Some(key)
    }

    /// The rule's expression, where it has one.
    pub fn compiled(&self) -> Option<&Arc<Compiled>> {
        self.compiled.as_ref()
    }

    /// The keys of other Datastreams that the rule looks at, below the key of their Thing.
    pub fn inputs(&self) -> &[String] {
        self.compiled.as_ref().map_or(&[], |c| c.inputs.as_slice())
    }

    /// Which of [`Rule::inputs`] this Datastream is, if any.
    pub fn reads(&self, facts: &Facts) -> Option<u8> {
        if !self.enabled || self.tenant != facts.tenant {
            return None;
        }
        let own = facts.datastream_key.as_deref()?.strip_prefix(facts.thing_key.as_deref()?)?.strip_prefix('.')?;
        self.inputs().iter().position(|key| key == own).and_then(|at| u8::try_from(at).ok())
    }

    /// Whether the rule watches this Datastream: a rule never reaches into another tenant's data.
    pub fn selects(&self, facts: &Facts) -> bool {
        self.enabled && self.tenant == facts.tenant && self.select.matches(facts) && self.stands_there(facts)
    }

    /// Whether the Thing stands in the fence that the rule selects by. Where that is gone nothing does: a rule that suddenly watched the whole city would be
    /// worse than one that watches nothing.
    fn stands_there(&self, facts: &Facts) -> bool {
        if self.select.within.is_none() {
            return true;
        }
        let place = facts.position.and_then(|[lon, lat]| Place::new(lon, lat));
        let metres = self.within().zip(place).and_then(|(zone, place)| zone.distance(place));
        metres.is_some_and(|(metres, _)| metres <= 0.0)
    }
}

fn check_text(text: &Text, field: &str, wrong: &mut impl FnMut(&str, String)) {
    let forms = [("en", Some(&text.en)), ("zh-hant", text.zh_hant.as_ref()), ("zh-hans", text.zh_hans.as_ref())];
    for (language, form) in forms {
        match form.map(|t| t.trim()) {
            None | Some("") => wrong(&format!("{field}/{language}"), "a text is expected".to_owned()),
            Some(t) if t.len() > MAX_TEXT => {
                wrong(&format!("{field}/{language}"), format!("at most {MAX_TEXT} bytes are expected"));
            }
            Some(t) if t.chars().any(char::is_control) => {
                wrong(&format!("{field}/{language}"), "one line without control characters is expected".to_owned());
            }
            Some(_) => {}
        }
    }
}

/// Keys of rules and recipients: they appear in addresses, subjects and logs.
pub fn is_key(key: &str) -> bool {
    (1..=80).contains(&key.len())
        && key.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.'))
}

pub(super) fn shorten(text: &str) -> String {
    text.chars().take(60).collect()
}

/// The file of a pack: `[[rule]]`, `[[recipient]]`, `[[silencing]]` and `[[inhibit]]` tables. Unknown fields are refused, so that a misspelt `hold` is found before the flood.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleFile {
    #[serde(default)]
    pub rule: Vec<RuleDeclaration>,
    #[serde(default)]
    pub recipient: Vec<notify::Recipient>,
    /// What may be kept quiet, and for how long.
    #[serde(default)]
    pub silencing: Vec<crate::alarms::silences::model::Silencing>,
    /// Alarms that keep letters about others back.
    #[serde(default)]
    pub inhibit: Vec<notify::inhibit::Inhibition>,
}

/// Checks a whole set: every rule by itself, and no key twice.
///
/// # Errors
/// A 400 whose fields begin with the rule's place, such as `/3/when/above/clear`.
pub fn check_all(declarations: Vec<RuleDeclaration>) -> Result<Vec<Rule>, Problem> {
    let mut keys = std::collections::BTreeSet::new();
    let mut errors = Vec::new();
    let mut rules = Vec::with_capacity(declarations.len());
    for (at, declaration) in declarations.into_iter().enumerate() {
        if !keys.insert(declaration.key.clone()) {
            let detail = format!("the key '{}' is used twice", shorten(&declaration.key));
            errors.push(FieldError { field: format!("/{at}/key"), detail });
        }
        match Rule::new(declaration) {
            Ok(rule) => rules.push(rule),
            Err(found) => {
                errors.extend(found.into_iter().map(|e| FieldError { field: format!("/{at}{}", e.field), ..e }));
            }
        }
    }
    let Some(first) = errors.first() else { return Ok(rules) };
    let mut problem = Problem::field(first.field.clone(), first.detail.clone());
    problem.errors = errors;
    Err(problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
        [[rule]]
        key = "flood-level"
        tenant = "dsd"
        severity = "Severe"
        name = { en = "High water", zh-hant = "水位過高", zh-hans = "水位过高" }
        select = { system = "flood", observed_property = "water-level" }
        when = { above = { raise = 3, clear = 2.5, hold = 60 } }
        notify = ["dsd-duty"]

        [[rule]]
        key = "lamppost-silent"
        tenant = "hyd"
        severity = "Minor"
        name = { en = "No data", zh-hant = "沒有數據", zh-hans = "没有数据" }
        select = { system = "lamppost" }
        when = { absence = { after = 1800 } }
    "#;

    fn declarations() -> Vec<RuleDeclaration> {
        toml::from_str::<RuleFile>(FILE).expect("valid").rule
    }

    #[test]
    fn a_pack_declares_rules() {
        let rules = check_all(declarations()).expect("valid");
        let level = Level { raise: 3.0, clear: 2.5, hold: 60, clear_hold: 0 };
        assert_eq!(rules[0].when, Condition::Above(level));
        assert_eq!((rules[0].quality, rules[0].max_age, rules[0].enabled), (Trust::Good, 86_400, true));
        assert_eq!(rules[1].when, Condition::Absence { after: 1800 });
        for rule in rules {
            let json = serde_json::to_string(&rule).expect("serialises");
            assert_eq!(serde_json::from_str::<RuleDeclaration>(&json).expect("parses"), *rule.declaration());
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |change: &dyn Fn(&mut RuleDeclaration), field: &str| {
            let mut declaration = declarations().remove(0);
            change(&mut declaration);
            let errors = Rule::new(declaration).expect_err(field);
            assert_eq!(errors.iter().map(|e| e.field.as_str()).collect::<Vec<_>>(), [field], "{errors:?}");
        };
        let level = |raise, clear| Level { raise, clear, hold: 0, clear_hold: 0 };
        check(&|d| d.key = "Flood level".to_owned(), "/key");
        check(&|d| d.name.zh_hans = None, "/name/zh-hans");
        check(&|d| d.name.en = "a\r\nBcc: b".to_owned(), "/name/en");
        check(&|d| d.select = Selection::default(), "/select");
        check(&|d| d.select.system = Some(String::new()), "/select/system");
        check(&|d| d.when = Condition::Above(level(1.0, 1.0)), "/when/above/clear");
        check(&|d| d.when = Condition::Above(level(1.0, 2.0)), "/when/above/clear");
        check(&|d| d.when = Condition::Below(level(1.0, 0.5)), "/when/below/clear");
        check(&|d| d.when = Condition::Below(level(f64::NAN, 0.5)), "/when/below/raise");
        check(&|d| d.when = Condition::Absence { after: 0 }, "/when/absence/after");
        check(&|d| d.max_age = 0, "/max_age");
        check(&|d| d.notify = vec!["".to_owned()], "/notify/0");
    }

    #[test]
    fn misspelt_and_doubled_are_refused() {
        assert!(toml::from_str::<RuleFile>(&FILE.replace("hold", "holds")).is_err());
        assert!(toml::from_str::<RuleFile>(&FILE.replace("Severe", "Severest")).is_err());
        let twice = [declarations(), declarations()].concat();
        let problem = check_all(twice).expect_err("twice");
        assert_eq!(problem.errors[0].field, "/2/key");
        assert_eq!(problem.errors.len(), 2);
    }

    #[test]
    fn selects_by_every_field_and_never_across_tenants() {
        let rule = check_all(declarations()).expect("valid").remove(0);
        let facts = Facts {
            datastream: EntityId(1),
            thing: EntityId(2),
            tenant: Tenant::parse("dsd").expect("slug"),
            public: true,
            datastream_key: None,
            thing_key: None,
            observed_property: Some("water-level".to_owned()),
            system: Some("flood".to_owned()),
            district: None,
            thing_name: Text::plain("Gauge"),
            unit: None,
            position: None,
            simulated: false,
        };
        assert!(rule.selects(&facts));
        assert!(!rule.selects(&Facts { system: None, ..facts.clone() }));
        assert!(!rule.selects(&Facts { observed_property: Some("rain".to_owned()), ..facts.clone() }));
        assert!(!rule.selects(&Facts { tenant: Tenant::parse("epd").expect("slug"), ..facts }));
    }
}
