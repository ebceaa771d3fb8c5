//! Proofs of a machine's recovery points: asked for, on schedule, and what was seen, with its picture and the end of its console.

use askama::Template;
use serde_json::json;
use switchback_control::{Control, ItemView};
use switchback_model::{AccessRole, JobId, Proof, RecoveryPoint, Verdict, duration};

use super::operations::{Offered, machine_page};
use super::path::{addition, form};
use crate::action::{Act, Then};
use crate::failure::Failure;
use crate::layout::{Frame, Tab};
use crate::pages::ask::{Field, Form};
use crate::pages::widgets::{self, Badge, Moment, Tone, badge};
use crate::shown;
use crate::visit::Visit;

pub(super) const VERIFY: &str = "verify";
pub(super) const PROVING: &str = "proving";
/// How many single points a form offers: the newest.
const OFFERED_MAX: usize = 200;
const NEWEST: &str = "latest-processed";

/// A proof, where its point is told of.
#[derive(Clone, Debug)]
pub(super) struct Proved {
    pub(super) verdict: Badge,
    pub(super) address: String,
}

#[derive(Template)]
#[template(path = "proof.html")]
struct Page {
    frame: Frame,
    machine: String,
    verdict: Badge,
    seen: String,
    seq: u64,
    point: Moment,
    began: Moment,
    took: String,
    probe: String,
    console: String,
    /// The picture's address, if there is one.
    picture: Option<String>,
}

fn address(proof: &Proof) -> String {
    format!("/portal/machines/{}/proofs/{}", proof.item, proof.outcome.id)
}

fn verdict(proof: &Proof) -> Badge {
    let verdict = proof.outcome.verdict;
    let tone = match verdict {
        Verdict::Passed => Tone::Good,
        Verdict::Failed => Tone::Bad,
        Verdict::Inconclusive => Tone::Warning,
    };
    badge(tone, verdict)
}

/// A proof by itself: its point, and when its verdict was there.
#[derive(Clone, Debug)]
pub(super) struct Last {
    pub(super) proved: Proved,
    pub(super) seq: u64,
    pub(super) ended: Moment,
}

/// The newest one, of whatever point.
pub(super) fn last(proofs: &[Proof], visit: &Visit) -> Option<Last> {
    let proof = proofs.first()?;
    Some(Last {
        proved: Proved { verdict: verdict(proof), address: address(proof) },
        seq: proof.outcome.seq.0,
        ended: widgets::moment(proof.outcome.ended, visit.now),
    })
}

/// The newest proof of a point. Points' numbers come again in another replica; with their times they do not.
pub(super) fn of_point(proofs: &[Proof], point: &RecoveryPoint) -> Option<Proved> {
    let is_of = |proof: &&Proof| (proof.outcome.seq, proof.outcome.point_time) == (point.seq, point.time);
    let proof = proofs.iter().find(is_of)?;
    Some(Proved { verdict: verdict(proof), address: address(proof) })
}

/// What of it the machine's state and the caller's role allow.
pub(super) fn offered(visit: &Visit, view: &ItemView) -> Vec<Offered> {
    let item = &view.item;
    let is_free = item.job.is_none() && item.held.is_none() && item.protection.replicates();
    let all = [
        (is_free && view.points > 0, AccessRole::Operator, VERIFY, "Verify recovery point"),
        (item.protection.replicates(), AccessRole::Contributor, PROVING, "Schedule of proofs"),
    ];
    let offered = all.into_iter().filter(|(may, role, ..)| *may && visit.may(*role));
    offered.map(|(_, _, slug, name)| Offered { slug, name: name.into(), is_grave: false }).collect()
}

/// The fields of a probe.
fn probe_fields(form: Form, view: &ItemView) -> Form {
    let probe = &view.item.proving.probe;
    let pattern = Field::line("pattern", "What shows that it works: a regular expression")
        .value(probe.pattern.clone().unwrap_or_default())
        .optional()
        .hint("Looked for in what it writes to its serial console, or shows on its screen in text mode. Empty: a login prompt.");
    let limit = Field::line("within", "Time for that").value(duration::show(probe.limit_ms));
    form.field(pattern).field(limit)
}

fn probe(visit: &Visit) -> Result<serde_json::Value, Failure> {
    let limit = duration::parse(visit.field("within")).map_err(Failure::invalid)?;
    let pattern = Some(visit.field("pattern")).filter(|pattern| !pattern.is_empty());
    Ok(json!({ "pattern": pattern, "limitMs": limit }))
}

