//! What a machine in a sandbox shows, and what that means: pure.
//!
//! What is looked for comes first: whoever has seen it has a machine that works, whatever it complained about before. Signs of a machine that will not come up
//! end the wait early. What says nothing at all cannot be judged, unless somebody has said what is to come.

use regex_lite::{Regex, RegexBuilder};
use switchback_model::{Probe, Verdict};

use crate::{ControlError, ErrorKind};

/// getty's and most others' prompt, at the end of a line.
const LOGIN: &str = r"\blogin:[ \t]*$";
/// Bytes of a pattern, and of what it becomes.
const PATTERN_LEN_MAX: usize = 500;
const COMPILED_LEN_MAX: usize = 1 << 20;
/// Characters of a line that are told.
const LINE_CHARS_MAX: usize = 160;
/// What only machines write that do not come up, and what it means.
const SIGNS: [(&str, &str); 11] = [
    ("Kernel panic - not syncing", "its kernel gave up"),
    ("You are in emergency mode", "it came up in emergency mode"),
    ("Entering emergency mode", "it came up in emergency mode"),
    ("Cannot open access to console, the root account is locked", "it came up in emergency mode"),
    ("(initramfs)", "its root file system was not found"),
    ("dracut:/#", "its root file system was not found"),
    ("grub rescue>", "its boot loader does not find its files"),
    ("No bootable device", "its firmware finds nothing to boot from"),
    ("No bootable option or device was found", "its firmware finds nothing to boot from"),
    // EDK II's, which comes when no loader is found.
    ("UEFI Interactive Shell", "its firmware finds nothing to boot from"),
    ("Operating System not found", "its firmware finds nothing to boot from"),
];

/// What is looked for, ready to be looked for.
#[derive(Debug)]
pub(crate) struct Pattern {
    regex: Regex,
    /// Somebody has said that it will come.
    is_own: bool,
}

impl Pattern {
    pub(crate) fn of(probe: &Probe) -> Result<Self, ControlError> {
        let invalid = |why: String| {
            ControlError::new(
                ErrorKind::Invalid,
                "proof.pattern",
                format!("the probe's pattern cannot be used: {why}"),
            )
            .remedy("give a regular expression that matches a line which the machine writes when it works")
        };
        let text = probe.pattern.as_deref().unwrap_or(LOGIN);
        if text.trim().is_empty() || text.len() > PATTERN_LEN_MAX {
            return Err(invalid(format!("it has 1 to {PATTERN_LEN_MAX} bytes")));
        }
        let regex = RegexBuilder::new(text).multi_line(true).size_limit(COMPILED_LEN_MAX).build();
        let regex = regex.map_err(|error| invalid(error.to_string()))?;
        if regex.is_match("") {
            return Err(invalid("it matches nothing at all, so it would match always".into()));
        }
        Ok(Self { regex, is_own: probe.pattern.is_some() })
    }
}

/// What is to be seen of a machine.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// What it has written to its serial console, plain.
    pub(crate) console: String,
    /// What stands on its screen, where that is text.
    pub(crate) screen: String,
    /// It is off.
    pub(crate) is_off: bool,
    /// Requests of its disks that have failed.
    pub(crate) failed_requests: u64,
    /// Its time is over.
    pub(crate) is_late: bool,
}

/// The verdict, as soon as there is one, with a sentence of what was seen.
pub(crate) fn judge(seen: &Seen, probe: &Probe, pattern: &Pattern) -> Option<(Verdict, String)> {
    let texts = [("serial console", &seen.console), ("screen", &seen.screen)];
    for (place, text) in texts {
        if let Some(found) = pattern.regex.find(text) {
            let line = line_at(text, found.start());
            return Some((Verdict::Passed, format!("{probe} was seen on its {place}: {line:?}")));
        }
    }
    let sign = texts.iter().find_map(|(place, text)| {
        let (at, meaning) = SIGNS.iter().find_map(|(sign, meaning)| Some((text.find(sign)?, meaning)))?;
        Some(format!("{meaning}; its {place} says {:?}", line_at(text, at)))
    });
    if seen.failed_requests > 0 && (sign.is_some() || seen.is_off || seen.is_late) {
        let requests = seen.failed_requests;
        return Some((
            Verdict::Inconclusive,
            format!(
                "{requests} requests of its disks failed: the master target has ended meanwhile, the replica is damaged (`switchback replica verify`), or its site has no room for what it writes"
            ),
        ));
    }
    if let Some(sign) = sign {
        return Some((Verdict::Failed, sign));
    }
    if seen.is_off {
        return Some((
            Verdict::Failed,
            format!("it went off before {probe} was seen{}", last_of(&seen.console)),
        ));
    }
    if !seen.is_late {
        return None;
    }
    let seconds = probe.limit_ms / 1000;
    if seen.console.trim().is_empty() && !pattern.is_own {
        return Some((
            Verdict::Inconclusive,
            format!("it wrote nothing to its serial console within {seconds} s"),
        ));
    }
    Some((Verdict::Failed, format!("{probe} was not seen within {seconds} s{}", last_of(&seen.console))))
}

/// The line that a byte of a text is in.
fn line_at(text: &str, at: usize) -> String {
    let start = text[..at].rfind('\n').map_or(0, |before| before + 1);
    let line = text[start..].lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    line.trim().chars().take(LINE_CHARS_MAX).collect()
}

fn last_of(text: &str) -> String {
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    last.map(|line| {
        let line: String = line.trim().chars().take(LINE_CHARS_MAX).collect();
        format!("; the last that its serial console says is {line:?}")
    })
    .unwrap_or_default()
}

