//! One token: what it says, whether that is true, and what follows. Pure.
//!
//! Of JOSE this takes signatures by RSA (PKCS #1 v1.5 and PSS) and P-256 with SHA-256 only (RFC 7518, section 3.1): never `none`, never a shared secret,
//! of which an issuer's public key could be taken for one. A key is used for the algorithm of its own family, whatever the token's head says.
//! Nothing of a token gets into an error or a log but its issuer, key id, audience and the claim that roles are in, shortened and made printable.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use serde_json::Value;
use switchback_control::SignIn;
use switchback_model::UnixMillis;

use super::{EXPIRED, refused};
use crate::arm::ArmError;
use crate::auth::{Caller, Standing};
use crate::clients::Client;

/// How far clocks may be apart, in seconds.
const SKEW_S: u64 = 60;
/// Longest life of a token in seconds. Entra ID's longest, under continuous access evaluation, is 28 hours.
const LIFETIME_MAX_S: u64 = 30 * 3600;
/// Longest text of a token that is repeated, in characters.
const SHOWN_MAX: usize = 128;
/// Values of a claim that are repeated.
const SHOWN_VALUES_MAX: usize = 10;
/// A user's name: OpenID Connect's claim, and those of Entra ID's v1 tokens.
const USER: [&str; 3] = ["preferred_username", "upn", "unique_name"];
/// An application's id, in v1 and v2 tokens of Entra ID.
const APPLICATION: [&str; 2] = ["appid", "azp"];

/// What is read before anything is believed.
#[derive(Debug)]
pub(super) struct Unverified {
    pub(super) algorithm: Algorithm,
    pub(super) key_id: Option<String>,
    pub(super) issuer: String,
}

#[derive(Deserialize)]
struct Head {
    alg: String,
    kid: Option<String>,
    crit: Option<Value>,
}

#[derive(Deserialize)]
struct Issued {
    iss: String,
}

impl Unverified {
    /// Reads head and issuer.
    pub(super) fn read(token: &str) -> Result<Self, ArmError> {
        let mut parts = token.split('.');
        let head: Head = part(parts.next(), "head")?;
        let Issued { iss: issuer } = part(parts.next(), "claims, or their `iss`,")?;
        if head.crit.is_some() {
            return Err(refused("the token's head demands extensions (`crit`) that are not known here"));
        }
        let algorithm = match head.alg.as_str() {
            "RS256" => Algorithm::RS256,
            "PS256" => Algorithm::PS256,
            "ES256" => Algorithm::ES256,
            other => {
                return Err(refused(format!("the token is signed by {:?}", printable(other)))
                    .cause("RS256, PS256 and ES256 are taken, nothing else")
                    .remedy("choose one of these at the issuer"));
            }
        };
        Ok(Self { algorithm, key_id: head.kid, issuer })
    }
}

fn part<T: serde::de::DeserializeOwned>(part: Option<&str>, what: &str) -> Result<T, ArmError> {
    let bytes = part.and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
    bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).ok_or_else(|| {
        refused(format!("the token's {what} cannot be read"))
            .cause("it was not copied whole, or it is no JSON Web Token")
    })
}

/// Checks signature, issuer, audience and times, and reads who it is and what that one may do.
pub(super) fn judge(
    token: &str,
    algorithm: Algorithm,
    key: &DecodingKey,
    sign_in: &SignIn,
    now: UnixMillis,
) -> Result<Caller, ArmError> {
    let claims = signed(token, algorithm, key, sign_in)?;
    check_audience(&claims, sign_in)?;
    check_times(&claims, now.0 / 1000)?;
    let who = who(&claims);
    let name = format!("{}/{}", sign_in.name, printable(who.unwrap_or("?")));
    Ok(Caller { name, client: client(&claims, sign_in, who), standing: standing(&claims, sign_in) })
}

