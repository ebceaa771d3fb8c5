//! Jobs: durable, resumable units of work with tasks, progress and errors.
//!
//! What it is: a job as it is stored and shown. What it never does: run (that is the control plane's executor).
//!
//! ```text
//! NotStarted ─▶ InProgress ─▶ Succeeded
//!                 │  ▲  ├───▶ Failed ──restart──▶ InProgress
//!                 │  │  └───▶ Cancelled            (undone as far as it can be)
//!                 ▼  │ resume
//!              Suspended                            (a manual action waits for a person)
//! ```

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{JobId, ObjectName, Operation, PointChoice, Seq, ServerRequest, Side, UnixMillis, VerifyRequest};

/// A job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Its identity.
    pub id: JobId,
    /// What it is to do.
    pub request: JobRequest,
    /// How it stands.
    pub state: JobState,
    /// Its tasks, in order; one that was undone says so.
    pub tasks: Vec<Task>,
    /// Who asked for it: a token's name, or `switchback`.
    pub by: String,
    /// When it was asked for.
    pub created: UnixMillis,
    /// When it began.
    #[serde(default)]
    pub started: Option<UnixMillis>,
    /// When it ended.
    #[serde(default)]
    pub ended: Option<UnixMillis>,
    /// What was done is being undone; then the job ends in this state.
    #[serde(default)]
    pub undoing: Option<JobState>,
    /// Somebody wants it cancelled.
    #[serde(default)]
    pub cancel_requested: bool,
    /// The job that it is part of.
    #[serde(default)]
    pub parent: Option<JobId>,
    /// What its steps have to remember.
    #[serde(default)]
    pub notes: BTreeMap<String, String>,
}

impl Job {
    /// The note of the recovery point that a failover takes: its number.
    pub const NOTE_SEQ: &str = "seq";
    /// The same: its time, in milliseconds since 1970.
    pub const NOTE_POINT_TIME: &str = "point-time";
    /// The note of the side that a recovery plan's job leads to.
    pub const NOTE_TOWARDS: &str = "towards";

    /// The recovery point that a failover takes, once it is chosen: its number, and the moment it is of.
    #[must_use]
    pub fn point(&self) -> Option<(Seq, UnixMillis)> {
        let number = |note| self.notes.get(note).and_then(|text| text.parse().ok());
        Some((Seq(number(Self::NOTE_SEQ)?), UnixMillis(number(Self::NOTE_POINT_TIME)?)))
    }

    /// The side that a recovery plan's job leads to.
    #[must_use]
    pub fn towards(&self) -> Option<Side> {
        let side = self.notes.get(Self::NOTE_TOWARDS)?;
        [Side::Home, Side::Away].into_iter().find(|known| known.as_str() == side)
    }
}

/// What a job is to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum JobRequest {
    /// Begin to protect a machine.
    Protect(Box<ProtectRequest>),
    /// An operation on a protected machine.
    Operate {
        /// The machine.
        item: ObjectName,
        /// What.
        operation: ItemOperation,
    },
    /// An operation on the machines of a recovery plan.
    Plan {
        /// The plan.
        plan: ObjectName,
        /// What.
        operation: ItemOperation,
    },
    /// Make a process server at a site.
    DeployServer(Box<ServerRequest>),
    /// Remove one that was made.
    RetireServer {
        /// Its name.
        server: ObjectName,
    },
    /// Boot a recovery point of a protected machine in a sandbox.
    Verify(Box<VerifyRequest>),
}

impl JobRequest {
    /// The machine, plan or process server it is about.
    #[must_use]
    pub fn object(&self) -> &ObjectName {
        match self {
            Self::Protect(request) => &request.name,
            Self::Operate { item, .. } => item,
            Self::Plan { plan, .. } => plan,
            Self::DeployServer(request) => &request.name,
            Self::RetireServer { server } => server,
            Self::Verify(request) => &request.item,
        }
    }
}

