//! An emulator with a site that speaks to it, and who plays the replica.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use reqwest::blocking::Client;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use switchback_lab::arm::{self, Emulator, Options};
use switchback_sites::azure::{AzureCredentials, AzureLimits, AzureSettings, AzureSite, Identity};
use switchback_sites::conformance::Contents;
use switchback_sites::{Boot, DiskOrigin, Machine, NewDisk, NewMachine, Nic, Site};

pub(crate) const CONTAINER: &str = "replicas";
pub(crate) const PRODUCTION: &str = "recovery-net/production";
pub(crate) const ISOLATED: &str = "recovery-net/isolated";
pub(crate) const MIB: usize = 1 << 20;

pub(crate) struct Bench {
    pub(crate) emulator: Emulator,
    pub(crate) site: AzureSite,
    pub(crate) replica: Arc<Replica>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with(Options::default())
    }

    pub(crate) fn with(options: Options) -> Self {
        let emulator = Emulator::start_with(options).unwrap();
        let site = AzureSite::open(settings(&emulator), credentials(&emulator)).unwrap();
        let replica = Arc::new(Replica::new(&emulator));
        Self { emulator, site, replica }
    }

    /// Opens the site with other settings.
    pub(crate) fn reopen(&mut self, change: impl FnOnce(&mut AzureSettings)) {
        let mut settings = settings(&self.emulator);
        change(&mut settings);
        self.site = AzureSite::open(settings, credentials(&self.emulator)).unwrap();
    }

    /// A machine with this many disks of 1 MiB, whose replica stands at a point of these bytes: 1 in the first disk, and so on.
    pub(crate) fn machine(&self, id: &str, disks: u8) -> Machine {
        let made = self.site.create_machine(&machine(id, disks)).unwrap();
        self.stand(&made, 0);
        made
    }

    /// The replica stands at a point: each disk is full of its number, from 1, and `more`.
    pub(crate) fn stand(&self, machine: &Machine, more: u8) {
        let images: Vec<_> = machine.disks.iter().map(|disk| standing(&disk.path)).collect();
        for (image, byte) in images.iter().zip(1..) {
            self.replica.write(image, &vec![byte + more; MIB]);
        }
        self.site.run_from(&machine.id, &images).unwrap();
    }

    /// Names of what there is of a kind.
    pub(crate) fn names(&self, kind: &str) -> Vec<String> {
        self.emulator.names(kind)
    }

    pub(crate) fn vms(&self) -> Vec<String> {
        self.names("Microsoft.Compute/virtualMachines")
    }

    pub(crate) fn disks(&self) -> Vec<String> {
        self.names("Microsoft.Compute/disks")
    }

    pub(crate) fn cards(&self) -> Vec<String> {
        self.names("Microsoft.Network/networkInterfaces")
    }

    /// The first byte of each managed disk.
    pub(crate) fn first_bytes(&self) -> Vec<u8> {
        let read = |name: &String| std::fs::read(self.emulator.disk_file(name)).unwrap()[0];
        self.disks().iter().map(read).collect()
    }

    /// How many calls there were whose line has all these parts.
    pub(crate) fn calls(&self, parts: &[&str]) -> usize {
        let fits =
            |call: &&String| parts.iter().all(|part| call.to_lowercase().contains(&part.to_lowercase()));
        self.emulator.calls().iter().filter(fits).count()
    }
}

/// The clone beside a disk's blob that the replica stands at.
pub(crate) fn standing(blob: &Path) -> PathBuf {
    blob.with_extension("at.vhd")
}

pub(crate) fn machine(id: &str, disks: u8) -> NewMachine {
    let disk = |number: u8| NewDisk {
        size: u64::try_from(MIB).unwrap(),
        serial: format!("serial-{number}"),
        origin: DiskOrigin::Empty { datastore: CONTAINER.into() },
    };
    NewMachine {
        id: id.into(),
        name: format!("Machine {id}"),
        system_uuid: None,
        cpus: 2,
        memory_mib: 4096,
        boot: Boot::Bios,
        disks: (0..disks).map(disk).collect(),
        nics: vec![Nic { mac: String::new(), network: Some(PRODUCTION.into()) }],
        mark: Some(format!("{id} replica")),
        beside: None,
    }
}

