//! The simulated volume: names, files, room and the lock.
//!
//! Names are kept as contents are in [`power`](super::power): as the kernel has them, as the medium has
//! them, and the steps between. At a loss of power each step is kept or lost by itself. A lost replacement
//! leaves the old file under the name, a kept one the new; a kept one whose creation was lost has still
//! moved the file. Steps on one name keep their order.

use std::collections::BTreeMap;
use std::fmt;
use std::io;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::power::{Change, Content};
use super::{Machine, Restart, SimMachine, Step, power_lost};
use crate::volume::{Volume, VolumeEntry, VolumeFile, VolumeLock, check_name};

/// What an unlimited volume says is free at the beginning, in bytes: 1 TiB.
const SPACE_UNLIMITED: u64 = 1 << 40;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct FileId(u64);

#[derive(Default)]
struct FileState {
    content: Content,
    /// Handles of the present life.
    handles: usize,
}

type Names = BTreeMap<String, FileId>;

/// One step on names that is not durable yet.
enum NameChange {
    Create { name: String, id: FileId },
    Replace { from: String, to: String, id: FileId },
    Remove { name: String },
}

impl NameChange {
    fn apply(&self, names: &mut Names) {
        match self {
            Self::Create { name, id } => {
                names.insert(name.clone(), *id);
            }
            Self::Replace { from, to, id } => {
                // Not if the step before that gave `from` this file was lost: it may have an older one.
                if names.get(from) == Some(id) {
                    names.remove(from);
                }
                names.insert(to.clone(), *id);
            }
            Self::Remove { name } => {
                names.remove(name);
            }
        }
    }

    fn id(&self) -> Option<FileId> {
        match self {
            Self::Create { id, .. } | Self::Replace { id, .. } => Some(*id),
            Self::Remove { .. } => None,
        }
    }
}

/// What a machine knows of a volume.
#[derive(Default)]
pub(super) struct VolumeState {
    /// Bytes that all files may have together.
    pub(super) space: Option<u64>,
    files: BTreeMap<FileId, FileState>,
    next_id: u64,
    current: Names,
    durable: Names,
    pending: Vec<NameChange>,
    is_locked: bool,
}

impl VolumeState {
    /// The content of the file that has this name.
    pub(super) fn content(&mut self, name: &str) -> Option<&mut Content> {
        let id = self.current.get(name)?;
        Some(&mut self.files.get_mut(id)?.content)
    }

    pub(super) fn restart(&mut self, restart: Restart, rng: &mut ChaCha8Rng) {
        if restart == Restart::PowerLoss {
            for change in self.pending.drain(..) {
                if rng.random() {
                    change.apply(&mut self.durable);
                }
            }
            self.current.clone_from(&self.durable);
        }
        self.is_locked = false;
        for file in self.files.values_mut() {
            file.handles = 0;
        }
        self.forget_unreachable();
        if restart == Restart::PowerLoss {
            for file in self.files.values_mut() {
                file.content.lose_power(rng);
            }
        }
    }

    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.current);
        self.pending.push(change);
    }

    fn sync(&mut self) {
        for change in self.pending.drain(..) {
            change.apply(&mut self.durable);
        }
        self.forget_unreachable();
    }

    /// Drops files that have no handle and that no name leads to, now or after any loss of power.
    fn forget_unreachable(&mut self) {
        let mut reachable: Vec<FileId> =
            self.current.values().chain(self.durable.values()).copied().collect();
        reachable.extend(self.pending.iter().filter_map(NameChange::id));
        reachable.sort_unstable();
        self.files.retain(|id, file| file.handles > 0 || reachable.binary_search(id).is_ok());
    }

    /// Bytes still free. Removed files take room as long as they are open.
    fn free_bytes(&self) -> u64 {
        let named = |id: &FileId| self.current.values().any(|named| named == id);
        let taken = self.files.iter().filter(|(id, file)| file.handles > 0 || named(id));
        let taken_bytes: u64 = taken.map(|(_, file)| file.content.current().len() as u64).sum();
        self.space.unwrap_or(SPACE_UNLIMITED).saturating_sub(taken_bytes)
    }

    /// Bytes a file may grow by.
    fn growth_bytes_max(&self) -> usize {
        match self.space {
            Some(_) => usize::try_from(self.free_bytes()).unwrap_or(usize::MAX),
            None => usize::MAX, // adding up all files at each write would be most of a run's time
        }
    }

    fn find(&self, volume: &str, name: &str) -> io::Result<FileId> {
        self.current.get(name).copied().ok_or_else(|| {
            let message = format!("there is no file {name} in simulated volume {volume}");
            io::Error::new(io::ErrorKind::NotFound, message)
        })
    }
}

