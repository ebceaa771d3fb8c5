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
const EXTENSIONS: [&str; 13] =
    ["css", "db", "delta", "fd", "img", "json", "ko", "pem", "raw", "sock", "toml", "vhd", "vmdk"];
/// What has the shape of a code and is none.
const NOT_CODES: [&str; 37] = [
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
    let Some(page) = files.iter().find(|file| file.path == PAGE) else { return Vec::new() };
    let shown = shown(files);
    let mut violations = Vec::new();
    let mut entries = Places::new();
    for (line, code) in entries_of(page.text.as_deref().unwrap_or_default()) {
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
            let codes =
                literals(line).filter_map(|literal| own(literal).or_else(|| of_site(literal, is_site)));
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

/// The string literals of a line that begin and end in it.
fn literals(line: &str) -> impl Iterator<Item = &str> {
    line.split('"').skip(1).step_by(2)
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
