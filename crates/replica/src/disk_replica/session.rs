//! A session: what one writer says to a `DiskReplica` on the same host.
//!
//! One writer at a time. The same writer coming again (its connection was lost) replaces its own session; another one is locked
//! out while a session is open, unless it brings a newer epoch: that fences the old one out.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use switchback_delta::{Frame, leaves_of_node, nodes_of_disk};
use switchback_model::{DiskIndex, Epoch, RecoveryPoint, WriterId};

use super::stage::{OpenParts, PartWriter};
use super::{Core, DiskReplica};
use crate::manifest::{OpenRecord, StagedCycle};
use crate::rules::{self, no_part};
use crate::{
    CommitCycle, CycleKind, LeafDigests, NodeDigest, OpenCycle, OpenCycleStatus, PartHeader, ReplicaError,
    ReplicaSession, ReplicaStatus, SessionRequest, Watermarks,
};

/// Who writes, and in which of the sessions opened so far.
#[derive(Clone, Debug)]
pub(super) struct Writer {
    id: WriterId,
    session: u64,
}

/// What a session shows at every call.
#[derive(Clone, Copy, Debug)]
pub(super) struct SessionKey {
    session: u64,
    epoch: Epoch,
}

/// A session with a `DiskReplica`.
#[derive(Debug)]
pub struct DiskSession {
    replica: Arc<DiskReplica>,
    key: SessionKey,
    part: Option<PartWriter>,
    /// Reads the digests that will be asked for next.
    ahead: Option<JoinHandle<()>>,
}

impl DiskReplica {
    /// Opens a session for a writer.
    ///
    /// # Errors
    /// [`ReplicaError::StaleEpoch`], [`ReplicaError::Locked`], [`ReplicaError::DisksChanged`], [`ReplicaError::Standing`].
    pub fn session(self: &Arc<Self>, request: &SessionRequest) -> Result<DiskSession, ReplicaError> {
        let _turn = self.turn();
        let mut core = self.core();
        let current = core.manifest.epoch;
        let epoch = request.epoch.unwrap_or(current);
        core.check_epoch(epoch)?;
        let lacking = core.manifest.members.lacking();
        rules::known_disks(&core.manifest.disks, &lacking, &request.disks)?;
        core.manifest.check_not_standing()?;
        match &core.writer {
            Some(writer) if writer.id != request.writer && epoch == current => {
                return Err(ReplicaError::Locked { holder: format!("writer {}", writer.id) });
            }
            _ => {}
        }
        if epoch > current {
            core.save(&*self.volume, |manifest| manifest.epoch = epoch)?;
        }
        core.sessions += 1;
        let session = core.sessions;
        core.writer = Some(Writer { id: request.writer, session });
        drop(core);
        // What the former writer's threads have in hand is on the disk when this one begins; they take no more.
        drop(self.gate.write().unwrap_or_else(PoisonError::into_inner));
        Ok(DiskSession {
            replica: Arc::clone(self),
            key: SessionKey { session, epoch },
            part: None,
            ahead: None,
        })
    }

    /// Lets this call in, if the session still is the writer's.
    fn enter(&self, key: SessionKey) -> Result<MutexGuard<'_, ()>, ReplicaError> {
        let turn = self.turn();
        self.check_session(key).map(|()| turn)
    }

    /// Whether the session still is the writer's.
    pub(super) fn check_session(&self, key: SessionKey) -> Result<(), ReplicaError> {
        let core = self.core();
        core.check_epoch(key.epoch)?;
        core.manifest.check_not_standing()?;
        match &core.writer {
            Some(writer) if writer.session == key.session => Ok(()),
            Some(writer) => Err(ReplicaError::Locked { holder: format!("writer {}, since", writer.id) }),
            None => Err(ReplicaError::Locked { holder: "nobody; this session was ended".into() }),
        }
    }

    pub(super) fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Core {
    pub(super) fn check_epoch(&self, given: Epoch) -> Result<(), ReplicaError> {
        let current = self.manifest.epoch;
        if given < current { Err(ReplicaError::StaleEpoch { given, current }) } else { Ok(()) }
    }
}

