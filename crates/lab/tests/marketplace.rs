//! Servers that are made of a marketplace image in the emulated Azure: they run their custom data once, have their addresses, fetch from the host, serve each
//! other, and go without a trace.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "whatever fails, fails the test; a failed one shows the consoles"
)]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::blocking::Client;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::Value;
use switchback_lab::Foundation;
use switchback_lab::arm::{self, Emulator, Guests, Marketplace, Options};
use switchback_lab::machine::{self, BootFiles, MarketplaceImage, NETWORKS};
use switchback_sites::azure::{AzureCredentials, AzureSite, Identity, ServerImage, ServerPlan};
use switchback_sites::{LocalSite, NetworkSettings, Site as _, SiteSettings};

/// Ends a broken guest, not a slow one.
const LIMIT: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(100);
const CONTAINER: &str = "replicas";
const VMS: &str = "Microsoft.Compute/virtualMachines";
const DISKS: &str = "Microsoft.Compute/disks";
const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBVGvP8b2u1c9lVQm8bM2vJ0S5b1X3d5m0qJ1n3w7Z9k anna@example";
/// What is fetched from the host.
const FETCHED: &str = "what the host has";

/// Custom data of the first: tells its address, counts its runs, fetches over TLS, and installs a service, which fails once.
const SERVES: &str = r#"#!/bin/sh
set -eu
echo "FACT address $(ip -o -4 addr show dev eth0 | awk '{ print $4 }')"
echo $(($(cat /var/lib/runs 2>/dev/null || echo 0) + 1)) >/var/lib/runs
chmod 644 /var/lib/runs
cat >/root/authority.pem <<'PEM'
AUTHORITY
PEM
curl --fail --silent --show-error --proto '=https' --cacert /root/authority.pem --retry 5 --retry-connrefused \
    --connect-to "::10.0.3.2:" --output /root/fetched -- 'URL'
echo "FACT fetched $(sed 's/ *$//' /root/fetched)"
umask 077
mkdir -p /usr/local/bin /var/lib/greeter/www
echo 'good day' >/var/lib/greeter/www/greeting
cat >/usr/local/bin/greeter <<'PROGRAM'
#!/bin/sh
if [ ! -e /var/lib/greeter/tried ]; then
    echo tried >/var/lib/greeter/tried
    exit 3
fi
echo "FACT service user=$(id -u) runs=$(cat /var/lib/runs) told=$1"
exec httpd -f -p 10.20.2.5:9443 -h /var/lib/greeter/www
PROGRAM
chmod 755 /usr/local/bin /usr/local/bin/greeter
cat >/etc/systemd/system/greeter.service <<'UNIT'
[Unit]
Description=Greeter
[Service]
ExecStart="/usr/local/bin/greeter" "100%% of \"$$x\""
DynamicUser=yes
StateDirectory=greeter
StateDirectoryMode=0700
Restart=on-failure
RestartSec=1
[Install]
WantedBy=multi-user.target
UNIT
systemctl daemon-reload
systemctl enable --now greeter.service
"#;

/// Custom data of the second: reaches the first, and fails.
const ASKS: &str = "#!/bin/sh
curl --silent --show-error --retry 60 --retry-delay 1 --retry-connrefused http://10.20.2.5:9443/greeting | sed 's/^/FACT heard /'
exit 7
";
/// What its service says at each start: that it is nobody in particular, and sees what its first start has left.
const SERVICE: &str = "FACT service user=61184 runs=1 told=100% of \"$x\"";

