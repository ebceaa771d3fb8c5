//! The seventh story: home is a vCenter, recovery is Azure. A virtual machine is replicated to page blobs, fails over to a virtual machine that is made of
//! them, and comes home to the disks of its original, by a process server that a job has made beside it; then it is replicated to the same page blobs again,
//! and what the failover and the job have left is removed.
//!
//! Storage is Azurite, Resource Manager the lab's emulator, whose virtual machines run in QEMU at the place of the recovery site.

use std::collections::BTreeMap;

use anyhow::Context as _;
use serde_json::Value;
use switchback_sites::azure::AzureSettings;
use switchback_sites::{Boot, Machine};

use super::places::{CAST, Cast};
use super::stage::{At, FOLLOW_LIMIT, Stage};
use super::vcenter::{self, VCenter};
use super::{proof, story};
use crate::arm::{self, Client, Emulator, Guests, Marketplace, Options};
use crate::azurite::{Azurite, container_at};
use crate::machine::{BootFiles, MarketplaceImage, NETWORKS};
use crate::wire::Wire;

const CONTAINER: &str = "replicas";
/// The account with which Azure is entered, and the one that opens the container.
const ACCOUNTS: [&str; 2] = ["recovery", "container"];
/// By the site: for the guests' uplink and their segment.
pub(super) const SUBNETS: [&str; 2] = ["recovery-net/production", "recovery-net/isolated"];
/// By which the emulator shows disks their serial numbers, of which Azure promises nothing.
const SERIAL_TAG: &str = "switchback-serial";
/// The process server in Azure, and its address in the subnet of `web01`'s second card.
const SERVER: &str = "ps-azure";
const SERVER_ADDRESS: &str = "10.20.2.5";
const ADMINISTRATOR_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBVGvP8b2u1c9lVQm8bM2vJ0S5b1X3d5m0qJ1n3w7Z9k anna@example\n";
/// What servers are told apart by.
const SERVER_TAG: &str = "switchback-server";
const VMS: &str = "Microsoft.Compute/virtualMachines";
const DISKS: &str = "Microsoft.Compute/disks";
const CARDS: &str = "Microsoft.Network/networkInterfaces";
/// What a guest of the lab gets, whatever size its virtual machine has.
const MEMORY_MIB_MAX: u32 = 384;

/// `web01` with an address of the subnet's in its second card.
pub(super) const WEB01: Cast = Cast {
    away: ["untouched", "10.20.2.4/28"],
    addresses: [CAST[0].addresses[0], [CAST[0].addresses[1][0], "10.20.2.4/28"]],
    ..CAST[0]
};

/// Azure, as far as it is emulated.
pub(super) struct Azure {
    pub(super) emulator: Emulator,
    _azurite: Azurite,
    /// All ways to the storage lead through it.
    pub(super) wire: Wire,
}

impl Azure {
    fn start(stage: &Stage) -> anyhow::Result<Self> {
        let azurite = Azurite::start()?;
        azurite.make_container(CONTAINER)?;
        let recovery = stage.place(At::Recovery).site.directory();
        let boot = BootFiles::make(&stage.foundation, recovery)?;
        let wire = Wire::to(azurite.address())?;
        let (url, sas) = Self::container_through(&wire)?;
        let program = stage.agent_settings().program;
        let image = MarketplaceImage::make(recovery, &[&program], boot.clone())?;
        let marketplace = Marketplace { image, outbound: Some(NETWORKS[0].to_owned()) };
        let networks = SUBNETS.map(|subnet| subnet.rsplit('/').next().unwrap_or_default().to_owned());
        let guests = Guests {
            site: recovery.to_owned(),
            networks: networks.into_iter().zip(NETWORKS.map(str::to_owned)).collect::<BTreeMap<_, _>>(),
            boot: Some(Boot::Kernel {
                kernel: boot.kernel,
                initrd: Some(boot.initrd),
                command_line: boot.command_line,
            }),
            memory_mib_max: MEMORY_MIB_MAX,
            cpus_max: 1,
            serial_tag: Some(SERIAL_TAG.to_owned()),
        };
        let options = Options {
            storage: vec![(url, sas)],
            guests: Some(guests),
            marketplace: Some(marketplace),
            ..Options::default()
        };
        Ok(Self { emulator: Emulator::start_with(options)?, _azurite: azurite, wire })
    }

