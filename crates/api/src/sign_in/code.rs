//! Fetching a token for somebody who signs in at the issuer: OpenID Connect's authorization code flow with PKCE (OpenID Connect Core 1.0, section 3.1; RFC 7636;
//! RFC 9700).
//!
//! ```text
//! [`SignIns::authorization`] ─▶ the browser goes to the issuer, with state, nonce and the hash of a verifier
//!                            ◀─ it comes back with state and a code
//! [`SignIns::redeem`]        ─▶ code and verifier (and the client's secret) go to the issuer's token endpoint
//!                            ◀─ ID token: of this issuer, for this client, with this nonce; access token: to be judged like any other
//! ```
//! Invariants: nothing is remembered here. State, nonce and verifier are made of one random value that the browser keeps in a cookie ([`Attempt`]), so an answer
//! that was begun in another browser, or at another issuer, fits none of them. A code is sent to the issuer that the sign-in names, by https, without
//! redirects, within a time. Tokens, codes and secrets are in no error and no log.

use aws_lc_rs::digest;
use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::header;
use serde::Deserialize;
use switchback_control::https::root_of;
use switchback_control::{PortalClient, SignIn};
use switchback_model::{ObjectName, UnixMillis};
use url::Url;
use url::form_urlencoded::{Serializer, byte_serialize};
use zeroize::Zeroizing;

use super::keys::{self, Endpoints, KeyError};
use super::{SignIns, refused, token, unavailable};
use crate::arm::ArmError;

/// Longest of an issuer's sentences that is repeated, in characters: Entra ID's have some 300.
const DESCRIPTION_MAX: usize = 500;

/// One way to an issuer and back, of one browser.
pub struct Attempt {
    state: String,
    nonce: String,
    verifier: Zeroizing<String>,
}

impl std::fmt::Debug for Attempt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attempt").finish_non_exhaustive()
    }
}

impl Attempt {
    /// That of a random value, which the browser alone keeps, at a sign-in. Of what is shown to the issuer and to whoever sees the addresses, neither the value
    /// nor any other part can be found.
    #[must_use]
    pub fn of(random: &str, sign_in: &ObjectName) -> Self {
        let derive = |context: &str| {
            let mut hasher = blake3::Hasher::new_derive_key(context);
            hasher.update(sign_in.key().as_bytes()).update(&[0]).update(random.as_bytes());
            URL_SAFE_NO_PAD.encode(hasher.finalize().as_bytes())
        };
        Self {
            state: derive("switchback portal 2026-11-30 sign-in state"),
            nonce: derive("switchback portal 2026-11-30 sign-in nonce"),
            verifier: Zeroizing::new(derive("switchback portal 2026-11-30 sign-in code verifier")),
        }
    }

    /// Whether an answer's state is this one's. Hashes are compared, in a time that tells nothing.
    #[must_use]
    pub fn made_state(&self, state: &str) -> bool {
        blake3::hash(state.as_bytes()) == blake3::hash(self.state.as_bytes())
    }

    /// RFC 7636, section 4.2.
    fn challenge(&self) -> String {
        URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, self.verifier.as_bytes()))
    }
}

/// What a token endpoint answers (RFC 6749, sections 5.1 and 5.2). No `Debug`: it holds tokens.
#[derive(Deserialize)]
struct Granted {
    access_token: Option<String>,
    id_token: Option<String>,
    error: Option<String>,
    error_description: Option<String>,
}

