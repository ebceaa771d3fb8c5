//! Tries now and then whether addresses can be reached that may be needed one day: the way home is known to work before it is used.
//!
//! What it never does: send anything. A connection that comes about is closed.

use std::collections::BTreeMap;
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

const EVERY: Duration = Duration::from_secs(30);
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Addresses at most; more are not tried.
const ADDRESSES_MAX: usize = 64;

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    wanted: Vec<String>,
    found: BTreeMap<String, Option<String>>,
    stop: bool,
}

/// The thread that tries, until dropped.
#[derive(Debug)]
pub(super) struct Prober {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Prober {
    pub(super) fn start() -> std::io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let run = shared.clone();
        let thread = std::thread::Builder::new().name("prober".into()).spawn(move || run.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// These are to be tried from now on.
    pub(super) fn want(&self, addresses: &[String]) {
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.wanted != addresses {
            addresses.clone_into(&mut state.wanted);
            state.wanted.truncate(ADDRESSES_MAX);
            let State { wanted, found, .. } = &mut *state;
            found.retain(|address, _| wanted.contains(address));
            drop(state);
            self.shared.changed.notify_all();
        }
    }

    /// Why each cannot be reached; `None`: it can. One that has not been tried yet is missing.
    pub(super) fn found(&self) -> BTreeMap<String, Option<String>> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner).found.clone()
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner).stop = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // One that has panicked tries no more, either.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn run(&self) {
        loop {
            let wanted = {
                let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                if state.stop {
                    return;
                }
                state.wanted.clone()
            };
            for address in &wanted {
                let problem = try_to_reach(address);
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                if state.stop {
                    return;
                }
                if state.wanted.contains(address) {
                    state.found.insert(address.clone(), problem);
                }
            }
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let rest = |state: &mut State| !state.stop && state.wanted == wanted;
            drop(self.changed.wait_timeout_while(state, EVERY, rest));
        }
    }
}

fn try_to_reach(address: &str) -> Option<String> {
    let resolved = match address.to_socket_addrs() {
        Ok(mut resolved) => resolved.next(),
        Err(error) => return Some(format!("its name cannot be resolved: {error}")),
    };
    let Some(resolved) = resolved else { return Some("its name leads to no address".into()) };
    TcpStream::connect_timeout(&resolved, CONNECT_LIMIT).err().map(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::{Duration, Instant};

    use super::Prober;

    #[test]
    fn what_can_be_reached_is_told_from_what_cannot() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = listener.local_addr().unwrap().to_string();
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let prober = Prober::start().unwrap();
        prober.want(&[open.clone(), closed.clone()]);
        let began = Instant::now();
        while prober.found().len() < 2 {
            assert!(began.elapsed() < Duration::from_secs(30));
            std::thread::sleep(Duration::from_millis(10));
        }
        let found = prober.found();
        assert_eq!(found[&open], None);
        assert!(found[&closed].as_ref().is_some_and(|why| why.contains("refused")), "{found:?}");
        prober.want(std::slice::from_ref(&open));
        assert_eq!(prober.found().len(), 1, "what is not wanted any more is forgotten");
    }
}
