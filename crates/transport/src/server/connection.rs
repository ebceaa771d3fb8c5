//! One connection at the server: its requests are received here and passed to the session's thread, whose replies are sent.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use switchback_identity::PeerIdentity;
use switchback_replica::{ReplicaError, SessionRequest};
use tokio::io::{AsyncRead, AsyncWrite, BufReader};
use tokio::sync::{Notify, Semaphore, mpsc, watch};

use super::registry::{Key, Place};
use super::worker::{Reply, Work, Worker};
use super::{Proven, Server, Slot};
use crate::connect::build;
use crate::enrol::linger;
use crate::stream::{GATHER_LEN, ReceiveError, Sender, receive_head, receive_payload, receive_request};
use crate::wire::{self, Hello, Kind, Outgoing, Renew, Renewed, Request, VERSION_MAX, VERSION_MIN, Welcome};

/// Requests received and not yet taken by the session, at most.
const WORK_MAX: usize = 1024;
/// Replies not yet sent, at most. A client that does not read them stops its own session.
const REPLIES_MAX: usize = 64;

/// Why a connection ends.
enum End {
    /// The client has gone, or is to go: nothing to say.
    Quiet(String),
    /// The client is to be told.
    Refuse(ReplicaError, u16),
}

impl From<ReceiveError> for End {
    fn from(error: ReceiveError) -> Self {
        match error {
            ReceiveError::Wire(error) => refuse(error, 0),
            other => Self::Quiet(other.to_string()),
        }
    }
}

fn refuse(detail: impl ToString, request: u16) -> End {
    End::Refuse(ReplicaError::Protocol { detail: detail.to_string() }, request)
}

