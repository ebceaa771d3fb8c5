//! Which of two servers is the one: a restored server takes the place of the one it was restored from, and that one is told so by components and by what it
//! finds at the backups' destination.
//!
//! Whoever tells so has to show the authority's word ([`IncarnationProof`]): what is not proved changes nothing, and people are told who said it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use switchback_identity::is_proved;
use switchback_model::component::IncarnationProof;
use switchback_model::{Event, Severity, UnixMillis};
use switchback_store::{Expect, Kind};

use super::destination::Destination;
use super::{Made, SERVER_OBJECT, format};
use crate::conditions::Finding;
use crate::records::Batch;
use crate::{Control, ControlError, ErrorKind};

/// The source of these conditions.
const SOURCE: &str = "incarnation";
/// Incarnations of which a backup at the destination is looked at.
const SUCCESSORS_MAX: usize = 3;

/// The record among the settings that tells which life of the configuration server this is.
pub(crate) const INCARNATION: &str = "incarnation";
/// Tells that another server has taken this one's place.
pub(super) const SUPERSEDED: &str = "superseded";

/// Which life of the configuration server a store belongs to. A restore begins a new one; components follow the highest that they have met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incarnation {
    /// 0 for a server that was never restored; else the time of the restore, in milliseconds, and more than it was before.
    pub number: u64,
    /// When the backup was made that it began with.
    pub backup_made: UnixMillis,
    /// When it was restored.
    pub restored: UnixMillis,
    /// The authority's, over the number.
    #[serde(default)]
    pub signature: Vec<u8>,
}

impl Incarnation {
    pub(crate) fn proof(self) -> IncarnationProof {
        IncarnationProof { number: self.number, signature: self.signature }
    }
}

/// Somebody has met a higher incarnation of the configuration server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// Nobody has.
    None,
    /// The authority says so, too.
    Proved(u64),
    /// So it says, and nothing proves it.
    Unproved(u64),
}

/// Another server has taken this one's place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Superseded {
    /// The other's incarnation.
    pub by: u64,
    /// Who told so.
    pub told_by: String,
    /// When.
    pub at: UnixMillis,
}

impl Control {
    /// This server's incarnation.
    ///
    /// # Errors
    /// Those of the store.
    pub fn incarnation(&self) -> Result<u64, ControlError> {
        Ok(self.own_incarnation()?.map_or(0, |own| own.number))
    }

    pub(crate) fn own_incarnation(&self) -> Result<Option<Incarnation>, ControlError> {
        Ok(self.records().find(Kind::Setting, INCARNATION)?.map(|kept| kept.value))
    }

    /// What it means for this server that somebody has met an incarnation.
    pub(crate) fn judge_claim(&self, claim: Option<&IncarnationProof>) -> Result<Claim, ControlError> {
        let Some(claim) = claim else { return Ok(Claim::None) };
        if claim.number <= self.incarnation()? {
            return Ok(Claim::None);
        }
        let authority = self.inner.home.get().map(|home| home.authority.as_slice()).unwrap_or_default();
        let is_true = is_proved(claim, authority);
        Ok(if is_true { Claim::Proved(claim.number) } else { Claim::Unproved(claim.number) })
    }

    /// Refuses when there are backups at the destination of a server that takes this one's place.
    pub(super) fn check_no_successor_at(
        &self,
        destination: &Destination,
        present: &[Made],
    ) -> Result<(), ControlError> {
        let own = self.incarnation()?;
        let newer = present.iter().map(|made| &made.name).filter(|name| name.incarnation > own);
        // One of each incarnation is enough, and some: whoever can write there may have put any number there.
        let newer: BTreeMap<u64, _> = newer.map(|name| (name.incarnation, name)).collect();
        let mut claim = Claim::None;
        for (number, name) in newer.into_iter().rev().take(SUCCESSORS_MAX) {
            let file = destination.get(name)?;
            let proof = format::inspect(&file).ok().and_then(|inspected| inspected.header.incarnation_proof);
            if let Claim::Proved(number) = self.judge_claim(proof.as_ref())? {
                let by = format!("the backup {name} at {}", destination.name());
                return Err(self.supersede(number, &by)?);
            }
            claim = Claim::Unproved(number);
        }
        self.observe_claim("a backup at the backups' destination", claim)
    }

    /// Has people told, once, that `who` claims what there is no proof of; or that it does so no more.
    pub(crate) fn observe_claim(&self, who: &str, claim: Claim) -> Result<(), ControlError> {
        let found = match claim {
            Claim::Unproved(number) => {
                let message = format!(
                    "{who} says that a configuration server of incarnation {number} has taken this one's place, and cannot prove it: that is ignored. It \
                     may be in foreign hands: look at it; remove a component that is, and enrol it anew"
                );
                let finding = Finding { severity: Severity::Critical, message };
                [("server.incarnation-unproved".to_owned(), finding)].into()
            }
            Claim::None | Claim::Proved(_) => BTreeMap::new(),
        };
        self.observe_one(SOURCE, who, &found)
    }

    /// Whether another server has taken this one's place.
    ///
    /// # Errors
    /// Those of the store.
    pub fn superseded(&self) -> Result<Option<Superseded>, ControlError> {
        Ok(self.records().find(Kind::Setting, SUPERSEDED)?.map(|kept| kept.value))
    }

    /// Refuses what only the server that is in charge may do.
    ///
    /// # Errors
    /// `server.superseded` when another server has taken this one's place.
    pub fn check_not_superseded(&self) -> Result<(), ControlError> {
        self.superseded()?.map_or(Ok(()), |superseded| Err(refusal(&superseded)))
    }

    /// Another server has taken this one's place, as `told_by` tells: from here on it only shows. Returns the refusal.
    pub(crate) fn supersede(&self, by: u64, told_by: &str) -> Result<ControlError, ControlError> {
        if let Some(known) = self.superseded()?.filter(|known| known.by >= by) {
            return Ok(refusal(&known));
        }
        let superseded = Superseded { by, told_by: told_by.into(), at: self.now() };
        let mut batch = Batch::default();
        batch.put(Kind::Setting, SUPERSEDED, Expect::Any, &superseded);
        let message = format!(
            "a restored configuration server has taken this one's place ({told_by} tells so): this one runs no jobs, orders nothing and backs up nothing \
             any more. Stop it"
        );
        let event = Event {
            time: self.now(),
            code: "server.superseded".into(),
            severity: Severity::Critical,
            object: SERVER_OBJECT.into(),
            message,
        };
        self.add_happening(&mut batch, &event);
        self.records().commit(batch)?;
        Ok(refusal(&superseded))
    }
}

pub(crate) fn refusal(superseded: &Superseded) -> ControlError {
    let message = format!(
        "this configuration server was superseded: one that was restored from its backup is in charge (incarnation {})",
        superseded.by
    );
    ControlError::new(ErrorKind::IllegalState, "server.superseded", message)
        .cause(format!("{} told so", superseded.told_by))
        .remedy("use the restored one, and stop this one")
}
