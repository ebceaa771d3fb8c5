//! What the configuration server measures: protected machines, components, jobs, alerts.

use std::collections::BTreeMap;

use switchback_control::{Control, Health};
use switchback_model::{CheckState, JobState};

use super::component::{BUILD, STARTED};
use super::{Definition, Sample, figure, seconds};

/// Jobs that are counted, the newest.
const JOBS_MAX: usize = 10_000;
const ROLE: &str = "configuration-server";

static RPO: Definition = Definition::gauge(
    "switchback_machine_rpo_seconds",
    &["machine", "group"],
    "Age of a machine's newest recovery point; absent before the first",
);
static RPO_THRESHOLD: Definition = Definition::gauge(
    "switchback_machine_rpo_threshold_seconds",
    &["machine", "group"],
    "The age that its policy allows",
);
static HEALTH: Definition = Definition::gauge(
    "switchback_machine_health",
    &["machine", "group"],
    "How a machine's replication is: 0 normal, 1 warning, 2 critical",
);
static POINTS: Definition = Definition::gauge(
    "switchback_machine_recovery_points",
    &["machine", "group"],
    "Recovery points that a machine can be taken back to",
);
static RESYNC: Definition = Definition::gauge(
    "switchback_machine_resync_ratio",
    &["machine", "group"],
    "How far the initial replication or resync is, from 0 to 1; absent when there is none",
);
static READY: Definition = Definition::gauge(
    "switchback_machine_ready",
    &["machine", "direction"],
    "1 when a machine could go that way now (failover, failback), 0 when it could not; absent before the first look",
);
static SERVER_HEALTH: Definition = Definition::gauge(
    "switchback_server_health",
    &["role", "server"],
    "How a component is: 0 normal, 1 warning, 2 critical",
);
static SERVER_SEEN: Definition = Definition::gauge(
    "switchback_server_last_report_timestamp_seconds",
    &["role", "server"],
    "When a component last reported, in seconds since 1970",
);
static JOBS: Definition =
    Definition::gauge("switchback_jobs", &["state"], "Jobs of the last 90 days, by state");
static ALERT_FAILURES: Definition = Definition::gauge(
    "switchback_alert_delivery_failures",
    &["destination"],
    "Tries that failed since alerts last got to a destination",
);

/// All of them, beside those that every role has.
pub static ALL: [&Definition; 10] = [
    &RPO,
    &RPO_THRESHOLD,
    &HEALTH,
    &POINTS,
    &RESYNC,
    &READY,
    &SERVER_HEALTH,
    &SERVER_SEEN,
    &JOBS,
    &ALERT_FAILURES,
];

const fn level(health: Health) -> f64 {
    match health {
        Health::Normal => 0.0,
        Health::Warning => 1.0,
        Health::Critical => 2.0,
    }
}

/// What the configuration server measures now.
///
/// # Errors
/// Those of the store.
pub fn measure(control: &Control, build: &str, started_ms: u64) -> anyhow::Result<Vec<Sample>> {
    let mut all = vec![BUILD.is([ROLE, build], 1.0), STARTED.is([ROLE], seconds(started_ms))];
    machines(control, &mut all)?;
    for view in control.servers()? {
        let labels = [view.identity.role.as_str(), view.identity.name.as_str()];
        all.push(SERVER_HEALTH.is(labels, level(view.health)));
        if let Some((seen, _)) = view.last_report {
            all.push(SERVER_SEEN.is(labels, seconds(seen.0)));
        }
    }
    let mut jobs: BTreeMap<&str, u64> = BTreeMap::new();
    for job in control.jobs(None, None, JOBS_MAX, |_| true)? {
        *jobs.entry(state(job.state)).or_default() += 1;
    }
    for state in STATES {
        all.push(JOBS.is([state], figure(jobs.get(state).copied().unwrap_or_default())));
    }
    for destination in control.alert_destinations()? {
        let failures = control.delivery_state(&destination.name)?.failures;
        all.push(ALERT_FAILURES.is([destination.name.as_str()], f64::from(failures)));
    }
    Ok(all)
}

fn machines(control: &Control, all: &mut Vec<Sample>) -> anyhow::Result<()> {
    let groups: BTreeMap<_, _> =
        control.groups()?.into_iter().map(|group| (group.name.key(), group)).collect();
    for view in control.items()? {
        let machine = view.item.name.as_str();
        let labels = [machine, view.group.as_str()];
        if let Some(rpo) = view.rpo_ms {
            all.push(RPO.is(labels, seconds(rpo)));
        }
        if let Some(group) = groups.get(&view.group.key()) {
            all.push(RPO_THRESHOLD.is(labels, seconds(group.policy.rpo_threshold_ms)));
        }
        all.push(HEALTH.is(labels, level(view.health)));
        all.push(POINTS.is(labels, figure(view.points as u64)));
        if let Some(percent) = view.resync_percent {
            all.push(RESYNC.is(labels, f64::from(percent) / 100.0));
        }
        for (direction, verdict) in ["failover", "failback"].iter().zip(view.verdicts.iter().flatten()) {
            let is_ready = *verdict != CheckState::Failed;
            all.push(READY.is([machine, direction], if is_ready { 1.0 } else { 0.0 }));
        }
    }
    Ok(())
}

const STATES: [&str; 6] = ["not_started", "in_progress", "suspended", "succeeded", "failed", "cancelled"];

const fn state(state: JobState) -> &'static str {
    match state {
        JobState::NotStarted => "not_started",
        JobState::InProgress => "in_progress",
        JobState::Suspended => "suspended",
        JobState::Succeeded => "succeeded",
        JobState::Failed => "failed",
        JobState::Cancelled => "cancelled",
    }
}