/// Serves a connection to its end.
pub(super) async fn run(server: Arc<Server>, proven: Proven, mut stopped: watch::Receiver<()>) {
    let Proven { stream, activity, peer, address, slot } = proven;
    let limits = server.config.limits;
    let (reader, writer) = tokio::io::split(stream);
    // Headers come out of what was decrypted with them; payloads longer than the buffer pass it by.
    let mut reader = BufReader::with_capacity(GATHER_LEN, reader);
    let mut sender = Sender::new(writer, Vec::new());
    let (replies, mut outgoing) = mpsc::channel(REPLIES_MAX);
    let taken_over = Arc::new(Notify::new());
    let ended = Ended::default();
    let receiver = Receiver {
        server: &server,
        peer: &peer,
        replies,
        ended: ended.0.clone(),
        taken_over: taken_over.clone(),
        slot: Some(slot),
        work: None,
        room: Arc::new(Semaphore::new(limits.queue_bytes_max)),
    };
    let end = tokio::select! {
        end = receiver.run(&mut reader) => end,
        sent = send_replies(&mut sender, &mut outgoing, limits.dead_after / 3) => {
            End::Quiet(sent.err().map_or_else(String::new, |error| error.to_string()))
        }
        detail = activity.until_dead(limits.dead_after, true) => End::Quiet(detail),
        () = taken_over.notified() => End::Quiet("its writer has connected again".into()),
        _ = stopped.changed() => End::Quiet("the server is being stopped".into()),
    };
    // The session goes before anything else is waited for: its writer may be at the door again.
    drop(ended);
    let last = match end {
        End::Quiet(reason) => {
            tracing::info!(%peer, %address, %reason, "connection ended");
            None
        }
        End::Refuse(error, request) => {
            tracing::warn!(%peer, %address, %error, "connection ended");
            Some((wire::failed(&error), request))
        }
    };
    let say = async {
        let last = last.as_ref().map(|(message, request)| (message, *request));
        if sender.close(last).await.is_ok() {
            linger(&mut reader).await;
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(2), say).await;
}

/// Tells the session's thread to drop what is queued and end, when the connection does, however it does.
#[derive(Default)]
struct Ended(Arc<AtomicBool>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

async fn send_replies<W: AsyncWrite + Unpin>(
    sender: &mut Sender<W>,
    replies: &mut mpsc::Receiver<Reply>,
    sign_of_life: Duration,
) -> io::Result<()> {
    loop {
        match tokio::time::timeout(sign_of_life, replies.recv()).await {
            Ok(Some((message, request))) => {
                sender.send(&message, request, false, None).await?;
                if replies.is_empty() {
                    sender.flush().await?;
                }
            }
            // The receiver holds a sender of replies, so it has ended too.
            Ok(None) => return Ok(()),
            Err(_) => sender.alive().await?,
        }
    }
}

struct Receiver<'a> {
    server: &'a Server,
    peer: &'a PeerIdentity,
    replies: mpsc::Sender<Reply>,
    ended: Arc<AtomicBool>,
    taken_over: Arc<Notify>,
    /// Moved to the session's thread when there is one.
    slot: Option<Slot>,
    work: Option<mpsc::Sender<Work>>,
    /// Bytes the session's queue still has room for.
    room: Arc<Semaphore>,
}

impl Receiver<'_> {
    async fn run(mut self, reader: &mut (impl AsyncRead + Unpin)) -> End {
        let limit = self.server.config.limits.handshake;
        match tokio::time::timeout(limit, self.agree(reader)).await {
            Ok(Ok(())) => {}
            Ok(Err(end)) => return end,
            Err(_) => return End::Quiet("it did not say hello".into()),
        }
        loop {
            let first = async {
                if self.work.is_some() {
                    return self.receive(reader).await;
                }
                let received = tokio::time::timeout(limit, self.receive(reader));
                received.await.unwrap_or_else(|_| Err(End::Quiet("it asked for nothing".into())))
            };
            if let Err(end) = first.await {
                return end;
            }
        }
    }

    async fn reply(&self, message: Outgoing, request: u16) -> Result<(), End> {
        self.replies.send((message, request)).await.map_err(|_| End::Quiet(String::new()))
    }

    /// `hello` and `welcome`.
    async fn agree(&self, reader: &mut (impl AsyncRead + Unpin)) -> Result<(), End> {
        let head = receive_head(reader).await?;
        if head.kind != Kind::Hello {
            return Err(refuse(
                format!("a connection begins with hello, not with {:?}", head.kind),
                head.request,
            ));
        }
        let payload = receive_payload(reader, head).await?;
        let hello: Hello = wire::json(head.kind, &payload).map_err(ReceiveError::from)?;
        let version = hello.max.min(VERSION_MAX);
        if version < hello.min.max(VERSION_MIN) {
            let detail = format!(
                "this server ({}) speaks versions {VERSION_MIN} to {VERSION_MAX} of the protocol, the client ({}) {} to {}; \
                 upgrade the older of the two",
                build(),
                hello.build.chars().take(64).collect::<String>(),
                hello.min,
                hello.max
            );
            return Err(refuse(detail, head.request));
        }
        self.reply(Outgoing::json(Kind::Welcome, &Welcome { version, build: build() }), head.request).await
    }

    /// Receives one request and passes it on.
    async fn receive(&mut self, reader: &mut (impl AsyncRead + Unpin)) -> Result<(), End> {
        let head = receive_head(reader).await?;
        // Room first, then the payload: what does not fit stays in the network.
        let cost = (head.len + 256)
            .min(u32::try_from(self.server.config.limits.queue_bytes_max).unwrap_or(u32::MAX));
        let room = self.room.clone().acquire_many_owned(cost).await.expect("never closed");
        let request = receive_request(reader, head).await?;
        match (request, &self.work) {
            (Request::Renew(renew), _) => {
                let reply = self.renew(&renew).unwrap_or_else(|error| wire::failed(&error));
                self.reply(reply, head.request).await
            }
            (Request::Open(_), Some(_)) => Err(refuse("a connection has one session", head.request)),
            (Request::Open(request), None) => self.open(request, head.request).await,
            (request, Some(work)) => {
                let item = Work {
                    request,
                    number: head.request,
                    resume: head.resume,
                    epoch: head.epoch,
                    _room: room,
                };
                work.send(item).await.map_err(|_| End::Quiet("its session has ended".into()))
            }
            (_, None) => Err(refuse("a session must be opened first", head.request)),
        }
    }

    fn renew(&self, renew: &Renew) -> Result<Outgoing, ReplicaError> {
        let Some(authority) = &self.server.config.authority else {
            let detail =
                "there is no certificate authority on this host, so nothing can be renewed here".into();
            return Err(ReplicaError::Forbidden { detail });
        };
        let certificate = authority
            .certify(&renew.key_request, self.peer)
            .map_err(|error| ReplicaError::Forbidden { detail: error.to_string() })?;
        tracing::info!(peer = %self.peer, "certificate renewed");
        let renewed =
            Renewed { certificate: certificate.to_vec(), authority: authority.certificate().to_vec() };
        Ok(Outgoing::json(Kind::Done, &renewed))
    }

    /// Starts the session's thread, which opens the session.
    async fn open(&mut self, request: SessionRequest, number: u16) -> Result<(), End> {
        if !self.server.config.roles.contains(&self.peer.role) {
            let detail = format!("a component of the role {} gets no session here", self.peer.role);
            return Err(End::Refuse(ReplicaError::Forbidden { detail }, number));
        }
        let place = self.place(&request, number).await?;
        let (work, items) = mpsc::channel(WORK_MAX);
        let worker = Worker {
            handler: self.server.config.handler.clone(),
            peer: self.peer.clone(),
            items,
            replies: self.replies.clone(),
            ended: self.ended.clone(),
        };
        let slot = self.slot.take().expect("taken with the one session");
        let name = format!("session {}", request.replica);
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            worker.run(request, number);
            // In this order: when the place is free, the session is gone.
            drop(place);
            drop(slot);
        });
        if let Err(error) = thread {
            let error =
                ReplicaError::Io { action: "starting a session's thread".into(), detail: error.to_string() };
            return Err(End::Refuse(error, number));
        }
        self.work = Some(work);
        Ok(())
    }

    async fn place(&self, request: &SessionRequest, number: u16) -> Result<Place, End> {
        let key = Key { peer: self.peer.clone(), replica: request.replica.clone(), writer: request.writer };
        self.server.registry.take_over(key, self.taken_over.clone()).await.ok_or_else(|| {
            let detail = "its former session there is still busy with a disk; try again".into();
            End::Refuse(ReplicaError::Disconnected { peer: "the server".into(), detail }, number)
        })
    }
}
