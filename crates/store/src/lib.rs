//! Where the configuration server keeps what it must not forget: SQLite, or PostgreSQL.
//!
//! What it is: one small trait, [`Store`]: versioned JSON records of a few kinds, changed in atomic batches, and a queue of due jobs
//! that several configuration servers can share. What it never does: know what a record means; decide anything.
//!
//! The path of one change: the control plane reads records, each with its version, decides, and hands a batch of [`Change`]s to
//! [`Store::commit`]; all of them become durable together, or, when somebody else was faster with one of them, none
//! ([`StoreError::Conflict`]), and the control plane decides again from what is there now.
//!
//! Two stores, [`SqliteStore`] and [`PostgresStore`], with one schema (`migrations/`), one set of statements and one suite of what they
//! must do ([`conformance`]). [`testing`] has a PostgreSQL server for the tests of every crate that has a store.

mod check;
pub mod conformance;
mod migration;
mod open;
mod postgres;
mod snapshot;
mod sqlite;
mod statement;
pub mod testing;

pub use check::{BODY_LEN_MAX, CHANGES_MAX, KEY_LEN_MAX};
pub use open::open;
pub use postgres::{PostgresLimits, PostgresStore};
pub use snapshot::{Fingerprint, Saved, Snapshot};
pub use sqlite::SqliteStore;

use std::fmt::Debug;

use switchback_model::UnixMillis;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// A site.
    Site,
    /// A component that has enrolled; its key is `ROLE/NAME`.
    Server,
    /// A process server that was made at a site; its key is its name.
    Deployment,
    /// The last report of a component; same key.
    Report,
    /// A protection group.
    Group,
    /// A network mapping.
    NetworkMapping,
    /// A protected machine.
    Item,
    /// A recovery plan.
    Plan,
    /// A job; its owner is the machine or plan it is about, in lower case.
    Job,
    /// An event; keys sort by time.
    Event,
    /// What is not well with something, as long as it is not; its key is `SOURCE/OBJECT`.
    Condition,
    /// An alert that is to be sent; its key is `DESTINATION/TIME`.
    Alert,
    /// How a destination of alerts gets on; its key is the destination's name.
    Delivery,
    /// A line of the audit log; keys sort by time.
    Audit,
    /// An API token; its key is its name.
    Token,
    /// A run-as account; its key is its name. Its password is encrypted.
    Account,
    /// The configuration server's own: its vault's name, what it was last told.
    Setting,
    /// A proof of a recovery point; its key is `MACHINE/ID`, and sorts by time.
    Proof,
    /// The picture of a proof; same key.
    Picture,
    /// What a master target sees of a sandbox; its key is the machine's name.
    Sandbox,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::Site,
        Self::Server,
        Self::Deployment,
        Self::Report,
        Self::Group,
        Self::NetworkMapping,
        Self::Item,
        Self::Plan,
        Self::Job,
        Self::Event,
        Self::Condition,
        Self::Alert,
        Self::Delivery,
        Self::Audit,
        Self::Token,
        Self::Account,
        Self::Setting,
        Self::Proof,
        Self::Picture,
        Self::Sandbox,
    ];

    /// What it is called in databases and backups: never changes.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Site => "site",
            Self::Server => "server",
            Self::Deployment => "deployment",
            Self::Report => "report",
            Self::Group => "group",
            Self::NetworkMapping => "network-mapping",
            Self::Item => "item",
            Self::Plan => "plan",
            Self::Job => "job",
            Self::Event => "event",
            Self::Condition => "condition",
            Self::Alert => "alert",
            Self::Delivery => "delivery",
            Self::Audit => "audit",
            Self::Token => "token",
            Self::Account => "account",
            Self::Setting => "setting",
            Self::Proof => "proof",
            Self::Picture => "picture",
            Self::Sandbox => "sandbox",
        }
    }

    /// The kind of that name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// A record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What it is.
    pub kind: Kind,
    /// Unique within its kind. Names of objects in lower case.
    pub key: String,
    /// What it belongs to, for [`Query::owner`].
    pub owner: Option<String>,
    /// One more with each change. A record that is removed and made again goes on above every version it had before, so that whoever
    /// still holds the old one cannot change the new one by mistake.
    pub version: u64,
    /// JSON.
    pub body: String,
}

/// What a change expects to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// No such record.
    Absent,
    /// The record at this version.
    Version(u64),
    /// Whatever is there.
    Any,
}

/// One change of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Makes or replaces a record.
    Put {
        /// What it is.
        kind: Kind,
        /// Its key.
        key: String,
        /// What it belongs to.
        owner: Option<String>,
        /// What must be there before.
        expect: Expect,
        /// JSON.
        body: String,
        /// Jobs only (of others it is not kept): when it next has to be worked on; `None`: not before somebody changes that. Replaces
        /// what was said before.
        due: Option<UnixMillis>,
    },
    /// Removes a record; it is no error if `Any` is expected and there is none.
    Delete {
        /// What it is.
        kind: Kind,
        /// Its key.
        key: String,
        /// What must be there before; not [`Expect::Absent`].
        expect: Expect,
    },
}

