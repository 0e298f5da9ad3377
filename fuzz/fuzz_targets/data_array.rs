//! The body of `POST /v1.1/CreateObservations`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sensing::fuzzing::data_array(bytes));
