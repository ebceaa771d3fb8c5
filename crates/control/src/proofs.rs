//! Proofs of recovery points: asked for, begun by schedule, kept and shown. How one is made is in `jobs::proof`.
//!
//! Of each machine the newest [`PROOFS_KEPT`] verdicts are kept, and the pictures of the newest [`PICTURES_KEPT`]; pictures are records of their own, so that
//! a list does not read them. Records of a proof are written by its job alone, and a machine has one at a time.
//!
//! A schedule proves the newest point of one machine at a time, the one that waits longest; users may have [`AT_WORK_MAX`] at once. One that came to no verdict
//! is tried again after [`AGAIN_AFTER_MS`].

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use switchback_identity::Role;
use switchback_model::component::PICTURE_LEN_MAX;
use switchback_model::{
    Job, JobId, JobRequest, JobState, ObjectName, PROBE_LIMITS_MS, PROVE_EVERY_MS_MIN, Phase, PointChoice,
    Probe, Proof, ProofInHand, ProofOutcome, ProtectedItem, UnixMillis, VerifyRequest,
};
use switchback_store::{Expect, Kind};

use crate::backup::behind;
use crate::inventory::{busy, values};
use crate::jobs::proof::finding::Pattern;
use crate::records::{Batch, Versioned};
use crate::{Control, ControlError, ErrorKind, ItemView};

/// Verdicts and pictures that are kept of a machine.
const PROOFS_KEPT: usize = 64;
const PICTURES_KEPT: usize = 8;
/// Sandboxes that run at once.
const AT_WORK_MAX: usize = 4;
/// Milliseconds until a schedule tries again what came to no verdict.
const AGAIN_AFTER_MS: u64 = 3_600_000;
/// Lines, and bytes, of a console that are kept.
const CONSOLE_LINES: usize = 60;
const CONSOLE_LEN_MAX: usize = 16 << 10;

/// A picture as it is stored.
#[derive(Serialize, Deserialize)]
struct StoredPicture {
    /// PNG, in base64.
    png: String,
}

impl Control {
    /// Boots a recovery point of a machine in a sandbox and tells whether it works. Without a probe, the machine's own.
    ///
    /// # Errors
    /// [`ErrorKind::IllegalState`] when the machine is not protected; [`ErrorKind::Conflict`] while another job
    /// works on it, or too many proofs are at work; [`ErrorKind::Invalid`] for a probe that cannot be.
    pub fn verify(
        &self,
        by: &str,
        name: &ObjectName,
        point: PointChoice,
        probe: Option<Probe>,
    ) -> Result<Job, ControlError> {
        let Versioned { value: mut item, version } = self.stored_item(name)?;
        let probe = probe.unwrap_or_else(|| item.proving.probe.clone());
        check_probe(&probe)?;
        self.check_can_prove(&item)?;
        let left = match &item.proving.in_hand {
            Some(proof) if self.is_at_work(proof)? => {
                let message = format!("a recovery point of {name} is being proved by the job {}", proof.job);
                return Err(ControlError::new(ErrorKind::Conflict, "proof.in-hand", message)
                    .remedy("wait for it, or cancel it"));
            }
            other => other.as_ref().and_then(|proof| proof.sandbox.clone()),
        };
        let items = values(self.records().all(Kind::Item)?);
        self.check_master_target_is_free(&item, &items)?;
        if self.proofs_at_work(&items)? >= AT_WORK_MAX {
            let message = format!("{AT_WORK_MAX} proofs are at work already");
            return Err(ControlError::new(ErrorKind::Conflict, "proof.too-many", message)
                .remedy("wait until one has ended (`switchback job list`)"));
        }
        let request = VerifyRequest { item: item.name.clone(), point, probe };
        let mut job = self.new_job(by, JobRequest::Verify(Box::new(request)))?;
        item.proving.begun = Some(job.created);
        item.proving.in_hand = Some(ProofInHand { job: job.id, sandbox: left });
        let mut batch = Batch::default();
        batch.replace_item(&item, version);
        self.submit(&mut job, batch)?;
        Ok(job)
    }

