//! What can be well or not: each feed and each part of the program, as one line that says what is wrong, since when, and what to do. Pure.

use kernel::{Tenant, Timestamp};
use serde::Serialize;

/// What kind of thing a part is. lang-keys: operations.kind.*
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The Datastreams of a department and system.
    Series,
    Connector,
    Devices,
    /// LoRaWAN, line protocol, tables.
    Door,
    Derived,
    Letters,
    Rules,
    /// From the stream to the lake.
    Lake,
    /// From the records to the stream.
    Outbox,
    Jobs,
    Disk,
}

impl Kind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Series => "series",
            Self::Connector => "connector",
            Self::Devices => "devices",
            Self::Door => "door",
            Self::Derived => "derived",
            Self::Letters => "letters",
            Self::Rules => "rules",
            Self::Lake => "lake",
            Self::Outbox => "outbox",
            Self::Jobs => "jobs",
            Self::Disk => "disk",
        }
    }
}

/// From the best to the worst.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Good,
    /// Has not said anything yet, or is switched off.
    New,
    /// Some of it is late or refused.
    Some,
    Late,
    Failing,
}

impl State {
    pub const ALL: [Self; 5] = [Self::Good, Self::New, Self::Some, Self::Late, Self::Failing];
    pub const fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::New => "new",
            Self::Some => "some",
            Self::Late => "late",
            Self::Failing => "failing",
        }
    }
    pub const fn needs_a_look(self) -> bool {
        matches!(self, Self::Some | Self::Late | Self::Failing)
    }
}

/// What is wrong. Each has a sentence and what to do in the language files.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wrong {
    SeriesLate,
    SeriesSome,
    ConnectorFails,
    ConnectorLate,
    ConnectorRefuses,
    DevicesSilent,
    DevicesRefused,
    DoorRefuses,
    DerivedStuck,
    DerivedPaused,
    LettersDead,
    LettersTrying,
    RulesBehind,
    LakeFails,
    LakeBehind,
    OutboxBehind,
    JobsDead,
    JobsOverdue,
    DiskLow,
    DiskUnknown,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Part {
    pub kind: Kind,
    /// A system, a connector, a kind of device, a queue: unique with kind and tenant.
    pub key: String,
    /// Whose it is; nothing for what is the platform's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Tenant>,
    /// Whether everybody may know of it.
    pub public: bool,
    pub state: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wrong: Option<Wrong>,
    /// How many of how many it is about.
    pub n: u64,
    pub all: u64,
    /// A machine's own words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// Since when it has been so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// The last measurement, success or sign of life.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<Timestamp>,
    /// Seconds between two of them, as declared or learned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<i64>,
    /// Seconds that it is behind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag: Option<i64>,
    /// What it has taken, and what it has refused or failed at.
    pub taken: u64,
    pub failed: u64,
    pub simulated: bool,
}

impl Part {
    pub fn new(kind: Kind, key: impl Into<String>, tenant: Option<Tenant>) -> Self {
        Self {
            kind,
            key: key.into(),
            tenant,
            public: false,
            state: State::Good,
            wrong: None,
            n: 0,
            all: 0,
            cause: None,
            since: None,
            last: None,
            interval: None,
            lag: None,
            taken: 0,
            failed: 0,
            simulated: false,
        }
    }
    #[must_use]
    pub fn is(mut self, state: State, wrong: Wrong, n: u64, all: u64) -> Self {
        (self.state, self.wrong, self.n, self.all) = (state, Some(wrong), n, all);
        self
    }
}

/// The worst first; among equals what has been so for longest, then by what it is.
pub fn rank(parts: &mut [Part]) {
    parts.sort_by(|a, b| {
        let since = |p: &Part| p.since.map_or(i64::MAX, Timestamp::as_micros);
        (std::cmp::Reverse(a.state), since(a), a.kind, &a.key).cmp(&(
            std::cmp::Reverse(b.state),
            since(b),
            b.kind,
            &b.key,
        ))
    });
}

/// How a group of Datastreams is: late when most of what ever spoke is, some when a part of it is. One in fifty is a broken instrument, not a feed.
pub fn of_series(group: &sensing::health::Group) -> Part {
    let mut part = Part::new(Kind::Series, group.system.clone(), Some(group.tenant.clone()));
    let known = group.fresh + group.late;
    (part.public, part.last, part.taken, part.simulated) = (group.public, group.newest, known, group.simulated);
    part.interval = group.intervals.map(|(shortest, _)| shortest);
    part.all = known;
    if known == 0 {
        part.state = State::New;
        return part;
    }
    part.since = group.late_since;
    if group.late * 2 >= known {
        return part.is(State::Late, Wrong::SeriesLate, group.late, known);
    }
    if group.late * 50 > known {
        return part.is(State::Some, Wrong::SeriesSome, group.late, known);
    }
    part.since = None;
    part
}

