//! The manifest of a page-blob replica: the one small blob that says what the replica is. Whatever it does not name is garbage.
//!
//! Text as [`sealed_text`] has it. It is only ever replaced whole, by whoever read it last (If-Match); everything it names is durable
//! before it is written, and nothing it named is deleted before its successor is durable.
//!
//! # Names are never used twice
//! Each opening of the replica writes the manifest once and so gets a number (`opening`) that nobody else has. The names of all blobs made
//! under it begin with that number, and go on with a count. So a request that arrives late, or a process that has lost the replica and does not know
//! yet, can make garbage, but never change what another manifest names.
//!
//! # Invariants (checked by [`BlobManifest::check`] on every load and, in debug builds, every save)
//! * `points` ascend; `bases` ascend; `staged` ascends, and every staged cycle has its sequence number once.
//! * the newest base is what has been applied; there is none before the first apply: the disks are empty then.
//! * while the page blobs are filled there is no point, no snapshot, nothing staged.
//! * every point can be had: the newest base at or below it, and all cycles between.
//! * of a disk that was removed nothing is named; no two disks have one page blob, and none that is to be deleted.
//!
//! # Formats
//! Formats 1 and 2 are of replicas each of whose points holds all disks, in page blobs that are called by their numbers. Format 3 is written, and needed, as soon as
//! that is not so: a build that knows nothing of it must not give a point out as whole that lacks a disk, nor write to another disk's page blob.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use switchback_model::{DiskIndex, Epoch, GenerationId, RecoveryPoint, ReplicaId, Seq};

use super::reshape::BlobDisk;
use super::store::SnapshotId;
use super::{Behind, opening_of};
use crate::membership::Membership;
use crate::{CycleKind, DiskSpec, ReplicaError, sealed_text};

/// The blob's name.
pub(crate) const MANIFEST: &str = "manifest";
const MAGIC: &str = "switchback-blob-replica";
/// 1: the first replication was staged, too. 2: [`OpenRecord::filled`]. 3: disks that come and go.
const VERSIONS: [u32; 3] = [1, 2, 3];
/// Disks of a replica, with those that were removed from it.
pub(crate) const DISKS_MAX: usize = 64;

/// What a replica is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BlobManifest {
    pub(crate) id: ReplicaId,
    pub(crate) epoch: Epoch,
    /// How often the replica has been opened: only the last opening may write.
    pub(crate) opening: u64,
    /// How often the manifest has been written: no two are alike.
    pub(crate) version: u64,
    pub(crate) disks: Vec<DiskSpec>,
    /// The names of their page blobs, empty of a disk that was removed. None at all: each is called by its number.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) page_blobs: Vec<String>,
    #[serde(flatten)]
    pub(crate) members: Membership,
    /// Blobs of disks that are to be deleted, or are being made and not used yet: of no use whoever has their leases.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) dropped: Vec<String>,
    /// All recovery points, oldest first.
    pub(crate) points: Vec<RecoveryPoint>,
    /// Points whose contents are in snapshots, oldest first. Those that were let go may be among them.
    pub(crate) bases: Vec<Base>,
    /// Committed cycles that some point needs or that are not applied, oldest first.
    pub(crate) staged: Vec<StagedCycle>,
    /// The page blobs are being brought to this cycle; done again from its start after a crash.
    pub(crate) applying: Option<Seq>,
    /// Where the digests are.
    pub(crate) digests: Digests,
    /// Under which generation the newest point was made, if changed blocks may follow it.
    pub(crate) generation: Option<GenerationId>,
    pub(crate) open: Option<OpenRecord>,
    /// A failover has clones of a point's disks, and nobody may write.
    pub(crate) standing: Option<Clones>,
    /// Clones for test failovers.
    pub(crate) views: BTreeMap<String, Clones>,
    /// It is being removed: nothing of it counts any more.
    pub(crate) removing: bool,
}

/// A moment at which snapshots hold all that was committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Base {
    pub(crate) seq: Seq,
    /// One for each disk; none for a disk that still is empty, or was removed.
    pub(crate) disks: Vec<Option<SnapshotId>>,
}

/// A committed cycle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StagedCycle {
    pub(crate) seq: Seq,
    /// In order; a later part wins.
    pub(crate) parts: Vec<StagedPart>,
}

