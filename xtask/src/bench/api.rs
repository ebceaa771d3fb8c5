//! `cargo xtask bench api`: how quickly the API and the portal of a configuration server answer with 1,000 machines of five disks in its store, and what memory it
//! takes; on SQLite and on PostgreSQL. What is asked, and of what, is in `crates/switchback/examples/api_load`. No peer: there is none.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

use super::process::{is_installed, run as output_of};
use super::report::{self, Limit, Row};

/// p99 of every request in milliseconds, and memory in MiB: `docs/performance.md`.
const P99_MS_MAX: f64 = 100.0;
const MEMORY_MIB_MAX: f64 = 512.0;
/// p99 of every page of the portal in milliseconds.
const PAGE_P99_MS_MAX: f64 = 200.0;
const REQUESTS: u32 = 300;

/// Builds, measures, prints and saves.
pub(crate) fn run(root: &Path, words: &[&str]) -> anyhow::Result<ExitCode> {
    let requests = match words {
        [] => REQUESTS,
        ["--requests", text] => {
            text.parse().ok().filter(|requests| *requests > 0).context("--requests takes a number from 1")?
        }
        _ => bail!("`bench api` takes --requests NUMBER, not `{}`", words.join(" ")),
    };
    let programs = build(root)?;
    let mut rows = Vec::new();
    for store in ["sqlite", "postgresql"] {
        eprintln!("api: {store}");
        if store == "postgresql" && !Path::new("/usr/lib/postgresql").exists() {
            let mut row = Row::new("api", store);
            row.note("PostgreSQL is not installed (Debian: postgresql)");
            rows.push(row);
            continue;
        }
        rows.push(measure(&programs, store, requests)?);
    }
    report::print(&rows);
    let about = json!({
        "date": output_of("date", &["--utc", "+%Y-%m-%dT%H:%M:%SZ"])?,
        "command": format!("cargo xtask bench api {}", words.join(" ")),
        "machine": {
            "cores": std::thread::available_parallelism()?.get(),
            "kernel": output_of("uname", &["-sr"])?,
            "load_average": fs::read_to_string("/proc/loadavg")?.trim(),
        },
    });
    report::save(root, "api", about, &rows)?;
    Ok(ExitCode::SUCCESS)
}

/// The server's program and the one that asks it.
fn build(root: &Path) -> anyhow::Result<[PathBuf; 2]> {
    ensure!(is_installed("cargo"), "cargo is not installed");
    let mut build = Command::new("cargo");
    build.args([
        "build",
        "--release",
        "--locked",
        "--package",
        "switchback",
        "--bin",
        "switchback",
        "--example",
        "api_load",
    ]);
    ensure!(build.current_dir(root).status()?.success(), "building the release binaries failed");
    let metadata = Command::new("cargo")
        .args(["metadata", "--no-deps", "--format-version=1"])
        .current_dir(root)
        .output()?;
    let metadata: Value = serde_json::from_slice(&metadata.stdout)?;
    let target = metadata["target_directory"].as_str().context("cargo metadata named no target directory")?;
    Ok(["switchback", "examples/api_load"].map(|program| Path::new(target).join("release").join(program)))
}

fn measure([server, load]: &[PathBuf; 2], store: &str, requests: u32) -> anyhow::Result<Row> {
    let work = PathBuf::from(format!("/var/tmp/switchback-bench-api.{}", std::process::id()));
    fs::create_dir(&work).with_context(|| format!("creating {}", work.display()))?;
    let mut command = Command::new(load);
    command.arg(server).arg(&work).args([store, &requests.to_string()]).stderr(Stdio::inherit());
    let output = command.output();
    fs::remove_dir_all(&work).with_context(|| format!("removing {}", work.display()))?;
    let output = output.context("running api_load")?;
    ensure!(output.status.success(), "api_load failed: {}", output.status);
    let measured: Value =
        serde_json::from_slice(&output.stdout).context("api_load printed something else than JSON")?;
    row_of(store, requests, &measured)
}

fn row_of(store: &str, requests: u32, measured: &Value) -> anyhow::Result<Row> {
    let mut row = Row::new(
        "api",
        format!(
            "1,000 machines, 5,000 disks, {store}; {requests} requests of each kind, one after the other, over TLS"
        ),
    );
    for asked in measured["rows"].as_array().context("no rows")? {
        let title = asked["title"].as_str().unwrap_or_default();
        let mut wall_ms: Vec<f64> =
            asked["wall_ms"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
        wall_ms.sort_by(f64::total_cmp);
        row.value(&format!("{title}: p50, ms"), &[percentile(&wall_ms, 50)], Limit::None);
        let p99_ms_max = if title.starts_with("portal") { PAGE_P99_MS_MAX } else { P99_MS_MAX };
        row.value(&format!("{title}: p99, ms"), &[percentile(&wall_ms, 99)], Limit::AtMost(p99_ms_max));
        row.value(
            &format!("{title}: the server's CPU, ms"),
            &[asked["cpu_ms"].as_f64().unwrap_or(f64::NAN)],
            Limit::None,
        );
    }
    row.samples("requests", measured["rows"].clone());
    let memory = &measured["memory_mib"];
    for (name, limit) in [("idle", Limit::None), ("most", Limit::AtMost(MEMORY_MIB_MAX))] {
        row.value(&format!("memory, {name}, MiB"), &[memory[name].as_f64().unwrap_or(f64::NAN)], limit);
    }
    Ok(row)
}

/// The value that so many of a hundred do not exceed, of sorted ones; not a number when there is none.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::percentile;

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!([percentile(&values, 50), percentile(&values, 99)], [100.0, 198.0]);
        assert_eq!(percentile(&[7.0], 99), 7.0);
        assert!(percentile(&[], 50).is_nan());
    }
}
