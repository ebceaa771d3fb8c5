//! The manifest: the one small file that says what a replica is. Whatever it does not name is garbage.
//!
//! # Layout
//! ```text
//! switchback-replica <format> <BLAKE3 of the body, 64 hexadecimal digits>\n
//! <body: JSON of `Manifest`>
//! ```
//! Format 1 is a replica whose disks hold its newest applied point; format 2 is written, and needed, only while it stands at
//! a point ([`Standing`]): a build that does not know of it must not take what is on the disks for the newest state. Format 3 is one
//! some of whose points lack a disk: a build that does not know that must not give such a point out as whole.
//!
//! Text, so that it can be read on the worst day with nothing but a pager; the version before the checksum,
//! so that a newer format is told apart from damage. It is only ever replaced whole
//! ([`Volume::write_atomic`]); everything it names is durable before it is written, and nothing it named is
//! removed before its successor is durable.
//!
//! # Invariants (checked by [`Manifest::check`] on every load and, in debug builds, every save)
//! * `points` ascend; `applied` and every staged cycle is among them, staged ones above `applied`.
//! * `reverse` is a chain down from `applied` (or from the cycle being applied) to the oldest point.
//! * while it stands at a point nothing is staged: `applied` is the newest point, to which `standing` knows the way.
//! * before the first commit there are no points, and `filling` says whether disks may hold anything.

use serde::{Deserialize, Serialize};
use switchback_disk::Volume;
use switchback_model::{DiskIndex, Epoch, GenerationId, PartIndex, RecoveryPoint, ReplicaId, Seq};

use crate::membership::Membership;
use crate::{CycleKind, DiskSpec, ReplicaError, error::volume_error, sealed_text};

/// The file's name in its volume.
pub(crate) const MANIFEST: &str = "manifest";
const MAGIC: &str = "switchback-replica";
/// Plain; standing at a point; with points that lack disks, standing or not.
const VERSIONS: [u32; 3] = [1, 2, 3];
/// 256 MiB: some hundred thousand recovery points.
const LEN_MAX: usize = 256 << 20;

/// What a replica is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) id: ReplicaId,
    pub(crate) epoch: Epoch,
    pub(crate) disks: Vec<DiskSpec>,
    /// All recovery points, oldest first.
    pub(crate) points: Vec<RecoveryPoint>,
    /// The newest point that is on the disks, but for `work` and `standing`.
    pub(crate) applied: Option<Seq>,
    /// Committed cycles that are not applied yet, oldest first.
    pub(crate) staged: Vec<StagedCycle>,
    /// Ways back, oldest first: each leads from its `from` down to its `to`.
    pub(crate) reverse: Vec<ReverseDelta>,
    /// What is being done to the disks; done again from its start after a crash.
    pub(crate) work: Option<Work>,
    /// A first replication is writing straight to the disks: their digests are not to be trusted after a crash.
    pub(crate) filling: bool,
    /// Under which generation the newest point was made, if changed blocks may follow it.
    pub(crate) generation: Option<GenerationId>,
    pub(crate) open: Option<OpenRecord>,
    /// The disks are away from the newest point, and can be brought back to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) standing: Option<Standing>,
    #[serde(flatten)]
    pub(crate) members: Membership,
}

/// A committed cycle waiting to be applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StagedCycle {
    pub(crate) seq: Seq,
    /// In order; a later part wins.
    pub(crate) parts: Vec<StagedPart>,
}

/// One durable part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StagedPart {
    pub(crate) part: PartIndex,
    pub(crate) disk: DiskIndex,
    pub(crate) file_len: u64,
}

/// What turns the disks at point `from` into what they were at point `to`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReverseDelta {
    pub(crate) from: Seq,
    pub(crate) to: Seq,
    /// At most one for each disk; none for a disk that did not change.
    pub(crate) files: Vec<ReverseFile>,
}

/// The reverse delta of one disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReverseFile {
    pub(crate) disk: DiskIndex,
    pub(crate) file_len: u64,
}

