//! Numbers, times and units as people write them, by language. Everything here is pure: the moment "now" and the zone are parameters.

use jiff::{civil::DateTime, tz::TimeZone};
use kernel::{Language, Timestamp};

use crate::language::Catalogue;

/// U+2212, as wide as the plus sign, so that columns of tabular figures line up.
const MINUS: char = '\u{2212}';
/// U+202F: a value never breaks away from its unit.
const THIN: char = '\u{202f}';

/// A whole number with its thousands grouped: `12,000`. The three languages of the city write it alike.
pub fn integer(value: i64) -> String {
    group(&value.unsigned_abs().to_string(), value < 0)
}

/// A number with `decimals` places after the point: `1,234.5`; an en dash for what is not a number.
pub fn number(value: f64, decimals: u8) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let text = format!("{:.*}", usize::from(decimals.min(12)), value.abs());
    let negative = value < 0.0 && text.bytes().any(|b| (b'1'..=b'9').contains(&b));
    match text.split_once('.') {
        Some((whole, fraction)) => format!("{}.{fraction}", group(whole, negative)),
        None => group(&text, negative),
    }
}

/// As many decimals as the value needs to be told apart, at most three: for values whose precision nobody declared.
pub fn decimals_for(value: f64) -> u8 {
    let scaled = |d: i32| value * 10f64.powi(d);
    (0..3).find(|d| (scaled(i32::from(*d)) - scaled(i32::from(*d)).round()).abs() < 1e-9).unwrap_or(3)
}

fn group(digits: &str, negative: bool) -> String {
    let mut out = String::with_capacity(digits.len() + digits.len() / 3 + 3);
    if negative {
        out.push(MINUS);
    }
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// How a unit symbol (UCUM, as SensorThings carries it) reads on a page. Symbols of the SI stay as they are in every language; words are translated.
/// lang-keys: unit.*
pub fn unit<'a>(catalogue: &'a Catalogue, language: Language, symbol: &'a str) -> &'a str {
    match symbol {
        "Cel" | "degC" => "°C",
        "deg" => "°",
        "ug/m3" => "µg/m³",
        "mg/m3" => "mg/m³",
        "m3" => "m³",
        "m3/h" => "m³/h",
        "m2" => "m²",
        "W/m2" => "W/m²",
        "dB[A]" => "dB(A)",
        "min" => catalogue.t(language, "unit.minutes"),
        "h" => catalogue.t(language, "unit.hours"),
        "d" => catalogue.t(language, "unit.days"),
        "{people}" => catalogue.t(language, "unit.people"),
        "{spaces}" => catalogue.t(language, "unit.spaces"),
        "{vehicles}" => catalogue.t(language, "unit.vehicles"),
        "{uses}" => catalogue.t(language, "unit.uses"),
        "{count}" | "1" => "",
        other => other,
    }
}

/// Value and unit: `27.5 °C`, `83%`, `120°`.
pub fn quantity(catalogue: &Catalogue, language: Language, value: f64, symbol: &str, decimals: u8) -> String {
    let unit = unit(catalogue, language, symbol);
    let number = number(value, decimals);
    if unit.is_empty() || unit == "%" || unit == "°" {
        format!("{number}{unit}")
    } else {
        format!("{number}{THIN}{unit}")
    }
}

/// Bytes as a person reads them, in powers of 1,000 (IEC 80000-13): `845 kB`.
pub fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 999.5 {
            let decimals = if value < 9.95 && unit != "B" { 1 } else { 0 };
            return format!("{}{THIN}{unit}", number(value, decimals));
        }
        value /= 1_000.0;
    }
    format!("{}{THIN}TB", number(value, 1))
}

fn local(at: Timestamp, zone: &TimeZone) -> DateTime {
    zone.to_datetime(at.to_jiff())
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

fn month(number: i8) -> &'static str {
    MONTHS.get(usize::try_from(number - 1).unwrap_or(0)).copied().unwrap_or("")
}

/// `22 November 2026`, `2026年11月22日`.
pub fn date(language: Language, at: Timestamp, zone: &TimeZone) -> String {
    let d = local(at, zone);
    match language {
        Language::En => format!("{} {} {}", d.day(), month(d.month()), d.year()),
        Language::ZhHant | Language::ZhHans => format!("{}年{}月{}日", d.year(), d.month(), d.day()),
    }
}

/// `17:05`.
pub fn clock(at: Timestamp, zone: &TimeZone) -> String {
    let d = local(at, zone);
    format!("{:02}:{:02}", d.hour(), d.minute())
}

/// For table cells and axes, where columns must line up: `2026-11-22 17:05`.
pub fn compact(at: Timestamp, zone: &TimeZone) -> String {
    let d = local(at, zone);
    format!("{:04}-{:02}-{:02} {:02}:{:02}", d.year(), d.month(), d.day(), d.hour(), d.minute())
}

/// Day and month for an axis: `22 Nov`, `11月22日`.
pub fn day(language: Language, at: Timestamp, zone: &TimeZone) -> String {
    let d = local(at, zone);
    match language {
        Language::En => format!("{} {}", d.day(), &month(d.month())[..3]),
        Language::ZhHant | Language::ZhHans => format!("{}月{}日", d.month(), d.day()),
    }
}

