//! One cycle, stage by stage.

use std::sync::Arc;
use std::time::{Duration, Instant};

use switchback_delta::{Frame, nodes_of_disk};
use switchback_disk::{Disk, spans};
use switchback_model::{
    Consistency, DiskIndex, ExtentSet, GenerationId, PartIndex, ResyncReason, Seq, UnixMillis,
};
use switchback_replica::{
    CommitCycle, CycleKind, OpenCycle, ReplicaError, ReplicaState, ReplicaStatus, Watermarks,
};

use super::compare::{NodeDone, compare};
use super::sender::Sender;
use super::{CycleReport, Engine, EngineError, EngineOptions, Event, Frozen, MomentError, Source};

/// Longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Times that the last blocks are read in one moment.
const READS_WHILE_FROZEN_MAX: u32 = 3;
/// Shortest time between two barriers of a comparison: at each, source and target wait for one another.
const BARRIER_EVERY: Duration = Duration::from_secs(5);
/// Changed bytes sent before they are told to the observer.
const TELL_BYTES: u64 = 1 << 20;
/// Times that one cycle is begun again as a resync because the target lost its beginning.
const RESTARTS_MAX: u32 = 3;

/// A cycle under way.
struct Cycle {
    seq: Seq,
    kind: CycleKind,
    /// The replica has no point yet.
    is_empty: bool,
    next_part: PartIndex,
    /// Parts that a barrier has confirmed: fewer at the target means that it lost some.
    acknowledged: PartIndex,
    stage: Stage,
    rounds: u32,
    void_moments: u32,
    frozen: Duration,
    consistency: Consistency,
    time: UnixMillis,
    compared_bytes: u64,
    sent_bytes: u64,
    stored_bytes: u64,
    began: Instant,
}

/// Where it is. Each stage can be done again from its start.
enum Stage {
    Compare { disk: DiskIndex, node: u32 },
    Round,
    Moment,
    Final(Moment),
    Commit { moment: Moment, parts: PartIndex },
    Done(Watermarks),
}

/// What was read at the moment.
#[derive(Clone)]
struct Moment {
    frames: Vec<(DiskIndex, Frame)>,
    consistency: Consistency,
    time: UnixMillis,
    group_tag: Option<String>,
}

impl Engine {
    /// Brings the replica to a new recovery point. `resync`: compare whatever the tracker knows, for this reason.
    ///
    /// Lost connections and full disks are waited for, as long as the options say.
    ///
    /// # Errors
    /// [`EngineError`]. Calling it again goes on with what has arrived.
    pub fn cycle(&mut self, resync: Option<&ResyncReason>) -> Result<CycleReport, EngineError> {
        let mut reason = resync.cloned();
        for _ in 0..RESTARTS_MAX {
            match self.run(reason.take()) {
                Err(EngineError::Replica(ReplicaError::ResyncNeeded { detail })) => {
                    self.session = None;
                    reason = Some(ResyncReason::CycleLost { detail });
                }
                other => return other,
            }
        }
        let detail = format!("the target lost the beginning of the cycle {RESTARTS_MAX} times");
        Err(ReplicaError::ResyncNeeded { detail }.into())
    }

    fn run(&mut self, resync: Option<ResyncReason>) -> Result<CycleReport, EngineError> {
        let mut cycle = self.retry(|engine| engine.begin(resync.as_ref()))?;
        while !matches!(cycle.stage, Stage::Done(_)) {
            if self.stop.is_stopped() {
                return Err(EngineError::Stopped);
            }
            match self.advance(&mut cycle) {
                Ok(()) => {}
                Err(error) if is_passing(&error) => {
                    self.wait_after(&error, self.options.retry_pause)?;
                    self.retry(|engine| engine.rejoin(&mut cycle))?;
                }
                Err(error) => {
                    // A session that failed is dead, see `ReplicaSession`.
                    self.session = None;
                    return Err(error);
                }
            }
        }
        let Stage::Done(watermarks) = cycle.stage else { unreachable!("the loop ends with it") };
        let report = CycleReport {
            seq: cycle.seq,
            kind: cycle.kind,
            consistency: cycle.consistency,
            time: cycle.time,
            compared_bytes: cycle.compared_bytes,
            sent_bytes: cycle.sent_bytes,
            stored_bytes: cycle.stored_bytes,
            rounds: cycle.rounds,
            frozen: cycle.frozen,
            took: cycle.began.elapsed(),
            watermarks,
        };
        self.acknowledged = Some((self.source.tracker.generation(), report.seq));
        self.tell(Event::Committed(report.clone()));
        Ok(report)
    }

