//! `$filter`: conjunctions of `name eq 'value'`, the part of OData 4.01 that the contract's clients send.
//!
//! Invariant: a condition that is not understood is refused, never ignored: who asks for failed jobs must not be shown all of them.

use super::error::ArmError;

/// Longest filter in bytes.
const LEN_MAX: usize = 4096;

/// A filter's conditions, all of which must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    conditions: Vec<(String, String)>,
}

impl Filter {
    /// Reads a filter whose conditions may be about `known` names only (in any case).
    pub(crate) fn parse(text: Option<&str>, known: &[&str]) -> Result<Self, ArmError> {
        let text = text.unwrap_or_default().trim();
        let refuse = |why: String| {
            ArmError::invalid(format!("$filter is not understood: {why}")).remedy(format!(
                "conditions are NAME eq 'VALUE', joined by `and`; names are: {}",
                known.join(", ")
            ))
        };
        if text.len() > LEN_MAX {
            return Err(refuse(format!("longer than {LEN_MAX} bytes")));
        }
        let mut conditions = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let (name, after) = word(rest);
            let (operator, after) = word(after);
            if !operator.eq_ignore_ascii_case("eq") {
                return Err(refuse(format!("{operator:?} after {name:?}")));
            }
            let Some(name) = known.iter().find(|known| known.eq_ignore_ascii_case(name)) else {
                return Err(refuse(format!("it cannot be filtered by {name:?}")));
            };
            let (value, after) =
                value(after).ok_or_else(|| refuse(format!("the value of {name} does not end")))?;
            conditions.push(((*name).to_owned(), value));
            let (joint, after) = word(after);
            if !joint.is_empty() && (!joint.eq_ignore_ascii_case("and") || after.is_empty()) {
                return Err(refuse(format!("{joint:?} after the value of {name}")));
            }
            rest = after;
        }
        Ok(Self { conditions })
    }

    /// The value asked for.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.conditions.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Whether one of the comma-separated values asked for is this one; nothing asked for is no obstacle.
    pub(crate) fn allows(&self, name: &str, actual: &str) -> bool {
        self.get(name)
            .is_none_or(|values| values.split(',').any(|value| value.trim().eq_ignore_ascii_case(actual)))
    }
}

/// The next word and what follows it.
fn word(text: &str) -> (&str, &str) {
    let text = text.trim_start();
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

/// A value, in quotes (doubled inside) or bare, and what follows it.
fn value(text: &str) -> Option<(String, &str)> {
    let text = text.trim_start();
    let Some(quoted) = text.strip_prefix('\'') else {
        let (bare, rest) = word(text);
        return (!bare.is_empty()).then(|| (bare.to_owned(), rest));
    };
    let mut value = String::new();
    let mut rest = quoted;
    loop {
        let end = rest.find('\'')?;
        value.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        let Some(after) = rest.strip_prefix('\'') else { return Some((value, rest)) };
        value.push('\'');
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::Filter;

    const KNOWN: [&str; 2] = ["jobStatus", "startTime"];

    #[test]
    fn conditions_are_read_in_any_case() {
        let filter = Filter::parse(
            Some("JobStatus eq 'Failed, InProgress' and startTime EQ '2024-01-01T00:00:00Z'"),
            &KNOWN,
        )
        .unwrap();
        assert!(filter.allows("jobStatus", "failed") && filter.allows("jobStatus", "InProgress"));
        assert!(!filter.allows("jobStatus", "Succeeded"));
        assert_eq!(filter.get("startTime"), Some("2024-01-01T00:00:00Z"));
        let quoted = Filter::parse(Some("jobStatus eq 'it''s'"), &KNOWN).unwrap();
        assert_eq!(quoted.get("jobStatus"), Some("it's"));
        let none = Filter::parse(None, &KNOWN).unwrap();
        assert!(none.allows("jobStatus", "anything"));
        assert_eq!(
            Filter::parse(Some("jobStatus eq Failed"), &KNOWN).unwrap().get("jobStatus"),
            Some("Failed")
        );
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for bad in [
            "jobStatus",
            "jobStatus ne 'Failed'",
            "owner eq 'me'",
            "jobStatus eq 'Failed",
            "jobStatus eq 'Failed' or startTime eq 'x'",
            "jobStatus eq 'Failed' and",
            &format!("jobStatus eq '{}'", "x".repeat(5000)),
        ] {
            let error = Filter::parse(Some(bad), &KNOWN).unwrap_err();
            assert!(error.error.remedy.contains("jobStatus, startTime"), "{bad}");
        }
    }
}
