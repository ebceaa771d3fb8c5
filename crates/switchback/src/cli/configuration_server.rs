//! `switchback configuration-server`: the control plane, its API and portal, and the site's certificate authority, on one port.
//!
//! # Its directory
//! ```text
//! identity/      authority (key, certificate, passphrase) and this server's own credentials
//! store.db       everything it must not forget (SQLite), unless a PostgreSQL database is named
//! owner          the id under which it works on jobs: the same after a restart
//! scripts/       scripts that recovery plans may run on this host
//! ca.pem         the authority's certificate, for users' programs
//! admin-token    a Contributor's token, written at the first start (mode 0600)
//! ```
//! A first start makes all of it; a first start that was interrupted is completed by the next. `configuration-server restore` makes it from a
//! backup, and leaves a file `restoring` in it until all is there: with that no server starts.
//!
//! A certificate of another authority (`--web-certificate`) is for users alone: components go on to know this server by the site's.

mod restore;

use std::fs::Permissions;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand};
use switchback_api::listener::{Limits, ListenerConfig, serve};
use switchback_api::{ApiConfig, ApiLimits, ClientLimits, Service, Vault};
use switchback_control::backup::ServerHome;
use switchback_control::backup::restore::check_finished;
use switchback_control::{Control, ControlConfig, InstallSource, Program};
use switchback_disk::{Clock, DirVolume, SystemClock, Volume};
use switchback_identity::tls::control_server_config;
use switchback_identity::{
    Authority, Credentials, EnrolmentPolicy, EnrolmentService, LiveCredentials, PeerIdentity, Role,
    WebCertificate,
};
use switchback_model::{AccessRole, ObjectName};
use switchback_portal::PortalLimits;
use switchback_store::{SqliteStore, Store};
use switchback_transport::RenewalTask;

use super::component::MetricsArgs;
use super::network::{default_name, runtime};
use crate::engine::Stop;
use crate::host::new_id;
use crate::metrics;

const OWNER: &str = "owner";
const ADMIN_TOKEN: &str = "admin-token";
const ADMIN: &str = "admin";

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct ConfigurationServerArgs {
    #[command(subcommand)]
    command: Option<ConfigurationServerCommand>,
    /// Directory of everything it keeps
    #[arg(long, default_value = "/var/lib/switchback/configuration-server", value_name = "DIRECTORY")]
    data: PathBuf,
    /// Address and port to listen on
    #[arg(long, default_value = "0.0.0.0:443", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// Host names and addresses, with a port if it is another than is listened on, that it is or will be reached at: users' programs check them in its
    /// certificate, and components are told them [default: its host name and localhost, and components are told none]
    #[arg(long = "advertise", value_delimiter = ',', value_name = "NAME[:PORT]")]
    names: Vec<String>,
    /// The address that users reach it at: links of the API begin with it, and an issuer that people sign in at sends them back there [default: links as they
    /// were asked for; back to the first that is advertised]
    #[arg(long, value_name = "https://NAME[:PORT]", value_parser = public_url)]
    public_url: Option<String>,
    /// Show users this certificate instead of one of the site's own authority: PEM, the server's own first, then those of its issuers. It is read again
    /// when it has changed
    #[arg(long, value_name = "FILE", requires = "web_key")]
    web_certificate: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", requires = "web_certificate")]
    web_key: Option<PathBuf>,
    /// This server's name in the site [default: its host name]
    #[arg(long)]
    name: Option<String>,
    /// Keep everything in the PostgreSQL database whose connection string (postgres://…) is in this file, so that several configuration
    /// servers can share it [default: SQLite in the directory]
    #[arg(long, value_name = "FILE")]
    database_file: Option<PathBuf>,
    /// Requests that one client (a token, an issuer's subject, an address without one) may make in a second; four times as many in a row
    #[arg(long, default_value_t = 100, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=1000))]
    client_requests_per_second: u32,
    /// Write the address that is listened on into this file (with port 0 the system chooses one)
    #[arg(long, value_name = "FILE")]
    address_file: Option<PathBuf>,
    #[command(flatten)]
    metrics: MetricsArgs,
}

