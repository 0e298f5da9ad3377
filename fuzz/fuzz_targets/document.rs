//! Documents that connectors read: CSV, JSON, GeoJSON and XML.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sensing::fuzzing::document(bytes));
