//! A replica's manifest; what decodes must encode to something that decodes to the same.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| switchback_replica::fuzz::manifest(data));
