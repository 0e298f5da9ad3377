//! The program: configuration, the pack, who may do what, operators, composition, commands. See ARCHITECTURE.md.
//!
//! A library with a thin `main`, so that tests start the whole program in their own process.

pub mod config;
pub mod pack;
pub mod policy;
