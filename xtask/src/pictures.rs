//! `cargo xtask pictures`: makes the pictures of the portal and of the command line that README and documentation show.
//!
//! The test that clicks through the portal photographs each page that it looks at (`crates/portal/tests/browser`), and the one that types a machine's whole
//! life leaves what commands print (`crates/switchback/tests/cli_whole_cycle.rs`). This runs both and takes some of it over, so that no picture is older than what it
//! shows, and none is made by hand.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, ensure};

/// Pages that are shown: their names as the test has them, and in `docs/pictures`.
const PAGES: [(&str, &str); 3] = [
    ("machine-comes-home-1280-light.png", "portal-machine.png"),
    ("reprotect-1280-light.png", "portal-reprotect.png"),
    ("tab-overview-1280-light.png", "portal-overview.png"),
];
/// What is typed: the same.
const TYPED: [(&str, &str); 1] = [("machine-comes-home.txt", "cli-machine.svg")];
/// The tests that leave them: their package, what they are in, and which one.
const TESTS: [[&str; 3]; 2] = [
    ["switchback-portal", "browser", "the_whole_cycle"],
    ["switchback", "cli_whole_cycle", "a_machine_goes_away"],
];
/// A letter's width and a line's height in pixels, and room around them.
const LETTER: [usize; 2] = [8, 18];
const MARGIN: usize = 16;

/// Runs the tests and takes over.
pub(crate) fn run(root: &Path) -> anyhow::Result<ExitCode> {
    for [package, test, name] in TESTS {
        let mut command = Command::new("cargo");
        command.args(["test", "--package", package, "--test", test, name]);
        let status = command.current_dir(root).status().context("cargo could not be started")?;
        ensure!(status.success(), "there is nothing to show of {package}: see the test's message");
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), Into::into);
    let pictures = root.join("docs/pictures");
    for (taken, shown) in PAGES {
        let (taken, shown) = (target.join("portal-pages").join(taken), pictures.join(shown));
        fs::copy(&taken, &shown).with_context(|| format!("taking over {}", taken.display()))?;
        println!("{}", shown.display());
    }
    for (taken, shown) in TYPED {
        let (taken, shown) = (target.join("cli-pages").join(taken), pictures.join(shown));
        let text = fs::read_to_string(&taken).with_context(|| format!("taking over {}", taken.display()))?;
        fs::write(&shown, drawn(text.trim_end())).with_context(|| format!("writing {}", shown.display()))?;
        println!("{}", shown.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// A terminal's text as SVG; lines that begin with `$` were typed.
fn drawn(text: &str) -> String {
    let columns = text.lines().map(|line| line.chars().count()).max().unwrap_or_default();
    let (width, height) = (columns * LETTER[0] + 2 * MARGIN, text.lines().count() * LETTER[1] + 2 * MARGIN);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace\" font-size=\"13\">\n\
         <rect width=\"{width}\" height=\"{height}\" rx=\"8\" fill=\"#14323b\"/>\n"
    );
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.is_empty()) {
        let y = MARGIN + number * LETTER[1] - 5;
        let color = if line.starts_with('$') { "#f6c177" } else { "#e6eef0" };
        // Each line is as wide as its letters, whatever font there is.
        let length = line.chars().count() * LETTER[0];
        let line = line.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let _ = writeln!(
            svg,
            "<text x=\"{MARGIN}\" y=\"{y}\" xml:space=\"preserve\" textLength=\"{length}\" fill=\"{color}\">{line}</text>"
        );
    }
    svg.push_str("</svg>\n");
    svg
}

#[cfg(test)]
mod tests {
    use super::drawn;

    #[test]
    fn what_was_typed_is_told_apart_and_everything_is_escaped() {
        let svg = drawn("$ switchback <x>\na & b");
        assert!(svg.contains("fill=\"#f6c177\">$ switchback &lt;x&gt;</text>"), "{svg}");
        assert!(svg.contains("fill=\"#e6eef0\">a &amp; b</text>"), "{svg}");
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"), "{svg}");
    }
}
