//! What is seen of a machine from outside: here, of a BIOS that finds nothing to boot from.

use std::thread;
use std::time::{Duration, Instant};

use switchback_sites::{Boot, DiskOrigin, NewDisk, NewMachine, Site};

use crate::bench::Bench;

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn guest_screen_is_seen_as_a_picture_and_as_text() {
    let bench = Bench::new();
    let site = bench.open();
    let origin = DiskOrigin::Empty { datastore: "main".to_owned() };
    let machine = NewMachine {
        id: "blank".to_owned(),
        name: "blank".to_owned(),
        system_uuid: None,
        cpus: 1,
        memory_mib: 64,
        boot: Boot::Bios,
        disks: vec![NewDisk { size: 1 << 20, serial: String::new(), origin }],
        nics: Vec::new(),
        beside: None,
        mark: None,
    };
    site.create_machine(&machine).unwrap();
    assert!(site.look("blank").is_err(), "it is off");
    site.power_on("blank").unwrap();
    let started = Instant::now();
    let sight = loop {
        let sight = site.look("blank").unwrap();
        if sight.text.contains("No bootable device") {
            break sight;
        }
        assert!(started.elapsed() < LIMIT, "this is all that is seen: {:?}", sight.text);
        thread::sleep(Duration::from_millis(200));
    };
    assert!(
        sight.picture.starts_with(b"\x89PNG") && sight.picture.ends_with(b"IEND\xaeB`\x82"),
        "a whole PNG"
    );
    assert_eq!(sight.failed_requests, 0);
    let directory = bench.directory().join("machines/blank");
    let left = ["screen.png", "screen.text"].map(|name| directory.join(name).exists());
    assert_eq!(left, [false, false], "nothing of it is left");
    site.power_off("blank").unwrap();
    assert!(site.look("blank").is_err());
}
