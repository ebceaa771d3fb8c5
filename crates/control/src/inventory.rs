//! Sites, servers, machines, protection groups, network mappings: what there is, as users arrange it.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use switchback_identity::{PeerIdentity, Role};
use switchback_model::{
    JobError, NetworkMapping, ObjectName, ProtectedItem, ProtectionGroup, RecoveryPlan, ReplicationPolicy,
    Site, SiteKind, UnixMillis,
};
use switchback_store::{Expect, Kind};

use crate::deployments::Deployment;
use crate::records::{Batch, Versioned};
use crate::reports::StoredReport;
use crate::{Control, ControlError, DiscoveredMachine, ErrorKind, Health, ServerView};

/// Shortest and longest interval of recovery points in milliseconds that make sense.
const INTERVAL_MS: std::ops::RangeInclusive<u64> = 1_000..=24 * 3_600_000;

/// A component that has enrolled, as it is kept.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Enrolment {
    identity: PeerIdentity,
    enrolled: UnixMillis,
}

impl Control {
    /// Makes a site known; it is opened to see that it is there.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when the name is taken, [`ErrorKind::Unavailable`] when the site cannot be opened.
    pub fn add_site(&self, site: &Site) -> Result<(), ControlError> {
        self.check_landing(&site.kind)?;
        let opened = self.open_site(&site.kind)?;
        opened.machines()?;
        let before: Option<Versioned<Site>> = self.records().find(Kind::Site, &site.name.key())?;
        let both_physical = |before: &Versioned<Site>| {
            matches!((&before.value.kind, &site.kind), (SiteKind::Physical { .. }, SiteKind::Physical { .. }))
        };
        // Where physical servers come home to may become known later.
        let expect = match before.filter(both_physical) {
            Some(before) => Expect::Version(before.version),
            None => Expect::Absent,
        };
        let mut batch = Batch::default();
        batch.put(Kind::Site, site.name.key(), expect, site);
        self.records().commit(batch).map_err(|error| self.taken(error, "site", &site.name))?;
        self.site_cache().insert(site.name.key(), opened);
        Ok(())
    }

    /// Forgets a site; nothing at it is changed.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] while a group is at it.
    pub fn remove_site(&self, name: &ObjectName) -> Result<(), ControlError> {
        let site: Versioned<Site> = self.records().get(Kind::Site, "site", &name.key())?;
        let groups = self.groups()?;
        if let Some(group) =
            groups.iter().find(|group| group.source_site == *name || group.target_site == *name)
        {
            let message = format!("the site {name} is in use by the protection group {}", group.name);
            return Err(ControlError::new(ErrorKind::Conflict, "site.in-use", message)
                .remedy("delete the group first"));
        }
        if let Some(made) = self.deployments()?.iter().find(|made| made.request.site == *name) {
            let message = format!("the process server {} was made at {name}", made.request.name);
            return Err(ControlError::new(ErrorKind::Conflict, "site.in-use", message)
                .remedy("remove it first: `switchback server retire`"));
        }
        let is_home_of = |other: &&Site| matches!(&other.kind, SiteKind::Physical { comes_home_to: Some(home) } if home == name);
        if let Some(other) = self.sites()?.iter().find(is_home_of) {
            let message = format!("the physical servers of {} come home to {name}", other.name);
            return Err(ControlError::new(ErrorKind::Conflict, "site.in-use", message)
                .remedy("have them come home to another site first"));
        }
        let mut batch = Batch::default();
        batch.delete(Kind::Site, name.key(), Expect::Version(site.version));
        self.records().commit(batch)?;
        self.site_cache().remove(&name.key());
        Ok(())
    }

    /// All sites.
    ///
    /// # Errors
    /// Those of the store.
    pub fn sites(&self) -> Result<Vec<Site>, ControlError> {
        Ok(values(self.records().all(Kind::Site)?))
    }

    /// The site itself, to look at its machines, datastores and networks.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::Unavailable`].
    pub fn site(&self, name: &ObjectName) -> Result<Arc<dyn switchback_sites::Site>, ControlError> {
        let site: Versioned<Site> = self.records().get(Kind::Site, "site", &name.key())?;
        let mut cache = self.site_cache();
        if let Some(open) = cache.get(&name.key()) {
            return Ok(Arc::clone(open));
        }
        let opened = self.open_site(&site.value.kind)?;
        cache.insert(name.key(), Arc::clone(&opened));
        Ok(opened)
    }

    /// Sites are opened anew: an account's password is another one.
    pub(crate) fn reopen_sites(&self) {
        self.site_cache().clear();
    }

