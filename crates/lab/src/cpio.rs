//! Writes an initramfs: a cpio archive in the "newc" format, as the kernel's `Documentation/driver-api/early-userspace/buffer-format.rst`
//! has it.
//!
//! Per member: `070701`, then thirteen numbers of eight hexadecimal digits (inode, mode, uid, gid, links, mtime, size, device major and minor,
//! major and minor of the device the member is, length of the name with its zero byte, checksum: zero), the name with a zero byte, padding
//! to four bytes from the archive's start, the contents, padding again. The end is a member called `TRAILER!!!`.
//!
//! A directory comes before what is in it: the kernel creates none by itself. All members belong to root and have the time zero, so the same
//! image gives the same bytes.

use std::collections::BTreeSet;
use std::io::{self, Write};

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// An archive being written.
pub(crate) struct Archive<W> {
    output: W,
    /// Bytes written, which the padding counts from.
    length: u64,
    /// Also the number of the last inode: each member has its own.
    members: u32,
    directories: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    pub(crate) fn new(output: W) -> Self {
        Self { output, length: 0, members: 0, directories: BTreeSet::new() }
    }

    /// Adds a file with its permission bits, and the directories on the way to it. `path` may start with a slash.
    pub(crate) fn file(&mut self, path: &str, permissions: u32, contents: &[u8]) -> io::Result<()> {
        self.parents(path)?;
        self.member(path, REGULAR | permissions, (0, 0), contents)
    }

    /// Adds an empty directory.
    pub(crate) fn directory(&mut self, path: &str) -> io::Result<()> {
        self.parents(&format!("{path}/"))
    }

    /// Adds a character device.
    pub(crate) fn character_device(&mut self, path: &str, major: u32, minor: u32) -> io::Result<()> {
        self.parents(path)?;
        self.member(path, CHARACTER_DEVICE | 0o600, (major, minor), &[])
    }

    /// Ends the archive and gives the output back.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.member("TRAILER!!!", 0, (0, 0), &[])?;
        Ok(self.output)
    }

    fn parents(&mut self, path: &str) -> io::Result<()> {
        let path = path.trim_start_matches('/');
        for (end, _) in path.match_indices('/') {
            let parent = &path[..end];
            if self.directories.insert(parent.to_owned()) {
                self.member(parent, DIRECTORY | 0o755, (0, 0), &[])?;
            }
        }
        Ok(())
    }

    fn member(&mut self, path: &str, mode: u32, device: (u32, u32), contents: &[u8]) -> io::Result<()> {
        let name = path.trim_start_matches('/');
        let too_large =
            |_| io::Error::new(io::ErrorKind::FileTooLarge, format!("{name}: the format ends at 4 GiB"));
        let size = u32::try_from(contents.len()).map_err(too_large)?;
        let name_size = u32::try_from(name.len() + 1).map_err(too_large)?;
        self.members += 1;
        let links = 1;
        let (major, minor) = device;
        let fields = [self.members, mode, 0, 0, links, 0, size, 0, 0, major, minor, name_size, 0];
        let numbers: String = fields.iter().map(|field| format!("{field:08X}")).collect();
        self.write(format!("070701{numbers}{name}\0").as_bytes())?;
        self.pad()?;
        self.write(contents)?;
        self.pad()
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.length += bytes.len() as u64;
        self.output.write_all(bytes)
    }

    fn pad(&mut self) -> io::Result<()> {
        while !self.length.is_multiple_of(4) {
            self.write(&[0])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::{Command, Stdio};

    use super::*;

    fn sample() -> Vec<u8> {
        let mut archive = Archive::new(Vec::new());
        archive.file("/init", 0o755, b"#!/bin/sh\n").unwrap();
        archive.file("usr/share/a b.txt", 0o644, b"one").unwrap();
        archive.file("usr/share/empty", 0o600, b"").unwrap();
        archive.directory("/proc").unwrap();
        archive.character_device("dev/console", 5, 1).unwrap();
        archive.finish().unwrap()
    }

    /// The `cpio` program is the independent reader.
    #[test]
    fn cpio_reads_what_we_write() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("archive"), sample()).unwrap();
        let run = |arguments: &[&str]| {
            let input = fs::File::open(directory.path().join("archive")).unwrap();
            let command = Command::new("cpio")
                .args(arguments)
                .current_dir(&directory)
                .stdin(input)
                .stderr(Stdio::null())
                .output();
            let output = command.expect("cpio is installed by scripts/setup");
            assert!(output.status.success(), "cpio failed: {}", output.status);
            String::from_utf8(output.stdout).unwrap()
        };
        let list = run(&["--list", "--verbose", "--numeric-uid-gid"]);
        let has =
            |start: &str, end: &str| list.lines().any(|line| line.starts_with(start) && line.ends_with(end));
        assert!(has("-rwxr-xr-x", " init"), "{list}");
        assert!(has("-rw-------", " usr/share/empty"), "{list}");
        assert!(has("drwxr-xr-x", " proc"), "{list}");
        assert!(has("crw-------", " dev/console") && list.contains("5,   1"), "{list}");
        assert_eq!(list.lines().filter(|line| line.ends_with(" usr/share")).count(), 1, "{list}");

        run(&["--extract", "--make-directories", "init", "usr/share/a b.txt"]);
        assert_eq!(fs::read(directory.path().join("init")).unwrap(), b"#!/bin/sh\n");
        assert_eq!(fs::read(directory.path().join("usr/share/a b.txt")).unwrap(), b"one");
    }
}
