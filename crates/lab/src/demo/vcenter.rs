//! A vCenter at home, simulated but for the bytes of its disks, and a virtual machine in it that is a real guest: what the stories with one share.
//!
//! What an ESXi host does with the disks is done by QEMU ([`super::esx`]). The master target reaches a datastore by a link, as a device is reached by a name
//! that udev gives it; that its machine has the disks attached is looked for in the vCenter.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use serde_json::Value;
use switchback_sites::vsphere::{Credentials, Limits, Placement, Trust, VsphereSettings, VsphereSite};
use switchback_sites::{Boot, DiskOrigin, LocalSite, Machine, NewDisk, NewMachine, Nic, Site as _};

use super::esx::{Hypervisor, describe};
use super::places::Cast;
use super::stage::{At, FOLLOW_LIMIT, Stage, must_be_file};
use super::{proof, story};
use crate::machine::{BootFiles, DemoMachine};
use crate::vcsim::{PASSWORD, Simulator, USER};

pub(super) const HOST: &str = "DC0_H0";
pub(super) const DATASTORE: &str = "LocalDS_0";
/// Networks of the simulated vCenter, in the order of the machine's cards.
pub(super) const NETWORKS: [&str; 2] = ["VM Network", "DC0_DVPG0"];
pub(super) const ACCOUNT: &str = "replication";
pub(super) const MASTER_TARGET: &str = "home-mt";
/// What a machine is called in the vCenter by people who like it: spaces, a slash, quotes, an umlaut, what XML and URLs escape.
const DISPLAY_NAME: &str = "Büro/web 01 'prod' \"neu\" & <alt> 100%";

/// A vCenter and what runs its machine.
pub(super) struct VCenter {
    pub(super) simulator: Simulator,
    pub(super) site: Arc<VsphereSite>,
    /// By which the master target reaches the datastore's files.
    pub(super) link: PathBuf,
    pub(super) boot: Option<BootFiles>,
}

/// The configuration server, the vCenter as the site `home`, and the servers there.
pub(super) fn found_home(stage: &mut Stage) -> anyhow::Result<VCenter> {
    stage.screen.step("1. A vCenter at home, entered with a run-as account");
    let simulator = Simulator::options().start()?;
    let link = stage.place(At::Home).site.directory().join("datastore");
    std::os::unix::fs::symlink(&simulator.datastores()[DATASTORE], &link)?;
    let settings = VsphereSettings {
        url: simulator.url().to_owned(),
        trust: Trust::Authority(simulator.authority()),
        placement: Placement { host: Some(HOST.to_owned()), ..Placement::default() },
        datastore_directories: [(DATASTORE.to_owned(), link.clone())].into(),
        limits: Limits::default(),
    };
    let site = Arc::new(VsphereSite::open(settings, Credentials::new(USER, PASSWORD.to_owned()))?);
    let vcenter = VCenter { simulator, site, link, boot: None };
    let master_target =
        vcenter.site.create_machine(&new_machine(MASTER_TARGET, MASTER_TARGET, &[1 << 20]))?;
    vcenter.site.power_on(MASTER_TARGET)?;

    stage.start_configuration_server()?;
    let password = stage.write_secret("vcenter-password", PASSWORD)?;
    stage.note(&["account", "add", ACCOUNT, "--user", USER, "--password-file", &password])?;
    let authority = vcenter.simulator.authority().to_string_lossy().into_owned();
    let url = vcenter.simulator.url().to_owned();
    let mounted = format!("{DATASTORE}={}", vcenter.link.display());
    let words = ["site", "add", "home", "--vsphere", &url, "--account", ACCOUNT, "--authority", &authority];
    stage.note(&[&words[..], &["--host", HOST, "--datastore-directory", &mounted]].concat())?;
    stage.note(&["account", "test", ACCOUNT])?;
    stage.start_server("process-server", At::Home)?;
    let qemu = proof::qemu_with_kernel(stage, At::Home)?;
    let more = ["--machine-uuid", &master_target.system_uuid, "--qemu", &qemu];
    stage.start_server_with("master-target", At::Home, "master-target-home", &more)?;
    Ok(vcenter)
}

