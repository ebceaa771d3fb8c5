//! Changed blocks as the kernel's request layer sees them, through a BPF program.
//!
//! # What is marked, and when
//! Each tracked disk has two bitmaps, a bit for every 4 KiB. The *active* one is marked by the program, the *idle* one
//! is read and cleared by this process; `phase` says which is which, for all disks at once. The program marks the
//! blocks of every request that changes a disk twice, when the request is handed to the driver
//! (`block_rq_issue`) and when the driver has finished it (`block_rq_complete`), each time in the bitmap active then.
//!
//! *Why at issue.* The data may reach the disk, and be read by us, at any time between the two. Marked at
//! completion only, a write that reached the disk before a swap and completes after it would be missing from the
//! moment of the swap although a reader could have seen it; and [`ChangeTracker::touched`] would not notice a
//! write still on its way.
//! *Why at completion.* Marked at issue only, a write issued before a swap would be marked in the bitmap that is now
//! idle. We may read its block before the data gets there, send the old contents, release the mark; then the data
//! lands, and no mark says so: lost. Marked at completion too, it stands in the new bitmap and goes with the next cycle.
//! A write that completes after a swap is therefore in the next cycle always, one that completed before it is in
//! this one, and one in between is in both.
//!
//! # The swap
//! 1. *Fold*: marks that the idle bitmap still has (given out, never released) move to the active one,
//!    word by word, first set there, then cleared here.
//! 2. *Flip* `phase`: one aligned 64-bit store, for all disks.
//! 3. *Fence*: some program may have read the old phase and not have marked yet. An entry of the array-of-maps is
//!    replaced by itself: the kernel ends that call with `synchronize_rcu()` (`maybe_wait_bpf_programs()` in
//!    `kernel/bpf/syscall.c`, there so that user space may rely on it), that is, when every program that ran at
//!    the flip has ended. One wait for all disks, while file systems are frozen.
//! 4. The idle bitmap is quiet now, and is read. It is *not* cleared: that is [`ChangeTracker::release`], when the blocks
//!    are durable at the other side.
//!
//! # Why nothing is lost by a kill at any instruction
//! The truth is the maps, in kernel memory and pinned; this process keeps none of it. *Owed* is whatever is marked in
//! either bitmap. A mark is cleared in two places only: in the fold, after it has been set in the other bitmap; and
//! in the release, when its block is durable elsewhere. A kill within the fold leaves some marks in one bitmap, some in the other,
//! some in both; within the release, leaves marks of blocks that did not need them; before or after the flip,
//! leaves one bitmap active and the other idle, as always. The next process's first swap folds what is idle, so that it
//! gives out all that is owed, in one cycle: blocks that were given out but not released belong to the
//! point that this cycle makes, not to a later one. The new process cannot have the old one beside it (the lock in
//! `pins.rs`).
//! A bitmap becomes active only with the flip, after the fold has emptied it, so what is marked in it later is exactly
//! what changed since the swap: this is what makes [`ChangeTracker::touched`] exact.
//!
//! # Disks that come and go
//! Each disk has a *slot*: its bitmaps, its counts, its entry in `meta`. A disk that comes gets the next one: bitmaps first, then its number into the
//! map `disks`, from when on its requests are marked, `meta` last; killed before that, it is done again with empty bitmaps by the next attach, for
//! which the disk is as new. A slot that is left says so in `meta` before its number is taken out of `disks`. The slots of the others are not touched, so
//! that their marks, and the generation, go on.
//!
//! # Doubt
//! Everything that could make the bitmaps incomplete is a [`ResyncReason`], looked for at every swap and at attach:
//! runs that the kernel skipped (`recursion_misses`: a tracepoint hit inside the same program on the same processor),
//! requests whose effect nobody can tell (pass-through with data to the device, zone resets), marks beyond the end
//! (the disk has grown), another size or another disk under the number, another boot. The tracker is then to be
//! attached again, which starts a new generation.
//!
//! *Not seen*, because they are no requests of the disk: writes by another machine to a shared disk; commands that
//! go around the disk's queue (NVMe Format or Sanitize through the controller's admin queue) or are declared to carry
//! no data to the device (SCSI FORMAT UNIT through sg); devices without a request queue (device-mapper, md, zram,
//! NVMe multipath heads): the first self-test finds those, and says to track the disks below.

mod error;
mod maps;
mod meta;
mod object;
mod pins;
mod self_test;
mod state;

use std::collections::BTreeSet;

use switchback_model::{ExtentSet, GenerationId, ResyncReason};

use crate::ChangeTracker;
use crate::devices::{DeviceNumber, Sysfs, WholeDisk};
use pins::Pins;
use state::State;

pub use error::AttachError;
pub use meta::BootId;
pub use object::{BLOCK_BYTES, DISKS_MAX};
pub use self_test::Proof;

