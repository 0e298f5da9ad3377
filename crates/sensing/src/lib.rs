//! Room `sensing`: things, observations, MQTT, rules, alarms. See ARCHITECTURE.md, "An observation's way".

pub mod model;
