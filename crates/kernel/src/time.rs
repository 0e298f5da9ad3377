//! Time inside the program: UTC, whole microseconds, one `i64`. Local time exists only at the edge (pages, aggregates).

use std::{
    fmt,
    str::FromStr,
    sync::atomic::{AtomicI64, Ordering},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Microseconds since 1970-01-01T00:00:00Z. Ordered, `Copy`, eight bytes.
///
/// Text form is RFC 3339 with `Z`, with as few fractional digits as are needed in groups of three:
/// `2026-11-22T09:00:00Z`, `…00.250Z`, `…00.000001Z`. Parsing accepts any RFC 3339 offset.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a time: {hint}")]
pub struct TimeError {
    pub text: String,
    pub hint: &'static str,
}

const HINT: &str = "write it as RFC 3339 with an offset, such as 2026-11-22T09:00:00Z or 2026-11-22T17:00:00+08:00";

impl Timestamp {
    pub const MIN: Self = Self(-62_135_596_800_000_000); // 0001-01-01T00:00:00Z
    pub const MAX: Self = Self(253_402_300_799_999_999); // 9999-12-31T23:59:59.999999Z

    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis * 1_000)
    }
    pub const fn from_secs(secs: i64) -> Self {
        Self(secs * 1_000_000)
    }
    pub const fn as_micros(self) -> i64 {
        self.0
    }
    pub const fn plus_micros(self, micros: i64) -> Self {
        Self(self.0.saturating_add(micros))
    }
    pub const fn plus_secs(self, secs: i64) -> Self {
        Self(self.0.saturating_add(secs.saturating_mul(1_000_000)))
    }
    /// `self - earlier` in microseconds; negative when `earlier` is later.
    pub const fn micros_since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    pub fn to_jiff(self) -> jiff::Timestamp {
        // Both bounds lie inside jiff's range, so the clamp makes the conversion total.
        jiff::Timestamp::from_microsecond(self.0.clamp(Self::MIN.0, Self::MAX.0)).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
    }
    pub fn from_jiff(at: jiff::Timestamp) -> Self {
        Self(at.as_microsecond())
    }

    /// Parses the bytes of an RFC 3339 time without allocating. The common shape (`YYYY-MM-DDThh:mm:ss[.f]Z|±hh:mm`) is
    /// read by hand because ingest does this once per observation; anything else is refused with `None`.
    pub fn parse_bytes(b: &[u8]) -> Option<Self> {
        fn digits(b: &[u8]) -> Option<i64> {
            let mut n = 0i64;
            for &c in b {
                if !c.is_ascii_digit() {
                    return None;
                }
                n = n * 10 + i64::from(c - b'0');
            }
            Some(n)
        }
        if b.len() < 20
            || b[4] != b'-'
            || b[7] != b'-'
            || !matches!(b[10], b'T' | b't' | b' ')
            || b[13] != b':'
            || b[16] != b':'
        {
            return None;
        }
        let (year, month, day) = (digits(&b[0..4])?, digits(&b[5..7])?, digits(&b[8..10])?);
        let (hour, minute, second) = (digits(&b[11..13])?, digits(&b[14..16])?, digits(&b[17..19])?);
        if year < 1
            || !(1..=12).contains(&month)
            || day < 1
            || day > days_in_month(year, month)
            || hour > 23
            || minute > 59
            || second > 60
        {
            return None;
        }
        // A leap second is folded into the next second, as POSIX time does.
        let mut rest = &b[19..];
        let mut micros = 0i64;
        if rest[0] == b'.' {
            let end = rest[1..].iter().position(|c| !c.is_ascii_digit())? + 1;
            if end == 1 || end > 10 {
                return None;
            }
            let shown = &rest[1..end.min(7)];
            micros = digits(shown)? * 10i64.pow(6 - shown.len() as u32);
            rest = &rest[end..];
        }
        let offset = match rest {
            [b'Z' | b'z'] => 0,
            [sign @ (b'+' | b'-'), tail @ ..] => {
                let (h, m) = match tail {
                    [h1, h2, b':', m1, m2] | [h1, h2, m1, m2] => (digits(&[*h1, *h2])?, digits(&[*m1, *m2])?),
                    [h1, h2] => (digits(&[*h1, *h2])?, 0),
                    _ => return None,
                };
                if h > 23 || m > 59 {
                    return None;
                }
                (h * 3600 + m * 60) * if *sign == b'-' { -1 } else { 1 }
            }
            _ => return None,
        };
        let secs = days_from_civil(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second - offset;
        Some(Self(secs * 1_000_000 + micros))
    }
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if (year % 4 == 0 && year % 100 != 0) || year % 400 == 0 => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar (Howard Hinnant's `days_from_civil`).
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let yoe = y - era * 400;
    let doy = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    era * 146_097 + doe - 719_468
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.to_jiff();
        match self.0.rem_euclid(1_000_000) {
            0 => write!(f, "{at:.0}"),
            micros if micros % 1_000 == 0 => write!(f, "{at:.3}"),
            _ => write!(f, "{at:.6}"),
        }
    }
}
impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl FromStr for Timestamp {
    type Err = TimeError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::parse_bytes(s.as_bytes()).ok_or_else(|| TimeError { text: s.chars().take(80).collect(), hint: HINT })
    }
}
impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A closed interval of time, ISO 8601 `start/end`; an instant when both ends are equal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub struct Interval {
    pub start: Timestamp,
    pub end: Timestamp,
}

