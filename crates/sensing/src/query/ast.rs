//! What a client wrote, before it is known whether it makes sense. Printing gives text that reads back as the same tree.

use std::fmt;

use kernel::{Interval, Timestamp};

use super::functions::Function;

/// A place in the text of one query option: characters from 1.
pub type At = usize;

#[derive(Clone, Debug, PartialEq)]
pub enum Literal {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    Time(Timestamp),
    Interval(Interval),
    /// Days since 1970-01-01.
    Date(i64),
    /// Microseconds since midnight.
    TimeOfDay(i64),
    /// Microseconds.
    Duration(i64),
    /// Well-known text, as written.
    Geometry(String),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operator {
    Or,
    And,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Add,
    Sub,
    Mul,
    Div,
    Mod,
}

impl Operator {
    pub const ALL: [Self; 13] = [
        Self::Or,
        Self::And,
        Self::Eq,
        Self::Ne,
        Self::Lt,
        Self::Le,
        Self::Gt,
        Self::Ge,
        Self::Add,
        Self::Sub,
        Self::Mul,
        Self::Div,
        Self::Mod,
    ];
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Or => "or",
            Self::And => "and",
            Self::Eq => "eq",
            Self::Ne => "ne",
            Self::Lt => "lt",
            Self::Le => "le",
            Self::Gt => "gt",
            Self::Ge => "ge",
            Self::Add => "add",
            Self::Sub => "sub",
            Self::Mul => "mul",
            Self::Div => "div",
            Self::Mod => "mod",
        }
    }
    /// OData 4.0 Part 2 section 5.1.1.8: larger binds tighter.
    pub const fn binding(self) -> u8 {
        match self {
            Self::Or => 1,
            Self::And => 2,
            Self::Eq | Self::Ne => 4,
            Self::Lt | Self::Le | Self::Gt | Self::Ge => 5,
            Self::Add | Self::Sub => 6,
            Self::Mul | Self::Div | Self::Mod => 7,
        }
    }
    /// With its sides exchanged.
    #[must_use]
    pub const fn flipped(self) -> Self {
        match self {
            Self::Lt => Self::Gt,
            Self::Le => Self::Ge,
            Self::Gt => Self::Lt,
            Self::Ge => Self::Le,
            same => same,
        }
    }
    pub const fn is_comparison(self) -> bool {
        matches!(self, Self::Eq | Self::Ne | Self::Lt | Self::Le | Self::Gt | Self::Ge)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    Literal(Literal, At),
    /// `Thing/Locations/name`, `properties/lamp/pole`, `result[0]`.
    Path(Vec<String>, At),
    Not(Box<Expr>, At),
    Negate(Box<Expr>, At),
    Binary(Operator, Box<Expr>, Box<Expr>, At),
    Call(Function, Vec<Expr>, At),
    Lambda(Box<Lambda>, At),
}

/// `Datastreams/any(d: d/name eq 'x')` or `…/all(…)` (OData 4.0 Part 2 section 5.1.1.5). `any()` without a predicate asks whether there is one.
#[derive(Clone, Debug, PartialEq)]
pub struct Lambda {
    pub all: bool,
    /// Leads to the collection.
    pub path: Vec<String>,
    /// What an entity of the collection is called in the predicate.
    pub name: String,
    pub predicate: Option<Expr>,
}

impl Expr {
    pub fn at(&self) -> At {
        match self {
            Self::Literal(_, at)
            | Self::Path(_, at)
            | Self::Not(_, at)
            | Self::Negate(_, at)
            | Self::Binary(_, _, _, at)
            | Self::Call(_, _, at)
            | Self::Lambda(_, at) => *at,
        }
    }
}

/// A navigation to be shown inline, with options of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Expand {
    pub name: String,
    pub at: At,
    pub options: Options,
}

/// `$resultFormat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Json,
    /// 18-088 section 13.
    DataArray,
    /// What FROST has added, for spreadsheets and for maps.
    Csv,
    GeoJson,
}

