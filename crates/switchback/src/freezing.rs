//! Consistent moments of a machine whose file systems are frozen for them.
//!
//! The helper process that freezes is this program again (`switchback freeze-helper`); it is started once, and again if it is lost.
//! Mounted file systems are looked up anew for each moment: they come and go.

use std::collections::BTreeSet;
use std::process::Command;

use switchback_capture::devices::{DeviceNumber, MountedFileSystem, Sysfs, mounted_on};
use switchback_capture::freeze::{FreezeError, FreezeHelper};
use switchback_capture::moment::{MomentFailure, take_moment};
use switchback_capture::scripts::Scripts;
use switchback_model::Consistency;

use crate::engine::{Frozen, MomentError, MomentTaker, Unfrozen};
use crate::frozen_log::Hush;
use crate::machine::MomentOptions;

/// Freezes the file systems on some disks. See the module's header.
#[derive(Debug)]
pub(crate) struct Freezing {
    disks: BTreeSet<DeviceNumber>,
    options: MomentOptions,
    helper: Option<FreezeHelper>,
}

impl Freezing {
    pub(crate) fn new(disks: BTreeSet<DeviceNumber>, options: MomentOptions) -> Self {
        Self { disks, options, helper: None }
    }

    /// How the next moments are taken.
    pub(crate) fn set_options(&mut self, options: MomentOptions) {
        self.options = options;
    }

    fn attempt(
        &mut self,
        file_systems: &[MountedFileSystem],
        scripts: &Scripts,
        while_frozen: &mut dyn FnMut() -> Result<(), MomentError>,
    ) -> Result<Frozen, MomentFailure<MomentError>> {
        let helper = match &mut self.helper {
            Some(helper) => helper,
            none => none.insert(spawn_helper().map_err(MomentFailure::Freeze)?),
        };
        let hush = Hush::new();
        let taken = take_moment(helper, file_systems, self.options.freeze_budget, scripts, while_frozen);
        drop(hush);
        match taken {
            Ok(moment) => {
                if let Some(error) = moment.post_thaw {
                    tracing::error!(%error, "the post-thaw script failed: applications may still be held back");
                }
                let consistency = if moment.app_consistent {
                    Consistency::AppConsistent
                } else {
                    Consistency::CrashConsistent
                };
                Ok(Frozen { consistency, frozen: moment.frozen_for, group_tag: None })
            }
            Err(error) => {
                if let Some(error) = error.post_thaw {
                    tracing::error!(%error, "the post-thaw script failed: applications may still be held back");
                }
                Err(error.failure)
            }
        }
    }
}

impl MomentTaker for Freezing {
    fn take(
        &mut self,
        while_frozen: &mut dyn FnMut() -> Result<(), MomentError>,
    ) -> Result<Frozen, MomentError> {
        let file_systems =
            mounted_on(&Sysfs::default(), &self.disks).map_err(|e| MomentError::Void(e.to_string()))?;
        let scripts = self.options.scripts.clone();
        let no_scripts =
            scripts.pre_freeze.is_none() && scripts.while_frozen.is_none() && scripts.post_thaw.is_none();
        if file_systems.is_empty() && no_scripts {
            return Unfrozen.take(while_frozen);
        }
        let mut taken = self.attempt(&file_systems, &scripts, while_frozen);
        if let Err(MomentFailure::PreFreeze(error)) = &taken {
            tracing::error!(%error, "the pre-freeze script failed: this point will be crash-consistent only");
            let without = Scripts { pre_freeze: None, post_thaw: None, ..scripts };
            taken = self.attempt(&file_systems, &without, while_frozen);
        }
        taken.map_err(|failure| match failure {
            MomentFailure::Work(error) => error,
            other => {
                if matches!(
                    other,
                    MomentFailure::Freeze(FreezeError::HelperLost(_)) | MomentFailure::Thawed(_)
                ) {
                    self.helper = None;
                }
                MomentError::Void(chain(&other))
            }
        })
    }
}

pub(crate) fn spawn_helper() -> Result<FreezeHelper, FreezeError> {
    let program = std::env::current_exe().map_err(FreezeError::Spawn)?;
    let mut command = Command::new(program);
    command.arg("freeze-helper");
    FreezeHelper::spawn(command)
}

/// An error and its causes, each once.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.contains(&part) {
            text = format!("{text}: {part}");
        }
        cause = error.source();
    }
    text
}
