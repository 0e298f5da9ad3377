//! The program: configuration, the pack, who may do what, operators, composition, commands. See ARCHITECTURE.md.
//!
//! A library with a thin `main`, so that tests start the whole program in their own process.

pub mod alone;
pub mod backup;
mod basemap;
pub mod city;
pub mod cli;
pub mod client;
pub mod compose;
pub mod config;
mod declared;
mod demo;
pub mod http;
pub mod operations;
pub mod operators;
mod outlines;
pub mod pack;
pub mod policy;
pub mod relay;
pub mod sealed;
pub mod simulate;
pub mod stores;
pub mod telemetry;
mod warnings;
