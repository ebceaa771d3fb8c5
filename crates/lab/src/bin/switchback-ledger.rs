//! The workload of the demo's machines: keeps a ledger on two disks, or checks copies of one. See `switchback_lab::ledger`.

#![expect(clippy::print_stdout, reason = "a command line program: its output is its result")]

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand};
use switchback_lab::ledger::{self, Book, LedgerName, Link, Plan};

/// Keeps a ledger on two disks: numbered, chained, durable records.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Append records until SIGTERM
    Run {
        /// Whose ledger it is
        #[arg(long)]
        machine: LedgerName,
        /// A directory on each of the two disks
        #[arg(long = "disk", required = true)]
        disks: Vec<PathBuf>,
        /// Records per second at most
        #[arg(long, default_value_t = 40)]
        per_second: u32,
        /// Show the newest record here
        #[arg(long, required_unless_present = "follow_interface")]
        serve: Option<SocketAddr>,
        /// Look at the records of another machine of this interface's network
        #[arg(long, conflicts_with = "serve")]
        follow_interface: Option<String>,
        /// That machine's number in the network
        #[arg(long, default_value_t = 11)]
        follow_host: u32,
    },
    /// Check the copies in these directories
    Verify {
        /// Whose ledger it is
        #[arg(long)]
        machine: LedgerName,
        /// Where the copies are: those of the two disks are compared with each other
        directories: Vec<PathBuf>,
    },
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Run { machine, disks, per_second, serve, follow_interface, follow_host } => {
            let Ok(directories) = <[PathBuf; 2]>::try_from(disks) else {
                bail!("a ledger is kept on two disks: give --disk twice");
            };
            let link = match (serve, follow_interface) {
                (Some(address), _) => Link::Serve(address),
                (None, Some(interface)) => Link::Follow { interface, host: follow_host },
                (None, None) => bail!("give --serve or --follow-interface"),
            };
            let stop = ledger::stop_on_signal()?;
            ledger::run(&Plan { machine, directories, per_second, link }, &stop, &mut std::io::stdout())
        }
        Command::Verify { machine, directories } => verify(machine, &directories),
    }
}

fn verify(machine: LedgerName, directories: &[PathBuf]) -> anyhow::Result<()> {
    let mut books: Vec<Book> = Vec::new();
    for (disk, directory) in directories.iter().enumerate() {
        let book = verify_copy(machine, directory)
            .with_context(|| format!("LEDGER: machine={machine} disk={disk} {}", directory.display()))?;
        let standing = book.standing();
        println!(
            "LEDGER: machine={machine} disk={disk} records={} last={} ok",
            standing.records, standing.last
        );
        books.push(book);
    }
    if let [first, second] = books.as_slice() {
        ledger::agree(first, second)?;
    }
    Ok(())
}

fn verify_copy(machine: LedgerName, directory: &Path) -> anyhow::Result<Book> {
    let book = Book::parse(machine, &fs::read(directory.join(ledger::FILE))?)?;
    ledger::slots::check(machine, &book, &fs::read(directory.join(ledger::SLOTS_FILE))?)?;
    Ok(book)
}
