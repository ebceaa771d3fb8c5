//! Machines that boot Linux: what a guest sees, writes and hears.
//!
//! A guest opens a shell on TCP port 5000, which its network forwards, and shuts down when its power button is pressed.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use switchback_lab::GuestImage;
use switchback_sites::{Boot, DiskOrigin, LocalSite, Machine, NewDisk, NewMachine, Nic, Power, Site};

use crate::bench::{self, Bench};

const BOOT_LIMIT: Duration = Duration::from_secs(60);
const DISK_SIZE: u64 = 16 << 20;

const SCRIPT: &str = "
mkdir -p /dev/pts
ip link set lo up
ip addr add 10.1.0.15/24 dev eth0
ip link set eth0 up
ip link set eth1 up
button=$(grep -A 4 'Power Button' /proc/bus/input/devices | grep -o 'event[0-9]*')
(dd if=/dev/input/$button of=/dev/null bs=24 count=1 2>/dev/null; echo BUTTON-PRESSED; sync; poweroff -f) &
nc -ll -p 5000 -e /bin/sh &
echo GUEST-READY
while true; do sleep 1000; done
";

struct World {
    bench: Bench,
    image: GuestImage,
}

impl World {
    fn new() -> Self {
        let bench = Bench::new();
        let image = GuestImage::builder(SCRIPT)
            .module("virtio_net")
            .module("virtio_rng")
            .module("button")
            .module("evdev")
            .build(&bench.foundation)
            .expect("the image of the guests");
        Self { bench, image }
    }

    fn site(&self) -> LocalSite {
        self.bench.open()
    }

    fn machine(&self, id: &str, disks: Vec<NewDisk>) -> NewMachine {
        let nic = |network: &str| Nic { mac: String::new(), network: Some(network.to_owned()) };
        NewMachine {
            id: id.to_owned(),
            name: format!("Guest {id}"),
            system_uuid: None,
            cpus: 1,
            memory_mib: 256,
            boot: Boot::Kernel {
                kernel: self.bench.foundation.kernel(),
                initrd: Some(self.image.path().to_owned()),
                command_line: "console=ttyS0 quiet panic=-1".to_owned(),
            },
            disks,
            nics: vec![nic("uplink"), nic("lan")],
            beside: None,
            mark: None,
        }
    }

    /// Starts a machine and waits for its shell.
    fn boot(&self, id: &str) -> Shell {
        let site = self.site();
        site.power_on(id).expect("it starts");
        Shell::open(&site, id)
    }
}

fn disk(datastore: &str, serial: &str) -> NewDisk {
    let origin = DiskOrigin::Empty { datastore: datastore.to_owned() };
    NewDisk { size: DISK_SIZE, serial: serial.to_owned(), origin }
}

/// A shell in a guest.
struct Shell {
    lines: BufReader<TcpStream>,
}

impl Shell {
    fn open(site: &LocalSite, id: &str) -> Self {
        let started = Instant::now();
        while started.elapsed() < BOOT_LIMIT {
            // Until the guest listens, the forwarding itself takes connections and closes them.
            if let Some(port) = site.forwarded(id).expect("it runs").first()
                && let Ok(stream) = TcpStream::connect_timeout(&port.host.into(), Duration::from_secs(5))
            {
                stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a time limit");
                let mut shell = Self { lines: BufReader::new(stream) };
                if shell.try_run("echo up").is_some_and(|said| said == "up") {
                    return shell;
                }
            }
            thread::sleep(Duration::from_millis(100));
        }
        panic!("{id} does not come up:\n{}", site.console(id, 4000).expect("its console"));
    }

    fn try_run(&mut self, command: &str) -> Option<String> {
        writeln!(self.lines.get_mut(), "{{ {command}\n}} 2>&1; printf '\\n=%s\\n' $?").ok()?;
        let mut said = Vec::new();
        loop {
            let mut line = String::new();
            if self.lines.read_line(&mut line).ok()? == 0 {
                return None;
            }
            match line.trim_end().strip_prefix('=') {
                Some("0") => return Some(said.join("\n").trim_end().to_owned()),
                Some(code) => panic!("{command} ended with {code}: {said:?}"),
                None => said.push(line.trim_end().to_owned()),
            }
        }
    }

