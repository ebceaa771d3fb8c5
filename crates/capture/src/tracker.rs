//! What the sync engine needs of any way to know changed blocks.

use std::fmt::Debug;

use switchback_model::{DiskIndex, ExtentSet, GenerationId, ResyncReason};

/// Knows which blocks of a machine's disks changed.
///
/// The blocks given out by [`swap`](Self::swap) stay *owed* until [`release`](Self::release): whatever
/// happens between (the target loses them, the process is killed), the next swap gives them out again.
/// Disks are in the order in which the tracker was given them. After any error the tracker's knowledge is
/// incomplete: only a new one, of a new generation, and a resync help.
pub trait ChangeTracker: Send + Debug {
    /// The life of the tracker that its knowledge goes back to.
    fn generation(&self) -> GenerationId;

    /// Every block changed since the last release, for each disk; from now on changes count as new.
    ///
    /// A block that is being written during the call is given out by this swap, the next, or both.
    ///
    /// # Errors
    /// Why changes may have been missed.
    fn swap(&mut self) -> Result<Vec<ExtentSet>, ResyncReason>;

    /// Forgets what the last swap gave out. Only to be called once all of it is durable elsewhere.
    fn release(&mut self);

    /// Whether any of these blocks (extents for each disk) were written since the last swap: if not, what was
    /// read of them since is what they held at the swap.
    ///
    /// Freezing a file system stops its writes, but not always its discards: ext4 (mounted with `discard`) sends those from a
    /// work queue of its own, also while it is frozen. They concern free blocks only; so swap and read once more.
    ///
    /// # Errors
    /// As [`swap`](Self::swap).
    fn touched(&self, read: &[ExtentSet]) -> Result<bool, ResyncReason>;

    /// Whether tracking is still complete.
    ///
    /// # Errors
    /// Why changes may have been missed.
    fn check(&mut self) -> Result<(), ResyncReason>;

    /// Every block of every disk is about to be compared: what is owed of a disk only because it was never sent is owed no more.
    fn all_compared(&mut self) {}

    /// The disks that were sent from their first block on beside the changes of the others, and are complete by what has been released.
    fn whole(&self) -> Vec<DiskIndex> {
        Vec::new()
    }

    /// Whether this disk is there no more, and only keeps the numbers of the others in their places.
    fn is_removed(&self, disk: DiskIndex) -> bool {
        let _ = disk;
        false
    }
}
