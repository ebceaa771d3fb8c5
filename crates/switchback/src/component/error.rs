//! Why the configuration server could not be asked, or said no.

use switchback_identity::CredentialsError;
use switchback_identity::tls::TlsFailure;
use switchback_model::JobError;

/// Why a call to the configuration server failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChannelError {
    /// Nobody answers there.
    #[error(
        "the configuration server at {server} cannot be reached: {detail}; is it running, and is its port open from here?"
    )]
    Unreachable {
        /// Address.
        server: String,
        /// The system's words.
        detail: String,
    },
    /// It is not the one, or does not take us.
    #[error("the configuration server at {server}: {failure}")]
    Identity {
        /// Address.
        server: String,
        /// What.
        failure: TlsFailure,
    },
    /// It said no.
    #[error("the configuration server at {server} refuses: {error}")]
    Refused {
        /// Address.
        server: String,
        /// HTTP status.
        status: u16,
        /// Its words.
        error: Box<JobError>,
    },
    /// It has been replaced.
    #[error(
        "the configuration server at {server} has been replaced by one that was restored from its backup (incarnation {known}, this one {found}): nothing is \
         taken from it any more; stop it"
    )]
    Outdated {
        /// Address.
        server: String,
        /// Its incarnation.
        found: u64,
        /// The highest that was met.
        known: u64,
    },
    /// It says that it was restored, and the authority does not.
    #[error(
        "the configuration server at {server} says that it was restored from a backup (incarnation {found}), and cannot prove it by the signature of the site's \
         authority: nothing is taken from it. It may be in foreign hands: look at its host"
    )]
    Unproved {
        /// Address.
        server: String,
        /// The incarnation that it claims.
        found: u64,
    },
    /// It did not answer in time.
    #[error(
        "the configuration server at {server} has not answered within {limit_s} s; the machine or the network between is too busy"
    )]
    TimedOut {
        /// Address.
        server: String,
        /// Seconds.
        limit_s: u64,
    },
    /// What it says makes no sense.
    #[error(
        "the configuration server at {server} answers with something else than expected ({detail}); bring both to the same version"
    )]
    Protocol {
        /// Address.
        server: String,
        /// What.
        detail: String,
    },
    /// This component's certificate.
    #[error("{detail}")]
    Credentials {
        /// What is wrong with it, and what to do.
        detail: String,
    },
}

impl ChannelError {
    /// Whether another address of the configuration server may do better.
    pub(super) fn is_of_this_server(&self) -> bool {
        match self {
            // One that was replaced does not know who has enrolled since.
            Self::Refused { error, .. } => {
                ["server.superseded", "component.removed"].contains(&error.code.as_str())
            }
            Self::Credentials { .. } => false,
            _ => true,
        }
    }
}

impl From<CredentialsError> for ChannelError {
    fn from(error: CredentialsError) -> Self {
        Self::Credentials { detail: error.to_string() }
    }
}
