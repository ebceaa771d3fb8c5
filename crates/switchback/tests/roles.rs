//! Process servers and master targets as real processes, led by a configuration server, with real replicas.

#![expect(clippy::unwrap_used, reason = "tests")]

mod cs;
mod rig;

use std::path::Path;
use std::sync::atomic::Ordering;

use cs::Site;
use cs::replica::{self, SIZE, Wanted};
use rig::{MIB, fail, same, scribble, succeed, wait_until};
use switchback_disk::{DirVolume, FileDisk};
use switchback_identity::{CERTIFICATE_LIFETIME_MS, Role};
use switchback_model::azure::NetworkPath;
use switchback_model::component::{
    Desired, MasterTargetDesired, ProcessServerDesired, ReplicaActual, ReplicaMode, StoragePath,
};
use switchback_model::{CheckState, Epoch, Seq};

const MT: &str = "target mt1";
fn route(site: &Site, ps: &str, next: &str, epoch: u64) {
    replica::route(site, ps, "web01", ("mt1", next), epoch);
}

fn sync(site: &Site, who: &str, to: &str, epoch: &str) -> std::process::Command {
    replica::sync(site, who, &format!("{to}/web01"), epoch)
}

/// A site whose first point has arrived.
fn protected() -> (Site, Wanted, [rig::Process; 2], [String; 2]) {
    let site = Site::new();
    site.image("a.img", 16, 1);
    let wanted = Wanted::new(&site.path("target.img"));
    FileDisk::create(site.path("target.img"), SIZE).unwrap();
    wanted.tell(&site, "mt1");
    let (mt, mt_address) = site.start("master-target", "mt1");
    route(&site, "ps1", &mt_address, 1);
    let (ps, ps_address) = site.start("process-server", "ps1");
    site.enrol("web01");
    let receives = |replica: &ReplicaActual| replica.reached == Some(ReplicaMode::Receive);
    site.cs.service.until_replica(MT, "it receives", receives);
    succeed(&mut sync(&site, "web01", &ps_address, "1"));
    site.cs.service.until_replica(MT, "it is applied", |replica| replica.applied == Some(Seq(1)));
    assert!(same(&site.path("a.img"), &site.path("target.img")));
    (site, wanted, [ps, mt], [ps_address, mt_address])
}

#[test]
fn a_point_is_shown_while_newer_ones_are_applied() {
    let (site, mut wanted, [_ps, _mt], [ps_address, _]) = protected();
    let enrolled = site.cs.service.enrolled.lock().unwrap().clone();
    assert_eq!(enrolled, [MT, "process-server ps1", "source web01"]);
    let (source, target, before) = (site.path("a.img"), site.path("target.img"), site.path("before.img"));
    std::fs::copy(&source, &before).unwrap();
    wanted.replica.views = [("test1".to_owned(), Seq(1))].into();
    wanted.tell(&site, "mt1");
    let is_shown = |replica: &ReplicaActual| replica.views.contains_key("test1");
    site.cs.service.until_replica(MT, "the view is shown", is_shown);
    second_point(&site, &ps_address);
    assert!(same(&source, &target));
    assert!(FileDisk::open_exclusive(&target).is_err(), "the disks are guarded while it receives");
    let file = site.path("mt1/views/web01/test1/disk-0.raw");
    assert!(same(&before, &file));
    wanted.replica.views.clear();
    wanted.tell(&site, "mt1");
    site.cs.service.until_replica(MT, "the view is gone", |replica| replica.views.is_empty());
    assert!(!file.exists());
}

fn second_point(site: &Site, ps_address: &str) {
    scribble(&site.path("a.img"), 3 * MIB + 5, 100_000, 2);
    succeed(&mut sync(site, "web01", ps_address, "1"));
    let is_applied = |replica: &ReplicaActual| replica.applied == Some(Seq(2));
    site.cs.service.until_replica(MT, "the second point is applied", is_applied);
}

