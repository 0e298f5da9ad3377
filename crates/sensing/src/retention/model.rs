//! What is kept of Observations, for how long and how finely, as a pack declares it. Pure.

use std::{collections::BTreeSet, fmt, str::FromStr};

use jiff::{Span, ToSpan, tz::TimeZone};
use kernel::{FieldError, Tenant, Text, Timestamp};
use serde::{Deserialize, Serialize};

use crate::observe::thin::{Form, Forms, iso};

/// Stages of one declaration.
const MOST_STAGES: usize = 6;
/// A word that keeps everything, and two that are addresses beside the keys.
const RESERVED: [&str; 3] = ["forever", "holds", "runs"];
/// Systems that one declaration names.
const MOST_SYSTEMS: usize = 50;
/// Borders of times kept for so long or longer move by the month, so that each month is rewritten once and not thirty times.
const BY_THE_MONTH_DAYS: i64 = 60;
/// Days after which the calendar begins anew.
const CALENDAR: i64 = 4 * 365 + 1;
/// Intervals that Observations may be summed up by. They divide an hour: wider ones would cut the local day of some city.
const WIDTHS: [u32; 8] = [60, 120, 300, 600, 900, 1_200, 1_800, 3_600];

/// `retention/*.toml`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetentionFile {
    #[serde(default)]
    pub retention: Vec<Declaration>,
}

/// `[[retention]]`: what is kept of some of a department's Datastreams.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Declaration {
    pub key: String,
    pub tenant: Tenant,
    pub name: Text,
    /// Datastreams of Things of these systems.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub systems: BTreeSet<String>,
    /// All Datastreams of the department that no other declaration is for. A Datastream names its declaration in `properties.retention`, which goes
    /// before all of this; `forever` there keeps everything.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub others: bool,
    /// One after the other. When the last has a `for`, Observations are gone after it.
    pub keep: Vec<Stage>,
}

/// `[[retention.keep]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// How long this stage lasts, after those before it; without it, for ever.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub lasts: Option<Length>,
    #[serde(rename = "as")]
    pub form: Resolution,
}

/// `30d`, `13mo`, `5y`, or the same as ISO 8601 has it: `P30D`, `P13M`, `P5Y`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Length {
    number: u16,
    unit: Unit,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Unit {
    Day,
    Month,
    Year,
}

impl Length {
    fn span(self) -> Span {
        let n = i64::from(self.number);
        match self.unit {
            Unit::Day => n.days(),
            Unit::Month => n.months(),
            Unit::Year => n.years(),
        }
    }
    fn days(self) -> i64 {
        i64::from(self.number)
            * match self.unit {
                Unit::Day => 1,
                Unit::Month => 28,
                Unit::Year => 365,
            }
    }
    /// In the words of pages: how many, and the end of the key of the text.
    pub const fn words(self) -> (u16, &'static str) {
        let unit = match self.unit {
            Unit::Day => "days",
            Unit::Month => "months",
            Unit::Year => "years",
        };
        (self.number, unit)
    }
}

impl FromStr for Length {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "a length such as 30d, 13mo, 5y or P13M is expected".to_owned();
        let iso = text.strip_prefix('P');
        let rest = iso.unwrap_or(text);
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = rest.split_at(digits);
        let unit = match (iso.is_some(), unit) {
            (false, "d") | (true, "D") => Unit::Day,
            (false, "mo") | (true, "M") => Unit::Month,
            (false, "y") | (true, "Y") => Unit::Year,
            _ => return Err(wrong()),
        };
        let most = match unit {
            Unit::Day => 3_660,
            Unit::Month => 1_200,
            Unit::Year => 100,
        };
        let number = number.parse().ok().filter(|n| (1..=most).contains(n)).ok_or_else(wrong)?;
        Ok(Self { number, unit })
    }
}

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.unit {
            Unit::Day => "d",
            Unit::Month => "mo",
            Unit::Year => "y",
        };
        write!(f, "{}{unit}", self.number)
    }
}

/// `raw`, or the interval of one mean: `10m`, `1h`, `PT10M`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Resolution(pub Form);

