//! Every test here runs on both engines.

mod support;
mod transactions;