/// A console's text without what steers terminals (ECMA-48: sequences that begin with ESC, and control characters); a carriage return ends a line, too.
pub(crate) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '\u{1b}' => match chars.next() {
                Some('[') => while chars.next().is_some_and(|next| !('\u{40}'..='\u{7e}').contains(&next)) {},
                Some(']') => while chars.next().is_some_and(|next| !matches!(next, '\u{7}' | '\u{9c}')) {},
                Some('(' | ')' | '#' | '%') => drop(chars.next()),
                _ => {}
            },
            '\r' if chars.peek() == Some(&'\n') => {}
            '\r' => plain.push('\n'),
            '\n' | '\t' => plain.push(char),
            other if other.is_control() => {}
            other => plain.push(other),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use switchback_model::{Probe, Verdict};

    use super::{Pattern, Seen, judge, plain};

    const BOOT: &str =
        "[    0.000000] Linux version 6.1\r\n\u{1b}[0;32m  OK  \u{1b}[0m] Reached target getty\r\n";

    fn own(pattern: &str) -> Probe {
        Probe { pattern: Some(pattern.into()), ..Probe::default() }
    }

    fn verdict(seen: &Seen, probe: &Probe) -> Option<(Verdict, String)> {
        judge(seen, probe, &Pattern::of(probe).unwrap())
    }

    fn says(console: &str) -> Seen {
        Seen { console: plain(console), ..Seen::default() }
    }

    #[test]
    fn a_login_prompt_on_console_or_screen_is_what_is_looked_for() {
        let prompt =
            format!("{BOOT}\r\nDebian GNU/Linux 12 web01 ttyS0\r\n\r\n\u{1b}[1mweb01 login: \u{1b}[0m");
        let (found, why) = verdict(&says(&prompt), &Probe::default()).unwrap();
        assert_eq!((found, why.contains("web01 login:")), (Verdict::Passed, true), "{why}");
        let screen = Seen { screen: "old01 login:\n".into(), ..says("") };
        assert_eq!(verdict(&screen, &Probe::default()).unwrap().0, Verdict::Passed);
        for waits in [BOOT, "", "Last login: Mon Nov 30 on ttyS0\r\n", "checking the login: service\r\n"] {
            assert_eq!(verdict(&says(waits), &Probe::default()), None, "{waits:?}");
        }
    }

    #[test]
    fn a_probe_of_ones_own_matches_line_by_line_and_nothing_matches_always() {
        let probe = own("^LEDGER: .* writing from=[0-9]+");
        let (found, why) =
            verdict(&says("x LEDGER: no\r\nLEDGER: machine=web01 writing from=7\r\n"), &probe).unwrap();
        assert!(
            found == Verdict::Passed && why.contains("writing from=7") && !why.contains("x LEDGER"),
            "{why}"
        );
        for bad in ["", "  ", "(", "a*", &"x".repeat(501), "(?:a{1000}){1000}"] {
            assert_eq!(Pattern::of(&own(bad)).unwrap_err().error.code, "proof.pattern", "{bad:?}");
        }
    }

    #[test]
    fn signs_of_a_broken_machine_end_the_wait_unless_it_works_all_the_same() {
        for sign in super::SIGNS.map(|(sign, _)| sign) {
            let console = says(&format!("{BOOT}{sign} - more\r\n"));
            let (found, why) = verdict(&console, &Probe::default()).unwrap();
            assert!(found == Verdict::Failed && why.contains(sign), "{why}");
            let screen = Seen { screen: sign.into(), ..says("") };
            assert_eq!(verdict(&screen, &Probe::default()).unwrap().0, Verdict::Failed);
        }
        let again = says("Kernel panic - not syncing\r\nweb01 login: ");
        assert_eq!(verdict(&again, &Probe::default()).unwrap().0, Verdict::Passed);
    }

    #[test]
    fn silence_is_judged_only_where_somebody_has_said_what_is_to_come() {
        let late = |console| Seen { is_late: true, ..says(console) };
        assert_eq!(verdict(&late(""), &Probe::default()).unwrap().0, Verdict::Inconclusive);
        assert_eq!(verdict(&late(""), &own("READY")).unwrap().0, Verdict::Failed);
        let (found, why) = verdict(&late(BOOT), &Probe::default()).unwrap();
        assert!(found == Verdict::Failed && why.contains("Reached target getty"), "{why}");
        let off = Seen { is_off: true, ..says(BOOT) };
        assert_eq!(verdict(&off, &Probe::default()).unwrap().0, Verdict::Failed);
    }

    #[test]
    fn what_could_not_be_read_is_not_the_machines_fault() {
        let unread = Seen { failed_requests: 3, ..says("Kernel panic - not syncing: no init\r\n") };
        assert_eq!(verdict(&unread, &Probe::default()).unwrap().0, Verdict::Inconclusive);
        let off = Seen { is_off: true, ..unread };
        assert_eq!(verdict(&off, &Probe::default()).unwrap().0, Verdict::Inconclusive);
        let works = Seen { failed_requests: 3, ..says("web01 login: ") };
        assert_eq!(verdict(&works, &Probe::default()).unwrap().0, Verdict::Passed);
    }

    #[test]
    fn what_steers_terminals_is_no_text() {
        assert_eq!(
            plain("a\u{1b}[2J\u{1b}[01;01Hb\u{1b}]0;title\u{7}c\u{1b}(Bd\r\ne\rf\u{0}\tg\u{1b}"),
            "abcd\ne\nf\tg"
        );
        assert_eq!(plain("\u{1b}["), "");
    }
}