pub(crate) fn settings(emulator: &Emulator) -> AzureSettings {
    let container = emulator.container_url(CONTAINER);
    let limits =
        AzureLimits { request_seconds: 20, operation_seconds: 60, tries_max: 3, pause_seconds_max: 1 };
    AzureSettings { limits, ..emulator.site_settings(container.split('?').next().unwrap()) }
}

/// The id of a virtual network that is not there.
pub(crate) fn gone(settings: &AzureSettings) -> String {
    let group =
        format!("/subscriptions/{}/resourceGroups/{}", settings.subscription, settings.resource_group);
    format!("{group}/providers/Microsoft.Network/virtualNetworks/gone")
}

pub(crate) fn client_secret() -> Identity {
    let client = arm::Client::default();
    Identity::ClientSecret { tenant: arm::TENANT.into(), client: client.id, secret: client.secret.into() }
}

pub(crate) fn credentials(emulator: &Emulator) -> AzureCredentials {
    let container = emulator.container_url(CONTAINER);
    let sas = container.split_once('?').unwrap().1.to_owned();
    AzureCredentials { identity: client_secret(), container_sas: Some(sas.into()) }
}

/// Plays the replica: writes page blobs, and stands at what it has written.
#[derive(Debug)]
pub(crate) struct Replica {
    client: Client,
    sas: String,
}

impl Replica {
    fn new(emulator: &Emulator) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        for one in CertificateDer::pem_file_iter(emulator.authority()).unwrap() {
            roots.add(one.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = Client::builder().tls_backend_preconfigured(tls).no_proxy().build().unwrap();
        let sas = emulator.container_url(CONTAINER).split_once('?').unwrap().1.to_owned();
        Self { client, sas }
    }

    /// Puts a blob as it is.
    pub(crate) fn put(&self, place: &Path, bytes: Vec<u8>) {
        let put =
            self.client.put(format!("{}?{}", place.display(), self.sas)).header("x-ms-blob-type", "PageBlob");
        assert_eq!(put.body(bytes).send().unwrap().status(), 201);
    }

    pub(crate) fn remove(&self, place: &Path) {
        let delete = self.client.delete(format!("{}?{}", place.display(), self.sas));
        assert_eq!(delete.send().unwrap().status(), 202);
    }
}

impl Contents for Replica {
    fn read(&self, path: &Path) -> Option<Vec<u8>> {
        let answer = self.client.get(format!("{}?{}", path.display(), self.sas)).send().unwrap();
        let bytes = (answer.status() == 200).then(|| answer.bytes().unwrap().to_vec())?;
        Some(bytes[..bytes.len() - 512].to_vec())
    }

    fn write(&self, path: &Path, bytes: &[u8]) {
        self.put(path, vhd(bytes));
    }
}

/// A fixed VHD (Microsoft's "Virtual Hard Disk Image Format Specification", 1.0).
pub(crate) fn vhd(data: &[u8]) -> Vec<u8> {
    let mut footer = vec![0; 512];
    let size = u64::try_from(data.len()).unwrap().to_be_bytes();
    footer[..8].copy_from_slice(b"conectix");
    footer[11] = 2; // features: reserved, always set
    footer[12..16].copy_from_slice(&0x0001_0000_u32.to_be_bytes()); // version
    footer[16..24].fill(0xFF); // no dynamic header
    footer[40..48].copy_from_slice(&size);
    footer[48..56].copy_from_slice(&size);
    footer[60..64].copy_from_slice(&2_u32.to_be_bytes()); // fixed
    let sum: u32 = footer.iter().map(|byte| u32::from(*byte)).sum();
    footer[64..68].copy_from_slice(&(!sum).to_be_bytes());
    [data, &footer].concat()
}
