//! The consistent moment: scripts, sync, freeze, whatever is to be done, thaw, scripts.
//!
//! The file systems are synced before they are frozen, so that the freeze itself is short. Between freeze and thaw this
//! process logs nothing and its memory is locked. A moment that takes longer than its budget is given up, never stretched:
//! the helper's watchdog thaws at the budget, and what was done then counts for nothing.

use std::fmt::Debug;
use std::path::PathBuf;
use std::time::Duration;

use rustix::mm::MlockAllFlags;

use crate::devices::MountedFileSystem;
use crate::freeze::{FreezeError, FreezeHelper, ThawError};
use crate::scripts::{Phase, Script, ScriptError, Scripts, run};

/// How long file systems may be frozen, unless the user says otherwise: less than what applications and clusters
/// take for a fault, above the 35 to 100 ms that freezing ext4 under load takes.
pub const BUDGET_DEFAULT: Duration = Duration::from_millis(250);

/// What a consistent moment gave.
#[derive(Debug)]
pub struct Moment<T> {
    /// What was done while frozen.
    pub value: T,
    /// From the first freeze to the last thaw.
    pub frozen_for: Duration,
    /// The mount points of what was frozen, in mount order.
    pub frozen: Vec<PathBuf>,
    /// Whether a pre-freeze script had made the applications write out what they hold.
    pub app_consistent: bool,
    /// The post-thaw script's failure: the moment is good, but the applications may still be held.
    pub post_thaw: Option<Box<ScriptError>>,
}

/// No moment.
#[derive(Debug, thiserror::Error)]
#[error("{failure}")]
pub struct MomentError<E: std::error::Error + 'static> {
    /// Why.
    #[source]
    pub failure: MomentFailure<E>,
    /// The post-thaw script's failure on top of it: the applications may still be held.
    pub post_thaw: Option<Box<ScriptError>>,
}

/// Why there is no moment. Nothing is frozen any more.
#[derive(Debug, thiserror::Error)]
pub enum MomentFailure<E: std::error::Error + 'static> {
    /// The pre-freeze script: a moment without scripts, crash-consistent only, is still possible.
    #[error("the applications were not made ready")]
    PreFreeze(#[source] ScriptError),
    /// The while-frozen script.
    #[error("the moment was given up")]
    WhileFrozen(#[source] ScriptError),
    /// The file systems cannot be frozen.
    #[error(transparent)]
    Freeze(FreezeError),
    /// It took too long; the next one may have less to do.
    #[error(
        "the file systems would have been frozen for longer than {budget:?}, so the moment was given up after {took:?}"
    )]
    BudgetExceeded {
        /// How long they may be frozen.
        budget: Duration,
        /// How long it went on.
        took: Duration,
    },
    /// They were not frozen all the time.
    #[error("the file systems did not stay frozen")]
    Thawed(#[source] ThawError),
    /// What was to be done while they were frozen.
    #[error(transparent)]
    Work(E),
}

/// Freezes `file_systems` (as `devices::mounted_on` gives them) for at most `budget`, does `while_frozen`, thaws.
///
/// With no file systems nothing is frozen, and the budget holds for the work alone.
///
/// # Errors
/// When the work's result does not belong to one frozen moment; the post-thaw script has run.
pub fn take_moment<T, E: std::error::Error + 'static>(
    helper: &mut FreezeHelper,
    file_systems: &[MountedFileSystem],
    budget: Duration,
    scripts: &Scripts,
    while_frozen: impl FnOnce() -> Result<T, E>,
) -> Result<Moment<T>, MomentError<E>> {
    let after = PostThaw(scripts.post_thaw.as_ref());
    let prepared = scripts.pre_freeze.as_ref().map(|script| run(script, Phase::PreFreeze)).transpose();
    let result = match prepared {
        Err(error) => Err(MomentFailure::PreFreeze(error)),
        Ok(prepared) => freeze_and_do(helper, file_systems, budget, scripts, while_frozen)
            .map(|(value, frozen_for)| (value, frozen_for, prepared.is_some())),
    };
    let post_thaw = after.run();
    match result {
        Err(failure) => Err(MomentError { failure, post_thaw }),
        Ok((value, frozen_for, app_consistent)) => {
            let points = file_systems.iter().filter_map(|one| one.mounts.first());
            let frozen = points.map(|mount| mount.path.clone()).collect();
            Ok(Moment { value, frozen_for, frozen, app_consistent, post_thaw })
        }
    }
}

/// The post-thaw script, which runs also when the work panics.
struct PostThaw<'a>(Option<&'a Script>);

impl PostThaw<'_> {
    fn run(mut self) -> Option<Box<ScriptError>> {
        self.0.take().and_then(|script| run(script, Phase::PostThaw).err()).map(Box::new)
    }
}

impl Drop for PostThaw<'_> {
    fn drop(&mut self) {
        if let Some(script) = self.0.take() {
            let _ = run(script, Phase::PostThaw);
        }
    }
}

fn freeze_and_do<T, E: std::error::Error + 'static>(
    helper: &mut FreezeHelper,
    file_systems: &[MountedFileSystem],
    budget: Duration,
    scripts: &Scripts,
    while_frozen: impl FnOnce() -> Result<T, E>,
) -> Result<(T, Duration), MomentFailure<E>> {
    for file_system in file_systems {
        let root = file_system.open().map_err(|error| MomentFailure::Freeze(error.into()))?;
        // What cannot be written now will fail in the freeze, which says so.
        let _ = rustix::fs::syncfs(&root);
    }
    let _locked = Locked::new();
    let frozen = helper.freeze(file_systems, budget).map_err(|error| match error {
        FreezeError::TimedOut { limit, .. } => MomentFailure::BudgetExceeded { budget, took: limit },
        error => MomentFailure::Freeze(error),
    })?;
    let script = match &scripts.while_frozen {
        Some(script) => {
            let mut script = script.clone();
            script.limit = script.limit.min(budget.saturating_sub(frozen.elapsed()));
            run(&script, Phase::WhileFrozen).map(drop)
        }
        None => Ok(()),
    };
    let work = script.map_err(MomentFailure::WhileFrozen).and_then(|()| {
        let exceeded = frozen.elapsed() >= budget;
        let took = frozen.elapsed();
        if exceeded { Err(MomentFailure::BudgetExceeded { budget, took }) } else { Ok(()) }
    });
    let work = work.and_then(|()| while_frozen().map_err(MomentFailure::Work));
    let took = frozen.elapsed();
    match (work, frozen.thaw()) {
        // A failed write to a frozen file system at the budget's end, say: the cause before the effect.
        (Err(failure), _) => Err(failure),
        (Ok(_), Err(ThawError::Expired)) => Err(MomentFailure::BudgetExceeded { budget, took }),
        (Ok(_), Err(error)) => Err(MomentFailure::Thawed(error)),
        (Ok(_), Ok(took)) if took > budget => Err(MomentFailure::BudgetExceeded { budget, took }),
        (Ok(value), Ok(took)) => Ok((value, took)),
    }
}

/// This process's memory, kept from being swapped out to where a frozen file system is needed to get it back. As far as
/// permitted; pages are locked as they are touched, so that large mappings are not read in.
struct Locked;

impl Locked {
    fn new() -> Self {
        let _ = rustix::mm::mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT);
        Self
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        let _ = rustix::mm::munlockall();
    }
}