impl Format {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Json => "JSON",
            Self::DataArray => "dataArray",
            Self::Csv => "CSV",
            Self::GeoJson => "GeoJSON",
        }
    }
}

/// The query options of one level (18-088 section 9.3).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    pub filter: Option<Expr>,
    pub expand: Vec<Expand>,
    /// `None` shows everything.
    pub select: Option<Vec<(Vec<String>, At)>>,
    /// With `true` for descending.
    pub order: Vec<(Expr, bool)>,
    pub top: Option<u64>,
    pub skip: Option<u64>,
    pub count: Option<bool>,
    pub format: Format,
    pub skip_token: Option<String>,
}

fn quoted(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    write!(f, "'{}'", text.replace('\'', "''"))
}

impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => value.fmt(f),
            // The shortest text that reads back as the same number.
            Self::Number(value) => write!(f, "{value:?}"),
            Self::Text(text) => quoted(f, text),
            Self::Time(at) => at.fmt(f),
            Self::Interval(interval) => write!(f, "{}/{}", interval.start, interval.end),
            Self::Date(days) => {
                let at = Timestamp::from_secs(days * 86_400).to_string();
                f.write_str(at.get(..10).unwrap_or("1970-01-01"))
            }
            Self::TimeOfDay(micros) => {
                let at = Timestamp::from_micros(*micros).to_string();
                f.write_str(at.get(11..at.len() - 1).unwrap_or("00:00:00"))
            }
            Self::Duration(micros) => {
                let (sign, micros) =
                    if *micros < 0 { ("-", micros.unsigned_abs()) } else { ("", micros.unsigned_abs()) };
                write!(f, "duration'{sign}PT{}.{:06}S'", micros / 1_000_000, micros % 1_000_000)
            }
            Self::Geometry(wkt) => {
                f.write_str("geography")?;
                quoted(f, wkt)
            }
        }
    }
}

fn is_plain(segment: &str) -> bool {
    let mut chars = segment.chars();
    chars.next().is_some_and(|c| c.is_alphabetic() || matches!(c, '_' | '@'))
        && chars.all(|c| c.is_alphanumeric() || matches!(c, '_' | '@' | '.'))
}

/// Whether a part of a path is what `[0]` is read as.
fn is_index(segment: &str) -> bool {
    (1..=9).contains(&segment.len())
        && segment.bytes().all(|b| b.is_ascii_digit())
        && (segment == "0" || !segment.starts_with('0'))
}

fn print_path(f: &mut fmt::Formatter<'_>, segments: &[String]) -> fmt::Result {
    for (i, segment) in segments.iter().enumerate() {
        if i > 0 && is_index(segment) {
            write!(f, "[{segment}]")?;
            continue;
        }
        if i > 0 {
            f.write_str("/")?;
        }
        if i == 0 || is_plain(segment) { f.write_str(segment)? } else { quoted(f, segment)? }
    }
    Ok(())
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(literal, _) => literal.fmt(f),
            Self::Path(segments, _) => print_path(f, segments),
            Self::Lambda(lambda, _) => {
                let Lambda { all, path, name, predicate } = &**lambda;
                print_path(f, path)?;
                f.write_str(if *all { "/all(" } else { "/any(" })?;
                if let Some(predicate) = predicate {
                    write!(f, "{name}:{predicate}")?;
                }
                f.write_str(")")
            }
            Self::Not(inner, _) => write!(f, "not ({inner})"),
            Self::Negate(inner, _) => write!(f, "-({inner})"),
            Self::Binary(operator, left, right, _) => write!(f, "({left} {} {right})", operator.as_str()),
            Self::Call(function, arguments, _) => {
                write!(f, "{}(", function.name())?;
                for (i, argument) in arguments.iter().enumerate() {
                    if i > 0 {
                        f.write_str(",")?;
                    }
                    argument.fmt(f)?;
                }
                f.write_str(")")
            }
        }
    }
}
