//! Geofences and fixes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sensing::fuzzing::fence(bytes));
