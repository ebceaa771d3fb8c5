//! Segments on a simulated volume: what is read is what was written, where it was written.

use proptest::prelude::{ProptestConfig, any, prop_assert, prop_assert_eq, proptest};
use switchback_disk::Volume;
use switchback_disk::sim::SimMachine;
use switchback_model::{DiskIndex, PartIndex, Seq};
use switchback_replica::PartHeader;

use super::{HEADER_LEN, ReadError, SegmentReader, SegmentWriter, parse_segment_name, segment_name};
use crate::fuzz::MemoryFile;
use crate::record::Record;
use crate::record::tests::any_record;
use crate::seal::SpoolKey;

const SPOOL: [u8; 16] = [3; 16];

fn key() -> SpoolKey {
    SpoolKey::new([42; 32])
}

fn written(records: &[Record], first: u64, salt: u8, key: Option<&SpoolKey>) -> Vec<u8> {
    let machine = SimMachine::new(1);
    let volume = machine.volume("cache");
    let mut writer = SegmentWriter::create(&*volume, SPOOL, first, [salt; 16], key).unwrap();
    for (number, record) in (first..).zip(records) {
        writer.append(number, record).unwrap();
        writer.flush(false).unwrap();
    }
    writer.sync().unwrap();
    let bytes = volume.read_all(&segment_name(first), usize::MAX).unwrap();
    assert_eq!(bytes.len() as u64, writer.len());
    bytes
}

fn read(bytes: &[u8], first: u64, key: Option<&SpoolKey>) -> (Vec<Record>, ReadError) {
    let file = Box::new(MemoryFile(bytes.to_vec()));
    let mut records = Vec::new();
    let mut reader = match SegmentReader::open(file, SPOOL, first, key) {
        Ok(reader) => reader,
        Err(error) => return (records, error),
    };
    loop {
        match reader.next() {
            Ok(record) => records.push(record),
            Err(error) => return (records, error),
        }
    }
}

fn sample() -> Vec<Record> {
    let header = PartHeader { seq: Seq(1), part: PartIndex(0), disk: DiskIndex(1) };
    let extent = switchback_model::Extent::new(4096, 300);
    let contents: Vec<u8> = (0..300_u32).map(|at| (at * at / 7).to_le_bytes()[0]).collect();
    vec![
        Record::PartBegin(header),
        Record::Frame(switchback_delta::Frame::of(extent, contents.into())),
        Record::PartEnd { checksum: [9; 32] },
        Record::Abort { seq: Seq(1) },
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn records_come_back_as_they_were(
        records in proptest::collection::vec(any_record(), 1..40), first in 0_u64..1 << 60, encrypted in any::<bool>(),
    ) {
        let key = encrypted.then(key);
        let bytes = written(&records, first, 1, key.as_ref());
        let (back, end) = read(&bytes, first, key.as_ref());
        prop_assert_eq!(back, records);
        let at_end = matches!(end, ReadError::Damaged { offset, .. } if offset == bytes.len() as u64);
        prop_assert!(at_end);
    }
}

#[test]
fn every_flipped_bit_is_damage_at_its_record() {
    for key in [None, Some(key())] {
        let records = sample();
        let bytes = written(&records, 7, 1, key.as_ref());
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let (back, error) = read(&flipped, 7, key.as_ref());
            assert!(back.len() < records.len() && back == records[..back.len()], "bit {bit}: {error:?}");
            let ReadError::Damaged { offset, .. } = error else { panic!("bit {bit}: {error:?}") };
            assert!(offset <= bit as u64 / 8, "bit {bit} was found before {offset}");
        }
    }
}

#[test]
fn every_cut_leaves_the_whole_records_before_it() {
    let records = sample();
    let bytes = written(&records, 7, 1, None);
    for len in 0..bytes.len() {
        let (back, error) = read(&bytes[..len], 7, None);
        assert!(back.len() < records.len() && back == records[..back.len()], "cut at {len}");
        assert!(matches!(error, ReadError::Damaged { .. }), "cut at {len}: {error:?}");
    }
}

/// A record is valid in its place only.
#[test]
fn what_stands_elsewhere_is_damage() {
    for key in [None, Some(key())] {
        let bytes = written(&sample(), 7, 1, key.as_ref());
        let records_read = |bytes: &[u8], first| read(bytes, first, key.as_ref()).0.len();
        assert_eq!(records_read(&bytes, 7), 4);
        assert_eq!(records_read(&bytes, 8), 0, "under another name");

        // The same records, written at the same place by another life.
        let other = written(&sample(), 7, 2, key.as_ref());
        let mixed = [&other[..HEADER_LEN], &bytes[HEADER_LEN..]].concat();
        assert_eq!(records_read(&mixed, 7), 0, "behind another header");

        let record_len = bytes.len() - HEADER_LEN - 3 * (40 + 16);
        assert!(record_len > 300);
        let first = &bytes[HEADER_LEN..HEADER_LEN + 56];
        let doubled = [&bytes[..HEADER_LEN + 56], first, &bytes[HEADER_LEN + 56..]].concat();
        assert_eq!(records_read(&doubled, 7), 1, "a record repeated");
        let skipped = [&bytes[..HEADER_LEN], &bytes[HEADER_LEN + 56..]].concat();
        assert_eq!(records_read(&skipped, 7), 0, "a record left out");
    }
}

#[test]
fn an_encrypted_segment_shows_nothing_and_names_its_key() {
    let contents = b"a secret that nobody may read on the cache disk";
    let extent = switchback_model::Extent::new(0, contents.len() as u64);
    let frame = switchback_delta::Frame::of(extent, contents.to_vec().into());
    let records = [Record::Frame(frame.clone())];
    let holds = |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).any(|window| window == what);
    let (plain, sealed) = (written(&records, 7, 1, None), written(&records, 7, 1, Some(&key())));
    assert!(holds(&plain, contents) && holds(&plain, &frame.checksum));
    assert!(!holds(&sealed, contents) && !holds(&sealed, &frame.checksum));
    for other in [None, Some(SpoolKey::new([43; 32]))] {
        let (_, error) = read(&sealed, 7, other.as_ref());
        assert!(matches!(error, ReadError::WrongKey(_)), "{error:?}");
    }
    assert_eq!(read(&plain, 7, Some(&key())).0, records, "from before encryption was turned on");
    assert_eq!(format!("{:?}", key()), "SpoolKey");
}

#[test]
fn only_names_of_segments_are_names_of_segments() {
    assert_eq!(parse_segment_name(&segment_name(u64::MAX)), Some(u64::MAX));
    for bad in
        ["segment-.log", "segment-1.log", "segment-00000000000000ZZ.log", "segment-000000000000000A.log"]
    {
        assert_eq!(parse_segment_name(bad), None, "{bad}");
    }
}
