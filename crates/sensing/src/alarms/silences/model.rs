//! What a silence is and what it covers. Pure: values and decisions, no I/O, no clock.
//!
//! A silence keeps notifications about some alarms back for a while, for a reason that somebody has given: road works beside a gauge, a pump that is
//! being changed. It never touches the alarms. They are raised, shown and counted as ever, and say which silence keeps their letters back.
//!
//! What a department may keep quiet, and for how long, is the pack's to say:
//!
//! ```toml
//! [[silencing]]                  # for the whole city
//! never = ["Extreme"]            # severities that no silence keeps back
//! longest = 604800               # seconds
//!
//! [[silencing]]
//! tenant = "dsd"                 # stricter for one department; never looser
//! longest = 86400
//! ```

use std::collections::BTreeSet;

use kernel::{FieldError, Id, Kind, Tenant, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    alarms::model::{Alarm, Comment, Mark},
    model::EntityId,
    rules::model::Severity,
};

/// Which alarms of a tenant: those that fit every field that names something. At least one must.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Matchers {
    /// Keys of rules.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub rule: BTreeSet<String>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub severity: BTreeSet<Severity>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub district: BTreeSet<String>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub system: BTreeSet<String>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub thing: BTreeSet<EntityId>,
}

/// Values of one field.
pub const MAX_VALUES: usize = 50;
const MAX_VALUE: usize = 200;

impl Matchers {
    pub fn is_empty(&self) -> bool {
        let Self { rule, severity, district, system, thing } = self;
        rule.is_empty() && severity.is_empty() && district.is_empty() && system.is_empty() && thing.is_empty()
    }

    /// Whether the alarm fits every field that names something.
    pub fn fits(&self, alarm: &Alarm) -> bool {
        let any = |names: &BTreeSet<String>, have: Option<&String>| {
            names.is_empty() || have.is_some_and(|have| names.contains(have))
        };
        any(&self.rule, Some(&alarm.rule))
            && (self.severity.is_empty() || self.severity.contains(&alarm.severity))
            && any(&self.district, alarm.district.as_ref())
            && any(&self.system, alarm.system.as_ref())
            && (self.thing.is_empty() || self.thing.contains(&alarm.thing))
    }

    /// Whether all alarms of one rule and district are covered when one of them is: only then may a letter about several be kept back for it.
    pub fn fits_all_alike(&self) -> bool {
        self.thing.is_empty() && self.system.is_empty()
    }

    fn check(&self, wrong: &mut impl FnMut(&str, String)) {
        if self.is_empty() {
            wrong("/rule", "name at least one rule, severity, district, system or thing".to_owned());
        }
        for (field, names) in [("/rule", &self.rule), ("/district", &self.district), ("/system", &self.system)] {
            if names.len() > MAX_VALUES {
                wrong(field, format!("at most {MAX_VALUES} are possible; make a second silence, or name a district"));
            }
            let clean = |n: &String| (1..=MAX_VALUE).contains(&n.len()) && !n.chars().any(char::is_control);
            if !names.iter().all(clean) {
                wrong(field, format!("names of 1 to {MAX_VALUE} bytes without control characters are expected"));
            }
        }
        if self.thing.len() > MAX_VALUES {
            wrong("/thing", format!("at most {MAX_VALUES} are possible; name a district or a system instead"));
        }
    }
}

/// Notifications about some alarms of a tenant are kept back between two times.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Silence {
    pub id: Id<Silence>,
    pub tenant: Tenant,
    #[serde(flatten)]
    pub matchers: Matchers,
    pub starts_at: Timestamp,
    /// The first moment at which it does not hold any more; that of [`Silence::ended`] when somebody ended it.
    pub ends_at: Timestamp,
    pub reason: String,
    /// Who made it: [`kernel::Caller::label`], never a person's name.
    pub by: String,
    pub created_at: Timestamp,
    /// Who ended it before its time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<Mark>,
}