/// Whether it stands at the first of two points, fenced.
fn stands(replica: &ReplicaActual) -> bool {
    let mode = Some(ReplicaMode::StandAt { seq: Seq(1) });
    replica.reached == mode && replica.epoch == Epoch(2) && replica.points.len() == 2
}

#[test]
fn a_replica_that_stands_leaves_its_disks_to_the_machine_also_over_restarts() {
    let (mut site, mut wanted, [_ps, mut mt], [ps_address, _]) = protected();
    let (source, target, used) = (site.path("a.img"), site.path("target.img"), site.path("used.img"));
    let before = site.path("before.img");
    std::fs::copy(&source, &before).unwrap();
    second_point(&site, &ps_address);
    wanted.replica.mode = ReplicaMode::StandAt { seq: Seq(1) };
    wanted.replica.epoch = Epoch(2);
    wanted.tell(&site, "mt1");
    site.cs.service.until_replica(MT, "it stands", stands);
    assert!(same(&before, &target));
    // The machine above has the disks, and does what it likes.
    let machine = FileDisk::open_exclusive(&target).unwrap();
    mt.kill();
    scribble(&target, 9 * MIB, 5000, 3);
    std::fs::copy(&target, &used).unwrap();
    let (mut mt, _) = site.start("master-target", "mt1");
    site.cs.service.until_replica(MT, "it stands after a restart", stands);
    // Nor does one that remembers something else, and hears nothing.
    mt.kill();
    drop(machine);
    let remembered = site.path("mt1/desired");
    let text = std::fs::read_to_string(&remembered).unwrap();
    let older = text.replace(r#"{"kind":"stand-at","seq":1}"#, r#"{"kind":"receive"}"#);
    assert_ne!(text, older);
    std::fs::write(&remembered, older).unwrap();
    let address = site.cs.address;
    site.cs.stop();
    let file = site.path("mt1.address");
    let mut command = site.role("master-target", "mt1");
    command.arg("--address-file").arg(&file).stdout(std::process::Stdio::null());
    let alone = rig::Process(command.spawn().unwrap());
    wait_until("it listens", || file.exists());
    std::thread::sleep(std::time::Duration::from_secs(2));
    drop(FileDisk::open_exclusive(&target).unwrap());
    drop(alone);
    site.cs.listen(address);
    let (_mt, _) = site.start("master-target", "mt1");
    site.cs.service.until_replica(MT, "it stands yet", stands);
    assert!(same(&used, &target));
}

#[test]
fn a_replica_goes_on_from_where_it_stood_under_a_newer_epoch_and_is_removed() {
    let (site, mut wanted, [_ps, _mt], [ps_address, mt_address]) = protected();
    let (source, target) = (site.path("a.img"), site.path("target.img"));
    second_point(&site, &ps_address);
    wanted.replica.mode = ReplicaMode::StandAt { seq: Seq(1) };
    wanted.replica.epoch = Epoch(2);
    wanted.tell(&site, "mt1");
    site.cs.service.until_replica(MT, "it stands", stands);
    wanted.replica.mode = ReplicaMode::Receive;
    wanted.tell(&site, "mt1");
    let goes_on = |replica: &ReplicaActual| {
        replica.reached == Some(ReplicaMode::Receive) && replica.applied == Some(Seq(2))
    };
    site.cs.service.until_replica(MT, "it receives again", goes_on);
    assert!(same(&source, &target));
    route(&site, "ps1", &mt_address, 2);
    wait_until("the old epoch is refused", || {
        let said = sync(&site, "web01", &ps_address, "1").output().unwrap().stderr;
        String::from_utf8_lossy(&said).contains("epoch 1 is over")
    });
    scribble(&source, 5 * MIB, 7000, 4);
    succeed(&mut sync(&site, "web01", &ps_address, "2"));
    let is_applied = |replica: &ReplicaActual| replica.applied == Some(Seq(3));
    site.cs.service.until_replica(MT, "the third point is applied", is_applied);
    assert!(same(&source, &target));

    // As the configuration server has it of a replica that is not needed any more.
    wanted.replica.mode = ReplicaMode::Remove;
    wanted.replica.targets.clear();
    wanted.replica.sizes.clear();
    wanted.tell(&site, "mt1");
    let is_removed = |replica: &ReplicaActual| replica.reached == Some(ReplicaMode::Remove);
    site.cs.service.until_replica(MT, "it is removed", is_removed);
    assert!(!site.path("mt1/replicas/web01").exists());
    assert!(same(&source, &target), "the disks stay");
    drop(FileDisk::open_exclusive(&target).unwrap());
}

#[test]
fn a_process_server_dies_and_another_takes_its_place() {
    let (site, mut wanted, [mut ps, _mt], [_, mt_address]) = protected();
    ps.kill();
    let source = site.path("a.img");
    scribble(&source, 2 * MIB, 50_000, 5);
    wanted.replica.owners = vec!["process-server ps2".into()];
    wanted.tell(&site, "mt1");
    route(&site, "ps2", &mt_address, 1);
    let (_ps2, ps2_address) = site.start("process-server", "ps2");
    // The master target may be told later than the process server begins.
    wait_until("the other process server is let in", || {
        sync(&site, "web01", &ps2_address, "1")
            .stderr(std::process::Stdio::null())
            .status()
            .unwrap()
            .success()
    });
    site.cs.service.until_replica(MT, "it goes on", |replica| replica.applied == Some(Seq(2)));
    assert!(same(&source, &site.path("target.img")));
    // The dead one comes back: it is not the owner any more.
    let (_ps, ps_address) = site.start("process-server", "ps1");
    scribble(&source, 2 * MIB, 50_000, 6);
    // It compares, for which the target must be reached: it waits until it is killed.
    let _waits = rig::Process(
        sync(&site, "web01", &ps_address, "1").stderr(std::process::Stdio::null()).spawn().unwrap(),
    );
    wait_until("it says why it does not get on", || {
        let state = site.cs.service.process_server("process-server ps1").unwrap();
        state
            .spools
            .iter()
            .any(|spool| spool.waiting.as_ref().is_some_and(|why| why.contains("not by process-server ps1")))
    });
}

/// A retention drive of its own, in memory; gone with the value.
struct SmallDrive(std::path::PathBuf);

impl SmallDrive {
    fn mount(path: std::path::PathBuf, mib: u64) -> Self {
        std::fs::create_dir(&path).unwrap();
        let size = format!("size={mib}m");
        let mut mount = std::process::Command::new("mount");
        succeed(mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&path));
        Self(path)
    }
}

