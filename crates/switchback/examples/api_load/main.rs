//! What `cargo xtask bench api` measures: the configuration server, as its users start it, with a thousand machines in its store.
//!
//! `api_load PROGRAM DIRECTORY sqlite|postgresql REQUESTS` fills a new store through the control plane, starts `PROGRAM configuration-server` on it in
//! DIRECTORY, asks its API and its portal over TLS, one request after the other, and prints one line of JSON: the wall time of each request, the server's CPU time, its memory.

#![expect(clippy::print_stdout, reason = "a program: its output is its result")]

mod portal;

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};
use switchback::client::{Client, Endpoint, Token};
use switchback_control::{Control, ControlConfig};
use switchback_disk::{Clock as _, SystemClock};
use switchback_identity::{Newcomer, PeerIdentity, Role};
use switchback_model::component::{
    Activity, AgentState, DiskFacts, HardwareFacts, InterfaceFacts, MasterTargetState, ProcessServerState,
    ReplicaActual, ReplicaMode, ReplicationState, Report, State,
};
use switchback_model::{
    Consistency, Epoch, Instance, ItemOperation, Job, JobRequest, JobState, MachineId, ObjectName, Phase,
    PointChoice, ProtectedItem, RecoveryPoint, ReplicaName, ReplicationPath, ReplicationPolicy, Seq, Site,
    SiteKind, Task, TaskState, UnixMillis,
};
use switchback_sites::{LocalSite, SiteSettings};
use switchback_store::testing::PostgresServer;
use switchback_store::{Change, Expect, Kind, SqliteStore, Store};

const MACHINES: u32 = 1000;
const DISKS: u32 = 5;
/// Recovery points of each machine.
const POINTS: u64 = 24;
/// Jobs that have ended.
const JOBS: u32 = 1000;
/// Machines that share a process server and a master target.
const PER_SERVER: u32 = 100;
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [program, directory, kind, requests] = &words[..] else {
        bail!("usage: api_load PROGRAM DIRECTORY sqlite|postgresql REQUESTS");
    };
    let (directory, requests) = (Path::new(directory), requests.parse().context("REQUESTS is a number")?);
    let data = directory.join("data");
    fs::create_dir_all(&data)?;
    // It ends with this program.
    let postgres = (kind == "postgresql").then(PostgresServer::start);
    let location = postgres.as_ref().map(|server| server.database("switchback"));
    let store: Arc<dyn Store> = match &location {
        Some(location) => switchback_store::open(location).context("opening the database")?,
        None => Arc::new(SqliteStore::open(data.join("store.db"))?),
    };
    fill(directory, store)?;
    let mut command = Command::new(program);
    command.args(["configuration-server", "--name", "cs", "--advertise", "127.0.0.1", "--listen"]);
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    command
        .arg(format!("127.0.0.1:{port}"))
        .args(["--client-requests-per-second", "1000"])
        .arg("--data")
        .arg(&data)
        .stdout(Stdio::null());
    command.env("SWITCHBACK_LOG", "warn").stderr(fs::File::create(directory.join("server.log"))?);
    if let Some(location) = &location {
        let file = directory.join("database");
        fs::write(&file, location)?;
        command.arg("--database-file").arg(file);
    }
    let server = Server(command.spawn().with_context(|| format!("starting {program}"))?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    println!("{}", runtime.block_on(measure(&server, &data, port, requests))?);
    Ok(())
}

/// Ends with this program.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Server {
    /// User and system time so far, in ms: fields 14 and 15 of `stat`, in hundredths of a second (proc(5)).
    fn cpu_ms(&self) -> anyhow::Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id()))?;
        let (_, rest) = stat.rsplit_once(')').context("no name in stat")?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let ticks =
            |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).context("no times in stat");
        Ok((ticks(11)? + ticks(12)?) * 10.0)
    }

    /// A line of `status`, in MiB.
    fn memory_mib(&self, name: &str) -> anyhow::Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok());
        Ok(kib.with_context(|| format!("no {name} in status"))? / 1024.0)
    }
}

/// What is asked: what it is called, its path below the vault, its query.
type Asked = (&'static str, String, &'static [(&'static str, &'static str)]);

