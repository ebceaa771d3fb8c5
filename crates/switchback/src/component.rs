//! A component's end of the control channel: reports up, desired state down.
//!
//! What it is: [`Channel`], for threads. Behind it two tasks: the *reporter* sends the component's state every few seconds and whenever
//! told to, and takes the desired state from the answers; the *waiter* keeps a long poll open and has the reporter ask at once when there
//! is something new. Only the reporter's answers count, and it has one question at a time: so an old answer can never overtake a newer one.
//! What it never does: act on what it is told; that is the roles' part.
//!
//! Several addresses of the configuration server may be given, and it can tell others: whichever answered last is asked first, the others when it
//! does not. So a server that was restored elsewhere is found. Who answers must be a configuration server of our authority, at any address; and one
//! that was replaced by a restored one is not listened to any more (see `servers`).
//! The certificate is renewed here, long before it expires.

mod error;
mod line;
mod servers;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use rand::Rng;
use rustls::ClientConfig;
use serde::Serialize;
use serde::de::DeserializeOwned;
use switchback_disk::{Clock, Volume};
use switchback_identity::tls::control_client_config;
use switchback_identity::{KeyRequest, LiveCredentials};
use switchback_model::UnixMillis;
use switchback_model::component::{
    Answer, MomentAnswer, MomentCall, ProgramOffer, ProgramPiece, Report, SandboxHeard, SandboxSeen, State,
    WAIT_S, Wait,
};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

pub use error::ChannelError;
use line::Line;
use servers::Servers;

/// Between two reports, unless something changes.
pub const REPORT_EVERY: Duration = Duration::from_secs(5);
/// Shortest time between two reports.
const REPORT_GAP: Duration = Duration::from_millis(100);
/// Time for a report's answer.
const REPORT_MAX: Duration = Duration::from_secs(30);
/// Time for what is told of a sandbox: nobody takes one down while it is being told.
const TELL_MAX: Duration = Duration::from_secs(5);
/// First pause after a failure; doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// Times in a row that a piece of a program is asked for once more.
const PIECE_FAILURES_MAX: u32 = 20;
/// Between them.
const PIECE_PAUSE: Duration = Duration::from_secs(3);
/// How often it is looked whether the certificate has to be renewed, and how soon a failed renewal is tried again.
const RENEWAL_EVERY: Duration = Duration::from_secs(60);

/// What a channel needs.
#[derive(Clone)]
pub struct ChannelConfig {
    /// `HOST:PORT` of the configuration server; several: the same server's, or one that may take its place.
    pub servers: Vec<String>,
    /// Who we are. Replaced by renewed ones.
    pub credentials: Arc<LiveCredentials>,
    /// Where they are kept.
    pub volume: Arc<dyn Volume>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// What the tasks run on.
    pub runtime: Handle,
}

impl std::fmt::Debug for ChannelConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChannelConfig").field("servers", &self.servers).finish_non_exhaustive()
    }
}

/// Says how the component is just now. Called on the network's threads: must not block.
pub type Compose = dyn Fn() -> Report + Send + Sync;

/// What was heard last.
#[derive(Debug, Default)]
struct Heard {
    /// How many answers there were.
    count: u64,
    answer: Option<Answer>,
    failure: Option<ChannelError>,
}

struct Inner {
    config: ChannelConfig,
    tls: Arc<ClientConfig>,
    compose: Arc<Compose>,
    servers: Mutex<Servers>,
    /// A report is wanted now.
    wanted: Notify,
    heard: Mutex<Heard>,
    /// Waited for with `heard`.
    news: Condvar,
    /// The version of the last answer, for the waiter; changes with every answer.
    version: watch::Sender<Option<u64>>,
    /// For multi-VM moments: kept open, so that nothing has to be opened while file systems stand still.
    meeting: tokio::sync::Mutex<Option<Line>>,
    /// For what is seen of sandboxes: large, and in nobody's way.
    sandbox: tokio::sync::Mutex<Option<Line>>,
}