impl DiskSession {
    /// Drops the open cycle and its files. If any of it had been acknowledged, the source may have forgotten
    /// which blocks those were: changed blocks alone cannot follow any more.
    fn drop_cycle(replica: &DiskReplica) -> Result<(), ReplicaError> {
        let mut core = replica.core();
        if core.manifest.open.is_none() {
            return Ok(());
        }
        let acknowledged = core.parts.as_ref().is_some_and(|parts| parts.synced > 0);
        core.save(&*replica.volume, |manifest| {
            manifest.open = None;
            if acknowledged {
                manifest.generation = None;
            }
        })?;
        core.parts = None;
        drop(core);
        replica.remove_garbage()
    }

    fn start_cycle(replica: &DiskReplica, request: &OpenCycle) -> Result<(), ReplicaError> {
        let mut core = replica.core();
        let changes = matches!(request.kind, CycleKind::Changes);
        rules::may_follow(core.manifest.generation, request)?;
        core.save(&*replica.volume, |manifest| {
            let fill = manifest.points.is_empty();
            manifest.filling |= fill;
            manifest.open = Some(OpenRecord {
                seq: manifest.next_seq(),
                generation: request.generation,
                kind: request.kind.clone(),
                fill,
            });
            if !changes {
                manifest.generation = None;
            }
        })?;
        core.parts = Some(OpenParts::default());
        Ok(())
    }

    fn expect_no_part(&self) -> Result<(), ReplicaError> {
        rules::expect_no_part(self.part.as_ref().map(PartWriter::header))
    }

    /// The nodes `first..first + count` of a disk, checked.
    fn check_nodes(&self, disk: DiskIndex, nodes: &[u32]) -> Result<u64, ReplicaError> {
        rules::expect_nodes(&self.replica.core().manifest.disks, disk, nodes)
    }

    fn read_ahead(&mut self, disk: DiskIndex, nodes: std::ops::Range<u32>) {
        if self.replica.config.io_threads < 2 || nodes.is_empty() {
            return;
        }
        let replica = Arc::clone(&self.replica);
        self.ahead = Some(std::thread::spawn(move || {
            for node in nodes {
                // Whoever asks for it will get the error.
                if replica
                    .digests(disk)
                    .complete(node, replica.disk(disk), replica.config.io_threads)
                    .is_err()
                {
                    break;
                }
            }
        }));
    }

    fn join_ahead(&mut self) {
        if let Some(ahead) = self.ahead.take() {
            ahead.join().ok();
        }
    }
}

impl ReplicaSession for DiskSession {
    fn status(&mut self) -> Result<ReplicaStatus, ReplicaError> {
        let _turn = self.replica.enter(self.key)?;
        Ok(self.replica.status())
    }

    fn open_cycle(&mut self, request: &OpenCycle) -> Result<OpenCycleStatus, ReplicaError> {
        self.expect_no_part()?;
        self.part = None;
        let _turn = self.replica.enter(self.key)?;
        let replica = &*self.replica;
        let joins = rules::joins(replica.core().open_status().as_ref(), request);
        if joins {
            // What had ended when the last session was lost.
            replica.took(replica.sync_parts())?;
        } else {
            let waiting = replica.core().manifest.staged.len();
            if waiting >= replica.config.staged_cycles_max {
                replica.maintain()?;
            }
            replica.took(Self::drop_cycle(replica).and_then(|()| Self::start_cycle(replica, request)))?;
        }
        replica.core().open_status().ok_or(ReplicaError::Protocol { detail: "no cycle is open".into() })
    }

    fn begin_part(&mut self, header: PartHeader) -> Result<(), ReplicaError> {
        self.expect_no_part()?;
        let _turn = self.replica.enter(self.key)?;
        let part = self.replica.took(self.replica.begin_part(self.key, header))?;
        self.part = Some(part);
        Ok(())
    }

    fn put_frame(&mut self, frame: Frame) -> Result<(), ReplicaError> {
        let mut part = self.part.take().ok_or_else(no_part)?;
        let _turn = self.replica.enter(self.key)?;
        self.replica.took(self.replica.put_frame(self.key, &mut part, frame))?;
        self.part = Some(part);
        Ok(())
    }

    fn end_part(&mut self, checksum: [u8; 32]) -> Result<(), ReplicaError> {
        let part = self.part.take().ok_or_else(no_part)?;
        let _turn = self.replica.enter(self.key)?;
        self.replica.took(self.replica.end_part(part, checksum))
    }

