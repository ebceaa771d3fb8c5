//! A server that was restored may be older than the world: it asks before it orders.
//!
//! Every machine begins *held* after a restore: nothing is ordered for it, its components go on as they are. What they report is the
//! evidence. Every change of direction increments the epoch, and its master target is fenced with the new one before a machine is started; so a master
//! target that knows no newer epoch of the machine's replica proves that there was no such change since the backup. One that knows a newer
//! epoch, or does not have the replica any more, proves the opposite, as does an agent that writes under a newer epoch or reports from the side that
//! should have been left. What is behind stays held: a person decides.
//!
//! A newer epoch is evidence also later on, and also on a server that was never restored: it must not happen.

use switchback_model::{Held, JobError, ObjectName, ProtectedItem, Severity};

use crate::records::{Batch, Versioned};
use crate::reports::StoredReport;
use crate::{Control, ControlError, ErrorKind, Health};

/// What a person can do.
pub(crate) const BEHIND_REMEDY: &str = "Restore a newer backup if there is one. Else find out where the machine lives, end its protection (`switchback machine disable`, \
     which leaves its instances alone), and protect it anew from there";

/// What a report shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing newer has happened.
    Confirmed,
    /// Something has: the evidence.
    Behind(String),
}

/// What a report shows of a machine; none: nothing new.
pub(crate) fn judge(item: &ProtectedItem, stored: &StoredReport) -> Option<Verdict> {
    let (is_unconfirmed, is_behind) = match &item.held {
        None => (false, false),
        Some(Held::Unconfirmed { .. }) => (true, false),
        Some(Held::Behind { .. }) => (false, true),
    };
    if is_behind {
        return None;
    }
    let known = item.protection.epoch;
    let who = &stored.peer;
    if let Some(agent) = stored.agent().filter(|_| who.name.as_str() == item.agent) {
        let writes = agent.replication.as_ref().map(|replication| replication.epoch);
        if let Some(epoch) = writes.filter(|epoch| *epoch > known) {
            return Some(Verdict::Behind(format!(
                "its agent writes under epoch {epoch}, this server knows {known}"
            )));
        }
        let passive = item.passive();
        if is_unconfirmed && !passive.system_uuid.is_empty() && agent.system_uuid == passive.system_uuid {
            let site = &passive.site;
            return Some(Verdict::Behind(format!(
                "it runs at {site}, which is not where this server takes it to live"
            )));
        }
        // Without a replica there is no master target to ask.
        let is_asked =
            is_unconfirmed && item.replication.is_none() && agent.system_uuid == item.active().system_uuid;
        return is_asked.then_some(Verdict::Confirmed);
    }
    stored.master_target()?;
    let path = item.replication.as_ref().filter(|path| path.master_target == who.name.as_str())?;
    match stored.replica(&path.replica) {
        Some(replica) if replica.epoch > known => Some(Verdict::Behind(format!(
            "the master target {} knows epoch {} of its replica, this server {known}",
            who.name, replica.epoch
        ))),
        Some(_) => is_unconfirmed.then_some(Verdict::Confirmed),
        None => is_unconfirmed.then(|| {
            Verdict::Behind(format!(
                "the master target {} does not have its replica {}",
                who.name, path.replica
            ))
        }),
    }
}

/// Why a machine is held, for people.
pub(crate) fn reason(name: &ObjectName, held: &Held) -> (Health, JobError) {
    let error = |code: &str, message: String, cause: &str, remedy: &str| JobError {
        code: code.into(),
        message,
        cause: cause.into(),
        remedy: remedy.into(),
    };
    match held {
        Held::Unconfirmed { .. } => {
            let message = format!(
                "nothing is ordered for {name}: this configuration server was restored, and it is not known yet whether that is how things are"
            );
            let cause = "its master target (without a replica: its agent) has not reported since the restore";
            let remedy = "it goes on by itself when that reports; if it never will, `switchback machine release` lets go";
            (Health::Warning, error("protection.unconfirmed", message, cause, remedy))
        }
        Held::Behind { evidence } => {
            let message = format!("nothing is ordered for {name}: {evidence}");
            let cause = "the configuration server was restored from a backup that is older than the machine's last change of direction";
            (Health::Critical, error("protection.behind", message, cause, BEHIND_REMEDY))
        }
    }
}

/// What is answered to whoever wants something of a machine that is held.
pub(crate) fn refusal(name: &ObjectName, held: &Held) -> ControlError {
    let (_, error) = reason(name, held);
    ControlError { kind: ErrorKind::IllegalState, error: Box::new(error) }
}

impl Control {
    /// Lets a machine go that a restore has held: a person says that the restored view of it is right. If a component knows a newer epoch, that is
    /// found again with its next report.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::IllegalState`] when it is not held.
    pub fn release_item(&self, by: &str, name: &ObjectName) -> Result<ProtectedItem, ControlError> {
        self.check_not_superseded()?;
        let Versioned { value: mut item, version } = self.stored_item(name)?;
        if item.held.take().is_none() {
            let message = format!("{name} is not held: it is led as always");
            return Err(ControlError::new(ErrorKind::IllegalState, "protection.not-held", message));
        }
        let mut batch = Batch::default();
        batch.replace_item(&item, version);
        let event = switchback_model::Event {
            time: self.now(),
            code: "protection.released".into(),
            severity: Severity::Warning,
            object: name.to_string(),
            message: format!(
                "{by} has released {name}: the restored configuration server leads it as its backup has it"
            ),
        };
        self.add_event(&mut batch, &event);
        self.records().commit(batch)?;
        Ok(item)
    }
}

#[cfg(test)]
mod tests;
