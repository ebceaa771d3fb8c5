//! LVM: it must not take the volume groups on replicated disks for the host's own.
//!
//! Whatever is activated there is written to, and then the replica is no longer what the machine was. So LVM is told which disks are the host's
//! own, and not to look at any other: by `devices/global_filter` (lvm.conf(5)), or by its devices file (lvmdevices(8)).

use switchback_model::JobError;

use super::drive::error;
use super::{Host, fstab};

const LOCAL: &str = "etc/lvm/lvmlocal.conf";
const CONF: &str = "etc/lvm/lvm.conf";
const DEVICES_FILE: &str = "etc/lvm/devices/system.devices";

/// How LVM stands to disks that are attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Guard {
    /// There is no LVM.
    Absent,
    /// It looks at the host's own disks only; by what.
    Kept(String),
    /// It has settings of its own, which do not keep it from them.
    Other(String),
    /// It looks at all disks.
    Open,
}

/// Looks.
pub(super) fn guard(host: &Host) -> Guard {
    if !host.has_program("lvm") {
        return Guard::Absent;
    }
    if host.has(DEVICES_FILE) {
        return Guard::Kept(format!("/{DEVICES_FILE}"));
    }
    // The local file is read last, and wins.
    let texts = [LOCAL, CONF].map(|path| (path, host.text(path)));
    for (path, text) in &texts {
        if let Some(filter) = setting(text, "global_filter") {
            let found = format!("/{path}: {filter}");
            return if rejects_others(&filter) { Guard::Kept(found) } else { Guard::Other(found) };
        }
    }
    let local = &texts[0].1;
    if setting(local, "devices").is_some() { Guard::Other(format!("/{LOCAL}: devices")) } else { Guard::Open }
}

/// What is set under a name, or `{` for a section; remarks do not count.
fn setting(text: &str, name: &str) -> Option<String> {
    let lines: Vec<_> = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()).collect();
    let text = lines.join(" ");
    let starts = text.match_indices(name).map(|(start, _)| start);
    for start in starts {
        let before = text[..start].chars().next_back();
        let after = text[start + name.len()..].trim_start();
        if before.is_some_and(|letter| letter.is_alphanumeric() || letter == '_') {
            continue;
        }
        if after.starts_with('{') {
            return Some("{".into());
        }
        if let Some(list) = after.strip_prefix('=') {
            let end = list.find(']').map_or(list.len(), |end| end + 1);
            return Some(list[..end].split_whitespace().collect::<Vec<_>>().join(" "));
        }
    }
    None
}

/// Whether the filter ends by rejecting everything, and does not accept everything before: the first pattern that fits counts.
fn rejects_others(filter: &str) -> bool {
    let patterns: Vec<_> = filter.split('"').skip(1).step_by(2).collect();
    let is_all = |pattern: &str| {
        let inner = pattern.get(2..pattern.len().saturating_sub(1)).unwrap_or_default();
        matches!(inner, ".*" | "" | "^.*$" | "^/dev/" | "^/dev/.*")
    };
    let first = patterns.iter().find(|pattern| is_all(pattern));
    first.is_some_and(|pattern| pattern.starts_with('r'))
}

/// The settings that let LVM see those disks only.
pub(super) fn settings(own: &[String]) -> String {
    let mut patterns: Vec<_> = own.iter().map(|path| format!("\"a|^{}$|\"", pattern(path))).collect();
    patterns.push("\"r|.*|\"".into());
    format!(
        "# Written by `switchback master-target prepare`: LVM looks at this host's own disks only, not at replicated ones.\n\
         devices {{\n\tglobal_filter = [ {} ]\n}}\n",
        patterns.join(", ")
    )
}

/// As a pattern that fits this text: what means something in one is any letter.
fn pattern(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || "/-_:".contains(c) { c } else { '.' }).collect()
}

/// Names of the disks that LVM uses now, as lasting as there are. One of a replicated disk that is attached just now is among them: whoever
/// accepts the list must see it.
pub(super) fn own_disks(host: &Host) -> Result<Vec<String>, JobError> {
    let said = host
        .ask("lvm", &["pvs", "--noheadings", "--options", "pv_name"])
        .ok_or_else(|| failed("LVM does not say which disks it uses (`lvm pvs`)".into()))?;
    Ok(said.lines().map(|line| lasting(host, line.trim())).filter(|name| !name.is_empty()).collect())
}

fn failed(message: String) -> JobError {
    error(
        "master-target.lvm",
        message,
        "see the message",
        "set devices/global_filter in /etc/lvm/lvm.conf by hand",
    )
}

/// Below `/dev/disk/by-id` if there is one: names like `sdb` change when disks are attached.
fn lasting(host: &Host, node: &str) -> String {
    let name = node.rsplit('/').next().unwrap_or_default();
    let found = super::facts::by_id(host, name);
    if found.is_empty() { node.to_owned() } else { found }
}

/// Writes the settings.
pub(super) fn close(host: &Host) -> Result<(), JobError> {
    let own = own_disks(host)?;
    let before = host.text(LOCAL);
    let before = if before.is_empty() { before } else { format!("{before}\n") };
    let write = std::fs::create_dir_all(host.path("etc/lvm"))
        .and_then(|()| fstab::write(&host.path(LOCAL), &format!("{before}{}", settings(&own))));
    write.map_err(|error| failed(format!("/{LOCAL} cannot be written: {error}")))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Guard, Host, guard, rejects_others, setting, settings};

    #[test]
    fn the_first_pattern_that_fits_all_decides() {
        assert!(rejects_others(r#"[ "a|^/dev/sda3$|", "r|.*|" ]"#));
        assert!(rejects_others(r#"[ "r/.*/" ]"#));
        assert!(!rejects_others(r#"[ "a|.*|", "r|.*|" ]"#));
        assert!(!rejects_others(r#"[ "r|/dev/cdrom|" ]"#));
    }

    #[test]
    fn settings_are_found_and_remarks_are_none() {
        let text = "devices {\n# global_filter = [ \"a\" ]\n\tglobal_filter = [ \"x\",\n \"y\" ] # z\n}";
        assert_eq!(setting(text, "global_filter").as_deref(), Some("[ \"x\", \"y\" ]"));
        assert_eq!(setting(text, "filter"), None, "a part of a name");
        assert_eq!(setting(text, "devices").as_deref(), Some("{"));
    }

    #[test]
    fn what_is_written_is_found_to_guard() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::at(root.path());
        assert_eq!(guard(&host), Guard::Absent);
        fs::create_dir_all(root.path().join("usr/sbin")).unwrap();
        fs::create_dir_all(root.path().join("etc/lvm/devices")).unwrap();
        fs::write(root.path().join("usr/sbin/lvm"), "").unwrap();
        assert_eq!(guard(&host), Guard::Open);
        let local = root.path().join("etc/lvm/lvmlocal.conf");
        fs::write(&local, "local {\n\t# system_id = \"\"\n}\n").unwrap();
        assert_eq!(guard(&host), Guard::Open, "as it is installed");
        fs::write(&local, settings(&["/dev/disk/by-id/a.b".into()])).unwrap();
        assert!(
            matches!(guard(&host), Guard::Kept(found) if found.contains(r#""a|^/dev/disk/by-id/a.b$|", "r|.*|""#))
        );
        fs::write(&local, "devices {\n dir = \"/dev\"\n}\n").unwrap();
        assert!(matches!(guard(&host), Guard::Other(_)), "a section of others is not added to");
        fs::write(root.path().join("etc/lvm/devices/system.devices"), "").unwrap();
        assert!(matches!(guard(&host), Guard::Kept(_)));
    }
}
