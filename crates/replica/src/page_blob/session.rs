//! A session: what one writer says to a `PageBlobReplica` in the same process.
//!
//! One writer at a time, as [`DiskSession`](crate::DiskSession) has it.

use std::sync::{Arc, MutexGuard, PoisonError};

use switchback_delta::{Frame, NodeRecord, leaves_of_node};
use switchback_model::{DiskIndex, Epoch, RecoveryPoint};

use super::manifest::{OpenRecord, StagedCycle};
use super::save::Core;
use super::stage::{PartWriter, Puts};
use super::{PageBlobReplica, status_of};
use crate::rules::{self, no_part};
use crate::{
    CommitCycle, CycleKind, LeafDigests, NodeDigest, OpenCycle, OpenCycleStatus, PartHeader, ReplicaError,
    ReplicaSession, ReplicaStatus, SessionRequest, Watermarks,
};

/// What a session shows at every call.
#[derive(Clone, Copy, Debug)]
pub(super) struct SessionKey {
    session: u64,
    epoch: Epoch,
}

/// A session with a `PageBlobReplica`.
#[derive(Debug)]
pub struct BlobSession {
    replica: Arc<PageBlobReplica>,
    key: SessionKey,
    part: Option<PartWriter>,
    puts: Puts,
}

impl PageBlobReplica {
    /// Opens a session for a writer.
    ///
    /// # Errors
    /// [`ReplicaError::StaleEpoch`], [`ReplicaError::Locked`], [`ReplicaError::DisksChanged`], [`ReplicaError::Standing`]; those of the
    /// store.
    pub fn session(self: &Arc<Self>, request: &SessionRequest) -> Result<BlobSession, ReplicaError> {
        let _turn = self.turn();
        let mut core = self.core();
        core.settle(&*self.store)?;
        let current = core.manifest.epoch;
        let epoch = request.epoch.unwrap_or(current);
        core.check_epoch(epoch)?;
        let lacking = core.manifest.members.lacking();
        rules::known_disks(&core.manifest.disks, &lacking, &request.disks)?;
        core.check_not_standing()?;
        match &core.writer {
            Some((writer, _)) if *writer != request.writer && epoch == current => {
                return Err(ReplicaError::Locked { holder: format!("writer {writer}") });
            }
            _ => {}
        }
        if epoch > current {
            self.save(&mut core, |manifest| manifest.epoch = epoch)?;
        }
        core.sessions += 1;
        let session = core.sessions;
        core.writer = Some((request.writer, session));
        // What the former session had ended and not had acknowledged, its writer sends again.
        core.keep_acknowledged();
        drop(core);
        // Pages that the former writer has in hand are written when this one begins; it begins no more.
        let alone = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        if self.manifest()?.may_fill() {
            self.renew_leases()?;
        }
        drop(alone);
        let key = SessionKey { session, epoch };
        Ok(BlobSession { replica: Arc::clone(self), key, part: None, puts: Puts::default() })
    }

    /// Refuses all writers of older epochs from now on: what a session with a newer epoch does, also while none may be opened.
    ///
    /// # Errors
    /// [`ReplicaError::StaleEpoch`] when it knows a newer one; those of the store.
    pub fn fence(&self, epoch: Epoch) -> Result<(), ReplicaError> {
        let _turn = self.turn();
        let mut core = self.core();
        core.settle(&*self.store)?;
        core.check_epoch(epoch)?;
        if epoch > core.manifest.epoch { self.save(&mut core, |m| m.epoch = epoch) } else { Ok(()) }
    }

    fn start_cycle(&self, core: &mut Core, request: &OpenCycle) -> Result<(), ReplicaError> {
        rules::may_follow(core.manifest.generation, request)?;
        let fill = core.manifest.may_fill();
        let blank = fill && core.manifest.digests.absent_is_zero;
        self.save(core, |manifest| {
            // After a crash, what has no record may have been written.
            manifest.digests.absent_is_zero &= !fill;
            manifest.open = Some(OpenRecord {
                seq: manifest.next_seq(),
                generation: request.generation,
                kind: request.kind.clone(),
                parts: Vec::new(),
                filled: fill.then_some(0),
            });
            if !matches!(request.kind, CycleKind::Changes) {
                manifest.generation = None;
            }
        })?;
        core.keep_acknowledged();
        if blank {
            core.manifest.present().for_each(|disk| self.digests(disk).is_blank());
        }
        Ok(())
    }

