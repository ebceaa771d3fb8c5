//! Whose token an issuer's is: access tokens (JWT, RFC 7519) of OpenID Connect issuers, beside tokens of our own.
//!
//! What it is: [`SignIns`], the issuers' public keys in memory and the judgement of tokens by them. What it never does: keep anything that a restart must
//! not lose, send a token anywhere (it is judged here alone), ask an issuer about a token, believe anything that a token says before its signature is checked,
//! except which issuer and which key to check it by. [`code`] fetches a token for somebody who signs in at the issuer; what it is worth is judged like any other.
//!
//! The path of one token: its head and its `iss` are read ([`token::Unverified`]); the sign-in of that issuer is looked up; the key that the head names
//! comes from memory or from the issuer ([`keys`]); the signature, audience and times are checked, and who it is and what that one may do read from
//! the claims ([`token::judge`]). A token that is sound but has no role here belongs to a known caller without rights: 403, and in the audit log.
//!
//! A dead issuer costs its own callers an answer (503 at once, or after [`SignInLimits::fetch_max`] for a few of them) and nobody else anything.

mod code;
mod keys;
mod token;

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use jsonwebtoken::DecodingKey;
use switchback_control::SignIn;
use switchback_model::UnixMillis;

pub use self::code::Attempt;
pub(crate) use self::code::{issuer_refused, unknown};
use self::keys::{Issuer, KeyError, Keys};
use crate::arm::ArmError;
use crate::auth::Caller;

/// Azure Resource Manager's code for a token whose time is over.
pub(crate) const EXPIRED: &str = "ExpiredAuthenticationToken";
/// … and for one that is wrong in another way.
pub(crate) const INVALID: &str = "InvalidAuthenticationToken";

/// How issuers are asked for their keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignInLimits {
    /// An issuer is asked once in so long at most, whatever tokens come.
    pub ask_every: Duration,
    /// Keys that are older are asked for anew, while they go on to be used.
    pub fresh_for: Duration,
    /// Keys that are older, because their issuer does not answer, are not used any more.
    pub kept_for: Duration,
    /// For both documents of an issuer.
    pub fetch_max: Duration,
    /// Requests that wait for an issuer's keys at once; more are told to come back.
    pub waiting_max: usize,
}

impl Default for SignInLimits {
    /// Every 30 s at most, after an hour at least, for a day without an answer; 10 s for an answer, for which 8 requests wait.
    fn default() -> Self {
        Self {
            ask_every: Duration::from_secs(30),
            fresh_for: Duration::from_secs(3600),
            kept_for: Duration::from_secs(24 * 3600),
            fetch_max: Duration::from_secs(10),
            waiting_max: 8,
        }
    }
}

/// Whether a bearer token is meant for here: three parts between dots. None of ours has a dot.
pub(crate) fn looks_like_one(secret: &str) -> bool {
    secret.split('.').count() == 3
}

/// Judges tokens.
#[derive(Debug)]
pub(crate) struct SignIns {
    keys: Keys,
}

impl SignIns {
    pub(crate) fn new(limits: SignInLimits) -> Self {
        Self { keys: Keys::new(limits) }
    }

    /// Whose token it is. 401 for one that is not good; 503 when its issuer's keys are not to be had.
    pub(crate) async fn identify(
        &self,
        secret: &str,
        sign_ins: &[SignIn],
        now: UnixMillis,
    ) -> Result<Caller, ArmError> {
        let unverified = token::Unverified::read(secret)?;
        let sign_in = sign_ins.iter().find(|sign_in| sign_in.issuer == unverified.issuer);
        let sign_in = sign_in.ok_or_else(|| unknown_issuer(&unverified.issuer, sign_ins.is_empty()))?;
        self.forget_all_but(sign_ins);
        let key = self.key(sign_in, &unverified).await?;
        token::judge(secret, unverified.algorithm, &key, sign_in, now)
    }

    /// Lets issuers go that no sign-in names any more.
    pub(crate) fn forget_all_but(&self, sign_ins: &[SignIn]) {
        self.keys.forget_all_but(sign_ins);
    }

    fn issuer(&self, sign_in: &SignIn) -> Result<Arc<Issuer>, ArmError> {
        self.keys.of(sign_in).map_err(|detail| unavailable(sign_in, &detail, None))
    }

    /// The key that a token names.
    async fn key(&self, sign_in: &SignIn, token: &token::Unverified) -> Result<DecodingKey, ArmError> {
        let key = self.issuer(sign_in)?.key(token.key_id.as_deref(), token.algorithm).await;
        key.map_err(|error| match error {
            KeyError::Unknown => unknown_key(sign_in, token),
            KeyError::Unavailable { detail, retry_after } => unavailable(sign_in, &detail, Some(retry_after)),
        })
    }
}

/// Tries a sign-in out, apart from what is in memory: how many keys its issuer has, and whose a token is.
///
/// # Errors
/// What callers with such a token are told: first of the issuer's keys, then of the token.
pub(crate) async fn try_out(
    sign_in: &SignIn,
    token: Option<&str>,
    now: UnixMillis,
) -> Result<(usize, Option<Result<Caller, ArmError>>), ArmError> {
    let apart = SignIns::new(SignInLimits::default());
    let issuer = apart.issuer(sign_in)?;
    let keys = issuer.ask_now().await.map_err(|detail| unavailable(sign_in, &detail, None))?;
    let caller = match token {
        Some(token) => Some(apart.identify(token, std::slice::from_ref(sign_in), now).await),
        None => None,
    };
    Ok((keys, caller))
}

/// A token that is refused, whatever is the matter with it.
fn refused(message: impl Into<String>) -> ArmError {
    ArmError::new(StatusCode::UNAUTHORIZED, INVALID, message)
}

fn unknown_issuer(issuer: &str, there_are_none: bool) -> ArmError {
    let refusal = refused(format!("no sign-in here has the token's issuer, {:?}", token::printable(issuer)));
    if there_are_none {
        return refusal.cause("this configuration server takes tokens of its own only").remedy(
            "use one (`switchback token create`), or let a Contributor name the issuer with `switchback sign-in set`",
        );
    }
    refusal
        .cause("the token is of another tenant, or of the other version of Entra ID's tokens (v1: https://sts.windows.net/TENANT/, v2: …/TENANT/v2.0)")
        .remedy("compare it, to the letter, with the issuers of `switchback sign-in list`")
}

fn unknown_key(sign_in: &SignIn, token: &token::Unverified) -> ArmError {
    let key = token
        .key_id
        .as_deref()
        .map_or_else(|| "no key at all".to_owned(), |key| format!("the key {:?}", token::printable(key)));
    refused(format!("the token names {key}, and {} has none such for {:?}", sign_in.issuer, token.algorithm))
        .cause("the issuer has changed its keys within the last minute, or the token is not from it")
        .remedy("get a new token, and try again in a minute")
}

fn unavailable(sign_in: &SignIn, detail: &str, retry_after: Option<Duration>) -> ArmError {
    let message =
        format!("the keys of {} (sign-in {}) cannot be had: {detail}", sign_in.issuer, sign_in.name);
    let refusal = ArmError::new(StatusCode::SERVICE_UNAVAILABLE, "IssuerUnavailable", message)
        .cause("the issuer is down, the way to it is closed or needs a proxy (HTTPS_PROXY), or its authority is not known here")
        .remedy("tokens of our own work meanwhile; see whether the configuration server's host reaches the issuer");
    match retry_after {
        Some(wait) => refusal.retry_after(wait.as_secs().max(1)),
        None => refusal,
    }
}
