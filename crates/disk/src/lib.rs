//! Where bytes are kept: disks, and the files beside them; and their doubles that lose power.
//!
//! What it is: two small traits, [`Disk`] (a block device or an image of one) and [`Volume`] (one flat
//! directory of files on a cache or retention drive), with which every other crate reaches storage.
//! What it never does: network, formats, retries.

mod clock;
mod disk;
mod volume;

pub use clock::{Clock, SystemClock};
pub use disk::Disk;
pub use volume::{Volume, VolumeEntry, VolumeFile, VolumeLock};
