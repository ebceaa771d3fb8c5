//! The script run by the system's own shell, below a root of its own, with stand-ins for what is outside of the host.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use aws_lc_rs::digest::{SHA256, digest};

use super::*;

const SECRET: &str = "ABCD-EFGH";
/// What must stay data: it would write a file beside the host's root.
const HOSTILE: &str = r#"it's $(touch "$SWITCHBACK_INSTALL_ROOT/broken") `touch $SWITCHBACK_INSTALL_ROOT/broken` "\ %h ${x} ; & |"#;
/// The program that is fetched: it notes its arguments, and what an enrolment would read.
const PROGRAM: &str = r#"#!/bin/sh
printf '%s\n' "$@" >>"$SWITCHBACK_INSTALL_ROOT/arguments"
if [ "$1" = enrol ]; then
    cat "$SWITCHBACK_INSTALL_ROOT/run/switchback-enrol" >"$SWITCHBACK_INSTALL_ROOT/seen"
    stat -c %a "$SWITCHBACK_INSTALL_ROOT/run/switchback-enrol" >"$SWITCHBACK_INSTALL_ROOT/mode"
    [ ! -e "$SWITCHBACK_INSTALL_ROOT/refuse" ] || exit 1
    mkdir -p "$3" && echo credentials >"$3/credentials.pem"
fi
"#;
/// `curl`, which finds the file beside the root.
const CURL: &str = r#"#!/bin/sh
printf '%s\n' "$@" >>"$SWITCHBACK_INSTALL_ROOT/curl-arguments"
while [ "$1" != --output ]; do shift; done
cp "$SWITCHBACK_INSTALL_ROOT/program" "$2"
"#;
const SYSTEMCTL: &str = "#!/bin/sh\necho \"$@\" >>\"$SWITCHBACK_INSTALL_ROOT/systemctl\"\n";

fn script() -> InstallScript {
    let hash = digest(&SHA256, PROGRAM.as_bytes());
    InstallScript {
        name: "ps-cloud".into(),
        site: "recovery".into(),
        configuration_server: "cs.example:443".into(),
        advertise: "10.20.1.20:9443".into(),
        port: 9443,
        program_path: "/install/switchback".into(),
        program_sha256: hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect(),
        authority: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".into(),
        secret: Zeroizing::new(SECRET.into()),
    }
}

/// A host's root, with tools in front of the system's.
struct Host(tempfile::TempDir);

impl Host {
    fn new(has_systemd: bool) -> Self {
        let host = Self(tempfile::tempdir().unwrap());
        for (path, text) in [("tools/curl", CURL), ("tools/systemctl", SYSTEMCTL), ("program", PROGRAM)] {
            let path = host.path(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        if has_systemd {
            fs::create_dir_all(host.path("run/systemd/system")).unwrap();
        }
        host
    }

    fn path(&self, of: &str) -> std::path::PathBuf {
        self.0.path().join(of)
    }

    fn read(&self, of: &str) -> String {
        fs::read_to_string(self.path(of)).unwrap_or_default()
    }

    /// As cloud-init does: from a file.
    fn run(&self, script: &InstallScript) -> Output {
        let file = self.path("script");
        fs::write(&file, script.render().unwrap().as_bytes()).unwrap();
        let path = format!("{}:/usr/bin:/bin", self.path("tools").display());
        let mut command = Command::new("/bin/sh");
        command.arg(&file).env_clear().env("PATH", path).env("SWITCHBACK_INSTALL_ROOT", self.0.path());
        command.output().unwrap()
    }

    fn install(&self, script: &InstallScript) {
        let output = self.run(script);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Every file below a directory that has the secret in it, but for the script itself.
    fn has_secret(&self, directory: &Path) -> Vec<std::path::PathBuf> {
        let mut found = Vec::new();
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.extend(self.has_secret(&path));
            } else if fs::read(&path).unwrap().windows(SECRET.len()).any(|part| part == SECRET.as_bytes()) {
                found.push(path);
            }
        }
        found.retain(|path| *path != self.path("script") && *path != self.path("seen"));
        found
    }
}

#[test]
fn a_host_with_systemd_gets_a_unit() {
    let host = Host::new(true);
    host.install(&script());
    assert_eq!(host.read("usr/local/bin/switchback"), PROGRAM);
    assert_eq!(host.read("seen"), format!("{SECRET}\n"));
    assert_eq!(host.read("mode"), "600\n", "it is root's alone");
    assert_eq!(host.has_secret(host.0.path()), Vec::<std::path::PathBuf>::new());
    assert!(host.read("curl-arguments").ends_with("--\nhttps://cs.example:443/install/switchback\n"));
    assert!(host.read("etc/switchback/ca.pem").contains("BEGIN CERTIFICATE"));
    for way in ["usr/local", "usr/local/bin", "var/lib", "etc/switchback"] {
        let mode = fs::metadata(host.path(way)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o755, "{way}: the service is not run by root");
    }
    let unit = host.read("etc/systemd/system/switchback-process-server.service");
    let command = r#"ExecStart="/usr/local/bin/switchback" "process-server" "--server" "cs.example:443" "--site" "recovery" "--data" "/var/lib/switchback/spool" "--listen" "0.0.0.0:9443" "--advertise" "10.20.1.20:9443""#;
    assert!(unit.contains(command) && unit.contains("\nCapabilityBoundingSet=\n"), "{unit}");
    assert_eq!(host.read("systemctl"), "daemon-reload\nenable --now switchback-process-server.service\n");

    let calls = host.read("arguments");
    host.install(&script());
    assert_eq!(host.read("arguments"), calls, "it enrols once");
    assert_eq!(host.read("curl-arguments").matches("--output").count(), 1, "it is fetched once");
}

#[test]
fn a_host_without_systemd_starts_the_program() {
    let host = Host::new(false);
    host.install(&script());
    let wanted = "process-server\n--identity\n";
    let is_started = |_: &u32| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        host.read("arguments").contains(wanted) && host.read("arguments").ends_with("10.20.1.20:9443\n")
    };
    assert!((0..200).any(|try_number| is_started(&try_number)), "{}", host.read("arguments"));
    assert!(!host.path("etc/systemd").exists());
}

