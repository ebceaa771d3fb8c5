//! Forwarding: the acknowledged records, in order, into the session of the next hop.
//!
//! ```text
//!            ┌────────── any error, after a wait ──────────┐
//!            ▼                                             │
//!   connect: status, join the open cycle ──▶ record by record: open · part · commit · abort
//!            │                                  │ barrier every so many bytes
//!            │ history differs                  ▼
//!            └──▶ drop all, demand a resync    confirm: `first` advances, segments are deleted
//! ```
//! Each unit (a part, a commit …) takes effect once, though it may be sent more than once: a connection
//! begins at the confirmed place, and what the next hop already has, by its own word, is read but not
//! sent again. An abort is confirmed durably before anything behind it is sent, so that the parts of an
//! aborted cycle and those of the next one, which has the same number, are never taken for each other.
//!
//! This is made of single steps without threads or sleeps: the caller waits as long as it is told.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use switchback_model::{Epoch, PartIndex, RecoveryPoint, Seq};
use switchback_replica::{
    CommitCycle, PartHeader, ReplicaError, ReplicaSession, ReplicaState, ReplicaStatus, SessionRequest,
    Watermarks,
};

use crate::config::SpoolConfig;
use crate::error::SpoolError;
use crate::lock;
use crate::log::Log;
use crate::record::{OpenRecord, Record};
use crate::segment::SegmentReader;
use crate::standing::{Standing, point_of};
use crate::state::Place;

/// Opens a session at the next hop.
pub type NextHop = dyn Fn(&SessionRequest) -> Result<Box<dyn ReplicaSession>, ReplicaError> + Send + Sync;

/// What one step of forwarding came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Something was forwarded; there may be more.
    Forwarded,
    /// Everything acknowledged is durable at the next hop.
    Idle,
    /// The next hop takes nothing just now.
    Wait {
        /// Before the next attempt.
        wait: Duration,
        /// Why.
        reason: ReplicaError,
    },
}

/// Why a step failed.
#[derive(Debug)]
enum StepError {
    Hop(ReplicaError),
    Spool(SpoolError),
}

impl From<ReplicaError> for StepError {
    fn from(error: ReplicaError) -> Self {
        Self::Hop(error)
    }
}

impl From<SpoolError> for StepError {
    fn from(error: SpoolError) -> Self {
        Self::Spool(error)
    }
}

fn diverged(detail: String) -> StepError {
    StepError::Hop(ReplicaError::ResyncNeeded { detail })
}

/// A session at the next hop, and how far it has come.
struct Link {
    session: Box<dyn ReplicaSession>,
    epoch: Epoch,
    /// The next hop's newest point.
    last_point: Option<RecoveryPoint>,
    /// Whether the next hop may have an open cycle.
    may_be_open: bool,
    /// The cycle joined at the next hop, and the next part it lacks.
    open: Option<(Seq, PartIndex)>,
    reader: Option<SegmentReader>,
    /// Behind the last unit sent.
    at: Place,
    standing: Standing,
    /// Bytes sent since the last barrier; `None` when nothing was.
    unconfirmed: Option<u64>,
}

/// Moves records from the log to the next hop.
pub(crate) struct Forwarder {
    next_hop: Box<NextHop>,
    config: Arc<SpoolConfig>,
    link: Option<Link>,
    /// Steps that failed since one succeeded.
    failures: u32,
    /// The next hop said that what was sent is damaged, though it was intact when it was read.
    was_corrupt: bool,
}

impl std::fmt::Debug for Forwarder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = self.link.as_ref().map(|link| link.at);
        f.debug_struct("Forwarder").field("at", &at).field("failures", &self.failures).finish_non_exhaustive()
    }
}

impl Forwarder {
    pub(crate) fn new(next_hop: Box<NextHop>, config: Arc<SpoolConfig>) -> Self {
        Self { next_hop, config, link: None, failures: 0, was_corrupt: false }
    }

    /// Forwards one unit, or confirms what was sent.
    pub(crate) fn step(&mut self, log: &Mutex<Log>) -> Step {
        match self.advance(log) {
            Ok(step) => {
                if step == Step::Forwarded {
                    (self.failures, self.was_corrupt) = (0, false);
                }
                step
            }
            Err(StepError::Hop(error)) => self.hop_failed(log, error),
            Err(StepError::Spool(error)) => self.spool_failed(log, &error),
        }
    }

