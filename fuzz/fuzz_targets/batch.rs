//! The body of `POST /v1.1/$batch`, as multipart or JSON; the first line is the media type.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sensing::fuzzing::batch(bytes));
