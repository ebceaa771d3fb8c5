//! Processes under measurement: their CPU seconds, what they read, when each line of their output came; and the janitor, who cleans up
//! even when this program is killed.
//!
//! CPU time is read from `/proc/PID/stat` of a process that has ended but has not been waited for: until then the kernel
//! keeps its sums, those of children it waited for included. For processes that live longer than a measurement it is the
//! difference between two readings, living children included.

use std::cell::RefCell;
use std::fmt::Display;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

/// `USER_HZ`: the unit of times in `/proc/PID/stat`, the same on every Linux architecture in use.
const TICKS_PER_S: f64 = 100.0;
/// How often something that is awaited is looked at.
const POLL: Duration = Duration::from_millis(1);

/// Reads what is to be undone until its input ends, which it does however this program ends; then undoes it, last things first.
const JANITOR: &str = r#"
trap '' INT TERM HUP
pids='' undo=''
while read -r kind what; do
    case $kind in
        pid) pids="$pids $what" ;;
        gone) pids=$(for pid in $pids; do [ "$pid" = "$what" ] || printf ' %s' "$pid"; done) ;;
        *) undo="$kind $what
$undo" ;;
    esac
done
for pid in $pids; do kill -TERM "$pid"; done
for pid in $pids; do
    for _ in $(seq 50); do kill -0 "$pid" || break; sleep 0.1; done
    kill -KILL "$pid"
done
printf '%s' "$undo" | while read -r kind what; do
    case $kind in
        mount) mountpoint -q "$what" && umount "$what" ;;
        loop) losetup -d "$what" ;;
        directory) rm -rf "$what" ;;
    esac
done
"#;

/// Undoes what was done to the machine. Cheap to clone; the last clone to go waits until all is undone.
#[derive(Clone)]
pub(super) struct Janitor(Rc<JanitorProcess>);

struct JanitorProcess {
    child: RefCell<Child>,
    input: RefCell<Option<ChildStdin>>,
}

impl Janitor {
    pub(super) fn start() -> anyhow::Result<Self> {
        let mut command = Command::new("sh");
        command.args(["-c", JANITOR]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().context("starting sh for the janitor")?;
        let input = child.stdin.take();
        Ok(Self(Rc::new(JanitorProcess { child: RefCell::new(child), input: RefCell::new(input) })))
    }

    /// To be undone at the end: `mount PATH`, `loop DEVICE`, `directory PATH`.
    pub(super) fn undo(&self, kind: &str, what: impl Display) -> anyhow::Result<()> {
        let mut input = self.0.input.borrow_mut();
        let input = input.as_mut().context("the janitor has been sent home")?;
        writeln!(input, "{kind} {what}").context("telling the janitor")
    }
}

impl Drop for JanitorProcess {
    fn drop(&mut self) {
        self.input.borrow_mut().take();
        self.child.borrow_mut().wait().ok();
    }
}

/// A child that is ended when this is dropped.
pub(super) struct Process {
    child: Child,
    name: String,
    janitor: Janitor,
}

/// What a finished process took.
pub(super) struct Measured {
    /// From its start to its end.
    pub(super) wall_s: f64,
    /// User and system time, with all children that it waited for.
    pub(super) cpu_s: f64,
    /// Its standard output, each line with the time it came.
    pub(super) lines: Vec<(Instant, String)>,
    /// When it was started.
    pub(super) started: Instant,
}

impl Process {
    pub(super) fn start(janitor: &Janitor, command: &mut Command) -> anyhow::Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command.stdin(Stdio::null()).spawn().with_context(|| format!("starting {name}"))?;
        janitor.undo("pid", child.id())?;
        Ok(Self { child, name, janitor: janitor.clone() })
    }

    /// CPU seconds so far, of it and its descendants.
    pub(super) fn cpu_s(&self) -> anyhow::Result<f64> {
        let mut family = vec![self.child.id()];
        let mut sum = 0.0;
        let everyone = processes()?;
        while let Some(pid) = family.pop() {
            sum += stat(pid)?.cpu_s;
            family.extend(everyone.iter().filter(|(_, parent)| *parent == pid).map(|(pid, _)| *pid));
        }
        Ok(sum)
    }

    /// Bytes that it caused to be read from disks.
    pub(super) fn read_bytes(&self) -> anyhow::Result<u64> {
        let io = fs::read_to_string(format!("/proc/{}/io", self.child.id()))?;
        let value = io.lines().find_map(|line| line.strip_prefix("read_bytes: "));
        Ok(value.context("no read_bytes in /proc/PID/io")?.parse()?)
    }

