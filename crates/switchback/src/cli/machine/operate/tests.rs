//! The calls that commands become, in both directions.

use clap::Parser;
use serde_json::json;
use switchback_model::Operation;

use super::{OperateCommand, Places, check_allowed, request};

#[derive(Debug, Parser)]
struct Line {
    #[command(subcommand)]
    command: OperateCommand,
}

fn parse(line: &str) -> Result<OperateCommand, clap::Error> {
    Line::try_parse_from(["machine"].into_iter().chain(line.split(' '))).map(|line| line.command)
}

fn called(line: &str, towards_home: bool) -> (String, serde_json::Value) {
    let (active, passive) = if towards_home { ("away", "home") } else { ("home", "away") };
    let places =
        Places { machine: "web01".into(), active: active.into(), passive: passive.into(), towards_home };
    let request = request(&parse(line).unwrap(), &places);
    (request.action.into(), request.body["properties"].clone())
}

#[test]
fn a_failover_goes_along_the_pair_whichever_way_it_leads() {
    let (action, body) = called("failover web01 --unplanned --point latest-multi-vm", false);
    assert_eq!(action, "unplannedFailover");
    assert_eq!(
        body,
        json!({
            "failoverDirection": "PrimaryToRecovery", "sourceSiteOperations": "Required",
            "providerSpecificDetails": {"instanceType": "InMageAzureV2", "recoveryPointType": "LatestMultiVmProcessed"},
        })
    );
    let (_, body) = called("failover web01 --unplanned --no-shutdown", true);
    assert_eq!(
        body,
        json!({
            "failoverDirection": "PrimaryToRecovery", "sourceSiteOperations": "NotRequired",
            "providerSpecificDetails": {"instanceType": "InMage", "recoveryPointType": "LatestTime"},
        })
    );
    let (action, body) = called("failover web01 --planned", true);
    assert_eq!(
        (action.as_str(), &body["providerSpecificDetails"]),
        ("plannedFailover", &json!({"instanceType": "InMage"}))
    );
}

#[test]
fn a_reprotect_goes_against_the_pair_with_the_provider_of_the_new_one() {
    let (action, body) =
        called("reprotect web01 --master-target mt --process-server ps --datastore ds", true);
    assert_eq!(action, "reProtect");
    assert_eq!(
        body,
        json!({"failoverDirection": "RecoveryToPrimary", "providerSpecificDetails": {
            "instanceType": "InMage", "masterTargetId": "mt", "processServerId": "ps", "datastoreName": "ds",
        }})
    );
    let (_, body) = called("reprotect web01 --alternate-location", true);
    assert_eq!(
        body["providerSpecificDetails"],
        json!({"instanceType": "InMage", "switchbackAlternateLocation": true})
    );
    let (_, body) = called("reprotect web01", false);
    assert_eq!(body["providerSpecificDetails"], json!({"instanceType": "InMageAzureV2"}));
}

#[test]
fn another_recovery_point_is_one_of_the_pair_that_led_here() {
    let (action, body) = called("change-recovery-point web01 --point 7", true);
    assert_eq!(action, "applyRecoveryPoint");
    assert_eq!(
        body,
        json!({"providerSpecificDetails": {
            "instanceType": "InMageAzureV2", "recoveryPointType": "Custom", "recoveryPointId": "7",
        }})
    );
}

#[test]
fn whatever_stops_overwrites_or_deletes_is_asked_about_first() {
    let places =
        Places { machine: "web01".into(), active: "a".into(), passive: "b".into(), towards_home: false };
    let lines = [
        ("test-failover web01", false),
        ("test-failover-cleanup web01 --comments fine", false),
        ("failover web01 --planned", true),
        ("failover web01 --unplanned", true),
        ("change-recovery-point web01 --point latest", true),
        ("cancel-failover web01", true),
        ("commit web01", true),
        ("reprotect web01", true),
        ("resync web01", false),
        ("switch-process-server web01 --to ps2", false),
        ("disable web01 --clean-up", true),
        ("clean-up web01", true),
    ];
    for (line, is_asked) in lines {
        let request = request(&parse(line).unwrap(), &places);
        assert_eq!(request.question.is_some(), is_asked, "{line}");
        assert!(request.question.is_none_or(|question| question.contains("web01")), "{line}");
    }
}

#[test]
fn a_failover_must_say_how_and_a_planned_one_has_no_choice_of_point() {
    for bad in [
        "failover web01",
        "failover web01 --planned --unplanned",
        "failover web01 --planned --point 7",
        "failover web01 --planned --no-shutdown",
        "failover --planned",
        "change-recovery-point web01",
        "failover web01 --unplanned --point newest",
    ] {
        assert!(parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn nobody_is_asked_about_what_cannot_be() {
    let machine = json!({"name": "web01", "properties": {"state": "protected", "allowed": ["test-failover", "planned-failover"]}});
    assert!(check_allowed(&machine, Operation::PlannedFailover).is_ok());
    let refused = check_allowed(&machine, Operation::Commit).unwrap_err().to_string();
    assert_eq!(
        refused,
        "commit is not possible with web01, which is protected; possible now: test-failover, planned-failover"
    );
    assert!(check_allowed(&json!({"name": "web01"}), Operation::Commit).is_ok(), "the server decides");
}

#[test]
fn each_command_is_the_operation_it_is_called() {
    for (line, operation) in [
        ("test-failover w", "test-failover"),
        ("test-failover-cleanup w", "test-failover-cleanup"),
        ("failover w --planned", "planned-failover"),
        ("failover w --unplanned", "unplanned-failover"),
        ("change-recovery-point w --point 7", "change-recovery-point"),
        ("cancel-failover w", "cancel-failover"),
        ("commit w", "commit"),
        ("reprotect w", "reprotect"),
        ("resync w", "resynchronize"),
        ("switch-process-server w --to ps2", "switch-process-server"),
        ("disable w", "disable"),
    ] {
        assert_eq!(json!(parse(line).unwrap().operation()), operation, "{line}");
    }
}

#[test]
fn a_check_names_nothing_so_that_all_is_looked_at() {
    assert_eq!(called("check web01", true), ("resolveHealthErrors".into(), json!({})));
}
