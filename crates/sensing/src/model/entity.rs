use std::fmt;

use serde::{Deserialize, Serialize};

/// The entity types of the Sensing profile with its MultiDatastream extension, and of the Tasking profile (17-079). Observations are the only
/// ones that are not rows of `records`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, Serialize, Deserialize)]
pub enum EntityType {
    Thing,
    Location,
    HistoricalLocation,
    Datastream,
    MultiDatastream,
    Sensor,
    ObservedProperty,
    Observation,
    FeatureOfInterest,
    TaskingCapability,
    Actuator,
    Task,
}

impl EntityType {
    pub const ALL: [Self; 12] = [
        Self::Thing,
        Self::Location,
        Self::HistoricalLocation,
        Self::Datastream,
        Self::MultiDatastream,
        Self::Sensor,
        Self::ObservedProperty,
        Self::Observation,
        Self::FeatureOfInterest,
        Self::TaskingCapability,
        Self::Actuator,
        Self::Task,
    ];

    /// `Thing`, as in a navigation link to one entity.
    pub const fn singular(self) -> &'static str {
        match self {
            Self::Thing => "Thing",
            Self::Location => "Location",
            Self::HistoricalLocation => "HistoricalLocation",
            Self::Datastream => "Datastream",
            Self::MultiDatastream => "MultiDatastream",
            Self::Sensor => "Sensor",
            Self::ObservedProperty => "ObservedProperty",
            Self::Observation => "Observation",
            Self::FeatureOfInterest => "FeatureOfInterest",
            Self::TaskingCapability => "TaskingCapability",
            Self::Actuator => "Actuator",
            Self::Task => "Task",
        }
    }
    /// `Things`, as in the entity set's address.
    pub const fn set(self) -> &'static str {
        match self {
            Self::Thing => "Things",
            Self::Location => "Locations",
            Self::HistoricalLocation => "HistoricalLocations",
            Self::Datastream => "Datastreams",
            Self::MultiDatastream => "MultiDatastreams",
            Self::Sensor => "Sensors",
            Self::ObservedProperty => "ObservedProperties",
            Self::Observation => "Observations",
            Self::FeatureOfInterest => "FeaturesOfInterest",
            Self::TaskingCapability => "TaskingCapabilities",
            Self::Actuator => "Actuators",
            Self::Task => "Tasks",
        }
    }
    pub fn from_set(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.set() == name)
    }
    /// What Observations belong to. The two kinds take their ids from one sequence, so an id alone names a series, whichever it is of.
    pub const SERIES: [Self; 2] = [Self::Datastream, Self::MultiDatastream];

    pub const fn has_series(self) -> bool {
        matches!(self, Self::Datastream | Self::MultiDatastream)
    }
}

/// The `@iot.id` of every entity but an Observation: a positive integer below 2^53, so that JavaScript keeps it exact.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EntityId(pub i64);

impl fmt::Display for EntityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
