//! Every test here runs on both engines, unless it is about what only one of them can do.

mod audit;
mod jobs;
mod migrations;
mod outbox;
mod support;
mod transactions;
