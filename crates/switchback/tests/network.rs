//! Replication between processes over mutual TLS: what arrives, what a death of any of them costs (nothing), and who is refused.

mod rig;

use std::time::Duration;

use rig::{MIB, Process, Site, events, fail, same, scribble, succeed, switchback, wait_until};

fn sync<'a>(
    site: &Site,
    source: &str,
    to: &str,
    more: impl IntoIterator<Item = &'a str>,
) -> std::process::Command {
    let mut command = site.command("source");
    command.args(["sync", source, to, "--json"]).args(more);
    command
}

#[test]
fn the_second_sync_moves_only_what_changed() {
    let mut site = Site::new();
    let source = site.image("a.img", 64, 1);
    let (_receiver, address) = site.start_receiver();
    site.enrol("source", "source", &address);
    let to = format!("{address}/web01");
    succeed(&mut sync(&site, "a.img", &to, []));
    assert!(same(&source, &site.target("web01")));
    scribble(&source, 5 * MIB + 123, 200_000, 2);
    let said = events(&succeed(&mut sync(&site, "a.img", &to, ["--compress", "1"])));
    let point = said.last().unwrap();
    let sent = point["sent_bytes"].as_u64().unwrap();
    assert!((200_000..400_000).contains(&sent), "{point}");
    wait_until("it is applied", || same(&source, &site.target("web01")));
    let said = events(&succeed(&mut sync(&site, "a.img", &to, [])));
    assert_eq!(said.last().unwrap()["sent_bytes"], 0);
    let points = site.points("web01");
    assert_eq!(points["points"].as_array().unwrap().len(), 3, "{points}");
}

#[test]
fn a_receiver_killed_again_and_again_loses_nothing_and_the_sync_goes_on_by_itself() {
    let mut site = Site::new();
    let source = site.image("a.img", 512, 3);
    let (mut receiver, address) = site.start_receiver();
    site.enrol("source", "source", &address);
    // Slow enough that it is killed in the middle.
    let mut command = sync(&site, "a.img", &format!("{address}/web01"), ["--bwlimit", "65536"]);
    let mut sync = Process(command.stdout(std::process::Stdio::null()).spawn().unwrap());
    for pause in [300, 700, 1100] {
        std::thread::sleep(Duration::from_millis(pause));
        receiver.kill();
        receiver = site.start_receiver().0;
    }
    wait_until("the sync ends", || sync.0.try_wait().unwrap().is_some_and(|status| status.success()));
    wait_until("it is applied", || same(&source, &site.target("web01")));
    let replica = site.path("replicas/web01");
    let verify = || switchback().args(["replica", "verify"]).arg(&replica).output().unwrap();
    // The receiver lets it go a moment after the session has ended.
    wait_until("the replica is free and intact", || verify().status.success());
}

#[test]
fn a_sync_killed_in_the_middle_goes_on_where_it_was() {
    let mut site = Site::new();
    let source = site.image("a.img", 512, 4);
    let (_receiver, address) = site.start_receiver();
    site.enrol("source", "source", &address);
    let to = format!("{address}/web01");
    let mut first = Process(sync(&site, "a.img", &to, ["--bwlimit", "131072"]).spawn().unwrap());
    std::thread::sleep(Duration::from_millis(1500));
    first.kill();
    let said = events(&succeed(&mut sync(&site, "a.img", &to, [])));
    let sent = said.last().unwrap()["sent_bytes"].as_u64().unwrap();
    assert!(sent < 250 * MIB, "everything was sent again: {sent}");
    assert!(same(&source, &site.target("web01")));
}

#[test]
fn a_process_server_takes_data_while_the_target_is_away_and_survives_being_killed() {
    let mut site = Site::new();
    // More than one answer about digests covers, so that questions come in the middle of the data.
    let source = site.image("a.img", 600, 5);
    let (mut receiver, address) = site.start_receiver();
    site.enrol("source", "source", &address);
    site.enrol("ps", "process-server", &address);
    let arguments = ["process-server", "--spool", "spool", "--next", &address];
    let (mut ps, ps_address) = site.start("ps", &arguments);
    succeed(&mut sync(&site, "a.img", &format!("{ps_address}/web01"), []));
    wait_until("it has arrived", || same(&source, &site.target("web01")));
    // The target goes away in the middle of a continuous replication: points are safe at the process server.
    let to = format!("{ps_address}/web01");
    let mut command = sync(&site, "a.img", &to, ["--follow", "--interval", "0.3", "--points", "4"]);
    command.stdout(std::process::Stdio::null());
    let mut follow = Process(command.spawn().unwrap());
    std::thread::sleep(Duration::from_millis(100));
    receiver.kill();
    scribble(&source, 9 * MIB, 300_000, 6);
    std::thread::sleep(Duration::from_millis(500));
    ps.kill();
    receiver = site.start_receiver().0;
    let (_ps, other) = site.start("ps", &arguments);
    // Its port is another one: the follower would wait for the old one.
    follow.kill();
    succeed(&mut sync(&site, "a.img", &format!("{other}/web01"), []));
    wait_until("everything has arrived", || same(&source, &site.target("web01")));
    drop(receiver);
}

