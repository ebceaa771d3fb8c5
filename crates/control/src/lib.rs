//! The control plane: what should be, what is, and the jobs that lead from the one to the other.
//!
//! What it is: [`Control`], the application behind API, CLI and portal. It keeps sites, protection groups, protected machines, recovery plans and jobs in
//! a [`Store`](switchback_store::Store); runs jobs, step by step; answers components with their desired state; and looks again and again at what is not as it
//! should be. What it never does: HTTP, move disk contents, keep in memory what a restart must not lose.
//!
//! The path of one failover: a user asks ([`Control::operate`]); the request is checked against the protection's table and becomes a job in the
//! store, in one change with the mark on the machine that keeps others away; the executor does its steps: the protection's new state and epoch
//! become visible to master target, process server and agents as their desired state, their reports tell when it has come true; the site starts
//! the machine; the job ends.

mod error;
mod views;

pub use error::{ControlError, ErrorKind};
pub use views::{DiscoveredMachine, Health, ItemView, ServerView};

use std::path::PathBuf;
use std::sync::Arc;

use switchback_disk::Clock;
use switchback_identity::PeerIdentity;
use switchback_model::component::{Answer, MomentAnswer, MomentCall, Report};
use switchback_model::{
    AccessRole, AuditRecord, Event, ItemOperation, Job, JobId, JobState, NetworkMapping, ObjectName,
    ProtectRequest, ProtectionGroup, RecoveryPlan, RecoveryPoint, ReplicationPolicy, Site,
};
use switchback_store::Store;

/// What a control plane needs.
#[derive(Debug)]
pub struct ControlConfig {
    /// Where everything is kept.
    pub store: Arc<dyn Store>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Who runs jobs here: the same after a restart of the same configuration server, different between several on one store.
    pub owner: String,
    /// Scripts that recovery plans may run on this host.
    pub scripts: PathBuf,
}

/// The control plane. Cheap to clone; all clones are the same. Calls that are not `async` block (store, sites): not to be called on an async thread.
#[derive(Clone, Debug)]
pub struct Control {
    #[expect(dead_code, reason = "being built")]
    inner: Arc<ControlConfig>,
}

fn unwritten<T>() -> Result<T, ControlError> {
    Err(ControlError::new(ErrorKind::Internal, "control.unwritten", "this is still being built"))
}

#[expect(
    missing_docs,
    unused_variables,
    clippy::missing_errors_doc,
    clippy::unused_async,
    reason = "being built"
)]
impl Control {
    pub fn open(config: ControlConfig) -> Result<Self, ControlError> {
        Ok(Self { inner: Arc::new(config) })
    }

    // ---- Sites, servers, machines
    pub fn add_site(&self, site: &Site) -> Result<(), ControlError> {
        unwritten()
    }
    pub fn remove_site(&self, name: &ObjectName) -> Result<(), ControlError> {
        unwritten()
    }
    pub fn sites(&self) -> Result<Vec<Site>, ControlError> {
        unwritten()
    }
    /// The site itself, to look at its machines, datastores and networks.
    pub fn site(&self, name: &ObjectName) -> Result<Arc<dyn switchback_sites::Site>, ControlError> {
        unwritten()
    }
    pub fn machines(&self, site: &ObjectName) -> Result<Vec<DiscoveredMachine>, ControlError> {
        unwritten()
    }
    pub fn servers(&self) -> Result<Vec<ServerView>, ControlError> {
        unwritten()
    }
    pub fn remove_server(&self, identity: &PeerIdentity) -> Result<(), ControlError> {
        unwritten()
    }

    // ---- Groups and network mappings
    /// Returns the group and its failback twin.
    pub fn create_group(
        &self,
        name: &ObjectName,
        source_site: &ObjectName,
        target_site: &ObjectName,
        policy: &ReplicationPolicy,
    ) -> Result<(ProtectionGroup, ProtectionGroup), ControlError> {
        unwritten()
    }
    /// Of a group or of a failback twin alone.
    pub fn update_policy(
        &self,
        group: &ObjectName,
        policy: &ReplicationPolicy,
    ) -> Result<ProtectionGroup, ControlError> {
        unwritten()
    }
    /// Deletes the pair; refused while a machine is in it.
    pub fn delete_group(&self, name: &ObjectName) -> Result<(), ControlError> {
        unwritten()
    }
    pub fn groups(&self) -> Result<Vec<ProtectionGroup>, ControlError> {
        unwritten()
    }
    pub fn group(&self, name: &ObjectName) -> Result<ProtectionGroup, ControlError> {
        unwritten()
    }
    pub fn put_network_mapping(&self, mapping: &NetworkMapping) -> Result<(), ControlError> {
        unwritten()
    }
    pub fn delete_network_mapping(
        &self,
        site: &ObjectName,
        network: &str,
        target_site: &ObjectName,
    ) -> Result<(), ControlError> {
        unwritten()
    }
    pub fn network_mappings(&self) -> Result<Vec<NetworkMapping>, ControlError> {
        unwritten()
    }

