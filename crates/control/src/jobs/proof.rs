//! Proof of a recovery point: it boots in a sandbox beside its replica, is watched, and goes; verdict and picture stay.
//!
//! ```text
//! choose the point ─▶ its view is desired ─▶ a machine above it, without a network ─▶ start ─▶ watch: verdict and picture, in one change
//!        │ the user, a failure, or another operation on the machine                                              │
//!        └────────────── the machine goes, then the view (undo) ◀────────────────────────────────────────────────┘
//! ```
//! Nothing of the protected machine, its instances or its replication is touched: the view is read-only, what the sandbox writes goes to layers of its own. A
//! proof does not hold the machine's mark: other operations begin at once, the proof gives way by cancelling itself, and a failover waits for that ([`make_way`]),
//! because a replica cannot go to another point while one is shown.
//!
//! Where the site has no such machines, the master target that keeps the replica runs the sandbox itself ([`beside`]); all else is the same.
//!
//! Invariant: the view is desired as long as the sandbox may be there ([`ProofInHand::sandbox`](switchback_model::ProofInHand)); so nobody unmounts what runs.

mod beside;
pub(crate) mod finding;

use std::path::PathBuf;

use switchback_model::{
    Instance, JobRequest, Phase, ProofInHand, ProofOutcome, ProtectedItem, Sandbox, VerifyRequest,
};
use switchback_sites::{NewMachine, Nic, Power, Sight, Site, SiteError};

use self::finding::{Pattern, Seen, judge, plain};
use super::failover::{target, target_gone};
use super::point::choose;
use super::shutdown::{Manner, ensure_off};
use super::step::{Outcome, Step, Work, failure};
use super::test_failover::{disks_over, images_of, lacks};
use crate::items::points;
use crate::records::Versioned;
use crate::{ControlError, ErrorKind};

/// Seconds for a master target to report, and to show a view.
const TARGET_LIMIT_S: u64 = 60;
const VIEW_LIMIT_S: u64 = 120;
/// Seconds that another operation waits for a proof to give way.
const GIVE_WAY_LIMIT_S: u64 = 30;
/// Milliseconds between two looks.
const LOOK_EVERY_MS: u64 = 1_000;
/// Bytes of its console that are looked at.
const CONSOLE_BYTES: usize = 256 << 10;
/// Characters of a machine's name that become part of its sandbox's id.
const NAME_CHARS: usize = 40;

pub(crate) fn steps() -> Vec<Step> {
    vec![
        Step::new("ChooseRecoveryPointTask", "Choose the recovery point", choose_point)
            .undo(drop_view)
            .undo_on_failure(),
        Step::new("CreateSandboxVirtualMachine", "Create the sandbox", create)
            .undo(remove_sandbox)
            .undo_on_failure(),
        Step::new("StartSandboxVirtualMachine", "Start the sandbox", start).undo_on_failure(),
        Step::new("WatchSandboxVirtualMachine", "Watch the sandbox", watch).undo_on_failure(),
        Step::new("RemoveSandboxVirtualMachine", "Remove the sandbox", remove_sandbox),
        Step::new("CompleteProofTask", "Complete the proof", drop_view),
    ]
}

/// Of another operation, which is about to need the replica: waits until a proof has given way. What a proof has left that has ended is removed.
///
/// # Errors
/// Its sandbox is there still when the time for that is over.
pub(crate) fn make_way(work: &mut Work<'_>) -> Result<Option<Outcome>, ControlError> {
    let mut item = work.item()?;
    let Some(proof) = item.value.proving.in_hand.take() else { return Ok(None) };
    let Some(sandbox) = proof.sandbox.clone() else { return Ok(None) };
    if !work.control.is_at_work(&proof)? {
        remove(work, &sandbox)?;
        work.control.forget_sandbox(&item.value.name, work.batch);
        work.change(&item);
        return Ok(Some(Outcome::wait("what a proof had left is removed")));
    }
    let waits = format!("the proof of recovery point {} gives way", sandbox.seq);
    let wait = work.wait_for(waits, GIVE_WAY_LIMIT_S, || {
        failure(
            ErrorKind::IllegalState,
            "proof.in-the-way",
            format!(
                "the sandbox {} at {} is there still: the replica cannot be used",
                sandbox.id, sandbox.site
            ),
            "the site does not turn it off",
            "see the proof's job; end the sandbox at the site, then restart this job",
        )
    });
    wait.map(Some)
}

/// Why a proof must not go on.
fn reason_to_give_way(item: &ProtectedItem) -> Option<String> {
    match item.job {
        Some(job) => Some(format!("gives way to the job {job}")),
        None if item.held.is_some() => {
            Some("gives way: the machine is held since the server was restored".into())
        }
        None if item.protection.phase != Phase::Protected => {
            Some(format!("gives way: it is {}", item.protection))
        }
        None => None,
    }
}

/// Has the job end as cancelled, with all undone.
fn gives_way(work: &mut Work<'_>, item: &ProtectedItem) -> Option<Outcome> {
    let reason = reason_to_give_way(item)?;
    work.job.cancel_requested = true;
    Some(Outcome::wait(reason))
}