#[test]
fn who_does_not_belong_is_refused_and_told_why() {
    let mut site = Site::new();
    site.image("a.img", 2, 7);
    let nobody = fail(site.command("receiver-without").args(["receive", "--root", "replicas"]));
    assert!(nobody.contains("switchback identity init"), "{nobody}");
    let (_receiver, address) = site.start_receiver();
    let to = format!("{address}/web01");
    let unknown = fail(&mut sync(&site, "a.img", &to, []));
    assert!(unknown.contains("switchback enrol"), "{unknown}");
    std::fs::write(site.path("wrong"), "0000-0000-0000-0000-0000-0000-0000").unwrap();
    let wrong = fail(site.command("source").args(["enrol", &address, "--passphrase-file", "wrong"]));
    assert!(wrong.contains("passphrase"), "{wrong}");
    // Of another site.
    let mut other = Site::new();
    let (_other_receiver, other_address) = other.start_receiver();
    other.enrol("source", "source", &other_address);
    let foreign = fail(
        site.command("x")
            .env("SWITCHBACK_IDENTITY", other.path("source"))
            .args(["sync", "a.img", &to, "--quiet"]),
    );
    assert!(foreign.contains("not allowed") || foreign.contains("certificate"), "{foreign}");
    // Another component of the same site.
    site.enrol("source", "source", &address);
    succeed(&mut sync(&site, "a.img", &to, []));
    site.enrol("second", "source", &address);
    let second = fail(site.command("second").args(["sync", "a.img", &to]));
    assert!(second.contains("source source"), "{second}");
}

#[test]
fn an_old_epoch_and_unfitting_disks_are_refused() {
    let mut site = Site::new();
    site.image("a.img", 2, 8);
    site.image("longer.img", 4, 8);
    site.image("target.img", 1, 9);
    let (_receiver, address) =
        site.start("receiver", &["receive", "--root", "replicas", "--target", "small=target.img"]);
    site.enrol("source", "source", &address);
    let to = format!("{address}/web01");
    succeed(&mut sync(&site, "a.img", &to, ["--epoch", "3"]));
    let old = fail(&mut sync(&site, "a.img", &to, ["--epoch", "2"]));
    assert!(old.contains("epoch 2 is over"), "{old}");
    let longer = fail(&mut sync(&site, "longer.img", &to, []));
    assert!(longer.contains("4194304"), "{longer}");
    let small = fail(&mut sync(&site, "a.img", &format!("{address}/small"), []));
    assert!(small.contains("at least as large"), "{small}");
}

#[test]
fn a_point_is_exported_while_the_receiver_goes_on_applying() {
    let mut site = Site::new();
    let source = site.image("a.img", 64, 1);
    let (receiver, address) = site.start_receiver();
    site.enrol("source", "source", &address);
    let to = format!("{address}/web01");
    succeed(&mut sync(&site, "a.img", &to, []));
    std::fs::copy(&source, site.path("before.img")).unwrap();
    // Keeps the replica open in the receiver, with a new point five times a second.
    let mut follow = sync(&site, "a.img", &to, ["--follow", "--interval", "0.2"]);
    let follow = Process(follow.stdout(std::process::Stdio::null()).spawn().unwrap());
    let newest =
        || site.points("web01")["points"].as_array().unwrap().last().unwrap()["seq"].as_u64().unwrap();
    wait_until("it is followed", || newest() > 2);

    let (replica, mount) = (site.path("replicas/web01"), site.path("mount"));
    std::fs::create_dir(&mount).unwrap();
    let export = |point: &str| {
        let mut command = switchback();
        command.args(["replica", "export", "--point", point]).arg(&replica).arg(&mount);
        command
    };
    let refused = fail(&mut export("999999"));
    assert!(refused.contains("999999"), "{refused}");
    let start = || Process(export("1").stdout(std::process::Stdio::null()).spawn().unwrap());
    let mut client = start();
    let file = mount.join("disk-0.raw");
    wait_until("the export is mounted", || file.exists());
    for round in 0..3 {
        scribble(&source, round * 9 * MIB + 17, 2_000_000, round);
        let seen = newest();
        wait_until("newer points are made and applied", || newest() > seen + 2);
        assert!(same(&site.path("before.img"), &file), "round {round}");
    }
    let busy = fail(switchback().args(["replica", "rollback", "--to", "1", "--yes"]).arg(&replica));
    assert!(busy.contains("in use by process"), "{busy}");
    // A client that is killed leaves no mount behind.
    client.kill();
    wait_until("the export is gone", || !file.exists());
    let mut client = start();
    wait_until("it can be exported again", || file.exists());
    client.kill();
    wait_until("the export is gone again", || !file.exists());

    // Nor does a receiver that is killed leave a socket that stands in the way.
    drop(follow);
    drop(receiver);
    let (_receiver, _) = site.start_receiver();
    let client = start();
    wait_until("it is exported after a restart", || file.exists());
    drop(client);
    wait_until("and gone", || {
        std::process::Command::new("umount").arg(&mount).stderr(std::process::Stdio::null()).status().ok();
        !file.exists()
    });
}