impl Drop for SmallDrive {
    fn drop(&mut self) {
        std::process::Command::new("umount").arg("-l").arg(&self.0).status().ok();
    }
}

#[test]
fn a_full_retention_drive_stops_with_its_points_intact_and_goes_on_when_there_is_room() {
    let site = Site::new();
    let drive = SmallDrive::mount(site.path("mt1"), 64);
    let source = site.image("a.img", 16, 1);
    FileDisk::create(site.path("target.img"), SIZE).unwrap();
    let wanted = Wanted::new(&site.path("target.img"));
    wanted.tell(&site, "mt1");
    let (_mt, mt_address) = site.start("master-target", "mt1");
    route(&site, "ps1", &mt_address, 1);
    let (_ps, ps_address) = site.start("process-server", "ps1");
    site.enrol("web01");
    succeed(&mut sync(&site, "web01", &ps_address, "1"));
    site.cs
        .service
        .until_replica(MT, "the first point is applied", |replica| replica.applied == Some(Seq(1)));
    let before = site.path("before.img");
    std::fs::copy(&source, &before).unwrap();

    let ballast = drive.0.join("ballast");
    fill(&ballast);
    scribble(&source, MIB, 6_000_000, 2);
    let mut syncing = sync(&site, "web01", &ps_address, "1");
    let mut syncing = rig::Process(syncing.stderr(std::process::Stdio::null()).spawn().unwrap());
    site.cs.service.until_replica(MT, "it says that its drive is full", |replica| {
        replica.problem.as_ref().is_some_and(|problem| problem.code == "master-target.retention-full")
    });
    let stays = |replica: &ReplicaActual| replica.points.last().is_some_and(|point| point.seq == Seq(1));
    site.cs.service.until_replica(MT, "its point is there", stays);
    assert!(same(&before, &site.path("target.img")), "nothing half applied");

    std::fs::remove_file(&ballast).unwrap();
    wait_until("the sync ends", || syncing.0.try_wait().unwrap().is_some_and(|status| status.success()));
    site.cs.service.until_replica(MT, "it goes on by itself", |replica| {
        replica.applied == Some(Seq(2)) && replica.problem.is_none()
    });
    assert!(same(&source, &site.path("target.img")));
}