    fn barrier(&mut self) -> Result<Watermarks, ReplicaError> {
        let _turn = self.replica.enter(self.key)?;
        self.replica.took(self.replica.sync_parts())?;
        Ok(self.replica.status().watermarks)
    }

    fn commit(&mut self, commit: &CommitCycle) -> Result<Watermarks, ReplicaError> {
        let _turn = self.replica.enter(self.key)?;
        let replica = &*self.replica;
        {
            let core = replica.core();
            let repeated = core.manifest.points.last().is_some_and(|point| point.seq == commit.seq);
            if repeated && core.manifest.open.is_none() {
                return Ok(core.status().watermarks);
            }
            rules::expect_commit(core.open_status().as_ref(), commit)?;
        }
        self.expect_no_part()?;
        replica.took(replica.sync_parts().and_then(|()| replica.commit_open(commit)))
    }

    fn abort_cycle(&mut self) -> Result<(), ReplicaError> {
        self.part = None;
        let _turn = self.replica.enter(self.key)?;
        Self::drop_cycle(&self.replica)
    }

    fn node_digests(
        &mut self,
        disk: DiskIndex,
        first: u32,
        count: u32,
    ) -> Result<Vec<NodeDigest>, ReplicaError> {
        self.expect_no_part()?;
        self.join_ahead();
        let end = first.checked_add(count).ok_or_else(no_part)?;
        let mut digests = Vec::new();
        let size;
        {
            let _turn = self.replica.enter(self.key)?;
            let nodes: Vec<_> = (first..end.min(first.saturating_add(1 << 16))).collect();
            size = self.check_nodes(disk, &nodes)?;
            self.replica.apply_all()?;
            for node in nodes {
                let record = self.replica.digests(disk).complete(
                    node,
                    self.replica.disk(disk),
                    self.replica.config.io_threads,
                )?;
                let digest = record.node_digest(leaves_of_node(size, node)).expect("a complete record");
                digests.push(NodeDigest(digest));
            }
        }
        self.read_ahead(disk, end..end.saturating_add(count).min(nodes_of_disk(size)));
        Ok(digests)
    }

    fn leaf_digests(&mut self, disk: DiskIndex, nodes: &[u32]) -> Result<Vec<LeafDigests>, ReplicaError> {
        self.expect_no_part()?;
        let _turn = self.replica.enter(self.key)?;
        let size = self.check_nodes(disk, nodes)?;
        self.replica.apply_all()?;
        let of_node = |node: &u32| {
            let record = self.replica.digests(disk).complete(
                *node,
                self.replica.disk(disk),
                self.replica.config.io_threads,
            )?;
            let leaves = (0..leaves_of_node(size, *node)).map(|leaf| record.leaf(leaf).expect("complete"));
            Ok(LeafDigests { node: *node, leaves: leaves.collect() })
        };
        nodes.iter().map(of_node).collect()
    }
}

impl Drop for DiskSession {
    fn drop(&mut self) {
        // Before anybody else may write.
        self.part = None;
        self.join_ahead();
        let mut core = self.replica.core();
        if core.writer.as_ref().is_some_and(|writer| writer.session == self.key.session) {
            core.writer = None;
        }
    }
}

impl DiskReplica {
    /// Makes the open cycle, all of whose parts are durable, a recovery point.
    fn commit_open(&self, commit: &CommitCycle) -> Result<Watermarks, ReplicaError> {
        let fill = self.core().manifest.open.as_ref().is_some_and(|open| open.fill);
        if fill {
            self.settle_disks()?;
        }
        let mut core = self.core();
        let parts = core.parts.as_ref().map(|parts| parts.done.clone()).unwrap_or_default();
        core.save(&*self.volume, |manifest| {
            manifest.generation = manifest.open.take().map(|open| open.generation);
            let lacks = manifest.members.commit(&commit.whole);
            manifest.points.push(RecoveryPoint {
                seq: commit.seq,
                time: commit.time,
                consistency: commit.consistency,
                group_tag: commit.group_tag.clone(),
                lacks,
            });
            if fill {
                manifest.filling = false;
                manifest.applied = Some(commit.seq);
            } else {
                manifest.staged.push(StagedCycle { seq: commit.seq, parts });
            }
        })?;
        core.parts = None;
        Ok(core.status().watermarks)
    }
}