/// `GET /portal/machines/{machine}/verify`.
pub(super) fn ask_verify(control: &Control, visit: &Visit) -> Result<String, Failure> {
    visit.needs(AccessRole::Operator, "verifying a recovery point")?;
    let view = control.item(&visit.name("machine")?)?;
    let mut points = control.recovery_points(&view.item.name)?;
    points.reverse();
    let numbered = points.iter().take(OFFERED_MAX).map(|point| {
        let moment = shown::Moment::of(point.time, visit.now);
        (point.seq.0.to_string(), format!("point {}: {}, {}", point.seq, moment.text, point.consistency))
    });
    let choices = std::iter::once((NEWEST.to_owned(), "the newest at the target".to_owned())).chain(numbered);
    let form = form(visit, &view, "Verify recovery point", "Boot it")
        .told("Direction", "none: it is booted in a sandbox without a network, and removed again")
        .told("Recovery point", "the chosen one; it is kept meanwhile")
        .told("Shut down", "nothing; a failover that is asked for meanwhile goes first")
        .told("Lost", "nothing")
        .field(Field::choice("point", "Recovery point", choices));
    probe_fields(form, &view).show()
}

/// `POST /portal/machines/{machine}/verify`.
pub(super) fn verify(control: &Control, visit: &Visit) -> Result<Act, Failure> {
    let view = control.item(&visit.name("machine")?)?;
    let properties = json!({ "point": visit.field("point"), "probe": probe(visit)? });
    Ok(Act::post(addition(visit, &view, "verify"), properties, Then::Job))
}

/// `GET /portal/machines/{machine}/proving`.
pub(super) fn ask_proving(control: &Control, visit: &Visit) -> Result<String, Failure> {
    visit.needs(AccessRole::Contributor, "setting the schedule of proofs")?;
    let view = control.item(&visit.name("machine")?)?;
    let every = view.item.proving.every_ms;
    let every = if every == 0 { "0".to_owned() } else { duration::show(every) };
    let form = form(visit, &view, "Schedule of proofs", "Keep it")
        .note("The newest recovery point is booted in a sandbox so often by itself, one machine at a time.")
        .field(Field::line("every", "How often").value(every).hint("1d, 12h, 30m; 0: not by itself."));
    probe_fields(form, &view).show()
}

/// `POST /portal/machines/{machine}/proving`.
pub(super) fn prove(control: &Control, visit: &Visit) -> Result<Act, Failure> {
    let view = control.item(&visit.name("machine")?)?;
    let every = match visit.field("every") {
        "0" => 0,
        text => duration::parse(text).map_err(Failure::invalid)?,
    };
    let properties = json!({ "everyMs": every, "probe": probe(visit)? });
    Ok(Act::put(addition(visit, &view, "proving"), properties, machine_page(&view)))
}

fn proof_of(control: &Control, visit: &Visit) -> Result<Proof, Failure> {
    let text = visit.param("proof");
    let id: JobId = text.parse().map_err(|_| Failure::not_found("proof", text))?;
    Ok(control.proof(&visit.name("machine")?, id)?)
}

/// `GET /portal/machines/{machine}/proofs/{proof}`.
pub(super) fn show(control: &Control, visit: &Visit) -> Result<String, Failure> {
    let proof = proof_of(control, visit)?;
    let outcome = &proof.outcome;
    let page = Page {
        frame: visit.frame(Tab::Machines, format!("Recovery point {} of {}", outcome.seq, proof.item)),
        machine: proof.item.to_string(),
        verdict: verdict(&proof),
        seen: outcome.seen.clone(),
        seq: outcome.seq.0,
        point: widgets::moment(outcome.point_time, visit.now),
        began: widgets::moment(outcome.started, visit.now),
        took: shown::span(outcome.ended.0.saturating_sub(outcome.started.0)),
        probe: format!("{}, within {}", proof.probe, duration::show(proof.probe.limit_ms)),
        picture: (proof.picture_len > 0).then(|| format!("{}/picture", address(&proof))),
        console: proof.console,
    };
    Ok(page.render()?)
}

/// `GET /portal/machines/{machine}/proofs/{proof}/picture`: PNG.
pub(super) fn picture(control: &Control, visit: &Visit) -> Result<Vec<u8>, Failure> {
    let proof = proof_of(control, visit)?;
    Ok(control.proof_picture(&proof.item, proof.outcome.id)?)
}
