//! The third story: home is a vCenter. A virtual machine is failed over to a local site, works there, and comes home onto the disks of its original
//! machine, which are attached to the master target for that.
//!
//! The vCenter is the simulator of the lab, whose disks are real files; what an ESXi host does with them is done by QEMU ([`super::esx`]). The master target
//! reaches a datastore as one that is mounted; that its machine has the disks attached is looked for in the vCenter.

use std::sync::Arc;

use anyhow::Context as _;
use serde_json::Value;
use switchback_sites::vsphere::{Credentials, Limits, Placement, Trust, VsphereSettings, VsphereSite};
use switchback_sites::{Boot, DiskOrigin, LocalSite, Machine, NewDisk, NewMachine, Nic, Site as _};

use super::esx::{Hypervisor, describe};
use super::places::{CAST, Cast};
use super::stage::{At, FOLLOW_LIMIT, Stage, must_be_file};
use super::story;
use crate::machine::{BootFiles, DemoMachine};
use crate::vcsim::{PASSWORD, Simulator, USER};

const HOST: &str = "DC0_H0";
const DATASTORE: &str = "LocalDS_0";
/// Networks of the simulated vCenter, in the order of the machine's cards.
const NETWORKS: [&str; 2] = ["VM Network", "DC0_DVPG0"];
const ACCOUNT: &str = "replication";
const MASTER_TARGET: &str = "home-mt";

/// A vCenter and what runs its machine.
struct VCenter {
    simulator: Simulator,
    site: Arc<VsphereSite>,
}

/// Plays it.
pub(super) fn play(stage: &mut Stage) -> anyhow::Result<()> {
    let vcenter = found_sites(stage)?;
    let cast = CAST[0];
    let (original, _hypervisor) = make_machine(stage, &vcenter, cast)?;
    protect(stage, cast)?;
    readiness(stage, cast)?;
    fail_over(stage, cast)?;
    reprotect(stage, &vcenter, cast, &original)?;
    fail_back(stage, &vcenter, cast, &original)
}

fn found_sites(stage: &mut Stage) -> anyhow::Result<VCenter> {
    stage.screen.step("1. A vCenter at home, entered with a run-as account; a local site for recovery");
    let simulator = Simulator::options().start()?;
    let settings = VsphereSettings {
        url: simulator.url().to_owned(),
        trust: Trust::Authority(simulator.authority()),
        placement: Placement { host: Some(HOST.to_owned()), ..Placement::default() },
        datastore_directories: simulator.datastores(),
        limits: Limits::default(),
    };
    let site = Arc::new(VsphereSite::open(settings, Credentials::new(USER, PASSWORD.to_owned()))?);
    let vcenter = VCenter { simulator, site };
    let master_target = vcenter.site.create_machine(&new_machine(MASTER_TARGET, &[1 << 20]))?;
    vcenter.site.power_on(MASTER_TARGET)?;

    stage.start_configuration_server()?;
    let password = stage.write_secret("vcenter-password", PASSWORD)?;
    stage.note(&["account", "add", ACCOUNT, "--user", USER, "--password-file", &password])?;
    let authority = vcenter.simulator.authority().to_string_lossy().into_owned();
    let url = vcenter.simulator.url().to_owned();
    let mounted = vcenter.simulator.datastores()[DATASTORE].display().to_string();
    let mounted = format!("{DATASTORE}={mounted}");
    let words = ["site", "add", "home", "--vsphere", &url, "--account", ACCOUNT, "--authority", &authority];
    stage.note(&[&words[..], &["--host", HOST, "--datastore-directory", &mounted]].concat())?;
    stage.note(&["account", "test", ACCOUNT])?;
    let recovery = stage.place(At::Recovery).site.directory().to_string_lossy().into_owned();
    stage.note(&["site", "add", "recovery", "--local", &recovery])?;
    for at in [At::Home, At::Recovery] {
        stage.start_server("process-server", at)?;
    }
    let uuid = ["--machine-uuid", &master_target.system_uuid];
    stage.start_server_with("master-target", At::Home, "master-target-home", &uuid)?;
    stage.start_server("master-target", At::Recovery)?;
    for (network, there) in NETWORKS.into_iter().zip(crate::machine::NETWORKS) {
        stage.note(&["network-mapping", "set", "home", network, "recovery", there])?;
    }
    stage.wait_for_servers(4)?;
    Ok(vcenter)
}

