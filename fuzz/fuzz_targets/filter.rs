//! `$filter`, `$expand` and their like, and resource paths.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| sensing::fuzzing::filter(text));
