//! Readiness: whether a protected machine could go to a side now, check by check.
//!
//! What it is: the result of checks, as it is stored in memory and shown. What it never does: check (that is the control plane's and the sites').

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{JobError, Side, UnixMillis};

/// How a check came out; the worse, the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckState {
    /// As it must be.
    Passed,
    /// It would work; something about it should be known.
    Warning,
    /// It could not be found out.
    Unknown,
    /// It would not work.
    Failed,
}

impl fmt::Display for CheckState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passed => "passed",
            Self::Warning => "warning",
            Self::Unknown => "unknown",
            Self::Failed => "failed",
        })
    }
}

/// One thing that was checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadinessCheck {
    /// Stable, for looking it up: `master-target.reports`.
    pub code: String,
    /// What is checked, in words.
    pub title: String,
    /// How it came out.
    pub state: CheckState,
    /// What was found: names, sizes, ages.
    pub facts: String,
    /// Unless it passed: the likely cause.
    #[serde(default)]
    pub cause: String,
    /// Unless it passed: what to do.
    #[serde(default)]
    pub remedy: String,
}

impl ReadinessCheck {
    /// One that passed.
    #[must_use]
    pub fn passed(code: &str, title: &str, facts: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            title: title.into(),
            state: CheckState::Passed,
            facts: facts.into(),
            cause: String::new(),
            remedy: String::new(),
        }
    }

    /// One that did not.
    #[must_use]
    pub fn raised(
        state: CheckState,
        (code, title): (&str, &str),
        facts: impl Into<String>,
        cause: &str,
        remedy: &str,
    ) -> Self {
        Self { state, cause: cause.into(), remedy: remedy.into(), ..Self::passed(code, title, facts) }
    }

    /// The same as the error of a job that it stops.
    #[must_use]
    pub fn as_error(&self) -> JobError {
        JobError {
            code: self.code.clone(),
            message: format!("{}: {}", self.title, self.facts),
            cause: self.cause.clone(),
            remedy: self.remedy.clone(),
        }
    }
}

/// All checks of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// When they were made.
    pub checked: UnixMillis,
    /// For failing over to the recovery site.
    pub failover: Vec<ReadinessCheck>,
    /// For coming home.
    pub failback: Vec<ReadinessCheck>,
}

impl Readiness {
    /// The checks for going to a side.
    #[must_use]
    pub fn to(&self, side: Side) -> &[ReadinessCheck] {
        match side {
            Side::Away => &self.failover,
            Side::Home => &self.failback,
        }
    }
}

/// The worst of some checks.
#[must_use]
pub fn verdict(checks: &[ReadinessCheck]) -> CheckState {
    checks.iter().map(|check| check.state).max().unwrap_or(CheckState::Unknown)
}

#[cfg(test)]
mod tests {
    use super::{CheckState, ReadinessCheck, verdict};

    #[test]
    fn one_failed_check_is_the_verdict_and_none_is_no_promise() {
        let passed = ReadinessCheck::passed("a", "A", "");
        let raised = |state| ReadinessCheck::raised(state, ("b", "B"), "f", "c", "r");
        assert_eq!(verdict(&[passed.clone(), raised(CheckState::Warning)]), CheckState::Warning);
        assert_eq!(verdict(&[raised(CheckState::Failed), raised(CheckState::Unknown)]), CheckState::Failed);
        assert_eq!(verdict(&[]), CheckState::Unknown);
        assert_eq!(raised(CheckState::Failed).as_error().to_string(), "B: f; likely cause: c; r");
    }
}