fn requests_of(container: &str) -> [Asked; 12] {
    let item = format!("{container}/replicationProtectedItems/machine0500");
    let (items, ours) = ("replicationProtectedItems", "switchbackProtectedMachines");
    [
        ("list: the first 200", items.into(), &[]),
        ("list: the last 200", items.into(), &[("$skipToken", "machine0799")]),
        ("list, ours: the first 200", ours.into(), &[]),
        ("filter: 100 of a process server", items.into(), &[("$filter", "processServerId eq 'ps-05'")]),
        ("get", item.clone(), &[]),
        ("get, ours", format!("{ours}/machine0500"), &[]),
        ("recovery points of one", format!("{item}/recoveryPoints"), &[]),
        ("servers: the first 200", "switchbackServers".into(), &[]),
        ("jobs: the newest 200", "replicationJobs".into(), &[]),
        (
            "filter: jobs of one machine",
            "replicationJobs".into(),
            &[("$filter", "targetObjectName eq 'machine0500'")],
        ),
        ("fabrics", "replicationFabrics".into(), &[]),
        ("containers", "replicationFabrics/home/replicationProtectionContainers".into(), &[]),
    ]
}

async fn measure(server: &Server, data: &Path, port: u16, requests: u32) -> anyhow::Result<Value> {
    let client = connect(data, port).await?;
    let containers = "replicationFabrics/home/replicationProtectionContainers";
    let found = client.get(&client.id(containers)).await?;
    let name = found["value"][0]["name"].as_str().context("no container")?;
    let idle_mib = server.memory_mib("VmRSS")?;
    let mut rows = Vec::new();
    for (title, path, query) in requests_of(&format!("{containers}/{name}")) {
        let path = client.id(&path);
        let answer = client.text(&path, query).await.with_context(|| path.clone())?;
        let parsed: Value = serde_json::from_str(&answer)?;
        let elements = parsed["value"].as_array().map(Vec::len);
        ensure!(elements != Some(0), "{path} is empty");
        let ask = async || Ok(client.text(&path, query).await?);
        let mut row = timed(server, title, requests, ask).await?;
        row["elements"] = json!(elements);
        rows.push(row);
    }
    let visitor = portal::Visitor::sign_in(data, port).await?;
    for (title, path) in portal::PAGES {
        rows.push(timed(server, title, requests, async || visitor.page(path).await).await?);
    }
    let memory = json!({ "idle": idle_mib, "after": server.memory_mib("VmRSS")?, "most": server.memory_mib("VmHWM")? });
    Ok(json!({ "rows": rows, "memory_mib": memory }))
}