    fn run(&mut self, command: &str) -> String {
        self.try_run(command).unwrap_or_else(|| panic!("the guest hung up on: {command}"))
    }

    /// Writes a line to the begin of a 4 KiB block of a disk, durably.
    fn write(&mut self, device: &str, block: u64, text: &str) {
        let command = format!(
            "echo {text} | dd of=/dev/{device} bs=4096 seek={block} conv=sync,notrunc,fsync 2>/dev/null"
        );
        self.run(&command);
    }

    fn read(&mut self, device: &str, block: u64) -> String {
        self.run(&format!("dd if=/dev/{device} bs=4096 skip={block} count=1 2>/dev/null | tr -d '\\0'"))
    }
}

/// The line that stands in a block of a raw image.
fn block(path: &Path, block: usize) -> String {
    let bytes = fs::read(path).expect("the image");
    let block = &bytes[block * 4096..(block + 1) * 4096];
    String::from_utf8_lossy(block).trim_end_matches('\0').trim_end().to_owned()
}

fn put(path: &Path, block: u64, text: &str) {
    use std::os::unix::fs::FileExt;
    let file = fs::File::options().write(true).open(path).expect("the image");
    file.write_all_at(text.as_bytes(), block * 4096).expect("its disk is not full");
}

#[test]
fn guest_sees_its_machine_and_its_neighbour() {
    let world = World::new();
    let site = world.site();
    let web = site
        .create_machine(&world.machine("web01", vec![disk("main", "ROOT"), disk("main", "")]))
        .expect("room");
    site.create_machine(&world.machine("db01", Vec::new())).expect("room");
    // Started by a process that is killed right after: nothing of it is needed any longer.
    world.bench.in_process(&["power_on", "web01"], Some(1));
    let mut db = world.boot("db01");
    let mut shell = world.boot("web01");
    assert_eq!(site.machine("web01").expect("it is there").power, Power::On);

    guest_sees_what_is_described(&mut shell, &web);
    shell.run("ip addr add 10.9.0.1/24 dev eth1");
    db.run("ip addr add 10.9.0.2/24 dev eth1");
    shell.run("ping -c 3 -W 5 10.9.0.2");
    db.run("ping -c 3 -W 5 10.9.0.1");
    // What both sides have learned is each other's card, not their own echo.
    let db_mac = site.machine("db01").expect("it is there").nics[1].mac.clone();
    assert!(shell.run("ip neigh show dev eth1").contains(&db_mac), "frames come from the other machine");

    shell.write("vda", 3, "written-by-the-guest");
    assert_eq!(block(&web.disks[0].path, 3), "written-by-the-guest");
    drop(shell);
    let is_off = site.shut_down("web01", Duration::from_secs(60)).expect("it listens");
    let console = site.console("web01", 100_000).expect("its console");
    assert!(is_off, "the button is heard: {console}");
    assert_eq!(site.machine("web01").expect("it is there").power, Power::Off);
    assert!(console.contains("GUEST-READY") && console.contains("BUTTON-PRESSED"), "{console}");
    assert_eq!(site.console("web01", 10).expect("its console").len(), 10);

    site.connect_nics("web01", &[Some("uplink".to_owned()), None]).expect("it is off");
    let mut shell = world.boot("web01");
    assert_eq!(shell.read("vda", 3), "written-by-the-guest");
    let console = site.console("web01", 100_000).expect("its console");
    assert_eq!(console.matches("GUEST-READY").count(), 2, "the console is kept over starts");
    shell.run("ip addr add 10.9.0.1/24 dev eth1");
    shell.run("! ping -c 1 -W 1 10.9.0.2");
    shell.run("reboot -f &");
    drop(shell);
    thread::sleep(Duration::from_secs(1));
    let mut shell = Shell::open(&site, "web01");
    assert_eq!(shell.read("vda", 3), "written-by-the-guest", "a guest may reboot");
}