    pub(crate) fn site_cache(
        &self,
    ) -> std::sync::MutexGuard<'_, std::collections::BTreeMap<String, Arc<dyn switchback_sites::Site>>> {
        self.inner.sites.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The machines of a site, with what stands in the way of protecting them.
    ///
    /// # Errors
    /// Those of the site.
    pub fn machines(&self, site: &ObjectName) -> Result<Vec<DiscoveredMachine>, ControlError> {
        let machines = self.site(site)?.machines()?;
        let items: Vec<ProtectedItem> = values(self.records().all(Kind::Item)?);
        let agents = self.reports_of(Role::Source)?;
        let now = self.now();
        let discovered = machines.into_iter().map(|machine| {
            let is_instance = |item: &&ProtectedItem| {
                [&item.home, &item.away]
                    .into_iter()
                    .any(|instance| instance.site == *site && instance.id.as_ref() == Some(&machine.id))
            };
            let item = items.iter().find(is_instance).map(|item| item.name.clone());
            let agent = agents.iter().find(|report| {
                report.is_alive(now)
                    && report.agent().is_some_and(|agent| agent.system_uuid == machine.system_uuid)
            });
            let mut obstacles = Vec::new();
            if agent.is_none() {
                obstacles.push(no_agent(&machine.name));
            }
            if machine.disks.is_empty() {
                obstacles.push(JobError {
                    code: "machine.no-disks".into(),
                    message: format!("{} has no disks", machine.name),
                    cause: String::new(),
                    remedy: String::new(),
                });
            }
            DiscoveredMachine { machine, item, has_agent: agent.is_some(), obstacles }
        });
        Ok(discovered.collect())
    }

    /// All components that have enrolled.
    ///
    /// # Errors
    /// Those of the store.
    pub fn servers(&self) -> Result<Vec<ServerView>, ControlError> {
        self.servers_of(&Role::ALL)
    }

    /// The components of some roles that have enrolled. Agents are as many as machines: whoever needs none leaves them out.
    ///
    /// # Errors
    /// Those of the store.
    pub fn servers_of(&self, roles: &[Role]) -> Result<Vec<ServerView>, ControlError> {
        let enrolments: Vec<Enrolment> = values(self.records().all(Kind::Server)?);
        let mut reports = Vec::new();
        for role in roles {
            reports.extend(self.reports_of(*role)?);
        }
        // The newest of each comes last, and stays.
        reports.sort_by_key(|report| report.received);
        let newest: HashMap<_, _> = reports.iter().map(|report| (&report.peer, report)).collect();
        let now = self.now();
        let wanted = enrolments.into_iter().filter(|enrolment| roles.contains(&enrolment.identity.role));
        let view = |enrolment: Enrolment| {
            let newest = newest.get(&enrolment.identity).copied();
            server_view(enrolment, newest, now)
        };
        Ok(wanted.map(view).collect())
    }

    /// Forgets a component, so that its certificate is not renewed any more.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Conflict`] while a protected machine needs it.
    pub fn remove_server(&self, identity: &PeerIdentity) -> Result<(), ControlError> {
        let _: Versioned<Enrolment> = self.records().get(Kind::Server, "server", &server_key(identity))?;
        let is_made = |made: &Deployment| made.identity().is_ok_and(|made| made == *identity);
        if self.deployments()?.iter().any(is_made) {
            let message = format!("{identity} was made here, and has a machine at its site");
            return Err(ControlError::new(ErrorKind::Conflict, "server.made-here", message)
                .remedy("`switchback server retire` removes it with its machine"));
        }
        self.check_unused(identity)?;
        let mut batch = Batch::default();
        self.forget_server(identity, &mut batch)?;
        Ok(self.records().commit(batch)?)
    }

    /// Whether no protected machine needs a component.
    pub(crate) fn check_unused(&self, identity: &PeerIdentity) -> Result<(), ControlError> {
        for item in values::<ProtectedItem>(self.records().all(Kind::Item)?) {
            let name = identity.name.as_str();
            let path = item.replication.as_ref();
            let used = match identity.role {
                Role::Source => item.agent == name,
                Role::ProcessServer => path.is_some_and(|path| path.process_server == name),
                Role::Target => path.is_some_and(|path| path.master_target == name),
                _ => false,
            };
            if used {
                let message = format!("{identity} is in use: {} is replicated with it", item.name);
                return Err(ControlError::new(ErrorKind::Conflict, "server.in-use", message).remedy(
                    "have its machines send through another one first: `switchback server replace`",
                ));
            }
        }
        Ok(())
    }

