//! `when` of a rule: a threshold, silence, an expression, or a geofence. Pure: serde shapes and their validation.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    cel::{self, Compiled},
    model::{DAY, MAX_WAIT, is_key, shorten},
};

/// Seconds of a window.
const WINDOW: std::ops::RangeInclusive<u32> = 10..=31 * DAY;

/// A threshold with hysteresis: raised at or beyond `raise`, cleared at or beyond `clear`, in between everything stays as it is.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Level {
    pub raise: f64,
    pub clear: f64,
    /// Seconds that the value must stay beyond `raise` before the alarm is raised; 0 raises at once.
    #[serde(default)]
    pub hold: u32,
    /// Seconds that the value must stay beyond `clear` before the alarm is cleared.
    #[serde(default)]
    pub clear_hold: u32,
}

/// A condition in the Common Expression Language; see [`super::cel`].
#[derive(Clone, PartialEq, Debug)]
pub struct Expression {
    /// Raised while it is true.
    pub expression: String,
    /// Cleared while it is true; without it, while `expression` is false.
    pub clear: Option<String>,
    pub hold: u32,
    pub clear_hold: u32,
    /// Seconds of the window whose figures are called `mean`, `min`, `max`, `count` and `rate`.
    pub window: Option<u32>,
    /// Windows with names: `hour = 3600` makes `hour.mean` and the others.
    pub windows: BTreeMap<String, u32>,
}

/// On which side of a geofence a Thing must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    Inside,
    Outside,
}

/// A place with hysteresis: raised when a Thing is on one side of the fences by more than `margin` metres, or than its fix may be wrong by, cleared when it is on the
/// other by as much, in between everything stays as it is. With `hold` it is a stay and not a passage.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Geofence {
    /// Keys of fences. Of several, a Thing is inside when it is inside one of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fences: Vec<String>,
    /// All fences of this kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    pub raise: Side,
    /// Metres.
    #[serde(default = "margin")]
    pub margin: f64,
    /// Seconds on the side that raises before the alarm is raised: dwell.
    #[serde(default)]
    pub hold: u32,
    /// Seconds on the other before it is cleared.
    #[serde(default)]
    pub clear_hold: u32,
    /// Metres a second beyond which a fix is not believed.
    #[serde(default = "max_speed")]
    pub max_speed: f64,
}

/// What a phone's receiver is wrong by under an open sky, four times.
const fn margin() -> f64 {
    20.0
}
const fn max_speed() -> f64 {
    70.0
}

/// Fences that one rule may name.
const MAX_FENCES: usize = 500;

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(try_from = "When", into = "When")]
pub enum Condition {
    /// Raised while the value is high. `clear` lies below `raise`.
    Above(Level),
    /// Raised while the value is low. `clear` lies above `raise`.
    Below(Level),
    /// Raised when nothing new has arrived for `after` seconds.
    Absence { after: u32 },
    /// Raised while an expression is true.
    Expression(Box<Expression>),
    /// Raised while a Thing is inside or outside of geofences.
    Geofence(Box<Geofence>),
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Silence {
    after: u32,
}

/// `when` as it is written: one of the five, and what belongs to it.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct When {
    #[serde(skip_serializing_if = "Option::is_none")]
    above: Option<Level>,
    #[serde(skip_serializing_if = "Option::is_none")]
    below: Option<Level>,
    #[serde(skip_serializing_if = "Option::is_none")]
    absence: Option<Silence>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expression: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    geofence: Option<Geofence>,
    #[serde(skip_serializing_if = "Option::is_none")]
    clear: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hold: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    clear_hold: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    window: Option<u32>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    windows: BTreeMap<String, u32>,
}

impl TryFrom<When> for Condition {
    type Error = &'static str;
    fn try_from(when: When) -> Result<Self, Self::Error> {
        let When { above, below, absence, expression, geofence, clear, hold, clear_hold, window, windows } = when;
        let bare = clear.is_none() && hold.is_none() && clear_hold.is_none() && window.is_none() && windows.is_empty();
        if let Some(geofence) = geofence {
            let alone = above.is_none() && below.is_none() && absence.is_none() && expression.is_none();
            return match (alone, bare) {
                (true, true) => Ok(Self::Geofence(Box::new(geofence))),
                (true, false) => Err("hold and clear_hold stand inside geofence"),
                (false, _) => Err("only one of above, below, absence, expression and geofence is possible"),
            };
        }
        match (above, below, absence, expression) {
            (Some(level), None, None, None) if bare => Ok(Self::Above(level)),
            (None, Some(level), None, None) if bare => Ok(Self::Below(level)),
            (None, None, Some(Silence { after }), None) if bare => Ok(Self::Absence { after }),
            (None, None, None, Some(expression)) => {
                let (hold, clear_hold) = (hold.unwrap_or(0), clear_hold.unwrap_or(0));
                Ok(Self::Expression(Box::new(Expression { expression, clear, hold, clear_hold, window, windows })))
            }
            (None, None, None, None) => Err("one of above, below, absence, expression and geofence is expected"),
            _ if bare => Err("only one of above, below, absence, expression and geofence is possible"),
            _ => Err("hold, clear_hold, clear, window and windows stand beside expression, and inside above or below"),
        }
    }
}

