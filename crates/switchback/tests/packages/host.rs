//! The packages on a Debian host that systemd runs, a guest: installed, set up as the guide says, upgraded, removed and purged.

use std::time::Duration;

use switchback_lab::DebianHost;

use super::rig::{build, directory};

const SCRIPT: &str = include_str!("host.sh");
/// Retention drive: no XFS is smaller than 300 MiB. Cache disk. One that is tracked.
const DISKS: [u64; 3] = [512 << 20, 64 << 20, 64 << 20];
/// Ends a broken guest, not a slow one.
const LIMIT: Duration = Duration::from_secs(540);

#[test]
fn guest_run_by_systemd_has_them_installed_upgraded_removed_and_purged() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can make the guest's system");
        return;
    }
    let out = directory();
    build("0.1.0", out.path());
    build("0.2.0", out.path());
    let host = DebianHost::prepare().unwrap();
    let outcome = host.run(SCRIPT, out.path(), &DISKS, LIMIT).unwrap_or_else(|error| panic!("{error}"));
    assert!(outcome.is_ok(), "{}", outcome.console);
}
