//! Bringing the log back to where it was acknowledged: after a restart, a loss of power, an error of the disk.
//!
//! Every record from `first` to the acknowledged position is read and verified; what is behind it is cut off
//! (see `position`). A record that is not as it was written is damage: what was promised is lost. Then
//! - the cycles committed before it are kept, as they are whole and their points are worth having;
//! - everything from there on is dropped, and a resync is demanded of the next writer, durably, before anything is
//!   cut. Nothing is ever skipped.

use switchback_disk::Volume;

use crate::config::SpoolConfig;
use crate::error::SpoolError;
use crate::log::{Log, reader};
use crate::position::{POSITION_NAME, PositionFile};
use crate::record::Record;
use crate::segment::parse_segment_name;
use crate::standing::Standing;
use crate::state::{Place, ResyncNeeded, STATE_NAME, State};

/// The state and position files, made if there are none. Both are needed to make sense of segments; if one
/// is lost or damaged, the spool begins anew and demands a resync.
pub(crate) fn load(
    volume: &dyn Volume,
    config: &SpoolConfig,
) -> Result<(State, PositionFile, Option<SpoolError>), SpoolError> {
    let entries = volume.list().map_err(SpoolError::io(format!("listing {}", volume.name())))?;
    let has = |name: &str| entries.iter().any(|entry| entry.name == name);
    let segments = entries.iter().any(|entry| parse_segment_name(&entry.name).is_some());
    // The position file is made last: without it and without segments, nothing has ever been acknowledged.
    if !has(POSITION_NAME) && !segments {
        return create(volume, config, None);
    }
    let missing = |name: &str| {
        let detail = "the file is missing, though there are segments".into();
        SpoolError::Damaged { segment: name.into(), offset: 0, detail }
    };
    let loaded = match (has(STATE_NAME), has(POSITION_NAME)) {
        (false, _) => Err(missing(STATE_NAME)),
        (_, false) => Err(missing(POSITION_NAME)),
        _ => State::load(volume).and_then(|state| {
            let spool = state.spool().expect("checked when it was read");
            Ok((PositionFile::open(volume, spool)?, state))
        }),
    };
    match loaded {
        Ok((_, state)) if state.replica != config.replica => Err(SpoolError::OtherReplica {
            volume: volume.name().into(),
            found: state.replica.to_string(),
            wanted: config.replica.to_string(),
        }),
        Ok((position, state)) => Ok((state, position, None)),
        Err(damage @ SpoolError::Damaged { .. }) => create(volume, config, Some(damage)),
        Err(error) => Err(error),
    }
}

fn create(
    volume: &dyn Volume,
    config: &SpoolConfig,
    damage: Option<SpoolError>,
) -> Result<(State, PositionFile, Option<SpoolError>), SpoolError> {
    let spool = config.entropy.draw();
    let mut state = State::new(spool, config.replica.clone());
    state.resync_needed = damage.as_ref().map(|damage| ResyncNeeded { from: 0, detail: damage.to_string() });
    state.store(volume)?;
    let position = PositionFile::create(volume, spool, 0)?;
    Ok((state, position, damage))
}

/// What a scan of the log has found.
struct Scan {
    /// Behind the last record read, or behind the last commit before damage.
    end: Place,
    standing: Standing,
    damage: Option<SpoolError>,
}

impl Log {
    /// Reads the log again from the disk, as after a restart.
    ///
    /// # Errors
    /// Those of the disk, and a wrong key. Damage is not one: it is dealt with, and kept in `damage`.
    pub(crate) fn recover(&mut self) -> Result<(), SpoolError> {
        self.broken = true;
        self.forget_unwritten();
        let spool = self.state.spool().expect("checked when it was read");
        self.position = PositionFile::open(&*self.volume, spool)?;
        // The state file may be one whose replacement was not made durable, for the same reason.
        self.volume.sync().map_err(SpoolError::io(format!("syncing {}", self.volume.name())))?;
        let entries =
            self.volume.list().map_err(SpoolError::io(format!("listing {}", self.volume.name())))?;
        let segments = entries.iter().filter_map(|e| Some((parse_segment_name(&e.name)?, e.len)));
        self.segments = segments.collect();
        self.remove_outside()?;

        let mut scan = self.scan()?;
        if let Some(damage) = scan.damage.take() {
            self.note_damage(damage, &scan)?;
        }
        self.next = scan.end.number;
        self.tip = scan.standing;
        self.cut_files(scan.end)?;
        self.broken = false;
        Ok(())
    }

