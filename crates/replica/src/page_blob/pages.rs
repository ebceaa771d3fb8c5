//! A page blob as a disk, and as a file: so that what is written for disks and files serves blobs as well.
//!
//! Writes are durable when they return. They are of whole pages: whoever writes aligns.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use switchback_disk::{Disk, VolumeFile};
use switchback_model::Extent;

use super::error::io_error;
use super::lease::Lease;
use super::store::{BlobStore, LeaseId, PAGES_MAX};

/// The first `size` bytes of a page blob.
#[derive(Clone, Debug)]
pub(super) struct PageBlob {
    pub(super) store: Arc<dyn BlobStore>,
    pub(super) blob: String,
    pub(super) lease: Option<Lease>,
    pub(super) size: u64,
}

fn refuse<T>(what: &str) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::Unsupported, format!("a page blob cannot be {what}")))
}

impl PageBlob {
    pub(super) fn lease_id(&self) -> Option<LeaseId> {
        self.lease.as_ref().map(Lease::id)
    }

    fn checked(&self, offset: u64, len: u64) -> io::Result<Extent> {
        let within = Extent::checked(offset, len).filter(|extent| extent.end() <= self.size);
        within.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
    }

    /// Writes `data`, whole pages, in as few requests as there can be.
    pub(super) fn write_pages(&self, offset: u64, data: &Bytes) -> io::Result<()> {
        let extent = Extent::new(offset, data.len() as u64);
        extent.pieces(PAGES_MAX).try_for_each(|piece| {
            let from = usize::try_from(piece.start - offset).expect("within a buffer");
            let len = usize::try_from(piece.len).expect("within a buffer");
            let written = self.store.write_pages(
                &self.blob,
                self.lease_id(),
                piece.start,
                data.slice(from..from + len),
            );
            written.map_err(io_error)
        })
    }

    /// Makes whole pages zero.
    pub(super) fn clear_pages(&self, extent: Extent) -> io::Result<()> {
        self.store.clear_pages(&self.blob, self.lease_id(), extent).map_err(io_error)
    }
}

impl Disk for PageBlob {
    fn size(&self) -> u64 {
        self.size
    }

    fn name(&self) -> &str {
        &self.blob
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let data = Disk::read(self, self.checked(offset, buf.len() as u64)?)?;
        buf.copy_from_slice(&data);
        Ok(())
    }

    fn read(&self, extent: Extent) -> io::Result<Bytes> {
        self.store.read(&self.blob, extent).map_err(io_error)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write_pages(offset, &Bytes::copy_from_slice(data))
    }

    fn write_zeroes(&self, extent: Extent) -> io::Result<()> {
        self.clear_pages(extent)
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn allocated(&self, window: Extent) -> io::Result<Vec<Extent>> {
        self.store.allocated(&self.blob, window).map_err(io_error)
    }
}

/// Stands where there is no file: the digests of a disk that was removed, or that never was.
#[derive(Clone, Copy, Debug)]
pub(super) struct NoFile;

impl VolumeFile for NoFile {
    fn len(&self) -> io::Result<u64> {
        Ok(0)
    }

    fn read_at(&self, _: u64, _: &mut [u8]) -> io::Result<()> {
        Err(io::ErrorKind::UnexpectedEof.into())
    }

    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
        refuse("written where there is none")
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

impl VolumeFile for PageBlob {
    fn len(&self) -> io::Result<u64> {
        Ok(self.size)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        Disk::read_at(self, offset, buf)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        Disk::write_at(self, offset, data)
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        refuse("made longer or shorter here")
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
