use kernel::{Id, Kind, Tenant, Timestamp};
use serde::{Deserialize, Serialize};

use crate::model::EntityId;

/// Something with a key of its own that sends Observations.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Device {
    pub id: Id<Device>,
    pub tenant: Tenant,
    /// How its owner calls it; unique in the tenant.
    pub key: String,
    pub name: String,
    /// What it is: `flood-station`, `gateway`; the owner's word.
    pub kind: String,
    pub firmware: Option<String>,
    /// The Things whose Datastreams it may add to.
    pub things: Vec<EntityId>,
    /// It may add to every Datastream of its tenant.
    pub gateway: bool,
    /// A disabled device's keys are refused.
    pub enabled: bool,
    pub created_at: Timestamp,
    /// When it was last heard of, as of the last time this was written down (about a minute).
    pub seen_at: Option<Timestamp>,
    /// When it last sent an Observation that was taken, and one that was refused; written down together with `seen_at`.
    pub observed_at: Option<Timestamp>,
    pub refused_at: Option<Timestamp>,
    /// Why the last one was refused.
    pub refusal: Option<String>,
    /// Set for good when it was decommissioned.
    pub decommissioned: Option<Decommissioned>,
    /// Charge in percent, strength of its signal in dBm, and arrival minus its own time, as of the last time they were written down.
    pub battery: Option<i64>,
    pub signal: Option<i64>,
    pub skew_micros: Option<i64>,
    pub keys: Vec<DeviceKey>,
}

/// The end of a device.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Decommissioned {
    pub at: Timestamp,
    /// [`kernel::Caller::label`].
    pub by: String,
    pub reason: String,
}

/// What a list of devices may be narrowed by, each by an index of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Percent.
    BatteryBelow(i64),
    /// Heard of once, and not since.
    UnseenSince(Timestamp),
    /// Its clock differs by more than so many microseconds, in either direction.
    ClockOffBy(i64),
}

impl Condition {
    /// The words in addresses.
    pub const NAMES: [&'static str; 3] = ["low-battery", "unseen", "wrong-clock"];
    /// Percent below which a battery is low, and seconds after which a device is unseen and a clock is wrong, unless somebody says another number.
    const USUAL: [i64; 3] = [20, 86_400, 60];

    /// `low-battery` with percent, `unseen` and `wrong-clock` with seconds.
    pub fn of(name: &str, number: Option<i64>, now: Timestamp) -> Option<Self> {
        let at = Self::NAMES.iter().position(|n| *n == name)?;
        let number = number.unwrap_or(Self::USUAL[at]).clamp(0, 400 * 86_400);
        Some(match at {
            0 => Self::BatteryBelow(number),
            1 => Self::UnseenSince(now.plus_secs(-number)),
            _ => Self::ClockOffBy(number * 1_000_000),
        })
    }

    /// Where a device stands in the list of the condition.
    pub fn place(self, device: &Device) -> (i64, String) {
        let place = match self {
            Self::BatteryBelow(_) => device.battery,
            Self::UnseenSince(_) => device.seen_at.map(Timestamp::as_micros),
            Self::ClockOffBy(_) => device.skew_micros.map(|skew| -skew.abs()),
        };
        (place.unwrap_or(i64::MAX), device.key.clone())
    }
}

/// What a device says of itself: `POST /api/devices/self/health`, or MQTT `devices/self/health`. What is absent stays as it was.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Charge in percent, 0 to 100.
    pub battery: Option<f64>,
    /// Strength of its signal in dBm, -200 to 50.
    pub signal: Option<f64>,
    pub firmware: Option<String>,
    /// What its clock says as it sends this.
    pub time: Option<Timestamp>,
}

impl Report {
    pub fn check(&self) -> Result<(), crate::Error> {
        let within = |field: &str, value: Option<f64>, from: f64, to: f64| match value {
            Some(value) if !(from..=to).contains(&value) => {
                Err(crate::Error::field(field, format!("a number from {from} to {to} is expected")))
            }
            _ => Ok(()),
        };
        within("/battery", self.battery, 0.0, 100.0)?;
        within("/signal", self.signal, -200.0, 50.0)?;
        self.firmware.as_deref().map_or(Ok(()), |text| check_word("/firmware", text, 200))
    }
}

impl Kind for Device {
    const NAME: &'static str = "device";
}

/// A key of a device, without the key.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DeviceKey {
    pub prefix: String,
    pub created_at: Timestamp,
    /// No longer good from then on.
    pub expires_at: Option<Timestamp>,
    /// When the device last came in with it, to the minute.
    pub used_at: Option<Timestamp>,
}

/// What registering asks for.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewDevice {
    pub tenant: Tenant,
    pub key: String,
    pub name: Option<String>,
    pub kind: String,
    pub firmware: Option<String>,
    #[serde(default)]
    pub things: Vec<EntityId>,
    #[serde(default)]
    pub gateway: bool,
}

/// What may change; what is absent stays.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    pub name: Option<String>,
    pub kind: Option<String>,
    pub firmware: Option<String>,
    pub things: Option<Vec<EntityId>>,
    pub gateway: Option<bool>,
    pub enabled: Option<bool>,
}

