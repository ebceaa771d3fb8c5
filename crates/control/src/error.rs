//! Why the configuration server did not do what it was asked.

use switchback_identity::AuthorityError;
use switchback_model::{Illegal, InvalidName, JobError};
use switchback_sites::SiteError;
use switchback_store::StoreError;

/// What kind of refusal it is: decides an HTTP status, and whether trying again helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// What was asked for makes no sense.
    Invalid,
    /// There is no such thing.
    NotFound,
    /// It is there already, or somebody works on it.
    Conflict,
    /// Its state does not allow it.
    IllegalState,
    /// Whoever asks may not.
    Forbidden,
    /// A site or a component does not do its part.
    Unavailable,
    /// The store, or a bug.
    Internal,
}

/// A refusal, for people: what failed, the likely cause, what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct ControlError {
    /// What kind.
    pub kind: ErrorKind,
    /// Boxed: it is rare, and large.
    pub error: Box<JobError>,
}

impl ControlError {
    /// A refusal with a stable code and a message.
    #[must_use]
    pub fn new(kind: ErrorKind, code: &str, message: impl Into<String>) -> Self {
        let error = JobError {
            code: code.into(),
            message: message.into(),
            cause: String::new(),
            remedy: String::new(),
        };
        Self { kind, error: Box::new(error) }
    }

    /// Adds the likely cause.
    #[must_use]
    pub fn cause(mut self, cause: impl Into<String>) -> Self {
        self.error.cause = cause.into();
        self
    }

    /// Adds what to do.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.error.remedy = remedy.into();
        self
    }

    /// There is no such thing.
    #[must_use]
    pub fn not_found(what: &str, name: impl std::fmt::Display) -> Self {
        Self::new(
            ErrorKind::NotFound,
            &format!("{}.not-found", what.replace(' ', "-")),
            format!("there is no {what} {name}"),
        )
    }
}

impl From<StoreError> for ControlError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict { .. } => {
                Self::new(ErrorKind::Conflict, "store.conflict", error.to_string())
                    .remedy("look at it again, then try again")
            }
            other => Self::new(ErrorKind::Internal, "store.failed", other.to_string()),
        }
    }
}

impl From<AuthorityError> for ControlError {
    fn from(error: AuthorityError) -> Self {
        Self::new(ErrorKind::Internal, "authority.failed", error.to_string())
    }
}

impl From<Illegal> for ControlError {
    fn from(error: Illegal) -> Self {
        Self::new(ErrorKind::IllegalState, "protection.illegal", error.to_string())
    }
}

impl From<InvalidName> for ControlError {
    fn from(error: InvalidName) -> Self {
        Self::new(ErrorKind::Invalid, "name.invalid", error.to_string())
    }
}

impl From<SiteError> for ControlError {
    fn from(error: SiteError) -> Self {
        let (kind, code) = match &error {
            SiteError::NoSuchMachine { .. } => (ErrorKind::NotFound, "site.no-such-machine"),
            SiteError::NoSuchNetwork { .. } => (ErrorKind::Invalid, "site.no-such-network"),
            SiteError::NoSuchDatastore { .. } => (ErrorKind::Invalid, "site.no-such-datastore"),
            SiteError::NoSuchSnapshot { .. } => (ErrorKind::NotFound, "site.no-such-snapshot"),
            SiteError::Taken { .. } => (ErrorKind::Conflict, "site.id-taken"),
            SiteError::Running { .. } => (ErrorKind::IllegalState, "site.machine-running"),
            SiteError::NoRoom { .. } => (ErrorKind::Unavailable, "site.datastore-full"),
            _ => (ErrorKind::Unavailable, "site.failed"),
        };
        Self::new(kind, code, error.to_string())
    }
}
