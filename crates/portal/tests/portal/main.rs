//! The portal as a browser without scripts sees it, over a real control plane, its SQLite store and the real API; sites and components are simulated.

#![expect(clippy::unwrap_used, reason = "tests")]

mod browser;
mod checks;
mod disks;
mod events;
mod forms;
#[path = "../../../api/tests/arm/issuer.rs"]
#[expect(dead_code, reason = "the API's tests need more of it")]
mod issuer;
mod jobs;
mod pages;
mod plans;
mod proofs;
mod security;
mod servers;
mod settings;
mod sign_in;
mod sites;
#[path = "../../../control/tests/jobs/world.rs"]
#[expect(dead_code, reason = "the control plane's tests need more of it")]
mod world;
