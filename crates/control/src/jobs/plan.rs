//! Recovery plans at work: group after group, with the actions between them.
//!
//! A plan's job has a task for each action and one for the machines of each group, whose own jobs are its parts. The plan is taken as it was when the
//! job was asked for. Actions belong to failovers; a commit, a reprotect and the like go to all machines at once.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use switchback_model::component::ScriptCall;
use switchback_model::{
    ActionKind, ItemOperation, Job, JobRequest, JobState, ObjectName, Operation, PlanAction, PointChoice,
    RecoveryPlan, Side, TaskState,
};
use switchback_store::Expect;

use super::point::newest_common_tag;
use super::step::{Outcome, Step, Work, failure};
use crate::{Control, ControlError, ErrorKind};

const PLAN: &str = "plan";
const TAG: &str = "tag";
/// Seconds that any script may take at most, whatever the plan says.
const SCRIPT_LIMIT_MAX_S: u64 = 3600;
/// What is kept of a script's output.
const OUTPUT_LEN_MAX: usize = 4000;

/// One task of a plan's job.
#[derive(Clone, Debug)]
enum Part {
    Action(PlanAction),
    Machines { name: String, machines: Vec<ObjectName> },
}

/// Whether an operation runs a plan's groups and actions one after the other.
const fn is_failover(operation: &ItemOperation) -> bool {
    matches!(
        operation,
        ItemOperation::UnplannedFailover { .. }
            | ItemOperation::PlannedFailover
            | ItemOperation::TestFailover { .. }
    )
}

/// What the job has to remember: the plan as it is now, the direction, the multi-VM moment.
pub(crate) fn prepare(control: &Control, job: &mut Job, plan: &RecoveryPlan) -> Result<(), ControlError> {
    let JobRequest::Plan { operation, .. } = job.request.clone() else { return Ok(()) };
    let machines: Vec<_> = plan.groups.iter().flat_map(|group| group.machines.iter().cloned()).collect();
    let first = machines.first().ok_or_else(|| {
        failure(
            ErrorKind::Invalid,
            "plan.empty",
            format!("the recovery plan {} has no machines", plan.name),
            "",
            "add machines to it",
        )
    })?;
    let towards = control.stored_item(first)?.value.protection.passive();
    if is_failover(&operation) {
        check_machines(control, plan, &machines, &operation, towards)?;
    }
    let multi_vm = match &operation {
        ItemOperation::UnplannedFailover { point, .. } | ItemOperation::TestFailover { point } => match point
        {
            PointChoice::LatestMultiVm => Some(false),
            PointChoice::LatestMultiVmAppConsistent => Some(true),
            PointChoice::Point { .. } => {
                let message =
                    "the number of a recovery point means something else for each machine of a plan";
                return Err(failure(
                    ErrorKind::Invalid,
                    "plan.point",
                    message,
                    "",
                    "choose a kind of point, or the tag of a multi-VM moment",
                ));
            }
            _ => None,
        },
        _ => None,
    };
    if let Some(app_consistent) = multi_vm {
        job.notes.insert(TAG.into(), newest_common_tag(&control.facts()?, &machines, app_consistent)?);
    }
    job.notes.insert(Job::NOTE_TOWARDS.into(), towards.to_string());
    job.notes.insert(PLAN.into(), serde_json::to_string(plan).expect("the model's types become JSON"));
    Ok(())
}

/// All machines must go the same way, and be free to.
fn check_machines(
    control: &Control,
    plan: &RecoveryPlan,
    machines: &[ObjectName],
    operation: &ItemOperation,
    towards: Side,
) -> Result<(), ControlError> {
    for machine in machines {
        let item = control.stored_item(machine)?.value;
        if let Some(operation) = operation.operation() {
            item.protection.apply(operation).map_err(|error| {
                ControlError::new(
                    ErrorKind::IllegalState,
                    "plan.not-ready",
                    format!("the recovery plan {} cannot be run: {machine}: {error}", plan.name),
                )
            })?;
        }
        if item.protection.passive() != towards {
            let message = format!(
                "the machines of {} live on different sides: {machine} would go {}, others {towards}",
                plan.name,
                item.protection.passive()
            );
            return Err(failure(
                ErrorKind::IllegalState,
                "plan.mixed-directions",
                message,
                "",
                "bring them to one side first, each by itself",
            ));
        }
    }
    Ok(())
}

