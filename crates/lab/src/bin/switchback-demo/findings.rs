//! What was verified: each check with what was expected and what was found.

use std::fmt::Display;

/// One row of the table.
#[derive(Debug)]
struct Finding {
    check: String,
    expected: String,
    found: String,
    holds: bool,
}

/// All that was verified, in order.
#[derive(Debug, Default)]
pub(crate) struct Findings(Vec<Finding>);

impl Findings {
    /// Notes a check, shows it, and goes on whatever it found: the table is for all of them.
    pub(crate) fn note(
        &mut self,
        check: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
        holds: bool,
    ) {
        let finding = Finding { check: check.into(), expected: expected.into(), found: found.into(), holds };
        let sign = if holds { "✓" } else { "✗" };
        println!("    {sign} {}: {}", finding.check, finding.found);
        self.0.push(finding);
    }

    /// Notes that two things are the same.
    pub(crate) fn equal<T: Display + PartialEq>(
        &mut self,
        check: impl Into<String>,
        expected: &T,
        found: &T,
    ) {
        self.note(check, expected.to_string(), found.to_string(), expected == found);
    }

    /// Notes whether something is in order.
    pub(crate) fn in_order<T, E: Display>(
        &mut self,
        check: impl Into<String>,
        expected: impl Into<String>,
        result: Result<T, E>,
        found: impl FnOnce(&T) -> String,
    ) -> Option<T> {
        match result {
            Ok(value) => {
                self.note(check, expected, found(&value), true);
                Some(value)
            }
            Err(error) => {
                self.note(check, expected, error.to_string(), false);
                None
            }
        }
    }

    /// Whether there is something, and all of it is as expected.
    pub(crate) fn all_hold(&self) -> bool {
        !self.0.is_empty() && self.0.iter().all(|finding| finding.holds)
    }

    /// Prints the table.
    pub(crate) fn print(&self) {
        let width = |of: fn(&Finding) -> &str, least: usize| {
            self.0.iter().map(|finding| of(finding).chars().count()).max().unwrap_or(0).clamp(least, 60)
        };
        let (check, expected) = (width(|f| &f.check, 5), width(|f| &f.expected, 8));
        println!("\n      {:check$}  {:expected$}  FOUND", "CHECK", "EXPECTED");
        for finding in &self.0 {
            let sign = if finding.holds { "ok " } else { "BAD" };
            println!("  {sign} {:check$}  {:expected$}  {}", finding.check, finding.expected, finding.found);
        }
        let bad = self.0.iter().filter(|finding| !finding.holds).count();
        println!("\n{} checks, {bad} of them bad", self.0.len());
    }
}