impl SignIns {
    /// Where a browser goes to sign in.
    pub(crate) async fn authorization(
        &self,
        sign_in: &SignIn,
        redirect_uri: &str,
        attempt: &Attempt,
    ) -> Result<Url, ArmError> {
        let portal = portal_of(sign_in)?;
        let endpoints = self.endpoints(sign_in).await?;
        let mut there = endpoint(sign_in, endpoints.authorization.as_deref(), "authorization_endpoint")?;
        let scopes = ["openid"].into_iter().chain(portal.scopes.iter().map(String::as_str));
        let mut seen = Vec::new();
        for scope in scopes {
            if !seen.contains(&scope) {
                seen.push(scope);
            }
        }
        there
            .query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", &portal.client_id)
            .append_pair("redirect_uri", redirect_uri)
            .append_pair("scope", &seen.join(" "))
            .append_pair("state", &attempt.state)
            .append_pair("nonce", &attempt.nonce)
            .append_pair("code_challenge", &attempt.challenge())
            .append_pair("code_challenge_method", "S256");
        Ok(there)
    }

    /// The access token that a code is worth. Its ID token is checked here; what the access token is worth is not.
    pub(crate) async fn redeem(
        &self,
        sign_in: &SignIn,
        secret: Option<&str>,
        (redirect_uri, code): (&str, &str),
        attempt: &Attempt,
        now: UnixMillis,
    ) -> Result<Zeroizing<String>, ArmError> {
        let portal = portal_of(sign_in)?;
        let endpoints = self.endpoints(sign_in).await?;
        let there = endpoint(sign_in, endpoints.token.as_deref(), "token_endpoint")?;
        let basic = secret.filter(|_| takes_basic(&endpoints));
        let form = form(portal, secret.filter(|_| basic.is_none()), (redirect_uri, code), attempt);
        let mut request = self.issuer(sign_in)?.http().post(there);
        if let Some(secret) = basic {
            let encoded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
            request = request.basic_auth(encoded(&portal.client_id), Some(encoded(secret)));
        }
        let request = request
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::ACCEPT, "application/json")
            .body(form);
        let (access_token, id_token) = granted(sign_in, request).await?;
        let unverified = token::Unverified::read(&id_token)?;
        let key = self.key(sign_in, &unverified).await?;
        let expected = (portal.client_id.as_str(), attempt.nonce.as_str());
        token::check_id_token(&id_token, (unverified.algorithm, &key), sign_in, expected, now)?;
        Ok(access_token)
    }

    async fn endpoints(&self, sign_in: &SignIn) -> Result<Endpoints, ArmError> {
        self.issuer(sign_in)?.endpoints().await.map_err(|error| match error {
            KeyError::Unavailable { detail, retry_after } => unavailable(sign_in, &detail, Some(retry_after)),
            KeyError::Unknown => unavailable(sign_in, "it has not been asked", None),
        })
    }
}

/// What a code is sent with (RFC 6749, section 4.1.3; RFC 7636, section 4.5).
fn form(
    portal: &PortalClient,
    secret: Option<&str>,
    (redirect_uri, code): (&str, &str),
    attempt: &Attempt,
) -> String {
    let mut form = Serializer::new(String::new());
    form.append_pair("grant_type", "authorization_code").append_pair("code", code);
    form.append_pair("redirect_uri", redirect_uri).append_pair("client_id", &portal.client_id);
    form.append_pair("code_verifier", &attempt.verifier);
    if let Some(secret) = secret {
        form.append_pair("client_secret", secret);
    }
    form.finish()
}

/// RFC 6749, section 2.3.1: the way that every issuer has, unless it says that it has others alone.
fn takes_basic(endpoints: &Endpoints) -> bool {
    endpoints.proofs.as_ref().is_none_or(|proofs| proofs.iter().any(|proof| proof == "client_secret_basic"))
}