/// One durable part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StagedPart {
    pub(crate) disk: DiskIndex,
    /// Empty in the open cycle, if it came for a disk that was removed: nothing was kept of it.
    pub(crate) blob: String,
    /// Bytes.
    pub(crate) len: u64,
}

/// The side-car: one page blob for each disk, see [`DigestFile`](crate::digest_file::DigestFile).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Digests {
    /// Empty for a disk that was removed.
    pub(crate) blobs: Vec<String>,
    /// What has no record was never written, so it is zero; else it is unknown.
    pub(crate) absent_is_zero: bool,
}

/// The open cycle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OpenRecord {
    pub(crate) seq: Seq,
    pub(crate) generation: GenerationId,
    pub(crate) kind: CycleKind,
    /// Acknowledged parts.
    pub(crate) parts: Vec<StagedPart>,
    /// Its parts go straight to the page blobs, and so many have been acknowledged. None: they are staged.
    #[serde(default)]
    pub(crate) filled: Option<u32>,
}

impl OpenRecord {
    /// How many parts have been acknowledged.
    pub(crate) fn acknowledged(&self) -> u32 {
        let staged = || u32::try_from(self.parts.len()).expect("parts are numbered with 32 bits");
        self.filled.unwrap_or_else(staged)
    }
}

/// Page blobs of their own that hold a point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Clones {
    pub(crate) at: Seq,
    /// One for each disk; empty for one that the point lacks.
    pub(crate) blobs: Vec<String>,
    /// Whole; else being made, from their start after a crash.
    pub(crate) ready: bool,
}

/// The page blob of a disk, unless another name was given to it.
pub(crate) fn disk_blob(disk: DiskIndex) -> String {
    format!("disk-{}.vhd", disk.0)
}

impl BlobManifest {
    pub(crate) fn encode(&self) -> Vec<u8> {
        debug_assert_eq!(self.check(), Ok(()), "{self:?}");
        sealed_text::encode(MAGIC, self.version(), self)
    }

    fn version(&self) -> u32 {
        let is_plain =
            !self.members.is_told(&self.points) && self.page_blobs.is_empty() && self.dropped.is_empty();
        if is_plain { 2 } else { 3 }
    }

    pub(crate) fn decode(data: &[u8]) -> Result<Self, String> {
        let (version, manifest): (u32, Self) = sealed_text::decode(MAGIC, &VERSIONS, data)?;
        manifest.check()?;
        if version.max(2) != manifest.version() {
            return Err(format!(
                "it says that it has format {version}, but has format {}",
                manifest.version()
            ));
        }
        Ok(manifest)
    }

    /// Whether the manifest makes sense.
    pub(crate) fn check(&self) -> Result<(), String> {
        let ascend = |what: &str, seqs: &mut dyn Iterator<Item = Seq>| {
            let seqs: Vec<_> = seqs.collect();
            if seqs.is_sorted_by(|a, b| a < b) {
                Ok(())
            } else {
                Err(format!("its {what} are out of order: {seqs:?}"))
            }
        };
        ascend("recovery points", &mut self.points.iter().map(|point| point.seq))?;
        ascend("snapshots", &mut self.bases.iter().map(|base| base.seq))?;
        ascend("staged cycles", &mut self.staged.iter().map(|cycle| cycle.seq))?;
        let count = self.disks.len();
        if count == 0 || count > DISKS_MAX || self.disks.iter().any(|disk| disk.size == 0) {
            return Err(format!("it has disks of {:?}", self.disks));
        }
        self.members.check(count, &self.points)?;
        self.check_names()?;
        let clones = self.standing.iter().chain(self.views.values());
        let of_other_disks = self.bases.iter().any(|base| base.disks.len() != count)
            || clones.into_iter().any(|clones| clones.blobs.len() != count)
            || self.all_parts().any(|part| usize::from(part.disk.0) >= count);
        if of_other_disks {
            return Err(format!("it names blobs of more or fewer than its {count} disks"));
        }
        let newest = self.points.last().map(|point| point.seq);
        let beyond = self.applied().into_iter().chain(self.applying).chain(self.staged.last().map(|c| c.seq));
        if let Some(seq) = beyond.into_iter().find(|seq| Some(*seq) > newest) {
            return Err(format!("it says that {seq} is staged or applied, its newest point is {newest:?}"));
        }
        let fills = self.open.as_ref().is_some_and(|open| open.filled.is_some());
        if fills && (!self.may_fill() || self.open.iter().any(|open| !open.parts.is_empty())) {
            return Err(
                "it says that the page blobs are being filled, and that there is something to keep".into()
            );
        }
        if self.applying.is_some_and(|to| Some(to) <= self.applied()) {
            return Err(format!("{:?} is being applied over {:?}", self.applying, self.applied()));
        }
        match self.points.iter().find(|point| !self.is_whole(point.seq)) {
            Some(point) => Err(format!("what recovery point {} is made of is not all there", point.seq)),
            None => Ok(()),
        }
    }

