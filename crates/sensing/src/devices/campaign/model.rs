//! What a campaign is and when it goes on: types and pure decisions.

use kernel::{Id, Kind, Tenant, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Firmware or a configuration on its way to many devices, in waves.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Campaign {
    pub id: Id<Campaign>,
    pub tenant: Tenant,
    pub name: String,
    pub load: Load,
    /// The version that a device has when it has done it.
    pub version: String,
    pub status: Status,
    /// Why it halted, was rejected or aborted.
    pub reason: String,
    /// How the waves were asked for: `1%`, `50`, `rest`.
    pub waves: String,
    /// Failures that a wave may have, in thousandths of its devices.
    pub failures_per_mille: u32,
    /// Seconds that a device has, from its command to its last word.
    pub timeout: i64,
    pub created_by: String,
    pub created_at: Timestamp,
    pub decided_by: Option<String>,
    pub decided_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    /// Grows with everything that people do to it.
    pub revision: u32,
}

impl Kind for Campaign {
    const NAME: &'static str = "campaign";
}

/// What is brought to the devices.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Load {
    Firmware { sha256: String, size: i64 },
    Configuration { document: Value },
}

impl Load {
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Firmware { .. } => "firmware",
            Self::Configuration { .. } => "configuration",
        }
    }
}

/// Where a campaign is. The words that Tasks have too mean the same (docs/tasking.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Waits for a second person.
    Proposed,
    Rejected,
    Running,
    /// Somebody held it.
    Paused,
    /// Too many devices failed: nothing more is sent until somebody decides.
    Halted,
    Aborted,
    Done,
}

impl Status {
    pub const ALL: [Self; 7] =
        [Self::Proposed, Self::Rejected, Self::Running, Self::Paused, Self::Halted, Self::Aborted, Self::Done];
    pub const fn name(self) -> &'static str {
        match self {
            Self::Proposed => "proposed",
            Self::Rejected => "rejected",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Halted => "halted",
            Self::Aborted => "aborted",
            Self::Done => "done",
        }
    }
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.name() == name)
    }
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Rejected | Self::Aborted | Self::Done)
    }
}

/// What people do to a campaign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    Approve,
    Reject,
    Pause,
    Resume,
    Abort,
}

impl Deed {
    pub const ALL: [Self; 5] = [Self::Approve, Self::Reject, Self::Pause, Self::Resume, Self::Abort];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Approve => "approve",
            Self::Reject => "reject",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Abort => "abort",
        }
    }
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|d| d.name() == name)
    }

    /// What a campaign is after it; `None` when it cannot be done now.
    pub const fn after(self, status: Status) -> Option<Status> {
        Some(match (self, status) {
            (Self::Approve, Status::Proposed) | (Self::Resume, Status::Paused | Status::Halted) => Status::Running,
            (Self::Reject, Status::Proposed) => Status::Rejected,
            (Self::Pause, Status::Running) => Status::Paused,
            (Self::Abort, Status::Running | Status::Paused | Status::Halted) => Status::Aborted,
            _ => return None,
        })
    }
}

/// Where a device is in a campaign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Its wave has not begun.
    Waiting,
    /// The command is there for it.
    Sent,
    Downloading,
    Installed,
    Failed,
    /// Decommissioned meanwhile.
    Skipped,
}

impl Stage {
    pub const ALL: [Self; 6] =
        [Self::Waiting, Self::Sent, Self::Downloading, Self::Installed, Self::Failed, Self::Skipped];

    /// Also the column that counts it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Sent => "sent",
            Self::Downloading => "downloading",
            Self::Installed => "installed",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.name() == name)
    }

    /// What a device's word makes of its stage: `Ok(None)` when it says nothing new.
    ///
    /// # Errors
    /// When it was not asked, or this is no word for a device.
    pub const fn after(self, said: Self) -> Result<Option<Self>, Unasked> {
        match (self, said) {
            (Self::Waiting, _) | (_, Self::Waiting | Self::Sent | Self::Skipped) => Err(Unasked),
            (Self::Sent, said) | (Self::Downloading, said @ (Self::Installed | Self::Failed)) => Ok(Some(said)),
            // One that was given up, or that tried again by itself, may still succeed.
            (Self::Failed, Self::Installed) => Ok(Some(Self::Installed)),
            _ => Ok(None),
        }
    }
}

