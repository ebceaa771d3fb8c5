//! What every [`Site`] must do, as a suite for the tests of all sites.
//!
//! It panics at the first promise that is not kept. Its machines have an empty disk: they run, as a machine without an operating system does. What
//! guests see and write is tested where there are guests.

#![expect(clippy::unwrap_used, reason = "a suite for tests: whatever fails, fails the test")]

use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::{Boot, DiskOrigin, Machine, MachineDisk, NewDisk, NewMachine, Nic, Power, Site, SiteError};

const DISK_SIZE: u64 = 1 << 20;

/// A fresh site to be tested.
#[derive(Debug)]
pub struct Subject {
    /// The site, with room for some MiB and without machines called `conformance-…`.
    pub site: Arc<dyn Site>,
    /// One of its datastores.
    pub datastore: String,
    /// One of its networks.
    pub network: String,
    /// It can lay a machine's disk over an image of somebody else ([`DiskOrigin::Over`]). One that cannot must say so.
    pub lays_over_images: bool,
    /// `None`: a machine is made with its disks, which are files, and with what it is known by. Else nothing of a machine is there until it is started:
    /// its UUID and the addresses of its cards are not known, its disks are made and removed by a replica, whose part the suite plays through this.
    pub replica: Option<Arc<dyn Contents>>,
}

/// The contents of disks by their paths, as who replicates to them reaches these.
pub trait Contents: Debug + Send + Sync {
    /// All bytes; `None`: there is no disk.
    fn read(&self, path: &Path) -> Option<Vec<u8>>;

    /// Writes all bytes, and makes the disk if there is none.
    fn write(&self, path: &Path, bytes: &[u8]);
}

/// Disks that are files.
#[derive(Debug)]
struct Files;

impl Contents for Files {
    fn read(&self, path: &Path) -> Option<Vec<u8>> {
        std::fs::read(path).ok()
    }

    fn write(&self, path: &Path, bytes: &[u8]) {
        std::fs::write(path, bytes).unwrap();
    }
}

impl Subject {
    fn contents(&self) -> &dyn Contents {
        self.replica.as_deref().unwrap_or(&Files)
    }

    fn fill(&self, path: &Path, byte: u8) {
        self.contents().write(path, &vec![byte; usize::try_from(DISK_SIZE).unwrap()]);
    }

    fn is_filled(&self, path: &Path, byte: u8) -> bool {
        let bytes = self.contents().read(path).unwrap();
        bytes.len() == usize::try_from(DISK_SIZE).unwrap() && bytes.iter().all(|one| *one == byte)
    }

    /// Makes a machine. What a replica would write to its disks first is written.
    fn make(&self, new: &NewMachine) -> Machine {
        let made = self.site.create_machine(new).unwrap();
        if self.replica.is_some()
            && new.disks.iter().all(|disk| matches!(disk.origin, DiskOrigin::Empty { .. }))
        {
            made.disks.iter().for_each(|disk| self.fill(&disk.path, 0));
            self.stand(&made.id);
        }
        made
    }

    /// A replica stands at a point: what the machine is to be made from is told.
    fn stand(&self, id: &str) {
        if self.replica.is_some() {
            let disks = self.site.machine(id).unwrap().disks;
            let images: Vec<_> = disks.into_iter().map(|disk| disk.path).collect();
            self.site.run_from(id, &images).unwrap();
        }
    }

    /// Adds a disk. What a replica would make is made.
    fn add(&self, id: &str, new: &NewDisk) -> MachineDisk {
        if self.replica.is_some() {
            // It replicates there (again): what was made of it before is none of its disks' any more.
            self.site.lend_disks(id, &[], "").unwrap();
        }
        let added = self.site.add_disk(id, new).unwrap();
        if self.replica.is_some() && self.contents().read(&added.path).is_none() {
            self.fill(&added.path, 0);
        }
        added
    }
}

/// Runs all checks. They leave nothing behind.
///
/// # Panics
/// At the first promise that is not kept.
pub fn site(subject: &Subject) {
    places_are_listed(subject);
    a_machine_is_made_once(subject);
    what_is_not_there_is_named(subject);
    power_is_what_it_says(subject);
    a_running_machine_is_left_alone(subject);
    snapshots_keep_what_was(subject);
    network_cards_are_connected(subject);
    disks_lie_over_images(subject);
    disks_come_and_go(subject);
}

