//! The configuration server's side of the network: the REST API for users, and the components' control channel.
//!
//! What it is: an [`axum::Router`] over [`Control`](switchback_control::Control) ([`router`]) that speaks Azure Site Recovery's contract, and our
//! additions beside it, so that Microsoft's SDKs and what is built on them drive Switchback; the components' routes ([`components`]); and the one port
//! that all of them are reached at ([`listener`]). What it never does: decide what may be done (that is the control plane's and the model's),
//! keep state between requests.
//!
//! The path of one user's request: its path is normalised (`arm`); `service` asks whose its token is (`auth`, or `sign_in` for an issuer's),
//! refuses what is too much (`clients`), too large or not allowed; the handler of the resource (one file each, in `arm` for the contract, in `additions` for what is ours alone) reads it,
//! calls the control plane on a thread that may block, and renders what that answers; long work is answered with 202 and the
//! addresses of its job; what changed something goes into the audit log with its result. What all of it is, as OpenAPI: [`openapi`].

mod additions;
mod arm;
mod audit;
mod auth;
mod body;
mod clients;
pub mod components;
mod config;
pub mod listener;
pub mod openapi;
mod routes;
mod service;
mod sign_in;

pub use arm::{Refusal, Vault, encode, job_actions, job_scenario, plan_groups, point_name, provider};
pub use clients::ClientLimits;
pub use config::{ApiConfig, ApiLimits};
pub use service::{Identity, Service, router};
pub use sign_in::{Attempt, SignInLimits};
