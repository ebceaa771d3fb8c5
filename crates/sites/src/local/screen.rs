//! What is to be seen of a running machine: its screen, and requests of its disks that have failed.
//!
//! QEMU writes picture and memory into files of the machine's directory; they are read and removed again while the one connection to QEMU is held, so that
//! two who look at once do not meet. A screen in VGA's text mode is read as text: the BIOS and many boot loaders speak there alone. Whether it is in text mode,
//! QEMU does not say; it is known by the picture's size, that of 80 by 25 characters.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use qapi::Command;
use qapi::qmp::{self, RunState};
use serde::{Deserialize, Serialize};

use super::monitor::Monitor;
use super::{LocalSite, images};
use crate::{Sight, SiteError};

/// In the machine's directory.
const PICTURE: &str = "screen.png";
const TEXT: &str = "screen.text";
/// Most bytes of a picture that are read.
const PICTURE_LEN_MAX: u64 = 8 << 20;
/// VGA's memory for text, as the processor sees it, with the lines that were scrolled up (IBM VGA: 0xB8000, 32 KiB).
const TEXT_AT: u64 = 0xb_8000;
const TEXT_LEN: u64 = 32 << 10;
/// Characters of a line, each with a byte for its colour.
const LINE_CHARS: usize = 80;
/// Pictures of 80 by 25 characters of 9 or 8 by 16 points.
const TEXT_SIZES: [[u32; 2]; 2] = [[720, 400], [640, 400]];

impl LocalSite {
    pub(super) fn see(&self, id: &str) -> Result<Sight, SiteError> {
        let uuid = self.load(id)?.uuid;
        let directory = self.machine_directory(id)?;
        let mut monitor = self.monitor(id, &uuid)?;
        let failed = |error: io::Error| SiteError::passing(format!("looking at the screen of {id}"), error);
        let picture = take_picture(&mut monitor, &directory).map_err(failed)?;
        let text = if size_of(&picture).is_some_and(|size| TEXT_SIZES.contains(&size)) {
            read_text(&mut monitor, &directory).map_err(failed)?
        } else {
            String::new()
        };
        let devices = monitor.execute(&QueryBlockStats {}).map_err(failed)?;
        let failed_requests: u64 = devices.iter().map(|device| device.stats.failed()).sum();
        // Where there is no room for what it writes it stands still, and nothing of that is counted.
        let stands = monitor.state().map_err(failed)? == RunState::io_error;
        let failed_requests = failed_requests + u64::from(stands);
        Ok(Sight { picture, text, failed_requests })
    }
}

fn take_picture(monitor: &mut Monitor, directory: &Path) -> io::Result<Vec<u8>> {
    through_file(&directory.join(PICTURE), |filename| {
        let command =
            qmp::screendump { device: None, format: Some(qmp::ImageFormat::png), head: None, filename };
        monitor.execute(&command).map(drop)
    })
}

fn read_text(monitor: &mut Monitor, directory: &Path) -> io::Result<String> {
    let memory = through_file(&directory.join(TEXT), |filename| {
        monitor.execute(&qmp::pmemsave { filename, size: TEXT_LEN, val: TEXT_AT }).map(drop)
    })?;
    Ok(text_of(&memory))
}

/// Has QEMU write a file, and takes what it has written.
fn through_file(path: &Path, write: impl FnOnce(String) -> io::Result<()>) -> io::Result<Vec<u8>> {
    let name =
        path.to_str().ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "a path that is no text"))?;
    write(name.to_owned())?;
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(PICTURE_LEN_MAX).read_to_end(&mut bytes));
    images::remove(path)?;
    read.map(|_| bytes)
}

/// Width and height of a PNG: the first chunk is its header (PNG, third edition, 11.2.1).
fn size_of(picture: &[u8]) -> Option<[u32; 2]> {
    let number = |at: usize| Some(u32::from_be_bytes(picture.get(at..at + 4)?.try_into().ok()?));
    Some([number(16)?, number(20)?])
}

/// The lines that are not empty.
fn text_of(memory: &[u8]) -> String {
    let line = |cells: &[u8]| {
        let shown = |cell: &[u8]| if cell[0].is_ascii_graphic() { char::from(cell[0]) } else { ' ' };
        cells.chunks_exact(2).map(shown).collect::<String>().trim_end().to_owned()
    };
    let lines = memory.chunks_exact(LINE_CHARS * 2).map(line).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join("\n")
}

/// `query-blockstats`, of which only what all versions have in common is read.
#[derive(Debug, Serialize)]
struct QueryBlockStats {}

#[derive(Debug, Deserialize)]
struct Device {
    stats: Stats,
}

#[derive(Debug, Deserialize)]
struct Stats {
    failed_rd_operations: u64,
    failed_wr_operations: u64,
    failed_flush_operations: u64,
}

impl Stats {
    /// A write to a layer reads what is below it, so that what cannot be read fails writes, too.
    const fn failed(&self) -> u64 {
        self.failed_rd_operations + self.failed_wr_operations + self.failed_flush_operations
    }
}

impl Command for QueryBlockStats {
    type Ok = Vec<Device>;
    const NAME: &'static str = "query-blockstats";
    const ALLOW_OOB: bool = false;
}

#[cfg(test)]
mod tests {
    use super::{size_of, text_of};

    #[test]
    fn a_text_screen_is_read_without_its_colours_and_empty_lines() {
        let cells =
            |text: &str| format!("{text:<80}").bytes().flat_map(|byte| [byte, 7]).collect::<Vec<u8>>();
        let mut memory = [cells("No bootable device."), cells(""), cells("  web01 login: _")].concat();
        memory[4] = 0xb3; // a frame's line, where the first blank stands
        memory.push(b'x');
        assert_eq!(text_of(&memory), "No bootable device.\n  web01 login: _");
    }

    #[test]
    fn a_pictures_size_stands_in_its_header() {
        let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x02\xd0\0\0\x01\x90".to_vec();
        assert_eq!(size_of(&png), Some([720, 400]));
        png.truncate(20);
        assert_eq!(size_of(&png), None);
    }
}
