//! Making sure that an instance is off, and saying so only when it is.

use std::time::Duration;

use switchback_model::Instance;
use switchback_sites::{Power, SiteError};

use super::step::Work;
use crate::{ControlError, ErrorKind};

/// How long a guest may take to shut down before its power is cut.
const SHUT_DOWN_LIMIT: Duration = Duration::from_secs(90);

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
