//! When somebody is told: weekdays and hours by the city's clock. Pure.
//!
//! ```toml
//! hours = [
//!     { days = ["Mon", "Tue", "Wed", "Thu", "Fri"], from = "08:00", to = "18:00" },
//!     { days = ["Sat"], from = "22:00", to = "06:00" },        # from Saturday night into Sunday morning
//! ]
//! ```
//!
//! Hours are what a clock on the wall shows, so a day of 23 or 25 hours needs no care: an hour that happens twice is on duty twice, one that does not
//! happen is on duty as far as its window reaches beyond it.

use std::{collections::BTreeSet, fmt};

use jiff::{
    civil::{Date, DateTime, Time, Weekday},
    tz::TimeZone,
};
use kernel::Timestamp;
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

impl Day {
    const fn of(weekday: Weekday) -> Self {
        match weekday {
            Weekday::Monday => Self::Mon,
            Weekday::Tuesday => Self::Tue,
            Weekday::Wednesday => Self::Wed,
            Weekday::Thursday => Self::Thu,
            Weekday::Friday => Self::Fri,
            Weekday::Saturday => Self::Sat,
            Weekday::Sunday => Self::Sun,
        }
    }
}

/// A time of day, `00:00` to `24:00`, in minutes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Clock(u16);

const DAY: u16 = 24 * 60;

impl TryFrom<String> for Clock {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let expected = || {
            format!("'{}' is no time of day; write it as 08:00, up to 24:00", text.chars().take(20).collect::<String>())
        };
        let (hours, minutes) = text.split_once(':').ok_or_else(expected)?;
        let digits =
            |t: &str| (t.len() == 2 && t.bytes().all(|b| b.is_ascii_digit())).then(|| t.parse::<u16>().ok())?;
        let (hours, minutes) = digits(hours).zip(digits(minutes)).ok_or_else(expected)?;
        let all = hours * 60 + minutes;
        if minutes > 59 || all > DAY { Err(expected()) } else { Ok(Self(all)) }
    }
}

impl From<Clock> for String {
    fn from(clock: Clock) -> Self {
        clock.to_string()
    }
}

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / 60, self.0 % 60)
    }
}

/// From a time of some days to another; into the next day where it would end before it begins.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// Those on which it begins; every day where none is given.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub days: BTreeSet<Day>,
    pub from: Clock,
    pub to: Clock,
}

impl Window {
    /// What is wrong with it, if anything.
    pub fn check(&self) -> Result<(), String> {
        match (self.from, self.to) {
            (from, to) if from == to => {
                Err("'from' and 'to' are the same; for a whole day write 00:00 and 24:00".to_owned())
            }
            (Clock(DAY), _) => Err("a window begins at 23:59 at the latest; 24:00 is 00:00 of the next day".to_owned()),
            (_, Clock(0)) => Err("a window that ends at midnight ends at 24:00".to_owned()),
            _ => Ok(()),
        }
    }

    fn begins(&self, day: Weekday) -> bool {
        self.days.is_empty() || self.days.contains(&Day::of(day))
    }

    fn is_open(&self, local: DateTime) -> bool {
        let minute = u16::from(local.hour().unsigned_abs()) * 60 + u16::from(local.minute().unsigned_abs());
        let today = self.begins(local.weekday());
        if self.from < self.to {
            return today && (self.from.0..self.to.0).contains(&minute);
        }
        let yesterday = self.begins(local.weekday().previous());
        (today && minute >= self.from.0) || (yesterday && minute < self.to.0)
    }
}

/// Whether it is within any of these windows; without a window it always is.
pub fn is_open(windows: &[Window], at: Timestamp, zone: &TimeZone) -> bool {
    let local = zone.to_datetime(at.to_jiff());
    windows.is_empty() || windows.iter().any(|w| w.is_open(local))
}

