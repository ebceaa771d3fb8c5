//! The vSphere simulator starts, is reached, and goes with its test.

use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use switchback_lab::vcsim::{Simulator, witness_python};

/// What another client than ours makes of it.
const WITNESS: &str = r#"
import ssl, sys
from pyVim.connect import SmartConnect
url, user, password, authority = sys.argv[1:]
host, port = url.split("/")[2].split(":")
about = SmartConnect(host=host, port=int(port), user=user, pwd=password, sslContext=ssl.create_default_context(cafile=authority)).content.about
print(about.apiType, about.apiVersion)
"#;

fn about(simulator: &Simulator) -> String {
    let python = witness_python().unwrap_or_else(|error| panic!("{error}"));
    let output = Command::new(python)
        .args(["-c", WITNESS, simulator.url(), switchback_lab::vcsim::USER, switchback_lab::vcsim::PASSWORD])
        .arg(simulator.authority())
        .output()
        .expect("Python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn it_is_a_vcenter_or_a_host_and_goes_when_it_is_dropped() {
    let vcenter = Simulator::options().datastores(2).start().unwrap();
    assert_eq!(about(&vcenter), "VirtualCenter 6.5");
    let datastores = vcenter.datastores();
    assert_eq!(datastores.keys().collect::<Vec<_>>(), ["LocalDS_0", "LocalDS_1"]);
    let disk = datastores["LocalDS_0"].join("DC0_H0_VM0/disk1-flat.vmdk");
    assert!(disk.is_file(), "a disk's bytes are a file: {}", disk.display());

    let host = Simulator::options().esxi().start().unwrap();
    assert_eq!(about(&host), "HostAgent 6.5");

    let address = vcenter.url().trim_start_matches("https://").trim_end_matches("/sdk").to_owned();
    TcpStream::connect(&address).unwrap();
    drop(vcenter);
    assert!(TcpStream::connect(&address).is_err());
    assert!(!Path::new(&datastores["LocalDS_0"]).exists());
}