/// What is needed to protect a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProtectRequest {
    /// The protected machine's name to be.
    pub name: ObjectName,
    /// Its id at the group's source site.
    pub machine: String,
    /// The protection group.
    pub group: ObjectName,
    /// The process server at the source site; `None`: the one there is.
    #[serde(default)]
    pub process_server: Option<String>,
    /// The master target at the target site; `None`: the one there is.
    #[serde(default)]
    pub master_target: Option<String>,
    /// The datastore at the target site; `None`: the one there is.
    #[serde(default)]
    pub datastore: Option<String>,
    /// What the target's network cards get, by position; missing ones get DHCP.
    #[serde(default)]
    pub nics: Vec<crate::component::InterfaceSettings>,
    /// What its machine at the target site shall be, where that is made at a failover.
    #[serde(default)]
    pub plan: crate::azure::MachinePlan,
}

/// An operation with all that the user said about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "operation", rename_all = "kebab-case")]
pub enum ItemOperation {
    /// See [`Operation::TestFailover`].
    TestFailover {
        /// Which point.
        point: PointChoice,
    },
    /// See [`Operation::TestFailoverCleanup`].
    TestFailoverCleanup {
        /// The rehearsal's result in words.
        #[serde(default)]
        comments: String,
    },
    /// See [`Operation::PlannedFailover`].
    PlannedFailover,
    /// See [`Operation::UnplannedFailover`].
    UnplannedFailover {
        /// Which point.
        point: PointChoice,
        /// Shut the source down first, if it can be reached.
        shut_down: bool,
    },
    /// See [`Operation::ChangeRecoveryPoint`].
    ChangeRecoveryPoint {
        /// Which point.
        point: PointChoice,
    },
    /// See [`Operation::CancelFailover`].
    CancelFailover,
    /// See [`Operation::Commit`].
    Commit,
    /// See [`Operation::Reprotect`].
    Reprotect(ReprotectOptions),
    /// See [`Operation::Resynchronize`].
    Resynchronize,
    /// See [`Operation::SwitchProcessServer`].
    SwitchProcessServer {
        /// The name of the one to send through, at the side the machine runs on.
        process_server: String,
    },
    /// See [`Operation::AddDisks`].
    AddDisks {
        /// Each by its serial number or the name that the machine's agent has for it.
        disks: Vec<String>,
        /// Where their replicas go; `None`: the datastore with most room.
        #[serde(default)]
        datastore: Option<String>,
    },
    /// See [`Operation::RemoveDisks`].
    RemoveDisks {
        /// Each by its serial number or the name that the machine's agent has for it.
        disks: Vec<String>,
    },
    /// See [`Operation::Disable`].
    Disable {
        /// Also delete the instance at the passive side, if Switchback made it.
        clean_up: bool,
    },
    /// Delete the instances that were left behind for good ([`crate::ProtectedItem::left_behind`]).
    CleanUp,
    /// Have the mobility agent go on as the configuration server's own version.
    UpdateAgent,
    /// Look at once whether these are still so: somebody has mended their causes.
    CheckAgain {
        /// What was not well when it was asked for.
        raised: Vec<JobError>,
    },
}

/// What a user says for a reprotect; what is not said is found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReprotectOptions {
    /// The process server at the side the machine runs on.
    #[serde(default)]
    pub process_server: Option<String>,
    /// The master target at the other side.
    #[serde(default)]
    pub master_target: Option<String>,
    /// Where a new machine goes, if one is needed: the one that was left is gone, or another location is wanted.
    #[serde(default)]
    pub datastore: Option<String>,
    /// Alternate location: a new machine, although the disks that were left are there.
    #[serde(default)]
    pub alternate_location: bool,
}

