//! Tokens: what Microsoft Entra and the metadata service of a virtual machine give, and which of them are good.

use serde_json::{Value, json};

use super::TENANT;
use super::answer::{Answer, Request};
use super::world::World;

/// As long as Azure's.
const LIFE_S: u64 = 3599;

/// A service principal.
#[derive(Debug, Clone)]
pub struct Client {
    /// Its application id.
    pub id: String,
    /// Its secret.
    pub secret: String,
    /// A federated token that proves it is this one.
    pub assertion: String,
}

impl Default for Client {
    fn default() -> Self {
        Self {
            id: "5f0a2c41-0000-4000-8000-c11e47000001".into(),
            secret: "s3cret~with.characters&that=mean+something/".into(),
            assertion: "federated.token.of-the-cluster".into(),
        }
    }
}

/// Answers `/TENANT/...`; `None`: it is no request for a token.
pub(super) fn answer(world: &World, request: &Request) -> Option<Answer> {
    let segments: Vec<&str> = request.segments.iter().map(String::as_str).collect();
    match (request.method.as_str(), segments.as_slice()) {
        ("POST", [tenant, "oauth2", "v2.0", "token"]) => Some(by_client(world, request, tenant)),
        ("GET", [tenant, "v2.0", ".well-known", "openid-configuration"]) => {
            Some(Answer::json(200, &configuration(&world.url, tenant)))
        }
        ("GET", ["metadata", "identity", "oauth2", "token"]) => Some(by_machine(world, request)),
        _ => None,
    }
}

/// What MSAL reads first.
fn configuration(url: &str, tenant: &str) -> Value {
    json!({
        "issuer": format!("{url}/{tenant}/v2.0"),
        "authorization_endpoint": format!("{url}/{tenant}/oauth2/v2.0/authorize"),
        "token_endpoint": format!("{url}/{tenant}/oauth2/v2.0/token"),
        "device_authorization_endpoint": format!("{url}/{tenant}/oauth2/v2.0/devicecode"),
        "tenant_region_scope": "EU",
    })
}

fn by_client(world: &World, request: &Request, tenant: &str) -> Answer {
    let form: std::collections::BTreeMap<String, String> =
        url::form_urlencoded::parse(&request.body).into_owned().collect();
    let field = |name: &str| form.get(name).map_or("", String::as_str);
    let refused = |code: &str, text: &str| {
        Answer::json(400, &json!({ "error": code, "error_description": text, "error_codes": [] }))
    };
    if tenant != TENANT {
        return refused("invalid_request", "AADSTS90002: Tenant not found.");
    }
    if field("grant_type") != "client_credentials" || !field("scope").ends_with("/.default") {
        return refused("invalid_scope", "AADSTS1002012: The provided value for scope is not valid.");
    }
    let Some(client) = world.options.clients.iter().find(|client| client.id == field("client_id")) else {
        return refused("unauthorized_client", "AADSTS700016: Application was not found in the directory.");
    };
    let by_assertion = field("client_assertion_type")
        == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        && field("client_assertion") == client.assertion;
    if field("client_secret") != client.secret && !by_assertion {
        let mut answer = refused("invalid_client", "AADSTS7000215: Invalid client secret provided.");
        answer.status = 401;
        return answer;
    }
    Answer::json(
        200,
        &json!({ "token_type": "Bearer", "expires_in": LIFE_S, "ext_expires_in": LIFE_S, "access_token": world.give_token() }),
    )
}

/// The metadata service writes numbers as text.
fn by_machine(world: &World, request: &Request) -> Answer {
    if request.header("metadata") != "true" || request.query("resource").is_empty() {
        return Answer::json(
            400,
            &json!({ "error": "invalid_request", "error_description": "Required metadata header not specified" }),
        );
    }
    let token = world.give_token();
    Answer::json(
        200,
        &json!({ "token_type": "Bearer", "expires_in": LIFE_S.to_string(), "access_token": token }),
    )
}
