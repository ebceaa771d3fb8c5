//! How fast frames get from one end to the other: both ends in one process, over loopback TLS, into a session that
//! throws them away; and in turn with it, for comparison, the same bytes by plain blocking rustls on two threads, without messages.
//! `cargo run --release -p switchback-transport --example throughput [MiB] [frame KiB]`

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use rustls::{ClientConfig, ClientConnection, ServerConnection, StreamOwned};
use switchback_delta::{Frame, FrameKind};
use switchback_disk::SystemClock;
use switchback_identity::tls::ExpectedPeer;
use switchback_identity::{Authority, LiveCredentials, PeerIdentity, Role, tls};
use switchback_model::{DiskIndex, Epoch, Extent, PartIndex, ReplicaId, Seq, WriterId};
use switchback_replica::{
    CommitCycle, DiskSpec, LeafDigests, NodeDigest, OpenCycle, OpenCycleStatus, PartHeader, ReplicaError,
    ReplicaSession, ReplicaState, ReplicaStatus, SessionRequest, Watermarks,
};
use switchback_transport::{ConnectConfig, RemoteSession, ServerConfig, SessionHandler, serve};

struct Null;

impl SessionHandler for Null {
    fn open(&self, _: &PeerIdentity, _: SessionRequest) -> Result<Box<dyn ReplicaSession>, ReplicaError> {
        Ok(Box::new(Self))
    }
}

fn unused<T>() -> Result<T, ReplicaError> {
    Err(ReplicaError::Protocol { detail: "not part of this measurement".into() })
}

impl ReplicaSession for Null {
    fn status(&mut self) -> Result<ReplicaStatus, ReplicaError> {
        Ok(ReplicaStatus {
            id: ReplicaId([0; 16]),
            epoch: Epoch(0),
            disks: vec![DiskSpec { size: 1 << 40 }],
            state: ReplicaState::Empty,
            generation: None,
            open: None,
            last_point: None,
            watermarks: Watermarks::default(),
            paused: None,
        })
    }
    fn open_cycle(&mut self, _: &OpenCycle) -> Result<OpenCycleStatus, ReplicaError> {
        unused()
    }
    fn begin_part(&mut self, _: PartHeader) -> Result<(), ReplicaError> {
        Ok(())
    }
    fn put_frame(&mut self, _: Frame) -> Result<(), ReplicaError> {
        Ok(())
    }
    fn end_part(&mut self, _: [u8; 32]) -> Result<(), ReplicaError> {
        Ok(())
    }
    fn barrier(&mut self) -> Result<Watermarks, ReplicaError> {
        Ok(Watermarks::default())
    }
    fn commit(&mut self, _: &CommitCycle) -> Result<Watermarks, ReplicaError> {
        unused()
    }
    fn abort_cycle(&mut self) -> Result<(), ReplicaError> {
        unused()
    }
    fn node_digests(&mut self, _: DiskIndex, _: u32, _: u32) -> Result<Vec<NodeDigest>, ReplicaError> {
        unused()
    }
    fn leaf_digests(&mut self, _: DiskIndex, _: &[u32]) -> Result<Vec<LeafDigests>, ReplicaError> {
        unused()
    }
}

/// CPU seconds of this process so far.
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

#[expect(clippy::print_stdout, reason = "this is a measurement for people")]
fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u64>());
    let total = arguments.next().transpose()?.unwrap_or(4096) << 20;
    let frame_len = arguments.next().transpose()?.unwrap_or(1024) << 10;
    let clock = Arc::new(SystemClock);
    let authority = Authority::ephemeral(clock.clone());
    let expected = ExpectedPeer { roles: vec![Role::Target], name: None };
    let issue = |role| -> Outcome<_> {
        let identity = PeerIdentity { role, name: "bench".parse()? };
        Ok(LiveCredentials::new(authority.issue(&identity)?)?)
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
    let address = listener.local_addr()?.to_string();
    let server = ServerConfig::new(tls::server_config(&issue(Role::Target)?, clock.clone())?, Arc::new(Null));
    runtime.spawn(serve(listener, server, std::future::pending()));
    let config = ConnectConfig::new(address, issue(Role::Source)?, clock.clone(), runtime.handle().clone());
    let request = SessionRequest {
        replica: "bench".parse()?,
        epoch: Some(Epoch(1)),
        writer: WriterId([1; 16]),
        disks: vec![DiskSpec { size: 1 << 40 }],
    };
    let mut session = RemoteSession::connect(config, request)?;
    let contents: Bytes =
        (0..frame_len).map(|n| u8::try_from(n * 31 % 251).unwrap_or(0)).collect::<Vec<_>>().into();
    let tls = (
        tls::client_config(&issue(Role::Source)?, expected, clock.clone())?,
        tls::server_config(&issue(Role::Target)?, clock)?.data,
    );
    for run in 1..=5 {
        let (session_speed, session_cpu) = measure(total, || send(&mut session, &contents, total))?;
        let (plain_speed, plain_cpu) = measure(total, || plain(&tls, &contents, total))?;
        println!(
            "run {run}: session {session_speed:.2} GB/s, {session_cpu:.2} CPU s/GB for both ends; \
             plain blocking rustls {plain_speed:.2} GB/s, {plain_cpu:.2} CPU s/GB"
        );
    }
    Ok(())
}

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// GB per second and CPU seconds per GB.
fn measure(total: u64, work: impl FnOnce() -> Outcome<()>) -> Outcome<(f64, f64)> {
    let (wall, cpu) = (Instant::now(), cpu_seconds());
    work()?;
    let gigabytes = total as f64 / 1e9;
    Ok((gigabytes / wall.elapsed().as_secs_f64(), (cpu_seconds() - cpu) / gigabytes))
}

fn send(session: &mut RemoteSession, contents: &Bytes, total: u64) -> Outcome<()> {
    let len = contents.len() as u64;
    session.begin_part(PartHeader { seq: Seq(1), part: PartIndex(0), disk: DiskIndex(0) })?;
    for n in 0..total / len {
        let stored = contents.clone();
        let extent = Extent::new(n * len, len);
        session.put_frame(Frame { extent, kind: FrameKind::Raw, checksum: [0; 32], stored })?;
    }
    session.end_part([0; 32])?;
    session.barrier()?;
    Ok(())
}

fn plain(tls: &(Arc<ClientConfig>, Arc<rustls::ServerConfig>), contents: &Bytes, total: u64) -> Outcome<()> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let stream = std::net::TcpStream::connect(listener.local_addr()?)?;
    let (server, client) = (tls.1.clone(), tls.0.clone());
    let count = total / contents.len() as u64;
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| -> Result<(), std::io::Error> {
            let connection = ServerConnection::new(server).map_err(std::io::Error::other)?;
            let mut stream = StreamOwned::new(connection, listener.accept()?.0);
            let mut buffer = vec![0; contents.len()];
            for _ in 0..count {
                stream.read_exact(&mut buffer)?;
            }
            stream.write_all(b"x")?;
            stream.flush()
        });
        let mut stream = StreamOwned::new(ClientConnection::new(client, tls::server_name())?, stream);
        for _ in 0..count {
            stream.write_all(contents)?;
        }
        stream.flush()?;
        stream.read_exact(&mut [0])?;
        receiver.join().map_err(|_| "the receiver panicked")??;
        Ok(())
    })
}
