//! Sandboxes that a master target runs, as a real process led by a configuration server: QEMU boots what is on the replica's disk at a point, by its BIOS.
//!
//! The machine is a boot sector, which writes one line to its serial console and its screen and stands still; each point has another line.

#![expect(clippy::unwrap_used, reason = "tests")]

mod cs;
mod rig;

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use cs::Site;
use cs::replica::{Wanted, route, sync};
use rig::{Process, succeed, wait_until};
use switchback_lab::Foundation;
use switchback_lab::azurite::Azurite;
use switchback_model::component::{
    BlobAccess, BlobPlace, ReplicaMode, SandboxDesired, SandboxDisk, SandboxPlan, SandboxSeen, SandboxState,
    Secret,
};
use switchback_model::{DiskIndex, Seq};

const MT: &str = "target mt1";

/// 16-bit code as the BIOS starts it: the text behind it goes to the first serial port and, by the BIOS, to the screen.
fn boot_sector(text: &str) -> [u8; 512] {
    let code = [
        0xFA, // cli
        0x31, 0xC0, // xor ax, ax
        0x8E, 0xD8, // mov ds, ax
        0xBE, 0x1D, 0x7C, // mov si, the text
        0xFC, // cld
        0xAC, // next: lodsb
        0x84, 0xC0, // test al, al
        0x74, 0x0C, // jz end
        0xBA, 0xF8, 0x03, // mov dx, 0x3f8
        0xEE, // out dx, al
        0xB4, 0x0E, // mov ah, 0x0e
        0x31, 0xDB, // xor bx, bx
        0xCD, 0x10, // int 0x10
        0xEB, 0xEF, // jmp next
        0xF4, // end: hlt
        0xEB, 0xFD, // jmp end
    ];
    let mut sector = [0; 512];
    sector[..code.len()].copy_from_slice(&code);
    sector[code.len()..code.len() + text.len()].copy_from_slice(text.as_bytes());
    sector[510..].copy_from_slice(&[0x55, 0xAA]);
    sector
}

/// A machine with two points, each of which says its number.
struct Rig {
    site: Site,
    wanted: Wanted,
    ps: Option<(Process, String)>,
    _azurite: Option<Azurite>,
}

impl Rig {
    fn new(in_blobs: bool) -> Self {
        let site = Site::new();
        site.image("a.img", 16, 1);
        site.enrol("web01");
        if !in_blobs {
            let target = site.path("t.img");
            File::create(&target).unwrap().set_len(cs::replica::SIZE).unwrap();
            return Self { site, wanted: Wanted::new(&target), ps: None, _azurite: None };
        }
        let azurite = Azurite::start().unwrap();
        azurite.make_container("replicas").unwrap();
        let url = azurite.container("replicas");
        let (container, sas) = url.split_once('?').unwrap();
        let mut wanted = Wanted::new(&Path::new(container).join("web01/disk-0.vhd"));
        let access = Some(BlobAccess::Sas { sas: Secret::new(sas.into()) });
        wanted.replica.blobs =
            Some(BlobPlace { container: container.into(), folder: "web01".into(), access });
        Self { site, wanted, ps: None, _azurite: Some(azurite) }
    }

    /// Starts the master target; the replica receives.
    fn start(&self, qemu: &Path) -> (Process, String) {
        self.site.cs.service.forget_reports();
        self.wanted.tell(&self.site, "mt1");
        let mut command = self.site.role("master-target", "mt1");
        let process = Process(command.arg("--qemu").arg(qemu).stdout(Stdio::null()).spawn().unwrap());
        self.site
            .cs
            .service
            .until_replica(MT, "it receives", |replica| replica.reached == Some(ReplicaMode::Receive));
        (process, self.site.cs.service.report_of(MT).unwrap().address)
    }

    /// One more point, at which the machine says this.
    fn point(&mut self, mt_address: &str, text: &str, seq: u64) {
        let mut image = File::options().write(true).open(self.site.path("a.img")).unwrap();
        image.seek(SeekFrom::Start(0)).unwrap();
        image.write_all(&boot_sector(text)).unwrap();
        if self.ps.is_none() {
            route(&self.site, "ps1", "web01", ("mt1", mt_address), 1);
            self.ps = Some(self.site.start("process-server", "ps1"));
        }
        let (_, address) = self.ps.as_ref().unwrap();
        succeed(&mut sync(&self.site, "web01", &format!("{address}/web01"), "1"));
        let is_there =
            |replica: &switchback_model::component::ReplicaActual| replica.applied == Some(Seq(seq));
        self.site.cs.service.until_replica(MT, "the point is there", is_there);
    }

    /// A sandbox over this point is desired.
    fn want(&mut self, id: &str, seq: u64, limit_ms: u64) {
        let disks = vec![SandboxDisk { disk: DiskIndex(0), serial: "disk-one".into() }];
        let (cpus, memory_mib) = (1, 64);
        let macs = vec![String::new()];
        let plan = SandboxPlan { cpus, memory_mib, uefi: false, disks, macs, limit_ms };
        self.wanted.replica.sandbox = Some(SandboxDesired { id: id.into(), seq: Seq(seq), plan });
        self.wanted.tell(&self.site, "mt1");
    }

