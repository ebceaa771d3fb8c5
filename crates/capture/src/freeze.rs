//! Freezing file systems so that nothing can leave them frozen.
//!
//! A process that has frozen the file system it runs from may stop for ever at its next write: a log line, a page that
//! must be made room for. And a process that is killed while it holds a freeze leaves the machine dead. So
//! a *helper process* does it: the same program under a hidden subcommand that calls [`helper_main`]; small,
//! locked in memory, spared by the OOM killer, it writes nothing anywhere. It thaws everything when it is told to, when the
//! agent is gone (end of the socket, however the agent died), at its own deadline, and at SIGTERM. If the helper itself
//! dies, the agent thaws: it holds the same file descriptors. Both would have to be killed in one instant.
//!
//! # Protocol
//! A `SOCK_SEQPACKET` socket pair, the helper's end as its standard input: messages of 8 bytes that arrive whole or not
//! at all.
//!
//! ```text
//!  0 1 tag        agent → helper: 1 freeze (the file systems ride along as SCM_RIGHTS, in mount order), 2 thaw
//!                 helper → agent: 16 ready, 17 frozen, 18 failed (all thawed again), 19 thawed
//!  1 1 index      failed: which file system.  thawed: 1 if the deadline had thawed them before
//!  2 2 0
//!  4 4 number     freeze: milliseconds until the deadline.  failed, thawed: errno, 0 for none
//! ```
//!
//! Every freeze is answered by frozen or failed; every frozen is followed by one thaw, answered by thawed.
//! File systems are frozen in reverse order, so that one kept in a file of another comes before that.
#![expect(unsafe_code, reason = "the ioctls FIFREEZE and FITHAW, and a signalfd")]

mod process;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

use crate::devices::{MountedFileSystem, MountsError};

pub use process::helper_main;

/// File systems in one freeze; as many descriptors fit into one message (`SCM_MAX_FD` is 253).
pub const FILE_SYSTEMS_MAX: usize = 128;
/// How much longer than its own deadline the helper is waited for, before it is taken for dead.
const HELPER_GRACE: Duration = Duration::from_secs(5);

const FREEZE: u8 = 1;
const THAW: u8 = 2;
const READY: u8 = 16;
const FROZEN: u8 = 17;
const FAILED: u8 = 18;
const THAWED: u8 = 19;

/// `linux/fs.h`: `_IOWR('X', 119, int)` and `_IOWR('X', 120, int)`.
const FIFREEZE: libc::Ioctl = libc::_IOWR::<libc::c_int>(b'X' as u32, 119);
const FITHAW: libc::Ioctl = libc::_IOWR::<libc::c_int>(b'X' as u32, 120);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Message {
    tag: u8,
    index: u8,
    number: u32,
}

impl Message {
    const BYTES: usize = 8;

    fn encode(self) -> [u8; Self::BYTES] {
        let [a, b, c, d] = self.number.to_le_bytes();
        [self.tag, self.index, 0, 0, a, b, c, d]
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let [tag, index, 0, 0, a, b, c, d] = *bytes else { return None };
        Some(Self { tag, index, number: u32::from_le_bytes([a, b, c, d]) })
    }
}

