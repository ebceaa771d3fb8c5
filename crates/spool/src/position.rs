//! How far the log has been acknowledged: the one fact that tells a torn tail from damage.
//!
//! A restart keeps exactly the records below the acknowledged position and cuts off everything behind it.
//! So each record that cannot be read is either behind it (never acknowledged to anyone, cut off unseen) or
//! before it (damage, reported). There is nothing to guess from the records themselves, whose blocks may reach the disk
//! in any order before they are synced.
//!
//! It costs one more sync of 4 KiB for each acknowledgement (some 90 µs), written in place: no allocation,
//! so it also works on a full disk.
//!
//! # File `position`: two slots of 4096 bytes; each slot is 8 copies of one entry, one to each 512-byte sector
//! ```text
//! offset size
//!  0     8   magic "SBSPOSN" and the format's version, 1
//!  8    16   id of the spool
//! 24     8   count of updates, u64 little-endian
//! 32     8   acknowledged: records with smaller numbers are durable
//! 40    32   BLAKE3 of all before
//! 72   440   0
//! ```
//! Updates go to the slots in turn, so a torn one leaves the other; the valid entry with the highest count wins. Any
//! sector of an update may be believed, as the records it speaks of were durable before it was begun. The copies make
//! sure that the loss of a sector does not pass for an update that never happened.

use switchback_disk::{Volume, VolumeFile};

use crate::error::SpoolError;
use crate::record::u64_at;

/// The file's name.
pub(crate) const POSITION_NAME: &str = "position";

const MAGIC: [u8; 8] = *b"SBSPOSN\x01";
const SECTOR: usize = 512;
const SLOT_LEN: usize = 4096;
const FILE_LEN: usize = 2 * SLOT_LEN;
const HASHED_LEN: usize = 40;
const ENTRY_LEN: usize = HASHED_LEN + 32;

/// The acknowledged position, in memory and on disk.
#[derive(Debug)]
pub(crate) struct PositionFile {
    file: Box<dyn VolumeFile>,
    spool: [u8; 16],
    count: u64,
    acknowledged: u64,
}

impl PositionFile {
    /// Makes the file of a new spool; durable on return.
    pub(crate) fn create(
        volume: &dyn Volume,
        spool: [u8; 16],
        acknowledged: u64,
    ) -> Result<Self, SpoolError> {
        let error = || SpoolError::io(format!("creating {POSITION_NAME}"));
        let contents = slot(spool, 0, acknowledged).repeat(2);
        volume.write_atomic(POSITION_NAME, &contents).map_err(error())?;
        let file = volume.open(POSITION_NAME).map_err(error())?;
        Ok(Self { file, spool, count: 0, acknowledged })
    }

    /// Opens the file; `Damaged` when it holds no valid entry of this spool.
    pub(crate) fn open(volume: &dyn Volume, spool: [u8; 16]) -> Result<Self, SpoolError> {
        let error = || SpoolError::io(format!("reading {POSITION_NAME}"));
        let file = volume.open(POSITION_NAME).map_err(error())?;
        let contents = volume.read_all(POSITION_NAME, FILE_LEN).map_err(error())?;
        let newest = decode(&contents, spool);
        let (count, acknowledged) = newest.ok_or_else(|| SpoolError::Damaged {
            segment: POSITION_NAME.into(),
            offset: 0,
            detail: "it holds no valid position of this spool".into(),
        })?;
        // It may have been read from memory the kernel has not written yet: a process that died between
        // writing and syncing it. What writers are told from now on must not be taken back.
        file.sync().map_err(error())?;
        Ok(Self { file, spool, count, acknowledged })
    }

    /// The acknowledged position.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Sets it; durable on return. All records below must be durable already.
    pub(crate) fn store(&mut self, acknowledged: u64) -> Result<(), SpoolError> {
        let count = self.count + 1;
        let offset = count % 2 * SLOT_LEN as u64;
        self.file
            .write_at(offset, &slot(self.spool, count, acknowledged))
            .and_then(|()| self.file.sync().map_err(std::io::Error::other))
            .map_err(SpoolError::io(format!("writing {POSITION_NAME}")))?;
        (self.count, self.acknowledged) = (count, acknowledged);
        Ok(())
    }
}

fn slot(spool: [u8; 16], count: u64, acknowledged: u64) -> Vec<u8> {
    let mut sector = [0; SECTOR];
    sector[..8].copy_from_slice(&MAGIC);
    sector[8..24].copy_from_slice(&spool);
    sector[24..32].copy_from_slice(&count.to_le_bytes());
    sector[32..40].copy_from_slice(&acknowledged.to_le_bytes());
    let hash = blake3::hash(&sector[..HASHED_LEN]);
    sector[HASHED_LEN..ENTRY_LEN].copy_from_slice(hash.as_bytes());
    sector.repeat(SLOT_LEN / SECTOR)
}

/// The newest valid entry: its count and the acknowledged position.
fn decode(contents: &[u8], spool: [u8; 16]) -> Option<(u64, u64)> {
    let (sectors, _) = contents.as_chunks::<SECTOR>();
    sectors
        .iter()
        .filter(|sector| {
            sector[..8] == MAGIC
                && sector[8..24] == spool
                && sector[HASHED_LEN..ENTRY_LEN] == *blake3::hash(&sector[..HASHED_LEN]).as_bytes()
        })
        .map(|sector| (u64_at(sector.as_slice(), 24), u64_at(sector.as_slice(), 32)))
        .max()
}

#[cfg(test)]
mod tests {
    use super::{FILE_LEN, SECTOR, SLOT_LEN, decode, slot};

    /// One sector of the newer slot is enough, wherever the write was torn or the disk has rotted.
    #[test]
    fn the_newest_entry_survives_the_loss_of_all_but_one_sector_of_it() {
        let (spool, older, newer) = ([7; 16], slot([7; 16], 4, 100), slot([7; 16], 5, 200));
        let contents = [older, newer].concat();
        assert_eq!(contents.len(), FILE_LEN);
        assert_eq!(decode(&contents, spool), Some((5, 200)));
        for kept in 0..SLOT_LEN / SECTOR {
            let mut torn = contents.clone();
            for lost in (0..SLOT_LEN / SECTOR).filter(|sector| *sector != kept) {
                torn[SLOT_LEN + lost * SECTOR + 33] ^= 1;
            }
            assert_eq!(decode(&torn, spool), Some((5, 200)));
            torn[SLOT_LEN + kept * SECTOR + 33] ^= 1;
            assert_eq!(decode(&torn, spool), Some((4, 100)), "the older one, never a wrong one");
        }
        assert_eq!(decode(&contents, [8; 16]), None);
        assert_eq!(decode(&contents[..SECTOR - 1], spool), None);
    }
}