/// The disks hold an older point, for a time.
///
/// What is in no file of `newest` is on the disks as it is at the newest point: it is never written while this exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Standing {
    /// The point that the disks hold, but for `work`.
    pub(crate) at: Seq,
    /// The oldest point it has stood at: `newest` holds what the ways back from above it hold, no more and no less.
    pub(crate) lowest: Seq,
    /// What the newest point has in the blocks that the disks may have otherwise; no block is in two of them.
    pub(crate) newest: Vec<NewestFile>,
}

/// One forward delta of a [`Standing`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NewestFile {
    /// In the order in which they were added.
    pub(crate) part: PartIndex,
    pub(crate) disk: DiskIndex,
    pub(crate) file_len: u64,
}

/// A change of the disks in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Work {
    /// The staged cycle `seq` is being written; its reverse delta is durable.
    Apply { seq: Seq },
    /// The disks are being brought back to point `to`.
    RollBack { to: Seq },
    /// The disks are being brought to the point at which they are to stand.
    Stand,
}

/// The open cycle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OpenRecord {
    pub(crate) seq: Seq,
    pub(crate) generation: GenerationId,
    pub(crate) kind: CycleKind,
    /// Its frames go straight to the disks.
    pub(crate) fill: bool,
}

impl Manifest {
    pub(crate) fn new(id: ReplicaId, disks: Vec<DiskSpec>) -> Self {
        Self {
            id,
            epoch: Epoch(0),
            disks,
            points: Vec::new(),
            applied: None,
            staged: Vec::new(),
            reverse: Vec::new(),
            work: None,
            filling: false,
            generation: None,
            open: None,
            standing: None,
            members: Membership::default(),
        }
    }

    pub(crate) fn load(volume: &dyn Volume) -> Result<Self, ReplicaError> {
        let data = volume
            .read_all(MANIFEST, LEN_MAX)
            .map_err(|e| volume_error(volume, "reading the manifest", &e))?;
        Self::decode(&data).map_err(|detail| ReplicaError::Corrupt {
            detail: format!("the manifest in {}: {detail}", volume.name()),
        })
    }

    pub(crate) fn save(&self, volume: &dyn Volume) -> Result<(), ReplicaError> {
        debug_assert_eq!(self.check(), Ok(()), "{self:?}");
        let saved = volume.write_atomic(MANIFEST, &self.encode());
        saved.map_err(|e| volume_error(volume, "writing the manifest", &e))
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        sealed_text::encode(MAGIC, self.version(), self)
    }

    fn version(&self) -> u32 {
        VERSIONS[if self.members.is_told(&self.points) { 2 } else { usize::from(self.standing.is_some()) }]
    }

    pub(crate) fn decode(data: &[u8]) -> Result<Self, String> {
        let (version, manifest): (u32, Self) = sealed_text::decode(MAGIC, &VERSIONS, data)?;
        manifest.check()?;
        if manifest.version() != version {
            return Err(format!(
                "it says that it has format {version}, but has format {}",
                manifest.version()
            ));
        }
        Ok(manifest)
    }

    /// Whether the manifest makes sense.
    pub(crate) fn check(&self) -> Result<(), String> {
        let seqs: Vec<_> = self.points.iter().map(|point| point.seq).collect();
        if !seqs.is_sorted_by(|a, b| a < b) {
            return Err(format!("its recovery points are out of order: {seqs:?}"));
        }
        if self.applied.is_none() && !(self.staged.is_empty() && self.reverse.is_empty() && seqs.is_empty()) {
            return Err("it has recovery points but says that none was applied".into());
        }
        if self.applied.is_some_and(|applied| !seqs.contains(&applied)) {
            return Err(format!("the applied point {:?} is not among its points {seqs:?}", self.applied));
        }
        let above: Vec<_> = seqs.iter().copied().filter(|seq| Some(*seq) > self.applied).collect();
        if above != self.staged.iter().map(|cycle| cycle.seq).collect::<Vec<_>>() {
            return Err(format!("the points {above:?} should be those staged"));
        }
        self.members.check(self.disks.len(), &self.points)?;
        self.check_standing(&seqs)?;
        self.check_reverse(&seqs)
    }

