//! Programs of the system, each with a limit of time and of what is kept of its words.

use std::io::{self, Read, Write};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Most bytes that are kept of what a program says.
const SAID_LEN_MAX: u64 = 1 << 20;
/// How often its end is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How a program ended.
#[derive(Debug)]
pub(super) struct Ran {
    /// `None`: by a signal.
    pub(super) code: Option<i32>,
    pub(super) output: String,
    pub(super) errors: String,
}

/// Runs a program to its end; whoever takes longer than `limit` is killed.
pub(super) fn run(program: &str, arguments: &[&str], input: &str, limit: Duration) -> io::Result<Ran> {
    let mut child = Command::new(program)
        .args(arguments)
        .env("PATH", PATH)
        .env("LC_ALL", "C")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let output = child.stdout.take().map(|pipe| thread::spawn(move || said(pipe)));
    let errors = child.stderr.take().map(|pipe| thread::spawn(move || said(pipe)));
    if let Some(mut pipe) = child.stdin.take() {
        // A program that does not read its input says by its exit code whether that matters.
        let _ = pipe.write_all(input.as_bytes());
    }
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if started.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no end within {limit:?}; it was killed"),
            ));
        }
        thread::sleep(LOOK_EVERY);
    };
    let text = |reader: Option<thread::JoinHandle<String>>| {
        reader.and_then(|reader| reader.join().ok()).unwrap_or_default()
    };
    Ok(Ran { code: status.code(), output: text(output), errors: text(errors) })
}

/// The first of what comes; the rest is read, so that nobody waits, and dropped.
fn said(mut pipe: impl Read) -> String {
    let mut kept = Vec::new();
    // What was said before a pipe broke is all there is.
    let _ = pipe.by_ref().take(SAID_LEN_MAX).read_to_end(&mut kept);
    let _ = io::copy(&mut pipe, &mut io::sink());
    String::from_utf8_lossy(&kept).into_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::run;

    #[test]
    fn a_program_is_heard_and_one_that_takes_too_long_is_killed() {
        let ran =
            run("sh", &["-c", "read x; echo got $x; echo no >&2; exit 3"], "it\n", Duration::from_secs(20))
                .unwrap();
        assert_eq!((ran.code, ran.output.as_str(), ran.errors.as_str()), (Some(3), "got it\n", "no\n"));
        let error = run("sleep", &["60"], "", Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    }
}
