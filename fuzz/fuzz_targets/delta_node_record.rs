//! The record of a node of the digest tree.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| switchback_delta::fuzz::node_record(data));
