//! Log lines while file systems stand still.
//!
//! Standard error may lead to a file on a frozen file system: whoever writes a line there stops until it is thawed, and that may be the thread that
//! would thaw it. So, while a [`Hush`] lives, lines are kept in memory, [`KEPT_BYTES_MAX`] at most (later ones are counted only), and written
//! afterwards.

use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes of lines kept at most.
const KEPT_BYTES_MAX: usize = 64 << 10;

#[derive(Default)]
struct Kept {
    hushes: usize,
    bytes: Vec<u8>,
    dropped: u64,
}

static KEPT: Mutex<Kept> = Mutex::new(Kept { hushes: 0, bytes: Vec::new(), dropped: 0 });

fn kept() -> MutexGuard<'static, Kept> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// While it lives, nothing is written.
#[derive(Debug)]
pub(crate) struct Hush(());

impl Hush {
    pub(crate) fn new() -> Self {
        kept().hushes += 1;
        Self(())
    }
}

impl Drop for Hush {
    fn drop(&mut self) {
        let mut kept = kept();
        kept.hushes -= 1;
        if kept.hushes > 0 {
            return;
        }
        let (bytes, dropped) = (std::mem::take(&mut kept.bytes), std::mem::take(&mut kept.dropped));
        drop(kept);
        let _ = io::stderr().write_all(&bytes);
        if dropped > 0 {
            tracing::warn!(dropped, "lines were lost while file systems stood still");
        }
    }
}

/// Where log lines go.
#[derive(Debug)]
pub(crate) struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut kept = kept();
        if kept.hushes == 0 {
            drop(kept);
            return io::stderr().write(line);
        }
        if kept.bytes.len() + line.len() <= KEPT_BYTES_MAX {
            kept.bytes.extend_from_slice(line);
        } else {
            kept.dropped += 1;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
