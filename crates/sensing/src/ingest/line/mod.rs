//! InfluxDB line protocol: what agents and gateways write by the thousand rows.

mod door;
pub mod parse;

pub use door::{Precision, Query, Written};
