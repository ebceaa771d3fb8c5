//! `replicationFabrics`: our sites. A fabric exists once the configuration server knows its site; the contract has no way to make a
//! VMware one, so a PUT finds one that is there and makes none: see `switchbackSites`.

use std::collections::HashSet;

use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use switchback_control::{Control, Health, Protected, ServerView};
use switchback_identity::Role;
use switchback_model::{Account, ItemOperation, JobError, ObjectName, Site};
use switchback_sites::Datastore;

use super::answer::Answer;
use super::call::Call;
use super::error::ArmError;
use super::health::{HealthError, health_errors, show};
use super::id::guid;
use super::page::page;
use super::resource::resource;
use super::servers::{self, MasterTarget, ProcessServer};
use super::without_meaning;

/// The service's code for a fabric that is not there.
pub(super) const MISSING: &str = "FabricArmEntityMissing";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Properties {
    friendly_name: String,
    encryption_details: Encryption,
    rollover_encryption_details: Encryption,
    internal_identifier: String,
    bcdr_state: &'static str,
    custom_details: VMware,
    health_error_details: Vec<HealthError>,
    health: &'static str,
}

/// Of keys for encryption that the contract's service keeps; ours are the components' own.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Encryption {
    kek_state: &'static str,
}

/// `VMwareDetails` of the contract.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct VMware {
    instance_type: &'static str,
    process_server_count: String,
    agent_count: String,
    protected_servers: String,
    process_servers: Vec<ProcessServer>,
    master_target_servers: Vec<MasterTarget>,
    run_as_accounts: Vec<RunAsAccount>,
}

/// `RunAsAccount` of the contract.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RunAsAccount {
    account_id: String,
    account_name: String,
}

pub(crate) fn list(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let around = Around::load(control)?;
    let sites = control.sites()?.into_iter().map(|site| (site.name.key(), site)).collect();
    Answer::of(&page(call, sites, |site| show_site(control, call, &around, &site))?)
}

pub(crate) fn get(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let site = find(control, call)?;
    Ok(Answer::Ok(show_site(control, call, &Around::load(control)?, &site)?))
}

