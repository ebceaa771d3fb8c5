//! The data channel between components, on port 9443.
//!
//! What it is: [`RemoteSession`], a `ReplicaSession` whose replica is on another host, and [`serve`], which lets sessions of
//! this host be used by others; and beside them enrolment ([`enrol()`]) and the renewal of certificates ([`renew()`]).
//! All of it over mutual TLS 1.3 (`docs/decisions/0004-transport.md`), messages as the header of `wire` describes them.
//!
//! What it never does: know what a frame means, decide who may write what (that is the [`SessionHandler`]'s), try again
//! (that is the caller's, who knows where to go on), queue without limit, wait without limit.
//!
//! The path of one frame: the caller's thread puts it into [`RemoteSession`]'s queue, bounded in bytes; the connection's
//! task encrypts it from where it is and sends it; the server's task decrypts it into one buffer and passes it, again by a
//! queue bounded in bytes, to the session's own thread, which calls the handler's `ReplicaSession`. Nothing is answered until a
//! barrier is: then all frames before it have been taken.

mod client;
mod connect;
mod enrol;
mod renewal;
mod server;
mod stream;
mod throttle;
mod watched;
mod wire;

pub use client::RemoteSession;
pub use connect::{ConnectConfig, Timeouts};
pub use enrol::{EnrolConfig, admit, enrol};
pub use renewal::{RenewalTask, renew};
pub use server::{Limits, ServerConfig, SessionHandler, serve};
pub use throttle::RateLimit;

/// The port of the data channel.
pub const PORT: u16 = 9443;

/// One function per decoder of bytes from outside, for fuzzers and property tests.
#[doc(hidden)]
pub mod fuzz {
    use crate::wire::{self, Head, Kind, Request};

    /// A message's header.
    pub fn head(bytes: &[u8]) {
        if let Some(head) = bytes.first_chunk() {
            let _ = Head::decode(*head);
        }
    }
    /// A request: the first byte says which, the others are its payload.
    pub fn request(bytes: &[u8]) {
        if let Some((kind, payload)) = kind_of(bytes) {
            let _ = Request::decode(kind, payload);
        }
    }
    /// A reply, of every kind.
    pub fn reply(bytes: &[u8]) {
        let _ = wire::decode_nodes(bytes);
        let _ = wire::decode_leaves(bytes);
        let _ = wire::json::<wire::Hello>(Kind::Hello, bytes);
        let _ = wire::json::<wire::Welcome>(Kind::Welcome, bytes);
        let _ = wire::json::<wire::Renewed>(Kind::Done, bytes);
        let _ = wire::json::<switchback_replica::ReplicaError>(Kind::Failed, bytes);
        let _ = wire::json::<switchback_replica::ReplicaStatus>(Kind::Done, bytes);
    }
    /// A frame's header within its message.
    pub fn frame_header(bytes: &[u8]) {
        if let Some(header) = bytes.first_chunk() {
            let _ = wire::frame_header(header, u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        }
    }

    fn kind_of(bytes: &[u8]) -> Option<(Kind, &[u8])> {
        let (first, payload) = bytes.split_first()?;
        let mut head = [0; wire::HEAD_LEN];
        head[0] = *first;
        Some((Head::decode(head).ok()?.kind, payload))
    }
}
