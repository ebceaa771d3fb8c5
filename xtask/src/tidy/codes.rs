//! Stable error codes: each one that the sources show to a user has an entry in `docs/troubleshooting.md`, and no entry is for a code that is gone.
//!
//! A code is recognised by its shape, so a new one cannot be forgotten: what has the shape and is none is named here ([`EXTENSIONS`], [`NOT_CODES`]).
//!
//! | written as | is | where |
//! |---|---|---|
//! | `"server.no-heartbeat"` | a code of our own | a whole string literal |
//! | `"{}.not-found"`, `"{code}.resolved"` | a family: `*.not-found` | the same, with a place for a value |
//! | `… [azure-slow]`, `[vsphere-fault-{code}]` | a site's code: `azure-slow`, `vsphere-fault-*` | in brackets, in a message |
//! | `"azure-quota"` | a site's code | a whole string literal in `sites` |
//! | `StatusCode::CONFLICT, "CamelCase"` | a code of Azure Resource Manager | in `api`; also by a constant's name |
//!
//! An entry is a row of a table whose first cell has the code in backticks. Tests, and the lab, show nothing to users.

use std::collections::BTreeMap;

use super::{File, Violation};

/// Where the entries are.
const PAGE: &str = "docs/troubleshooting.md";
/// What has the shape of a code and ends like this is a file. No words that a code may end with.
const EXTENSIONS: [&str; 17] = [
    "css", "db", "delta", "fd", "html", "img", "js", "json", "ko", "pem", "png", "raw", "sock", "svg",
    "toml", "vhd", "vmdk",
];
/// What has the shape of a code and is none.
const NOT_CODES: [&str; 39] = [
    // OpenTelemetry's name.
    "service.version",
    // Files and programs.
    "*.new",
    "*.switchback-new",
    "admin-token.written",
    "accounts.key",
    "console.log",
    "mkfs.xfs",
    "qemu.log",
    "restoring.new",
    "run.lock",
    "screen.text",
    "segment-*.log",
    "stage-*-*-*.*",
    "switchback-master-target.service",
    // Keys of settings, and of tags at a site.
    "boot.initrd",
    "boot.kernel",
    "cloud.authority",
    "datastores.*",
    "disk.enableuuid",
    "machines.sizes",
    "machines.zone",
    "switchback.id",
    "switchback.mark",
    // Properties of vSphere's objects.
    "config.firmware",
    "config.template",
    "config.uuid",
    "guest.net",
    "info.error",
    "info.result",
    "info.state",
    "runtime.host",
    "summary.accessible",
    "summary.capacity",
    "summary.type",
    "summary.url",
    // Names of hosts, threads and headers.
    "azure-asyncoperation",
    "switchback.invalid",
    "vsphere-logout",
    "vsphere-watch",
];

/// A code or family with the place that it was found at first.
type Places<'a> = BTreeMap<String, (&'a str, usize)>;

pub(super) fn check(files: &[File]) -> Vec<Violation> {
    let page = files.iter().find(|file| file.path == PAGE).and_then(|page| page.text.as_deref());
    let shown = shown(files);
    let mut violations = Vec::new();
    let mut entries = Places::new();
    for (line, code) in entries_of(page.unwrap_or_default()) {
        if !shown.contains_key(&code) {
            let why = "who reads it looks for something that is not there any more";
            violations.push(Violation::new(PAGE, line, format!("no source has the code `{code}`"), why));
        }
        if let Some((_, first)) = entries.insert(code.clone(), (PAGE, line)) {
            let what = format!("`{code}` has an entry in line {first} already");
            violations.push(Violation::new(PAGE, line, what, "a code means one thing"));
        }
    }
    for (code, (path, line)) in shown.iter().filter(|(code, _)| !entries.contains_key(*code)) {
        let what = format!("the code `{code}` has no entry in {PAGE}");
        let why = "a user looks it up there; if it is no code, xtask/src/tidy/codes.rs has a list of what only looks like one";
        violations.push(Violation::new(path, *line, what, why));
    }
    violations
}

/// The codes in the first cells of a page's tables, with their lines.
fn entries_of(text: &str) -> Vec<(usize, String)> {
    let rows =
        text.lines().enumerate().filter_map(|(index, line)| Some((index + 1, line.strip_prefix("| ")?)));
    rows.flat_map(|(line, row)| {
        let cell = row.split(" |").next().unwrap_or_default();
        cell.split('`').skip(1).step_by(2).map(move |code| (line, code.to_owned()))
    })
    .collect()
}