    /// Decides what kind of cycle it must be, and opens it.
    fn begin(&mut self, resync: Option<&ResyncReason>) -> Result<Cycle, EngineError> {
        self.source.tracker.check()?;
        let generation = self.source.tracker.generation();
        let always = self.source.always_compare;
        let status = self.session()?.status()?;
        let reason = match (resync, status.generation) {
            (Some(reason), _) => Some(reason.clone()),
            _ if always => Some(ResyncReason::NoTracking),
            (None, Some(theirs)) if theirs == generation => self.missed_points(generation, &status),
            (None, _) if status.state == ReplicaState::Empty => Some(ResyncReason::Initial),
            (None, theirs) => {
                let detail = match theirs {
                    Some(theirs) => format!("it was tracked by generation {theirs}, this is {generation}"),
                    None => "it was rolled back, or written by other means".into(),
                };
                Some(ResyncReason::ReplicaMismatch { detail })
            }
        };
        let kind = match reason {
            Some(reason) => CycleKind::Resync { reason },
            None => CycleKind::Changes,
        };
        let compares = matches!(kind, CycleKind::Resync { .. });
        if compares {
            // A comparison begun by an earlier life of this source: where it stood is not known here. What it had
            // sent onto empty disks is found again by its digests.
            if status.open.is_some() {
                self.session()?.abort_cycle()?;
            }
        }
        let opened = self.session()?.open_cycle(&OpenCycle { generation, kind: kind.clone() })?;
        if compares {
            // Everything written before this is read by the comparison. Only now, as the replica takes no changed blocks of this
            // generation any more: whatever happens to this process next, what is released here is compared.
            self.source.tracker.swap()?;
            self.source.tracker.release();
            self.source.tracker.all_compared();
        }
        let disk_bytes = self.source.disks.iter().map(|disk| disk.size()).sum();
        self.tell(Event::Opened { seq: opened.seq, kind: kind.clone(), disk_bytes });
        let stage = if compares { Stage::Compare { disk: DiskIndex(0), node: 0 } } else { Stage::Round };
        Ok(Cycle {
            seq: opened.seq,
            kind,
            is_empty: status.state == ReplicaState::Empty,
            next_part: opened.next_part,
            acknowledged: opened.next_part,
            stage,
            rounds: 0,
            void_moments: 0,
            frozen: Duration::ZERO,
            consistency: Consistency::Fuzzy,
            time: UnixMillis(0),
            compared_bytes: 0,
            sent_bytes: 0,
            stored_bytes: 0,
            began: Instant::now(),
        })
    }

    /// Why changed blocks cannot follow the replica's last point although it was made under this generation: it is not the one that this
    /// source was told to be safe. So it is when a process server died with cycles that it had not forwarded, and another took its place.
    fn missed_points(&self, generation: GenerationId, status: &ReplicaStatus) -> Option<ResyncReason> {
        let (ours, theirs) = (self.acknowledged?, status.last_point.as_ref().map(|point| point.seq));
        if ours.0 != generation || theirs == Some(ours.1) {
            return None;
        }
        let theirs = theirs.map_or("none".into(), |seq| seq.to_string());
        let detail = format!("its last point is {theirs}, point {} had been acknowledged", ours.1);
        Some(ResyncReason::ReplicaMismatch { detail })
    }

    /// Finds the cycle again after a lost session or a pause.
    fn rejoin(&mut self, cycle: &mut Cycle) -> Result<(), EngineError> {
        let generation = self.source.tracker.generation();
        let session = self.session()?;
        if let Stage::Commit { .. } = cycle.stage {
            let status = session.status()?;
            if status.last_point.is_some_and(|point| point.seq == cycle.seq) {
                // It was committed, only the answer was lost.
                cycle.stage = Stage::Done(status.watermarks);
                return Ok(());
            }
        }
        let opened = session.open_cycle(&OpenCycle { generation, kind: cycle.kind.clone() })?;
        if opened.seq != cycle.seq || opened.next_part < cycle.acknowledged {
            let detail = format!(
                "cycle {} had {} durable parts, the target has cycle {} with {}",
                cycle.seq, cycle.acknowledged, opened.seq, opened.next_part
            );
            return Err(ReplicaError::ResyncNeeded { detail }.into());
        }
        cycle.next_part = opened.next_part;
        Ok(())
    }

