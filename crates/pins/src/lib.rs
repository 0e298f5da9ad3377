//! Empty on purpose. Cargo builds a dependency once for every set of features it is asked for, and what is asked depends on which of our
//! crates are being built. This crate asks for all of them, and `lake` depends on it, so that `cargo test -p lake`, `cargo check -p sensing`
//! and a full build share one DataFusion instead of building three. `cargo xtask check` compares the feature sets.
