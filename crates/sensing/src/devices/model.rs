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
    pub keys: Vec<DeviceKey>,
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Health {
    pub seen_at: Option<Timestamp>,
    /// Observations in the last whole minute.
    pub per_minute: u64,
    /// Observations since this process started.
    pub observations: u64,
    /// Refused since this process started.
    pub errors: u64,
    /// Arrival minus phenomenonTime in microseconds, smoothed; negative when the device's clock is ahead.
    pub skew_micros: Option<i64>,
    /// Connected by MQTT now.
    pub connected: bool,
}

/// A name, kind or key that can be shown, logged and put in a topic.
pub(super) fn check_word(field: &str, text: &str, most: usize) -> Result<(), crate::Error> {
    if (1..=most).contains(&text.chars().count()) && !text.chars().any(char::is_control) {
        return Ok(());
    }
    Err(crate::Error::field(field, format!("1 to {most} characters without control characters are expected")))
}