/// The same, with a local site for recovery.
pub(super) fn found_sites(stage: &mut Stage) -> anyhow::Result<VCenter> {
    let vcenter = found_home(stage)?;
    stage.screen.step("   A local site for recovery");
    let recovery = stage.place(At::Recovery).site.directory().to_string_lossy().into_owned();
    stage.note(&["site", "add", "recovery", "--local", &recovery])?;
    stage.start_server("process-server", At::Recovery)?;
    stage.start_server("master-target", At::Recovery)?;
    for (network, there) in NETWORKS.into_iter().zip(crate::machine::NETWORKS) {
        stage.note(&["network-mapping", "set", "home", network, "recovery", there])?;
    }
    stage.wait_for_servers(4)?;
    Ok(vcenter)
}

fn new_machine(id: &str, name: &str, sizes: &[u64]) -> NewMachine {
    let disk = |size: &u64| NewDisk {
        size: *size,
        serial: String::new(),
        origin: DiskOrigin::Empty { datastore: DATASTORE.to_owned() },
    };
    NewMachine {
        id: id.to_owned(),
        name: name.to_owned(),
        system_uuid: None,
        cpus: 1,
        memory_mib: 384,
        boot: Boot::Bios,
        disks: sizes.iter().map(disk).collect(),
        nics: NETWORKS.map(|network| Nic { mac: String::new(), network: Some(network.to_owned()) }).to_vec(),
        beside: None,
        mark: None,
    }
}

/// A virtual machine whose disks are those of the demo's machine, and what runs it.
pub(super) fn make_machine(
    stage: &mut Stage,
    vcenter: &mut VCenter,
    cast: Cast,
) -> anyhow::Result<(Machine, Hypervisor)> {
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
    let machine = vcenter.site.create_machine(&new_machine(cast.name, DISPLAY_NAME, &sizes))?;
    for (image, disk) in images.iter().zip(&machine.disks) {
        std::fs::copy(image, &disk.path)?;
        std::fs::remove_file(image)?;
    }
    vcenter.boot = Some(boot);
    let hypervisor = run(stage, vcenter, &machine)?;
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
    let called = &vcenter.site.machine(cast.name)?.name;
    stage.check("what it is called in the vCenter", DISPLAY_NAME, called, called == DISPLAY_NAME);
    stage.screen.say("found in the vCenter by its SMBIOS UUID, and its agent has joined");
    Ok((vcenter.site.machine(cast.name)?, hypervisor))
}

/// What runs a virtual machine of the vCenter from now on.
pub(super) fn run(stage: &Stage, vcenter: &VCenter, machine: &Machine) -> anyhow::Result<Hypervisor> {
    let home = &stage.place(At::Home).site;
    describe(home, machine, vcenter.boot.as_ref().context("no machine was made yet")?)?;
    Hypervisor::start(vcenter.site.clone(), home.directory(), &machine.id)
}

pub(super) fn protect(stage: &mut Stage, cast: Cast) -> anyhow::Result<()> {
    stage.screen.step("3. It is protected towards the local site");
    let words = ["group", "create", story::GROUP, "--from", "home", "--to", "recovery", "--interval", "5s"];
    stage.note(&[&words[..], &["--freeze-budget", "3s"]].concat())?;
    story::begin_to_protect(stage, cast)?;
    story::wait_until_protected(stage, cast, "home")?;
    hand_over_kernel(stage, cast, true)
}

/// The demo's guests have no boot loader: their kernel is handed to them, which the vCenter cannot do, and need not know.
pub(super) fn hand_over_kernel(stage: &mut Stage, cast: Cast, handed_over: bool) -> anyhow::Result<()> {
    let id = stage.instance(cast.name, At::Recovery)?;
    let recovery = &stage.place(At::Recovery).site;
    let path = recovery.directory().join("machines").join(&id).join("machine.toml");
    let mut described: toml::Table = toml::from_str(&std::fs::read_to_string(&path)?)?;
    let how = if handed_over {
        let boot = BootFiles::make(&stage.foundation, recovery.directory())?;
        serde_json::json!({
            "kind": "kernel", "kernel": boot.kernel, "initrd": boot.initrd, "command_line": boot.command_line,
        })
    } else {
        serde_json::json!({"kind": "bios"})
    };
    described.insert("boot".into(), toml::Value::try_from(how)?);
    Ok(std::fs::write(&path, toml::to_string(&described)?)?)
}

