//! Sign-ins: which issuers' access tokens (OpenID Connect) are taken beside tokens of our own, and whom they make what.
//!
//! They are resources with names, like tokens and run-as accounts, and not a file that the server reads at its start: people who give access do it over the
//! API and see it in the audit log, a change counts at once, several configuration servers on one database have the same ones, and backups hold them.
//! What it never does: look at a token, ask an issuer; the API does. An issuer's keys are public; what may be secret is the portal's as a client of the issuer
//! ([`PortalClient`]), and that is kept sealed and never shown.
//!
//! All of them are one record, so that a request reads them at once and no two can be made for one issuer.

use serde::{Deserialize, Serialize};
use switchback_model::{AccessRole, ObjectName};
use switchback_store::{Expect, Kind, StoreError};
use url::Url;
use zeroize::Zeroizing;

use crate::records::{Batch, Versioned};
use crate::{Control, ControlError, ErrorKind};

/// The record among the settings.
const KEY: &str = "sign-in";
/// Sign-ins at most: each has keys in memory.
const SIGN_INS_MAX: usize = 8;
/// Audiences, and mapped roles, of one.
const VALUES_MAX: usize = 64;
/// Scopes that the portal asks for.
const SCOPES_MAX: usize = 16;
/// Longest value in bytes.
const VALUE_LEN_MAX: usize = 512;
/// Longest authority, PEM, in bytes.
const AUTHORITY_LEN_MAX: usize = 64 << 10;
/// Tenants of Entra ID that stand for many: what is issued names another.
const MANY_TENANTS: [&str; 4] = ["common", "organizations", "consumers", "{tenantid}"];

/// One issuer, and what its tokens are worth here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignIn {
    /// Its name here: jobs and the audit log say `NAME/WHO`.
    pub name: ObjectName,
    /// `iss` of its tokens, to the letter. Its discovery document is below it (OpenID Connect Discovery 1.0, section 4).
    pub issuer: String,
    /// A token is for us when its `aud` has one of these.
    pub audiences: Vec<String>,
    /// Where roles are: the name of a claim, or a JSON pointer (`/realm_access/roles`) into the claims.
    pub claim: String,
    /// What the values of that claim mean. Of several that match the highest role counts.
    pub roles: Vec<RoleMapping>,
    /// Certificates, PEM, that the issuer's TLS is checked by. `None`: this host's authorities.
    pub authority: Option<String>,
    /// As what the portal sends people there to sign in. `None`: it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub portal: Option<PortalClient>,
}

/// The portal as a client of the issuer (RFC 6749, section 2; its flow is OpenID Connect's authorization code with PKCE).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortalClient {
    /// Under which the issuer knows it.
    pub client_id: String,
    /// What is asked for beside `openid`, so that the access token is for one of the audiences.
    pub scopes: Vec<String>,
    /// Its secret; see `sealing`. `None`: a public client, which PKCE alone proves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sealed: Option<String>,
}

impl PortalClient {
    /// A client without a secret.
    #[must_use]
    pub fn new(client_id: impl Into<String>, scopes: Vec<String>) -> Self {
        Self { client_id: client_id.into(), scopes, sealed: None }
    }

    /// Whether there is a secret.
    #[must_use]
    pub const fn has_secret(&self) -> bool {
        self.sealed.is_some()
    }
}

/// One value of the claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleMapping {
    /// What it makes of whoever has it.
    pub role: AccessRole,
    /// The value, to the letter.
    pub value: String,
}

impl SignIn {
    /// Whether it makes sense.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`].
    fn check(&self) -> Result<(), ControlError> {
        check_issuer(&self.issuer)?;
        let (audiences, values) = (self.audiences.iter(), self.roles.iter().map(|mapping| &mapping.value));
        for (what, count) in [("audience", self.audiences.len()), ("role", self.roles.len())] {
            if count == 0 || count > VALUES_MAX {
                return Err(invalid(format!("a sign-in has from 1 to {VALUES_MAX} {what}s, not {count}")));
            }
        }
        for value in audiences.chain(values).chain([&self.claim]) {
            if value.is_empty() || value.len() > VALUE_LEN_MAX || value.chars().any(char::is_control) {
                return Err(invalid(format!(
                    "audiences, claims and their values are text of up to {VALUE_LEN_MAX} bytes without control characters"
                )));
            }
        }
        if self.authority.as_ref().is_some_and(|pem| pem.len() > AUTHORITY_LEN_MAX) {
            return Err(invalid(format!("the issuer's authority is over {AUTHORITY_LEN_MAX} bytes")));
        }
        self.portal.as_ref().map_or(Ok(()), PortalClient::check)
    }

