//! A failover whose machine really runs: QEMU, on the disks that were imported.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use switchback_lab::arm::{Guests, Options};
use switchback_lab::{Foundation, GuestImage};
use switchback_sites::conformance::Contents;
use switchback_sites::{Boot, LocalSite, NetworkSettings, Power, Site, SiteSettings};

use crate::bench::{Bench, MIB, standing};

const LIMIT: Duration = Duration::from_secs(120);

const SCRIPT: &str = "
button=$(grep -A 4 'Power Button' /proc/bus/input/devices | grep -o 'event[0-9]*')
(dd if=/dev/input/$button of=/dev/null bs=24 count=1 2>/dev/null; echo BUTTON-PRESSED; sync; poweroff -f) &
echo FACT uuid $(cat /sys/class/dmi/id/product_uuid)
echo FACT mac $(cat /sys/class/net/eth0/address)
for disk in vda vdb; do echo FACT $disk $(head -c 2 /dev/$disk | od -An -tx1) $(cat /sys/block/$disk/serial); done
printf written | dd of=/dev/vdb conv=notrunc 2>/dev/null
sync
echo GUEST-READY
while true; do sleep 1000; done
";

/// An emulator whose machines run.
fn bench(directory: &std::path::Path) -> Bench {
    let foundation = Foundation::prepare().unwrap();
    let mut settings = SiteSettings::new([("main".to_owned(), PathBuf::from("disks"))]);
    settings.qemu = foundation.qemu();
    let uplink = NetworkSettings::User { cidr: "10.20.1.0/24".into(), forward: Vec::new(), isolated: true };
    settings.networks.insert("uplink".into(), uplink);
    LocalSite::create(directory, &settings).unwrap();
    let image = GuestImage::builder(SCRIPT).module("virtio_net").module("button").module("evdev");
    let initrd = directory.join("initrd");
    image.build(&foundation).unwrap().keep_at(&initrd).unwrap();
    let boot = Boot::Kernel {
        kernel: foundation.kernel(),
        initrd: Some(initrd),
        command_line: "console=ttyS0 quiet panic=-1".into(),
    };
    let guests = Guests {
        site: directory.to_owned(),
        networks: BTreeMap::from([("production".to_owned(), "uplink".to_owned())]),
        boot: Some(boot),
        memory_mib_max: 256,
        cpus_max: 1,
        serial_tag: None,
    };
    Bench::with(Options { guests: Some(guests), grace: LIMIT, ..Options::default() })
}

#[test]
fn guest_runs_on_what_the_replica_stands_at() {
    let directory = tempfile::tempdir().unwrap();
    let bench = bench(directory.path());
    let made = bench.machine("web01", 2);
    bench.site.create_snapshot("web01", "failover").unwrap();
    bench.site.power_on("web01").unwrap();
    let started = Instant::now();
    let console = || bench.site.console("web01", 1 << 20).unwrap().replace('\r', "");
    while !console().contains("GUEST-READY") {
        assert!(started.elapsed() < LIMIT, "{}", console());
        std::thread::sleep(Duration::from_millis(200));
    }
    let now = bench.site.machine("web01").unwrap();
    let console = console();
    for fact in [
        format!("FACT uuid {}", now.system_uuid),
        format!("FACT mac {}", now.nics[0].mac),
        "FACT vda 01 01 60022480".to_owned(),
        "FACT vdb 02 02 60022480".to_owned(),
    ] {
        assert!(console.contains(&fact), "{fact} is missing: {console}");
    }
    assert!(bench.site.shut_down("web01", LIMIT).unwrap(), "it hears its power button");
    assert_eq!(bench.site.machine("web01").unwrap().power, Power::Off);
    let disk = |number: usize| std::fs::read(bench.emulator.disk_file(&bench.disks()[number])).unwrap();
    assert!(disk(1).starts_with(b"written\x02") && disk(0).iter().all(|byte| *byte == 1));
    assert!(
        bench.replica.read(&standing(&made.disks[1].path)).unwrap() == vec![2; MIB],
        "the replica is as it was"
    );
    bench.site.revert_snapshot("web01", "failover").unwrap();
    bench.site.power_on("web01").unwrap();
    assert_eq!(disk(1)[..8], *b"\x02\x02\x02\x02\x02\x02\x02\x02", "what it wrote is given up");
    bench.site.power_off("web01").unwrap();
    bench.site.delete_machine("web01").unwrap();
}
