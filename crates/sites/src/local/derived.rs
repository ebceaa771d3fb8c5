//! Names that must be the same every time although nobody wrote them down: addresses and serial numbers of hand-written machines, and the
//! multicast group of a segment. Not secret, and not to be changed: a guest knows its network card by such an address.

/// FNV-1a, 64 bits (the parameters of draft-eastlake-fnv), then mixed (the finalizer of `SplitMix64`): FNV alone changes few high bits between
/// texts that differ in their last letter.
pub(super) fn hash(parts: &[&str]) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut take = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    for part in parts {
        part.bytes().for_each(&mut take);
        take(0xFF); // no byte of UTF-8: where a part ends
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// A locally administered unicast address for the network card at `position`.
pub(super) fn mac(site: &str, machine: &str, position: usize) -> String {
    let [_, _, _, a, b, c, d, e] = hash(&["mac", site, machine, &position.to_string()]).to_be_bytes();
    format!("02:{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}")
}

/// A UUID of version 8 (RFC 9562, section 5.8).
pub(super) fn uuid(site: &str, machine: &str) -> String {
    let high = hash(&["uuid", site, machine, "high"]);
    let low = hash(&["uuid", site, machine, "low"]);
    let version = (high & 0xFFF) | 0x8000;
    let variant = ((low >> 48) & 0x3FFF) | 0x8000;
    let node = low & 0xFFFF_FFFF_FFFF;
    format!("{:08x}-{:04x}-{version:04x}-{variant:04x}-{node:012x}", high >> 32, (high >> 16) & 0xFFFF)
}

/// A serial number for the disk at `position`, short enough for virtio's 20 bytes.
pub(super) fn serial(site: &str, machine: &str, position: usize) -> String {
    format!("sb{:016x}", hash(&["serial", site, machine, &position.to_string()]))
}

/// Multicast group and port of a segment: of the block that is free for use within an organization (RFC 2365, section 6.2).
pub(super) fn segment_address(segment: &str) -> String {
    let [a, b, _, _, _, _, c, d] = hash(&["segment", segment]).to_be_bytes();
    let port = 20_000 + u32::from(u16::from_be_bytes([c, d])) % 10_000;
    format!("239.192.{a}.{b}:{port}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_names_never_change() {
        // A change of these gives guests other network cards and disks: they would not find their configuration.
        assert_eq!(mac("s", "web01", 0), mac("s", "web01", 0));
        assert_ne!(mac("s", "web01", 0), mac("s", "web01", 1));
        assert_ne!(mac("s", "web01", 1), mac("s", "web011", 0));
        assert_ne!(mac("s", "web01", 0), mac("r", "web01", 0));
        assert_eq!(hash(&["a", "b"]), 0xb912_458b_53ec_5105);
    }

    #[test]
    fn derived_names_have_their_form() {
        let uuid = uuid("s", "web01");
        assert_eq!(uuid.len(), 36);
        assert_eq!(uuid.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
        assert!(uuid.split('-').nth(2).unwrap().starts_with('8'), "{uuid}");
        assert!(uuid.split('-').nth(3).unwrap().starts_with(['8', '9', 'a', 'b']), "{uuid}");
        assert!(serial("s", "web01", 3).len() <= 20);
        let address: std::net::SocketAddrV4 = segment_address("lan").parse().unwrap();
        assert!(address.ip().is_multicast(), "{address}");
    }
}
