//! Rules for every text file: how lines end, and what must not leave a developer's machine.

use super::{File, Violation};

/// Paths and hosts that mean something on one machine only. Written in pieces, so that this file does not break its own rule.
const PRIVATE: [&str; 8] = [
    concat!("../", "shared"),
    concat!("/", "work/"),
    concat!("index.", "crates.io"),
    concat!("static.", "crates.io"),
    concat!("deb.", "debian.org"),
    concat!("pypi.", "org/simple"),
    concat!("registry.", "npmjs.org"),
    concat!("proxy.", "golang.org"),
];

pub(super) fn check(file: &File) -> Vec<Violation> {
    let Some(text) = &file.text else { return Vec::new() };
    let mut violations = Vec::new();
    let mut add =
        |line: usize, what: String, why| violations.push(Violation::new(&file.path, line, what, why));
    // Not `lines()`, which takes a carriage return for a part of the line's end.
    for (index, line) in text.split('\n').enumerate() {
        if line.ends_with([' ', '\t', '\r']) {
            add(index + 1, "trailing white space".to_owned(), "it shows up as a change that is none");
        }
        for private in PRIVATE.iter().filter(|private| line.contains(*private)) {
            let why = "the repository must build anywhere: no paths or registries of one machine";
            add(index + 1, format!("mentions `{private}`"), why);
        }
    }
    let last_line = text.lines().count().max(1);
    if !text.is_empty() && !text.ends_with('\n') {
        add(
            last_line,
            "no line end at the end of the file".to_owned(),
            "appending a line would change this one",
        );
    }
    if text.ends_with("\n\n") {
        add(last_line, "empty line at the end of the file".to_owned(), "it says nothing");
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violations(text: &str) -> Vec<(usize, String)> {
        let file = File { path: "docs/a.md".to_owned(), text: Some(text.to_owned()) };
        check(&file).into_iter().map(|violation| (violation.line, violation.what)).collect()
    }

    #[test]
    fn lines_end_without_white_space_and_with_a_line_end() {
        assert_eq!(violations("good\n"), []);
        assert_eq!(violations(""), []);
        assert_eq!(
            violations("good\nbad \nbad\t\n").iter().map(|(line, _)| *line).collect::<Vec<_>>(),
            [2, 3]
        );
        assert_eq!(violations("dos\r\n").len(), 1);
        assert_eq!(violations("one\ntwo"), [(2, "no line end at the end of the file".to_owned())]);
        assert_eq!(violations("one\n\n"), [(2, "empty line at the end of the file".to_owned())]);
    }

    #[test]
    fn places_of_one_machine_are_refused() {
        let text = format!("see {}/notes and {}main\n", concat!("../", "shared"), concat!("/", "work/"));
        assert_eq!(violations(&text).len(), 2);
        assert_eq!(violations("see https://crates.io/crates/blake3 and network/\n"), []);
    }
}