struct Bench {
    emulator: Emulator,
    azure: AzureSite,
    client: Client,
    site: LocalSite,
    /// Last: until the emulator is gone, its guests run on what is in it.
    _directory: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let foundation = Foundation::prepare().unwrap();
        let directory = tempfile::Builder::new().prefix("switchback-lab-").tempdir_in("/var/tmp").unwrap();
        let mut settings = SiteSettings::new([("main".to_owned(), PathBuf::from("disks"))]);
        settings.qemu = foundation.qemu();
        let uplink =
            NetworkSettings::User { cidr: "10.0.3.0/24".into(), forward: Vec::new(), isolated: false };
        let segment = NetworkSettings::Segment { segment: directory.path().to_string_lossy().into_owned() };
        settings.networks = NETWORKS.map(str::to_owned).into_iter().zip([uplink, segment]).collect();
        let site = LocalSite::create(directory.path(), &settings).unwrap();
        let boot = BootFiles::make(&foundation, directory.path()).unwrap();
        let image = MarketplaceImage::make(directory.path(), &[], boot).unwrap();
        let guests = Guests {
            site: directory.path().to_owned(),
            networks: BTreeMap::from([("isolated".to_owned(), NETWORKS[1].to_owned())]),
            boot: None,
            memory_mib_max: 256,
            cpus_max: 1,
            serial_tag: None,
        };
        let marketplace = Marketplace { image, outbound: Some(NETWORKS[0].to_owned()) };
        let emulator = Emulator::start_with(Options {
            guests: Some(guests),
            marketplace: Some(marketplace),
            ..Options::default()
        });
        let emulator = emulator.unwrap();
        let (azure, client) = (azure(&emulator), client(&emulator));
        Self { emulator, azure, client, site, _directory: directory }
    }

    fn deploy(&self, name: &str, address: [u8; 4], custom_data: &str) -> String {
        let plan = ServerPlan {
            name: name.into(),
            mark: "first".into(),
            network: "recovery-net/isolated".into(),
            address: Ipv4Addr::from(address),
            size: "Standard_D2s_v5".into(),
            administrator: "anna".into(),
            ssh_key: KEY.into(),
            image: ServerImage::default(),
            disk_gib: 30,
            custom_data: custom_data.into(),
        };
        self.azure.deploy_server(&plan).unwrap()
    }

    /// A blob on the emulator's shelf, which it serves over TLS; its address.
    fn shelve(&self, text: &str) -> String {
        let container = self.emulator.container_url(CONTAINER);
        let url = container.replace('?', "/fetched?");
        let put = self.client.put(&url).header("x-ms-blob-type", "PageBlob");
        assert_eq!(put.body(format!("{text:512}")).send().unwrap().status(), 201);
        url
    }

    /// Asks for a virtual machine's start or end, and waits for its power state.
    fn switch(&self, name: &str, action: &str, state: &str) {
        let client = arm::Client::default();
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", &client.id),
            ("client_secret", &client.secret),
            ("scope", "https://management.azure.com/.default"),
        ];
        let form = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let url = format!("{}/{}/oauth2/v2.0/token", self.emulator.url(), arm::TENANT);
        let post = self.client.post(url).header("content-type", "application/x-www-form-urlencoded");
        let token: Value = serde_json::from_str(&post.body(form).send().unwrap().text().unwrap()).unwrap();
        let token = token["access_token"].as_str().unwrap();
        let vm = format!(
            "{}/subscriptions/{}/resourceGroups/{}/providers/{VMS}/{name}",
            self.emulator.url(),
            arm::SUBSCRIPTION,
            arm::GROUP
        );
        let version = "api-version=2024-07-01";
        let asked = self.client.post(format!("{vm}/{action}?{version}")).bearer_auth(token).send().unwrap();
        assert_eq!(asked.status(), 202);
        eventually(&format!("{name} is {state}"), || {
            let view = self.client.get(format!("{vm}/instanceView?{version}")).bearer_auth(token);
            view.send().unwrap().text().unwrap().contains(state)
        });
    }

    /// What boot diagnostics show.
    fn console(&self, name: &str) -> String {
        let url = format!("{}/boot-diagnostics/{name}/serial?sig=once", self.emulator.url());
        self.client.get(url).send().unwrap().text().unwrap().replace('\r', "")
    }

    /// Until the console has a text so many times.
    fn wait_for(&self, name: &str, text: &str, times: usize) {
        let has = || self.console(name).matches(text).count() >= times;
        eventually(&format!("{name} says {text:?}"), has);
    }

    fn machine_directory(&self, name: &str) -> PathBuf {
        self.site.directory().join("machines").join(name)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for name in self.emulator.names(VMS) {
            println!("console of {name}:\n{}", self.console(&name));
        }
    }
}