/// What to track, under which name.
#[derive(Clone, Debug)]
pub struct TrackerConfig {
    /// Under which the kernel keeps it, so that the next process finds it again: 1 to 63 letters, digits, `_`, `-`.
    pub name: String,
    /// The whole disks (see [`Sysfs::resolve`]), at most [`DISKS_MAX`]; all answers are in their order.
    pub disks: Vec<DeviceNumber>,
    /// Those of them that a running tracker may not know yet: it goes on, and knows of these what changes from the attach on. With any other disk that it
    /// does not know, it starts anew. Of disks that are not wanted any more it forgets what it knows.
    pub new: Vec<DeviceNumber>,
    /// The boot in which the replica's last point was made, if it is known: tells a restart of the machine from
    /// a tracker that was removed.
    pub last_boot: Option<BootId>,
}

/// Where an attached tracker's knowledge goes back to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Continuity {
    /// To an earlier process: no change since is missing.
    Continued {
        /// The same as then.
        generation: GenerationId,
    },
    /// To this attach.
    Fresh {
        /// A new one.
        generation: GenerationId,
        /// Why it does not go back further.
        reason: ResyncReason,
    },
}

/// A tracker at work.
#[derive(Debug)]
pub struct Attached {
    /// The tracker.
    pub tracker: Tracker,
    /// How far back it knows.
    pub continuity: Continuity,
    /// For each disk, what the self-test has shown.
    pub proofs: Vec<Proof>,
}

/// Tracks the changes of some disks. Dropping it leaves the kernel tracking, to be continued by the next
/// [`Tracker::attach`] of the name; [`Tracker::detach`] ends it.
#[derive(Debug)]
pub struct Tracker {
    state: State,
    /// Whether a swap of this process awaits its release.
    given_out: bool,
    // The last field: the lock on the name goes when everything else has gone.
    pins: Pins,
}

impl Tracker {
    /// Continues the tracker of this name if nothing speaks against it, else starts a new generation.
    ///
    /// # Errors
    /// When the disks cannot be tracked. A tracker that ran under the name then goes on, or is gone.
    pub fn attach(config: &TrackerConfig) -> Result<Attached, AttachError> {
        let given = config.disks.len();
        let distinct = config.disks.iter().collect::<BTreeSet<_>>().len();
        if given == 0 || given > DISKS_MAX || distinct != given {
            return Err(AttachError::Disks { given });
        }
        let sysfs = Sysfs::default();
        let disks: Result<Vec<_>, _> = config.disks.iter().map(|number| sysfs.whole_disk(*number)).collect();
        let disks = disks?;
        let boot = BootId::current().map_err(AttachError::system("read the boot id (is /proc mounted?)"))?;
        let pins = Pins::lock(&config.name)?;
        let is_new = |disk: &WholeDisk| config.new.contains(&disk.number);
        let (state, reason) = match State::continued(&pins, boot, config.last_boot, &disks, is_new) {
            Ok(state) => (state, None),
            Err(reason) => (State::started(&pins, boot, &disks)?, Some(reason)),
        };
        let proofs = match self_test::run(&state, &disks) {
            Ok(proofs) => proofs,
            Err(error) => {
                // Without `meta` nobody continues a fresh one; do not leave it running in vain.
                if reason.is_some() {
                    let _ = pins.remove();
                }
                return Err(error);
            }
        };
        let generation = state.generation();
        let continuity = match reason {
            None => Continuity::Continued { generation },
            Some(reason) => {
                state.declare_complete(&pins)?;
                Continuity::Fresh { generation, reason }
            }
        };
        Ok(Attached { tracker: Self { state, given_out: false, pins }, continuity, proofs })
    }

    /// Ends tracking: the kernel forgets everything.
    ///
    /// # Errors
    /// When something is left behind.
    pub fn detach(self) -> Result<(), AttachError> {
        drop(self.state);
        self.pins.remove().map_err(|source| AttachError::BpfFs { source })
    }

    /// Everything owed at this moment, for each disk: changed since the last release, given out or not.
    #[must_use]
    pub fn pending(&self) -> Vec<ExtentSet> {
        let union = |pair: &[maps::Bitmap; 2]| {
            let mut set = pair[0].extents();
            set.extend(pair[1].extents().iter());
            set
        };
        self.state.wanted().map(union).collect()
    }
}

impl ChangeTracker for Tracker {
    fn generation(&self) -> GenerationId {
        self.state.generation()
    }

    fn swap(&mut self) -> Result<Vec<ExtentSet>, ResyncReason> {
        let idle = 1 - self.state.active();
        for pair in self.state.disks() {
            pair[idle].fold_into(&pair[1 - idle]);
        }
        self.state.flip()?;
        // After the flip, so that the answer covers everything that is given out.
        self.state.check()?;
        self.given_out = true;
        let idle = 1 - self.state.active();
        Ok(self.state.wanted().map(|pair| pair[idle].extents()).collect())
    }

    fn release(&mut self) {
        // What an earlier process left in the idle bitmap has not been given out by this one: it stays owed.
        if std::mem::take(&mut self.given_out) {
            let idle = 1 - self.state.active();
            self.state.disks().iter().for_each(|pair| pair[idle].clear());
        }
    }

    fn touched(&self, read: &[ExtentSet]) -> Result<bool, ResyncReason> {
        self.state.check()?;
        let active = self.state.active();
        Ok(self.state.wanted().zip(read).any(|(pair, read)| pair[active].marked_of(read)))
    }

    fn check(&mut self) -> Result<(), ResyncReason> {
        self.state.check()
    }
}
