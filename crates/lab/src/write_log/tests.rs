//! The reader and the oracle, on logs made here. That the kernel's logs are like these is shown by a guest, in `tests/write_log.rs`.

use std::io::Cursor;

use proptest::prelude::*;

use super::*;

/// Writes a log as the kernel does.
struct LogWriter {
    bytes: Vec<u8>,
    sector_bytes: usize,
    entries: u64,
}

impl LogWriter {
    fn new(sector_bytes: usize) -> Self {
        Self { bytes: vec![0; sector_bytes], sector_bytes, entries: 0 }
    }

    fn entry(&mut self, sector: usize, sectors: usize, flags: u64, text: &str, data: &[u8]) {
        let mut header = vec![0; self.sector_bytes];
        for (index, number) in
            [sector as u64, sectors as u64, flags, text.len() as u64].into_iter().enumerate()
        {
            header[index * 8..index * 8 + 8].copy_from_slice(&number.to_le_bytes());
        }
        header[ENTRY_BYTES..ENTRY_BYTES + text.len()].copy_from_slice(text.as_bytes());
        self.bytes.extend_from_slice(&header);
        self.bytes.extend_from_slice(data);
        self.entries += 1;
    }

    fn write(&mut self, sector: usize, data: &[u8]) {
        self.entry(sector, data.len() / self.sector_bytes, 0, "", data);
    }

    fn finish(mut self) -> Vec<u8> {
        for (index, number) in [MAGIC, VERSION, self.entries].into_iter().enumerate() {
            self.bytes[index * 8..index * 8 + 8].copy_from_slice(&number.to_le_bytes());
        }
        let sector_bytes = u32::try_from(self.sector_bytes).expect("at most 4096");
        self.bytes[24..28].copy_from_slice(&sector_bytes.to_le_bytes());
        self.bytes
    }
}

fn entries(log: Vec<u8>) -> Vec<Entry> {
    let mut log = WriteLog::open(Cursor::new(log)).unwrap();
    std::iter::from_fn(|| log.next_entry().unwrap()).collect()
}

#[test]
fn entries_have_offsets_in_bytes_and_their_flags() {
    let mut writer = LogWriter::new(4096);
    writer.entry(3, 1, FLAG_FUA, "", &[7; 4096]);
    writer.entry(0, 0, FLAG_FLUSH, "", &[]);
    writer.entry(2, 5, FLAG_DISCARD, "", &[]);
    writer.entry(0, 0, FLAG_MARK, "a mark", &[]);
    let entry = |offset, action, is_flush, is_fua| Entry { offset, action, is_flush, is_fua };
    assert_eq!(
        entries(writer.finish()),
        [
            entry(12_288, Action::Write(vec![7; 4096]), false, true),
            entry(0, Action::Write(Vec::new()), true, false),
            entry(8192, Action::Discard(20_480), false, false),
            entry(0, Action::Mark("a mark".to_owned()), false, false),
        ]
    );
}

#[test]
fn a_damaged_log_is_refused_without_trusting_its_lengths() {
    let mut writer = LogWriter::new(512);
    writer.write(0, &[1; 512]);
    let good = writer.finish();
    let changed = |at: usize, number: u64| {
        let mut log = good.clone();
        log[at..at + 8].copy_from_slice(&number.to_le_bytes());
        WriteLog::open(Cursor::new(log)).and_then(|mut log| log.next_entry())
    };
    assert!(changed(0, MAGIC).is_ok(), "the sample itself is fine");
    assert!(changed(0, MAGIC + 1).is_err(), "magic");
    assert!(changed(8, 2).is_err(), "version");
    assert!(changed(24, 0).is_err(), "sector size zero");
    assert!(changed(24, 1 << 20).is_err(), "sector size too large");
    assert!(changed(512, u64::MAX).is_err(), "sector beyond 64 bits of bytes");
    assert!(changed(520, 1 << 40).is_err(), "a write of 512 TiB");
    assert!(changed(520, 2).is_err(), "a write beyond the log's end");
    let mut mark = good.clone();
    mark[528] = 8;
    mark[536..544].copy_from_slice(&481_u64.to_le_bytes());
    assert!(
        WriteLog::open(Cursor::new(mark)).unwrap().next_entry().is_err(),
        "a mark longer than its sector"
    );
    assert!(WriteLog::open(Cursor::new(&good[..20])).is_err(), "a super block cut short");
}

