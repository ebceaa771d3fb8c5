//! Sandboxes that a master target runs beside its replica, where the replica's site has none: what they are to be, and what is seen of them.
//!
//! Nothing is made or removed here: such a sandbox is desired as long as it is on record ([`crate::desired`]), and gone when it is not; a replica goes to another
//! point only after its master target has ended what ran over it. What a master target sees it sends by itself; here it is kept, one record for each machine.
//!
//! A sandbox that was started again, or of which nothing was heard for a while, counts as one whose disks failed below it: that blames no point.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use switchback_identity::{PeerIdentity, Role};
use switchback_model::component::{
    PICTURE_LEN_MAX, SandboxDisk, SandboxHeard, SandboxPlan, SandboxSeen, SandboxState,
};
use switchback_model::{ObjectName, ProtectedItem, Sandbox, Seq, UnixMillis};
use switchback_sites::{Boot, Sight};
use switchback_store::{Expect, Kind};

use super::{CONSOLE_BYTES, VIEW_LIMIT_S, no_view, request};
use crate::jobs::protect::{disks_differ, protected_disks};
use crate::jobs::step::{Outcome, Work, failure};
use crate::jobs::test_failover::lacks;
use crate::records::Batch;
use crate::reports::DEAD_AFTER_MS;
use crate::{Control, ControlError, ErrorKind};

/// Milliseconds beyond the probe's that a sandbox may run: its master target ends what a configuration server has forgotten.
const GRACE_MS: u64 = 5 * 60_000;
/// The start that was seen first.
const STARTED: &str = "sandbox-started";

/// What a master target sent last.
#[derive(Serialize, Deserialize)]
struct Stored {
    received: UnixMillis,
    seen: SandboxSeen,
}

impl Control {
    /// Takes what a master target sees of a sandbox.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when it is larger than may be; those of the store.
    pub fn sandbox_seen(&self, peer: &PeerIdentity, seen: SandboxSeen) -> Result<SandboxHeard, ControlError> {
        self.check_not_superseded()?;
        if seen.console.len() > CONSOLE_BYTES || seen.picture.len() > PICTURE_LEN_MAX.div_ceil(3) * 4 {
            let message = "more is told of a sandbox than is taken";
            return Err(ControlError::new(ErrorKind::Invalid, "component.message", message));
        }
        let facts = self.cached_facts()?;
        let is_it = |item: &&ProtectedItem| {
            let runs = item.proving.in_hand.as_ref().and_then(|proof| proof.sandbox.as_ref());
            let path = item.replication.as_ref().filter(|path| path.master_target == peer.name.as_str());
            peer.role == Role::Target
                && path.is_some_and(|path| runs.is_some_and(|runs| runs.replica == path.replica))
                && runs.is_some_and(|runs| runs.beside.is_some() && runs.view == seen.id)
        };
        let Some(item) = facts.items.iter().find(is_it) else { return Ok(SandboxHeard { is_wanted: false }) };
        let mut batch = Batch::default();
        batch.put(Kind::Sandbox, item.name.key(), Expect::Any, &Stored { received: self.now(), seen });
        // Not through `Records::commit`: nothing is desired otherwise for it.
        self.records().store().commit(&batch.into_changes())?;
        Ok(SandboxHeard { is_wanted: true })
    }

    fn last_seen(&self, name: &ObjectName, sandbox: &Sandbox) -> Result<Option<Stored>, ControlError> {
        let stored = self.records().find::<Stored>(Kind::Sandbox, &name.key())?;
        Ok(stored.map(|stored| stored.value).filter(|stored| stored.seen.id == sandbox.view))
    }

    /// Has what was seen of a machine's sandboxes go with `batch`.
    pub(crate) fn forget_sandbox(&self, name: &ObjectName, batch: &mut Batch) {
        batch.delete(Kind::Sandbox, name.key(), Expect::Any);
    }
}

/// Like the instance that a failover would start, but that its network cards lead nowhere.
pub(super) fn plan(work: &Work<'_>, item: &ProtectedItem, seq: Seq) -> Result<SandboxPlan, ControlError> {
    let side = item.protection.passive();
    let like = work.site(&item.passive().site)?.machine(item.passive().id.as_deref().unwrap_or_default())?;
    let lacks = lacks(work, item, seq)?;
    let disks = protected_disks(item, side, &like)
        .ok_or_else(|| disks_differ(item, side, "bring them back to what they were"))?;
    let held = disks.into_iter().filter(|(place, _)| !lacks.contains(place));
    Ok(SandboxPlan {
        cpus: like.cpus,
        memory_mib: like.memory_mib,
        uefi: like.boot == Boot::Uefi,
        disks: held.map(|(disk, like)| SandboxDisk { disk, serial: like.serial.clone() }).collect(),
        macs: like.nics.iter().map(|nic| nic.mac.clone()).collect(),
        limit_ms: request(work)?.probe.limit_ms.saturating_add(GRACE_MS),
    })
}

/// Why its master target does not run it.
fn refused(seen: &SandboxSeen) -> Result<(), ControlError> {
    let SandboxState::Refused { problem } = &seen.state else { return Ok(()) };
    Err(failure(
        ErrorKind::IllegalState,
        &problem.code,
        problem.message.clone(),
        "recovery points are proved by the master target that keeps the replica, where its site has no sandboxes",
        "put that right on the master target's host (docs: guides/prove.md), then verify again",
    ))
}

/// Waits until it runs.
pub(super) fn create(
    work: &mut Work<'_>,
    item: &ProtectedItem,
    sandbox: &Sandbox,
) -> Result<Outcome, ControlError> {
    let seen = work.control.last_seen(&item.name, sandbox)?.map(|stored| stored.seen);
    let Some(seen) = seen.filter(|seen| seen.state != SandboxState::Starting) else {
        return work.wait_for("waiting for the master target to start it", VIEW_LIMIT_S, || no_view(sandbox));
    };
    refused(&seen)?;
    Ok(Outcome::Done(format!("{} with {} MiB of memory", sandbox.id, seen.memory_mib)))
}

/// What is to be seen of it now: what it wrote, whether it is off, and the rest. Nothing, while nothing has come.
pub(super) fn see(
    work: &mut Work<'_>,
    item: &ProtectedItem,
    sandbox: &Sandbox,
) -> Result<(String, bool, Sight), ControlError> {
    let Some(Stored { received, seen }) = work.control.last_seen(&item.name, sandbox)? else {
        return Ok((String::new(), false, Sight::default()));
    };
    refused(&seen)?;
    let started = seen.started.0.to_string();
    let is_other =
        seen.state != SandboxState::Starting && work.note(STARTED).is_some_and(|first| first != started);
    if work.note(STARTED).is_none() {
        work.set_note(STARTED, started);
    }
    let is_silent = work.now().0.saturating_sub(received.0) > DEAD_AFTER_MS;
    let picture = STANDARD.decode(&seen.picture).unwrap_or_default();
    let failed_requests = seen.failed_requests.max(u64::from(is_other || is_silent));
    let is_off = seen.state == SandboxState::Off;
    Ok((seen.console, is_off, Sight { picture, text: seen.screen, failed_requests }))
}
