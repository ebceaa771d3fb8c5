//! How the replica stands at one place of the log: a pure function of where it stood before and the records
//! between.
//!
//! The spool keeps two of them: at the end of what is acknowledged (what writers are told), and at the place up to
//! which everything is durable at the next hop (kept in the state file, as the records before it are deleted).

use serde::{Deserialize, Serialize};
use switchback_model::{GenerationId, PartIndex, RecoveryPoint, Seq};
use switchback_replica::{CommitCycle, CycleKind, OpenCycle, OpenCycleStatus, PartHeader, ReplicaStatus};

use crate::record::{OpenRecord, Record};

/// The open cycle at a place of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OpenCycleStanding {
    /// The number of the record that opened it; `None` when it was opened at the next hop before
    /// there was a spool.
    pub(crate) number: Option<u64>,
    /// As it was opened.
    pub(crate) record: OpenRecord,
    /// Parts before this one are complete.
    pub(crate) next_part: PartIndex,
}

impl OpenCycleStanding {
    /// In the words of a replica.
    pub(crate) fn status(&self) -> OpenCycleStatus {
        OpenCycleStatus {
            seq: self.record.seq,
            generation: self.record.request.generation,
            kind: self.record.request.kind.clone(),
            next_part: self.next_part,
        }
    }
}

/// How the replica stands at one place of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Standing {
    /// The last committed cycle.
    pub(crate) last_point: Option<RecoveryPoint>,
    /// Under which generation it was made, if changed blocks may follow it.
    pub(crate) generation: Option<GenerationId>,
    /// The open cycle.
    pub(crate) open: Option<OpenCycleStanding>,
    /// The part whose end has not been seen.
    #[serde(skip)]
    pub(crate) part: Option<PartHeader>,
}

impl Standing {
    /// As the next hop reports it. `epoch` of the open cycle is the hop's: whoever opened it had that one.
    pub(crate) fn of(status: &ReplicaStatus) -> Self {
        let open = status.open.as_ref().map(|open| OpenCycleStanding {
            number: None,
            record: OpenRecord {
                seq: open.seq,
                epoch: status.epoch,
                request: OpenCycle { generation: open.generation, kind: open.kind.clone() },
            },
            next_part: open.next_part,
        });
        Self { last_point: status.last_point.clone(), generation: status.generation, open, ..Self::default() }
    }

    /// The number of the last committed cycle, 0 before the first.
    pub(crate) fn last_seq(&self) -> Seq {
        self.last_point.as_ref().map_or(Seq(0), |point| point.seq)
    }

    /// The generation whose changed blocks may follow the last point once the open cycle is dropped. Its writer may have forgotten
    /// which blocks the complete parts held, and a comparison forgets what was tracked before: none may follow then.
    pub(crate) fn generation_without_open(&self) -> Option<GenerationId> {
        let kept = |open: &OpenCycleStanding| {
            open.next_part == PartIndex(0) && open.record.request.kind == CycleKind::Changes
        };
        self.generation.filter(|_| self.open.as_ref().is_none_or(kept))
    }

    /// Whether the place is between units (parts, openings, commits), not within a part.
    pub(crate) fn is_between_parts(&self) -> bool {
        self.part.is_none()
    }

    /// The writer never sent the part's end.
    pub(crate) fn forget_part(&mut self) {
        self.part = None;
    }

    /// Goes over record `number`.
    ///
    /// # Errors
    /// When it cannot stand here: the log is not what was written.
    pub(crate) fn apply(&mut self, number: u64, record: &Record) -> Result<(), String> {
        match (record, self.part.is_some()) {
            (Record::Open(open), false) => self.open(number, open),
            (Record::PartBegin(header), false) => self.begin_part(*header),
            (Record::Frame(_), true) => Ok(()),
            (Record::PartEnd { .. }, true) => self.end_part(),
            (Record::Commit(commit), false) => self.commit(commit),
            (Record::Abort { .. }, false) => {
                self.generation = self.generation_without_open();
                self.open = None;
                Ok(())
            }
            (other, inside) => {
                let place = if inside { "within" } else { "outside" };
                Err(format!("a record of kind {:?} stands {place} a part", other.kind()))
            }
        }
    }

    fn open(&mut self, number: u64, open: &OpenRecord) -> Result<(), String> {
        if self.open.is_some() || open.seq != self.last_seq().next() {
            return Err(format!("cycle {} is opened after {}", open.seq, self.last_seq()));
        }
        if open.request.kind != CycleKind::Changes {
            self.generation = None;
        }
        self.open =
            Some(OpenCycleStanding { number: Some(number), record: open.clone(), next_part: PartIndex(0) });
        Ok(())
    }

    fn begin_part(&mut self, header: PartHeader) -> Result<(), String> {
        match &self.open {
            Some(open) if open.record.seq == header.seq && open.next_part == header.part => {
                self.part = Some(header);
                Ok(())
            }
            _ => Err(format!("part {} of cycle {} does not follow", header.part, header.seq)),
        }
    }

    fn end_part(&mut self) -> Result<(), String> {
        let (Some(open), Some(part)) = (&mut self.open, self.part.take()) else {
            return Err("a part ends that was not begun".into());
        };
        open.next_part = part.part.next();
        Ok(())
    }

    fn commit(&mut self, commit: &CommitCycle) -> Result<(), String> {
        let open = match &self.open {
            Some(open) if open.record.seq == commit.seq && open.next_part.0 == commit.parts => open,
            _ => return Err(format!("cycle {} with {} parts is not open", commit.seq, commit.parts)),
        };
        self.generation = Some(open.record.request.generation);
        self.last_point = Some(point_of(commit));
        self.open = None;
        Ok(())
    }
}

/// The recovery point that a commit makes.
pub(crate) fn point_of(commit: &CommitCycle) -> RecoveryPoint {
    RecoveryPoint {
        seq: commit.seq,
        time: commit.time,
        consistency: commit.consistency,
        group_tag: commit.group_tag.clone(),
        lacks: Vec::new(),
    }
}