impl FromStr for Resolution {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "raw" {
            return Ok(Self(Form::Raw));
        }
        let seconds = WIDTHS.into_iter().find(|seconds| {
            let short = if *seconds == 3_600 { "1h".to_owned() } else { format!("{}m", seconds / 60) };
            text == short || text == iso(i64::from(*seconds))
        });
        seconds
            .map(|seconds| Self(Form::Every(seconds)))
            .ok_or_else(|| "raw, 1m, 2m, 5m, 10m, 15m, 20m, 30m or 1h is expected".to_owned())
    }
}

impl fmt::Display for Resolution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Form::Every(3_600) => f.write_str("1h"),
            Form::Every(seconds) => write!(f, "{}m", seconds / 60),
            Form::Raw | Form::Gone => f.write_str("raw"),
        }
    }
}

macro_rules! as_text {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
as_text!(Length);
as_text!(Resolution);

impl Declaration {
    /// Everything that is wrong, each with its JSON Pointer.
    pub fn check(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let mut wrong = |field: String, detail: &str| errors.push(FieldError { field, detail: detail.to_owned() });
        let key = (1..=80).contains(&self.key.len())
            && self.key.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && self.key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.');
        if !key || RESERVED.contains(&self.key.as_str()) {
            wrong("/key".into(), "1 to 80 of a-z, 0-9, '-' and '.' are expected, and not 'forever', 'holds' or 'runs'");
        }
        if let Err(detail) = Tenant::parse(self.tenant.as_str()) {
            wrong("/tenant".into(), &detail);
        }
        if [Some(&self.name.en), self.name.zh_hant.as_ref(), self.name.zh_hans.as_ref()]
            .iter()
            .any(|t| t.is_none_or(|t| t.trim().is_empty() || t.len() > 200))
        {
            wrong("/name".into(), "a name of at most 200 bytes in en, zh-hant and zh-hans is expected");
        }
        if self.systems.len() > MOST_SYSTEMS {
            wrong("/systems".into(), "at most 50 systems can be named");
        }
        if self.keep.is_empty() || self.keep.len() > MOST_STAGES {
            wrong("/keep".into(), "1 to 6 stages are expected");
        }
        let last = self.keep.len().saturating_sub(1);
        let mut before = Form::Raw;
        let mut days = 0;
        for (i, stage) in self.keep.iter().enumerate() {
            if i < last && stage.lasts.is_none() {
                wrong(format!("/keep/{i}/for"), "only the last stage can last for ever");
            }
            let fits = match (before, stage.form.0) {
                (_, Form::Raw) => i == 0,
                (Form::Every(finer), Form::Every(wider)) => wider > finer && wider % finer == 0,
                _ => true,
            };
            if !fits {
                wrong(
                    format!("/keep/{i}/as"),
                    "each stage is coarser than the one before, by a multiple of its interval; raw can only be first",
                );
            }
            before = stage.form.0;
            days += stage.lasts.map_or(0, Length::days);
        }
        if days > 366 * 200 {
            wrong("/keep".into(), "all stages together last 200 years at most");
        }
        errors
    }

    /// What holds at a moment: up to when which form. A border moves by the day, or by the month where times are kept for two months or more; both in
    /// UTC, and never so that something goes before its time.
    pub fn forms(&self, now: Timestamp) -> Forms {
        forms(&self.keep, now)
    }

    /// Whether Observations would go under `self` that stay under `other`, or be summed up more coarsely, now or on a day to come: the borders of `60d` and
    /// `75d` are both the first of some month on one day and a month apart on the next.
    pub fn keeps_less_than(&self, other: &Self, now: Timestamp) -> bool {
        self.keep != other.keep && (0..CALENDAR).any(|day| self.keeps_less_at(other, now.plus_secs(day * 86_400)))
    }

    fn keeps_less_at(&self, other: &Self, now: Timestamp) -> bool {
        let (mine, theirs) = (self.forms(now), other.forms(now));
        let borders = mine.0.iter().chain(&theirs.0).map(|(end, _)| end.as_micros());
        borders.map(|end| end - 1).any(|at| mine.at(at) > theirs.at(at))
    }
}

fn forms(keep: &[Stage], now: Timestamp) -> Forms {
    let mut found = Vec::new();
    let (mut at, mut days) = (now.to_jiff().to_zoned(TimeZone::UTC), 0);
    for (i, stage) in keep.iter().enumerate() {
        let Some(lasts) = stage.lasts else { break };
        days += lasts.days();
        // Before the calendar began there is nothing to be thinned.
        let Ok(earlier) = at.checked_sub(lasts.span()) else { break };
        at = earlier;
        let edge = if days >= BY_THE_MONTH_DAYS { at.first_of_month() } else { Ok(at.clone()) };
        let Ok(edge) = edge.and_then(|edge| edge.start_of_day()) else { break };
        let next = keep.get(i + 1).map_or(Form::Gone, |next| next.form.0);
        found.push((Timestamp::from_jiff(edge.timestamp()), next));
    }
    found.reverse();
    // A first stage that is no raw one begins at once: with what is a whole day old.
    if let Some(Stage { form: Resolution(form @ Form::Every(_)), .. }) = keep.first()
        && let Ok(today) = now.to_jiff().to_zoned(TimeZone::UTC).start_of_day()
    {
        found.push((Timestamp::from_jiff(today.timestamp()), *form));
    }
    Forms(found)
}

/// What all declarations of a pack have wrong, each with its place.
pub fn check_all(declared: &[Declaration]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (n, declaration) in declared.iter().enumerate() {
        let at = |e: FieldError| FieldError { field: format!("/retention/{n}{}", e.field), ..e };
        errors.extend(declaration.check().into_iter().map(at));
        let mut wrong = |field: &str, detail: String| {
            errors.push(FieldError { field: format!("/retention/{n}/{field}"), detail });
        };
        for other in &declared[..n] {
            if other.key == declaration.key {
                wrong("key", format!("'{}' is declared twice", other.key));
            }
            if other.tenant == declaration.tenant {
                if let Some(system) = other.systems.intersection(&declaration.systems).next() {
                    wrong("systems", format!("'{system}' is kept by '{}' already", other.key));
                }
                if other.others && declaration.others {
                    wrong("others", format!("'{}' is for all others already", other.key));
                }
            }
        }
    }
    errors
}

/// The declaration of a Datastream: the one it names, else that of its Thing's system, else that for all others.
pub fn declaration_of<'a>(
    declared: &'a [Declaration],
    tenant: &str,
    named: Option<&str>,
    system: Option<&str>,
) -> Option<&'a Declaration> {
    let mut own = declared.iter().filter(|d| d.tenant.as_str() == tenant);
    if let Some(named) = named {
        // A name that is none keeps everything: a slip of the pen must not delete.
        return own.find(|d| d.key == named);
    }
    let by_system = system.and_then(|system| own.clone().find(|d| d.systems.contains(system)));
    by_system.or_else(|| own.find(|d| d.others))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("time")
    }

    fn declared(keep: &str) -> Declaration {
        let text = format!(
            "key = \"k\"\ntenant = \"dsd\"\nname = {{ en = \"a\", zh-hant = \"a\", zh-hans = \"a\" }}\nkeep = [{keep}]"
        );
        toml::from_str(&text).expect("TOML")
    }

    #[test]
    fn stages_follow_each_other() {
        let found = declared(r#"{ for = "13mo", as = "raw" }, { for = "5y", as = "10m" }, { as = "1h" }"#);
        assert_eq!(found.check(), []);
        let forms = found.forms(at("2026-11-30T22:00:00Z"));
        assert_eq!(
            forms.0,
            [(at("2020-10-01T00:00:00Z"), Form::Every(3_600)), (at("2025-10-01T00:00:00Z"), Form::Every(600))]
        );
        let form = |text: &str| forms.at(at(text).as_micros());
        assert_eq!(form("2020-09-30T23:59:59Z"), Form::Every(3_600));
        assert_eq!(form("2020-10-01T00:00:00Z"), Form::Every(600));
        assert_eq!(form("2025-10-01T00:00:00Z"), Form::Raw);
        let personal = declared(r#"{ for = "30d", as = "raw" }"#);
        assert_eq!(personal.forms(at("2026-11-30T22:00:00Z")).0, [(at("2026-10-31T00:00:00Z"), Form::Gone)]);
        assert!(declared(r#"{ as = "raw" }"#).forms(at("2026-11-30T22:00:00Z")).0.is_empty());
    }

    #[test]
    fn what_keeps_less_is_found() {
        let now = at("2026-11-30T22:00:00Z");
        let less = |a: &str, b: &str| declared(a).keeps_less_than(&declared(b), now);
        let year = r#"{ for = "1y", as = "raw" }, { as = "10m" }"#;
        assert!(!less(year, year));
        assert!(!less(r#"{ as = "raw" }"#, year));
        assert!(less(year, r#"{ as = "raw" }"#));
        assert!(less(r#"{ for = "11mo", as = "raw" }, { as = "10m" }"#, year));
        assert!(less(r#"{ for = "1y", as = "raw" }, { as = "1h" }"#, year));
        assert!(less(r#"{ for = "1y", as = "raw" }, { for = "9y", as = "10m" }"#, year));
        assert!(less(r#"{ for = "2y", as = "raw" }"#, year), "later, but then gone");
        assert!(!less(r#"{ for = "2y", as = "raw" }, { as = "10m" }"#, year));
        // On that day both end with the first of December.
        let spring = at("2026-03-01T12:00:00Z");
        let (short, long) = (declared(r#"{ for = "60d", as = "raw" }"#), declared(r#"{ for = "75d", as = "raw" }"#));
        assert_eq!(short.forms(spring), long.forms(spring));
        assert!(short.keeps_less_than(&long, spring) && !long.keeps_less_than(&short, spring));
    }

    #[test]
    fn mistakes_have_a_place() {
        for (keep, place) in [
            ("", "/keep"),
            (r#"{ as = "raw" }, { as = "10m" }"#, "/keep/0/for"),
            (r#"{ for = "1y", as = "10m" }, { as = "raw" }"#, "/keep/1/as"),
            (r#"{ for = "1y", as = "10m" }, { as = "15m" }"#, "/keep/1/as"),
            (r#"{ for = "1y", as = "10m" }, { as = "10m" }"#, "/keep/1/as"),
        ] {
            let errors = declared(keep).check();
            assert_eq!(errors.first().map(|e| e.field.as_str()), Some(place), "{keep}: {errors:?}");
        }
        for bad in ["", "0d", "5", "5w", "P5W", "-1d", "101y", "1é"] {
            assert!(bad.parse::<Length>().is_err(), "{bad}");
        }
        for bad in ["", "7m", "1d", "2h", "PT1D", "gone"] {
            assert!(bad.parse::<Resolution>().is_err(), "{bad}");
        }
        let two = [declared(r#"{ as = "raw" }"#), declared(r#"{ as = "raw" }"#)];
        assert_eq!(check_all(&two)[0].field, "/retention/1/key");
    }

    #[test]
    fn who_names_a_declaration_that_is_none_keeps_everything() {
        let all = [Declaration { others: true, ..declared(r#"{ for = "30d", as = "raw" }"#) }];
        assert!(declaration_of(&all, "dsd", None, None).is_some());
        assert!(declaration_of(&all, "dsd", Some("k"), None).is_some());
        assert!(declaration_of(&all, "dsd", Some("forever"), None).is_none());
        assert!(declaration_of(&all, "dsd", Some("kk"), None).is_none());
        assert!(declaration_of(&all, "epd", None, None).is_none(), "another department's");
    }

    proptest! {
        /// Nothing goes before its time, whatever the day.
        #[test]
        fn no_border_is_ahead_of_its_time(now in 1_600_000_000i64..1_900_000_000, days in 1u16..400, months in 1u16..200) {
            let now = Timestamp::from_secs(now);
            let text = format!(r#"{{ for = "{days}d", as = "raw" }}, {{ for = "{months}mo", as = "10m" }}, {{ as = "1h" }}"#);
            let forms = declared(&text).forms(now);
            prop_assert_eq!(forms.0.len(), 2);
            prop_assert!(forms.0[0].0 < forms.0[1].0);
            prop_assert!(now.micros_since(forms.0[1].0) >= i64::from(days) * 86_400_000_000);
            prop_assert_eq!(forms.0[1].0.as_micros() % 86_400_000_000, 0);
        }

        #[test]
        fn lengths_and_resolutions_are_read_as_written(number in 1u16..100, unit in prop::sample::select(vec!["d", "mo", "y"])) {
            let length: Length = format!("{number}{unit}").parse().expect("length");
            prop_assert_eq!(length.to_string().parse::<Length>(), Ok(length));
        }
    }
}
