//! The footer of a fixed VHD: what makes a page blob a disk that Azure can import.
//!
//! A fixed VHD is the disk's data and behind it one footer of 512 bytes; all integers are big-endian (Microsoft, "Virtual Hard Disk Image
//! Format Specification", version 1.0). Azure takes only disks whose data is a multiple of 1 MiB long.
//! ```text
//! offset size
//!   0     8   cookie "conectix"
//!   8     4   features: 2, a bit that is always set
//!  12     4   format version 1.0
//!  16     8   offset of the next structure: none in a fixed disk, all ones
//!  24     4   time of creation, seconds since 2000-01-01 UTC
//!  28     4   creator application "sbak"
//!  32     4   creator version 1.0
//!  36     4   creator host "Wi2k": the disk's size is `current size`, whatever its geometry says
//!  40     8   original size in bytes
//!  48     8   current size in bytes
//!  56     4   geometry: cylinders (u16), heads (u8), sectors per track (u8)
//!  60     4   disk type: 2, fixed
//!  64     4   checksum: ones' complement of the sum of all other bytes
//!  68    16   unique id
//!  84     1   saved state: 0
//!  85   427   reserved, 0
//! ```

/// Bytes of a footer.
pub(crate) const FOOTER_LEN: u64 = 512;
const MIB: u64 = 1 << 20;
const CHECKSUM: std::ops::Range<usize> = 64..68;

/// Bytes of a disk in its VHD: the source's, padded with zeros to what Azure imports.
pub(crate) fn data_len(disk_size: u64) -> u64 {
    disk_size.div_ceil(MIB) * MIB
}

/// Bytes of the page blob of a disk.
pub(crate) fn blob_len(disk_size: u64) -> u64 {
    data_len(disk_size) + FOOTER_LEN
}

/// The footer of a disk whose data takes `data_len` bytes.
pub(crate) fn footer(data_len: u64, unique_id: [u8; 16]) -> [u8; 512] {
    let mut out = [0; 512];
    let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"conectix");
    put(8, &2_u32.to_be_bytes());
    put(12, &0x0001_0000_u32.to_be_bytes());
    put(16, &u64::MAX.to_be_bytes());
    put(28, b"sbak");
    put(32, &0x0001_0000_u32.to_be_bytes());
    put(36, b"Wi2k");
    put(40, &data_len.to_be_bytes());
    put(48, &data_len.to_be_bytes());
    put(56, &geometry(data_len));
    put(60, &2_u32.to_be_bytes());
    put(68, &unique_id);
    let sum = checksum(&out);
    out[CHECKSUM].copy_from_slice(&sum.to_be_bytes());
    out
}

/// Whether these bytes are the footer of a fixed disk of `data_len` bytes, or what is wrong with them.
pub(crate) fn check(footer: &[u8; 512], data_len: u64) -> Result<(), &'static str> {
    let stated = u32::from_be_bytes([footer[64], footer[65], footer[66], footer[67]]);
    if footer[..8] != *b"conectix" {
        Err("there is no VHD footer")
    } else if stated != checksum(footer) {
        Err("the VHD footer does not match its checksum")
    } else if footer[48..56] != data_len.to_be_bytes() || footer[60..64] != 2_u32.to_be_bytes() {
        Err("the VHD footer is that of another disk")
    } else {
        Ok(())
    }
}

fn checksum(footer: &[u8; 512]) -> u32 {
    let others = footer.iter().enumerate().filter(|(at, _)| !CHECKSUM.contains(at));
    !others.fold(0_u32, |sum, (_, byte)| sum.wrapping_add((*byte).into()))
}

/// Cylinders, heads and sectors, by the algorithm of the specification's appendix.
fn geometry(data_len: u64) -> [u8; 4] {
    let sectors = (data_len / 512).min(65535 * 16 * 255);
    let (cylinders_by_heads, heads, per_track) = if sectors >= 65535 * 16 * 63 {
        (sectors / 255, 16, 255)
    } else {
        let mut per_track = 17;
        let mut tracks = sectors / per_track;
        let mut heads = tracks.div_ceil(1024).max(4);
        if tracks >= heads * 1024 || heads > 16 {
            (per_track, heads) = (31, 16);
            tracks = sectors / per_track;
        }
        if tracks >= heads * 1024 {
            (per_track, heads) = (63, 16);
            tracks = sectors / per_track;
        }
        (tracks, heads, per_track)
    };
    let [.., c1, c0] = (cylinders_by_heads / heads).to_be_bytes();
    [c1, c0, heads.to_be_bytes()[7], per_track.to_be_bytes()[7]]
}

#[cfg(test)]
mod tests {
    use super::{blob_len, check, data_len, footer, geometry};

    #[test]
    fn sizes_are_those_that_azure_imports() {
        assert_eq!((data_len(1), data_len(1 << 20), data_len((1 << 20) + 1)), (1 << 20, 1 << 20, 2 << 20));
        assert_eq!(blob_len(1 << 30), (1 << 30) + 512);
    }

    #[test]
    fn a_footer_says_what_the_specification_wants_and_any_flipped_bit_is_noticed() {
        let good = footer(30 << 30, [7; 16]);
        assert_eq!(check(&good, 30 << 30), Ok(()));
        assert!(check(&good, 31 << 30).is_err());
        assert_eq!((&good[..8], good[63], &good[68..84]), (&b"conectix"[..], 2, &[7; 16][..]));
        assert_eq!(good[16..24], [0xff; 8]);
        for bit in 0..512 * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(check(&bad, 30 << 30).is_err(), "bit {bit}");
        }
    }

    /// Computed by hand from the specification's appendix; qemu-img, which rounds up, has one cylinder more.
    #[test]
    fn the_geometry_is_that_of_the_specification() {
        assert_eq!(geometry(1 << 20), [0, 30, 4, 17]);
        assert_eq!(geometry(1 << 30), [0x08, 0x20, 16, 63]);
        assert_eq!(geometry(1 << 40), [0xff, 0xff, 16, 255]);
    }
}