    /// Removes what is wholly before `first` or behind the acknowledged position.
    fn remove_outside(&mut self) -> Result<(), SpoolError> {
        let (first, acknowledged) = (self.state.first.number, self.acknowledged());
        let begins = self.segments.range(..=first).next_back().map(|(begin, _)| *begin);
        let empty = first >= acknowledged;
        let outside: Vec<u64> = (self.segments.keys().copied())
            .filter(|segment| empty || Some(*segment) < begins || *segment >= acknowledged)
            .collect();
        outside.into_iter().try_for_each(|segment| self.remove_segment(segment))
    }

    fn scan(&mut self) -> Result<Scan, SpoolError> {
        let (mut at, acknowledged) = (self.state.first, self.acknowledged());
        self.tip = self.state.standing.clone();
        let mut kept = (at, self.tip.clone());
        let result = loop {
            if at.number >= acknowledged {
                break Ok(());
            }
            match self.scan_segment(&mut at, &mut kept) {
                Ok(()) => {}
                Err(error) => break Err(error),
            }
        };
        let within = !self.tip.is_between_parts() || at.number > acknowledged;
        match result {
            Ok(()) if within => {
                let detail = "the acknowledged position is not where a record could end".into();
                let damage = SpoolError::Damaged { segment: at.segment_name(), offset: at.offset, detail };
                Ok(Scan { end: kept.0, standing: kept.1, damage: Some(damage) })
            }
            Ok(()) => Ok(Scan { end: at, standing: self.tip.clone(), damage: None }),
            Err(damage @ SpoolError::Damaged { .. }) => {
                Ok(Scan { end: kept.0, standing: kept.1, damage: Some(damage) })
            }
            Err(error) => Err(error),
        }
    }

    /// Goes over one segment from `at`, to its end or the acknowledged position.
    fn scan_segment(&mut self, at: &mut Place, kept: &mut (Place, Standing)) -> Result<(), SpoolError> {
        let mut reader = reader(&*self.volume, &self.config, &self.state, &self.segments, *at)?;
        let segment = if self.segments.contains_key(&at.number) { at.number } else { at.segment };
        let end = self.segments.range(segment + 1..).next().map_or(u64::MAX, |(first, _)| *first);
        let end = end.min(self.acknowledged());
        while reader.number() < end {
            let (number, offset) = (reader.number(), reader.offset());
            let name = *at;
            let record = reader.next().map_err(|error| error.of(name.segment_name()))?;
            self.note_resync(&record);
            if let Record::Abort { .. } = record {
                self.aborted.extend(self.tip.open.as_ref().map(|open| open.number));
            }
            self.tip.apply(number, &record).map_err(|detail| SpoolError::Damaged {
                segment: name.segment_name(),
                offset,
                detail,
            })?;
            *at = Place { number: reader.number(), segment, offset: reader.offset() };
            if let Record::Commit(_) = record {
                *kept = (*at, self.tip.clone());
            }
        }
        Ok(())
    }

    /// Demands a resync, and only then lowers the position: after a crash between, the damage is found again.
    fn note_damage(&mut self, damage: SpoolError, scan: &Scan) -> Result<(), SpoolError> {
        tracing::error!(volume = self.volume.name(), %damage, "acknowledged data is lost, a resync is needed");
        let needed = ResyncNeeded { from: scan.end.number, detail: damage.to_string() };
        self.end_sessions(damage.for_writer());
        self.state.resync_needed = Some(needed);
        self.state.store(&*self.volume)?;
        self.position.store(scan.end.number)?;
        self.aborted.retain(|number| *number < Some(scan.end.number));
        self.damage = Some(damage);
        Ok(())
    }
}
