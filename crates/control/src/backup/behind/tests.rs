//! What each kind of report shows of a machine.

use std::collections::BTreeMap;

use switchback_identity::{PeerIdentity, Role};
use switchback_model::component::{
    Activity, AgentState, HardwareFacts, MasterTargetState, ReplicaActual, ReplicationState, Report, State,
};
use switchback_model::{Epoch, Held, ReplicationPath, UnixMillis};

use super::*;
use crate::testing;

fn item(held: Option<Held>) -> ProtectedItem {
    let mut item = testing::item("web01");
    item.protection.epoch = Epoch(3);
    item.held = held;
    item.replication = Some(ReplicationPath {
        replica: "web01-1".parse().unwrap(),
        process_server: "ps1".into(),
        master_target: "mt1".into(),
        epoch: Epoch(3),
        targets: Vec::new(),
    });
    item
}

const UNCONFIRMED: Held = Held::Unconfirmed { since: UnixMillis(1) };

fn report(role: Role, name: &str, state: State) -> StoredReport {
    let peer = PeerIdentity { role, name: name.parse().unwrap() };
    let report = Report {
        build: String::new(),
        address: String::new(),
        site: String::new(),
        started: UnixMillis(0),
        state,
        incarnation_proof: None,
    };
    StoredReport { peer, received: UnixMillis(5), report, lied: false }
}

fn target(name: &str, replicas: &[(&str, u64)]) -> StoredReport {
    let replica = |(name, epoch): &(&str, u64)| ReplicaActual {
        replica: name.parse().unwrap(),
        epoch: Epoch(*epoch),
        reached: None,
        applied: None,
        points: Vec::new(),
        retention_bytes: 0,
        views: BTreeMap::new(),
        standing: Vec::new(),
        targets: Vec::new(),
        problem: None,
    };
    let replicas = replicas.iter().map(replica).collect();
    report(
        Role::Target,
        name,
        State::MasterTarget(MasterTargetState { replicas, ..MasterTargetState::default() }),
    )
}

fn agent(uuid: &str, epoch: Option<u64>) -> StoredReport {
    let replication = epoch.map(|epoch| ReplicationState {
        replica: "web01-1".parse().unwrap(),
        epoch: Epoch(epoch),
        generation: None,
        activity: Activity::Idle,
        compared_bytes: 0,
        seeded: Vec::new(),
        disk_bytes: 0,
        sent_bytes: 0,
        resync_sent_bytes: 0,
        changed_bytes: 0,
        transferred_bytes: 0,
        received: None,
        recoverable: None,
        frozen_ms: 0,
        final_point: None,
        failure: None,
    });
    let text = String::new;
    let state = AgentState {
        system_uuid: uuid.into(),
        platform: text(),
        hostname: text(),
        system: text(),
        boot_id: text(),
        hardware: HardwareFacts::default(),
        powering_off: None,
        disks: Vec::new(),
        interfaces: Vec::new(),
        replication,
        scripts: Vec::new(),
        guest: Vec::new(),
        program: None,
        problems: Vec::new(),
    };
    report(Role::Source, "web01", State::Agent(Box::new(state)))
}

fn is_behind(verdict: Option<Verdict>) -> bool {
    matches!(verdict, Some(Verdict::Behind(_)))
}

const HOME: &str = "00000000-0000-0000-0000-000000000001";
const AWAY: &str = "00000000-0000-0000-0000-000000000002";

#[test]
fn a_master_target_that_knows_nothing_newer_confirms() {
    let held = item(Some(UNCONFIRMED));
    assert_eq!(judge(&held, &target("mt1", &[("web01-1", 3)])), Some(Verdict::Confirmed));
    // The backup is newer than what it was told last.
    assert_eq!(judge(&held, &target("mt1", &[("web01-1", 2)])), Some(Verdict::Confirmed));
    assert_eq!(judge(&held, &target("mt2", &[("web01-1", 3)])), None, "another one's");
}

#[test]
fn a_newer_epoch_or_a_replica_that_is_gone_is_evidence() {
    let held = item(Some(UNCONFIRMED));
    assert!(is_behind(judge(&held, &target("mt1", &[("web01-1", 4)]))));
    assert!(is_behind(judge(&held, &target("mt1", &[("web02-1", 3)]))));
    assert!(is_behind(judge(&held, &agent(HOME, Some(4)))));
    assert!(is_behind(judge(&held, &agent(AWAY, None))), "it lives where it should have been left");
    assert_eq!(judge(&held, &agent(HOME, Some(3))), None, "the master target has the last word");
}

#[test]
fn without_a_replica_the_agent_is_asked() {
    let mut held = item(Some(UNCONFIRMED));
    held.replication = None;
    assert_eq!(judge(&held, &agent(HOME, None)), Some(Verdict::Confirmed));
    assert!(is_behind(judge(&held, &agent(AWAY, None))));
    assert_eq!(judge(&held, &target("mt1", &[])), None);
}

#[test]
fn later_only_a_newer_epoch_counts_and_what_is_behind_stays_so() {
    let led = item(None);
    assert!(is_behind(judge(&led, &target("mt1", &[("web01-1", 4)]))));
    assert_eq!(judge(&led, &target("mt1", &[])), None);
    assert_eq!(judge(&led, &agent(AWAY, None)), None);
    let behind = item(Some(Held::Behind { evidence: "x".into() }));
    assert_eq!(judge(&behind, &target("mt1", &[("web01-1", 3)])), None);
}
