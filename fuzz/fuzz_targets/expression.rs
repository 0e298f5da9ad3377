//! Conditions of rules in the Common Expression Language.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| sensing::fuzzing::expression(text));
