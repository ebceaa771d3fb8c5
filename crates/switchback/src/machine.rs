//! The machine to be protected: its disks, and how their changes are captured.
//!
//! Block devices are tracked by eBPF where that works: whole disks, whatever lies above them. Regular files, and devices where it
//! does not, are compared each time (*scan*).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::ValueEnum;
use switchback_capture::ChangeTracker;
use switchback_capture::devices::{DeviceNumber, Sysfs};
use switchback_capture::ebpf::{Continuity, Tracker, TrackerConfig};
use switchback_capture::scan::SourceGuard;
use switchback_disk::{Access, Disk, FileDisk, SystemClock, VoidDisk};
use switchback_model::{ExtentSet, GenerationId, ResyncReason};

use crate::engine::{MomentTaker, Source, Unfrozen};
use crate::freezing::Freezing;
use crate::host::new_id;
use crate::slots::{SeedPace, Slot, SlotTracker};

/// How changed blocks are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum CaptureMethod {
    /// eBPF for block devices where it works, else scan.
    #[default]
    Auto,
    /// Tracked in the kernel (Linux 5.17 or newer, root).
    Ebpf,
    /// Compared each time: any file or device, no privilege beyond reading it.
    Scan,
}

/// How moments are taken.
#[derive(Clone, Debug)]
pub struct MomentOptions {
    /// Longest time that file systems may stand still.
    pub freeze_budget: Duration,
    /// Scripts around it.
    pub scripts: switchback_capture::scripts::Scripts,
}

/// A machine's disks and how to capture them.
#[derive(Debug)]
pub struct Machine {
    slots: Vec<Slot>,
    disks: Vec<Arc<dyn Disk>>,
    /// The numbers of those that are there, when all are tracked by eBPF.
    tracked: Option<Vec<DeviceNumber>>,
    pace: SeedPace,
    name: String,
    moments: MomentOptions,
}

/// A source ready for the engine, and why the first cycle must compare, if it must.
#[derive(Debug)]
pub struct Ready {
    /// For the engine.
    pub source: Source,
    /// What the tracker says about the time before it was attached.
    pub doubt: Option<ResyncReason>,
}

impl Machine {
    /// Opens the disks in `slots`. A partition or a volume above a disk stands for itself when it is scanned, and is refused
    /// when it is to be tracked: what is tracked is a whole disk.
    ///
    /// # Errors
    /// When a path is no disk, or eBPF was asked for and cannot be had.
    pub fn open(
        slots: Vec<Slot>,
        method: CaptureMethod,
        name: &str,
        moments: MomentOptions,
    ) -> anyhow::Result<Self> {
        let open = |slot: &Slot| -> anyhow::Result<Arc<dyn Disk>> {
            Ok(match slot {
                Slot::Disk { path, .. } => Arc::new(FileDisk::open(path, Access::ReadOnly)?),
                Slot::Removed { size } => Arc::new(VoidDisk::new(*size)),
            })
        };
        let disks = slots.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let paths = paths(&slots);
        let tracked = match method {
            CaptureMethod::Scan => None,
            CaptureMethod::Ebpf => Some(whole_disks(&paths)?),
            CaptureMethod::Auto => match whole_disks(&paths) {
                Ok(numbers) => Some(numbers),
                Err(reason) => {
                    tracing::info!(%reason, "comparing instead of tracking");
                    None
                }
            },
        };
        Ok(Self { slots, disks, tracked, pace: SeedPace::default(), name: name.into(), moments })
    }

    /// How much of a disk that is being seeded goes with each cycle, and how far it has come.
    #[must_use]
    pub const fn pace(&self) -> &SeedPace {
        &self.pace
    }

    /// Whether changes are tracked, not compared.
    #[must_use]
    pub fn is_tracked(&self) -> bool {
        self.tracked.is_some()
    }

    /// The numbers of its disks, when they are tracked.
    #[must_use]
    pub fn tracked(&self) -> Option<&[DeviceNumber]> {
        self.tracked.as_deref()
    }

    /// Its disks.
    #[must_use]
    pub fn disks(&self) -> &[Arc<dyn Disk>] {
        &self.disks
    }

    /// Attaches a tracker, or takes up the one that an earlier run left in the kernel.
    ///
    /// # Errors
    /// When it cannot be attached, or the file systems of the disks cannot be found.
    pub fn ready(&self) -> anyhow::Result<Ready> {
        let (tracker, doubt) = self.tracker()?;
        let source = Source {
            disks: self.disks.clone(),
            tracker,
            moments: self.moments(),
            clock: Arc::new(SystemClock),
            always_compare: self.tracked.is_none(),
        };
        Ok(Ready { source, doubt })
    }

