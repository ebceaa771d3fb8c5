//! Makes a host ready, step by step.
//!
//! Each step says what it would do, or that there is nothing to do; does it; and is asked again: one that then still has something to do has
//! failed. So a second run does nothing, and one that was interrupted anywhere goes on from there.

use std::fs;
use std::path::{Path, PathBuf};

use switchback_model::JobError;

use super::drive::{self, Drive, error, run};
use super::lvm::{self, Guard};
use super::packages::{family, install, missing_packages};
use super::{Host, LOOK_TIME_MAX, fstab};

/// Loads the module when the host starts, modules-load.d(5).
const MODULES: &str = "etc/modules-load.d/switchback.conf";

/// The retention drive as it is to be.
#[derive(Clone, Debug)]
pub struct Retention {
    /// The whole disk.
    pub device: PathBuf,
    /// Where it is to be mounted; absolute.
    pub mount_point: PathBuf,
}

/// One thing to be made so.
#[derive(Clone, Debug)]
pub enum Step {
    /// Programs are installed.
    Packages,
    /// FUSE is there, also after a restart.
    Fuse,
    /// LVM looks at the host's own disks only.
    VolumeGroups,
    /// The retention drive has its partition.
    Partition(Retention),
    /// … and its file system.
    FileSystem(Retention),
    /// … is mounted whenever the host starts,
    Table(Retention),
    /// … and now.
    Mount(Retention),
}

/// What was done.
#[derive(Debug, Default)]
pub struct Outcome {
    /// In this order.
    pub done: Vec<String>,
    /// Why it ended early, and what it would have done else.
    pub failed: Option<(String, JobError)>,
}

/// The steps of the system, and with a retention drive those of that.
#[must_use]
pub fn steps(system: bool, retention: Option<&Retention>) -> Vec<Step> {
    let mut steps = if system { vec![Step::Packages, Step::Fuse, Step::VolumeGroups] } else { Vec::new() };
    if let Some(retention) = retention {
        let all = [Step::Partition, Step::FileSystem, Step::Table, Step::Mount];
        steps.extend(all.map(|step| step(retention.clone())));
    }
    steps
}

/// What would be done.
///
/// # Errors
/// What stands in the way; nothing has been done.
pub fn plan(host: &Host, steps: &[Step]) -> Result<Vec<String>, JobError> {
    steps.iter().filter_map(|step| step.needed(host).transpose()).collect()
}

/// Does it, and ends at the first step that fails.
pub fn apply(host: &Host, steps: &[Step]) -> Outcome {
    let mut outcome = Outcome::default();
    for step in steps {
        let what = match step.needed(host) {
            Ok(None) => continue,
            Ok(Some(what)) => what,
            Err(error) => {
                outcome.failed = Some(("look at what is there".into(), error));
                break;
            }
        };
        let proved = step.apply(host).and_then(|()| match step.needed(host)? {
            None => Ok(()),
            Some(_) => Err(error(
                "master-target.no-effect",
                "it was done, but is not so".into(),
                "another program works against it",
                "look for it, and run this again",
            )),
        });
        match proved {
            Ok(()) => outcome.done.push(what),
            Err(error) => {
                outcome.failed = Some((what, error));
                break;
            }
        }
    }
    outcome
}

impl Step {
    /// What it would do; `None`: nothing.
    fn needed(&self, host: &Host) -> Result<Option<String>, JobError> {
        match self {
            Self::Packages => packages_needed(host),
            Self::Fuse => Ok((!host.has("dev/fuse"))
                .then(|| format!("load the kernel's module fuse, now and in /{MODULES}"))),
            Self::VolumeGroups => volume_groups_needed(host),
            Self::Partition(wanted) => Ok(match drive::judge(&wanted.device)? {
                Drive::Empty => Some(format!(
                    "partition {}, which is empty: all of it becomes the retention drive",
                    wanted.device.display()
                )),
                _ => None,
            }),
            Self::FileSystem(wanted) => Ok(match drive::judge(&wanted.device)? {
                Drive::Ours { .. } => None,
                _ => Some(format!("make an XFS file system on its partition, label {}", drive::LABEL)),
            }),
            Self::Table(wanted) => wanted.entry(host).map(|new| {
                new.map(|_| {
                    format!(
                        "mount it by UUID at {} in {}",
                        wanted.mount_point.display(),
                        host.fstab.display()
                    )
                })
            }),
            Self::Mount(wanted) => wanted
                .is_mounted(host)
                .map(|is| (!is).then(|| format!("mount it at {}", wanted.mount_point.display()))),
        }
    }

    fn apply(&self, host: &Host) -> Result<(), JobError> {
        match self {
            Self::Packages => match family(&host.text("etc/os-release")) {
                Some(family) => install(host, family, &missing_packages(host, family)),
                None => Ok(()),
            },
            Self::Fuse => load_fuse(host),
            Self::VolumeGroups => lvm::close(host),
            Self::Partition(wanted) => match drive::judge(&wanted.device)? {
                Drive::Empty => drive::partition(&wanted.device),
                _ => Ok(()),
            },
            Self::FileSystem(wanted) => match drive::judge(&wanted.device)? {
                Drive::Partitioned { partition } => drive::format(&wanted.device, &partition),
                _ => Ok(()),
            },
            Self::Table(wanted) => wanted.write_entry(host),
            Self::Mount(wanted) => wanted.mount(),
        }
    }
}