/// A device said something that nobody asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unasked;

/// The numbers of one wave.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Wave {
    pub total: u32,
    pub waiting: u32,
    pub sent: u32,
    pub downloading: u32,
    pub installed: u32,
    pub failed: u32,
    pub skipped: u32,
    /// Failures that somebody has seen and let pass.
    pub forgiven: u32,
    /// Until when its devices have time; `None` until it has begun.
    pub due_at: Option<Timestamp>,
}

impl Wave {
    const fn open(&self) -> u32 {
        self.sent + self.downloading
    }
}

/// How large a wave is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    Count(u32),
    PerMille(u32),
    Rest,
}

/// Waves of one campaign.
pub const WAVES: usize = 20;

/// `1%, 10%, rest`, or counts: `5, 50, rest`.
///
/// # Errors
/// What is wrong with it.
pub fn shares(text: &str) -> Result<Vec<Share>, String> {
    let mut shares = Vec::new();
    for word in text.split([',', ';']).map(str::trim).filter(|w| !w.is_empty()) {
        if shares.last() == Some(&Share::Rest) {
            return Err("nothing comes after the rest".to_owned());
        }
        let share = match word.strip_suffix('%') {
            Some(number) => {
                let percent: f64 = number.trim().parse().map_err(|_| format!("'{word}' is no share"))?;
                if !(0.1..=100.0).contains(&percent) {
                    return Err(format!("'{word}' is not between 0.1% and 100%"));
                }
                Share::PerMille((percent * 10.0).round() as u32)
            }
            None if word.eq_ignore_ascii_case("rest") => Share::Rest,
            None => match word.parse() {
                Ok(count) if count > 0 => Share::Count(count),
                _ => return Err(format!("'{word}' is no wave: write 1%, 50 or rest")),
            },
        };
        shares.push(share);
    }
    match shares.len() {
        0 => Err("no wave: write for example 1%, 10%, rest".to_owned()),
        n if n > WAVES => Err(format!("{n} waves; at most {WAVES}")),
        _ => Ok(shares),
    }
}

/// How many of `total` devices are in each wave; shares are of the whole. What no wave takes is in the last one.
pub fn sizes(shares: &[Share], total: usize) -> Vec<usize> {
    let mut left = total;
    let mut sizes = Vec::new();
    for (at, share) in shares.iter().enumerate() {
        let wanted = match share {
            Share::Count(count) => *count as usize,
            // At least one, or a wave would prove nothing.
            Share::PerMille(share) => (total * *share as usize).div_ceil(1_000),
            Share::Rest => left,
        };
        let size = if at + 1 == shares.len() { left } else { wanted.min(left) };
        if size > 0 {
            sizes.push(size);
        }
        left -= size;
    }
    sizes
}

/// What a running campaign does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    Wait,
    /// The time of this wave is over: those that have not answered have failed.
    GiveUp(usize),
    Begin(usize),
    Halt(String),
    Done,
}

