//! Frames made of the input are written and read back, both ways.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| switchback_delta::fuzz::round_trip(data));
