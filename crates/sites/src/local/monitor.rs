//! The conversation with a running QEMU: QMP over the Unix socket `qmp.sock` in the machine's directory.
//!
//! QEMU talks to one client at a time, and others wait: so a connection is made for a few commands and closed again. Everything has a time
//! limit: a QEMU that is stopped or stuck in a dead file system accepts connections and never answers.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use qapi::{Command, ExecuteError, Qmp, Stream, qmp};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

/// The socket's name.
pub(super) const SOCKET: &str = "qmp.sock";
/// Longest time for one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
const LINES_BEFORE_GREETING_MAX: usize = 1000;
const LINE_LEN_MAX: u64 = 1 << 16;
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// A connection to the QEMU of one machine.
#[derive(Debug)]
pub(super) struct Monitor {
    qmp: Connection,
}

struct Connection(Qmp<Stream<BufReader<UnixStream>, UnixStream>>);

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connection")
    }
}

impl Monitor {
    /// Connects to the QEMU that listens in `directory`, and makes sure that it runs this machine.
    ///
    /// # Errors
    /// `ConnectionRefused`, `NotFound`: nobody listens; `TimedOut`; `InvalidData`: it is another machine's.
    pub(super) fn connect(directory: &Path, id: &str, uuid: &str, limit: Duration) -> io::Result<Self> {
        let stream = connect(directory, limit)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        stream.set_write_timeout(Some(ANSWER_LIMIT))?;
        let mut qmp = Qmp::new(Stream::new(BufReader::new(stream.try_clone()?), stream));
        // By hand: the library takes an event, which may come first, or the end of the stream for a bug, and panics.
        read_greeting(qmp.inner_mut())?;
        qmp.execute(&qmp::qmp_capabilities { enable: None }).map_err(into_io)?;
        let mut monitor = Self { qmp: Connection(qmp) };
        let found_uuid = monitor.execute(&qmp::query_uuid {})?.UUID;
        let found_name = monitor.execute(&qmp::query_name {})?.name.unwrap_or_default();
        if found_uuid.eq_ignore_ascii_case(uuid) && found_name == id {
            return Ok(monitor);
        }
        let message =
            format!("the QEMU that listens in {} runs {found_name} ({found_uuid})", directory.display());
        Err(io::Error::new(ErrorKind::InvalidData, message))
    }

    pub(super) fn execute<C: Command>(&mut self, command: &C) -> io::Result<C::Ok> {
        self.qmp.0.execute(command).map_err(into_io)
    }

    /// Whether the guest's processors run, and in which state they are.
    pub(super) fn state(&mut self) -> io::Result<qmp::RunState> {
        Ok(self.execute(&qmp::query_status {})?.status)
    }

    /// The names of all nodes that are open.
    pub(super) fn nodes(&mut self) -> io::Result<BTreeSet<String>> {
        Ok(self.execute(&QueryNodes { flat: true })?.into_iter().filter_map(|node| node.node_name).collect())
    }

    /// A job, if QEMU still knows it.
    pub(super) fn job(&mut self, id: &str) -> io::Result<Option<qmp::JobInfo>> {
        Ok(self.execute(&qmp::query_jobs {})?.into_iter().find(|job| job.id == id))
    }
}

/// Reads up to QEMU's greeting. Events that were held back for the next client may stand before it.
fn read_greeting(stream: &mut impl BufRead) -> io::Result<()> {
    for _ in 0..LINES_BEFORE_GREETING_MAX {
        let mut line = String::new();
        if stream.take(LINE_LEN_MAX).read_line(&mut line).map_err(in_time)? == 0 {
            return Err(io::Error::new(ErrorKind::ConnectionReset, "QEMU closed the connection"));
        }
        if line.starts_with("{\"QMP\"") {
            return Ok(());
        }
    }
    Err(io::Error::new(ErrorKind::InvalidData, "what listens there does not greet as QEMU does"))
}

/// `query-named-block-nodes`, of which only what all versions have in common is read.
#[derive(Debug, Serialize)]
struct QueryNodes {
    flat: bool,
}

#[derive(Debug, Deserialize)]
struct NodeNow {
    #[serde(rename = "node-name")]
    node_name: Option<String>,
}

impl Command for QueryNodes {
    type Ok = Vec<NodeNow>;
    const NAME: &'static str = "query-named-block-nodes";
    const ALLOW_OOB: bool = false;
}

/// Connects within `limit`. The directory is reached by its descriptor, because a socket's address holds 107 bytes only.
fn connect(directory: &Path, limit: Duration) -> io::Result<UnixStream> {
    let directory = File::open(directory)?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd()))?;
    let started = Instant::now();
    loop {
        // Not blocking: while another client is served, the queue of those who wait may be full, and `connect` would wait without limit.
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        match rustix::net::connect(&socket, &address) {
            Ok(()) => {
                let stream = UnixStream::from(socket);
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(rustix::io::Errno::AGAIN) if started.elapsed() < limit => thread::sleep(RETRY_INTERVAL),
            Err(rustix::io::Errno::AGAIN) => return Err(ErrorKind::TimedOut.into()),
            Err(error) => return Err(error.into()),
        }
    }
}

fn into_io(error: ExecuteError) -> io::Error {
    match error {
        ExecuteError::Qapi(refusal) => io::Error::other(format!("QEMU says: {}", refusal.desc)),
        ExecuteError::Io(error) => in_time(error),
    }
}

/// A read that came to its time limit has the kind of one that would block.
fn in_time(error: io::Error) -> io::Error {
    if error.kind() != ErrorKind::WouldBlock {
        return error;
    }
    let message = format!("QEMU does not answer within {} s", ANSWER_LIMIT.as_secs());
    io::Error::new(ErrorKind::TimedOut, message)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixListener;

    use super::*;

    const LIMIT: Duration = Duration::from_millis(200);

    fn kind(directory: &Path) -> ErrorKind {
        Monitor::connect(directory, "web01", "u", LIMIT).unwrap_err().kind()
    }

    #[test]
    fn a_stale_socket_is_no_machine() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(kind(directory.path()), ErrorKind::NotFound);
        drop(UnixListener::bind(directory.path().join(SOCKET)).unwrap());
        assert_eq!(kind(directory.path()), ErrorKind::ConnectionRefused);
    }

    /// Answers one client with `lines`, one after the greeting and each command.
    fn serve(directory: &Path, lines: &'static [&'static str]) -> thread::JoinHandle<()> {
        let listener = UnixListener::bind(directory.join(SOCKET)).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut commands = BufReader::new(stream.try_clone().unwrap()).lines();
            for line in lines {
                writeln!(stream, "{line}").unwrap();
                let _ = commands.next();
            }
        })
    }

    const GREETING: &str =
        r#"{"QMP":{"version":{"qemu":{"micro":0,"minor":2,"major":7},"package":""},"capabilities":[]}}"#;

    #[test]
    fn another_machines_qemu_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let answers = &[
            GREETING,
            r#"{"return":{}}"#,
            r#"{"return":{"UUID":"other"}}"#,
            r#"{"return":{"name":"db01"}}"#,
        ];
        let server = serve(directory.path(), answers);
        let error = Monitor::connect(directory.path(), "web01", "u", LIMIT).unwrap_err();
        server.join().unwrap();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert!(error.to_string().contains("runs db01 (other)"), "{error}");
    }

    #[test]
    fn a_qemu_that_dies_in_place_of_its_greeting_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let server = serve(directory.path(), &[]);
        assert_eq!(kind(directory.path()), ErrorKind::ConnectionReset);
        server.join().unwrap();
    }
}
