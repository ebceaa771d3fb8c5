//! The progress of a job on standard error: one line for each task, with its state and what it is doing.
//!
//! On a terminal the lines stay and change; elsewhere a line is written when a task's state changes, so that a log tells the story once.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::Value;

use super::render::printable;
use crate::client::path::text_at;

/// More lines than a screen has.
const LINES_MAX: usize = 200;

/// Shows a job as it goes.
pub(crate) struct JobProgress {
    screen: Option<MultiProgress>,
    bars: BTreeMap<String, ProgressBar>,
    /// What was last said of each task.
    said: BTreeMap<String, String>,
}

/// A task as a line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TaskLine {
    /// Tells it from the others of its job.
    pub(crate) key: String,
    pub(crate) depth: usize,
    pub(crate) name: String,
    pub(crate) state: String,
    pub(crate) message: String,
}

/// The tasks of a job; a job that is part of one is a line below it, with the task that it is at.
pub(crate) fn lines(job: &Value) -> Vec<TaskLine> {
    let mut lines = Vec::new();
    for (index, task) in tasks(job).enumerate() {
        let key = index.to_string();
        let children = task.get("children").and_then(Value::as_array).into_iter().flatten();
        let children: Vec<_> =
            children.enumerate().map(|(child, job)| child_line(format!("{key}/{child}"), job)).collect();
        lines.push(TaskLine {
            depth: 0,
            name: title_of(task),
            state: text_at(task, "/state").to_owned(),
            message: message_of(task),
            key,
        });
        lines.extend(children);
    }
    lines.truncate(LINES_MAX);
    lines
}

/// A job's tasks.
pub(crate) fn tasks(job: &Value) -> impl Iterator<Item = &Value> {
    job.pointer("/properties/tasks").and_then(Value::as_array).into_iter().flatten()
}

fn child_line(key: String, job: &Value) -> TaskLine {
    let is_at = |task: &&Value| matches!(text_at(task, "/state"), "InProgress" | "Suspended" | "Failed");
    let message = tasks(job).find(is_at).map(|task| format!("{}: {}", title_of(task), message_of(task)));
    let message = message.unwrap_or_default();
    TaskLine {
        key,
        depth: 1,
        name: printable(text_at(job, "/properties/object")),
        state: text_at(job, "/properties/state").to_owned(),
        message: message.trim_end_matches([' ', ':']).to_owned(),
    }
}

/// What people call a task.
pub(crate) fn title_of(task: &Value) -> String {
    let names = [text_at(task, "/friendlyName"), text_at(task, "/name"), "task"];
    printable(names.into_iter().find(|name| !name.is_empty()).unwrap_or_default())
}

/// What a task is doing, or why it failed.
fn message_of(task: &Value) -> String {
    let said = [text_at(task, "/error/message"), text_at(task, "/message")];
    let said = said.into_iter().find(|text| !text.is_empty()).unwrap_or_default();
    let said = printable(said).replace('\n', " ");
    match task.get("progressPercent").and_then(Value::as_u64) {
        Some(percent) if text_at(task, "/state") == "InProgress" => {
            format!("{percent} % {said}").trim_end().to_owned()
        }
        _ => said,
    }
}

impl JobProgress {
    pub(crate) fn new() -> Self {
        let screen = std::io::stderr().is_terminal().then(MultiProgress::new);
        Self { screen, bars: BTreeMap::new(), said: BTreeMap::new() }
    }

    /// Shows how the job stands.
    pub(crate) fn show(&mut self, job: &Value) {
        for line in lines(job) {
            match &self.screen {
                Some(screen) => {
                    let bar = self
                        .bars
                        .entry(line.key.clone())
                        .or_insert_with(|| screen.add(ProgressBar::new_spinner()));
                    draw(bar, &line);
                }
                None => {
                    let said =
                        format!("{}{}: {} {}", "  ".repeat(line.depth), line.name, line.state, line.message);
                    let said = said.trim_end().to_owned();
                    // A percentage alone is no news for a log.
                    let plain =
                        line.message.trim_start_matches(|c: char| c.is_ascii_digit() || " %".contains(c));
                    let state = format!("{} {plain}", line.state);
                    if line.state != "NotStarted" && self.said.insert(line.key, state.clone()) != Some(state)
                    {
                        eprintln!("{said}");
                    }
                }
            }
        }
    }

    /// Says something beside the tasks.
    pub(crate) fn note(&self, text: &str) {
        match &self.screen {
            Some(screen) => screen.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }

    /// Leaves the lines as they are.
    pub(crate) fn finish(&mut self) {
        self.bars.values().filter(|bar| !bar.is_finished()).for_each(ProgressBar::abandon);
    }
}

fn draw(bar: &ProgressBar, line: &TaskLine) {
    let mark = match line.state.as_str() {
        "InProgress" => "{spinner}",
        "Succeeded" => "✔",
        "Failed" => "✘",
        "Skipped" => "–",
        "Undone" => "↶",
        "Suspended" => "?",
        _ => "·",
    };
    let indent = "  ".repeat(line.depth);
    let style = ProgressStyle::with_template(&format!("{indent}{mark} {{prefix}}  {{wide_msg}}"));
    bar.set_style(style.expect("a valid template"));
    bar.set_prefix(line.name.clone());
    bar.set_message(line.message.clone());
    match line.state.as_str() {
        "InProgress" => bar.enable_steady_tick(Duration::from_millis(120)),
        "NotStarted" | "Suspended" => bar.tick(),
        _ => bar.abandon(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::lines;

    #[test]
    fn jobs_within_tasks_are_lines_too() {
        let task = |name: &str, state: &str| json!({"friendlyName": name, "state": state, "message": ""});
        let mut failed = task("Start", "Failed");
        failed["error"] = json!({"message": "no room\nat all"});
        let child = json!({"properties": {"object": "web01", "state": "Failed", "tasks": [task("Check", "Succeeded"), failed]}});
        let mut group = task("Group 1", "InProgress");
        group["children"] = json!([child]);
        let copy =
            json!({"name": "Copy", "state": "InProgress", "progressPercent": 40, "message": "comparing"});
        let done =
            json!({"name": "Done", "state": "Succeeded", "progressPercent": 100, "message": "2 disks"});
        let job = json!({"properties": {"tasks": [group, copy, done]}});
        let shown: Vec<_> = lines(&job)
            .into_iter()
            .map(|line| format!("{} {} {} {}", line.depth, line.name, line.state, line.message))
            .collect();
        assert_eq!(
            shown,
            [
                "0 Group 1 InProgress ",
                "1 web01 Failed Start: no room at all",
                "0 Copy InProgress 40 % comparing",
                "0 Done Succeeded 2 disks"
            ]
        );
    }

    #[test]
    fn a_job_of_endless_tasks_is_cut_off() {
        let job = json!({"properties": {"tasks": vec![json!({"name": "t"}); 10_000]}});
        assert_eq!(lines(&job).len(), super::LINES_MAX);
    }
}
