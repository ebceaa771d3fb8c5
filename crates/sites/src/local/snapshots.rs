//! Snapshots: layers over disks, taken, gone back to, merged.
//!
//! In what order, and why a process may be killed anywhere:
//!
//! * *take*, *go back*: the new, empty layers are made; then `machine.toml` is replaced and has them all at once; then what it names no longer is
//!   removed. Until then nothing has changed for the machine.
//! * *merge* first notes in `machine.toml` that the snapshot is `merging`. Then, disk by disk, its layer is written into the image below, and only
//!   then `machine.toml` loses the layer. Merged twice is merged once: the layer's contents lie over the same contents.
//! * *merge of the written layer while the machine runs*: QEMU copies and follows the guest's writes; at the end it **pivots**, the image below
//!   is written from then on. Should QEMU die after that with a `machine.toml` that still has the layer, the next start would show old data. So
//!   the guest stands still from before the pivot until `machine.toml` is durable, for some tens of milliseconds, and both images are equal for
//!   as long as they are in doubt. A process killed in this moment leaves the guest standing: merging again, or starting the machine, first
//!   brings the pivots to their end, records what QEMU writes to, and then lets it go on. While a pivot may still happen, the guest never goes on.

use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use qapi::qmp::{self, JobStatus, RunState};

use super::description::{Description, SnapshotDescription};
use super::monitor::Monitor;
use super::{LocalSite, MACHINE, arguments, images};
use crate::SiteError;

/// Longest time to merge the layers of one machine while it runs: some TB.
const MERGE_LIMIT: Duration = Duration::from_secs(6 * 3600);
/// Longest time that the guest stands still for one disk.
const PIVOT_LIMIT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
const PIVOT_POLL_INTERVAL: Duration = Duration::from_millis(2);
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

impl LocalSite {
    pub(super) fn take_snapshot(&self, id: &str, name: &str) -> Result<(), SiteError> {
        let action = format!("taking the snapshot {name:?}");
        let _lock = self.lock(id)?;
        let mut description = self.load(id)?;
        match description.snapshot(name) {
            Some(there) if description.snapshots[there].merging => {
                return Err(SiteError::failed(action, "one of this name is being removed: remove it first"));
            }
            Some(_) => return Ok(()),
            None => {}
        }
        self.must_be_off(id, &action)?;
        for position in 0..description.disks.len() {
            let below = description.disks[position].layers.len();
            let layer = self.make_layer(id, &mut description, position, below)?;
            description.disks[position].layers.push(layer);
        }
        let snapshot = SnapshotDescription { name: name.to_owned(), merging: false, merged: [].into() };
        description.snapshots.push(snapshot);
        self.step("save the layers");
        self.save(id, MACHINE, &description)
    }

    pub(super) fn go_back(&self, id: &str, name: &str) -> Result<(), SiteError> {
        let action = format!("going back to the snapshot {name:?}");
        let _lock = self.lock(id)?;
        let mut description = self.load(id)?;
        let snapshot = description.snapshot(name).filter(|there| !description.snapshots[*there].merging);
        let missing = || SiteError::NoSuchSnapshot { id: id.to_owned(), name: name.to_owned() };
        let snapshot = snapshot.ok_or_else(missing)?;
        self.must_be_off(id, &action)?;
        for position in 0..description.disks.len() {
            let below = description.layer_of(position, snapshot);
            let layer = self.make_layer(id, &mut description, position, below)?;
            let layers = &mut description.disks[position].layers;
            layers.truncate(below);
            layers.push(layer);
        }
        description.snapshots.truncate(snapshot + 1);
        self.step("save the layers");
        self.save(id, MACHINE, &description)?;
        self.step("remove old layers");
        self.remove_unknown_layers(id, &description)
    }

    /// An empty layer for the disk at `position`, over its `below` first layers.
    fn make_layer(
        &self,
        id: &str,
        description: &mut Description,
        position: usize,
        below: usize,
    ) -> Result<PathBuf, SiteError> {
        let disk = &description.disks[position];
        let making = |error: io::Error| {
            SiteError::failed(format!("making a layer over disk {position} of {id}"), error)
        };
        let datastore = disk.datastore.as_ref().or_else(|| self.settings.datastores.keys().next());
        let directory = self.datastore(datastore.map_or("", String::as_str))?.join(id);
        let path = directory.join(format!("disk-{position}.{}.qcow2", description.next_layer));
        let below = disk.below(below);
        self.step("make a layer");
        images::create_directory(&directory).map_err(making)?;
        let size = images::size(&disk.path).map_err(making)?;
        let is_raw = below == disk.path;
        images::create_layer(&self.settings.qemu_img, &path, below, is_raw, size).map_err(making)?;
        description.next_layer += 1;
        Ok(path)
    }