/// A machine with one disk and one network card.
#[must_use]
pub fn machine(subject: &Subject, id: &str) -> NewMachine {
    NewMachine {
        id: format!("conformance-{id}"),
        name: format!("Conformance {id}"),
        system_uuid: None,
        cpus: 1,
        memory_mib: 64,
        boot: Boot::Bios,
        disks: vec![NewDisk {
            size: DISK_SIZE,
            serial: String::new(),
            origin: DiskOrigin::Empty { datastore: subject.datastore.clone() },
        }],
        nics: vec![Nic { mac: String::new(), network: Some(subject.network.clone()) }],
        beside: None,
        mark: Some("conformance".to_owned()),
    }
}

fn places_are_listed(subject: &Subject) {
    let datastores = subject.site.datastores().unwrap();
    let datastore = datastores.iter().find(|one| one.name == subject.datastore).unwrap();
    assert!(0 < datastore.free && datastore.free <= datastore.capacity, "{datastore:?}");
    assert!(subject.site.networks().unwrap().iter().any(|one| one.name == subject.network));
}

fn a_machine_is_made_once(subject: &Subject) {
    let site = &subject.site;
    let new = machine(subject, "made");
    let made = subject.make(&new);
    assert_eq!((&made.id, &made.name, &made.mark), (&new.id, &new.name, &new.mark));
    assert_eq!((made.power, made.cpus, made.memory_mib), (Power::Off, 1, 64));
    assert_eq!(made.disks.len(), 1);
    assert_eq!(made.disks[0].size, DISK_SIZE);
    assert!(!made.disks[0].serial.is_empty());
    let is_made_whole = subject.replica.is_none();
    assert_eq!(!made.system_uuid.is_empty(), is_made_whole);
    assert_eq!(!made.nics[0].mac.is_empty(), is_made_whole, "a card has an address when the site chose it");
    let path = &made.disks[0].path;
    assert!(subject.is_filled(path, 0), "an empty disk is zeros");

    subject.fill(path, 7);
    assert_eq!(site.create_machine(&new).unwrap(), made, "made again, it is the same");
    assert!(subject.is_filled(path, 7), "and its disks are as they were");
    assert_eq!(site.machine(&new.id).unwrap(), made);
    assert!(site.machines().unwrap().contains(&made));
    let foreign = NewMachine { mark: Some("another".to_owned()), ..new.clone() };
    assert!(matches!(site.create_machine(&foreign), Err(SiteError::Taken { .. })));

    site.delete_machine(&new.id).unwrap();
    site.delete_machine(&new.id).unwrap();
    assert_eq!(
        subject.contents().read(path).is_none(),
        is_made_whole,
        "its disks are gone, a replica's stay"
    );
    assert!(matches!(site.machine(&new.id), Err(SiteError::NoSuchMachine { .. })));
    assert!(subject.is_filled(&subject.make(&new).disks[0].path, 0));
    site.delete_machine(&new.id).unwrap();
}

fn what_is_not_there_is_named(subject: &Subject) {
    let site = &subject.site;
    let absent = "conformance-absent";
    let all = [
        site.power_on(absent),
        site.run_from(absent, &[]),
        site.power_off(absent),
        site.shut_down(absent, Duration::from_secs(1)).map(drop),
        site.connect_nics(absent, &[]),
        site.create_snapshot(absent, "s"),
        site.revert_snapshot(absent, "s"),
        site.delete_snapshot(absent, "s"),
        site.console(absent, 1).map(drop),
    ];
    for (index, result) in all.iter().enumerate() {
        assert!(matches!(result, Err(SiteError::NoSuchMachine { .. })), "call {index}: {result:?}");
    }
    let mut new = machine(subject, "nowhere");
    new.disks[0].origin = DiskOrigin::Empty { datastore: "absent".to_owned() };
    assert!(matches!(site.create_machine(&new), Err(SiteError::NoSuchDatastore { .. })));
    let mut new = machine(subject, "nowhere");
    new.nics[0].network = Some("absent".to_owned());
    assert!(matches!(site.create_machine(&new), Err(SiteError::NoSuchNetwork { .. })));
    let mut new = machine(subject, "nowhere");
    new.disks[0].size = 1 << 60;
    assert!(matches!(site.create_machine(&new), Err(SiteError::NoRoom { .. })));
    assert!(matches!(site.machine(&new.id), Err(SiteError::NoSuchMachine { .. })), "nothing is left");
}

