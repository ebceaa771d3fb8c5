//! A machine that loses power: simulated disks, volumes and clock. **For tests only**, of every crate that
//! stores something; public because those are other crates.
//!
//! ```text
//! let machine = SimMachine::new(seed);
//! machine.crash_at(n);                        // the n-th operation that changes something fails half done,
//! scenario(machine.volume("cache"));          // and every later one fails
//! machine.restart(Restart::PowerLoss);        // what was not synced is kept, torn or lost
//! check(machine.volume("cache"));             // old handles stay dead, new ones see what is left
//! ```
//!
//! Run a scenario once with no crash, read [`SimMachine::ops`], then once for every `n` up to it: no moment
//! is left untried. The same seed and the same order of operations give the same machine, always; tests
//! with several threads have no such order.
//!
//! What is promised to survive is exactly what [`Disk`](crate::Disk) and [`Volume`](crate::Volume) promise,
//! and what is not promised is lost with good chances, so that code that relies on the kindness of one file
//! system fails here. [`power`] has the bytes, [`volume`] the names. Two mercies are kept because all
//! journaling file systems have them: a replacement is one step (the new name appears as the old vanishes),
//! and a name never shows another file's contents.

mod clock;
mod disk;
mod power;
mod volume;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

pub use self::clock::SimClock;
use self::disk::DiskState;
pub use self::disk::SimDisk;
use self::power::Content;
pub use self::volume::SimVolume;
use self::volume::VolumeState;

/// How a machine comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// The whole machine lost power: what was synced is there; of the rest each write, change of length and
    /// name is kept, kept in part, or lost.
    PowerLoss,
    /// Only the process died: the kernel has everything that was written. It is no more durable for that:
    /// a later loss of power may take it.
    ProcessKill,
}

/// The simulated machine. Clones are the same machine.
#[derive(Clone)]
pub struct SimMachine(Arc<Mutex<Machine>>);

struct Machine {
    seed: u64,
    rng: ChaCha8Rng,
    ops: u64,
    crash_at: Option<u64>,
    is_off: bool,
    /// Number of restarts; handles of an earlier life are dead.
    life: u64,
    disks: BTreeMap<String, DiskState>,
    volumes: BTreeMap<String, VolumeState>,
}

/// How an operation that changes something goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Whole,
    /// Do a part of it, then fail with [`power_lost`].
    Torn,
}

