//! The user's commands around a consistent moment, which make applications write out what they hold.
//!
//! Each has a time limit; at the limit its whole process group is killed. It gets an environment of its own (`PATH`
//! and `SWITCHBACK_PHASE`), so that nothing of the agent's gets out, and the first of what it prints is kept for the
//! message.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::freeze::timespec;

/// What is kept of a command's output.
const OUTPUT_BYTES_MAX: usize = 16 << 10;
/// How long a killed command is waited for.
const KILL_GRACE: Duration = Duration::from_secs(2);
/// Where commands of commands are looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command, without a shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// How long it may take.
    pub limit: Duration,
}

/// The commands of a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scripts {
    /// Before the file systems are frozen: quiesce the applications.
    pub pre_freeze: Option<Script>,
    /// While they are frozen; must not write to them, which would stop it until they are thawed.
    pub while_frozen: Option<Script>,
    /// After they are thawed; runs whenever `pre_freeze` was started, whatever happened between.
    pub post_thaw: Option<Script>,
}

/// When a script runs; as it is told in `SWITCHBACK_PHASE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// `pre-freeze`
    PreFreeze,
    /// `while-frozen`
    WhileFrozen,
    /// `post-thaw`
    PostThaw,
    /// `on-request`: not around a moment, but because a recovery plan says so.
    OnRequest,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PreFreeze => "pre-freeze",
            Self::WhileFrozen => "while-frozen",
            Self::PostThaw => "post-thaw",
            Self::OnRequest => "on-request",
        })
    }
}

/// Why a script did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ScriptError {
    /// It does not start.
    #[error("the {phase} script {program} cannot be started: does it exist, is it executable?")]
    Start {
        /// When.
        phase: Phase,
        /// Which.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It said that it failed.
    #[error("the {phase} script {program} failed ({status}); it said: {output}")]
    Failed {
        /// When.
        phase: Phase,
        /// Which.
        program: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// The beginning of what it printed.
        output: String,
    },
    /// It was killed.
    #[error("the {phase} script {program} took longer than {limit:?} and was killed; it said: {output}")]
    TimedOut {
        /// When.
        phase: Phase,
        /// Which.
        program: PathBuf,
        /// How long it might take.
        limit: Duration,
        /// The beginning of what it printed.
        output: String,
    },
}

/// Runs a script to its end; the answer is the beginning of what it printed.
///
/// # Errors
/// When it fails or takes too long; it does not run any more then, unless it hangs in the kernel.
pub fn run(script: &Script, phase: Phase) -> Result<String, ScriptError> {
    let program = script.program.clone();
    let deadline = Instant::now() + script.limit;
    let started = start(script, phase);
    let mut running =
        started.map_err(|source| ScriptError::Start { phase, program: program.clone(), source })?;
    let ended = running.until_exit(deadline);
    let output = String::from_utf8_lossy(&running.output).trim().to_owned();
    match ended {
        Ok(true) => match running.child.wait() {
            Ok(status) if status.success() => Ok(output),
            Ok(status) => Err(ScriptError::Failed { phase, program, status, output }),
            Err(source) => Err(ScriptError::Start { phase, program, source }),
        },
        Ok(false) => {
            running.kill(phase);
            Err(ScriptError::TimedOut { phase, program, limit: script.limit, output })
        }
        Err(source) => {
            running.kill(phase);
            Err(ScriptError::Start { phase, program, source })
        }
    }
}

struct Running {
    child: Child,
    /// Readable when the child has ended.
    ended: OwnedFd,
    /// Its standard output and error.
    printed: Option<OwnedFd>,
    output: Vec<u8>,
}

fn start(script: &Script, phase: Phase) -> io::Result<Running> {
    let (printed, into) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&printed, true)?;
    let child = Command::new(&script.program)
        .args(&script.arguments)
        .env_clear()
        .env("PATH", PATH)
        .env("SWITCHBACK_PHASE", phase.to_string())
        .stdin(Stdio::null())
        .stdout(into.try_clone()?)
        .stderr(into)
        .process_group(0)
        .spawn()?;
    match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
        Ok(ended) => Ok(Running { child, ended, printed: Some(printed), output: Vec::new() }),
        Err(errno) => {
            let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
            Err(errno.into())
        }
    }
}

