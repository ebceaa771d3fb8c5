//! Credentials, and the HTTP client they are used with.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use azure_core::credentials::TokenCredential;
use azure_core::http::{ClientOptions, ExponentialRetryOptions, RetryOptions, Transport};
use azure_identity::{
    ClientAssertionCredentialOptions, ClientSecretCredential, ClientSecretCredentialOptions,
    ManagedIdentityCredential, ManagedIdentityCredentialOptions, UserAssignedId, WorkloadIdentityCredential,
    WorkloadIdentityCredentialOptions,
};
use rustls_platform_verifier::BuilderVerifierExt;

use crate::OpenStoreError;

/// For a connection to be made.
const CONNECT_MAX: Duration = Duration::from_secs(20);
/// For one request with its answer; 4 MiB at 35 KiB/s.
const REQUEST_MAX: Duration = Duration::from_secs(120);

/// A text that is shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps it.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// As whom the store is used.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// The SAS in the location's URL.
    Sas,
    /// The identity of the Azure machine that this process runs on; of several, the one with this client id.
    ManagedIdentity {
        /// Client id.
        client_id: Option<String>,
    },
    /// An application with a secret.
    ServicePrincipal {
        /// Tenant.
        tenant_id: String,
        /// Application.
        client_id: String,
        /// Its secret.
        secret: Secret,
    },
    /// A token in a file that Kubernetes renews; what is missing comes from the environment (`AZURE_CLIENT_ID`, `AZURE_TENANT_ID`,
    /// `AZURE_FEDERATED_TOKEN_FILE`).
    WorkloadIdentity {
        /// Tenant.
        tenant_id: Option<String>,
        /// Application.
        client_id: Option<String>,
        /// The token.
        token_file: Option<PathBuf>,
    },
}

impl Credentials {
    pub(crate) fn token(
        &self,
        client_options: ClientOptions,
    ) -> Result<Option<Arc<dyn TokenCredential>>, azure_core::Error> {
        Ok(Some(match self.clone() {
            Self::Sas => return Ok(None),
            Self::ManagedIdentity { client_id } => {
                let user_assigned_id = client_id.map(UserAssignedId::ClientId);
                let options = ManagedIdentityCredentialOptions { user_assigned_id, client_options };
                ManagedIdentityCredential::new(Some(options))?
            }
            Self::ServicePrincipal { tenant_id, client_id, secret } => ClientSecretCredential::new(
                &tenant_id,
                client_id,
                secret.0.into(),
                Some(ClientSecretCredentialOptions { client_options }),
            )?,
            Self::WorkloadIdentity { tenant_id, client_id, token_file } => {
                let credential_options = ClientAssertionCredentialOptions { client_options };
                let options = WorkloadIdentityCredentialOptions {
                    credential_options,
                    client_id,
                    tenant_id,
                    token_file_path: token_file,
                };
                WorkloadIdentityCredential::new(Some(options))?
            }
        }))
    }
}

/// Options of all clients: our TLS (aws-lc alone, the system's authorities), and how long they try.
pub(crate) fn client_options(retry_max: Duration) -> Result<ClientOptions, OpenStoreError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(BuilderVerifierExt::with_platform_verifier)
        .map_err(|error| OpenStoreError::Client { detail: error.to_string() })?
        .with_no_client_auth();
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .connect_timeout(CONNECT_MAX)
        .timeout(REQUEST_MAX)
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(|error| OpenStoreError::Client { detail: error.to_string() })?;
    let retry = ExponentialRetryOptions {
        initial_delay: azure_core::time::Duration::milliseconds(200),
        max_retries: 30,
        max_total_elapsed: retry_max.try_into().unwrap_or(azure_core::time::Duration::MAX),
        max_delay: azure_core::time::Duration::seconds(10),
    };
    Ok(ClientOptions {
        transport: Some(Transport::new(Arc::new(client))),
        retry: RetryOptions::exponential(retry),
        ..Default::default()
    })
}
