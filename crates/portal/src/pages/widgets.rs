//! Small things that are on many pages: badges, moments, and the words and colours of states.
//!
//! Invariant: what is marked as safe HTML here is a template, which has escaped what is in it.

use std::fmt::Display;

use askama::Template;
use askama::filters::HtmlSafe;
use switchback_api::job_scenario;
use switchback_control::Health;
use switchback_model::{CheckState, JobError, JobRequest, JobState, Phase, Severity, TaskState, UnixMillis};

use crate::shown;

/// How good something is: a badge's colour, which is never all that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Good,
    Warning,
    Bad,
    Busy,
    Plain,
}

impl Tone {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Warning => "warning",
            Self::Bad => "bad",
            Self::Busy => "busy",
            Self::Plain => "plain",
        }
    }
}

/// A word with a colour.
#[derive(Clone, Debug, Template)]
#[template(path = "badge.html")]
pub(crate) struct Badge {
    kind: &'static str,
    text: String,
}

impl HtmlSafe for Badge {}

pub(crate) fn badge(tone: Tone, text: impl Display) -> Badge {
    Badge { kind: tone.as_str(), text: text.to_string() }
}

/// A sentence with its commands (`…`) told apart.
#[derive(Clone, Debug, Template)]
#[template(
    source = "{% for (text, is_command) in parts %}{% if is_command %}<code>{{ text }}</code>{% else %}{{ text }}{% endif %}{% endfor %}",
    ext = "html"
)]
pub(crate) struct Sentence {
    parts: Vec<(String, bool)>,
}

impl HtmlSafe for Sentence {}

/// A sentence of the product's, which names commands as it does at the command line.
pub(crate) fn sentence(text: &str) -> Sentence {
    let parts: Vec<_> = text
        .split('`')
        .zip([false, true].into_iter().cycle())
        .map(|(part, is)| (part.to_owned(), is))
        .collect();
    // A backtick alone is itself.
    let is_paired = !parts.len().is_multiple_of(2);
    Sentence { parts: if is_paired { parts } else { vec![(text.to_owned(), false)] } }
}

/// A moment by its age, with the whole of it for those who point at it.
#[derive(Clone, Debug, Template)]
#[template(path = "moment.html")]
pub(crate) struct Moment {
    iso: String,
    text: String,
    ago: String,
}

impl HtmlSafe for Moment {}

pub(crate) fn moment(at: UnixMillis, now: UnixMillis) -> Moment {
    let shown::Moment { text, iso, ago } = shown::Moment::of(at, now);
    Moment { iso, text, ago }
}

pub(crate) fn health(health: Health) -> Badge {
    match health {
        Health::Normal => badge(Tone::Good, "normal"),
        Health::Warning => badge(Tone::Warning, "warning"),
        Health::Critical => badge(Tone::Bad, "critical"),
    }
}

/// What readiness says of a direction; `None`: nothing was looked at yet.
pub(crate) fn verdict(state: Option<CheckState>) -> Badge {
    match state {
        Some(CheckState::Passed) => badge(Tone::Good, "ready"),
        Some(CheckState::Warning) => badge(Tone::Warning, "ready, with warnings"),
        Some(CheckState::Unknown) => badge(Tone::Plain, "unknown"),
        Some(CheckState::Failed) => badge(Tone::Bad, "not ready"),
        None => badge(Tone::Plain, "not checked yet"),
    }
}

/// One check of readiness.
pub(crate) fn check_badge(state: CheckState) -> Badge {
    let tone = match state {
        CheckState::Passed => Tone::Good,
        CheckState::Warning => Tone::Warning,
        CheckState::Unknown => Tone::Plain,
        CheckState::Failed => Tone::Bad,
    };
    badge(tone, state)
}

pub(crate) fn phase(phase: Phase) -> Badge {
    let tone = match phase {
        Phase::Protected => Tone::Good,
        Phase::Enabling | Phase::Reprotecting => Tone::Busy,
        Phase::FailedOver | Phase::Committed => Tone::Warning,
    };
    badge(tone, phase)
}

pub(crate) fn job_badge(state: JobState) -> Badge {
    match state {
        JobState::NotStarted => badge(Tone::Plain, "waits for its turn"),
        JobState::InProgress => badge(Tone::Busy, "in progress"),
        JobState::Suspended => badge(Tone::Warning, "waits for a person"),
        JobState::Succeeded => badge(Tone::Good, "succeeded"),
        JobState::Failed => badge(Tone::Bad, "failed"),
        JobState::Cancelled => badge(Tone::Plain, "cancelled"),
    }
}

/// What a job does, in words.
pub(crate) fn job_title(request: &JobRequest) -> String {
    format!("{}: {}", job_scenario(request).1, request.object())
}

/// What is wrong, the likely cause and what to do.
#[derive(Clone, Debug, Template)]
#[template(path = "notice.html")]
pub(crate) struct Notice {
    kind: &'static str,
    error: JobError,
}

impl HtmlSafe for Notice {}

pub(crate) fn notice(tone: Tone, error: JobError) -> Notice {
    Notice { kind: tone.as_str(), error }
}

/// Why something is not well.
pub(crate) fn reasons(health: Health, reasons: &[JobError]) -> Vec<Notice> {
    let tone = if health == Health::Critical { Tone::Bad } else { Tone::Warning };
    reasons.iter().map(|reason| notice(tone, reason.clone())).collect()
}

pub(crate) fn task_state(state: TaskState) -> Badge {
    match state {
        TaskState::NotStarted => badge(Tone::Plain, "not started"),
        TaskState::InProgress => badge(Tone::Busy, "in progress"),
        TaskState::Suspended => badge(Tone::Warning, "waits for a person"),
        TaskState::Succeeded => badge(Tone::Good, "done"),
        TaskState::Skipped => badge(Tone::Plain, "skipped"),
        TaskState::Failed => badge(Tone::Bad, "failed"),
        TaskState::Undone => badge(Tone::Plain, "undone"),
    }
}

pub(crate) fn severity(severity: Severity) -> Badge {
    match severity {
        Severity::Info => badge(Tone::Plain, "information"),
        Severity::Warning => badge(Tone::Warning, "warning"),
        Severity::Critical => badge(Tone::Bad, "critical"),
    }
}

/// What lists can be filtered by: what the address says and people read, and what it is.
pub(crate) const HEALTHS: [(&str, Health); 3] =
    [("normal", Health::Normal), ("warning", Health::Warning), ("critical", Health::Critical)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_apart_and_everything_is_escaped() {
        for (text, shown) in [
            ("say `a <b>` twice", "say <code>a &#60;b&#62;</code> twice"),
            ("`all of it`", "<code>all of it</code>"),
            ("one ` alone, and <i>", "one ` alone, and &#60;i&#62;"),
            ("", ""),
        ] {
            assert_eq!(sentence(text).to_string(), shown);
        }
    }
}