    /// Asks the next hop how it stands, for a writer who cannot be let in without knowing.
    pub(crate) fn contact(&mut self, log: &Mutex<Log>, request: &SessionRequest) -> Result<(), ReplicaError> {
        self.link = None;
        let request = SessionRequest { writer: self.config.writer, ..request.clone() };
        let mut session = (self.next_hop)(&request)?;
        let mut status = session.status()?;
        let (is_new, was_dropped) = {
            let log = lock(log);
            (log.state.hop.is_none(), log.state.resync_needed.is_some())
        };
        if is_new && was_dropped && status.open.is_some() {
            // Parts of it were dropped here: it must not be gone on with.
            session.abort_cycle()?;
            status = session.status()?;
        }
        let mut log = lock(log);
        log.state.disks = request.disks;
        let noted = if is_new {
            log.adopt(status)
        } else {
            log.note_hop(status);
            log.state.store(&*log.volume)
        };
        noted.map_err(|error| error.for_writer())
    }

    /// The next hop's session, connected if it has to be.
    pub(crate) fn session(&mut self, log: &Mutex<Log>) -> Result<&mut dyn ReplicaSession, ReplicaError> {
        if self.link.is_none() {
            self.connect(log).map_err(|error| match error {
                StepError::Hop(error) => error,
                StepError::Spool(error) => error.for_writer(),
            })?;
        }
        let link = self.link.as_mut().expect("connected above");
        Ok(&mut *link.session)
    }

    /// Gives the connection up.
    pub(crate) fn disconnect(&mut self) {
        self.link = None;
    }

    fn advance(&mut self, log: &Mutex<Log>) -> Result<Step, StepError> {
        let (limit, first) = {
            let log = lock(log);
            (log.acknowledged(), log.state.first.number)
        };
        if self.link.is_none() {
            if first >= limit {
                return Ok(Step::Idle);
            }
            self.connect(log)?;
        }
        let link = self.link.as_mut().expect("connected above");
        if link.at.number >= limit {
            if link.unconfirmed.is_none() {
                return Ok(Step::Idle);
            }
            link.barrier(log)?;
            return Ok(Step::Forwarded);
        }
        let number = link.at.number;
        let record = link.read(log)?;
        match record {
            Record::Open(open) => {
                if open.epoch != link.epoch {
                    // Its data must be sent under its own epoch: by another session.
                    if link.unconfirmed.is_some() {
                        link.barrier(log)?;
                    }
                    self.link = None;
                    return Ok(Step::Forwarded);
                }
                link.open(log, number, &open)?;
            }
            Record::PartBegin(header) => link.part(log, number, header)?,
            Record::Commit(commit) => link.commit(log, number, &commit)?,
            Record::Abort { .. } => link.abort(log, number, &record)?,
            Record::Frame(_) | Record::PartEnd { .. } => {
                return Err(link.misplaced(format!("a {:?} record stands outside a part", record.kind())));
            }
        }
        if link.unconfirmed.is_some_and(|bytes| bytes >= self.config.barrier_bytes) {
            link.barrier(log)?;
        }
        Ok(Step::Forwarded)
    }

    fn connect(&mut self, log: &Mutex<Log>) -> Result<(), StepError> {
        let (request, at, standing, is_aborted) = {
            let log = lock(log);
            let (state, at) = (&log.state, log.state.first);
            let epoch = match &state.standing.open {
                Some(open) => open.record.epoch,
                None if at.number < log.acknowledged() => match log.reader(at)?.next() {
                    Ok(Record::Open(open)) => open.epoch,
                    Ok(_) => state.epoch,
                    Err(error) => return Err(error.of(at.segment_name()).into()),
                },
                None => state.epoch,
            };
            let request = SessionRequest {
                replica: self.config.replica.clone(),
                epoch: Some(epoch),
                writer: self.config.writer,
                disks: state.disks.clone(),
            };
            let number = state.standing.open.as_ref().map(|open| open.number);
            let is_aborted = number.is_some_and(|number| log.aborted.contains(&number));
            (request, at, state.standing.clone(), is_aborted)
        };
        let mut session = (self.next_hop)(&request)?;
        let status = session.status()?;
        check_history(&lock(log), &status)?;
        let mut link = Link {
            session,
            epoch: request.epoch.unwrap_or(status.epoch),
            last_point: status.last_point.clone(),
            may_be_open: status.open.is_some(),
            open: None,
            reader: None,
            at,
            standing,
            unconfirmed: None,
        };
        lock(log).note_hop(status);
        if let Some(open) = link.standing.open.clone()
            && !is_aborted
            && open.record.seq > link.last_seq()
        {
            link.join(&open.record)?;
            if let Some((seq, next)) = link.open
                && next < open.next_part
            {
                return Err(diverged(format!(
                    "the target has lost parts {next} to {} of cycle {seq}",
                    open.next_part
                )));
            }
        }
        self.link = Some(link);
        Ok(())
    }

