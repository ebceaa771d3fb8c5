//! What a child process says on its standard output, line by line, so that it can be waited for with a limit.

use std::io::{BufRead, BufReader};
use std::process::ChildStdout;
use std::sync::mpsc::{Receiver, sync_channel};

/// Lines that wait to be read; a child that says more waits with them.
const LINES_MAX: usize = 100;

/// The lines of a child, until it ends or nobody wants them any more.
pub(crate) fn lines_of(stdout: Option<ChildStdout>) -> Receiver<String> {
    let (sender, receiver) = sync_channel(LINES_MAX);
    std::thread::spawn(move || {
        for line in BufReader::new(stdout?).lines() {
            sender.send(line.ok()?).ok()?;
        }
        Some(())
    });
    receiver
}
