//! A place: a network namespace of its own, with a loopback device, and the device that leads to the other place.
//!
//! It is made by `unshare`, whose child waits until its namespace is held by a descriptor; from then on that descriptor is all there is of it. A thread that
//! enters it never leaves, so each entrance is a thread's; whatever is begun by that thread (processes, sockets, threads) is there, too.

use std::fs::File;
use std::io::{self, Read as _};
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tappers::{Interface, Tun};

use super::WanError;
use crate::child_lines::lines_of;

/// How long a new namespace may take.
const MAKE_MAX: Duration = Duration::from_secs(20);
/// The child: says when it is ready, and ends when its standard input does.
const CHILD: &str = "ip link set lo up && echo up && read -r _";
const DEVICE: &str = "wan0";
/// Of a network of the two places alone.
const PREFIX_LEN: u8 = 30;
/// As on the internet.
const MTU: &str = "1500";
/// Packets that wait until the path's thread gets to them: so many that none is dropped where nobody counts it.
const WAITING_MAX: &str = "10000";

/// See the module's header.
#[derive(Debug)]
pub struct Place {
    namespace: File,
    address: Ipv4Addr,
}

impl Place {
    pub(super) fn make(address: Ipv4Addr) -> Result<Self, WanError> {
        let failed =
            |what: &str, error: io::Error| WanError::Namespace { message: format!("{what}: {error}") };
        let mut child = Command::new("unshare")
            .args(["--net", "sh", "-c", CHILD])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| failed("unshare", error))?;
        let is_up = lines_of(child.stdout.take()).recv_timeout(MAKE_MAX).is_ok();
        let namespace = File::open(format!("/proc/{}/ns/net", child.id()));
        drop(child.stdin.take());
        if !is_up {
            // Without its input it has nothing to wait for; one that hangs elsewhere is ended.
            let _ = child.kill();
        }
        let mut said = String::new();
        let _ = child.stderr.take().map(|mut stderr| stderr.read_to_string(&mut said));
        child.wait().map_err(|error| failed("unshare", error))?;
        if !is_up {
            return Err(WanError::Namespace { message: said.trim().to_owned() });
        }
        let namespace = namespace.map_err(|error| failed("its file", error))?;
        Ok(Self { namespace, address })
    }

    /// The device that leads out of it; it does not block.
    pub(super) fn device(&self) -> Result<Tun, WanError> {
        let make = || {
            let mut device = Tun::new_named(Interface::new(DEVICE)?)?;
            device.set_nonblocking(true)?;
            ip(&["address", "add", &format!("{}/{PREFIX_LEN}", self.address), "dev", DEVICE])?;
            ip(&["link", "set", DEVICE, "mtu", MTU, "txqueuelen", WAITING_MAX, "up"])?;
            Ok(device)
        };
        self.enter(make).flatten().map_err(WanError::Device)
    }

    /// Where it is reached from the other place, and from itself.
    #[must_use]
    pub const fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Does something on a thread that is in this place, with all that it begins; a panic of it is the caller's.
    ///
    /// # Errors
    /// When the place cannot be entered: for want of root.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        let enter = || {
            move_into_link_name_space(self.namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(work())
        };
        let ended = std::thread::scope(|scope| scope.spawn(enter).join());
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn ip(arguments: &[&str]) -> io::Result<()> {
    let output = Command::new("ip").args(arguments).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(io::Error::other(format!("ip {}: {said}", arguments.join(" "))))
}