    /// The container's address, and what opens it.
    fn container_through(wire: &Wire) -> anyhow::Result<(String, String)> {
        let url = container_at(&format!("127.0.0.1:{}", wire.port()), CONTAINER);
        let (url, sas) = url.split_once('?').context("Azurite's container has no signature")?;
        Ok((url.to_owned(), sas.to_owned()))
    }

    fn settings(&self) -> anyhow::Result<AzureSettings> {
        Ok(self.emulator.site_settings(&Self::container_through(&self.wire)?.0))
    }

    /// The virtual machine that there is, beside servers.
    pub(super) fn vm(&self) -> anyhow::Result<String> {
        let is_server = |name: &String| self.emulator.resource(VMS, name)["tags"].get(SERVER_TAG).is_some();
        let vm = self.emulator.names(VMS).into_iter().find(|name| !is_server(name));
        vm.map(|name| name.to_lowercase()).context("Azure has no virtual machine")
    }

    pub(super) fn work_goes_on(&self, stage: &mut Stage) -> anyhow::Result<()> {
        story::work_goes_on_of(stage, At::Recovery, WEB01, &self.vm()?)
    }

    /// The planned failback, to whatever machine is home now; commit.
    pub(super) fn fail_back(&self, stage: &mut Stage, home: &str) -> anyhow::Result<()> {
        let vm = self.vm()?;
        let before = [(WEB01, stage.place(At::Home).starts(home)?.len(), home.to_owned())];
        stage.job(&["machine", "failover", WEB01.name, "--planned", "--yes"])?;
        let resumed_at = story::wait_for_starts(stage, At::Home, &before)?;
        let off = stage.place(At::Recovery).is_off(&vm)?;
        stage.check("the virtual machine at Azure is off", "off", if off { "off" } else { "on" }, off);
        let left = stage.inspect_machine(At::Recovery, WEB01, &vm)?;
        let left = left.context("the ledger at Azure cannot be read")?;
        stage.check_history(WEB01, "when it left Azure", &left);
        story::check_resumption(stage, WEB01, "after the failback", &left, resumed_at[0]);
        stage.check_addresses(WEB01, At::Home)?;
        stage.job(&["machine", "commit", WEB01.name, "--yes"])?;
        story::work_goes_on_for(stage, At::Home, &[WEB01])
    }

    /// How many virtual machines, managed disks and network cards there are.
    fn count(&self) -> String {
        [VMS, DISKS, CARDS].map(|kind| self.emulator.names(kind).len().to_string()).join("/")
    }
}

/// Plays it.
pub(super) fn play(stage: &mut Stage) -> anyhow::Result<()> {
    let mut vcenter = vcenter::found_home(stage)?;
    let azure = found(stage)?;
    let (original, _hypervisor) = vcenter::make_machine(stage, &mut vcenter, WEB01)?;
    protect(stage, &azure)?;
    prove(stage, &azure)?;
    test(stage, &azure)?;
    fail_over(stage, &azure)?;
    server_is_made(stage, &azure)?;
    reprotect(stage, &vcenter, &original)?;
    stage.screen.step("7. Failback to the original machine, planned; commit");
    azure.fail_back(stage, WEB01.name)?;
    vcenter::check_unchanged(stage, &vcenter, WEB01, &original)?;
    forward_again(stage, &azure)?;
    vcenter::look_at_home(stage, WEB01)
}

