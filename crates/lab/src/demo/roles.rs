//! The roles' processes: each started with a log of its own, killed without warning, started again, and ended whatever happens.
//!
//! No process outlives its [`Roles`], unless it is to be left running.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Longest time that a process may take to end when it is asked to.
const END_LIMIT: Duration = Duration::from_secs(8);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How much of a log is shown when its process has ended by itself.
const LOG_LEN_SHOWN: usize = 4000;

/// A process of a role, as it is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    /// What it is called here: `process-server-home`.
    pub name: String,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// The port on the loopback at which it serves its metrics.
    pub metrics_port: u16,
    /// Variables of its environment.
    pub environment: Vec<(String, String)>,
}

/// Why a process is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum RolesError {
    /// It could not be started.
    #[error("{name} could not be started")]
    Start {
        /// Which.
        name: String,
        /// What the system says.
        source: io::Error,
    },
    /// It could not be killed.
    #[error("{name} could not be killed")]
    Kill {
        /// Which.
        name: String,
        /// What the system says.
        source: io::Error,
    },
    /// There is none of that name.
    #[error("there is no process called {name}")]
    Unknown {
        /// Which.
        name: String,
    },
    /// It has ended by itself.
    #[error("{name} has ended by itself ({status}); the end of its log:\n{log}")]
    Ended {
        /// Which.
        name: String,
        /// How.
        status: String,
        /// What it said last.
        log: String,
    },
}

#[derive(Debug)]
struct Process {
    role: Role,
    /// `None` after it was killed.
    child: Option<Child>,
}

/// The processes.
#[derive(Debug)]
pub struct Roles {
    program: PathBuf,
    logs: PathBuf,
    processes: BTreeMap<String, Process>,
}

impl Roles {
    /// Processes of `program`, whose logs go to `logs`.
    #[must_use]
    pub fn new(program: &Path, logs: &Path) -> Self {
        Self { program: program.to_owned(), logs: logs.to_owned(), processes: BTreeMap::new() }
    }

    /// Starts a process. One of the same name that runs is killed first.
    ///
    /// # Errors
    /// [`RolesError::Start`].
    pub fn start(&mut self, role: Role) -> Result<(), RolesError> {
        if self.processes.contains_key(&role.name) {
            self.kill(&role.name)?;
        }
        let child =
            self.spawn(&role).map_err(|source| RolesError::Start { name: role.name.clone(), source })?;
        self.processes.insert(role.name.clone(), Process { role, child: Some(child) });
        Ok(())
    }

    fn spawn(&self, role: &Role) -> io::Result<Child> {
        let log = File::options().create(true).append(true).open(self.log(&role.name))?;
        Command::new(&self.program)
            .args(&role.arguments)
            .arg(format!("--metrics=127.0.0.1:{}", role.metrics_port))
            .envs(role.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
    }

    /// Where a process's log is.
    #[must_use]
    pub fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }

    /// Kills a process (SIGKILL): it gets no chance to do anything more.
    ///
    /// # Errors
    /// [`RolesError`].
    pub fn kill(&mut self, name: &str) -> Result<(), RolesError> {
        let Some(child) = self.process(name)?.child.take() else { return Ok(()) };
        let mut child = child;
        child
            .kill()
            .and_then(|()| child.wait())
            .map_err(|source| RolesError::Kill { name: name.to_owned(), source })?;
        Ok(())
    }

    /// Starts a process that was killed, as it was.
    ///
    /// # Errors
    /// [`RolesError`].
    pub fn restart(&mut self, name: &str) -> Result<(), RolesError> {
        let role = self.process(name)?.role.clone();
        self.start(role)
    }

    /// The address of a process's metrics.
    ///
    /// # Errors
    /// [`RolesError::Unknown`].
    pub fn metrics(&self, name: &str) -> Result<String, RolesError> {
        let process = self.processes.get(name);
        let process = process.ok_or_else(|| RolesError::Unknown { name: name.to_owned() })?;
        Ok(format!("http://127.0.0.1:{}/metrics", process.role.metrics_port))
    }

