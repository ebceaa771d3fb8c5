//! Names of files and directories: a name that fits everything says nothing, and what it names grows without an end.

use super::{File, Violation};

const MEANINGLESS: [&str; 8] =
    ["common", "helper", "helpers", "manager", "misc", "util", "utils", "utilities"];

/// Every part of the path, with and without what it is composed of (`disk_utils`).
pub(super) fn check(file: &File) -> Vec<Violation> {
    let meaningless = file.path.split('/').find(|part| {
        let stem = part.split('.').next().unwrap_or(part);
        stem.split(['_', '-']).any(|word| MEANINGLESS.contains(&word))
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
        for path in ["crates/disk/src/commonality.rs", "docs/utilization.md", "crates/spool/src/segment.rs"] {
            assert!(!is_refused(path), "{path}");
        }
    }
}
