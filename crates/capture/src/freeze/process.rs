//! The helper process.
//!
//! The main thread waits for the agent, signals, the deadline and the worker; a worker thread does the freezing, because
//! FIFREEZE may block for long and cannot be interrupted. Whoever finishes second sees what the other did, under
//! one lock: a file system is frozen and counted while the freeze stands, or thawed by the worker at once when
//! it has been ended meanwhile. The process does not end before its workers have.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use rustix::mm::MlockAllFlags;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags};

use super::{FAILED, FILE_SYSTEMS_MAX, FREEZE, FROZEN, Message, READY, THAW, THAWED, freeze, thaw, timespec};

/// What the hidden subcommand of the agent's program does: serves until the socket at standard input ends.
///
/// # Errors
/// When standard input is not the agent's socket, or the system refuses the simplest things.
pub fn helper_main() -> io::Result<()> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    let signals = block_signals()?;
    // Both as far as permitted: without them it works too, unless memory is short at the wrong moment.
    let _ = rustix::mm::mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE);
    let _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
    let mut helper = Helper { socket, signals, workers: Vec::new() };
    helper.send(Message { tag: READY, index: 0, number: 0 })?;
    let result = helper.serve();
    for worker in helper.workers {
        let _ = worker.join();
    }
    result
}