    /// What the portal's secret is bound to: whoever it would be sent to. With another it cannot be opened, so that nobody gets it by pointing the sign-in elsewhere.
    fn bound(&self) -> Vec<u8> {
        let client_id = self.portal.as_ref().map(|portal| &portal.client_id);
        let bound = ("switchback-sign-in/1", &self.issuer, &self.authority, client_id);
        serde_json::to_vec(&bound).expect("plain data becomes JSON")
    }
}

impl PortalClient {
    fn check(&self) -> Result<(), ControlError> {
        let is_token = |text: &String| {
            !text.is_empty()
                && text.len() <= VALUE_LEN_MAX
                && text.bytes().all(|byte| byte.is_ascii_graphic())
        };
        if !is_token(&self.client_id) || self.scopes.len() > SCOPES_MAX || !self.scopes.iter().all(is_token) {
            return Err(invalid(format!(
                "a client id and up to {SCOPES_MAX} scopes are text of up to {VALUE_LEN_MAX} bytes in ASCII without spaces"
            )));
        }
        Ok(())
    }
}

fn invalid(message: impl Into<String>) -> ControlError {
    ControlError::new(ErrorKind::Invalid, "sign-in.invalid", message)
}

fn check_issuer(issuer: &str) -> Result<(), ControlError> {
    let wrong = |what: &str| {
        invalid(format!("the issuer {issuer:?} {what}")).remedy(
            "give it as `iss` in a token has it, such as https://login.microsoftonline.com/TENANT/v2.0",
        )
    };
    if issuer.len() > VALUE_LEN_MAX {
        return Err(invalid(format!("the issuer is over {VALUE_LEN_MAX} bytes")));
    }
    let url = Url::parse(issuer).map_err(|_| wrong("is no address"))?;
    if url.scheme() != "https" || url.host_str().is_none() {
        return Err(wrong("is no address of https"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("has a user in it"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("has a query or a fragment"));
    }
    if url.path().ends_with("/.well-known/openid-configuration") {
        return Err(wrong("is the address of its discovery document"));
    }
    let mut segments = issuer.split('/');
    if segments.any(|segment| MANY_TENANTS.iter().any(|many| segment.eq_ignore_ascii_case(many))) {
        return Err(wrong("stands for many tenants: their tokens name their own"));
    }
    Ok(())
}

impl Control {
    /// All sign-ins, by name.
    ///
    /// # Errors
    /// Those of the store.
    pub fn sign_ins(&self) -> Result<Vec<SignIn>, ControlError> {
        Ok(self.stored_sign_ins()?.0)
    }

    fn stored_sign_ins(&self) -> Result<(Vec<SignIn>, Expect), ControlError> {
        let found: Option<Versioned<Vec<SignIn>>> = self.records().find(Kind::Setting, KEY)?;
        Ok(found.map_or((Vec::new(), Expect::Absent), |found| (found.value, Expect::Version(found.version))))
    }

    /// Makes a sign-in, or replaces the one of that name, and returns it as it is kept. `secret` is the portal's at the issuer, none if it is empty; when it is
    /// not given, the one that is there stays, as long as issuer, authority and client id do.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for what makes no sense; [`ErrorKind::Conflict`] when another one has the issuer, or somebody changes them right now.
    pub fn set_sign_in(
        &self,
        mut sign_in: SignIn,
        secret: Option<&Zeroizing<String>>,
    ) -> Result<SignIn, ControlError> {
        sign_in.check()?;
        let (mut all, expect) = self.stored_sign_ins()?;
        let before = all.iter().position(|other| other.name == sign_in.name).map(|at| all.remove(at));
        let bound = sign_in.bound();
        if let Some(portal) = &mut sign_in.portal {
            portal.sealed = match secret {
                Some(secret) if secret.is_empty() => None,
                Some(secret) if secret.len() > VALUE_LEN_MAX => {
                    return Err(invalid(format!("the client's secret is over {VALUE_LEN_MAX} bytes")));
                }
                Some(secret) => Some(self.seal(&bound, secret)?),
                None => before.filter(|before| before.bound() == bound).and_then(|one| one.portal?.sealed),
            };
        }
        if let Some(other) = all.iter().find(|other| other.issuer == sign_in.issuer) {
            let message = format!("the sign-in {} has the issuer {}", other.name, other.issuer);
            return Err(ControlError::new(ErrorKind::Conflict, "sign-in.issuer", message)
                .remedy("one sign-in may have several audiences and roles: add them to that one"));
        }
        if all.len() >= SIGN_INS_MAX {
            return Err(invalid(format!("there are {SIGN_INS_MAX} sign-ins already")));
        }
        all.push(sign_in.clone());
        all.sort_by(|one, other| one.name.cmp(&other.name));
        self.store_sign_ins(&all, expect)?;
        Ok(sign_in)
    }

    /// The portal's secret at an issuer, if it has one.
    ///
    /// # Errors
    /// `account.unreadable` when it cannot be decrypted.
    pub fn sign_in_secret(&self, sign_in: &SignIn) -> Result<Option<Zeroizing<String>>, ControlError> {
        let sealed = sign_in.portal.as_ref().and_then(|portal| portal.sealed.as_ref());
        sealed.map(|sealed| self.unseal(&sign_in.bound(), sealed)).transpose()
    }

    pub(crate) fn has_sign_in_secrets(&self) -> Result<bool, ControlError> {
        let all = self.sign_ins()?;
        Ok(all.iter().any(|sign_in| sign_in.portal.as_ref().is_some_and(PortalClient::has_secret)))
    }

    /// Deletes a sign-in: its issuer's tokens are refused from now on.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Conflict`] when somebody changes them right now.
    pub fn delete_sign_in(&self, name: &ObjectName) -> Result<(), ControlError> {
        let (mut all, expect) = self.stored_sign_ins()?;
        let count = all.len();
        all.retain(|other| other.name != *name);
        if all.len() == count {
            return Err(ControlError::not_found("sign-in", name));
        }
        self.store_sign_ins(&all, expect)
    }

    fn store_sign_ins(&self, all: &Vec<SignIn>, expect: Expect) -> Result<(), ControlError> {
        let mut batch = Batch::default();
        batch.put(Kind::Setting, KEY, expect, all);
        self.records().commit(batch).map_err(|error| match error {
            StoreError::Conflict { .. } => ControlError::new(
                ErrorKind::Conflict,
                "sign-in.changed",
                "the sign-ins were changed at the same time",
            )
            .remedy("look at them, and try again"),
            other => other.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{PortalClient, RoleMapping, SignIn};
    use switchback_model::AccessRole;

    fn sign_in(issuer: &str) -> SignIn {
        SignIn {
            name: "entra".parse().unwrap(),
            issuer: issuer.into(),
            audiences: vec!["api://switchback".into()],
            claim: "roles".into(),
            roles: vec![RoleMapping { role: AccessRole::Reader, value: "Reader".into() }],
            authority: None,
            portal: None,
        }
    }

    #[test]
    fn issuers_are_https_and_one_tenant() {
        for good in [
            "https://sts.windows.net/8d6ef2c1-0000-0000-0000-000000000000/",
            "https://login.microsoftonline.com/8d6ef2c1-0000-0000-0000-000000000000/v2.0",
            "https://idp.example:8443/realms/dr",
        ] {
            sign_in(good).check().unwrap();
        }
        for bad in [
            "",
            "idp.example",
            "http://idp.example",
            "https://user:word@idp.example",
            "https://idp.example/?tenant=1",
            "https://idp.example/.well-known/openid-configuration",
            "https://login.microsoftonline.com/common/v2.0",
            "https://login.microsoftonline.com/{tenantid}/v2.0",
        ] {
            assert_eq!(sign_in(bad).check().unwrap_err().error.code, "sign-in.invalid", "{bad}");
        }
    }

    #[test]
    fn nothing_is_empty_or_endless() {
        let good = sign_in("https://idp.example");
        let cases = [
            SignIn { audiences: Vec::new(), ..good.clone() },
            SignIn { audiences: vec![String::new()], ..good.clone() },
            SignIn { audiences: vec!["a".into(); 65], ..good.clone() },
            SignIn { roles: Vec::new(), ..good.clone() },
            SignIn { claim: "a\nb".into(), ..good.clone() },
            SignIn { claim: "c".repeat(600), ..good.clone() },
            SignIn { authority: Some("x".repeat(70_000)), ..good.clone() },
            SignIn { portal: Some(PortalClient::new("", Vec::new())), ..good.clone() },
            SignIn { portal: Some(PortalClient::new("c", vec!["two words".into()])), ..good.clone() },
            SignIn { portal: Some(PortalClient::new("c", vec!["s".into(); 17])), ..good.clone() },
        ];
        good.check().unwrap();
        for bad in cases {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
