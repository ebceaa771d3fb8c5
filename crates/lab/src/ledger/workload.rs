//! The workload's process: writes records at a steady pace until it is told to stop.
//!
//! What it tells its console, for people and for the demo:
//!
//! ```text
//! LEDGER: machine=web01 disk=0 records=120 last=0011223344556677 ok     for each disk, when it begins
//! LEDGER: machine=web01 damaged: …                                     it cannot begin
//! LEDGER: machine=web01 writing from=121
//! LEDGER: machine=web01 records=200 seen=0                              every few seconds
//! LEDGER: machine=db01 cause lost: …                                    what it had seen is gone from the other machine
//! LEDGER: machine=web01 stopped records=231
//! ```

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use switchback_disk::{Clock, SystemClock};

use super::keeper::{Keeper, KeeperError};
use super::link::{self, Shown};
use super::record::LedgerName;

/// How often a machine asks another one.
const ASK_INTERVAL: Duration = Duration::from_millis(100);
/// How often the console is told.
const TELL_INTERVAL: Duration = Duration::from_secs(2);

/// What to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Whose ledger it is.
    pub machine: LedgerName,
    /// A directory on each disk.
    pub directories: [PathBuf; 2],
    /// Records per second at most.
    pub per_second: u32,
    /// Whom it shows its records, or whose it looks at.
    pub link: Link,
}

/// The machine's place between others.
#[derive(Clone, Debug)]
pub enum Link {
    /// Shows its newest record here.
    Serve(SocketAddr),
    /// Looks at the records of the host with this number in the network of this interface.
    Follow {
        /// The interface.
        interface: String,
        /// The host's number in its network.
        host: u32,
    },
}

/// Runs until `stop`.
///
/// # Errors
/// The ledger cannot be taken up or written, or nothing can be served at the address.
pub fn run(plan: &Plan, stop: &AtomicBool, console: &mut dyn Write) -> anyhow::Result<()> {
    let name = plan.machine;
    let mut keeper = match Keeper::open(name, &plan.directories) {
        Ok(keeper) => keeper,
        Err(KeeperError::Flaw { directory, flaw }) => {
            writeln!(console, "LEDGER: machine={name} damaged: {flaw} ({})", directory.display())?;
            return Err(KeeperError::Flaw { directory, flaw }.into());
        }
        Err(error) => return Err(error.into()),
    };
    let standing = keeper.standing();
    for disk in 0..plan.directories.len() {
        let (records, last) = (standing.records, standing.last);
        writeln!(console, "LEDGER: machine={name} disk={disk} records={records} last={last} ok")?;
    }
    let (shown, seen) = (Shown::default(), Shown::default());
    if let Some(last) = keeper.last() {
        shown.show(last.as_seen());
    }
    begin_link(&plan.link, &shown, &seen)?;

    writeln!(console, "LEDGER: machine={name} writing from={}", standing.records + 1)?;
    let pause = Duration::from_secs(1) / plan.per_second.max(1);
    let mut told = Instant::now();
    let mut is_lost = false;
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let had_seen = keeper.last().and_then(|last| last.seen);
        let sees = seen.get();
        if let (Some(had), Some(sees)) = (had_seen, sees)
            && sees.number < had.number
            && !is_lost
        {
            is_lost = true;
            writeln!(
                console,
                "LEDGER: machine={name} cause lost: had seen {}, now sees {}",
                had.number, sees.number
            )?;
        }
        let record = keeper.append(SystemClock.now().0, sees)?;
        shown.show(record.as_seen());
        if told.elapsed() >= TELL_INTERVAL {
            told = Instant::now();
            let seen = record.seen.map_or(0, |seen| seen.number);
            writeln!(console, "LEDGER: machine={name} records={} seen={seen}", record.number)?;
        }
        std::thread::sleep(pause.saturating_sub(begun.elapsed()));
    }
    writeln!(console, "LEDGER: machine={name} stopped records={}", keeper.standing().records)?;
    Ok(())
}

fn begin_link(link: &Link, shown: &Shown, seen: &Shown) -> io::Result<()> {
    match link {
        Link::Serve(address) => {
            let listener = TcpListener::bind(address)?;
            let shown = shown.clone();
            std::thread::Builder::new()
                .name("serve".to_owned())
                .spawn(move || link::serve(&listener, &shown))?;
        }
        Link::Follow { interface, host } => {
            let (interface, host, seen) = (interface.clone(), *host, seen.clone());
            let follow = move || loop {
                follow_once(&interface, host, &seen);
                std::thread::sleep(ASK_INTERVAL);
            };
            std::thread::Builder::new().name("follow".to_owned()).spawn(follow)?;
        }
    }
    Ok(())
}

/// A machine that does not answer is asked again: it may be starting, or on its way to another site.
fn follow_once(interface: &str, host: u32, seen: &Shown) {
    let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    let Some(address) = link::address_in_network(&routes, interface, host) else { return };
    if let Ok(Some(record)) = link::ask(SocketAddr::new(address, super::PORT)) {
        seen.show(record);
    }
}

/// A flag that SIGTERM and SIGINT set.
///
/// # Errors
/// The system refuses to install them.
pub fn stop_on_signal() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}