/// What `df -Pk` says of the file system of a folder (POSIX.1-2017, `df`, portable format): kibibytes in all, and those that are left.
pub fn disk(text: &str) -> Option<(u64, u64)> {
    let line = text.lines().nth(1)?;
    let words: Vec<&str> = line.split_whitespace().collect();
    // Counted from the share in percent: the name of the file system in front may hold blanks.
    let at = words.iter().position(|w| w.ends_with('%') && w.trim_end_matches('%').parse::<u8>().is_ok())?;
    let (total, left) = (words.get(at.checked_sub(3)?)?.parse().ok()?, words.get(at - 1)?.parse().ok()?);
    (total > 0 && left <= total).then_some((total, left))
}

/// Percent of a disk below which somebody must do something, and below which it is nearly too late.
const LOW: u64 = 15;
const NEARLY_FULL: u64 = 5;

pub fn of_disk(room: Option<(u64, u64)>) -> Part {
    let part = Part::new(Kind::Disk, "data", None);
    let Some((total, left)) = room else { return part.is(State::New, Wrong::DiskUnknown, 0, 0) };
    let percent = left * 100 / total;
    match percent {
        p if p < NEARLY_FULL => part.is(State::Failing, Wrong::DiskLow, p, 100),
        p if p < LOW => part.is(State::Some, Wrong::DiskLow, p, 100),
        p => Part { n: p, all: 100, ..part },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sensing::health::Group;

    use super::*;

    fn group(fresh: u64, late: u64, never: u64) -> Group {
        let since = (late > 0).then(|| Timestamp::from_secs(100));
        Group {
            tenant: Tenant::parse("dsd").expect("slug"),
            public: true,
            system: "flood".to_owned(),
            streams: fresh + late + never,
            more: false,
            never,
            ended: 0,
            fresh,
            late,
            newest: Some(Timestamp::from_secs(1)),
            late_since: since,
            intervals: Some((10, 300)),
            simulated: false,
        }
    }

    #[test]
    fn a_feed_is_as_most_of_it_is() {
        for (fresh, late, never, expect) in [
            (20, 0, 0, State::Good),
            (0, 0, 40, State::New),
            (99, 1, 0, State::Good),
            (90, 10, 0, State::Some),
            (10, 10, 40, State::Late),
            (0, 3, 0, State::Late),
        ] {
            let part = of_series(&group(fresh, late, never));
            assert_eq!(part.state, expect, "{fresh} {late} {never}");
            assert_eq!(part.since.is_some(), expect.needs_a_look(), "{fresh} {late}");
        }
    }

    #[test]
    fn the_worst_is_first_and_the_oldest_of_it() {
        let part = |state, since: Option<i64>, key: &str| {
            let since = since.map(Timestamp::from_secs);
            Part { state, since, ..Part::new(Kind::Series, key, None) }
        };
        let mut parts = vec![
            part(State::Good, None, "a"),
            part(State::Late, Some(50), "b"),
            part(State::Failing, None, "c"),
            part(State::Late, Some(10), "d"),
            part(State::Failing, Some(99), "e"),
        ];
        rank(&mut parts);
        assert_eq!(parts.iter().map(|p| p.key.as_str()).collect::<Vec<_>>(), ["e", "c", "d", "b", "a"]);
    }

    #[test]
    fn room_is_read_from_df() {
        let text = "Filesystem     1024-blocks      Used Available Capacity Mounted on\n/dev/sda1        103081248  51540624  51540624      50% /\n";
        assert_eq!(disk(text), Some((103_081_248, 51_540_624)));
        assert_eq!(disk("Filesystem\nC: data drive 100 60 40 60% /c\n"), Some((100, 40)), "a name with blanks");
        for bad in ["", "Filesystem\n", "h\nx 1 2 3\n", "h\nx 0 0 0 50% /\n", "h\n5% /\n"] {
            assert_eq!(disk(bad), None, "{bad}");
        }
        let state = |left| of_disk(Some((1_000, left))).state;
        assert_eq!([500, 149, 49].map(state), [State::Good, State::Some, State::Failing]);
        assert_eq!(of_disk(None).state, State::New);
    }

    proptest! {
        #[test]
        fn whatever_df_says_is_read_or_not(text in "(\\PC{0,40}\n){0,3}", total in 1u64..1 << 40, share in 0u64..=100) {
            if let Some((total, left)) = disk(&text) {
                prop_assert!(left <= total);
            }
            let left = total / 100 * share;
            let line = format!("h\n/dev/x {total} {} {left} 50% /\n", total - left);
            prop_assert_eq!(disk(&line), Some((total, left)));
        }
    }
}
