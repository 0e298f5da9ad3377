//! Every test here runs on both engines, unless it is about what only one of them can do.

#![expect(clippy::unwrap_used, reason = "a failed test is a panic")]

mod agreement;
mod audit;
mod backup;
mod faults;
mod jobs;
mod lease;
mod migrations;
mod outbox;
mod support;
mod transactions;
