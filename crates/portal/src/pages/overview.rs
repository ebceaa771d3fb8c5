//! The tab Overview: what a person must know first. How many machines are well and ready, both ways; whose recovery points are too old; what runs; and what
//! needs a human now, each with its remedy.

use std::cmp::Reverse;
use std::sync::Arc;

use askama::Template;
use axum::Router;
use switchback_control::{Control, Health, ItemView};
use switchback_identity::Role;
use switchback_model::{CheckState, Job, JobError, JobState, ObjectName};

use super::machines::rpo_targets;
use super::widgets::{self, Badge, Moment, job_badge, job_title};
use crate::Portal;
use crate::failure::Failure;
use crate::layout::{Frame, Tab};
use crate::shown::span;
use crate::visit::{Visit, page};

/// Machines whose RPO is shown: the worst. The list of machines has them all.
const RPO_MAX: usize = 12;
/// Of each kind, what needs a human.
const NEEDS_MAX: usize = 20;
/// Jobs that are looked at.
const JOBS_MAX: usize = 50;

pub(super) fn routes() -> Router<Arc<Portal>> {
    Router::new().route("/", page(show))
}

#[derive(Template)]
#[template(path = "overview.html")]
struct Page {
    frame: Frame,
    total: usize,
    counts: [Count; 4],
    rpos: Vec<Rpo>,
    running: Vec<Running>,
    needs: Vec<Need>,
    more_needs: usize,
}

/// How many of all machines are like that.
struct Count {
    what: &'static str,
    count: usize,
    address: &'static str,
}

struct Rpo {
    machine: ObjectName,
    rpo: String,
    target: String,
    /// Per mille of the target; more than all of it is all of it.
    share: u64,
    is_missed: bool,
}

struct Running {
    id: String,
    title: String,
    state: Badge,
    progress: u64,
    created: Moment,
}

/// What needs a human.
struct Need {
    health: Badge,
    what: String,
    address: String,
    reason: JobError,
}

fn show(control: &Control, visit: &Visit) -> Result<String, Failure> {
    let items = control.items()?;
    let jobs = control.jobs(None, None, JOBS_MAX, |job| !job.state.is_final())?;
    let is_ready = |view: &&ItemView, direction: usize| {
        view.verdicts.is_some_and(|verdicts| verdicts[direction] <= CheckState::Warning)
    };
    let count = |is: &dyn Fn(&&ItemView) -> bool| items.iter().filter(is).count();
    let counts = [
        Count {
            what: "protected",
            count: count(&|view| view.item.protection.replicates()),
            address: "/portal/machines",
        },
        Count {
            what: "healthy",
            count: count(&|view| view.health == Health::Normal),
            address: "/portal/machines?health=normal",
        },
        Count {
            what: "ready to fail over",
            count: count(&|view| is_ready(view, 0)),
            address: "/portal/machines?sort=health",
        },
        Count {
            what: "ready to come home",
            count: count(&|view| is_ready(view, 1)),
            address: "/portal/machines?sort=health",
        },
    ];
    let mut needs = needs(control, &items, &jobs)?;
    let more_needs = needs.len().saturating_sub(NEEDS_MAX);
    needs.truncate(NEEDS_MAX);
    let running = jobs.iter().filter(|job| job.parent.is_none());
    let page = Page {
        frame: visit.frame(Tab::Overview, "Overview"),
        total: items.len(),
        counts,
        rpos: rpos(control, &items)?,
        running: running.map(|job| of_job(job, visit)).collect(),
        needs,
        more_needs,
    };
    Ok(page.render()?)
}

/// The machines that are nearest to their target, or past it.
fn rpos(control: &Control, items: &[ItemView]) -> Result<Vec<Rpo>, Failure> {
    let targets = rpo_targets(control)?;
    let mut rpos: Vec<_> = items
        .iter()
        .filter(|view| view.item.protection.replicates())
        .filter_map(|view| {
            let (rpo_ms, target_ms) = (view.rpo_ms?, *targets.get(&view.group.key())?);
            let share = rpo_ms.saturating_mul(1000) / target_ms.max(1);
            let is_missed = rpo_ms > target_ms;
            let rpo = Rpo {
                machine: view.item.name.clone(),
                rpo: span(rpo_ms),
                target: span(target_ms),
                share: share.min(1000),
                is_missed,
            };
            Some((share, rpo))
        })
        .collect();
    rpos.sort_by_key(|(share, _)| Reverse(*share));
    Ok(rpos.into_iter().take(RPO_MAX).map(|(_, rpo)| rpo).collect())
}

/// Critical before warning; jobs that wait for a person before all.
fn needs(control: &Control, items: &[ItemView], jobs: &[Job]) -> Result<Vec<Need>, Failure> {
    let mut needs = Vec::new();
    for job in jobs.iter().filter(|job| job.state == JobState::Suspended) {
        let message = format!("the job waits for a person: {}", waiting_task(job));
        let remedy = "do what it says, then let it go on".into();
        let reason = JobError { code: "job.suspended".into(), message, cause: String::new(), remedy };
        needs.push((Health::Critical, job_title(&job.request), format!("/portal/jobs/{}", job.id), reason));
    }
    for view in items {
        let address = format!("/portal/machines/{}", view.item.name);
        for reason in &view.reasons {
            needs.push((view.health, view.item.name.to_string(), address.clone(), reason.clone()));
        }
    }
    for server in control.servers_if(|server| matches!(server.role, Role::ProcessServer | Role::Target))? {
        for reason in &server.reasons {
            needs.push((
                server.health,
                server.identity.to_string(),
                "/portal/servers".into(),
                reason.clone(),
            ));
        }
    }
    let backup = control.backup_status()?;
    for reason in &backup.reasons {
        needs.push((backup.health, "configuration server".into(), "/portal/settings".into(), reason.clone()));
    }
    needs.sort_by_key(|(health, ..)| Reverse(*health));
    let shown = needs.into_iter();
    Ok(shown
        .map(|(health, what, address, reason)| Need {
            health: widgets::health(health),
            what,
            address,
            reason,
        })
        .collect())
}

fn waiting_task(job: &Job) -> String {
    let task = job.tasks.iter().find(|task| task.state == switchback_model::TaskState::Suspended);
    task.map_or_else(String::new, |task| format!("{} {}", task.friendly_name, task.message))
}

fn of_job(job: &Job, visit: &Visit) -> Running {
    let done = job.tasks.iter().filter(|task| task.ended.is_some()).count();
    Running {
        id: job.id.to_string(),
        title: job_title(&job.request),
        state: job_badge(job.state),
        progress: (done * 100).checked_div(job.tasks.len()).unwrap_or(0).try_into().unwrap_or(100),
        created: widgets::moment(job.created, visit.now),
    }
}
