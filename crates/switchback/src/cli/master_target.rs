//! `switchback master-target`: keeps replicas at a site, as its configuration server says; `check` and `prepare` make its host fit for it.

mod check;
mod prepare;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use switchback_identity::Role;

use super::component::ComponentArgs;
use super::network::ListenArgs;
use super::receive::usable_key_file;
use crate::engine::Stop;
use crate::role::master_target::{self, MasterTargetConfig};

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct MasterTargetArgs {
    #[command(subcommand)]
    command: Option<MasterTargetCommand>,
    /// HOST:PORT of the configuration server; again for each other address it may have
    #[arg(long = "server", required = true, value_delimiter = ',', value_name = "HOST:PORT")]
    servers: Vec<String>,
    /// The site it serves
    #[arg(long, required = true)]
    site: Option<String>,
    /// The retention drive: history, and points shown for test failovers
    #[arg(long, required = true, value_name = "DIRECTORY")]
    data: Option<PathBuf>,
    /// Encrypt the history of new replicas under the key in this file (`switchback identity storage-key` makes one)
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// SMBIOS UUID of the virtual machine it runs in, to which its site attaches disks [default: as the firmware tells]
    #[arg(long, value_name = "UUID")]
    machine_uuid: Option<String>,
    /// The QEMU in which recovery points are proved, where the site has no sandboxes
    #[arg(long, value_name = "PROGRAM", default_value = "qemu-system-x86_64")]
    qemu: PathBuf,
    #[command(flatten)]
    component: ComponentArgs,
    /// How others reach it, if that is another address than it listens on
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    #[command(flatten)]
    listen: ListenArgs,
}

#[derive(Debug, Subcommand)]
enum MasterTargetCommand {
    /// Whether this host is fit for a master target, check by check; changes nothing
    Check(check::CheckArgs),
    /// Make this host fit for a master target: packages, the retention drive, LVM, FUSE; as often as you like
    Prepare(prepare::PrepareArgs),
}

pub(crate) fn run(args: &MasterTargetArgs) -> anyhow::Result<ExitCode> {
    match &args.command {
        Some(MasterTargetCommand::Check(args)) => check::run(args),
        Some(MasterTargetCommand::Prepare(args)) => prepare::run(args),
        None => serve(args),
    }
}

fn serve(args: &MasterTargetArgs) -> anyhow::Result<ExitCode> {
    // Required, unless there is a subcommand.
    let (site, data) = args.site.as_ref().zip(args.data.as_ref()).context("--site and --data are missing")?;
    let stop = Stop::default();
    super::stop_on_interrupt(&stop)?;
    let role =
        args.component.role(Role::Target, &args.servers, (site, data), &args.listen.identity, &stop)?;
    let key_file = args.key_file.as_deref().map(usable_key_file).transpose()?;
    println!("the master target {} of {}", role.credentials.current().identity(), site);
    master_target::run(
        MasterTargetConfig {
            role,
            port: args.listen.port(args.advertise.as_deref()),
            key_file,
            machine_uuid: args.machine_uuid.as_ref().map(|uuid| uuid.to_ascii_lowercase()),
            qemu: args.qemu.clone(),
        },
        &stop,
    )?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::{MasterTargetArgs, MasterTargetCommand};

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        args: MasterTargetArgs,
    }

    fn parsed(line: &str) -> Result<MasterTargetArgs, clap::Error> {
        Program::try_parse_from(["x"].into_iter().chain(line.split_whitespace())).map(|program| program.args)
    }

    #[test]
    fn it_serves_unless_told_to_look_at_its_host() {
        let serving = parsed("--server a:1 --site s --data /d").unwrap();
        assert!(serving.command.is_none() && serving.site.as_deref() == Some("s"));
        let checking = parsed("check --retention /d").unwrap();
        assert!(matches!(checking.command, Some(MasterTargetCommand::Check(_))));
        for wrong in ["", "--server a:1 --site s", "--server a:1 --site s --data /d check"] {
            assert!(parsed(wrong).is_err(), "{wrong:?}");
        }
    }
}