fn request(work: &Work<'_>) -> Result<VerifyRequest, ControlError> {
    match &work.job.request {
        JobRequest::Verify(request) => Ok((**request).clone()),
        _ => Err(ControlError::new(ErrorKind::Internal, "proof.no-request", "the job proves nothing")),
    }
}

fn no_sandbox() -> ControlError {
    ControlError::new(ErrorKind::Internal, "proof.no-sandbox-in-hand", "no sandbox is in hand")
}

fn sandbox_of(item: &ProtectedItem) -> Option<&Sandbox> {
    item.proving.in_hand.as_ref()?.sandbox.as_ref()
}

/// The view is desired from here on. What a former proof could not remove goes first.
fn choose_point(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let mut item = work.item()?;
    if let Some(way) = gives_way(work, &item.value) {
        return Ok(way);
    }
    if target(work, &item.value)?.is_none() {
        return work.wait_for("waiting for the master target to report", TARGET_LIMIT_S, || {
            target_gone(&item.value)
        });
    }
    if let Some(left) = sandbox_of(&item.value) {
        remove(work, left)?;
    }
    let point = choose(&item.value, &points(&work.control.facts()?, &item.value), &request(work)?.point)?;
    let Some(path) = &item.value.replication else { return Err(target_gone(&item.value)) };
    let name: String = item.value.name.key().chars().take(NAME_CHARS).collect();
    let has_own = work.site(&item.value.passive().site)?.has_sandboxes();
    let beside = if has_own { None } else { Some(beside::plan(work, &item.value, point.seq)?) };
    let sandbox = Sandbox {
        site: item.value.passive().site.clone(),
        id: format!("{name}-proof-{}", &item.value.machine.to_string()[..8]),
        replica: path.replica.clone(),
        seq: point.seq,
        point_time: point.time,
        view: format!("proof-{}", &work.job.id.to_string()[16..]),
        beside,
    };
    item.value.proving.in_hand = Some(ProofInHand { job: work.job.id, sandbox: Some(sandbox) });
    work.change(&item);
    Ok(Outcome::Done(format!("recovery point {}", point.seq)))
}

/// By what a site knows whose sandbox it is: one of another job is over another view.
fn mark(work: &Work<'_>, item: &ProtectedItem) -> String {
    format!("{} proof {}", item.machine, work.job.id)
}

fn no_view(sandbox: &Sandbox) -> ControlError {
    failure(
        ErrorKind::IllegalState,
        "proof.no-view",
        format!("the master target has not shown recovery point {}", sandbox.seq),
        "it does not report, has no FUSE, or the point has just been dropped by the retention policy",
        "see the machine's health; choose another point, or verify again",
    )
}

fn create(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let item = work.item()?.value;
    if let Some(way) = gives_way(work, &item) {
        return Ok(way);
    }
    let sandbox = sandbox_of(&item).ok_or_else(no_sandbox)?;
    if sandbox.beside.is_some() {
        return beside::create(work, &item, sandbox);
    }
    let Some(images) = images_of(work, &item, &sandbox.view)? else {
        let waits = "waiting for the recovery point to be shown";
        return work.wait_for(waits, VIEW_LIMIT_S, || no_view(sandbox));
    };
    let site = work.site(&sandbox.site)?;
    match site.machine(&sandbox.id) {
        Ok(there) if there.mark != Some(mark(work, &item)) => remove(work, sandbox)?,
        Err(SiteError::NoSuchMachine { .. }) | Ok(_) => {}
        Err(error) => return Err(error.into()),
    }
    site.create_machine(&machine(work, &item, sandbox, images, &*site)?)?;
    Ok(Outcome::Done(sandbox.id.clone()))
}

/// Like the instance that a failover would start, but that its network cards lead nowhere.
fn machine(
    work: &Work<'_>,
    item: &ProtectedItem,
    sandbox: &Sandbox,
    images: Vec<PathBuf>,
    site: &dyn Site,
) -> Result<NewMachine, ControlError> {
    let like = site.machine(item.passive().id.as_deref().unwrap_or_default())?;
    Ok(NewMachine {
        id: sandbox.id.clone(),
        name: format!("{} (proof)", item.name),
        system_uuid: None,
        cpus: like.cpus,
        memory_mib: like.memory_mib,
        boot: like.boot.clone(),
        disks: disks_over(item, site, &like, &images, &lacks(work, item, sandbox.seq)?)?,
        nics: like.nics.iter().map(|nic| Nic { mac: nic.mac.clone(), network: None }).collect(),
        beside: None,
        mark: Some(mark(work, item)),
    })
}

fn start(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let item = work.item()?.value;
    if let Some(way) = gives_way(work, &item) {
        return Ok(way);
    }
    let sandbox = sandbox_of(&item).ok_or_else(no_sandbox)?;
    if sandbox.beside.is_some() {
        return Ok(Outcome::Done(format!("{} runs beside its master target, without a network", sandbox.id)));
    }
    work.site(&sandbox.site)?.power_on(&sandbox.id)?;
    Ok(Outcome::Done(format!("{} runs at {}, without a network", sandbox.id, sandbox.site)))
}

