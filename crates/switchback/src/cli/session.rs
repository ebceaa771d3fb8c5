//! One run of a command against a configuration server: which server, how results are shown, how long to wait.
//!
//! The server's address, its authority and the token come from arguments, from the environment, and from the profile, in this order; a token
//! never from an argument or a variable, which others on the host could read.

use std::fs::File;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use serde_json::Value;

use super::job_progress::JobProgress;
use super::output::OutputFormat;
use super::render::{self, Field};
use crate::client::path;
use crate::client::profiles::{self, Profile};
use crate::client::{Client, ClientError, Endpoint, JobEnd, Operation, Reply, Token, WaitOptions};

/// Which configuration server, and how results are shown.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Connection and output")]
pub(crate) struct SessionArgs {
    /// The profile to use, instead of the default one (see `switchback profile`)
    #[arg(long, global = true, env = "SWITCHBACK_PROFILE", value_name = "NAME")]
    profile: Option<String>,
    /// The configuration server: https://HOST or https://HOST:PORT
    #[arg(long, global = true, env = "SWITCHBACK_SERVER", value_name = "URL")]
    server: Option<String>,
    /// The certificate of the server's authority (PEM)
    #[arg(long, global = true, env = "SWITCHBACK_CA_FILE", value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// A file that holds the token and nothing else
    #[arg(long, global = true, env = "SWITCHBACK_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// How results are printed: for people, or as the API said them
    #[arg(long, short, global = true, value_enum, default_value_t)]
    output: OutputFormat,
}

/// Whether to wait for what was begun.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct WaitArgs {
    /// Wait until the job has ended, and show how far it is; the exit code tells how it ended (this is the default)
    #[arg(long, overrides_with = "no_wait")]
    wait: bool,
    /// Do not wait: print the job and end
    #[arg(long, overrides_with = "wait")]
    no_wait: bool,
    /// Longest time to wait, in seconds; the job goes on after it
    #[arg(long, default_value_t = 86_400, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    wait_limit: u64,
}

impl Default for WaitArgs {
    fn default() -> Self {
        Self::until(86_400)
    }
}

impl WaitArgs {
    /// To wait, but not longer than so many seconds.
    pub(crate) const fn until(wait_limit: u64) -> Self {
        Self { wait: true, no_wait: false, wait_limit }
    }

    /// Whether the job is to be left alone.
    pub(crate) const fn is_not_wished(&self) -> bool {
        self.no_wait
    }
}

/// Longest certificate file in bytes.
const CA_LEN_MAX: usize = 64 << 10;

/// A command's view of the server.
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) format: OutputFormat,
}

/// Runs an asynchronous command.
pub(crate) fn run<Done>(args: &SessionArgs, command: impl FnOnce(Session) -> Done) -> anyhow::Result<ExitCode>
where
    Done: Future<Output = anyhow::Result<ExitCode>>,
{
    let endpoint = args.endpoint()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut client = Client::new(endpoint)?;
        client.discover().await?;
        Box::pin(command(Session { client, format: args.output })).await
    })
}

impl SessionArgs {
    pub(crate) const fn format(&self) -> OutputFormat {
        self.output
    }

    /// What was given on this command line or in the environment about the server.
    pub(crate) fn given(&self) -> (Option<&str>, Option<&Path>, Option<&Path>) {
        (self.server.as_deref(), self.ca_file.as_deref(), self.token_file.as_deref())
    }

    fn endpoint(&self) -> anyhow::Result<Endpoint> {
        let profile = self.stored_profile()?;
        let missing = |what: &str, argument: &str| {
            format!(
                "{what} is not known; add a profile with `switchback profile add NAME --server URL --ca-file FILE \
                 --token-file FILE`, or give {argument}"
            )
        };
        let stored = |part: fn(&Profile) -> &String| profile.as_ref().map(|profile| part(profile).clone());
        let server = self.server.clone().or_else(|| stored(|profile| &profile.server));
        let server = server.with_context(|| missing("the configuration server", "--server"))?;
        let authority = match &self.ca_file {
            Some(file) => Some(read_authority(file)?),
            None => stored(|profile| &profile.authority),
        };
        let authority = authority.with_context(|| missing("the server's authority", "--ca-file"))?;
        let token = match &self.token_file {
            Some(file) => Some(read_token(file)?),
            None => stored(|profile| &profile.token).map(|token| Token::new(&token)).transpose()?,
        };
        let token = token.with_context(|| missing("the token", "--token-file"))?;
        Ok(Endpoint { server, authority, token })
    }

