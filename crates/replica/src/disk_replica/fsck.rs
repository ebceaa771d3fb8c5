//! Proving a replica and its points intact, or saying what is damaged.
//!
//! Everything is read: each delta to its last frame against its checksums, the chain of ways back against the manifest, and the
//! disks against the digests known of them. A finding says which recovery points it takes.

use switchback_delta::{leaves_of_node, node_extent, nodes_of_disk};
use switchback_model::{DiskIndex, Seq};

use super::DiskReplica;
use crate::ReplicaError;
use crate::error::disk_error;
use crate::layer::VolumeDelta;
use crate::layout::FileName;
use crate::manifest::Manifest;

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What is damaged, and how.
    pub detail: String,
    /// The recovery points that cannot be trusted because of it, oldest first.
    pub points: Vec<Seq>,
    /// What to do.
    pub remedy: String,
}

/// What a look at everything found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FsckReport {
    /// Delta files read.
    pub deltas: usize,
    /// Their bytes.
    pub delta_bytes: u64,
    /// Bytes of disks compared with their digests.
    pub disk_bytes: u64,
    /// What is damaged; empty when all is intact.
    pub findings: Vec<Finding>,
}

impl DiskReplica {
    /// Reads everything and compares. `progress` is told (bytes done, bytes in all) now and then.
    ///
    /// # Errors
    /// Only when it cannot go on (a device that fails); damage is in the report.
    pub fn fsck(&self, mut progress: impl FnMut(u64, u64)) -> Result<FsckReport, ReplicaError> {
        let _working = self.working();
        let manifest = self.core().manifest.clone();
        let disk_bytes: u64 = manifest.disks.iter().map(|disk| disk.size).sum();
        let all = manifest.bytes_kept() + disk_bytes;
        let mut report = FsckReport::default();
        for (name, points) in deltas_and_points(&manifest) {
            self.check_delta(name, &points, &manifest, &mut report)?;
            progress(report.delta_bytes, all);
        }
        // What no point holds is not asked of the disk: it may be half there, or gone.
        let is_held = |disk: &DiskIndex| !manifest.points.iter().all(|point| point.lacks.contains(disk));
        for disk in self.disk_indexes().filter(|disk| manifest.points.is_empty() || is_held(disk)) {
            self.check_disk(disk, &manifest, &mut report, |report| {
                progress(report.delta_bytes + report.disk_bytes, all);
            })?;
        }
        Ok(report)
    }

    fn check_delta(
        &self,
        name: FileName,
        points: &[Seq],
        manifest: &Manifest,
        report: &mut FsckReport,
    ) -> Result<(), ReplicaError> {
        let checked = VolumeDelta::open(&*self.volume, name, self.config.key.as_ref()).and_then(|delta| {
            report.delta_bytes += delta.file.summary().file_len;
            let header = delta.file.header();
            if header.replica != manifest.id || Some(header.content) != name.content() {
                let detail = format!("{name} holds {:?} of replica {}", header.content, header.replica);
                return Err(ReplicaError::Corrupt { detail });
            }
            delta.file.verify().map_err(|e| crate::error::delta_error(&*self.volume, name, &e))
        });
        report.deltas += 1;
        match checked {
            Ok(()) => Ok(()),
            Err(ReplicaError::Corrupt { detail }) => {
                let remedy = match name {
                    FileName::Stage { .. } => {
                        "roll back to an intact point, or start a resync, which replaces what is staged"
                    }
                    FileName::Newest { .. } => {
                        "stand at a point that is not concerned and settle there, or resume and start a resync"
                    }
                    _ => "the newer points are intact; let the damaged ones expire, or restore the file",
                };
                report.findings.push(Finding { detail, points: points.to_vec(), remedy: remedy.into() });
                Ok(())
            }
            Err(other) => Err(other),
        }
    }

    /// Compares what is on a disk with the digests known of it. Damage there concerns every point: all of them are
    /// seen through the disk where no delta holds a block.
    fn check_disk(
        &self,
        disk: DiskIndex,
        manifest: &Manifest,
        report: &mut FsckReport,
        mut progress: impl FnMut(&FsckReport),
    ) -> Result<(), ReplicaError> {
        let target = self.disk(disk);
        let size = manifest.disks[usize::from(disk.0)].size;
        for node in 0..nodes_of_disk(size) {
            let record = self.digests(disk).record(node).map_err(|error| ReplicaError::Io {
                action: format!("reading the digests of {}", target.name()),
                detail: error.to_string(),
            })?;
            let window = node_extent(size, node);
            if (0..leaves_of_node(size, node)).any(|leaf| record.leaf(leaf).is_some()) {
                let data = target.read(window).map_err(|e| disk_error(target, "reading", &e))?;
                for (leaf, (extent, bytes)) in switchback_delta::pieces(window, &data).enumerate() {
                    if record.leaf(leaf).is_some_and(|known| known != switchback_delta::digest_of(bytes)) {
                        report.findings.push(Finding {
                            detail: format!(
                                "{} differs at {extent} from what was written there",
                                target.name()
                            ),
                            points: manifest.points.iter().map(|point| point.seq).collect(),
                            remedy: "start a resync, which writes again what differs; check the disk".into(),
                        });
                    }
                }
            }
            report.disk_bytes += window.len;
            progress(report);
        }
        Ok(())
    }
}

/// Every delta of a replica with the points that cannot be had without it.
fn deltas_and_points(manifest: &Manifest) -> Vec<(FileName, Vec<Seq>)> {
    let points = |needed: &dyn Fn(Seq) -> bool| -> Vec<Seq> {
        manifest.points.iter().map(|point| point.seq).filter(|seq| needed(*seq)).collect()
    };
    let staged = manifest.staged.iter().flat_map(|cycle| {
        let lost = points(&|seq| seq >= cycle.seq);
        cycle.parts.iter().map(move |part| (part.name(cycle.seq), lost.clone()))
    });
    let reverse = manifest.reverse.iter().flat_map(|delta| {
        let lost = points(&|seq| seq <= delta.to);
        delta.names().map(move |name| (name, lost.clone()))
    });
    let standing = manifest.standing.iter().zip(manifest.applied);
    let newest = standing.flat_map(|(standing, newest)| {
        let lost = points(&|seq| seq > standing.lowest);
        standing.newest.iter().map(move |file| (file.name(newest), lost.clone()))
    });
    staged.chain(reverse).chain(newest).collect()
}