    pub(super) fn merge_snapshot(&self, id: &str, name: &str) -> Result<(), SiteError> {
        let _lock = self.lock(id)?;
        let mut description = self.load(id)?;
        let Some(snapshot) = description.snapshot(name) else {
            // Whoever removed it may have been killed before its very last steps.
            if self.is_running(id)? {
                self.resume(id, &mut description)?;
            }
            return self.remove_unknown_layers(id, &description);
        };
        if !description.snapshots[snapshot].merging {
            self.step("note that it is merged");
            description.snapshots[snapshot].merging = true;
            self.save(id, MACHINE, &description)?;
        }
        if self.is_running(id)? {
            self.merge_running(id, &mut description, snapshot)?;
        } else {
            self.merge_off(id, &mut description, snapshot)?;
        }
        self.step("forget the snapshot");
        description.snapshots.remove(snapshot);
        self.save(id, MACHINE, &description)?;
        self.step("remove old layers");
        self.remove_unknown_layers(id, &description)
    }

    fn merge_off(&self, id: &str, description: &mut Description, snapshot: usize) -> Result<(), SiteError> {
        for position in unmerged(description, snapshot) {
            let failed =
                |error: io::Error| SiteError::failed(format!("merging disk {position} of {id}"), error);
            let layer = description.layer_of(position, snapshot);
            let disk = &description.disks[position];
            let mut chain: Vec<&Path> = vec![&disk.path];
            chain.extend(disk.layers[..=layer].iter().map(PathBuf::as_path));
            self.step("merge a layer");
            images::merge_down(&self.settings.qemu_img, &chain).map_err(failed)?;
            if let Some(above) = disk.layers.get(layer + 1) {
                let below = disk.below(layer);
                images::retitle(&self.settings.qemu_img, above, below, below == disk.path).map_err(failed)?;
            }
            self.step("save a merge");
            description.remove_layer(position, snapshot);
            self.save(id, MACHINE, description)?;
        }
        Ok(())
    }

    fn merge_running(
        &self,
        id: &str,
        description: &mut Description,
        snapshot: usize,
    ) -> Result<(), SiteError> {
        let merging =
            |error: io::Error| SiteError::passing(format!("merging a snapshot of the running {id}"), error);
        let mut monitor = self.monitor(id, &description.uuid)?;
        self.settle(id, description, &mut monitor)?;
        let is_written = snapshot + 1 == description.snapshots.len();
        let positions = unmerged(description, snapshot);
        for &position in &positions {
            self.step("start a merge");
            begin(&mut monitor, description, position, snapshot).map_err(merging)?;
        }
        let until = if is_written { JobStatus::ready } else { JobStatus::concluded };
        // QEMU serves one client at a time: others must get their turn while this takes its hours.
        let uuid = description.uuid.clone();
        drop(monitor);
        let mut connect = || self.monitor(id, &uuid).map_err(io::Error::other);
        for &position in &positions {
            wait_for(&mut connect, position, until).map_err(merging)?;
        }
        let mut monitor = self.monitor(id, &uuid)?;
        if is_written {
            self.pivot(id, description, &mut monitor, &positions)
        } else {
            for &position in &positions {
                self.step("end the merge");
                conclude(&mut monitor, position, MERGE_LIMIT).map_err(merging)?;
            }
            self.record_merged(id, description, &mut monitor)
        }
    }

    /// The end of a merge of written layers: all within one moment in which the guest stands still.
    fn pivot(
        &self,
        id: &str,
        description: &mut Description,
        monitor: &mut Monitor,
        positions: &[usize],
    ) -> Result<(), SiteError> {
        let merging =
            |error: io::Error| SiteError::passing(format!("ending the merge on the running {id}"), error);
        let stood = monitor.state().map_err(merging)?;
        let started = Instant::now();
        self.step("stop the guest");
        monitor.execute(&qmp::stop {}).map_err(merging)?;
        let mut pivoted = Ok(());
        for &position in positions {
            pivoted = self.complete(monitor, position);
            if pivoted.is_err() {
                // What has pivoted is recorded all the same. What may still pivot is called off; if that fails, the guest goes on standing.
                call_off(monitor, position).map_err(merging)?;
                break;
            }
        }
        self.step("record the pivot");
        self.record_merged(id, description, monitor)?;
        self.step("let the guest go on");
        if !matches!(stood, RunState::shutdown | RunState::internal_error) {
            monitor.execute(&qmp::cont {}).map_err(merging)?;
        }
        tracing::info!(machine = id, stood_ms = started.elapsed().as_millis(), "merged while running");
        pivoted.map_err(merging)
    }