/// `FabricCreationInput` of the contract, as far as it is looked at.
#[derive(Default, Deserialize)]
struct Put {
    #[serde(default)]
    properties: PutProperties,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PutProperties {
    #[serde(default)]
    custom_details: CustomDetails,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CustomDetails {
    #[serde(default)]
    instance_type: String,
}

/// Finds what is there already, as a client does that makes sure of it.
pub(crate) fn put(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    // All that can be said of it is what kind it is, which is known.
    let Put { properties: PutProperties { custom_details: CustomDetails { instance_type } } } =
        call.json()?;
    tracing::debug!(instance_type, "a fabric is made sure of");
    find(control, call).and_then(|_| get(control, call)).map_err(|error| {
        if error.status != StatusCode::NOT_FOUND {
            return error;
        }
        let message =
            format!("the site {} is not known, and is not made with this contract", call.text("site"));
        ArmError::new(StatusCode::BAD_REQUEST, without_meaning::CODE, message)
            .cause("the contract has no way to say where VMware and physical machines are")
            .remedy("make it with PUT switchbackSites, or `switchback site add`")
    })
}

/// Forgets a site; one that is not known is no error.
pub(crate) fn remove(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let name = call.name("site")?;
    if control.sites()?.iter().any(|site| site.name == name) {
        control.remove_site(&name)?;
    }
    Ok(Answer::NoContent)
}

/// `renewCertificate`: of all components there. They do it by themselves in time; this is for when a key may have been read.
pub(crate) fn renew_certificates(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    control.renew_certificates(&call.name("site")?)?;
    get(control, call)
}

/// `FailoverProcessServerRequest` of the contract.
#[derive(Deserialize)]
struct Reassociate {
    properties: ReassociateProperties,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReassociateProperties {
    source_process_server_id: String,
    target_process_server_id: String,
    /// Empty: all.
    #[serde(default)]
    vms_to_migrate: Vec<String>,
}

/// Sends machines through another process server: a job for each, which are listed; the answer is the fabric.
pub(crate) fn reassociate_gateway(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let site = find(control, call)?;
    let wanted = call.json::<Reassociate>()?.properties;
    let (source, target) = (&wanted.source_process_server_id, &wanted.target_process_server_id);
    let named = |name: &ObjectName| {
        wanted.vms_to_migrate.is_empty()
            || wanted.vms_to_migrate.iter().any(|id| {
                super::id::name_in(id, "replicationProtectedItems")
                    .is_some_and(|id| id.eq_ignore_ascii_case(name.as_str()))
            })
    };
    let items = control.protected()?;
    let machines: Vec<_> = items
        .iter()
        .filter(|item| item.active().site == site.name && named(&item.name))
        .filter(|item| {
            let path = item.replication.as_ref();
            path.is_some_and(|path| path.process_server.eq_ignore_ascii_case(source))
        })
        .collect();
    if machines.is_empty() {
        return Err(ArmError::invalid(format!("no machine of {} is sent through {source}", site.name))
            .cause("the process server or the machines are named wrong, or they use another one already")
            .remedy("look at processServerId in the providerSpecificDetails of the protected items"));
    }
    for item in machines {
        let operation = ItemOperation::SwitchProcessServer { process_server: target.clone() };
        control.operate(&call.by, &item.name, operation)?;
    }
    get(control, call)
}

/// The site of the path.
pub(crate) fn find(control: &Control, call: &Call) -> Result<Site, ArmError> {
    by_name(control, &call.name("site")?)
}

/// The site of the path; where it names none, all.
pub(crate) fn asked_for(control: &Control, call: &Call) -> Result<Vec<Site>, ArmError> {
    if call.text("site").is_empty() { Ok(control.sites()?) } else { Ok(vec![find(control, call)?]) }
}

pub(crate) fn by_name(control: &Control, name: &ObjectName) -> Result<Site, ArmError> {
    let known = control.sites()?.into_iter().find(|site| site.name == *name);
    known.ok_or_else(|| {
        ArmError::new(StatusCode::NOT_FOUND, MISSING, format!("there is no fabric {name}"))
            .remedy("`switchback site list` shows those there are")
    })
}

/// Accounts are the server's, not a site's: each fabric shows all.
fn run_as(account: &Account) -> RunAsAccount {
    let name = account.name.to_string();
    RunAsAccount { account_id: name.clone(), account_name: name }
}

/// A site's datastores, and why it cannot tell.
pub(super) fn look_at(control: &Control, site: &ObjectName) -> (Vec<Datastore>, Option<JobError>) {
    match control.site(site).and_then(|open| Ok(open.datastores()?)) {
        Ok(datastores) => (datastores, None),
        Err(error) => (Vec::new(), Some(*error.error)),
    }
}

/// What fabrics are shown with: looked up once for all of a list.
struct Around {
    servers: Vec<ServerView>,
    /// The names of the agents that have enrolled.
    agents: HashSet<String>,
    items: Protected,
}

impl Around {
    fn load(control: &Control) -> Result<Self, ArmError> {
        let agents = control.enrolled_servers()?.into_iter().filter(|server| server.role == Role::Source);
        Ok(Self {
            servers: control.servers_if(|server| server.role != Role::Source)?,
            agents: agents.map(|agent| agent.name.to_string()).collect(),
            items: control.protected()?,
        })
    }
}

fn show_site(control: &Control, call: &Call, around: &Around, site: &Site) -> Result<Value, ArmError> {
    // A site that does not answer is still a fabric, in bad health.
    let (datastores, failure) = look_at(control, &site.name);
    let serving = servers::of_site(&around.servers, &site.name, &datastores);
    let mut health = serving.health.unwrap_or(Health::Normal);
    let mut errors = serving.errors;
    if let Some(failure) = failure {
        health = Health::Critical;
        errors.extend(health_errors(&[failure], health));
    }
    let here = around.items.iter().filter(|item| item.active().site == site.name);
    let (protected, agents) = here.fold((0_usize, 0_usize), |(protected, agents), item| {
        (protected + 1, agents + usize::from(around.agents.contains(&item.agent)))
    });
    let properties = Properties {
        friendly_name: site.name.to_string(),
        encryption_details: Encryption { kek_state: "None" },
        rollover_encryption_details: Encryption { kek_state: "None" },
        internal_identifier: guid(&["site", &site.name.key()]),
        bcdr_state: "Valid",
        custom_details: VMware {
            instance_type: "VMware",
            process_server_count: serving.process_servers.len().to_string(),
            agent_count: agents.to_string(),
            protected_servers: protected.to_string(),
            process_servers: serving.process_servers,
            master_target_servers: serving.master_targets,
            run_as_accounts: control.accounts()?.iter().map(run_as).collect(),
        },
        health_error_details: errors,
        health: show(health),
    };
    resource(call.vault.fabric(&site.name), site.name.as_str(), "replicationFabrics", properties)
}