#[test]
fn hostile_values_stay_data() {
    for has_systemd in [true, false] {
        let host = Host::new(has_systemd);
        let mut hostile = script();
        let values =
            [&mut hostile.name, &mut hostile.site, &mut hostile.configuration_server, &mut hostile.advertise];
        for value in values {
            *value = HOSTILE.into();
        }
        hostile.authority.push_str(HOSTILE);
        host.install(&hostile);
        assert!(!host.path("broken").exists(), "a value was run");
        assert!(
            host.read("arguments").contains(&format!("--name\n{HOSTILE}\n")),
            "{}",
            host.read("arguments")
        );
        if has_systemd {
            let unit = host.read("etc/systemd/system/switchback-process-server.service");
            let escaped =
                HOSTILE.replace('\\', r"\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
            assert!(unit.contains(&format!("\"--site\" \"{escaped}\"")), "{unit}");
        }
    }
}

#[test]
fn a_program_that_is_not_the_announced_one_is_never_run() {
    let host = Host::new(true);
    fs::write(host.path("program"), format!("{PROGRAM}# changed\n")).unwrap();
    let output = host.run(&script());
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && told.contains("comparing the digest"), "{told}");
    assert_eq!(host.read("arguments"), "");
    assert!(!host.path("usr/local/bin/switchback").exists());
    assert!(!host.path("usr/local/bin/.switchback.new").exists());
}

#[test]
fn a_refused_enrolment_is_said_and_leaves_no_secret() {
    let host = Host::new(true);
    fs::write(host.path("refuse"), "").unwrap();
    let output = host.run(&script());
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && told.contains("failed while enrolling at cs.example:443"), "{told}");
    assert!(!told.contains(SECRET), "{told}");
    assert_eq!(host.has_secret(host.0.path()), Vec::<std::path::PathBuf>::new());
    fs::remove_file(host.path("refuse")).unwrap();
    host.install(&script());
}

#[test]
fn what_cannot_be_a_value_is_refused() {
    let refused = |change: &dyn Fn(&mut InstallScript), what: &str| {
        let mut script = script();
        change(&mut script);
        let error = script.render().unwrap_err();
        assert_eq!(error.what, what);
        assert!(!error.to_string().contains(SECRET));
    };
    refused(&|one| one.name.clear(), "name");
    refused(&|one| one.site = "a\nUser=root".into(), "site");
    refused(&|one| one.configuration_server = "--help".into(), "configuration server");
    refused(&|one| one.program_sha256 = "$(x)".into(), "program's digest");
    refused(&|one| one.authority = "x".into(), "authority");
    assert!(!format!("{:?}", script()).contains(SECRET));
}