pub(super) fn found(stage: &mut Stage) -> anyhow::Result<Azure> {
    stage.screen.step("   Azure for recovery: a container, a resource group, and who may use them");
    let azure = Azure::start(stage)?;
    let client = Client::default();
    let secrets = [client.secret, Azure::container_through(&azure.wire)?.1];
    let users = [format!("{}@{}", client.id, arm::TENANT), CONTAINER.to_owned()];
    for (((account, secret), user), kind) in
        ACCOUNTS.iter().zip(secrets).zip(users).zip(["azure", "azure-sas"])
    {
        let file = stage.write_secret(&format!("{account}-secret"), &secret)?;
        stage.note(&[
            "account",
            "add",
            account,
            "--kind",
            kind,
            "--user",
            &user,
            "--password-file",
            &file,
        ])?;
    }
    let settings = toml::to_string(&azure.settings()?)?;
    let file = stage.write_secret("azure.toml", &settings)?;
    let words = ["site", "add", "recovery", "--azure", &file, "--account", ACCOUNTS[0]];
    stage.note(&[&words[..], &["--container-account", ACCOUNTS[1]]].concat())?;
    stage.note(&["account", "test", ACCOUNTS[0]])?;
    let qemu = proof::qemu_with_kernel(stage, At::Recovery)?;
    stage.start_server_with("master-target", At::Recovery, "master-target-recovery", &["--qemu", &qemu])?;
    for (network, there) in vcenter::NETWORKS.into_iter().zip(SUBNETS) {
        let words = ["network-mapping", "set", "home", network, "recovery", there];
        stage.note(&[&words[..], &["--test-network", SUBNETS[1]]].concat())?;
    }
    stage.wait_for_servers(3)?;
    Ok(azure)
}

fn protect(stage: &mut Stage, azure: &Azure) -> anyhow::Result<()> {
    stage.screen.step("3. It is protected towards Azure, where nothing is made but blobs");
    let words = ["group", "create", story::GROUP, "--from", "home", "--to", "recovery", "--interval", "5s"];
    stage.note(&[&words[..], &["--freeze-budget", "3s"]].concat())?;
    story::begin_to_protect(stage, WEB01)?;
    story::wait_until_protected(stage, WEB01, "home")?;
    check_made(stage, azure, "while it is protected", "0/0/0");
    Ok(())
}

fn check_made(stage: &mut Stage, azure: &Azure, when: &str, expected: &str) {
    let found = azure.count();
    let what = format!("virtual machines/managed disks/network cards at Azure {when}");
    stage.check(what, expected, &found, found == expected);
}

fn prove(stage: &mut Stage, azure: &Azure) -> anyhow::Result<()> {
    stage.screen.step("   Its newest recovery point is booted by the master target, over the page blobs");
    proof::prove_beside_master_target(stage, WEB01)?;
    check_made(stage, azure, "after the proof", "0/0/0");
    Ok(())
}

fn test(stage: &mut Stage, azure: &Azure) -> anyhow::Result<()> {
    stage.screen.step("   Test failover into an isolated network, and its clean-up; replication goes on");
    stage.job(&["machine", "test-failover", WEB01.name, "--point", "latest"])?;
    let vm = azure.vm()?;
    story::wait_for_starts(stage, At::Recovery, &[(WEB01, 0, vm)])?;
    check_made(stage, azure, "during the test", "1/2/2");
    stage.job(&["machine", "test-failover-cleanup", WEB01.name])?;
    check_made(stage, azure, "after it", "0/0/0");
    Ok(())
}

