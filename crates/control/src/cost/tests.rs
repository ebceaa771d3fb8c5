//! Numbers worked out by hand.

use switchback_model::azure::MachineSettings;
use switchback_model::component::HardwareFacts;

use super::measured::Measured;
use super::prices::{BUILT_IN, FILE, PriceTable};
use super::{Cost, Quantities, estimate};

const TABLE: &str = r#"currency = "EUR"
date = "2026-01-31"
source = "our contract"
[storage]
page-blobs = 0.05
kept = 0.10
[transactions]
page-writes = 0.5
block-uploads = 2.0
[machines]
small = { cores = 2, memory-gib = 8, per-hour = 0.1 }
large = { cores = 4, memory-gib = 16, per-hour = 0.3 }
[disks]
Fast = [{ gib = 64, per-month = 7.3 }, { gib = 128, per-month = 14.6 }]
"#;
const GIB: u64 = 1 << 30;

fn settings(disk_kind: &str) -> MachineSettings {
    MachineSettings {
        sizes: vec!["small".into(), "large".into(), "unknown".into()],
        disk_kind: disk_kind.into(),
        ..MachineSettings::default()
    }
}

fn cost(quantities: &Quantities<'_>) -> Cost {
    estimate(&"web01".parse().unwrap(), quantities, &PriceTable::parse(TABLE).unwrap(), "here")
}

fn near(a: f64, b: f64) {
    assert!((a - b).abs() < 1e-9, "{a} is not {b}");
}

#[test]
fn an_estimate_is_what_it_is_by_hand() {
    let machines = settings("Fast");
    let quantities = Quantities {
        disks: &[100 * GIB, 20 * GIB],
        kept: Some(30 * GIB),
        // In 7.3 hours, a hundredth of a month: 10 MiB are 3 requests (2.5), 50 cycles of two disks are 100.
        measured: Some(Measured { for_ms: 26_280_000, bytes: 10 << 20, cycles: 50 }),
        hardware: Some(&HardwareFacts { cpus: 3, memory_mib: 8 << 10, uefi: true }),
        machines: &machines,
    };
    let cost = cost(&quantities);
    let amounts: Vec<_> = cost.monthly.iter().map(|line| line.amount).collect();
    // 120 GiB of 0.05; 30 GiB of 0.10; 103 requests a hundred times are 10,300: 1.03 of 2.0, and of 0.5.
    for (amount, expected) in amounts.iter().zip([6.0, 3.0, 2.06, 0.515]) {
        near(*amount, expected);
    }
    near(cost.monthly_total, 11.575);
    // The small one has too few processors. 100 GiB are a disk of 128 for 14.6, 20 GiB one of 64 for 7.3, in 730 hours: 0.02 and 0.01.
    assert_eq!(cost.failed_over_hourly[0].unit, "large");
    near(cost.failed_over_hourly_total.unwrap(), 0.33);
    assert_eq!(cost.notes, Vec::<String>::new());
    assert_eq!(
        (cost.currency.as_str(), cost.prices.as_str(), cost.prices_date.as_str()),
        ("EUR", "here", "2026-01-31")
    );
    assert!(cost.monthly[0].basis.contains("whole sizes"));
}

#[test]
fn what_is_not_known_is_said_and_not_guessed() {
    let machines = settings("Slow");
    let quantities =
        Quantities { disks: &[GIB], kept: None, measured: None, hardware: None, machines: &machines };
    let cost = cost(&quantities);
    assert_eq!(cost.monthly.len(), 1);
    assert_eq!(cost.failed_over_hourly_total, None);
    for (note, expected) in
        cost.notes.iter().zip(["snapshots", "transactions", "virtual machine", "managed disk 0"])
    {
        assert!(note.starts_with(expected), "{note}");
    }
    let hardware = HardwareFacts { cpus: 64, memory_mib: 8 << 10, uefi: true };
    let cost = super::tests::cost(&Quantities { hardware: Some(&hardware), ..quantities });
    assert!(cost.notes[2].contains("64 processors"), "{:?}", cost.notes);
}

#[test]
fn the_built_in_table_is_one_and_names_itself_as_examples() {
    let (table, origin) = PriceTable::in_force(None).unwrap();
    assert_eq!(origin, "built-in examples");
    assert!(table.source.contains("check them"));
    assert_eq!(PriceTable::parse(BUILT_IN).unwrap(), table);
}

#[test]
fn a_files_errors_name_the_line_and_the_key() {
    let error = |from: &str, to: &str| PriceTable::parse(&TABLE.replace(from, to)).unwrap_err();
    let negative = error("kept = 0.10", "kept = -1.0");
    assert!(
        negative.contains("line 6") && negative.contains("kept") && negative.contains("0 or more"),
        "{negative}"
    );
    let unknown = error("kept = 0.10", "keptt = 0.10");
    assert!(unknown.contains("line 6") && unknown.contains("keptt"), "{unknown}");
    let text = error("page-writes = 0.5", "page-writes = \"a lot\"");
    assert!(text.contains("line 8") && text.contains("page-writes"), "{text}");
    let date = error("2026-01-31", "31.1.2026");
    assert!(date.contains("line 2") && date.contains("YYYY-MM-DD"), "{date}");
    let missing = error("currency = \"EUR\"\n", "");
    assert!(missing.contains("currency"), "{missing}");
}

#[test]
fn a_file_is_used_when_there_is_one() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(PriceTable::in_force(Some(directory.path())).unwrap().1, "built-in examples");
    std::fs::write(directory.path().join(FILE), TABLE).unwrap();
    let (table, origin) = PriceTable::in_force(Some(directory.path())).unwrap();
    assert_eq!(table.currency, "EUR");
    assert!(origin.ends_with("prices.toml"));
    std::fs::write(directory.path().join(FILE), "currency = 1\n").unwrap();
    let error = PriceTable::in_force(Some(directory.path())).unwrap_err();
    assert_eq!(error.error.code, "cost.prices");
    assert!(error.error.message.contains("prices.toml") && error.error.message.contains("line 1"), "{error}");
}
