//! The sync engine: brings a replica up to its source, again and again.
//!
//! What it is: the source's side of a cycle, from "what changed" to "that is a recovery point". It reads disks, asks a
//! [`ChangeTracker`], takes consistent moments, and writes into a [`ReplicaSession`], wherever that leads. What it never does:
//! decide when a point is due, know about networks or file formats.
//!
//! # One cycle
//! ```text
//!   open ──▶ compare (a resync only) ──▶ rounds ──▶ moment ──▶ final ──▶ commit
//!              ▲ by digests, what differs   │ changed    │ freeze, swap,   │ send, barrier
//!              └── joins again after a      │ blocks,    │ read, thaw      │
//!                  lost connection          ◀────────────┘ void: another round
//! ```
//! Every stage ends in a *barrier*: what was sent is durable at the next hop. Only then does the tracker release its blocks. So after a lost
//! connection, a full disk or a restart of either side, the stage is simply done again from its last
//! barrier; sending a block twice is harmless, forgetting one is not possible.
//!
//! # When is a moment consistent?
//! The last changed blocks are read while nothing writes: file systems are frozen, and afterwards the tracker is
//! asked whether any of the blocks read was written since the swap. If one was (a raw device under a running database, a
//! file system that could not be frozen), the moment is void and another round follows. What is
//! committed as crash-consistent has been checked to be so, not assumed.

mod compare;
mod cycle;
mod error;
mod moment;
mod sender;

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use switchback_capture::ChangeTracker;
use switchback_disk::{Clock, Disk};
use switchback_model::{Consistency, GenerationId, Seq, UnixMillis};
use switchback_replica::{CycleKind, ReplicaError, ReplicaSession, Watermarks};

pub use error::EngineError;
pub use moment::{Frozen, MomentError, MomentTaker, Unfrozen};

/// Opens a session with the replica; called again whenever the last one was lost.
pub type Connect = Box<dyn FnMut() -> Result<Box<dyn ReplicaSession>, ReplicaError> + Send>;

/// What the engine tells while it works; for progress bars and logs.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A cycle was opened.
    Opened {
        /// The point it will become.
        seq: Seq,
        /// What kind.
        kind: CycleKind,
        /// Bytes of all disks.
        disk_bytes: u64,
    },
    /// So many more bytes of the disks have been compared.
    Compared {
        /// Bytes.
        bytes: u64,
    },
    /// So many more bytes of changed blocks were handed to the session.
    Sent {
        /// Contents.
        bytes: u64,
        /// As they travel, compressed.
        stored_bytes: u64,
    },
    /// A round of changed blocks begins.
    Round {
        /// From 1.
        number: u32,
        /// Bytes in it.
        bytes: u64,
    },
    /// A moment was void; another round follows.
    MomentVoid {
        /// Why.
        reason: String,
    },
    /// Waiting to try again.
    Waiting {
        /// Why.
        reason: String,
        /// For how long.
        pause: Duration,
    },
    /// The cycle is committed.
    Committed(CycleReport),
}

/// What became of a cycle.
#[derive(Clone, Debug, PartialEq)]
pub struct CycleReport {
    /// The point.
    pub seq: Seq,
    /// What kind.
    pub kind: CycleKind,
    /// What is known of its contents.
    pub consistency: Consistency,
    /// The moment, by the source's clock.
    pub time: UnixMillis,
    /// Bytes compared.
    pub compared_bytes: u64,
    /// Contents sent, in bytes.
    pub sent_bytes: u64,
    /// The same as they travelled.
    pub stored_bytes: u64,
    /// Rounds before the moment.
    pub rounds: u32,
    /// How long the file systems stood still.
    pub frozen: Duration,
    /// From opening to commit.
    pub took: Duration,
    /// How far data has come.
    pub watermarks: Watermarks,
}