    fn process(&mut self, name: &str) -> Result<&mut Process, RolesError> {
        self.processes.get_mut(name).ok_or_else(|| RolesError::Unknown { name: name.to_owned() })
    }

    /// Checks that those that were not killed run.
    ///
    /// # Errors
    /// [`RolesError::Ended`]: the first that does not.
    pub fn check(&mut self) -> Result<(), RolesError> {
        for (name, process) in &mut self.processes {
            let ended = process.child.as_mut().and_then(|child| child.try_wait().transpose());
            let Some(ended) = ended else { continue };
            let status = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
            let log = std::fs::read(self.logs.join(format!("{name}.log"))).unwrap_or_default();
            let log =
                String::from_utf8_lossy(&log[log.len().saturating_sub(LOG_LEN_SHOWN)..]).trim().to_owned();
            return Err(RolesError::Ended { name: name.clone(), status, log });
        }
        Ok(())
    }

    /// Name and process id of those that run.
    #[must_use]
    pub fn running(&self) -> Vec<(String, u32)> {
        let running =
            |(name, process): (&String, &Process)| Some((name.clone(), process.child.as_ref()?.id()));
        self.processes.iter().filter_map(running).collect()
    }

    /// Lets the processes go on by themselves.
    pub fn leave_running(&mut self) {
        self.processes.clear();
    }
}

impl Drop for Roles {
    /// Asks all to end, together; kills those that do not in time.
    fn drop(&mut self) {
        let mut children: Vec<Child> =
            self.processes.values_mut().filter_map(|process| process.child.take()).collect();
        for child in &children {
            let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
            // One that has ended already is as it should be.
            let _ = pid.map(|pid| kill_process(pid, Signal::TERM));
        }
        let started = Instant::now();
        while started.elapsed() < END_LIMIT
            && children.iter_mut().any(|child| matches!(child.try_wait(), Ok(None)))
        {
            std::thread::sleep(POLL_INTERVAL);
        }
        for child in &mut children {
            let _ = child.kill().and_then(|()| child.wait());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn role(name: &str, script: &str) -> Role {
        Role {
            name: name.to_owned(),
            arguments: vec!["-c".to_owned(), script.to_owned()],
            metrics_port: 1,
            environment: vec![("SAYS".to_owned(), "hello".to_owned())],
        }
    }

    fn eventually(mut holds: impl FnMut() -> bool) {
        let started = Instant::now();
        while !holds() {
            assert!(started.elapsed() < LIMIT);
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    fn is_alive(pid: u32) -> bool {
        Path::new(&format!("/proc/{pid}")).exists()
    }

    #[test]
    fn a_killed_process_is_started_again_as_it_was() {
        let logs = tempfile::tempdir().unwrap();
        let mut roles = Roles::new(Path::new("/bin/sh"), logs.path());
        roles.start(role("one", "echo $SAYS; exec sleep 60")).unwrap();
        let log = roles.log("one");
        let said = |times: usize| std::fs::read_to_string(&log).unwrap().matches("hello").count() == times;
        eventually(|| said(1));
        let first = roles.running()[0].1;
        roles.kill("one").unwrap();
        assert!(!is_alive(first) && roles.running().is_empty());
        roles.check().unwrap();
        roles.restart("one").unwrap();
        eventually(|| said(2));
        assert!(matches!(roles.kill("two"), Err(RolesError::Unknown { .. })));
    }

    #[test]
    fn one_that_ends_by_itself_is_noticed_with_its_last_words() {
        let logs = tempfile::tempdir().unwrap();
        let mut roles = Roles::new(Path::new("/bin/sh"), logs.path());
        roles.start(role("one", "echo last words >&2; exit 3")).unwrap();
        eventually(|| roles.check().is_err());
        assert!(roles.check().unwrap_err().to_string().contains("last words"));
    }

    #[test]
    fn no_process_outlives_the_roles() {
        let logs = tempfile::tempdir().unwrap();
        let mut roles = Roles::new(Path::new("/bin/sh"), logs.path());
        roles.start(role("one", "exec sleep 60")).unwrap();
        let pid = roles.running()[0].1;
        assert!(is_alive(pid));
        drop(roles);
        assert!(!is_alive(pid));
    }
}
