//! What process servers, master targets and mobility agents measure: what they report to their configuration server, in figures.

use switchback_model::component::{
    Activity, AgentState, MasterTargetState, ProcessServerState, ReplicaActual, Report, State,
};

use super::{Definition, Sample, figure, seconds};

/// Which build runs.
pub static BUILD: Definition =
    Definition::gauge("switchback_build_info", &["role", "build"], "Always 1; which build runs");
/// When the process started.
pub static STARTED: Definition = Definition::gauge(
    "switchback_start_timestamp_seconds",
    &["role"],
    "When the process started, in seconds since 1970",
);

static PS_RECEIVED: Definition = Definition::counter(
    "switchback_process_server_received_bytes",
    &[],
    "Contents received from sources since the process server started",
);
static PS_FORWARDED: Definition = Definition::counter(
    "switchback_process_server_forwarded_bytes",
    &[],
    "Contents forwarded to targets since the process server started",
);
static PS_FREE: Definition =
    Definition::gauge("switchback_process_server_free_bytes", &[], "Free on the cache disk");
static PS_SPOOL: Definition = Definition::gauge(
    "switchback_process_server_spool_bytes",
    &["replica"],
    "Received and not yet at the target",
);
static PS_WAITING: Definition = Definition::gauge(
    "switchback_process_server_spool_waiting",
    &["replica"],
    "1 when a spool does not get on: its target is away or refuses it",
);

static MT_FREE: Definition =
    Definition::gauge("switchback_master_target_free_bytes", &[], "Free on the retention drive");
static MT_RETENTION: Definition = Definition::gauge(
    "switchback_master_target_retention_bytes",
    &["replica"],
    "What a replica's recovery points take on the retention drive",
);
static MT_POINTS: Definition = Definition::gauge(
    "switchback_master_target_recovery_points",
    &["replica"],
    "Recovery points of a replica",
);
static MT_NEWEST: Definition = Definition::gauge(
    "switchback_master_target_newest_point_timestamp_seconds",
    &["replica"],
    "The moment of a replica's newest recovery point, in seconds since 1970",
);
static MT_APPLY_LAG: Definition = Definition::gauge(
    "switchback_master_target_apply_lag_points",
    &["replica"],
    "Recovery points that are durable and not yet on a replica's disks",
);
static MT_PROBLEM: Definition = Definition::gauge(
    "switchback_master_target_replica_problem",
    &["replica"],
    "1 when something is wrong with a replica",
);

static AGENT_DISK: Definition =
    Definition::gauge("switchback_agent_disk_bytes", &["disk"], "Size of a disk of the machine");
static AGENT_CAPTURE: Definition = Definition::gauge(
    "switchback_agent_capture_info",
    &["disk", "method"],
    "Always 1; how changes of a disk are found: ebpf or scan",
);
static AGENT_SENT: Definition = Definition::counter(
    "switchback_agent_sent_bytes",
    &["replica"],
    "Contents sent since this replication began",
);
static AGENT_CHANGED: Definition = Definition::counter(
    "switchback_agent_changed_bytes",
    &["replica"],
    "Contents of changed blocks sent since then: the machine's churn",
);
static AGENT_TRANSFERRED: Definition = Definition::counter(
    "switchback_agent_transferred_bytes",
    &["replica"],
    "All that was sent since then as it travelled, compressed",
);
static AGENT_RESYNC: Definition = Definition::gauge(
    "switchback_agent_resync_ratio",
    &["replica"],
    "How far the comparison with the replica is, from 0 to 1; absent when there is none",
);
static AGENT_FREEZE: Definition = Definition::gauge(
    "switchback_agent_freeze_seconds",
    &["replica"],
    "How long file systems stood still at the last recovery point",
);
static AGENT_RECEIVED: Definition = Definition::gauge(
    "switchback_agent_received_point",
    &["replica"],
    "Number of the newest point that is durable at the next hop",
);
static AGENT_RECEIVED_AT: Definition = Definition::gauge(
    "switchback_agent_received_point_timestamp_seconds",
    &["replica"],
    "The moment of that point, in seconds since 1970",
);
static AGENT_RECOVERABLE: Definition = Definition::gauge(
    "switchback_agent_recoverable_point",
    &["replica"],
    "Number of the newest point that is a recovery point at the target",
);
static AGENT_FAILING: Definition =
    Definition::gauge("switchback_agent_failing", &["replica"], "1 while the last cycle failed");
static AGENT_PROBLEMS: Definition = Definition::gauge(
    "switchback_agent_problems",
    &[],
    "What a person should know: failed scripts, unsupported disks, refused sessions",
);

