//! A session with a replica on another host.
//!
//! The caller's thread and the connection's task share one [`Shared`]: a queue of messages bounded in bytes, the reply
//! awaited, and what has gone wrong. The caller waits on a condition variable, the task on a `Notify`. There is at
//! most one reply awaited, as the caller waits for it; so replies need no table.
//!
//! Messages that are not answered and small (frames of a few KiB, above all) are gathered by the caller until there are enough for one
//! write: to wake the task for each of them would cost more than to send it.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use switchback_delta::Frame;
use switchback_model::{DiskIndex, Epoch};
use switchback_replica::{
    CommitCycle, LeafDigests, NodeDigest, OpenCycle, OpenCycleStatus, PartHeader, ReplicaError,
    ReplicaSession, ReplicaStatus, SessionRequest, Watermarks,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;

use crate::connect::{ConnectConfig, Connection, connect, unexpected};
use crate::stream::{GATHER_LEN, GATHERED_MAX, Sender, receive_head, receive_payload};
use crate::wire::{self, Head, Kind, LEAF_NODES_MAX, NODES_MAX, NodeList, NodeRange, Outgoing, Request};

/// Messages queued at most, however small.
const QUEUE_LEN_MAX: usize = 1024;
/// How long to wait for what the server said before it closed the connection, and for our own close to be sent.
const LAST_WORD_MAX: Duration = Duration::from_secs(2);

/// A [`ReplicaSession`] with a replica on another host. Blocking: for threads, not for tasks. Dropping it ends the
/// connection, and with it the session at the server.
#[derive(Debug)]
pub struct RemoteSession {
    shared: Arc<Shared>,
    config: ConnectConfig,
    epoch: Option<Epoch>,
    next_request: u16,
    /// The next message shows that the caller has seen a pause.
    resume: bool,
    /// Small messages as they go on the wire, not queued yet.
    gathered: Vec<u8>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// The caller waits: for room, for a reply, for an error.
    changed: Condvar,
    /// The task waits for messages.
    wanted: Notify,
    /// The task is to end.
    closing: Notify,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Queued>,
    queue_bytes: usize,
    /// Counts whatever shows that the server gets on.
    progress: u64,
    /// The request whose reply the caller waits for.
    awaited: Option<u16>,
    reply: Option<(Kind, Vec<u8>)>,
    /// A pause that came in answer to nothing that is waited for.
    paused: Option<ReplicaError>,
    /// Why the session is dead.
    dead: Option<ReplicaError>,
}

#[derive(Debug)]
enum Queued {
    Message {
        message: Outgoing,
        request: u16,
        resume: bool,
    },
    /// Several messages, as they go on the wire.
    Encoded(Vec<u8>),
}

impl Queued {
    fn len(&self) -> usize {
        match self {
            Self::Message { message, .. } => message.len(),
            Self::Encoded(bytes) => bytes.len(),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RemoteSession {
    /// Connects and opens a session. Not to be called from async code.
    ///
    /// # Errors
    /// [`ReplicaError::Disconnected`] when trying again can help; [`ReplicaError::Forbidden`] when one of the ends does not
    /// accept the other; what the server's handler refuses.
    pub fn connect(config: ConnectConfig, request: SessionRequest) -> Result<Self, ReplicaError> {
        let epoch = request.epoch;
        let open = Request::Open(request).encode();
        let establish = async {
            let mut connection = Box::pin(connect(&config)).await?;
            let (head, _) = connection.ask(&config, &open, epoch).await?;
            match head.kind {
                Kind::Done => Ok(connection),
                other => Err(unexpected(&config, other)),
            }
        };
        let limit = config.timeouts.connect;
        let connection = config
            .runtime
            .block_on(async { tokio::time::timeout(limit, establish).await })
            .unwrap_or_else(|_| Err(config.lost(format!("no session within {} s", limit.as_secs_f32()))))?;
        let shared = Arc::new(Shared::default());
        config.runtime.spawn(run(connection, shared.clone(), config.clone(), epoch));
        Ok(Self { shared, config, epoch, next_request: 1, resume: false, gathered: Vec::new() })
    }

    /// The epoch this session writes under, as it was opened.
    #[must_use]
    pub fn epoch(&self) -> Option<Epoch> {
        self.epoch
    }

    /// Sends a message that is not answered, or keeps it to be sent with its neighbours.
    fn pipeline(&mut self, message: Outgoing) -> Result<(), ReplicaError> {
        if message.bulk.len() > GATHER_LEN {
            return self.send(message, false);
        }
        let head = message
            .head(self.next_request, self.resume, self.epoch)
            .map_err(|error| ReplicaError::Protocol { detail: error.to_string() })?;
        self.resume = false;
        self.next_request = self.next_request.wrapping_add(1);
        self.gathered.extend_from_slice(&head.encode());
        self.gathered.extend_from_slice(&message.small);
        self.gathered.extend_from_slice(&message.bulk);
        if self.gathered.len() < GATHERED_MAX { Ok(()) } else { self.queue_gathered() }
    }

    fn queue_gathered(&mut self) -> Result<(), ReplicaError> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let gathered =
            std::mem::replace(&mut self.gathered, Vec::with_capacity(GATHERED_MAX + GATHER_LEN * 2));
        self.queue(Queued::Encoded(gathered), None)
    }

    /// Queues a message, behind what was gathered.
    fn send(&mut self, message: Outgoing, awaits_reply: bool) -> Result<(), ReplicaError> {
        self.queue_gathered()?;
        let request = self.next_request;
        message
            .head(request, false, self.epoch)
            .map_err(|error| ReplicaError::Protocol { detail: error.to_string() })?;
        self.next_request = request.wrapping_add(1);
        let resume = std::mem::take(&mut self.resume);
        self.queue(Queued::Message { message, request, resume }, awaits_reply.then_some(request))
    }

    /// Queues an item, waiting for room.
    fn queue(&mut self, item: Queued, awaited: Option<u16>) -> Result<(), ReplicaError> {
        let shared = self.shared.clone();
        let mut state = shared.lock();
        let full = |state: &State| {
            !state.queue.is_empty()
                && (state.queue_bytes + item.len() > self.config.queue_bytes_max
                    || state.queue.len() >= QUEUE_LEN_MAX)
        };
        state = self.wait_while(state, full, "it takes no more data")?;
        if let Some(paused) = state.paused.take() {
            self.resume = true;
            return Err(paused);
        }
        state.queue_bytes += item.len();
        state.awaited = awaited;
        state.reply = None;
        state.queue.push_back(item);
        drop(state);
        shared.wanted.notify_one();
        Ok(())
    }

    /// Sends a request and waits for its reply.
    fn ask(&mut self, request: Request, expected: Kind) -> Result<Vec<u8>, ReplicaError> {
        self.send(request.encode(), true)?;
        let shared = self.shared.clone();
        let mut state =
            self.wait_while(shared.lock(), |state| state.reply.is_none(), "it does not answer")?;
        let (kind, payload) = state.reply.take().expect("waited for until it was there");
        state.awaited = None;
        // The same pause, told to a request before this one, has been seen with this reply.
        state.paused = None;
        drop(state);
        if kind == Kind::Failed {
            let error: ReplicaError = self.decode(kind, &payload)?;
            match error {
                ReplicaError::Paused(_) => self.resume = true,
                _ => {
                    self.shared.lock().dead = Some(error.clone());
                    self.shared.closing.notify_one();
                }
            }
            return Err(error);
        }
        if kind != expected {
            return Err(unexpected(&self.config, kind));
        }
        Ok(payload)
    }

    fn ask_json<T: DeserializeOwned>(&mut self, request: Request) -> Result<T, ReplicaError> {
        let payload = self.ask(request, Kind::Done)?;
        self.decode(Kind::Done, &payload)
    }

    fn decode<T: DeserializeOwned>(&self, kind: Kind, payload: &[u8]) -> Result<T, ReplicaError> {
        wire::json(kind, payload).map_err(|error| self.config.receive_error(error.into()))
    }

    /// Waits while `condition` holds, the session lives and the server gets on.
    fn wait_while<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        condition: impl Fn(&State) -> bool,
        stalled: &str,
    ) -> Result<MutexGuard<'a, State>, ReplicaError> {
        let limit = self.config.timeouts.stalled_after;
        let (mut progress, mut since) = (state.progress, Instant::now());
        loop {
            if let Some(dead) = &state.dead {
                return Err(dead.clone());
            }
            if !condition(&state) {
                return Ok(state);
            }
            if state.progress != progress {
                (progress, since) = (state.progress, Instant::now());
            }
            let Some(left) = limit.checked_sub(since.elapsed()).filter(|left| !left.is_zero()) else {
                let dead = self.config.lost(format!("{stalled}, for {} s", limit.as_secs_f32()));
                state.dead = Some(dead.clone());
                self.shared.closing.notify_one();
                return Err(dead);
            };
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for RemoteSession {
    fn drop(&mut self) {
        self.shared.closing.notify_one();
    }
}

impl ReplicaSession for RemoteSession {
    fn status(&mut self) -> Result<ReplicaStatus, ReplicaError> {
        self.ask_json(Request::Status)
    }

    fn open_cycle(&mut self, request: &OpenCycle) -> Result<OpenCycleStatus, ReplicaError> {
        self.ask_json(Request::OpenCycle(request.clone()))
    }

    fn begin_part(&mut self, header: PartHeader) -> Result<(), ReplicaError> {
        self.pipeline(Request::BeginPart(header).encode())
    }

    fn put_frame(&mut self, frame: Frame) -> Result<(), ReplicaError> {
        self.pipeline(Request::Frame(frame).encode())
    }

    fn end_part(&mut self, checksum: [u8; 32]) -> Result<(), ReplicaError> {
        self.pipeline(Request::EndPart(checksum).encode())
    }

    fn barrier(&mut self) -> Result<Watermarks, ReplicaError> {
        self.ask_json(Request::Barrier)
    }

    fn commit(&mut self, commit: &CommitCycle) -> Result<Watermarks, ReplicaError> {
        self.ask_json(Request::Commit(commit.clone()))
    }

    fn abort_cycle(&mut self) -> Result<(), ReplicaError> {
        self.ask_json(Request::AbortCycle)
    }

    fn node_digests(
        &mut self,
        disk: DiskIndex,
        first: u32,
        count: u32,
    ) -> Result<Vec<NodeDigest>, ReplicaError> {
        let end = first.checked_add(count).ok_or_else(|| ReplicaError::Protocol {
            detail: format!("{count} nodes from {first} on are more than a disk can have"),
        })?;
        let mut nodes = Vec::new();
        let mut at = first;
        while at < end {
            let count = (end - at).min(NODES_MAX);
            let payload =
                self.ask(Request::NodeDigests(NodeRange { disk, first: at, count }), Kind::Nodes)?;
            let more =
                wire::decode_nodes(&payload).map_err(|error| self.config.receive_error(error.into()))?;
            if more.len() > count as usize {
                return Err(unexpected(&self.config, Kind::Nodes));
            }
            let short = more.len() < count as usize;
            nodes.extend(more);
            if short {
                break;
            }
            at += count;
        }
        Ok(nodes)
    }

    fn leaf_digests(&mut self, disk: DiskIndex, nodes: &[u32]) -> Result<Vec<LeafDigests>, ReplicaError> {
        let mut leaves = Vec::with_capacity(nodes.len());
        for some in nodes.chunks(LEAF_NODES_MAX) {
            let list = NodeList { disk, nodes: some.to_vec() };
            let payload = self.ask(Request::LeafDigests(list), Kind::Leaves)?;
            let more =
                wire::decode_leaves(&payload).map_err(|error| self.config.receive_error(error.into()))?;
            if !more.iter().map(|leaves| leaves.node).eq(some.iter().copied()) {
                return Err(unexpected(&self.config, Kind::Leaves));
            }
            leaves.extend(more);
        }
        Ok(leaves)
    }
}

/// The connection's task: sends what is queued, receives what is answered, until either ends.
async fn run(connection: Connection, shared: Arc<Shared>, config: ConnectConfig, epoch: Option<Epoch>) {
    let Connection { mut reader, mut sender, activity } = connection;
    let limit = config.timeouts.dead_after;
    let end = tokio::select! {
        error = receive(&mut reader, &shared, &config) => error,
        error = send_queued(&mut sender, &shared, limit / 3, epoch) => {
            // What the server said before it went tells more than that it went.
            let told = tokio::time::timeout(LAST_WORD_MAX, receive(&mut reader, &shared, &config));
            told.await.unwrap_or_else(|_| config.io_error(&error))
        }
        // That the server takes nothing is its right while it lives: it may wait for its disk.
        detail = activity.until_dead(limit, false) => config.lost(detail),
        () = shared.closing.notified() => config.lost("the session was closed"),
    };
    {
        let mut state = shared.lock();
        state.dead.get_or_insert(end);
        state.queue.clear();
        state.queue_bytes = 0;
    }
    shared.changed.notify_all();
    let _ = tokio::time::timeout(LAST_WORD_MAX, sender.close(None)).await;
}

/// Sends what the caller queues; returns why no more can be sent.
async fn send_queued<W: AsyncWrite + Unpin>(
    sender: &mut Sender<W>,
    shared: &Shared,
    sign_of_life: Duration,
    epoch: Option<Epoch>,
) -> io::Error {
    loop {
        let next = shared.lock().queue.pop_front();
        let Some(item) = next else {
            if let Err(error) = sender.flush().await {
                return error;
            }
            if tokio::time::timeout(sign_of_life, shared.wanted.notified()).await.is_err()
                && let Err(error) = sender.alive().await
            {
                return error;
            }
            continue;
        };
        let sent = match &item {
            Queued::Message { message, request, resume } => {
                sender.send(message, *request, *resume, epoch).await
            }
            Queued::Encoded(bytes) => sender.send_encoded(bytes).await,
        };
        if let Err(error) = sent {
            return error;
        }
        let mut state = shared.lock();
        // Only now is there room again: what is being sent counts as queued.
        state.queue_bytes -= item.len();
        state.progress += 1;
        drop(state);
        shared.changed.notify_all();
    }
}

/// Receives replies and errors; returns why no more can come.
async fn receive(
    reader: &mut (impl AsyncRead + Unpin),
    shared: &Shared,
    config: &ConnectConfig,
) -> ReplicaError {
    loop {
        let received = async {
            let head = receive_head(reader).await?;
            let payload = receive_payload(reader, head).await?;
            Ok((head, payload))
        };
        let (head, payload): (Head, _) = match received.await {
            Ok(received) => received,
            Err(error) => return config.receive_error(error),
        };
        let mut state = shared.lock();
        state.progress += 1;
        if state.awaited == Some(head.request) {
            state.reply = Some((head.kind, payload));
        } else if head.kind == Kind::Failed {
            match wire::json(head.kind, &payload) {
                Ok(error @ ReplicaError::Paused(_)) => state.paused = Some(error),
                Ok(error) => return error,
                Err(error) => return config.receive_error(error.into()),
            }
        } else {
            return unexpected(config, head.kind);
        }
        drop(state);
        shared.changed.notify_all();
    }
}
