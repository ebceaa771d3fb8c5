//! Certificates of a site's components, renewed before it is time: when somebody may have read a key.
//!
//! Each component renews its certificate by itself, after two thirds of its three days. Here is noted, for a site, that those issued before a moment are to go
//! now; each answer to a component there says so, and it renews. What this never does: revoke. Who must not come back is removed
//! (`switchback server remove`), which counts at once.

use std::collections::BTreeMap;

use switchback_identity::CERTIFICATE_LIFETIME_MS;
use switchback_model::{ObjectName, Site, UnixMillis};
use switchback_store::{Expect, Kind};

use crate::records::Batch;
use crate::{Control, ControlError};

/// Before the site, among the settings.
const PREFIX: &str = "renewal/";

impl Control {
    /// Has every component of a site renew its certificate: those that report, within seconds; the others when they do.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind); those of the store.
    pub fn renew_certificates(&self, site: &ObjectName) -> Result<(), ControlError> {
        let site: Site = self.records().get(Kind::Site, "site", &site.key())?.value;
        // A certificate that is issued from now on ends then or later; certificates know seconds.
        let ending = self.now().0.saturating_add(CERTIFICATE_LIFETIME_MS) / 1000 * 1000;
        let mut batch = Batch::default();
        batch.put(Kind::Setting, format!("{PREFIX}{}", site.name.key()), Expect::Any, &UnixMillis(ending));
        Ok(self.records().commit(batch)?)
    }

    /// Which certificates are to be renewed at once, by site: those that end before.
    pub(crate) fn renewals(&self) -> Result<BTreeMap<String, UnixMillis>, ControlError> {
        let found = self.records().keyed_below(Kind::Setting, PREFIX)?;
        let site = |key: String| key.strip_prefix(PREFIX).unwrap_or_default().to_owned();
        Ok(found.into_iter().map(|(key, found)| (site(key), found.value)).collect())
    }
}
