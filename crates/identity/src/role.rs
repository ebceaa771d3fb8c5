//! Roles and names, and how a certificate states them.
//!
//! A certificate carries exactly one URI `switchback://<role>/<name>` as subject alternative name. Host
//! names and addresses say nothing here: machines move between sites, that is what the product is for.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use switchback_model::{InvalidName, ReplicaName};

/// What a component is, and therefore what it may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// A mobility agent: reads disks, sends them.
    Source,
    /// A process server: takes deltas, keeps them, sends them on.
    ProcessServer,
    /// A master target: keeps replicas.
    Target,
    /// A person's command line.
    Operator,
    /// The control plane, with the site's authority. Issued where the authority is, never by enrolment.
    ConfigurationServer,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Source, Self::ProcessServer, Self::Target, Self::Operator, Self::ConfigurationServer];

    /// The role as certificates and messages write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::ProcessServer => "process-server",
            Self::Target => "target",
            Self::Operator => "operator",
            Self::ConfigurationServer => "configuration-server",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let rule = "source, process-server, target, operator or configuration-server";
        Self::ALL
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| InvalidName { text: text.chars().take(64).collect(), rule })
    }
}

/// The name of a component, unique within its role at a site. Under the same rule as a [`ReplicaName`]:
/// 1 to 63 of `a-z 0-9 . _ -`, beginning with a letter or digit, so it needs no escaping in a URI.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ComponentName(ReplicaName);

impl ComponentName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for ComponentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ComponentName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        text.parse().map(Self)
    }
}

/// Who the other end of a connection is, as its certificate proves.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PeerIdentity {
    /// What it is.
    pub role: Role,
    /// Which one.
    pub name: ComponentName,
}

const SCHEME: &str = "switchback://";

impl PeerIdentity {
    /// The identity as a certificate states it.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("{SCHEME}{}/{}", self.role, self.name)
    }

    /// The identity a URI states, if it is one of ours.
    #[must_use]
    pub fn from_uri(uri: &str) -> Option<Self> {
        let (role, name) = uri.strip_prefix(SCHEME)?.split_once('/')?;
        Some(Self { role: role.parse().ok()?, name: name.parse().ok()? })
    }
}

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.role, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::{PeerIdentity, Role};

    #[test]
    fn every_role_comes_back_from_its_uri_and_nothing_else_does() {
        for role in Role::ALL {
            let identity = PeerIdentity { role, name: "web-01.example".parse().unwrap() };
            assert_eq!(PeerIdentity::from_uri(&identity.uri()), Some(identity));
        }
        for bad in [
            "",
            "switchback://",
            "switchback://target",
            "switchback://target/",
            "switchback://admin/x",
            "switchback://target/x/y",
            "https://target/x",
            "Switchback://target/x",
            "switchback://target/X",
        ] {
            assert_eq!(PeerIdentity::from_uri(bad), None, "{bad}");
        }
    }
}
