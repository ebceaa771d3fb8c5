//! A configuration server with the real listener and real TLS, over a simulated world that goes on by itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use switchback_api::listener::{Limits, ListenerConfig, serve};
use switchback_api::{ApiConfig, ApiLimits, Vault, router};
use switchback_control::{Control, Turn};
use switchback_disk::SystemClock;
use switchback_identity::tls::control_server_config;
use switchback_identity::{
    Authority, EnrolmentPolicy, EnrolmentService, LiveCredentials, PeerIdentity, Role, WebCertificate,
};
use switchback_model::AccessRole;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::world::World;

/// Between two rounds of the world, each a second of its time: quick enough that a job is over when its client looks.
const ROUND_EVERY: Duration = Duration::from_millis(100);
/// Elements of a page: lists of the test are longer.
const PAGE_LEN: usize = 5;

/// See the file's header; ends when dropped.
pub(crate) struct Server {
    /// `https://…`
    pub(crate) url: String,
    /// A file with what its certificate is judged by.
    pub(crate) authority: PathBuf,
    /// A file with a Contributor's token.
    pub(crate) token_file: PathBuf,
    /// Where recovery plans' scripts are looked for; a client may make it.
    pub(crate) scripts: PathBuf,
    stop: Arc<AtomicBool>,
    world: Option<JoinHandle<()>>,
    /// Dropped: the listener ends.
    _listening: oneshot::Sender<()>,
    _runtime: tokio::runtime::Runtime,
    _directory: tempfile::TempDir,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::serving(router)
    }

    /// With what users reach over a control plane. Others include this file, by its path, too.
    pub(crate) fn serving(web: fn(Control, ApiConfig) -> axum::Router) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let mut world = World::new();
        world.offer_program();
        world.more_process_servers.push("other-ps");
        for (role, name) in [
            (Role::ProcessServer, "home-ps"),
            (Role::ProcessServer, "other-ps"),
            (Role::ProcessServer, "recovery-ps"),
            (Role::Target, "home-mt"),
            (Role::Target, "recovery-mt"),
        ] {
            world.enrol(role, name);
        }
        let token = world.control.create_token(&"sdk".parse().unwrap(), AccessRole::Contributor).unwrap();
        let token_file = directory.path().join("token");
        std::fs::write(&token_file, &*token).unwrap();
        let (url, authority, listening) = listen(&runtime, (&world, web), directory.path());
        let (stop, scripts) = (Arc::new(AtomicBool::new(false)), world.scripts.clone());
        let world = std::thread::spawn({
            let stop = stop.clone();
            move || live(world, &stop)
        });
        Self {
            url,
            authority,
            token_file,
            scripts,
            stop,
            world: Some(world),
            _listening: listening,
            _runtime: runtime,
            _directory: directory,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.world.take().map(JoinHandle::join);
        // A world that has seen something wrong has panicked, and that is the test's failure.
        assert!(std::thread::panicking() || matches!(ended, Some(Ok(()))), "the simulated world ended early");
    }
}

fn live(mut world: World, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        if world.control.work_once(None).unwrap() == Turn::Idle {
            world.round();
            std::thread::sleep(ROUND_EVERY);
        }
    }
}

fn listen(
    runtime: &tokio::runtime::Runtime,
    (world, web_of): (&World, fn(Control, ApiConfig) -> axum::Router),
    directory: &Path,
) -> (String, PathBuf, oneshot::Sender<()>) {
    let clock = Arc::new(SystemClock);
    let authority = Arc::new(Authority::ephemeral(clock.clone()));
    let file = directory.join("authority.pem");
    std::fs::write(&file, authority.certificate_pem()).unwrap();
    let own = PeerIdentity { role: Role::ConfigurationServer, name: "cs".parse().unwrap() };
    let own = LiveCredentials::new(authority.issue(&own).unwrap()).unwrap();
    let web = WebCertificate::issue(authority.clone(), vec!["127.0.0.1".into()]).unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let api = ApiConfig {
        vault: Vault::default(),
        public_url: Some(url.clone()),
        build: "test".into(),
        authority: None,
        clock: world.clock.clone(),
        limits: ApiLimits { page_len_max: PAGE_LEN, ..ApiLimits::default() },
    };
    let config = ListenerConfig {
        tls: control_server_config(&own, &web, clock).unwrap(),
        web_certificate: web,
        authority: authority.clone(),
        enrolment: Arc::new(EnrolmentService::new(authority, EnrolmentPolicy::default())),
        service: Arc::new(world.control.clone()),
        web: web_of(world.control.clone(), api),
        limits: Limits::default(),
    };
    let (listening, stopped) = oneshot::channel();
    runtime.spawn(serve(listener, config, async {
        let _ = stopped.await;
    }));
    (url, file, listening)
}
