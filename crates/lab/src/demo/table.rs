//! What was verified: each row a check with what was expected and what was found.

use std::fmt;

/// One thing that was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was looked at.
    pub what: String,
    /// What should be.
    pub expected: String,
    /// What is.
    pub found: String,
    /// Both are the same.
    pub ok: bool,
}

/// All of it, in the order it was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    checks: Vec<Check>,
}

impl Table {
    /// Adds a row and returns whether it holds.
    pub fn add(&mut self, check: Check) -> bool {
        let ok = check.ok;
        self.checks.push(check);
        ok
    }

    /// The rows.
    #[must_use]
    pub fn checks(&self) -> &[Check] {
        &self.checks
    }

    /// Whether something was verified, and all of it holds.
    #[must_use]
    pub fn holds(&self) -> bool {
        !self.checks.is_empty() && self.checks.iter().all(|check| check.ok)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: fn(&Check) -> &str, title: &str| {
            self.checks
                .iter()
                .map(|check| column(check).chars().count())
                .chain([title.len()])
                .max()
                .unwrap_or(0)
        };
        let what = width(|check| &check.what, "CHECK");
        let expected = width(|check| &check.expected, "EXPECTED");
        let found = width(|check| &check.found, "FOUND");
        writeln!(f, "{:what$}  {:expected$}  {:found$}  OK", "CHECK", "EXPECTED", "FOUND")?;
        for check in &self.checks {
            let ok = if check.ok { "yes" } else { "NO" };
            writeln!(f, "{:what$}  {:expected$}  {:found$}  {ok}", check.what, check.expected, check.found)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(what: &str, ok: bool) -> Check {
        let found = if ok { "no gap" } else { "a gap" };
        Check { what: what.to_owned(), expected: "no gap".to_owned(), found: found.to_owned(), ok }
    }

    #[test]
    fn one_bad_row_or_none_at_all_is_no_success() {
        let mut table = Table::default();
        assert!(!table.holds(), "nothing was verified");
        assert!(table.add(check("web01", true)));
        assert!(table.holds());
        assert!(!table.add(check("db01", false)));
        table.add(check("more", true));
        assert!(!table.holds());
    }

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let mut table = Table::default();
        table.add(check("web01", true));
        table.add(check("a longer one", false));
        let shown = table.to_string();
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[1], "web01         no gap    no gap  yes");
        assert_eq!(lines[2], "a longer one  no gap    a gap   NO");
    }
}
