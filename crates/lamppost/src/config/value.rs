//! Reading one value in text form, and showing it again.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::setting::Kind;

/// A checked value. Paths and texts are what was given; numbers have their unit applied.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    Text(String),
    Path(PathBuf),
    Integer(u64),
    Fraction(f64),
    Truth(bool),
    Duration(Duration),
    Size(u64),
    Listen(SocketAddr),
}

impl Value {
    /// Reads `text` as `kind`; the error says what was expected.
    pub fn parse(kind: Kind, text: &str) -> Result<Self, String> {
        let text = text.trim();
        let wrong =
            || format!("'{}' is not valid: {} is expected", text.chars().take(80).collect::<String>(), kind.describe());
        Ok(match kind {
            Kind::Text => Self::Text(text.to_owned()),
            Kind::Path if text.is_empty() => return Err(wrong()),
            Kind::Path => Self::Path(text.into()),
            Kind::Integer => Self::Integer(text.parse().map_err(|_| wrong())?),
            Kind::Fraction => Self::Fraction(text.parse().ok().filter(|f| (0.0..=1.0).contains(f)).ok_or_else(wrong)?),
            Kind::Truth => Self::Truth(text.parse().map_err(|_| wrong())?),
            Kind::Duration => Self::Duration(duration(text).ok_or_else(wrong)?),
            Kind::Size => Self::Size(size(text).ok_or_else(wrong)?),
            Kind::Listen => Self::Listen(text.parse().map_err(|_| wrong())?),
            Kind::Choice(words) if words.contains(&text) => Self::Text(text.to_owned()),
            Kind::Choice(_) => return Err(wrong()),
        })
    }
}

fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, text[end..].trim()))
}

fn duration(text: &str) -> Option<Duration> {
    let (n, unit) = number_and_unit(text)?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    // A century is longer than anybody means, and keeps sums with times far from overflow.
    n.checked_mul(millis).filter(|ms| *ms <= 3_153_600_000_000).map(Duration::from_millis)
}

fn size(text: &str) -> Option<u64> {
    let (n, unit) = number_and_unit(text)?;
    let scale = match unit {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return None,
    };
    n.checked_mul(1 << scale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn units_are_applied() {
        assert_eq!(Value::parse(Kind::Duration, "5m"), Ok(Value::Duration(Duration::from_secs(300))));
        assert_eq!(Value::parse(Kind::Size, "32MiB"), Ok(Value::Size(32 << 20)));
        assert_eq!(Value::parse(Kind::Size, "12"), Ok(Value::Size(12)));
        for (kind, bad) in [
            (Kind::Duration, "5"),
            (Kind::Duration, "99999999999999999d"),
            (Kind::Size, "5 elephants"),
            (Kind::Size, "99999999999999999TiB"),
            (Kind::Truth, "yes"),
            (Kind::Fraction, "1.5"),
            (Kind::Fraction, "NaN"),
            (Kind::Listen, "8080"),
            (Kind::Choice(&["a", "b"]), "c"),
        ] {
            assert!(Value::parse(kind, bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_an_answer_not_a_panic(text in ".{0,40}") {
            for kind in [Kind::Duration, Kind::Size, Kind::Listen, Kind::Integer, Kind::Fraction, Kind::Truth, Kind::Path] {
                let _ = Value::parse(kind, &text);
            }
        }
    }
}