/// Checks an ID token that came for the portal as a client: that it is the issuer's, for this client, of now, and of the very sign-in that asked with this
/// nonce (OpenID Connect Core 1.0, section 3.1.3.7).
pub(super) fn check_id_token(
    token: &str,
    (algorithm, key): (Algorithm, &DecodingKey),
    sign_in: &SignIn,
    (client_id, nonce): (&str, &str),
    now: UnixMillis,
) -> Result<(), ArmError> {
    let claims = signed(token, algorithm, key, sign_in)?;
    let is = |claim: &str, expected: &str| claims.get(claim).and_then(Value::as_str) == Some(expected);
    let is_for_client = values(claims.get("aud")).any(|audience| audience == client_id);
    if !is_for_client || (claims.get("azp").is_some() && !is("azp", client_id)) {
        let message = format!("the ID token is for {}, and not for the portal", shown(claims.get("aud")));
        return Err(refused(message)
            .cause("it was made for another application")
            .remedy("let a Contributor compare the client id with the issuer's"));
    }
    if !is("nonce", nonce) {
        return Err(refused("the ID token is of another sign-in than the one that was begun here (`nonce`)")
            .cause("somebody tries to have you signed in as somebody else, or the answer is an old one")
            .remedy("begin anew"));
    }
    check_times(&claims, now.0 / 1000)
}

/// The claims of a token that its issuer has signed.
fn signed(token: &str, algorithm: Algorithm, key: &DecodingKey, sign_in: &SignIn) -> Result<Value, ArmError> {
    let mut validation = Validation::new(algorithm);
    validation.set_issuer(&[&sign_in.issuer]);
    validation.set_required_spec_claims(&["iss"]);
    // By the caller's clock, and with an answer that says what was expected, below.
    (validation.validate_exp, validation.validate_nbf, validation.validate_aud) = (false, false, false);
    let decoded = jsonwebtoken::decode::<Value>(token, key, &validation);
    let claims = decoded.map_err(|error| {
        refused(format!("the token is not good: {error}"))
            .cause("it was changed, or signed by somebody else than its issuer")
            .remedy("get a new one from its issuer")
    })?;
    Ok(claims.claims)
}

/// Who it is, as people know that one: a user, or an application. A program that acts for a user (`scp`) is not the one who asks.
fn who(claims: &Value) -> Option<&str> {
    let applications: &[&str] = if claims.get("scp").is_some() { &[] } else { &APPLICATION };
    let names = USER.iter().chain(applications).chain(&["sub"]);
    names.filter_map(|name| claims.get(*name)?.as_str()).find(|who| !who.is_empty())
}

/// Whose limits these are: `sub` is unique at its issuer (OpenID Connect Core 1.0, section 8), names are not.
fn client(claims: &Value, sign_in: &SignIn, who: Option<&str>) -> Client {
    let subject = claims.get("sub").and_then(Value::as_str).or(who).unwrap_or_default();
    let mut hasher = blake3::Hasher::new();
    hasher.update(sign_in.issuer.as_bytes()).update(&[0]).update(subject.as_bytes());
    Client::Subject(hasher.finalize().into())
}

fn check_audience(claims: &Value, sign_in: &SignIn) -> Result<(), ArmError> {
    let audience = claims.get("aud");
    let is_for_us = values(audience).any(|value| sign_in.audiences.iter().any(|ours| ours == value));
    if is_for_us {
        return Ok(());
    }
    Err(refused(format!(
        "the token is for {}, and not for {} (sign-in {})",
        shown(audience),
        sign_in.audiences.join(" or "),
        sign_in.name
    ))
    .cause("it was made for another application")
    .remedy("get a token for our audience, such as `az account get-access-token --scope AUDIENCE/.default`"))
}

