//! Making and removing a process server at a site.
//!
//! Made: a look at what was asked for; a ticket; the machine, which is told the ticket; its enrolment; its first report. Whatever fails, the machine and all
//! that is known of it go again: one that did not come up can only be made anew, since nobody can change what it was told to run.
//! Removed: when nothing is replicated through it and no job may have chosen it, its machine, then what is known of it.

use switchback_identity::{Role, TicketId};
use switchback_model::{ItemOperation, Job, JobRequest, ServerRequest, UnixMillis};
use switchback_sites::{ServerImage, ServerPlan};
use switchback_store::{Kind, Query};

use super::step::{Outcome, Step, Work, failure};
use crate::deployments::{Deployment, TICKET_FOR_MS, TicketRecord};
use crate::records::Versioned;
use crate::{ControlError, ErrorKind};

/// Azure starts a machine within minutes; then it installs a package at most, and fetches the program.
const ENROL_LIMIT_S: u64 = 30 * 60;
/// It reports as soon as it runs, every five seconds.
const REPORT_LIMIT_S: u64 = 5 * 60;
/// How long jobs that may have chosen it are waited for.
const OTHERS_LIMIT_S: u64 = 120;
/// How much of a console is looked at, and how many of its last lines are told.
const CONSOLE_LEN: usize = 16 << 10;
const CONSOLE_LINES: usize = 5;

pub(crate) fn steps() -> Vec<Step> {
    vec![
        Step::new("DeployProcessServerCheckTask", "Prerequisite check", check),
        Step::new("CreateEnrolmentTicketTask", "Making a ticket to enrol with", make_ticket)
            .undo(unmake)
            .undo_on_failure(),
        Step::new("CreateProcessServerVmTask", "Making the virtual machine", make)
            .undo(unmake)
            .undo_on_failure(),
        Step::new("EnrolProcessServerTask", "Waiting for it to install itself and enrol", wait_for_enrolment)
            .undo_on_failure(),
        Step::new("ConnectProcessServerTask", "Waiting for its first report", wait_for_report)
            .undo_on_failure(),
    ]
}

pub(crate) fn retire_steps() -> Vec<Step> {
    vec![
        Step::new("RetireProcessServerCheckTask", "Prerequisite check", check_unused),
        Step::new("DeleteProcessServerVmTask", "Deleting the virtual machine", delete).no_return(),
        Step::new("RemoveProcessServerTask", "Removing it from the site", forget),
    ]
}

fn request<'a>(work: &'a Work<'_>) -> Result<&'a ServerRequest, ControlError> {
    match &work.job.request {
        JobRequest::DeployServer(request) => Ok(request),
        _ => Err(ControlError::new(ErrorKind::Internal, "job.no-server", "the job makes no process server")),
    }
}

fn record(work: &Work<'_>) -> Result<Versioned<Deployment>, ControlError> {
    work.control.stored_deployment(work.job.request.object())
}

fn change(work: &mut Work<'_>, record: &Versioned<Deployment>) {
    work.batch.replace(Kind::Deployment, record.value.request.name.key(), record.version, &record.value);
}

fn check(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let request = request(work)?;
    work.control.check_request(request)?;
    let networks = work.site(&request.site)?.networks()?;
    if !networks.iter().any(|network| network.name == request.network) {
        let known = networks.iter().map(|network| network.name.as_str()).collect::<Vec<_>>().join(", ");
        let message =
            format!("there is no network {:?} at {}; it has: {known}", request.network, request.site);
        return Err(ControlError::new(ErrorKind::Invalid, "network.not-found", message));
    }
    Ok(Outcome::done())
}

/// What comes after may leave something at the site: that is known from here on.
fn make_ticket(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let mut record = record(work)?;
    let expires = UnixMillis(work.now().0 + TICKET_FOR_MS);
    record.value.ticket = Some(TicketRecord { id: TicketId::generate(), expires, used: None });
    record.value.may_be_there = true;
    change(work, &record);
    Ok(Outcome::done())
}

fn make(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let record = record(work)?.value;
    let ticket = record.ticket.as_ref().map(|ticket| ticket.id.clone());
    let ticket = ticket.ok_or_else(|| {
        ControlError::new(
            ErrorKind::Internal,
            "ticket.none",
            "the process server has no ticket to enrol with",
        )
    })?;
    let script = work
        .control
        .script_of(&record, &ticket)?
        .render()
        .map_err(|error| ControlError::new(ErrorKind::Invalid, "server.script", error.to_string()))?;
    let request = &record.request;
    let plan = ServerPlan {
        name: request.name.to_string(),
        mark: ticket.as_str().into(),
        network: request.network.clone(),
        address: request.address,
        size: request.size.clone(),
        administrator: request.administrator.clone(),
        ssh_key: request.ssh_key.clone(),
        image: ServerImage::default(),
        disk_gib: request.disk_gib,
        custom_data: (*script).clone(),
    };
    let machine = work.site(&request.site)?.deploy_server(&plan)?;
    Ok(Outcome::Done(format!("{machine}, at {}", request.address)))
}

