//! Certificates, enrolment messages, stored credentials. The first byte chooses.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((choice, rest)) = data.split_first() else { return };
    match choice {
        0 => switchback_identity::fuzz::certificate(rest),
        1 => switchback_identity::fuzz::credentials(rest),
        _ => switchback_identity::fuzz::enrolment(rest),
    }
});