    fn check_standing(&self, seqs: &[Seq]) -> Result<(), String> {
        let Some(standing) = &self.standing else {
            return if self.work == Some(Work::Stand) {
                Err("its disks are being brought to a point that it does not name".into())
            } else {
                Ok(())
            };
        };
        if !matches!(self.work, None | Some(Work::Stand)) || !self.staged.is_empty() || self.filling {
            return Err(format!("it stands at point {} while something else is being done", standing.at));
        }
        if !seqs.contains(&standing.at) || standing.lowest > standing.at {
            return Err(format!(
                "it stands at point {} and has stood at {}, its points are {seqs:?}",
                standing.at, standing.lowest
            ));
        }
        let names: Vec<_> = standing.newest.iter().map(|file| (file.part, file.disk)).collect();
        let foreign = standing.newest.iter().any(|file| usize::from(file.disk.0) >= self.disks.len());
        if foreign || !names.is_sorted_by(|a, b| a < b) {
            return Err(format!(
                "the files of its newest point are {names:?}, out of order or of unknown disks"
            ));
        }
        Ok(())
    }

    fn check_reverse(&self, seqs: &[Seq]) -> Result<(), String> {
        let mut below: Vec<_> = seqs.iter().copied().filter(|seq| Some(*seq) <= self.applied).collect();
        match (self.work, self.reverse.last()) {
            (Some(Work::Apply { seq }), _) => below.push(seq),
            // An apply that was given up: its way back is the first one to go.
            (Some(Work::RollBack { .. }), Some(last)) if Some(last.to) == self.applied => {
                below.push(last.from)
            }
            _ => {}
        }
        let expected: Vec<_> = below.windows(2).map(|pair| (pair[1], pair[0])).collect();
        let found: Vec<_> = self.reverse.iter().map(|reverse| (reverse.from, reverse.to)).collect();
        if expected != found {
            return Err(format!("its reverse deltas are {found:?}, its points need {expected:?}"));
        }
        Ok(())
    }

    /// The disks hold point `to`, and no newer one is to be had any more.
    pub(crate) fn forget_after(&mut self, to: Seq) {
        self.applied = Some(to);
        self.generation = None;
        self.points.retain(|point| point.seq <= to);
        self.reverse.retain(|delta| delta.from <= to);
        self.members.follow(&self.points);
    }

    /// The number of the next cycle: that after the newest point. A cycle that was given up, and points that were rolled
    /// back, leave no gap: a process server on the way, which does not know of them, counts the same.
    pub(crate) fn next_seq(&self) -> Seq {
        self.points.last().map_or(Seq(1), |point| point.seq.next())
    }

    pub(crate) fn point(&self, seq: Seq) -> Result<&RecoveryPoint, ReplicaError> {
        let found = self.points.iter().find(|point| point.seq == seq);
        found.ok_or(ReplicaError::NoSuchPoint { seq: seq.0 })
    }

    /// The point that the disks hold, if they hold one: not while they are being brought to where they are to stand.
    pub(crate) fn stands_at(&self) -> Option<Seq> {
        let standing = self.standing.as_ref().filter(|_| self.work.is_none());
        standing.map(|standing| standing.at)
    }

    /// Refuses whoever would write, while the disks are away from the newest point.
    pub(crate) fn check_not_standing(&self) -> Result<(), ReplicaError> {
        match &self.standing {
            Some(standing) => Err(ReplicaError::Standing { at: standing.at.0 }),
            None => Ok(()),
        }
    }

    /// Bytes that staged cycles, ways back and the way to the newest point take.
    pub(crate) fn bytes_kept(&self) -> u64 {
        let staged = self.staged.iter().flat_map(|cycle| &cycle.parts).map(|part| part.file_len);
        let reverse = self.reverse.iter().flat_map(|delta| &delta.files).map(|file| file.file_len);
        let newest = self.standing.iter().flat_map(|standing| &standing.newest).map(|file| file.file_len);
        staged.chain(reverse).chain(newest).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three points, the newest on the disks, as a build that knew nothing of standing wrote it.
    const BODY: &str = r#"{
        "id": "01010101010101010101010101010101", "epoch": 4, "disks": [{"size": 65536}],
        "points": [
            {"seq": 1, "time": 1000, "consistency": "crash-consistent", "group_tag": null},
            {"seq": 2, "time": 2000, "consistency": "crash-consistent", "group_tag": null},
            {"seq": 5, "time": 3000, "consistency": "crash-consistent", "group_tag": null}
        ],
        "applied": 5, "staged": [],
        "reverse": [
            {"from": 2, "to": 1, "files": [{"disk": 0, "file_len": 300}]},
            {"from": 5, "to": 2, "files": []}
        ],
        "work": null, "filling": false, "generation": null, "open": null
    }"#;

