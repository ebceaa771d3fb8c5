//! The inventory kept current: the server tells what has changed.
//!
//! A thread makes a property collector with one filter per kind of object, takes the whole inventory from its first answer, and then waits in
//! `WaitForUpdatesEx` for changes, each wait with a limit. A value that came is put in its place; an object of which only a part of a value came
//! (`config.hardware.device[2000].backing`) is read again whole, so that there is no second reader of such paths. Whatever goes
//! wrong, a session that has ended above all, everything is read anew: after a pause, which grows.
//!
//! What a watch tells is a moment old. What decides about a machine is read when it is decided ([`Site::machine`](crate::Site::machine)).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use super::VsphereSite;
use super::inventory::{About, Inventory, KINDS, Kind, Objects, SWITCH, merge};
use super::properties::{Object, objects_in, property_set};
use super::session::Session;
use super::soap::{MoRef, Node, VimError, Xml};
use crate::SiteError;

/// The pause after a failure; each is twice the one before.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Updates in one answer.
const UPDATES_MAX: u32 = 100;
const METHOD: &str = "WaitForUpdatesEx";

/// An inventory that is kept current until this is dropped.
#[derive(Debug)]
pub struct InventoryWatch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What a watch knows.
#[derive(Debug, Clone, Default)]
pub struct WatchState {
    /// The last inventory; `None`: none was read yet.
    pub inventory: Option<Arc<Inventory>>,
    /// Counts up with every change.
    pub version: u64,
    /// Why it is not current, in words for people; `None`: it is.
    pub trouble: Option<String>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<WatchState>,
    changed: Condvar,
    is_ending: Mutex<bool>,
    ending: Condvar,
}

impl VsphereSite {
    /// Begins to watch the inventory.
    ///
    /// # Errors
    /// No thread could be started. A server that is away is no error: see [`WatchState::trouble`].
    pub fn watch(&self) -> Result<InventoryWatch, SiteError> {
        let shared = Arc::new(Shared::default());
        let (session, for_thread) = (Arc::clone(&self.session), Arc::clone(&shared));
        let thread = Builder::new()
            .name("vsphere-watch".to_owned())
            .spawn(move || for_thread.run(&session))
            .map_err(|error| SiteError::failed("watching a vSphere site", error))?;
        Ok(InventoryWatch { shared, thread: Some(thread) })
    }
}

impl InventoryWatch {
    /// What it knows now.
    #[must_use]
    pub fn state(&self) -> WatchState {
        self.shared.state().clone()
    }

    /// Waits until something is newer than `version`, `limit` at most; tells what is known then.
    #[must_use]
    pub fn wait(&self, version: u64, limit: Duration) -> WatchState {
        let waited = self
            .shared
            .changed
            .wait_timeout_while(self.shared.state(), limit, |state| state.version <= version);
        waited.map_or_else(|poisoned| poisoned.into_inner().0.clone(), |(state, _)| state.clone())
    }
}