pub(super) fn fail_over(stage: &mut Stage, cast: Cast) -> anyhow::Result<()> {
    stage.screen.step("4. Disaster: the ESXi host's process dies; failover to the local site, commit");
    stage.place(At::Home).strike(cast.name)?;
    let id = stage.instance(cast.name, At::Recovery)?;
    let before = [(cast, stage.place(At::Recovery).starts(&id)?.len(), id)];
    stage.job(&["machine", "failover", cast.name, "--unplanned", "--point", "latest", "--yes"])?;
    story::wait_for_starts(stage, At::Recovery, &before)?;
    stage.job(&["machine", "commit", cast.name, "--yes"])?;
    story::work_goes_on_for(stage, At::Recovery, &[cast])
}

/// Reprotects to a machine that is made for that: its id, and what runs it.
pub(super) fn reprotect_to_new(
    stage: &mut Stage,
    vcenter: &VCenter,
    cast: Cast,
    more: &[&str],
) -> anyhow::Result<(String, Hypervisor)> {
    hand_over_kernel(stage, cast, false)?;
    stage.job(&[&["machine", "reprotect", cast.name, "--yes"], more].concat())?;
    let made = stage.instance(cast.name, At::Home)?;
    let machine = vcenter.site.machine(&made)?;
    let hypervisor = run(stage, vcenter, &machine)?;
    Ok((made, hypervisor))
}

pub(super) fn check_unchanged(
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

/// Until its replica at home has recovery points, which took the delta alone; the disks are attached to the master target.
pub(super) fn wait_for_delta(stage: &mut Stage, vcenter: &VCenter, cast: Cast) -> anyhow::Result<()> {
    let (moved, size) = story::wait_until_protected(stage, cast, "away")?;
    let percent = moved * 100 / size.max(1);
    stage.check(
        format!("{} reprotected: the delta alone was moved", cast.name),
        "some, less than 25 %",
        format!("{moved} bytes, {percent} %"),
        moved > 0 && percent < 25,
    );
    check_attached(stage, vcenter, "after the reprotect", 2)
}

/// Whether so many disks are attached to the master target's machine, beside its own.
pub(super) fn check_attached(
    stage: &mut Stage,
    vcenter: &VCenter,
    when: &str,
    expected: usize,
) -> anyhow::Result<()> {
    let attached = vcenter.site.machine(MASTER_TARGET)?.disks.len() - 1;
    let what = format!("disks attached to the master target's machine {when}");
    stage.check(what, expected, attached, attached == expected);
    Ok(())
}

/// The planned failback, to whatever machine is home now; commit.
pub(super) fn fail_back(stage: &mut Stage, vcenter: &VCenter, cast: Cast) -> anyhow::Result<()> {
    let home = stage.instance(cast.name, At::Home)?;
    let before = [(cast, stage.place(At::Home).starts(&home)?.len(), home)];
    stage.job(&["machine", "failover", cast.name, "--planned", "--yes"])?;
    let resumed_at = story::wait_for_starts(stage, At::Home, &before)?;
    check_attached(stage, vcenter, "after the failback", 0)?;
    let id = stage.instance(cast.name, At::Recovery)?;
    let off = stage.place(At::Recovery).is_off(&id)?;
    stage.check(format!("{} at recovery is off", cast.name), "off", if off { "off" } else { "on" }, off);
    let left = stage.inspect(At::Recovery, cast)?.context("the ledger at recovery cannot be read")?;
    story::check_resumption(stage, cast, "after the failback", &left, resumed_at[0]);
    stage.job(&["machine", "commit", cast.name, "--yes"])?;
    story::work_goes_on_for(stage, At::Home, &[cast])
}

/// Its disks, as they are in the datastore, read from outside once it stands still.
pub(super) fn look_at_home(stage: &mut Stage, cast: Cast) -> anyhow::Result<()> {
    let id = stage.instance(cast.name, At::Home)?;
    let local: &LocalSite = &stage.place(At::Home).site;
    local.power_off(&id)?;
    let home = stage.inspect(At::Home, cast)?.context("the ledger at home cannot be read")?;
    stage.check_history(cast, "in the datastore's files", &home);
    Ok(())
}
