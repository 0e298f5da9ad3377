//! When it was measured: fields and a format to an instant or an interval of local time.

use jiff::{Span, Zoned, civil::DateTime, fmt::strtime::BrokenDownTime, tz::TimeZone};
use kernel::{Interval, Timestamp};

use super::{
    declaration::{Stamp, Time},
    rows::Fields,
};

/// A [`Time`] that has been checked.
#[derive(Clone, Debug)]
pub struct When {
    fields: Vec<String>,
    format: Option<String>,
    zone: Option<TimeZone>,
    covers: Option<Span>,
    stamp: Stamp,
}

impl When {
    /// # Errors
    /// Where below `time`, and what would be right.
    pub fn new(time: &Time) -> Result<Self, (&'static str, String)> {
        if time.fields.is_empty() || time.fields.len() > 8 {
            return Err(("/fields", "1 to 8 fields are expected".to_owned()));
        }
        let zone = match &time.zone {
            None => None,
            Some(name) => Some(
                TimeZone::get(name)
                    .map_err(|_| ("/zone", format!("'{name}' is not an IANA time zone, such as Asia/Hong_Kong")))?,
            ),
        };
        let covers = match &time.covers {
            None => None,
            Some(text) => {
                let span: Span = text
                    .parse()
                    .map_err(|_| ("/covers", "an ISO 8601 duration is expected, such as P1D or PT1H".to_owned()))?;
                if !span.is_positive() {
                    return Err(("/covers", "a duration above zero is expected".to_owned()));
                }
                if zone.is_none() {
                    return Err(("/zone", "a day begins and ends in a time zone: name it".to_owned()));
                }
                Some(span)
            }
        };
        if time.stamp == Stamp::End && covers.is_none() {
            return Err(("/stamp", "it goes with covers".to_owned()));
        }
        // A format that cannot be understood must not wait for the first row.
        if let Some(format) = &time.format {
            BrokenDownTime::from(&Zoned::new(jiff::Timestamp::UNIX_EPOCH, TimeZone::UTC))
                .to_string(format)
                .map_err(|e| ("/format", e.to_string()))?;
        }
        Ok(Self { fields: time.fields.clone(), format: time.format.clone(), zone, covers, stamp: time.stamp })
    }

    /// The time of a row.
    ///
    /// # Errors
    /// The field, its text and what is wrong with it.
    pub fn of(&self, row: &dyn Fields) -> Result<Interval, (String, String, String)> {
        let mut text = String::new();
        for name in &self.fields {
            let Some(part) = row.get(name) else {
                return Err((name.clone(), String::new(), "the row has no such field".to_owned()));
            };
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(part.trim());
        }
        self.read(&text).map_err(|reason| (self.fields.join(" "), text, reason))
    }

    fn read(&self, text: &str) -> Result<Interval, String> {
        let at = self.instant(text)?;
        let other = |span: Span| self.shift(at, span).ok_or_else(|| "the time is out of range".to_owned());
        let interval = match (self.covers, self.stamp) {
            (None, _) => Interval::instant(at),
            (Some(span), Stamp::Start) => Interval { start: at, end: other(span)? },
            (Some(span), Stamp::End) => Interval { start: other(-span)?, end: at },
        };
        if interval.start < Timestamp::MIN || interval.end > Timestamp::MAX {
            return Err("a year from 1 to 9999 is expected".to_owned());
        }
        Ok(interval)
    }

    fn instant(&self, text: &str) -> Result<Timestamp, String> {
        let Some(format) = &self.format else {
            if let Ok(at) = text.parse::<Timestamp>() {
                return Ok(at);
            }
            let civil: DateTime =
                text.parse().map_err(|_| "an RFC 3339 time or an ISO 8601 date is expected".to_owned())?;
            return self.local(civil);
        };
        let read = BrokenDownTime::parse(format, text).map_err(|e| format!("it is not as '{format}' says: {e}"))?;
        if read.timestamp().is_some() || read.offset().is_some() {
            return read.to_timestamp().map(Timestamp::from_jiff).map_err(|e| e.to_string());
        }
        let civil = read.to_datetime().map_err(|e| format!("there is no such date: {e}"))?;
        self.local(civil)
    }

    /// A local time that a change of the clock repeats is its first, one that it leaves out is moved on (RFC 5545 section 3.3.5).
    fn local(&self, civil: DateTime) -> Result<Timestamp, String> {
        let zone = self.zone.clone().ok_or_else(|| "it carries no offset and time.zone is not given".to_owned())?;
        let zoned = civil.to_zoned(zone).map_err(|_| "the time is out of range".to_owned())?;
        Ok(Timestamp::from_jiff(zoned.timestamp()))
    }