    fn advance(&mut self, cycle: &mut Cycle) -> Result<(), EngineError> {
        match &mut cycle.stage {
            Stage::Compare { disk, node } => {
                let (disk, node) = (*disk, *node);
                self.compare_disk(cycle, disk, node)
            }
            Stage::Round => self.round(cycle),
            Stage::Moment => self.moment(cycle),
            Stage::Final(moment) => {
                let moment = moment.clone();
                self.send_final(cycle, moment)
            }
            Stage::Commit { moment, parts } => {
                let whole = whole_disks(&self.source, &cycle.kind);
                let commit = CommitCycle {
                    seq: cycle.seq,
                    parts: parts.0,
                    time: moment.time,
                    consistency: moment.consistency,
                    group_tag: moment.group_tag.clone(),
                    whole,
                };
                (cycle.consistency, cycle.time) = (moment.consistency, moment.time);
                let watermarks = self.session()?.commit(&commit)?;
                cycle.stage = Stage::Done(watermarks);
                Ok(())
            }
            Stage::Done(_) => Ok(()),
        }
    }

    fn compare_disk(&mut self, cycle: &mut Cycle, disk: DiskIndex, from: u32) -> Result<(), EngineError> {
        let source = Arc::clone(&self.source.disks[usize::from(disk.0)]);
        let nodes =
            if self.source.tracker.is_removed(disk) { 0..0 } else { from..nodes_of_disk(source.size()) };
        let is_empty = cycle.is_empty;
        let (barrier_bytes, io_threads) = (self.options.barrier_bytes, self.options.io_threads);
        // Split borrows: the session is written by this call alone, the observer told in between.
        self.session()?;
        let Self { session, options, observer, stop, .. } = self;
        let session = &mut **session.as_mut().expect("just opened");
        let place = (cycle.seq, cycle.next_part);
        let mut sender = Sender::new(session, place, options.part_bytes_max, options.compression);
        let (mut told, mut behind_barrier, mut last_barrier) = ((0, 0), 0, Instant::now());
        let (next_node, acknowledged) = (&mut cycle.stage, &mut cycle.acknowledged);
        let compared = &mut cycle.compared_bytes;
        let done = |sender: &mut Sender<'_>, done: NodeDone| {
            *compared += done.bytes;
            observer(Event::Compared { bytes: done.bytes });
            tell_sent(sender, &mut told, observer, 1);
            if stop.is_stopped() {
                return Err(EngineError::Stopped);
            }
            let due = last_barrier.elapsed() >= BARRIER_EVERY;
            if due && sender.sent_bytes - behind_barrier >= barrier_bytes {
                sender.barrier()?;
                (behind_barrier, last_barrier) = (sender.sent_bytes, Instant::now());
                *acknowledged = sender.next_part();
                *next_node = Stage::Compare { disk, node: done.node + 1 };
            }
            Ok(())
        };
        compare(&*source, disk, nodes, io_threads, is_empty, &mut sender, done)?;
        sender.barrier()?;
        tell_sent(&sender, &mut told, observer, 1);
        (cycle.next_part, cycle.acknowledged) = (sender.next_part(), sender.next_part());
        (cycle.sent_bytes, cycle.stored_bytes) =
            (cycle.sent_bytes + sender.sent_bytes, cycle.stored_bytes + sender.stored_bytes);
        let next = DiskIndex(disk.0 + 1);
        let last = usize::from(next.0) == self.source.disks.len();
        cycle.stage = match (last, self.source.always_compare) {
            (false, _) => Stage::Compare { disk: next, node: 0 },
            (true, true) => Stage::Moment,
            (true, false) => Stage::Round,
        };
        Ok(())
    }

    /// Sends what changed, and decides whether little enough is left for a moment.
    fn round(&mut self, cycle: &mut Cycle) -> Result<(), EngineError> {
        let changed = self.source.tracker.swap()?;
        let bytes: u64 = changed.iter().map(ExtentSet::bytes).sum();
        cycle.rounds += 1;
        self.tell(Event::Round { number: cycle.rounds, bytes });
        let parts = self.send_extents(cycle, &changed)?;
        (cycle.next_part, cycle.acknowledged) = (parts, parts);
        self.source.tracker.release();
        if bytes <= self.options.final_bytes_max || cycle.rounds >= self.options.rounds_max {
            cycle.stage = Stage::Moment;
        }
        Ok(())
    }

    fn send_extents(&mut self, cycle: &mut Cycle, changed: &[ExtentSet]) -> Result<PartIndex, EngineError> {
        self.session()?;
        let Self { session, options, observer, source, .. } = self;
        let session = &mut **session.as_mut().expect("just opened");
        let place = (cycle.seq, cycle.next_part);
        let mut sender = Sender::new(session, place, options.part_bytes_max, options.compression);
        let mut told = (0, 0);
        for (index, (disk, extents)) in (0..).zip(source.disks.iter().zip(changed)) {
            read_frames(&**disk, extents, options.io_threads, |frame| {
                sender.send(DiskIndex(index), frame)?;
                tell_sent(&sender, &mut told, observer, TELL_BYTES);
                Ok(())
            })?;
        }
        sender.barrier()?;
        tell_sent(&sender, &mut told, observer, 1);
        (cycle.sent_bytes, cycle.stored_bytes) =
            (cycle.sent_bytes + sender.sent_bytes, cycle.stored_bytes + sender.stored_bytes);
        Ok(sender.next_part())
    }

    /// Makes the machine stand still and reads the last changed blocks.
    fn moment(&mut self, cycle: &mut Cycle) -> Result<(), EngineError> {
        let Self { source, options, .. } = self;
        let (tracker, disks, clock) = (&mut source.tracker, &source.disks, &source.clock);
        let mut read = None;
        let taken = source.moments.take(&mut || {
            // A frozen file system may still discard what was freed before: what it touched is read once more, with all the
            // rest, as nothing of it has been released.
            for _ in 0..READS_WHILE_FROZEN_MAX {
                let changed = tracker.swap().map_err(MomentError::Doubt)?;
                let frames = read_all(disks, &changed, options)?;
                let touched = tracker.touched(&changed).map_err(MomentError::Doubt)?;
                read = Some((frames, touched, clock.now()));
                if !touched {
                    break;
                }
            }
            Ok(())
        });
        match (taken, read) {
            (Ok(frozen), Some((frames, touched, time))) => {
                let Frozen { consistency, frozen, group_tag } = frozen;
                cycle.frozen = frozen;
                let moment = Moment { frames, consistency, time, group_tag };
                if !touched {
                    cycle.stage = Stage::Final(moment);
                    return Ok(());
                }
                let reason = "blocks were written while they were read for the moment".to_owned();
                self.moment_void(cycle, reason, Some(moment))
            }
            (Err(MomentError::Doubt(reason)), _) => Err(reason.into()),
            (Err(MomentError::Source { disk, offset, detail }), _) => {
                Err(EngineError::Source { disk, offset, source: std::io::Error::other(detail) })
            }
            (Err(MomentError::Void(reason)), _) => self.moment_void(cycle, reason, None),
            (Ok(_), None) => {
                self.moment_void(cycle, "the moment passed without reading anything".into(), None)
            }
        }
    }

    fn moment_void(
        &mut self,
        cycle: &mut Cycle,
        reason: String,
        moment: Option<Moment>,
    ) -> Result<(), EngineError> {
        cycle.void_moments += 1;
        self.tell(Event::MomentVoid { reason: reason.clone() });
        if cycle.void_moments < self.options.moments_max {
            // What the swap gave out is owed still: the round sends it.
            cycle.stage = Stage::Round;
            return Ok(());
        }
        match moment {
            Some(moment) if self.options.accept_fuzzy => {
                cycle.stage =
                    Stage::Final(Moment { consistency: Consistency::Fuzzy, group_tag: None, ..moment });
                Ok(())
            }
            _ => Err(EngineError::NoMoment { attempts: cycle.void_moments, reason }),
        }
    }

    fn send_final(&mut self, cycle: &mut Cycle, mut moment: Moment) -> Result<(), EngineError> {
        self.session()?;
        let Self { session, options, observer, .. } = self;
        let session = &mut **session.as_mut().expect("just opened");
        let place = (cycle.seq, cycle.next_part);
        let mut sender = Sender::new(session, place, options.part_bytes_max, options.compression);
        let mut told = (0, 0);
        for (disk, frame) in &moment.frames {
            sender.send(*disk, frame.clone())?;
        }
        sender.barrier()?;
        tell_sent(&sender, &mut told, observer, 1);
        let parts = sender.next_part();
        (cycle.sent_bytes, cycle.stored_bytes) =
            (cycle.sent_bytes + sender.sent_bytes, cycle.stored_bytes + sender.stored_bytes);
        (cycle.next_part, cycle.acknowledged) = (parts, parts);
        self.source.tracker.release();
        moment.frames.clear();
        cycle.stage = Stage::Commit { moment, parts };
        Ok(())
    }

    /// Does `attempt` again while its failure may pass.
    fn retry<T>(
        &mut self,
        mut attempt: impl FnMut(&mut Self) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        let began = Instant::now();
        let mut pause = self.options.retry_pause;
        loop {
            match attempt(self) {
                Err(error) if is_passing(&error) => {
                    if self.options.give_up_after.is_some_and(|limit| began.elapsed() + pause > limit) {
                        return Err(error);
                    }
                    self.wait_after(&error, pause)?;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                other => return other,
            }
        }
    }

    fn wait_after(&mut self, error: &EngineError, pause: Duration) -> Result<(), EngineError> {
        if !matches!(error, EngineError::Replica(ReplicaError::Paused(_))) {
            self.session = None;
        }
        self.tell(Event::Waiting { reason: error.to_string(), pause });
        self.stop.sleep(pause);
        if self.stop.is_stopped() { Err(EngineError::Stopped) } else { Ok(()) }
    }
}

