//! How the agent takes a moment: on its own, together with its replication group, or as the last one before a planned failover.
//!
//! *Together*: before it freezes, the agent meets the others (*ready*); frozen, it meets them again, and only then are the last changed blocks read.
//! Whoever is missing, the moment is taken all the same, and carries no tag.
//!
//! *The last one*: the file systems stay frozen after it, for a time ([`Hold`]): what is written to them later would be in no point. The
//! freeze belongs to the helper process, which thaws at its deadline and when this process ends, however it ends.

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::mm::MlockAllFlags;
use switchback_capture::devices::{DeviceNumber, MountedFileSystem, Sysfs, mounted_on};
use switchback_capture::freeze::{FreezeHelper, ThawError};
use switchback_model::Consistency;
use switchback_model::component::{Meeting, MomentAnswer, MomentCall};

use crate::component::{Channel, ChannelError};
use crate::engine::{Frozen, MomentError, MomentTaker};
use crate::freezing::{Freezing, chain, spawn_helper};
use crate::frozen_log::Hush;
use crate::machine::MomentOptions;

/// Longest that the others are waited for before the freeze.
const READY_MAX: Duration = Duration::from_secs(45);
/// How long a freeze for the last point may take.
const FREEZE_MAX: Duration = Duration::from_secs(20);

/// What the next moment is to be.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    Own,
    /// With this replication group, once: another attempt in the same cycle is made alone.
    Group(String),
    /// The file systems stay frozen for so long.
    Last {
        hold: Duration,
        app_consistent: bool,
    },
}

#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) kind: Kind,
    pub(super) options: MomentOptions,
}

/// Where the members of a replication group meet.
pub(super) trait Meet: Send + Sync {
    fn meet(&self, call: &MomentCall, limit: Duration) -> Result<MomentAnswer, ChannelError>;
}

impl Meet for Channel {
    fn meet(&self, call: &MomentCall, limit: Duration) -> Result<MomentAnswer, ChannelError> {
        self.moment(call, limit)
    }
}

/// What the agent's loop and its moments share.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) plan: Arc<Mutex<Plan>>,
    pub(super) hold: Arc<Mutex<Option<Hold>>>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// See the module's header.
pub(super) struct AgentMoments {
    disks: BTreeSet<DeviceNumber>,
    inner: Box<dyn Inner>,
    shared: Shared,
    meet: Arc<dyn Meet>,
}

/// Takes moments on its own.
trait Inner: Send {
    fn set(&mut self, options: &MomentOptions);
    fn take(
        &mut self,
        while_frozen: &mut dyn FnMut() -> Result<(), MomentError>,
    ) -> Result<Frozen, MomentError>;
}

impl Inner for Freezing {
    fn set(&mut self, options: &MomentOptions) {
        self.set_options(options.clone());
    }

    fn take(
        &mut self,
        while_frozen: &mut dyn FnMut() -> Result<(), MomentError>,
    ) -> Result<Frozen, MomentError> {
        MomentTaker::take(self, while_frozen)
    }
}

impl std::fmt::Debug for AgentMoments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AgentMoments").field("disks", &self.disks).finish_non_exhaustive()
    }
}

impl AgentMoments {
    pub(super) fn new(disks: BTreeSet<DeviceNumber>, shared: Shared, meet: Arc<dyn Meet>) -> Self {
        let options = lock(&shared.plan).options.clone();
        Self { inner: Box::new(Freezing::new(disks.clone(), options)), disks, shared, meet }
    }

    fn together(
        &mut self,
        group: &str,
        budget: Duration,
        while_frozen: &mut dyn FnMut() -> Result<(), MomentError>,
    ) -> Result<Frozen, MomentError> {
        let call = |meeting| MomentCall { group: group.to_owned(), meeting };
        let tag = match self.meet.meet(&call(Meeting::Ready), READY_MAX) {
            Ok(MomentAnswer::Go { tag }) => tag,
            Ok(MomentAnswer::Alone { reason }) => {
                tracing::info!(group, reason, "the moment is taken alone");
                return self.inner.take(while_frozen);
            }
            Err(error) => {
                tracing::warn!(group, %error, "the moment is taken alone");
                return self.inner.take(while_frozen);
            }
        };
        let mut joint = None;
        let meet = self.meet.clone();
        let frozen_call = call(Meeting::Frozen { tag: tag.clone() });
        let mut taken = self.inner.take(&mut || {
            // Nothing may be logged here.
            let answer = meet.meet(&frozen_call, budget);
            joint = matches!(answer, Ok(MomentAnswer::Go { tag: met }) if met == tag).then(|| tag.clone());
            while_frozen()
        })?;
        taken.group_tag = joint;
        Ok(taken)
    }

