//! The control plane: what should be, what is, and the jobs that lead from the one to the other.
//!
//! What it is: [`Control`], the application behind API, CLI and portal. It keeps sites, protection groups, protected machines, recovery plans and jobs in
//! a [`Store`]; runs jobs, step by step; answers components with their desired state; and looks again and again at what is not as it
//! should be. What it never does: HTTP, move disk contents, keep in memory what a restart must not lose.
//!
//! The path of one failover: a user asks ([`Control::operate`]); the request is checked against the protection's table and becomes a job in the
//! store, in one change with the mark on the machine that keeps others away; the executor does its steps: the protection's new state and epoch
//! become visible to master target, process server and agents as their desired state, their reports tell when it has come true; the site starts
//! the machine; the job ends.
//!
//! | file | what |
//! |---|---|
//! | `inventory` | sites, servers, groups, mappings, plans |
//! | `items` | protected machines as they are shown |
//! | `drafts` | policies that do not say yet between which sites |
//! | `desired` | what each component is to be like |
//! | `deployments` | process servers that are made at a site |
//! | `program` | what a new process server is given to run |
//! | `install_script` | what a new process server runs at its first start |
//! | `reports` | what components say, and what follows at once |
//! | `moments` | multi-VM moments |
//! | `jobs` | jobs, their executor, and the steps of each kind |
//! | `reconcile` | what is looked at again and again |
//! | `conditions` | what is not well, and since when |
//! | `alerts` | who is told, by mail and webhooks |
//! | `access` | tokens, audit log, events |
//! | `sign_in` | which issuers' tokens are taken |
//! | `accounts` | run-as accounts |
//! | `bandwidth` | how much process servers may forward |
//! | `renewal` | certificates that are renewed before it is time |
//! | `sealing` | secrets that have to be kept |
//! | `https` | how other servers are asked by https |
//! | `physical` | servers without a hypervisor |
//! | `vcenter` | a vCenter under another address |
//! | `readiness` | whether machines could fail over and come home |
//! | `guests` | whether guests are ready for where they may wake up |
//! | `samples` | how replication went in the last hours |
//! | `cost` | what machines cost at Azure |
//! | `proofs` | recovery points that are proved in a sandbox |
//! | `background` | threads that look again and again |
//! | `backup` | backups, restores, and which of two servers is the one |

mod access;
mod accounts;
pub mod alerts;
mod background;
pub mod backup;
mod bandwidth;
mod conditions;
pub mod cost;
mod deployments;
mod desired;
pub mod drafts;
mod error;
mod guests;
pub mod https;
mod install_script;
mod inventory;
mod items;
mod jobs;
mod moments;
mod opening;
mod physical;
mod program;
mod proofs;
mod readiness;
mod reconcile;
mod records;
mod renewal;
mod reports;
mod samples;
mod sealing;
mod sign_in;
mod storage_path;
#[cfg(test)]
mod testing;
mod vcenter;
mod views;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use switchback_disk::Clock;
use switchback_model::{SiteKind, UnixMillis};
use switchback_sites::Site;
use switchback_store::Store;

pub use deployments::{Deployment, InstallSource, PROGRAM_PATH};
pub use error::{ControlError, ErrorKind};
pub(crate) use install_script::InstallScript;
pub use items::Protected;
pub use jobs::check::is_checkable;
pub use jobs::executor::{Crash, Turn};
pub use program::Program;
pub use samples::Sample;
pub use sign_in::{PortalClient, RoleMapping, SignIn};
pub use switchback_sites::trace_context;
pub use views::{DiscoveredMachine, Health, ItemView, ServerView};

use desired::Facts;
use records::Records;

/// Opens sites.
pub type SiteOpener =
    Arc<dyn Fn(&SiteKind, SiteCredentials) -> Result<Arc<dyn Site>, ControlError> + Send + Sync>;

/// How long what was read for answers to components may be used: others may write the same store.
const FACTS_FOR: Duration = Duration::from_secs(1);

/// What a control plane needs.
pub struct ControlConfig {
    /// Where everything is kept.
    pub store: Arc<dyn Store>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Who runs jobs here: the same after a restart of the same configuration server, different between several on one store.
    pub owner: String,
    /// Scripts that recovery plans may run on this host.
    pub scripts: PathBuf,
    /// How sites are opened; [`open_site`] unless it is a test.
    pub opener: SiteOpener,
}

impl fmt::Debug for ControlConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlConfig")
            .field("store", &self.store)
            .field("owner", &self.owner)
            .finish_non_exhaustive()
    }
}