    /// Brings to an end what a killed process has left: if the guest stands still, pivots may be under way. It goes on standing.
    pub(super) fn settle(
        &self,
        id: &str,
        description: &mut Description,
        monitor: &mut Monitor,
    ) -> Result<(), SiteError> {
        let settling =
            |error: io::Error| SiteError::passing(format!("ending an earlier merge of {id}"), error);
        if !matches!(monitor.state().map_err(settling)?, RunState::running) {
            for position in 0..description.disks.len() {
                let job = monitor.job(&job_id(position)).map_err(settling)?;
                // One that has not copied everything yet cannot have been told to pivot.
                if job.is_some_and(|job| !matches!(job.status, JobStatus::running | JobStatus::concluded))
                    && let Err(error) = self.complete(monitor, position)
                {
                    tracing::warn!(machine = id, disk = position, %error, "an earlier merge failed");
                    call_off(monitor, position).map_err(settling)?;
                }
            }
        }
        self.record_merged(id, description, monitor)
    }

    /// Ends the merge of a written layer with the pivot.
    fn complete(&self, monitor: &mut Monitor, position: usize) -> io::Result<()> {
        let job = monitor.job(&job_id(position))?;
        if job.is_some_and(|job| job.status == JobStatus::ready) {
            self.step("pivot");
            monitor.execute(&qmp::job_complete { id: job_id(position) })?;
        }
        self.step("end the merge");
        conclude(monitor, position, PIVOT_LIMIT)
    }

    /// Takes the layers that QEMU has merged out of `machine.toml`, durably. What was merged but is not recorded was not written since, see
    /// this file's header.
    fn record_merged(
        &self,
        id: &str,
        description: &mut Description,
        monitor: &mut Monitor,
    ) -> Result<(), SiteError> {
        let recording =
            |error: io::Error| SiteError::passing(format!("recording what is merged of {id}"), error);
        for position in 0..description.disks.len() {
            // A merge that is over keeps the layer open for as long as nobody has asked how it went.
            let job = monitor.job(&job_id(position)).map_err(recording)?;
            if job.is_some_and(|job| job.status == JobStatus::concluded)
                && let Err(error) = conclude(monitor, position, PIVOT_LIMIT)
            {
                tracing::warn!(machine = id, disk = position, %error, "an earlier merge failed");
            }
        }
        let mut changed = false;
        let merging = (0..description.snapshots.len()).filter(|one| description.snapshots[*one].merging);
        for snapshot in merging.collect::<Vec<_>>() {
            for position in unmerged(description, snapshot) {
                let layer = description.layer_of(position, snapshot);
                let disk = &description.disks[position];
                if release(monitor, &disk.layers[layer]).map_err(recording)? {
                    images::sync(disk.below(layer)).map_err(recording)?;
                    description.remove_layer(position, snapshot);
                    changed = true;
                }
            }
        }
        if changed { self.save(id, MACHINE, description) } else { Ok(()) }
    }

    fn remove_unknown_layers(&self, id: &str, description: &Description) -> Result<(), SiteError> {
        let known: Vec<&Path> =
            description.disks.iter().flat_map(|disk| disk.layers.iter().map(PathBuf::as_path)).collect();
        for directory in self.own_directories(id) {
            let removed = images::unknown_layers(&directory, &known)
                .and_then(|unknown| unknown.iter().try_for_each(|path| images::remove(path)));
            removed.map_err(|error| SiteError::failed(format!("removing old layers of {id}"), error))?;
        }
        Ok(())
    }
}

/// Disks that still have the layer of a snapshot.
fn unmerged(description: &Description, snapshot: usize) -> Vec<usize> {
    let merged = &description.snapshots[snapshot].merged;
    (0..description.disks.len()).filter(|position| !merged.contains(position)).collect()
}

fn job_id(position: usize) -> String {
    format!("merge-disk{position}")
}