impl Running {
    /// `false` at the deadline. What it printed before its end is read; its descendants may keep the pipe open.
    fn until_exit(&mut self, deadline: Instant) -> io::Result<bool> {
        loop {
            let mut fds = vec![PollFd::new(&self.ended, PollFlags::IN)];
            fds.extend(self.printed.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
            let left = deadline.saturating_duration_since(Instant::now());
            match poll(&mut fds, Some(&timespec(left))) {
                Ok(0) => return Ok(false),
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            let ended = !fds[0].revents().is_empty();
            self.read_printed();
            if ended {
                return Ok(true);
            }
            // A flood of output must not hide the deadline.
            if left.is_zero() {
                return Ok(false);
            }
        }
    }

    /// At most a pipe's contents at a time.
    fn read_printed(&mut self) {
        let mut chunk = [0; 4096];
        for _ in 0..16 {
            let Some(pipe) = &self.printed else { return };
            match rustix::io::read(pipe.as_fd(), &mut chunk[..]) {
                Ok(0) => self.printed = None,
                Ok(len) => {
                    let room = OUTPUT_BYTES_MAX.saturating_sub(self.output.len()).min(len);
                    self.output.extend_from_slice(&chunk[..room]);
                }
                Err(_) => return,
            }
        }
    }

    /// Kills the process group. The child is waited for shortly, but not while file systems are frozen: if it hangs in a
    /// write to one, it cannot end before they are thawed.
    fn kill(mut self, phase: Phase) {
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let grace = if phase == Phase::WhileFrozen { Duration::ZERO } else { KILL_GRACE };
        let until = Instant::now() + grace;
        if !matches!(self.until_exit(until), Ok(true)) {
            // Reaped whenever it ends.
            let mut child = self.child;
            std::thread::spawn(move || child.wait());
            return;
        }
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::{Duration, Instant};

    use super::{OUTPUT_BYTES_MAX, Phase, Script, ScriptError, run};

    fn sh(text: &str, limit: Duration) -> Script {
        Script { program: "/bin/sh".into(), arguments: vec!["-c".into(), text.into()], limit }
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn tells_the_phase_and_nothing_of_the_agents_environment() {
        let output = run(&sh("echo $SWITCHBACK_PHASE; echo err >&2; env | wc -l", LONG), Phase::PreFreeze);
        let output = output.unwrap();
        assert!(output.starts_with("pre-freeze\nerr"), "{output}");
        assert!(!output.contains("CARGO"), "{output}");
        let env = run(&sh("env", LONG), Phase::PostThaw).unwrap();
        assert!(!env.contains("CARGO"), "{env}");
    }

    #[test]
    fn a_failure_says_what_was_printed_and_output_is_bounded() {
        let error = run(&sh("echo no database; exit 3", LONG), Phase::PreFreeze).unwrap_err();
        assert!(matches!(&error, ScriptError::Failed { output, .. } if output == "no database"), "{error}");
        let much = run(&sh("yes | head -c 3000000", LONG), Phase::PreFreeze).unwrap();
        assert!(much.len() <= OUTPUT_BYTES_MAX);
        let none = Script { program: "/does/not/exist".into(), arguments: vec![], limit: LONG };
        assert!(matches!(run(&none, Phase::PostThaw), Err(ScriptError::Start { .. })));
    }

    #[test]
    fn at_the_limit_the_whole_process_group_is_killed() {
        let text = "sleep 1000 & echo $!; echo $$; wait";
        let error = run(&sh(text, Duration::from_millis(300)), Phase::PreFreeze).unwrap_err();
        let ScriptError::TimedOut { output, .. } = error else { panic!("{error}") };
        let pids: Vec<_> = output.lines().collect();
        assert_eq!(pids.len(), 2, "{output}");
        let begun = Instant::now();
        for pid in pids {
            // The grandchild is reaped by init, or stays a zombie where there is none.
            let dead = |state: String| state.contains("State:\tZ") || state.contains("State:\tX");
            let gone =
                || std::fs::read_to_string(Path::new("/proc").join(pid).join("status")).map_or(true, dead);
            while !gone() {
                assert!(begun.elapsed() < LONG, "{pid} is alive");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    #[test]
    fn a_background_process_that_keeps_the_output_open_does_not_hold_up() {
        let script = sh("sleep 1000 & echo $!", LONG);
        let pid = run(&script, Phase::PreFreeze).unwrap();
        let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
}