impl Interval {
    pub fn instant(at: Timestamp) -> Self {
        Self { start: at, end: at }
    }
    pub fn is_instant(&self) -> bool {
        self.start == self.end
    }
    pub fn contains(&self, at: Timestamp) -> bool {
        self.start <= at && at <= self.end
    }
}
impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_instant() { self.start.fmt(f) } else { write!(f, "{}/{}", self.start, self.end) }
    }
}
impl FromStr for Interval {
    type Err = TimeError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let Some((start, end)) = s.split_once('/') else { return s.parse().map(Self::instant) };
        let interval = Self { start: start.parse()?, end: end.parse()? };
        if interval.end < interval.start {
            return Err(TimeError { text: s.chars().take(80).collect(), hint: "the interval ends before it starts" });
        }
        Ok(interval)
    }
}
impl Serialize for Interval {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for Interval {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Where the program learns the time. Decisions take a `Timestamp`; only the edges hold a `Clock`.
pub trait Clock: Send + Sync + 'static {
    fn now(&self) -> Timestamp;
}

#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_jiff(jiff::Timestamp::now())
    }
}

/// A clock that stands still until it is told to move.
#[derive(Debug)]
pub struct FixedClock(AtomicI64);

impl FixedClock {
    pub fn at(now: Timestamp) -> Self {
        Self(AtomicI64::new(now.as_micros()))
    }
    pub fn advance_micros(&self, micros: i64) {
        self.0.fetch_add(micros, Ordering::SeqCst);
    }
    pub fn set(&self, now: Timestamp) {
        self.0.store(now.as_micros(), Ordering::SeqCst);
    }
}
impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_form_round_trips(micros in Timestamp::MIN.0..=Timestamp::MAX.0) {
            let at = Timestamp::from_micros(micros);
            prop_assert_eq!(at.to_string().parse::<Timestamp>(), Ok(at));
        }

        #[test]
        fn hand_written_parser_agrees_with_jiff(micros in Timestamp::MIN.0..=Timestamp::MAX.0, offset in -23i8..=23) {
            let zoned = Timestamp::from_micros(micros).to_jiff().display_with_offset(jiff::tz::offset(offset)).to_string();
            // The offset may push the year out of four digits, where RFC 3339 has no form at all.
            if zoned.as_bytes()[4] == b'-' && zoned.len() < 40 && !zoned.starts_with('-') && !zoned.starts_with("0000") {
                prop_assert_eq!(Timestamp::parse_bytes(zoned.as_bytes()), Some(Timestamp::from_micros(micros)));
            }
        }

        #[test]
        fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Timestamp::parse_bytes(&bytes);
        }
    }

    #[test]
    fn refuses_what_is_not_a_time() {
        for bad in [
            "",
            "2026-11-22",
            "2026-02-30T00:00:00Z",
            "2026-11-22T24:00:00Z",
            "2026-11-22T09:00:00",
            "2026-11-22T09:00:00.Z",
            "0000-01-01T00:00:00Z",
        ] {
            assert!(bad.parse::<Timestamp>().is_err(), "{bad}");
        }
        assert!("2026-11-22T09:00:00Z/2026-11-22T08:00:00Z".parse::<Interval>().is_err());
    }
}
