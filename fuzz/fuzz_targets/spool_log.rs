//! What a spool keeps: a segment, a single record, the state file. The first byte chooses.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((choice, rest)) = data.split_first() else { return };
    match choice {
        0 => drop(switchback_spool::fuzz::segment(rest)),
        1 => drop(switchback_spool::fuzz::state(rest)),
        kind => drop(switchback_spool::fuzz::record(kind - 2, rest)),
    }
});
