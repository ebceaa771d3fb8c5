//! A sandbox that a master target runs itself, as far as a configuration server sees it.

use switchback_model::UnixMillis;
use switchback_model::component::{Problem, SandboxDesired, SandboxSeen, SandboxState};
use switchback_sites::Sight;

/// What a master target has of them.
#[derive(Debug, Default)]
pub(crate) struct Sandboxes {
    /// With the time of its start.
    pub(crate) running: Option<(SandboxDesired, UnixMillis)>,
    /// Why it starts none.
    pub(crate) refuses: Option<Problem>,
    /// They go off by themselves.
    pub(crate) are_off: bool,
    /// It tells nothing of them.
    pub(crate) is_silent: bool,
}

impl Sandboxes {
    /// As it is desired; what is told of it then.
    pub(crate) fn follow(
        &mut self,
        wanted: Option<SandboxDesired>,
        now: UnixMillis,
        (console, sight): (String, Sight),
    ) -> Option<SandboxSeen> {
        let Some(wanted) = wanted else {
            self.running = None;
            return None;
        };
        let is_new = self.running.as_ref().is_none_or(|(running, _)| *running != wanted);
        if is_new {
            self.running = Some((wanted, now));
        }
        let (running, started) = self.running.as_ref()?;
        let state = match &self.refuses {
            Some(problem) => SandboxState::Refused { problem: problem.clone() },
            None if is_new => SandboxState::Starting,
            None if self.are_off => SandboxState::Off,
            None => SandboxState::Runs,
        };
        let picture = if sight.picture.is_empty() { String::new() } else { "iVBORw==".into() };
        let seen = SandboxSeen {
            id: running.id.clone(),
            state,
            started: *started,
            memory_mib: running.plan.memory_mib,
            console,
            screen: sight.text,
            picture,
            failed_requests: sight.failed_requests,
        };
        Some(seen).filter(|_| !self.is_silent)
    }
}