    /// A master target runs one sandbox at a time itself.
    fn check_master_target_is_free(
        &self,
        item: &ProtectedItem,
        items: &[ProtectedItem],
    ) -> Result<(), ControlError> {
        let Some(path) = &item.replication else { return Ok(()) };
        let is_there = |other: &&ProtectedItem| {
            let there = other.replication.as_ref().is_some_and(|its| its.master_target == path.master_target);
            let sandbox = other.proving.in_hand.as_ref().and_then(|proof| proof.sandbox.as_ref());
            there && other.name != item.name && sandbox.is_some_and(|sandbox| sandbox.beside.is_some())
        };
        for other in items.iter().filter(is_there) {
            if other.proving.in_hand.as_ref().map(|proof| self.is_at_work(proof)).transpose()? == Some(true) {
                let message = format!(
                    "the master target {} runs a sandbox of {} already",
                    path.master_target, other.name
                );
                return Err(ControlError::new(ErrorKind::Conflict, "proof.too-many", message)
                    .remedy("wait until that proof has ended (`switchback job list`)"));
            }
        }
        Ok(())
    }

    /// Whether recovery points of a machine can be proved now, as far as that is known without trying.
    pub(crate) fn check_can_prove(&self, item: &ProtectedItem) -> Result<(), ControlError> {
        let name = &item.name;
        if let Some(held) = &item.held {
            return Err(behind::refusal(name, held));
        }
        if let Some(other) = item.job {
            return Err(busy("machine", name, other));
        }
        if item.protection.phase != Phase::Protected {
            let message =
                format!("{name} is {}: it has no recovery points that could be proved", item.protection);
            return Err(ControlError::new(ErrorKind::IllegalState, "proof.not-protected", message)
                .remedy("wait until it is protected"));
        }
        Ok(())
    }

    pub(crate) fn is_at_work(&self, proof: &ProofInHand) -> Result<bool, ControlError> {
        match self.job(proof.job) {
            // Nor does one that a restore has suspended give way by itself.
            Ok(job) => Ok(!job.state.is_final() && job.state != JobState::Suspended),
            // So old that it is not kept any more.
            Err(error) if error.kind == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn proofs_at_work(&self, items: &[ProtectedItem]) -> Result<usize, ControlError> {
        let proofs = items.iter().filter_map(|item| item.proving.in_hand.as_ref());
        proofs.map(|proof| self.is_at_work(proof).map(usize::from)).sum()
    }

    /// Says what is looked for when points of a machine are proved, and how often that is done by itself; `every_ms` 0: never.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a probe or a schedule that cannot be; [`ErrorKind::Conflict`] when the machine was changed meanwhile.
    pub fn set_proving(
        &self,
        name: &ObjectName,
        probe: Probe,
        every_ms: u64,
    ) -> Result<ItemView, ControlError> {
        check_probe(&probe)?;
        if every_ms != 0 && every_ms < PROVE_EVERY_MS_MIN {
            let message =
                format!("points are proved every {} s at most, or never (0)", PROVE_EVERY_MS_MIN / 1000);
            return Err(ControlError::new(ErrorKind::Invalid, "proof.too-often", message));
        }
        let Versioned { value: mut item, version } = self.stored_item(name)?;
        (item.proving.probe, item.proving.every_ms) = (probe, every_ms);
        let mut batch = Batch::default();
        batch.replace_item(&item, version);
        self.records().commit(batch)?;
        self.item(name)
    }

    /// The proofs of a machine, newest first.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn proofs(&self, name: &ObjectName) -> Result<Vec<Proof>, ControlError> {
        self.stored_item(name)?;
        let mut proofs = self.stored_proofs(name)?;
        proofs.reverse();
        Ok(proofs)
    }

    /// One proof.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn proof(&self, name: &ObjectName, id: JobId) -> Result<Proof, ControlError> {
        Ok(self.records().get(Kind::Proof, "proof", &key(name, id))?.value)
    }

    /// The picture of a proof: PNG.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]: there is no such proof, or it has no picture (any more).
    pub fn proof_picture(&self, name: &ObjectName, id: JobId) -> Result<Vec<u8>, ControlError> {
        let picture: Versioned<StoredPicture> =
            self.records().get(Kind::Picture, "picture", &key(name, id))?;
        STANDARD.decode(&picture.value.png).map_err(|error| {
            let message = format!("the picture of the proof {id} cannot be read: {error}");
            ControlError::new(ErrorKind::Internal, "store.unreadable", message)
        })
    }