pub use opening::{SiteCredentials, open_site};

/// The control plane. Cheap to clone; all clones are the same. Calls that are not `async` block (store, sites): not to be called on an async thread.
#[derive(Clone)]
pub struct Control {
    inner: Arc<Inner>,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.config.fmt(f)
    }
}

struct Inner {
    config: ControlConfig,
    records: Records,
    sites: Mutex<BTreeMap<String, Arc<dyn Site>>>,
    facts: Mutex<Option<(u64, Instant, Arc<Facts>)>>,
    moments: moments::Moments,
    /// As of the last look, by the machine's key.
    readiness: Mutex<BTreeMap<String, switchback_model::Readiness>>,
    /// What agents have sent, as of the last looks.
    traffic: Mutex<cost::measured::Traffic>,
    samples: Mutex<samples::Samples>,
    at_work: jobs::executor::AtWork,
    /// What belongs into backups beside the store.
    home: OnceLock<backup::ServerHome>,
    /// What new process servers are given.
    install_source: OnceLock<InstallSource>,
    /// A component has reported to this process.
    heard: AtomicBool,
    backups: backup::keeper::Backups,
    /// Held while the key of run-as accounts is made.
    account_key: Mutex<()>,
    /// Counts what may have made a job due.
    woken: Mutex<u64>,
    wake: Condvar,
}

/// The control plane's threads, until dropped.
#[derive(Debug)]
pub struct Workers {
    _executor: jobs::executor::Executor,
    _reconciler: background::Background,
    _readiness: background::Background,
    _keeper: background::Background,
    _alerts: background::Background,
}

impl Control {
    /// Opens it. Jobs that this owner held when it was killed are due again.
    ///
    /// # Errors
    /// Those of the store.
    pub fn open(config: ControlConfig) -> Result<Self, ControlError> {
        let held = config.store.release_all(&config.owner)?;
        if held > 0 {
            tracing::info!(held, "jobs go on that were in hand when the configuration server ended");
        }
        let records = Records::new(Arc::clone(&config.store));
        Ok(Self {
            inner: Arc::new(Inner {
                config,
                records,
                sites: Mutex::default(),
                facts: Mutex::default(),
                moments: moments::Moments::default(),
                readiness: Mutex::default(),
                traffic: Mutex::default(),
                samples: Mutex::default(),
                at_work: jobs::executor::AtWork::default(),
                home: OnceLock::new(),
                install_source: OnceLock::new(),
                heard: AtomicBool::new(false),
                backups: backup::keeper::Backups::default(),
                account_key: Mutex::default(),
                woken: Mutex::default(),
                wake: Condvar::new(),
            }),
        })
    }

    /// Starts the threads that run jobs and look after everything.
    ///
    /// # Errors
    /// When the system gives no threads.
    pub fn start(&self) -> Result<Workers, ControlError> {
        Ok(Workers {
            _executor: jobs::executor::Executor::start(self)?,
            _reconciler: reconcile::watch(self)?,
            _readiness: readiness::watch(self)?,
            _keeper: backup::keeper::watch(self)?,
            _alerts: alerts::sender::watch(self)?,
        })
    }

    /// Says which files belong into backups; without, none can be made. Counts once.
    pub fn keeps(&self, home: backup::ServerHome) {
        let _ = self.inner.home.set(home);
    }

    /// Changes whenever a desired state may have changed.
    #[must_use]
    pub fn changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.records().changes()
    }

    pub(crate) fn records(&self) -> &Records {
        &self.inner.records
    }

    /// The time by its clock.
    #[must_use]
    pub fn now(&self) -> UnixMillis {
        self.inner.config.clock.now()
    }

    /// What answers are computed from, read anew when something has changed.
    pub(crate) fn cached_facts(&self) -> Result<Arc<Facts>, ControlError> {
        let count = *self.changes().borrow();
        let mut cached = self.inner.facts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, read, facts)) = &*cached
            && *at == count
            && read.elapsed() < FACTS_FOR
        {
            return Ok(Arc::clone(facts));
        }
        let facts = Arc::new(self.facts()?);
        *cached = Some((count, Instant::now(), Arc::clone(&facts)));
        Ok(facts)
    }

    /// A job may be due.
    pub(crate) fn wake(&self) {
        *self.inner.woken.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.inner.wake.notify_all();
    }

    pub(crate) fn sleep_until_woken(&self, at_most: Duration) {
        let woken = self.inner.woken.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *woken;
        drop(self.inner.wake.wait_timeout_while(woken, at_most, |woken| *woken == before));
    }
}