/// To the second, with the zone named: `22 November 2026, 17:05:09 Hong Kong time`.
pub fn exact(language: Language, at: Timestamp, zone: &TimeZone, zone_name: &str) -> String {
    let d = local(at, zone);
    let (date, h, m, s) = (date(language, at, zone), d.hour(), d.minute(), d.second());
    match language {
        Language::En => format!("{date}, {h:02}:{m:02}:{s:02} {zone_name}"),
        Language::ZhHant | Language::ZhHans => format!("{date} {h:02}:{m:02}:{s:02}（{zone_name}）"),
    }
}

/// `5 minutes ago`, `in 2 hours`, `just now`; the date once it is a week away, because nobody counts in days then.
/// lang-keys: time.*
pub fn relative(catalogue: &Catalogue, language: Language, at: Timestamp, now: Timestamp, zone: &TimeZone) -> String {
    let micros = now.micros_since(at);
    let seconds = micros.unsigned_abs() / 1_000_000;
    if seconds < 45 {
        return catalogue.t(language, "time.now").to_owned();
    }
    let (past, future, count) = match seconds {
        s if s < 45 * 60 => ("time.minutes-ago", "time.in-minutes", (s + 30) / 60),
        s if s < 22 * 3_600 => ("time.hours-ago", "time.in-hours", (s + 1_800) / 3_600),
        s if s < 7 * 86_400 => ("time.days-ago", "time.in-days", (s + 43_200) / 86_400),
        _ => return date(language, at, zone),
    };
    catalogue.msg(language, if micros >= 0 { past } else { future }).n(count).to_string()
}

/// A length of time: `45 seconds`, `3 minutes`, `2 hours`, rounded to the unit.
pub fn duration(catalogue: &Catalogue, language: Language, seconds: u64) -> String {
    let (key, count) = match seconds {
        s if s < 90 => ("time.seconds", s),
        s if s < 90 * 60 => ("time.minutes", (s + 30) / 60),
        s if s < 36 * 3_600 => ("time.hours", (s + 1_800) / 3_600),
        s => ("time.days", (s + 43_200) / 86_400),
    };
    catalogue.msg(language, key).n(count).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hong_kong() -> TimeZone {
        TimeZone::fixed(jiff::tz::offset(8))
    }
    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn numbers_line_up() {
        let check = |value, decimals, expect: &str| assert_eq!(number(value, decimals), expect);
        check(1_234_567.891, 1, "1,234,567.9");
        check(-0.04, 1, "0.0");
        check(-12.5, 1, "−12.5");
        check(999.0, 0, "999");
        check(1_000.0, 0, "1,000");
        check(f64::NAN, 1, "–");
        assert_eq!(integer(i64::MIN), "−9,223,372,036,854,775,808");
        assert_eq!([27.0, 27.5, 0.125, 1.0 / 3.0].map(decimals_for), [0, 1, 3, 3]);
        assert_eq!(bytes(845_012), "845\u{202f}kB");
        assert_eq!(bytes(1_200), "1.2\u{202f}kB");
        assert_eq!(bytes(12), "12\u{202f}B");
    }

    #[test]
    fn times_by_language() {
        let c = Catalogue::new(&[crate::TEXTS]).unwrap();
        let zone = hong_kong();
        let t = at("2026-11-22T09:05:09Z");
        assert_eq!(exact(Language::En, t, &zone, "Hong Kong time"), "22 November 2026, 17:05:09 Hong Kong time");
        assert_eq!(exact(Language::ZhHant, t, &zone, "香港時間"), "2026年11月22日 17:05:09（香港時間）");
        let ago = |language, seconds: i64| relative(&c, language, t, t.plus_secs(seconds), &zone);
        assert_eq!(ago(Language::En, 10), "just now");
        assert_eq!(ago(Language::En, 60), "1 minute ago");
        assert_eq!(ago(Language::En, 300), "5 minutes ago");
        assert_eq!(ago(Language::ZhHant, 300), "5 分鐘前");
        assert_eq!(ago(Language::ZhHans, 7_200), "2 小时前");
        assert_eq!(ago(Language::En, -7_200), "in 2 hours");
        assert_eq!(ago(Language::En, 30 * 86_400), "22 November 2026");
        assert_eq!(day(Language::En, t, &zone), "22 Nov");
        assert_eq!(duration(&c, Language::ZhHant, 180), "3 分鐘");
    }

    #[test]
    fn units_join_their_values() {
        let c = Catalogue::new(&[crate::TEXTS]).unwrap();
        assert_eq!(quantity(&c, Language::En, 27.5, "Cel", 1), "27.5\u{202f}°C");
        assert_eq!(quantity(&c, Language::En, 83.0, "%", 0), "83%");
        assert_eq!(quantity(&c, Language::ZhHant, 12.0, "{spaces}", 0), "12\u{202f}個車位");
    }

    proptest::proptest! {
        #[test]
        fn numbers_read_back(value in -1e12f64..1e12, decimals in 0u8..6) {
            let text = number(value, decimals).replace(',', "").replace(MINUS, "-");
            let back: f64 = text.parse().unwrap();
            proptest::prop_assert!((back - value).abs() <= 0.5 * 10f64.powi(-i32::from(decimals)) + 1e-3);
        }
    }
}
