//! Formulas of derived Datastreams.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| sensing::fuzzing::formula(text));
