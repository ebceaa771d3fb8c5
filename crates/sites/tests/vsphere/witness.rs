//! Another vSphere client judges what we read and what we send.

use std::path::Path;
use std::process::{Command, Output};

use switchback_lab::vcsim::{PASSWORD, Simulator, USER, witness_python};
use switchback_sites::vsphere::{Inventory, Limits, NetworkBacking, VirtualMachine, VmPower};
use switchback_sites::{DiskOrigin, NewDisk, Site};

use crate::bench::{Bench, DATASTORE};

fn witness(arguments: &[&str]) -> Output {
    let python = witness_python().unwrap_or_else(|error| panic!("{error}"));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vsphere/witness.py");
    Command::new(python).arg(script).args(arguments).output().unwrap()
}

fn testimony(output: &Output) -> String {
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    printed
}

/// Somebody else sets an advanced setting of a machine.
pub(crate) fn option(bench: &Bench, machine: &str, key: &str, value: &str) {
    let (url, authority) = (bench.simulator.url(), bench.simulator.authority());
    let who = ["option", url, USER, PASSWORD, &authority.to_string_lossy()];
    testimony(&witness(&[&who[..], &[machine, key, value]].concat()));
}

/// As Python writes it.
fn python(truth: bool) -> &'static str {
    if truth { "True" } else { "False" }
}

fn ids<'a>(objects: impl Iterator<Item = &'a switchback_sites::vsphere::MoRef>) -> String {
    let mut ids: Vec<&str> = objects.map(|object| object.id.as_str()).collect();
    ids.sort_unstable();
    ids.join(",")
}

fn id(object: Option<&switchback_sites::vsphere::MoRef>) -> &str {
    object.map_or("", |object| &object.id)
}

fn facts(inventory: &Inventory) -> Vec<String> {
    let about = &inventory.about;
    let mut facts =
        vec![format!("about|{}|{}|{}", about.full_name, python(about.is_vcenter), about.api_version)];
    let mut add = |fact: String| facts.push(fact);
    for one in &inventory.datacenters {
        add(format!("datacenter|{}|{}|{}", one.object.id, one.name, id(one.machine_folder.as_ref())));
    }
    for one in &inventory.compute_resources {
        let is_cluster = python(one.is_cluster());
        add(format!("compute|{}|{}|{is_cluster}|{}", one.object.id, one.name, id(one.root_pool.as_ref())));
    }
    for one in &inventory.resource_pools {
        add(format!("pool|{}|{}|{}", one.object.id, one.name, id(one.owner.as_ref())));
    }
    for one in &inventory.folders {
        add(format!("folder|{}|{}|{}", one.object.id, one.name, id(one.parent.as_ref())));
    }
    for one in &inventory.hosts {
        let (datastores, networks) = (ids(one.datastores.iter()), ids(one.networks.iter()));
        let (parent, maintenance) = (id(one.parent.as_ref()), python(one.is_in_maintenance));
        add(format!("host|{}|{}|{parent}|{maintenance}|{datastores}|{networks}", one.object.id, one.name));
    }
    for one in &inventory.datastores {
        let mount = |mount: &switchback_sites::vsphere::Mount| {
            let mode = if mount.is_writable { "readWrite" } else { "readOnly" };
            format!("{}={}/{mode}", mount.host.id, python(mount.is_accessible))
        };
        let mut mounts: Vec<_> = one.mounts.iter().map(mount).collect();
        mounts.sort();
        let (object, mounts) = (&one.object.id, mounts.join(","));
        add(format!("datastore|{object}|{}|{}|{}|{}|{mounts}", one.name, one.kind, one.capacity, one.free));
    }
    for one in &inventory.networks {
        let (key, switch) = one.distributed.clone().unwrap_or_default();
        add(format!("network|{}|{}|{key}|{switch}", one.object.id, one.name));
    }
    inventory.machines.iter().for_each(|machine| facts_of(machine, &mut facts));
    facts.sort();
    facts
}