/// The codes that the sources of the program have.
fn shown(files: &[File]) -> Places<'_> {
    let mut found = Places::new();
    for file in files.iter().filter(|file| is_shipped(&file.path)) {
        let text = without_tests(file.text.as_deref().unwrap_or_default());
        let is_site = file.path.starts_with("crates/sites/");
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"))
        {
            let codes = literals(line)
                .into_iter()
                .filter_map(|literal| own(&literal).or_else(|| of_site(&literal, is_site)));
            for code in codes.chain(in_brackets(line)) {
                found.entry(code).or_insert((&file.path, index + 1));
            }
        }
    }
    for (code, place) in of_api(files) {
        found.entry(code).or_insert(place);
    }
    found
}

fn is_shipped(path: &str) -> bool {
    let is_test = path
        .split('/')
        .any(|part| ["tests", "tests.rs", "testing", "testing.rs", "conformance.rs"].contains(&part));
    path.starts_with("crates/")
        && path.contains("/src/")
        && path.ends_with(".rs")
        && !is_test
        && !path.starts_with("crates/lab/")
}

/// The text before its module of tests, which is the last of a file.
fn without_tests(text: &str) -> &str {
    text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or(text)
}

/// The string literals of a line that begin and end in it. An escaped quote is not an end.
fn literals(line: &str) -> Vec<String> {
    line.replace("\\\"", "'").split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// A code of our own: words, a dot, words.
fn own(literal: &str) -> Option<String> {
    let code = with_stars(literal);
    let (first, second) = code.split_once('.')?;
    let is_code = is_words(first) && is_words(second) && (first, second) != ("*", "*");
    (is_code && !EXTENSIONS.contains(&second) && !NOT_CODES.contains(&code.as_str())).then_some(code)
}

/// A code of a site that is chosen before it is put into brackets.
fn of_site(literal: &str, is_site: bool) -> Option<String> {
    let is_code =
        is_site && (literal.starts_with("azure-") || literal.starts_with("vsphere-")) && is_words(literal);
    (is_code && !NOT_CODES.contains(&literal)).then(|| literal.to_owned())
}

/// Codes at the end of a message: `… [azure-slow]`.
fn in_brackets(line: &str) -> impl Iterator<Item = String> {
    let parts =
        line.split(" [").skip(1).filter_map(|rest| rest.split_once(']')).map(|(code, _)| with_stars(code));
    parts.filter(|code| code.contains('-') && is_words(code))
}

/// The codes of Azure Resource Manager that the API refuses with.
fn of_api(files: &[File]) -> Vec<(String, (&str, usize))> {
    let sources =
        || files.iter().filter(|file| file.path.starts_with("crates/api/src/") && is_shipped(&file.path));
    let texts = || {
        sources().map(|file| (file.path.as_str(), without_tests(file.text.as_deref().unwrap_or_default())))
    };
    let constant = |name: &str| {
        let wanted = format!("const {name}: &str = \"");
        texts().find_map(|(_, text)| text.split_once(&wanted)?.1.split('"').next())
    };
    let mut found = Vec::new();
    for (path, text) in texts() {
        for (at, _) in text.match_indices("StatusCode::") {
            let Some((_, after)) = text[at..].split_once(',') else { continue };
            let word = after.trim_start().split([',', ')', '\n']).next().unwrap_or_default();
            let code = word.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
            let code = code.or_else(|| constant(word.rsplit("::").next().unwrap_or(word)));
            let is_code =
                |code: &&str| code.starts_with(char::is_uppercase) && code.chars().all(char::is_alphanumeric);
            if let Some(code) = code.filter(is_code) {
                let line = text[..at].matches('\n').count() + 1;
                found.push((code.to_owned(), (path, line)));
            }
        }
    }
    found
}

/// Places for values become stars: `{code}.resolved` is `*.resolved`.
fn with_stars(text: &str) -> String {
    let mut parts = text.split('{');
    let mut stars = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        stars.push('*');
        stars.push_str(part.split_once('}').map_or(part, |(_, rest)| rest));
    }
    stars
}

