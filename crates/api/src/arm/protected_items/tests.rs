//! How protected items are shown through a whole round.

use switchback_control::{Health, ItemView};
use switchback_model::{Phase, ProtectedItem, ProtectionGroup, Side};

use super::{Around, render};
use crate::arm::call::Call;
use crate::arm::job_details::CurrentScenario;

fn groups() -> [ProtectionGroup; 2] {
    let name = |text: &str| text.parse().unwrap();
    let policy = switchback_model::ReplicationPolicy { multi_vm: true, ..<_>::default() };
    let (group, twin) = ProtectionGroup::pair(name("PG1"), name("home"), name("recovery"), policy).unwrap();
    [group, twin]
}

fn view(active: Side, phase: Phase) -> ItemView {
    let instance = |site: &str, id: &str| {
        serde_json::json!({ "site": site, "id": id, "nics": [{ "mac": format!("52:54:00:00:00:{id:0>2.2}"), "network": format!("{site}-net"),
            "settings": { "kind": "dhcp" } }] })
    };
    let item: ProtectedItem = serde_json::from_value(serde_json::json!({
        "name": "web01", "agent": "web01", "machine": "07".repeat(16), "group": "PG1",
        "protection": { "active": active, "phase": phase, "epoch": 1 },
        "home": instance("home", "vm-1"), "away": instance("recovery", "sb-web01"),
        "disk_sizes": [1_u64 << 30, 2_u64 << 30],
        "replication": { "replica": "web01-1", "process_server": "ps1", "master_target": "mt1", "epoch": 1, "targets": [] },
        "failover": { "seq": 9, "time": 1_732_441_000_000_u64, "consistency": "crash-consistent", "planned": false },
    }))
    .unwrap();
    let allowed = item.protection.allowed();
    ItemView {
        // Whatever this says: which policy is shown follows the pair.
        group: "PG1".parse().unwrap(),
        item,
        allowed,
        verdicts: None,
        health: Health::Normal,
        reasons: Vec::new(),
        rpo_ms: Some(7_500),
        resync_percent: (phase == Phase::Enabling).then_some(42),
        sent_bytes: 1000,
        resync_sent_bytes: 100,
        changed_bytes: 900,
        transferred_bytes: 500,
        compared_bytes: None,
        disk_percents: Default::default(),
        points: 3,
        agent_seen: None,
        agent_build: "0.1.0".into(),
        system: "Linux 6.1".into(),
        addresses: vec!["10.1.0.5/24".into()],
    }
}

fn shown(active: Side, phase: Phase) -> serde_json::Value {
    let call = Call::for_test("/x", "", 1);
    let around = Around { groups: groups().into(), physical: Vec::new() };
    render(&call, &around, &view(active, phase), CurrentScenario::none(&call)).unwrap()
}

#[test]
fn a_machine_of_a_site_of_physical_servers_says_so() {
    let call = Call::for_test("/x", "", 1);
    let mut around = Around { groups: groups().into(), physical: vec!["elsewhere".parse().unwrap()] };
    for (sites, expected) in [(vec!["elsewhere"], "vCenter"), (vec!["home"], "Physical")] {
        around.physical = sites.iter().map(|site| site.parse().unwrap()).collect();
        for (active, phase) in [(Side::Home, Phase::Protected), (Side::Away, Phase::Protected)] {
            let shown = render(&call, &around, &view(active, phase), CurrentScenario::none(&call)).unwrap();
            assert_eq!(shown["properties"]["providerSpecificDetails"]["discoveryType"], expected);
        }
    }
}

#[test]
fn the_name_stays_while_provider_policy_and_sides_follow_the_direction() {
    let rounds = [
        (Side::Home, Phase::Protected, "InMageAzureV2", "PG1", "home", "recovery", "home"),
        (Side::Away, Phase::Committed, "InMageAzureV2", "PG1", "home", "recovery", "recovery"),
        (Side::Away, Phase::Protected, "InMage", "PG1-failback", "recovery", "home", "recovery"),
        (Side::Home, Phase::Committed, "InMage", "PG1-failback", "recovery", "home", "home"),
    ];
    let first = shown(Side::Home, Phase::Protected);
    for (active, phase, provider, policy, primary, recovery, lives) in rounds {
        let resource = shown(active, phase);
        assert_eq!((&resource["id"], &resource["name"]), (&first["id"], &first["name"]));
        let properties = &resource["properties"];
        assert_eq!(properties["providerSpecificDetails"]["instanceType"], provider);
        assert_eq!(properties["policyFriendlyName"], policy);
        assert_eq!(properties["primaryFabricFriendlyName"], primary);
        assert_eq!(properties["recoveryFabricFriendlyName"], recovery);
        let item = properties["protectableItemId"].as_str().unwrap();
        assert!(item.contains(&format!("/replicationFabrics/{lives}/")), "{item}");
    }
}

#[test]
fn a_disk_that_is_added_says_how_far_it_is_and_the_others_do_not() {
    let call = Call::for_test("/x", "", 1);
    let around = Around { groups: groups().into(), physical: Vec::new() };
    let mut view = view(Side::Home, Phase::Protected);
    view.disk_percents = [(1, 42)].into();
    let shown = render(&call, &around, &view, CurrentScenario::none(&call)).unwrap();
    let disks = &shown["properties"]["providerSpecificDetails"]["protectedDisks"];
    assert_eq!(disks[1]["resyncProgressPercentage"], 42);
    assert!(disks[0].get("resyncProgressPercentage").is_none(), "{disks:#}");
}

#[test]
fn each_provider_has_its_own_fields_and_no_others() {
    let forward = &shown(Side::Home, Phase::Enabling)["properties"]["providerSpecificDetails"];
    assert_eq!((&forward["resyncProgressPercentage"], &forward["rpoInSeconds"]), (&42.into(), &7.into()));
    assert_eq!((&forward["processServerName"], &forward["multiVmGroupName"]), (&"ps1".into(), &"PG1".into()));
    assert!(forward.get("activeSiteType").is_none());
    let back = &shown(Side::Away, Phase::Protected)["properties"]["providerSpecificDetails"];
    assert_eq!(back["activeSiteType"], "Azure");
    assert!(back.get("processServerName").is_none() && back.get("targetVmId").is_none());
    assert_eq!(back["protectedDisks"].as_array().unwrap().len(), 2);
    assert_eq!(
        (&back["vmNics"][0]["vMNetworkName"], &back["vmNics"][0]["recoveryVMNetworkId"]),
        (&"recovery-net".into(), &"home-net".into())
    );
}