/// How a device is doing, from what it sends to this process.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Health {
    pub seen_at: Option<Timestamp>,
    /// When it last sent what was taken, and what was refused.
    pub observed_at: Option<Timestamp>,
    pub refused_at: Option<Timestamp>,
    /// Why the last one was refused.
    pub refusal: Option<String>,
    /// Observations in the last whole minute.
    pub per_minute: u64,
    /// Observations since this process started.
    pub observations: u64,
    /// Refused since this process started.
    pub errors: u64,
    /// Arrival minus the device's own time in microseconds, of the promptest of its last messages; negative when its clock is ahead.
    pub skew_micros: Option<i64>,
    /// Charge in percent, and strength of its signal in dBm.
    pub battery: Option<i64>,
    pub signal: Option<i64>,
    /// Connected by MQTT now.
    pub connected: bool,
}

/// How a device is, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeviceState {
    /// Sends something that is not taken.
    Refused,
    /// Was heard of, and sends nothing any more.
    Silent,
    NeverSeen,
    Healthy,
    /// Taken out of service.
    Disabled,
}

impl DeviceState {
    pub const ALL: [Self; 5] = [Self::Refused, Self::Silent, Self::NeverSeen, Self::Healthy, Self::Disabled];

    /// The word in addresses.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Silent => "silent",
            Self::NeverSeen => "never-seen",
            Self::Healthy => "healthy",
            Self::Disabled => "disabled",
        }
    }

    /// `patience` is how long the device may be quiet, in seconds.
    pub fn of(device: &Device, health: &Health, patience: i64, now: Timestamp) -> Self {
        let lately = |at: Option<Timestamp>| at.is_some_and(|at| now.micros_since(at) <= patience * 1_000_000);
        match () {
            () if !device.enabled => Self::Disabled,
            () if health.seen_at.is_none() => Self::NeverSeen,
            // One that sends some of its values wrongly is not well, though others are taken.
            () if lately(health.refused_at) => Self::Refused,
            () if lately(health.observed_at) => Self::Healthy,
            () => Self::Silent,
        }
    }
}

/// How long a device may be quiet whose Datastreams do not say how often they are written.
const PATIENCE: i64 = 3_600;
/// And at least, because what other processes hear is written down once a minute.
const LEAST_PATIENCE: i64 = 300;

/// Seconds of quiet after which a device is silent: three of the shortest interval that its Datastreams expect.
pub fn patience(shortest_interval: Option<i64>) -> i64 {
    shortest_interval.map_or(PATIENCE, |seconds| seconds.saturating_mul(3).max(LEAST_PATIENCE))
}

/// A name, kind or key that can be shown, logged and put in a topic.
pub(super) fn check_word(field: &str, text: &str, most: usize) -> Result<(), crate::Error> {
    if (1..=most).contains(&text.chars().count()) && !text.chars().any(char::is_control) {
        return Ok(());
    }
    Err(crate::Error::field(field, format!("1 to {most} characters without control characters are expected")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_in_one_state() {
        let at = |secs| Some(Timestamp::from_secs(secs));
        let mut device = Device {
            id: Id::new(Timestamp::from_secs(0), 1),
            tenant: Tenant::parse("dsd").expect("slug"),
            key: "k".into(),
            name: "n".into(),
            kind: "k".into(),
            firmware: None,
            things: Vec::new(),
            gateway: false,
            enabled: true,
            created_at: Timestamp::from_secs(0),
            seen_at: None,
            observed_at: None,
            refused_at: None,
            refusal: None,
            decommissioned: None,
            battery: None,
            signal: None,
            skew_micros: None,
            keys: Vec::new(),
        };
        let check = |device: &Device, seen, observed, refused, expect| {
            let health = Health { seen_at: seen, observed_at: observed, refused_at: refused, ..Health::default() };
            let state = DeviceState::of(device, &health, 600, Timestamp::from_secs(10_000));
            assert_eq!(state, expect, "{seen:?} {observed:?} {refused:?}");
        };
        check(&device, None, None, None, DeviceState::NeverSeen);
        check(&device, at(9_990), at(9_990), None, DeviceState::Healthy);
        check(&device, at(9_990), at(9_400), None, DeviceState::Healthy);
        check(&device, at(9_990), at(9_399), None, DeviceState::Silent);
        check(&device, at(9_990), None, None, DeviceState::Silent);
        check(&device, at(9_990), at(9_990), at(9_500), DeviceState::Refused);
        check(&device, at(9_990), at(9_990), at(9_000), DeviceState::Healthy);
        check(&device, at(9_000), None, at(9_000), DeviceState::Silent);
        device.enabled = false;
        check(&device, at(9_990), at(9_990), None, DeviceState::Disabled);
    }

    #[test]
    fn patience_follows_what_is_expected() {
        assert_eq!([patience(None), patience(Some(10)), patience(Some(3_600))], [3_600, 300, 10_800]);
    }
}
