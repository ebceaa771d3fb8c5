//! Creating a replica, and opening one after whatever happened to it.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, RwLock};

use switchback_disk::{Disk, Volume};
use switchback_model::{Consistency, DiskIndex, RecoveryPoint, ReplicaId, Seq, UnixMillis};

use super::stage::OpenParts;
use super::{Core, DiskReplica, ReplicaConfig, Ways};
use crate::digest_file::DigestFile;
use crate::error::{disk_error, volume_error};
use crate::layout::FileName;
use crate::manifest::{MANIFEST, Manifest, StagedPart, Work};
use crate::{DiskSpec, ReplicaError};

/// Bytes read at once while looking whether a disk is empty.
const READ_LEN: u64 = 4 << 20;

impl DiskReplica {
    /// Makes a replica of a machine with disks of these sizes on `disks`, with its history in `volume`.
    ///
    /// Disks that hold anything but zeros keep it as recovery point 0, "before Switchback". Finding that
    /// out reads a disk up to its first byte that is not zero.
    ///
    /// # Errors
    /// When the volume holds a replica already, the disks do not fit, or I/O fails.
    pub fn create(
        volume: Arc<dyn Volume>,
        disks: Vec<Arc<dyn Disk>>,
        sizes: Vec<DiskSpec>,
        id: ReplicaId,
        now: UnixMillis,
        config: ReplicaConfig,
    ) -> Result<Self, ReplicaError> {
        check_disks(&disks, &sizes)?;
        let lock = volume.lock().map_err(|error| lock_error(&*volume, &error))?;
        let files = volume.list().map_err(|e| volume_error(&*volume, "listing files", &e))?;
        if files.iter().any(|file| file.name == MANIFEST) {
            let detail = format!("{} holds a replica already", volume.name());
            return Err(ReplicaError::Protocol { detail });
        }
        let mut manifest = Manifest::new(id, sizes);
        let used = disks.iter().zip(&manifest.disks).map(|(disk, spec)| is_used(&**disk, spec.size));
        if used.collect::<Result<Vec<_>, _>>()?.contains(&true) {
            let before = RecoveryPoint {
                seq: Seq(0),
                time: now,
                consistency: Consistency::CrashConsistent,
                group_tag: None,
                lacks: Vec::new(),
            };
            manifest.points.push(before);
            manifest.applied = Some(Seq(0));
        }
        manifest.save(&*volume)?;
        drop(lock);
        Self::open(volume, disks, config)
    }

    /// Opens a replica: finishes what a crash interrupted, and removes what the manifest does not name.
    ///
    /// # Errors
    /// [`ReplicaError::Locked`] when another process has it; when the manifest or the disks are not as
    /// they should be.
    pub fn open(
        volume: Arc<dyn Volume>,
        disks: Vec<Arc<dyn Disk>>,
        config: ReplicaConfig,
    ) -> Result<Self, ReplicaError> {
        let lock = volume.lock().map_err(|error| lock_error(&*volume, &error))?;
        let manifest = Manifest::load(&*volume)?;
        check_disks(&disks, &manifest.disks)?;
        let digests = (0..)
            .zip(&manifest.disks)
            .map(|(disk, spec)| DigestFile::open(&*volume, DiskIndex(disk), spec.size).map(Mutex::new))
            .collect::<Result<Vec<_>, _>>()?;
        let core = Core {
            manifest,
            parts: None,
            writer: None,
            sessions: 0,
            paused: None,
            full: None,
            views: std::collections::BTreeMap::new(),
        };
        let ways = RwLock::new(Ways::of(&core.manifest, 0));
        let (core, turn, work) = (Mutex::new(core), Mutex::new(()), Mutex::new(()));
        let gate = RwLock::default();
        let replica = Self { volume, disks, config, core, turn, gate, work, ways, digests, _lock: lock };
        replica.recover()?;
        Ok(replica)
    }

    fn recover(&self) -> Result<(), ReplicaError> {
        if self.core().manifest.filling {
            for disk in self.disk_indexes() {
                let forgotten = self.digests(disk).forget();
                forgotten.map_err(|e| volume_error(&*self.volume, "forgetting digests", &e))?;
            }
        }
        // Before any work is finished: that ends with removing the files that nothing needs, and these are needed.
        self.recover_open_cycle()?;
        let work = self.core().manifest.work;
        match work {
            Some(Work::Apply { .. }) => match self.finish_apply() {
                Err(ReplicaError::Corrupt { detail }) => self.give_up_staged(&detail)?,
                other => other?,
            },
            Some(Work::RollBack { to }) => self.finish_rollback(to)?,
            Some(Work::Stand) => match self.finish_move() {
                Err(error @ ReplicaError::Corrupt { .. }) => {
                    tracing::error!(%error, "the disks could not be brought to where they are to stand; choose another point");
                }
                other => other?,
            },
            None => {}
        }
        self.remove_garbage()
    }

    /// A cycle that was being applied turns out to be damaged: its reverse deltas, which were durable before the disks were
    /// touched, bring the disks back to the point before. The points from the damaged one on are lost; a resync follows.
    fn give_up_staged(&self, detail: &str) -> Result<(), ReplicaError> {
        let applied = self.core().manifest.applied.expect("an apply follows an applied point");
        tracing::error!(%detail, back_to = applied.0, "a staged cycle is damaged and given up; a resync will follow");
        self.core().begin_rollback(&*self.volume, applied)?;
        self.finish_rollback(applied)
    }

