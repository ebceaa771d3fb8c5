//! Tokens: who Switchback is at Azure, and what it gets for that.
//!
//! Three ways, each one request (Microsoft identity platform, "OAuth 2.0 client credentials flow"; "managed identities, use a token"). A token is
//! kept until it has five minutes left, or until Azure says that it has expired.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde::Deserialize;
use switchback_model::azure::Cloud;
use zeroize::Zeroizing;

use super::error::AzureError;
use super::http::{Call, Http};

/// A token with less than this left is not used for another call.
const MARGIN: Duration = Duration::from_secs(300);
const LIMIT: Duration = Duration::from_secs(30);
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// What is kept of an authority's words.
const DETAIL_LEN_MAX: usize = 300;

/// Who Switchback is at an Azure site. `Debug` shows nothing.
#[derive(Clone)]
pub enum Identity {
    /// A service principal with a secret.
    ClientSecret {
        /// The tenant's id.
        tenant: String,
        /// The application's id.
        client: String,
        /// Its secret.
        secret: Zeroizing<String>,
    },
    /// The identity that Azure gives to the virtual machine that this runs in.
    ManagedIdentity {
        /// The client id of one assigned by the user; `None`: the machine's own.
        client: Option<String>,
    },
    /// A service principal that a file proves, as Kubernetes makes one.
    WorkloadIdentity {
        /// The tenant's id.
        tenant: String,
        /// The application's id.
        client: String,
        /// The file with the federated token; read anew each time.
        token_file: PathBuf,
    },
}

impl fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Identity")
    }
}

/// What a site needs to be let in. `Debug` shows nothing.
#[derive(Clone)]
pub struct AzureCredentials {
    /// At Resource Manager, and at storage when there is no SAS.
    pub identity: Identity,
    /// The query that opens the container, without `?`.
    pub container_sas: Option<Zeroizing<String>>,
}

impl fmt::Debug for AzureCredentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("AzureCredentials")
    }
}

/// Something that gives tokens for an audience.
pub(super) trait TokenSource: Send + Sync {
    /// A new token, and how long it is good.
    fn fetch(&self, http: &Http, audience: &str) -> Result<(Zeroizing<String>, Duration), AzureError>;
}

struct Fetch {
    identity: Identity,
    cloud: Cloud,
}

/// Numbers come as numbers from the authority, and as text from the metadata service.
#[derive(Deserialize)]
#[serde(untagged)]
enum Seconds {
    Number(u64),
    Text(String),
}

#[derive(Deserialize)]
struct Given {
    access_token: String,
    expires_in: Seconds,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Denied {
    error: String,
    error_description: String,
}

impl TokenSource for Fetch {
    fn fetch(&self, http: &Http, audience: &str) -> Result<(Zeroizing<String>, Duration), AzureError> {
        let reply = http.send(&self.request(audience)?, LIMIT)?;
        if reply.status != 200 {
            let denied: Denied = serde_json::from_slice(&reply.body).unwrap_or_default();
            let said: String = denied.error_description.chars().take(DETAIL_LEN_MAX).collect();
            let detail = format!("{} {said} (HTTP status {})", denied.error, reply.status);
            let passing = reply.status == 429 || reply.status >= 500;
            return Err(AzureError::Token { detail: detail.trim().to_owned(), passing });
        }
        // Whatever is wrong with it, it may be a token: nothing of it is shown.
        let given: Given = serde_json::from_slice(&reply.body)
            .map_err(|_| AzureError::Protocol("the answer to a request for a token".into()))?;
        let seconds = match given.expires_in {
            Seconds::Number(seconds) => seconds,
            Seconds::Text(text) => text.parse().unwrap_or(0),
        };
        Ok((given.access_token.into(), Duration::from_secs(seconds)))
    }
}

impl Fetch {
    fn request(&self, audience: &str) -> Result<Call, AzureError> {
        let form = |tenant: &str, client: &str, proof: &[(&str, &str)]| {
            let scope = format!("{audience}/.default");
            let body = url::form_urlencoded::Serializer::new(String::new())
                .append_pair("grant_type", "client_credentials")
                .append_pair("client_id", client)
                .append_pair("scope", &scope)
                .extend_pairs(proof)
                .finish();
            let url = format!("{}/{tenant}/oauth2/v2.0/token", self.cloud.authority.trim_end_matches('/'));
            let mut call =
                Call::new(Method::POST, url).header("content-type", "application/x-www-form-urlencoded");
            call.body = body.into_bytes();
            call
        };
        match &self.identity {
            Identity::ClientSecret { tenant, client, secret } => {
                Ok(form(tenant, client, &[("client_secret", secret.as_str())]))
            }
            Identity::WorkloadIdentity { tenant, client, token_file } => {
                let assertion = std::fs::read_to_string(token_file).map(Zeroizing::new).map_err(|error| {
                    AzureError::Token { detail: format!("{}: {error}", token_file.display()), passing: true }
                })?;
                let proof =
                    [("client_assertion_type", ASSERTION_TYPE), ("client_assertion", assertion.trim())];
                Ok(form(tenant, client, &proof))
            }
            Identity::ManagedIdentity { client } => {
                let address =
                    format!("{}/metadata/identity/oauth2/token", self.cloud.metadata.trim_end_matches('/'));
                let mut url = url::Url::parse(&address).map_err(|_| {
                    AzureError::Settings(format!("`cloud.metadata`, {address:?}, is no address"))
                })?;
                url.query_pairs_mut()
                    .append_pair("api-version", "2018-02-01")
                    .append_pair("resource", audience);
                if let Some(client) = client {
                    url.query_pairs_mut().append_pair("client_id", client);
                }
                Ok(Call::new(Method::GET, url).header("metadata", "true"))
            }
        }
    }
}

struct Kept {
    token: Zeroizing<String>,
    until: Instant,
}

/// Tokens that were given, by audience.
pub(super) struct Tokens {
    source: Box<dyn TokenSource>,
    kept: Mutex<BTreeMap<String, Kept>>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Tokens")
    }
}

impl Tokens {
    pub(super) fn new(identity: Identity, cloud: Cloud) -> Self {
        Self { source: Box::new(Fetch { identity, cloud }), kept: Mutex::default() }
    }

    /// A token for an audience; not `refused`, which Azure did not take.
    pub(super) fn get(
        &self,
        http: &Http,
        audience: &str,
        refused: Option<&str>,
    ) -> Result<Zeroizing<String>, AzureError> {
        // Others wait here meanwhile: one token is enough for all.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(one) = kept.get(audience)
            && Instant::now() < one.until
            && refused != Some(one.token.as_str())
        {
            return Ok(one.token.clone());
        }
        let (token, life) = self.source.fetch(http, audience)?;
        let until = Instant::now() + life.saturating_sub(MARGIN);
        kept.insert(audience.to_owned(), Kept { token: token.clone(), until });
        Ok(token)
    }
}
