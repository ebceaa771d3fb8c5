//! The transport from outside: real TCP, real TLS, replicas in memory.

#![expect(
    clippy::unwrap_used,
    reason = "tests; clippy exempts only the test functions themselves, not what they share"
)]

mod cuts;
mod enrolment;
mod hostile;
mod raw;
mod session;
mod support;