    /// Its enrolment and its reports go.
    pub(crate) fn forget_server(
        &self,
        identity: &PeerIdentity,
        batch: &mut Batch,
    ) -> Result<(), ControlError> {
        batch.delete(Kind::Server, server_key(identity), Expect::Any);
        for report in self.reports_of(identity.role)? {
            if report.peer == *identity {
                let key = match report.agent() {
                    Some(agent) => crate::reports::agent_key(identity.name.as_str(), &agent.system_uuid),
                    None => server_key(identity),
                };
                batch.delete(Kind::Report, key, Expect::Any);
            }
        }
        Ok(())
    }

    pub(crate) fn add_enrolment(&self, identity: &PeerIdentity, batch: &mut Batch) {
        let enrolment = Enrolment { identity: identity.clone(), enrolled: self.now() };
        batch.put(Kind::Server, server_key(identity), Expect::Any, &enrolment);
    }

    /// Whether a component's certificate is to be renewed: it has enrolled and was not removed.
    ///
    /// # Errors
    /// Those of the store.
    pub fn is_enrolled(&self, identity: &PeerIdentity) -> Result<bool, ControlError> {
        Ok(self.records().find::<Enrolment>(Kind::Server, &server_key(identity))?.is_some())
    }

    /// Makes a protection group and its failback twin, and returns both.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when a name is taken; [`ErrorKind::Invalid`] for a policy that makes no sense.
    pub fn create_group(
        &self,
        name: &ObjectName,
        source_site: &ObjectName,
        target_site: &ObjectName,
        policy: &ReplicationPolicy,
    ) -> Result<(ProtectionGroup, ProtectionGroup), ControlError> {
        check_policy(policy)?;
        for site in [source_site, target_site] {
            let _: Versioned<Site> = self.records().get(Kind::Site, "site", &site.key())?;
        }
        if source_site == target_site {
            let message = format!("the group {name} would replicate the site {source_site} to itself");
            return Err(ControlError::new(ErrorKind::Invalid, "group.same-site", message));
        }
        let (group, twin) =
            ProtectionGroup::pair(name.clone(), source_site.clone(), target_site.clone(), policy.clone())?;
        let mut batch = self.without_draft(name)?;
        batch.put(Kind::Group, group.name.key(), Expect::Absent, &group);
        batch.put(Kind::Group, twin.name.key(), Expect::Absent, &twin);
        self.records().commit(batch).map_err(|error| self.taken(error, "protection group", name))?;
        Ok((group, twin))
    }

    /// Changes the policy of a group, or of a failback twin alone.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::Invalid`].
    pub fn update_policy(
        &self,
        group: &ObjectName,
        policy: &ReplicationPolicy,
    ) -> Result<ProtectionGroup, ControlError> {
        check_policy(policy)?;
        let Versioned { mut value, version }: Versioned<ProtectionGroup> =
            self.records().get(Kind::Group, "protection group", &group.key())?;
        value.policy = policy.clone();
        let mut batch = Batch::default();
        batch.replace(Kind::Group, group.key(), version, &value);
        self.records().commit(batch)?;
        Ok(value)
    }

    /// Deletes a pair of groups.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] while a machine is in it.
    pub fn delete_group(&self, name: &ObjectName) -> Result<(), ControlError> {
        Ok(self.records().commit(self.without_group(name)?.0)?)
    }

    /// The change that deletes a pair of groups, and the policy that goes with it.
    pub(crate) fn without_group(
        &self,
        name: &ObjectName,
    ) -> Result<(Batch, ReplicationPolicy), ControlError> {
        let group: Versioned<ProtectionGroup> =
            self.records().get(Kind::Group, "protection group", &name.key())?;
        let twin: Versioned<ProtectionGroup> =
            self.records().get(Kind::Group, "protection group", &group.value.twin.key())?;
        let items: Vec<ProtectedItem> = values(self.records().all(Kind::Item)?);
        if let Some(item) = items.iter().find(|item| item.group == *name || item.group == twin.value.name) {
            let message = format!("{} is still protected in the group {}", item.name, item.group);
            return Err(ControlError::new(ErrorKind::Conflict, "group.in-use", message)
                .remedy("disable its protection first"));
        }
        let mut batch = Batch::default();
        batch.delete(Kind::Group, name.key(), Expect::Version(group.version));
        batch.delete(Kind::Group, twin.value.name.key(), Expect::Version(twin.version));
        Ok((batch, group.value.policy))
    }

