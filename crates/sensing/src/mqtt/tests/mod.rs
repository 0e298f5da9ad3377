//! The door from outside: bytes on a socket against a field in memory, and real clients. `real.rs` has the same against the real stores.

mod client;
mod clients;
mod delivery;
mod hostile;
mod multi;
mod protocol;
mod real;
mod rights;
mod updates;
mod world;
