//! The API as its clients see it, over a real control plane and its SQLite store; sites and components are simulated.
//!
//! Every answer of a resource of the contract is checked against the contract's OpenAPI document on its way through [`server::Server`], and every
//! answer against ours.

#![expect(clippy::unwrap_used, reason = "tests")]

mod access;
mod additions;
mod alerts;
mod bandwidth;
mod checks;
mod conformance;
mod deployed_servers;
mod document;
mod groups;
mod hostile;
mod inventory;
mod issuer;
mod kinds;
mod operations;
mod pages;
mod plans;
mod proofs;
mod round;
mod schemathesis;
mod server;
mod sign_in;
mod terraform;
mod traces;
#[path = "../../../control/tests/jobs/world.rs"]
#[expect(dead_code, reason = "the control plane's tests need more of it")]
mod world;