/// The disks that may be said to be whole at the target once a cycle of this kind is committed: by a comparison all that there are.
fn whole_disks(source: &Source, kind: &CycleKind) -> Vec<DiskIndex> {
    let tracker = &source.tracker;
    match kind {
        CycleKind::Changes => tracker.whole(),
        CycleKind::Resync { .. } => {
            let all = (0..).map(DiskIndex).take(source.disks.len());
            all.filter(|disk| !tracker.is_removed(*disk)).collect()
        }
    }
}

/// The contents of all changed blocks, if they are few enough to be read while the machine stands still.
fn read_all(
    disks: &[Arc<dyn Disk>],
    changed: &[ExtentSet],
    options: &EngineOptions,
) -> Result<Vec<(DiskIndex, Frame)>, MomentError> {
    let (bytes, limit) = (changed.iter().map(ExtentSet::bytes).sum::<u64>(), options.final_bytes_max);
    if bytes > limit {
        return Err(MomentError::Void(format!("{bytes} bytes changed since the last round, {limit} may")));
    }
    let mut frames = Vec::new();
    for (index, (disk, extents)) in (0..).zip(disks.iter().zip(changed)) {
        let done = read_frames(&**disk, extents, options.io_threads, |frame| {
            frames.push((DiskIndex(index), frame));
            Ok(())
        });
        done.map_err(|error| match error {
            EngineError::Source { disk, offset, source } => {
                MomentError::Source { disk, offset, detail: source.to_string() }
            }
            other => MomentError::Void(other.to_string()),
        })?;
    }
    Ok(frames)
}