/// Asks so many times, after once for nothing.
async fn timed(
    server: &Server,
    title: &str,
    requests: u32,
    ask: impl AsyncFn() -> anyhow::Result<String>,
) -> anyhow::Result<Value> {
    let answer = ask().await?;
    let before = server.cpu_ms()?;
    let mut wall_ms = Vec::new();
    for _ in 0..requests {
        let began = Instant::now();
        ask().await?;
        wall_ms.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    let cpu_ms = (server.cpu_ms()? - before) / f64::from(requests);
    Ok(json!({ "title": title, "wall_ms": wall_ms, "cpu_ms": cpu_ms, "bytes": answer.len() }))
}

async fn connect(data: &Path, port: u16) -> anyhow::Result<Client> {
    let began = Instant::now();
    loop {
        let files = (fs::read_to_string(data.join("ca.pem")), fs::read_to_string(data.join("admin-token")));
        if let (Ok(authority), Ok(token)) = files {
            let endpoint = Endpoint {
                server: format!("https://127.0.0.1:{port}"),
                authority,
                token: Token::new(token.trim())?,
            };
            let client = Client::new(endpoint)?;
            if client.get(&client.id("replicationFabrics")).await.is_ok() {
                return Ok(client);
            }
        }
        ensure!(
            began.elapsed() < PATIENCE,
            "the configuration server does not answer; see server.log beside its data"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Sites, a group, components, machines.
fn fill(directory: &Path, store: Arc<dyn Store>) -> anyhow::Result<()> {
    let clock = Arc::new(SystemClock);
    let now = clock.now();
    let config = ControlConfig {
        store: store.clone(),
        clock,
        owner: "filling".into(),
        scripts: directory.join("scripts"),
        opener: Arc::new(switchback_control::open_site),
    };
    let control = Control::open(config)?;
    for name in ["home", "recovery"] {
        let site = directory.join(name);
        LocalSite::create(&site, &SiteSettings::new([("main".to_owned(), "disks".into())]))?;
        control.add_site(&Site { name: name.parse()?, kind: SiteKind::Local { directory: site } })?;
    }
    control.create_group(
        &"PG1".parse()?,
        &"home".parse()?,
        &"recovery".parse()?,
        &ReplicationPolicy::default(),
    )?;
    for first in (0..MACHINES).step_by(PER_SERVER as usize) {
        let numbers = first..first + PER_SERVER;
        let items = numbers.clone().map(item).collect::<anyhow::Result<Vec<_>>>()?;
        let changes = items.iter().map(|item| {
            let (key, owner) = (item.name.key(), Some(item.agent.clone()));
            Ok(Change::Put {
                kind: Kind::Item,
                key,
                owner,
                expect: Expect::Absent,
                body: serde_json::to_string(item)?,
                due: None,
            })
        });
        store.commit(&changes.collect::<anyhow::Result<Vec<_>>>()?)?;
        let (processing, target) = servers_of(first);
        report(&control, Role::ProcessServer, &processing, "home", State::ProcessServer(process_server()))?;
        let replicas = numbers.clone().map(|number| replica(number, now)).collect::<anyhow::Result<_>>()?;
        let state = MasterTargetState { replicas, free_bytes: 1 << 40, ..MasterTargetState::default() };
        report(&control, Role::Target, &target, "recovery", State::MasterTarget(state))?;
        for number in numbers {
            let state = State::Agent(Box::new(agent(number, now)?));
            report(&control, Role::Source, &machine(number), "", state)?;
        }
    }
    let jobs = (0..JOBS).map(|number| job(number, now)).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(store.commit(&jobs).map(drop)?)
}

/// A job that made a test failover of a machine, an hour ago or more.
fn job(number: u32, now: UnixMillis) -> anyhow::Result<Change> {
    let item: ObjectName = machine(number % MACHINES).parse()?;
    let created = UnixMillis(now.0 - 3_600_000 - u64::from(number) * 1000);
    let task = |name: &str| Task {
        name: name.into(),
        friendly_name: format!("{name} of a machine"),
        state: TaskState::Succeeded,
        started: Some(created),
        ended: Some(created),
        progress: None,
        message: "done as it was asked for".into(),
        error: None,
        jobs: Vec::new(),
    };
    let job = Job {
        // Ids sort by time.
        id: format!("{:012x}7000800000000{number:07x}", created.0).parse()?,
        request: JobRequest::Operate {
            item: item.clone(),
            operation: ItemOperation::TestFailover { point: PointChoice::Latest },
        },
        state: JobState::Succeeded,
        tasks: ["Check", "Prepare", "Create", "Start", "Report"].map(task).into(),
        by: "admin".into(),
        created,
        started: Some(created),
        ended: Some(created),
        undoing: None,
        cancel_requested: false,
        parent: None,
        notes: Default::default(),
    };
    Ok(Change::Put {
        kind: Kind::Job,
        key: job.id.to_string(),
        owner: Some(item.key()),
        expect: Expect::Absent,
        body: serde_json::to_string(&job)?,
        due: None,
    })
}

fn report(control: &Control, role: Role, name: &str, site: &str, state: State) -> anyhow::Result<()> {
    let identity = PeerIdentity { role, name: name.parse()? };
    control.enrolled(&Newcomer { identity: identity.clone(), ticket: None })?;
    let report = Report {
        build: "0.1.0".into(),
        address: if role == Role::Source { String::new() } else { format!("{name}.example:9443") },
        site: site.into(),
        started: UnixMillis(0),
        state,
        incarnation_proof: None,
    };
    control.report(&identity, report)?;
    Ok(())
}

fn machine(number: u32) -> String {
    format!("machine{number:04}")
}

/// Its process server and its master target.
fn servers_of(number: u32) -> (String, String) {
    let server = number / PER_SERVER;
    (format!("ps-{server:02}"), format!("mt-{server:02}"))
}

fn uuid(number: u32) -> String {
    format!("00000000-0000-4000-8000-{number:012x}")
}

fn replica_name(number: u32) -> anyhow::Result<ReplicaName> {
    Ok(format!("{}.1", machine(number)).parse()?)
}

fn item(number: u32) -> anyhow::Result<ProtectedItem> {
    let name: ObjectName = machine(number).parse()?;
    let instance = |site: &str, id: Option<String>| -> anyhow::Result<Instance> {
        let (site, system_uuid) = (site.parse()?, uuid(number));
        Ok(Instance {
            site,
            id,
            system_uuid,
            created_by_us: false,
            disk_serials: Vec::new(),
            nics: Vec::new(),
        })
    };
    let mut id = [0; 16];
    id[..4].copy_from_slice(&number.to_be_bytes());
    let instances = (instance("home", Some(machine(number)))?, instance("recovery", None)?);
    let sizes = vec![64 << 30; DISKS as usize];
    let mut item =
        ProtectedItem::begin((name, machine(number)), MachineId(id), "PG1".parse()?, instances, sizes);
    item.protection.phase = Phase::Protected;
    let (process_server, master_target) = servers_of(number);
    let targets = (0..DISKS).map(|disk| format!("/disks/{}/{disk}.raw", machine(number)).into()).collect();
    item.replication = Some(ReplicationPath {
        replica: replica_name(number)?,
        process_server,
        master_target,
        epoch: Epoch(1),
        targets,
    });
    Ok(item)
}

fn process_server() -> ProcessServerState {
    ProcessServerState {
        spools: Vec::new(),
        free_bytes: 1 << 40,
        received_bytes: 1 << 40,
        forwarded_bytes: 1 << 40,
        probes: Default::default(),
    }
}

fn replica(number: u32, now: UnixMillis) -> anyhow::Result<ReplicaActual> {
    let point = |seq: u64| RecoveryPoint {
        seq: Seq(seq),
        time: UnixMillis(now.0 - (POINTS - seq) * 15_000),
        consistency: Consistency::CrashConsistent,
        group_tag: None,
        lacks: Vec::new(),
    };
    Ok(ReplicaActual {
        replica: replica_name(number)?,
        epoch: Epoch(1),
        reached: Some(ReplicaMode::Receive),
        applied: Some(Seq(POINTS)),
        points: (1..=POINTS).map(point).collect(),
        retention_bytes: 1 << 30,
        views: Default::default(),
        standing: Vec::new(),
        targets: Vec::new(),
        problem: None,
    })
}

fn agent(number: u32, now: UnixMillis) -> anyhow::Result<AgentState> {
    let disk = |at: u32| DiskFacts {
        name: format!("sd{at}"),
        serial: format!("d{number}-{at}"),
        size: 64 << 30,
        capture: "ebpf".into(),
    };
    let card = InterfaceFacts {
        name: "eth0".into(),
        mac: "52:54:00:00:00:01".into(),
        addresses: vec![format!("10.{}.{}.{}/16", 1, number / 250, number % 250 + 1)],
        gateway: Some("10.1.255.254".into()),
    };
    let replication = ReplicationState {
        replica: replica_name(number)?,
        epoch: Epoch(1),
        generation: None,
        activity: Activity::Idle,
        compared_bytes: 0,
        seeded: Vec::new(),
        disk_bytes: u64::from(DISKS) * (64 << 30),
        sent_bytes: 1 << 36,
        resync_sent_bytes: 1 << 35,
        changed_bytes: 1 << 35,
        transferred_bytes: 1 << 35,
        received: Some((Seq(POINTS), now)),
        recoverable: Some(Seq(POINTS)),
        frozen_ms: 12,
        final_point: None,
        failure: None,
    };
    Ok(AgentState {
        system_uuid: uuid(number),
        platform: "VMware, Inc. VMware7,1".into(),
        hostname: machine(number),
        system: "Debian GNU/Linux 12, Linux 6.1".into(),
        boot_id: uuid(number),
        hardware: HardwareFacts { cpus: 4, memory_mib: 16384, uefi: true },
        powering_off: None,
        disks: (0..DISKS).map(disk).collect(),
        interfaces: vec![card],
        replication: Some(replication),
        scripts: Vec::new(),
        guest: Vec::new(),
        program: None,
        problems: Vec::new(),
    })
}
