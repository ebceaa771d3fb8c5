//! Faults that a test plans: what happens to the next calls that fit.

use super::answer::{ArmError, Request};

/// What a call meets.
#[derive(Debug, Clone)]
pub enum Fault {
    /// 429, with the seconds after which to come again.
    Throttled {
        /// `Retry-After`.
        retry_after_s: u64,
    },
    /// The call is refused with this status, code and message.
    Refused {
        /// HTTP status.
        status: u16,
        /// ARM's code.
        code: &'static str,
        /// ARM's message.
        message: &'static str,
    },
    /// What it begins goes on for a while, and fails: half of it may be there.
    FailsLater {
        /// ARM's code.
        code: &'static str,
        /// ARM's message.
        message: &'static str,
    },
    /// It is done, and the answer is lost on the way: a gateway answers 504.
    AnswerLost,
    /// The token has expired.
    TokenExpired,
}

/// A fault that is to come.
#[derive(Debug)]
pub(super) struct Planned {
    method: String,
    part: String,
    fault: Fault,
    left: u32,
}

impl Planned {
    pub(super) fn new(method: &str, part: &str, fault: Fault, count: u32) -> Self {
        Self { method: method.to_owned(), part: part.to_lowercase(), fault, left: count }
    }
}

/// The fault that a request meets, which is then one fewer.
pub(super) fn take(planned: &mut [Planned], request: &Request) -> Option<Fault> {
    let path = request.path().to_lowercase();
    let fits = |one: &&mut Planned| one.left > 0 && one.method == request.method && path.contains(&one.part);
    let found = planned.iter_mut().find(fits)?;
    found.left -= 1;
    Some(found.fault.clone())
}

impl Fault {
    /// The error with which a call is refused at once.
    pub(super) fn refusal(&self) -> Option<ArmError> {
        match self {
            Self::Throttled { retry_after_s } => Some(ArmError {
                retry_after_s: Some(*retry_after_s),
                ..ArmError::new(
                    429,
                    "TooManyRequests",
                    "The server rejected the request because too many requests have been received for this subscription.",
                )
            }),
            Self::Refused { status, code, message } => Some(ArmError::new(*status, code, *message)),
            Self::TokenExpired => Some(ArmError::new(
                401,
                "ExpiredAuthenticationToken",
                "The access token expiry UTC time is earlier than current UTC time.",
            )),
            Self::FailsLater { .. } | Self::AnswerLost => None,
        }
    }
}