/// Why file systems are not frozen. They are all thawed then.
#[derive(Debug, thiserror::Error)]
pub enum FreezeError {
    /// No helper.
    #[error("cannot start the freeze helper")]
    Spawn(#[source] io::Error),
    /// The helper has ended or does not answer; whatever it had frozen was thawed.
    #[error("the freeze helper was killed or hangs; start the agent again")]
    HelperLost(#[source] io::Error),
    /// More than fit.
    #[error("{count} file systems are too many to freeze at once ({FILE_SYSTEMS_MAX} is the limit)")]
    TooMany {
        /// How many.
        count: usize,
    },
    /// It cannot be opened.
    #[error(transparent)]
    Unreachable(#[from] MountsError),
    /// Frozen by someone else.
    #[error(
        "{point} is frozen already: another backup, or left by `fsfreeze`? `fsfreeze --unfreeze {point}` ends that"
    )]
    Busy {
        /// Where it is mounted.
        point: PathBuf,
    },
    /// It has no freezing.
    #[error("the {fs_type} at {point} cannot be frozen: its points are those of a disk in use")]
    Unsupported {
        /// Where it is mounted.
        point: PathBuf,
        /// What kind it is.
        fs_type: String,
    },
    /// The freeze itself took longer than allowed.
    #[error("freezing took longer than {limit:?}, so it was given up: {point} is writing too much out")]
    TimedOut {
        /// Which one was being frozen.
        point: PathBuf,
        /// How long it might take.
        limit: Duration,
    },
    /// Something else.
    #[error("cannot freeze {point}")]
    Other {
        /// Where it is mounted.
        point: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// How a freeze ended.
#[derive(Debug, thiserror::Error)]
pub enum ThawError {
    /// The helper thawed at its deadline, before it was told to.
    #[error("the file systems were thawed by the watchdog")]
    Expired,
    /// They were not frozen any more.
    #[error("somebody else thawed a file system meanwhile")]
    NotFrozen,
    /// The helper did not thaw; the agent did.
    #[error("the freeze helper was lost while file systems were frozen; they have been thawed")]
    HelperLost(#[source] io::Error),
    /// The kernel does not thaw.
    #[error("a file system could not be thawed: check with `fsfreeze --unfreeze`")]
    Failed(#[source] io::Error),
}

/// The helper process, ready to freeze.
#[derive(Debug)]
pub struct FreezeHelper {
    child: Child,
    /// `None` once it is lost, or being dropped.
    socket: Option<OwnedFd>,
}

impl FreezeHelper {
    /// Starts `command`, which must end up in [`helper_main`], and waits until it is ready. Its standard input and output are
    /// replaced.
    ///
    /// # Errors
    /// When it does not start, or does not say that it is ready within seconds.
    pub fn spawn(mut command: Command) -> Result<Self, FreezeError> {
        let mut pair = || -> io::Result<_> {
            let (ours, its) = rustix::net::socketpair(
                AddressFamily::UNIX,
                SocketType::SEQPACKET,
                SocketFlags::CLOEXEC,
                None,
            )?;
            // Of its own group, so that a Ctrl-C at the agent's terminal is not meant for it.
            let child = command.stdin(its).stdout(Stdio::null()).process_group(0).spawn()?;
            Ok((child, ours))
        };
        let result = pair();
        // The command holds the other end of the socket: only the child may.
        drop(command);
        let (child, socket) = result.map_err(FreezeError::Spawn)?;
        let mut helper = Self { child, socket: Some(socket) };
        match helper.receive(HELPER_GRACE) {
            Ok(Message { tag: READY, .. }) => Ok(helper),
            Ok(other) => Err(FreezeError::Spawn(unexpected(other))),
            Err(error) => {
                let _ = helper.child.kill();
                Err(FreezeError::Spawn(error))
            }
        }
    }

    /// Freezes all of them, in reverse order. They stay frozen until the answer is thawed or dropped, at most for `limit`
    /// from now.
    ///
    /// # Errors
    /// When one cannot be frozen; all are thawed then.
    pub fn freeze(
        &mut self,
        file_systems: &[MountedFileSystem],
        limit: Duration,
    ) -> Result<Frozen<'_>, FreezeError> {
        let count = file_systems.len();
        if count > FILE_SYSTEMS_MAX {
            return Err(FreezeError::TooMany { count });
        }
        let fds = file_systems.iter().map(MountedFileSystem::open).collect::<Result<Vec<_>, _>>()?;
        let since = Instant::now();
        let number = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
        let sent = self.send(Message { tag: FREEZE, index: 0, number }, &fds);
        let answer = sent.and_then(|()| self.receive(limit + HELPER_GRACE));
        let point = |index: usize| {
            let mounts = file_systems.get(index).map(|one| one.mounts.as_slice()).unwrap_or_default();
            mounts.first().map(|mount| mount.path.clone()).unwrap_or_default()
        };
        match answer {
            Ok(Message { tag: FROZEN, .. }) => Ok(Frozen { helper: self, fds, since, thawed: false }),
            Ok(Message { tag: FAILED, index, number }) => {
                let index = usize::from(index);
                let errno = Errno::from_raw_os_error(i32::try_from(number).unwrap_or(0));
                let fs_type = file_systems.get(index).map(|one| one.fs_type.clone()).unwrap_or_default();
                Err(match errno {
                    Errno::BUSY => FreezeError::Busy { point: point(index) },
                    Errno::OPNOTSUPP => FreezeError::Unsupported { point: point(index), fs_type },
                    Errno::TIMEDOUT => FreezeError::TimedOut { point: point(index), limit },
                    errno => FreezeError::Other { point: point(index), source: errno.into() },
                })
            }
            Ok(other) => Err(FreezeError::HelperLost(self.lost(unexpected(other), &fds))),
            Err(error) => Err(FreezeError::HelperLost(self.lost(error, &fds))),
        }
    }

    /// The helper's process id.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// Ends a helper that cannot be relied on, and thaws in its place. It may have been in the middle of a freeze, which no
    /// signal interrupts: only when it has been waited for is there nothing left to be frozen. Something that
    /// another program had frozen is thawed too: better than a dead machine.
    fn lost(&mut self, error: io::Error, fds: &[OwnedFd]) -> io::Error {
        self.socket = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
        for fd in fds {
            let _ = thaw(fd.as_fd());
        }
        error
    }

    fn send(&self, message: Message, fds: &[OwnedFd]) -> io::Result<()> {
        let socket = self.socket.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let mut space =
            vec![std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILE_SYSTEMS_MAX))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let bytes = message.encode();
        rustix::net::sendmsg(socket, &[io::IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    fn receive(&self, limit: Duration) -> io::Result<Message> {
        let socket = self.socket.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        if !readable(socket.as_fd(), Instant::now() + limit)? {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut bytes = [0; Message::BYTES];
        let (len, _) = rustix::net::recv(socket, &mut bytes[..], RecvFlags::empty())?;
        let ended = || io::Error::from(io::ErrorKind::UnexpectedEof);
        Message::decode(&bytes[..len]).ok_or_else(ended)
    }
}

impl Drop for FreezeHelper {
    fn drop(&mut self) {
        // The end of the socket tells it to thaw, if there is anything, and to go.
        self.socket = None;
        let _ = self.child.wait();
    }
}

/// Frozen file systems. Thaws when dropped.
#[derive(Debug)]
pub struct Frozen<'a> {
    helper: &'a mut FreezeHelper,
    fds: Vec<OwnedFd>,
    since: Instant,
    thawed: bool,
}

impl Frozen<'_> {
    /// Since the first of them was asked to freeze.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }

    /// Thaws all.
    ///
    /// # Errors
    /// When they have not been frozen all the time: what was read of them then belongs to no one moment.
    pub fn thaw(mut self) -> Result<Duration, ThawError> {
        self.end()?;
        Ok(self.since.elapsed())
    }

    fn end(&mut self) -> Result<(), ThawError> {
        self.thawed = true;
        let sent = self.helper.send(Message { tag: THAW, index: 0, number: 0 }, &[]);
        match sent.and_then(|()| self.helper.receive(HELPER_GRACE)) {
            Ok(Message { tag: THAWED, index: 1, .. }) => Err(ThawError::Expired),
            Ok(Message { tag: THAWED, number: 0, .. }) => Ok(()),
            Ok(Message { tag: THAWED, number, .. }) => {
                let errno = Errno::from_raw_os_error(i32::try_from(number).unwrap_or(0));
                Err(match errno {
                    Errno::INVAL => ThawError::NotFrozen,
                    errno => ThawError::Failed(errno.into()),
                })
            }
            Ok(other) => Err(ThawError::HelperLost(self.helper.lost(unexpected(other), &self.fds))),
            Err(error) => Err(ThawError::HelperLost(self.helper.lost(error, &self.fds))),
        }
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        if !self.thawed {
            let _ = self.end();
        }
    }
}

fn unexpected(message: Message) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("unexpected answer {message:?}"))
}

/// Waits until there is something to read, or an end; `false` at the deadline.
fn readable(fd: BorrowedFd<'_>, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&timespec(left))) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

pub(crate) fn timespec(duration: Duration) -> Timespec {
    let tv_sec = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    Timespec { tv_sec, tv_nsec: duration.subsec_nanos().into() }
}

fn freeze(fd: BorrowedFd<'_>) -> rustix::io::Result<()> {
    control(fd, FIFREEZE)
}

fn thaw(fd: BorrowedFd<'_>) -> rustix::io::Result<()> {
    control(fd, FITHAW)
}

fn control(fd: BorrowedFd<'_>, request: libc::Ioctl) -> rustix::io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: both requests ignore their argument; the descriptor is open.
    match unsafe { libc::ioctl(fd.as_raw_fd(), request, 0) } {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)),
    }
}