    fn stored_profile(&self) -> anyhow::Result<Option<Profile>> {
        let complete = self.server.is_some() && self.ca_file.is_some() && self.token_file.is_some();
        if complete && self.profile.is_none() {
            return Ok(None);
        }
        let directory = profiles::directory(|name| std::env::var(name).ok())?;
        let mut stored = profiles::load(&directory)?;
        let Some(name) = self.profile.clone().or_else(|| stored.default.take()) else { return Ok(None) };
        match stored.profiles.remove(&name) {
            Some(profile) => Ok(Some(profile)),
            None => bail!("there is no profile {name:?}; `switchback profile list` shows those there are"),
        }
    }
}

/// A certificate in PEM, found to be one.
pub(crate) fn read_authority(file: &Path) -> anyhow::Result<String> {
    let shown = file.display();
    let bytes = std::fs::read(file).with_context(|| format!("the certificate {shown} cannot be read"))?;
    if bytes.len() > CA_LEN_MAX {
        bail!("{shown} is too long for an authority's certificate");
    }
    let text = String::from_utf8(bytes).ok().with_context(|| format!("{shown} is not PEM"))?;
    crate::client::parse_authority(&text)
        .with_context(|| format!("{shown} is no authority's certificate"))?;
    // Only the certificates: what else the file has (a private key?) is nothing for a profile.
    Ok(certificates_in(&text))
}

fn certificates_in(text: &str) -> String {
    let mut inside = false;
    let mut found = String::new();
    for line in text.lines() {
        inside |= line.starts_with("-----BEGIN CERTIFICATE-----");
        if inside {
            found.push_str(line.trim_end());
            found.push('\n');
        }
        inside &= !line.starts_with("-----END ");
    }
    found
}

/// A token from a file.
pub(crate) fn read_token(file: &Path) -> anyhow::Result<Token> {
    let opened =
        File::open(file).with_context(|| format!("the token file {} cannot be read", file.display()))?;
    Token::read(opened).with_context(|| format!("reading {}", file.display()))
}

impl Session {
    /// Whether results are for people.
    pub(crate) fn is_for_people(&self) -> bool {
        self.format == OutputFormat::Table
    }

    /// Prints a list.
    pub(crate) fn print_list(&self, fields: &[Field], resources: &[Value]) -> ExitCode {
        print!("{}", render::list(self.format, fields, resources));
        ExitCode::SUCCESS
    }

    /// Prints a list for programs; nothing for people.
    pub(crate) fn print_json(&self, resources: &[Value]) {
        if !self.is_for_people() {
            print!("{}", render::json(&Value::from(resources)));
        }
    }

    /// Prints a resource.
    pub(crate) fn print(&self, fields: &[Field], resource: &Value) -> ExitCode {
        print!("{}", render::show(self.format, fields, resource));
        ExitCode::SUCCESS
    }

    /// Prints a list; `more` adds, for people, what a table shows under `/shown`.
    pub(crate) fn print_list_as(
        &self,
        fields: &[Field],
        resources: &[Value],
        more: fn(&Value) -> Value,
    ) -> ExitCode {
        let added: Vec<_> = resources.iter().map(|resource| self.with(resource, more)).collect();
        self.print_list(fields, &added)
    }

    /// Prints a resource, likewise.
    pub(crate) fn print_as(&self, fields: &[Field], resource: &Value, more: fn(&Value) -> Value) -> ExitCode {
        self.print(fields, &self.with(resource, more))
    }

    fn with(&self, resource: &Value, more: fn(&Value) -> Value) -> Value {
        let mut resource = resource.clone();
        if self.is_for_people() && resource.is_object() {
            resource["shown"] = more(&resource);
        }
        resource
    }

