//! Settings of a spool.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use switchback_model::{ReplicaName, WriterId};

use crate::error::SpoolError;
use crate::seal::SpoolKey;

/// Most bytes of contents in a part (`ARCHITECTURE.md`, "part").
pub const PART_BYTES_MAX: u64 = 64 << 20;

/// Where random bytes come from; injected so that a simulation can be repeated.
#[derive(Clone)]
pub struct Entropy(Arc<Fill>);

type Fill = dyn Fn(&mut [u8]) + Send + Sync;

impl Entropy {
    /// From the operating system.
    ///
    /// # Panics
    /// When drawing: if the operating system has no random numbers, nothing can be protected.
    #[must_use]
    pub fn system() -> Self {
        Self::from_fn(|out| aws_lc_rs::rand::fill(out).expect("the operating system gives random numbers"))
    }

    /// From `fill`, which fills the slice it is given.
    #[must_use]
    pub fn from_fn(fill: impl Fn(&mut [u8]) + Send + Sync + 'static) -> Self {
        Self(Arc::new(fill))
    }

    /// 16 random bytes.
    pub(crate) fn draw(&self) -> [u8; 16] {
        let mut out = [0; 16];
        (self.0)(&mut out);
        out
    }
}

impl fmt::Debug for Entropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entropy")
    }
}

/// Settings of a spool.
#[derive(Clone, Debug)]
pub struct SpoolConfig {
    /// Whose data it holds.
    pub replica: ReplicaName,
    /// The spool as a writer, towards the next hop.
    pub writer: WriterId,
    /// Most bytes of frames on the cache disk; at least twice `part_bytes_max`, so that a part always fits. A
    /// part that does not fit waits; commits and the like, a few KiB, are taken all the same.
    pub bytes_max: u64,
    /// Bytes of the cache disk left free for them and for other spools' small files. Default 32 MiB.
    pub reserve_bytes: u64,
    /// A segment that has this many bytes is ended. Default 64 MiB: deleting and scanning in good portions.
    pub segment_bytes_max: u64,
    /// Most bytes of contents in a part. Default [`PART_BYTES_MAX`].
    pub part_bytes_max: u64,
    /// Bytes received after which the spool syncs without being asked, so that they can be forwarded. Default 64 MiB.
    pub sync_bytes: u64,
    /// Bytes forwarded after which the next hop is asked to make them durable. Default 64 MiB.
    pub barrier_bytes: u64,
    /// First wait after the next hop failed; doubles with each failure up to `retry_max`. Default 250 ms.
    pub retry_min: Duration,
    /// Longest wait between attempts. Default 30 s.
    pub retry_max: Duration,
    /// How long a question about digests may wait for everything spooled to be forwarded. Default 60 s.
    pub drain_wait_max: Duration,
    /// Encrypts what is spooled from now on. What was spooled without is still read.
    pub key: Option<SpoolKey>,
    /// Where ids and salts come from.
    pub entropy: Entropy,
}

impl SpoolConfig {
    /// The defaults, for a spool of `bytes_max` bytes.
    #[must_use]
    pub fn new(replica: ReplicaName, writer: WriterId, bytes_max: u64) -> Self {
        Self {
            replica,
            writer,
            bytes_max,
            reserve_bytes: 32 << 20,
            segment_bytes_max: 64 << 20,
            part_bytes_max: PART_BYTES_MAX,
            sync_bytes: 64 << 20,
            barrier_bytes: 64 << 20,
            retry_min: Duration::from_millis(250),
            retry_max: Duration::from_secs(30),
            drain_wait_max: Duration::from_secs(60),
            key: None,
            entropy: Entropy::system(),
        }
    }

    /// Refuses what cannot work.
    pub(crate) fn check(&self) -> Result<(), SpoolError> {
        let refuse = |detail: String| Err(SpoolError::Config { detail });
        if self.bytes_max < 2 * self.part_bytes_max {
            return refuse(format!(
                "bytes_max is {}, it must be at least twice part_bytes_max, {}",
                self.bytes_max, self.part_bytes_max
            ));
        }
        if self.retry_min.is_zero() || self.retry_min > self.retry_max {
            return refuse("retry_min must be above zero and at most retry_max".into());
        }
        Ok(())
    }

    /// Most bytes that the records of one part may take: frames of the smallest useful size (one sector)
    /// have a quarter of overhead.
    pub(crate) fn part_log_bytes_max(&self) -> u64 {
        self.part_bytes_max + self.part_bytes_max / 2 + 4096
    }
}
