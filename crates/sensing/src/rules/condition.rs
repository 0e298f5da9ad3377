//! `when` of a rule: a threshold, silence, or an expression. Pure: serde shapes and their validation.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    cel::{self, Compiled},
    model::{DAY, MAX_WAIT, shorten},
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
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Silence {
    after: u32,
}

/// `when` as it is written: one of the four, and what belongs to it.
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
        let When { above, below, absence, expression, clear, hold, clear_hold, window, windows } = when;
        let bare = clear.is_none() && hold.is_none() && clear_hold.is_none() && window.is_none() && windows.is_empty();
        match (above, below, absence, expression) {
            (Some(level), None, None, None) if bare => Ok(Self::Above(level)),
            (None, Some(level), None, None) if bare => Ok(Self::Below(level)),
            (None, None, Some(Silence { after }), None) if bare => Ok(Self::Absence { after }),
            (None, None, None, Some(expression)) => {
                let (hold, clear_hold) = (hold.unwrap_or(0), clear_hold.unwrap_or(0));
                Ok(Self::Expression(Box::new(Expression { expression, clear, hold, clear_hold, window, windows })))
            }
            (None, None, None, None) => Err("one of above, below, absence and expression is expected"),
            _ if bare => Err("only one of above, below, absence and expression is possible"),
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
