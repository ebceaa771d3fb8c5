//! What is pinned beside the bitmaps so that they can be believed by the next process.
//!
//! The value of the one entry of the map `meta`, all numbers little-endian:
//!
//! ```text
//!   0  8  magic "SWBKTRAK"
//!   8  4  version of this layout, of the program and of its maps' shapes
//!  12  4  number of disks
//!  16 16  boot id
//!  32 16  generation
//!  48  …  for each disk 152 bytes:
//!             0  4 major   4  4 minor   8  8 size in bytes   16  8 diskseq
//!            24  8 length of the identity   32  120 identity, padded with zeros
//! ```
//! A disk that is not tracked any more has the number 0:0, which no disk has.
//!
//! Magic and version come first, so that anything else can be refused before it is interpreted. The version
//! covers the program too: it goes on running when the agent is upgraded, so whoever changes what it does, or the
//! shape of a map, must raise it. There is no checksum: the value lives in kernel memory and its pin is made after it is
//! whole.

use switchback_model::GenerationId;

use super::object::DISKS_MAX;
use crate::devices::{DeviceNumber, WholeDisk};

const MAGIC: &[u8; 8] = b"SWBKTRAK";
/// Raise with every change of the layout, the program or its maps.
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 48;
const DISK_BYTES: usize = 152;
const IDENTITY_BYTES: usize = 120;
/// Size of the map's value.
pub(super) const META_BYTES: usize = HEADER_BYTES + DISKS_MAX * DISK_BYTES;

/// One boot of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootId(pub [u8; 16]);

impl BootId {
    /// That of the running kernel.
    ///
    /// # Errors
    /// When /proc is not mounted.
    pub fn current() -> std::io::Result<Self> {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().replace('-', "");
        let id: Result<GenerationId, _> = text.parse();
        id.map(|id| Self(id.0)).map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidData, error))
    }
}

/// The tracked disks and the life of the tracker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) boot: BootId,
    pub(super) generation: GenerationId,
    pub(super) disks: Vec<DiskMeta>,
}

/// What tells a tracked disk from any other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DiskMeta {
    pub(super) number: DeviceNumber,
    pub(super) size_bytes: u64,
    pub(super) diskseq: u64,
    pub(super) identity: Vec<u8>,
}

/// The number in a slot that no disk has any more.
const NONE: DeviceNumber = DeviceNumber { major: 0, minor: 0 };

impl DiskMeta {
    /// Nothing is tracked in this slot any more.
    pub(super) fn leave(&mut self) {
        self.number = NONE;
    }

    /// Whether something is tracked in it.
    pub(super) fn is_tracked(&self) -> bool {
        self.number != NONE
    }
}

impl From<&WholeDisk> for DiskMeta {
    fn from(disk: &WholeDisk) -> Self {
        let mut identity = disk.identity.clone().into_bytes();
        identity.truncate(IDENTITY_BYTES);
        Self { number: disk.number, size_bytes: disk.size_bytes, diskseq: disk.diskseq, identity }
    }
}

impl Meta {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(META_BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        let count = u32::try_from(self.disks.len()).expect("at most DISKS_MAX disks");
        bytes.extend_from_slice(&count.to_le_bytes());
        bytes.extend_from_slice(&self.boot.0);
        bytes.extend_from_slice(&self.generation.0);
        for disk in &self.disks {
            bytes.extend_from_slice(&disk.number.major.to_le_bytes());
            bytes.extend_from_slice(&disk.number.minor.to_le_bytes());
            bytes.extend_from_slice(&disk.size_bytes.to_le_bytes());
            bytes.extend_from_slice(&disk.diskseq.to_le_bytes());
            bytes.extend_from_slice(&(disk.identity.len() as u64).to_le_bytes());
            let end = bytes.len() + IDENTITY_BYTES;
            bytes.extend_from_slice(&disk.identity);
            bytes.resize(end, 0);
        }
        bytes.resize(META_BYTES, 0);
        bytes
    }

    /// `Err` says what is wrong with it.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let mut rest = Fields(bytes);
        let malformed = || "its description is cut short".to_owned();
        if rest.take::<8>().ok_or_else(malformed)? != *MAGIC {
            return Err("its description is not one of Switchback".into());
        }
        let version = rest.number().ok_or_else(malformed)?;
        if version != VERSION {
            return Err(format!(
                "it was made by another version of Switchback (format {version}, not {VERSION})"
            ));
        }
        let count = rest.number().ok_or_else(malformed)? as usize;
        if count > DISKS_MAX {
            return Err(format!("its description has {count} disks"));
        }
        let boot = BootId(rest.take().ok_or_else(malformed)?);
        let generation = GenerationId(rest.take().ok_or_else(malformed)?);
        let disks: Option<Vec<_>> = (0..count).map(|_| rest.disk()).collect();
        Ok(Self { boot, generation, disks: disks.ok_or_else(malformed)? })
    }
}

/// Takes fields from the front.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }

    fn number(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn disk(&mut self) -> Option<DiskMeta> {
        let number = DeviceNumber { major: self.number()?, minor: self.number()? };
        let size_bytes = u64::from_le_bytes(self.take()?);
        let diskseq = u64::from_le_bytes(self.take()?);
        let len = usize::try_from(u64::from_le_bytes(self.take()?)).ok()?;
        let identity: [u8; IDENTITY_BYTES] = self.take()?;
        Some(DiskMeta { number, size_bytes, diskseq, identity: identity.get(..len)?.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};
    use switchback_model::GenerationId;

    use super::{BootId, DeviceNumber, DiskMeta, META_BYTES, Meta};

    fn meta() -> Meta {
        let disk = |minor| DiskMeta {
            number: DeviceNumber { major: 8, minor },
            size_bytes: 1 << 40,
            diskseq: 7,
            identity: b"naa.5000c500a1b2c3d4".to_vec(),
        };
        let disks = vec![disk(0), disk(16)];
        Meta { boot: BootId([1; 16]), generation: GenerationId([2; 16]), disks }
    }

    #[test]
    fn round_trips_and_refuses_other_versions() {
        let bytes = meta().encode();
        assert_eq!(bytes.len(), META_BYTES);
        assert_eq!(Meta::decode(&bytes), Ok(meta()));
        for (at, value) in [(0, 0), (8, 2), (12, 65), (48 + 24, 121)] {
            let mut bytes = bytes.clone();
            bytes[at] = value;
            assert!(Meta::decode(&bytes).is_err(), "byte {at}");
        }
        assert!(Meta::decode(&bytes[..META_BYTES - 152 * 63]).is_err());
    }

    proptest! {
        #[test]
        fn never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), version in 0_u8..3) {
            if bytes.len() > 16 {
                bytes[..8].copy_from_slice(b"SWBKTRAK");
                bytes[8..16].copy_from_slice(&[version, 0, 0, 0, 1, 0, 0, 0]);
            }
            if let Ok(meta) = Meta::decode(&bytes) {
                prop_assert_eq!(Meta::decode(&meta.encode()), Ok(meta));
            }
        }
    }
}
