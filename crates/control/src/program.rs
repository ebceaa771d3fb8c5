//! The program that new process servers are given: the configuration server's own.
//!
//! What it is: an open file with its digest. What it never does: change: when another version is put in its place on the disk, this is still the one that runs
//! here, until this server starts again.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use aws_lc_rs::digest::{Context, SHA256};

/// Bytes that are read at a time.
const PIECE: usize = 1 << 20;

/// See the module's header.
#[derive(Debug)]
pub struct Program {
    file: File,
    len: u64,
    sha256: String,
}

impl Program {
    /// The file at a path, read once.
    ///
    /// # Errors
    /// The file's.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let mut digest = Context::new(&SHA256);
        let (mut len, mut piece) = (0, vec![0; PIECE]);
        loop {
            let read = file.read_at(&mut piece, len)?;
            if read == 0 {
                break;
            }
            digest.update(&piece[..read]);
            len += read as u64;
        }
        let sha256 = digest.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { file, len, sha256 })
    }

    /// The one that runs.
    ///
    /// # Errors
    /// The file's.
    pub fn own() -> io::Result<Self> {
        Self::open(Path::new("/proc/self/exe"))
    }

    /// Its bytes.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// SHA-256, 64 hexadecimal digits in lower case.
    #[must_use]
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// At most `len` bytes from `offset` on; none at the end.
    ///
    /// # Errors
    /// The file's.
    pub fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut piece = vec![0; len];
        let read = self.file.read_at(&mut piece, offset)?;
        piece.truncate(read);
        Ok(piece)
    }
}
