//! Process servers and master targets, as a fabric's details show them. A server's id in the contract is the name it enrolled under.

use serde::Serialize;
use switchback_control::{Health, ServerView};
use switchback_model::ObjectName;
use switchback_model::component::State;
use switchback_sites::Datastore;

use super::health::{HealthError, health_errors, show};
use super::time;

/// `ProcessServer` of the contract.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ProcessServer {
    id: String,
    friendly_name: String,
    ip_address: String,
    agent_version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_heartbeat: Option<String>,
    machine_count: String,
    replication_pair_count: String,
    available_space_in_bytes: u64,
    throughput_upload_pending_data_in_bytes: u64,
    health: &'static str,
    health_errors: Vec<HealthError>,
}

/// `MasterTargetServer` of the contract.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MasterTarget {
    id: String,
    name: String,
    ip_address: String,
    agent_version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_heartbeat: Option<String>,
    retention_volumes: Vec<RetentionVolume>,
    data_stores: Vec<DataStore>,
    validation_errors: Vec<HealthError>,
    health_errors: Vec<HealthError>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RetentionVolume {
    volume_name: &'static str,
    free_space_in_bytes: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct DataStore {
    symbolic_name: String,
    capacity: String,
    free_space: String,
}

/// What serves a site.
#[derive(Debug, Default)]
pub(crate) struct SiteServers {
    pub(crate) process_servers: Vec<ProcessServer>,
    pub(crate) master_targets: Vec<MasterTarget>,
    /// The worst of them.
    pub(crate) health: Option<Health>,
    /// Why.
    pub(crate) errors: Vec<HealthError>,
}

/// Sorts out the servers of a site; master targets reach its datastores.
pub(crate) fn of_site(servers: &[ServerView], site: &ObjectName, datastores: &[Datastore]) -> SiteServers {
    let mut found = SiteServers::default();
    for server in servers {
        let Some((seen, report)) = &server.last_report else { continue };
        if !report.site.eq_ignore_ascii_case(site.as_str()) {
            continue;
        }
        let base = Base {
            name: server.identity.name.as_str(),
            address: host_of(&report.address),
            build: &report.build,
            seen: time::show(*seen),
        };
        let errors = || health_errors(&server.reasons, server.health);
        match &report.state {
            State::Agent(_) => continue,
            State::ProcessServer(state) => {
                let pending = state.spools.iter().map(|spool| spool.bytes).sum();
                found.process_servers.push(base.process_server(
                    server.health,
                    errors(),
                    state.spools.len(),
                    state.free_bytes,
                    pending,
                ));
            }
            State::MasterTarget(state) => {
                found.master_targets.push(base.master_target(errors(), state.free_bytes, datastores));
            }
        }
        found.health = found.health.max(Some(server.health));
        found.errors.extend(errors());
    }
    found
}

struct Base<'a> {
    name: &'a str,
    address: &'a str,
    build: &'a str,
    seen: String,
}

impl Base<'_> {
    fn process_server(
        &self,
        health: Health,
        errors: Vec<HealthError>,
        spools: usize,
        free: u64,
        pending: u64,
    ) -> ProcessServer {
        ProcessServer {
            id: self.name.into(),
            friendly_name: self.name.into(),
            ip_address: self.address.into(),
            agent_version: self.build.into(),
            last_heartbeat: Some(self.seen.clone()),
            // One spool for each machine that replicates through it.
            machine_count: spools.to_string(),
            replication_pair_count: spools.to_string(),
            available_space_in_bytes: free,
            throughput_upload_pending_data_in_bytes: pending,
            health: show(health),
            health_errors: errors,
        }
    }

    fn master_target(&self, errors: Vec<HealthError>, free: u64, datastores: &[Datastore]) -> MasterTarget {
        let data_stores = datastores.iter().map(|datastore| DataStore {
            symbolic_name: datastore.name.clone(),
            capacity: datastore.capacity.to_string(),
            free_space: datastore.free.to_string(),
        });
        MasterTarget {
            id: self.name.into(),
            name: self.name.into(),
            ip_address: self.address.into(),
            agent_version: self.build.into(),
            last_heartbeat: Some(self.seen.clone()),
            retention_volumes: vec![RetentionVolume { volume_name: "retention", free_space_in_bytes: free }],
            data_stores: data_stores.collect(),
            validation_errors: Vec::new(),
            health_errors: errors,
        }
    }
}

/// `HOST` of `HOST:PORT`.
fn host_of(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']'])
}
