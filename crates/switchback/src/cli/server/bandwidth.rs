//! `switchback server bandwidth`: how much a process server may forward, or a master target write into page blobs, and in which windows of the week another rate holds.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::{Value, json};
use switchback_model::bandwidth_text::{
    read_offset, read_rate, read_window, write_days, write_minute, write_offset,
};
use switchback_model::{Bandwidth, BandwidthLimit, BandwidthWindow};

use super::super::render::{Field, plain};
use super::super::session::Session;
use crate::client::Reply;
use crate::client::path::id_of;

const SHOW: &[Field] = &[plain("Bandwidth", &["/shown/bandwidth"])];

#[derive(Debug, Args)]
pub(super) struct BandwidthArgs {
    /// The process server, or the master target towards page blobs
    #[arg(id = "component", value_name = "NAME")]
    server: String,
    /// Bytes per second at most where no window holds, as 10M (k, M, G: thousands); `none`: no limit
    #[arg(long, value_name = "RATE", value_parser = rate)]
    limit: Option<Rate>,
    /// Another rate in a part of the week, as mon-fri/08:00-18:00=2M or sat,sun/22:00-06:00=none. May be given several times; the first that holds
    /// counts, and those there were are replaced
    #[arg(long = "window", value_name = "DAYS/FROM-TO=RATE", value_parser = read_window)]
    windows: Vec<BandwidthWindow>,
    /// Have no windows
    #[arg(long, conflicts_with = "windows")]
    no_windows: bool,
    /// Change the limit towards this master target instead of that for all together
    #[arg(long, value_name = "MASTER-TARGET")]
    to: Option<String>,
    /// What local time the windows are in, as +01:00. It does not change by itself in summer
    #[arg(long, value_name = "OFFSET", allow_hyphen_values = true, value_parser = read_offset)]
    utc_offset: Option<i16>,
}

/// `None`: no limit. A type of its own, because an argument that may be missing is an `Option` already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rate(Option<u64>);

fn rate(text: &str) -> Result<Rate, String> {
    read_rate(text).map(Rate)
}

fn words(rate: Option<u64>) -> String {
    match rate {
        None => "no limit".into(),
        Some(rate) if rate % 1_000_000 == 0 => format!("{} MB/s", rate / 1_000_000),
        Some(rate) => format!("{} kB/s", rate / 1000),
    }
}

fn limit_words(limit: &BandwidthLimit) -> String {
    let mut parts = vec![words(limit.bytes_per_s_max)];
    for window in &limit.windows {
        let days = write_days(&window.days);
        let (from, to) = (write_minute(window.from_minute), write_minute(window.to_minute));
        parts.push(format!("{days} {from}-{to}: {}", words(window.bytes_per_s_max)));
    }
    parts.join("; ")
}

/// All limits of a process server, in a line each; nothing for what is none.
pub(super) fn shown(server: &Value) -> String {
    let Some(bandwidth) = server.pointer("/properties/bandwidth") else { return String::new() };
    let Ok(bandwidth) = serde_json::from_value::<Bandwidth>(bandwidth.clone()) else { return String::new() };
    let mut lines = vec![limit_words(&bandwidth.total)];
    lines.extend(bandwidth.targets.iter().map(|(to, limit)| format!("to {to}: {}", limit_words(limit))));
    if bandwidth.utc_offset_minutes != 0 {
        lines.push(format!("(local time is UTC{})", write_offset(bandwidth.utc_offset_minutes)));
    }
    lines.join("\n")
}

impl BandwidthArgs {
    fn changes(&self) -> bool {
        self.limit.is_some() || !self.windows.is_empty() || self.no_windows || self.utc_offset.is_some()
    }

    /// What was said, in what there was.
    fn apply(&self, bandwidth: &mut Bandwidth) {
        let limit = match &self.to {
            Some(target) => bandwidth.targets.entry(target.to_lowercase()).or_default(),
            None => &mut bandwidth.total,
        };
        if let Some(Rate(rate)) = self.limit {
            limit.bytes_per_s_max = rate;
        }
        if !self.windows.is_empty() || self.no_windows {
            limit.windows.clone_from(&self.windows);
        }
        bandwidth.targets.retain(|_, limit| *limit != BandwidthLimit::default());
        bandwidth.utc_offset_minutes = self.utc_offset.unwrap_or(bandwidth.utc_offset_minutes);
    }
}

pub(super) async fn run(session: &Session, args: &BandwidthArgs) -> anyhow::Result<ExitCode> {
    let server = super::choose(&super::all(session).await?, &args.server)?;
    let id = format!("{}/bandwidth/default", id_of(&server));
    let mut now = session.client.get(&id).await?;
    if args.changes() {
        let mut bandwidth: Bandwidth = serde_json::from_value(now["properties"].clone())
            .context("the server's limits are of another version of switchback")?;
        args.apply(&mut bandwidth);
        now = match session.client.put(&id, &json!({ "properties": bandwidth })).await? {
            Reply::Done(answer) => answer,
            Reply::Started(_) => bail!("the server did not answer at once"),
        };
    }
    let now = json!({ "id": now["id"], "properties": { "bandwidth": now["properties"] } });
    Ok(session.print_as(SHOW, &now, |now| json!({ "bandwidth": shown(now) })))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{BandwidthArgs, Rate, read_window, shown};

    #[test]
    fn what_is_not_said_stays_and_all_is_shown() {
        let mut bandwidth = switchback_model::Bandwidth::default();
        let mut args = BandwidthArgs {
            server: "ps1".into(),
            limit: Some(Rate(Some(10_000_000))),
            windows: vec![read_window("mon-tue/08:00-18:00=500k").unwrap()],
            no_windows: false,
            to: None,
            utc_offset: Some(60),
        };
        args.apply(&mut bandwidth);
        args = BandwidthArgs { windows: Vec::new(), to: Some("MT1".into()), utc_offset: None, ..args };
        args.apply(&mut bandwidth);
        let server = json!({ "properties": { "bandwidth": bandwidth } });
        assert_eq!(
            shown(&server),
            "10 MB/s; mon,tue 08:00-18:00: 500 kB/s\nto mt1: 10 MB/s\n(local time is UTC+01:00)"
        );
        args.limit = Some(Rate(None));
        args.apply(&mut bandwidth);
        assert!(bandwidth.targets.is_empty(), "a limit that says nothing is none");
        assert_eq!(shown(&json!({})), "");
    }
}