fn parts(job: &Job) -> Result<Vec<Part>, ControlError> {
    let JobRequest::Plan { operation, .. } = &job.request else { return Ok(Vec::new()) };
    let text = job.notes.get(PLAN).map(String::as_str).unwrap_or_default();
    let plan: RecoveryPlan = serde_json::from_str(text).map_err(|error| {
        ControlError::new(
            ErrorKind::Internal,
            "plan.unreadable",
            format!("the job's plan cannot be read: {error}"),
        )
    })?;
    if !is_failover(operation) {
        let machines = plan.groups.into_iter().flat_map(|group| group.machines).collect();
        return Ok(vec![Part::Machines { name: "All machines".into(), machines }]);
    }
    let towards = job.towards().unwrap_or(Side::Away);
    let is_test = matches!(operation, ItemOperation::TestFailover { .. });
    let is_wanted = |action: &PlanAction| {
        (action.towards.is_empty() || action.towards.contains(&towards)) && (!is_test || action.at_test)
    };
    let mut parts = Vec::new();
    for (number, group) in (1..).zip(plan.groups) {
        parts.extend(group.start_actions.into_iter().filter(is_wanted).map(Part::Action));
        if !group.machines.is_empty() {
            parts.push(Part::Machines { name: format!("Group {number}"), machines: group.machines });
        }
        parts.extend(group.end_actions.into_iter().filter(is_wanted).map(Part::Action));
    }
    Ok(parts)
}

pub(crate) fn steps(job: &Job, _operation: &ItemOperation) -> Result<Vec<Step>, ControlError> {
    let step = |part| match part {
        Part::Action(action) => {
            let name = match action.action {
                ActionKind::ServerScript { .. } | ActionKind::GuestScript { .. } => {
                    "RecoveryPlanScriptAction"
                }
                ActionKind::Manual { .. } => "RecoveryPlanManualAction",
                ActionKind::Delay { .. } => "RecoveryPlanDelayAction",
            };
            Step::new(name, &action.name, run_action)
        }
        Part::Machines { name, machines } => {
            let names = machines.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            Step::new("RecoveryPlanGroup", &format!("{name}: {names}"), run_machines).undo(cancel_machines)
        }
    };
    Ok(parts(job)?.into_iter().map(step).collect())
}

fn part(work: &Work<'_>) -> Result<Part, ControlError> {
    let gone = || ControlError::new(ErrorKind::Internal, "plan.no-part", "the plan has no such part");
    parts(work.job)?.into_iter().nth(work.index).ok_or_else(gone)
}

/// Makes the jobs of a group's machines, and waits for them.
fn run_machines(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let Part::Machines { machines, .. } = part(work)? else { return Ok(Outcome::done()) };
    let mut children = Vec::new();
    for id in work.job.tasks[work.index].jobs.clone() {
        children.push(work.control.job(id)?);
    }
    let missing: Vec<_> = machines
        .iter()
        .filter(|machine| children.iter().all(|child| child.request.object() != *machine))
        .collect();
    for machine in &missing {
        if let Some(id) = make_child(work, machine)? {
            work.task().jobs.push(id);
        }
    }
    if work.job.tasks[work.index].jobs.len() > children.len() {
        return Ok(Outcome::wait("started"));
    }
    let (total, ended) = (children.len(), children.iter().filter(|child| child.state.is_final()).count());
    if ended < total {
        let percent = u8::try_from(ended * 100 / total).ok();
        return Ok(Outcome::Wait { message: format!("{ended} of {total} machines"), percent, pause_ms: 300 });
    }
    let failed: Vec<_> = children.iter().filter(|child| child.state != JobState::Succeeded).collect();
    if failed.is_empty() {
        return Ok(Outcome::Done(format!("{total} machines, {} had nothing to do", machines.len() - total)));
    }
    let words = failed.iter().map(|child| {
        let error = child
            .tasks
            .iter()
            .find_map(|task| task.error.as_ref())
            .map(ToString::to_string)
            .unwrap_or_default();
        format!("{}: {} {error}", child.request.object(), child.state)
    });
    let message = format!(
        "{} of {total} machines have not made it: {}",
        failed.len(),
        words.collect::<Vec<_>>().join("; ")
    );
    Err(failure(
        ErrorKind::IllegalState,
        "plan.machines-failed",
        message,
        "see their jobs",
        "remove the cause, then restart the plan's job: machines that have made it are left alone",
    ))
}

