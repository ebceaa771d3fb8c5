//! Microsoft's own clients judge the emulator, and what we make there.

use std::path::Path;
use std::process::Command;

use switchback_lab::arm;
use switchback_sites::Site;

use crate::bench::{Bench, settings, standing};

fn witness(bench: &Bench, what: &str, more: &[&str]) -> String {
    let python = arm::witness_python().unwrap_or_else(|error| panic!("{error}"));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/azure/witness.py");
    let client = arm::Client::default();
    let authority = bench.emulator.authority();
    let output = Command::new(python)
        .arg(script)
        .args([
            what,
            bench.emulator.url(),
            &authority.to_string_lossy(),
            arm::TENANT,
            &client.id,
            &client.secret,
        ])
        .args([arm::SUBSCRIPTION, arm::GROUP])
        .args(more)
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    printed
}

#[test]
fn microsofts_clients_drive_the_emulator() {
    let bench = Bench::new();
    let made = bench.machine("blob", 1);
    let blob = standing(&made.disks[0].path).to_string_lossy().into_owned();
    let subnet = bench.emulator.subnet_id("production");
    let account = settings(&bench.emulator).storage_account;
    assert_eq!(witness(&bench, "cycle", &[&subnet, &blob, &account]).trim(), "done");
}

#[test]
fn microsofts_clients_make_a_machine_of_an_image() {
    let bench = Bench::new();
    let subnet = bench.emulator.subnet_id("production");
    assert_eq!(witness(&bench, "server", &[&subnet]).trim(), "done");
    assert_eq!(bench.emulator.custom_data("witness-vm"), None, "it went with its machine");
}

#[test]
fn microsofts_clients_read_what_the_site_made() {
    let bench = Bench::new();
    let made = bench.machine("web01", 2);
    bench.site.power_on("web01").unwrap();
    let now = bench.site.machine("web01").unwrap();
    let told = witness(&bench, "tell", &[]);
    let name = bench.vms().remove(0);
    let vm = format!(
        "vm|{name}|{}|Standard_D2s_v5|PowerState/running|{name}-disk-0,{name}-disk-1|V1|switchback-id=web01,switchback-mark=web01 replica",
        now.system_uuid
    );
    let disk = |position: usize| {
        let source = standing(&made.disks[position].path);
        format!("disk|{name}-disk-{position}|Import|{}|StandardSSD_LRS|{name}", source.display())
    };
    let nic = format!("nic|{name}-nic-0|{}|production|Dynamic", now.nics[0].mac);
    assert_eq!(told.lines().collect::<Vec<_>>(), [vm, disk(0), disk(1), nic]);
    bench.site.power_off("web01").unwrap();
    assert!(witness(&bench, "tell", &[]).contains("PowerState/deallocated"));
}
