//! Two places that nothing connects but a slow path: a wide area network in user space, for kernels without `netem`.
//!
//! What it is: a network namespace for each place, a TUN device in each, and one thread that carries IPv4 packets between them: late, at a limited rate,
//! through a queue that overflows as a router's does, some of them never. All of that can be changed while it runs, and the path can be cut. Processes and
//! sockets get to a place by being made within [`Place::enter`].
//!
//! What it never does: reorder, damage or double a packet; carry IPv6, whose announcements would be lost in the place of somebody's data; leave anything behind.
//! The namespaces have no names: the kernel removes them when the last process, socket or descriptor in them is gone, also after this process was killed.
//!
//! Needs root, `/dev/net/tun`, `unshare` (util-linux) and `ip` (iproute2).
//!
//! The path of one packet: routed to the device `wan0` of its place, read by the thread, judged by its [`lane`], kept there until it is due, and written to the
//! other place's device, which is as if it had arrived there.

mod lane;
mod place;

use std::io;
use std::net::Ipv4Addr;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tappers::Tun;

use lane::{Fate, Lane};
pub use place::Place;

/// The addresses of the two places, each the other's only neighbour. Nothing outside sees them.
const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 77, 0, 1), Ipv4Addr::new(10, 77, 0, 2)];
/// How often the thread looks whether it is still needed.
const LOOK: Duration = Duration::from_millis(20);
/// Packets that are taken from a device before those that are due are looked at again.
const BATCH: usize = 64;
/// Longest packet that can come out of a device.
const PACKET_LEN_MAX: usize = 64 << 10;

/// How the path is, in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conditions {
    /// One way.
    pub delay: Duration,
    /// Packets of a million that are lost.
    pub loss_ppm: u32,
    /// `None`: without limit.
    pub bytes_per_second: Option<NonZeroU64>,
    /// What may wait until the limited rate lets it go; beyond it packets are dropped.
    pub queue_bytes_max: u64,
}

impl Default for Conditions {
    /// A cable across the room.
    fn default() -> Self {
        Self { delay: Duration::ZERO, loss_ppm: 0, bytes_per_second: None, queue_bytes_max: 256 << 10 }
    }
}

/// What became of the packets so far, of both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// On their way, or arrived.
    pub carried: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Dropped by a full queue.
    pub overflowed: u64,
    /// Sent into a cut path, or on their way when it was cut.
    pub cut: u64,
}

impl Counts {
    fn count(&mut self, fate: Fate) {
        let counter = match fate {
            Fate::Carried => &mut self.carried,
            Fate::Lost => &mut self.lost,
            Fate::Overflowed => &mut self.overflowed,
        };
        *counter += 1;
    }
}

/// Why there is no such path.
#[derive(Debug, thiserror::Error)]
pub enum WanError {
    /// No network namespace.
    #[error(
        "no network namespace could be made ({message}); that needs root, `unshare` of util-linux and `ip` of iproute2"
    )]
    Namespace {
        /// What was said, by whom.
        message: String,
    },
    /// No TUN device.
    #[error(
        "no TUN device could be made in a network namespace; that needs root and /dev/net/tun (kernel module `tun`)"
    )]
    Device(#[source] io::Error),
    /// Threads.
    #[error("the thread of a slow path did not start")]
    Thread(#[source] io::Error),
}

/// What the thread and its owner share. Whoever has it locked knows that nothing is carried meanwhile.
#[derive(Debug)]
struct State {
    conditions: Conditions,
    is_cut: bool,
    /// From each place to the other.
    lanes: [Lane; 2],
    counts: Counts,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    gone: AtomicBool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The two places and the path between them; gone when dropped.
#[derive(Debug)]
pub struct Wan {
    places: [Place; 2],
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Wan {
    /// Makes the places and connects them. `seed`: of what is lost; the same packets are lost with the same one.
    ///
    /// # Errors
    /// [`WanError`] says what is missing.
    pub fn new(conditions: Conditions, seed: u64) -> Result<Self, WanError> {
        let places = [Place::make(ADDRESSES[0])?, Place::make(ADDRESSES[1])?];
        let devices = [places[0].device()?, places[1].device()?];
        let lanes = [Lane::new(seed), Lane::new(!seed)];
        let state = State { conditions, is_cut: false, lanes, counts: Counts::default() };
        let shared = Arc::new(Shared { state: Mutex::new(state), gone: AtomicBool::new(false) });
        let carried = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("wan".into()).spawn(move || carry(&devices, &carried));
        Ok(Self { places, shared, thread: Some(thread.map_err(WanError::Thread)?) })
    }

    /// One end.
    #[must_use]
    pub fn home(&self) -> &Place {
        &self.places[0]
    }

    /// The other one.
    #[must_use]
    pub fn recovery(&self) -> &Place {
        &self.places[1]
    }

    /// For packets from now on. One that is on its way keeps its time, and none overtakes it.
    pub fn set(&self, conditions: Conditions) {
        self.shared.lock().conditions = conditions;
    }

    /// From now on nothing arrives; what is on its way is lost. Nobody is told, as with a cable that an excavator has found.
    pub fn cut(&self) {
        let mut state = self.shared.lock();
        let lost: usize = state.lanes.iter_mut().map(Lane::cut).sum();
        state.counts.carried -= lost as u64;
        state.counts.cut += lost as u64;
        state.is_cut = true;
    }

    /// It is whole again.
    pub fn restore(&self) {
        self.shared.lock().is_cut = false;
    }

    /// What became of the packets so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.lock().counts
    }
}

impl Drop for Wan {
    fn drop(&mut self) {
        self.shared.gone.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // One that has panicked is gone, too.
            let _ = thread.join();
        }
    }
}

/// The thread, until the path is gone; the devices go with it.
fn carry(devices: &[Tun; 2], shared: &Shared) {
    let mut packet = vec![0; PACKET_LEN_MAX];
    while !shared.gone.load(Ordering::Relaxed) {
        let next_due = {
            let mut state = shared.lock();
            for (from, device) in devices.iter().enumerate() {
                take_in(device, from, &mut packet, &mut state);
                let now = Instant::now();
                while let Some(due) = state.lanes[from].next_due(now) {
                    // Dropped by a device whose queue is full, as by any other.
                    let _ = devices[1 - from].send(&due);
                }
            }
            state.lanes.iter().filter_map(Lane::first_due).min()
        };
        let wait = next_due.map_or(LOOK, |due| due.saturating_duration_since(Instant::now()).min(LOOK));
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(wait.subsec_nanos()) };
        let mut ready = devices.each_ref().map(|device| PollFd::new(device, PollFlags::IN));
        // What it says is found by reading; at an error, the next look is soon enough.
        let _ = poll(&mut ready, Some(&timeout));
    }
}

/// Takes what has come out of one device.
fn take_in(device: &Tun, from: usize, packet: &mut [u8], state: &mut State) {
    for _ in 0..BATCH {
        // Nothing more, for now: the devices do not block.
        let Ok(len) = device.recv(packet) else { break };
        let packet = &packet[..len];
        // RFC 791, 3.1: the version is the first half of the first byte.
        if packet.first().is_none_or(|first| first >> 4 != 4) {
            continue;
        }
        if state.is_cut {
            state.counts.cut += 1;
        } else {
            let fate = state.lanes[from].take(packet, Instant::now(), &state.conditions);
            state.counts.count(fate);
        }
    }
}
