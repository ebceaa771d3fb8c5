//! Disks that come to a replica, and that leave it, while its history goes on: see [`crate::membership`].
//!
//! Of a removed disk its owner gives a disk that holds nothing instead ([`switchback_disk::VoidDisk`]); what is still on its way to it goes there.

use switchback_disk::Volume;
use switchback_model::DiskIndex;

use super::DiskReplica;
use super::open::lock_error;
use crate::digest_file::DigestFile;
use crate::error::volume_error;
use crate::manifest::Manifest;
use crate::{DiskSpec, ReplicaError};

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
        let Manifest { members, disks, points, .. } = &mut manifest;
        let change = members.reshape(disks, points, sizes, removed)?;
        for disk in change.removed {
            // They are of what was on it. If nothing comes of this, it is read again.
            let size = manifest.disks[usize::from(disk.0)].size;
            let forgotten = DigestFile::open(volume, disk, size)?.forget();
            forgotten.map_err(|e| volume_error(volume, "forgetting digests", &e))?;
        }
        if manifest == before { Ok(()) } else { manifest.save(volume) }
    }

    /// The disks that were removed from it. Ascending.
    #[must_use]
    pub fn removed(&self) -> Vec<DiskIndex> {
        self.core().manifest.members.removed.clone()
    }
}
