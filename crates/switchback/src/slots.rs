//! The disks of a replica as its source has them: each in its *slot*, some of them not whole at the target yet, some not there any more.
//!
//! A replica numbers its disks once for all, see `switchback_replica`: a disk that was removed leaves its slot empty. What tracks the disks that are there
//! knows nothing of that; [`SlotTracker`] stands between.
//!
//! # Seeding
//! A disk that is added has to be sent from its first block to its last, while the points of the others go on. So a part of it is given out with each
//! cycle, as if it had changed, until nothing is left; what is written to it meanwhile is tracked, and given out like any change. When all has been
//! released, the disk is *whole*: the cycle's commit says so, and only from that point on do points hold it.
//! Of how far it has come nothing is kept outside this process. The next one sends the disk anew, which costs time, never data: until the target has heard
//! that it is whole, no point claims it, and what is sent twice is the same.
//!
//! A comparison of all disks makes it whole, too.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use switchback_capture::ChangeTracker;
use switchback_model::component::SeededDisk;
use switchback_model::{DiskIndex, Extent, ExtentSet, GenerationId, ResyncReason};

/// A slot of the replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slot {
    /// The disk at this path.
    Disk {
        /// Where it is.
        path: PathBuf,
        /// The target may not have all of it yet.
        seeding: bool,
    },
    /// The disk has been removed.
    Removed {
        /// Bytes that it had.
        size: u64,
    },
}

/// What a replication and its tracker tell each other of disks that are being seeded: how much of one goes with a cycle, which is as much as lets points follow
/// one another as they should; and how far each has come.
#[derive(Clone, Debug)]
pub struct SeedPace {
    bytes: Arc<AtomicU64>,
    done: Arc<Mutex<Vec<SeededDisk>>>,
}

impl Default for SeedPace {
    fn default() -> Self {
        Self { bytes: Arc::new(AtomicU64::new(Self::MIN)), done: Arc::default() }
    }
}

impl SeedPace {
    /// Bytes.
    const MIN: u64 = 64 << 20;
    /// Bytes: as much as could be sent anew after a process has ended in the midst of a cycle.
    const MAX: u64 = 64 << 30;

    /// A cycle with its part of the seed took so long; points are wanted every `interval`.
    pub fn took(&self, took: Duration, interval: Duration) {
        let bytes = self.bytes();
        let next = match () {
            () if took < interval / 2 => bytes.saturating_mul(2),
            () if took > interval => bytes / 2,
            () => bytes,
        };
        self.bytes.store(next.clamp(Self::MIN, Self::MAX), Ordering::Relaxed);
    }

    /// How far each disk is that is being seeded.
    #[must_use]
    pub fn done(&self) -> Vec<SeededDisk> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Bytes of the next cycle's part.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// A tracker of the disks that are there, seen by slots. See the module's header.
#[derive(Debug)]
pub struct SlotTracker {
    inner: Box<dyn ChangeTracker>,
    slots: Vec<SlotState>,
    pace: SeedPace,
    /// The next swap gives out another part of the seeds.
    is_due: bool,
}

#[derive(Debug)]
enum SlotState {
    Whole,
    Seeding {
        /// Of the disk, in bytes.
        size: u64,
        /// Never given out.
        left: ExtentSet,
        /// Given out, not released.
        given: ExtentSet,
    },
    Removed,
}

impl SlotTracker {
    /// `inner` knows the disks of those slots that have one, in their order; `sizes` are those of all, in bytes.
    #[must_use]
    pub fn new(inner: Box<dyn ChangeTracker>, slots: &[Slot], sizes: &[u64], pace: SeedPace) -> Self {
        let state = |(slot, size): (&Slot, &u64)| match slot {
            Slot::Disk { seeding: false, .. } => SlotState::Whole,
            Slot::Disk { seeding: true, .. } => SlotState::Seeding {
                size: *size,
                left: Extent::new(0, *size).into(),
                given: ExtentSet::new(),
            },
            Slot::Removed { .. } => SlotState::Removed,
        };
        let slots = slots.iter().zip(sizes).map(state).collect();
        let tracker = Self { inner, slots, pace, is_due: false };
        tracker.tell();
        tracker
    }

