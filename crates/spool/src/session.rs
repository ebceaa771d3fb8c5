//! A writer's session: a [`ReplicaSession`] whose replica is, for the moment, the log.
//!
//! What it answers comes from the log's end, not from the next hop, which may be away: the last point is the
//! last one spooled, the open cycle the one spooled. Only questions about digests need the next hop, and
//! everything spooled to have arrived there before.

use std::sync::Arc;
use std::time::Instant;

use switchback_delta::{FRAME_HEADER_LEN, Frame, PartHasher};
use switchback_model::{DiskIndex, Epoch};
use switchback_replica::{
    CommitCycle, CycleKind, DiskSpec, LeafDigests, NodeDigest, OpenCycle, OpenCycleStatus, PartHeader,
    PauseReason, ReplicaError, ReplicaSession, ReplicaState, ReplicaStatus, SessionRequest, Watermarks,
};

use crate::forward::Step;
use crate::lock;
use crate::log::{Holder, Log, LogError};
use crate::record::{OpenRecord, RECORD_HEADER_LEN, Record};
use crate::spool::Shared;
use crate::standing::point_of;

/// A writer's session at a spool.
#[derive(Debug)]
pub struct SpoolSession {
    shared: Arc<Shared>,
    ticket: u64,
    /// The upheavals there had been when it began.
    upheavals: u64,
    epoch: Epoch,
    disks: Vec<DiskSpec>,
    part: Part,
    /// The error that ended it.
    ended: Option<ReplicaError>,
}

/// The part being received.
#[derive(Debug)]
enum Part {
    None,
    Open(Box<OpenPart>),
    /// There was no room for it; what its writer still sends of it is not taken either.
    Refused(PauseReason),
}

#[derive(Debug)]
struct OpenPart {
    hasher: PartHasher,
    disk: DiskIndex,
    /// Where the last frame ends, bytes from the disk's start.
    end: u64,
    contents_bytes: u64,
    log_bytes: u64,
}

fn protocol(detail: impl Into<String>) -> ReplicaError {
    ReplicaError::Protocol { detail: detail.into() }
}

impl SpoolSession {
    pub(crate) fn open(shared: Arc<Shared>, request: &SessionRequest) -> Result<Self, ReplicaError> {
        if request.replica != shared.config.replica {
            return Err(protocol(format!(
                "this is the spool of {}, not of {}",
                shared.config.replica, request.replica
            )));
        }
        let must_ask = {
            let mut log = lock(&shared.log);
            if log.broken {
                log.end_sessions(protocol("the spool had to be read again"));
                log.recover().map_err(|error| error.for_writer())?;
            }
            check_writer(&log, request)?;
            log.state.hop.is_none() || log.state.disks != request.disks
        };
        if must_ask {
            lock(&shared.forwarder).contact(&shared.log, request)?;
        }
        let mut log = lock(&shared.log);
        check_writer(&log, request)?;
        let epoch = request.epoch.unwrap_or(log.state.epoch);
        if epoch > log.state.epoch {
            log.raise_epoch(epoch).map_err(|error| error.for_writer())?;
        }
        // Of an earlier session that is superseded: its part will not be ended.
        log.cut_part().map_err(|error| error.for_writer())?;
        match log.acknowledge() {
            // Then less is durable, and the status says so.
            Ok(()) | Err(LogError::Full(_)) => {}
            Err(error) => return Err(error.for_writer()),
        }
        log.tickets += 1;
        let ticket = log.tickets;
        let (upheavals, disks) = (log.upheaval.0, request.disks.clone());
        log.holder = Some(Holder { ticket, writer: request.writer, epoch, upheavals });
        drop(log);
        shared.wake.notify_all();
        Ok(Self { shared, ticket, upheavals, epoch, disks, part: Part::None, ended: None })
    }

    /// Does something with the log, if this session may still; an error but a pause ends it.
    fn call<T>(
        &mut self,
        work: impl FnOnce(&mut Log, &mut Part, &[DiskSpec]) -> Result<T, ReplicaError>,
    ) -> Result<T, ReplicaError> {
        if let Some(ended) = &self.ended {
            return Err(ended.clone());
        }
        let shared = Arc::clone(&self.shared);
        let mut log = lock(&shared.log);
        let acknowledged = log.acknowledged();
        let result = self.check(&log).and_then(|()| work(&mut log, &mut self.part, &self.disks));
        if log.acknowledged() != acknowledged {
            shared.wake.notify_all();
        }
        result.inspect_err(|error| {
            if !matches!(error, ReplicaError::Paused(_)) {
                self.ended = Some(error.clone());
            }
        })
    }