/// All of them.
pub static ALL: [&Definition; 25] = [
    &BUILD,
    &STARTED,
    &PS_RECEIVED,
    &PS_FORWARDED,
    &PS_FREE,
    &PS_SPOOL,
    &PS_WAITING,
    &MT_FREE,
    &MT_RETENTION,
    &MT_POINTS,
    &MT_NEWEST,
    &MT_APPLY_LAG,
    &MT_PROBLEM,
    &AGENT_DISK,
    &AGENT_CAPTURE,
    &AGENT_SENT,
    &AGENT_CHANGED,
    &AGENT_TRANSFERRED,
    &AGENT_RESYNC,
    &AGENT_FREEZE,
    &AGENT_RECEIVED,
    &AGENT_RECEIVED_AT,
    &AGENT_RECOVERABLE,
    &AGENT_FAILING,
    &AGENT_PROBLEMS,
];

/// What a report says in figures.
#[must_use]
pub fn measure(report: &Report) -> Vec<Sample> {
    let (role, samples) = match &report.state {
        State::Agent(state) => ("agent", agent(state)),
        State::ProcessServer(state) => ("process-server", process_server(state)),
        State::MasterTarget(state) => ("master-target", master_target(state)),
    };
    let mut all = vec![BUILD.is([role, &report.build], 1.0), STARTED.is([role], seconds(report.started.0))];
    all.extend(samples);
    all
}

fn flag(is: bool) -> f64 {
    if is { 1.0 } else { 0.0 }
}

fn process_server(state: &ProcessServerState) -> Vec<Sample> {
    let mut all = vec![
        PS_RECEIVED.is([], figure(state.received_bytes)),
        PS_FORWARDED.is([], figure(state.forwarded_bytes)),
        PS_FREE.is([], figure(state.free_bytes)),
    ];
    for spool in &state.spools {
        let replica = [spool.replica.as_str()];
        all.push(PS_SPOOL.is(replica, figure(spool.bytes)));
        all.push(PS_WAITING.is(replica, flag(spool.waiting.is_some())));
    }
    all
}

fn master_target(state: &MasterTargetState) -> Vec<Sample> {
    let mut all = vec![MT_FREE.is([], figure(state.free_bytes))];
    for replica in &state.replicas {
        let name = [replica.replica.as_str()];
        all.push(MT_RETENTION.is(name, figure(replica.retention_bytes)));
        // Point 0 is what the disks held before.
        let mut points = replica.points.iter().filter(|point| point.seq.0 > 0);
        all.push(MT_POINTS.is(name, figure(points.clone().count() as u64)));
        if let Some(newest) = points.next_back() {
            all.push(MT_NEWEST.is(name, seconds(newest.time.0)));
        }
        all.push(MT_APPLY_LAG.is(name, figure(apply_lag(replica))));
        all.push(MT_PROBLEM.is(name, flag(replica.problem.is_some())));
    }
    all
}

/// Points above the one that the disks stand at.
fn apply_lag(replica: &ReplicaActual) -> u64 {
    let Some(applied) = replica.applied else { return 0 };
    replica.points.iter().filter(|point| point.seq > applied).count() as u64
}

fn agent(state: &AgentState) -> Vec<Sample> {
    let mut all = vec![AGENT_PROBLEMS.is([], figure(state.problems.len() as u64))];
    for disk in &state.disks {
        all.push(AGENT_DISK.is([&disk.name], figure(disk.size)));
        all.push(AGENT_CAPTURE.is([&disk.name, &disk.capture], 1.0));
    }
    let Some(state) = &state.replication else { return all };
    let replica = [state.replica.as_str()];
    all.push(AGENT_SENT.is(replica, figure(state.sent_bytes)));
    all.push(AGENT_CHANGED.is(replica, figure(state.changed_bytes)));
    all.push(AGENT_TRANSFERRED.is(replica, figure(state.transferred_bytes)));
    if state.activity == Activity::Comparing && state.disk_bytes > 0 {
        all.push(AGENT_RESYNC.is(replica, figure(state.compared_bytes) / figure(state.disk_bytes)));
    }
    all.push(AGENT_FREEZE.is(replica, seconds(state.frozen_ms)));
    if let Some((seq, time)) = state.received {
        all.push(AGENT_RECEIVED.is(replica, figure(seq.0)));
        all.push(AGENT_RECEIVED_AT.is(replica, seconds(time.0)));
    }
    if let Some(seq) = state.recoverable {
        all.push(AGENT_RECOVERABLE.is(replica, figure(seq.0)));
    }
    all.push(AGENT_FAILING.is(replica, flag(state.failure.is_some())));
    all
}
