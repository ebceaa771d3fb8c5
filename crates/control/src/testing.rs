//! What unit tests of this crate share.

use switchback_model::{Instance, MachineId, ProtectedItem, Protection};

/// A machine that has just been protected.
pub(crate) fn item(name: &str) -> ProtectedItem {
    let instance = |site: &str, uuid: &str| Instance {
        site: site.parse().expect("a name"),
        id: Some(format!("{name}-{site}")),
        system_uuid: uuid.into(),
        created_by_us: site != "home",
        nics: Vec::new(),
    };
    ProtectedItem {
        name: name.parse().expect("a name"),
        agent: name.to_ascii_lowercase(),
        machine: MachineId([7; 16]),
        group: "PG1".parse().expect("a name"),
        protection: Protection::begin(),
        home: instance("home", "00000000-0000-0000-0000-000000000001"),
        away: instance("recovery", "00000000-0000-0000-0000-000000000002"),
        disk_sizes: vec![1 << 20],
        replication: None,
        retired: Vec::new(),
        failover: None,
        test: None,
        left_behind: Vec::new(),
        final_cycle: None,
        resync_requested: 0,
        stale_seen: None,
        last_failover: None,
        last_test_failover: None,
        job: None,
    }
}
