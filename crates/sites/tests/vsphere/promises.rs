//! What every site promises.

use std::sync::Arc;
use std::time::{Duration, Instant};

use switchback_lab::vcsim::Simulator;
use switchback_sites::conformance::{self, Subject};
use switchback_sites::vsphere::VsphereSite;
use switchback_sites::{Boot, Site, SiteError};

use crate::bench::{Bench, DATASTORE, credentials, requests, settings};

fn subject(bench: &Bench) -> Subject {
    let mut settings = settings(&bench.simulator);
    settings.placement.host = bench.site.settings().placement.host.clone();
    Subject {
        site: Arc::new(VsphereSite::open(settings, credentials()).unwrap()),
        datastore: DATASTORE.to_owned(),
        network: "VM Network".to_owned(),
        lays_over_images: false,
        replica: None,
    }
}

#[test]
fn a_vcenter_keeps_the_promises() {
    conformance::site(&subject(&Bench::new()));
}

#[test]
fn a_standalone_host_keeps_the_promises() {
    conformance::site(&subject(&Bench::esxi()));
}

#[test]
fn a_distributed_port_group_is_a_network() {
    let bench = Bench::new();
    let mut new = bench.describe("dvs");
    new.nics[0].network = Some("DC0_DVPG0".to_owned());
    new.nics[0].mac = "00:50:56:81:02:03".to_owned();
    new.boot = Boot::Uefi;
    let made = bench.site.create_machine(&new).unwrap();
    assert_eq!(made.nics, new.nics);
    assert_eq!(made.boot, Boot::Uefi);
    bench.site.connect_nics(&made.id, &[None]).unwrap();
    bench.site.connect_nics(&made.id, &[Some("VM Network".to_owned())]).unwrap();
    let nic = bench.site.machine(&made.id).unwrap().nics.remove(0);
    assert_eq!((nic.mac.as_str(), nic.network.as_deref()), ("00:50:56:81:02:03", Some("VM Network")));
    bench.site.connect_nics(&made.id, &[Some("DC0_DVPG0".to_owned())]).unwrap();
    assert_eq!(bench.site.machine(&made.id).unwrap().nics, new.nics);
}

/// What people write into names, and what XML, URLs and paths make of it.
#[test]
fn names_may_be_anything() {
    let bench = Bench::new();
    for (index, name) in ["a/b\\c 100%", "Ä \"ß\" <&> 'x'", "[x] y", " ]]>&amp;%2f"].iter().enumerate() {
        let mut new = bench.describe(&format!("odd {index} <\"&'/%>"));
        (new.name, new.mark) = ((*name).to_owned(), Some(format!("mark {name}")));
        let made = bench.site.create_machine(&new).unwrap();
        assert_eq!((&made.id, &made.name, &made.mark), (&new.id, &new.name, &new.mark));
        bench.site.create_snapshot(&new.id, name).unwrap();
        assert_eq!(bench.site.machine(&new.id).unwrap().snapshots, [*name]);
        bench.site.delete_snapshot(&new.id, name).unwrap();
        bench.site.power_on(&new.id).unwrap();
        bench.site.power_off(&new.id).unwrap();
        bench.site.delete_machine(&new.id).unwrap();
        assert!(matches!(bench.site.machine(&new.id), Err(SiteError::NoSuchMachine { .. })));
    }
}

#[test]
fn machines_of_others_have_the_ids_of_the_server() {
    let bench = Bench::new();
    let object = bench.object("DC0_H0_VM0");
    let machine = bench.site.machine(&object.id).unwrap();
    assert_eq!(machine.name, "DC0_H0_VM0");
    assert_eq!(machine.mark, None);
    bench.site.power_off(&object.id).unwrap();
    bench.site.create_snapshot(&object.id, "before").unwrap();
    bench.site.delete_snapshot(&object.id, "before").unwrap();
    // An id that a caller chose is no other machine's.
    let mut taken = bench.describe("x");
    taken.id = object.id;
    assert!(matches!(bench.site.create_machine(&taken), Err(SiteError::Taken { .. })));
}

#[test]
fn a_guest_with_tools_is_asked_to_shut_down() {
    let bench = Bench::new();
    let made = bench.machine("tools", 1);
    bench.site.power_on(&made.id).unwrap();
    bench.simulator.set("Conformance%20tools", "guest.toolsRunningStatus", "guestToolsRunning");
    assert!(bench.site.shut_down(&made.id, Duration::from_secs(30)).unwrap());
}

#[test]
fn what_vsphere_has_not_is_said() {
    let bench = Bench::new();
    let made = bench.machine("console", 1);
    let console = bench.site.console(&made.id, 100).unwrap_err().to_string();
    assert!(console.contains("vSphere Client"), "{console}");
    let mut new = bench.describe("kernel");
    new.boot = Boot::Kernel { kernel: "/vmlinuz".into(), initrd: None, command_line: String::new() };
    let kernel = bench.site.create_machine(&new).unwrap_err().to_string();
    assert!(kernel.contains("vsphere-kernel"), "{kernel}");
}

/// As the configuration server does.
#[test]
fn asynchronous_code_uses_a_site_and_drops_it() {
    let files = tempfile::tempdir().unwrap();
    let record = files.path().join("requests");
    let simulator = Simulator::options().record(&record).start().unwrap();
    let settings = settings(&simulator);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let open = || -> Arc<dyn Site> { Arc::new(VsphereSite::open(settings, credentials()).unwrap()) };
        let site = tokio::task::block_in_place(open);
        let used = Arc::clone(&site);
        let machines = tokio::task::spawn_blocking(move || used.machines().unwrap()).await.unwrap();
        assert_eq!(machines.len(), 4);
        drop(site);
    });
    let started = Instant::now();
    while requests(&record, "Logout") == 0 {
        assert!(started.elapsed() < Duration::from_secs(30), "its session is not ended");
        std::thread::sleep(Duration::from_millis(50));
    }
}