/// Takes all room there is.
fn fill(path: &Path) {
    use std::io::Write;
    let mut file = std::fs::File::create(path).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
}

#[test]
fn who_has_no_business_is_refused_and_told_why() {
    let (site, _wanted, [_ps, _mt], [ps_address, mt_address]) = protected();
    let mut unknown = site.command("web01");
    let unknown =
        fail(unknown.args(["sync", "a.img", &format!("{ps_address}/other"), "--epoch", "1", "--quiet"]));
    assert!(unknown.contains("no route for other"), "{unknown}");
    site.enrol("web02");
    let other = fail(&mut sync(&site, "web02", &ps_address, "1"));
    assert!(other.contains("sent by source web01, not by source web02"), "{other}");
    let past = fail(&mut sync(&site, "web01", &mt_address, "1"));
    assert!(past.contains("is written by process-server ps1, not by source web01"), "{past}");
    let old = fail(&mut sync(&site, "web01", &ps_address, "0"));
    assert!(old.contains("epoch 0 is over"), "{old}");
    let mut none = site.command("web01");
    let none = fail(none.args(["sync", "a.img", &format!("{ps_address}/web01"), "--quiet"]));
    assert!(none.contains("must state its epoch"), "{none}");
    // Of another site.
    let other_site = Site::new();
    other_site.enrol("web01");
    std::fs::copy(site.path("a.img"), other_site.path("a.img")).unwrap();
    let foreign = fail(&mut sync(&other_site, "web01", &ps_address, "1"));
    assert!(foreign.contains("another site"), "{foreign}");
    // The wrong passphrase, the wrong role, and one whom the control plane does not want.
    std::fs::write(site.path("passphrase"), "0000-0000-0000-0000-0000-0000-0000").unwrap();
    let wrong = fail(&mut site.role("master-target", "mt2"));
    assert!(wrong.contains("passphrase"), "{wrong}");
    let mut role = site.role("master-target", "web01");
    let role = fail(&mut role);
    assert!(role.contains("source web01"), "{role}");
    std::fs::write(site.path("passphrase"), &*site.cs.authority.passphrase().unwrap().reveal()).unwrap();
    let mut unwelcome = site.command("unwelcome");
    unwelcome.args([
        "enrol",
        &site.cs.address.to_string(),
        "--name",
        "unwelcome",
        "--passphrase-file",
        "passphrase",
    ]);
    assert!(fail(&mut unwelcome).contains("not this one"));
    assert!(!site.path("unwelcome.identity/credentials.pem").exists());
}

#[test]
fn a_route_that_goes_takes_its_spool_along_when_all_has_arrived() {
    let (site, _wanted, [_ps, _mt], [ps_address, _]) = protected();
    assert!(site.path("ps1/spools/web01").exists());
    let nothing = ProcessServerDesired::default();
    site.cs.service.want("process-server ps1", Desired::ProcessServer(nothing));
    wait_until("its spool is removed", || !site.path("ps1/spools/web01").exists());
    let gone = fail(&mut sync(&site, "web01", &ps_address, "1"));
    assert!(gone.contains("no route for web01"), "{gone}");
}

