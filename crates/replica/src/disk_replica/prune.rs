//! Letting recovery points go: by age, by the thinning schedule, by the limit of the retention drive.
//!
//! A point that goes takes no data with it that an older one needs: the reverse deltas around it are merged
//! into one (the way back from the point above it to the one below). The oldest point simply loses
//! its reverse delta. Kept in any case: the newest point, the one that the disks hold and those not applied yet, and any that somebody
//! is viewing. While the replica stands at a point, nothing goes.

use std::collections::BTreeSet;

use switchback_delta::MergeError;
use switchback_model::{ByteSize, Seq};

use super::DiskReplica;
use crate::error::delta_error;
use crate::layer::VolumeDelta;
use crate::manifest::{Manifest, ReverseDelta, ReverseFile};
use crate::{PauseReason, ReplicaError};

impl DiskReplica {
    /// Lets go what the retention policy does not keep.
    ///
    /// # Errors
    /// As [`DiskReplica::maintain`].
    pub fn prune(&self) -> Result<(), ReplicaError> {
        let expired = {
            let core = self.core();
            self.config.retention.expired(&core.manifest.points)
        };
        self.drop_points(&expired.into_iter().collect())?;
        self.keep_below_limit(0)
    }

    /// Drops these points, as far as they may be dropped.
    ///
    /// # Errors
    /// As [`DiskReplica::maintain`].
    pub fn drop_points(&self, unwanted: &BTreeSet<Seq>) -> Result<(), ReplicaError> {
        let _working = self.working();
        let (dropped, manifest) = {
            let core = self.core();
            let applied = core.manifest.applied;
            let newest = core.manifest.points.last().map(|point| point.seq);
            let may_go =
                |seq: &Seq| Some(*seq) < applied && Some(*seq) != newest && !core.views.contains_key(seq);
            let dropped: BTreeSet<_> = unwanted.iter().copied().filter(may_go).collect();
            (dropped, core.manifest.clone())
        };
        // While a cycle is half applied its reverse deltas are needed as they are; while the replica stands at a point, somebody is
        // choosing among all of them.
        if dropped.is_empty() || manifest.work.is_some() || manifest.standing.is_some() {
            return Ok(());
        }
        let plan = plan(&manifest, &dropped);
        let mut reverse = Vec::new();
        for run in &plan {
            reverse.push(if run.len() == 1 { run[0].clone() } else { self.merge(run)? });
        }
        let kept: BTreeSet<_> = reverse.iter().flat_map(ReverseDelta::names).collect();
        self.publish(|manifest| {
            manifest.points.retain(|point| !dropped.contains(&point.seq));
            manifest.reverse = reverse;
        })?;
        // Only those: a session may be receiving a part, whose file nothing names yet.
        let gone = manifest.reverse.iter().flat_map(ReverseDelta::names).filter(|name| !kept.contains(name));
        self.remove_files(gone)
    }

    /// One reverse delta that leads as far as all of `run` (oldest first) together.
    fn merge(&self, run: &[ReverseDelta]) -> Result<ReverseDelta, ReplicaError> {
        let (from, to) = (run[run.len() - 1].from, run[0].to);
        let mut merged = ReverseDelta { from, to, files: Vec::new() };
        for disk in self.disk_indexes() {
            let files = run.iter().filter(|delta| delta.files.iter().any(|file| file.disk == disk));
            let deltas = files
                .map(|delta| VolumeDelta::open(&*self.volume, delta.name(disk), self.config.key.as_ref()))
                .collect::<Result<Vec<_>, _>>()?;
            if deltas.is_empty() {
                continue;
            }
            // The oldest way back wins: it was right at the point that is kept.
            let layers: Vec<_> = deltas.iter().map(|delta| &delta.file).collect();
            let name = merged.name(disk);
            let summary = self.write_delta(name, |writer| {
                switchback_delta::merge(&layers, writer).map_err(|error| match error {
                    MergeError::Layer { layer, source } => {
                        delta_error(&*self.volume, deltas[layer].name, &source)
                    }
                    MergeError::Output { source } => delta_error(&*self.volume, name, &source),
                    other => ReplicaError::Corrupt { detail: format!("merging into {name}: {other}") },
                })
            })?;
            merged.files.push(ReverseFile { disk, file_len: summary.file_len });
        }
        let synced = self.volume.sync();
        synced.map_err(|e| crate::error::volume_error(&*self.volume, "syncing the directory", &e))?;
        Ok(merged)
    }

    /// Makes room for a part: drops the oldest points while retention takes more than its limit.
    pub(super) fn make_room(&self) -> Result<(), ReplicaError> {
        let open =
            self.core().parts.as_ref().map_or(0, |parts| parts.done.iter().map(|part| part.file_len).sum());
        self.keep_below_limit(open)
    }

    fn keep_below_limit(&self, open_bytes: u64) -> Result<(), ReplicaError> {
        let Some(limit) = self.config.retention.bytes_max else { return Ok(()) };
        loop {
            let (kept, oldest, points) = {
                let core = self.core();
                if core.manifest.standing.is_some() {
                    return Ok(());
                }
                let points = &core.manifest.points;
                (core.manifest.bytes_kept() + open_bytes, points.first().map(|point| point.seq), points.len())
            };
            if kept < limit {
                return Ok(());
            }
            if let Some(oldest) = oldest {
                self.drop_points(&BTreeSet::from([oldest]))?;
            }
            if self.core().manifest.points.len() == points {
                let detail = format!(
                    "{} is limited to {} and holds {}, of which nothing may be pruned now",
                    self.volume.name(),
                    ByteSize(limit),
                    ByteSize(kept)
                );
                return Err(ReplicaError::Paused(PauseReason::RetentionFull { detail }));
            }
        }
    }
}

/// The reverse deltas that remain without the dropped points, each as the run of those it is made of.
fn plan(manifest: &Manifest, dropped: &BTreeSet<Seq>) -> Vec<Vec<ReverseDelta>> {
    let mut runs: Vec<Vec<ReverseDelta>> = Vec::new();
    for delta in &manifest.reverse {
        if !dropped.contains(&delta.to) {
            runs.push(vec![delta.clone()]);
        } else if let Some(run) = runs.last_mut() {
            run.push(delta.clone());
        }
        // Else it leads to a dropped point that has nothing kept below it: not needed any more.
    }
    runs
}
