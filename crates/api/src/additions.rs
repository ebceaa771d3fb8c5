//! What is ours alone, beside the contract and in its style: `…/vaults/{vault}/switchback…`.
//!
//! The contract's resources are answered without a field that is not theirs, so that its clients and validators stay content; what it has no words
//! for (sites and their inventory, intervals in seconds, progress, tokens, the audit log) is here, one file per resource. Their `properties` use our
//! own words, in camel case, with the unit last.

mod accounts;
mod alerts;
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
mod proofs;
mod servers;
mod sign_in;
mod sites;
mod tokens;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::http::Method;
use axum::routing::{MethodFilter, MethodRouter};
use switchback_control::PROGRAM_PATH;
use switchback_identity::Authority;

use crate::arm::{VAULT_PATH, normalise};
use crate::openapi::operation::{Description, Operation, Outcome};
use crate::openapi::serve::{DOCUMENT_PATH, PAGE_PATH, STYLE_PATH, document, page, style};
use crate::routes::{Methods, Router};
use crate::service::{Api, Handler, methods_of, unknown_method};

/// What the server is, for the resources that tell.
#[derive(Clone, Debug, Default)]
pub(crate) struct ServerFacts {
    pub(crate) build: String,
    pub(crate) authority: Option<Arc<Authority>>,
}

/// What anybody may ask without a token: where the vault is, which a client needs before it can say anything else, the program, and what the API is.
pub(crate) fn is_public(method: &Method, path: &str) -> bool {
    *method == Method::GET && ["/", PROGRAM_PATH, DOCUMENT_PATH, PAGE_PATH, STYLE_PATH].contains(&path)
}

/// All routes of ours.
pub(crate) fn routes() -> Router<Arc<Api>> {
    let mut paths: BTreeMap<String, Vec<(MethodFilter, Handler)>> = BTreeMap::new();
    for Operation { handler, description } in operations() {
        paths.entry(route_of(description.path)).or_default().push((filter_of(description.method), handler));
    }
    let router = paths
        .into_iter()
        .fold(Router::new(), |router, (path, handlers)| router.route(&path, methods_of(handlers)));
    let get =
        |router: MethodRouter<Arc<Api>>| Methods::new(router.fallback(unknown_method), &[MethodFilter::GET]);
    router
        .route(PROGRAM_PATH, get(axum::routing::get(program::serve)))
        .route(DOCUMENT_PATH, get(axum::routing::get(document)))
        .route(PAGE_PATH, get(axum::routing::get(page)))
        .route(STYLE_PATH, get(axum::routing::get(style)))
}

/// What is said of all routes of ours.
pub(crate) fn descriptions() -> Vec<Description> {
    let file = |path, media_type, summary| Description::new("get", path, summary, Outcome::Other(media_type));
    let files = [
        file(PROGRAM_PATH, "application/octet-stream", "The program, to whoever asks; eight at a time."),
        file(DOCUMENT_PATH, "application/json", "This document; no token needed."),
        file(PAGE_PATH, "text/html", "This document to be read; no token needed."),
        file(STYLE_PATH, "text/css", "How the page looks."),
    ];
    operations().into_iter().map(|operation| operation.description).chain(files).collect()
}

/// Where an operation's path is matched.
pub(crate) fn route_of(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("{VAULT_PATH}{}", normalise(path)) }
}

fn filter_of(method: &str) -> MethodFilter {
    match method {
        "put" => MethodFilter::PUT,
        "post" => MethodFilter::POST,
        "delete" => MethodFilter::DELETE,
        _ => MethodFilter::GET,
    }
}

fn operations() -> Vec<Operation> {
    [
        discovery::operations(),
        sites::operations(),
        servers::operations(),
        deployed_servers::operations(),
        groups::operations(),
        network_mappings::operations(),
        machines::operations(),
        proofs::operations(),
        jobs::operations(),
        backup::operations(),
        tokens::operations(),
        sign_in::operations(),
        accounts::operations(),
        alerts::operations(),
        audit_log::operations(),
        enrolment::operations(),
    ]
    .concat()
}
