//! Rules for Rust sources: a header that says what the file is for, a size a reader can hold, and `unsafe` only where it is at home.

use super::{File, Violation};

/// Beyond this a file has more than one subject.
const LINES_MAX: usize = 600;
/// Beyond this it is time to look for a second one.
const LINES_HINT: usize = 400;
/// The crates that talk to the kernel in ways safe Rust has no words for.
const UNSAFE_HOMES: [&str; 2] = ["crates/disk/", "crates/capture/"];

pub(super) fn check(file: &File) -> Vec<Violation> {
    let Some(text) = rust_text(file) else { return Vec::new() };
    let mut violations = Vec::new();
    let mut add = |line, what: String, why| violations.push(Violation::new(&file.path, line, what, why));
    if !text.starts_with("//! ") {
        add(
            1,
            "no `//!` header".to_owned(),
            "a reader learns first what a file is for and what always holds in it",
        );
    }
    let lines = text.lines().count();
    if lines > LINES_MAX {
        add(
            lines,
            format!("{lines} lines, more than {LINES_MAX}"),
            "a file this long has more than one subject",
        );
    }
    if !UNSAFE_HOMES.iter().any(|home| file.path.starts_with(home)) {
        for (index, _) in text.lines().enumerate().filter(|(_, line)| uses_unsafe(line)) {
            add(index + 1, "unsafe code".to_owned(), "it lives in the crates disk and capture only");
        }
    }
    violations
}

/// What to print about a file that is not too long yet.
pub(super) fn length_hint(file: &File) -> Option<String> {
    let lines = rust_text(file)?.lines().count();
    (LINES_HINT < lines && lines <= LINES_MAX).then(|| format!("{}: {lines} lines", file.path))
}

fn rust_text(file: &File) -> Option<&str> {
    if file.path.ends_with(".rs") { file.text.as_deref() } else { None }
}

/// Whether a line has unsafe code or lifts the lint against it. Comments and strings do not count.
fn uses_unsafe(line: &str) -> bool {
    let code = outside_strings(line);
    let code = code.split("//").next().unwrap_or(&code);
    let lifts_the_lint = code.contains("unsafe_code") && code.contains('(');
    let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '{';
    let mut words = code.split(|c| !is_word(c)).filter(|word| !word.is_empty());
    let has_block = words.any(|word| word == "unsafe" || word == "unsafe{");
    lifts_the_lint || has_block
}

/// The line without what stands between quotes. An escaped quote inside a string is not an end of it.
fn outside_strings(line: &str) -> String {
    line.replace("\\\"", "").split('"').step_by(2).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [usize; 0] = [];

    fn found(path: &str, text: &str) -> Vec<usize> {
        let file = File { path: path.to_owned(), text: Some(text.to_owned()) };
        check(&file).iter().map(|violation| violation.line).collect()
    }

    #[test]
    fn a_source_starts_with_its_header() {
        assert_eq!(found("crates/model/src/a.rs", "//! What.\n"), NONE);
        assert_eq!(found("crates/model/tests/a.rs", "use std::fs;\n//! Late.\n"), [1]);
        assert_eq!(found("crates/model/src/a.rs", "//!\n//! Empty first line.\n"), [1]);
        assert_eq!(found("README.md", "no header needed\n"), NONE);
    }

    #[test]
    fn length_is_limited_and_announced() {
        let lines = |count: usize| format!("//! What.\n{}", "// x\n".repeat(count - 1));
        let file = |count| File { path: "a.rs".to_owned(), text: Some(lines(count)) };
        assert_eq!(found("a.rs", &lines(600)), NONE);
        assert_eq!(found("a.rs", &lines(601)), [601]);
        assert_eq!(length_hint(&file(400)), None);
        assert_eq!(length_hint(&file(401)), Some("a.rs: 401 lines".to_owned()));
        assert_eq!(length_hint(&file(601)), None);
    }

    #[test]
    fn unsafe_has_two_homes() {
        let code = [
            "unsafe { x() }",
            "unsafe fn f() {}",
            "unsafe impl Send for A {}",
            "let a = unsafe{ b };",
            "    unsafe",
        ];
        let attributes = ["#![allow(unsafe_code)]", "#[expect(unsafe_code, reason = \"x\")]"];
        for line in code.into_iter().chain(attributes) {
            let text = format!("//! What.\n{line}\n");
            assert_eq!(found("crates/spool/src/a.rs", &text), [2], "{line}");
            assert_eq!(found("crates/disk/src/a.rs", &text), NONE, "{line}");
        }
        for line in ["// unsafe { x() }", "let not_unsafe = 1;", "let a = \"unsafe words\";", "/// unsafe fn"]
        {
            assert_eq!(found("crates/spool/src/a.rs", &format!("//! What.\n{line}\n")), NONE, "{line}");
        }
    }
}
