//! Messages of network servers of LoRaWAN, and the payloads in them.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sensing::fuzzing::device(bytes));
