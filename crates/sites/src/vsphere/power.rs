//! Machines started and stopped.

use std::thread::sleep;
use std::time::{Duration, Instant};

use super::soap::Xml;
use super::{VmPower, VsphereSite, failed};
use crate::SiteError;

/// Between two looks at a guest that shuts down.
const LOOK: Duration = Duration::from_millis(500);

impl VsphereSite {
    /// A suspended machine goes on where it was.
    pub(super) fn start(&self, id: &str) -> Result<(), SiteError> {
        let machine = self.find(id)?;
        if machine.power == VmPower::On {
            return Ok(());
        }
        match self.session.task(&machine.object, "PowerOnVM_Task", Xml::new()) {
            // Somebody else was faster.
            Err(error) if error.is("InvalidPowerState") && self.find(id)?.power == VmPower::On => Ok(()),
            result => result.map(drop).map_err(failed(format!("starting {id}"))),
        }
    }

    pub(super) fn cut_power(&self, id: &str) -> Result<(), SiteError> {
        let machine = self.find(id)?;
        if machine.is_surely_off() {
            return Ok(());
        }
        let result = self.session.task(&machine.object, "PowerOffVM_Task", Xml::new());
        // Whatever the task says, what counts is how the machine is.
        if self.find(id)?.is_surely_off() {
            return Ok(());
        }
        let action = format!("cutting the power of {id}");
        match result {
            Err(error) => Err(failed(action)(error)),
            Ok(_) => {
                Err(SiteError::passing(action, "the server says it is done, and the machine is not off"))
            }
        }
    }

    pub(super) fn ask_guest_to_stop(&self, id: &str, limit: Duration) -> Result<bool, SiteError> {
        let until = Instant::now() + limit;
        let mut is_asked = false;
        loop {
            let machine = self.find(id)?;
            if machine.is_surely_off() {
                return Ok(true);
            }
            // A guest that is still booting hears it as soon as its tools run.
            if !is_asked && machine.guest.tools_run {
                match self.session.change(&machine.object, "ShutdownGuest", Xml::new()) {
                    Ok(_) => is_asked = true,
                    Err(error) if error.is("ToolsUnavailable") || error.is("InvalidPowerState") => {}
                    Err(error) => return Err(failed(format!("asking {id} to shut down"))(error)),
                }
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            sleep(LOOK.min(left));
        }
    }
}
