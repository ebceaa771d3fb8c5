//! Links between documents: a link to a file of the repository has a file at its end.
//!
//! Understands what our Markdown uses: `[text](target)`, with fenced and inline code left out. Anchors and web addresses are not followed.

use std::collections::HashSet;

use super::{File, Violation};

pub(super) fn check(files: &[File]) -> Vec<Violation> {
    let known = existing_paths(files);
    let mut violations = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".md")) {
        let Some(text) = &file.text else { continue };
        for (line, target) in targets(text) {
            let resolved = resolve(&file.path, &target);
            if !resolved.as_ref().is_some_and(|path| known.contains(path.as_str())) {
                let what = format!("the link to `{target}` leads nowhere");
                violations.push(Violation::new(&file.path, line, what, "a reader follows it"));
            }
        }
    }
    violations
}

/// All files and the directories they are in.
fn existing_paths(files: &[File]) -> HashSet<&str> {
    let mut known = HashSet::from([""]);
    for file in files {
        known.insert(&file.path);
        known.extend(file.path.match_indices('/').map(|(end, _)| &file.path[..end]));
    }
    known
}

/// The local link targets of a document, with their lines.
fn targets(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut is_fenced = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            is_fenced = !is_fenced;
        }
        if is_fenced {
            continue;
        }
        let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        for after in prose.split("](").skip(1) {
            let target = after.split([')', ' ']).next().unwrap_or_default();
            let is_local =
                !target.contains("://") && !target.starts_with("mailto:") && !target.starts_with('#');
            if is_local {
                found.push((index + 1, target.to_owned()));
            }
        }
    }
    found
}

/// The path from the root that `target` in the document `from` means; `None` when it leaves the repository.
fn resolve(from: &str, target: &str) -> Option<String> {
    let target = target.split('#').next().unwrap_or_default();
    let mut parts: Vec<&str> = if target.starts_with('/') { Vec::new() } else { from.split('/').collect() };
    // The document's own name.
    parts.pop();
    for part in target.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part == ".." {
            parts.pop()?;
        } else {
            parts.push(part);
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<(usize, String)> {
        let file = |path: &str, text: &str| File { path: path.to_owned(), text: Some(text.to_owned()) };
        let files = [
            file("docs/guides/a.md", text),
            file("docs/b.md", ""),
            file("README.md", ""),
            file("crates/disk/src/lib.rs", ""),
        ];
        check(&files).into_iter().map(|violation| (violation.line, violation.what)).collect()
    }

    #[test]
    fn links_to_files_directories_and_the_web_are_fine() {
        assert_eq!(
            found("[b](../b.md), [root](../../README.md#install) and [crate](../../crates/disk/)\n"),
            []
        );
        assert_eq!(
            found(
                "[web](https://example.org/x.md) [mail](mailto:a@example.org) [here](#part) [titled](../b.md \"B\")\n"
            ),
            []
        );
    }

    #[test]
    fn a_link_without_an_end_is_found_in_its_line() {
        assert_eq!(found("fine\n\n[gone](c.md)\n"), [(3, "the link to `c.md` leads nowhere".to_owned())]);
        assert_eq!(found("[b](../b.md) [gone](../c.md)\n").len(), 1);
        assert_eq!(found("[outside](../../../other/README.md)\n").len(), 1);
        assert_eq!(found("![image](missing.png)\n").len(), 1);
    }

    #[test]
    fn code_is_not_read_for_links() {
        assert_eq!(found("```\n[a](gone.md)\n```\n`[b](gone.md)` and `x[0](y)`\n"), []);
    }
}
