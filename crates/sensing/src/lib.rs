//! Room `sensing`: things, observations, MQTT, rules, alarms. See ARCHITECTURE.md, "An observation's way".

pub mod alarms;
pub mod catalog;
pub mod connect;
pub mod devices;
pub mod error;
#[doc(hidden)]
pub mod fuzzing;
pub mod model;
pub mod mqtt;
pub mod notify;
pub mod observe;
pub mod pages;
pub mod query;
pub mod route;
pub mod rules;
pub mod scope;
pub mod sta;

pub use catalog::Catalog;
pub use error::Error;
pub use route::{Audience, Route};
pub use scope::{Scope, Scopes};