fn packages_needed(host: &Host) -> Result<Option<String>, JobError> {
    // What an unknown distribution misses is the checks' to say.
    let Some(family) = family(&host.text("etc/os-release")) else { return Ok(None) };
    let packages = missing_packages(host, family);
    Ok((!packages.is_empty()).then(|| format!("install {}", packages.join(", "))))
}

fn volume_groups_needed(host: &Host) -> Result<Option<String>, JobError> {
    if lvm::guard(host) != Guard::Open {
        return Ok(None);
    }
    let own = lvm::own_disks(host)?;
    let own = if own.is_empty() {
        "at no disk, as it uses none now".into()
    } else {
        format!("only at those it uses now: {}", own.join(", "))
    };
    Ok(Some(format!(
        "write into /etc/lvm/lvmlocal.conf that LVM looks {own} (are replicated disks among them, detach those first)"
    )))
}

fn load_fuse(host: &Host) -> Result<(), JobError> {
    run("modprobe", &["fuse"], "", LOOK_TIME_MAX)?;
    let folder = host.path("etc/modules-load.d");
    let write = fs::create_dir_all(folder).and_then(|()| fstab::write(&host.path(MODULES), "fuse\n"));
    write.map_err(|error| cannot_write(&host.path(MODULES), &error))
}

fn cannot_write(path: &Path, found: &std::io::Error) -> JobError {
    let message = format!("{} cannot be written: {found}", path.display());
    error(
        "master-target.write",
        message,
        "the file system is read-only or full",
        "repair that, and run this again",
    )
}

impl Retention {
    fn in_the_way(message: String) -> JobError {
        let cause = "the place is used by something else";
        error(
            "master-target.mount-point",
            message,
            cause,
            "choose another place with --retention, or free this one",
        )
    }

    fn place(&self) -> Result<&str, JobError> {
        let place = self.mount_point.to_str().filter(|place| place.starts_with('/') && !place.contains('\n'));
        place.ok_or_else(|| Self::in_the_way(format!("{} is no absolute path", self.mount_point.display())))
    }

    /// The new table, if it needs one. Also before the drive is made: what stands in the way is better known then.
    fn entry(&self, host: &Host) -> Result<Option<String>, JobError> {
        let uuid = match drive::judge(&self.device)? {
            Drive::Ours { uuid, .. } => uuid,
            Drive::Empty | Drive::Partitioned { .. } => "to-be-made".into(),
        };
        let table = match fs::read_to_string(&host.fstab) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            read => read.map_err(|error| cannot_write(&host.fstab, &error))?,
        };
        fstab::with_entry(&table, &uuid, self.place()?).map_err(|other| {
            let (table, place) = (host.fstab.display(), &other.mount_point);
            Self::in_the_way(format!("{table} says that {} is mounted at {place}", other.source))
        })
    }

    fn write_entry(&self, host: &Host) -> Result<(), JobError> {
        // Never of a drive without a UUID.
        let (Drive::Ours { .. }, Some(table)) = (drive::judge(&self.device)?, self.entry(host)?) else {
            return Ok(());
        };
        fstab::write(&host.fstab, &table).map_err(|error| cannot_write(&host.fstab, &error))?;
        if host.has_systemd() {
            // It makes its units from the table; with the old ones it could unmount what is mounted next.
            run("systemctl", &["daemon-reload"], "", LOOK_TIME_MAX)?;
        }
        Ok(())
    }

    fn is_mounted(&self, host: &Host) -> Result<bool, JobError> {
        let place = Path::new(self.place()?);
        let full = fs::canonicalize(place).unwrap_or_else(|_| place.to_owned());
        let there = host.mounts().into_iter().rfind(|mount| Path::new(&mount.mount_point) == full);
        let number = match drive::judge(&self.device)? {
            Drive::Ours { partition, .. } => device_number(host, &partition),
            Drive::Empty | Drive::Partitioned { .. } => String::new(),
        };
        match there {
            Some(mount) if !number.is_empty() && mount.device == number => return Ok(true),
            Some(mount) => {
                return Err(Self::in_the_way(format!("{} is mounted at {}", mount.source, place.display())));
            }
            None => {}
        }
        let elsewhere = host.mounts().into_iter().find(|mount| !number.is_empty() && mount.device == number);
        if let Some(mount) = elsewhere {
            return Err(Self::in_the_way(format!("the retention drive is mounted at {}", mount.mount_point)));
        }
        let mut within = fs::read_dir(&full).into_iter().flatten();
        if within.next().is_some() || full.is_file() {
            return Err(Self::in_the_way(format!(
                "{} is not empty; a mount would hide what is in it",
                place.display()
            )));
        }
        Ok(false)
    }

    fn mount(&self) -> Result<(), JobError> {
        let Drive::Ours { partition, .. } = drive::judge(&self.device)? else { return Ok(()) };
        drive::appear(&self.device, &partition)?;
        let place = self.place()?;
        fs::create_dir_all(place).map_err(|error| cannot_write(&self.mount_point, &error))?;
        let options = ["--types", "xfs", "--options", "noatime", &partition.to_string_lossy(), place];
        run("mount", &options, "", LOOK_TIME_MAX * 3).map(drop)
    }
}

/// `MAJOR:MINOR` of a node; empty when the kernel does not know it.
fn device_number(host: &Host, node: &Path) -> String {
    let name = node.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    host.text(format!("sys/class/block/{name}/dev"))
}