    /// Drops the open cycle and its parts. If any of it had been acknowledged, the source may have forgotten which blocks those were:
    /// changed blocks alone cannot follow any more.
    fn drop_cycle(&self, core: &mut Core) -> Result<(), ReplicaError> {
        core.settle(&*self.store)?;
        let Some(open) = core.manifest.open.clone() else { return Ok(()) };
        self.save(core, |manifest| {
            manifest.open = None;
            if open.acknowledged() > 0 {
                manifest.generation = None;
            }
        })?;
        let parts = std::mem::take(&mut core.parts);
        self.delete_blobs(parts.into_iter().map(|part| part.blob));
        Ok(())
    }

    /// Makes the open cycle, all of whose parts have been put, a recovery point.
    fn commit_open(&self, commit: &CommitCycle) -> Result<Watermarks, ReplicaError> {
        let filled = self.finish_fill(commit.seq)?;
        let mut core = self.core();
        let members = &core.manifest.members;
        let (void, parts) =
            core.parts.iter().cloned().partition::<Vec<_>, _>(|part| members.has_removed(part.disk));
        self.save(&mut core, |manifest| {
            manifest.generation = manifest.open.take().map(|open| open.generation);
            let lacks = manifest.members.commit(&commit.whole);
            manifest.points.push(RecoveryPoint {
                seq: commit.seq,
                time: commit.time,
                consistency: commit.consistency,
                group_tag: commit.group_tag.clone(),
                lacks,
            });
            match filled {
                Some((base, absent_is_zero)) => {
                    manifest.bases.push(base);
                    manifest.digests.absent_is_zero = absent_is_zero;
                }
                None => manifest.staged.push(StagedCycle { seq: commit.seq, parts }),
            }
        })?;
        core.keep_acknowledged();
        // What had come for disks that were removed meanwhile.
        self.delete_blobs(void.into_iter().map(|part| part.blob));
        Ok(watermarks(&core))
    }

    /// The record of a node with every leaf known. Unknown ones are read from the page blob; of a disk that was removed all are zero.
    fn complete_node(&self, disk: DiskIndex, node: u32) -> Result<NodeRecord, ReplicaError> {
        let manifest = self.manifest()?;
        if manifest.members.has_removed(disk) {
            return Ok(NodeRecord::zero());
        }
        let source = self.disk(&manifest, disk);
        self.digests(disk).complete(node, &source, self.config.io_threads)
    }
}

fn watermarks(core: &Core) -> Watermarks {
    let seq = core.manifest.points.last().map(|point| point.seq);
    Watermarks { received: seq, recoverable: seq }
}

impl PageBlobReplica {
    /// Lets this call in, if the session still is the writer's.
    fn enter(&self, key: SessionKey) -> Result<MutexGuard<'_, ()>, ReplicaError> {
        let turn = self.turn();
        self.check_session(key).map(|()| turn)
    }

    /// Whether the session still is the writer's.
    pub(super) fn check_session(&self, key: SessionKey) -> Result<(), ReplicaError> {
        let mut core = self.core();
        core.settle(&*self.store)?;
        core.check_epoch(key.epoch)?;
        core.check_not_standing()?;
        match &core.writer {
            Some((_, session)) if *session == key.session => Ok(()),
            Some((writer, _)) => Err(ReplicaError::Locked { holder: format!("writer {writer}, since") }),
            None => Err(ReplicaError::Locked { holder: "nobody; this session was ended".into() }),
        }
    }
}

impl BlobSession {
    fn expect_no_part(&self) -> Result<(), ReplicaError> {
        rules::expect_no_part(self.part.as_ref().map(PartWriter::header))
    }

    /// Checks the nodes, and brings the page blobs to the newest point: the digests are theirs.
    fn settle_digests(&self, disk: DiskIndex, nodes: &[u32]) -> Result<u64, ReplicaError> {
        let size = rules::expect_nodes(&self.replica.manifest()?.disks, disk, nodes)?;
        self.replica.apply_all()?;
        self.replica.digests(disk).expect(nodes.iter().copied());
        Ok(size)
    }
}

impl ReplicaSession for BlobSession {
    fn status(&mut self) -> Result<ReplicaStatus, ReplicaError> {
        let _turn = self.replica.enter(self.key)?;
        let core = self.replica.core();
        Ok(status_of(&core.manifest, core.open_status(), core.paused.clone()))
    }