    fn seen(&self, id: &str) -> Option<SandboxSeen> {
        self.site.cs.service.sandboxes.lock().unwrap().get(MT).cloned().filter(|seen| seen.id == id)
    }

    fn until(&self, id: &str, what: &str, is: impl Fn(&SandboxSeen) -> bool) -> SandboxSeen {
        wait_until(what, || self.seen(id).is_some_and(|seen| is(&seen)));
        self.seen(id).unwrap()
    }

    fn refusal(&self, id: &str) -> String {
        let is_refused = |seen: &SandboxSeen| matches!(seen.state, SandboxState::Refused { .. });
        match self.until(id, "it is refused", is_refused).state {
            SandboxState::Refused { problem } => format!("{}: {}", problem.code, problem.message),
            other => panic!("{other:?}"),
        }
    }

    /// Nothing is left of sandboxes: no process, no file, no mount.
    fn is_clean(&self) -> bool {
        let entries = |path: PathBuf| fs::read_dir(path).into_iter().flatten().flatten().count();
        let root = self.site.path("mt1").join("sandboxes");
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let views = self.site.path("mt1").join("views");
        entries(root.join("machines")) + entries(root.join("scratch")) == 0
            && self.machines() == 0
            && !mounts.contains(views.to_str().unwrap())
    }

    /// QEMU processes of this master target, by the layers that they are told to write.
    fn machines(&self) -> usize {
        let scratch = self.site.path("mt1").join("sandboxes/scratch");
        let scratch = scratch.to_str().unwrap();
        let line = |process: fs::DirEntry| fs::read(process.path().join("cmdline")).ok();
        let lines = fs::read_dir("/proc").unwrap().flatten().filter_map(line);
        lines.filter(|line| String::from_utf8_lossy(line).contains(scratch)).count()
    }
}

fn a_point_boots_beside_its_replica(in_blobs: bool) {
    let mut rig = Rig::new(in_blobs);
    let (mt, address) = rig.start(Path::new("/nonexistent/qemu"));
    rig.point(&address, "one login: ", 1);
    rig.want("proof-0", 1, 600_000);
    let refused = rig.refusal("proof-0");
    assert!(refused.starts_with("proof.no-sandbox: ") && refused.contains("qemu-system-x86"), "{refused}");
    drop(mt);

    let qemu = Foundation::prepare().unwrap().qemu();
    rig.wanted.replica.sandbox = None;
    let (mt, address) = rig.start(&qemu);
    rig.ps = None;
    rig.point(&address, "two login: ", 2);
    let target = rig.wanted.replica.targets[0].clone();
    for (id, seq, says) in [("proof-1", 1, "one login:"), ("proof-2", 2, "two login:")] {
        rig.want(id, seq, 600_000);
        let seen = rig.until(id, "it has booted", |seen| {
            seen.console.contains("login:") && seen.screen.contains("login:")
        });
        assert!(seen.console.contains(says) && seen.screen.contains(says), "{seen:?}");
        assert_eq!((&seen.state, seen.failed_requests, seen.memory_mib), (&SandboxState::Runs, 0, 64));
        assert!(!seen.picture.is_empty(), "{seen:?}");
        assert_eq!(rig.machines(), 1, "one at a time");
    }
    // Its process dies, and what it had started lives on, over nothing.
    drop(mt);
    assert_eq!(rig.machines(), 1, "a machine outlives the master target");
    rig.wanted.replica.sandbox = None;
    let (_mt, _) = rig.start(&qemu);
    wait_until("nothing is left of it", || rig.is_clean());
    // Its time is bounded, whatever is desired.
    rig.want("proof-3", 2, 1);
    let refused = rig.refusal("proof-3");
    assert!(refused.starts_with("proof.sandbox-ended: ") && refused.contains("time"), "{refused}");
    wait_until("nothing is left of it", || rig.is_clean());
    // A failover needs the replica.
    rig.want("proof-4", 2, 600_000);
    rig.until("proof-4", "it runs", |seen| seen.state == SandboxState::Runs);
    (rig.wanted.replica.sandbox, rig.wanted.replica.mode) = (None, ReplicaMode::StandAt { seq: Seq(1) });
    rig.wanted.tell(&rig.site, "mt1");
    let stands = |replica: &switchback_model::component::ReplicaActual| {
        replica.reached == Some(rig.wanted.replica.mode)
    };
    rig.site.cs.service.until_replica(MT, "it stands", stands);
    assert!(rig.is_clean(), "nothing runs over a replica that has gone to a point");
    if !in_blobs {
        let disk = fs::read(target).unwrap();
        assert_eq!(disk[..512], boot_sector("one login: "), "sandboxes wrote nothing there");
    }
}

#[test]
fn a_point_in_page_blobs_boots_beside_its_replica() {
    a_point_boots_beside_its_replica(true);
}

#[test]
fn a_point_on_disks_boots_beside_its_replica() {
    a_point_boots_beside_its_replica(false);
}
