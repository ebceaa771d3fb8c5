//! `switchback recovery-point`, `event` and `audit`: lists of what there is and what happened.

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};

use super::render::{Field, plain, time};
use super::session::{self, SessionArgs};
use crate::client::path;

const POINTS: &[Field] = &[
    plain("POINT", &["/name"]),
    time("TIME", &["/properties/time"]),
    plain("CONSISTENCY", &["/properties/consistency"]),
    plain("MULTI-VM", &["/properties/multiVmTag"]),
    plain("LACKS DISK", &["/properties/lacks"]),
    plain("PROOF", &["/properties/proof/verdict"]),
];
const EVENTS: &[Field] = &[
    time("TIME", &["/properties/timeOfOccurrence"]),
    plain("SEVERITY", &["/properties/severity"]),
    plain("OF", &["/properties/affectedObjectFriendlyName"]),
    plain("EVENT", &["/properties/description"]),
    plain("CODE", &["/properties/eventCode"]),
];
const AUDIT: &[Field] = &[
    time("TIME", &["/time"]),
    plain("BY", &["/by"]),
    plain("STATUS", &["/status"]),
    plain("REQUEST", &["/request"]),
];

#[derive(Debug, Args)]
pub(crate) struct RecoveryPointArgs {
    #[command(flatten)]
    session: SessionArgs,
    #[command(subcommand)]
    command: RecoveryPointCommand,
}

#[derive(Debug, Subcommand)]
enum RecoveryPointCommand {
    /// List the recovery points of a machine, the newest first
    List {
        /// The protected machine
        machine: String,
        /// Only so many
        #[arg(long, default_value_t = 50, value_name = "NUMBER")]
        limit: usize,
    },
}

#[derive(Debug, Args)]
pub(crate) struct EventArgs {
    #[command(flatten)]
    session: SessionArgs,
    #[command(subcommand)]
    command: EventCommand,
}

#[derive(Debug, Subcommand)]
enum EventCommand {
    /// List events, the newest first
    List {
        /// Only those of this machine, site or component
        #[arg(long, value_name = "NAME")]
        of: Option<String>,
        /// Only those of these severities
        #[arg(long, value_enum, value_delimiter = ',')]
        severity: Vec<Severity>,
        /// Only so many
        #[arg(long, default_value_t = 50, value_name = "NUMBER")]
        limit: usize,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Severity {
    /// As it should be
    Information,
    /// Needs a look
    Warning,
    /// Somebody must do something
    Critical,
}

#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    #[command(flatten)]
    session: SessionArgs,
    #[command(subcommand)]
    command: AuditCommand,
}

#[derive(Debug, Subcommand)]
enum AuditCommand {
    /// List who asked for what and how it was answered, the newest first
    List {
        /// Only so many
        #[arg(long, default_value_t = 50, value_name = "NUMBER")]
        limit: usize,
    },
}

pub(crate) fn recovery_points(args: &RecoveryPointArgs) -> anyhow::Result<ExitCode> {
    let RecoveryPointCommand::List { machine, limit } = &args.command;
    session::run(&args.session, async |session| {
        let id = format!("{}/{}/recoveryPoints", path::MACHINES, path::encode(machine));
        let points = session.client.list(&session.client.id(&id), &[], Some(*limit)).await?;
        Ok(session.print_list(POINTS, &points))
    })
}

pub(crate) fn events(args: &EventArgs) -> anyhow::Result<ExitCode> {
    let EventCommand::List { of, severity, limit } = &args.command;
    session::run(&args.session, async |session| {
        let filter = filter(of.as_deref(), severity);
        let query = filter.as_deref().map(|filter| ("$filter", filter));
        let events =
            session.client.list(&session.client.id(path::EVENTS), query.as_slice(), Some(*limit)).await?;
        Ok(session.print_list(EVENTS, &events))
    })
}

fn filter(of: Option<&str>, severities: &[Severity]) -> Option<String> {
    let severities: Vec<_> = severities.iter().map(|severity| format!("{severity:?}")).collect();
    let severities = (!severities.is_empty()).then(|| format!("severity eq '{}'", severities.join(",")));
    let of = of.map(|of| format!("affectedObjectFriendlyName eq '{}'", of.replace('\'', "''")));
    let conditions: Vec<_> = [of, severities].into_iter().flatten().collect();
    (!conditions.is_empty()).then(|| conditions.join(" and "))
}

pub(crate) fn audit(args: &AuditArgs) -> anyhow::Result<ExitCode> {
    let AuditCommand::List { limit } = &args.command;
    session::run(&args.session, async |session| {
        let top = limit.to_string();
        let records =
            session.client.list(&session.client.id(path::AUDIT), &[("$top", &top)], Some(*limit)).await?;
        Ok(session.print_list(AUDIT, &records))
    })
}

#[cfg(test)]
mod tests {
    use super::{Severity, filter};

    #[test]
    fn events_are_filtered_by_the_server() {
        assert_eq!(filter(None, &[]), None);
        assert_eq!(
            filter(Some("web01"), &[Severity::Warning, Severity::Critical]).as_deref(),
            Some("affectedObjectFriendlyName eq 'web01' and severity eq 'Warning,Critical'")
        );
    }
}