    /// Oldest first: the ids of jobs sort by time.
    fn stored_proofs(&self, name: &ObjectName) -> Result<Vec<Proof>, ControlError> {
        self.records().below(Kind::Proof, &format!("{}/", name.key()), |_| true)
    }

    /// Has a proof become durable with `batch`, and what is too old go.
    pub(crate) fn keep_proof(
        &self,
        name: &ObjectName,
        outcome: &ProofOutcome,
        probe: Probe,
        console: &str,
        picture: &[u8],
        batch: &mut Batch,
    ) -> Result<(), ControlError> {
        let picture = if picture.len() > PICTURE_LEN_MAX { &[] } else { picture };
        let proof = Proof {
            item: name.clone(),
            outcome: outcome.clone(),
            probe,
            console: end_of(console),
            picture_len: picture.len() as u64,
        };
        let mut kept = self.stored_proofs(name)?;
        kept.retain(|known| known.outcome.id != outcome.id);
        kept.reverse();
        for (age, mut old) in kept.into_iter().enumerate().skip(PICTURES_KEPT - 1) {
            let key = key(name, old.outcome.id);
            if old.picture_len > 0 {
                batch.delete(Kind::Picture, key.clone(), Expect::Any);
            }
            if age >= PROOFS_KEPT - 1 {
                batch.delete(Kind::Proof, key, Expect::Any);
            } else if old.picture_len > 0 {
                old.picture_len = 0;
                batch.put(Kind::Proof, key, Expect::Any, &old);
            }
        }
        let key = key(name, outcome.id);
        if !picture.is_empty() {
            batch.put(
                Kind::Picture,
                key.clone(),
                Expect::Any,
                &StoredPicture { png: STANDARD.encode(picture) },
            );
        }
        batch.put(Kind::Proof, key, Expect::Any, &proof);
        Ok(())
    }

    /// Has all proofs of a machine go with `batch`.
    pub(crate) fn forget_proofs(&self, name: &ObjectName, batch: &mut Batch) -> Result<(), ControlError> {
        self.forget_sandbox(name, batch);
        for proof in self.stored_proofs(name)? {
            let key = key(name, proof.outcome.id);
            batch.delete(Kind::Picture, key.clone(), Expect::Any);
            batch.delete(Kind::Proof, key, Expect::Any);
        }
        Ok(())
    }

    /// Marks a machine as proved by a job that is restarted.
    pub(crate) fn mark_proof(&self, name: &ObjectName, job: &Job) -> Result<Batch, ControlError> {
        let Versioned { value: mut item, version } = self.stored_item(name)?;
        let sandbox = match item.proving.in_hand.take() {
            Some(other) if self.is_at_work(&other)? => return Err(busy("machine", name, other.job)),
            left => left.and_then(|proof| proof.sandbox),
        };
        item.proving.in_hand = Some(ProofInHand { job: job.id, sandbox });
        let mut batch = Batch::default();
        batch.replace_item(&item, version);
        Ok(batch)
    }

    /// A job that proved has ended. What it could not remove stays on record, to be removed by the next.
    pub(crate) fn free_proof(
        &self,
        name: &ObjectName,
        job: JobId,
        batch: &mut Batch,
    ) -> Result<(), ControlError> {
        let mut item = match self.stored_item(name) {
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(()),
            item => item?,
        };
        let is_clean = |proof: &ProofInHand| proof.job == job && proof.sandbox.is_none();
        if item.value.proving.in_hand.as_ref().is_some_and(is_clean) {
            item.value.proving.in_hand = None;
            batch.replace_item(&item.value, item.version);
        }
        Ok(())
    }

    /// Begins the proof that has been due longest, unless one is at work.
    ///
    /// # Errors
    /// Those of the store.
    pub fn begin_due_proof(&self) -> Result<(), ControlError> {
        let now = self.now();
        let items: Vec<ProtectedItem> = values(self.records().all(Kind::Item)?);
        let mut due: Vec<_> = items.iter().filter_map(|item| Some((due_at(item)?, item))).collect();
        due.retain(|(at, _)| *at <= now);
        if due.is_empty() || self.proofs_at_work(&items)? > 0 {
            return Ok(());
        }
        due.sort_by_key(|(at, _)| *at);
        for (_, item) in due {
            if !self.could_be_proved(item)? {
                continue;
            }
            match self.verify("switchback", &item.name, PointChoice::LatestProcessed, None) {
                Ok(job) => {
                    tracing::info!(machine = %item.name, job = %job.id, "its newest recovery point is proved by schedule")
                }
                Err(error) => {
                    tracing::info!(machine = %item.name, %error, "its recovery point is not proved for now")
                }
            }
            break;
        }
        Ok(())
    }

