//! `switchback server bandwidth`: how much a process server may forward, or a master target write into page blobs, and in which windows of the week another rate holds.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::{Value, json};
use switchback_model::{Bandwidth, BandwidthLimit, BandwidthWindow};

use super::super::render::{Field, plain};
use super::super::session::Session;
use crate::client::Reply;
use crate::client::path::id_of;

const SHOW: &[Field] = &[plain("Bandwidth", &["/shown/bandwidth"])];
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

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
    #[arg(long = "window", value_name = "DAYS/FROM-TO=RATE", value_parser = window)]
    windows: Vec<BandwidthWindow>,
    /// Have no windows
    #[arg(long, conflicts_with = "windows")]
    no_windows: bool,
    /// Change the limit towards this master target instead of that for all together
    #[arg(long, value_name = "MASTER-TARGET")]
    to: Option<String>,
    /// What local time the windows are in, as +01:00. It does not change by itself in summer
    #[arg(long, value_name = "OFFSET", allow_hyphen_values = true, value_parser = offset)]
    utc_offset: Option<i16>,
}

/// `None`: no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rate(Option<u64>);

fn rate(text: &str) -> Result<Rate, String> {
    if text == "none" {
        return Ok(Rate(None));
    }
    let wrong = || format!("{text:?} is no rate: bytes per second, as 500k or 10M, or none");
    let (digits, factor) = match text.chars().last() {
        Some('k') => (&text[..text.len() - 1], 1_000),
        Some('M') => (&text[..text.len() - 1], 1_000_000),
        Some('G') => (&text[..text.len() - 1], 1_000_000_000),
        _ => (text, 1),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    Ok(Rate(Some(number.checked_mul(factor).ok_or_else(wrong)?)))
}

fn minute(text: &str) -> Result<u16, String> {
    let wrong = || format!("{text:?} is no time of day: write it like 08:30");
    let (hour, minute) = text.split_once(':').ok_or_else(wrong)?;
    let (hour, minute): (u16, u16) =
        (hour.parse().map_err(|_| wrong())?, minute.parse().map_err(|_| wrong())?);
    if hour > 24 || minute > 59 || hour == 24 && minute > 0 { Err(wrong()) } else { Ok(hour * 60 + minute) }
}

fn days(text: &str) -> Result<Vec<u8>, String> {
    let day = |name: &str| {
        let found = DAYS.iter().position(|day| day.eq_ignore_ascii_case(name));
        found.ok_or_else(|| format!("{name:?} is no day: {}", DAYS.join(", ")))
    };
    let mut all = Vec::new();
    for part in text.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to) = (day(from)?, day(to)?);
        let count = (to + 7 - from) % 7 + 1;
        all.extend((from..from + count).map(|day| u8::try_from(day % 7).unwrap_or_default()));
    }
    Ok(all)
}

fn window(text: &str) -> Result<BandwidthWindow, String> {
    let wrong = || format!("{text:?} is no window: write it like mon-fri/08:00-18:00=2M");
    let (when, limit) = text.split_once('=').ok_or_else(wrong)?;
    let (on, times) = when.split_once('/').ok_or_else(wrong)?;
    let (from, to) = times.split_once('-').ok_or_else(wrong)?;
    let Rate(bytes_per_s_max) = rate(limit)?;
    let (from_minute, to_minute) = (minute(from)?, minute(to)?);
    Ok(BandwidthWindow { days: days(on)?, from_minute, to_minute, bytes_per_s_max })
}

fn offset(text: &str) -> Result<i16, String> {
    let wrong = || format!("{text:?} is no offset from UTC: write it like +01:00 or -05:30");
    let (sign, rest) = match text.split_at_checked(1) {
        Some(("+", rest)) => (1, rest),
        Some(("-", rest)) => (-1, rest),
        _ => return Err(wrong()),
    };
    let minutes = i16::try_from(minute(rest).map_err(|_| wrong())?).map_err(|_| wrong())?;
    Ok(sign * minutes)
}

fn words(rate: Option<u64>) -> String {
    match rate {
        None => "no limit".into(),
        Some(rate) if rate % 1_000_000 == 0 => format!("{} MB/s", rate / 1_000_000),
        Some(rate) => format!("{} kB/s", rate / 1000),
    }
}

fn clock(minute: u16) -> String {
    format!("{:02}:{:02}", minute / 60, minute % 60)
}

fn limit_words(limit: &BandwidthLimit) -> String {
    let mut parts = vec![words(limit.bytes_per_s_max)];
    for window in &limit.windows {
        let days: Vec<_> =
            window.days.iter().filter_map(|day| DAYS.get(usize::from(*day)).copied()).collect();
        let (from, to) = (clock(window.from_minute), clock(window.to_minute));
        parts.push(format!("{} {from}-{to}: {}", days.join(","), words(window.bytes_per_s_max)));
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
        let minutes = bandwidth.utc_offset_minutes;
        let sign = if minutes < 0 { '-' } else { '+' };
        lines.push(format!("(local time is UTC{sign}{})", clock(minutes.unsigned_abs())));
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

    use super::{BandwidthArgs, Rate, days, offset, rate, shown, window};

    #[test]
    fn rates_windows_and_offsets_are_read() {
        assert_eq!(
            [rate("10M"), rate("500k"), rate("none")].map(Result::unwrap),
            [Rate(Some(10_000_000)), Rate(Some(500_000)), Rate(None)]
        );
        assert_eq!(days("fri-mon").unwrap(), [4, 5, 6, 0]);
        let read = window("mon-fri/08:00-18:30=2M").unwrap();
        assert_eq!((read.days.len(), read.from_minute, read.to_minute), (5, 480, 1110));
        assert_eq!((offset("+05:30"), offset("-01:00")), (Ok(330), Ok(-60)));
        for bad in [
            "",
            "mon/08:00=1M",
            "mon/8-9=1M",
            "day/08:00-09:00=1M",
            "mon/08:00-25:00=1M",
            "mon/08:00-09:00=x",
        ] {
            assert!(window(bad).is_err(), "{bad}");
        }
        assert!(offset("1").is_err() && rate("1T").is_err() && rate("").is_err());
    }

    #[test]
    fn what_is_not_said_stays_and_all_is_shown() {
        let mut bandwidth = switchback_model::Bandwidth::default();
        let mut args = BandwidthArgs {
            server: "ps1".into(),
            limit: Some(Rate(Some(10_000_000))),
            windows: vec![window("mon-tue/08:00-18:00=500k").unwrap()],
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
