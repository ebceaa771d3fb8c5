//! The tracker's state in the kernel: made, found again, believed, flipped.
//!
//! A fresh tracker is first pinned as a whole and then opened from its pins, exactly as the next process
//! will: there is one way to open, and it is used every time. `meta` comes last.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;

use libbpf_rs::{MapCore, MapFlags, MapHandle, Program};
use switchback_model::{GenerationId, ResyncReason};

use super::error::AttachError;
use super::maps::{Bitmap, Words, bitmap_words, recursion_misses};
use super::meta::{BootId, DiskMeta, META_BYTES, Meta};
use super::object::{self, DISKS_MAX, Hook};
use super::pins::{META, Pins};
use crate::devices::{DeviceNumber, Sysfs, WholeDisk};

const DISKS: &str = "disks";
const PHASE: &str = "phase";
const COUNTERS: &str = "counters";
const BITMAPS: &str = "bitmaps";

/// Everything of a tracker that lives in the kernel.
#[derive(Debug)]
pub(super) struct State {
    meta: Meta,
    /// By slot.
    disks: Vec<[Bitmap; 2]>,
    /// The slots of the disks that are wanted, in their order.
    slots: Vec<usize>,
    phase: Words,
    counters: MapHandle,
    bitmaps: MapHandle,
    /// The entry 0 of `bitmaps`, which the fence replaces by itself.
    first_bitmap: MapHandle,
    programs: Vec<OwnedFd>,
}

/// The sums of `struct counts` over all processors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) issued: u64,
    pub(super) completed: u64,
    pub(super) marked: u64,
    pub(super) untrackable: u64,
}

fn lost(what: impl std::fmt::Display) -> ResyncReason {
    ResyncReason::TrackingLost { detail: what.to_string() }
}

fn bitmap_pin(slot: usize, phase: usize) -> String {
    format!("disk{slot}_{phase}")
}

impl State {
    /// The tracker that is pinned, if it knows every change of these disks, but for those that are new to it.
    pub(super) fn continued(
        pins: &Pins,
        boot: BootId,
        last_boot: Option<BootId>,
        disks: &[WholeDisk],
        is_new: impl Fn(&WholeDisk) -> bool,
    ) -> Result<Self, ResyncReason> {
        if last_boot.is_some_and(|last| last != boot) {
            return Err(ResyncReason::Rebooted);
        }
        if !pins.path(META).exists() {
            return Err(lost("no change tracker was running"));
        }
        let map = MapHandle::from_pinned_path(pins.path(META)).map_err(lost)?;
        let value = map.lookup(&0_u32.to_ne_bytes(), MapFlags::ANY).map_err(lost)?;
        let meta = Meta::decode(&value.unwrap_or_default()).map_err(lost)?;
        if meta.boot != boot {
            return Err(ResyncReason::Rebooted);
        }
        let plan = Plan::of(&meta, disks, is_new)?;
        if plan.meta.disks != meta.disks {
            plan.carry_out(pins, &map, &meta, disks).map_err(|error| lost(format!("{error:?}")))?;
        }
        let state = Self::open(pins, plan.meta, plan.slots).map_err(lost)?;
        state.check()?;
        Ok(state)
    }

    /// A new tracker, at work, all pinned but `meta`. What was pinned before is gone.
    pub(super) fn started(pins: &Pins, boot: BootId, disks: &[WholeDisk]) -> Result<Self, AttachError> {
        let result = Self::start(pins, boot, disks);
        if result.is_err() {
            // Not to be continued without `meta`, but it would go on costing time.
            let _ = pins.clear();
        }
        result
    }

    fn start(pins: &Pins, boot: BootId, disks: &[WholeDisk]) -> Result<Self, AttachError> {
        pins.clear().map_err(|source| AttachError::BpfFs { source })?;
        let loaded = object::load()?;
        let (numbers, bitmaps) = (loaded.map("disks")?, loaded.map(BITMAPS)?);
        for (slot, disk) in disks.iter().enumerate() {
            add_disk(pins, (&numbers, &bitmaps), slot, disk)?;
        }
        for name in [DISKS, PHASE, COUNTERS, BITMAPS] {
            pin(loaded.map(name)?, pins, name)?;
        }
        for hook in Hook::ALL {
            let mut link = loaded.attach(hook)?;
            let pinned = link.pin(pins.path(hook.name()));
            pinned.map_err(|source| AttachError::kernel("pin the change tracker", source))?;
        }
        let mut generation = [0; 16];
        rustix::rand::getrandom(&mut generation, rustix::rand::GetRandomFlags::empty())
            .map_err(|errno| AttachError::system("draw a random generation id")(errno.into()))?;
        let generation = GenerationId(generation);
        let meta = Meta { boot, generation, disks: disks.iter().map(DiskMeta::from).collect() };
        let slots = (0..disks.len()).collect();
        Self::open(pins, meta, slots).map_err(|source| AttachError::kernel("open the change tracker", source))
    }

