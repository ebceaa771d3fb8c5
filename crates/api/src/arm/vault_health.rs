//! `replicationVaultHealth`: how everything is, in numbers, with each reason once.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};
use switchback_control::{Control, Health};
use switchback_identity::Role;
use switchback_model::JobError;

use super::answer::Answer;
use super::call::Call;
use super::error::ArmError;
use super::health::{HealthError, health_errors};
use super::id::{guid, machine_guid};
use super::resource::resource;

/// The one of a vault.
const NAME: &str = "default";

/// `HealthErrorSummary` of the contract.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Issue {
    summary_code: String,
    category: &'static str,
    severity: &'static str,
    summary_message: String,
    affected_resource_type: &'static str,
    affected_resource_correlation_ids: Vec<String>,
}

/// Reasons of many resources, each once.
struct Issues {
    kind: &'static str,
    category: &'static str,
    count: usize,
    by_code: BTreeMap<String, Issue>,
}

impl Issues {
    const fn new(kind: &'static str, category: &'static str) -> Self {
        Self { kind, category, count: 0, by_code: BTreeMap::new() }
    }

    fn add(&mut self, id: &str, health: Health, reasons: &[JobError]) {
        for reason in reasons {
            let issue = self.by_code.entry(reason.code.clone()).or_insert_with(|| Issue {
                summary_code: reason.code.clone(),
                category: self.category,
                severity: "Warning",
                summary_message: reason.message.clone(),
                affected_resource_type: self.kind,
                affected_resource_correlation_ids: Vec::new(),
            });
            if health == Health::Critical {
                issue.severity = "Error";
            }
            issue.affected_resource_correlation_ids.push(id.to_owned());
        }
    }

    /// `ResourceHealthSummary` of the contract.
    fn show(self) -> Value {
        json!({ "resourceCount": self.count, "issues": self.by_code.into_values().collect::<Vec<_>>() })
    }
}

/// Everything is looked at whenever it is asked for, so a refresh is the same.
pub(crate) fn get(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let items = control.items()?;
    let mut machines = Issues::new("replicationProtectedItems", "Replication");
    machines.count = items.len();
    for view in &items {
        machines.add(&machine_guid(view.item.machine), view.health, &view.reasons);
    }
    let sites = control.sites()?;
    let mut fabrics = Issues::new("replicationFabrics", "FabricInfrastructure");
    fabrics.count = sites.len();
    let servers = control.servers_if(|server| server.role != Role::Source)?;
    for site in &sites {
        let id = guid(&["site", &site.name.key()]);
        let here = servers.iter().filter(|server| {
            let report = server.last_report.as_ref();
            report.is_some_and(|(_, report)| report.site.eq_ignore_ascii_case(site.name.as_str()))
        });
        for server in here {
            fabrics.add(&id, server.health, &server.reasons);
        }
    }
    let vault_errors: Vec<HealthError> = health_errors(&[], Health::Normal);
    let properties = json!({
        "vaultErrors": vault_errors,
        "protectedItemsHealth": machines.show(),
        "fabricsHealth": fabrics.show(),
        "containersHealth": { "resourceCount": sites.len(), "issues": [] },
    });
    let id = format!("{}/replicationVaultHealth/{NAME}", call.vault.id());
    Ok(Answer::Ok(resource(id, NAME, "replicationVaultHealth", properties)?))
}