/// Whether trying again can help without anybody doing anything.
fn is_passing(error: &EngineError) -> bool {
    let EngineError::Replica(error) = error else { return false };
    matches!(
        error,
        ReplicaError::Disconnected { .. } | ReplicaError::Paused(_) | ReplicaError::Standing { .. }
    )
}

/// Reads changed blocks and hands them on as frames, in order.
fn read_frames(
    disk: &dyn Disk,
    extents: &ExtentSet,
    io_threads: usize,
    each: impl FnMut(Frame) -> Result<(), EngineError>,
) -> Result<(), EngineError> {
    let fail = |offset, source| EngineError::Source { disk: disk.name().into(), offset, source };
    spans::read_extents(disk, extents, io_threads, Frame::of, fail, each)
}

/// Tells what was sent since the last time, if it is at least `least` bytes.
fn tell_sent(
    sender: &Sender<'_>,
    told: &mut (u64, u64),
    observer: &mut Box<dyn FnMut(Event) + Send>,
    least: u64,
) {
    let (bytes, stored_bytes) = (sender.sent_bytes - told.0, sender.stored_bytes - told.1);
    if bytes >= least {
        *told = (sender.sent_bytes, sender.stored_bytes);
        observer(Event::Sent { bytes, stored_bytes });
    }
}
