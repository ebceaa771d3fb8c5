//! Disks that come to a replica, and that leave it, while its history goes on: whichever kind of replica it is.
//!
//! A disk's number is its own for as long as the history lives: files, cycles and spools on the way speak of it. So a disk that is added gets
//! the next number, and one that is removed leaves a gap.
//!
//! # What points hold
//! ```text
//! added     every point there is lacks it, and every point to come, until a commit says that its initial replication is complete
//! removed   every point there is lacks it, and every point to come, whatever a commit says
//! ```
//! Nothing is inferred: cycles that were on the way when the disk came, and those of a source that has never heard of it, make points that lack it. What a point
//! lacks is not to be given out: of a disk being seeded it may be half of its contents.

use serde::{Deserialize, Serialize};
use switchback_model::{DiskIndex, RecoveryPoint};

use crate::{DiskSpec, ReplicaError, rules};

/// The disks of a replica that not every point holds; part of its manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Membership {
    /// Disks added after the first point whose initial replication is not complete. Ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) seeding: Vec<DiskIndex>,
    /// Disks that were removed: their numbers stay theirs, nothing is kept of them. Ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) removed: Vec<DiskIndex>,
}

/// What a reshape did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) added: Vec<DiskIndex>,
    pub(crate) removed: Vec<DiskIndex>,
}

impl Membership {
    pub(crate) fn has_removed(&self, disk: DiskIndex) -> bool {
        self.removed.binary_search(&disk).is_ok()
    }

    /// The disks that the next point lacks, unless its commit says otherwise of those that are being seeded. Ascending.
    pub(crate) fn lacking(&self) -> Vec<DiskIndex> {
        let mut lacking: Vec<_> = self.seeding.iter().chain(&self.removed).copied().collect();
        lacking.sort_unstable();
        lacking
    }

    /// Whether anything would be lost on a build that knows nothing of this.
    pub(crate) fn is_told(&self, points: &[RecoveryPoint]) -> bool {
        *self != Self::default() || points.iter().any(|point| !point.lacks.is_empty())
    }

    /// What the point of a commit lacks that says so of these disks.
    pub(crate) fn commit(&mut self, whole: &[DiskIndex]) -> Vec<DiskIndex> {
        self.seeding.retain(|disk| !whole.contains(disk));
        self.lacking()
    }

    /// The points above these are gone: what the newest one lacks must be said to be whole again.
    pub(crate) fn follow(&mut self, points: &[RecoveryPoint]) {
        let lacks = points.last().map(|point| point.lacks.clone()).unwrap_or_default();
        self.seeding = lacks.into_iter().filter(|disk| !self.has_removed(*disk)).collect();
    }

    /// Gives a replica disks of these sizes, of which `gone` are there no more. May be repeated.
    ///
    /// # Errors
    /// [`ReplicaError::DisksChanged`] when a disk would be resized, taken away without being removed, or come back; or none would be left.
    /// [`ReplicaError::Protocol`] when a disk is added before the first point, when the replica can simply be made anew.
    pub(crate) fn reshape(
        &mut self,
        disks: &mut Vec<DiskSpec>,
        points: &mut [RecoveryPoint],
        sizes: &[DiskSpec],
        gone: &[DiskIndex],
    ) -> Result<Change, ReplicaError> {
        rules::same_disks(disks, &sizes[..disks.len().min(sizes.len())])?;
        let all = || (0..).map(DiskIndex).take(sizes.len());
        let refuse = |detail: String| Err(ReplicaError::DisksChanged { detail });
        if let Some(back) = self.removed.iter().find(|disk| !gone.contains(disk)) {
            return refuse(format!(
                "disk {back} was removed from it, and cannot come back under this number"
            ));
        }
        if all().all(|disk| gone.contains(&disk)) {
            return refuse("every disk would be removed from it".into());
        }
        let mut change = Change::default();
        for (disk, spec) in all().zip(sizes).skip(disks.len()) {
            if points.is_empty() {
                let detail = "a disk can be added to a replica that has a recovery point only".into();
                return Err(ReplicaError::Protocol { detail });
            }
            disks.push(spec.clone());
            self.seeding.push(disk);
            leave_out(points, disk);
            change.added.push(disk);
        }
        for disk in all().filter(|disk| gone.contains(disk)) {
            if self.has_removed(disk) {
                continue;
            }
            self.seeding.retain(|seeding| *seeding != disk);
            self.removed.push(disk);
            self.removed.sort_unstable();
            leave_out(points, disk);
            change.removed.push(disk);
        }
        Ok(change)
    }

    /// Every list ascends and names disks that there are; none of all points claims a disk that was removed.
    pub(crate) fn check(&self, disks: usize, points: &[RecoveryPoint]) -> Result<(), String> {
        let of_points = points.iter().map(|point| &point.lacks);
        for lacking in of_points.chain([&self.seeding, &self.removed, &self.lacking()]) {
            let foreign = lacking.iter().any(|disk| usize::from(disk.0) >= disks);
            if foreign || !lacking.is_sorted_by(|a, b| a < b) {
                return Err(format!(
                    "disks that it says are lacking are out of order or unknown: {lacking:?}"
                ));
            }
        }
        let claims = |point: &RecoveryPoint| self.removed.iter().any(|disk| !point.lacks.contains(disk));
        match points.iter().find(|point| claims(point)) {
            Some(point) => Err(format!("point {} claims a disk that was removed", point.seq)),
            None => Ok(()),
        }
    }
}

/// No point holds this disk any more.
fn leave_out(points: &mut [RecoveryPoint], disk: DiskIndex) {
    for point in points {
        if let Err(place) = point.lacks.binary_search(&disk) {
            point.lacks.insert(place, disk);
        }
    }
}
