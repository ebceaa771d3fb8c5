//! Making sure that an instance is off, and saying so only when it is.
//!
//! A site is asked for its machines. A physical server is asked itself, through its mobility agent: it says that it switches itself off, and is taken for off when
//! nothing has come from it since.

use std::time::Duration;

use switchback_model::Instance;
use switchback_model::component::PowerOff;
use switchback_sites::{Power, SiteError};

use super::step::{Outcome, Work, failure};
use crate::physical::is_off;
use crate::{ControlError, ErrorKind};

/// How long a guest may take to shut down before its power is cut.
const SHUT_DOWN_LIMIT: Duration = Duration::from_secs(90);

/// Seconds for a physical server to switch itself off.
const SWITCH_OFF_LIMIT_S: u64 = 180;

/// How to turn a machine off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// The guest is asked first.
    Orderly,
    /// At once: it stands still already, or nothing it does counts any more.
    AtOnce,
}

/// Turns an instance off, and verifies it. One that does not exist is off. Returns what was done, in words.
pub(crate) fn ensure_off(
    work: &Work<'_>,
    instance: &Instance,
    manner: Manner,
) -> Result<String, ControlError> {
    let Some(id) = &instance.id else { return Ok(format!("there is no instance at {}", instance.site)) };
    let site = work.site(&instance.site)?;
    match site.machine(id) {
        Err(SiteError::NoSuchMachine { .. }) => {
            return Ok(format!("there is no instance at {} any more", instance.site));
        }
        Err(error) => return Err(error.into()),
        Ok(machine) if machine.power == Power::Off => {
            return Ok(format!("{id} at {} was off", instance.site));
        }
        Ok(_) => {}
    }
    let orderly = manner == Manner::Orderly && site.shut_down(id, SHUT_DOWN_LIMIT)?;
    if !orderly {
        site.power_off(id)?;
    }
    // Not what was asked for counts, but what is.
    match site.machine(id)?.power {
        Power::Off if orderly => Ok(format!("{id} at {} has shut down, and is verified off", instance.site)),
        Power::Off => Ok(format!("the power of {id} at {} was cut, and it is verified off", instance.site)),
        Power::On => Err(ControlError::new(
            ErrorKind::Unavailable,
            "machine.not-off",
            format!("{id} at {} still runs", instance.site),
        )
        .cause("the site did not turn it off, or something started it again")
        .remedy("turn it off at the site, then restart the job")),
    }
}

/// Has the physical server that is the machine switch itself off: in order, or at once while it stands still after its last cycle.
pub(crate) fn switch_itself_off(work: &mut Work<'_>, standing_still: bool) -> Result<Outcome, ControlError> {
    let mut item = work.item()?;
    let report = work.control.agent_report(&item.value.agent, &item.value.active().system_uuid)?;
    let agent = report.as_ref().and_then(|report| report.agent());
    let token = work.job.id.to_string();
    if item.value.power_off.as_ref().map(|asked| &asked.token) != Some(&token) {
        let boot_id = agent.map(|agent| agent.boot_id.clone()).unwrap_or_default();
        item.value.power_off = Some(PowerOff { token, boot_id, standing_still });
        work.change(&item);
        return Ok(Outcome::wait(format!("{} is asked to switch itself off", item.value.name)));
    }
    let said = agent.is_some_and(|agent| agent.powering_off.as_ref() == Some(&token));
    if said && report.as_ref().is_some_and(|report| is_off(report, work.now())) {
        return Ok(Outcome::Done(format!(
            "{} said that it switches itself off, and has been silent since",
            item.value.name
        )));
    }
    let waits = if said { "nothing more must come from it" } else { "it has not said yet that it does" };
    work.wait_for(format!("the physical server switches itself off: {waits}"), SWITCH_OFF_LIMIT_S, || {
        failure(
            ErrorKind::Unavailable,
            "machine.not-off",
            format!("the physical server {} has not switched itself off", item.value.name),
            "its mobility agent does not report, or the server hangs",
            "look at the server; make an unplanned failover if it cannot be saved, and switch it off by hand",
        )
    })
}