    /// Finds the open cycle's durable parts again. One that was acknowledged and is damaged or gone means that the cycle
    /// is lost and changed blocks with it: only a resync can follow.
    fn recover_open_cycle(&self) -> Result<(), ReplicaError> {
        let mut core = self.core();
        let Some(open) = core.manifest.open.clone() else { return Ok(()) };
        let mut parts = OpenParts::default();
        if !open.fill {
            for (part, disk) in self.durable_parts(open.seq)? {
                let name = FileName::Stage { seq: open.seq, part, disk, durable: true };
                let in_order = part.0 as usize == parts.done.len();
                match self
                    .staged_file_len(name)
                    .and_then(|len| if in_order { Ok(len) } else { Err(missing(name)) })
                {
                    Ok(file_len) => parts.done.push(StagedPart { part, disk, file_len }),
                    Err(ReplicaError::Corrupt { detail }) => {
                        tracing::error!(seq = open.seq.0, %detail, "the open cycle is damaged and dropped; a resync will follow");
                        return core.save(&*self.volume, |manifest| {
                            manifest.open = None;
                            manifest.generation = None;
                        });
                    }
                    Err(other) => return Err(other),
                }
            }
            parts.synced = parts.done.len();
        }
        core.parts = Some(parts);
        Ok(())
    }

    fn durable_parts(
        &self,
        of: Seq,
    ) -> Result<BTreeSet<(switchback_model::PartIndex, DiskIndex)>, ReplicaError> {
        let files = self.volume.list().map_err(|e| volume_error(&*self.volume, "listing files", &e))?;
        let durable = files.iter().filter_map(|file| match FileName::parse(&file.name) {
            Some(FileName::Stage { seq, part, disk, durable: true }) if seq == of => Some((part, disk)),
            _ => None,
        });
        Ok(durable.collect())
    }

    /// Removes every delta that the manifest and the open cycle do not need.
    pub(super) fn remove_garbage(&self) -> Result<(), ReplicaError> {
        let core = self.core();
        let needed = core.files_needed();
        drop(core);
        let files = self.volume.list().map_err(|e| volume_error(&*self.volume, "listing files", &e))?;
        for file in files {
            let garbage = FileName::parse(&file.name).is_some_and(|name| !needed.contains(&name));
            if garbage {
                let removed = self.volume.remove(&file.name);
                removed.map_err(|e| volume_error(&*self.volume, &format!("removing {}", file.name), &e))?;
            }
        }
        self.volume.sync().map_err(|e| volume_error(&*self.volume, "syncing the directory", &e))
    }
}

impl Core {
    /// All files of a replica but the manifest.
    pub(super) fn files_needed(&self) -> BTreeSet<FileName> {
        let manifest = &self.manifest;
        let disks = 0..u16::try_from(manifest.disks.len()).expect("checked when opened");
        let mut needed: BTreeSet<_> = disks.map(|disk| FileName::Digests { disk: DiskIndex(disk) }).collect();
        for cycle in &manifest.staged {
            needed.extend(cycle.parts.iter().map(|part| part.name(cycle.seq)));
        }
        for delta in &manifest.reverse {
            needed.extend(delta.names());
        }
        if let (Some(standing), Some(newest)) = (&manifest.standing, manifest.applied) {
            needed.extend(standing.newest.iter().map(|file| file.name(newest)));
        }
        if let (Some(open), Some(parts)) = (&manifest.open, &self.parts) {
            needed.extend(parts.done[..parts.synced].iter().map(|part| part.name(open.seq)));
        }
        needed
    }
}

fn missing(name: FileName) -> ReplicaError {
    ReplicaError::Corrupt { detail: format!("a part before {name} is missing") }
}

fn check_disks(disks: &[Arc<dyn Disk>], sizes: &[DiskSpec]) -> Result<(), ReplicaError> {
    /// So that leaves can be numbered with 32 bits: 256 TiB.
    const SIZE_MAX: u64 = (switchback_delta::LEAF as u64) << 32;
    if disks.len() != sizes.len() || disks.is_empty() || disks.len() > 64 {
        let detail =
            format!("it has {} disks, the source {} (1 to 64 are supported)", disks.len(), sizes.len());
        return Err(ReplicaError::DisksChanged { detail });
    }
    for (index, (disk, spec)) in (0..).zip(disks.iter().zip(sizes)) {
        if spec.size == 0 || spec.size > SIZE_MAX {
            let detail = format!("disk {index} has {} bytes; 1 byte to 256 TiB are supported", spec.size);
            return Err(ReplicaError::DisksChanged { detail });
        }
        if disk.size() < spec.size {
            return Err(ReplicaError::DiskTooSmall {
                disk: index,
                target: disk.size(),
                source_size: spec.size,
            });
        }
    }
    Ok(())
}

fn is_used(disk: &dyn Disk, size: u64) -> Result<bool, ReplicaError> {
    let whole = switchback_model::Extent::new(0, size);
    let allocated = disk.allocated(whole).map_err(|e| disk_error(disk, "reading the allocation of", &e))?;
    for chunk in allocated.into_iter().flat_map(|extent| extent.pieces(READ_LEN)) {
        let data = disk.read(chunk).map_err(|e| disk_error(disk, "reading", &e))?;
        if data.iter().any(|byte| *byte != 0) {
            return Ok(true);
        }
    }
    Ok(false)
}

pub(super) fn lock_error(volume: &dyn Volume, error: &io::Error) -> ReplicaError {
    match error.kind() {
        io::ErrorKind::WouldBlock => ReplicaError::Locked { holder: error.to_string() },
        _ => volume_error(volume, "locking", error),
    }
}
