//! What unit tests of this crate share.

use switchback_model::{Instance, MachineId, ProtectedItem};

/// A machine that has just been protected.
pub(crate) fn item(name: &str) -> ProtectedItem {
    let instance = |site: &str, uuid: &str| Instance {
        site: site.parse().expect("a name"),
        id: Some(format!("{name}-{site}")),
        system_uuid: uuid.into(),
        created_by_us: site != "home",
        disk_serials: Vec::new(),
        nics: Vec::new(),
    };
    let (group, machine) = ("PG1".parse().expect("a name"), MachineId([7; 16]));
    let home = instance("home", "00000000-0000-0000-0000-000000000001");
    let away = instance("recovery", "00000000-0000-0000-0000-000000000002");
    let names = (name.parse().expect("a name"), name.to_ascii_lowercase());
    ProtectedItem::begin(names, machine, group, (home, away), vec![1 << 20])
}
