//! `switchback sign-in`: whose tokens the configuration server takes beside its own (OpenID Connect).
//!
//! Such a token is used like one of ours: from `--token-file`, which is read anew for each command. This program never asks an issuer for one; one that is to
//! be tried out comes from standard input, never from an argument.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::backup::passphrase;
use super::confirm::{ConfirmArgs, ask_secret};
use super::render::{Field, plain};
use super::session::{self, Session, SessionArgs, WaitArgs};
use crate::client::path::{self, text_at};
use crate::client::{Reply, Token};

const LIST: &[Field] = &[
    plain("NAME", &["/name"]),
    plain("ISSUER", &["/properties/issuer"]),
    plain("AUDIENCES", &["/shown/audiences"]),
    plain("CLAIM", &["/properties/claim"]),
    plain("ROLES", &["/shown/roles"]),
    plain("PORTAL", &["/properties/portal/clientId"]),
];

const TESTED: &[Field] = &[
    plain("Keys of the issuer", &["/properties/keys"]),
    plain("The token is of", &["/properties/name"]),
    plain("Its role here", &["/properties/role"]),
    plain("Why it has none", &["/properties/withoutRole"]),
    plain("Problem", &["/properties/problem/message"]),
    plain("Likely cause", &["/properties/problem/cause"]),
    plain("What to do", &["/properties/problem/remedy"]),
];

#[derive(Debug, Args)]
pub(crate) struct SignInArgs {
    #[command(flatten)]
    session: SessionArgs,
    #[command(subcommand)]
    command: SignInCommand,
}

#[derive(Debug, Subcommand)]
enum SignInCommand {
    /// List the issuers whose tokens are taken
    List,
    /// Take an issuer's access tokens, or change how they are taken
    Set {
        /// Its name here: jobs and the audit log say NAME/WHO
        sign_in: String,
        /// The issuer, to the letter as `iss` in its tokens has it: <https://login.microsoftonline.com/TENANT/v2.0> for Entra ID
        #[arg(long, value_name = "URL")]
        issuer: String,
        /// Whom tokens must be for (`aud`): api://… or an application's id. May be given several times
        #[arg(long = "audience", required = true, value_name = "AUDIENCE")]
        audiences: Vec<String>,
        /// Where a token has its roles: the name of a claim, or a JSON pointer such as /realm_access/roles
        #[arg(long, default_value = "roles", value_name = "CLAIM")]
        claim: String,
        /// What a value of that claim makes of whoever has it: Reader, Operator or Contributor. May be given several times; the highest counts
        #[arg(long = "role", required = true, value_name = "ROLE=VALUE", value_parser = mapping)]
        roles: Vec<Mapping>,
        /// The certificate of the authority of the issuer's TLS (PEM) [default: those of the configuration server's host]
        #[arg(long, value_name = "FILE")]
        issuer_ca_file: Option<PathBuf>,
        #[command(flatten)]
        portal: PortalArgs,
    },
    /// Try a sign-in out: whether its issuer's keys can be had now, and what a token of it is worth. The exit code tells whether all is well
    Test {
        /// Its name
        sign_in: String,
        /// Read a token of the issuer from standard input, and say whose it is and what role it has here
        #[arg(long)]
        with_token: bool,
    },
    /// Take an issuer's tokens no more
    Remove {
        /// Its name
        sign_in: String,
        #[command(flatten)]
        confirm: ConfirmArgs,
    },
}

/// As what the portal sends people to the issuer to sign in.
#[derive(Debug, Args)]
struct PortalArgs {
    /// Under which client id the issuer knows the portal: people can then sign in there. Its redirect address is https://…/portal/sign-in/NAME/answer. Without
    /// it the portal sends nobody there
    #[arg(long, value_name = "ID")]
    portal_client: Option<String>,
    /// What the portal asks for beside `openid`, so that the access token is for the audience. May be given several times
    #[arg(long = "portal-scope", requires = "portal_client", value_name = "SCOPE")]
    portal_scopes: Vec<String>,
    /// Read the secret of that client from this file; `-`: asks for it, or takes it from standard input. Without it the one that is there stays
    #[arg(long, requires = "portal_client", value_name = "FILE")]
    portal_secret_file: Option<PathBuf>,
}

impl PortalArgs {
    /// What the request has of it.
    fn properties(&self) -> anyhow::Result<Value> {
        let Some(client_id) = &self.portal_client else { return Ok(Value::Null) };
        let secret = self.portal_secret_file.as_deref().map(|file| match file.to_str() {
            Some("-") => Ok(ask_secret("Secret: ")?),
            _ => passphrase(file),
        });
        let secret = secret.transpose().context("reading the client's secret")?;
        let secret = secret.as_ref().map(|secret| secret.as_str());
        Ok(json!({ "clientId": client_id, "scopes": self.portal_scopes, "secret": secret }))
    }
}

/// One value of the claim.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mapping {
    role: &'static str,
    value: String,
}

