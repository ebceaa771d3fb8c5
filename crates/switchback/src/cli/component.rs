//! What the commands of the roles under a configuration server share: where it is, and how a first start joins it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use switchback_disk::{Clock, SystemClock};
use switchback_identity::{Credentials, CredentialsError, EnrolError, LiveCredentials, PeerIdentity, Role};
use switchback_transport::EnrolConfig;

use super::identity::{ENROL_TIMEOUT, secret};
use super::network::{IdentityArgs, default_name, runtime};
use crate::engine::Stop;
use crate::role::RoleConfig;

/// Between two attempts to join a site whose configuration server does not answer.
const ENROL_PAUSE: Duration = Duration::from_secs(3);

/// Options of every role under a configuration server.
#[derive(Debug, Args)]
pub(crate) struct ComponentArgs {
    /// Join the site with the passphrase in this file, unless this host belongs to it already
    #[arg(long, value_name = "FILE")]
    enrol_passphrase_file: Option<PathBuf>,
    /// This host's name in the site, when it joins [default: its host name]
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    metrics: MetricsArgs,
}

/// Where a process serves its metrics.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct MetricsArgs {
    /// Serve metrics for Prometheus on this address, in clear and to whoever reaches it [default: none are served]
    #[arg(id = "metrics", long = "metrics", value_name = "ADDRESS:PORT")]
    pub(crate) address: Option<SocketAddr>,
}

impl ComponentArgs {
    /// What the role needs, joining the site if that has not been done.
    pub(crate) fn role(
        &self,
        role: Role,
        servers: &[String],
        (site, data): (&str, &Path),
        identity: &IdentityArgs,
        stop: &Stop,
    ) -> anyhow::Result<RoleConfig> {
        let directory = identity.directory();
        let identity = identity.create()?;
        let loaded = Credentials::load(&*identity).and_then(|credentials| {
            credentials.check(SystemClock.now())?;
            Ok(credentials)
        });
        let credentials = match (loaded, &self.enrol_passphrase_file) {
            (Ok(credentials), _) => credentials,
            (Err(CredentialsError::Missing { .. } | CredentialsError::Expired { .. }), Some(file)) => {
                let credentials = self.join(role, servers, file, stop)?;
                credentials.store(&*identity)?;
                tracing::info!(identity = %credentials.identity(), "joined the site");
                credentials
            }
            (Err(error), _) => {
                return Err(error).context(
                    "`switchback enrol SERVER --role ROLE` joins a site, or --enrol-passphrase-file does so at the first start",
                );
            }
        };
        let is = credentials.identity();
        if is.role != role {
            bail!(
                "the identity in {} is that of {is}, not of a {role}; give each role its own",
                directory.display()
            );
        }
        let credentials = LiveCredentials::new(credentials)?;
        Ok(RoleConfig {
            servers: servers.to_vec(),
            credentials,
            identity,
            data: std::path::absolute(data)?,
            site: site.into(),
            metrics: self.metrics.address,
        })
    }

    /// Enrols at the first server that answers; waits for one.
    fn join(&self, role: Role, servers: &[String], file: &Path, stop: &Stop) -> anyhow::Result<Credentials> {
        let name = self.name.clone().map_or_else(default_name, Ok)?;
        let identity = PeerIdentity { role, name: name.parse()? };
        let secret = secret(Some(file))?;
        let runtime = runtime()?;
        let mut said = String::new();
        loop {
            for server in servers {
                let config = EnrolConfig {
                    address: server.clone(),
                    secret: secret.clone(),
                    identity: identity.clone(),
                    timeout: ENROL_TIMEOUT,
                    clock: Arc::new(SystemClock),
                    runtime: runtime.handle().clone(),
                };
                match switchback_transport::enrol(&config) {
                    Ok(credentials) => return Ok(credentials),
                    // It may not be there yet, or be busy.
                    Err(error @ (EnrolError::Protocol { .. } | EnrolError::TooManyAttempts { .. })) => {
                        let text = error.to_string();
                        if text != said {
                            eprintln!("not joined yet: {text}");
                            said = text;
                        }
                    }
                    Err(error) => return Err(error).with_context(|| format!("joining the site at {server}")),
                }
            }
            stop.sleep(ENROL_PAUSE);
            if stop.is_stopped() {
                bail!("stopped before the site was joined");
            }
        }
    }
}
