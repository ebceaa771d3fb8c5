//! Exports of replicas that another process has open: asked for over a socket in the directory of the replicas.
//!
//! A replica is open in one process only. While `receive` has it, `switchback replica export` asks that process to mount the point: views and
//! cycles that are being applied go together there. The mount lives as long as the connection: a client that is killed leaves nothing
//! behind.
//!
//! ```text
//! client                                         the process that has the replicas
//!   {"replica":"web01","point":7,"at":"/mnt/p"} ──▶  view, mount
//!   ◀── {"mounted":{recovery point}}  or  {"refused":"why"}
//!   … closes the connection ───────────────────────▶ unmount
//! ```
//! One line of JSON each way, at most [`LINE_LEN_MAX`] bytes. The socket has mode 0600, and who connects must be root or the same user.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use switchback_model::{RecoveryPoint, ReplicaName, Seq};
use switchback_replica::ReadPoint;

use crate::export::Export;
use crate::host::Host;

/// Bytes of a line at most.
const LINE_LEN_MAX: u64 = 64 << 10;
/// Exports at a time.
const EXPORTS_MAX: usize = 32;
/// How long a client may take to say what it wants, and the other end to mount it.
const TALK_MAX: Duration = Duration::from_secs(30);
const SOCKET: &str = "exports.sock";

/// What a client asks for.
#[derive(Debug, Serialize, Deserialize)]
struct Wanted {
    replica: ReplicaName,
    /// `None`: the newest.
    point: Option<Seq>,
    /// Where to mount it, an absolute path.
    at: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    Mounted(RecoveryPoint),
    Refused(String),
}

/// Serves exports of a host's replicas until dropped.
#[derive(Debug)]
pub struct Exports {
    path: PathBuf,
}

/// A path of any length, short enough for a socket's address (108 bytes, unix(7)).
fn short(directory: &std::fs::File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd()))
}

impl Exports {
    /// Listens in `root`, the host's directory of replicas.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn serve(host: Arc<Host>, root: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(root)?;
        let directory = std::fs::File::open(root)?;
        let path = root.join(SOCKET);
        // Of a process that was killed. One that lives keeps its replicas locked, so what it cannot serve any more is only exports.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(short(&directory))?;
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600))?;
        let running = Arc::new(AtomicUsize::new(0));
        std::thread::Builder::new().name("exports".into()).spawn(move || {
            for stream in listener.incoming().flatten() {
                let (host, running) = (Arc::clone(&host), Arc::clone(&running));
                if running.fetch_add(1, Ordering::Relaxed) >= EXPORTS_MAX {
                    running.fetch_sub(1, Ordering::Relaxed);
                    refuse(&stream, "too many exports at a time; end another one");
                    continue;
                }
                let serve = move || {
                    if let Err(error) = serve_one(&host, &stream) {
                        tracing::info!(%error, "an export's client has gone");
                    }
                    running.fetch_sub(1, Ordering::Relaxed);
                };
                if let Err(error) = std::thread::Builder::new().name("export".into()).spawn(serve) {
                    tracing::warn!(%error, "no thread for an export");
                }
            }
        })?;
        Ok(Self { path })
    }
}

impl Drop for Exports {
    fn drop(&mut self) {
        // The thread ends with the process; nobody finds it without the name.
        std::fs::remove_file(&self.path).ok();
    }
}

fn refuse(stream: &UnixStream, why: &str) {
    answer(stream, &Answer::Refused(why.into())).ok();
}

fn answer(mut stream: &UnixStream, answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_string(answer).expect("plain data becomes JSON");
    line.push('\n');
    stream.write_all(line.as_bytes())
}

fn serve_one(host: &Host, stream: &UnixStream) -> io::Result<()> {
    stream.set_read_timeout(Some(TALK_MAX))?;
    stream.set_write_timeout(Some(TALK_MAX))?;
    let peer = rustix::net::sockopt::socket_peercred(stream)?;
    if !peer.uid.is_root() && peer.uid != rustix::process::geteuid() {
        refuse(stream, "only root and the user who runs the receiver may export");
        return Ok(());
    }
    let mut line = String::new();
    let mut reader = BufReader::new(stream.take(LINE_LEN_MAX));
    reader.read_line(&mut line)?;
    let mounted = serde_json::from_str::<Wanted>(&line)
        .map_err(|error| format!("not understood: {error}"))
        .and_then(|wanted| mount(host, &wanted));
    match mounted {
        Err(why) => {
            refuse(stream, &why);
            Ok(())
        }
        Ok((point, _export)) => {
            answer(stream, &Answer::Mounted(point))?;
            // Until it closes the connection, or has died.
            stream.set_read_timeout(None)?;
            let mut rest = stream;
            rest.read(&mut [0; 1]).map(drop)
        }
    }
}

fn mount(host: &Host, wanted: &Wanted) -> Result<(RecoveryPoint, Export), String> {
    let hosted = host.hosted(&wanted.replica).map_err(|error| error.to_string())?;
    let newest = || hosted.replica.points().last().map(|point| point.seq);
    let seq = wanted.point.or_else(newest).ok_or("the replica has no recovery point yet")?;
    let view = Arc::new(hosted.replica.view(seq).map_err(|error| error.to_string())?);
    let point = view.point().clone();
    let export = Export::mount(view, &wanted.at).map_err(|error| {
        format!("mounting at {}: {error} (is FUSE there, /dev/fuse?)", wanted.at.display())
    })?;
    Ok((point, export))
}

/// An export by the process that has the replica; ends when dropped.
#[derive(Debug)]
pub struct RemoteExport {
    _stream: UnixStream,
    /// What is mounted.
    pub point: RecoveryPoint,
}

/// Asks the process that has the replica in `directory` open to mount a point at `at`; `None`: nobody serves exports there.
///
/// # Errors
/// What that process refuses, or when it does not answer.
pub fn export_by_owner(directory: &Path, point: Option<Seq>, at: &Path) -> io::Result<Option<RemoteExport>> {
    let directory = directory.canonicalize()?;
    let replica = directory.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
    let (Some(root), Some(replica)) = (directory.parent(), replica) else { return Ok(None) };
    let stream = match UnixStream::connect(short(&std::fs::File::open(root)?)) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        other => other?,
    };
    stream.set_read_timeout(Some(TALK_MAX))?;
    stream.set_write_timeout(Some(TALK_MAX))?;
    let wanted = Wanted { replica, point, at: at.canonicalize()? };
    let mut line = serde_json::to_string(&wanted).map_err(io::Error::other)?;
    line.push('\n');
    (&stream).write_all(line.as_bytes())?;
    let mut said = String::new();
    BufReader::new((&stream).take(LINE_LEN_MAX)).read_line(&mut said)?;
    match serde_json::from_str(&said) {
        Ok(Answer::Mounted(point)) => Ok(Some(RemoteExport { _stream: stream, point })),
        Ok(Answer::Refused(why)) => Err(io::Error::other(why)),
        Err(_) => Err(io::Error::other("the process that has the replica ended without an answer")),
    }
}