fn guest_sees_what_is_described(shell: &mut Shell, machine: &Machine) {
    let dmi = |shell: &mut Shell, name: &str| shell.run(&format!("cat /sys/class/dmi/id/{name}"));
    assert_eq!(dmi(shell, "sys_vendor"), "Switchback");
    assert_eq!(dmi(shell, "product_name"), "Local machine");
    assert_eq!(dmi(shell, "product_serial"), machine.id);
    assert_eq!(dmi(shell, "product_uuid"), machine.system_uuid);
    assert_eq!(shell.run("cat /sys/block/vda/serial"), "ROOT");
    assert_eq!(shell.run("cat /sys/block/vdb/serial"), machine.disks[1].serial);
    assert_eq!(shell.run("cat /sys/block/vda/size"), (DISK_SIZE / 512).to_string());
    assert_eq!(shell.run("cat /sys/block/vda/queue/write_cache"), "write back", "flushes are passed on");
    assert_ne!(shell.run("cat /sys/block/vda/queue/discard_max_bytes"), "0", "discards, too");
    for (position, nic) in machine.nics.iter().enumerate() {
        assert_eq!(shell.run(&format!("cat /sys/class/net/eth{position}/address")), nic.mac);
    }
    assert_eq!(shell.run("nproc"), machine.cpus.to_string());
    shell.run("test -c /dev/hwrng");
}

#[test]
fn guest_writes_survive_a_merge_and_vanish_with_a_revert() {
    let world = World::new();
    let site = world.site();
    let new = world.machine("web01", vec![disk("main", "A"), disk("main", "B")]);
    let machine = site.create_machine(&new).expect("room");
    let images: Vec<&Path> = machine.disks.iter().map(|disk| disk.path.as_path()).collect();
    images.iter().for_each(|image| put(image, 0, "recovery-point-1"));
    site.create_snapshot("web01", "failover").expect("it is off");

    let mut shell = world.boot("web01");
    assert_eq!(shell.read("vdb", 0), "recovery-point-1");
    shell.write("vdb", 0, "written-after-the-failover");
    assert_eq!(block(images[1], 0), "recovery-point-1", "the image stays as it is");
    drop(shell);
    site.power_off("web01").expect("it can");
    site.revert_snapshot("web01", "failover").expect("it is off");
    images.iter().for_each(|image| put(image, 0, "recovery-point-2"));

    let mut shell = world.boot("web01");
    assert_eq!(shell.read("vdb", 0), "recovery-point-2", "what was written is gone");
    // Under load: each write is durable before the next, and none may be missing after the merge.
    let load = "n=0; while true; do n=$((n+1)); echo $n | dd of=/dev/vda bs=4096 seek=$((n % 1000 + 1)) \
        conv=sync,notrunc,fsync 2>/dev/null; echo $n >/tmp/last; done &";
    shell.run(load);
    thread::sleep(Duration::from_secs(1));
    site.delete_snapshot("web01", "failover").expect("it is merged while it runs");
    shell.write("vdb", 1, "after-the-merge");
    assert_eq!(block(images[1], 0), "recovery-point-2");
    assert_eq!(block(images[1], 1), "after-the-merge", "the image is written from now on");
    thread::sleep(Duration::from_millis(500));
    let last: usize = shell.run("kill %1; wait; cat /tmp/last").trim().parse().expect("a number");
    assert!(last > 10, "{last} writes");
    for number in last.saturating_sub(990).max(1)..=last {
        assert_eq!(block(images[0], number % 1000 + 1), number.to_string(), "write {number} of {last}");
    }
    drop(shell);
    site.power_off("web01").expect("it can");
    assert_eq!(fs::read_dir(images[0].parent().expect("one")).expect("it is there").count(), 2, "no layers");
}