/// The job of one machine; `None` when it is where the operation leads already.
fn make_child(
    work: &mut Work<'_>,
    machine: &ObjectName,
) -> Result<Option<switchback_model::JobId>, ControlError> {
    let JobRequest::Plan { operation, .. } = &work.job.request else { return Ok(None) };
    let mut operation = operation.clone();
    if let (
        Some(tag),
        ItemOperation::UnplannedFailover { point, .. } | ItemOperation::TestFailover { point },
    ) = (work.job.notes.get(TAG), &mut operation)
    {
        *point = PointChoice::Tag { tag: tag.clone() };
    }
    let item = work.control.stored_item(machine)?.value;
    if let Some(wanted) = operation.operation()
        && is_done_already(&item.protection, wanted)
    {
        return Ok(None);
    }
    let by = work.job.by.clone();
    let mut child = work.control.new_job(&by, JobRequest::Operate { item: machine.clone(), operation })?;
    child.parent = Some(work.job.id);
    let mut batch = crate::records::Batch::default();
    work.control.lock_item(&child, &mut batch)?;
    batch.put_job(&child, Expect::Absent, Some(child.created));
    work.batch.append(batch);
    Ok(Some(child.id))
}

/// Whether a machine is past an operation, as when its own job was made by hand.
fn is_done_already(protection: &switchback_model::Protection, operation: Operation) -> bool {
    use switchback_model::Phase;
    match operation {
        Operation::Commit => protection.phase == Phase::Committed,
        Operation::Reprotect => matches!(protection.phase, Phase::Reprotecting | Phase::Protected),
        Operation::CancelFailover => protection.phase == Phase::Protected,
        Operation::TestFailoverCleanup => !protection.testing,
        _ => false,
    }
}

fn cancel_machines(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let mut open = 0;
    for id in work.job.tasks[work.index].jobs.clone() {
        let child = work.control.job(id)?;
        if !child.state.is_final() {
            open += 1;
            if !child.cancel_requested {
                // One that has gone too far ends by itself.
                let _ = work.control.cancel_job(&work.job.by, id);
            }
        }
    }
    if open > 0 {
        Ok(Outcome::wait(format!("{open} machines have not stopped yet")))
    } else {
        Ok(Outcome::done())
    }
}

/// A restarted plan makes new jobs for the machines that have not made it.
pub(crate) fn forget_failed(control: &Control, job: &mut Job) -> Result<(), ControlError> {
    for task in &mut job.tasks {
        let mut kept = Vec::new();
        for id in &task.jobs {
            if control.job(*id)?.state == JobState::Succeeded {
                kept.push(*id);
            }
        }
        task.jobs = kept;
    }
    Ok(())
}

fn run_action(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let Part::Action(action) = part(work)? else { return Ok(Outcome::done()) };
    match action.action {
        ActionKind::Delay { seconds } => {
            let left_ms = (seconds * 1000).saturating_sub(work.waited_ms());
            if left_ms == 0 {
                return Ok(Outcome::done());
            }
            Ok(Outcome::Wait {
                message: format!("{} s to go", left_ms.div_ceil(1000)),
                percent: None,
                pause_ms: left_ms.min(1000),
            })
        }
        ActionKind::Manual { instructions } => match work.note(&format!("confirmed-{}", work.index)) {
            Some(confirmed) => Ok(Outcome::Done(confirmed.to_owned())),
            None => Ok(Outcome::Suspend(instructions)),
        },
        ActionKind::ServerScript { script, limit_s } => {
            run_on_server(work, &script, limit_s.min(SCRIPT_LIMIT_MAX_S))
        }
        ActionKind::GuestScript { machine, script, limit_s } => {
            run_in_guest(work, &machine, &script, limit_s.min(SCRIPT_LIMIT_MAX_S))
        }
    }
}

fn script_failed(script: &str, output: &str) -> ControlError {
    failure(
        ErrorKind::IllegalState,
        "plan.script-failed",
        format!("the script {script} has failed: {output}"),
        "",
        "repair the cause and restart the job: it runs the script again",
    )
}

