//! Staging: the open cycle and its parts.

use std::sync::Arc;

use switchback_delta::{DeltaContent, DeltaHeader, DeltaWriter, Frame, PartHasher};
use switchback_disk::VolumeFile;
use switchback_model::{Extent, PartIndex, Seq};

use super::apply::create_new;
use super::fill::FillThreads;
use super::session::SessionKey;
use super::{Core, DiskReplica};
use crate::error::{delta_error, disk_error, volume_error};
use crate::layer::VolumeDelta;
use crate::layout::FileName;
use crate::manifest::StagedPart;
use crate::rules;
use crate::{OpenCycleStatus, PartHeader, ReplicaError};

/// The open cycle's parts.
#[derive(Debug, Default)]
pub(super) struct OpenParts {
    /// Ended, in order.
    pub(super) done: Vec<StagedPart>,
    /// How many of them are durable.
    pub(super) synced: usize,
}

/// A part being received.
#[derive(Debug)]
pub(super) enum PartWriter {
    /// To the retention drive.
    Stage { header: PartHeader, writer: Box<DeltaWriter<VolumeWriter>>, hasher: Box<PartHasher> },
    /// Straight to the disk, by threads unless there is to be one only.
    Fill { header: PartHeader, hasher: Box<PartHasher>, end: u64, threads: Option<FillThreads> },
}

/// Small writes are gathered until there are so many bytes.
const GATHERED_MAX: usize = 256 << 10;

/// A file of a volume, written from its start. What is small is gathered: nothing counts as written before a flush.
#[derive(Debug)]
pub(crate) struct VolumeWriter {
    file: Box<dyn VolumeFile>,
    at: u64,
    gathered: Vec<u8>,
}

impl VolumeWriter {
    pub(crate) fn new(file: Box<dyn VolumeFile>) -> Self {
        Self { file, at: 0, gathered: Vec::new() }
    }

    /// Makes what was flushed durable.
    pub(crate) fn sync(&self) -> std::io::Result<()> {
        self.file.sync()
    }

    fn write_out(&mut self, data: &[u8]) -> std::io::Result<()> {
        self.file.write_at(self.at, data)?;
        self.at += data.len() as u64;
        Ok(())
    }
}

impl std::io::Write for VolumeWriter {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        if self.gathered.len() + data.len() > GATHERED_MAX {
            self.flush()?;
        }
        if data.len() > GATHERED_MAX {
            self.write_out(data)?;
        } else {
            self.gathered.extend_from_slice(data);
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let gathered = std::mem::take(&mut self.gathered);
        if !gathered.is_empty() {
            self.write_out(&gathered)?;
        }
        self.gathered = gathered;
        self.gathered.clear();
        Ok(())
    }
}

impl StagedPart {
    pub(super) fn name(&self, seq: Seq) -> FileName {
        FileName::Stage { seq, part: self.part, disk: self.disk, durable: true }
    }
}

impl PartWriter {
    pub(super) fn header(&self) -> PartHeader {
        match self {
            Self::Stage { header, .. } | Self::Fill { header, .. } => *header,
        }
    }
}

impl Core {
    pub(super) fn open_status(&self) -> Option<OpenCycleStatus> {
        let (open, parts) = (self.manifest.open.as_ref()?, self.parts.as_ref()?);
        Some(OpenCycleStatus {
            seq: open.seq,
            generation: open.generation,
            kind: open.kind.clone(),
            next_part: PartIndex(u32::try_from(parts.done.len()).expect("parts are numbered with 32 bits")),
        })
    }

    /// The next part of the open cycle, or why `header` is not it.
    fn expect_part(&self, header: PartHeader) -> Result<bool, ReplicaError> {
        rules::expect_part(self.open_status().as_ref(), self.manifest.disks.len(), header)?;
        Ok(self.manifest.open.as_ref().is_some_and(|open| open.fill))
    }
}

impl DiskReplica {
    pub(super) fn begin_part(
        self: &Arc<Self>,
        key: SessionKey,
        header: PartHeader,
    ) -> Result<PartWriter, ReplicaError> {
        let (fill, delta) = {
            let core = self.core();
            let fill = core.expect_part(header)?;
            let manifest = &core.manifest;
            let content = DeltaContent::Forward { seq: header.seq, part: header.part };
            let size = manifest.disks[usize::from(header.disk.0)].size;
            let delta = DeltaHeader {
                replica: manifest.id,
                epoch: manifest.epoch,
                disk: header.disk,
                disk_size: size,
                content,
            };
            (fill, delta)
        };
        let hasher = Box::new(PartHasher::default());
        if fill {
            let threads = (self.config.io_threads > 1).then(|| FillThreads::start(self, key, header.disk));
            return Ok(PartWriter::Fill { header, hasher, end: 0, threads });
        }
        self.make_room()?;
        let name = FileName::Stage { seq: header.seq, part: header.part, disk: header.disk, durable: false }
            .to_string();
        // In place of a part that was being received when its session ended.
        let file = create_new(&*self.volume, &name)?;
        let writer = DeltaWriter::new(file, &delta, self.config.key.as_ref())
            .map_err(|e| delta_error(&*self.volume, &name, &e))?;
        Ok(PartWriter::Stage { header, writer: Box::new(writer), hasher })
    }