impl Kind for Silence {
    const NAME: &'static str = "silence";
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SilenceState {
    /// Its time has not come.
    Pending,
    Active,
    /// Its time is over, or somebody ended it.
    Expired,
}

impl SilenceState {
    pub const ALL: [Self; 3] = [Self::Active, Self::Pending, Self::Expired];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Expired => "expired",
        }
    }
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.name() == name)
    }
}

impl Silence {
    pub fn state(&self, now: Timestamp) -> SilenceState {
        match now {
            now if now >= self.ends_at => SilenceState::Expired,
            now if now >= self.starts_at => SilenceState::Active,
            _ => SilenceState::Pending,
        }
    }

    /// Whether it keeps letters about this alarm back now. What the pack forbids to be quiet about is never covered, whenever it came to forbid it.
    pub fn covers(&self, alarm: &Alarm, limits: &Limits, now: Timestamp) -> bool {
        self.tenant == alarm.tenant
            && self.state(now) == SilenceState::Active
            && !limits.never.contains(&alarm.severity)
            && self.matchers.fits(alarm)
    }
}

/// What somebody asks for.
#[derive(Clone, PartialEq, Debug)]
pub struct Draft {
    pub tenant: Tenant,
    pub matchers: Matchers,
    /// Now, where none is given.
    pub starts_at: Option<Timestamp>,
    pub ends_at: Timestamp,
    pub reason: String,
}

/// The earliest that a silence may be announced: nobody plans road works further ahead.
const MAX_AHEAD_SECS: i64 = 366 * 86_400;

impl Draft {
    /// The silence that it makes.
    ///
    /// # Errors
    /// Everything that is wrong, each with its JSON Pointer and what would be right.
    pub fn decide(
        self,
        id: Id<Silence>,
        by: &str,
        limits: &Limits,
        now: Timestamp,
    ) -> Result<Silence, Vec<FieldError>> {
        let mut errors = Vec::new();
        let mut wrong = |field: &str, detail: String| errors.push(FieldError { field: field.to_owned(), detail });
        self.matchers.check(&mut wrong);
        let forbidden: Vec<&str> = self.matchers.severity.intersection(&limits.never).map(|s| s.name()).collect();
        if !forbidden.is_empty() {
            wrong("/severity", format!("{} is never kept quiet here; leave it out", forbidden.join(", ")));
        }
        // What began a moment ago, by the clock of whoever asks, begins now.
        let starts_at = self.starts_at.unwrap_or(now).max(now);
        if starts_at > now.plus_secs(MAX_AHEAD_SECS) {
            wrong("/starts_at", "a time within a year is expected".to_owned());
        }
        if self.ends_at <= starts_at {
            wrong("/ends_at", "a time to come, after the start, is expected".to_owned());
        } else if self.ends_at > starts_at.plus_secs(i64::from(limits.longest)) {
            wrong(
                "/ends_at",
                format!("a silence may last {} here at most; choose an earlier end", span(limits.longest)),
            );
        }
        let reason = match Comment::parse(&self.reason) {
            Ok(Some(reason)) => reason.as_str().to_owned(),
            Ok(None) => {
                wrong("/reason", "say why, for whoever is on duty next".to_owned());
                String::new()
            }
            Err(detail) => {
                wrong("/reason", detail);
                String::new()
            }
        };
        if !errors.is_empty() {
            return Err(errors);
        }
        let Self { tenant, matchers, ends_at, .. } = self;
        let by = by.to_owned();
        Ok(Silence { id, tenant, matchers, starts_at, ends_at, reason, by, created_at: now, ended: None })
    }
}

fn span(seconds: u32) -> String {
    let many = |n: u32, unit: &str| format!("{n} {unit}{}", if n == 1 { "" } else { "s" });
    match seconds {
        s if s % 86_400 == 0 => many(s / 86_400, "day"),
        s if s % 3_600 == 0 => many(s / 3_600, "hour"),
        s => many(s, "second"),
    }
}