#[test]
fn guest_boots_over_a_read_only_image() {
    let world = World::new();
    let site = world.site();
    let image = world.bench.directory().join("point.raw");
    fs::File::create(&image).and_then(|file| file.set_len(DISK_SIZE)).expect("room");
    put(&image, 0, "of-the-recovery-point");
    let export = FuseExport::new(&image, world.bench.directory());
    let mut new = world.machine("test01", vec![disk("main", "A")]);
    new.disks[0].origin = DiskOrigin::Over { image: export.file.clone(), datastore: "main".to_owned() };
    site.create_machine(&new).expect("room");
    site.create_snapshot("test01", "s").expect("it is off");
    let mut shell = world.boot("test01");
    assert_eq!(shell.read("vda", 0), "of-the-recovery-point");
    shell.write("vda", 0, "of-the-test");
    site.delete_snapshot("test01", "s").expect("it is merged into the machine's own layer");
    assert_eq!(shell.read("vda", 0), "of-the-test");
    drop(shell);
    site.power_off("test01").expect("it can");
    let mut shell = world.boot("test01");
    assert_eq!(shell.read("vda", 0), "of-the-test");
    drop(shell);
    site.power_off("test01").expect("it can");
    drop(export);
    assert_eq!(block(&image, 0), "of-the-recovery-point");
    let machine = site.machine("test01").expect("it can be seen without its image");
    assert_eq!((machine.power, machine.disks[0].size), (Power::Off, 0));
    let error = site.power_on("test01").expect_err("there is nothing to boot").to_string();
    assert!(error.contains("of disk 0"), "{error}");
    site.delete_machine("test01").expect("and removed without it");
}

#[test]
fn guest_on_a_full_datastore_stands_still_and_goes_on() {
    let world = World::new();
    let full = world.bench.directory().join("full");
    fs::create_dir(&full).expect("room");
    let _mount = bench::tmpfs(&full, "18m");
    let mut settings = world.bench.settings();
    settings.datastores.insert("full".to_owned(), full.clone());
    let site = LocalSite::create(world.bench.directory().join("other"), &settings).expect("a second site");
    site.create_machine(&world.machine("web01", vec![disk("full", "A")])).expect("room");
    // Somebody fills it after the machine was made.
    fs::write(full.join("filler"), vec![1; 17 << 20]).expect("there was room");
    site.power_on("web01").expect("it starts");
    let mut shell = Shell::open(&site, "web01");
    writeln!(
        shell.lines.get_mut(),
        "dd if=/dev/urandom of=/dev/vda bs=1M count=4 conv=fsync 2>/dev/null; echo done"
    )
    .expect("it listens");
    let started = Instant::now();
    while bench::state(site.directory(), "web01") != "io-error" {
        assert!(started.elapsed() < BOOT_LIMIT, "the guest is told of no error");
        thread::sleep(Duration::from_millis(50));
    }
    assert!(site.look("web01").expect("it listens").failed_requests > 0, "that is not the guest's fault");
    fs::remove_file(full.join("filler")).expect("it is there");
    site.power_on("web01").expect("it goes on");
    let mut line = String::new();
    shell.lines.read_line(&mut line).expect("it is done at last");
    assert_eq!(line.trim(), "done");
    drop(shell);
    site.power_off("web01").expect("it can");
}

/// A file that a FUSE file system serves, for reading only: what a master target's export of a recovery point is.
struct FuseExport {
    file: PathBuf,
    server: Child,
}

impl FuseExport {
    fn new(image: &Path, directory: &Path) -> Self {
        let file = directory.join("export.raw");
        fs::write(&file, "").expect("room");
        let export =
            format!("type=fuse,id=e,node-name=n,mountpoint={},writable=off,growable=off", file.display());
        let server = Command::new("qemu-storage-daemon")
            .args([
                "--blockdev",
                &format!("driver=file,node-name=n,filename={},read-only=on", image.display()),
            ])
            .args(["--export", &export])
            .stdin(Stdio::null())
            .spawn()
            .expect("qemu-storage-daemon of qemu-utils");
        let started = Instant::now();
        while fs::metadata(&file).expect("it is there").len() != DISK_SIZE {
            assert!(started.elapsed() < Duration::from_secs(10), "the export does not come up");
            thread::sleep(Duration::from_millis(20));
        }
        Self { file, server }
    }
}

impl Drop for FuseExport {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.file).status();
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = fs::remove_file(&self.file);
    }
}
