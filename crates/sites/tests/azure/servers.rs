//! Process servers: made once, gone on with, removed whole; nothing of others is touched.

use std::net::Ipv4Addr;

use serde_json::{Value, json};
use switchback_lab::arm::Fault;
use switchback_sites::azure::{ServerImage, ServerPlan};
use switchback_sites::{Site, SiteError};

use crate::bench::Bench;

const VM: &str = "Microsoft.Compute/virtualMachines";
const CARD: &str = "Microsoft.Network/networkInterfaces";
const DISK: &str = "Microsoft.Compute/disks";
const SCRIPT: &str = "#!/bin/sh\n# the secret word is abracadabra\n";
const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBVGvP8b2u1c9lVQm8bM2vJ0S5b1X3d5m0qJ1n3w7Z9k anna@example";
const REFUSED: Fault = Fault::Refused { status: 409, code: "Conflict", message: "not now" };

pub(crate) fn plan(name: &str, address: [u8; 4]) -> ServerPlan {
    ServerPlan {
        name: name.into(),
        mark: "the first".into(),
        network: "recovery-net/production".into(),
        address: Ipv4Addr::from(address),
        size: "Standard_D2s_v5".into(),
        administrator: "anna".into(),
        ssh_key: KEY.into(),
        image: ServerImage::default(),
        disk_gib: 64,
        custom_data: SCRIPT.into(),
    }
}

fn counts(bench: &Bench) -> [usize; 3] {
    [bench.vms().len(), bench.cards().len(), bench.disks().len()]
}

