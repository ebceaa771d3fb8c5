//! A disk that holds nothing: it stands where there is none any more, but its number is still spoken of.

use std::io;

use bytes::Bytes;
use switchback_model::Extent;

use crate::{AlignedPool, Disk};

/// Reads as zeros; what is written to it is gone.
#[derive(Clone, Copy, Debug)]
pub struct VoidDisk {
    size: u64,
}

impl VoidDisk {
    /// One of so many bytes.
    #[must_use]
    pub const fn new(size: u64) -> Self {
        Self { size }
    }

    fn check(&self, extent: Option<Extent>, kind: io::ErrorKind) -> io::Result<()> {
        let fits = extent.is_some_and(|extent| extent.end() <= self.size);
        if fits { Ok(()) } else { Err(kind.into()) }
    }
}

impl Disk for VoidDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn name(&self) -> &'static str {
        "a disk that was removed"
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.check(Extent::checked(offset, buf.len() as u64), io::ErrorKind::UnexpectedEof)?;
        buf.fill(0);
        Ok(())
    }

    fn read(&self, extent: Extent) -> io::Result<Bytes> {
        self.check(Some(extent), io::ErrorKind::UnexpectedEof)?;
        let len = usize::try_from(extent.len).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut buffer = AlignedPool::shared().take(len);
        buffer.set_len(len);
        buffer.fill(0);
        Ok(buffer.freeze())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check(Extent::checked(offset, data.len() as u64), io::ErrorKind::InvalidInput)
    }

    fn write_zeroes(&self, extent: Extent) -> io::Result<()> {
        self.check(Some(extent), io::ErrorKind::InvalidInput)
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn allocated(&self, window: Extent) -> io::Result<Vec<Extent>> {
        self.check(Some(window), io::ErrorKind::UnexpectedEof)?;
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use switchback_model::Extent;

    use super::VoidDisk;
    use crate::Disk;

    #[test]
    fn it_takes_everything_within_its_bounds_and_holds_nothing() {
        let disk = VoidDisk::new(100);
        disk.write_at(40, &[7; 60]).unwrap();
        assert_eq!(disk.read(Extent::new(0, 100)).unwrap(), vec![0; 100]);
        assert_eq!(disk.allocated(Extent::new(0, 100)).unwrap(), []);
        assert!(disk.write_at(41, &[7; 60]).is_err());
        assert!(disk.read(Extent::new(0, 101)).is_err());
        assert!(disk.read_at(u64::MAX, &mut [0; 2]).is_err());
    }
}
