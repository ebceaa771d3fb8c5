//! How much process servers may forward, and master targets write into page blobs: a setting of each, which reaches it as a part of its desired state.

use std::collections::BTreeMap;

use switchback_identity::{PeerIdentity, Role};
use switchback_model::Bandwidth;
use switchback_store::{Expect, Kind};

use crate::inventory::server_key;
use crate::records::Batch;
use crate::{Control, ControlError, ErrorKind};

/// Before the server, among the settings.
const PREFIX: &str = "bandwidth/";

fn key(identity: &PeerIdentity) -> String {
    format!("{PREFIX}{}", server_key(identity))
}

impl Control {
    /// How much a server may send.
    ///
    /// # Errors
    /// Those of the store.
    pub fn bandwidth(&self, server: &PeerIdentity) -> Result<Bandwidth, ControlError> {
        let found = self.records().find(Kind::Setting, &key(server))?;
        Ok(found.map(|found| found.value).unwrap_or_default())
    }

    /// Changes it. The server hears of it at once, and what is under way follows.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for what makes no sense: also an agent, and a limit of a master target towards another.
    pub fn set_bandwidth(&self, server: &PeerIdentity, mut bandwidth: Bandwidth) -> Result<(), ControlError> {
        let invalid = |message: String| ControlError::new(ErrorKind::Invalid, "bandwidth.invalid", message);
        match server.role {
            Role::ProcessServer => {}
            Role::Target if bandwidth.targets.is_empty() => {}
            Role::Target => {
                return Err(invalid(format!(
                    "{server} sends to no master target: it has one limit, towards storage"
                )));
            }
            _ => {
                return Err(invalid(format!(
                    "{server} forwards nothing: process servers and master targets have limits"
                ))
                .remedy("limit what a machine sends by its policy: `switchback policy update`"));
            }
        }
        bandwidth.check().map_err(invalid)?;
        let targets = std::mem::take(&mut bandwidth.targets);
        bandwidth.targets = targets.into_iter().map(|(name, limit)| (name.to_lowercase(), limit)).collect();
        let mut batch = Batch::default();
        batch.put(Kind::Setting, key(server), Expect::Any, &bandwidth);
        Ok(self.records().commit(batch)?)
    }

    /// With its server gone, it goes too: another one of that name begins without limits.
    pub(crate) fn forget_bandwidth(server: &PeerIdentity, batch: &mut Batch) {
        if server.role != Role::Source {
            batch.delete(Kind::Setting, key(server), Expect::Any);
        }
    }

    /// By `ROLE/NAME`.
    pub(crate) fn all_bandwidth(&self) -> Result<BTreeMap<String, Bandwidth>, ControlError> {
        let found = self.records().keyed_below(Kind::Setting, PREFIX)?;
        let name = |key: String| key.strip_prefix(PREFIX).unwrap_or_default().to_owned();
        Ok(found.into_iter().map(|(key, found)| (name(key), found.value)).collect())
    }
}
