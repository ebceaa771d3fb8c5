//! Azure storage, as page-blob replicas use it: [`AzureStore`] is a [`BlobStore`](switchback_replica::store::BlobStore) on Microsoft's official client.
//!
//! What it is: one container of an account, below a prefix, with the credentials to it ([`Location`], [`Credentials`]); the official crates do
//! the protocol, the tokens, and retries with back-off on 408, 429, 500, 502, 503, 504 and broken connections, within limits. Callers are threads: the crate
//! brings a small runtime of its own. What it never does: decide what is written; show a secret. A SAS comes in the location's URL, is cut out of
//! it at once, and out of every message.
//!
//! The path of one page write: `write_pages` waits for the [`Pace`], sends Put Page with the lease and waits for the answer; 412 means
//! that the lease is lost ([`BlobError::Refused`](switchback_replica::store::BlobError)).

mod access;
mod error;
mod location;
mod store;

pub use access::{Credentials, Secret};
pub use location::{Location, LocationError};
pub use store::{AzureStore, OpenStoreError, Pace, StoreConfig};
