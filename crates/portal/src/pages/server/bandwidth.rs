//! How much a process server may forward, or a master target write towards storage: all together and to each target, with windows of the week.

use std::sync::Arc;

use axum::Router;
use serde_json::json;
use switchback_control::Control;
use switchback_identity::{PeerIdentity, Role};
use switchback_model::bandwidth_text::{
    read_offset, read_rate, read_window, write_offset, write_rate, write_window,
};
use switchback_model::{AccessRole, Bandwidth, BandwidthLimit};

use super::{server_of, title_of};
use crate::Portal;
use crate::action::{Act, Then};
use crate::failure::Failure;
use crate::layout::Tab;
use crate::pages::ask::{Field, Form};
use crate::pages::servers::id_of;
use crate::visit::{Visit, form};

pub(super) fn routes() -> Router<Arc<Portal>> {
    Router::new().route("/servers/{server}/bandwidth", form(ask, change))
}

/// Whether there is such a limit for a component.
pub(super) const fn is_limited(identity: &PeerIdentity) -> bool {
    matches!(identity.role, Role::ProcessServer | Role::Target)
}

fn windows(limit: &BandwidthLimit) -> String {
    limit.windows.iter().map(write_window).collect::<Vec<_>>().join(" ")
}

/// A limit towards a target in a line: `NAME RATE WINDOW…`.
fn target_line((name, limit): (&String, &BandwidthLimit)) -> String {
    format!("{name} {} {}", write_rate(limit.bytes_per_s_max), windows(limit)).trim_end().to_owned()
}

/// What is in force, in a line each; nothing where there is no limit.
pub(super) fn shown(bandwidth: &Bandwidth) -> Vec<String> {
    if *bandwidth == Bandwidth::default() {
        return vec!["no limit".into()];
    }
    let Bandwidth { utc_offset_minutes, total, targets } = bandwidth;
    let rate =
        |rate: Option<u64>| rate.map_or("no limit".into(), |_| format!("{} bytes/s", write_rate(rate)));
    let total = format!("{} {}", rate(total.bytes_per_s_max), windows(total)).trim_end().to_owned();
    let targets = targets.iter().map(|target| format!("to {}", target_line(target)));
    let offset =
        (*utc_offset_minutes != 0).then(|| format!("local time is UTC{}", write_offset(*utc_offset_minutes)));
    [total].into_iter().chain(targets).chain(offset).collect()
}

fn ask(control: &Control, visit: &Visit) -> Result<String, Failure> {
    let server = server_of(control, visit)?;
    visit.needs(AccessRole::Contributor, "limiting what a server sends")?;
    let identity = &server.identity;
    let Bandwidth { utc_offset_minutes, total, targets } = control.bandwidth(identity)?;
    let title = format!("Bandwidth of {} {}", title_of(identity.role), identity.name);
    let form = Form::new(visit.frame(Tab::Servers, title), "Keep it", format!("/portal/servers/{}", id_of(identity)))
        .note("It holds at once, also for what is under way.")
        .field(
            Field::line("limit", "Bytes per second at most")
                .value(write_rate(total.bytes_per_s_max))
                .hint("Where no window holds; as 10M (k, M, G: thousands), or none."),
        )
        .field(
            Field::text("windows", "Other rates in parts of the week")
                .value(total.windows.iter().map(write_window).collect::<Vec<_>>().join("\n"))
                .optional()
                .hint("One in a line, as mon-fri/08:00-18:00=2M or sat,sun/22:00-06:00=none; the first that holds counts."),
        )
        .field(
            Field::line("offset", "Local time from UTC")
                .value(write_offset(utc_offset_minutes))
                .hint("As +01:00. It does not change by itself in summer."),
        );
    let form = if identity.role == Role::ProcessServer {
        form.field(
            Field::text("targets", "Towards one master target")
                .value(targets.iter().map(target_line).collect::<Vec<_>>().join("\n"))
                .optional()
                .hint("One in a line: its name, a rate and windows, between spaces."),
        )
    } else {
        form
    };
    form.show()
}

fn change(control: &Control, visit: &Visit) -> Result<Act, Failure> {
    let id = id_of(&server_of(control, visit)?.identity);
    let bandwidth = said(visit).map_err(Failure::invalid)?;
    let path = format!("{}/bandwidth/default", visit.vault.addition("switchbackServers", &id));
    Ok(Act::put(path, json!(bandwidth), Then::To(format!("/portal/servers/{id}"))))
}

fn said(visit: &Visit) -> Result<Bandwidth, String> {
    let limit = |rate: &str, windows: &mut dyn Iterator<Item = &str>| {
        let windows = windows.map(read_window).collect::<Result<_, _>>()?;
        Ok::<_, String>(BandwidthLimit { bytes_per_s_max: read_rate(rate)?, windows })
    };
    let target = |line: &str| {
        let mut words = line.split_whitespace();
        let (name, rate) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        Ok::<_, String>((name.to_owned(), limit(rate, &mut words)?))
    };
    let targets = visit.field("targets").lines().filter(|line| !line.trim().is_empty());
    Ok(Bandwidth {
        utc_offset_minutes: read_offset(visit.field("offset"))?,
        total: limit(visit.field("limit"), &mut visit.field("windows").split_whitespace())?,
        targets: targets.map(target).collect::<Result<_, _>>()?,
    })
}