impl ItemOperation {
    /// The operation in the table of transitions; `None` for those that change no protection.
    #[must_use]
    pub const fn operation(&self) -> Option<Operation> {
        Some(match self {
            Self::TestFailover { .. } => Operation::TestFailover,
            Self::TestFailoverCleanup { .. } => Operation::TestFailoverCleanup,
            Self::PlannedFailover => Operation::PlannedFailover,
            Self::UnplannedFailover { .. } => Operation::UnplannedFailover,
            Self::ChangeRecoveryPoint { .. } => Operation::ChangeRecoveryPoint,
            Self::CancelFailover => Operation::CancelFailover,
            Self::Commit => Operation::Commit,
            Self::Reprotect(_) => Operation::Reprotect,
            Self::Resynchronize => Operation::Resynchronize,
            Self::SwitchProcessServer { .. } => Operation::SwitchProcessServer,
            Self::AddDisks { .. } => Operation::AddDisks,
            Self::RemoveDisks { .. } => Operation::RemoveDisks,
            Self::Disable { .. } => Operation::Disable,
            Self::CleanUp | Self::UpdateAgent | Self::CheckAgain { .. } => return None,
        })
    }
}

/// How a job stands. Names as Azure Site Recovery shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum JobState {
    /// Waits for its turn.
    NotStarted,
    /// Runs.
    InProgress,
    /// Waits for a person.
    Suspended,
    /// All done.
    Succeeded,
    /// A task failed; it can be restarted.
    Failed,
    /// Given up on request, undone as far as it can be.
    Cancelled,
}

impl JobState {
    /// Whether nothing more happens by itself.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A task of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Its name, ASR's where there is one: `ShutdownVmOnPrimaryForUFO`.
    pub name: String,
    /// What people read.
    pub friendly_name: String,
    /// How it stands.
    pub state: TaskState,
    /// When it began.
    #[serde(default)]
    pub started: Option<UnixMillis>,
    /// When it ended.
    #[serde(default)]
    pub ended: Option<UnixMillis>,
    /// Percent.
    #[serde(default)]
    pub progress: Option<u8>,
    /// What it is doing or has done.
    #[serde(default)]
    pub message: String,
    /// Why it failed.
    #[serde(default)]
    pub error: Option<JobError>,
    /// Jobs that are part of it.
    #[serde(default)]
    pub jobs: Vec<JobId>,
}

/// How a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TaskState {
    /// Its turn has not come.
    NotStarted,
    /// Runs.
    InProgress,
    /// Waits for a person.
    Suspended,
    /// Done.
    Succeeded,
    /// There was nothing to do.
    Skipped,
    /// Failed.
    Failed,
    /// Was done, and has been undone.
    Undone,
}

/// Why something failed, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobError {
    /// Stable, for looking it up: `failover.no-recovery-point`.
    pub code: String,
    /// What failed.
    pub message: String,
    /// The likely cause.
    #[serde(default)]
    pub cause: String,
    /// What to do.
    #[serde(default)]
    pub remedy: String,
}

impl JobError {
    /// What tells it from others of its object, however often it is looked at: its code, and its message without ages and counts, which differ from look to look.
    #[must_use]
    pub fn problem(&self) -> String {
        let is_figure = |word: &&str| {
            let inner = word.trim_start_matches(|c: char| !c.is_alphanumeric());
            inner.starts_with(|c: char| c.is_ascii_digit())
        };
        let words = self.message.split_whitespace().filter(|word| !is_figure(word));
        std::iter::once(self.code.as_str()).chain(words).collect::<Vec<_>>().join(" ")
    }
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if !self.cause.is_empty() {
            write!(f, "; likely cause: {}", self.cause)?;
        }
        if !self.remedy.is_empty() {
            write!(f, "; {}", self.remedy)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::JobError;

    #[test]
    fn a_problem_is_the_same_with_other_figures_and_another_with_another_name() {
        let error = |code: &str, message: &str| JobError {
            code: code.into(),
            message: message.into(),
            cause: String::new(),
            remedy: String::new(),
        };
        let late =
            |age: &str| error("rpo.exceeded", &format!("the newest point of web01 is {age} s old ({age})"));
        assert_eq!(late("17").problem(), late("1800").problem());
        let silent = |server: &str| error("server.no-heartbeat", &format!("the {server} does not report"));
        assert_ne!(silent("ps1").problem(), silent("ps2").problem());
        assert_ne!(error("a", "same").problem(), error("b", "same").problem());
    }
}
