//! The SensorThings data model (OGC 18-088 sections 8 and 12) as types. Pure: no I/O, no clock, no randomness.

mod datastream;
mod entity;
mod observation;

pub use datastream::{DatastreamInfo, ObservationType, ResultError, raw};
pub use entity::{EntityId, EntityType};
pub use observation::{Observation, ObservationId, ResultValue};
