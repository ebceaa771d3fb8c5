//! The way to storage: whether it is the chosen one where a master target stands, which writes to the container.
//!
//! What it never does: resolve a name. A master target is told of the container of its site and which way is to lead there
//! ([`MasterTargetDesired::storage_paths`](switchback_model::component::MasterTargetDesired)), looks, and reports; that is a check of the machines that it would write. What the
//! configuration server itself sees is the site's check.

use std::collections::BTreeMap;

use switchback_identity::Role;
use switchback_model::component::{StoragePath, StoragePathFound};
use switchback_model::{CheckState, ObjectName, ProtectedItem, ReadinessCheck, Side, SiteKind};

use crate::desired::Facts;
use crate::reports::StoredReport;
use crate::{Control, ControlError};

/// The one that counts: a master target cannot speak for others.
const CHECK: (&str, &str) = StoragePathFound::CHECK;

impl Control {
    /// Of the sites with a container, the way to it: by the site's name in lower case.
    pub(crate) fn storage_paths(&self) -> Result<BTreeMap<String, StoragePath>, ControlError> {
        let path = |kind: &SiteKind| match kind {
            SiteKind::Azure(azure) => Some(StoragePath {
                container: azure.settings.container.trim_end_matches('/').to_owned(),
                path: azure.settings.storage_path,
            }),
            _ => None,
        };
        Ok(self.sites()?.iter().filter_map(|site| Some((site.name.key(), path(&site.kind)?))).collect())
    }

    /// What the master target that would write a machine at a site has found; `None`: there is no container there, or no master target.
    pub(crate) fn check_storage_path(
        &self,
        facts: &Facts,
        item: &ProtectedItem,
        to: Side,
    ) -> Option<ReadinessCheck> {
        let wanted = facts.storage_paths.get(&self.place_of(item, (Role::Target, to)).key())?;
        let master_target = self.server_for(facts, item, (Role::Target, to))?;
        Some(check(wanted, master_target))
    }
}

impl Facts {
    /// What a master target is to look at.
    pub(crate) fn storage_paths_of(&self, master_target: &str) -> Vec<StoragePath> {
        let report = self.servers.get(&format!("{}/{master_target}", Role::Target));
        let site = report.and_then(|stored| stored.report.site.parse::<ObjectName>().ok());
        site.and_then(|site| self.storage_paths.get(&site.key())).cloned().into_iter().collect()
    }
}

fn check(wanted: &StoragePath, master_target: &StoredReport) -> ReadinessCheck {
    let name = &master_target.peer.name;
    let found = master_target.master_target().into_iter().flat_map(|state| &state.storage_paths);
    // What was found of another way says nothing of the one that is wanted now.
    let mut found = found.filter(|found| found.storage == *wanted && found.check.code == CHECK.0);
    match found.next() {
        Some(found) => {
            let facts = format!("from {name}: {}", found.check.facts);
            ReadinessCheck { facts, ..found.check.clone() }
        }
        None => ReadinessCheck::raised(
            CheckState::Unknown,
            CHECK,
            format!("from {name}: not looked at yet"),
            "it has just been told to, or is of an older build",
            "wait a minute, or install the master target of this build",
        ),
    }
}

#[cfg(test)]
mod tests {
    use switchback_identity::PeerIdentity;
    use switchback_model::UnixMillis;
    use switchback_model::azure::NetworkPath;
    use switchback_model::component::{MasterTargetState, Report, State};

    use super::*;

    #[test]
    fn what_was_found_of_another_way_says_nothing_of_this_one() {
        let way = |path| StoragePath { container: "https://a/c".into(), path };
        let (before, now) = (way(NetworkPath::PublicEndpoint), way(NetworkPath::PrivateEndpoint));
        let found =
            StoragePathFound { storage: before.clone(), check: ReadinessCheck::passed(CHECK.0, "t", "f") };
        let state = MasterTargetState { storage_paths: vec![found], ..MasterTargetState::default() };
        let report = Report {
            build: String::new(),
            address: String::new(),
            site: "azure".into(),
            started: UnixMillis(0),
            state: State::MasterTarget(state),
            incarnation_proof: None,
        };
        let peer = PeerIdentity { role: Role::Target, name: "mt1".parse().unwrap() };
        let stored = StoredReport { peer, received: UnixMillis(0), report, lied: false };
        assert_eq!(check(&before, &stored).state, CheckState::Passed);
        assert_eq!(check(&now, &stored).state, CheckState::Unknown);
        let facts = Facts {
            storage_paths: [("azure".to_owned(), now.clone()), ("other".to_owned(), before)].into(),
            servers: [("target/mt1".to_owned(), stored)].into(),
            ..Facts::default()
        };
        assert_eq!(facts.storage_paths_of("mt1"), [now]);
        assert!(facts.storage_paths_of("mt2").is_empty());
    }
}
