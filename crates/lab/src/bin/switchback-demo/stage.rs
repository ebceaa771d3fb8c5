//! The processes of the demo: started, watched, killed, and ended all together.
//!
//! Each has a log. None outlives the demo, also if it dies (the kernel then kills them), unless it is to be kept. Machines are QEMU processes of
//! their sites and live on their own; they are switched off at the end. Every wait has a limit, and ends when the user interrupts.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use switchback_sites::{LocalSite, Site};

/// How long a role may take until it listens. On a busy machine even that takes its time.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// How long a role may take to end.
const END_LIMIT: Duration = Duration::from_secs(5);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
const LOG_LINES_SHOWN: usize = 15;

/// A role's command line.
#[derive(Clone, Debug)]
pub(crate) struct Role {
    /// What it is called here, and its log.
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
    /// It is ready when this port is open.
    pub(crate) listens: SocketAddr,
}

#[derive(Debug)]
struct Running {
    role: Role,
    child: Child,
}

/// Where the demo takes place.
#[derive(Debug)]
pub(crate) struct Stage {
    directory: PathBuf,
    running: Vec<Running>,
    sites: Vec<PathBuf>,
    keep: bool,
    keep_files: bool,
    interrupted: Arc<AtomicBool>,
    started: Instant,
}

impl Stage {
    /// A new directory below `parent`.
    pub(crate) fn new(parent: &Path, keep: bool) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("switchback-demo-").tempdir_in(parent);
        let directory =
            directory.with_context(|| format!("making a directory in {}", parent.display()))?.keep();
        fs::create_dir(directory.join("logs"))?;
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            // The second one ends the demo at once.
            signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&interrupted))?;
            signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
        }
        let (running, sites, started) = (Vec::new(), Vec::new(), Instant::now());
        Ok(Self { directory, running, sites, keep, keep_files: keep, interrupted, started })
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.directory.join("logs").join(format!("{name}.log"))
    }

    /// Something went wrong: what is needed to find out why stays.
    pub(crate) fn keep_logs(&mut self) {
        self.keep_files = true;
        println!("\nLogs, sites and disks are kept in {}", self.directory.display());
    }

    /// The machines of this site are switched off at the end.
    pub(crate) fn add_site(&mut self, directory: &Path) {
        self.sites.push(directory.to_owned());
    }

    /// Announces what comes next.
    pub(crate) fn say(&self, text: &str) {
        println!("\n\x1b[1m[{:3.0} s] {text}\x1b[0m", self.started.elapsed().as_secs_f32());
    }

    /// Starts a role and waits until it listens.
    pub(crate) fn start(&mut self, role: &Role) -> anyhow::Result<()> {
        let log = self.log(&role.name);
        let output = File::options().create(true).append(true).open(&log)?;
        // With a demo that is killed, its roles are killed: by util-linux's setpriv, because it needs a call in the new process.
        let mut command = if self.keep {
            Command::new(&role.program)
        } else {
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "KILL", "--"]).arg(&role.program);
            command
        };
        command.args(&role.arguments).envs(role.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = command.spawn().with_context(|| format!("starting {}", role.name))?;
        println!("    {} runs as process {}", role.name, child.id());
        self.running.push(Running { role: role.clone(), child });
        let listens = role.listens;
        let name = role.name.clone();
        self.wait(&format!("{name} listens at {listens}"), READY_LIMIT, |stage| {
            stage.check_alive(&name)?;
            Ok(TcpStream::connect_timeout(&listens, Duration::from_secs(1)).is_ok().then_some(()))
        })
    }

    fn check_alive(&mut self, name: &str) -> anyhow::Result<()> {
        let running = self.running.iter_mut().find(|running| running.role.name == name);
        let Some(running) = running else { bail!("{name} is not running") };
        if let Some(status) = running.child.try_wait()? {
            bail!("{name} has ended ({status}); the end of its log:\n{}", last_lines(&self.log(name)));
        }
        Ok(())
    }

    /// `kill -9`, and waits until it is gone.
    pub(crate) fn kill(&mut self, name: &str) -> anyhow::Result<()> {
        let place = self.running.iter().position(|running| running.role.name == name);
        let mut running = self.running.remove(place.with_context(|| format!("{name} is not running"))?);
        running.child.kill()?;
        running.child.wait()?;
        println!("    {name} is killed");
        Ok(())
    }

    /// Waits until `look` finds something.
    pub(crate) fn wait<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut look: impl FnMut(&mut Self) -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        let started = Instant::now();
        loop {
            if let Some(found) = look(self)? {
                return Ok(found);
            }
            self.check_interrupted()?;
            if started.elapsed() > limit {
                bail!("waited {} s in vain until {what}", limit.as_secs());
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Ends what the user does not want to see any more.
    pub(crate) fn check_interrupted(&self) -> anyhow::Result<()> {
        if self.interrupted.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        Ok(())
    }

    /// Processes and machines that are left running, for people.
    pub(crate) fn processes(&self) -> String {
        let ids = self.running.iter().map(|running| running.child.id().to_string());
        ids.collect::<Vec<_>>().join(" ")
    }

    fn end_processes(&mut self) {
        // The last one started first: nobody then complains about a peer that went before.
        for running in self.running.iter_mut().rev() {
            let _ = Command::new("kill").arg(running.child.id().to_string()).status();
            let started = Instant::now();
            while started.elapsed() < END_LIMIT && matches!(running.child.try_wait(), Ok(None)) {
                std::thread::sleep(POLL_INTERVAL);
            }
            // Both fail only when it is gone.
            let _ = running.child.kill();
            let _ = running.child.wait();
        }
        self.running.clear();
    }

    fn switch_machines_off(&self) {
        for directory in &self.sites {
            let Ok(site) = LocalSite::open(directory) else { continue };
            for machine in site.machines().unwrap_or_default() {
                if let Err(error) = site.power_off(&machine.id) {
                    eprintln!("demo: {error}; it may still run");
                }
            }
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        self.end_processes();
        self.switch_machines_off();
        if !self.keep_files
            && let Err(error) = fs::remove_dir_all(&self.directory)
        {
            eprintln!("demo: {} could not be removed: {error}", self.directory.display());
        }
    }
}

/// The end of a log.
pub(crate) fn last_lines(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
}