/// Pure: the same numbers bring the same decision, at whichever moment after a crash they are looked at again.
pub fn next(failures_per_mille: u32, waves: &[Wave], now: Timestamp) -> Next {
    for (at, wave) in waves.iter().enumerate() {
        let Some(due) = wave.due_at else { return Next::Begin(at) };
        let failed = wave.failed.saturating_sub(wave.forgiven);
        if u64::from(failed) * 1_000 > u64::from(failures_per_mille) * u64::from(wave.total) {
            return Next::Halt(format!(
                "{failed} of {} devices of wave {} failed; {} % may",
                wave.total,
                at + 1,
                f64::from(failures_per_mille) / 10.0
            ));
        }
        if wave.open() > 0 {
            return if due <= now { Next::GiveUp(at) } else { Next::Wait };
        }
    }
    Next::Done
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_secs(secs)
    }

    #[test]
    fn waves_are_shares_of_the_whole() {
        let check = |text: &str, total: usize, expect: &[usize]| {
            let sizes = sizes(&shares(text).unwrap(), total);
            assert_eq!(sizes, expect, "{text} of {total}");
            assert_eq!(sizes.iter().sum::<usize>(), total);
        };
        check("1%, 10%, rest", 1_000, &[10, 100, 890]);
        check("1%, 10%, rest", 5, &[1, 1, 3]);
        check("1%, rest", 1, &[1]);
        check("5; 50; Rest", 40, &[5, 35]);
        check("5, 50", 100, &[5, 95]);
        check("0.1%", 10_000, &[10_000]);
        for wrong in ["", "rest, 5", "0", "-1", "101%", "0%", "x", "1%%", "nan%"] {
            assert!(shares(wrong).is_err(), "{wrong}");
        }
        assert!(shares(&"1,".repeat(WAVES + 1)).is_err());
    }

    #[test]
    fn a_wave_follows_when_the_one_before_is_well() {
        let wave = |total, waiting, sent, installed, failed, due: Option<i64>| Wave {
            total,
            waiting,
            sent,
            installed,
            failed,
            due_at: due.map(at),
            ..Wave::default()
        };
        let check = |waves: &[Wave], expect: Next| assert_eq!(next(50, waves, at(100)), expect, "{waves:?}");
        let later = wave(80, 80, 0, 0, 0, None);
        check(&[wave(20, 20, 0, 0, 0, None), later.clone()], Next::Begin(0));
        check(&[wave(20, 0, 5, 15, 0, Some(200)), later.clone()], Next::Wait);
        check(&[wave(20, 0, 5, 15, 0, Some(100)), later.clone()], Next::GiveUp(0));
        check(&[wave(20, 0, 0, 20, 0, Some(200)), later.clone()], Next::Begin(1));
        check(&[wave(20, 0, 0, 19, 1, Some(200)), later.clone()], Next::Begin(1));
        let halt = |n: u32| Next::Halt(format!("{n} of 20 devices of wave 1 failed; 5 % may"));
        check(&[wave(20, 0, 10, 8, 2, Some(200)), later.clone()], halt(2));
        check(&[Wave { forgiven: 2, ..wave(20, 0, 10, 8, 2, Some(200)) }, later.clone()], Next::Wait);
        check(&[Wave { forgiven: 2, ..wave(20, 0, 10, 6, 4, Some(200)) }, later], halt(2));
        check(&[wave(20, 0, 0, 20, 0, Some(200)), wave(80, 0, 0, 80, 0, Some(200))], Next::Done);
    }

    #[test]
    fn a_device_says_each_thing_once() {
        use Stage::{Downloading, Failed, Installed, Sent, Skipped, Waiting};
        let check = |is: Stage, said: Stage, expect: Result<Option<Stage>, Unasked>| {
            assert_eq!(is.after(said), expect, "{is:?} {said:?}");
        };
        check(Sent, Downloading, Ok(Some(Downloading)));
        check(Sent, Installed, Ok(Some(Installed)));
        check(Downloading, Downloading, Ok(None));
        check(Downloading, Failed, Ok(Some(Failed)));
        check(Installed, Failed, Ok(None));
        check(Failed, Installed, Ok(Some(Installed)));
        check(Skipped, Installed, Ok(None));
        check(Waiting, Installed, Err(Unasked));
        check(Sent, Sent, Err(Unasked));
        check(Sent, Skipped, Err(Unasked));
    }

    #[test]
    fn what_is_over_is_over() {
        for status in Status::ALL {
            assert_eq!(Status::from_name(status.name()), Some(status));
            for deed in Deed::ALL {
                assert!(!status.is_over() || deed.after(status).is_none(), "{deed:?} {status:?}");
            }
        }
        assert_eq!(Deed::Resume.after(Status::Halted), Some(Status::Running));
        assert_eq!(Deed::Approve.after(Status::Running), None);
    }

    proptest::proptest! {
        #[test]
        fn sizes_always_add_up(text in "([0-9]{1,3}%?, ?){1,5}(rest)?", total in 1usize..5_000) {
            if let Ok(shares) = shares(&text) {
                let sizes = sizes(&shares, total);
                proptest::prop_assert_eq!(sizes.iter().sum::<usize>(), total);
                proptest::prop_assert!(sizes.iter().all(|size| *size > 0));
            }
        }
    }
}