fn power_is_what_it_says(subject: &Subject) {
    let site = &subject.site;
    let id = subject.make(&machine(subject, "power")).id;
    let power = || site.machine(&id).unwrap().power;
    site.power_off(&id).unwrap();
    assert!(site.shut_down(&id, Duration::from_secs(1)).unwrap(), "what is off is shut down");
    for _ in 0..2 {
        site.power_on(&id).unwrap();
        site.power_on(&id).unwrap();
        assert_eq!(power(), Power::On);
        let now = site.machine(&id).unwrap();
        assert!(!now.system_uuid.is_empty() && !now.nics[0].mac.is_empty(), "what runs is known: {now:?}");
        site.power_off(&id).unwrap();
        assert_eq!(power(), Power::Off);
    }
    site.power_on(&id).unwrap();
    assert!(!site.shut_down(&id, Duration::from_secs(1)).unwrap(), "nothing in it listens");
    assert_eq!(power(), Power::On, "a shutdown that nobody heard switches nothing off");
    site.power_off(&id).unwrap();
    site.delete_machine(&id).unwrap();
}

fn a_running_machine_is_left_alone(subject: &Subject) {
    let site = &subject.site;
    let id = subject.make(&machine(subject, "running")).id;
    site.create_snapshot(&id, "before").unwrap();
    site.power_on(&id).unwrap();
    for result in
        [site.delete_machine(&id), site.create_snapshot(&id, "s"), site.revert_snapshot(&id, "before")]
    {
        assert!(matches!(result, Err(SiteError::Running { .. })), "{result:?}");
    }
    assert_eq!(site.machine(&id).unwrap().power, Power::On);
    site.delete_snapshot(&id, "before").unwrap();
    assert_eq!(site.machine(&id).unwrap().power, Power::On, "a snapshot goes while the machine runs");
    site.power_off(&id).unwrap();
    site.delete_machine(&id).unwrap();
}

fn snapshots_keep_what_was(subject: &Subject) {
    let site = &subject.site;
    let machine = subject.make(&machine(subject, "snapshots"));
    let (id, path) = (&machine.id, &machine.disks[0].path);
    let snapshots = || site.machine(id).unwrap().snapshots;
    subject.fill(path, 1);
    let missing = site.revert_snapshot(id, "one");
    assert!(matches!(missing, Err(SiteError::NoSuchSnapshot { .. })), "{missing:?}");
    site.delete_snapshot(id, "one").unwrap();
    for name in ["one", "two", "three"] {
        site.create_snapshot(id, name).unwrap();
        site.create_snapshot(id, name).unwrap();
    }
    assert_eq!(snapshots(), ["one", "two", "three"]);
    assert_eq!(site.machine(id).unwrap().disks, machine.disks, "the disk is where it was");
    site.power_on(id).unwrap();
    site.power_off(id).unwrap();
    site.delete_snapshot(id, "two").unwrap();
    assert_eq!(snapshots(), ["one", "three"]);
    site.revert_snapshot(id, "one").unwrap();
    site.revert_snapshot(id, "one").unwrap();
    assert_eq!(snapshots(), ["one"], "it stays, later ones go");
    site.delete_snapshot(id, "one").unwrap();
    site.delete_snapshot(id, "one").unwrap();
    assert_eq!(snapshots(), [""; 0]);
    assert!(subject.is_filled(path, 1));
    site.delete_machine(id).unwrap();
}

