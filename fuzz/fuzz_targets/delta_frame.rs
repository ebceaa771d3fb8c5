//! One frame: header and stored bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| switchback_delta::fuzz::frame(data));