/// Which records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// Of this kind.
    pub kind: Kind,
    /// Of this owner only.
    pub owner: Option<String>,
    /// With one of these keys, up to [`KEYS_MAX`].
    pub keys: Option<Vec<String>>,
    /// After this key (before it, when `descending`).
    pub after: Option<String>,
    /// From the largest key down.
    pub descending: bool,
    /// At most so many, up to [`LIMIT_MAX`].
    pub limit: usize,
}

/// Records that one query returns at most.
pub const LIMIT_MAX: usize = 10_000;
/// Keys that one query names at most.
pub const KEYS_MAX: usize = 500;

impl Query {
    /// All of a kind, in order of their keys.
    #[must_use]
    pub const fn all(kind: Kind) -> Self {
        Self { kind, owner: None, keys: None, after: None, descending: false, limit: LIMIT_MAX }
    }
}

/// A store. Implementations are shared between threads; calls block, for a limited time: they must not come from async code.
pub trait Store: Send + Sync + Debug {
    /// One record.
    ///
    /// # Errors
    /// [`StoreError`].
    fn get(&self, kind: Kind, key: &str) -> Result<Option<Record>, StoreError>;

    /// The records that a query asks for.
    ///
    /// # Errors
    /// [`StoreError`].
    fn list(&self, query: &Query) -> Result<Vec<Record>, StoreError>;

    /// Does all changes, durably, in order, or none. Returns the versions of the records put (0 for a deletion), in order.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when a record was not as expected; [`StoreError::Invalid`] for what no store takes. After
    /// [`StoreError::Database`] the changes may have been done (a connection can be lost before the answer): read again before trying again.
    fn commit(&self, changes: &[Change]) -> Result<Vec<u64>, StoreError>;

    /// Takes the job that has been due longest and is leased to nobody (or whose lease is over) at `now`, and leases it to `owner` until `until`.
    /// Each job goes to one caller only, however many ask at once. Committing a change of a job keeps its lease. `None` may also mean that
    /// the only due job is being changed at this moment: ask again later.
    ///
    /// # Errors
    /// [`StoreError`].
    fn claim_job(
        &self,
        owner: &str,
        now: UnixMillis,
        until: UnixMillis,
    ) -> Result<Option<Record>, StoreError>;

    /// Prolongs a lease, also one that is over and that nobody else has taken; `false`: the lease is not the owner's any more, who must
    /// stop at once.
    ///
    /// # Errors
    /// [`StoreError`].
    fn renew_lease(&self, owner: &str, job: &str, until: UnixMillis) -> Result<bool, StoreError>;

    /// Gives a job back before its lease is over. Nothing happens if it is not the owner's.
    ///
    /// # Errors
    /// [`StoreError`].
    fn release_job(&self, owner: &str, job: &str) -> Result<(), StoreError>;

    /// Gives back all jobs of an owner: what it held when it was killed. Returns how many.
    ///
    /// # Errors
    /// [`StoreError`].
    fn release_all(&self, owner: &str) -> Result<u64, StoreError>;

    /// Removes the records of a kind whose key is below `key`: old events. Returns how many.
    ///
    /// # Errors
    /// [`StoreError`].
    fn prune(&self, kind: Kind, key: &str) -> Result<u64, StoreError>;

    /// Everything, as of one moment: for a backup.
    ///
    /// # Errors
    /// [`StoreError`].
    fn snapshot(&self) -> Result<Snapshot, StoreError>;

    /// What changes with every change of what is to be kept; see there.
    ///
    /// # Errors
    /// [`StoreError`].
    fn fingerprint(&self) -> Result<Fingerprint, StoreError>;

    /// Fills a store that has never had a record, durably, with all of a snapshot or nothing. Nothing is leased.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] when it has records, or the snapshot holds what no store takes.
    fn restore(&self, snapshot: &Snapshot) -> Result<(), StoreError>;
}

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Somebody else was faster. Read again, decide again.
    #[error("{kind:?} {key} has been changed by somebody else meanwhile")]
    Conflict {
        /// What.
        kind: Kind,
        /// Which.
        key: String,
    },
    /// The request is one that no store takes: asking again is of no use.
    #[error("the store cannot take {what}: {why}")]
    Invalid {
        /// Which record.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// The database is locked, full, gone or refuses us.
    #[error("{action} failed: {detail}")]
    Database {
        /// What was being done, and where.
        action: String,
        /// What it says, and what to do.
        detail: String,
        /// Trying again may help.
        passing: bool,
    },
    /// The database was made by a newer version of this program.
    #[error(
        "the database has schema version {found}, this program knows up to {known}: run a newer version of switchback, or restore a backup made by this one"
    )]
    TooNew {
        /// What was found.
        found: u32,
        /// What is known.
        known: u32,
    },
    /// The database is damaged.
    #[error("{place} is damaged: {detail}. Restore a backup")]
    Corrupt {
        /// Which database.
        place: String,
        /// What is wrong.
        detail: String,
    },
}
