//! Which of a machine's disks are the protected ones.
//!
//! A machine gains, loses and grows disks while it is protected. One that it has gained is left alone: the others go on. One of the protected that
//! is gone or has another size makes all that would be sent wrong, so nothing is; its recovery points stay, and a person is told what to do.

use switchback_model::component::{DiskFacts, DiskStanding, ProtectedDisk};

use super::facts::node;
use crate::slots::Slot;

/// A protected disk is not there as it was.
pub(super) const CHANGED: &str = "agent.disks-changed";
/// The machine has a disk that is not replicated.
pub(super) const NOT_PROTECTED: &str = "agent.disk-not-protected";

/// Longest serial number that a virtio disk shows (the virtio specification, 5.2.6: `VIRTIO_BLK_ID_BYTES`); longer ones are cut off.
const SERIAL_LEN_MAX: usize = 20;
const REMEDY: &str = "nothing is replicated until that is put right: bring the disk back as it was, or disable the machine's protection and \
    protect it anew; until then its recovery points stay, and it can be failed over to them";

/// The disks that are wanted, in that order, with nothing in the place of one that has been removed; else why they cannot be had.
///
/// By serial number. A disk without one is known by its place among all disks, as long as there are as many as are wanted.
pub(super) fn choose(
    wanted: &[ProtectedDisk],
    found: &[DiskFacts],
) -> Result<Vec<Option<DiskFacts>>, String> {
    let is_there = |disk: &&ProtectedDisk| disk.standing != DiskStanding::Removed;
    let count = wanted.iter().filter(is_there).count();
    let mut chosen = Vec::with_capacity(wanted.len());
    for disk in wanted {
        let place = chosen.iter().flatten().count();
        let found = is_there(&disk).then(|| choose_one(place, disk, count, found)).transpose()?;
        chosen.push(found);
    }
    Ok(chosen)
}

/// Whether a disk shows this serial number.
fn shows(disk: &DiskFacts, serial: &str) -> bool {
    let shown = serial.get(..SERIAL_LEN_MAX).unwrap_or(serial);
    !shown.is_empty() && (disk.serial == serial || disk.serial == shown)
}

fn choose_one(
    place: usize,
    wanted: &ProtectedDisk,
    count: usize,
    found: &[DiskFacts],
) -> Result<DiskFacts, String> {
    let by_serial = found.iter().find(|disk| shows(disk, &wanted.serial));
    let by_place = || {
        let at_place = found.get(place).filter(|_| found.len() == count);
        at_place.filter(|disk| wanted.serial.is_empty() || disk.serial.is_empty())
    };
    let Some(disk) = by_serial.or_else(by_place) else {
        let serial = if wanted.serial.is_empty() { "without serial number" } else { &wanted.serial };
        return Err(format!(
            "the protected disk {place} ({serial}, {} bytes) is not in this machine any more; it has {}; {REMEDY}",
            wanted.size,
            list(found.iter())
        ));
    };
    if disk.size != wanted.size {
        return Err(format!(
            "the protected disk {place}, {}, has {} bytes now and had {} when it was protected; {REMEDY}",
            disk.name, disk.size, wanted.size
        ));
    }
    Ok(disk.clone())
}

/// What is said of disks that are neither among the chosen nor were removed from the protection.
pub(super) fn not_protected(
    wanted: &[ProtectedDisk],
    chosen: &[Option<DiskFacts>],
    found: &[DiskFacts],
) -> Option<String> {
    let was_removed = |disk: &DiskFacts| {
        wanted.iter().any(|wanted| wanted.standing == DiskStanding::Removed && shows(disk, &wanted.serial))
    };
    let is_chosen = |disk: &DiskFacts| chosen.iter().flatten().any(|chosen| chosen == disk);
    let others: Vec<_> = found.iter().filter(|disk| !is_chosen(disk) && !was_removed(disk)).collect();
    (!others.is_empty()).then(|| {
        format!(
            "{} came to this machine after it was protected, and is not replicated; to protect it too, add it to the machine's protection \
             (`switchback machine add-disk`)",
            list(others.into_iter())
        )
    })
}

