//! Identifiers and counters: each its own type, so that a sequence number can never be passed as an
//! epoch.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// The one after this.
            ///
            /// # Panics
            /// When the counter is exhausted, which no schedule reaches in the life of a machine.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.checked_add(1).expect("counter exhausted"))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

counter! {
    /// The fencing counter of a protection: each change of direction increments it, and whoever
    /// holds an older one is refused.
    Epoch(u64)
}
counter! {
    /// The number of a cycle within one replica, and of the recovery point it becomes: one more than the
    /// newest point's. 0 is what the disks held before. The number of a cycle that was given up, or of a point
    /// that was rolled back, comes again.
    Seq(u64)
}
counter! {
    /// The number of a part (one delta) within a cycle, over all its disks, from 0. Later parts win
    /// over earlier ones.
    PartIndex(u32)
}
counter! {
    /// The position of a disk among the protected disks of its machine, from 0.
    DiskIndex(u16)
}

macro_rules! id128 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                let invalid = || InvalidName { text: text.into(), rule: "32 hexadecimal digits" };
                let digits = text.as_bytes();
                if digits.len() != 32 || !digits.iter().all(u8::is_ascii_hexdigit) {
                    return Err(invalid());
                }
                let mut bytes = [0; 16];
                for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
                    let pair = std::str::from_utf8(pair).map_err(|_| invalid())?;
                    *byte = u8::from_str_radix(pair, 16).map_err(|_| invalid())?;
                }
                Ok(Self(bytes))
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, InvalidName> {
                text.parse()
            }
        }
    };
}

id128! {
    /// One life of a change tracker: new at every attach that cannot prove continuity (boot, lost
    /// bitmap, doubt). A replica whose last point was made under the same generation can go on with
    /// changed blocks; any other needs a resync.
    GenerationId
}
id128! {
    /// The identity of a replica, drawn when it is created. Tells a replica apart from another that
    /// later got the same name.
    ReplicaId
}
id128! {
    /// The identity of a writing process, drawn at its start: two writers for one replica differ in it.
    WriterId
}

id128! {
    /// The identity of a protected machine, drawn when it is first protected; it stays the same wherever the machine lives.
    MachineId
}
id128! {
    /// The identity of a job.
    JobId
}

/// The name a user gave to something (a site, a group, a plan): 1 to 63 letters, digits, `.`, `_` or `-`, beginning with a letter
/// or digit. Case is kept for showing and does not tell names apart, as in Azure Resource Manager.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ObjectName(String);

impl ObjectName {
    /// As it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What tells it apart from others: lower case.
    #[must_use]
    pub fn key(&self) -> String {
        self.0.to_ascii_lowercase()
    }
}

impl PartialEq for ObjectName {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for ObjectName {}

impl PartialOrd for ObjectName {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ObjectName {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ObjectName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let valid = (1..=63).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
        if valid {
            Ok(Self(text.into()))
        } else {
            let rule = "1 to 63 letters, digits, '.', '_', '-', beginning with a letter or digit";
            Err(InvalidName { text: text.into(), rule })
        }
    }
}

impl TryFrom<String> for ObjectName {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<ObjectName> for String {
    fn from(name: ObjectName) -> Self {
        name.0
    }
}

/// The name of a replica at a target: 1 to 63 of `a-z 0-9 . _ -`, beginning with a letter or digit, so
/// that it is safe as a file name and in a log line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ReplicaName(String);

/// A text that is not a valid name or id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not valid here: it must be {rule}")]
pub struct InvalidName {
    /// What was given.
    pub text: String,
    /// What would be valid.
    pub rule: &'static str,
}

impl ReplicaName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ReplicaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ReplicaName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let valid = (1..=63).contains(&text.len())
            && text.starts_with(plain)
            && text.chars().all(|c| plain(c) || matches!(c, '.' | '_' | '-'));
        if valid {
            Ok(Self(text.into()))
        } else {
            let rule = "1 to 63 of a-z, 0-9, '.', '_', '-', beginning with a letter or digit";
            Err(InvalidName { text: text.into(), rule })
        }
    }
}

impl TryFrom<String> for ReplicaName {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<ReplicaName> for String {
    fn from(name: ReplicaName) -> Self {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::{GenerationId, ObjectName, ReplicaName};

    #[test]
    fn the_names_of_objects_keep_their_case_and_are_told_apart_without_it() {
        let (a, b): (ObjectName, ObjectName) =
            ("PG1_Failback".parse().unwrap(), "pg1_failback".parse().unwrap());
        assert_eq!(a, b);
        assert_eq!((a.as_str(), a.key()), ("PG1_Failback", b.key()));
        for bad in ["", "-a", "a/b", "a b", "é", &"x".repeat(64)] {
            assert!(bad.parse::<ObjectName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_that_could_leave_their_folder_or_break_a_log_line_are_refused() {
        for bad in ["", ".", "..", "../x", "a/b", "A", "a b", "-a", "a\n", &"x".repeat(64)] {
            assert!(bad.parse::<ReplicaName>().is_err(), "{bad:?}");
        }
        for good in ["a", "web01", "db-1.example_2", &"x".repeat(63)] {
            assert_eq!(good.parse::<ReplicaName>().unwrap().as_str(), good);
        }
    }

    #[test]
    fn ids_round_trip_as_text_and_refuse_anything_else() {
        let id = GenerationId(*b"0123456789abcdef");
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "zz", &"g".repeat(32), &"é".repeat(16), "+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1"] {
            assert!(bad.parse::<GenerationId>().is_err(), "{bad:?}");
        }
    }
}
