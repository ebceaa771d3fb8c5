//! The demo: two machines replicated, failed over, reprotected, failed back and reprotected, for real, on one host.
//!
//! What it is: a person at a keyboard, as a program. It starts each role as a process of its own, makes two local sites with machines in them, and then only
//! uses the command line that users have. What it never does: reach into the control plane, or believe it: what counts is found on the disks, from
//! outside ([`crate::inspect`]), and said by the guests on their consoles.
//!
//! | file | what |
//! |---|---|
//! | `roles` | the processes: started, killed, started again, ended |
//! | `command_line` | `switchback … --output json`, with time limits |
//! | `metrics` | what a monitoring fetches from the processes |
//! | `places` | the two sites and what is in them |
//! | `screen` | what a watching person sees |
//! | `table` | what was verified |
//! | `stage` | all of that together, and the waits and looks that the story is told in |
//! | `story` | the eight steps |
//! | `faults` | the other story: what fails around protected machines, and is noticed and mended |
//! | `vcenter`, `esx` | a vCenter at home, simulated but for the bytes of its disks |
//! | `vmware` | the third: home is a vCenter |
//! | `vmware_elsewhere` | the fourth: the original is gone, or another place is wanted |
//! | `azure` | the seventh: home is a vCenter, recovery is Azure |
//! | `azure_faults` | the eighth: a physical server, and what happens at Azure meanwhile |
//! | `physical` | the sixth: a physical server becomes a virtual machine |
//! | `sdk` | the ninth: the main story, driven by Microsoft's SDK |
//! | `proof` | the tenth: recovery points are proved in a sandbox |
//! | `portal` | the eleventh: the main story, by clicking in a browser |
//! | `client` | a program that a story is asked for by, in the place of the command line |
//! | `vmware_faults` | the fifth: what happens at the vCenter while a machine is replicated to it |

mod azure;
mod azure_faults;
mod client;
mod command_line;
mod esx;
mod faults;
mod metrics;
mod physical;
mod places;
mod portal;
mod proof;
mod roles;
mod screen;
mod sdk;
mod stage;
mod story;
mod table;
mod vcenter;
mod vmware;
mod vmware_elsewhere;
mod vmware_faults;

pub use command_line::{CommandLine, CommandLineError};
pub use portal::PICTURES;
pub use roles::{Role, Roles, RolesError};
pub use screen::Screen;
pub use sdk::RECORDED;
pub use table::{Check, Table};

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// What a demo runs on.
#[derive(Clone, Debug)]
pub struct Options {
    /// The `switchback` program: for the roles, for the guests and as command line.
    pub switchback: PathBuf,
    /// The `switchback-ledger` program.
    pub ledger: PathBuf,
    /// Where everything is kept while it runs; made if it is not there.
    pub directory: PathBuf,
    /// What is played.
    pub story: Story,
    /// Leave everything running at the end.
    pub keep: bool,
    /// Set: end as soon as possible.
    pub stop: Arc<AtomicBool>,
}

/// What is played.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Story {
    /// Protect, lose everything, come home.
    #[default]
    WholeCycle,
    /// The network between the sites is cut for more than a minute; a process server is lost for good and another takes its place; a machine gains a disk,
    /// another's grows.
    Faults,
    /// A virtual machine of a (simulated) vCenter is failed over to a local site and comes home to its original machine.
    Vmware,
    /// The original was deleted in the vCenter, the configuration server is restored meanwhile; then an alternate location.
    VmwareElsewhere,
    /// Snapshots, maintenance, detached disks, a wrong password, a master target that starts anew, while a machine is replicated home to a vCenter.
    VmwareFaults,
    /// A virtual machine of a vCenter is failed over to Azure and comes home; then it is replicated there again.
    Azure,
    /// A physical server is replicated to Azure whatever happens there, and comes home as a virtual machine.
    AzureFaults,
    /// Recovery points are booted in a sandbox: those that work, and one from after the machine was broken.
    Proof,
    /// A physical server is failed over, switching itself off, and comes home as a new virtual machine of a vCenter.
    Physical,
    /// What is asked for in the main story is asked for by Microsoft's SDKs for Azure Site Recovery: machine by machine, then by a recovery plan.
    Sdk,
    /// The same by a person with a browser: by clicking in the portal.
    Portal,
}

/// Plays the demo. Returns what was verified, and how far it came: an error is what it cannot go on after; a check that does not hold is in the
/// table instead.
pub fn run(options: &Options, screen: Screen) -> (Table, anyhow::Result<()>) {
    let mut stage = match stage::Stage::set(options, screen) {
        Ok(stage) => stage,
        Err(error) => return (Table::default(), Err(error)),
    };
    let played = match options.story {
        Story::WholeCycle => story::play(&mut stage),
        Story::Faults => faults::play(&mut stage),
        Story::Vmware => vmware::play(&mut stage),
        Story::VmwareElsewhere => vmware_elsewhere::play(&mut stage),
        Story::VmwareFaults => vmware_faults::play(&mut stage),
        Story::Azure => azure::play(&mut stage),
        Story::AzureFaults => azure_faults::play(&mut stage),
        Story::Physical => physical::play(&mut stage),
        Story::Sdk => sdk::play(&mut stage),
        Story::Portal => portal::play(&mut stage),
        Story::Proof => proof::play(&mut stage),
    };
    stage.end(played.is_ok() && options.keep);
    (stage.into_table(), played)
}