fn disks_come_and_go(subject: &Subject) {
    let site = &subject.site;
    let made = subject.make(&machine(subject, "disks"));
    let id = &made.id;
    let new = NewDisk {
        size: DISK_SIZE,
        serial: "second".into(),
        origin: DiskOrigin::Empty { datastore: subject.datastore.clone() },
    };
    site.set_disks_aside(id, &[]).unwrap();
    if !site.changes_disks() {
        assert!(site.add_disk(id, &new).is_err() && site.remove_disk(id, "second").is_err());
        assert!(site.set_disks_aside(id, std::slice::from_ref(&made.disks[0].serial)).is_err());
        return site.delete_machine(id).unwrap();
    }
    let disks = || site.machine(id).unwrap().disks;
    let added = subject.add(id, &new);
    assert!(subject.is_filled(&added.path, 0));
    subject.fill(&added.path, 3);
    assert_eq!(subject.add(id, &new), added, "added again, it is the same");
    assert_eq!(disks(), [made.disks[0].clone(), added.clone()]);
    let first = std::slice::from_ref(&made.disks[0].serial);
    for _ in 0..2 {
        site.set_disks_aside(id, first).unwrap();
        assert_eq!(disks(), std::slice::from_ref(&added));
    }
    subject.stand(id);
    site.create_snapshot(id, "above").unwrap();
    let with_snapshot = site.add_disk(id, &NewDisk { serial: "third".into(), ..new.clone() });
    assert!(with_snapshot.is_err() && site.set_disks_aside(id, &[]).is_err());
    site.power_on(id).unwrap();
    assert!(matches!(site.remove_disk(id, "second"), Err(SiteError::Running { .. })));
    site.power_off(id).unwrap();
    site.revert_snapshot(id, "above").unwrap();
    site.delete_snapshot(id, "above").unwrap();
    site.set_disks_aside(id, &[]).unwrap();
    assert_eq!(disks(), [made.disks[0].clone(), added.clone()], "it is where it was");
    assert!(subject.is_filled(&added.path, 3), "and as it was");

    site.set_disks_aside(id, &["second".into()]).unwrap();
    subject.stand(id);
    site.power_on(id).unwrap();
    for _ in 0..2 {
        site.remove_disk(id, "second").unwrap();
    }
    site.power_off(id).unwrap();
    let is_made_whole = subject.replica.is_none();
    assert_eq!(
        subject.contents().read(&added.path).is_none(),
        is_made_whole,
        "what was set aside goes while it runs"
    );
    let again = subject.add(id, &new);
    assert!(subject.is_filled(&again.path, 0), "it is another one");
    site.remove_disk(id, "second").unwrap();
    assert_eq!(disks(), made.disks);
    site.delete_machine(id).unwrap();
}

fn network_cards_are_connected(subject: &Subject) {
    let site = &subject.site;
    let id = site.create_machine(&machine(subject, "networks")).unwrap().id;
    let network = || site.machine(&id).unwrap().nics[0].network.clone();
    let mac = site.machine(&id).unwrap().nics[0].mac.clone();
    site.connect_nics(&id, &[None]).unwrap();
    assert_eq!(network(), None);
    let unknown = site.connect_nics(&id, &[Some("absent".to_owned())]);
    assert!(matches!(unknown, Err(SiteError::NoSuchNetwork { .. })), "{unknown:?}");
    site.connect_nics(&id, &[Some(subject.network.clone())]).unwrap();
    assert_eq!(network().as_ref(), Some(&subject.network));
    assert_eq!(site.machine(&id).unwrap().nics[0].mac, mac, "an address does not change");
    site.delete_machine(&id).unwrap();
}

fn disks_lie_over_images(subject: &Subject) {
    let site = &subject.site;
    let owner = subject.make(&machine(subject, "image"));
    let image = &owner.disks[0].path;
    subject.fill(image, 9);
    let mut new = machine(subject, "over");
    new.disks[0].origin = DiskOrigin::Over { image: image.clone(), datastore: subject.datastore.clone() };
    if !subject.lays_over_images {
        let refused = site.create_machine(&new);
        assert!(matches!(refused, Err(SiteError::Failed { passing: false, .. })), "{refused:?}");
        assert!(matches!(site.machine(&new.id), Err(SiteError::NoSuchMachine { .. })), "nothing is left");
        return site.delete_machine(&owner.id).unwrap();
    }
    let over = site.create_machine(&new).unwrap();
    assert_eq!(over.disks[0].path, *image);
    assert_eq!(over.snapshots, [""; 0]);
    site.create_snapshot(&over.id, "s").unwrap();
    site.power_on(&over.id).unwrap();
    site.power_off(&over.id).unwrap();
    site.delete_snapshot(&over.id, "s").unwrap();
    site.delete_machine(&over.id).unwrap();
    assert!(subject.is_filled(image, 9), "the image is somebody else's");
    site.delete_machine(&owner.id).unwrap();
}
