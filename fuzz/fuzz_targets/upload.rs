//! What is uploaded to the register of devices: sheets, forms with a file, certificates.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sensing::fuzzing::upload(bytes));
