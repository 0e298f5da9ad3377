//! Tasking from outside: the machine under any order of events, and the service as a client and a device see it.

pub mod http;
mod machine;