    /// Tells how far the seeds are: what was not released may be lost yet.
    fn tell(&self) {
        let of = |(disk, slot): (DiskIndex, &SlotState)| match slot {
            SlotState::Seeding { size, left, given } => {
                let bytes = size.saturating_sub(left.bytes() + given.bytes());
                Some(SeededDisk { disk, bytes })
            }
            SlotState::Whole | SlotState::Removed => None,
        };
        let done = (0..).map(DiskIndex).zip(&self.slots).filter_map(of).collect();
        *self.pace.done.lock().unwrap_or_else(PoisonError::into_inner) = done;
    }

    /// Gives out another part of what was never sent, of one disk after the other.
    fn give_out(&mut self) {
        let mut room = self.pace.bytes();
        for slot in &mut self.slots {
            if let SlotState::Seeding { left, given, .. } = slot {
                let mut part = Vec::new();
                for extent in left.iter() {
                    let extent = Extent::new(extent.start, extent.len.min(room));
                    if !extent.is_empty() {
                        part.push(extent);
                    }
                    room -= extent.len;
                }
                for extent in part {
                    left.remove(extent);
                    given.extend([extent]);
                }
            }
        }
    }
}

impl ChangeTracker for SlotTracker {
    fn generation(&self) -> GenerationId {
        self.inner.generation()
    }

    fn swap(&mut self) -> Result<Vec<ExtentSet>, ResyncReason> {
        let mut changed = self.inner.swap()?.into_iter();
        if std::mem::take(&mut self.is_due) {
            self.give_out();
        }
        let of = |slot: &SlotState| match slot {
            SlotState::Removed => ExtentSet::new(),
            SlotState::Whole => changed.next().unwrap_or_default(),
            SlotState::Seeding { given, .. } => {
                let mut both = changed.next().unwrap_or_default();
                both.extend(given.iter());
                both
            }
        };
        Ok(self.slots.iter().map(of).collect())
    }

    fn release(&mut self) {
        self.inner.release();
        for slot in &mut self.slots {
            if let SlotState::Seeding { given, .. } = slot {
                *given = ExtentSet::new();
            }
        }
        self.tell();
    }

    fn touched(&self, read: &[ExtentSet]) -> Result<bool, ResyncReason> {
        let there = self.slots.iter().zip(read).filter(|(slot, _)| !matches!(slot, SlotState::Removed));
        let read: Vec<_> = there.map(|(_, read)| read.clone()).collect();
        self.inner.touched(&read)
    }

    fn check(&mut self) -> Result<(), ResyncReason> {
        // The beginning of a cycle. What the last one has given out and not released goes first.
        let owes = |slot: &SlotState| matches!(slot, SlotState::Seeding { given, .. } if !given.is_empty());
        self.is_due = !self.slots.iter().any(owes);
        self.inner.check()
    }

    fn all_compared(&mut self) {
        self.is_due = false;
        for slot in &mut self.slots {
            if let SlotState::Seeding { left, given, .. } = slot {
                (*left, *given) = (ExtentSet::new(), ExtentSet::new());
            }
        }
        self.tell();
    }

    fn whole(&self) -> Vec<DiskIndex> {
        let is_whole = |slot: &SlotState| match slot {
            SlotState::Seeding { left, given, .. } => left.is_empty() && given.is_empty(),
            SlotState::Whole | SlotState::Removed => false,
        };
        let numbered = (0..).map(DiskIndex).zip(&self.slots);
        numbered.filter(|(_, slot)| is_whole(slot)).map(|(disk, _)| disk).collect()
    }

    fn is_removed(&self, disk: DiskIndex) -> bool {
        matches!(self.slots.get(usize::from(disk.0)), Some(SlotState::Removed))
    }
}

#[cfg(test)]
mod tests;