#[test]
fn a_log_that_stopped_early_or_is_of_another_disk_gives_no_verdict() {
    let mut writer = LogWriter::new(512);
    writer.write(1, &[1; 512]);
    let log = writer.finish();
    let replay = |disk_bytes| {
        let mut oracle = Oracle::<Cursor<Vec<u8>>>::new(vec![0; disk_bytes]);
        oracle.replay(&mut WriteLog::open(Cursor::new(log.clone())).unwrap())
    };
    assert!(matches!(replay(1024), Err(ReplayError::Incomplete)));
    assert!(matches!(replay(1023), Err(ReplayError::BeyondDisk { entry: 1, disk_bytes: 1023 })));
    for length in [1023, 1025] {
        assert!(Oracle::new(vec![0; 1024]).add_image("other", Cursor::new(vec![0; length])).is_err());
    }
}

#[test]
fn a_verdict_names_every_time_the_disk_was_like_the_image() {
    let mut writer = LogWriter::new(512);
    writer.write(0, &[1; 512]);
    writer.entry(0, 0, FLAG_MARK, "one", &[]);
    writer.write(0, &[2; 512]);
    writer.write(0, &[1; 512]);
    writer.entry(0, 0, FLAG_MARK, END_MARK, &[]);
    let log = writer.finish();
    let image = |byte| Cursor::new([vec![byte; 512], vec![0; 8192]].concat());
    let mut oracle = Oracle::new(vec![0; 8704]);
    oracle.add_image("ones", image(1)).unwrap();
    oracle.add_image("zero", image(0)).unwrap();
    oracle.add_image("never", image(3)).unwrap();
    let verdicts = oracle.replay(&mut WriteLog::open(Cursor::new(log)).unwrap()).unwrap();
    assert_eq!(verdicts[0].equal_after, [1..=2, 4..=5]);
    assert_eq!(verdicts[1].equal_after, [0..=0]);
    assert_eq!((verdicts[2].is_proven(), verdicts[2].differing_blocks_min), (false, 1));
    assert!(verdicts[0].is_proven_within(&(2..=3)));
    assert!(!verdicts[0].is_proven_within(&(3..=3)));
    assert_eq!(oracle.entries_before_mark("one"), Some(1));
}

/// Sectors of the disks in the property test; not a whole number of blocks.
const SECTORS: usize = 21;

#[derive(Debug, Clone)]
enum Step {
    Write { sector: usize, sectors: usize, byte: u8 },
    Discard { sector: usize, sectors: usize },
    Mark,
}

fn step() -> impl Strategy<Value = Step> {
    let range = (0..SECTORS).prop_flat_map(|sector| (Just(sector), 0..=SECTORS - sector));
    prop_oneof![
        6 => (range.clone(), 1..=3_u8).prop_map(|((sector, sectors), byte)| Step::Write { sector, sectors, byte }),
        2 => range.prop_map(|(sector, sectors)| Step::Discard { sector, sectors }),
        1 => Just(Step::Mark),
    ]
}

proptest! {
    /// The oracle, which compares what changes, agrees with a comparison of all states with all of the image: for every state the disk had
    /// and for states it may not have had.
    #[test]
    fn verdicts_agree_with_comparing_everything(
        steps in proptest::collection::vec(step(), 0..24),
        invented in proptest::collection::vec((0..SECTORS, 0..=3_u8), 1..4),
    ) {
        let mut writer = LogWriter::new(512);
        let mut disk = vec![0; SECTORS * 512];
        let mut states = vec![disk.clone()];
        for step in &steps {
            match *step {
                Step::Write { sector, sectors, byte } => {
                    writer.write(sector, &vec![byte; sectors * 512]);
                    disk[sector * 512..(sector + sectors) * 512].fill(byte);
                }
                Step::Discard { sector, sectors } => {
                    writer.entry(sector, sectors, FLAG_DISCARD, "", &[]);
                    disk[sector * 512..(sector + sectors) * 512].fill(0);
                }
                Step::Mark => writer.entry(0, 0, FLAG_MARK, "m", &[]),
            }
            states.push(disk.clone());
        }
        writer.entry(0, 0, FLAG_MARK, END_MARK, &[]);
        states.push(disk.clone());

        let mut images = states.clone();
        for (sector, byte) in invented {
            let mut image = disk.clone();
            image[sector * 512] = byte;
            images.push(image);
        }
        let mut oracle = Oracle::new(vec![0; SECTORS * 512]);
        for (index, image) in images.iter().enumerate() {
            oracle.add_image(index.to_string(), Cursor::new(image.clone())).unwrap();
        }
        let verdicts = oracle.replay(&mut WriteLog::open(Cursor::new(writer.finish())).unwrap()).unwrap();
        prop_assert_eq!(oracle.disk(), disk.as_slice());
        for (image, verdict) in images.iter().zip(&verdicts) {
            let expected: Vec<usize> = (0..states.len()).filter(|index| states[*index] == *image).collect();
            let found: Vec<usize> = verdict.equal_after.iter().cloned().flatten().collect();
            prop_assert_eq!(found, expected);
        }
    }
}
