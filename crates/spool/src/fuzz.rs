//! Entry points for the fuzzer: every decoder of bytes that may be anything.

use std::io;

use switchback_disk::VolumeFile;

use crate::segment::SegmentReader;
use crate::state::State;

/// A file in memory that can only be read.
#[derive(Debug)]
pub(crate) struct MemoryFile(pub(crate) Vec<u8>);

impl VolumeFile for MemoryFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let found = self.0.get(from..).and_then(|rest| rest.get(..buf.len()));
        buf.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, _offset: u64, _data: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn set_len(&self, _len: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads `data` as a segment, to its first error; how many records it had.
pub fn segment(data: &[u8]) -> usize {
    // As the header says it is: else the fuzzer would have to guess 24 bytes.
    let spool = data.get(16..).and_then(|rest| rest.first_chunk::<16>()).copied().unwrap_or_default();
    let first = data.get(32..).and_then(|rest| rest.first_chunk::<8>()).copied().unwrap_or_default();
    let file = Box::new(MemoryFile(data.to_vec()));
    let Ok(mut reader) = SegmentReader::open(file, spool, u64::from_le_bytes(first), None) else { return 0 };
    let mut records = 0;
    while reader.next().is_ok() {
        records += 1;
    }
    records
}

/// Reads `data` as the payload of a record of `kind`, whose checksum was right.
pub fn record(kind: u8, data: &[u8]) -> bool {
    let mut head = crate::record::Head { kind: crate::record::RecordKind::Open, number: 0, len: 0 }.encode();
    head[4] = kind;
    let head = crate::record::Head::decode(&head);
    head.is_ok_and(|head| crate::record::Record::decode(head.kind, data.to_vec().into()).is_ok())
}

/// Reads `data` as a state file.
pub fn state(data: &[u8]) -> bool {
    State::decode(data).is_some()
}