fn check_times(claims: &Value, now_s: u64) -> Result<(), ArmError> {
    let expires = seconds(claims, "exp")?.ok_or_else(|| refused("the token has no end (`exp`)"))?;
    let begins = seconds(claims, "nbf")?;
    if now_s >= expires.saturating_add(SKEW_S) {
        let ago = now_s - expires;
        return Err(ArmError::new(
            axum::http::StatusCode::UNAUTHORIZED,
            EXPIRED,
            format!("the token expired {ago} s ago"),
        )
        .cause("issuers' tokens live for about an hour")
        .remedy("get a new one from its issuer"));
    }
    if let Some(begins) = begins.filter(|begins| *begins > now_s.saturating_add(SKEW_S)) {
        return Err(refused(format!("the token is good only in {} s", begins - now_s))
            .cause("the clocks of its issuer and of this server are apart"));
    }
    // One that says no beginning is taken to begin now.
    let issued = seconds(claims, "iat")?.or(begins).unwrap_or(now_s);
    if expires.saturating_sub(issued) > LIFETIME_MAX_S {
        return Err(refused(format!("the token lives longer than {} hours", LIFETIME_MAX_S / 3600))
            .remedy("let the issuer give access tokens a shorter life"));
    }
    Ok(())
}

/// A NumericDate: seconds since 1970, with a fraction perhaps (RFC 7519, section 2), which is left off.
fn seconds(claims: &Value, name: &str) -> Result<Option<u64>, ArmError> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let whole = value.as_u64().or_else(|| value.as_number()?.to_string().split('.').next()?.parse().ok());
    whole.map(Some).ok_or_else(|| refused(format!("the token's `{name}` is no time")))
}

fn standing(claims: &Value, sign_in: &SignIn) -> Standing {
    let claim = claims.get(&sign_in.claim).or_else(|| claims.pointer(&sign_in.claim));
    let has = |value: &str| values(claim).any(|other| other == value);
    let roles = sign_in.roles.iter().filter(|mapping| has(&mapping.value)).map(|mapping| mapping.role);
    match roles.max() {
        Some(role) => Standing::Role(role),
        None => Standing::NoRole(no_role(claims, claim, sign_in)),
    }
}

fn no_role(claims: &Value, claim: Option<&Value>, sign_in: &SignIn) -> String {
    let name = &sign_in.claim;
    // Entra ID leaves the groups of those who are in more than 200 out, and says where they are to be asked for.
    let left_out = claims.get("_claim_names").and_then(|names| names.get(name)).is_some();
    if claim.is_none() && left_out {
        return format!(
            "its claim `{name}` was left out by the issuer because it is too long; map app roles (`roles`) instead of groups"
        );
    }
    format!(
        "its claim `{name}` has {}, which no role of the sign-in {} goes with",
        shown(claim),
        sign_in.name
    )
}

/// The texts of a claim: one, or those of a list.
fn values(claim: Option<&Value>) -> impl Iterator<Item = &str> {
    let (one, many) = match claim {
        Some(Value::String(one)) => (Some(one.as_str()), [].as_slice()),
        Some(Value::Array(many)) => (None, many.as_slice()),
        _ => (None, [].as_slice()),
    };
    one.into_iter().chain(many.iter().filter_map(Value::as_str))
}

fn shown(claim: Option<&Value>) -> String {
    if claim.is_none() {
        return "nothing (it is not there)".into();
    }
    let shown: Vec<_> =
        values(claim).take(SHOWN_VALUES_MAX).map(|value| format!("{:?}", printable(value))).collect();
    let more = values(claim).count().saturating_sub(SHOWN_VALUES_MAX);
    match (shown.is_empty(), more) {
        (true, _) => "no text in it".into(),
        (false, 0) => shown.join(", "),
        (false, more) => format!("{} and {more} more", shown.join(", ")),
    }
}

/// Text of a stranger for people: short, and without what moves a cursor or turns the direction of writing.
pub(super) fn printable(text: &str) -> String {
    printable_up_to(text, SHOWN_MAX)
}

/// The same, where sentences are to be expected.
pub(super) fn printable_up_to(text: &str, chars_max: usize) -> String {
    let plain = |c: char| if c.is_ascii_graphic() || c == ' ' || c.is_alphanumeric() { c } else { '_' };
    text.chars().take(chars_max).map(plain).collect()
}