#[derive(Debug, Subcommand)]
enum ConfigurationServerCommand {
    /// Make a configuration server from a backup, here or elsewhere; nothing is written over
    Restore(restore::RestoreArgs),
}

pub(crate) fn run(args: &ConfigurationServerArgs) -> anyhow::Result<ExitCode> {
    if let Some(ConfigurationServerCommand::Restore(args)) = &args.command {
        return restore::run(args);
    }
    let data = std::path::absolute(&args.data)?;
    check_finished(&data)?;
    let name = args.name.clone().map_or_else(default_name, Ok)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let given = given_certificate(args, &clock)?;
    let volume = open_directory(&data)?;
    let identity: Arc<dyn Volume> = Arc::new(open_directory(&data.join("identity"))?);
    let (authority, credentials) = authority(&identity, &name, &clock)?;
    volume.write_atomic("ca.pem", authority.certificate_pem().as_bytes())?;
    std::fs::create_dir_all(data.join("scripts")).context("making the directory of scripts")?;
    let store = open_store(args.database_file.as_deref(), &data)?;
    let config = ControlConfig {
        store,
        clock: Arc::clone(&clock),
        owner: owner(&volume)?,
        scripts: data.join("scripts"),
        opener: Arc::new(switchback_control::open_site),
    };
    let control = Control::open(config)?;
    admin_token(&control, &data)?;
    let listener = TcpListener::bind(args.listen)
        .with_context(|| format!("listening on {} (is another process there?)", args.listen))?;
    listener.set_nonblocking(true)?;
    control.keeps(home(args, data, &name, (listener.local_addr()?.port(), &authority)));
    let web = match given {
        Some(given) => given,
        None => WebCertificate::issue(Arc::clone(&authority), web_names(args, name))?,
    };
    let program = Arc::new(Program::own().context("reading the program that runs")?);
    // Before jobs go on that need it.
    control.offers(InstallSource { authority: Arc::clone(&authority), program, web: Arc::clone(&web) });
    let _workers = control.start()?;
    let stop = Stop::default();
    super::stop_on_interrupt(&stop)?;
    let identity = (authority, credentials, identity);
    let client = ClientLimits::of_requests_per_second(args.client_requests_per_second);
    let limits = ApiLimits { client, ..ApiLimits::default() };
    let runtime = runtime()?;
    let (measured, started) = (control.clone(), clock.now());
    let measure =
        move || metrics::configuration_server::measure(&measured, env!("CARGO_PKG_VERSION"), started.0);
    metrics::serve_if(args.metrics.address, runtime.handle(), Arc::new(measure));
    warm_up(&control);
    runtime.block_on(listen(
        (args.address_file.as_deref(), args.public_url.clone(), limits),
        (listener, web),
        identity,
        control,
        clock,
        stop,
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// All machines are read as a list reads them, so that the first who asks for one waits for no connection and no page that was never read.
fn warm_up(control: &Control) {
    if let Err(error) = control.items() {
        tracing::warn!(%error, "machines cannot be read yet; it is tried again when somebody asks");
    }
}

/// An address of https without a path.
fn public_url(text: &str) -> Result<String, String> {
    let url = reqwest::Url::parse(text).map_err(|error| error.to_string())?;
    let is_bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    if url.scheme() != "https" || !url.username().is_empty() || url.password().is_some() || !is_bare {
        return Err("it is https://NAME or https://NAME:PORT, and no more".into());
    }
    Ok(url.origin().ascii_serialization())
}

/// What users' programs check when they are shown a certificate of ours.
fn web_names(args: &ConfigurationServerArgs, name: String) -> Vec<String> {
    if args.names.is_empty() {
        return vec![name, "localhost".into()];
    }
    args.names.iter().map(|name| host_and_port(name).0.to_owned()).collect()
}

/// The certificate that was given, if one was. A name that it does not state is no error: components do not look at it.
fn given_certificate(
    args: &ConfigurationServerArgs,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<Option<Arc<WebCertificate>>> {
    let (Some(certificate), Some(key)) = (&args.web_certificate, &args.web_key) else { return Ok(None) };
    let given = WebCertificate::given(certificate.clone(), key.clone(), Arc::clone(clock))?;
    for name in args.names.iter().map(|name| host_and_port(name).0).filter(|name| !given.is_for(name)) {
        tracing::warn!(
            name,
            states = given.names().join(", "),
            "the given certificate does not state an advertised name"
        );
    }
    Ok(Some(given))
}

type Identity = (Arc<Authority>, Arc<LiveCredentials>, Arc<dyn Volume>);

/// A name as it was given, taken apart.
fn host_and_port(name: &str) -> (&str, Option<u16>) {
    match name.rsplit_once(':') {
        // An IPv6 address has colons of its own, and brackets when it has a port.
        Some((host, port)) if !host.contains(':') || host.starts_with('[') => match port.parse() {
            Ok(port) => (host.trim_start_matches('[').trim_end_matches(']'), Some(port)),
            Err(_) => (name, None),
        },
        _ => (name, None),
    }
}

/// What goes into backups beside the store, and what components are told.
fn home(
    args: &ConfigurationServerArgs,
    directory: PathBuf,
    name: &str,
    (port, authority): (u16, &Authority),
) -> ServerHome {
    let address = |name: &String| {
        let (host, own) = host_and_port(name);
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        format!("{host}:{}", own.unwrap_or(port))
    };
    let settings = [
        ("name", name.to_owned()),
        ("listen", args.listen.to_string()),
        ("advertise", args.names.join(",")),
        ("database", if args.database_file.is_some() { "PostgreSQL" } else { "SQLite" }.to_owned()),
    ];
    ServerHome {
        directory,
        build: env!("CARGO_PKG_VERSION").into(),
        settings: settings.map(|(name, value)| (name.to_owned(), value)).into(),
        addresses: args.names.iter().map(address).collect(),
        authority: authority.certificate().to_vec(),
    }
}

async fn listen(
    (address_file, public_url, limits): (Option<&Path>, Option<String>, ApiLimits),
    (listener, web_certificate): (TcpListener, Arc<WebCertificate>),
    (authority, credentials, identity): Identity,
    control: Control,
    clock: Arc<dyn Clock>,
    stop: Stop,
) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let address = listener.local_addr()?;
    let api = ApiConfig {
        vault: Vault::default(),
        public_url,
        build: env!("CARGO_PKG_VERSION").into(),
        authority: Some(Arc::clone(&authority)),
        clock: Arc::clone(&clock),
        limits,
    };
    let enrolment = EnrolmentPolicy { tickets: true, ..EnrolmentPolicy::default() };
    let config = ListenerConfig {
        tls: control_server_config(&credentials, &web_certificate, clock)?,
        web_certificate,
        authority: Arc::clone(&authority),
        enrolment: Arc::new(EnrolmentService::new(Arc::clone(&authority), enrolment)),
        service: Arc::new(control.clone()),
        web: switchback_portal::router(control.clone(), Service::new(control, api), PortalLimits::default()),
        limits: Limits::default(),
    };
    let handle = tokio::runtime::Handle::current();
    let _renewal = RenewalTask::start_local(authority, Arc::clone(&credentials), identity, &handle);
    if let Some(file) = address_file {
        std::fs::write(file, address.to_string()).with_context(|| format!("writing {}", file.display()))?;
    }
    println!("{} listens on {address}", credentials.current().identity());
    serve(listener, config, async {
        while !stop.is_stopped() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    Ok(())
}

/// The store: a connection string has a password in it, so it comes in a file, never in an argument.
fn open_store(database_file: Option<&Path>, data: &Path) -> anyhow::Result<Arc<dyn Store>> {
    let Some(file) = database_file else { return Ok(Arc::new(SqliteStore::open(data.join("store.db"))?)) };
    let location = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    Ok(switchback_store::open(location.trim())?)
}

/// Opens a directory, made for its owner alone if it is not there.
fn open_directory(path: &Path) -> anyhow::Result<DirVolume> {
    std::fs::create_dir_all(path).with_context(|| format!("making {}", path.display()))?;
    std::fs::set_permissions(path, Permissions::from_mode(0o700))
        .with_context(|| format!("protecting {}", path.display()))?;
    Ok(DirVolume::open(path)?)
}

/// The site's authority and this server's credentials; made at the first start.
fn authority(
    volume: &Arc<dyn Volume>,
    name: &str,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<(Arc<Authority>, Arc<LiveCredentials>)> {
    let is_there = volume.list()?.iter().any(|file| file.name == "authority.pem");
    let authority = if is_there {
        Authority::open(Arc::clone(volume), Arc::clone(clock))?
    } else {
        Authority::create(Arc::clone(volume), Arc::clone(clock))?
    };
    let own = PeerIdentity { role: Role::ConfigurationServer, name: name.parse()? };
    // The authority is here: whatever is wrong with the credentials that are kept, new ones are right.
    let kept = Credentials::load(&**volume)
        .ok()
        .filter(|kept| *kept.identity() == own && kept.check(clock.now()).is_ok());
    let credentials = match kept {
        Some(kept) => kept,
        None => {
            let made = authority.issue(&own)?;
            made.store(&**volume)?;
            made
        }
    };
    Ok((Arc::new(authority), LiveCredentials::new(credentials)?))
}

fn owner(volume: &DirVolume) -> anyhow::Result<String> {
    if let Ok(kept) = volume.read_all(OWNER, 64) {
        return String::from_utf8(kept).context("reading the file `owner`");
    }
    let owner: String = new_id().iter().map(|byte| format!("{byte:02x}")).collect();
    volume.write_atomic(OWNER, owner.as_bytes())?;
    Ok(owner)
}

/// The first token: without it nobody could make another.
fn admin_token(control: &Control, data: &Path) -> anyhow::Result<()> {
    let path = data.join(ADMIN_TOKEN);
    let admin: ObjectName = ADMIN.parse()?;
    let is_known = control.tokens()?.iter().any(|(name, _)| *name == admin);
    if is_known && path.exists() || !is_known && !control.tokens()?.is_empty() {
        return Ok(());
    }
    if is_known {
        // Made, and lost before it was written down; or its file was removed on purpose, as one should.
        if data.join("admin-token.written").exists() {
            return Ok(());
        }
        control.delete_token(&admin)?;
    }
    let secret = control.create_token(&admin, AccessRole::Contributor)?;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("writing {}", path.display()))?;
    writeln!(file, "{secret}")?;
    file.sync_all()?;
    let note = std::fs::File::create(data.join("admin-token.written"))?;
    note.sync_all()?;
    std::fs::File::open(data)?.sync_all()?;
    println!("a Contributor's token is in {}: make your own tokens with it, then remove it", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{host_and_port, public_url};

    #[test]
    fn a_public_address_is_https_and_no_more() {
        for good in ["https://cs.example", "https://cs.example/", "https://cs.example:443"] {
            assert_eq!(public_url(good).as_deref(), Ok("https://cs.example"), "{good}");
        }
        assert_eq!(public_url("https://[2001:db8::1]:8443").as_deref(), Ok("https://[2001:db8::1]:8443"));
        for bad in [
            "cs.example",
            "http://cs.example",
            "https://cs.example/dr",
            "https://a@cs.example",
            "https://x/?a",
            "",
        ] {
            assert!(public_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_taken_apart() {
        assert_eq!(host_and_port("cs.example"), ("cs.example", None));
        assert_eq!(host_and_port("cs.example:8443"), ("cs.example", Some(8443)));
        assert_eq!(host_and_port("192.0.2.7:443"), ("192.0.2.7", Some(443)));
        assert_eq!(host_and_port("2001:db8::1"), ("2001:db8::1", None));
        assert_eq!(host_and_port("[2001:db8::1]:8443"), ("2001:db8::1", Some(8443)));
    }
}