fn watch(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let mut item = work.item()?;
    if let Some(way) = gives_way(work, &item.value) {
        return Ok(way);
    }
    let sandbox = sandbox_of(&item.value).ok_or_else(no_sandbox)?.clone();
    let probe = request(work)?.probe;
    let waited_ms = work.waited_ms();
    let (mut seen, sight) = see(work, &item.value, &sandbox)?;
    seen.is_late = waited_ms >= probe.limit_ms;
    let Some((verdict, what)) = judge(&seen, &probe, &Pattern::of(&probe)?) else {
        let percent = u8::try_from(waited_ms.saturating_mul(100) / probe.limit_ms.max(1)).unwrap_or(100);
        return Ok(Outcome::Wait {
            message: format!("looking for {probe}, {} s at most", probe.limit_ms / 1000),
            percent: Some(percent.min(100)),
            pause_ms: LOOK_EVERY_MS,
        });
    };
    let started = work.job.started.unwrap_or(work.job.created);
    let outcome = ProofOutcome {
        id: work.job.id,
        replica: sandbox.replica,
        seq: sandbox.seq,
        point_time: sandbox.point_time,
        started,
        ended: work.now(),
        verdict,
        seen: what,
    };
    // Once more: its console may have said it a moment after the look.
    let now = if sandbox.beside.is_some() { None } else { work.site(&sandbox.site)?.look(&sandbox.id).ok() };
    let picture = now.map_or(sight.picture, |now| now.picture);
    let text = if seen.console.trim().is_empty() { &seen.screen } else { &seen.console };
    work.control.keep_proof(&item.value.name, &outcome, probe, text, &picture, work.batch)?;
    let told = format!("recovery point {} {verdict}: {}", outcome.seq, outcome.seen);
    item.value.proving.conclude(outcome);
    work.change(&item);
    Ok(Outcome::Done(told))
}

/// What is to be seen of the sandbox now.
fn see(work: &mut Work<'_>, item: &ProtectedItem, sandbox: &Sandbox) -> Result<(Seen, Sight), ControlError> {
    const FAILED_REQUESTS: &str = "failed-requests";
    let (console, is_off, sight) = match sandbox.beside {
        Some(_) => beside::see(work, item, sandbox)?,
        None => see_at_site(work, sandbox)?,
    };
    let before = work.note(FAILED_REQUESTS).and_then(|count| count.parse().ok()).unwrap_or(0);
    let failed_requests = sight.failed_requests.max(before);
    if failed_requests > before {
        work.set_note(FAILED_REQUESTS, failed_requests.to_string());
    }
    let screen = sight.text.clone();
    Ok((Seen { console: plain(&console), screen, is_off, failed_requests, is_late: false }, sight))
}

/// A screen that cannot be looked at leaves its console.
fn see_at_site(work: &Work<'_>, sandbox: &Sandbox) -> Result<(String, bool, Sight), ControlError> {
    let site = work.site(&sandbox.site)?;
    let is_off = site.machine(&sandbox.id)?.power == Power::Off;
    let sight = if is_off { Ok(Sight::default()) } else { site.look(&sandbox.id) };
    let sight = sight.unwrap_or_else(|error| {
        tracing::warn!(sandbox = sandbox.id, %error, "the screen of a sandbox cannot be seen");
        Sight::default()
    });
    // Last: what was written before it went off is there.
    Ok((site.console(&sandbox.id, CONSOLE_BYTES)?, is_off, sight))
}

/// Off, and gone with all it has written.
fn remove(work: &Work<'_>, sandbox: &Sandbox) -> Result<(), ControlError> {
    if sandbox.beside.is_some() {
        // Its master target ends it once it is not on record any more, before anything else is done with the replica.
        return Ok(());
    }
    let instance = Instance {
        site: sandbox.site.clone(),
        id: Some(sandbox.id.clone()),
        system_uuid: String::new(),
        created_by_us: true,
        disk_serials: Vec::new(),
        nics: Vec::new(),
    };
    ensure_off(work, &instance, Manner::AtOnce)?;
    Ok(work.site(&sandbox.site)?.delete_machine(&sandbox.id)?)
}

fn remove_sandbox(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let item = work.item()?.value;
    let Some(sandbox) = sandbox_of(&item) else { return Ok(Outcome::done()) };
    remove(work, sandbox)?;
    Ok(Outcome::Done(format!("{} is removed", sandbox.id)))
}

/// Not while the sandbox is there: its disks stand on it.
fn drop_view(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let mut item: Versioned<ProtectedItem> = work.item()?;
    let job = work.job.id;
    let Some(proof) = item.value.proving.in_hand.as_mut().filter(|proof| proof.job == job) else {
        return Ok(Outcome::done());
    };
    if let Some(sandbox) = proof.sandbox.take() {
        remove(work, &sandbox)?;
        work.control.forget_sandbox(&item.value.name, work.batch);
        work.change(&item);
    }
    Ok(Outcome::done())
}
