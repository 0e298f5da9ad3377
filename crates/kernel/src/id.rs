//! Typed identifiers. `Id<Alarm>` cannot be passed where `Id<Device>` is expected.

use std::{fmt, hash::Hash, marker::PhantomData, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use crate::Timestamp;

/// What an [`Id`] identifies; implemented by an empty enum or by the entity itself.
pub trait Kind {
    /// Singular, lower case, as it appears in errors: `"alarm"`.
    const NAME: &'static str;
}

/// A UUIDv7 (RFC 9562 section 5.7): sorted by creation time, so that B-trees append. Stored as 36 characters of lower-case text in
/// both engines of `records`, because that is the one form that SQLite, PostgreSQL, JSON and a person at a prompt
/// all read alike.
pub struct Id<K> {
    uuid: Uuid,
    kind: PhantomData<fn() -> K>,
}

impl<K: Kind> Id<K> {
    /// A new id for the moment `now`; `entropy` supplies the 74 random bits, so tests can repeat a run.
    pub fn new(now: Timestamp, entropy: u128) -> Self {
        let mut bytes = entropy.to_be_bytes();
        let millis = (now.as_micros().max(0) / 1_000) as u64;
        bytes[..6].copy_from_slice(&millis.to_be_bytes()[2..]);
        bytes[6] = (bytes[6] & 0x0f) | 0x70;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        Self::from_uuid(Uuid::from_bytes(bytes))
    }

    pub fn from_uuid(uuid: Uuid) -> Self {
        Self { uuid, kind: PhantomData }
    }

    /// A fresh id from the system's clock and randomness. Decisions take ids as parameters instead.
    pub fn generate() -> Self {
        Self::from_uuid(Uuid::now_v7())
    }

    pub fn uuid(&self) -> Uuid {
        self.uuid
    }
}

impl<K> Clone for Id<K> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K> Copy for Id<K> {}
impl<K> PartialEq for Id<K> {
    fn eq(&self, other: &Self) -> bool {
        self.uuid == other.uuid
    }
}
impl<K> Eq for Id<K> {}
impl<K> PartialOrd for Id<K> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<K> Ord for Id<K> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.uuid.cmp(&other.uuid)
    }
}
impl<K> Hash for Id<K> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.uuid.hash(state);
    }
}
impl<K> fmt::Display for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uuid.as_hyphenated().fmt(f)
    }
}
impl<K: Kind> fmt::Debug for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", K::NAME, self.uuid)
    }
}
impl<K: Kind> FromStr for Id<K> {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Uuid::parse_str(s).map(Self::from_uuid).map_err(|_| format!("'{s}' is not a valid {} id (a UUID)", K::NAME))
    }
}
impl<K> Serialize for Id<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
impl<'de, K: Kind> Deserialize<'de> for Id<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    enum Lamp {}
    impl Kind for Lamp {
        const NAME: &'static str = "lamp";
    }

    #[test]
    fn ids_sort_by_time_and_survive_text() {
        let early: Id<Lamp> = Id::new(Timestamp::from_micros(1_700_000_000_000_000), u128::MAX);
        let late: Id<Lamp> = Id::new(Timestamp::from_micros(1_700_000_000_001_000), 0);
        assert!(early < late);
        assert_eq!(early.uuid().get_version_num(), 7);
        assert_eq!(early.to_string().parse(), Ok(early));
        assert_eq!("x".parse::<Id<Lamp>>(), Err("'x' is not a valid lamp id (a UUID)".to_owned()));
    }
}
