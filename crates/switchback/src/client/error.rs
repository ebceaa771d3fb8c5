//! Why a request came to nothing. Kinds are told apart by what a user does about them; [`ClientError::advice`] says what that is.

use std::error::Error;
use std::io;

use reqwest::StatusCode;
use serde_json::Value;

use super::connect::AuthorityError;
use super::token::TokenError;

/// What a server says when it refuses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    /// Stable, for looking it up.
    pub code: String,
    /// What failed.
    pub message: String,
    /// The likely cause, or nothing.
    pub cause: String,
    /// What to do, or nothing.
    pub remedy: String,
}

/// Why a request came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server's address is none.
    #[error("{server:?} is no address of a configuration server")]
    Address {
        /// What was given.
        server: String,
    },
    /// The authority's certificate is none.
    #[error("the authority of the configuration server is not usable")]
    Authority(#[from] AuthorityError),
    /// The token is none.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The HTTP client could not be set up.
    #[error("the HTTP client cannot be set up")]
    Setup {
        /// Why.
        source: reqwest::Error,
    },
    /// There is no connection.
    #[error("{server} cannot be reached: {why}")]
    Unreachable {
        /// The server.
        server: String,
        /// What the operating system says.
        why: String,
    },
    /// The other end is not who it should be.
    #[error("{server} is not trusted: {why}")]
    Untrusted {
        /// The server.
        server: String,
        /// What is wrong with its certificate.
        why: String,
        /// It is the authority that is wrong, not a name or a date.
        foreign: bool,
    },
    /// The connection broke off, or no answer came in time.
    #[error("{server} did not answer: {why}")]
    Interrupted {
        /// The server.
        server: String,
        /// Why.
        why: String,
    },
    /// 401.
    #[error("{server} does not accept the token: {}", refusal.message)]
    Unauthenticated {
        /// The server.
        server: String,
        /// What it said.
        refusal: Box<Refusal>,
    },
    /// 403.
    #[error("not permitted: {}", refusal.message)]
    Forbidden {
        /// What the server said.
        refusal: Box<Refusal>,
    },
    /// 404.
    #[error("{}", refusal.message)]
    NotFound {
        /// What the server said.
        refusal: Box<Refusal>,
    },
    /// 409.
    #[error("{}", refusal.message)]
    Conflict {
        /// What the server said.
        refusal: Box<Refusal>,
    },
    /// 429, 503 and 504: the server or what it needs is busy or away; later it may work.
    #[error("not possible just now ({status}): {}", refusal.message)]
    Busy {
        /// What HTTP calls it.
        status: u16,
        /// What the server said.
        refusal: Box<Refusal>,
    },
    /// Any other refusal.
    #[error("refused ({status}): {}", refusal.message)]
    Refused {
        /// What HTTP calls it.
        status: u16,
        /// What the server said.
        refusal: Box<Refusal>,
    },
    /// The answer is not what the contract says.
    #[error("the answer of {server} is not understood: {what}")]
    Strange {
        /// The server and path.
        server: String,
        /// What is wrong with it.
        what: String,
    },
    /// A job took longer than the user would wait.
    #[error("the job {job} has not ended within {seconds} s; it goes on")]
    StillRunning {
        /// The job's name.
        job: String,
        /// The limit.
        seconds: u64,
    },
}

impl ClientError {
    /// What failed while a request was on its way.
    pub(super) fn of_transport(server: &str, error: reqwest::Error) -> Self {
        let server = server.to_owned();
        let why = root_of(&error);
        if let Some(tls) = tls_error(&error) {
            use rustls::CertificateError::{BadSignature, UnknownIssuer};
            let foreign = matches!(tls, rustls::Error::InvalidCertificate(UnknownIssuer | BadSignature));
            return Self::Untrusted { server, why: tls.to_string(), foreign };
        }
        if error.is_connect() { Self::Unreachable { server, why } } else { Self::Interrupted { server, why } }
    }

    /// What a server refused.
    pub(super) fn of_status(server: &str, status: StatusCode, body: &[u8]) -> Self {
        let refusal = Box::new(Refusal::parse(status, body));
        let server = server.to_owned();
        match status.as_u16() {
            401 => Self::Unauthenticated { server, refusal },
            403 => Self::Forbidden { refusal },
            404 => Self::NotFound { refusal },
            409 => Self::Conflict { refusal },
            status @ (429 | 503 | 504) => Self::Busy { status, refusal },
            status => Self::Refused { status, refusal },
        }
    }