    fn wait(&mut self, reason: ReplicaError) -> Step {
        let doubled = self.config.retry_min.saturating_mul(1 << self.failures.min(20));
        self.failures = self.failures.saturating_add(1);
        Step::Wait { wait: doubled.min(self.config.retry_max), reason }
    }

    fn hop_failed(&mut self, log: &Mutex<Log>, error: ReplicaError) -> Step {
        self.link = None;
        let is_passing = match &error {
            ReplicaError::Disconnected { .. }
            | ReplicaError::Io { .. }
            | ReplicaError::Locked { .. }
            | ReplicaError::Forbidden { .. }
            // Whether what is spooled can follow is only known when the replica has resumed, or settled where it stands.
            | ReplicaError::Standing { .. }
            | ReplicaError::Paused(_) => true,
            // Damaged on the way, perhaps: once more. Damaged here would have been seen when it was read.
            ReplicaError::Corrupt { .. } => !std::mem::replace(&mut self.was_corrupt, true),
            _ => false,
        };
        if is_passing {
            return self.wait(error);
        }
        self.was_corrupt = false;
        let mut log = lock(log);
        tracing::error!(volume = log.volume.name(), %error, "what is spooled cannot be forwarded and is dropped");
        match log.drop_all(&error) {
            Ok(()) => Step::Forwarded,
            Err(error) => self.wait(error.for_writer()),
        }
    }

    fn spool_failed(&mut self, log: &Mutex<Log>, error: &SpoolError) -> Step {
        self.link = None;
        let reason = error.for_writer();
        if let SpoolError::Damaged { .. } = error {
            let mut log = lock(log);
            log.end_sessions(reason.clone());
            if let Err(error) = log.recover() {
                tracing::error!(volume = log.volume.name(), %error, "the spool cannot be read");
            }
        }
        self.wait(reason)
    }
}

impl Link {
    fn last_seq(&self) -> Seq {
        self.last_point.as_ref().map_or(Seq(0), |point| point.seq)
    }

    fn misplaced(&self, detail: String) -> StepError {
        SpoolError::Damaged { segment: self.at.segment_name(), offset: self.at.offset, detail }.into()
    }

    /// The next record. The reader goes to the next segment by itself; `at` follows with [`Link::passed`].
    fn read(&mut self, log: &Mutex<Log>) -> Result<Record, StepError> {
        let number = self.reader.as_ref().map_or(self.at.number, SegmentReader::number);
        let begins_segment = lock(log).segments.contains_key(&number);
        let is_new = begins_segment && self.at.segment != number;
        if self.reader.is_none() || is_new {
            let place = if is_new { Place::start_of(number) } else { self.at };
            self.reader = Some(lock(log).reader(place)?);
        }
        let reader = self.reader.as_mut().expect("opened above");
        let record = reader.next().map_err(|error| error.of(reader.name()))?;
        self.at.segment = reader.first();
        Ok(record)
    }

    /// What was read is done.
    fn passed(&mut self, number: u64, records: &[&Record]) -> Result<(), StepError> {
        for record in records {
            if let Err(detail) = self.standing.apply(number, record) {
                return Err(self.misplaced(detail));
            }
        }
        if let Some(reader) = &self.reader {
            self.at = Place { number: reader.number(), segment: reader.first(), offset: reader.offset() };
        }
        Ok(())
    }

    fn join(&mut self, open: &OpenRecord) -> Result<(), StepError> {
        self.may_be_open = true;
        let status = self.session.open_cycle(&open.request)?;
        if status.seq != open.seq {
            return Err(diverged(format!(
                "the target numbers the next cycle {}, what is spooled is {}",
                status.seq, open.seq
            )));
        }
        self.open = Some((status.seq, status.next_part));
        Ok(())
    }

    fn open(&mut self, log: &Mutex<Log>, number: u64, open: &OpenRecord) -> Result<(), StepError> {
        self.open = None;
        let is_aborted = lock(log).aborted.contains(&Some(number));
        if !is_aborted && open.seq > self.last_seq() {
            self.join(open)?;
        }
        self.passed(number, &[&Record::Open(open.clone())])
    }

