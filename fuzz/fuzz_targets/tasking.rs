//! What may be asked of an actuator, and what is asked.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sensing::fuzzing::tasking(bytes));