/// Sends a code, and reads the tokens that it is worth.
async fn granted(
    sign_in: &SignIn,
    request: reqwest::RequestBuilder,
) -> Result<(Zeroizing<String>, Zeroizing<String>), ArmError> {
    let failed = |detail: &str| unavailable(sign_in, detail, None);
    let response = request.send().await.map_err(|error| failed(&root_of(&error)))?;
    let status = response.status();
    let body = keys::body(response).await.map_err(|error| failed(&error))?;
    let answer: Granted = serde_json::from_slice(&body)
        .map_err(|_| failed(&format!("its token endpoint answers with {status}, and no tokens")))?;
    if let Some(error) = answer.error {
        return Err(issuer_refused(sign_in, &error, answer.error_description.as_deref().unwrap_or_default()));
    }
    match (status.is_success(), answer.access_token, answer.id_token) {
        (true, Some(access_token), Some(id_token)) => Ok((access_token.into(), id_token.into())),
        _ => Err(failed(&format!("its token endpoint answers with {status}, and not with both tokens"))),
    }
}

fn portal_of(sign_in: &SignIn) -> Result<&PortalClient, ArmError> {
    sign_in.portal.as_ref().ok_or_else(|| unknown(&sign_in.name))
}

/// The portal sends nobody there.
pub(crate) fn unknown(name: &ObjectName) -> ArmError {
    ArmError::not_found("sign-in of the portal", name.as_str())
        .cause("it was removed, or tells no client id of the portal")
        .remedy("sign in with a token")
}

fn endpoint(sign_in: &SignIn, address: Option<&str>, what: &str) -> Result<Url, ArmError> {
    let url = address.and_then(|address| Url::parse(address).ok());
    url.filter(|url| url.scheme() == "https" && url.has_host()).ok_or_else(|| {
        let message =
            format!("the issuer {} (sign-in {}) names no `{what}` of https", sign_in.issuer, sign_in.name);
        ArmError::new(StatusCode::SERVICE_UNAVAILABLE, "IssuerUnavailable", message)
            .cause("it issues tokens to programs alone")
            .remedy("sign in with an access token")
    })
}

/// What an issuer says instead of a code or of tokens (RFC 6749, sections 4.1.2.1 and 5.2), in its own words.
pub(crate) fn issuer_refused(sign_in: &SignIn, error: &str, description: &str) -> ArmError {
    let (error, description) =
        (token::printable(error), token::printable_up_to(description, DESCRIPTION_MAX));
    let colon = if description.is_empty() { "" } else { ": " };
    let refusal = refused(format!("{} refuses it ({error}){colon}{description}", sign_in.name));
    let (cause, remedy) = match error.as_str() {
        "access_denied" => ("you, or the issuer's rules, said no", "sign in as somebody who may"),
        "invalid_grant" => {
            ("the code was used before, has expired, or was begun in another browser", "begin anew")
        }
        "invalid_client" | "unauthorized_client" => (
            "the portal's client id or secret is not the issuer's, or the client must not do this",
            "let a Contributor compare them with `switchback sign-in list` and set the secret again",
        ),
        "temporarily_unavailable" | "server_error" => ("the issuer is not well", "try again later"),
        _ => (
            "the client is registered otherwise at the issuer than here",
            "let a Contributor compare redirect address, scopes and client id",
        ),
    };
    refusal.cause(cause).remedy(remedy)
}

#[cfg(test)]
mod tests {
    use super::Attempt;

    #[test]
    fn an_attempt_is_of_one_browser_and_one_issuer() {
        let name = |text: &str| text.parse().unwrap();
        let one = Attempt::of("random", &name("entra"));
        assert!(one.made_state(&Attempt::of("random", &name("Entra")).state));
        for other in [Attempt::of("other", &name("entra")), Attempt::of("random", &name("keycloak"))] {
            assert!(!one.made_state(&other.state));
            assert!(one.nonce != other.nonce && *one.verifier != *other.verifier);
        }
        assert!(one.state != one.nonce && one.nonce != *one.verifier && !one.made_state(""));
        assert!(!format!("{one:?}").contains(&one.verifier[..8]));
    }

    #[test]
    fn the_challenge_is_that_of_the_standard() {
        // RFC 7636, appendix B.
        let verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk".to_owned().into();
        let attempt = Attempt { state: String::new(), nonce: String::new(), verifier };
        assert_eq!(attempt.challenge(), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    }
}
