//! Rules: what raises an alarm.

pub mod machine;
pub mod model;
pub mod quality;