    /// Each disk has a page blob of its own and digests, one that was removed has nothing.
    fn check_names(&self) -> Result<(), String> {
        if !self.page_blobs.is_empty() && self.page_blobs.len() != self.disks.len()
            || self.digests.blobs.len() != self.disks.len()
        {
            return Err(format!("it names blobs of more or fewer than its {} disks", self.disks.len()));
        }
        let mut names: BTreeSet<_> = self.dropped.iter().cloned().collect();
        for disk in self.disk_indexes() {
            let (name, removed) = (self.page_blob(disk), self.members.has_removed(disk));
            let is_foreign = name == MANIFEST || opening_of(&name).is_some();
            if name.is_empty() != removed || self.digests.blobs[usize::from(disk.0)].is_empty() != removed {
                return Err(format!(
                    "of disk {disk} it should have blobs if that was not removed, and only then"
                ));
            }
            if !removed && (is_foreign || !names.insert(name.clone())) {
                return Err(format!("the page blob {name:?} of disk {disk} is something else, too"));
            }
        }
        let of_removed = |part: &StagedPart| self.members.has_removed(part.disk);
        let mut staged = self.staged.iter().flat_map(|cycle| &cycle.parts);
        let removed = |base: &Base| {
            let named = self.disk_indexes().zip(&base.disks).filter(|(_, snapshot)| snapshot.is_some());
            named.into_iter().any(|(disk, _)| self.members.has_removed(disk))
        };
        if staged.any(|part| of_removed(part) || part.blob.is_empty()) || self.bases.iter().any(removed) {
            return Err("it keeps something of a disk that was removed".into());
        }
        Ok(())
    }

    /// Whether the page blobs may be changed before the open cycle is committed: no point is made of what they hold, or will be.
    pub(crate) fn may_fill(&self) -> bool {
        self.points.is_empty()
            && self.bases.is_empty()
            && self.staged.is_empty()
            && self.applying.is_none()
            && self.standing.is_none()
            && !self.removing
    }

    /// Whether all cycles between a point's base and the point are staged.
    fn is_whole(&self, seq: Seq) -> bool {
        let from = self.base_of(seq).map_or(0, |base| base.seq.0);
        self.cycles(Seq(from), seq).count() as u64 == seq.0 - from
    }

    /// The newest point that is on the page blobs, but for `applying`.
    pub(crate) fn applied(&self) -> Option<Seq> {
        self.bases.last().map(|base| base.seq)
    }

    /// The snapshots that a point is made from.
    pub(crate) fn base_of(&self, seq: Seq) -> Option<&Base> {
        self.bases.iter().rev().find(|base| base.seq <= seq)
    }

    /// The staged cycles above `from` and up to `to`.
    pub(crate) fn cycles(&self, from: Seq, to: Seq) -> impl DoubleEndedIterator<Item = &StagedCycle> {
        self.staged.iter().filter(move |cycle| cycle.seq > from && cycle.seq <= to)
    }

    pub(crate) fn point(&self, seq: Seq) -> Result<&RecoveryPoint, ReplicaError> {
        let found = self.points.iter().find(|point| point.seq == seq);
        found.ok_or(ReplicaError::NoSuchPoint { seq: seq.0 })
    }

    /// The number of the next cycle, as [`crate::manifest::Manifest::next_seq`] counts.
    pub(crate) fn next_seq(&self) -> Seq {
        self.points.last().map_or(Seq(1), |point| point.seq.next())
    }