    /// Ends a command that changed something: says what was done, or follows the job. `done` is a sentence for people; programs get the resource.
    pub(crate) async fn conclude(
        &self,
        reply: Reply,
        wait: WaitArgs,
        done: &str,
    ) -> anyhow::Result<ExitCode> {
        match reply {
            Reply::Done(resource) => {
                match self.format {
                    OutputFormat::Json if !resource.is_null() => print!("{}", render::json(&resource)),
                    OutputFormat::Json => {}
                    OutputFormat::Table => println!("{done}"),
                }
                Ok(ExitCode::SUCCESS)
            }
            Reply::Started(operation) if wait.is_not_wished() => {
                match self.format {
                    OutputFormat::Json => print!("{}", render::json(&self.job(&operation).await?)),
                    OutputFormat::Table => {
                        println!("job {} has begun; `switchback job wait {0}` follows it", operation.job)
                    }
                }
                Ok(ExitCode::SUCCESS)
            }
            Reply::Started(operation) => self.follow(&operation, wait).await,
        }
    }

    fn job_id(&self, operation: &Operation) -> String {
        self.client.id(&format!("{}/{}", path::JOBS, path::encode(&operation.job)))
    }

    /// Follows a job to its end; the exit code tells how that was.
    pub(crate) async fn follow(&self, operation: &Operation, wait: WaitArgs) -> anyhow::Result<ExitCode> {
        let Some((job, end)) = self.watch(operation, wait).await? else { return Ok(ExitCode::from(130)) };
        match self.format {
            OutputFormat::Json => print!("{}", render::json(&self.job(operation).await?)),
            OutputFormat::Table => print!("{}", super::job::ending(&job, end)),
        }
        Ok(if end == JobEnd::Succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// A job as the API says it.
    pub(crate) async fn job(&self, operation: &Operation) -> anyhow::Result<Value> {
        Ok(self.client.get(&self.job_id(operation)).await?)
    }

    /// Shows a job's progress until it has ended; `None`: interrupted, and that has been said.
    pub(crate) async fn watch(
        &self,
        operation: &Operation,
        wait: WaitArgs,
    ) -> anyhow::Result<Option<(Value, JobEnd)>> {
        let options = WaitOptions { limit: Duration::from_secs(wait.wait_limit), ..WaitOptions::default() };
        let mut progress = JobProgress::new();
        let waiting = self.client.wait(operation, options, |look| match look {
            Ok(job) => progress.show(job),
            Err(error) => progress.note(&format!("{error}; trying again")),
        });
        let result = tokio::select! {
            result = waiting => Some(result),
            _ = tokio::signal::ctrl_c() => None,
        };
        progress.finish();
        let Some(result) = result else {
            eprintln!(
                "Not waiting any more. The job goes on: `switchback job wait {}` follows it,",
                operation.job
            );
            eprintln!("`switchback job cancel {}` ends it.", operation.job);
            return Ok(None);
        };
        Ok(Some(result?))
    }
}

/// An error for people: what failed, and if it is known the likely cause and what to do, each on its line.
pub(crate) fn explain(error: &anyhow::Error) -> String {
    let mut text = format!("error: {error:#}\n");
    if let Some(client) = error.chain().find_map(|error| error.downcast_ref::<ClientError>()) {
        let (cause, remedy) = client.advice();
        for (title, said) in [("likely cause", cause), ("what to do", remedy)] {
            if !said.is_empty() {
                text.push_str(&format!("  {title}: {said}\n"));
            }
        }
        if let Some(refusal) = client.refusal().filter(|refusal| !refusal.code.is_empty()) {
            text.push_str(&format!("  code: {}\n", refusal.code));
        }
    }
    render::printable(&text)
}

#[cfg(test)]
mod tests {
    use super::certificates_in;

    #[test]
    fn a_private_key_beside_a_certificate_stays_where_it_is() {
        let certificate = "-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----\n";
        let text = format!(
            "junk\n-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----\n{certificate}tail\n"
        );
        assert_eq!(certificates_in(&text), certificate);
    }
}