/// Termination signals come through a descriptor instead.
fn block_signals() -> io::Result<OwnedFd> {
    // SAFETY: `set` is initialized by sigemptyset before it is used; the new descriptor belongs to nobody else.
    unsafe {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT] {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        if libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        match libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

struct Helper {
    socket: OwnedFd,
    signals: OwnedFd,
    /// Those that may still be in a freeze that was given up; they end by themselves.
    workers: Vec<JoinHandle<()>>,
}

/// One freeze, shared with its worker.
struct Freeze {
    fds: Vec<OwnedFd>,
    progress: Mutex<Progress>,
    /// Rung by the worker at its end.
    bell: OwnedFd,
}

#[derive(Default)]
struct Progress {
    /// Nothing is to be frozen any more, and what gets frozen is to be thawed at once.
    ended: bool,
    /// Which are frozen, in order of freezing.
    frozen: Vec<usize>,
    /// Of the whole: which failed, how.
    result: Option<Result<(), (usize, Errno)>>,
}

/// What the main thread woke up for.
enum Woken {
    Agent(Option<(Message, Vec<OwnedFd>)>),
    Signal,
    Worker,
    Deadline,
}

impl Helper {
    fn serve(&mut self) -> io::Result<()> {
        loop {
            self.workers.retain(|worker| !worker.is_finished());
            match self.wait(None, None)? {
                Woken::Agent(Some((Message { tag: FREEZE, number, .. }, fds))) => {
                    let limit = Duration::from_millis(number.into());
                    if !self.hold(fds, limit)? {
                        return Ok(());
                    }
                }
                Woken::Agent(Some(_)) | Woken::Worker | Woken::Deadline => {}
                Woken::Agent(None) | Woken::Signal => return Ok(()),
            }
        }
    }

    /// One freeze from beginning to end; `false` when the helper is to go.
    fn hold(&mut self, fds: Vec<OwnedFd>, limit: Duration) -> io::Result<bool> {
        let deadline = Instant::now() + limit;
        let progress = Mutex::new(Progress { frozen: Vec::with_capacity(fds.len()), ..Progress::default() });
        let bell = eventfd(0, EventfdFlags::CLOEXEC)?;
        let freeze = Arc::new(Freeze { fds, progress, bell });
        let worker = Arc::clone(&freeze);
        self.workers.push(std::thread::Builder::new().spawn(move || worker.work())?);
        let result = self.attend(&freeze, deadline);
        // Whatever went wrong above: nothing stays frozen.
        let _ = freeze.end();
        result
    }

    fn attend(&self, freeze: &Freeze, deadline: Instant) -> io::Result<bool> {
        let (mut answered, mut expired) = (false, false);
        loop {
            let bell = (!answered).then_some(&freeze.bell);
            match self.wait(bell, (!expired).then_some(deadline))? {
                Woken::Worker => {
                    answered = true;
                    let result = freeze.progress().result.unwrap_or(Ok(()));
                    if let Err((index, errno)) = result {
                        let _ = freeze.end();
                        self.send(failed(index, errno))?;
                        return Ok(true);
                    }
                    self.send(Message { tag: FROZEN, index: 0, number: 0 })?;
                }
                Woken::Deadline => {
                    expired = true;
                    let done = freeze.progress().frozen.len();
                    let _ = freeze.end();
                    if !answered {
                        let blocked = freeze.fds.len().saturating_sub(done + 1);
                        self.send(failed(blocked, Errno::TIMEDOUT))?;
                        return Ok(true);
                    }
                }
                Woken::Agent(Some((Message { tag: THAW, .. }, _))) => {
                    let errno = freeze.end().err().map_or(0, |errno| errno.raw_os_error().unsigned_abs());
                    self.send(Message { tag: THAWED, index: expired.into(), number: errno })?;
                    return Ok(true);
                }
                Woken::Agent(_) | Woken::Signal => return Ok(false),
            }
        }
    }

    fn wait(&self, bell: Option<&OwnedFd>, deadline: Option<Instant>) -> io::Result<Woken> {
        let watch = |fd| PollFd::new(fd, PollFlags::IN);
        let mut fds = vec![watch(&self.signals), watch(&self.socket)];
        fds.extend(bell.map(watch));
        loop {
            let left = deadline.map(|at| timespec(at.saturating_duration_since(Instant::now())));
            match poll(&mut fds, left.as_ref()) {
                Ok(0) => return Ok(Woken::Deadline),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
                Ok(_) if !fds[0].revents().is_empty() => return Ok(Woken::Signal),
                Ok(_) if !fds[1].revents().is_empty() => return Ok(Woken::Agent(self.receive())),
                Ok(_) => return Ok(Woken::Worker),
            }
        }
    }

    fn send(&self, message: Message) -> io::Result<()> {
        rustix::net::send(&self.socket, &message.encode(), SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// `None` at the end of the socket, and for anything that is not of the protocol.
    fn receive(&self) -> Option<(Message, Vec<OwnedFd>)> {
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILE_SYSTEMS_MAX))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut bytes = [0; Message::BYTES];
        let into = &mut [io::IoSliceMut::new(&mut bytes)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let len = rustix::net::recvmsg(&self.socket, into, &mut ancillary, flags).ok()?.bytes;
        let rights = ancillary.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        });
        let fds = rights.flatten().collect();
        Some((Message::decode(&bytes[..len])?, fds))
    }
}

fn failed(index: usize, errno: Errno) -> Message {
    let index = u8::try_from(index).unwrap_or(u8::MAX);
    Message { tag: FAILED, index, number: errno.raw_os_error().unsigned_abs() }
}

impl Freeze {
    /// No panic can happen under the lock; were there one, thawing is still right.
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The worker: freezes one after the other, the last mounted first.
    fn work(&self) {
        let result = self.freeze_all();
        self.progress().result = Some(result);
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }

    fn freeze_all(&self) -> Result<(), (usize, Errno)> {
        for (index, fd) in self.fds.iter().enumerate().rev() {
            if self.progress().ended {
                return Ok(());
            }
            freeze(fd.as_fd()).map_err(|errno| (index, errno))?;
            let mut progress = self.progress();
            if progress.ended {
                let _ = thaw(fd.as_fd());
                return Ok(());
            }
            progress.frozen.push(index);
        }
        Ok(())
    }

    /// Thaws what is frozen, the last first, and lets nothing be frozen any more.
    fn end(&self) -> Result<(), Errno> {
        let mut progress = self.progress();
        progress.ended = true;
        let mut result = Ok(());
        while let Some(index) = progress.frozen.pop() {
            result = result.and(thaw(self.fds[index].as_fd()));
        }
        result
    }
}
