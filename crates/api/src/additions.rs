//! What is ours alone, beside the contract and in its style: `…/vaults/{vault}/switchback…`.
//!
//! The contract's resources are answered without a field that is not theirs, so that its clients and validators stay content; what it has no words
//! for (sites and their inventory, intervals in seconds, progress, tokens, the audit log) is here, one file per resource. Their `properties` use our
//! own words, in camel case, with the unit last.

mod accounts;
mod audit_log;
mod backup;
pub(crate) mod deployed_servers;
mod discovery;
mod enrolment;
mod groups;
mod jobs;
mod machines;
mod network_mappings;
pub(crate) mod program;
mod servers;
mod sign_in;
mod sites;
mod tokens;

use std::sync::Arc;

use axum::Router;
use axum::http::Method;
use axum::routing::MethodFilter;
use switchback_control::PROGRAM_PATH;
use switchback_identity::Passphrase;

use crate::arm::VAULT_PATH;
use crate::service::{Api, methods};

/// What the server is, for the resources that tell.
#[derive(Clone, Debug, Default)]
pub(crate) struct ServerFacts {
    pub(crate) build: String,
    pub(crate) passphrase: Option<Arc<Passphrase>>,
}

const GET: MethodFilter = MethodFilter::GET;
const PUT: MethodFilter = MethodFilter::PUT;
const POST: MethodFilter = MethodFilter::POST;
const DELETE: MethodFilter = MethodFilter::DELETE;

/// What anybody may ask without a token: where the vault is, which a client needs before it can say anything else, and the program.
pub(crate) fn is_public(method: &Method, path: &str) -> bool {
    *method == Method::GET && (path == "/" || path == PROGRAM_PATH)
}

/// All routes of ours.
pub(crate) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/", methods([(GET, discovery::get)]))
        .route(PROGRAM_PATH, axum::routing::get(program::serve))
        .merge(inventory_routes())
        .merge(access_routes())
        .merge(backup_routes())
}

fn at(rest: &str) -> String {
    format!("{VAULT_PATH}{rest}")
}

fn inventory_routes() -> Router<Arc<Api>> {
    let site = "/switchbacksites/{site}";
    Router::new()
        .route(&at("/switchbacksites"), methods([(GET, sites::list)]))
        .route(&at(site), methods([(GET, sites::get), (PUT, sites::put), (DELETE, sites::delete)]))
        .route(&at(&format!("{site}/machines")), methods([(GET, sites::machines)]))
        .route(&at(&format!("{site}/machines/{{machine}}")), methods([(GET, sites::machine)]))
        .route(&at(&format!("{site}/machines/{{machine}}/console")), methods([(GET, sites::console)]))
        .route(&at(&format!("{site}/networks")), methods([(GET, sites::networks)]))
        .route(&at(&format!("{site}/datastores")), methods([(GET, sites::datastores)]))
        .route(&at("/switchbackservers"), methods([(GET, servers::list)]))
        .route(&at("/switchbackservers/{server}"), methods([(GET, servers::get), (DELETE, servers::delete)]))
        .route(&at("/switchbackdeployedservers"), methods([(GET, deployed_servers::list)]))
        .route(
            &at("/switchbackdeployedservers/{made}"),
            methods([
                (GET, deployed_servers::get),
                (PUT, deployed_servers::put),
                (DELETE, deployed_servers::delete),
            ]),
        )
        .route(
            &at("/switchbackdeployedservers/{made}/operationresults/{job}"),
            methods([(GET, crate::arm::operation_result)]),
        )
        .route(&at("/switchbackprotectiongroups"), methods([(GET, groups::list)]))
        .route(
            &at("/switchbackprotectiongroups/{group}"),
            methods([(GET, groups::get), (PUT, groups::put), (DELETE, groups::delete)]),
        )
        .route(&at("/switchbacknetworkmappings"), methods([(GET, network_mappings::list)]))
        .route(
            &at(&format!("{site}/networks/{{network}}/mappings/{{target}}")),
            methods([
                (GET, network_mappings::get),
                (PUT, network_mappings::put),
                (DELETE, network_mappings::delete),
            ]),
        )
        .route(&at("/switchbackprotectedmachines"), methods([(GET, machines::list)]))
        .route(&at("/switchbackprotectedmachines/{item}"), methods([(GET, machines::get)]))
        .route(&at("/switchbackprotectedmachines/{item}/recoverypoints"), methods([(GET, machines::points)]))
        .route(&at("/switchbackprotectedmachines/{item}/readiness"), methods([(GET, machines::readiness)]))
        .route(&at("/switchbackprotectedmachines/{item}/cost"), methods([(GET, machines::cost)]))
        .route(&at("/switchbackcosts"), methods([(GET, machines::costs)]))
        .route(&at("/switchbackprotectedmachines/{item}/cleanup"), methods([(POST, machines::clean_up)]))
        .route(
            &at("/switchbackprotectedmachines/{item}/switchprocessserver"),
            methods([(POST, machines::switch_process_server)]),
        )
        .route(&at("/switchbackprotectedmachines/{item}/release"), methods([(POST, machines::release)]))
        .route(&at("/switchbackjobs/{job}"), methods([(GET, jobs::get)]))
}

fn backup_routes() -> Router<Arc<Api>> {
    let backup = "/switchbackbackup/default";
    Router::new()
        .route(&at(backup), methods([(GET, backup::get), (PUT, backup::put), (DELETE, backup::delete)]))
        .route(&at(&format!("{backup}/run")), methods([(POST, backup::run)]))
        .route(&at(&format!("{backup}/backups")), methods([(GET, backup::list)]))
        .route(&at(&format!("{backup}/backups/{{backup}}/verify")), methods([(POST, backup::verify)]))
}

fn access_routes() -> Router<Arc<Api>> {
    Router::new()
        .route(&at("/switchbacktokens"), methods([(GET, tokens::list)]))
        .route(&at("/switchbacktokens/{token}"), methods([(PUT, tokens::put), (DELETE, tokens::delete)]))
        .route(&at("/switchbacksignin"), methods([(GET, sign_in::list)]))
        .route(
            &at("/switchbacksignin/{sign_in}"),
            methods([(GET, sign_in::get), (PUT, sign_in::put), (DELETE, sign_in::delete)]),
        )
        .route(&at("/switchbackaccounts"), methods([(GET, accounts::list)]))
        .route(
            &at("/switchbackaccounts/{account}"),
            methods([(GET, accounts::get), (PUT, accounts::put), (DELETE, accounts::delete)]),
        )
        .route(&at("/switchbackaccounts/{account}/rotate"), methods([(POST, accounts::rotate)]))
        .route(&at("/switchbackaccounts/{account}/test"), methods([(POST, accounts::test)]))
        .route(&at("/switchbackaudit"), methods([(GET, audit_log::list)]))
        .route(
            &at("/switchbackenrolment/default/showpassphrase"),
            methods([(POST, enrolment::show_passphrase)]),
        )
}