/// A handle on a volume of a [`SimMachine`]. Dead after the machine's next restart.
pub struct SimVolume {
    machine: SimMachine,
    name: String,
    life: u64,
}

impl SimVolume {
    pub(super) fn new(machine: SimMachine, name: &str, life: u64) -> Self {
        Self { machine, name: name.to_owned(), life }
    }

    fn look<T>(&self, take: impl FnOnce(&mut VolumeState) -> io::Result<T>) -> io::Result<T> {
        let mut machine = self.machine.lock();
        machine.check(self.life)?;
        take(machine.volume(&self.name))
    }

    /// Changes a name; interrupted, it is done or not.
    fn change(&self, find: impl FnOnce(&mut VolumeState) -> io::Result<NameChange>) -> io::Result<()> {
        let mut machine = self.machine.lock();
        let step = machine.begin(self.life)?;
        let is_done = step == Step::Whole || machine.rng.random();
        let volume = machine.volume(&self.name);
        let change = find(volume)?;
        if is_done {
            volume.change(change);
        }
        if step == Step::Torn { Err(power_lost()) } else { Ok(()) }
    }

    fn handle(&self, name: &str) -> io::Result<Box<dyn VolumeFile>> {
        let id = self.look(|volume| {
            let id = volume.find(&self.name, name)?;
            volume.files.get_mut(&id).expect("named files are kept").handles += 1;
            Ok(id)
        })?;
        let place = Place { machine: self.machine.clone(), volume: self.name.clone(), life: self.life };
        Ok(Box::new(SimFile { place, name: name.to_owned(), id }))
    }
}

impl Volume for SimVolume {
    fn name(&self) -> &str {
        &self.name
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn VolumeFile>> {
        check_name(name)?;
        self.change(|volume| {
            if volume.current.contains_key(name) {
                let message = format!("file {name} exists already in simulated volume {}", self.name);
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
            }
            let id = FileId(volume.next_id);
            volume.next_id += 1;
            volume.files.insert(id, FileState::default());
            Ok(NameChange::Create { name: name.to_owned(), id })
        })?;
        self.handle(name)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn VolumeFile>> {
        check_name(name)?;
        self.handle(name)
    }

    fn replace(&self, from: &str, to: &str) -> io::Result<()> {
        check_name(from)?;
        check_name(to)?;
        self.change(|volume| {
            let id = volume.find(&self.name, from)?;
            Ok(NameChange::Replace { from: from.to_owned(), to: to.to_owned(), id })
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        self.change(|volume| {
            volume.find(&self.name, name)?;
            Ok(NameChange::Remove { name: name.to_owned() })
        })
    }

    fn list(&self) -> io::Result<Vec<VolumeEntry>> {
        self.look(|volume| {
            let len =
                |id: &FileId| volume.files.get(id).map_or(0, |file| file.content.current().len() as u64);
            let entry = |(name, id): (&String, &FileId)| VolumeEntry { name: name.clone(), len: len(id) };
            Ok(volume.current.iter().map(entry).collect())
        })
    }

    fn sync(&self) -> io::Result<()> {
        let mut machine = self.machine.lock();
        if machine.begin(self.life)? == Step::Torn {
            // Half done means that some of it may be durable: as all that was not synced may be.
            return Err(power_lost());
        }
        machine.volume(&self.name).sync();
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.look(|volume| Ok(volume.free_bytes()))
    }

    fn lock(&self) -> io::Result<VolumeLock> {
        self.look(|volume| {
            if volume.is_locked {
                // Processes are numbered by the life they belong to.
                let message = format!("process {}", self.life + 1);
                return Err(io::Error::new(io::ErrorKind::WouldBlock, message));
            }
            volume.is_locked = true;
            Ok(())
        })?;
        let place = Place { machine: self.machine.clone(), volume: self.name.clone(), life: self.life };
        Ok(VolumeLock(Box::new(LockGuard(place))))
    }
}

impl fmt::Debug for SimVolume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimVolume").field("name", &self.name).field("life", &self.life).finish()
    }
}

/// A volume in one life of a machine.
struct Place {
    machine: SimMachine,
    volume: String,
    life: u64,
}

impl Place {
    /// Gives something back, unless a restart has done so.
    fn release(&self, give_back: impl FnOnce(&mut VolumeState)) {
        let mut machine = self.machine.lock();
        if machine.life == self.life {
            give_back(machine.volume(&self.volume));
        }
    }
}

struct LockGuard(Place);

impl Drop for LockGuard {
    fn drop(&mut self) {
        self.0.release(|volume| volume.is_locked = false);
    }
}

/// An open file of a [`SimVolume`].
struct SimFile {
    place: Place,
    name: String,
    id: FileId,
}

impl SimFile {
    fn begin<T>(
        &self,
        act: impl FnOnce(&mut VolumeState, &mut ChaCha8Rng, Step) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut machine = self.place.machine.lock();
        let step = machine.begin(self.place.life)?;
        let Machine { rng, volumes, .. } = &mut *machine;
        act(volumes.get_mut(&self.place.volume).expect("volumes are never taken out of a machine"), rng, step)
    }

    fn look<T>(&self, take: impl FnOnce(&Content) -> io::Result<T>) -> io::Result<T> {
        let mut machine = self.place.machine.lock();
        machine.check(self.place.life)?;
        take(self.content(machine.volume(&self.place.volume)))
    }

    fn content<'a>(&self, volume: &'a mut VolumeState) -> &'a mut Content {
        &mut volume.files.get_mut(&self.id).expect("open files are kept").content
    }