    fn open_cycle(&mut self, request: &OpenCycle) -> Result<OpenCycleStatus, ReplicaError> {
        self.expect_no_part()?;
        self.puts.wait(0)?;
        let _turn = self.replica.enter(self.key)?;
        let replica = &*self.replica;
        if !rules::joins(replica.core().open_status().as_ref(), request) {
            replica.make_room()?;
            let mut core = replica.core();
            replica.drop_cycle(&mut core)?;
            replica.start_cycle(&mut core, request)?;
        }
        replica.core().open_status().ok_or(ReplicaError::Protocol { detail: "no cycle is open".into() })
    }

    fn begin_part(&mut self, header: PartHeader) -> Result<(), ReplicaError> {
        self.expect_no_part()?;
        let _turn = self.replica.enter(self.key)?;
        self.part = Some(self.replica.begin_part(header)?);
        Ok(())
    }

    fn put_frame(&mut self, frame: Frame) -> Result<(), ReplicaError> {
        let mut part = self.part.take().ok_or_else(no_part)?;
        let _turn = self.replica.enter(self.key)?;
        self.replica.put_frame(self.key, &mut part, frame, &mut self.puts)?;
        self.part = Some(part);
        Ok(())
    }

    fn end_part(&mut self, checksum: [u8; 32]) -> Result<(), ReplicaError> {
        let part = self.part.take().ok_or_else(no_part)?;
        let mut puts = std::mem::take(&mut self.puts);
        let turn = self.replica.enter(self.key)?;
        let ended = self.replica.end_part(self.key, part, checksum, &mut puts);
        drop(turn);
        self.puts = puts;
        ended
    }

    fn barrier(&mut self) -> Result<Watermarks, ReplicaError> {
        self.puts.wait(0)?;
        let _turn = self.replica.enter(self.key)?;
        self.replica.name_parts()?;
        Ok(watermarks(&self.replica.core()))
    }

    fn commit(&mut self, commit: &CommitCycle) -> Result<Watermarks, ReplicaError> {
        self.puts.wait(0)?;
        let _turn = self.replica.enter(self.key)?;
        {
            let core = self.replica.core();
            let repeated = core.manifest.points.last().is_some_and(|point| point.seq == commit.seq);
            if repeated && core.manifest.open.is_none() {
                return Ok(watermarks(&core));
            }
            rules::expect_commit(core.open_status().as_ref(), commit)?;
        }
        self.expect_no_part()?;
        self.replica.commit_open(commit)
    }

    fn abort_cycle(&mut self) -> Result<(), ReplicaError> {
        self.part = None;
        self.puts.wait(0)?;
        let _turn = self.replica.enter(self.key)?;
        let mut core = self.replica.core();
        self.replica.drop_cycle(&mut core)
    }

    fn node_digests(
        &mut self,
        disk: DiskIndex,
        first: u32,
        count: u32,
    ) -> Result<Vec<NodeDigest>, ReplicaError> {
        self.expect_no_part()?;
        self.puts.wait(0)?;
        let _turn = self.replica.enter(self.key)?;
        let end = first.checked_add(count).ok_or_else(no_part)?;
        let nodes: Vec<_> = (first..end.min(first.saturating_add(1 << 16))).collect();
        let size = self.settle_digests(disk, &nodes)?;
        let digest = |node: &u32| {
            let record = self.replica.complete_node(disk, *node)?;
            Ok(NodeDigest(record.node_digest(leaves_of_node(size, *node)).expect("a complete record")))
        };
        nodes.iter().map(digest).collect()
    }

    fn leaf_digests(&mut self, disk: DiskIndex, nodes: &[u32]) -> Result<Vec<LeafDigests>, ReplicaError> {
        self.expect_no_part()?;
        self.puts.wait(0)?;
        let _turn = self.replica.enter(self.key)?;
        let size = self.settle_digests(disk, nodes)?;
        let of_node = |node: &u32| {
            let record = self.replica.complete_node(disk, *node)?;
            let leaves = (0..leaves_of_node(size, *node)).map(|leaf| record.leaf(leaf).expect("complete"));
            Ok(LeafDigests { node: *node, leaves: leaves.collect() })
        };
        nodes.iter().map(of_node).collect()
    }
}

impl Drop for BlobSession {
    fn drop(&mut self) {
        // Before anybody else may write.
        self.part = None;
        self.puts.wait(0).ok();
        let mut core = self.replica.core();
        if core.writer.is_some_and(|(_, session)| session == self.key.session) {
            core.writer = None;
        }
    }
}
