//! A mobility agent goes on as the configuration server's own version, while its machine runs and goes on being tracked.
//!
//! The agent is offered the program, fetches it, checks its digest and whether it runs, and becomes it; it has done so when it reports as that. One that does not,
//! says why, and goes on as what it was: see the agent's `update`. What never happens here: a machine that is not heard of counts as updated.

use switchback_model::component::ProgramState;

use super::step::{Outcome, Step, Work, failure};
use crate::{ControlError, ErrorKind};

/// Seconds that it may take: some 50 MB, at 100 kB/s.
const LIMIT_S: u64 = 600;

pub(crate) fn steps() -> Vec<Step> {
    vec![
        Step::new("UpdateMobilityServiceOfferTask", "Offering the program to the agent", offer)
            .undo(withdraw),
        Step::new("UpdateMobilityServiceTask", "Waiting for the agent to run it", wait_until_it_runs)
            .undo_on_failure(),
    ]
}

fn offer(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let mut item = work.item()?;
    work.control.offered_program()?;
    let agent = work.control.agent_report(&item.value.agent, &item.value.active().system_uuid)?;
    if !agent.is_some_and(|report| report.is_alive(work.now())) {
        let message = format!("nothing is heard of the mobility agent of {}", item.value.name);
        return Err(failure(
            ErrorKind::Unavailable,
            "agent.silent",
            message,
            "the machine is off, or its network is cut",
            "start the agent, then restart the job",
        ));
    }
    // Another one at each attempt: what has failed under one is not tried again.
    item.value.agent_update = Some(crate::access::random_hex(8)?);
    work.change(&item);
    Ok(Outcome::done())
}

fn withdraw(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let mut item = work.item()?;
    item.value.agent_update = None;
    work.change(&item);
    Ok(Outcome::done())
}

fn wait_until_it_runs(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let mut item = work.item()?;
    let offered = work.control.offered_program()?;
    let report = work.control.agent_report(&item.value.agent, &item.value.active().system_uuid)?;
    let build = report.as_ref().map(|report| report.report.build.clone()).unwrap_or_default();
    let state = report.and_then(|report| report.agent()?.program.clone());
    let state = state.filter(|state| Some(&state.token) == item.value.agent_update.as_ref());
    match state {
        Some(ProgramState { sha256, .. }) if sha256 == offered.sha256() => {
            item.value.agent_update = None;
            work.change(&item);
            Ok(Outcome::Done(format!("the agent of {} runs {build}", item.value.name)))
        }
        Some(ProgramState { failure: Some(why), .. }) => Err(failure(
            ErrorKind::IllegalState,
            "agent.update-failed",
            format!("the agent of {} goes on as {build}: {why}", item.value.name),
            "what the agent says",
            "put it right and restart the job, or install the package in the machine",
        )),
        state => {
            let fetched = state.map_or(0, |state| state.fetched);
            let message = format!(
                "the agent of {} has {} of {} MiB",
                item.value.name,
                fetched >> 20,
                offered.len() >> 20
            );
            let outcome = work.wait_for(message.clone(), LIMIT_S, || {
                failure(
                    ErrorKind::Unavailable,
                    "agent.update-late",
                    format!("within {LIMIT_S} s it was not heard that the agent of {} runs the new version: it had {} of {} MiB", item.value.name, fetched >> 20, offered.len() >> 20),
                    "the way to it is slow or cut, or its version knows no updates",
                    "restart the job, or install the package in the machine",
                )
            })?;
            let percent = u8::try_from(fetched * 100 / offered.len().max(1)).ok();
            Ok(match outcome {
                Outcome::Wait { message, pause_ms, .. } => Outcome::Wait { message, percent, pause_ms },
                other => other,
            })
        }
    }
}