/// A component's end of the control channel; ends when dropped.
pub struct Channel {
    inner: Arc<Inner>,
    tasks: [JoinHandle<()>; 2],
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel").field("config", &self.inner.config).finish_non_exhaustive()
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Channel {
    /// Begins to report what `compose` says, and to listen.
    ///
    /// # Errors
    /// When no server is named, or the authority's certificate cannot be used.
    pub fn start(config: ChannelConfig, compose: Arc<Compose>) -> anyhow::Result<Self> {
        anyhow::ensure!(!config.servers.is_empty(), "name the configuration server: --server HOST:PORT");
        let tls = control_client_config(&config.credentials, config.clock.clone())
            .context("the authority's certificate of this host")?;
        let runtime = config.runtime.clone();
        let authority = config.credentials.current().authority().to_vec();
        let servers = Servers::new(config.servers.clone(), authority, &*config.volume);
        let inner = Arc::new(Inner {
            config,
            tls,
            compose,
            servers: Mutex::new(servers),
            wanted: Notify::new(),
            heard: Mutex::default(),
            news: Condvar::new(),
            version: watch::Sender::new(None),
            meeting: tokio::sync::Mutex::default(),
            sandbox: tokio::sync::Mutex::default(),
        });
        let reporter = runtime.spawn(report(inner.clone()));
        let waiter = runtime.spawn(wait(inner.clone()));
        Ok(Self { inner, tasks: [reporter, waiter] })
    }

    /// Has the state reported at once, because it has changed.
    pub fn report_now(&self) {
        self.inner.wanted.notify_one();
    }

    /// Wakes whoever waits in [`Channel::next`].
    pub fn wake(&self) {
        self.inner.news.notify_all();
    }

    /// Waits for an answer after the `seen` first ones, until the limit or [`Channel::wake`]. Gives how many there were and the last.
    pub fn next(&self, seen: u64, limit: Duration) -> (u64, Option<Answer>) {
        let heard = self.inner.heard();
        let heard = if heard.count > seen {
            heard
        } else {
            self.inner.news.wait_timeout(heard, limit).unwrap_or_else(PoisonError::into_inner).0
        };
        (heard.count, heard.answer.clone())
    }

    /// Why the last report was not answered, if it was not.
    #[must_use]
    pub fn failure(&self) -> Option<ChannelError> {
        self.inner.heard().failure.clone()
    }

    /// Fetches an offered program, piece by piece. Blocks, for as long as each piece arrives in time after some tries.
    ///
    /// # Errors
    /// The last failure of a piece; those of `take`.
    pub fn fetch_program(
        &self,
        offer: &ProgramOffer,
        mut take: impl FnMut(&[u8]) -> std::io::Result<()>,
    ) -> anyhow::Result<()> {
        let inner = &self.inner;
        let mut line = None;
        let (mut offset, mut failures) = (0, 0);
        while offset < offer.len {
            let wanted = encode(&ProgramPiece { sha256: offer.sha256.clone(), offset });
            let server = inner.server();
            let asked = inner.ask_once(&mut line, &server, "/components/v1/program", wanted, REPORT_MAX);
            match inner.config.runtime.block_on(asked) {
                Ok(piece) => {
                    anyhow::ensure!(
                        !piece.is_empty(),
                        "the configuration server's program is shorter than it says"
                    );
                    take(&piece)?;
                    (offset, failures) = (offset + piece.len() as u64, 0);
                }
                Err(error) if error.is_of_this_server() && failures < PIECE_FAILURES_MAX => {
                    (line, failures) = (None, failures + 1);
                    std::thread::sleep(PIECE_PAUSE);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Goes to a meeting of a multi-VM moment. Blocks until its answer, `limit` at most. Touches no file but those of the process's own
    /// image, and writes nothing.
    ///
    /// # Errors
    /// [`ChannelError`]: the moment is to be taken alone then.
    pub fn moment(&self, call: &MomentCall, limit: Duration) -> Result<MomentAnswer, ChannelError> {
        let inner = &self.inner;
        inner.config.runtime.block_on(async {
            let mut line = inner.meeting.lock().await;
            let body = encode(call);
            let meet = inner.ask(&mut line, "/components/v1/moment", body, limit, &|_, _| Ok(()));
            // Over all addresses together: file systems may be standing still.
            tokio::time::timeout(limit, meet).await.unwrap_or_else(|_| {
                Err(ChannelError::TimedOut { server: inner.server(), limit_s: limit.as_secs() })
            })
        })
    }

    /// Tells what is seen of a sandbox. Blocks until that is answered, or was not in time.
    ///
    /// # Errors
    /// [`ChannelError`]: it is to be told again.
    pub fn tell_sandbox(&self, seen: &SandboxSeen) -> Result<SandboxHeard, ChannelError> {
        let inner = &self.inner;
        inner.config.runtime.block_on(async {
            let mut line = inner.sandbox.lock().await;
            inner.ask(&mut line, "/components/v1/sandbox", encode(seen), TELL_MAX, &|_, _| Ok(())).await
        })
    }
}

fn encode(message: &impl Serialize) -> Bytes {
    serde_json::to_vec(message).expect("plain data becomes JSON").into()
}

impl Inner {
    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn servers(&self) -> MutexGuard<'_, Servers> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn server(&self) -> String {
        self.servers().current().to_owned()
    }

    /// Asks the server that answered last; the next one when it does not, once around. `check` says why an answer of a server does not count, if it does
    /// not: the next server is asked then too.
    async fn ask<T: DeserializeOwned>(
        &self,
        line: &mut Option<Line>,
        path: &str,
        body: Bytes,
        limit: Duration,
        check: &(dyn Fn(&str, &T) -> Result<(), ChannelError> + Send + Sync),
    ) -> Result<T, ChannelError> {
        self.config.credentials.current().check(self.config.clock.now())?;
        let mut last = None;
        let count = self.servers().count();
        for _ in 0..count {
            let server = self.server();
            let answered = Box::pin(self.ask_once(line, &server, path, body.clone(), limit)).await;
            let judged = answered.and_then(|bytes| {
                let parsed: T = serde_json::from_slice(&bytes).map_err(|error| ChannelError::Protocol {
                    server: server.clone(),
                    detail: error.to_string(),
                })?;
                check(&server, &parsed).map(|()| parsed)
            });
            match judged {
                Err(error) if error.is_of_this_server() => {
                    *line = None;
                    last = Some(error);
                    self.servers().leave(&server);
                }
                other => return other,
            }
        }
        Err(last.expect("there is one server at least"))
    }

    async fn ask_once(
        &self,
        line: &mut Option<Line>,
        server: &str,
        path: &str,
        body: Bytes,
        limit: Duration,
    ) -> Result<Bytes, ChannelError> {
        let attempt = async {
            let was_open = line.as_ref().is_some_and(|line| line.is_open_to(server));
            if was_open && let Some(line) = line.as_mut() {
                match line.post(path, body.clone()).await {
                    // The server may have ended an idle connection just now: that is no failure of the server.
                    Err(ChannelError::Unreachable { .. }) => {}
                    other => return other,
                }
            }
            let fresh = line.insert(Line::open(server, self.tls.clone()).await?);
            fresh.post(path, body).await
        };
        tokio::time::timeout(limit, attempt).await.unwrap_or_else(|_| {
            Err(ChannelError::TimedOut { server: server.into(), limit_s: limit.as_secs() })
        })
    }

    /// Keeps what an answer teaches of where the server is and which one it is, before anything is done of what it says.
    async fn learn(&self, answer: &Answer) {
        let Some(learnt) = self.servers().learn(answer) else { return };
        let volume = self.config.volume.clone();
        let incarnation = learnt.incarnation_proof.as_ref().map_or(0, |proof| proof.number);
        tracing::info!(incarnation, addresses = ?learnt.addresses, "the configuration server tells where it is");
        let stored = tokio::task::spawn_blocking(move || learnt.store(&*volume)).await;
        if let Err(error) = stored.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
            tracing::error!(%error, "where the configuration server is could not be kept: a restart may follow an older one");
        }
    }

    fn take(&self, outcome: Result<Answer, ChannelError>) {
        let mut heard = self.heard();
        match outcome {
            Ok(answer) => {
                if heard.failure.take().is_some() {
                    tracing::info!(server = %self.server(), "the configuration server answers again");
                }
                let version = answer.version;
                heard.count += 1;
                heard.answer = Some(answer);
                self.version.send_replace(Some(version));
                self.news.notify_all();
            }
            Err(error) => {
                if heard.failure.as_ref() != Some(&error) {
                    match &error {
                        // It passes, or not; until then everything goes on as it was.
                        ChannelError::Unreachable { .. } | ChannelError::TimedOut { .. } => {
                            tracing::warn!(%error, "not reported")
                        }
                        _ => tracing::error!(%error, "not reported"),
                    }
                }
                heard.failure = Some(error);
            }
        }
    }

    /// Which certificates the configuration server wants renewed at once: those that end before.
    fn renewal(&self) -> Option<UnixMillis> {
        self.heard().answer.as_ref().and_then(|answer| answer.renew_ending_before)
    }

    /// Renews the certificate if it is time, or asked for.
    async fn renew(&self, line: &mut Option<Line>) -> Result<(), ChannelError> {
        let config = &self.config;
        let current = config.credentials.current();
        let is_asked_for = self.renewal().is_some_and(|ending| current.facts().not_after < ending);
        if !is_asked_for && !current.is_due_for_renewal(config.clock.now()) {
            return Ok(());
        }
        let key = KeyRequest::generate();
        let request = Bytes::copy_from_slice(key.der());
        let server = self.server();
        let answer = self.ask_once(line, &server, "/components/v1/renew", request, REPORT_MAX).await?;
        let renewed = key.into_renewed(&answer, &current)?;
        // Stored before it is shown: after a crash the newer one may be gone, but never the only one.
        let (stored, volume) = (renewed.clone(), config.volume.clone());
        let stored = tokio::task::spawn_blocking(move || stored.store(&*volume)).await;
        stored.map_err(|error| ChannelError::Credentials { detail: error.to_string() })??;
        config.credentials.replace(renewed)?;
        // Connections that stand were made with the old one.
        *line = None;
        tracing::info!(identity = %current.identity(), "certificate renewed");
        Ok(())
    }
}

async fn report(inner: Arc<Inner>) {
    let mut line = None;
    let mut pause = PAUSE_MIN;
    let mut looked: Option<Instant> = None;
    let mut renewal = None;
    loop {
        // What is asked for anew is done now, and tried again at the pace of all renewals.
        let asked_for = inner.renewal();
        if asked_for != std::mem::replace(&mut renewal, asked_for) {
            looked = None;
        }
        if looked.is_none_or(|at| at.elapsed() >= RENEWAL_EVERY) {
            looked = Some(Instant::now());
            if let Err(error) = inner.renew(&mut line).await {
                tracing::warn!(%error, "the certificate could not be renewed yet");
            }
        }
        let incarnation_proof = inner.servers().incarnation_proof().cloned();
        let report = Report { incarnation_proof, ..(inner.compose)() };
        let check = |server: &str, answer: &Answer| inner.servers().check(server, answer);
        let asked = inner.ask(&mut line, "/components/v1/report", encode(&report), REPORT_MAX, &check);
        let outcome = asked.await;
        if let Ok(answer) = &outcome {
            inner.learn(answer).await;
        }
        let failed = outcome.is_err();
        inner.take(outcome);
        if failed {
            tokio::time::sleep(jitter(pause)).await;
            pause = (pause * 2).min(PAUSE_MAX);
            continue;
        }
        pause = PAUSE_MIN;
        tokio::time::sleep(REPORT_GAP).await;
        let _ = tokio::time::timeout(REPORT_EVERY, inner.wanted.notified()).await;
    }
}

async fn wait(inner: Arc<Inner>) {
    let mut line = None;
    let mut pause = PAUSE_MIN;
    let mut versions = inner.version.subscribe();
    loop {
        let Some(version) = *versions.borrow_and_update() else {
            if versions.changed().await.is_err() {
                return;
            }
            continue;
        };
        let system_uuid = match (inner.compose)().state {
            State::Agent(agent) => Some(agent.system_uuid),
            State::ProcessServer(_) | State::MasterTarget(_) => None,
        };
        let body = encode(&Wait { version, system_uuid });
        let limit = Duration::from_secs(WAIT_S) + REPORT_MAX;
        let check = |server: &str, answer: &Answer| inner.servers().check(server, answer);
        match inner.ask(&mut line, "/components/v1/wait", body, limit, &check).await {
            Ok(answer) if answer.version != version => {
                pause = PAUSE_MIN;
                inner.wanted.notify_one();
                // Until the reporter has asked; it tries again by itself.
                if versions.changed().await.is_err() {
                    return;
                }
            }
            Ok(_) => pause = PAUSE_MIN,
            // The reporter says so.
            Err(_) => {
                tokio::time::sleep(jitter(pause)).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

/// Half to one and a half of it, so that not all come back at once.
fn jitter(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(0.5..1.5))
}