    fn check(&self, log: &Log) -> Result<(), ReplicaError> {
        if log.state.epoch > self.epoch {
            return Err(ReplicaError::StaleEpoch { given: self.epoch, current: log.state.epoch });
        }
        if let (upheavals, Some(reason)) = &log.upheaval
            && *upheavals != self.upheavals
        {
            return Err(reason.clone());
        }
        match log.holder {
            Some(holder) if holder.ticket == self.ticket => {}
            Some(holder) => {
                return Err(ReplicaError::Locked { holder: format!("a later session of {}", holder.writer) });
            }
            None => return Err(protocol("the session was closed")),
        }
        if log.broken {
            return Err(ReplicaError::Io {
                action: "using the spool".into(),
                detail: "its disk has failed; a new session reads it again".into(),
            });
        }
        Ok(())
    }

    /// Forwards until nothing is left; at most as long as configured, and not while the next hop is away.
    fn drain(&mut self) -> Result<(), ReplicaError> {
        self.call(|log, part, _| {
            expect_no_part(part)?;
            log.acknowledge().map_err(LogError::for_writer)
        })?;
        let began = Instant::now();
        let peer = || "the target behind the process server".to_string();
        loop {
            let step = lock(&self.shared.forwarder).step(&self.shared.log);
            match step {
                Step::Idle => return self.call(|_, _, _| Ok(())),
                Step::Wait { reason, .. } => {
                    return Err(ReplicaError::Disconnected { peer: peer(), detail: reason.to_string() });
                }
                Step::Forwarded if began.elapsed() > self.shared.config.drain_wait_max => {
                    let detail = "what is spooled has not all been forwarded yet; try again later".into();
                    return Err(ReplicaError::Disconnected { peer: peer(), detail });
                }
                Step::Forwarded => {}
            }
        }
    }

    fn ask<T>(
        &mut self,
        question: impl FnOnce(&mut dyn ReplicaSession) -> Result<T, ReplicaError>,
    ) -> Result<T, ReplicaError> {
        let shared = Arc::clone(&self.shared);
        let answer = self.drain().and_then(|()| {
            let mut forwarder = lock(&shared.forwarder);
            let answer = forwarder.session(&shared.log).and_then(question);
            if answer.is_err() {
                forwarder.disconnect();
            }
            answer
        });
        answer.inspect_err(|error| {
            if !matches!(error, ReplicaError::Paused(_)) {
                self.ended = Some(error.clone());
            }
        })
    }
}

impl Drop for SpoolSession {
    fn drop(&mut self) {
        let mut log = lock(&self.shared.log);
        if log.holder.is_some_and(|holder| holder.ticket == self.ticket) {
            log.holder = None;
            if !log.broken
                && let Err(error) = log.cut_part()
            {
                tracing::warn!(volume = log.volume.name(), %error, "half a part could not be taken back");
            }
        }
    }
}

/// Whether this writer may have the spool now.
fn check_writer(log: &Log, request: &SessionRequest) -> Result<(), ReplicaError> {
    let current = log.state.epoch;
    if let Some(given) = request.epoch
        && given < current
    {
        return Err(ReplicaError::StaleEpoch { given, current });
    }
    match log.live_holder() {
        // A newer epoch takes over; so does the same writer, whose old connection may not know yet that it is lost.
        Some(holder) if holder.writer != request.writer && request.epoch.is_none_or(|e| e <= current) => {
            Err(ReplicaError::Locked { holder: format!("writer {}", holder.writer) })
        }
        _ => Ok(()),
    }
}

fn expect_no_part(part: &Part) -> Result<(), ReplicaError> {
    if let Part::Open(_) = part { Err(protocol("a part is not ended")) } else { Ok(()) }
}

fn watermarks(log: &Log) -> Watermarks {
    Watermarks {
        received: log.tip.last_point.as_ref().map(|point| point.seq),
        recoverable: log.state.hop.as_ref().and_then(|hop| hop.watermarks.recoverable),
    }
}