impl Drop for InventoryWatch {
    /// Does not wait for the thread: it may be in a wait at the server, which ends by its limit.
    fn drop(&mut self) {
        *self.shared.is_ending() = true;
        self.shared.ending.notify_all();
        if let Some(thread) = self.thread.take().filter(JoinHandle::is_finished) {
            // What it panicked with has been printed.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn run(&self, session: &Session) {
        let mut pause = PAUSE;
        while !*self.is_ending() {
            let mut objects = Objects::new();
            let Err(error) = self.follow(session, &mut objects) else { return };
            if !objects.is_empty() {
                // It worked for a while.
                pause = PAUSE;
            }
            tracing::info!(server = session.url(), %error, "the inventory is read anew");
            self.publish(|state| state.trouble = Some(error.to_string()));
            if self.sleep(pause) {
                return;
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Follows the changes until something goes wrong, or the watch ends.
    fn follow(&self, session: &Session, objects: &mut Objects) -> Result<(), VimError> {
        let about = session.about()?;
        let follower = Follower::begin(session)?;
        let result = self.follow_with(&follower, &about, objects);
        if matches!(result, Ok(()) | Err(VimError::Fault { .. })) {
            follower.end();
        }
        result
    }

    fn follow_with(
        &self,
        follower: &Follower<'_>,
        about: &About,
        objects: &mut Objects,
    ) -> Result<(), VimError> {
        let mut version = String::new();
        loop {
            let Some(set) = follower.wait(&version)? else {
                if *self.is_ending() {
                    return Ok(());
                }
                continue;
            };
            follower.apply(objects, &set)?;
            version = set.owned_at("version");
            // The rest of a large change follows at once.
            if !set.is_true_at("truncated") {
                self.publish_objects(about, objects);
            }
            if *self.is_ending() {
                return Ok(());
            }
        }
    }

    fn publish_objects(&self, about: &About, objects: &Objects) {
        let inventory = Arc::new(Inventory::of(about.clone(), objects));
        self.publish(|state| {
            state.inventory = Some(inventory);
            state.trouble = None;
        });
    }

    fn publish(&self, change: impl FnOnce(&mut WatchState)) {
        let mut state = self.state();
        change(&mut state);
        state.version += 1;
        self.changed.notify_all();
    }

    /// Returns whether the watch ends.
    fn sleep(&self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        let mut is_ending = self.is_ending();
        while !*is_ending {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            is_ending = self
                .ending
                .wait_timeout(is_ending, left)
                .map_or_else(|poisoned| poisoned.into_inner().0, |(one, _)| one);
        }
        true
    }

    fn state(&self) -> MutexGuard<'_, WatchState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_ending(&self) -> MutexGuard<'_, bool> {
        self.is_ending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A property collector of its own with its views.
struct Follower<'a> {
    session: &'a Session,
    collector: MoRef,
    views: Vec<MoRef>,
}

impl<'a> Follower<'a> {
    fn begin(session: &'a Session) -> Result<Self, VimError> {
        let made =
            session.change(&session.manager("propertyCollector")?, "CreatePropertyCollector", Xml::new())?;
        let collector = made.first().map(Node::reference).ok_or_else(|| VimError::Protocol {
            method: "CreatePropertyCollector",
            detail: "no collector was made".to_owned(),
        })?;
        let mut follower = Self { session, collector, views: Vec::new() };
        for kind in KINDS.iter().chain([&SWITCH]) {
            follower.add(kind)?;
        }
        Ok(follower)
    }

    fn add(&mut self, kind: &Kind) -> Result<(), VimError> {
        let view = match self.session.view(kind.name) {
            Err(error) if error.is("InvalidArgument") && kind.name.starts_with("Distributed") => {
                return Ok(());
            }
            view => view?,
        };
        let spec = Xml::new()
            .group("propSet", property_set(kind.name, kind.paths))
            .group("objectSet", objects_in(&view));
        self.views.push(view);
        let filter = Xml::new().group("spec", spec).text("partialUpdates", false);
        self.session.change(&self.collector, "CreateFilter", filter).map(drop)
    }

    /// `UpdateSet`; `None` when nothing has changed for a while.
    fn wait(&self, version: &str) -> Result<Option<Node>, VimError> {
        let seconds = self.session.limits().watch_seconds;
        let options = Xml::new().text("maxWaitSeconds", seconds).text("maxObjectUpdates", UPDATES_MAX);
        let arguments = Xml::new().text("version", version).group("options", options);
        let wait = Duration::from_secs(seconds.into());
        Ok(self.session.wait(&self.collector, METHOD, arguments, wait)?.into_iter().next())
    }

    fn apply(&self, objects: &mut Objects, set: &Node) -> Result<(), VimError> {
        for update in set.all("filterSet").flat_map(|filter| filter.all("objectSet")) {
            let Some(reference) = update.reference_at("obj") else { continue };
            if update.text_at("kind") == Some("leave") {
                objects.remove(&reference);
                continue;
            }
            let (values, is_whole) = changes(update);
            if is_whole {
                merge(objects, Object { reference, properties: values, denied: BTreeSet::new() });
                continue;
            }
            // What it no longer has must go, too.
            objects.remove(&reference);
            match self.read_whole(&reference) {
                Ok(all) => all.into_iter().for_each(|object| merge(objects, object)),
                Err(error) if error.is("ManagedObjectNotFound") => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Gives the server back what it keeps for this. What is left goes with the session.
    fn end(self) {
        let collector = std::iter::once((&self.collector, "DestroyPropertyCollector"));
        for (object, method) in collector.chain(self.views.iter().map(|view| (view, "DestroyView"))) {
            if let Err(error) = self.session.change(object, method, Xml::new()) {
                tracing::debug!(%error, %object, "left to end with its session");
            }
        }
    }

    fn read_whole(&self, reference: &MoRef) -> Result<Vec<Object>, VimError> {
        let kinds = KINDS.iter().chain([&SWITCH]).filter(|kind| is_kind(reference, kind));
        kinds.map(|kind| self.session.object(reference, kind.paths)).collect()
    }
}

/// Values that came whole, by path, and whether all came so.
fn changes(update: &Node) -> (BTreeMap<String, Node>, bool) {
    let is_known = |path: &str| KINDS.iter().chain([&SWITCH]).any(|kind| kind.paths.contains(&path));
    let mut values = BTreeMap::new();
    if update.at("missingSet").is_some() {
        return (values, false);
    }
    for change in update.all("changeSet") {
        let path = change.owned_at("name");
        let value = change.at("val").filter(|_| is_known(&path) && change.text_at("op") == Some("assign"));
        match value {
            Some(value) => values.insert(path, value.clone()),
            None => return (values, false),
        };
    }
    (values, true)
}

/// Whether an object is of a kind or of one derived from it.
fn is_kind(reference: &MoRef, kind: &Kind) -> bool {
    let derived: &[&str] = match kind.name {
        "Folder" => &["StoragePod"],
        "ComputeResource" => &["ClusterComputeResource"],
        "ResourcePool" => &["VirtualApp"],
        "Network" => &["DistributedVirtualPortgroup", "OpaqueNetwork"],
        "DistributedVirtualSwitch" => &["VmwareDistributedVirtualSwitch"],
        _ => &[],
    };
    reference.kind == kind.name || derived.contains(&reference.kind.as_str())
}

#[cfg(test)]
mod tests;