fn new_machine(id: &str, sizes: &[u64]) -> NewMachine {
    let disk = |size: &u64| NewDisk {
        size: *size,
        serial: String::new(),
        origin: DiskOrigin::Empty { datastore: DATASTORE.to_owned() },
    };
    NewMachine {
        id: id.to_owned(),
        name: id.to_owned(),
        system_uuid: None,
        cpus: 1,
        memory_mib: 384,
        boot: Boot::Bios,
        disks: sizes.iter().map(disk).collect(),
        nics: NETWORKS.map(|network| Nic { mac: String::new(), network: Some(network.to_owned()) }).to_vec(),
        mark: None,
    }
}

/// A virtual machine whose disks are those of the demo's machine, and what runs it.
fn make_machine(stage: &mut Stage, vcenter: &VCenter, cast: Cast) -> anyhow::Result<(Machine, Hypervisor)> {
    stage
        .screen
        .step(&format!("2. The virtual machine {} at home, with the mobility agent in its guest", cast.name));
    let ledger = must_be_file(stage.ledger_program().to_owned())?;
    let demo = DemoMachine::web01(&ledger, Some(stage.agent_settings()));
    let home = stage.place(At::Home);
    let boot = BootFiles::make(&stage.foundation, home.site.directory())?;
    let images = demo.make_disks(&home.disks(cast.name))?;
    let sizes = images
        .iter()
        .map(|image| Ok(std::fs::metadata(image)?.len()))
        .collect::<std::io::Result<Vec<_>>>()?;
    let machine = vcenter.site.create_machine(&new_machine(cast.name, &sizes))?;
    for (image, disk) in images.iter().zip(&machine.disks) {
        std::fs::copy(image, &disk.path)?;
        std::fs::remove_file(image)?;
    }
    describe(&home.site, &machine, &boot)?;
    let hypervisor = Hypervisor::start(vcenter.site.clone(), home.site.directory(), cast.name)?;
    vcenter.site.power_on(cast.name)?;
    story::wait_for_starts(stage, At::Home, &[(cast, 0, cast.name.to_owned())])?;
    stage.wait("the mobility agent in it has joined", FOLLOW_LIMIT, |stage| {
        let machines = stage.ask(&["machine", "list", "--site", "home"])?;
        let has_agent = |machine: &Value| {
            machine["name"] == cast.name
                && machine.pointer("/properties/hasAgent") == Some(&Value::Bool(true))
        };
        Ok(machines.as_array().into_iter().flatten().any(has_agent).then_some(()))
    })?;
    stage.screen.say("found in the vCenter by its SMBIOS UUID, and its agent has joined");
    Ok((vcenter.site.machine(cast.name)?, hypervisor))
}

fn protect(stage: &mut Stage, cast: Cast) -> anyhow::Result<()> {
    stage.screen.step("3. It is protected towards the local site");
    let words = ["group", "create", story::GROUP, "--from", "home", "--to", "recovery", "--interval", "5s"];
    stage.note(&[&words[..], &["--freeze-budget", "3s"]].concat())?;
    story::begin_to_protect(stage, cast)?;
    story::wait_until_protected(stage, cast, "home")?;
    // The demo's guests have no boot loader: their kernel is handed to them, which the vCenter cannot know.
    let id = stage.instance(cast.name, At::Recovery)?;
    let recovery = &stage.place(At::Recovery).site;
    let boot = BootFiles::make(&stage.foundation, recovery.directory())?;
    let path = recovery.directory().join("machines").join(&id).join("machine.toml");
    let mut described: toml::Table = toml::from_str(&std::fs::read_to_string(&path)?)?;
    let kernel = serde_json::json!({
        "kind": "kernel", "kernel": boot.kernel, "initrd": boot.initrd, "command_line": boot.command_line,
    });
    described.insert("boot".into(), toml::Value::try_from(kernel)?);
    Ok(std::fs::write(&path, toml::to_string(&described)?)?)
}

/// From the day of its protection it is known whether it could come home.
fn readiness(stage: &mut Stage, cast: Cast) -> anyhow::Result<()> {
    let readiness = stage.wait("the ways between the sites have been tried", FOLLOW_LIMIT, |stage| {
        // Its exit code tells that a check has failed; here the checks themselves are looked at.
        let shown = stage.ask(&["machine", "readiness", cast.name])?;
        let state = |direction: &str| shown.pointer(&format!("/properties/{direction}/state")).cloned();
        Ok(["failover", "failback"]
            .iter()
            .all(|one| state(one).is_some_and(|state| state != "unknown"))
            .then_some(shown))
    })?;
    for (direction, title) in [("failover", "fail over"), ("failback", "come home")] {
        let checks = readiness.pointer(&format!("/properties/{direction}/checks"));
        let checks = checks.and_then(Value::as_array).cloned().unwrap_or_default();
        let of = |state: &str| checks.iter().filter(|check| check["state"] == state).count();
        let found = format!("{} passed, {} warnings, {} failed", of("passed"), of("warning"), of("failed"));
        stage.check(
            format!("readiness: {} could {title}, from the first day", cast.name),
            "none failed",
            found,
            of("failed") == 0 && of("passed") >= 5,
        );
    }
    Ok(())
}

