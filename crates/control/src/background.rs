//! A thread that looks after something again and again, until it is dropped: level-triggered, so it may be killed and started anew at any time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::{ControlError, ErrorKind};

/// How often a pause looks whether it is to end.
const STEP: Duration = Duration::from_millis(100);

/// Whether the thread is to end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ending(Arc<AtomicBool>);

impl Ending {
    pub(crate) fn has_come(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Sleeps for so long, or until the end.
    pub(crate) fn pause(&self, mut left: Duration) {
        while !left.is_zero() && !self.has_come() {
            let step = left.min(STEP);
            std::thread::sleep(step);
            left -= step;
        }
    }
}

/// See the module's header.
#[derive(Debug)]
pub(crate) struct Background {
    name: &'static str,
    ending: Ending,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    /// Calls `round` until it is dropped; that pauses by itself ([`Ending::pause`]).
    pub(crate) fn start(
        name: &'static str,
        mut round: impl FnMut(&Ending) + Send + 'static,
    ) -> Result<Self, ControlError> {
        let ending = Ending::default();
        let end = ending.clone();
        let run = move || {
            while !end.has_come() {
                round(&end);
            }
        };
        let thread = std::thread::Builder::new().name(name.into()).spawn(run).map_err(|error| {
            ControlError::new(
                ErrorKind::Internal,
                "background.no-thread",
                format!("no thread for {name}: {error}"),
            )
        })?;
        Ok(Self { name, ending, thread: Some(thread) })
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.ending.0.store(true, Ordering::Relaxed);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!(name = self.name, "a thread of the configuration server had panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;
    use std::time::{Duration, Instant};

    use super::Background;

    #[test]
    fn it_goes_on_until_it_is_dropped_and_no_pause_is_waited_for() {
        let (rounds, seen) = sync_channel(16);
        let background = Background::start("test", move |ending| {
            rounds.send(()).unwrap();
            ending.pause(Duration::from_secs(600));
        })
        .unwrap();
        seen.recv_timeout(Duration::from_secs(20)).unwrap();
        let began = Instant::now();
        drop(background);
        assert!(began.elapsed() < Duration::from_secs(60));
        while seen.try_recv().is_ok() {}
        assert!(seen.recv_timeout(Duration::from_millis(50)).is_err(), "it has ended");
    }
}
