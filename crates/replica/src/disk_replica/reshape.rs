//! Disks that come to a replica, and that leave it, while its history goes on.
//!
//! A disk's number is its own for as long as the replica lives: files, cycles and spools on the way speak of it. So a disk that is added gets
//! the next number, and one that is removed leaves a gap.
//!
//! # What points hold
//! ```text
//! added     every point there is lacks it, and every point to come, until a commit says that its initial replication is complete
//! removed   every point there is lacks it, and every point to come, whatever a commit says
//! ```
//! Nothing is inferred: cycles that were on the way when the disk came, and those of a source that has never heard of it, make points that lack it. What a point
//! lacks is not to be given out: of a disk being seeded it may be half of its contents.
//!
//! Of a removed disk its owner gives a disk that holds nothing instead ([`switchback_disk::VoidDisk`]); what is still on its way to it goes there.

use switchback_disk::Volume;
use switchback_model::DiskIndex;

use super::DiskReplica;
use super::open::lock_error;
use crate::digest_file::DigestFile;
use crate::error::volume_error;
use crate::manifest::Manifest;
use crate::{DiskSpec, ReplicaError, rules};

impl DiskReplica {
    /// Gives a replica that nobody has open the disks of these sizes, of which `removed` are there no more. May be repeated.
    ///
    /// # Errors
    /// [`ReplicaError::DisksChanged`] when a disk would be resized, taken away without being removed, or come back; or none would be left.
    /// [`ReplicaError::Standing`]; [`ReplicaError::Locked`]; [`ReplicaError::Protocol`] before its first point, when it can simply be made anew; I/O.
    pub fn reshape(
        volume: &dyn Volume,
        sizes: &[DiskSpec],
        removed: &[DiskIndex],
    ) -> Result<(), ReplicaError> {
        let _lock = volume.lock().map_err(|error| lock_error(volume, &error))?;
        let mut manifest = Manifest::load(volume)?;
        let before = manifest.clone();
        manifest.check_not_standing()?;
        rules::same_disks(&manifest.disks, &sizes[..manifest.disks.len().min(sizes.len())])?;
        let all = || (0..).map(DiskIndex).take(sizes.len());
        let refuse = |detail: String| Err(ReplicaError::DisksChanged { detail });
        if let Some(back) = manifest.removed.iter().find(|disk| !removed.contains(disk)) {
            return refuse(format!(
                "disk {back} was removed from it, and cannot come back under this number"
            ));
        }
        if all().all(|disk| removed.contains(&disk)) {
            return refuse("every disk would be removed from it".into());
        }
        for (disk, spec) in all().zip(sizes).skip(before.disks.len()) {
            if before.points.is_empty() {
                let detail = "a disk can be added to a replica that has a recovery point only".into();
                return Err(ReplicaError::Protocol { detail });
            }
            manifest.disks.push(spec.clone());
            manifest.seeding.push(disk);
            manifest.leave_out(disk);
        }
        for disk in all().filter(|disk| removed.contains(disk) && !before.removed.contains(disk)) {
            manifest.seeding.retain(|seeding| *seeding != disk);
            manifest.removed.push(disk);
            manifest.leave_out(disk);
            // They are of what was on it. If nothing comes of this, it is read again.
            let size = manifest.disks[usize::from(disk.0)].size;
            let forgotten = DigestFile::open(volume, disk, size)?.forget();
            forgotten.map_err(|e| volume_error(volume, "forgetting digests", &e))?;
        }
        manifest.removed.sort_unstable();
        if manifest == before { Ok(()) } else { manifest.save(volume) }
    }

    /// The disks that were removed from it. Ascending.
    #[must_use]
    pub fn removed(&self) -> Vec<DiskIndex> {
        self.core().manifest.removed.clone()
    }
}