/// Runs a file of the configuration server's script directory. After a crash of the server it runs again, so it must bear that.
fn run_on_server(work: &Work<'_>, script: &str, limit_s: u64) -> Result<Outcome, ControlError> {
    if script.is_empty() || script.contains('/') || script.starts_with('.') {
        return Err(script_failed(
            script,
            "its name must be that of a file in the configuration server's script directory",
        ));
    }
    let path = work.control.inner.config.scripts.join(script);
    let mut command = Command::new(&path);
    command
        .env("SWITCHBACK_PLAN", work.job.request.object().to_string())
        .env("SWITCHBACK_JOB", work.job.id.to_string())
        .env("SWITCHBACK_TOWARDS", work.note(Job::NOTE_TOWARDS).unwrap_or_default())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // So that what it starts can be ended with it.
        .process_group(0);
    let mut child =
        command.spawn().map_err(|error| script_failed(script, &format!("{}: {error}", path.display())))?;
    let readers = [child.stdout.take().map(read_end), child.stderr.take().map(read_end)];
    let until = Instant::now() + Duration::from_secs(limit_s);
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Some(status),
            Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(50)),
            _ => break None,
        }
    };
    if status.is_none() {
        if let Some(group) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = child.wait();
    }
    let output: String = readers.into_iter().flatten().filter_map(|reader| reader.join().ok()).collect();
    match status {
        Some(status) if status.success() => Ok(Outcome::Done(output)),
        Some(status) => Err(script_failed(script, &format!("{status}: {output}"))),
        None => {
            Err(script_failed(script, &format!("it took longer than {limit_s} s and was ended: {output}")))
        }
    }
}

/// Reads everything, keeps the end.
fn read_end(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let (mut kept, mut buffer) = (Vec::new(), [0; 4096]);
        while let Ok(len @ 1..) = from.read(&mut buffer) {
            kept.extend_from_slice(&buffer[..len]);
            let excess = kept.len().saturating_sub(OUTPUT_LEN_MAX);
            kept.drain(..excess);
        }
        String::from_utf8_lossy(&kept).trim_end().to_owned()
    })
}

fn run_in_guest(
    work: &mut Work<'_>,
    machine: &ObjectName,
    script: &str,
    limit_s: u64,
) -> Result<Outcome, ControlError> {
    let item = work.control.stored_item(machine)?.value;
    let (token, agent_note) = (call_token(work.job, work.index), format!("agent-{}", work.index));
    if work.note(&agent_note).is_none() {
        work.set_note(&agent_note, item.agent.clone());
        return Ok(Outcome::wait(format!("asking the mobility agent of {machine}")));
    }
    let report = work.control.agent_report(&item.agent, &item.active().system_uuid)?;
    let result = report
        .as_ref()
        .and_then(|report| report.agent())
        .and_then(|agent| agent.scripts.iter().find(|result| result.token == token));
    match result {
        Some(result) if result.succeeded => Ok(Outcome::Done(result.output.clone())),
        Some(result) => Err(script_failed(script, &result.output)),
        None => work.wait_for(format!("{script} runs in {machine}"), limit_s + 60, || {
            script_failed(script, &format!("the mobility agent of {machine} has not answered"))
        }),
    }
}

/// Another one when the task is started anew, so that the script runs again.
fn call_token(job: &Job, index: usize) -> String {
    let started = job.tasks[index].started.map_or(0, |started| started.0);
    format!("{}-{index}-{started}", job.id)
}

/// The scripts that a job wants run in guests just now, with their agents.
pub(crate) fn guest_calls(job: &Job) -> Vec<(String, ScriptCall)> {
    let Ok(parts) = parts(job) else { return Vec::new() };
    let calls = parts.into_iter().enumerate().filter_map(|(index, part)| {
        let Part::Action(PlanAction { action: ActionKind::GuestScript { script, limit_s, .. }, .. }) = part
        else {
            return None;
        };
        let agent = job.notes.get(&format!("agent-{index}"))?;
        let call = ScriptCall { token: call_token(job, index), script, limit_s };
        (job.tasks.get(index)?.state == TaskState::InProgress).then(|| (agent.clone(), call))
    });
    calls.collect()
}