/// Lower-case words of letters and digits, joined by dashes; or a star for one.
fn is_words(text: &str) -> bool {
    let is_word = |word: &str| {
        word == "*"
            || (word.starts_with(|c: char| c.is_ascii_lowercase())
                && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()))
    };
    text.split('-').all(is_word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File { path: path.to_owned(), text: Some(text.to_owned()) }
    }

    /// What is said of one source beside a page with these entries.
    fn found(path: &str, source: &str, entries: &[&str]) -> Vec<String> {
        let rows: String =
            entries.iter().map(|code| format!("| `{code}` | it has failed | repair it |\n")).collect();
        let files = [file(path, source), file(PAGE, &format!("| code | what | do |\n|---|---|---|\n{rows}"))];
        check(&files)
            .into_iter()
            .map(|violation| format!("{}:{} {}", violation.path, violation.line, violation.what))
            .collect()
    }

    const SOURCE: &str = "crates/control/src/a.rs";
    const API: &str = "crates/api/src/a.rs";

    #[test]
    fn a_code_without_an_entry_is_found_where_it_is_written() {
        let source = "//! What.\nreturn Err(failure(\"site.on-fire\", message));\n";
        let violations = found(SOURCE, source, &[]);
        assert_eq!(violations, [format!("{SOURCE}:2 the code `site.on-fire` has no entry in {PAGE}")]);
        assert_eq!(found(SOURCE, source, &["site.on-fire"]), NONE);
    }

    #[test]
    fn an_entry_for_a_code_that_is_gone_is_found_and_so_is_a_second_one() {
        let gone = found(SOURCE, "//! What.\n", &["site.on-fire"]);
        assert_eq!(gone, [format!("{PAGE}:3 no source has the code `site.on-fire`")]);
        let twice = found(SOURCE, "\"a.b\"\n", &["a.b", "a.b"]);
        assert_eq!(twice, [format!("{PAGE}:4 `a.b` has an entry in line 3 already")]);
    }

    #[test]
    fn each_way_to_write_a_code_is_seen() {
        for (source, code) in [
            ("    \"agent.no-heartbeat\",", "agent.no-heartbeat"),
            ("const CHECK: (&str, &str) = (\"guest.fstab\", \"A title\");", "guest.fstab"),
            ("&format!(\"{}.not-found\", what)", "*.not-found"),
            ("event(&format!(\"{code}.resolved\"), x)", "*.resolved"),
            ("#[error(\"{0} is slow [azure-slow]\")]", "azure-slow"),
            ("     [vsphere-out-of-reach]\",", "vsphere-out-of-reach"),
            ("say(\"5\\\" wide\", \"a.b\")", "a.b"),
            ("None => format!(\" [vsphere-fault-{code}]\"),", "vsphere-fault-*"),
        ] {
            assert_eq!(found(SOURCE, &format!("{source}\n"), &[code]), NONE, "{source}");
            assert_eq!(found(SOURCE, &format!("{source}\n"), &[]).len(), 1, "{source}");
        }
        assert_eq!(found("crates/sites/src/a.rs", "(words, \"azure-quota\")\n", &["azure-quota"]), NONE);
    }

    #[test]
    fn codes_of_the_api_are_seen_as_literals_and_as_constants() {
        let literal = "ArmError::new(\n    StatusCode::CONFLICT,\n    \"TooBusy\",\n    message,\n)\n";
        assert_eq!(found(API, literal, &["TooBusy"]), NONE);
        let constant =
            "const CODE: &str = \"NoSense\";\nArmError::new(StatusCode::BAD_REQUEST, super::CODE, message)\n";
        assert_eq!(found(API, constant, &["NoSense"]), NONE);
        assert_eq!(found(API, "(StatusCode::OK, Json(body))\n", &[]), NONE);
    }

    #[test]
    fn what_only_looks_like_a_code_or_is_shown_to_nobody_needs_no_entry() {
        for source in [
            "let file = \"site.toml\";",
            "\"config.uuid\",",
            "// \"site.on-fire\" was once",
            "\"a sentence. And another\"",
            "\"{}.{}\"",
            "let last = sizes [index - 1];",
            "\"10.1.0.11\"",
            "#[cfg(test)]\nmod tests {\n    \"site.on-fire\"\n}",
        ] {
            assert_eq!(found(SOURCE, &format!("//! What.\n{source}\n"), &[]), NONE, "{source}");
        }
        for path in [
            "crates/lab/src/a.rs",
            "crates/control/tests/a.rs",
            "crates/control/src/a/tests.rs",
            "xtask/src/a.rs",
        ] {
            assert_eq!(found(path, "\"site.on-fire\"\n", &[]), NONE, "{path}");
        }
    }

    #[test]
    fn only_the_first_cell_of_a_row_is_an_entry() {
        assert_eq!(
            entries_of("`a.b` in a text\n| `c.d`, `e.f` | see `g.h` | `i.j` |\n"),
            [(2, "c.d".to_owned()), (2, "e.f".to_owned())]
        );
    }

    #[test]
    fn without_the_page_every_code_lacks_its_entry() {
        assert_eq!(check(&[file(SOURCE, "\"a.b\" \"c.d\"\n")]).len(), 2);
    }

    const NONE: [String; 0] = [];
}
