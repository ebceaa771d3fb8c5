//! What executes guests' instructions: KVM where it works, else QEMU's emulation.
//!
//! That `/dev/kvm` exists says little: inside some virtual machines it opens, and the guest then makes no progress. So a guest of five
//! instructions is started on it, with a time limit, once per boot of the host; the answer is kept beside the machines.
//!
//! The guest is a boot sector: the BIOS must have come up to start it. It ends QEMU by writing to the port of QEMU's debug-exit device.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use switchback_disk::Volume;

/// With KVM the BIOS is done in some 100 ms.
const PROBE_LIMIT: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// What the guest writes to the debug-exit device.
const SIGN: u8 = 0x21;
/// QEMU's exit status then: twice the value, plus one (`hw/misc/debugexit.c`).
const SIGN_STATUS: i32 = 2 * SIGN as i32 + 1;
/// The answer and the boot of the host that it is for.
const ANSWER: &str = "accelerator";

/// What executes guests' instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accelerator {
    /// The host's processor.
    Kvm,
    /// QEMU's emulation, one host thread per guest processor.
    Tcg,
}

impl Accelerator {
    /// The one that works with this QEMU on this host; asked once per boot of the host, then known from a file in `volume`.
    pub(super) fn detect(qemu: &Path, volume: &dyn Volume) -> Self {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let known = volume.read_all(ANSWER, 256).unwrap_or_default();
        if let Some((name, known_boot)) = String::from_utf8_lossy(&known).trim().split_once(' ')
            && known_boot == boot.trim()
            && let Some(known) = [Self::Kvm, Self::Tcg].into_iter().find(|one| one.name() == name)
        {
            return known;
        }
        let found = match guest_makes_progress_on_kvm(qemu) {
            Ok(true) => Self::Kvm,
            Ok(false) => Self::Tcg,
            Err(error) => {
                tracing::warn!(%error, "whether KVM works could not be tried: machines are emulated");
                return Self::Tcg;
            }
        };
        tracing::info!(accelerator = found.name(), "tried what executes guests' instructions");
        if let Err(error) =
            volume.write_atomic(ANSWER, format!("{} {}\n", found.name(), boot.trim()).as_bytes())
        {
            tracing::debug!(%error, "the answer is not kept: the next process tries again");
        }
        found
    }

    fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }

    /// QEMU's arguments.
    pub(super) fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Self::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max"],
        }
    }
}

/// Whether a guest on KVM gets anywhere, by trying.
///
/// # Errors
/// QEMU could not be started, or the temporary directory not be written.
pub fn guest_makes_progress_on_kvm(qemu: &Path) -> io::Result<bool> {
    if fs::File::options().read(true).write(true).open("/dev/kvm").is_err() {
        return Ok(false);
    }
    guest_makes_progress(qemu, Accelerator::Kvm, PROBE_LIMIT)
}

fn guest_makes_progress(qemu: &Path, accelerator: Accelerator, limit: Duration) -> io::Result<bool> {
    let directory = Probe::new()?;
    let sector = directory.0.join("boot-sector.raw");
    fs::write(&sector, boot_sector())?;
    let mut child = Command::new(qemu)
        .args(accelerator.arguments())
        .args([
            "-no-user-config",
            "-nodefaults",
            "-machine",
            "pc",
            "-display",
            "none",
            "-m",
            "16",
            "-no-reboot",
        ])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=1"])
        .args(["-drive", "if=ide,format=raw,snapshot=on,file=boot-sector.raw"].map(OsStr::new))
        .current_dir(&directory.0)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.code() == Some(SIGN_STATUS));
        }
        if started.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            return Ok(false);
        }
        thread::sleep(POLL_INTERVAL);
    }
}

/// 16-bit code as the BIOS starts it, and the BIOS's signature.
fn boot_sector() -> [u8; 512] {
    let code = [
        0xB0, SIGN, // mov al, SIGN
        0xE6, 0xF4, // out 0xf4, al
        0xFA, // cli
        0xF4, // hlt
    ];
    let mut sector = [0; 512];
    sector[..code.len()].copy_from_slice(&code);
    sector[510..].copy_from_slice(&[0x55, 0xAA]);
    sector
}

/// A directory of this process, gone when dropped.
#[derive(Debug)]
struct Probe(std::path::PathBuf);

impl Probe {
    fn new() -> io::Result<Self> {
        let name = format!("switchback-probe-{}-{:?}", std::process::id(), thread::current().id());
        let name: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        // Fails when somebody else has cleaned up.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use switchback_disk::DirVolume;

    use super::*;

    /// A program in place of QEMU that notes that it ran, and ends like this.
    fn program(directory: &Path, body: &str) -> std::path::PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = directory.join("qemu");
        fs::write(&path, format!("#!/bin/sh\necho run >>{}/runs\n{body}\n", directory.display())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn only_a_guest_that_gets_there_counts() {
        let directory = tempfile::tempdir().unwrap();
        let limit = Duration::from_millis(300);
        let progress = |body: &str, limit| {
            guest_makes_progress(&program(directory.path(), body), Accelerator::Kvm, limit).unwrap()
        };
        assert!(progress(&format!("exit {SIGN_STATUS}"), PROBE_LIMIT));
        assert!(!progress("exit 0", PROBE_LIMIT), "a guest that ends otherwise");
        assert!(!progress("exit 1", PROBE_LIMIT), "QEMU refuses");
        assert!(!progress("exec sleep 60", limit), "a guest that stands still");
    }

    /// The guest itself is right: what fails on KVM is KVM.
    #[test]
    fn guest_of_the_probe_gets_there_when_it_is_emulated() {
        let foundation = switchback_lab::Foundation::prepare().unwrap();
        assert!(guest_makes_progress(&foundation.qemu(), Accelerator::Tcg, Duration::from_secs(30)).unwrap());
    }

    #[test]
    fn the_answer_is_kept_for_this_boot_of_the_host() {
        let directory = tempfile::tempdir().unwrap();
        let volume = DirVolume::open(directory.path()).unwrap();
        let qemu = program(directory.path(), "exit 1");
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        volume.write_atomic(ANSWER, format!("kvm {boot}").as_bytes()).unwrap();
        assert_eq!(Accelerator::detect(&qemu, &volume), Accelerator::Kvm, "kept");
        volume.write_atomic(ANSWER, b"kvm another-boot").unwrap();
        assert_eq!(Accelerator::detect(&qemu, &volume), Accelerator::Tcg, "asked again");
    }
}
