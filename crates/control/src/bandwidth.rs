//! How much process servers may forward: a setting of each, which reaches it as a part of its desired state.

use std::collections::BTreeMap;

use switchback_identity::{PeerIdentity, Role};
use switchback_model::Bandwidth;
use switchback_store::{Expect, Kind};

use crate::records::Batch;
use crate::{Control, ControlError, ErrorKind};

/// Before the server's name, among the settings.
const PREFIX: &str = "bandwidth/";

fn key(identity: &PeerIdentity) -> String {
    format!("{PREFIX}{}", identity.name)
}

impl Control {
    /// How much a process server may forward.
    ///
    /// # Errors
    /// Those of the store.
    pub fn bandwidth(&self, server: &PeerIdentity) -> Result<Bandwidth, ControlError> {
        let found = self.records().find(Kind::Setting, &key(server))?;
        Ok(found.map(|found| found.value).unwrap_or_default())
    }

    /// Changes it. The process server hears of it at once, and sessions that are open follow.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for what makes no sense, or for what is no process server.
    pub fn set_bandwidth(&self, server: &PeerIdentity, mut bandwidth: Bandwidth) -> Result<(), ControlError> {
        let invalid = |message: String| ControlError::new(ErrorKind::Invalid, "bandwidth.invalid", message);
        if server.role != Role::ProcessServer {
            return Err(invalid(format!("{server} forwards nothing: process servers have limits"))
                .remedy("limit what a machine sends by its policy: `switchback policy update`"));
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
        if server.role == Role::ProcessServer {
            batch.delete(Kind::Setting, key(server), Expect::Any);
        }
    }

    pub(crate) fn all_bandwidth(&self) -> Result<BTreeMap<String, Bandwidth>, ControlError> {
        let found = self.records().keyed_below(Kind::Setting, PREFIX)?;
        let name = |key: String| key.strip_prefix(PREFIX).unwrap_or_default().to_owned();
        Ok(found.into_iter().map(|(key, found)| (name(key), found.value)).collect())
    }
}