    fn error(&self, kind: io::ErrorKind, what: &str) -> io::Error {
        let message = format!("{what} of {} in simulated volume {}", self.name, self.place.volume);
        io::Error::new(kind, message)
    }
}

impl VolumeFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        self.look(|content| Ok(content.current().len() as u64))
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.look(|content| {
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            let found = content.current().get(start..start.saturating_add(buf.len()));
            // Nothing can be read anywhere, as `pread` does it.
            if buf.is_empty() {
                return Ok(());
            }
            let Some(bytes) = found else {
                let what = format!("{} bytes from byte {offset}", buf.len());
                return Err(self.error(io::ErrorKind::UnexpectedEof, &what));
            };
            buf.copy_from_slice(bytes);
            Ok(())
        })
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let start = usize::try_from(offset).expect("simulated files fit into memory");
        self.begin(|volume, rng, step| {
            if data.is_empty() {
                return if step == Step::Torn { Err(power_lost()) } else { Ok(()) };
            }
            let room = volume.growth_bytes_max();
            let content = self.content(volume);
            let end_max = content.current().len().saturating_add(room);
            if step == Step::Torn {
                let data = data[..data.len().min(end_max.saturating_sub(start))].to_vec();
                content.apply_torn(&Change::Write { start, data }, rng);
                return Err(power_lost());
            }
            if start + data.len() > end_max {
                // Real file systems write what fits, or some of it, and then fail.
                let written = rng.random_range(0..=end_max.saturating_sub(start));
                if written > 0 {
                    content.apply(Change::Write { start, data: data[..written].to_vec() });
                }
                return Err(self.error(io::ErrorKind::StorageFull, "no room for a write"));
            }
            content.apply(Change::Write { start, data: data.to_vec() });
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).expect("simulated files fit into memory");
        self.begin(|volume, rng, step| {
            let room = volume.growth_bytes_max();
            let content = self.content(volume);
            if len > content.current().len().saturating_add(room) {
                return Err(self.error(io::ErrorKind::StorageFull, "no room for the length"));
            }
            if step == Step::Torn {
                content.apply_torn(&Change::SetLen(len), rng);
                return Err(power_lost());
            }
            content.apply(Change::SetLen(len));
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.begin(|volume, _, step| {
            if step == Step::Torn {
                return Err(power_lost());
            }
            self.content(volume).sync();
            Ok(())
        })
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.place.release(|volume| {
            if let Some(file) = volume.files.get_mut(&self.id) {
                file.handles -= 1;
            }
        });
    }
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimFile").field("name", &self.name).field("volume", &self.place.volume).finish()
    }
}
