//! The demo's machines boot from their own disks, keep their ledgers, see each other, and go down cleanly or die: seen from inside and outside.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "whatever fails, fails the test; a failed one shows the consoles"
)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use switchback_lab::Foundation;
use switchback_lab::inspect::Inspection;
use switchback_lab::ledger::{LedgerName, Standing, causes_are_held};
use switchback_lab::machine::{self, BootFiles, DataDisk, DemoMachine};
use switchback_sites::{LocalSite, NetworkSettings, Power, Site, SiteSettings};

/// Ends a broken guest, not a slow one.
const LIMIT: Duration = Duration::from_secs(120);

struct Home {
    directory: tempfile::TempDir,
    site: LocalSite,
    disks: Vec<[PathBuf; 2]>,
}

impl Home {
    fn new() -> Self {
        let foundation = Foundation::prepare().unwrap();
        let directory = tempfile::Builder::new().prefix("switchback-lab-").tempdir_in("/var/tmp").unwrap();
        let mut settings = SiteSettings::new([("main".to_owned(), PathBuf::from("disks"))]);
        settings.qemu = foundation.qemu();
        let uplink =
            NetworkSettings::User { cidr: "10.0.2.0/24".to_owned(), forward: Vec::new(), isolated: false };
        settings.networks.insert("uplink".to_owned(), uplink);
        let segment = NetworkSettings::Segment { segment: format!("lab-{}", std::process::id()) };
        settings.networks.insert("lan".to_owned(), segment);
        let site = LocalSite::create(directory.path(), &settings).unwrap();
        let boot = BootFiles::make(&foundation, directory.path()).unwrap();
        let ledger = Path::new(env!("CARGO_BIN_EXE_switchback-ledger"));
        let mut disks = Vec::new();
        for machine in [DemoMachine::web01(ledger, None), DemoMachine::db01(ledger, None)] {
            let images = machine.make_disks(&directory.path().join("disks").join(&machine.name)).unwrap();
            machine.describe(directory.path(), &boot, &images).unwrap();
            disks.push(images);
        }
        Self { directory, site, disks }
    }

    fn console(&self, id: &str) -> String {
        self.site.console(id, 1 << 20).unwrap().replace('\r', "")
    }

    /// The records that the machine says it has, once it has `count` more than when it began.
    fn wait_for_records(&self, id: &str, at_least: u64) -> (u64, u64) {
        let number = |line: &str, key: &str| -> Option<u64> {
            line.split_whitespace().find_map(|word| word.strip_prefix(key)?.parse().ok())
        };
        let started = Instant::now();
        loop {
            let console = self.console(id);
            let newest =
                console.lines().rev().find(|line| line.starts_with("LEDGER: ") && line.contains("seen="));
            let newest = newest.and_then(|line| Some((number(line, "records=")?, number(line, "seen=")?)));
            if let Some((records, seen)) = newest.filter(|(records, _)| *records >= at_least) {
                return (records, seen);
            }
            assert!(started.elapsed() < LIMIT, "{id} does not get to {at_least} records:\n{console}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn inspect(&self, index: usize) -> Inspection {
        let (name, data) = [("web01", DataDisk::Xfs), ("db01", DataDisk::Ext4)][index];
        let name: LedgerName = name.parse().unwrap();
        let [root, disk] = &self.disks[index];
        Inspection::of(name, data, [root, disk], self.directory.path()).unwrap()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        for id in ["web01", "db01"] {
            println!("console of {id}:\n{}", self.console(id));
            let _ = self.site.power_off(id);
        }
    }
}

#[test]
fn guest_machines_keep_their_ledgers_through_shutdown_and_death() {
    let home = Home::new();
    for id in ["web01", "db01"] {
        home.site.power_on(id).unwrap();
    }
    let started = Instant::now();
    home.wait_for_records("web01", 60);
    println!("60 records after {:?}", started.elapsed());
    let (_, seen) = home.wait_for_records("db01", 60);
    assert!(seen > 0, "db01 sees web01 on the LAN");

    // Cleanly: the effects first, so that their causes are surely there.
    for id in ["db01", "web01"] {
        assert!(home.site.shut_down(id, LIMIT).unwrap(), "{id} goes down by its power button");
        assert!(home.console(id).contains(&format!("LAB: {id} is down")), "{}", home.console(id));
    }
    let before: Vec<Standing> =
        [0, 1].map(|index| home.inspect(index)).into_iter().map(|i| i.book().standing()).collect();
    for index in [0, 1] {
        let inspection = home.inspect(index);
        assert_eq!(inspection.standings()[0], inspection.standings()[1]);
        assert_eq!(inspection.book().torn_len(), 0);
    }
    causes_are_held(home.inspect(1).book(), home.inspect(0).book()).unwrap();

    // By death amid the work, the effects first.
    for id in ["web01", "db01"] {
        home.site.power_on(id).unwrap();
    }
    home.wait_for_records("web01", before[0].records + 60);
    home.wait_for_records("db01", before[1].records + 60);
    for id in ["db01", "web01"] {
        machine::kill(home.directory.path(), id).unwrap();
        while home.site.machine(id).unwrap().power == Power::On {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    let (web, db) = (home.inspect(0), home.inspect(1));
    web.book().contains(&before[0]).unwrap();
    db.book().contains(&before[1]).unwrap();
    causes_are_held(db.book(), web.book()).unwrap();

    // And it goes on from there, by its own account.
    home.site.power_on("web01").unwrap();
    let records = web.book().standing().records;
    home.wait_for_records("web01", records + 1);
    let last = web.book().standing().last;
    let says = format!("LEDGER: machine=web01 disk=1 records={records} last={last} ok");
    assert!(home.console("web01").contains(&says), "{says}\n{}", home.console("web01"));
}