fn mapping(text: &str) -> Result<Mapping, String> {
    let (role, value) = text.split_once('=').unwrap_or((text, ""));
    let known =
        ["Reader", "Operator", "Contributor"].into_iter().find(|known| known.eq_ignore_ascii_case(role));
    match known {
        Some(role) if !value.is_empty() => Ok(Mapping { role, value: value.to_owned() }),
        Some(role) => Err(format!("which value makes a {role}? Say {role}=VALUE")),
        None => Err(format!("{role:?} is no role: Reader, Operator or Contributor")),
    }
}

/// Lists in one line.
fn shown(sign_in: &Value) -> Value {
    let list =
        |pointer: &str| sign_in.pointer(pointer).and_then(Value::as_array).cloned().unwrap_or_default();
    let audiences: Vec<_> =
        list("/properties/audiences").iter().map(|one| text_at(one, "").to_owned()).collect();
    let roles = list("/properties/roles");
    let roles: Vec<_> =
        roles.iter().map(|one| format!("{}={}", text_at(one, "/role"), text_at(one, "/value"))).collect();
    json!({ "audiences": audiences.join(", "), "roles": roles.join(", ") })
}

/// What was found, and whether all of it is well.
fn tested(session: &Session, found: &Value, with_token: bool) -> ExitCode {
    session.print(TESTED, found);
    let is_well = found.pointer("/properties/problem").is_some_and(Value::is_null)
        && (!with_token || found.pointer("/properties/role").is_some_and(Value::is_string));
    if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

pub(crate) fn run(args: &SignInArgs) -> anyhow::Result<ExitCode> {
    session::run(&args.session, async |session| {
        let client = &session.client;
        let id = |sign_in: &str| client.id(&format!("{}/{}", path::SIGN_INS, path::encode(sign_in)));
        match &args.command {
            SignInCommand::List => {
                let all = client.list(&client.id(path::SIGN_INS), &[], None).await?;
                Ok(session.print_list_as(LIST, &all, shown))
            }
            SignInCommand::Set { sign_in, issuer, audiences, claim, roles, issuer_ca_file, portal } => {
                let authority = issuer_ca_file.as_deref().map(session::read_authority).transpose()?;
                let roles: Vec<_> =
                    roles.iter().map(|one| json!({ "role": one.role, "value": one.value })).collect();
                let properties = json!({
                    "issuer": issuer, "audiences": audiences, "claim": claim, "roles": roles, "authority": authority,
                    "portal": portal.properties()?,
                });
                match client.put(&id(sign_in), &json!({ "properties": properties })).await? {
                    Reply::Done(made) => Ok(session.print_as(LIST, &made, shown)),
                    Reply::Started(_) => bail!("the server did not answer at once"),
                }
            }
            SignInCommand::Test { sign_in, with_token } => {
                let token = with_token.then(|| Token::read(std::io::stdin().lock())).transpose()?;
                let token = token.as_ref().map(Token::reveal);
                let body =
                    json!({ "properties": token.map_or(json!({}), |token| json!({ "token": token })) });
                match client.post(&format!("{}/test", id(sign_in)), Some(&body)).await? {
                    Reply::Done(found) => Ok(tested(&session, &found, *with_token)),
                    Reply::Started(_) => bail!("the server did not answer at once"),
                }
            }
            SignInCommand::Remove { sign_in, confirm } => {
                confirm
                    .confirm(&format!("The tokens of the sign-in {sign_in} will be refused from now on."))?;
                let reply = client.delete(&id(sign_in)).await?;
                session
                    .conclude(reply, WaitArgs::default(), &format!("the sign-in {sign_in} is removed"))
                    .await
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Mapping, PortalArgs, mapping, shown};

    #[test]
    fn roles_are_given_as_pairs() {
        let good = Mapping { role: "Operator", value: "a=b".into() };
        assert_eq!(mapping("operator=a=b"), Ok(good));
        for bad in ["Owner=x", "Reader", "Reader=", "=x", ""] {
            assert!(mapping(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_portals_secret_comes_from_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("secret");
        std::fs::write(&file, "open sesame\n").unwrap();
        let mut args = PortalArgs {
            portal_client: Some("portal".into()),
            portal_scopes: vec!["s".into()],
            portal_secret_file: Some(file),
        };
        let said = json!({ "clientId": "portal", "scopes": ["s"], "secret": "open sesame" });
        assert_eq!(args.properties().unwrap(), said);
        args.portal_secret_file = Some("/nowhere/at/all".into());
        assert!(format!("{:#}", args.properties().unwrap_err()).starts_with("reading the client's secret"));
        args.portal_client = None;
        assert_eq!(args.properties().unwrap(), json!(null));
    }

    #[test]
    fn lists_are_shown_in_a_line() {
        let sign_in = json!({ "properties": {
            "audiences": ["a", "b"], "roles": [{ "role": "Reader", "value": "x" }, { "role": "Operator", "value": "y" }],
        } });
        assert_eq!(shown(&sign_in), json!({ "audiences": "a, b", "roles": "Reader=x, Operator=y" }));
    }
}
