//! How machines' replication went in the last hours: a sample a minute, for charts.
//!
//! Kept in memory alone and for [`KEPT`] of them: after a restart of the configuration server it begins anew. What must be known longer is an event.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{MutexGuard, PoisonError};

use switchback_model::{ObjectName, UnixMillis};

use crate::{Control, ControlError, ItemView};

/// Samples that are kept of a machine: six hours. Of a thousand machines they take some 10 MiB.
const KEPT: usize = 360;

/// How a machine's replication was at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When.
    pub time: UnixMillis,
    /// Age of the newest recovery point in milliseconds, if there was one and anything was replicated.
    pub rpo_ms: Option<u64>,
    /// Contents of changed blocks sent until then, in bytes. It begins anew with each replication, and with each start of the agent.
    pub changed_bytes: u64,
    /// All that was sent until then as it travelled, in bytes; as that.
    pub transferred_bytes: u64,
}

/// By the machine's key.
#[derive(Debug, Default)]
pub(crate) struct Samples(BTreeMap<String, VecDeque<Sample>>);

impl Samples {
    fn take(&mut self, items: &[ItemView], now: UnixMillis) {
        self.0.retain(|key, _| items.iter().any(|view| view.item.name.key() == *key));
        for view in items {
            let kept = self.0.entry(view.item.name.key()).or_default();
            if kept.len() == KEPT {
                kept.pop_front();
            }
            let rpo_ms = view.rpo_ms.filter(|_| view.item.protection.replicates());
            let (changed_bytes, transferred_bytes) = (view.changed_bytes, view.transferred_bytes);
            kept.push_back(Sample { time: now, rpo_ms, changed_bytes, transferred_bytes });
        }
    }
}

impl Control {
    fn kept_samples(&self) -> MutexGuard<'_, Samples> {
        self.inner.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at all machines once more.
    ///
    /// # Errors
    /// Those of the store.
    pub fn take_samples(&self) -> Result<(), ControlError> {
        let items = self.items()?;
        self.kept_samples().take(&items, self.now());
        Ok(())
    }

    /// How a machine's replication went, oldest first: a sample a minute, six hours of them at most, since this server was started.
    #[must_use]
    pub fn samples(&self, machine: &ObjectName) -> Vec<Sample> {
        self.kept_samples()
            .0
            .get(&machine.key())
            .map(|kept| kept.iter().copied().collect())
            .unwrap_or_default()
    }
}