    /// The most memory that it has had so far, in bytes.
    pub(super) fn peak_bytes(&self) -> anyhow::Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let value = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix("kB"));
        Ok(value.context("no VmHWM in /proc/PID/status")?.trim().parse::<f64>()? * 1024.0)
    }

    /// Asks it to end (SIGTERM) and waits for that, with its CPU time.
    pub(super) fn stop(mut self) -> anyhow::Result<f64> {
        let pid = self.child.id();
        Command::new("kill").args(["-TERM", &pid.to_string()]).status().context("running kill")?;
        self.end().map(|(cpu_s, _)| cpu_s)
    }

    /// Its end: CPU seconds, and whether it succeeded.
    fn end(&mut self) -> anyhow::Result<(f64, bool)> {
        let pid = self.child.id();
        let cpu_s = loop {
            let stat = stat(pid)?;
            if stat.state == 'Z' {
                break stat.cpu_s;
            }
            std::thread::sleep(POLL);
        };
        Ok((cpu_s, self.child.wait()?.success()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // After `wait` this does nothing: the child is remembered as gone.
        self.child.kill().ok();
        self.child.wait().ok();
        self.janitor.undo("gone", self.child.id()).ok();
    }
}

/// Runs a command to its successful end. `meanwhile` sees each line of its output as it comes.
pub(super) fn measure(
    janitor: &Janitor,
    command: &mut Command,
    mut meanwhile: impl FnMut(&Process, &str) -> anyhow::Result<()>,
) -> anyhow::Result<Measured> {
    let started = Instant::now();
    let mut process = Process::start(janitor, command.stdout(Stdio::piped()))?;
    let output = process.child.stdout.take().context("its output was to be a pipe")?;
    let mut lines = Vec::new();
    for line in BufReader::new(output).lines() {
        let line = line?;
        let came = Instant::now();
        meanwhile(&process, &line)?;
        lines.push((came, line));
    }
    let (cpu_s, success) = process.end()?;
    let wall_s = started.elapsed().as_secs_f64();
    ensure!(success, "{} failed: {command:?}", process.name);
    Ok(Measured { wall_s, cpu_s, lines, started })
}

/// Runs a command that nobody measures, and gives its output.
pub(super) fn run(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.with_context(|| format!("running {program}"))?;
    if !output.status.success() {
        bail!("{program} {} failed: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Waits until `probe` gives something.
pub(super) fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> Option<T>,
) -> anyhow::Result<T> {
    let until = Instant::now() + limit;
    loop {
        if let Some(found) = probe() {
            return Ok(found);
        }
        ensure!(Instant::now() < until, "waited {limit:?} in vain for {what}");
        std::thread::sleep(POLL);
    }
}

/// Whether a program can be found.
pub(super) fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

/// Makes the next reads come from disks.
pub(super) fn drop_caches() -> anyhow::Result<()> {
    run("sync", &[])?;
    fs::write("/proc/sys/vm/drop_caches", "3").context("dropping the page cache (this needs root)")
}

/// Bytes received on the loopback interface: what both ends of all connections here sent.
pub(super) fn loopback_bytes() -> anyhow::Result<u64> {
    let table = fs::read_to_string("/proc/self/net/dev")?;
    let row = table.lines().find_map(|line| line.trim_start().strip_prefix("lo:"));
    let first = row.and_then(|row| row.split_whitespace().next());
    Ok(first.context("no loopback interface")?.parse()?)
}

struct Stat {
    state: char,
    parent: u32,
    cpu_s: f64,
}

fn stat(pid: u32) -> anyhow::Result<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name before it is in parentheses and may hold any character.
    let (_, rest) = text.rsplit_once(')').context("an unknown format of /proc/PID/stat")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let field = |number: usize| fields.get(number).copied().context("a short /proc/PID/stat");
    let mut ticks = 0.0;
    // utime, stime, cutime, cstime.
    for number in 11..=14 {
        ticks += field(number)?.parse::<f64>()?;
    }
    let state = field(0)?.chars().next().context("no state")?;
    Ok(Stat { state, parent: field(1)?.parse()?, cpu_s: ticks / TICKS_PER_S })
}

/// All processes with their parents.
fn processes() -> anyhow::Result<Vec<(u32, u32)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        // One that ended meanwhile is nobody's child any more.
        if let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok())
            && let Ok(stat) = stat(pid)
        {
            found.push((pid, stat.parent));
        }
    }
    Ok(found)
}
