//! What goes wrong with Azure, in words of a user: what was refused, what the cause may be, what to do, and a code in brackets.

use std::time::Duration;

use crate::SiteError;

/// Why a call to Azure did not do what it was to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AzureError {
    /// The settings have a mistake.
    #[error("{0} [azure-settings]")]
    Settings(String),
    /// A server does not answer.
    #[error(
        "{server} cannot be reached: {detail}. Check the network, a proxy or firewall between, and the name service [azure-unreachable]"
    )]
    Unreachable {
        /// Its address.
        server: String,
        /// What happened.
        detail: String,
    },
    /// A server's certificate is not trusted.
    #[error(
        "{server} shows a certificate that is not trusted: {detail}. If a proxy looks into TLS, let `cloud.certificates` name its authority [azure-certificate]"
    )]
    Untrusted {
        /// Its address.
        server: String,
        /// What is wrong with it.
        detail: String,
    },
    /// No token was given.
    #[error(
        "no token was given: {detail}. Check tenant, client and secret of the site's account, whether the secret has expired, or whether the identity is assigned to this host [azure-token]"
    )]
    Token {
        /// What the authority says, without secrets.
        detail: String,
        /// Trying again may help.
        passing: bool,
    },
    /// Azure refuses.
    #[error("{message} ({code}, HTTP status {status}). {} [{}]", remedy(code, *status, message).0, remedy(code, *status, message).1)]
    Refused {
        /// HTTP status.
        status: u16,
        /// Azure's code.
        code: String,
        /// Azure's message.
        message: String,
    },
    /// It took too long.
    #[error("{what} is not over after {} s; Azure goes on with it, and the next attempt looks how far it is [azure-slow]", limit.as_secs())]
    Unfinished {
        /// What.
        what: String,
        /// How long it was waited for.
        limit: Duration,
    },
    /// An answer makes no sense.
    #[error("Azure's answer is not understood: {0} [azure-protocol]")]
    Protocol(String),
    /// It is refused here, before Azure is asked.
    #[error("{0}")]
    Impossible(String),
}

/// What to do about a refusal, and the code under which it is known.
fn remedy(code: &str, status: u16, message: &str) -> (&'static str, &'static str) {
    let is_quota = code == "QuotaExceeded" || (code == "OperationNotAllowed" && message.contains("quota"));
    match code {
        _ if is_quota => (
            "The region's quota of cores is used up: ask for more in the portal (Subscriptions, Usage + quotas), free some, or choose a smaller size",
            "azure-quota",
        ),
        "SkuNotAvailable"
        | "AllocationFailed"
        | "ZonalAllocationFailed"
        | "OverconstrainedAllocationRequest" => (
            "The region has no such hardware free now: try again later, or choose another size or zone",
            "azure-capacity",
        ),
        "AuthorizationFailed" | "LinkedAuthorizationFailed" | "AuthorizationPermissionMismatch" => (
            "Give the site's account the role of docs/azure-site.md on the resource group",
            "azure-permission",
        ),
        "AuthenticationFailed" if status == 403 => {
            ("The container's SAS has expired or allows too little: give the site a new one", "azure-sas")
        }
        "PrivateIPAddressInUse" | "PrivateIPAddressIsAllocated" | "PrivateIPAddressNotInSubnet" => {
            ("Choose an address of the subnet that is free, or let Azure choose", "azure-address")
        }
        "SubnetIsFull" => ("Use a larger subnet, or free addresses in it", "azure-subnet-full"),
        "ConflictingUserInput" => ("Detach the disk from the machine that has it", "azure-disk-attached"),
        "InvalidVhd" | "InvalidVhdBlob" => {
            ("The replica's blob is damaged: resynchronize the machine", "azure-vhd")
        }
        "ResourceGroupNotFound" => {
            ("Create the resource group, or correct the site's settings", "azure-group")
        }
        _ if status == 429 => {
            ("Azure throttles this subscription: try again in some minutes", "azure-throttled")
        }
        _ if status == 401 => ("Check the site's account and its roles", "azure-token"),
        _ if status >= 500 => {
            ("Azure has a fault of its own: try again, and look at status.azure.com", "azure-fault")
        }
        _ => ("Look up the code in Azure's documentation", "azure-refused"),
    }
}

impl AzureError {
    /// Whether it may work when it is tried again.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Unfinished { .. } => true,
            Self::Token { passing, .. } => *passing,
            Self::Refused { status, code, .. } => {
                let later =
                    ["AllocationFailed", "ZonalAllocationFailed", "OperationPreempted", "ResourceNotReady"];
                *status == 429 || *status >= 500 || later.contains(&code.as_str())
            }
            _ => false,
        }
    }

    /// Whether Azure gave this code.
    pub(super) fn is(&self, wanted: &str) -> bool {
        matches!(self, Self::Refused { code, .. } if code == wanted)
    }
}

/// Turns what went wrong in a call into what went wrong at the site.
pub(super) fn failed(action: impl Into<String>) -> impl FnOnce(AzureError) -> SiteError {
    let action = action.into();
    move |error| SiteError::Failed { action, passing: error.is_passing(), detail: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_to_do() {
        let quota = AzureError::Refused {
            status: 409,
            code: "OperationNotAllowed".into(),
            message: "exceeding approved Total Regional Cores quota".into(),
        };
        assert!(quota.to_string().contains("Usage + quotas") && quota.to_string().ends_with("[azure-quota]"));
        assert!(!quota.is_passing());
        let other = AzureError::Refused {
            status: 409,
            code: "OperationNotAllowed".into(),
            message: "attached".into(),
        };
        assert!(other.to_string().ends_with("[azure-refused]"));
        let throttled =
            AzureError::Refused { status: 429, code: "TooManyRequests".into(), message: "slow".into() };
        assert!(throttled.is_passing() && throttled.to_string().contains("[azure-throttled]"));
    }
}
