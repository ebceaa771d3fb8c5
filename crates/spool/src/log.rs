//! The log: appending to it, acknowledging, cutting, and giving up what has been forwarded.
//!
//! Invariants:
//! - Records are numbered without gaps over the life of the spool. Those below `acknowledged` are durable;
//!   only they are forwarded, and nothing else was ever promised to anyone.
//! - `acknowledged` never stands within a part.
//! - A segment from which something was cut is never written again; what follows goes to a new one.
//! - What is needed is written before what it replaces is removed: the state file before segments are
//!   deleted, segments before the position that promises them.
//!
//! After an error of the disk other than "full" nothing in memory is believed any more: the log is *broken*
//! until [`Log::recover`] has read it again (see `recovery`).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use switchback_disk::{Volume, VolumeLock};
use switchback_model::{ByteSize, Epoch, WriterId};
use switchback_replica::{CycleKind, PauseReason, ReplicaError, ReplicaStatus};

use crate::config::SpoolConfig;
use crate::error::SpoolError;
use crate::position::PositionFile;
use crate::record::{RECORD_HEADER_LEN, Record};
use crate::segment::{SegmentReader, SegmentWriter, segment_name};
use crate::standing::Standing;
use crate::state::{Place, ResyncNeeded, State};

/// Why something was not written.
#[derive(Debug)]
pub(crate) enum LogError {
    /// No room, figures. Nothing was changed.
    Full(String),
    /// It does not fit what came before, or is too long. Nothing was changed.
    Refused(String),
    /// The disk failed.
    Failed(SpoolError),
}

impl From<SpoolError> for LogError {
    fn from(error: SpoolError) -> Self {
        if error.is_full() { Self::Full(error.for_writer().to_string()) } else { Self::Failed(error) }
    }
}

impl LogError {
    /// In the words of a replica.
    pub(crate) fn for_writer(self) -> ReplicaError {
        match self {
            Self::Full(detail) => ReplicaError::Paused(PauseReason::SpoolFull { detail }),
            Self::Refused(detail) => ReplicaError::Protocol { detail },
            Self::Failed(error) => error.for_writer(),
        }
    }
}

/// The session that may write.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holder {
    /// Told apart by this, also from an earlier session of the same writer.
    pub(crate) ticket: u64,
    pub(crate) writer: WriterId,
    pub(crate) epoch: Epoch,
    /// The upheavals there had been when the session began: a later one has ended it.
    pub(crate) upheavals: u64,
}

/// The log of one spool.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) volume: Arc<dyn Volume>,
    pub(crate) config: Arc<SpoolConfig>,
    _lock: VolumeLock,
    pub(crate) state: State,
    pub(crate) position: PositionFile,
    /// First record → bytes, of all segments.
    pub(crate) segments: BTreeMap<u64, u64>,
    /// The last segment's first record, and its writer; `None` when the next record begins a new one.
    pub(crate) writer: Option<(u64, SegmentWriter)>,
    /// The number of the next record.
    pub(crate) next: u64,
    /// How the replica stands behind the last record.
    pub(crate) tip: Standing,
    /// Where the part begins whose end has not come.
    part_start: Option<Place>,
    /// Bytes appended since the last acknowledgement.
    unacknowledged_bytes: u64,
    /// Cycles that end in an abort record, by the number of the record that opened them: they need
    /// not be sent.
    pub(crate) aborted: BTreeSet<Option<u64>>,
    /// There was no room; until there is enough again, no part is begun.
    pub(crate) full: Option<String>,
    /// The disk failed; see the module's header.
    pub(crate) broken: bool,
    /// Goes up whenever sessions must end; with the reason.
    pub(crate) upheaval: (u64, Option<ReplicaError>),
    /// Who may write.
    pub(crate) holder: Option<Holder>,
    /// Sessions there have been.
    pub(crate) tickets: u64,
    /// The last damage found, for people.
    pub(crate) damage: Option<SpoolError>,
}

