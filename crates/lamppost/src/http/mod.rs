//! The HTTP door: what surrounds the rooms' routers.

pub mod edge;
pub mod health;
pub mod metrics;
pub mod openapi;
pub mod serve;