/// How the engine goes about it. All limits.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Threads that read the source.
    pub io_threads: usize,
    /// Contents of one part, in bytes.
    pub part_bytes_max: u64,
    /// Bytes sent at least between two barriers of a comparison, and some seconds.
    pub barrier_bytes: u64,
    /// Rounds before a moment is tried whatever is left.
    pub rounds_max: u32,
    /// A moment is tried once a round had no more than this; more is never read while frozen.
    pub final_bytes_max: u64,
    /// Void moments in one cycle before it is committed as [`Consistency::Fuzzy`] or given up.
    pub moments_max: u32,
    /// After that many void moments: commit a fuzzy point (`true`) or fail the cycle.
    pub accept_fuzzy: bool,
    /// zstd level, if frames are to be compressed.
    pub compression: Option<i32>,
    /// First pause after a lost connection; doubles up to 30 s.
    pub retry_pause: Duration,
    /// How long to go on trying; `None`: until stopped.
    pub give_up_after: Option<Duration>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            io_threads: 3,
            part_bytes_max: 64 << 20,
            barrier_bytes: 256 << 20,
            rounds_max: 5,
            final_bytes_max: 32 << 20,
            moments_max: 5,
            accept_fuzzy: true,
            compression: None,
            retry_pause: Duration::from_millis(500),
            give_up_after: Some(Duration::from_mins(2)),
        }
    }
}

/// Tells a running engine to stop at the next safe place.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Stops whoever asks.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// The flag itself, for signal handlers.
    #[must_use]
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }

    /// Whether to stop.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Waits, at most `pause`; ends early when stopped.
    pub fn sleep(&self, pause: Duration) {
        let until = Instant::now() + pause;
        while !self.is_stopped() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(Duration::from_millis(50)));
        }
    }
}

/// What the engine reads.
#[derive(Debug)]
pub struct Source {
    /// All disks of the machine.
    pub disks: Vec<Arc<dyn Disk>>,
    /// Who knows what changed.
    pub tracker: Box<dyn ChangeTracker>,
    /// Who makes the machine stand still.
    pub moments: Box<dyn MomentTaker>,
    /// Dates the points.
    pub clock: Arc<dyn Clock>,
    /// `Some`: the tracker does not track, each cycle compares, for this reason.
    pub always_compare: bool,
}

/// The sync engine. See the module's header.
pub struct Engine {
    source: Source,
    connect: Connect,
    options: EngineOptions,
    observer: Box<dyn FnMut(Event) + Send>,
    stop: Stop,
    session: Option<Box<dyn ReplicaSession>>,
    /// The last point that was acknowledged, and under which generation it was made.
    acknowledged: Option<(GenerationId, Seq)>,
}

impl Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("source", &self.source)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// An engine from a source to the replica that `connect` reaches.
    pub fn new(
        source: Source,
        connect: Connect,
        options: EngineOptions,
        stop: Stop,
        observer: Box<dyn FnMut(Event) + Send>,
    ) -> Self {
        Self { source, connect, options, observer, stop, session: None, acknowledged: None }
    }

    /// The source, for whoever must rebuild its tracker after a doubt.
    pub fn source_mut(&mut self) -> &mut Source {
        &mut self.source
    }

    /// What an earlier life of this source was told to be safe last: changed blocks follow that point only.
    pub fn remember(&mut self, generation: GenerationId, seq: Seq) {
        self.acknowledged = Some((generation, seq));
    }

    /// Ends the session; the next cycle opens another, perhaps elsewhere.
    pub fn disconnect(&mut self) {
        self.session = None;
    }

    /// How far data has come, asking the replica.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub fn watermarks(&mut self) -> Result<Watermarks, ReplicaError> {
        Ok(self.session()?.status()?.watermarks)
    }

    fn session(&mut self) -> Result<&mut dyn ReplicaSession, ReplicaError> {
        if self.session.is_none() {
            self.session = Some((self.connect)()?);
        }
        Ok(&mut **self.session.as_mut().expect("just made"))
    }

    fn tell(&mut self, event: Event) {
        (self.observer)(event);
    }
}
