//! Where bytes are kept: disks, and the files beside them; and their doubles that lose power.
//!
//! What it is: two small traits, [`Disk`] (a block device or an image of one) and [`Volume`] (one flat
//! directory of files on a cache or retention drive), with which every other crate reaches storage; the
//! real ones, [`FileDisk`] and [`DirVolume`]; a simulated machine that loses power ([`sim`]); and the
//! suites that hold them all to the same promises ([`conformance`]).
//! What it never does: network, formats, retries.
//!
//! The path of one block: [`FileDisk::read`](Disk::read) takes an aligned buffer from the [`AlignedPool`]
//! and fills it past the page cache; as [`Bytes`](bytes::Bytes) it travels without being copied;
//! [`write_at`](Disk::write_at) at the other side writes straight from such a buffer, and
//! [`flush`](Disk::flush) makes it durable.

mod clock;
pub mod conformance;
mod dir_volume;
mod disk;
mod error;
mod file_disk;
pub mod parallel;
mod pool;
pub mod sim;
pub mod spans;
mod sys;
#[doc(hidden)]
pub mod testing;
mod void_disk;
mod volume;

pub use clock::{Clock, SystemClock};
pub use dir_volume::DirVolume;
pub use disk::Disk;
pub use error::{OpenDiskError, OpenVolumeError};
pub use file_disk::{Access, FileDisk};
pub use pool::{AlignedBuf, AlignedPool, BUFFER_ALIGN};
pub use void_disk::VoidDisk;
pub use volume::{Volume, VolumeEntry, VolumeFile, VolumeLock};