    fn last(
        &mut self,
        (hold, app_consistent): (Duration, bool),
        while_frozen: &mut dyn FnMut() -> Result<(), MomentError>,
    ) -> Result<Frozen, MomentError> {
        // One of an attempt that was void.
        let former = lock(&self.shared.hold).take();
        drop(former);
        let void = |what: String| MomentError::Void(what);
        let file_systems =
            mounted_on(&Sysfs::default(), &self.disks).map_err(|error| void(error.to_string()))?;
        let held = Hold::begin(file_systems, hold).map_err(void)?;
        // If this fails, dropping the hold thaws.
        while_frozen()?;
        let frozen = held.began.elapsed();
        *lock(&self.shared.hold) = Some(held);
        let consistency =
            if app_consistent { Consistency::AppConsistent } else { Consistency::CrashConsistent };
        Ok(Frozen { consistency, frozen, group_tag: None })
    }
}

impl MomentTaker for AgentMoments {
    fn take(
        &mut self,
        while_frozen: &mut dyn FnMut() -> Result<(), MomentError>,
    ) -> Result<Frozen, MomentError> {
        let Plan { kind, options } = {
            let mut plan = lock(&self.shared.plan);
            let taken = plan.clone();
            if let Kind::Group(_) = plan.kind {
                // The others have gone on by the time of a second attempt.
                plan.kind = Kind::Own;
            }
            taken
        };
        self.inner.set(&options);
        match kind {
            Kind::Own => self.inner.take(while_frozen),
            Kind::Group(group) => self.together(&group, options.freeze_budget, while_frozen),
            Kind::Last { hold, app_consistent } => self.last((hold, app_consistent), while_frozen),
        }
    }
}

/// File systems that are kept frozen. Thaws when dropped.
#[derive(Debug)]
pub(super) struct Hold {
    began: Instant,
    until: Instant,
    /// Dropped: thaw.
    release: Option<SyncSender<()>>,
    thread: Option<JoinHandle<Result<(), ThawError>>>,
}

impl Hold {
    fn begin(file_systems: Vec<MountedFileSystem>, hold: Duration) -> Result<Self, String> {
        let helper = spawn_helper().map_err(|error| chain(&error))?;
        let (frozen, is_frozen) = sync_channel(1);
        let (release, released) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("hold".into())
            .spawn(move || keep_frozen(helper, &file_systems, hold, &frozen, &released))
            .map_err(|error| error.to_string())?;
        let began = match is_frozen.recv_timeout(FREEZE_MAX) {
            Ok(Ok(began)) => began,
            Ok(Err(reason)) => return Err(reason),
            Err(_) => return Err(format!("freezing took more than {} s", FREEZE_MAX.as_secs())),
        };
        Ok(Self { began, until: began + hold, release: Some(release), thread: Some(thread) })
    }

    /// How much longer they stay frozen.
    pub(super) fn left(&self) -> Duration {
        if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
            return Duration::ZERO;
        }
        self.until.saturating_duration_since(Instant::now())
    }

    fn end(&mut self) {
        self.release = None;
        if let Some(thread) = self.thread.take()
            && let Ok(Err(error)) = thread.join()
        {
            tracing::info!(%error, "the machine goes on");
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.end();
    }
}

