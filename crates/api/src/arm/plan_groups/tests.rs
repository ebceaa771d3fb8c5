//! Groups and actions survive the contract's shape.

use serde_json::{Value, json};
use switchback_model::{ActionKind, PlanAction, PlanGroup, RecoveryPlan, Side};

use super::{GroupInput, read_groups, show_groups};
use crate::arm::id::Vault;

fn read(groups: &Value) -> Result<Vec<PlanGroup>, String> {
    let groups: Vec<GroupInput> =
        serde_json::from_value(groups.clone()).map_err(|error| error.to_string())?;
    read_groups(&groups).map_err(|error| error.error.message)
}

fn action(name: &str, towards: Vec<Side>, at_test: bool, action: ActionKind) -> PlanAction {
    PlanAction { name: name.into(), towards, at_test, action }
}

fn plan() -> RecoveryPlan {
    let name = |text: &str| text.parse().unwrap();
    let group = PlanGroup {
        machines: vec![name("db01"), name("web01")],
        start_actions: vec![
            action(
                "call",
                vec![Side::Home],
                false,
                ActionKind::Manual { instructions: "call the boss".into() },
            ),
            action(
                "script",
                vec![],
                true,
                ActionKind::ServerScript { script: "dns.sh".into(), limit_s: 3_725 },
            ),
        ],
        end_actions: vec![
            action("wait", vec![Side::Away], true, ActionKind::Delay { seconds: 30 }),
            action(
                "guest",
                vec![],
                false,
                ActionKind::GuestScript { machine: name("web01"), script: "up.sh".into(), limit_s: 5 },
            ),
        ],
    };
    RecoveryPlan {
        name: name("RP"),
        home_site: name("home"),
        away_site: name("recovery"),
        groups: vec![group, PlanGroup { machines: vec![name("app01")], ..PlanGroup::default() }],
        protection_groups: Vec::new(),
        job: None,
    }
}

#[test]
fn what_is_shown_is_read_back_as_it_was() {
    let plan = plan();
    let shown = Value::Array(show_groups(&Vault::default(), &plan, &[]));
    let types: Vec<_> =
        shown.as_array().unwrap().iter().map(|group| group["groupType"].as_str().unwrap()).collect();
    assert_eq!(types, ["Shutdown", "Failover", "Boot", "Boot"]);
    assert_eq!(shown[2]["startGroupActions"][1]["customDetails"]["timeout"], "01:02:05");
    assert_eq!(read(&shown).unwrap(), plan.groups);
}

/// As Microsoft's own example of a plan has it.
#[test]
fn a_contracts_example_is_read() {
    let groups = json!([{
        "groupType": "Boot",
        "replicationProtectedItems": [{
            "id": "/Subscriptions/s/resourceGroups/g/providers/Microsoft.RecoveryServices/vaults/v/replicationFabrics/cloud1/replicationProtectionContainers/c/replicationProtectedItems/vm1",
            "virtualMachineId": "f8491e4f" }],
        "startGroupActions": [], "endGroupActions": [],
    }]);
    assert_eq!(read(&groups).unwrap()[0].machines, ["vm1".parse().unwrap()]);
}

#[test]
fn what_would_not_be_run_is_refused() {
    let with = |types: Value, directions: Value, details: Value| {
        json!([{ "groupType": "Boot", "startGroupActions": [
            { "actionName": "a", "failoverTypes": types, "failoverDirections": directions, "customDetails": details }] }])
    };
    let manual = json!({ "instanceType": "ManualActionDetails" });
    let (real, both) = (json!(["UnplannedFailover"]), json!(["PrimaryToRecovery", "RecoveryToPrimary"]));
    assert!(read(&with(real.clone(), both.clone(), manual.clone())).is_ok());
    let script = |timeout: &str| json!({ "instanceType": "ScriptActionDetails", "path": "x", "timeout": timeout, "fabricLocation": "Primary" });
    for bad in [
        with(json!(["TestFailover"]), both.clone(), manual.clone()),
        with(real.clone(), json!([]), manual.clone()),
        with(real.clone(), json!(["Sideways"]), manual.clone()),
        with(real.clone(), both.clone(), json!({ "instanceType": "AutomationRunbookActionDetails" })),
        with(real.clone(), both.clone(), json!({ "instanceType": "ScriptActionDetails" })),
        with(real.clone(), both.clone(), script("soon")),
        with(real.clone(), both.clone(), script("0")),
        with(real, both, json!({ "instanceType": "DelayActionDetails" })),
        json!([{ "groupType": "Shutdown", "startGroupActions": [
            { "actionName": "a", "failoverTypes": ["UnplannedFailover"], "failoverDirections": ["PrimaryToRecovery"], "customDetails": manual }] }]),
        json!([{ "groupType": "Sideways" }]),
    ] {
        assert!(read(&bad).is_err(), "{bad}");
    }
}
