//! Names of files and directories: a name that fits everything says nothing, and what it names grows without an end.

use super::{File, Violation};

/// Meaningless, alone or beside another word.
const MEANINGLESS: [&str; 6] = ["common", "helpers", "manager", "misc", "utilities", "utils"];
/// Meaningless alone; beside another word they can be a real thing (`freeze_helper`, a process).
const MEANINGLESS_ALONE: [&str; 2] = ["helper", "util"];

/// Looks at every part of the path, and at the words it is composed of (`disk_utils`).
pub(super) fn check(file: &File) -> Vec<Violation> {
    let meaningless = file.path.split('/').find(|part| {
        let stem = part.split('.').next().unwrap_or(part);
        MEANINGLESS_ALONE.contains(&stem) || stem.split(['_', '-']).any(|word| MEANINGLESS.contains(&word))
    });
    let why = "name a module after the one thing it is about";
    meaningless
        .map(|part| Violation::new(&file.path, 1, format!("`{part}` names nothing"), why))
        .into_iter()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_refused(path: &str) -> bool {
        !check(&File { path: path.to_owned(), text: None }).is_empty()
    }

    #[test]
    fn meaningless_names_are_refused_at_every_level() {
        for path in [
            "crates/disk/src/utils.rs",
            "crates/disk/tests/common/mod.rs",
            "a/job_manager.rs",
            "helpers/x.md",
        ] {
            assert!(is_refused(path), "{path}");
        }
    }

    #[test]
    fn names_that_only_contain_such_a_word_are_fine() {
        for path in [
            "crates/disk/src/commonality.rs",
            "docs/utilization.md",
            "a/freeze_helper.rs",
            "crates/spool/src/segment.rs",
        ] {
            assert!(!is_refused(path), "{path}");
        }
    }
}
