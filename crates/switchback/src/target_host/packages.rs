//! Programs that a master target's host needs, and the packages they are in.

use std::time::Duration;

use switchback_model::JobError;

use super::Host;
use super::drive::{error, run};
use super::facts::value;

/// Fetching and unpacking packages over a slow line.
const INSTALL_TIME_MAX: Duration = Duration::from_secs(30 * 60);

/// Distributions that name packages, and install them, in one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Debian,
    RedHat,
    Suse,
}

/// From os-release(5): what it is, or is like.
pub(super) fn family(os_release: &str) -> Option<Family> {
    let ids = format!("{} {}", value(os_release, "ID"), value(os_release, "ID_LIKE"));
    ids.split_whitespace().find_map(|id| match id {
        "debian" | "ubuntu" => Some(Family::Debian),
        "rhel" | "fedora" | "centos" | "rocky" | "almalinux" | "ol" => Some(Family::RedHat),
        "suse" | "opensuse" | "sles" | "sled" => Some(Family::Suse),
        other => other.starts_with("opensuse-").then_some(Family::Suse),
    })
}

/// Whether it works without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// No.
    Needed,
    /// Yes; it is for looking into points by hand.
    Useful,
    /// Needed where VMware is below.
    OnVmware,
}

/// Programs that come together.
#[derive(Debug)]
pub(super) struct Tools {
    pub(super) programs: &'static [&'static str],
    pub(super) need: Need,
    debian: &'static str,
    /// Empty: the distribution has none.
    red_hat: &'static str,
    suse: &'static str,
}

const fn tools(programs: &'static [&'static str], need: Need, names: [&'static str; 3]) -> Tools {
    let [debian, red_hat, suse] = names;
    Tools { programs, need, debian, red_hat, suse }
}

/// LVM is not among them: where it is missing, it cannot take replicated disks for its own.
pub(super) const TOOLS: &[Tools] = &[
    tools(&["mkfs.xfs", "xfs_repair"], Need::Needed, ["xfsprogs", "xfsprogs", "xfsprogs"]),
    tools(&["sfdisk"], Need::Needed, ["fdisk", "util-linux", "util-linux"]),
    tools(&["blkid", "partx", "mount"], Need::Needed, ["util-linux", "util-linux", "util-linux"]),
    tools(&["fusermount3"], Need::Needed, ["fuse3", "fuse3", "fuse3"]),
    tools(&["e2fsck"], Need::Useful, ["e2fsprogs", "e2fsprogs", "e2fsprogs"]),
    tools(&["btrfs"], Need::Useful, ["btrfs-progs", "", "btrfsprogs"]),
    tools(&["vmtoolsd"], Need::OnVmware, ["open-vm-tools", "open-vm-tools", "open-vm-tools"]),
];

impl Tools {
    /// Its package there; `None` where the distribution has none.
    pub(super) fn package(&self, family: Family) -> Option<&'static str> {
        let name = match family {
            Family::Debian => self.debian,
            Family::RedHat => self.red_hat,
            Family::Suse => self.suse,
        };
        (!name.is_empty()).then_some(name)
    }

    /// Its programs that are not there.
    pub(super) fn missing(&self, host: &Host) -> Vec<&'static str> {
        self.programs.iter().copied().filter(|program| !host.has_program(program)).collect()
    }
}

/// Packages to install; the family decides the names.
pub(super) fn missing_packages(host: &Host, family: Family) -> Vec<&'static str> {
    let on_vmware = host.is_on_vmware();
    let wanted = TOOLS.iter().filter(|tools| tools.need != Need::OnVmware || on_vmware);
    let mut packages: Vec<_> = wanted
        .filter(|tools| !tools.missing(host).is_empty())
        .filter_map(|tools| tools.package(family))
        .collect();
    packages.dedup();
    packages
}

/// Installs packages with the distribution's own program.
pub(super) fn install(host: &Host, family: Family, packages: &[&str]) -> Result<(), JobError> {
    let (program, before, options): (_, Option<&[&str]>, &[&str]) = match family {
        Family::Debian => ("apt-get", Some(&["update"]), &["install", "--yes", "--no-install-recommends"]),
        Family::RedHat if host.has_program("dnf") => ("dnf", None, &["install", "--assumeyes"]),
        Family::RedHat => ("yum", None, &["install", "--assumeyes"]),
        Family::Suse => ("zypper", None, &["--non-interactive", "install"]),
    };
    if !host.is_this() {
        let message = format!("{} is another system", host.path("").display());
        return Err(error("master-target.packages", message, "", "run it there"));
    }
    if let Some(before) = before {
        run(program, before, "", INSTALL_TIME_MAX)?;
    }
    run(program, &[options, packages].concat(), "", INSTALL_TIME_MAX).map(drop)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Family, Host, family, missing_packages};

    #[test]
    fn distributions_are_known_by_what_they_are_or_are_like() {
        let of = |id: &str, like: &str| family(&format!("NAME=x\nID={id}\nID_LIKE=\"{like}\"\n"));
        assert_eq!(of("debian", ""), Some(Family::Debian));
        assert_eq!(of("linuxmint", "ubuntu debian"), Some(Family::Debian));
        assert_eq!(of("ol", "fedora"), Some(Family::RedHat));
        assert_eq!(of("opensuse-leap", "suse opensuse"), Some(Family::Suse));
        assert_eq!(of("arch", ""), None);
    }

    #[test]
    fn what_is_missing_is_named_as_the_distribution_names_it() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::at(root.path());
        fs::create_dir_all(root.path().join("usr/sbin")).unwrap();
        for program in ["mkfs.xfs", "sfdisk", "blkid", "partx", "mount", "fusermount3"] {
            fs::write(root.path().join("usr/sbin").join(program), "").unwrap();
        }
        assert_eq!(missing_packages(&host, Family::Debian), ["xfsprogs", "e2fsprogs", "btrfs-progs"]);
        assert_eq!(missing_packages(&host, Family::RedHat), ["xfsprogs", "e2fsprogs"]);
        fs::create_dir_all(root.path().join("sys/class/dmi/id")).unwrap();
        fs::write(root.path().join("sys/class/dmi/id/sys_vendor"), "VMware, Inc.\n").unwrap();
        assert_eq!(
            missing_packages(&host, Family::Suse),
            ["xfsprogs", "e2fsprogs", "btrfsprogs", "open-vm-tools"]
        );
    }
}