    /// There is a point, and a master target that shows it.
    fn could_be_proved(&self, item: &ProtectedItem) -> Result<bool, ControlError> {
        let Some(path) = &item.replication else { return Ok(false) };
        let target = self.server_report(Role::Target, &path.master_target)?;
        let has_points = target.filter(|target| target.is_alive(self.now())).is_some_and(|target| {
            target
                .replica(&path.replica)
                .is_some_and(|replica| replica.points.iter().any(|point| point.seq.0 > 0))
        });
        Ok(has_points && self.check_can_prove(item).is_ok())
    }
}

fn key(name: &ObjectName, id: JobId) -> String {
    format!("{}/{id}", name.key())
}

fn check_probe(probe: &Probe) -> Result<(), ControlError> {
    Pattern::of(probe)?;
    let [least, most] = PROBE_LIMITS_MS;
    if !(least..=most).contains(&probe.limit_ms) {
        let message = format!("a probe waits from {} to {} s", least / 1000, most / 1000);
        return Err(ControlError::new(ErrorKind::Invalid, "proof.limit", message));
    }
    Ok(())
}

/// When a machine's newest point is to be proved by schedule; `None`: it has none, or it cannot be now.
fn due_at(item: &ProtectedItem) -> Option<UnixMillis> {
    let proving = &item.proving;
    let is_free = item.job.is_none() && item.held.is_none() && item.protection.phase == Phase::Protected;
    if proving.every_ms == 0 || !is_free {
        return None;
    }
    let Some(begun) = proving.begun else { return Some(UnixMillis(0)) };
    let concluded = proving.ended.is_some_and(|ended| ended >= begun);
    let pause = if concluded { proving.every_ms } else { proving.every_ms.min(AGAIN_AFTER_MS) };
    Some(UnixMillis(begun.0.saturating_add(pause)))
}

/// The last lines of a text.
fn end_of(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let text = lines[lines.len().saturating_sub(CONSOLE_LINES)..].join("\n");
    let start = text.ceil_char_boundary(text.len().saturating_sub(CONSOLE_LEN_MAX));
    text[start..].to_owned()
}

#[cfg(test)]
mod tests {
    use switchback_model::{JobId, Phase, UnixMillis};

    use super::{AGAIN_AFTER_MS, CONSOLE_LEN_MAX, CONSOLE_LINES, due_at, end_of};
    use crate::testing::item;

    const DAY: u64 = 86_400_000;

    #[test]
    fn a_schedule_counts_from_the_last_proof_and_waits_less_for_one_without_a_verdict() {
        let mut web = item("web01");
        web.protection.phase = Phase::Protected;
        assert_eq!(due_at(&web), None, "no schedule");
        web.proving.every_ms = DAY;
        assert_eq!(due_at(&web), Some(UnixMillis(0)), "never proved yet");
        web.proving.begun = Some(UnixMillis(DAY));
        assert_eq!(due_at(&web), Some(UnixMillis(DAY + AGAIN_AFTER_MS)));
        web.proving.ended = Some(UnixMillis(DAY - 1));
        assert_eq!(due_at(&web), Some(UnixMillis(DAY + AGAIN_AFTER_MS)), "that was the one before");
        web.proving.ended = Some(UnixMillis(DAY));
        assert_eq!(due_at(&web), Some(UnixMillis(2 * DAY)), "a verdict, whichever");
        web.job = Some(JobId([2; 16]));
        assert_eq!(due_at(&web), None, "another job comes first");
        (web.job, web.protection.phase) = (None, Phase::FailedOver);
        assert_eq!(due_at(&web), None, "nothing replicates");
    }

    #[test]
    fn of_a_console_the_end_is_kept() {
        let text: String = (0..1000).map(|line| format!("line {line}\n\n")).collect();
        let kept = end_of(&text);
        assert!(kept.ends_with("line 999") && kept.lines().count() == CONSOLE_LINES, "{kept}");
        let long = "ä".repeat(CONSOLE_LEN_MAX);
        assert!(end_of(&long).len() <= CONSOLE_LEN_MAX && end_of("").is_empty());
    }
}
