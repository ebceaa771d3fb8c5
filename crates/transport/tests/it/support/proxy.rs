//! A TCP proxy that cuts or freezes the connection after so many bytes.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What happens when the budget of a direction is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// Both sides are closed.
    Cut,
    /// Nothing passes any more, in either direction, but both sides stay open.
    Freeze,
}

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    /// Bytes passed on so far, to the server and to the client.
    pub(crate) passed: Arc<[AtomicU64; 2]>,
}

impl Proxy {
    /// Passes connections on to `server`; each may carry `budget` bytes to the server and to the client.
    pub(crate) fn start(server: SocketAddr, budget: [u64; 2], then: Then) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let passed = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
        let counts = passed.clone();
        // Ends with the process: a listener cannot be closed from outside.
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(server)) else { return };
                let budgets = Arc::new([AtomicU64::new(budget[0]), AtomicU64::new(budget[1])]);
                for (direction, from, to) in [(0, &client, &server), (1, &server, &client)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let (budgets, counts) = (budgets.clone(), counts.clone());
                    std::thread::spawn(move || pass(direction, from, to, &budgets, &counts, then));
                }
            }
        });
        Self { address, passed }
    }

    pub(crate) fn transparent(server: SocketAddr) -> Self {
        Self::start(server, [u64::MAX; 2], Then::Cut)
    }
}

fn pass(
    direction: usize,
    mut from: TcpStream,
    mut to: TcpStream,
    budgets: &[AtomicU64; 2],
    counts: &[AtomicU64; 2],
    then: Then,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let len = from.read(&mut buffer).unwrap_or(0);
        let budget = budgets[direction].load(Ordering::SeqCst);
        let frozen = budgets.iter().any(|budget| budget.load(Ordering::SeqCst) == 0);
        let allowed = if then == Then::Freeze && frozen { 0 } else { budget.min(len as u64) };
        let written = to.write_all(&buffer[..usize::try_from(allowed).unwrap()]).is_ok();
        budgets[direction].fetch_sub(allowed, Ordering::SeqCst);
        counts[direction].fetch_add(allowed, Ordering::SeqCst);
        if then == Then::Freeze && frozen && len == 0 {
            // As a firewall that drops: one side's end is not told to the other.
            loop {
                std::thread::park();
            }
        }
        let over = allowed < len as u64;
        if len == 0 || !written || (over && then == Then::Cut) {
            let _ = from.shutdown(Shutdown::Both);
            let _ = to.shutdown(Shutdown::Both);
            return;
        }
    }
}
