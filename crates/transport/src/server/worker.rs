//! A session's own thread: takes the requests in order, calls the session, answers.
//!
//! # States
//! ```text
//! serving ──a pipelined request: Paused──▶ skipping ──a request with the flag resume──▶ serving
//!    └──────any other error──────────────▶ dead: the session is dropped at once, all requests get the error
//! ```
//! Skipping is what makes pipelining safe: behind a frame that was not taken, no frame that was already on its way may be.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use switchback_identity::PeerIdentity;
use switchback_model::Epoch;
use switchback_replica::{ReplicaError, ReplicaSession, SessionRequest};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::SessionHandler;
use super::complaint::complain;
use crate::wire::{self, Kind, Outgoing, Request};

/// A message to the client, and the request it answers.
pub(super) type Reply = (Outgoing, u16);

/// A request with what came in its header.
pub(super) struct Work {
    pub(super) request: Request,
    pub(super) number: u16,
    pub(super) resume: bool,
    pub(super) epoch: Option<Epoch>,
    /// Its share of the queue's bytes, free when it has been worked off.
    pub(super) _room: OwnedSemaphorePermit,
}

pub(super) struct Worker {
    pub(super) handler: Arc<dyn SessionHandler>,
    pub(super) peer: PeerIdentity,
    pub(super) items: mpsc::Receiver<Work>,
    pub(super) replies: mpsc::Sender<Reply>,
    /// The connection has ended: nothing of what is queued is wanted any more.
    pub(super) ended: Arc<AtomicBool>,
}

/// A session and whether a part has been begun and not yet ended.
struct Open {
    session: Box<dyn ReplicaSession>,
    in_part: bool,
}

enum State {
    Serving(Open),
    Skipping(Open, ReplicaError),
    Dead(ReplicaError),
}

impl Worker {
    /// Opens the session and serves it until its connection ends.
    pub(super) fn run(mut self, request: SessionRequest, number: u16) {
        let _span = tracing::info_span!("session", peer = %self.peer, replica = %request.replica).entered();
        let epoch = request.epoch;
        let of = format!("{} {}", self.peer, request.replica);
        let opened = self.handler.open(&self.peer, request).and_then(|mut session| {
            let status = session.status()?;
            Ok((session, status))
        });
        let (mut state, reply) = match opened {
            Ok((session, status)) => {
                tracing::info!("opened");
                (State::Serving(Open { session, in_part: false }), Outgoing::json(Kind::Done, &status))
            }
            Err(error) => {
                complain(&of, "not opened", &error);
                let reply = wire::failed(&error);
                (State::Dead(error), reply)
            }
        };
        if self.replies.blocking_send((reply, number)).is_err() {
            return;
        }
        while let Some(work) = self.items.blocking_recv() {
            if self.ended.load(Ordering::Acquire) {
                break;
            }
            let number = work.number;
            let (next, reply) = step(&of, state, work, epoch);
            state = next;
            if let Some(reply) = reply
                && self.replies.blocking_send((reply, number)).is_err()
            {
                break;
            }
        }
    }
}

/// Works one request off: the next state, and the answer, if there is one.
fn step(of: &str, state: State, work: Work, epoch: Option<Epoch>) -> (State, Option<Outgoing>) {
    let Work { request, resume, epoch: given, .. } = work;
    let pipelined = matches!(request, Request::BeginPart(_) | Request::Frame(_) | Request::EndPart(_));
    let mut open = match state {
        State::Serving(open) => open,
        State::Skipping(open, _) if resume => open,
        State::Skipping(open, error) => {
            let reply = (!pipelined).then(|| wire::failed(&error));
            return (State::Skipping(open, error), reply);
        }
        State::Dead(error) => {
            let reply = (!pipelined).then(|| wire::failed(&error));
            return (State::Dead(error), reply);
        }
    };
    match check_epoch(given, epoch).and_then(|()| call(&mut open, request)) {
        Ok(reply) => (State::Serving(open), reply),
        Err(error @ ReplicaError::Paused(_)) => {
            complain(of, "paused", &error);
            let reply = Some(wire::failed(&error));
            if pipelined {
                open.in_part = false;
                (State::Skipping(open, error), reply)
            } else {
                (State::Serving(open), reply)
            }
        }
        Err(error) => {
            complain(of, "failed", &error);
            let reply = Some(wire::failed(&error));
            (State::Dead(error), reply)
        }
    }
}

/// Every request carries the epoch its session was opened with.
fn check_epoch(given: Option<Epoch>, opened: Option<Epoch>) -> Result<(), ReplicaError> {
    match (given, opened) {
        (given, opened) if given == opened => Ok(()),
        (Some(given), Some(current)) if given < current => Err(ReplicaError::StaleEpoch { given, current }),
        _ => {
            let detail = "a request states another epoch than its session was opened with".into();
            Err(ReplicaError::Protocol { detail })
        }
    }
}

/// Calls the session; gives the reply, if the request has one when it succeeds.
fn call(open: &mut Open, request: Request) -> Result<Option<Outgoing>, ReplicaError> {
    fn done(payload: &impl Serialize) -> Option<Outgoing> {
        Some(Outgoing::json(Kind::Done, payload))
    }
    if !open.in_part && matches!(request, Request::Frame(_) | Request::EndPart(_)) {
        return Err(ReplicaError::Protocol { detail: "no part has been begun".into() });
    }
    let session = &mut open.session;
    Ok(match request {
        Request::BeginPart(header) => {
            session.begin_part(header)?;
            open.in_part = true;
            None
        }
        Request::Frame(frame) => session.put_frame(frame).map(|()| None)?,
        Request::EndPart(checksum) => {
            open.in_part = false;
            session.end_part(checksum).map(|()| None)?
        }
        Request::Status => done(&session.status()?),
        Request::OpenCycle(request) => done(&session.open_cycle(&request)?),
        Request::Barrier => done(&session.barrier()?),
        Request::Commit(commit) => done(&session.commit(&commit)?),
        Request::AbortCycle => done(&session.abort_cycle()?),
        Request::NodeDigests(range) => {
            Some(wire::encode_nodes(&session.node_digests(range.disk, range.first, range.count)?))
        }
        Request::LeafDigests(list) => {
            Some(wire::encode_leaves(&session.leaf_digests(list.disk, &list.nodes)?))
        }
        Request::Open(_) | Request::Renew(_) => {
            let detail = "not a request to a session".into();
            return Err(ReplicaError::Protocol { detail });
        }
    })
}
