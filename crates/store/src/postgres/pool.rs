//! A few connections, shared by all threads, and the limits of a call.
//!
//! Invariants: never more than `PostgresLimits::connections` at once; a connection that failed, or that was in the middle of something when
//! its call's time was up, is closed and not used again, so that whatever it was doing is rolled back by the server.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_postgres::Client;
use tokio_postgres::config::{Config, Host, TargetSessionAttrs};

use super::PostgresLimits;
use super::error::{self, Failure};
use super::session;
use crate::StoreError;

/// How long a connection that was idle may take to say that it is still there.
const ALIVE_LIMIT: Duration = Duration::from_secs(2);

pub(super) struct Pool {
    config: Config,
    place: String,
    limits: PostgresLimits,
    state: Mutex<State>,
    freed: Condvar,
    /// `None` only while being dropped.
    runtime: Option<Runtime>,
}

#[derive(Default)]
struct State {
    idle: Vec<Client>,
    /// Calls that have a connection, or the right to make one.
    in_use: usize,
}

/// The right to use one connection.
struct Slot<'a> {
    pool: &'a Pool,
    /// What the next call can go on with.
    client: Option<Client>,
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let mut state = self.pool.state();
        state.in_use -= 1;
        state.idle.extend(self.client.take());
        drop(state);
        self.pool.freed.notify_one();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // A runtime that is dropped waits, which is not allowed where async code drops the last reference to a store.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Pool {
    pub(super) fn new(location: &str, limits: PostgresLimits) -> Result<Self, StoreError> {
        let failed = |detail: String| StoreError::Database {
            action: "preparing for the PostgreSQL database".to_owned(),
            detail,
            passing: false,
        };
        // The parser's own words may hold a part of the password.
        let mut config: Config = location.parse().map_err(|_| {
            failed(
                "the connection string is not valid: write postgres://USER:PASSWORD@HOST/DATABASE, or \
                 postgres://USER@%2Frun%2Fpostgresql/DATABASE for a local socket; special characters of the password as %XX"
                    .to_owned(),
            )
        })?;
        if config.get_hosts().is_empty() {
            config.host("/run/postgresql");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(limits.connect);
        }
        if config.get_application_name().is_none() {
            config.application_name("switchback");
        }
        // Of several hosts, the one that can be written; a standby alone is refused.
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("postgres-store")
            .enable_all()
            .build()
            .map_err(|error| failed(format!("no thread could be started: {error}")))?;
        let place = place(&config);
        let state = Mutex::new(State::default());
        Ok(Self { config, place, limits, state, freed: Condvar::new(), runtime: Some(runtime) })
    }

    /// The database, without its password.
    pub(super) fn place(&self) -> &str {
        &self.place
    }

    pub(super) fn corrupt(&self, detail: String) -> StoreError {
        error::corrupt(&self.place, detail)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs one call on a connection that works.
    pub(super) fn run<T>(
        &self,
        doing: &str,
        call: impl AsyncFnOnce(&mut Client) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        let deadline = Instant::now() + self.limits.call;
        let mut slot = self.slot(deadline).ok_or_else(|| self.too_busy(doing))?;
        let runtime = self.runtime.as_ref().expect("taken by drop only");
        let idle = slot.client.take();
        let outcome = runtime.block_on(async {
            let work = async {
                let mut client = self.working(idle).await?;
                let outcome = call(&mut client).await;
                // A conflict leaves the connection as it was.
                if !matches!(outcome, Err(Failure::Postgres(_))) {
                    slot.client = Some(client);
                }
                outcome
            };
            timeout(deadline.saturating_duration_since(Instant::now()), work).await
        });
        match outcome {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(failure)) => Err(error::from_failure(&self.place, doing, failure)),
            Err(_) => Err(error::no_answer(&self.place, doing, self.limits.call)),
        }
    }

    /// The idle connection if it is still there, else a new one.
    async fn working(&self, idle: Option<Client>) -> Result<Client, Failure> {
        if let Some(client) = idle {
            if matches!(timeout(ALIVE_LIMIT, client.check_connection()).await, Ok(Ok(()))) {
                return Ok(client);
            }
            tracing::warn!(database = self.place, "the connection to the database is lost: making a new one");
        }
        let connecting = session::connect(&self.config, &self.limits);
        match timeout(self.limits.connect, connecting).await {
            Ok(connected) => Ok(connected?),
            Err(_) => Err(Failure::Store(error::no_answer(&self.place, "connecting", self.limits.connect))),
        }
    }

    /// Waits for the right to use a connection; `None` when the time is up.
    fn slot(&self, deadline: Instant) -> Option<Slot<'_>> {
        let mut state = self.state();
        while state.in_use >= self.limits.connections.max(1) {
            let left = deadline.checked_duration_since(Instant::now())?;
            (state, _) = self.freed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
        state.in_use += 1;
        let client = state.idle.pop();
        Some(Slot { pool: self, client })
    }

    fn too_busy(&self, doing: &str) -> StoreError {
        StoreError::Database {
            action: format!("{doing} (in {})", self.place),
            detail: format!(
                "all {} connections were in use for {} s: is the database slow, or has it stopped answering?",
                self.limits.connections,
                self.limits.call.as_secs()
            ),
            passing: true,
        }
    }
}

/// What a database is called in messages.
fn place(config: &Config) -> String {
    let host = |host: &Host| match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(path) => path.display().to_string(),
    };
    let hosts: Vec<String> = config.get_hosts().iter().map(host).collect();
    let name = config.get_dbname().or(config.get_user()).unwrap_or("postgres");
    format!("the PostgreSQL database {name} at {}", hosts.join(", "))
}