/// The next moment from `at` on that is within a window; `at` itself when it is. `None` when there is none within eight days, which no window
/// that passes [`Window::check`] brings about.
pub fn opens(windows: &[Window], at: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    if is_open(windows, at, zone) {
        return Some(at);
    }
    let today = zone.to_datetime(at.to_jiff()).date();
    let mut days: Vec<Date> = vec![today];
    while days.len() < 9 {
        let Ok(next) = days.last().copied().unwrap_or(today).tomorrow() else { break };
        days.push(next);
    }
    // Where the clock is set back a window begins twice; where it is set forward one may begin at that moment.
    let begin = |date: Date, window: &Window| {
        let time =
            Time::new((window.from.0 / 60).try_into().ok()?, (window.from.0 % 60).try_into().ok()?, 0, 0).ok()?;
        let local = zone.to_ambiguous_timestamp(DateTime::from_parts(date, time));
        Some([local.earlier().ok()?, local.later().ok()?])
    };
    let begins = days.iter().flat_map(|date| windows.iter().filter_map(|w| begin(*date, w))).flatten();
    let last = at.plus_secs(9 * 86_400);
    let set = zone.following(at.to_jiff()).map(|t| t.timestamp()).take_while(|t| Timestamp::from_jiff(*t) <= last);
    let all = begins.chain(set).map(Timestamp::from_jiff);
    all.filter(|moment| *moment > at && is_open(windows, *moment, zone)).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn window(toml: &str) -> Window {
        toml::from_str(toml).expect(toml)
    }
    fn zone(name: &str) -> TimeZone {
        TimeZone::get(name).expect("a zone")
    }
    fn at(text: &str, zone: &TimeZone) -> Timestamp {
        let local: DateTime = text.parse().expect("a local time");
        Timestamp::from_jiff(zone.to_ambiguous_timestamp(local).compatible().expect("in range"))
    }

    #[test]
    fn times_of_day_are_read_and_refused() {
        for good in ["00:00", "08:05", "23:59", "24:00"] {
            assert_eq!(Clock::try_from(good.to_owned()).expect(good).to_string(), good);
        }
        for bad in ["", "8:00", "08:60", "24:01", "25:00", "08.00", "+8:00", "08:0a", "08:00:00", "時08:00"] {
            assert!(Clock::try_from(bad.to_owned()).is_err(), "{bad}");
        }
        assert!(window("from = \"08:00\"\nto = \"08:00\"").check().is_err());
        assert!(window("from = \"24:00\"\nto = \"08:00\"").check().is_err());
        assert!(window("from = \"22:00\"\nto = \"00:00\"").check().is_err());
        assert!(window("from = \"22:00\"\nto = \"06:00\"").check().is_ok());
        assert!(toml::from_str::<Window>("from = \"08:00\"\nto = \"09:00\"\nday = [\"Mon\"]").is_err());
    }

    #[test]
    fn a_window_is_what_the_clock_on_the_wall_shows() {
        let zone = zone("Asia/Hong_Kong");
        let office = window("days = [\"Mon\", \"Tue\", \"Wed\", \"Thu\", \"Fri\"]\nfrom = \"08:00\"\nto = \"18:00\"");
        let night = window("days = [\"Sat\"]\nfrom = \"22:00\"\nto = \"06:00\"");
        let both = [office.clone(), night];
        // 2026-11-27 is a Friday.
        for (moment, open, next) in [
            ("2026-11-27T07:59", false, "2026-11-27T08:00"),
            ("2026-11-27T08:00", true, "2026-11-27T08:00"),
            ("2026-11-27T17:59", true, "2026-11-27T17:59"),
            ("2026-11-27T18:00", false, "2026-11-28T22:00"),
            ("2026-11-28T23:30", true, "2026-11-28T23:30"),
            ("2026-11-29T05:59", true, "2026-11-29T05:59"),
            ("2026-11-29T06:00", false, "2026-11-30T08:00"),
        ] {
            assert_eq!(is_open(&both, at(moment, &zone), &zone), open, "{moment}");
            assert_eq!(opens(&both, at(moment, &zone), &zone), Some(at(next, &zone)), "{moment}");
        }
        assert!(is_open(&[], at("2026-11-29T03:00", &zone), &zone), "whoever gives no hours is always on duty");
        // Only weekends in between: the longest way to an opening.
        let monday = [window("days = [\"Mon\"]\nfrom = \"08:00\"\nto = \"09:00\"")];
        assert_eq!(opens(&monday, at("2026-11-30T09:00", &zone), &zone), Some(at("2026-12-07T08:00", &zone)));
    }

    /// Central Europe: at 02:00 on 2026-03-29 it becomes 03:00, at 03:00 on 2026-10-25 it becomes 02:00.
    #[test]
    fn days_of_23_and_25_hours_need_no_care() {
        let zone = zone("Europe/Zurich");
        let early = [window("from = \"02:15\"\nto = \"04:00\"")];
        assert_eq!(opens(&early, at("2026-03-29T01:00", &zone), &zone), Some(at("2026-03-29T03:00", &zone)));
        let gone = [window("from = \"02:15\"\nto = \"02:45\"")];
        let next = opens(&gone, at("2026-03-29T01:00", &zone), &zone);
        assert_eq!(next, Some(at("2026-03-30T02:15", &zone)), "it does not happen on that day");
        // 02:30 happens twice in October, and is on duty both times.
        let first = at("2026-10-25T02:30", &zone);
        assert!(is_open(&gone, first, &zone) && is_open(&gone, first.plus_secs(3_600), &zone));
        assert!(!is_open(&gone, first.plus_secs(1_800), &zone), "03:00 became 02:00");
        // Eight in the morning is eight in the morning in either half of the year.
        let office = [window("from = \"08:00\"\nto = \"18:00\"")];
        for day in ["2026-03-28", "2026-03-29", "2026-10-24", "2026-10-25"] {
            let next = opens(&office, at(&format!("{day}T06:00"), &zone), &zone);
            assert_eq!(next, Some(at(&format!("{day}T08:00"), &zone)), "{day}");
        }
    }

    proptest! {
        /// The next opening is open, not in the past, and nothing before it is.
        #[test]
        fn the_next_opening_is_the_first(
            start in 1_700_000_000_i64..1_900_000_000, from in 0_u16..1_440, long in 1_u16..1_440,
            days in prop::collection::btree_set(prop::sample::select(vec![Day::Mon, Day::Wed, Day::Sat, Day::Sun]), 0..3),
            name in prop::sample::select(vec!["Asia/Hong_Kong", "Europe/Zurich", "America/Sao_Paulo", "Australia/Lord_Howe"]),
        ) {
            let end = (from + long) % DAY;
            let window = Window { days, from: Clock(from), to: Clock(if end == 0 { DAY } else { end }) };
            prop_assume!(window.check().is_ok());
            let (zone, windows, now) = (zone(name), [window], Timestamp::from_secs(start));
            let next = opens(&windows, now, &zone).expect("within eight days");
            prop_assert!(next >= now && is_open(&windows, next, &zone));
            let mut probe = now;
            while probe < next {
                prop_assert!(!is_open(&windows, probe, &zone), "{probe} is before {next}");
                probe = probe.plus_secs(977);
            }
        }
    }
}