fn fail_over(stage: &mut Stage, azure: &Azure) -> anyhow::Result<()> {
    stage.screen.step("4. Disaster: the ESXi host's process dies; failover to Azure, commit");
    stage.place(At::Home).strike(WEB01.name)?;
    stage.job(&["machine", "failover", WEB01.name, "--unplanned", "--point", "latest", "--yes"])?;
    let vm = azure.vm()?;
    let resumed_at = story::wait_for_starts(stage, At::Recovery, &[(WEB01, 0, vm)])?;
    check_made(stage, azure, "after the failover", "1/2/2");
    let left = stage.inspect(At::Home, WEB01)?.context("the ledger at home cannot be read")?;
    let records = left.book().standing().records;
    stage.check(
        "web01 at Azure goes on at a moment that home really had",
        format!("record {} at most", records + 1),
        format!("record {}", resumed_at[0]),
        resumed_at[0] > 1 && resumed_at[0] <= records + 1,
    );
    stage.check_addresses(WEB01, At::Recovery)?;
    stage.job(&["machine", "commit", WEB01.name, "--yes"])?;
    azure.work_goes_on(stage)
}

/// A process server for the way home: a virtual machine that installs itself. Nothing reaches it but the machines of its subnet.
fn server_is_made(stage: &mut Stage, azure: &Azure) -> anyhow::Result<()> {
    stage
        .screen
        .step("5. A process server in Azure, made by a job: beside the virtual machine, for the way home");
    let key = stage.write_secret("administrator.pub", ADMINISTRATOR_KEY)?;
    let words = ["server", "deploy", SERVER, "--site", "recovery", "--network", SUBNETS[1], "--address"];
    let more =
        [SERVER_ADDRESS, "--size", "Standard_D2s_v5", "--administrator", "anna", "--ssh-key-file", &key];
    stage.job(&[&words[..], &more].concat())?;
    stage.wait("the process server in Azure reports", FOLLOW_LIMIT, |stage| {
        let servers = stage.ask(&["server", "list"])?;
        let is_it = |server: &&Value| server["name"] == format!("process-server.{SERVER}");
        let server = servers.as_array().into_iter().flatten().find(is_it);
        let report = server.and_then(|server| server.pointer("/properties/lastReport"));
        Ok(report.filter(|report| !report.is_null()).map(drop))
    })?;
    check_made(stage, azure, "with the process server", "2/3/3");
    Ok(())
}

fn reprotect(stage: &mut Stage, vcenter: &VCenter, original: &Machine) -> anyhow::Result<()> {
    stage
        .screen
        .step("6. Reprotect: the virtual machine at Azure is replicated to the disks of the original");
    stage.job(&["machine", "reprotect", WEB01.name, "--process-server", SERVER, "--yes"])?;
    vcenter::wait_for_delta(stage, vcenter, WEB01)?;
    vcenter::check_unchanged(stage, vcenter, WEB01, original)
}

fn forward_again(stage: &mut Stage, azure: &Azure) -> anyhow::Result<()> {
    stage.screen.step("8. Reprotect to Azure: what differs from the page blobs of before; clean-up there");
    stage.job(&["machine", "reprotect", WEB01.name, "--yes"])?;
    let early = stage.refused(&["machine", "clean-up", WEB01.name, "--yes"]);
    let (moved, size) = story::wait_until_protected(stage, WEB01, "home")?;
    let percent = moved * 100 / size.max(1);
    stage.check(
        "web01 replicated to Azure again: the delta alone was moved",
        "some, less than 25 %",
        format!("{moved} bytes, {percent} %"),
        moved > 0 && percent < 25,
    );
    stage.job(&["server", "retire", SERVER, "--yes"])?;
    check_made(stage, azure, "after the process server was retired", "1/2/2");
    if let Ok(said) = early {
        let is_refused = said.contains("no recovery point yet");
        let found = if is_refused { "refused".to_owned() } else { said };
        stage.check("clean-up before the new replica has a recovery point", "refused", found, is_refused);
        stage.job(&["machine", "clean-up", WEB01.name, "--yes"])?;
    }
    check_made(stage, azure, "after the clean-up", "0/0/0");
    stage.wait("a newer recovery point is there", FOLLOW_LIMIT, |stage| {
        let shown = stage.machine(WEB01.name)?;
        Ok((story::count(&shown["recoveryPoints"]) > 1 && shown["phase"] == "protected").then_some(()))
    })?;
    Ok(())
}
