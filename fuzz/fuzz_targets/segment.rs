//! Segment, index and consumer files that hold arbitrary bytes.
#![no_main]

#[path = "../src/segment.rs"]
mod segment;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| segment::run(bytes));