/// What the pack lets be kept quiet: `[[silencing]]`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Silencing {
    /// Whose alarms; the whole city's where none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Tenant>,
    /// Severities that no silence keeps back.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub never: BTreeSet<Severity>,
    /// Seconds that a silence may last.
    #[serde(default = "month")]
    pub longest: u32,
}

const fn month() -> u32 {
    31 * 86_400
}

impl Silencing {
    /// Everything that is wrong, each with its JSON Pointer.
    pub fn check(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let mut wrong = |field: &str, detail: String| errors.push(FieldError { field: field.to_owned(), detail });
        if let Some(Err(detail)) = self.tenant.as_ref().map(|t| Tenant::parse(t.as_str())) {
            wrong("/tenant", detail);
        }
        if !(60..=month()).contains(&self.longest) {
            wrong("/longest", format!("60 to {} seconds are expected", month()));
        }
        errors
    }
}

/// What holds for one tenant: the city's words and its own, whichever is stricter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    pub never: BTreeSet<Severity>,
    pub longest: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { never: BTreeSet::new(), longest: month() }
    }
}

impl Limits {
    pub fn of<'a>(declared: impl IntoIterator<Item = &'a Silencing>, tenant: &Tenant) -> Self {
        let mut limits = Self::default();
        for silencing in declared.into_iter().filter(|s| s.tenant.as_ref().is_none_or(|t| t == tenant)) {
            limits.never.extend(&silencing.never);
            limits.longest = limits.longest.min(silencing.longest);
        }
        limits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alarms::model::tests::alarm;
    use proptest::prelude::*;

    fn at(s: i64) -> Timestamp {
        Timestamp::from_secs(s)
    }
    fn tenant(slug: &str) -> Tenant {
        Tenant::parse(slug).expect("slug")
    }
    fn rule(key: &str) -> Matchers {
        Matchers { rule: [key.to_owned()].into(), ..Matchers::default() }
    }
    fn draft(matchers: Matchers, starts_at: Option<i64>, ends_at: i64, reason: &str) -> Draft {
        let (starts_at, ends_at) = (starts_at.map(at), at(ends_at));
        Draft { tenant: tenant("dsd"), matchers, starts_at, ends_at, reason: reason.to_owned() }
    }

    #[test]
    fn drafts_are_refused_by_the_field() {
        let strict = Limits { never: [Severity::Extreme].into(), longest: 3_600 };
        let check = |draft: Draft, fields: &[&str]| {
            let found = draft.clone().decide(Id::new(at(100), 1), "person:a", &strict, at(100));
            let found: Vec<String> = found.err().unwrap_or_default().into_iter().map(|e| e.field).collect();
            assert_eq!(found, fields, "{draft:?}");
        };
        check(draft(rule("high"), None, 200, "road works"), &[]);
        check(draft(rule("high"), Some(5_000), 8_000, "road works"), &[]);
        check(draft(Matchers::default(), None, 200, "road works"), &["/rule"]);
        check(draft(rule("high"), None, 100, "road works"), &["/ends_at"]);
        check(draft(rule("high"), Some(300), 200, "road works"), &["/ends_at"]);
        check(draft(rule("high"), None, 3_701, "road works"), &["/ends_at"]);
        check(draft(rule("high"), Some(1 << 40), (1 << 40) + 60, "road works"), &["/starts_at"]);
        check(draft(rule("high"), None, 200, "  "), &["/reason"]);
        check(draft(rule("high"), None, 200, "a\u{7}"), &["/reason"]);
        check(draft(rule(""), None, 200, "x"), &["/rule"]);
        let grave = Matchers { severity: [Severity::Severe, Severity::Extreme].into(), ..Matchers::default() };
        check(draft(grave, None, 200, "x"), &["/severity"]);
        let many = Matchers { thing: (0..51).map(EntityId).collect(), ..Matchers::default() };
        check(draft(many, None, 200, "x"), &["/thing"]);
        // A start that has passed is now: the silence lasts no longer for it.
        let made = draft(rule("high"), Some(1), 3_700, "x").decide(Id::new(at(100), 1), "person:a", &strict, at(100));
        assert_eq!(made.expect("valid").starts_at, at(100));
    }

    #[test]
    fn what_the_pack_forbids_is_never_covered() {
        let silence = draft(rule("r"), None, 200, "x").decide(Id::new(at(100), 1), "p", &Limits::default(), at(100));
        let silence = silence.expect("valid");
        let forbids = |never: &[Severity]| Limits { never: never.iter().copied().collect(), ..Limits::default() };
        assert!(silence.covers(&alarm(), &forbids(&[]), at(150)));
        assert!(!silence.covers(&alarm(), &forbids(&[Severity::Severe]), at(150)), "forbidden after it was made");
        assert!(silence.covers(&alarm(), &forbids(&[Severity::Extreme]), at(150)));
        let times = [(99, false), (100, true), (199, true), (200, false)];
        for (moment, covered) in times {
            assert_eq!(silence.covers(&alarm(), &forbids(&[]), at(moment)), covered, "{moment}");
        }
        let other = Alarm { tenant: tenant("epd"), ..alarm() };
        assert!(!silence.covers(&other, &forbids(&[]), at(150)), "another tenant's");
    }

    #[test]
    fn the_stricter_word_holds() {
        let declared: Vec<Silencing> =
            ["never = [\"Extreme\"]", "tenant = \"dsd\"\nlongest = 3600\nnever = [\"Severe\"]"]
                .iter()
                .map(|t| toml::from_str(t).expect("TOML"))
                .collect();
        let dsd = Limits::of(&declared, &tenant("dsd"));
        assert_eq!((dsd.longest, dsd.never.len()), (3_600, 2));
        let epd = Limits::of(&declared, &tenant("epd"));
        assert_eq!((epd.longest, epd.never.len()), (month(), 1));
        assert!(toml::from_str::<Silencing>("nevr = [\"Extreme\"]").is_err(), "a misspelt word is found");
        let wrong: Silencing = toml::from_str("longest = 1").expect("TOML");
        assert_eq!(wrong.check()[0].field, "/longest");
    }

    fn some<T: Clone + Ord + std::fmt::Debug + 'static>(values: Vec<T>) -> impl Strategy<Value = BTreeSet<T>> {
        let most = values.len();
        prop::collection::btree_set(prop::sample::select(values), 0..=most)
    }

    proptest! {
        /// A field that names more covers no fewer alarms than it did, and naming a further field covers no more.
        #[test]
        fn matchers_widen_within_a_field_and_narrow_with_further_fields(
            rule in some(vec!["r".to_owned(), "s".to_owned()]),
            district in some(vec!["North".to_owned(), "South".to_owned()]),
            thing in some(vec![EntityId(1), EntityId(2)]),
            severity in some(Severity::ALL.to_vec()),
            lives in prop::sample::select(vec![None, Some("North".to_owned()), Some("East".to_owned())]),
        ) {
            let alarm = Alarm { district: lives, ..alarm() };
            let all = Matchers { rule, district, thing, severity, ..Matchers::default() };
            let fits = all.fits(&alarm);
            let without = Matchers { district: BTreeSet::new(), ..all.clone() };
            prop_assert!(!fits || without.fits(&alarm));
            if !all.rule.is_empty() {
                let mut wider = all.clone();
                wider.rule.insert("t".to_owned());
                prop_assert!(!fits || wider.fits(&alarm));
            }
            let exact = (all.rule.is_empty() || all.rule.contains("r"))
                && (all.thing.is_empty() || all.thing.contains(&EntityId(1)))
                && (all.severity.is_empty() || all.severity.contains(&Severity::Severe))
                && (all.district.is_empty() || alarm.district.as_ref().is_some_and(|d| all.district.contains(d)));
            prop_assert_eq!(fits, exact);
        }
    }
}