    /// All groups, failback twins included.
    ///
    /// # Errors
    /// Those of the store.
    pub fn groups(&self) -> Result<Vec<ProtectionGroup>, ControlError> {
        Ok(values(self.records().all(Kind::Group)?))
    }

    /// One group.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn group(&self, name: &ObjectName) -> Result<ProtectionGroup, ControlError> {
        Ok(self.records().get(Kind::Group, "protection group", &name.key())?.value)
    }

    /// Makes or replaces a network mapping.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when a network is not there.
    pub fn put_network_mapping(&self, mapping: &NetworkMapping) -> Result<(), ControlError> {
        let target = Some(&mapping.target_network).into_iter().chain(&mapping.test_network);
        let wanted = [(&mapping.site, vec![&mapping.network]), (&mapping.target_site, target.collect())];
        for (site, networks) in wanted {
            let known = self.site(site)?.networks()?;
            for network in networks {
                if !known.iter().any(|known| known.name == *network) {
                    let known = known.iter().map(|known| known.name.as_str()).collect::<Vec<_>>().join(", ");
                    let message =
                        format!("there is no network {network:?} at the site {site}; it has: {known}");
                    return Err(ControlError::new(ErrorKind::Invalid, "network.not-found", message));
                }
            }
        }
        let mut batch = Batch::default();
        batch.put(
            Kind::NetworkMapping,
            mapping_key(&mapping.site, &mapping.network, &mapping.target_site),
            Expect::Any,
            mapping,
        );
        Ok(self.records().commit(batch)?)
    }

    /// Removes a network mapping.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn delete_network_mapping(
        &self,
        site: &ObjectName,
        network: &str,
        target_site: &ObjectName,
    ) -> Result<(), ControlError> {
        let key = mapping_key(site, network, target_site);
        let _: Versioned<NetworkMapping> =
            self.records().get(Kind::NetworkMapping, "network mapping", &key)?;
        let mut batch = Batch::default();
        batch.delete(Kind::NetworkMapping, key, Expect::Any);
        Ok(self.records().commit(batch)?)
    }

    /// All network mappings.
    ///
    /// # Errors
    /// Those of the store.
    pub fn network_mappings(&self) -> Result<Vec<NetworkMapping>, ControlError> {
        Ok(values(self.records().all(Kind::NetworkMapping)?))
    }

    /// The plan of a name.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn plan(&self, name: &ObjectName) -> Result<RecoveryPlan, ControlError> {
        Ok(self.records().get(Kind::Plan, "recovery plan", &name.key())?.value)
    }

    /// All recovery plans.
    ///
    /// # Errors
    /// Those of the store.
    pub fn plans(&self) -> Result<Vec<RecoveryPlan>, ControlError> {
        Ok(values(self.records().all(Kind::Plan)?))
    }

    /// Makes a plan, or replaces its groups.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when a machine in it is not protected, is there twice, or belongs to other sites; [`ErrorKind::Conflict`] while a job works on it.
    pub fn put_plan(&self, plan: &RecoveryPlan) -> Result<RecoveryPlan, ControlError> {
        let before: Option<Versioned<RecoveryPlan>> = self.records().find(Kind::Plan, &plan.name.key())?;
        if let Some(job) = before.as_ref().and_then(|before| before.value.job) {
            return Err(busy("recovery plan", &plan.name, job));
        }
        let mut value = plan.clone();
        value.job = None;
        value.protection_groups.clear();
        let mut seen = std::collections::BTreeSet::new();
        for machine in plan.groups.iter().flat_map(|group| &group.machines) {
            let item: Versioned<ProtectedItem> =
                self.records().get(Kind::Item, "protected machine", &machine.key())?;
            let item = item.value;
            let invalid = |message: String| ControlError::new(ErrorKind::Invalid, "plan.invalid", message);
            if !seen.insert(machine.key()) {
                return Err(invalid(format!("{machine} is in the plan twice")));
            }
            if (&item.home.site, &item.away.site) != (&plan.home_site, &plan.away_site) {
                let message = format!(
                    "{machine} is protected from {} to {}, the plan is from {} to {}",
                    item.home.site, item.away.site, plan.home_site, plan.away_site
                );
                return Err(invalid(message));
            }
            let group = self.group(&item.group)?;
            let in_force =
                if item.protection.active == switchback_model::Side::Away { Some(group.twin) } else { None };
            for name in [Some(group.name), in_force].into_iter().flatten() {
                if !value.protection_groups.contains(&name) {
                    value.protection_groups.push(name);
                }
            }
        }
        let mut batch = Batch::default();
        batch.put(
            Kind::Plan,
            plan.name.key(),
            before.map_or(Expect::Absent, |before| Expect::Version(before.version)),
            &value,
        );
        self.records().commit(batch)?;
        Ok(value)
    }

    /// Deletes a plan; its machines stay as they are.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Conflict`] while a job works on it.
    pub fn delete_plan(&self, name: &ObjectName) -> Result<(), ControlError> {
        let plan: Versioned<RecoveryPlan> = self.records().get(Kind::Plan, "recovery plan", &name.key())?;
        if let Some(job) = plan.value.job {
            return Err(busy("recovery plan", name, job));
        }
        let mut batch = Batch::default();
        batch.delete(Kind::Plan, name.key(), Expect::Version(plan.version));
        Ok(self.records().commit(batch)?)
    }

    fn taken(&self, error: switchback_store::StoreError, what: &str, name: &ObjectName) -> ControlError {
        match error {
            switchback_store::StoreError::Conflict { .. } => ControlError::new(
                ErrorKind::Conflict,
                "name.taken",
                format!("there is a {what} {name} already"),
            )
            .remedy("choose another name"),
            other => other.into(),
        }
    }
}

