//! Policies that do not say yet between which sites, and what their mappings are called.
//!
//! A client that knows Azure Site Recovery's contract alone makes a policy first, and says with a container mapping which sites it is for. Until
//! then the policy is a draft: kept under its name, in no machine's use. [`Control::create_group`] makes the group of that name and ends the
//! draft in one change, so that a name is never both.

use serde::{Deserialize, Serialize};
use switchback_model::{ObjectName, ProtectionGroup, ReplicationPolicy};
use switchback_store::{Expect, Kind};

use crate::inventory::check_policy;
use crate::records::{Batch, Versioned};
use crate::{Control, ControlError, ErrorKind};

/// The record that has all of them.
const DRAFTS: &str = "policy-drafts";
/// How many there may be.
const DRAFTS_MAX: usize = 100;

/// A policy without sites.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyDraft {
    /// The name that its group will have.
    pub name: ObjectName,
    /// As the group's will be.
    pub policy: ReplicationPolicy,
}

impl Control {
    /// All drafts.
    ///
    /// # Errors
    /// Those of the store.
    pub fn policy_drafts(&self) -> Result<Vec<PolicyDraft>, ControlError> {
        Ok(self.drafts()?.0)
    }

    /// Makes or replaces a draft.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a policy that makes no sense, or when there are too many; [`ErrorKind::Conflict`] when somebody was faster.
    pub fn put_policy_draft(&self, draft: &PolicyDraft) -> Result<(), ControlError> {
        check_policy(&draft.policy)?;
        Ok(self.records().commit(self.with_draft(draft)?)?)
    }

    /// Takes the sites from a policy: its pair of groups ends, a draft of its name is left.
    ///
    /// # Errors
    /// As [`Control::delete_group`] and [`Control::put_policy_draft`].
    pub fn unmap_group(&self, name: &ObjectName) -> Result<(), ControlError> {
        let (mut batch, policy) = self.without_group(name)?;
        batch.append(self.with_draft(&PolicyDraft { name: name.clone(), policy })?);
        Ok(self.records().commit(batch)?)
    }

    /// Gives a group's container mapping a name.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Conflict`] when it has another one already, or another mapping of the same home has that.
    pub fn name_mapping(
        &self,
        group: &ObjectName,
        mapping: &ObjectName,
    ) -> Result<ProtectionGroup, ControlError> {
        let Versioned { mut value, version }: Versioned<ProtectionGroup> =
            self.records().get(Kind::Group, "protection group", &group.key())?;
        let conflict = |message: String| ControlError::new(ErrorKind::Conflict, "mapping.named", message);
        if let Some(known) = value.mapping.as_ref().filter(|known| *known != mapping) {
            let message = format!("the policy of the group {group} is mapped already, as {known}");
            return Err(conflict(message).remedy("use that mapping, or remove it first"));
        }
        let groups = self.groups()?;
        let taken = groups.iter().find(|other| {
            other.name != value.name
                && other.home() == value.home()
                && other.mapping.as_ref() == Some(mapping)
        });
        if let Some(other) = taken {
            let message = format!("the mapping of the group {} is called {mapping} already", other.name);
            return Err(conflict(message).remedy("choose another name"));
        }
        value.mapping = Some(mapping.clone());
        let mut batch = Batch::default();
        batch.replace(Kind::Group, group.key(), version, &value);
        self.records().commit(batch)?;
        Ok(value)
    }

    fn with_draft(&self, draft: &PolicyDraft) -> Result<Batch, ControlError> {
        let (mut drafts, expect) = self.drafts()?;
        drafts.retain(|known| known.name != draft.name);
        if drafts.len() >= DRAFTS_MAX {
            let message = format!("there are {DRAFTS_MAX} policies already that no container mapping uses");
            return Err(ControlError::new(ErrorKind::Invalid, "policy.drafts", message)
                .remedy("map them, or delete those that are not needed"));
        }
        drafts.push(draft.clone());
        let mut batch = Batch::default();
        batch.put(Kind::Setting, DRAFTS, expect, &drafts);
        Ok(batch)
    }

    /// Deletes a draft; one that is not there is no error.
    ///
    /// # Errors
    /// Those of the store.
    pub fn delete_policy_draft(&self, name: &ObjectName) -> Result<(), ControlError> {
        Ok(self.records().commit(self.without_draft(name)?)?)
    }

    /// The change that ends a draft; none if there is none.
    pub(crate) fn without_draft(&self, name: &ObjectName) -> Result<Batch, ControlError> {
        let (mut drafts, expect) = self.drafts()?;
        let mut batch = Batch::default();
        let before = drafts.len();
        drafts.retain(|known| known.name != *name);
        if drafts.len() < before {
            batch.put(Kind::Setting, DRAFTS, expect, &drafts);
        }
        Ok(batch)
    }

    fn drafts(&self) -> Result<(Vec<PolicyDraft>, Expect), ControlError> {
        let kept = self.records().find(Kind::Setting, DRAFTS)?;
        Ok(kept
            .map_or_else(|| (Vec::new(), Expect::Absent), |kept| (kept.value, Expect::Version(kept.version))))
    }
}