    fn shift(&self, at: Timestamp, span: Span) -> Option<Timestamp> {
        let zoned = at.to_jiff().to_zoned(self.zone.clone()?);
        zoned.checked_add(span).ok().map(|z| Timestamp::from_jiff(z.timestamp()))
    }

    /// The `n`th step after `interval`; `None` when steps have no length. Counted from the interval and not from the step before: a
    /// day that begins at half past midnight, because the clocks were put forward, must not move all days after it.
    pub fn step(&self, interval: Interval, n: i64) -> Option<Interval> {
        let edge = |n: i64| self.shift(interval.start, self.covers?.checked_mul(n).ok()?);
        let (start, end) = (edge(n)?, edge(n.checked_add(1)?)?);
        (start < end && interval.start < start).then_some(Interval { start, end })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn when(format: Option<&str>, zone: Option<&str>, covers: Option<&str>, stamp: Stamp) -> When {
        let text = |t: Option<&str>| t.map(str::to_owned);
        When::new(&Time {
            fields: vec!["t".to_owned()],
            format: text(format),
            zone: text(zone),
            covers: text(covers),
            stamp,
        })
        .expect("valid")
    }

    #[test]
    fn times_as_publishers_write_them() {
        let check = |format, covers, stamp, text: &str, expect: Option<&str>| {
            let got = when(format, Some("Asia/Hong_Kong"), covers, stamp).read(text).ok().map(|i| i.to_string());
            assert_eq!(got.as_deref(), expect, "{text}");
        };
        check(None, None, Stamp::Start, "2026-11-22T09:00:00Z", Some("2026-11-22T09:00:00Z"));
        check(None, None, Stamp::Start, "2026-11-22T09:00:00", Some("2026-11-22T01:00:00Z"));
        check(None, None, Stamp::Start, "2026-11-22", Some("2026-11-21T16:00:00Z"));
        check(None, None, Stamp::Start, "yesterday", None);
        check(
            Some("%Y %m %d"),
            Some("P1D"),
            Stamp::Start,
            "2024 3 1",
            Some("2024-02-29T16:00:00Z/2024-03-01T16:00:00Z"),
        );
        check(
            Some("%d-%m-%Y"),
            Some("P1D"),
            Stamp::Start,
            "31-12-2024",
            Some("2024-12-30T16:00:00Z/2024-12-31T16:00:00Z"),
        );
        check(
            Some("%d/%m/%Y %H:%M"),
            Some("PT1H"),
            Stamp::End,
            "01/01/2024 01:00",
            Some("2023-12-31T16:00:00Z/2023-12-31T17:00:00Z"),
        );
        check(Some("%s"), None, Stamp::Start, "1700000000", Some("2023-11-14T22:13:20Z"));
        check(
            Some("%Y-%m-%dT%H:%M:%S%z"),
            None,
            Stamp::Start,
            "2024-01-01T00:00:00+0900",
            Some("2023-12-31T15:00:00Z"),
        );
        // 1900 was no leap year, whatever the file says.
        check(Some("%Y %m %d"), None, Stamp::Start, "1900 2 29", None);
        check(Some("%Y %m %d"), None, Stamp::Start, "2024 13 1", None);
    }

    #[test]
    fn a_day_is_as_long_as_the_place_has_it() {
        let london = when(None, Some("Europe/London"), Some("P1D"), Stamp::Start);
        let short = london.read("2024-03-31").expect("time");
        assert_eq!(short.end.micros_since(short.start), 23 * 3_600_000_000);
        let next = london.step(short, 1).expect("next");
        assert_eq!(next.to_string(), "2024-03-31T23:00:00Z/2024-04-01T23:00:00Z");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let time = Time { fields: vec!["t".to_owned()], format: None, zone: None, covers: None, stamp: Stamp::Start };
        let wrong = |t: Time| When::new(&t).err().map(|e| e.0);
        assert_eq!(wrong(time.clone()), None);
        assert_eq!(wrong(Time { fields: vec![], ..time.clone() }), Some("/fields"));
        assert_eq!(wrong(Time { zone: Some("Hong Kong".to_owned()), ..time.clone() }), Some("/zone"));
        assert_eq!(wrong(Time { covers: Some("P1D".to_owned()), ..time.clone() }), Some("/zone"));
        assert_eq!(wrong(Time { covers: Some("1 day-ish".to_owned()), ..time.clone() }), Some("/covers"));
        assert_eq!(wrong(Time { stamp: Stamp::End, ..time.clone() }), Some("/stamp"));
        assert_eq!(wrong(Time { format: Some("%Q%".to_owned()), ..time }), Some("/format"));
    }
}