    fn with_format(format: u32, body: &str) -> Vec<u8> {
        format!("{MAGIC} {format} {}\n{body}", blake3::hash(body.as_bytes()).to_hex()).into_bytes()
    }

    fn standing() -> Manifest {
        let file = |part, disk| NewestFile { part: PartIndex(part), disk: DiskIndex(disk), file_len: 200 };
        let standing = Standing { at: Seq(2), lowest: Seq(1), newest: vec![file(0, 0), file(1, 0)] };
        Manifest { standing: Some(standing), ..Manifest::decode(&with_format(1, BODY)).unwrap() }
    }

    #[test]
    fn the_format_is_the_least_that_says_it_all_and_must_fit() {
        let manifest = Manifest::decode(&with_format(1, BODY)).unwrap();
        assert_eq!((manifest.epoch, manifest.stands_at(), manifest.bytes_kept()), (Epoch(4), None, 300));
        assert!(manifest.encode().starts_with(b"switchback-replica 1 "));
        assert!(Manifest::decode(&with_format(2, BODY)).is_err(), "without a standing point");
        assert!(Manifest::decode(&with_format(3, BODY)).is_err(), "with nothing that a point lacks");
        let refused = Manifest::decode(&with_format(4, BODY)).unwrap_err();
        assert!(refused.contains("newer build"), "{refused}");

        let encoded = standing().encode();
        assert!(encoded.starts_with(b"switchback-replica 2 "));
        assert_eq!(Manifest::decode(&encoded), Ok(standing()));
        assert_eq!((standing().stands_at(), standing().bytes_kept()), (Some(Seq(2)), 700));
        let moving = Manifest { work: Some(Work::Stand), ..standing() };
        assert_eq!(Manifest::decode(&moving.encode()), Ok(moving.clone()));
        assert_eq!(moving.stands_at(), None);

        let mut lacking = standing();
        lacking.points[0].lacks = vec![DiskIndex(0)];
        assert!(lacking.encode().starts_with(b"switchback-replica 3 "));
        assert_eq!(Manifest::decode(&lacking.encode()), Ok(lacking.clone()));
        for disks in [vec![DiskIndex(1)], vec![DiskIndex(0); 2]] {
            lacking.points[0].lacks = disks;
            assert!(Manifest::decode(&lacking.encode()).is_err(), "{lacking:?}");
        }
        let claimed = Manifest {
            members: Membership { removed: vec![DiskIndex(0)], ..Membership::default() },
            ..standing()
        };
        assert!(Manifest::decode(&claimed.encode()).is_err(), "a point claims what was removed");
    }

    #[test]
    fn no_standing_that_makes_no_sense_is_read() {
        type Alteration = (&'static str, fn(&mut Manifest));
        fn of(manifest: &mut Manifest) -> &mut Standing {
            manifest.standing.as_mut().unwrap()
        }
        let alterations: [Alteration; 8] = [
            ("at no point", |manifest| of(manifest).at = Seq(3)),
            ("below the lowest", |manifest| of(manifest).lowest = Seq(5)),
            ("with a cycle staged", |manifest| {
                manifest.applied = Some(Seq(2));
                manifest.reverse.pop();
                manifest.staged.push(StagedCycle { seq: Seq(5), parts: Vec::new() });
            }),
            ("rolling back", |manifest| manifest.work = Some(Work::RollBack { to: Seq(2) })),
            ("filling", |manifest| manifest.filling = true),
            ("a disk there is not", |manifest| of(manifest).newest[1].disk = DiskIndex(1)),
            ("a file twice", |manifest| of(manifest).newest[1].part = PartIndex(0)),
            ("on the way to nowhere", |manifest| {
                manifest.standing = None;
                manifest.work = Some(Work::Stand);
            }),
        ];
        for (what, alter) in alterations {
            let mut manifest = standing();
            alter(&mut manifest);
            assert!(Manifest::decode(&manifest.encode()).is_err(), "{what}");
        }
    }
}
