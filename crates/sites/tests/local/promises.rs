//! The local site keeps the promises of all sites; and what is special about it, with machines that have no operating system.

use std::fs::{self, File};
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use switchback_sites::conformance::{self, Subject};
use switchback_sites::{DiskOrigin, LocalSite, NewDisk, Power, Site, SiteError};

use crate::bench::{self, Bench};

#[test]
fn guest_site_keeps_its_promises() {
    let bench = Bench::new();
    let subject = subject(&bench);
    conformance::site(&subject);
    let left: Vec<_> = fs::read_dir(bench.directory().join("disks")).unwrap().collect();
    assert!(left.is_empty(), "images are left: {left:?}");
    let left: Vec<_> = fs::read_dir(bench.directory().join("machines")).unwrap().collect();
    assert!(left.is_empty(), "machines are left: {left:?}");
}

fn subject(bench: &Bench) -> Subject {
    Subject {
        site: Arc::new(bench.open()),
        datastore: "main".to_owned(),
        network: "lan".to_owned(),
        lays_over_images: true,
        replica: None,
    }
}

#[test]
fn guest_hand_written_machines_run() {
    let bench = Bench::new();
    let site = bench.open();
    let directory = bench.directory().join("machines/web01");
    fs::create_dir(&directory).unwrap();
    let write = |text: &str| fs::write(directory.join("machine.toml"), text).unwrap();
    File::create(directory.join("root.raw")).unwrap().set_len(1 << 20).unwrap();
    let good = "name = \"Web 1\"\ncpus = 1\nmemory_mib = 64\n[[disks]]\npath = \"root.raw\"\n[[nics]]\nnetwork = \"lan\"\n";

    write(&good.replace("cpus", "cpu"));
    let error = site.machine("web01").unwrap_err().to_string();
    let start = format!("{}/machine.toml, line 2: `cpu = 1`: unknown field", directory.display());
    assert!(error.starts_with(&start), "{error}");
    assert_eq!(site.machines().unwrap(), [], "one mistake hides one machine, not the site");
    write(&good.replace("root.raw", "rot.raw"));
    let error = site.power_on("web01").unwrap_err().to_string();
    assert!(error.contains("rot.raw of disk 0 cannot be opened: No such file"), "{error}");
    write(&format!("{good}[boot]\nkind = \"kernel\"\nkernel = \"/absent/vmlinuz\"\ncommand_line = \"\"\n"));
    let error = site.power_on("web01").unwrap_err().to_string();
    assert!(
        error.contains("QEMU (") && error.contains("could not open kernel file '/absent/vmlinuz'"),
        "{error}"
    );
    assert_eq!(site.machine("web01").unwrap().power, Power::Off, "a QEMU that refused is over");

    write(good);
    let machine = site.machine("web01").unwrap();
    assert_eq!(bench.open().machine("web01").unwrap(), machine, "what is derived stays the same");
    site.power_on("web01").unwrap();
    assert_eq!(site.machine("web01").unwrap().power, Power::On);
    site.power_off("web01").unwrap();
    site.create_snapshot("web01", "s").unwrap();
    site.power_on("web01").unwrap();
    site.delete_snapshot("web01", "s").unwrap();
    site.power_off("web01").unwrap();
}

#[test]
fn guest_qemu_outlives_us_and_is_found_again() {
    let bench = Bench::new();
    let id = bench.open().create_machine(&conformance::machine(&subject(&bench), "found")).unwrap().id;
    bench.in_process(&["power_on", &id], None);
    let site = bench.open();
    assert_eq!(site.machine(&id).unwrap().power, Power::On, "it was started by a process that is gone");
    bench.kill_qemu(&id);
    assert_eq!(site.machine(&id).unwrap().power, Power::Off);
    let socket = bench.directory().join("machines").join(&id).join("qmp.sock");
    assert!(socket.exists(), "a QEMU that was killed leaves its socket");
    site.power_on(&id).unwrap();
    assert_eq!(site.machine(&id).unwrap().power, Power::On);
    // A QEMU that stands still does not answer: it is killed.
    bench.signal_qemu(&id, "STOP");
    site.power_off(&id).unwrap();
    assert_eq!(site.machine(&id).unwrap().power, Power::Off);
    // Somebody else listens in its place.
    let _ = fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).unwrap();
    site.power_on(&id).unwrap();
    drop(listener);
    site.power_off(&id).unwrap();
}

#[test]
fn guest_is_started_once_by_many() {
    let bench = Bench::new();
    let id = bench.open().create_machine(&conformance::machine(&subject(&bench), "once")).unwrap().id;
    let barrier = Barrier::new(4);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                barrier.wait();
                bench.in_process(&["power_on", &id], None);
            });
        }
    });
    assert_eq!(bench.qemus(&id).len(), 1);
    bench.open().power_off(&id).unwrap();
}

