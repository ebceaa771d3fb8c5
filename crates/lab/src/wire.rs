//! A wire between two places that can be cut: a TCP relay in user space.
//!
//! What it is: while it is cut, it is a network that drops everything, not one that refuses: connections stay, nothing comes through, nobody is told; a new
//! one is taken and nothing answers. When it is restored, what was held goes on, as after the retransmissions of a real one. What it
//! never does: delay or reorder.
//!
//! The path of one byte: read by a thread of its connection (one for each direction), held while the wire is cut, written to the other end.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Connections at a time; more are closed at once.
const CONNECTIONS_MAX: usize = 256;
/// How often a waiting thread looks whether the wire has been cut, restored or taken away.
const LOOK: Duration = Duration::from_millis(20);
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
const BUFFER_LEN: usize = 64 << 10;

#[derive(Debug, Default)]
struct Shared {
    cut: AtomicBool,
    gone: AtomicBool,
    connections: AtomicUsize,
}

impl Shared {
    fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// Waits while it is cut; `false`: it was taken away.
    fn wait(&self) -> bool {
        while self.cut.load(Ordering::Relaxed) && !self.is_gone() {
            std::thread::sleep(LOOK);
        }
        !self.is_gone()
    }
}

/// The wire; gone when dropped, with all its connections.
#[derive(Debug)]
pub struct Wire {
    port: u16,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Wire {
    /// A wire to `target` (`HOST:PORT`), which need not be there yet. It is entered at [`Wire::port`], on all addresses of this host.
    ///
    /// # Errors
    /// When there is no free port, or no thread.
    pub fn to(target: &str) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let shared = Arc::<Shared>::default();
        let (relayed, target) = (shared.clone(), target.to_owned());
        let run = move || accept(&listener, &target, &relayed);
        let thread = std::thread::Builder::new().name("wire".into()).spawn(run)?;
        Ok(Self { port, shared, thread: Some(thread) })
    }

    /// The port at which it is entered.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// From now on nothing comes through.
    pub fn cut(&self) {
        self.shared.cut.store(true, Ordering::Relaxed);
    }

    /// It is whole again.
    pub fn restore(&self) {
        self.shared.cut.store(false, Ordering::Relaxed);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.shared.gone.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A relay that has panicked is gone, too.
            let _ = thread.join();
        }
    }
}

fn accept(listener: &TcpListener, target: &str, shared: &Arc<Shared>) {
    while !shared.is_gone() {
        match listener.accept() {
            Ok((entered, _)) if shared.connections.load(Ordering::Relaxed) < CONNECTIONS_MAX => {
                shared.connections.fetch_add(1, Ordering::Relaxed);
                let (shared, target) = (shared.clone(), target.to_owned());
                std::thread::spawn(move || {
                    // A connection that fails is closed: its ends see that.
                    let _ = relay(entered, &target, &shared);
                    shared.connections.fetch_sub(1, Ordering::Relaxed);
                });
            }
            Ok(_) => {}
            Err(_) => std::thread::sleep(LOOK),
        }
    }
}

fn relay(entered: TcpStream, target: &str, shared: &Arc<Shared>) -> io::Result<()> {
    entered.set_nonblocking(false)?;
    if !shared.wait() {
        return Ok(());
    }
    let addresses: Vec<SocketAddr> = target.to_socket_addrs()?.collect();
    let first = addresses.first().ok_or(io::ErrorKind::AddrNotAvailable)?;
    let left = TcpStream::connect_timeout(first, CONNECT_LIMIT)?;
    for end in [&entered, &left] {
        end.set_nodelay(true)?;
        end.set_read_timeout(Some(LOOK))?;
    }
    let (back_from, back_to, watched) = (left.try_clone()?, entered.try_clone()?, shared.clone());
    let back = std::thread::spawn(move || copy(back_from, back_to, &watched));
    copy(entered, left, shared);
    // It has closed both ends when it ended.
    let _ = back.join();
    Ok(())
}

/// One direction, to its end.
fn copy(mut from: TcpStream, mut to: TcpStream, shared: &Shared) {
    let mut buffer = vec![0; BUFFER_LEN];
    while shared.wait() {
        let len = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => len,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                continue;
            }
            Err(_) => break,
        };
        // Cut meanwhile: on its way, and held.
        if !shared.wait() || to.write_all(&buffer[..len]).is_err() {
            break;
        }
    }
    for end in [&from, &to] {
        // Closed already by the other direction, perhaps.
        let _ = end.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers each byte with the same.
    fn echo() -> String {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let mut connection = connection.unwrap();
                std::thread::spawn(move || {
                    let mut byte = [0];
                    while connection.read_exact(&mut byte).is_ok() {
                        connection.write_all(&byte).unwrap();
                    }
                });
            }
        });
        address
    }

    fn enter(wire: &Wire) -> TcpStream {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, wire.port())).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        stream
    }

    fn answer(stream: &mut TcpStream) -> io::Result<u8> {
        let mut byte = [0];
        stream.read_exact(&mut byte).map(|()| byte[0])
    }

    #[test]
    fn what_is_sent_into_a_cut_wire_arrives_when_it_is_restored_and_no_connection_breaks() {
        let wire = Wire::to(&echo()).unwrap();
        let mut old = enter(&wire);
        old.write_all(b"a").unwrap();
        assert_eq!(answer(&mut old).unwrap(), b'a');
        wire.cut();
        let mut new = enter(&wire);
        for stream in [&mut old, &mut new] {
            stream.write_all(b"b").unwrap();
            let silence = answer(stream).unwrap_err();
            assert!(
                matches!(silence.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
                "{silence}"
            );
        }
        wire.restore();
        for stream in [&mut old, &mut new] {
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            assert_eq!(answer(stream).unwrap(), b'b');
        }
    }

    #[test]
    fn a_wire_that_is_taken_away_closes_its_connections() {
        let wire = Wire::to(&echo()).unwrap();
        let mut stream = enter(&wire);
        stream.write_all(b"a").unwrap();
        assert_eq!(answer(&mut stream).unwrap(), b'a');
        drop(wire);
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    }
}
