//! Asking before something is done that cannot simply be undone.
//!
//! Invariant: nothing is done unasked: without `--yes` and without a terminal to ask on, it is refused; only a clear yes is one.

use std::io::{BufRead, IsTerminal, Read, Write};

use clap::Args;
use zeroize::Zeroizing;

/// Longest answer in bytes that is read.
const ANSWER_LEN_MAX: u64 = 64;
/// Longest secret.
const SECRET_LEN_MAX: u64 = 4096;

#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct ConfirmArgs {
    /// Do it without asking
    #[arg(long, short)]
    yes: bool,
}

/// Why nothing was done.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotConfirmed {
    /// There is nobody to ask.
    #[error(
        "this needs a confirmation, and there is no terminal to ask on; nothing was done. Repeat it with --yes if this is wanted:\n  {0}"
    )]
    NoTerminal(String),
    /// Somebody said no.
    #[error("not confirmed; nothing was done")]
    Refused,
    /// The terminal broke.
    #[error("the answer cannot be read ({0}); nothing was done")]
    Io(String),
}

/// Asks for a secret, which is not shown while it is typed; without a terminal it is the first line of standard input.
pub(crate) fn ask_secret(prompt: &str) -> std::io::Result<Zeroizing<String>> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    let input = std::io::stdin();
    let before = if input.is_terminal() { Some(tcgetattr(&input)?) } else { None };
    if let Some(before) = &before {
        write!(std::io::stderr(), "{prompt}")?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&input, OptionalActions::Flush, &silent)?;
    }
    let mut line = Zeroizing::new(String::new());
    let read = input.lock().take(SECRET_LEN_MAX).read_line(&mut line);
    if let Some(before) = &before {
        tcsetattr(&input, OptionalActions::Now, before)?;
        writeln!(std::io::stderr())?;
    }
    read?;
    Ok(Zeroizing::new(line.trim_end_matches(['\r', '\n']).to_owned()))
}

impl ConfirmArgs {
    /// Says what will happen, and asks.
    pub(crate) fn confirm(self, statement: &str) -> Result<(), NotConfirmed> {
        let is_terminal = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
        self.confirm_on(statement, is_terminal, std::io::stdin().lock(), std::io::stderr())
    }

    fn confirm_on(
        self,
        statement: &str,
        is_terminal: bool,
        input: impl BufRead,
        mut output: impl Write,
    ) -> Result<(), NotConfirmed> {
        let failed = |error: std::io::Error| NotConfirmed::Io(error.to_string());
        if self.yes {
            // Who watches a script sees what it did; a closed standard error is no reason not to do it.
            writeln!(output, "{statement}").ok();
            return Ok(());
        }
        if !is_terminal {
            return Err(NotConfirmed::NoTerminal(statement.to_owned()));
        }
        write!(output, "{statement}\nGo on? [y/N] ").and_then(|()| output.flush()).map_err(failed)?;
        let mut answer = String::new();
        input.take(ANSWER_LEN_MAX).read_line(&mut answer).map_err(failed)?;
        match answer.trim().to_ascii_lowercase().as_str() {
            "y" | "yes" => Ok(()),
            _ => Err(NotConfirmed::Refused),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ConfirmArgs, NotConfirmed};

    const WHAT: &str = "web01 will be shut down at home and started at recovery.";

    fn ask(yes: bool, is_terminal: bool, answer: &str) -> (Result<(), NotConfirmed>, String) {
        let mut output = Vec::new();
        let result = ConfirmArgs { yes }.confirm_on(WHAT, is_terminal, answer.as_bytes(), &mut output);
        (result, String::from_utf8(output).unwrap())
    }

    #[test]
    fn only_a_clear_yes_is_one() {
        for answer in ["y\n", "Y\n", "yes\n", " YES \n"] {
            assert_eq!(ask(false, true, answer).0, Ok(()), "{answer:?}");
        }
        for answer in ["", "\n", "n\n", "yess\n", "yep\n", "y e s\n", "no\ny\n"] {
            assert_eq!(ask(false, true, answer).0, Err(NotConfirmed::Refused), "{answer:?}");
        }
        assert!(ask(false, true, "n\n").1.contains(WHAT), "the user must see what is asked");
    }

    #[test]
    fn without_a_terminal_nothing_is_done_unless_said_before() {
        let (result, _) = ask(false, false, "y\n");
        assert_eq!(result, Err(NotConfirmed::NoTerminal(WHAT.into())));
        assert!(result.unwrap_err().to_string().contains("--yes"));
        let (result, output) = ask(true, false, "");
        assert_eq!(result, Ok(()));
        assert!(output.contains(WHAT), "what is done is said in any case");
    }
}