#[test]
fn guest_lock_that_is_not_qemus_is_no_reason_to_kill() {
    let bench = Bench::new();
    let site = bench.open();
    let id = site.create_machine(&conformance::machine(&subject(&bench), "foreign")).unwrap().id;
    let lock = File::create(bench.directory().join("machines").join(&id).join("run.lock")).unwrap();
    lock.lock().unwrap();
    // It has the lock as QEMU has it, but is none.
    let mut command = Command::new("sh");
    let mut other = command.args(["-c", "exec sleep 60 3<&0"]).stdin(lock).spawn().unwrap();
    drop(command);
    assert_eq!(site.machine(&id).unwrap().power, Power::On, "it may run");
    let error = site.power_off(&id).unwrap_err().to_string();
    assert!(
        error.contains("may still run") && error.contains("does another host or container run it?"),
        "{error}"
    );
    assert!(other.try_wait().unwrap().is_none(), "it lives");
    other.kill().unwrap();
    other.wait().unwrap();
    site.power_off(&id).unwrap();
}

#[test]
fn guest_ports_are_forwarded_and_told() {
    let bench = Bench::new();
    let site = bench.open();
    let mut new = conformance::machine(&subject(&bench), "ports");
    new.nics[0].network = Some("uplink".to_owned());
    let id = site.create_machine(&new).unwrap().id;
    assert_eq!(site.forwarded(&id).unwrap(), []);
    site.power_on(&id).unwrap();
    let forwarded = site.forwarded(&id).unwrap();
    assert_eq!(forwarded.len(), 1);
    assert_eq!(forwarded[0].guest_port, 5000);
    std::net::TcpStream::connect_timeout(&forwarded[0].host.into(), Duration::from_secs(5)).unwrap();
    site.power_off(&id).unwrap();
}

#[test]
fn guest_is_connected_to_a_bridge() {
    let bench = Bench::new();
    let site = bench.open();
    let mut new = conformance::machine(&subject(&bench), "bridged");
    new.nics[0].network = Some("office".to_owned());
    let id = site.create_machine(&new).unwrap().id;
    let network = bench::BridgeNetwork::new();
    bench.in_process_under(&["ip", "netns", "exec", &network.0], &["power_on", &id], None);
    assert_eq!(network.connected(), 1);
    site.power_off(&id).unwrap();
    assert_eq!(network.connected(), 0, "its interface goes with it");
    let error = site.power_on(&id).unwrap_err().to_string();
    assert!(error.contains("connect-nic0") && error.contains("br0"), "{error}");
}

/// A guest sees its beginning alone.
#[test]
fn a_disk_goes_by_the_serial_number_that_it_was_asked_for_with() {
    let bench = Bench::new();
    let new = conformance::machine(&subject(&bench), "serial");
    let (site, made) = (bench.open(), bench.open().create_machine(&new).unwrap());
    let serial = "6000c29f3c01a1b2c3d40123456789ab";
    let added =
        site.add_disk(&made.id, &NewDisk { serial: serial.to_owned(), ..new.disks[0].clone() }).unwrap();
    assert_eq!(added.serial, serial[..20]);
    site.remove_disk(&made.id, serial).unwrap();
    assert_eq!(site.machine(&made.id).unwrap().disks, made.disks);
}

#[test]
fn what_cannot_be_made_is_undone() {
    let bench = Bench::new();
    let mut settings = bench.settings();
    settings.qemu_img = "/bin/false".into();
    let directory = bench.directory().join("broken");
    let site = LocalSite::create(&directory, &settings).unwrap();
    let image = bench.directory().join("image.raw");
    File::create(&image).unwrap().set_len(1 << 20).unwrap();
    let mut new = conformance::machine(&subject(&bench), "undone");
    let mut over = new.disks[0].clone();
    over.origin = DiskOrigin::Over { image: image.clone(), datastore: "main".to_owned() };
    new.disks.push(over);
    let error = site.create_machine(&new).unwrap_err().to_string();
    assert!(
        error.starts_with("making disk 1 of the machine conformance-undone failed: /bin/false"),
        "{error}"
    );
    assert_eq!(fs::read_dir(directory.join("disks")).unwrap().count(), 0, "the first disk is removed again");
    assert_eq!(fs::read_dir(directory.join("machines")).unwrap().count(), 0);

    new.disks[1].size = 512;
    let error = site.create_machine(&new).unwrap_err().to_string();
    assert!(error.contains("it has 512 bytes, the image below"), "{error}");
    new.disks[1].size = 1000;
    assert!(site.create_machine(&new).unwrap_err().to_string().contains("no multiple of 512"));
    new.id = "../escape".to_owned();
    assert!(site.create_machine(&new).unwrap_err().to_string().contains("an id has 1 to 64 letters"));
}

#[test]
fn guest_datastore_that_is_full_is_told() {
    let bench = Bench::new();
    let full = bench.directory().join("full");
    fs::create_dir(&full).unwrap();
    let _mount = bench::tmpfs(&full, "2m");
    let mut settings = bench.settings();
    settings.datastores.insert("full".to_owned(), full.clone());
    let site = LocalSite::create(bench.directory().join("with-full"), &settings).unwrap();
    let mut new = conformance::machine(&subject(&bench), "full");
    new.nics.clear();
    new.disks[0].origin = DiskOrigin::Empty { datastore: "full".to_owned() };
    new.disks.push(new.disks[0].clone());
    new.disks[1].size = 4 << 20;
    let error = site.create_machine(&new).unwrap_err();
    assert!(
        matches!(&error, SiteError::NoRoom { datastore, needed: 5_242_880, .. } if datastore == "full"),
        "{error}"
    );
    assert_eq!(fs::read_dir(&full).unwrap().count(), 0);
}
