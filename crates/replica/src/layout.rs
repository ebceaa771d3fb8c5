//! The names of a replica's files on its retention drive.
//!
//! Flat, with fixed-width numbers, so that a plain listing shows the history in order, and one directory
//! sync covers everything:
//! ```text
//! manifest                                             what the replica is
//! digests-<disk>                                       digest records of one disk
//! stage-<cycle>-<part>-<disk>.part                     a part being received, not acknowledged
//! stage-<cycle>-<part>-<disk>.delta                    a part that is durable
//! reverse-<from>-<to>-<disk>.delta                     the way from one point back to the one before
//! newest-<point>-<part>-<disk>.delta                   what the newest point has where the disks hold an older one
//! ```
//! A part gets its final name between the sync of its contents and the sync of the directory: a
//! `.delta` is complete, or something has been damaged.

use switchback_delta::DeltaContent;
use switchback_model::{DiskIndex, PartIndex, Seq};

/// What a file name of the retention drive says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FileName {
    Stage { seq: Seq, part: PartIndex, disk: DiskIndex, durable: bool },
    Reverse { from: Seq, to: Seq, disk: DiskIndex },
    Newest { of: Seq, part: PartIndex, disk: DiskIndex },
    Digests { disk: DiskIndex },
}

impl FileName {
    /// Whose it is.
    pub(crate) fn disk(self) -> DiskIndex {
        match self {
            Self::Stage { disk, .. }
            | Self::Reverse { disk, .. }
            | Self::Newest { disk, .. }
            | Self::Digests { disk } => disk,
        }
    }

    /// What the header of a delta with this name says.
    pub(crate) fn content(self) -> Option<DeltaContent> {
        match self {
            Self::Stage { seq, part, .. } | Self::Newest { of: seq, part, .. } => {
                Some(DeltaContent::Forward { seq, part })
            }
            Self::Reverse { from, to, .. } => Some(DeltaContent::Reverse { from, to }),
            Self::Digests { .. } => None,
        }
    }

    /// Parses a name; `None` for files that are not deltas or digests of a replica.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (stem, suffix) = name.split_once('.').unwrap_or((name, ""));
        let mut words = stem.split('-');
        let kind = words.next()?;
        let mut number = || words.next()?.parse::<u64>().ok();
        let parsed = match (kind, suffix) {
            ("stage", "part" | "delta") => Self::Stage {
                seq: Seq(number()?),
                part: PartIndex(number()?.try_into().ok()?),
                disk: DiskIndex(number()?.try_into().ok()?),
                durable: suffix == "delta",
            },
            ("reverse", "delta") => Self::Reverse {
                from: Seq(number()?),
                to: Seq(number()?),
                disk: DiskIndex(number()?.try_into().ok()?),
            },
            ("newest", "delta") => Self::Newest {
                of: Seq(number()?),
                part: PartIndex(number()?.try_into().ok()?),
                disk: DiskIndex(number()?.try_into().ok()?),
            },
            ("digests", "") => Self::Digests { disk: DiskIndex(number()?.try_into().ok()?) },
            _ => return None,
        };
        (parsed.to_string() == name).then_some(parsed)
    }
}

impl std::fmt::Display for FileName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Self::Stage { seq, part, disk, durable } => {
                let suffix = if durable { "delta" } else { "part" };
                write!(f, "stage-{:016}-{:06}-{:03}.{suffix}", seq.0, part.0, disk.0)
            }
            Self::Reverse { from, to, disk } => {
                write!(f, "reverse-{:016}-{:016}-{:03}.delta", from.0, to.0, disk.0)
            }
            Self::Newest { of, part, disk } => {
                write!(f, "newest-{:016}-{:06}-{:03}.delta", of.0, part.0, disk.0)
            }
            Self::Digests { disk } => write!(f, "digests-{:03}", disk.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use switchback_model::{DiskIndex, PartIndex, Seq};

    use super::FileName;

    #[test]
    fn names_round_trip_and_others_are_left_alone() {
        let names = [
            FileName::Stage { seq: Seq(7), part: PartIndex(3), disk: DiskIndex(1), durable: true },
            FileName::Stage { seq: Seq(u64::MAX), part: PartIndex(0), disk: DiskIndex(0), durable: false },
            FileName::Reverse { from: Seq(9), to: Seq(8), disk: DiskIndex(2) },
            FileName::Newest { of: Seq(9), part: PartIndex(1), disk: DiskIndex(2) },
            FileName::Digests { disk: DiskIndex(5) },
        ];
        for name in names {
            assert_eq!(FileName::parse(&name.to_string()), Some(name));
        }
        for other in
            ["manifest", "lock", "manifest.new", "stage-1-2-3.delta", "digests-000.x", "reverse-1.delta"]
        {
            assert_eq!(FileName::parse(other), None, "{other}");
        }
    }
}