fn words(result: Result<String, SiteError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn a_server_is_made_as_planned_and_removed_whole() {
    let bench = Bench::new();
    let name = bench.site.deploy_server(&plan("ps-cloud", [10, 20, 1, 20])).unwrap();
    assert_eq!(counts(&bench), [1, 1, 1]);
    let vm = bench.emulator.resource(VM, &name);
    let at = |pointer: &str| vm.pointer(pointer).cloned().unwrap_or_default();
    assert_eq!(at("/properties/osProfile/computerName"), "ps-cloud");
    assert_eq!(at("/properties/osProfile/adminUsername"), "anna");
    assert_eq!(at("/properties/osProfile/linuxConfiguration/disablePasswordAuthentication"), true);
    assert_eq!(at("/properties/osProfile/linuxConfiguration/ssh/publicKeys/0/keyData"), KEY);
    assert_eq!(at("/properties/osProfile/customData"), Value::Null, "Azure shows it to nobody");
    assert_eq!(at("/properties/storageProfile/osDisk/deleteOption"), "Delete");
    assert_eq!(at("/properties/hardwareProfile/vmSize"), "Standard_D2s_v5");
    assert_eq!(bench.emulator.custom_data(&name).unwrap(), SCRIPT.as_bytes());
    for (kind, name) in [(VM, &name), (CARD, &bench.cards()[0]), (DISK, &bench.disks()[0])] {
        let tags = bench.emulator.resource(kind, name)["tags"].clone();
        assert_eq!(
            [&tags["switchback-server"], &tags["switchback-mark"]],
            ["ps-cloud", "the first"],
            "{kind}"
        );
    }
    let card = bench.emulator.resource(CARD, &bench.cards()[0]);
    let own = &card["properties"]["ipConfigurations"][0]["properties"];
    assert_eq!([&own["privateIPAddress"], &own["privateIPAllocationMethod"]], ["10.20.1.20", "Static"]);
    assert_eq!(bench.site.machines().unwrap(), [], "it is no machine that could be protected");

    bench.site.deploy_server(&plan("ps-cloud", [10, 20, 1, 20])).unwrap();
    assert_eq!(bench.calls(&["PUT /", "virtualMachines"]), 1, "what is there is not made again");
    let other = ServerPlan {
        mark: "the second".into(),
        custom_data: "#!/bin/sh\n# another word\n".into(),
        ..plan("ps-cloud", [10, 20, 1, 20])
    };
    bench.site.deploy_server(&other).unwrap();
    assert_eq!(counts(&bench), [1, 1, 1]);
    assert_eq!(
        bench.emulator.custom_data(&name).unwrap(),
        other.custom_data.as_bytes(),
        "it runs what is new"
    );
    bench.site.remove_server("ps-cloud").unwrap();
    assert_eq!(counts(&bench), [0, 0, 0]);
    bench.site.remove_server("ps-cloud").unwrap();
}

#[test]
fn an_attempt_goes_on_where_the_last_one_ended() {
    let bench = Bench::new();
    let plan = plan("ps-cloud", [10, 20, 1, 20]);
    bench.emulator.fail("PUT", "/networkInterfaces/", REFUSED, 1);
    bench.emulator.fail("PUT", "/virtualMachines/", REFUSED, 1);
    for made in [[0, 0, 0], [0, 1, 0]] {
        words(bench.site.deploy_server(&plan));
        assert_eq!(counts(&bench), made);
    }
    let message = "no such hardware";
    bench.emulator.fail(
        "PUT",
        "/virtualMachines/",
        Fault::FailsLater { code: "AllocationFailed", message },
        1,
    );
    assert!(words(bench.site.deploy_server(&plan)).contains("[azure-capacity]"));
    assert_eq!(counts(&bench), [1, 1, 1], "a machine that failed is there, with its disk");
    let again = ServerPlan { custom_data: "#!/bin/sh\n# another word\n".into(), ..plan };
    let name = bench.site.deploy_server(&again).unwrap();
    assert_eq!(counts(&bench), [1, 1, 1]);
    assert_eq!(bench.calls(&["PUT /", "networkInterfaces"]), 2, "the card is not made again");
    assert_eq!(bench.emulator.custom_data(&name).unwrap(), again.custom_data.as_bytes());
}

#[test]
fn a_removal_goes_on_where_the_last_one_ended() {
    let bench = Bench::new();
    bench.site.deploy_server(&plan("ps-cloud", [10, 20, 1, 20])).unwrap();
    bench.emulator.fail("DELETE", "/virtualMachines/", REFUSED, 1);
    bench.emulator.fail("DELETE", "/networkInterfaces/", REFUSED, 1);
    for left in [[1, 1, 1], [0, 1, 0]] {
        bench.site.remove_server("ps-cloud").unwrap_err();
        assert_eq!(counts(&bench), left);
    }
    bench.site.remove_server("ps-cloud").unwrap();
    assert_eq!(counts(&bench), [0, 0, 0]);
}

#[test]
fn an_address_that_is_taken_is_refused_with_others() {
    let bench = Bench::new();
    bench.site.deploy_server(&plan("ps-one", [10, 20, 1, 20])).unwrap();
    let told = words(bench.site.deploy_server(&plan("ps-two", [10, 20, 1, 20])));
    assert!(told.contains("10.20.1.21") && told.contains("[azure-address]"), "{told}");
    let told = words(bench.site.deploy_server(&plan("ps-one", [10, 20, 1, 30])));
    assert!(told.contains("10.20.1.20 already") && told.contains("[azure-server]"), "{told}");
    assert_eq!(counts(&bench), [1, 1, 1], "nothing was made");
}

#[test]
fn what_is_somebody_elses_is_neither_used_nor_deleted() {
    for kind in [VM, CARD, DISK] {
        let bench = Bench::new();
        bench.site.deploy_server(&plan("ps-cloud", [10, 20, 1, 20])).unwrap();
        let name = match kind {
            CARD => bench.cards().remove(0),
            DISK => bench.disks().remove(0),
            _ => bench.vms().remove(0),
        };
        bench.emulator.set_tags(kind, &name, json!({ "owner": "somebody" }));
        if kind == DISK {
            // It is left by a machine that was deleted without it.
            bench.emulator.keep_disk_of(&bench.vms()[0]);
        }
        let removed = bench.site.remove_server("ps-cloud");
        assert!(matches!(&removed, Err(SiteError::Taken { .. })), "{kind}: {removed:?}");
        assert_eq!(bench.names(kind), std::slice::from_ref(&name), "{kind}");
        let made = bench.site.deploy_server(&plan("ps-cloud", [10, 20, 1, 20]));
        assert!(matches!(&made, Err(SiteError::Taken { .. })), "{kind}: {made:?}");
        assert_eq!(bench.names(kind), [name], "{kind}");
    }
}

#[test]
fn mistakes_are_found_before_anything_is_made() {
    let bench = Bench::new();
    let refused = |change: &dyn Fn(&mut ServerPlan), told: &str| {
        let mut plan = plan("ps-cloud", [10, 20, 1, 20]);
        change(&mut plan);
        let said = words(bench.site.deploy_server(&plan));
        assert!(said.contains(told) && !said.contains("abracadabra"), "{said}");
    };
    refused(&|one| one.name = "PS".into(), "[azure-server-name]");
    refused(&|one| one.name = "ps-".into(), "[azure-server-name]");
    refused(&|one| one.administrator = "root".into(), "[azure-administrator]");
    refused(&|one| one.administrator = "anna/../x".into(), "[azure-administrator]");
    refused(&|one| one.ssh_key = "-----BEGIN OPENSSH PRIVATE KEY-----".into(), "[azure-ssh-key]");
    refused(&|one| one.ssh_key = format!("{KEY}\n{KEY}"), "[azure-ssh-key]");
    refused(&|one| one.network = "recovery-net/absent".into(), "absent");
    refused(&|one| one.custom_data = "x".repeat(65_536), "[azure-custom-data]");
    assert_eq!(counts(&bench), [0, 0, 0]);
    let shown = format!("{:?}", plan("ps-cloud", [10, 20, 1, 20]));
    assert!(!shown.contains("abracadabra"), "{shown}");
}
