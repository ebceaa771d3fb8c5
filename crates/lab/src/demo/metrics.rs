//! What the processes measure of themselves, fetched as a monitoring does while machines are replicated.

use std::time::Duration;

use anyhow::Context as _;

use super::places::CAST;
use super::stage::Stage;
use crate::plain_http;

const FETCH_LIMIT: Duration = Duration::from_secs(10);

/// Of each process, what a panel of the dashboard is made of: its name, labels that it must have, and how much it is at least.
const WANTED: [(&str, &str, &str, f64); 5] = [
    ("configuration-server", "switchback_machine_ready", "direction=\"failback\"", 1.0),
    ("configuration-server", "switchback_machine_recovery_points", "group=\"PG1\"", 1.0),
    ("process-server-home", "switchback_process_server_forwarded_bytes_total", "", 1.0),
    ("master-target-recovery", "switchback_master_target_recovery_points", "replica=", 1.0),
    ("master-target-recovery", "switchback_master_target_retention_bytes", "replica=", 1.0),
];

/// Checks that what they say is what the story knows.
pub(super) fn check(stage: &mut Stage) -> anyhow::Result<()> {
    // What readiness found last may be a minute old, of a time when machines were on their way.
    for cast in CAST {
        stage.job(&["machine", "check", cast.name])?;
    }
    for (process, metric, label, least) in WANTED {
        let text = fetch(stage, process)?;
        let values = values(&text, metric, label);
        // One for each machine, or for both together.
        let is_there = !values.is_empty() && values.iter().all(|value| *value >= least);
        let found = values.iter().map(f64::to_string).collect::<Vec<_>>().join(", ");
        stage.check(format!("{process}: {metric}"), format!("at least {least}"), found, is_there);
    }
    let text = fetch(stage, "configuration-server")?;
    for cast in CAST {
        let label = format!("machine=\"{}\"", cast.name);
        let value = |metric| values(&text, metric, &label).first().copied().unwrap_or(f64::NAN);
        let (rpo, allowed) =
            (value("switchback_machine_rpo_seconds"), value("switchback_machine_rpo_threshold_seconds"));
        let (expected, found) = (format!("less than {allowed} s"), format!("{rpo} s"));
        stage.check(format!("{}: its RPO, by the metrics", cast.name), expected, found, rpo < allowed);
    }
    Ok(())
}

fn fetch(stage: &Stage, process: &str) -> anyhow::Result<String> {
    let address = stage.roles.metrics(process)?;
    let fetch = || plain_http::client(FETCH_LIMIT)?.get(&address).send()?.error_for_status()?.text();
    fetch().with_context(|| format!("fetching the metrics of {process}"))
}

/// The values of a metric, of all lines that have the label.
fn values(text: &str, metric: &str, label: &str) -> Vec<f64> {
    let value = |line: &str| {
        let rest = line.strip_prefix(metric)?;
        let is_it = rest.starts_with('{') || rest.starts_with(' ');
        let (labels, value) = rest.rsplit_once(' ')?;
        value.parse().ok().filter(|_| is_it && labels.contains(label))
    };
    text.lines().filter_map(value).collect()
}
