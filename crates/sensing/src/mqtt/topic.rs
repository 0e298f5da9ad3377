//! Topic names and filters (MQTT 5 section 4.7), and which of them mean something in the city (OGC 18-088 section 14).

use kernel::Tenant;

use crate::model::{EntityId, EntityType};

/// Bytes of a topic or filter. The standard allows 65,535; the longest that means something here is a tenth of this.
pub const MAX_BYTES: usize = 512;
/// Levels of a topic or filter: the depth of the subscription tree.
pub const MAX_LEVELS: usize = 16;

fn sound(text: &str) -> bool {
    (1..=MAX_BYTES).contains(&text.len())
        && !text.chars().any(char::is_control)
        && text.bytes().filter(|b| *b == b'/').count() < MAX_LEVELS
}

/// Whether `topic` may be published to.
pub fn is_name(topic: &str) -> bool {
    sound(topic) && !topic.bytes().any(|b| matches!(b, b'+' | b'#'))
}

/// Whether `filter` may be subscribed to: `+` fills a level, `#` fills the last one.
pub fn is_filter(filter: &str) -> bool {
    if !sound(filter) {
        return false;
    }
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let last = levels.peek().is_none();
        let wild = level.bytes().any(|b| matches!(b, b'+' | b'#'));
        if wild && level != "+" && !(level == "#" && last) {
            return false;
        }
    }
    true
}

/// Whether `filter` matches `topic`. Used for one session's few filters; the router's many are in a [`super::trie::Trie`].
pub fn matches(filter: &str, topic: &str) -> bool {
    // Server topics begin with '$' and are not for wildcards (section 4.7.2).
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut levels = topic.split('/');
    for level in filter.split('/') {
        match level {
            "#" => return true,
            "+" if levels.next().is_some() => {}
            _ => {
                if levels.next() != Some(level) {
                    return false;
                }
            }
        }
    }
    levels.next().is_none()
}

/// `$share/<group>/<filter>` (section 4.8.2): the group and the filter. `Ok(None)` for an ordinary filter.
pub fn shared(filter: &str) -> Result<Option<(&str, &str)>, ()> {
    let Some(rest) = filter.strip_prefix("$share/") else { return Ok(None) };
    match rest.split_once('/') {
        Some((group, filter)) if !group.is_empty() && !group.contains(['+', '#']) && !filter.is_empty() => {
            Ok(Some((group, filter)))
        }
        _ => Err(()),
    }
}

/// What a published topic names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address<'a> {
    /// `v1.1/Datastreams(<id>)/Observations`, the same of a MultiDatastream, or `v1.1/Observations` where the body names one of the two.
    Observations(Option<(EntityType, EntityId)>),
    /// `v1.1/FeaturesOfInterest(<id>)/Observations`: the body names the Datastream or MultiDatastream.
    OfFeature(EntityId),
    /// `v1.1/CreateObservations`: a data array.
    DataArray,
    /// `v1.1/Tasks(<id>)`: what a device says of a Task that was sent to it.
    Task(EntityId),
    /// `v1.1/TaskingCapabilities(<id>)/Tasks`, or `v1.1/Tasks` where the body names the TaskingCapability: a Task is proposed (17-079 section 9.1).
    Tasks(Option<EntityId>),
    /// `devices/self/health` and `devices/self/command`: what a device says of itself.
    Own(&'a str),
    /// `devices/<device>/<datastream key>`: a device that knows no ids.
    Device { device: &'a str, key: &'a str },
    /// `tenant/<slug>/...`: a tenant's own messages, which are not observations.
    Tenant(Tenant),
    /// Nothing that may be published to.
    Nothing,
}

fn id_of(level: &str, set: &str) -> Option<EntityId> {
    let digits = level.strip_prefix(set)?.strip_prefix('(')?.strip_suffix(')')?;
    let canonical = !digits.is_empty() && !digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit());
    canonical.then(|| digits.parse().ok().map(EntityId)).flatten()
}

impl<'a> Address<'a> {
    pub fn of(topic: &'a str) -> Self {
        let mut levels = topic.split('/');
        let (first, second, third, rest) = (levels.next(), levels.next(), levels.next(), levels.next());
        match (first, second, third, rest) {
            (Some("v1.1"), Some("Observations"), None, None) => Self::Observations(None),
            (Some("v1.1"), Some("CreateObservations"), None, None) => Self::DataArray,
            (Some("v1.1"), Some("Tasks"), None, None) => Self::Tasks(None),
            (Some("v1.1"), Some(level), Some("Tasks"), None) => {
                id_of(level, "TaskingCapabilities").map_or(Self::Nothing, |id| Self::Tasks(Some(id)))
            }
            (Some("v1.1"), Some(level), None, None) => id_of(level, "Tasks").map_or(Self::Nothing, Self::Task),
            (Some("v1.1"), Some(level), Some("Observations"), None) => {
                let series = EntityType::SERIES.into_iter().find_map(|of| Some((of, id_of(level, of.set())?)));
                let series = series.map(|named| Self::Observations(Some(named)));
                series.or_else(|| id_of(level, "FeaturesOfInterest").map(Self::OfFeature)).unwrap_or(Self::Nothing)
            }
            (Some("devices"), Some("self"), Some(what @ ("health" | "command")), None) => Self::Own(what),
            (Some("devices"), Some(device), Some(key), None) if !device.is_empty() && !key.is_empty() => {
                Self::Device { device, key }
            }
            (Some("tenant"), Some(slug), Some(_), _) => Tenant::parse(slug).map_or(Self::Nothing, Self::Tenant),
            _ => Self::Nothing,
        }
    }
}

/// The one Datastream or MultiDatastream whose Observations `filter` asks for, when it has no wildcard.
pub fn datastream_of(filter: &str) -> Option<(EntityType, EntityId)> {
    match Address::of(filter) {
        Address::Observations(Some(named)) => Some(named),
        _ => None,
    }
}

/// The topic of the Observations of a Datastream or MultiDatastream.
pub fn observations(of: EntityType, id: EntityId) -> String {
    format!("v1.1/{}({id})/Observations", of.set())
}

/// Under which a device is told what it is to do. Each device sees its own alone.
pub const COMMAND: &str = "devices/self/command";

/// The topic of every Observation.
pub const ALL_OBSERVATIONS: &str = "v1.1/Observations";
