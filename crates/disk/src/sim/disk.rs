//! The simulated disk.

use std::fmt;
use std::io;

use bytes::Bytes;
use switchback_model::Extent;

use super::power::{Change, Content};
use super::{SimMachine, Step, power_lost};
use crate::disk::Disk;
use crate::pool::AlignedPool;

/// Granularity of what [`SimDisk`] says is allocated, in bytes: that of file systems.
const BLOCK: u64 = 4096;

/// What a machine knows of a disk.
pub(super) struct DiskState {
    pub(super) content: Content,
    pub(super) fault: Option<io::ErrorKind>,
    pub(super) read_bytes: u64,
    pub(super) written_bytes: u64,
}

impl DiskState {
    pub(super) fn new(len: usize) -> Self {
        Self { content: Content::zeros(len), fault: None, read_bytes: 0, written_bytes: 0 }
    }

    fn check(&self, name: &str) -> io::Result<()> {
        match self.fault {
            Some(kind) => Err(io::Error::new(kind, format!("simulated: disk {name} has failed"))),
            None => Ok(()),
        }
    }
}

/// A handle on a disk of a [`SimMachine`]. Dead after the machine's next restart.
pub struct SimDisk {
    machine: SimMachine,
    name: String,
    size: u64,
    life: u64,
}

impl SimDisk {
    pub(super) fn new(machine: SimMachine, name: &str, size: u64, life: u64) -> Self {
        Self { machine, name: name.to_owned(), size, life }
    }

    fn within(&self, offset: u64, len: u64, kind: io::ErrorKind) -> io::Result<std::ops::Range<usize>> {
        let inside = Extent::checked(offset, len).filter(|extent| extent.end() <= self.size);
        let range = inside.and_then(|extent| {
            Some(usize::try_from(extent.start).ok()?..usize::try_from(extent.end()).ok()?)
        });
        range.ok_or_else(|| {
            let Self { name, size, .. } = self;
            let message =
                format!("{len} bytes from byte {offset} of simulated disk {name}, which has {size}");
            io::Error::new(kind, message)
        })
    }

    /// Gives `take` the bytes at `offset`, uncounted.
    fn look<T>(&self, offset: u64, len: u64, take: impl FnOnce(&[u8]) -> T) -> io::Result<T> {
        let range = self.within(offset, len, io::ErrorKind::UnexpectedEof)?;
        let mut machine = self.machine.lock();
        machine.check(self.life)?;
        let disk = machine.disk(&self.name);
        disk.check(&self.name)?;
        Ok(take(&disk.content.current()[range]))
    }

    fn read_with<T>(&self, offset: u64, len: u64, take: impl FnOnce(&[u8]) -> T) -> io::Result<T> {
        let taken = self.look(offset, len, take)?;
        self.machine.lock().disk(&self.name).read_bytes += len;
        Ok(taken)
    }

    fn change(&self, len: u64, change: Change) -> io::Result<()> {
        let mut machine = self.machine.lock();
        let step = machine.begin(self.life)?;
        let super::Machine { rng, disks, .. } = &mut *machine;
        let disk = disks.get_mut(&self.name).expect("disks are never taken out of a machine");
        disk.check(&self.name)?;
        disk.written_bytes += len;
        if step == Step::Torn {
            disk.content.apply_torn(&change, rng);
            return Err(power_lost());
        }
        disk.content.apply(change);
        Ok(())
    }
}

impl Disk for SimDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.read_with(offset, buf.len() as u64, |bytes| buf.copy_from_slice(bytes))
    }

    fn read(&self, extent: Extent) -> io::Result<Bytes> {
        self.read_with(extent.start, extent.len, |bytes| {
            let mut buf = AlignedPool::shared().take(bytes.len());
            buf.copy_from_slice(bytes);
            buf.freeze()
        })
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let range = self.within(offset, data.len() as u64, io::ErrorKind::InvalidInput)?;
        self.change(data.len() as u64, Change::Write { start: range.start, data: data.to_vec() })
    }

    fn write_zeroes(&self, extent: Extent) -> io::Result<()> {
        let range = self.within(extent.start, extent.len, io::ErrorKind::InvalidInput)?;
        self.change(extent.len, Change::Zero { start: range.start, len: range.len() })
    }

    fn flush(&self) -> io::Result<()> {
        let mut machine = self.machine.lock();
        let step = machine.begin(self.life)?;
        let disk = machine.disk(&self.name);
        disk.check(&self.name)?;
        if step == Step::Torn {
            // Half done means that some of it may be durable: as all that was not synced may be.
            return Err(power_lost());
        }
        disk.content.sync();
        Ok(())
    }

    fn allocated(&self, window: Extent) -> io::Result<Vec<Extent>> {
        self.look(window.start, window.len, |bytes| {
            let mut found: Vec<Extent> = Vec::new();
            let mut rest = bytes;
            for piece in window.pieces(BLOCK) {
                let len = usize::try_from(piece.len).expect("at most a block");
                let (block, later) = rest.split_at(len);
                rest = later;
                if block.iter().all(|&byte| byte == 0) {
                    continue;
                }
                match found.last_mut() {
                    Some(last) if last.end() == piece.start => last.len += piece.len,
                    _ => found.push(piece),
                }
            }
            found
        })
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, size, life, .. } = self;
        f.debug_struct("SimDisk").field("name", name).field("size", size).field("life", life).finish()
    }
}