impl SimMachine {
    /// A machine without disks or volumes; all its chances come from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Machine {
            seed,
            rng: ChaCha8Rng::seed_from_u64(seed),
            ops: 0,
            crash_at: None,
            is_off: false,
            life: 0,
            disks: BTreeMap::new(),
            volumes: BTreeMap::new(),
        })))
    }

    /// A handle on the disk `name`, made of `size` zeros at the first call. Good until the next restart.
    ///
    /// # Panics
    /// When it exists with another size, or is larger than memory can be.
    #[must_use]
    pub fn disk(&self, name: &str, size: u64) -> Arc<SimDisk> {
        let mut machine = self.lock();
        let len = usize::try_from(size).expect("simulated disks fit into memory");
        let disk = machine.disks.entry(name.to_owned()).or_insert_with(|| DiskState::new(len));
        assert_eq!(disk.content.current().len(), len, "disk {name} has another size");
        Arc::new(SimDisk::new(self.clone(), name, size, machine.life))
    }

    /// A handle on the volume `name`, empty at the first call. Good until the next restart.
    #[must_use]
    pub fn volume(&self, name: &str) -> Arc<SimVolume> {
        let mut machine = self.lock();
        machine.volumes.entry(name.to_owned()).or_default();
        Arc::new(SimVolume::new(self.clone(), name, machine.life))
    }

    /// Operations so far that change something: writes, zeroings, lengths, creations, replacements,
    /// removals, syncs and flushes, failed ones too.
    #[must_use]
    pub fn ops(&self) -> u64 {
        self.lock().ops
    }

    /// Loses power in the middle of the operation that makes [`SimMachine::ops`] `n`, or of the next one if
    /// there have been as many. A restart takes it back.
    pub fn crash_at(&self, n: u64) {
        self.lock().crash_at = Some(n);
    }

    /// Whether it has lost power and not been restarted.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.lock().is_off
    }

    /// Ends this life, crashed or not, and starts another: all handles are dead, all locks free.
    pub fn restart(&self, restart: Restart) {
        let mut machine = self.lock();
        let Machine { rng, disks, volumes, .. } = &mut *machine;
        for disk in disks.values_mut() {
            if restart == Restart::PowerLoss {
                disk.content.lose_power(rng);
            }
        }
        for volume in volumes.values_mut() {
            volume.restart(restart, rng);
        }
        machine.life += 1;
        machine.is_off = false;
        machine.crash_at = None;
    }

    /// Lets the files of a volume have `bytes` bytes together and no more. Whatever exceeds it fails with
    /// `StorageFull`, a write perhaps after a part of it.
    ///
    /// # Panics
    /// All methods that name a disk, volume or file: when there is none.
    pub fn set_space(&self, volume: &str, bytes: u64) {
        self.lock().volume(volume).space = Some(bytes);
    }

    /// Makes the disk fail everything with an error of this kind, or work again; also across restarts.
    pub fn fail_disk(&self, name: &str, kind: Option<io::ErrorKind>) {
        self.lock().disk(name).fault = kind;
    }

    /// Turns one bit of a file around, on the medium. Bit 0 is the lowest of byte 0.
    pub fn flip_bit(&self, volume: &str, file: &str, bit: u64) {
        let byte = usize::try_from(bit / 8).expect("simulated files fit into memory");
        self.lock().content(volume, file).damage(|content| content[byte] ^= 1 << (bit % 8));
    }

    /// Cuts a file, on the medium.
    pub fn truncate(&self, volume: &str, file: &str, len: u64) {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        self.lock().content(volume, file).damage(|content| content.truncate(len));
    }

    /// The bytes of a disk as a reader would find them now, also while the machine is off.
    #[must_use]
    pub fn snapshot(&self, disk: &str) -> Vec<u8> {
        self.lock().disk(disk).content.current().to_vec()
    }

    /// Bytes written to or zeroed on a disk since it was made.
    #[must_use]
    pub fn writes(&self, disk: &str) -> u64 {
        self.lock().disk(disk).written_bytes
    }

    /// Bytes read from a disk since it was made.
    #[must_use]
    pub fn reads(&self, disk: &str) -> u64 {
        self.lock().disk(disk).read_bytes
    }

    fn lock(&self) -> MutexGuard<'_, Machine> {
        // A test that panics elsewhere must not hide its message behind a second panic in some `drop`.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Machine {
    /// Whether a handle of `life` may do anything at all.
    fn check(&self, life: u64) -> io::Result<()> {
        if life != self.life {
            return Err(io::Error::other("simulated: this handle is from before the restart"));
        }
        if self.is_off { Err(power_lost()) } else { Ok(()) }
    }

    /// Counts an operation that changes something.
    fn begin(&mut self, life: u64) -> io::Result<Step> {
        self.check(life)?;
        self.ops += 1;
        if self.crash_at.is_some_and(|n| n <= self.ops) {
            self.is_off = true;
            return Ok(Step::Torn);
        }
        Ok(Step::Whole)
    }

    fn disk(&mut self, name: &str) -> &mut DiskState {
        self.disks.get_mut(name).unwrap_or_else(|| panic!("the machine has no disk {name}"))
    }

    fn volume(&mut self, name: &str) -> &mut VolumeState {
        self.volumes.get_mut(name).unwrap_or_else(|| panic!("the machine has no volume {name}"))
    }

    fn content(&mut self, volume: &str, file: &str) -> &mut Content {
        let found = self.volume(volume).content(file);
        found.unwrap_or_else(|| panic!("volume {volume} has no file {file}"))
    }
}

impl fmt::Debug for SimMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machine = self.lock();
        f.debug_struct("SimMachine")
            .field("seed", &machine.seed)
            .field("ops", &machine.ops)
            .field("is_off", &machine.is_off)
            .field("life", &machine.life)
            .finish_non_exhaustive()
    }
}

fn power_lost() -> io::Error {
    io::Error::other("simulated power loss")
}