    // ---- Protected machines
    pub fn items(&self) -> Result<Vec<ItemView>, ControlError> {
        unwritten()
    }
    pub fn item(&self, name: &ObjectName) -> Result<ItemView, ControlError> {
        unwritten()
    }
    /// Oldest first.
    pub fn recovery_points(&self, item: &ObjectName) -> Result<Vec<RecoveryPoint>, ControlError> {
        unwritten()
    }
    pub fn protect(&self, by: &str, request: ProtectRequest) -> Result<Job, ControlError> {
        unwritten()
    }
    pub fn operate(
        &self,
        by: &str,
        item: &ObjectName,
        operation: ItemOperation,
    ) -> Result<Job, ControlError> {
        unwritten()
    }

    // ---- Recovery plans
    pub fn plans(&self) -> Result<Vec<RecoveryPlan>, ControlError> {
        unwritten()
    }
    pub fn plan(&self, name: &ObjectName) -> Result<RecoveryPlan, ControlError> {
        unwritten()
    }
    /// Makes it, or replaces its groups.
    pub fn put_plan(&self, plan: &RecoveryPlan) -> Result<RecoveryPlan, ControlError> {
        unwritten()
    }
    pub fn delete_plan(&self, name: &ObjectName) -> Result<(), ControlError> {
        unwritten()
    }
    pub fn operate_plan(
        &self,
        by: &str,
        plan: &ObjectName,
        operation: ItemOperation,
    ) -> Result<Job, ControlError> {
        unwritten()
    }

    // ---- Jobs
    /// Newest first.
    pub fn jobs(
        &self,
        object: Option<&ObjectName>,
        states: &[JobState],
        limit: usize,
    ) -> Result<Vec<Job>, ControlError> {
        unwritten()
    }
    pub fn job(&self, id: JobId) -> Result<Job, ControlError> {
        unwritten()
    }
    pub fn cancel_job(&self, by: &str, id: JobId) -> Result<Job, ControlError> {
        unwritten()
    }
    pub fn restart_job(&self, by: &str, id: JobId) -> Result<Job, ControlError> {
        unwritten()
    }
    /// Confirms a manual action.
    pub fn resume_job(&self, by: &str, id: JobId, comments: &str) -> Result<Job, ControlError> {
        unwritten()
    }

    // ---- Events, tokens, audit
    /// Newest first.
    pub fn events(&self, limit: usize) -> Result<Vec<Event>, ControlError> {
        unwritten()
    }
    /// Makes a token; returns its secret, which is kept nowhere.
    pub fn create_token(&self, name: &ObjectName, role: AccessRole) -> Result<String, ControlError> {
        unwritten()
    }
    pub fn tokens(&self) -> Result<Vec<(ObjectName, AccessRole)>, ControlError> {
        unwritten()
    }
    pub fn delete_token(&self, name: &ObjectName) -> Result<(), ControlError> {
        unwritten()
    }
    /// Whose secret it is, and what that holder may do.
    pub fn authenticate(&self, secret: &str) -> Result<Option<(ObjectName, AccessRole)>, ControlError> {
        unwritten()
    }
    pub fn record_audit(&self, record: &AuditRecord) -> Result<(), ControlError> {
        unwritten()
    }
    /// Newest first.
    pub fn audit(&self, limit: usize) -> Result<Vec<AuditRecord>, ControlError> {
        unwritten()
    }

    // ---- Components
    /// A component has enrolled.
    pub fn enrolled(&self, identity: &PeerIdentity) -> Result<(), ControlError> {
        unwritten()
    }
    /// Takes a component's report, and answers with its desired state.
    pub fn report(&self, peer: &PeerIdentity, report: Report) -> Result<Answer, ControlError> {
        unwritten()
    }
    /// The desired state of a component as of its last report.
    pub fn desired(&self, peer: &PeerIdentity) -> Result<Answer, ControlError> {
        unwritten()
    }
    /// Changes whenever a desired state may have changed.
    pub fn changes(&self) -> tokio::sync::watch::Receiver<u64> {
        tokio::sync::watch::channel(0).1
    }
    /// A member's arrival at a meeting of a multi-VM moment; answers when all have arrived or the time is up.
    pub async fn moment(&self, peer: &PeerIdentity, call: MomentCall) -> Result<MomentAnswer, ControlError> {
        unwritten()
    }
}