fn status(log: &Log) -> Result<ReplicaStatus, ReplicaError> {
    let Some(hop) = &log.state.hop else { return Err(protocol("the next hop has never been asked")) };
    let changes_may_follow = log.state.resync_needed.is_none();
    Ok(ReplicaStatus {
        id: hop.id,
        epoch: log.state.epoch,
        disks: hop.disks.clone(),
        state: if log.tip.last_point.is_some() { ReplicaState::Ready } else { hop.state },
        generation: log.tip.generation.filter(|_| changes_may_follow),
        open: log.tip.open.as_ref().map(|open| open.status()),
        last_point: log.tip.last_point.clone(),
        watermarks: watermarks(log),
        paused: log.full.clone().map(|detail| PauseReason::SpoolFull { detail }),
    })
}

fn open_cycle(log: &mut Log, request: &OpenCycle, epoch: Epoch) -> Result<OpenCycleStatus, ReplicaError> {
    log.acknowledge().map_err(LogError::for_writer)?;
    let is_changes = request.kind == CycleKind::Changes;
    if let Some(needed) = &log.state.resync_needed
        && is_changes
    {
        return Err(ReplicaError::ResyncNeeded { detail: needed.detail.clone() });
    }
    if let Some(open) = &log.tip.open
        && open.record.request.generation == request.generation
        && (open.record.request.kind == CycleKind::Changes) == is_changes
        && open.record.epoch == epoch
    {
        return Ok(open.status());
    }
    let last = log.tip.generation_without_open();
    if is_changes && last != Some(request.generation) {
        let detail = match last {
            Some(last) => {
                format!("the last point was made under generation {last}, not {}", request.generation)
            }
            None => "no changed blocks can follow the last point".into(),
        };
        return Err(ReplicaError::ResyncNeeded { detail });
    }
    let seq = log.tip.last_seq().next();
    let open = Record::Open(OpenRecord { seq, epoch, request: request.clone() });
    // After a loss the next hop may have parts of a cycle that is not known here any more.
    let records = if log.tip.open.is_some() || log.state.resync_needed.is_some() {
        vec![Record::Abort { seq }, open]
    } else {
        vec![open]
    };
    log.append_durably(&records).map_err(LogError::for_writer)?;
    let open = log.tip.open.as_ref().ok_or_else(|| protocol("the cycle is not open"))?;
    Ok(open.status())
}

fn put_frame(log: &mut Log, part: &mut Part, disks: &[DiskSpec], frame: Frame) -> Result<(), ReplicaError> {
    let open = match part {
        Part::Open(open) => open,
        Part::Refused(reason) => return Err(ReplicaError::Paused(reason.clone())),
        Part::None => return Err(protocol("a frame outside a part")),
    };
    let (extent, disk) = (frame.extent, open.disk);
    if extent.start < open.end {
        return Err(protocol(format!("{extent} of disk {disk} come after byte {}", open.end)));
    }
    let size = disks.get(usize::from(disk.0)).map_or(0, |disk| disk.size);
    if extent.end() > size {
        return Err(protocol(format!("{extent} are beyond the end of disk {disk}, byte {size}")));
    }
    let len = FRAME_HEADER_LEN + frame.stored.len();
    open.contents_bytes += extent.len;
    open.log_bytes += (RECORD_HEADER_LEN + len) as u64;
    if open.contents_bytes > log.config.part_bytes_max || open.log_bytes > log.config.part_log_bytes_max() {
        return Err(protocol(format!("the part has more than {} bytes", log.config.part_bytes_max)));
    }
    if let Err(error) = frame.contents() {
        return Err(ReplicaError::Corrupt { detail: format!("disk {disk}, as received: {error}") });
    }
    open.end = extent.end();
    open.hasher.push(&frame);
    let room = log.check_room(len);
    room.and_then(|()| log.append(&Record::Frame(frame))).map_err(|error| refuse_part(log, part, error))
}

/// No room for the rest of the part: its beginning is taken back, and what was ended before is acknowledged, so that it can
/// be forwarded and make room.
fn refuse_part(log: &mut Log, part: &mut Part, error: LogError) -> ReplicaError {
    let LogError::Full(detail) = error else { return error.for_writer() };
    let reason = PauseReason::SpoolFull { detail: detail.clone() };
    *part = Part::Refused(reason.clone());
    if let Err(error) = log.cut_part() {
        return error.for_writer();
    }
    log.full = Some(detail);
    match log.acknowledge() {
        Ok(()) | Err(LogError::Full(_)) => ReplicaError::Paused(reason),
        Err(error) => error.for_writer(),
    }
}