/// The chosen disks as the engine wants them.
pub(super) fn slots(wanted: &[ProtectedDisk], chosen: &[Option<DiskFacts>]) -> Vec<Slot> {
    let slot = |(wanted, disk): (&ProtectedDisk, &Option<DiskFacts>)| match disk {
        Some(disk) => Slot::Disk { path: node(disk), seeding: wanted.standing == DiskStanding::Adding },
        None => Slot::Removed { size: wanted.size },
    };
    wanted.iter().zip(chosen).map(slot).collect()
}

fn list<'a>(disks: impl Iterator<Item = &'a DiskFacts>) -> String {
    let shown: Vec<_> = disks.map(|disk| format!("{} ({} bytes)", disk.name, disk.size)).collect();
    if shown.is_empty() { "no disk".into() } else { shown.join(", ") }
}

#[cfg(test)]
mod tests {
    use switchback_model::component::{DiskFacts, DiskStanding, ProtectedDisk};

    use super::{choose, not_protected};

    fn disk(name: &str, serial: &str, size: u64) -> DiskFacts {
        DiskFacts { name: name.into(), serial: serial.into(), size, capture: String::new() }
    }

    fn wanted(serial: &str, size: u64) -> ProtectedDisk {
        ProtectedDisk { serial: serial.into(), size, standing: DiskStanding::Protected }
    }

    fn names(chosen: &[Option<DiskFacts>]) -> Vec<&str> {
        chosen.iter().map(|disk| disk.as_ref().map_or("", |disk| &disk.name)).collect()
    }

    #[test]
    fn a_disk_that_was_gained_is_left_alone_wherever_it_comes_in() {
        let protected = [wanted("s1", 10), wanted("s2", 10)];
        let found = [disk("vda", "new", 10), disk("vdb", "s2", 10), disk("vdc", "s1", 10)];
        let chosen = choose(&protected, &found).unwrap();
        assert_eq!(names(&chosen), ["vdc", "vdb"]);
        let said = not_protected(&protected, &chosen, &found).unwrap();
        assert!(said.contains("vda (10 bytes)") && !said.contains("vdb"), "{said}");
        assert_eq!(not_protected(&protected, &chosen, &found[1..]), None);
    }

    #[test]
    fn one_that_is_lost_or_has_another_size_is_named() {
        let protected = [wanted("s1", 10), wanted("s2", 10)];
        let lost = choose(&protected, &[disk("vda", "s1", 10)]).unwrap_err();
        assert!(lost.contains("disk 1 (s2, 10 bytes) is not in this machine"), "{lost}");
        let grown = choose(&protected, &[disk("vda", "s1", 10), disk("vdb", "s2", 12)]).unwrap_err();
        assert!(grown.contains("vdb, has 12 bytes now and had 10"), "{grown}");
        // Another one in its place is another one.
        assert!(choose(&protected, &[disk("vda", "s1", 10), disk("vdb", "s3", 10)]).is_err());
    }

    #[test]
    fn without_serial_numbers_the_place_counts_as_long_as_nothing_has_come_or_gone() {
        let protected = [wanted("", 10), wanted("", 20)];
        let found = [disk("sda", "", 10), disk("sdb", "", 20), disk("sdc", "", 20)];
        assert_eq!(names(&choose(&protected, &found[..2]).unwrap()), ["sda", "sdb"]);
        assert!(choose(&protected, &found).is_err(), "which is the new one?");
        // As a guest without serial numbers shows disks that have some at their site.
        assert!(choose(&[wanted("s1", 10), wanted("s2", 20)], &found[..2]).is_ok());
    }

    #[test]
    fn what_a_virtio_disk_cuts_off_is_not_missed() {
        let long = "0123456789abcdefghijklmnop";
        assert!(choose(&[wanted(long, 10)], &[disk("vda", &long[..20], 10)]).is_ok());
        assert!(choose(&[wanted(long, 10)], &[disk("vda", &long[..19], 10)]).is_err());
    }

    #[test]
    fn a_disk_that_was_removed_is_neither_missed_nor_told_of() {
        let removed = ProtectedDisk { standing: DiskStanding::Removed, ..wanted("s1", 10) };
        let protected = [removed, wanted("s2", 10)];
        let found = [disk("vda", "s1", 12), disk("vdb", "s2", 10)];
        let chosen = choose(&protected, &found).unwrap();
        assert_eq!(names(&chosen), ["", "vdb"]);
        assert_eq!(not_protected(&protected, &chosen, &found), None);
        assert!(choose(&protected, &found[1..]).is_ok());
        assert!(choose(&protected, &found[..1]).is_err());
    }
}