/// A job works on it.
pub(crate) fn busy(what: &str, name: &ObjectName, job: switchback_model::JobId) -> ControlError {
    ControlError::new(
        ErrorKind::Conflict,
        "object.busy",
        format!("another job is working on the {what} {name}"),
    )
    .cause(format!("job {job} has not ended"))
    .remedy("wait for it, or cancel it")
}

pub(crate) fn no_agent(name: &str) -> JobError {
    JobError {
        code: "machine.no-agent".into(),
        message: format!("no mobility agent reports from {name}"),
        cause: "the machine is off, the agent is not installed or not enrolled, or it cannot reach the configuration server".into(),
        remedy: "start the machine, install the agent, enrol it with the site's passphrase".into(),
    }
}

/// Whether a policy makes sense.
pub(crate) fn check_policy(policy: &ReplicationPolicy) -> Result<(), ControlError> {
    let invalid = |message: &str| Err(ControlError::new(ErrorKind::Invalid, "policy.invalid", message));
    if !INTERVAL_MS.contains(&policy.interval_ms) {
        return invalid("the interval of recovery points must be from 1 second to 24 hours");
    }
    if policy.app_interval_ms != 0 && !INTERVAL_MS.contains(&policy.app_interval_ms) {
        return invalid(
            "the interval of app-consistent recovery points must be 0 (none), or from 1 second to 24 hours",
        );
    }
    if policy.rpo_threshold_ms < policy.interval_ms {
        return invalid(
            "the threshold of the RPO alarm must not be below the interval of recovery points: it would never be met",
        );
    }
    if !(10..=60_000).contains(&policy.freeze_budget_ms) {
        return invalid("the freeze budget must be from 10 ms to 60 s");
    }
    if policy.retention.steps.is_empty() {
        return invalid("the retention keeps nothing: it needs at least one step");
    }
    Ok(())
}

pub(crate) fn server_key(identity: &PeerIdentity) -> String {
    format!("{}/{}", identity.role, identity.name)
}

fn mapping_key(site: &ObjectName, network: &str, target_site: &ObjectName) -> String {
    format!("{}/{network}/{}", site.key(), target_site.key())
}

fn server_view(enrolment: Enrolment, newest: Option<&StoredReport>, now: UnixMillis) -> ServerView {
    let mut reasons = Vec::new();
    let health = match newest {
        None => Health::Warning,
        Some(report) if report.is_alive(now) => Health::Normal,
        Some(_) => Health::Critical,
    };
    if health != Health::Normal {
        let since = newest.map_or("it enrolled".into(), |report| {
            format!("{} s", now.0.saturating_sub(report.received.0) / 1000)
        });
        reasons.push(JobError {
            code: "server.no-heartbeat".into(),
            message: format!("{} has not reported since {since}", enrolment.identity),
            cause:
                "its process or host is down, or the network between it and the configuration server is cut"
                    .into(),
            remedy: "look at its host and its log; it goes on by itself when it can".into(),
        });
    }
    let last_report = newest.map(|report| (report.received, report.report.clone()));
    ServerView { identity: enrolment.identity, enrolled: enrolment.enrolled, last_report, health, reasons }
}

pub(crate) fn values<T>(records: Vec<Versioned<T>>) -> Vec<T> {
    records.into_iter().map(|record| record.value).collect()
}