    fn part(&mut self, log: &Mutex<Log>, number: u64, header: PartHeader) -> Result<(), StepError> {
        let opened = self.standing.open.as_ref().map(|open| open.number);
        let is_aborted = opened.is_some_and(|number| lock(log).aborted.contains(&number));
        let is_wanted = !is_aborted && header.seq > self.last_seq();
        let is_sent = match self.open {
            Some((seq, next)) if is_wanted && seq == header.seq => {
                if header.part > next {
                    return Err(diverged(format!("the target lacks part {next} of cycle {seq}")));
                }
                header.part == next
            }
            None if is_wanted => {
                return Err(self.misplaced(format!("part {} of a cycle that is not open", header.part)));
            }
            _ => false,
        };
        if is_sent {
            self.session.begin_part(header)?;
        }
        let checksum = loop {
            match self.read(log)? {
                Record::Frame(frame) => {
                    *self.unconfirmed.get_or_insert(0) += frame.stored.len() as u64 + 64;
                    if is_sent {
                        self.session.put_frame(frame)?;
                    }
                }
                Record::PartEnd { checksum } => break checksum,
                other => {
                    return Err(self.misplaced(format!("a {:?} record stands within a part", other.kind())));
                }
            }
        };
        if is_sent {
            self.session.end_part(checksum)?;
            self.open = Some((header.seq, header.part.next()));
        }
        self.unconfirmed.get_or_insert(0);
        if is_aborted {
            // Nothing of it is at the next hop: it is confirmed with the abort behind it.
            self.unconfirmed = None;
        }
        self.passed(number, &[&Record::PartBegin(header), &Record::PartEnd { checksum }])
    }

    fn commit(&mut self, log: &Mutex<Log>, number: u64, commit: &CommitCycle) -> Result<(), StepError> {
        let point = point_of(commit);
        let watermarks = if commit.seq > self.last_seq() {
            let watermarks = self.session.commit(commit)?;
            self.may_be_open = false;
            self.last_point = Some(point);
            Some(watermarks)
        } else if commit.seq == self.last_seq()
            && !self.last_point.as_ref().is_some_and(|last| last.is_same(&point))
        {
            return Err(diverged(format!(
                "the target's point {} is another than the one spooled",
                commit.seq
            )));
        } else {
            None
        };
        self.open = None;
        self.passed(number, &[&Record::Commit(commit.clone())])?;
        self.note(log, watermarks);
        self.confirm(log, true)
    }

    fn abort(&mut self, log: &Mutex<Log>, number: u64, abort: &Record) -> Result<(), StepError> {
        if self.may_be_open {
            self.session.abort_cycle()?;
        }
        (self.may_be_open, self.open) = (false, None);
        self.passed(number, &[abort])?;
        self.confirm(log, true)
    }

    fn barrier(&mut self, log: &Mutex<Log>) -> Result<(), StepError> {
        let watermarks = self.session.barrier()?;
        self.note(log, Some(watermarks));
        self.confirm(log, false)
    }

    fn confirm(&mut self, log: &Mutex<Log>, durably: bool) -> Result<(), StepError> {
        self.unconfirmed = None;
        Ok(lock(log).confirm(self.at, &self.standing, durably)?)
    }

    /// Remembers what the next hop has by now.
    fn note(&self, log: &Mutex<Log>, watermarks: Option<Watermarks>) {
        let mut log = lock(log);
        let Some(mut status) = log.state.hop.clone() else { return };
        if self.standing.last_seq() == self.last_seq() {
            status.last_point.clone_from(&self.last_point);
            status.generation = self.standing.generation;
        }
        if status.last_point.is_some() {
            status.state = ReplicaState::Ready;
        }
        status.watermarks = watermarks.unwrap_or(status.watermarks);
        log.note_hop(status);
    }
}

/// Whether the next hop's points are those that were forwarded to it: no others, none missing.
fn check_history(log: &Log, status: &ReplicaStatus) -> Result<(), StepError> {
    let (ours, theirs) = (&log.state.standing.last_point, &status.last_point);
    if let Some(hop) = &log.state.hop
        && hop.id != status.id
    {
        return Err(diverged(format!(
            "the target's replica is another one, {} and not {}",
            status.id, hop.id
        )));
    }
    let seq = |point: &Option<RecoveryPoint>| point.as_ref().map_or(Seq(0), |point| point.seq);
    if seq(theirs) < seq(ours) {
        return Err(diverged(format!("the target is at point {}, it was at {}", seq(theirs), seq(ours))));
    }
    let differ = theirs.as_ref().zip(ours.as_ref()).is_some_and(|(theirs, ours)| !theirs.is_same(ours));
    if seq(theirs) == seq(ours) && (differ || theirs.is_some() != ours.is_some()) {
        return Err(diverged(format!("the target's point {} is another than the one forwarded", seq(ours))));
    }
    if seq(theirs) > log.tip.last_seq() {
        return Err(diverged(format!(
            "the target is at point {}, which did not come from here",
            seq(theirs)
        )));
    }
    Ok(())
}