fn commit(log: &mut Log, commit: &CommitCycle) -> Result<Watermarks, ReplicaError> {
    let Some(open) = &log.tip.open else {
        // The answer to the first may have been lost.
        return match &log.tip.last_point {
            Some(last) if last.is_same(&point_of(commit)) => Ok(watermarks(log)),
            _ => Err(protocol(format!("cycle {} is not open", commit.seq))),
        };
    };
    let (seq, parts) = (open.record.seq, open.next_part.0);
    if commit.seq != seq {
        return Err(protocol(format!("cycle {seq} is open, not {}", commit.seq)));
    }
    if commit.parts != parts {
        return Err(protocol(format!(
            "cycle {seq} has {parts} parts here, the commit says {}",
            commit.parts
        )));
    }
    log.append_durably(&[Record::Commit(commit.clone())]).map_err(LogError::for_writer)?;
    Ok(watermarks(log))
}

impl ReplicaSession for SpoolSession {
    fn status(&mut self) -> Result<ReplicaStatus, ReplicaError> {
        self.call(|log, _, _| status(log))
    }

    fn open_cycle(&mut self, request: &OpenCycle) -> Result<OpenCycleStatus, ReplicaError> {
        let epoch = self.epoch;
        self.call(|log, part, _| {
            expect_no_part(part)?;
            open_cycle(log, request, epoch)
        })
    }

    fn begin_part(&mut self, header: PartHeader) -> Result<(), ReplicaError> {
        self.call(|log, part, disks| {
            expect_no_part(part)?;
            if usize::from(header.disk.0) >= disks.len() {
                return Err(protocol(format!("there is no disk {}", header.disk)));
            }
            let room = log.check_still_full().and_then(|()| log.check_room(0));
            room.and_then(|()| log.append(&Record::PartBegin(header)))
                .map_err(|error| refuse_part(log, part, error))?;
            let hasher = PartHasher::new();
            let open = OpenPart { hasher, disk: header.disk, end: 0, contents_bytes: 0, log_bytes: 0 };
            *part = Part::Open(Box::new(open));
            Ok(())
        })
    }

    fn put_frame(&mut self, frame: Frame) -> Result<(), ReplicaError> {
        self.call(|log, part, disks| put_frame(log, part, disks, frame))
    }

    fn end_part(&mut self, checksum: [u8; 32]) -> Result<(), ReplicaError> {
        self.call(|log, part, _| {
            let (received, disk) = match part {
                Part::Open(open) => (open.hasher.finish(), open.disk),
                Part::Refused(reason) => return Err(ReplicaError::Paused(reason.clone())),
                Part::None => return Err(protocol("no part to end")),
            };
            if checksum != received {
                let detail = format!("a part of disk {disk} is not what its sender read");
                return Err(ReplicaError::Corrupt { detail });
            }
            log.append(&Record::PartEnd { checksum }).map_err(|error| refuse_part(log, part, error))?;
            *part = Part::None;
            if log.unacknowledged_bytes() < log.config.sync_bytes {
                return Ok(());
            }
            match log.acknowledge() {
                // Nobody has asked for it; the next barrier will tell.
                Ok(()) | Err(LogError::Full(_)) => Ok(()),
                Err(error) => Err(error.for_writer()),
            }
        })
    }

    fn barrier(&mut self) -> Result<Watermarks, ReplicaError> {
        self.call(|log, _, _| {
            log.acknowledge().map_err(LogError::for_writer)?;
            Ok(watermarks(log))
        })
    }

    fn commit(&mut self, request: &CommitCycle) -> Result<Watermarks, ReplicaError> {
        self.call(|log, part, _| {
            expect_no_part(part)?;
            commit(log, request)
        })
    }

    fn abort_cycle(&mut self) -> Result<(), ReplicaError> {
        self.call(|log, part, _| {
            *part = Part::None;
            log.cut_part().map_err(|error| error.for_writer())?;
            if log.tip.open.is_some() { log.abort().map_err(LogError::for_writer) } else { Ok(()) }
        })
    }

    fn node_digests(
        &mut self,
        disk: DiskIndex,
        first: u32,
        count: u32,
    ) -> Result<Vec<NodeDigest>, ReplicaError> {
        self.ask(|hop| hop.node_digests(disk, first, count))
    }

    fn leaf_digests(&mut self, disk: DiskIndex, nodes: &[u32]) -> Result<Vec<LeafDigests>, ReplicaError> {
        self.ask(|hop| hop.leaf_digests(disk, nodes))
    }
}
