//! Hand-written descriptions, right and wrong.

use super::*;

const GOOD: &str = r#"name = "Web server 1"
cpus = 2
memory_mib = 1024

[[disks]]
path = "root.raw"

[[disks]]
path = "/srv/data.raw"
serial = "DATA"
datastore = "main"

[[nics]]
network = "lan"

[[nics]]
mac = "02:00:5E:10:00:01"
"#;

fn settings() -> SiteSettings {
    let mut settings = SiteSettings::new([("main".to_owned(), PathBuf::from("/srv/main"))]);
    let lan = super::super::settings::NetworkSettings::Segment { segment: "lan".to_owned() };
    settings.networks.insert("lan".to_owned(), lan);
    settings
}

fn read(text: &str) -> Result<Description, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("machine.toml");
    std::fs::write(&path, text).unwrap();
    let file = TomlFile::read(&path).unwrap().unwrap();
    Description::read(&file, Path::new("/m/web01"), "/s", "web01", &settings())
        .map_err(|error| error.to_string().strip_prefix(&format!("{}, ", path.display())).unwrap().to_owned())
}

#[test]
fn what_is_left_open_is_filled_in() {
    let found = read(GOOD).unwrap();
    assert_eq!(found.disks[0].path, PathBuf::from("/m/web01/root.raw"));
    assert_eq!(found.disks[1].path, PathBuf::from("/srv/data.raw"));
    assert_eq!(found.disks[1].serial, "DATA");
    assert_eq!(found.nics[1].mac, "02:00:5e:10:00:01");
    assert!(is_unicast_mac(&found.nics[0].mac), "{}", found.nics[0].mac);
    assert!(is_uuid(&found.uuid), "{}", found.uuid);
    assert_eq!(found.boot, Boot::Bios);
    let written = toml::to_string(&found).unwrap();
    assert_eq!(read(&written).unwrap(), found, "what is written is read as the same");
}

#[test]
fn every_mistake_is_told_with_its_line_and_key() {
    let with = |from: &str, to: &str, told: &str| {
        let text = GOOD.replacen(from, to, 1);
        assert_ne!(text, GOOD, "{from}");
        let message = read(&text).unwrap_err();
        assert!(message.starts_with(told), "{to:?} gave: {message}");
    };
    with("cpus = 2", "cpus = 0", "line 2: `cpus`: must be 1 to 255");
    with("cpus = 2", "cpu = 2", "line 2: `cpu = 2`: unknown field `cpu`");
    with("memory_mib = 1024", "memory_mib = 1", "line 3: `memory_mib`: must be");
    with("Web server 1", "", "line 1: `name`: must not be empty");
    with("serial = \"DATA\"", "serial = \"0123456789 \"", "line 10: `disks.1.serial`");
    with("serial = \"DATA\"", "serial = \"012345678901234567890\"", "line 10: `disks.1.serial`");
    with(
        "\"main\"",
        "\"mian\"",
        "line 11: `disks.1.datastore`: the site has no datastore \"mian\", but main",
    );
    with("/srv/data.raw", "root.raw", "line 9: `disks.1.path`: /m/web01/root.raw is used twice");
    with("\"lan\"", "\"wan\"", "line 14: `nics.0.network`: the site has no network \"wan\", but: lan");
    with("02:00", "03:00", "line 17: `nics.1.mac`: \"03:00:5e:10:00:01\" is no unicast address");
    with("02:00", "0:00", "line 17: `nics.1.mac`");
    with("cpus", "uuid = \"x\"\ncpus", "line 2: `uuid`: must be a UUID");
    with("serial = \"DATA\"", "layers = [\"a.qcow2\"]", "line 10: `disks.1.layers`: there are 1, with these");
    with(
        "cpus",
        "boot = { kind = \"kernel\", kernel = \"k\", command_line = \"\" }\ncpus",
        "line 2: `boot.kernel`",
    );
}

#[test]
fn layers_and_snapshots_correspond() {
    let text = r#"name = "a"
cpus = 1
memory_mib = 64
[[disks]]
path = "/d/over.raw"
read_only = true
layers = ["/d/0.qcow2", "/d/1.qcow2"]
[[disks]]
path = "/d/own.raw"
layers = ["/d/2.qcow2"]
[[snapshots]]
name = "s"
"#;
    let mut read = read(text).unwrap();
    assert_eq!(read.layer_of(0, 0), 1);
    assert_eq!(read.disks[0].below(1), Path::new("/d/0.qcow2"));
    assert_eq!(read.layer_of(1, 0), 0);
    assert_eq!(read.disks[1].below(0), Path::new("/d/own.raw"));
    assert_eq!(read.disks[1].top(), Path::new("/d/2.qcow2"));

    read.snapshots[0].merging = true;
    read.remove_layer(0, 0);
    assert_eq!(read.disks[0].top(), Path::new("/d/0.qcow2"), "its own writes stay apart from the image");
    assert_eq!(read.disks[1].top(), Path::new("/d/2.qcow2"), "not yet merged");
    read.check(&settings()).unwrap();
    read.remove_layer(1, 0);
    assert_eq!(read.disks[1].top(), Path::new("/d/own.raw"));
    read.check(&settings()).unwrap();
}
