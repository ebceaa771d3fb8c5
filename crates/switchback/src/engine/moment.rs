//! Taking a consistent moment: the engine's view of freezing.

use std::fmt::Debug;
use std::time::Duration;

use switchback_model::Consistency;

/// A moment that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frozen {
    /// What the point may be called, provided that nothing that was read had been written meanwhile.
    pub consistency: Consistency,
    /// How long the machine stood still.
    pub frozen: Duration,
    /// The multi-VM moment that it was a part of.
    pub group_tag: Option<String>,
}

/// Why a moment is void. The machine runs again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MomentError {
    /// Another attempt may succeed.
    #[error("{0}")]
    Void(String),
    /// Changes may have been missed.
    #[error("{0}")]
    Doubt(switchback_model::ResyncReason),
    /// The source could not be read.
    #[error("{detail}")]
    Source {
        /// Path.
        disk: String,
        /// Where.
        offset: u64,
        /// What.
        detail: String,
    },
}

/// Makes the machine stand still for a moment.
pub trait MomentTaker: Send + Debug {
    /// Freezes, calls `while_frozen` once, thaws whatever happens, and says how it went. `while_frozen` writes nothing
    /// anywhere, logs included.
    ///
    /// # Errors
    /// That of `while_frozen`, or [`MomentError::Void`] when the machine would not stand still for it.
    fn take(
        &mut self,
        while_frozen: &mut dyn FnMut() -> Result<(), MomentError>,
    ) -> Result<Frozen, MomentError>;
}

/// Takes moments without freezing anything: for disks without a mounted file system. Whether the moment holds is
/// decided by what the tracker saw.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unfrozen;

impl MomentTaker for Unfrozen {
    fn take(
        &mut self,
        while_frozen: &mut dyn FnMut() -> Result<(), MomentError>,
    ) -> Result<Frozen, MomentError> {
        while_frozen()?;
        Ok(Frozen { consistency: Consistency::CrashConsistent, frozen: Duration::ZERO, group_tag: None })
    }
}