/// Closes a layer that QEMU uses no longer. Returns whether it is closed; if not, it is a part of a disk.
fn release(monitor: &mut Monitor, layer: &Path) -> io::Result<bool> {
    let node_name = arguments::node_name(layer);
    let nodes = monitor.nodes()?;
    if !nodes.contains(&node_name) {
        return Ok(true);
    }
    match monitor.execute(&qmp::blockdev_del { node_name: node_name.clone() }) {
        Ok(_) => Ok(true),
        // QEMU refuses to delete what is in use. A connection that broke is another matter, which the next command tells.
        Err(_) => monitor.nodes().map(|nodes| !nodes.contains(&node_name)),
    }
}

#[expect(deprecated, reason = "every field of QEMU's command must be named, also those that have successors")]
/// Starts the merge of one layer, or takes on the one that a killed process has started.
fn begin(
    monitor: &mut Monitor,
    description: &Description,
    position: usize,
    snapshot: usize,
) -> io::Result<()> {
    if monitor.job(&job_id(position))?.is_some() {
        return Ok(());
    }
    let disk = &description.disks[position];
    let layer = description.layer_of(position, snapshot);
    let is_written = layer + 1 == disk.layers.len();
    let below = disk.below(layer);
    monitor.execute(&qmp::block_commit {
        job_id: Some(job_id(position)),
        device: arguments::node_name(disk.top()),
        top_node: Some(arguments::node_name(&disk.layers[layer])),
        base_node: Some(arguments::node_name(below)),
        // What the layer above is told to lie on.
        backing_file: (!is_written).then(|| below.to_string_lossy().into_owned()),
        auto_dismiss: Some(false),
        auto_finalize: None,
        backing_mask_protocol: None,
        base: None,
        filter_node_name: None,
        on_error: None,
        speed: None,
        top: None,
    })?;
    Ok(())
}

/// Waits until a merge has come to `until`, or to an end.
fn wait_for(
    connect: &mut dyn FnMut() -> io::Result<Monitor>,
    position: usize,
    until: JobStatus,
) -> io::Result<()> {
    let started = Instant::now();
    let mut told = Instant::now();
    loop {
        let Some(job) = connect()?.job(&job_id(position))? else {
            return Err(io::Error::other(
                "QEMU does not know the merge any longer: was the machine started anew?",
            ));
        };
        if job.status == until || job.status == JobStatus::concluded {
            return Ok(());
        }
        if told.elapsed() > PROGRESS_INTERVAL {
            told = Instant::now();
            tracing::info!(disk = position, done = job.current_progress, all = job.total_progress, "merging");
        }
        if started.elapsed() > MERGE_LIMIT {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "merging takes longer than 6 hours; it goes on",
            ));
        }
        thread::sleep(POLL_INTERVAL);
    }
}

/// Makes sure that a merge does not pivot any more.
fn call_off(monitor: &mut Monitor, position: usize) -> io::Result<()> {
    if monitor.job(&job_id(position))?.is_none() {
        return Ok(());
    }
    if let Err(error) =
        monitor.execute(&qmp::block_job_cancel { device: job_id(position), force: Some(true) })
    {
        tracing::debug!(%error, "a merge ended while it was called off");
    }
    let ended = conclude(monitor, position, PIVOT_LIMIT);
    // How it ended does not matter, that it did does.
    if monitor.job(&job_id(position))?.is_none() {
        return Ok(());
    }
    let why = ended.err().map_or_else(String::new, |error| error.to_string());
    let message = format!("{why}; the guest stands still until this is tried again, or it is switched off");
    Err(io::Error::new(io::ErrorKind::TimedOut, message))
}

/// Waits for a merge's end, and tells how it ended.
fn conclude(monitor: &mut Monitor, position: usize, limit: Duration) -> io::Result<()> {
    let started = Instant::now();
    loop {
        match monitor.job(&job_id(position))? {
            None => return Ok(()),
            Some(job) if job.status == JobStatus::concluded => {
                monitor.execute(&qmp::job_dismiss { id: job_id(position) })?;
                return job
                    .error
                    .map_or(Ok(()), |error| Err(io::Error::other(format!("QEMU says: {error}"))));
            }
            Some(_) if started.elapsed() > limit => {
                let message = format!("the merge was not done after {} s", limit.as_secs());
                return Err(io::Error::new(io::ErrorKind::TimedOut, message));
            }
            Some(_) => thread::sleep(PIVOT_POLL_INTERVAL),
        }
    }
}
