//! Proving a replica intact, or saying what is damaged: every staged delta to its last frame, every page blob against the digests known of it, the
//! footers and the snapshots. Reads all of the page blobs. What somebody else has changed there is noted as unknown, so that the next resync reads it.

use switchback_delta::{leaves_of_node, node_extent, nodes_of_disk};
use switchback_disk::Disk;
use switchback_model::{DiskIndex, Extent, Seq};

use super::PageBlobReplica;
use super::error::{blob_error, replica_error};
use super::manifest::BlobManifest;
use super::open::{make_footer, read_footer};
use super::vhd;
use crate::{Finding, FsckReport, ReplicaError};

impl PageBlobReplica {
    /// Reads everything and compares. `progress` is told (bytes done, bytes in all) now and then.
    ///
    /// # Errors
    /// Only when it cannot go on (the store fails); damage is in the report.
    pub fn fsck(&self, mut progress: impl FnMut(u64, u64)) -> Result<FsckReport, ReplicaError> {
        let _working = self.working();
        let manifest = self.manifest()?;
        let all = manifest.bytes_kept() + manifest.disks.iter().map(|disk| disk.size).sum::<u64>();
        let mut report = FsckReport::default();
        for cycle in &manifest.staged {
            for part in &cycle.parts {
                let read = self.open_part(&manifest, &part.blob, part.len).and_then(|file| {
                    let failed = |e| crate::layer::DeltaPlace::failed(&*self.store, &part.blob, &e);
                    file.verify().map_err(failed)
                });
                report.deltas += 1;
                report.delta_bytes += part.len;
                let points = |point: &Seq| manifest.base_of(*point).map(|base| base.seq) < Some(cycle.seq);
                note(&mut report, read, &manifest, |point| *point >= cycle.seq && points(point))?;
                progress(report.delta_bytes, all);
            }
        }
        self.check_snapshots(&manifest, &mut report)?;
        // In the middle of a round the pages are between two points; the round is done again. Without a point they may be being filled.
        let settled = manifest.applying.is_none() && !manifest.points.is_empty();
        for disk in manifest.present().filter(|_| settled) {
            self.check_disk(&manifest, disk, &mut report, |report| {
                progress(report.delta_bytes + report.disk_bytes, all);
            })?;
        }
        Ok(report)
    }

    fn check_snapshots(&self, manifest: &BlobManifest, report: &mut FsckReport) -> Result<(), ReplicaError> {
        let listed = self.store.list("").map_err(|e| blob_error(&*self.store, "listing blobs", &e))?;
        for base in &manifest.bases {
            for (disk, snapshot) in manifest.disk_indexes().zip(&base.disks) {
                let (name, Some(snapshot)) = (manifest.page_blob(disk), snapshot) else { continue };
                if listed.iter().any(|entry| entry.name == name && entry.snapshot.as_ref() == Some(snapshot))
                {
                    continue;
                }
                let detail = format!("the snapshot {} of {name} is missing", snapshot.0);
                let lost = Err(ReplicaError::Corrupt { detail });
                let is_of = |point: &Seq| manifest.base_of(*point).is_some_and(|of| of.seq == base.seq);
                note(report, lost, manifest, is_of)?;
            }
        }
        Ok(())
    }

    fn check_disk(
        &self,
        manifest: &BlobManifest,
        disk: DiskIndex,
        report: &mut FsckReport,
        mut progress: impl FnMut(&FsckReport),
    ) -> Result<(), ReplicaError> {
        let size = manifest.disks[usize::from(disk.0)].size;
        let target = self.disk(manifest, disk);
        if let Err(what) = vhd::check(&read_footer(&target, size)?, vhd::data_len(size)) {
            let made = make_footer(&*self.store, &target.blob, size, target.lease_id(), manifest.id, disk);
            made.map_err(|e| blob_error(&*self.store, "writing a footer", &e))?;
            report.findings.push(Finding {
                detail: format!("{}: {what}; somebody else has written there", target.blob),
                points: Vec::new(),
                remedy: "it has been written again, and disks of points get their own; see who else may write to this container"
                    .into(),
            });
        }
        for node in 0..nodes_of_disk(size) {
            let record = self.digests(disk).record(node);
            let mut record = record.map_err(|e| replica_error(&*self.store, "reading digests", &e))?;
            let window = node_extent(size, node);
            if (0..leaves_of_node(size, node)).any(|leaf| record.leaf(leaf).is_some()) {
                let data = Disk::read(&target, window);
                let data = data.map_err(|e| replica_error(&*self.store, "reading pages", &e))?;
                let mut changed = false;
                for (leaf, (extent, bytes)) in switchback_delta::pieces(window, &data).enumerate() {
                    if record.leaf(leaf).is_some_and(|known| known != switchback_delta::digest_of(bytes)) {
                        report.findings.push(differs(&target.blob, extent));
                        record.set(leaf, None);
                        changed = true;
                    }
                }
                if changed {
                    let put = self.digests(disk).put(node, record);
                    put.map_err(|e| replica_error(&*self.store, "writing digests", &e))?;
                }
            }
            report.disk_bytes += window.len;
            progress(report);
        }
        let synced = self.digests(disk).sync();
        synced.map_err(|e| replica_error(&*self.store, "writing digests", &e))
    }
}

/// The snapshots hold the points; what is on the page blob itself will be in those to come.
fn differs(blob: &str, extent: Extent) -> Finding {
    Finding {
        detail: format!("{blob} differs at {extent} from what was written there: somebody else has changed it"),
        points: Vec::new(),
        remedy: "start a resync, which reads this part and writes again what differs; the points there are stay as they are".into(),
    }
}

/// Adds damage to the report, with the points that it takes.
fn note(
    report: &mut FsckReport,
    checked: Result<(), ReplicaError>,
    manifest: &BlobManifest,
    takes: impl Fn(&Seq) -> bool,
) -> Result<(), ReplicaError> {
    match checked {
        Err(ReplicaError::Corrupt { detail }) => {
            let points = manifest.points.iter().map(|point| point.seq).filter(|seq| takes(seq)).collect();
            let remedy = "choose an intact point; the next resync replaces what is damaged".into();
            report.findings.push(Finding { detail, points, remedy });
            Ok(())
        }
        other => other,
    }
}