    pub(super) fn put_frame(
        &self,
        key: SessionKey,
        part: &mut PartWriter,
        frame: Frame,
    ) -> Result<(), ReplicaError> {
        match part {
            PartWriter::Stage { writer, hasher, header } => {
                frame.contents().map_err(|error| ReplicaError::Corrupt {
                    detail: format!("a frame of part {} as it was received: {error}", header.part),
                })?;
                hasher.push(&frame);
                writer
                    .push(&frame)
                    .map_err(|e| delta_error(&*self.volume, format!("part {}", header.part), &e))
            }
            PartWriter::Fill { header, hasher, end, threads } => {
                let size = self.core().manifest.disks[usize::from(header.disk.0)].size;
                if frame.extent.start < *end || frame.extent.end() > size {
                    let detail =
                        format!("{} is out of order or beyond the disk's {size} bytes", frame.extent);
                    return Err(ReplicaError::Protocol { detail });
                }
                *end = frame.extent.end();
                hasher.push(&frame);
                match threads {
                    Some(threads) => threads.write(frame),
                    None => self.fill(key, header.disk, &frame),
                }
            }
        }
    }

    /// Ends a part and adds it to the open cycle, not yet durable.
    pub(super) fn end_part(&self, part: PartWriter, checksum: [u8; 32]) -> Result<(), ReplicaError> {
        let header = part.header();
        let (hasher, file_len) = match part {
            PartWriter::Fill { hasher, threads, .. } => {
                threads.map_or(Ok(()), |mut threads| threads.finish())?;
                (hasher, 0)
            }
            PartWriter::Stage { writer, hasher, .. } => {
                let finished = writer.finish();
                let (_, summary) =
                    finished.map_err(|e| delta_error(&*self.volume, format!("part {}", header.part), &e))?;
                (hasher, summary.file_len)
            }
        };
        if hasher.finish() != checksum {
            let detail =
                format!("part {} of cycle {} does not match its sender's checksum", header.part, header.seq);
            return Err(ReplicaError::Corrupt { detail });
        }
        let mut core = self.core();
        core.expect_part(header)?;
        let parts = core.parts.as_mut().expect("a cycle is open");
        parts.done.push(StagedPart { part: header.part, disk: header.disk, file_len });
        Ok(())
    }

    /// Makes every ended part durable.
    pub(super) fn sync_parts(&self) -> Result<(), ReplicaError> {
        let core = self.core();
        let (Some(open), Some(parts)) = (&core.manifest.open, &core.parts) else { return Ok(()) };
        let (seq, fill, count) = (open.seq, open.fill, parts.done.len());
        let new = parts.done[parts.synced..].to_vec();
        // Other calls of this session wait for this one; views and status must not.
        drop(core);
        if new.is_empty() {
            return Ok(());
        }
        if fill {
            for disk in &self.disks {
                disk.flush().map_err(|e| disk_error(&**disk, "flushing", &e))?;
            }
        } else {
            self.sync_files(seq, &new)?;
        }
        if let Some(parts) = &mut self.core().parts {
            parts.synced = count;
        }
        Ok(())
    }

    fn sync_files(&self, seq: Seq, parts: &[StagedPart]) -> Result<(), ReplicaError> {
        let volume = &*self.volume;
        for part in parts {
            let FileName::Stage { part, disk, .. } = part.name(seq) else { continue };
            let received = FileName::Stage { seq, part, disk, durable: false }.to_string();
            let durable = FileName::Stage { seq, part, disk, durable: true }.to_string();
            let synced = volume.open(&received).and_then(|file| file.sync());
            let named = synced.and_then(|()| volume.replace(&received, &durable));
            named.map_err(|e| volume_error(volume, &format!("syncing {received}"), &e))?;
        }
        volume.sync().map_err(|e| volume_error(volume, "syncing the directory", &e))
    }

    /// The length of a durable part's file, after a look at its header, index and end.
    pub(super) fn staged_file_len(&self, name: FileName) -> Result<u64, ReplicaError> {
        let delta = VolumeDelta::open(&*self.volume, name, self.config.key.as_ref())?;
        Ok(delta.file.summary().file_len)
    }
}

/// Writes contents to a disk, zeros as a hole where it can have one.
pub(super) fn write_contents(
    disk: &dyn switchback_disk::Disk,
    extent: Extent,
    zero: bool,
    contents: &[u8],
) -> Result<(), ReplicaError> {
    let written = if zero { disk.write_zeroes(extent) } else { disk.write_at(extent.start, contents) };
    written.map_err(|e| disk_error(disk, "writing", &e))
}