fn facts_of(machine: &VirtualMachine, facts: &mut Vec<String>) {
    let vm = &machine.object.id;
    let power = match machine.power {
        VmPower::Off => "poweredOff",
        VmPower::On => "poweredOn",
        VmPower::Suspended => "suspended",
    };
    let firmware = format!("{:?}", machine.firmware).to_lowercase();
    let (cpus, memory, tools) = (machine.cpus, machine.memory_mib, python(machine.guest.tools_run));
    facts.push(format!(
        "vm|{vm}|{}|{}|{}|{firmware}|{}|{cpus}|{memory}|{power}|{}|{}|{}|{tools}",
        machine.name,
        machine.system_uuid,
        machine.instance_uuid,
        machine.file,
        id(machine.host.as_ref()),
        id(machine.resource_pool.as_ref()),
        id(machine.folder.as_ref()),
    ));
    for one in &machine.disks {
        let (place, thin) = (format!("{}|{}|{}", one.key, one.controller_key, one.unit), python(one.is_thin));
        let uuid = one.uuid.as_deref().unwrap_or_default();
        facts.push(format!("disk|{vm}|{place}|{}|{uuid}|{}|{}|{thin}", one.file, one.size, one.mode));
    }
    for one in &machine.controllers {
        facts.push(format!("controller|{vm}|{}|{}|{}", one.key, one.kind, one.bus));
    }
    for one in &machine.cards {
        let network = match &one.network {
            NetworkBacking::Standard { name, .. } => name,
            NetworkBacking::Distributed { key } => key,
            NetworkBacking::Other => "",
        };
        facts.push(format!("card|{vm}|{}|{}|{network}|{}", one.key, one.mac, python(one.starts_connected)));
    }
    for (key, value) in &machine.extra {
        facts.push(format!("option|{vm}|{key}|{value}"));
    }
    for one in &machine.snapshots {
        let parent = one.parent.as_ref().map_or("", |parent| &parent.id);
        facts.push(format!(
            "snapshot|{vm}|{}|{}|{parent}|{}",
            one.object.id,
            one.name,
            python(one.is_current)
        ));
    }
}

fn compare(bench: &Bench) {
    let authority = bench.simulator.authority();
    let output = witness(&["inventory", bench.simulator.url(), USER, PASSWORD, &authority.to_string_lossy()]);
    let mut theirs: Vec<String> = testimony(&output).lines().map(str::to_owned).collect();
    theirs.sort();
    let ours = facts(&bench.site.inventory().unwrap());
    let only = |these: &[String], those: &[String]| -> Vec<String> {
        these.iter().filter(|fact| !those.contains(fact)).cloned().collect()
    };
    assert_eq!(
        (only(&ours, &theirs), only(&theirs, &ours)),
        (Vec::new(), Vec::new()),
        "ours alone, theirs alone"
    );
    assert_eq!(ours.len(), theirs.len());
}

#[test]
fn both_read_the_same_of_a_vcenter() {
    let bench = Bench::with(Simulator::options().datastores(2).datastore_on("LocalDS_1", "DC0_C0_H1"));
    let made = bench.machine("witness", 17);
    bench.site.create_snapshot(&made.id, "one").unwrap();
    bench.site.create_snapshot(&made.id, "Zweiter <Stand>").unwrap();
    bench.site.connect_nics(&made.id, &[None]).unwrap();
    let changed = bench.machine("changed", 2);
    bench.site.set_disks_aside(&changed.id, std::slice::from_ref(&changed.disks[1].serial)).unwrap();
    let id = bench.object("DC0_H0_VM0").id;
    bench.site.power_off(&id).unwrap();
    compare(&bench);
}

#[test]
fn both_read_the_same_of_a_standalone_host() {
    compare(&Bench::esxi());
}

/// What a clone has of its original: the settings, not the instance UUID.
#[test]
fn a_copy_of_a_machine_of_ours_is_a_machine_of_its_own() {
    let bench = Bench::new();
    let made = bench.machine("original", 1);
    let copy = bench.object("DC0_H0_VM0");
    for (key, value) in [("switchback.id", made.id.as_str()), ("switchback.mark", "conformance")] {
        option(&bench, "DC0_H0_VM0", key, value);
    }
    assert_eq!(bench.site.machine(&made.id).unwrap(), made);
    let found = bench.site.machine(&copy.id).unwrap();
    assert_eq!((found.id.as_str(), found.mark), (copy.id.as_str(), made.mark.clone()));
    let ids: Vec<_> = bench.site.machines().unwrap().into_iter().map(|machine| machine.id).collect();
    assert_eq!(ids.iter().filter(|id| **id == made.id).count(), 1);
    bench.site.delete_machine(&made.id).unwrap();
    assert!(bench.site.machine(&made.id).is_err() && bench.site.machine(&copy.id).is_ok());
}

