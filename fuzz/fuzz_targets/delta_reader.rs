//! A delta read as a stream.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| switchback_delta::fuzz::delta_reader(data));
