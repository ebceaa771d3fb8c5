//! A delta read through its index; both readers must judge alike.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| switchback_delta::fuzz::delta_file(data));