    fn open(pins: &Pins, meta: Meta, slots: Vec<usize>) -> libbpf_rs::Result<Self> {
        let map = |name: &str| MapHandle::from_pinned_path(pins.path(name));
        let mut disks = Vec::with_capacity(meta.disks.len());
        for (slot, disk) in meta.disks.iter().enumerate() {
            let bitmap = |phase| -> libbpf_rs::Result<Bitmap> {
                Ok(Bitmap::map(map(&bitmap_pin(slot, phase))?.as_fd(), disk.size_bytes)?)
            };
            disks.push([bitmap(0)?, bitmap(1)?]);
        }
        let program = |hook: Hook| {
            let link = object::open_link(&pins.path(hook.name()))?;
            Program::fd_from_id(link.info()?.prog_id)
        };
        Ok(Self {
            disks,
            slots,
            phase: Words::map(map(PHASE)?.as_fd(), 1)?,
            counters: map(COUNTERS)?,
            bitmaps: map(BITMAPS)?,
            first_bitmap: map(&bitmap_pin(0, 0))?,
            programs: Hook::ALL.into_iter().map(program).collect::<libbpf_rs::Result<_>>()?,
            meta,
        })
    }

    /// Makes a started tracker one that the next process may continue: pins `meta`, its contents being in it.
    pub(super) fn declare_complete(&self, pins: &Pins) -> Result<(), AttachError> {
        let bytes = u32::try_from(META_BYTES).expect("some kilobytes");
        let map = object::create_array("meta", bytes, 1, 0)?;
        object::set(&map, &key(0), &self.meta.encode())?;
        pin(map, pins, META)
    }

    pub(super) fn generation(&self) -> GenerationId {
        self.meta.generation
    }

    /// The two bitmaps of every slot.
    pub(super) fn disks(&self) -> &[[Bitmap; 2]] {
        &self.disks
    }

    /// The slots of the disks that are wanted, in their order.
    pub(super) fn slots(&self) -> impl Iterator<Item = usize> + '_ {
        self.slots.iter().copied()
    }

    /// Their bitmaps.
    pub(super) fn wanted(&self) -> impl Iterator<Item = &[Bitmap; 2]> + '_ {
        self.slots().map(|slot| &self.disks[slot])
    }

    /// Which of the two is marked now.
    pub(super) fn active(&self) -> usize {
        usize::from(self.phase.all()[0].load(Ordering::Acquire) & 1 == 1)
    }

    /// Makes the idle bitmaps, which must be empty, the active ones; nobody marks in the others on return.
    pub(super) fn flip(&self) -> Result<(), ResyncReason> {
        self.phase.all()[0].store(1 - self.active() as u64, Ordering::SeqCst);
        // The fence. If it fails, the flip stands, and everything marked is still owed.
        self.bitmaps.update(&key(0), &fd_value(&self.first_bitmap), MapFlags::ANY).map_err(lost)
    }

    /// The program's counts for one disk.
    pub(super) fn counts(&self, slot: usize) -> libbpf_rs::Result<Counts> {
        let mut sums = Counts::default();
        for value in self.counters.lookup_percpu(&key(slot), MapFlags::ANY)?.unwrap_or_default() {
            let mut fields = value.chunks_exact(8).map(|field| {
                let field: [u8; 8] = field.try_into().expect("chunks of 8");
                u64::from_ne_bytes(field)
            });
            for sum in [&mut sums.issued, &mut sums.completed, &mut sums.marked, &mut sums.untrackable] {
                *sum += fields.next().unwrap_or(0);
            }
        }
        Ok(sums)
    }

    /// Runs of the programs that the kernel skipped.
    fn misses(&self) -> std::io::Result<u64> {
        self.programs.iter().map(|program| recursion_misses(program.as_fd())).sum()
    }

    /// Whether everything that changed since the tracker was started is marked.
    pub(super) fn check(&self) -> Result<(), ResyncReason> {
        match self.misses().map_err(lost)? {
            0 => {}
            misses => return Err(ResyncReason::MissedEvents { misses }),
        }
        let sysfs = Sysfs::default();
        for (place, slot) in self.slots().enumerate() {
            let disk = &self.meta.disks[slot];
            // Size first: a disk that has grown is also written beyond the end of its bitmap.
            let now = sysfs.whole_disk(disk.number).map_err(|error| lost(&error))?;
            same_disk(place, disk, &now)?;
            match self.counts(slot).map_err(lost)?.untrackable {
                0 => {}
                count => return Err(ResyncReason::UntrackableRequest { count }),
            }
        }
        Ok(())
    }
}

/// How the slots of a tracker are to be for the disks that are wanted now.
struct Plan {
    meta: Meta,
    /// Of the disks, in their order.
    slots: Vec<usize>,
}

