//! Another process server for a machine: the one it had is lost, is too far away or has too much to do.
//!
//! What the former one had taken and not yet delivered is not lost: the agent knows which point was acknowledged last, finds that the replica is
//! not there yet, and compares. A former one that is alive delivers nothing more: the master target takes data from the new one only.

use switchback_identity::Role;
use switchback_model::{ItemOperation, JobRequest};

use super::protect::choose_server;
use super::step::{Outcome, Step, Work};
use crate::ControlError;

pub(crate) fn steps() -> Vec<Step> {
    vec![
        Step::new("SwitchProcessServerCheckTask", "Prerequisite check", check),
        Step::new("SwitchProcessServerTask", "Switching the process server", switch).no_return(),
    ]
}

fn wanted<'a>(work: &'a Work<'_>) -> Option<&'a str> {
    match &work.job.request {
        JobRequest::Operate { operation: ItemOperation::SwitchProcessServer { process_server }, .. } => {
            Some(process_server)
        }
        _ => None,
    }
}

/// It must report, from the site at which the machine runs.
fn check(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let item = work.item()?.value;
    choose_server(work, Role::ProcessServer, &item.active().site, wanted(work))?;
    Ok(Outcome::done())
}

fn switch(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let mut item = work.item()?;
    let site = item.value.active().site.clone();
    let chosen = choose_server(work, Role::ProcessServer, &site, wanted(work))?;
    let name = item.value.name.clone();
    let Some(path) = item.value.replication.as_mut() else {
        return Ok(Outcome::Skipped(format!("nothing of {name} replicates")));
    };
    if path.process_server == chosen {
        return Ok(Outcome::Skipped(format!("{name} sends through {chosen} already")));
    }
    let former = std::mem::replace(&mut path.process_server, chosen.clone());
    work.change(&item);
    Ok(Outcome::Done(format!("{name} sends through {chosen} from now on, not through {former}")))
}