    /// Drops the points in `unwanted` with the snapshots and cycles that nothing needs any more.
    pub(crate) fn let_go(&mut self, unwanted: &BTreeSet<Seq>) {
        self.points.retain(|point| !unwanted.contains(&point.seq));
        let needed: BTreeSet<_> = self.points.iter().map(|point| point.seq).collect();
        let applied = self.applied();
        let bases: BTreeSet<_> =
            needed.iter().filter_map(|seq| self.base_of(*seq).map(|base| base.seq)).chain(applied).collect();
        self.bases.retain(|base| bases.contains(&base.seq));
        let newest_base = |seq: Seq| bases.range(..=seq).next_back().copied();
        let serves = |cycle: Seq| {
            Some(cycle) > applied
                || needed.range(cycle..).next().is_some_and(|point| newest_base(*point) < Some(cycle))
        };
        self.staged.retain(|cycle| serves(cycle.seq));
    }

    /// All parts it names.
    pub(crate) fn all_parts(&self) -> impl Iterator<Item = &StagedPart> {
        let open = self.open.iter().flat_map(|open| &open.parts);
        self.staged.iter().flat_map(|cycle| &cycle.parts).chain(open)
    }

    /// The numbers of all disks.
    pub(crate) fn disk_indexes(&self) -> impl Iterator<Item = DiskIndex> + Clone + use<> {
        let count = u16::try_from(self.disks.len()).expect("checked when made");
        (0..count).map(DiskIndex)
    }

    /// Those that were not removed.
    pub(crate) fn present(&self) -> impl Iterator<Item = DiskIndex> + Clone {
        self.disk_indexes().filter(|disk| !self.members.has_removed(*disk))
    }

    /// The name of a disk's page blob; empty if it was removed.
    pub(crate) fn page_blob(&self, disk: DiskIndex) -> String {
        match self.page_blobs.get(usize::from(disk.0)) {
            Some(name) => name.clone(),
            None if self.members.has_removed(disk) => String::new(),
            None => disk_blob(disk),
        }
    }

    /// The disks that it has.
    pub(crate) fn blob_disks(&self) -> Vec<BlobDisk> {
        let of = |(disk, spec): (DiskIndex, &DiskSpec)| {
            let blob = Some(self.page_blob(disk)).filter(|name| !name.is_empty());
            BlobDisk { blob, size: spec.size }
        };
        self.disk_indexes().zip(&self.disks).map(of).collect()
    }

    /// Gives the page blobs these names.
    pub(crate) fn set_page_blobs(&mut self, names: Vec<String>) {
        self.page_blobs.clear();
        let called_by_number = self.disk_indexes().map(|disk| self.page_blob(disk));
        if !called_by_number.eq(names.iter().cloned()) {
            self.page_blobs = names;
        }
    }

    /// Everything whose lease whoever writes must have: page blobs, and the digests beside them.
    pub(crate) fn leased(&self) -> Vec<String> {
        let side_cars = self.digests.blobs.iter().filter(|name| !name.is_empty()).cloned();
        self.present().map(|disk| self.page_blob(disk)).chain(side_cars).collect()
    }

    /// Every blob it names but itself.
    pub(crate) fn blobs(&self) -> BTreeSet<String> {
        let clones = self.standing.iter().chain(self.views.values()).flat_map(|clones| &clones.blobs);
        let parts = self.all_parts().map(|part| &part.blob);
        let named = parts.chain(clones).chain(&self.dropped).cloned().chain(self.leased());
        named.filter(|name| !name.is_empty()).collect()
    }

    /// Every snapshot that it names, by page blob.
    pub(crate) fn snapshots(&self) -> BTreeMap<String, BTreeSet<SnapshotId>> {
        let of = |disk: DiskIndex| {
            let at = usize::from(disk.0);
            (self.page_blob(disk), self.bases.iter().filter_map(|base| base.disks[at].clone()).collect())
        };
        self.present().map(of).collect()
    }

    /// What is staged and not on the page blobs yet.
    pub(crate) fn behind(&self) -> Behind {
        let applied = self.applied();
        let waiting = self.staged.iter().filter(|cycle| Some(cycle.seq) > applied);
        waiting.fold(Behind::default(), |sum, cycle| Behind {
            cycles: sum.cycles + 1,
            bytes: sum.bytes + cycle.parts.iter().map(|part| part.len).sum::<u64>(),
        })
    }

    /// Bytes that staged cycles take. Snapshots share their pages with the disks; what they take is for the store to say.
    pub(crate) fn bytes_kept(&self) -> u64 {
        self.all_parts().map(|part| part.len).sum()
    }
}