fn keep_frozen(
    mut helper: FreezeHelper,
    file_systems: &[MountedFileSystem],
    hold: Duration,
    frozen: &SyncSender<Result<Instant, String>>,
    released: &Receiver<()>,
) -> Result<(), ThawError> {
    for file_system in file_systems {
        if let Ok(root) = file_system.open() {
            // What cannot be written now will fail in the freeze, which says so.
            let _ = rustix::fs::syncfs(&root);
        }
    }
    let _hush = Hush::new();
    let _ = rustix::mm::mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT);
    let began = Instant::now();
    let result = match helper.freeze(file_systems, hold) {
        Ok(standing) => {
            // Nobody waits any more: thaw.
            if frozen.try_send(Ok(began)).is_ok() {
                // Its end is the word to thaw, too.
                let _: Result<(), RecvTimeoutError> = released.recv_timeout(hold);
            }
            standing.thaw().map(drop)
        }
        Err(error) => {
            let _ = frozen.try_send(Err(chain(&error)));
            Ok(())
        }
    };
    let _ = rustix::mm::munlockall();
    result
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use switchback_model::Consistency;
    use switchback_model::component::{Meeting, MomentAnswer, MomentCall};

    use super::{AgentMoments, Inner, Kind, Meet, Plan, Shared};
    use crate::component::ChannelError;
    use crate::engine::{Frozen, MomentError, MomentTaker};
    use crate::machine::MomentOptions;

    type Log = Arc<Mutex<Vec<String>>>;

    struct Noted(Log);

    impl Inner for Noted {
        fn set(&mut self, _: &MomentOptions) {}

        fn take(
            &mut self,
            while_frozen: &mut dyn FnMut() -> Result<(), MomentError>,
        ) -> Result<Frozen, MomentError> {
            self.0.lock().unwrap().push("freeze".into());
            while_frozen()?;
            self.0.lock().unwrap().push("thaw".into());
            let consistency = Consistency::CrashConsistent;
            Ok(Frozen { consistency, frozen: Duration::ZERO, group_tag: None })
        }
    }

    /// Answers in this order.
    struct Scripted(Log, Mutex<Vec<MomentAnswer>>);

    impl Meet for Scripted {
        fn meet(&self, call: &MomentCall, _: Duration) -> Result<MomentAnswer, ChannelError> {
            let name = match &call.meeting {
                Meeting::Ready => "ready".to_owned(),
                Meeting::Frozen { tag } => format!("frozen {tag}"),
            };
            self.0.lock().unwrap().push(name);
            Ok(self.1.lock().unwrap().remove(0))
        }
    }

    fn take(answers: Vec<MomentAnswer>, times: usize) -> (Vec<Option<String>>, Vec<String>) {
        let log = Log::default();
        let options = MomentOptions { freeze_budget: Duration::from_secs(1), scripts: Default::default() };
        let plan = Plan { kind: Kind::Group("g".into()), options };
        let shared = Shared { plan: Arc::new(Mutex::new(plan)), hold: Arc::default() };
        let meet = Arc::new(Scripted(log.clone(), Mutex::new(answers)));
        let mut moments =
            AgentMoments { disks: Default::default(), inner: Box::new(Noted(log.clone())), shared, meet };
        let tags = (0..times).map(|_| {
            let read = log.clone();
            let taken = moments.take(&mut || {
                read.lock().unwrap().push("read".into());
                Ok(())
            });
            taken.unwrap().group_tag
        });
        let tags = tags.collect();
        let said = log.lock().unwrap().clone();
        (tags, said)
    }

    fn go() -> MomentAnswer {
        MomentAnswer::Go { tag: "t7".into() }
    }

    fn alone() -> MomentAnswer {
        MomentAnswer::Alone { reason: "db01 is missing".into() }
    }

    #[test]
    fn blocks_are_read_when_all_are_frozen_and_the_point_carries_the_tag() {
        let (tags, said) = take(vec![go(), go()], 1);
        assert_eq!(tags, [Some("t7".to_owned())]);
        assert_eq!(said, ["ready", "freeze", "frozen t7", "read", "thaw"]);
    }

    #[test]
    fn a_moment_without_the_others_carries_no_tag() {
        let (tags, said) = take(vec![alone()], 1);
        assert_eq!(
            (tags, said),
            (vec![None], ["ready", "freeze", "read", "thaw"].map(String::from).to_vec())
        );
        let (tags, said) = take(vec![go(), alone()], 1);
        assert_eq!(tags, [None]);
        assert_eq!(said, ["ready", "freeze", "frozen t7", "read", "thaw"]);
    }

    #[test]
    fn a_second_attempt_is_made_alone() {
        let (tags, said) = take(vec![go(), go()], 2);
        assert_eq!(tags, [Some("t7".to_owned()), None]);
        assert_eq!(said[5..], ["freeze", "read", "thaw"]);
    }
}