impl From<Condition> for When {
    fn from(condition: Condition) -> Self {
        let empty = Self::default();
        match condition {
            Condition::Above(level) => Self { above: Some(level), ..empty },
            Condition::Below(level) => Self { below: Some(level), ..empty },
            Condition::Absence { after } => Self { absence: Some(Silence { after }), ..empty },
            Condition::Geofence(form) => Self { geofence: Some(*form), ..empty },
            Condition::Expression(form) => {
                let Expression { expression, clear, hold, clear_hold, window, windows } = *form;
                let given = |seconds: u32| (seconds > 0).then_some(seconds);
                let (hold, clear_hold) = (given(hold), given(clear_hold));
                Self { expression: Some(expression), clear, hold, clear_hold, window, windows, ..empty }
            }
        }
    }
}

impl Condition {
    /// Seconds for which it must stand, and be over; nothing for silence, which is a time itself.
    pub fn holds(&self) -> Option<(u32, u32)> {
        match self {
            Self::Above(level) | Self::Below(level) => Some((level.hold, level.clear_hold)),
            Self::Expression(form) => Some((form.hold, form.clear_hold)),
            Self::Geofence(form) => Some((form.hold, form.clear_hold)),
            Self::Absence { .. } => None,
        }
    }
}

/// What `when` says, compiled where it is an expression; `wrong` is told of every mistake and its field.
pub fn check(key: &str, when: &Condition, wrong: &mut impl FnMut(&str, String)) -> Option<Arc<Compiled>> {
    let (at, level, side, right) = match when {
        Condition::Above(level) => ("/when/above", level, "below", level.clear < level.raise),
        Condition::Below(level) => ("/when/below", level, "above", level.clear > level.raise),
        Condition::Absence { after } => {
            if *after == 0 || *after > MAX_WAIT {
                wrong("/when/absence/after", format!("1 to {MAX_WAIT} seconds are expected"));
            }
            return None;
        }
        Condition::Expression(form) => return check_expression(key, form, wrong),
        Condition::Geofence(form) => {
            check_geofence(form, wrong);
            return None;
        }
    };
    for (name, value) in [("raise", level.raise), ("clear", level.clear)] {
        if !value.is_finite() {
            wrong(&format!("{at}/{name}"), "a finite number is expected".to_owned());
        }
    }
    // Without a gap between the two, a value that trembles around the limit would raise and clear without end.
    if level.raise.is_finite() && level.clear.is_finite() && !right {
        wrong(&format!("{at}/clear"), format!("it must lie {side} raise ({})", level.raise));
    }
    for (name, value) in [("hold", level.hold), ("clear_hold", level.clear_hold)] {
        if value > MAX_WAIT {
            wrong(&format!("{at}/{name}"), format!("at most {MAX_WAIT} seconds are expected"));
        }
    }
    None
}

fn check_geofence(form: &Geofence, wrong: &mut impl FnMut(&str, String)) {
    let at = |name: &str| format!("/when/geofence/{name}");
    if form.fences.is_empty() && form.kind.is_none() {
        wrong(&at("fences"), "the key of a fence is expected, or a kind".to_owned());
    }
    if form.fences.len() > MAX_FENCES {
        wrong(&at("fences"), format!("at most {MAX_FENCES} fences can be named; give them a kind"));
    }
    for (nth, key) in form.fences.iter().enumerate() {
        if !is_key(key) {
            wrong(&at(&format!("fences/{nth}")), format!("'{}' is not the key of a fence", shorten(key)));
        }
    }
    if form.kind.as_ref().is_some_and(|kind| !is_key(kind)) {
        wrong(&at("kind"), "use 1 to 80 of a-z, 0-9, '-' and '.', starting with a letter or digit".to_owned());
    }
    if !(0.0..=10_000.0).contains(&form.margin) {
        wrong(&at("margin"), "0 to 10,000 metres are expected".to_owned());
    }
    if !(0.1..=1_000.0).contains(&form.max_speed) {
        wrong(&at("max_speed"), "0.1 to 1,000 metres a second are expected".to_owned());
    }
    for (name, value) in [("hold", form.hold), ("clear_hold", form.clear_hold)] {
        if value > MAX_WAIT {
            wrong(&at(name), format!("at most {MAX_WAIT} seconds are expected"));
        }
    }
}

fn check_expression(key: &str, form: &Expression, wrong: &mut impl FnMut(&str, String)) -> Option<Arc<Compiled>> {
    for (name, value) in [("hold", form.hold), ("clear_hold", form.clear_hold)] {
        if value > MAX_WAIT {
            wrong(&format!("/when/{name}"), format!("at most {MAX_WAIT} seconds are expected"));
        }
    }
    let windows = form.window.iter().map(|seconds| ("/when/window".to_owned(), *seconds));
    let named = form.windows.iter().map(|(name, seconds)| (format!("/when/windows/{}", shorten(name)), *seconds));
    let all: Vec<(String, u32)> = windows.chain(named).collect();
    for (field, seconds) in &all {
        if !WINDOW.contains(seconds) {
            wrong(field, format!("{} to {} seconds are expected", WINDOW.start(), WINDOW.end()));
        }
    }
    if all.len() > cel::MAX_WINDOWS {
        wrong("/when/windows", format!("at most {} windows are possible", cel::MAX_WINDOWS));
    }
    for name in form.windows.keys() {
        let word = name.len() <= 40
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if !word || cel::is_reserved(name) {
            let detail = "the name of a window has a-z, 0-9 and '_', and is none that means something already";
            wrong(&format!("/when/windows/{}", shorten(name)), detail.to_owned());
        }
    }
    match Compiled::new(form) {
        Ok(compiled) => Some(Arc::new(compiled)),
        Err(mistakes) => {
            for (field, mistake) in mistakes {
                let detail = format!("rule '{}', column {}: {}", shorten(key), mistake.column, mistake.detail);
                wrong(&format!("/when/{field}"), detail);
            }
            None
        }
    }
}