/// Real servers want the elements in the WSDL's order, and refuse what they do not know; the simulator takes everything.
#[test]
fn every_request_is_as_the_api_describes_it() {
    let files = tempfile::tempdir().unwrap();
    let record = files.path().join("requests");
    let limits = Limits { watch_seconds: 1, page_objects_max: 2, ..Limits::default() };
    let bench = Bench::limited(Simulator::options().record(&record), limits);
    everything(&bench);
    let checked = testimony(&witness(&["requests", &record.to_string_lossy()]));
    for method in [
        "ContinueRetrievePropertiesEx",
        "CreateContainerView",
        "CreateFilter",
        "CreatePropertyCollector",
        "CreateSnapshot_Task",
        "CreateVM_Task",
        "DeleteDatastoreFile_Task",
        "DeleteVirtualDisk_Task",
        "Destroy_Task",
        "DestroyPropertyCollector",
        "DestroyView",
        "FetchUserPrivilegeOnEntities",
        "FindByUuid",
        "HasPrivilegeOnEntities",
        "Login",
        "Logout",
        "MakeDirectory",
        "PowerOffVM_Task",
        "PowerOnVM_Task",
        "ReconfigVM_Task",
        "RemoveSnapshot_Task",
        "RetrievePropertiesEx",
        "RetrieveServiceContent",
        "RevertToSnapshot_Task",
        "ShutdownGuest",
        "WaitForUpdatesEx",
    ] {
        assert!(checked.contains(method), "{method} was not sent: {checked}");
    }
}

/// Sends everything there is to send.
fn everything(bench: &Bench) {
    let site = &bench.site;
    let mut new = bench.describe("sent");
    new.system_uuid = Some("4210a0d1-0000-4000-8000-00000000c0de".to_owned());
    new.disks = vec![new.disks[0].clone(); 16];
    new.nics.push(switchback_sites::Nic {
        mac: "52:54:00:00:00:01".to_owned(),
        network: Some("DC0_DVPG0".to_owned()),
    });
    let made = site.create_machine(&new).unwrap();
    assert_eq!(made.system_uuid, new.system_uuid.unwrap());
    let watch = site.watch().unwrap();
    let state = watch.wait(0, std::time::Duration::from_secs(30));
    assert!(state.inventory.is_some(), "{state:?}");
    site.connect_nics(&made.id, &[None, None]).unwrap();
    site.connect_nics(&made.id, &[Some("DC0_DVPG0".to_owned()), Some("VM Network".to_owned())]).unwrap();
    site.create_snapshot(&made.id, "s").unwrap();
    site.create_snapshot(&made.id, "t").unwrap();
    site.revert_snapshot(&made.id, "s").unwrap();
    site.delete_snapshot(&made.id, "s").unwrap();
    site.power_on(&made.id).unwrap();
    site.power_off(&made.id).unwrap();
    site.power_on(&made.id).unwrap();
    bench.simulator.set("Conformance%20sent", "guest.toolsRunningStatus", "guestToolsRunning");
    assert!(site.shut_down(&made.id, std::time::Duration::from_secs(30)).unwrap());
    let places = site.disk_places(&made.id).unwrap();
    let master = bench.object("DC0_H0_VM0");
    for place in &places {
        site.detach_disk(&made.id, &place.file).unwrap();
    }
    for place in &places {
        site.attach_disk(&master.id, place).unwrap();
        site.detach_disk(&master.id, &place.file).unwrap();
    }
    let (left, new) = (bench.machine("left", 1), bench.machine("new", 1));
    assert!(site.seed_disks(&new.id, &left.id, &[left.disks[0].serial.clone()]).unwrap());
    let changed = bench.machine("changed", 15);
    let disk = NewDisk {
        size: 1 << 20,
        serial: "<\"&'>".to_owned(),
        origin: DiskOrigin::Empty { datastore: DATASTORE.to_owned() },
    };
    let added = site.add_disk(&changed.id, &disk).unwrap();
    site.set_disks_aside(&changed.id, std::slice::from_ref(&added.serial)).unwrap();
    site.set_disks_aside(&changed.id, &[]).unwrap();
    site.remove_disk(&changed.id, &disk.serial).unwrap();
    let objects = [master, bench.object(DATASTORE)];
    site.missing_privileges(&objects).unwrap();
    bench.simulator.fail("HasPrivilegeOnEntities", "NotSupported", 1);
    site.missing_privileges(&objects).unwrap();
    assert!(!site.refuses_changes(DATASTORE).unwrap());
    site.delete_machine(&made.id).unwrap();
    drop(watch);
    // The watch sees that it is to end when its wait is over.
    std::thread::sleep(std::time::Duration::from_secs(3));
    site.log_out().unwrap();
}