impl Log {
    /// Takes the volume and brings the log to where it was acknowledged.
    pub(crate) fn open(volume: Arc<dyn Volume>, config: Arc<SpoolConfig>) -> Result<Self, SpoolError> {
        config.check()?;
        let lock = volume.lock().map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => {
                SpoolError::Locked { volume: volume.name().into(), holder: error.to_string() }
            }
            _ => SpoolError::Io { action: format!("locking {}", volume.name()), source: error },
        })?;
        let (state, position, damage) = crate::recovery::load(&*volume, &config)?;
        let mut log = Self {
            volume,
            config,
            _lock: lock,
            next: 0,
            tip: Standing::default(),
            state,
            position,
            segments: BTreeMap::new(),
            writer: None,
            part_start: None,
            aborted: BTreeSet::new(),
            full: None,
            broken: true,
            upheaval: (0, None),
            holder: None,
            tickets: 0,
            unacknowledged_bytes: 0,
            damage,
        };
        log.recover()?;
        Ok(log)
    }

    /// Records below this number are durable.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.position.acknowledged()
    }

    /// Bytes of all segments, with what is still in memory.
    pub(crate) fn bytes(&self) -> u64 {
        let open = self.writer.as_ref().map_or(0, |(_, writer)| writer.len());
        let current = self.writer.as_ref().map(|(first, _)| *first);
        open + self
            .segments
            .iter()
            .filter(|(first, _)| Some(**first) != current)
            .map(|(_, len)| len)
            .sum::<u64>()
    }

    /// Bytes appended since the last acknowledgement.
    pub(crate) fn unacknowledged_bytes(&self) -> u64 {
        self.unacknowledged_bytes
    }

    /// Whether there is nothing to acknowledge.
    fn is_acknowledged(&self) -> bool {
        self.part_start.map_or(self.next, |place| place.number) <= self.acknowledged()
    }

    /// Appends one record, in memory or on disk; durable with the next [`Log::acknowledge`].
    pub(crate) fn append(&mut self, record: &Record) -> Result<(), LogError> {
        let mut tip = self.tip.clone();
        tip.apply(self.next, record).map_err(LogError::Refused)?;
        let place = self.place();
        if let Err(error) = self.write(record) {
            return Err(self.undo(place, error));
        }
        match record {
            Record::Abort { .. } => self.aborted.extend(self.tip.open.as_ref().map(|open| open.number)),
            Record::PartBegin(_) => self.part_start = Some(place),
            Record::PartEnd { .. } => self.part_start = None,
            Record::Open(_) | Record::Frame(_) | Record::Commit(_) => {}
        }
        self.note_resync(record);
        self.tip = tip;
        Ok(())
    }

    /// Appends records and makes them durable, all or none; those of a cycle's frame, which are few and small
    /// and so may use the reserve.
    pub(crate) fn append_durably(&mut self, records: &[Record]) -> Result<(), LogError> {
        let (place, tip) = (self.place(), self.tip.clone());
        let aborted = self.aborted.clone();
        let needed = self.state.resync_needed.clone();
        let all = records.iter().try_for_each(|record| self.append(record));
        all.and_then(|()| self.acknowledge()).map_err(|error| {
            (self.tip, self.aborted) = (tip, aborted);
            self.state.resync_needed = needed;
            self.undo(place, error)
        })
    }

    /// The session that may write now: one that has been superseded or ended holds nothing any more.
    pub(crate) fn live_holder(&self) -> Option<Holder> {
        self.holder.filter(|holder| holder.epoch >= self.state.epoch && holder.upheavals == self.upheaval.0)
    }

    /// Whether a frame of `len` bytes has room.
    pub(crate) fn check_room(&self, len: usize) -> Result<(), LogError> {
        let (bytes, bytes_max) = (self.bytes() + (RECORD_HEADER_LEN + len) as u64, self.config.bytes_max);
        if bytes > bytes_max {
            return Err(LogError::Full(format!("{} of {}", ByteSize(self.bytes()), ByteSize(bytes_max))));
        }
        let free =
            self.volume.free_bytes().map_err(SpoolError::io("asking the cache disk for its free bytes"))?;
        if free < self.config.reserve_bytes + len as u64 {
            return Err(LogError::Full(format!("{} free on {}", ByteSize(free), self.volume.name())));
        }
        Ok(())
    }

    /// Ends the state of being full if there is room for a part again, or nothing left to wait for.
    pub(crate) fn check_still_full(&mut self) -> Result<(), LogError> {
        let Some(detail) = &self.full else { return Ok(()) };
        let wanted = (self.config.bytes_max / 4).min(self.config.part_log_bytes_max());
        let roomy = self.bytes() + wanted <= self.config.bytes_max;
        let free =
            self.volume.free_bytes().map_err(SpoolError::io("asking the cache disk for its free bytes"))?;
        if !roomy || free < self.config.reserve_bytes {
            return Err(LogError::Full(detail.clone()));
        }
        self.full = None;
        Ok(())
    }

    /// Makes everything that was ended durable, and then says so in the position file.
    pub(crate) fn acknowledge(&mut self) -> Result<(), LogError> {
        if self.is_acknowledged() {
            return Ok(());
        }
        let upto = self.part_start.map_or(self.next, |place| place.number);
        let synced = self.writer.as_mut().map_or(Ok(()), |(_, writer)| writer.sync());
        let stored = synced.and_then(|()| self.position.store(upto));
        stored.map_err(|error| self.failed(error))?;
        self.unacknowledged_bytes = 0;
        Ok(())
    }

    /// Takes the part back whose end has not come.
    pub(crate) fn cut_part(&mut self) -> Result<(), SpoolError> {
        self.tip.forget_part();
        match self.part_start.take() {
            Some(place) => self.cut(place),
            None => Ok(()),
        }
    }

    /// The open cycle and whatever the next hop has of it are to be dropped.
    pub(crate) fn abort(&mut self) -> Result<(), LogError> {
        let seq = self.tip.open.as_ref().map_or_else(|| self.tip.last_seq().next(), |open| open.record.seq);
        self.append_durably(&[Record::Abort { seq }])
    }

    /// Where the next record goes.
    fn place(&self) -> Place {
        match &self.writer {
            Some((first, writer)) if writer.len() < self.config.segment_bytes_max => {
                Place { number: self.next, segment: *first, offset: writer.len() }
            }
            _ => Place::start_of(self.next),
        }
    }

    fn write(&mut self, record: &Record) -> Result<(), LogError> {
        let full = |(_, writer): &(u64, SegmentWriter)| writer.len() >= self.config.segment_bytes_max;
        if self.writer.as_ref().is_some_and(full)
            && let Some((first, mut writer)) = self.writer.take()
        {
            // Synced here and not with the acknowledgement, which then has one file to sync and not many.
            let synced = writer.sync();
            self.segments.insert(first, writer.len());
            if let Err(error) = synced {
                self.writer = Some((first, writer));
                return Err(error.into());
            }
        }
        let (_, writer) = match &mut self.writer {
            Some(writer) => writer,
            none => {
                let spool = self.state.spool().expect("checked when it was read");
                let salt = self.config.entropy.draw();
                let key = self.config.key.as_ref();
                let writer = SegmentWriter::create(&*self.volume, spool, self.next, salt, key)?;
                self.segments.insert(self.next, writer.len());
                none.insert((self.next, writer))
            }
        };
        let before = writer.len();
        writer.append(self.next, record).map_err(|error| LogError::Refused(error.to_string()))?;
        self.unacknowledged_bytes += writer.len() - before;
        self.next += 1;
        writer.flush(false)?;
        Ok(())
    }

    /// Goes back to `place` after `error`.
    fn undo(&mut self, place: Place, error: LogError) -> LogError {
        if let LogError::Failed(_) = error {
            self.broken = true;
        } else if let Err(error) = self.cut(place) {
            return LogError::Failed(error);
        }
        error
    }

    fn failed(&mut self, error: SpoolError) -> LogError {
        self.broken |= !error.is_full();
        error.into()
    }

    /// Cuts everything from `place` on, none of which was acknowledged.
    fn cut(&mut self, place: Place) -> Result<(), SpoolError> {
        debug_assert!(place.number >= self.acknowledged(), "what was acknowledged stays");
        if self.next == place.number {
            // What failed left no record: and the writer may hold earlier ones that are not written yet.
            return Ok(());
        }
        self.next = place.number;
        if let Some((first, writer)) = &mut self.writer
            && *first == place.segment
            && writer.cut_in_memory(place.offset)
        {
            return Ok(());
        }
        self.writer = None;
        let cut = self.cut_files(place);
        self.broken |= cut.is_err();
        cut
    }

    /// Cuts the files so that nothing from `place` on is left.
    pub(crate) fn cut_files(&mut self, place: Place) -> Result<(), SpoolError> {
        let behind: Vec<u64> = self.segments.range(place.number..).map(|(first, _)| *first).collect();
        behind.into_iter().try_for_each(|first| self.remove_segment(first))?;
        let Some(len) = self.segments.get_mut(&place.segment) else { return Ok(()) };
        let name = place.segment_name();
        let cut = || {
            let file = self.volume.open(&name)?;
            if file.len()? != place.offset {
                file.set_len(place.offset)?;
                file.sync()?;
            }
            Ok(())
        };
        cut().map_err(SpoolError::io(format!("cutting {name}")))?;
        *len = place.offset;
        Ok(())
    }

    /// Removes a segment that is not needed any more. If the name comes back after a power loss, it is
    /// before `first` or behind `acknowledged`, and removed again.
    pub(crate) fn remove_segment(&mut self, first: u64) -> Result<(), SpoolError> {
        let name = segment_name(first);
        match self.volume.remove(&name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(SpoolError::Io { action: format!("removing {name}"), source: error })
            }
            _ => {
                self.segments.remove(&first);
                Ok(())
            }
        }
    }

    /// A resync has been committed: changes may follow again.
    pub(crate) fn note_resync(&mut self, record: &Record) {
        if let (Record::Commit(_), Some(needed), Some(open)) =
            (record, &self.state.resync_needed, &self.tip.open)
            && matches!(open.record.request.kind, CycleKind::Resync { .. })
            && open.number.is_some_and(|number| number >= needed.from)
        {
            self.state.resync_needed = None;
        }
    }

    /// Everything before `place` is durable at the next hop, where the replica stands as `standing` says.
    /// Segments that are wholly before it are removed. `durably`: also say so on disk, whatever is removed.
    pub(crate) fn confirm(
        &mut self,
        place: Place,
        standing: &Standing,
        durably: bool,
    ) -> Result<(), SpoolError> {
        (self.state.first, self.state.standing) = (place, standing.clone());
        self.aborted.retain(|number| *number >= standing.open.as_ref().and_then(|open| open.number));
        let current = self.writer.as_ref().map(|(first, _)| *first);
        let starts = self.segments.keys().copied().chain([self.next]);
        let ends = starts.skip(1);
        let done: Vec<u64> = (self.segments.keys().copied().zip(ends))
            .filter(|(first, end)| *end <= place.number && Some(*first) != current)
            .map(|(first, _)| first)
            .collect();
        if durably || !done.is_empty() {
            self.state.store(&*self.volume)?;
        }
        done.into_iter().try_for_each(|first| self.remove_segment(first))
    }

    /// Drops everything: it cannot be forwarded. The next hop must be asked before the next writer is let in.
    pub(crate) fn drop_all(&mut self, reason: &ReplicaError) -> Result<(), SpoolError> {
        let from = self.acknowledged();
        self.state.first = Place::start_of(from);
        self.state.standing = Standing::default();
        self.state.hop = None;
        let detail = format!("what was spooled had to be dropped ({reason})");
        self.state.resync_needed = Some(ResyncNeeded { from, detail });
        if let ReplicaError::StaleEpoch { current, .. } = reason {
            self.state.epoch = self.state.epoch.max(*current);
        }
        self.end_sessions(match reason {
            ReplicaError::StaleEpoch { .. } => reason.clone(),
            other => ReplicaError::ResyncNeeded { detail: other.to_string() },
        });
        self.state.store(&*self.volume)?;
        self.recover()
    }

    /// The next hop has been asked, and nothing is spooled: go on from how it stands.
    pub(crate) fn adopt(&mut self, status: ReplicaStatus) -> Result<(), SpoolError> {
        self.state.standing = Standing::of(&status);
        self.tip = self.state.standing.clone();
        self.note_hop(status);
        self.state.store(&*self.volume)
    }

    /// Remembers how the next hop stands; on disk with the next change of the state.
    pub(crate) fn note_hop(&mut self, status: ReplicaStatus) {
        self.state.epoch = self.state.epoch.max(status.epoch);
        self.state.hop = Some(status);
    }

    /// Takes a newer epoch; durable on return.
    pub(crate) fn raise_epoch(&mut self, epoch: Epoch) -> Result<(), SpoolError> {
        self.state.epoch = epoch;
        self.state.store(&*self.volume)
    }

    /// Ends all sessions there are.
    pub(crate) fn end_sessions(&mut self, reason: ReplicaError) {
        self.upheaval = (self.upheaval.0 + 1, Some(reason));
    }

    /// Forgets what was in memory only.
    pub(crate) fn forget_unwritten(&mut self) {
        self.writer = None;
        self.part_start = None;
        self.aborted.clear();
        self.full = None;
    }

    /// A reader at `place`; the place it really is at, as the next record may begin a segment of its own.
    pub(crate) fn reader(&self, place: Place) -> Result<SegmentReader, SpoolError> {
        reader(&*self.volume, &self.config, &self.state, &self.segments, place)
    }
}

/// A reader at `place`, or at the beginning of the segment that begins with the same record.
pub(crate) fn reader(
    volume: &dyn Volume,
    config: &SpoolConfig,
    state: &State,
    segments: &BTreeMap<u64, u64>,
    place: Place,
) -> Result<SegmentReader, SpoolError> {
    let place = if segments.contains_key(&place.number) { Place::start_of(place.number) } else { place };
    let name = place.segment_name();
    let damaged = |detail: &str| SpoolError::Damaged {
        segment: name.clone(),
        offset: place.offset,
        detail: detail.into(),
    };
    let file = volume.open(&name).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => damaged("the file is missing"),
        _ => SpoolError::Io { action: format!("opening {name}"), source: error },
    })?;
    let spool = state.spool().ok_or_else(|| damaged("the spool has no id"))?;
    let mut reader = SegmentReader::open(file, spool, place.segment, config.key.as_ref())
        .map_err(|error| error.of(name.clone()))?;
    reader.seek(place.number, place.offset);
    Ok(reader)
}