fn fail_over(stage: &mut Stage, cast: Cast) -> anyhow::Result<()> {
    stage.screen.step("4. Disaster: the ESXi host's process dies; failover to the local site, commit");
    stage.place(At::Home).strike(cast.name)?;
    let id = stage.instance(cast.name, At::Recovery)?;
    let before = [(cast, stage.place(At::Recovery).starts(&id)?.len(), id)];
    stage.job(&["machine", "failover", cast.name, "--unplanned", "--point", "latest", "--yes"])?;
    story::wait_for_starts(stage, At::Recovery, &before)?;
    stage.job(&["machine", "commit", cast.name, "--yes"])?;
    story::work_goes_on_for(stage, At::Recovery, &[cast])
}

fn reprotect(stage: &mut Stage, vcenter: &VCenter, cast: Cast, original: &Machine) -> anyhow::Result<()> {
    stage.screen.step("5. Reprotect to the original machine: its disks are attached to the master target");
    stage.job(&["machine", "reprotect", cast.name, "--yes"])?;
    let (moved, size) = story::wait_until_protected(stage, cast, "away")?;
    let percent = moved * 100 / size.max(1);
    stage.check(
        format!("{} reprotected: the delta alone was moved", cast.name),
        "some, less than 25 %",
        format!("{moved} bytes, {percent} %"),
        moved > 0 && percent < 25,
    );
    let attached = vcenter.site.machine(MASTER_TARGET)?.disks.len() - 1;
    stage.check("disks attached to the master target's machine", "2", attached, attached == 2);
    let refused = vcenter.site.power_on(cast.name).err().map(|error| error.to_string()).unwrap_or_default();
    let found = if refused.contains("FileLocked") { "FileLocked" } else { "not refused" };
    stage.check(
        format!("{} cannot be started meanwhile", cast.name),
        "FileLocked",
        found,
        refused.contains("FileLocked"),
    );
    check_unchanged(stage, vcenter, cast, original)
}

fn check_unchanged(
    stage: &mut Stage,
    vcenter: &VCenter,
    cast: Cast,
    original: &Machine,
) -> anyhow::Result<()> {
    let now = Machine { power: original.power, ..vcenter.site.machine(cast.name)? };
    let found = if now == *original { "as it was".to_owned() } else { format!("{now:?}") };
    stage.check(format!("{} in the vCenter", cast.name), "as it was", found, now == *original);
    Ok(())
}

fn fail_back(stage: &mut Stage, vcenter: &VCenter, cast: Cast, original: &Machine) -> anyhow::Result<()> {
    stage.screen.step("6. Failback to the original machine, planned; commit");
    let before = [(cast, stage.place(At::Home).starts(cast.name)?.len(), cast.name.to_owned())];
    stage.job(&["machine", "failover", cast.name, "--planned", "--yes"])?;
    let resumed_at = story::wait_for_starts(stage, At::Home, &before)?;
    let attached = vcenter.site.machine(MASTER_TARGET)?.disks.len() - 1;
    stage.check("disks at the master target's machine after the failback", "0", attached, attached == 0);
    let id = stage.instance(cast.name, At::Recovery)?;
    let off = stage.place(At::Recovery).is_off(&id)?;
    stage.check(format!("{} at recovery is off", cast.name), "off", if off { "off" } else { "on" }, off);
    stage.job(&["machine", "commit", cast.name, "--yes"])?;
    check_unchanged(stage, vcenter, cast, original)?;
    story::work_goes_on_for(stage, At::Home, &[cast])?;
    // Its disks, as they are in the datastore, read from outside once it stands still.
    let local: &LocalSite = &stage.place(At::Home).site;
    local.power_off(cast.name)?;
    let home = stage.inspect_machine(At::Home, cast, cast.name)?;
    let home = home.with_context(|| format!("the ledger of {} at home cannot be read", cast.name))?;
    let records = home.book().standing().records;
    let first = resumed_at.first().copied().unwrap_or(0);
    stage.check(
        format!("{}: its ledger in the datastore's files goes on from where it was", cast.name),
        format!("more than record {first}, no gap"),
        format!("{records} records, no gap"),
        records > first && first > 1,
    );
    Ok(())
}