    /// Whether the same request may succeed a little later, so that whoever only looks may look again.
    #[must_use]
    pub const fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Interrupted { .. } | Self::Busy { .. })
    }

    /// The server's refusal, if it was one.
    #[must_use]
    pub const fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Unauthenticated { refusal, .. }
            | Self::Forbidden { refusal }
            | Self::NotFound { refusal }
            | Self::Conflict { refusal }
            | Self::Busy { refusal, .. }
            | Self::Refused { refusal, .. } => Some(refusal),
            _ => None,
        }
    }

    /// The likely cause, and what to do: what the server said, or else what is usual.
    #[must_use]
    pub fn advice(&self) -> (String, String) {
        let (cause, remedy) = self.usual();
        let said = self.refusal().cloned().unwrap_or_default();
        let first = |said: String, usual: &str| if said.is_empty() { usual.to_owned() } else { said };
        (first(said.cause, cause), first(said.remedy, remedy))
    }

    const fn usual(&self) -> (&'static str, &'static str) {
        match self {
            Self::Address { .. } => ("", "write it as https://HOST or https://HOST:PORT"),
            Self::Authority(_) => {
                ("", "give the authority's certificate with --ca-file, or add the profile anew")
            }
            Self::Token(_) => {
                ("", "give a file that holds the token alone with --token-file, or add the profile anew")
            }
            Self::Setup { .. } => ("", ""),
            Self::Unreachable { .. } => (
                "the address is wrong, the configuration server is down, or a firewall is between",
                "check the address with `switchback profile list`, and that port from this host",
            ),
            Self::Untrusted { foreign: true, .. } => (
                "the profile has another site's authority, the server was founded anew, or somebody is between",
                "get the authority's certificate (`switchback identity certificate` on the configuration server's host) and add the profile anew",
            ),
            Self::Untrusted { foreign: false, .. } => (
                "the server is addressed by a name that its certificate does not have, or a clock is wrong",
                "use the name that the server was set up with, and compare the clocks",
            ),
            Self::Interrupted { .. } => (
                "the server was stopped or is overloaded, or the network is",
                "what was asked for may have been done: look (`switchback job list`) before asking again",
            ),
            Self::Unauthenticated { .. } => (
                "it was deleted, belongs to another configuration server, or was not copied whole",
                "get a new one (`switchback token create` by a Contributor) and add the profile anew",
            ),
            Self::Forbidden { .. } => {
                ("the token's role does not allow it", "use a profile with a higher role")
            }
            Self::Busy { status: 503, .. } => ("what it takes does not answer or is not set up", ""),
            Self::Busy { .. } => ("", "try again in a moment"),
            Self::NotFound { .. } => (
                "",
                "the `list` command shows those there are; `switchback profile list` shows which server is asked",
            ),
            Self::Strange { .. } => (
                "the address is not that of a configuration server, or of a newer or older one than this program",
                "compare `switchback --version` here and there",
            ),
            Self::StillRunning { .. } => ("", "wait on with `switchback job wait`"),
            Self::Conflict { .. } | Self::Refused { .. } => ("", ""),
        }
    }
}

impl Refusal {
    /// Reads `{"error":{"code","message","details","additionalInfo"}}`, of codes the most exact; anything else is told by its status.
    fn parse(status: StatusCode, body: &[u8]) -> Self {
        let parsed: Value = serde_json::from_slice(body).unwrap_or_default();
        let text =
            |pointer: &str| parsed.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let info = |name: &str| text(&format!("/error/additionalInfo/0/info/{name}"));
        let whole = text("/error/message");
        let message = [info("message"), whole].into_iter().find(|text| !text.is_empty());
        Self {
            code: [text("/error/details/0/code"), text("/error/code")]
                .into_iter()
                .find(|code| !code.is_empty())
                .unwrap_or_default(),
            message: message
                .unwrap_or_else(|| status.canonical_reason().unwrap_or("no reason given").to_owned()),
            cause: info("possibleCauses"),
            remedy: info("recommendedAction"),
        }
    }
}

/// The TLS error in a chain, which hides inside I/O errors.
fn tls_error(error: &reqwest::Error) -> Option<&rustls::Error> {
    let mut next: Option<&(dyn Error + 'static)> = error.source();
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // An I/O error's `source` skips the error that it wraps.
        let within = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match within {
            Some(within) => Some(within),
            None => error.source(),
        };
    }
    None
}

/// The innermost error says it best: `connection refused`.
fn root_of(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".into();
    }
    let mut root: &(dyn Error + 'static) = error;
    while let Some(source) = root.source() {
        root = source;
    }
    root.to_string()
}