    /// A tracker, and its doubt about what was before it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn tracker(&self) -> anyhow::Result<(Box<dyn ChangeTracker>, Option<ResyncReason>)> {
        let sizes: Vec<_> = self.disks.iter().map(|disk| disk.size()).collect();
        let by_slot = |tracker: Box<dyn ChangeTracker>| -> Box<dyn ChangeTracker> {
            let plain = |slot: &Slot| matches!(slot, Slot::Disk { seeding: false, .. });
            if self.slots.iter().all(plain) {
                return tracker;
            }
            Box::new(SlotTracker::new(tracker, &self.slots, &sizes, self.pace.clone()))
        };
        let Some(numbers) = &self.tracked else {
            return Ok((by_slot(Box::new(Comparing::new(paths(&self.slots)))), None));
        };
        let attached = Tracker::attach(&self.tracking(numbers))
            .context("tracking changed blocks; --capture scan does without")?;
        let doubt = match attached.continuity {
            Continuity::Continued { .. } => None,
            Continuity::Fresh { reason, .. } => Some(reason),
        };
        Ok((by_slot(Box::new(attached.tracker)), doubt))
    }

    /// `numbers`: of the disks that are there.
    fn tracking(&self, numbers: &[DeviceNumber]) -> TrackerConfig {
        let there = self.slots.iter().filter_map(|slot| match slot {
            Slot::Disk { seeding, .. } => Some(*seeding),
            Slot::Removed { .. } => None,
        });
        let new = numbers.iter().zip(there).filter(|(_, seeding)| *seeding).map(|(number, _)| *number);
        TrackerConfig {
            name: self.name.clone(),
            disks: numbers.to_vec(),
            new: new.collect(),
            last_boot: None,
        }
    }

    fn moments(&self) -> Box<dyn MomentTaker> {
        match &self.tracked {
            None => Box::new(Unfrozen),
            Some(numbers) => Box::new(Freezing::new(numbers.iter().copied().collect(), self.moments.clone())),
        }
    }

    /// Ends tracking in the kernel.
    ///
    /// # Errors
    /// When it cannot be taken down.
    pub fn detach(&self) -> anyhow::Result<()> {
        if let Some(numbers) = &self.tracked {
            Tracker::attach(&self.tracking(numbers))?.tracker.detach()?;
        }
        Ok(())
    }
}

/// Where the disks are that are there.
fn paths(slots: &[Slot]) -> Vec<PathBuf> {
    let path = |slot: &Slot| match slot {
        Slot::Disk { path, .. } => Some(path.clone()),
        Slot::Removed { .. } => None,
    };
    slots.iter().filter_map(path).collect()
}

/// The numbers of the disks at `paths`, each of which must be a whole one.
fn whole_disks(paths: &[PathBuf]) -> anyhow::Result<Vec<DeviceNumber>> {
    paths.iter().map(|path| whole_disk(path)).collect()
}

fn whole_disk(path: &Path) -> anyhow::Result<DeviceNumber> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let metadata = std::fs::metadata(path).with_context(|| format!("looking at {}", path.display()))?;
    if !metadata.file_type().is_block_device() {
        bail!("{} is not a block device", path.display());
    }
    let number = DeviceNumber::from_raw(metadata.rdev());
    let below = Sysfs::default().resolve(path)?;
    match below.as_slice() {
        [disk] if disk.number == number => Ok(number),
        disks => {
            let names: Vec<_> = disks.iter().map(|disk| disk.node().display().to_string()).collect();
            bail!("{} is part of {}; name the whole disk", path.display(), names.join(", "))
        }
    }
}

/// Stands in for a tracker where changes are found by comparing: it knows of none, but notices whether anybody wrote while the
/// source was read.
#[derive(Debug)]
pub struct Comparing {
    generation: GenerationId,
    paths: Vec<PathBuf>,
    /// From the first swap after a release.
    guards: Option<Vec<SourceGuard>>,
}

impl Comparing {
    /// For the disks at `paths`; with none, it stands in for a tracker that is being replaced.
    #[must_use]
    pub fn new(paths: Vec<PathBuf>) -> Self {
        Self { generation: GenerationId(new_id()), paths, guards: None }
    }
}

impl ChangeTracker for Comparing {
    fn generation(&self) -> GenerationId {
        self.generation
    }

    fn swap(&mut self) -> Result<Vec<ExtentSet>, ResyncReason> {
        let paths = &self.paths;
        self.guards.get_or_insert_with(|| paths.iter().map(|path| SourceGuard::begin(path)).collect());
        Ok(vec![ExtentSet::new(); self.paths.len()])
    }

    fn release(&mut self) {}

    fn touched(&self, _read: &[ExtentSet]) -> Result<bool, ResyncReason> {
        Ok(!self.guards.as_ref().is_some_and(|guards| guards.iter().all(SourceGuard::undisturbed)))
    }

    fn check(&mut self) -> Result<(), ResyncReason> {
        // The beginning of the next cycle: from now on it is about that one.
        self.guards = None;
        Ok(())
    }
}