fn unmake(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let mut record = record(work)?;
    work.site(&record.value.request.site)?.remove_server(record.value.request.name.as_str())?;
    work.control.forget_server(&record.value.identity()?, work.batch)?;
    (record.value.may_be_there, record.value.ticket) = (false, None);
    change(work, &record);
    Ok(Outcome::done())
}

fn wait_for_enrolment(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let record = record(work)?.value;
    if record.ticket.as_ref().is_some_and(|ticket| ticket.used.is_some()) {
        return Ok(Outcome::done());
    }
    let name = &record.request.name;
    work.wait_for(format!("{name} has not enrolled yet"), ENROL_LIMIT_S, || {
        let message = format!("the process server {name} has not enrolled within {} minutes", ENROL_LIMIT_S / 60);
        failure(
            ErrorKind::Unavailable,
            "server.not-enrolled",
            message,
            &last_words(work, &record),
            &format!(
                "see that its network reaches {} (DNS, routes, security groups), then restart the job: it makes the machine anew",
                record.request.configuration_server
            ),
        )
    })
}

fn wait_for_report(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let record = record(work)?.value;
    let name = record.request.name.as_str();
    let alive = work.control.alive(Role::ProcessServer, &record.request.site)?;
    if alive.iter().any(|one| one == name) {
        return Ok(Outcome::Done(format!("{name} reports from {}", record.request.site)));
    }
    work.wait_for(format!("{name} has not reported yet"), REPORT_LIMIT_S, || {
        failure(
            ErrorKind::Unavailable,
            "server.no-report",
            format!("the process server {name} has enrolled, and has not reported since"),
            &last_words(work, &record),
            "restart the job: it makes the machine anew",
        )
    })
}

/// What its machine said last, as a cause: soon it is gone, and cannot be looked at.
fn last_words(work: &Work<'_>, record: &Deployment) -> String {
    let request = &record.request;
    let console = work
        .site(&request.site)
        .and_then(|site| Ok(site.server_console(request.name.as_str(), CONSOLE_LEN)?))
        .unwrap_or_else(|error| error.to_string());
    let lines: Vec<&str> = console.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() {
        return "its console is empty: it has not started, or boot diagnostics are not there yet".into();
    }
    format!("its console ends with: {}", lines[lines.len().saturating_sub(CONSOLE_LINES)..].join(" | "))
}

/// Jobs that began before it was marked may have chosen it.
fn check_unused(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let record = record(work)?.value;
    let query = Query { descending: true, limit: super::LIST_MAX, ..Query::all(Kind::Job) };
    let jobs = work.control.records().list::<Job>(&query)?;
    let other = jobs.iter().find(|job| !job.value.state.is_final() && chooses(&job.value.request));
    if let Some(other) = other {
        let (job, object) = (other.value.id, other.value.request.object().clone());
        return work.wait_for(format!("the job {job} of {object} is under way"), OTHERS_LIMIT_S, || {
            failure(
                ErrorKind::Conflict,
                "server.job-under-way",
                format!("the job {job} of {object} may choose this process server"),
                "it began before, and has not ended",
                "wait for it, or cancel it, then restart this job",
            )
        });
    }
    work.control.check_unused(&record.identity()?)?;
    Ok(Outcome::done())
}

fn chooses(request: &JobRequest) -> bool {
    match request {
        JobRequest::Protect(_) => true,
        JobRequest::Operate { operation, .. } | JobRequest::Plan { operation, .. } => {
            matches!(operation, ItemOperation::Reprotect(_) | ItemOperation::SwitchProcessServer { .. })
        }
        JobRequest::DeployServer(_) | JobRequest::RetireServer { .. } | JobRequest::Verify(_) => false,
    }
}

fn delete(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let request = record(work)?.value.request;
    work.site(&request.site)?.remove_server(request.name.as_str())?;
    Ok(Outcome::done())
}

fn forget(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let record = record(work)?;
    work.control.forget_deployment(&record, work.batch)?;
    Ok(Outcome::done())
}
