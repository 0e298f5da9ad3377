//! The whole program in this process, driven over HTTP from outside. One binary: each links DataFusion.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests are tests, which the lint cannot see in a crate of their own"
)]

mod backup;
mod browser;
mod city;
mod complaints;
mod dashboards;
mod desk;
mod devices;
mod door;
mod history;
mod hostile;
mod operations;
mod operators;
mod retention;
mod routes;
mod secrets;
mod walls;
