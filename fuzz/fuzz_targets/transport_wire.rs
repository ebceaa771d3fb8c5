//! What comes from the network: headers, requests, replies. The first byte chooses.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((choice, rest)) = data.split_first() else { return };
    match choice {
        0 => switchback_transport::fuzz::head(rest),
        1 => switchback_transport::fuzz::reply(rest),
        2 => switchback_transport::fuzz::frame_header(rest),
        _ => switchback_transport::fuzz::request(rest),
    }
});
