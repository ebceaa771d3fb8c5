//! Switching the machine off, when nothing else can: a physical server has no hypervisor.
//!
//! The path of one request: it is for this boot; the agent says that it follows it, and does so when that has had time to arrive. One for a machine that is to stand
//! still is followed only while it does: then nothing is written on the way, as nothing is synced.

use std::process::Command;
use std::time::{Duration, Instant};

use rustix::system::{RebootCommand, reboot};
use switchback_model::component::PowerOff;

/// For the report that says so.
const ANNOUNCED_FOR: Duration = Duration::from_secs(2);

/// What the agent knows of requests.
#[derive(Debug, Default)]
pub(super) struct Power {
    announced: Option<(String, Instant)>,
    followed: bool,
}

/// What is to be done about a request now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Nothing,
    /// Say that it is being followed.
    Announce,
    Follow,
}

impl Power {
    /// The request that is being followed.
    pub(super) fn announced(&self) -> Option<String> {
        self.announced.as_ref().map(|(token, _)| token.clone())
    }

    /// One look at a request, in a machine of this boot that stands still or not.
    pub(super) fn look(
        &mut self,
        wanted: Option<&PowerOff>,
        boot_id: &str,
        stands_still: bool,
        now: Instant,
    ) -> Next {
        let wanted = wanted.filter(|wanted| {
            wanted.boot_id == boot_id && (stands_still || !wanted.standing_still) && !self.followed
        });
        let Some(wanted) = wanted else {
            if !self.followed {
                self.announced = None;
            }
            return Next::Nothing;
        };
        match &self.announced {
            Some((token, since)) if *token == wanted.token => {
                if now.duration_since(*since) < ANNOUNCED_FOR {
                    return Next::Nothing;
                }
                self.followed = true;
                Next::Follow
            }
            _ => {
                self.announced = Some((wanted.token.clone(), now));
                Next::Announce
            }
        }
    }

    /// It could not be done, and the machine goes on.
    pub(super) fn failed(&mut self) {
        *self = Self::default();
    }
}

/// Switches this machine off. `standing_still`: at once, without writing anything.
///
/// # Errors
/// What the kernel or the command says; the machine runs on.
pub(super) fn off(standing_still: bool) -> Result<(), String> {
    if standing_still {
        return reboot(RebootCommand::PowerOff).map_err(|error| error.to_string());
    }
    let status = Command::new("poweroff").status().map_err(|error| format!("poweroff: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("poweroff: {status}")) }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use switchback_model::component::PowerOff;

    use super::{ANNOUNCED_FOR, Next, Power};

    fn wanted(standing_still: bool) -> PowerOff {
        PowerOff { token: "t".into(), boot_id: "b".into(), standing_still }
    }

    #[test]
    fn it_is_said_first_and_done_once() {
        let (mut power, now) = (Power::default(), Instant::now());
        let wanted = wanted(false);
        assert_eq!(power.look(Some(&wanted), "b", false, now), Next::Announce);
        assert_eq!(power.announced().as_deref(), Some("t"));
        assert_eq!(power.look(Some(&wanted), "b", false, now), Next::Nothing, "it has not arrived yet");
        assert_eq!(power.look(Some(&wanted), "b", false, now + ANNOUNCED_FOR), Next::Follow);
        assert_eq!(power.look(Some(&wanted), "b", false, now + ANNOUNCED_FOR), Next::Nothing);
        assert_eq!(power.announced().as_deref(), Some("t"), "it goes down with this said");
        power.failed();
        assert_eq!(power.announced(), None);
    }

    #[test]
    fn another_boot_is_not_meant() {
        let mut power = Power::default();
        assert_eq!(power.look(Some(&wanted(false)), "another", false, Instant::now()), Next::Nothing);
        assert_eq!(power.announced(), None);
    }

    #[test]
    fn a_machine_that_is_to_stand_still_is_cut_off_only_while_it_does() {
        let (mut power, now) = (Power::default(), Instant::now());
        let wanted = wanted(true);
        assert_eq!(power.look(Some(&wanted), "b", false, now), Next::Nothing);
        assert_eq!(power.look(Some(&wanted), "b", true, now), Next::Announce);
        assert_eq!(
            power.look(Some(&wanted), "b", false, now + ANNOUNCED_FOR),
            Next::Nothing,
            "it has thawed"
        );
        assert_eq!(power.announced(), None, "and says so no more");
        assert_eq!(power.look(None, "b", true, now), Next::Nothing);
    }
}