fn azure(emulator: &Emulator) -> AzureSite {
    let container = emulator.container_url(CONTAINER);
    let (container, sas) = container.split_once('?').unwrap();
    let settings = emulator.site_settings(container);
    let client = arm::Client::default();
    let identity = Identity::ClientSecret {
        tenant: arm::TENANT.into(),
        client: client.id,
        secret: client.secret.into(),
    };
    AzureSite::open(settings, AzureCredentials { identity, container_sas: Some(sas.to_owned().into()) })
        .unwrap()
}

fn client(emulator: &Emulator) -> Client {
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
    Client::builder().tls_backend_preconfigured(tls).no_proxy().build().unwrap()
}

fn eventually(what: &str, holds: impl Fn() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < LIMIT, "waited in vain until {what}");
        std::thread::sleep(LOOK);
    }
}

#[test]
fn guest_servers_run_their_custom_data_once_and_reach_each_other() {
    let bench = Bench::new();
    let url = bench.shelve(FETCHED);
    let authority = std::fs::read_to_string(bench.emulator.authority()).unwrap();
    let serves = SERVES.replace("AUTHORITY", authority.trim()).replace("URL", &url);
    let started = Instant::now();
    let first = bench.deploy("ps-one", [10, 20, 2, 5], &serves);
    bench.wait_for(&first, "LAB: ps-one is up", 1);
    println!("first line of the console after {:?}", started.elapsed());
    let second = bench.deploy("ps-two", [10, 20, 2, 6], ASKS);
    for fact in ["FACT address 10.20.2.5/28", "FACT fetched what the host has", SERVICE] {
        bench.wait_for(&first, fact, 1);
    }
    bench.wait_for(&second, "FACT heard good day", 1);
    bench.wait_for(&first, "LAB: custom data has ended with exit code 0", 1);
    bench.wait_for(&second, "LAB: custom data has ended with exit code 7", 1);

    // Later starts: nothing of it runs again, whether it went well or not; what was enabled does, from the same disk.
    bench.switch(&first, "powerOff", "PowerState/stopped");
    bench.wait_for(&first, "LAB: ps-one is down", 1);
    bench.switch(&first, "start", "PowerState/running");
    bench.wait_for(&first, SERVICE, 2);
    bench.switch(&second, "deallocate", "PowerState/deallocated");
    bench.switch(&second, "start", "PowerState/running");
    for name in [&first, &second] {
        bench.wait_for(name, "LAB: custom data ran at the first start, not now", 1);
        assert_eq!(bench.console(name).matches("LAB: custom data has ended").count(), 1);
    }

    let disks: Vec<PathBuf> =
        bench.emulator.names(DISKS).iter().map(|name| bench.emulator.disk_file(name)).collect();
    assert!(disks.len() == 2 && disks.iter().all(|disk| disk.is_file()));
    for (server, name) in [("ps-one", &first), ("ps-two", &second)] {
        assert!(machine::process(bench.site.directory(), name).is_some());
        bench.azure.remove_server(server).unwrap();
        assert_eq!(machine::process(bench.site.directory(), name), None);
        assert!(
            !bench.machine_directory(name).exists(),
            "nothing of {name} is left, its custom data above all"
        );
    }
    assert!(disks.iter().all(|disk| !disk.exists()), "the disks' bytes are gone");
    assert_eq!(bench.emulator.names(VMS), Vec::<String>::new());
}