#[test]
fn a_process_server_goes_on_while_the_configuration_server_is_away_also_after_a_restart() {
    let (mut site, _wanted, [mut ps, _mt], _) = protected();
    ps.kill();
    let address = site.cs.address;
    site.cs.stop();
    let file = site.path("ps1.address");
    let mut command = site.role("process-server", "ps1");
    command.args(["--address-file"]).arg(&file).stdout(std::process::Stdio::null());
    let _ps = rig::Process(command.spawn().unwrap());
    wait_until("it listens", || std::fs::read_to_string(&file).is_ok_and(|text| text.contains(':')));
    let ps_address = std::fs::read_to_string(&file).unwrap();
    scribble(&site.path("a.img"), MIB, 9000, 7);
    succeed(&mut sync(&site, "web01", &ps_address, "1"));
    wait_until("it has arrived", || same(&site.path("a.img"), &site.path("target.img")));
    site.cs.service.forget_reports();
    site.cs.listen(address);
    wait_until("it reports again", || site.cs.service.process_server("process-server ps1").is_some());
}

#[test]
fn an_expired_certificate_is_called_that_and_the_remedy_works() {
    let site = Site::new();
    site.cs.service.want("process-server ps1", Desired::ProcessServer(ProcessServerDesired::default()));
    let long = CERTIFICATE_LIFETIME_MS + 60_000;
    site.cs.clock.0.store(0_u64.wrapping_sub(long), Ordering::SeqCst);
    let expired = site.cs.live(Role::ProcessServer, "ps1");
    site.cs.clock.0.store(0, Ordering::SeqCst);
    std::fs::create_dir(site.path("ps1.identity")).unwrap();
    expired.current().store(&DirVolume::open(site.path("ps1.identity")).unwrap()).unwrap();
    let server = site.cs.address.to_string();
    let mut alone = site.command("ps1");
    alone.args([
        "process-server",
        "--server",
        &server,
        "--site",
        "home",
        "--listen",
        "127.0.0.1:0",
        "--data",
        "ps1",
    ]);
    let said = fail(&mut alone);
    assert!(said.contains("expired") && said.contains("switchback enrol"), "{said}");
    // As it says.
    let (mut ps, _) = site.start("process-server", "ps1");
    ps.kill();

    // The configuration server's clock is wrong: to it the new one has expired, too. Nothing is thrown away for that.
    site.cs.clock.0.store(long, Ordering::SeqCst);
    site.cs.service.forget_reports();
    let log = site.path("ps1.log");
    let mut command = site.role("process-server", "ps1");
    command.stdout(std::process::Stdio::null()).stderr(std::fs::File::create(&log).unwrap());
    let _ps = rig::Process(command.spawn().unwrap());
    wait_until("it says that its certificate has expired, and to look at the clocks", || {
        let said = std::fs::read_to_string(&log).unwrap();
        said.contains("certificate has expired") && said.contains("check both clocks")
    });
    site.cs.clock.0.store(0, Ordering::SeqCst);
    wait_until("it goes on by itself when the clock is right", || {
        site.cs.service.report_of("process-server ps1").is_some()
    });
}

#[test]
fn a_master_target_tells_which_way_to_storage_there_is_where_it_stands() {
    let site = Site::new();
    let way = |host: &str| StoragePath {
        container: format!("https://{host}/account/replicas"),
        path: NetworkPath::PrivateEndpoint,
    };
    let storage_paths = vec![way("10.20.3.4"), way("20.60.1.2")];
    let desired =
        MasterTargetDesired { storage_paths: storage_paths.clone(), ..MasterTargetDesired::default() };
    site.cs.service.want(MT, Desired::MasterTarget(desired));
    let (_mt, _) = site.start("master-target", "mt1");
    let found = || site.cs.service.master_target(MT).map(|state| state.storage_paths).unwrap_or_default();
    wait_until("both ways have been looked at", || found().len() == 2);
    let found = found();
    assert!(found.iter().map(|found| &found.storage).eq(&storage_paths));
    assert_eq!(
        [&found[0], &found[1]].map(|found| found.check.state),
        [CheckState::Passed, CheckState::Failed]
    );
    assert!(found[1].check.facts.contains("20.60.1.2, which is public"), "{found:?}");
    assert!(found[1].check.remedy.contains("privatelink.blob.core.windows.net"), "{found:?}");
}
