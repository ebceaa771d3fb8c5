//! Looks now and then whether the way to storage is the chosen one from here, where replicas are written from.
//!
//! What it never does: connect to storage, or keep a replica from being written: what it finds is told, and a person decides.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use switchback_model::component::{StoragePath, StoragePathFound};
use switchback_sites::azure::check_path;

const EVERY: Duration = Duration::from_secs(60);
/// Ways at most; more are not looked at.
const PATHS_MAX: usize = 16;

#[derive(Debug, Default)]
struct State {
    wanted: Vec<StoragePath>,
    found: Vec<StoragePathFound>,
    stop: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// The thread that looks. It ends after it is dropped, which does not wait: a name may take its time.
#[derive(Debug)]
pub(super) struct StorageWatch {
    shared: Arc<Shared>,
    _thread: JoinHandle<()>,
}

impl StorageWatch {
    pub(super) fn start() -> std::io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let run = shared.clone();
        let thread = std::thread::Builder::new().name("storage-watch".into()).spawn(move || run.run())?;
        Ok(Self { shared, _thread: thread })
    }

    /// These are to be looked at from now on.
    pub(super) fn want(&self, paths: &[StoragePath]) {
        let paths = &paths[..paths.len().min(PATHS_MAX)];
        let mut state = self.shared.lock();
        if state.wanted != paths {
            paths.clone_into(&mut state.wanted);
            state.found.retain(|found| paths.contains(&found.storage));
            drop(state);
            self.shared.changed.notify_all();
        }
    }

    /// What was found last. What has not been looked at yet is missing.
    pub(super) fn found(&self) -> Vec<StoragePathFound> {
        self.shared.lock().found.clone()
    }
}

impl Drop for StorageWatch {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        loop {
            let wanted = self.lock().wanted.clone();
            let looked = wanted.iter().map(|storage| StoragePathFound {
                storage: storage.clone(),
                check: check_path(StoragePathFound::CHECK, storage.path, &storage.container),
            });
            let looked: Vec<_> = looked.collect();
            let mut state = self.lock();
            if state.wanted == wanted {
                state.found = looked;
            }
            let rest = |state: &mut State| !state.stop && state.wanted == wanted;
            let state = self.changed.wait_timeout_while(state, EVERY, rest);
            if state.unwrap_or_else(PoisonError::into_inner).0.stop {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use switchback_model::CheckState;
    use switchback_model::azure::NetworkPath;

    use super::*;

    fn storage(host: &str, path: NetworkPath) -> StoragePath {
        StoragePath { container: format!("http://{host}/a/c"), path }
    }

    fn states(watch: &StorageWatch, count: usize) -> Vec<CheckState> {
        let began = Instant::now();
        while watch.found().len() != count {
            assert!(began.elapsed() < Duration::from_secs(30));
            std::thread::sleep(Duration::from_millis(10));
        }
        watch.found().iter().map(|found| found.check.state).collect()
    }

    #[test]
    fn each_way_that_is_wanted_is_looked_at_and_a_changed_one_again() {
        let watch = StorageWatch::start().unwrap();
        let ways = [NetworkPath::PublicEndpoint, NetworkPath::PrivateEndpoint];
        let wanted = ways.map(|way| storage("20.60.1.2", way));
        watch.want(&wanted);
        assert_eq!(states(&watch, 2), [CheckState::Passed, CheckState::Failed]);
        assert!(watch.found().iter().all(|found| found.check.code == "master-target.network-path"));
        watch.want(&wanted[1..]);
        assert_eq!(states(&watch, 1), [CheckState::Failed]);
        watch.want(&[storage("10.0.0.4", ways[1])]);
        assert!(watch.found().is_empty() || watch.found()[0].storage != wanted[1], "that was another");
        assert_eq!(states(&watch, 1), [CheckState::Passed]);
        let many: Vec<_> = (0..=PATHS_MAX).map(|last| storage(&format!("10.0.0.{last}"), ways[1])).collect();
        watch.want(&many);
        assert_eq!(states(&watch, PATHS_MAX).len(), PATHS_MAX);
    }
}