impl Plan {
    /// Err: it does not know all it should.
    fn of(
        meta: &Meta,
        disks: &[WholeDisk],
        is_new: impl Fn(&WholeDisk) -> bool,
    ) -> Result<Self, ResyncReason> {
        let mut planned = meta.clone();
        let mut slots = Vec::with_capacity(disks.len());
        for (place, disk) in disks.iter().enumerate() {
            let known = meta.disks.iter().position(|known| known.number == disk.number);
            match known {
                Some(slot) => {
                    same_disk(place, &meta.disks[slot], disk)?;
                    slots.push(slot);
                }
                None if is_new(disk) && planned.disks.len() < DISKS_MAX => {
                    slots.push(planned.disks.len());
                    planned.disks.push(disk.into());
                }
                None => {
                    return Err(lost(format!(
                        "{} was not tracked, of {} disks",
                        disk.name,
                        meta.disks.len()
                    )));
                }
            }
        }
        let left = |slot: &usize| !slots.contains(slot);
        for slot in (0..meta.disks.len()).filter(left) {
            planned.disks[slot].leave();
        }
        Ok(Self { meta: planned, slots })
    }

    /// Makes the tracker, which is as `before` says, so. See the header of `ebpf` about the order.
    fn carry_out(
        &self,
        pins: &Pins,
        pinned_meta: &MapHandle,
        before: &Meta,
        disks: &[WholeDisk],
    ) -> Result<(), AttachError> {
        let open = |name: &str| {
            MapHandle::from_pinned_path(pins.path(name))
                .map_err(|source| AttachError::kernel("open a map", source))
        };
        let (numbers, bitmaps) = (open(DISKS)?, open(BITMAPS)?);
        for (slot, disk) in self.slots.iter().zip(disks).filter(|(slot, _)| **slot >= before.disks.len()) {
            add_disk(pins, (&numbers, &bitmaps), *slot, disk)?;
        }
        object::set(pinned_meta, &key(0), &self.meta.encode())?;
        for (disk, now) in before.disks.iter().zip(&self.meta.disks) {
            if disk.is_tracked() && !now.is_tracked() {
                // Another disk may have its number by now, or an attach that was killed have taken it out.
                let number = number_key(disk.number);
                let stays = self.meta.disks.iter().any(|other| other.number == disk.number);
                if !stays {
                    numbers.delete(&number).ok();
                }
            }
        }
        Ok(())
    }
}

/// Begins to mark what is written to a disk, in a slot that is nobody's.
fn add_disk(
    pins: &Pins,
    (numbers, bitmaps): (&MapHandle, &MapHandle),
    slot: usize,
    disk: &WholeDisk,
) -> Result<(), AttachError> {
    let words = bitmap_words(disk.size_bytes)
        .ok_or_else(|| AttachError::TooLarge { disk: disk.name.clone(), size_bytes: disk.size_bytes })?;
    for phase in 0..2 {
        let (bitmap, name) = (object::create_bitmap(words)?, bitmap_pin(slot, phase));
        object::set(bitmaps, &key(slot * 2 + phase), &fd_value(&bitmap))?;
        // Of an attach that was killed.
        pins.remove_one(&name).map_err(|source| AttachError::BpfFs { source })?;
        pin(bitmap, pins, &name)?;
    }
    object::set(numbers, &number_key(disk.number), &key(slot))
}

fn number_key(number: DeviceNumber) -> Vec<u8> {
    [number.major.to_ne_bytes(), number.minor.to_ne_bytes()].concat()
}

fn same_disk(slot: usize, before: &DiskMeta, now: &WholeDisk) -> Result<(), ResyncReason> {
    let present = DiskMeta::from(now);
    let resized = DiskMeta { size_bytes: before.size_bytes, ..present.clone() };
    if resized != *before {
        return Err(lost(format!("{} is not the disk that was tracked as {}", now.name, before.number)));
    }
    if present.size_bytes != before.size_bytes {
        let disk = u16::try_from(slot).expect("at most DISKS_MAX disks");
        return Err(ResyncReason::Resized { disk, from: before.size_bytes, to: present.size_bytes });
    }
    Ok(())
}

fn key(index: usize) -> [u8; 4] {
    u32::try_from(index).expect("at most twice DISKS_MAX").to_ne_bytes()
}

/// The kernel takes a map as an array-of-maps' value by its file descriptor.
fn fd_value(map: &MapHandle) -> [u8; 4] {
    use std::os::fd::AsRawFd;
    map.as_fd().as_raw_fd().to_ne_bytes()
}

fn pin(mut map: MapHandle, pins: &Pins, name: &str) -> Result<(), AttachError> {
    map.pin(pins.path(name)).map_err(|source| AttachError::kernel("pin a map", source))
}
