//! Issuers' public keys, in memory: fetched from where the discovery document says, renewed when they are old or a token names one that is not there.
//!
//! Invariants: an issuer is asked by one request at a time and once in [`SignInLimits::ask_every`] at most, whatever tokens come, so that nobody can make us
//! hammer an issuer; few requests wait for it ([`SignInLimits::waiting_max`]), and only those that cannot be answered from memory; what it sends has a
//! limit in size, number and time; everything is asked for by https without redirects, from those that the sign-in trusts.
//!
//! ```text
//! key in memory, fresh          → used
//! key in memory, old            → used, and asked for anew beside; older than `kept_for` → as if not there
//! key not there, asked lately   → unknown key, or, if that failed, not to be had
//! key not there, not asked      → asked for: `waiting_max` wait, the rest come back later
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use serde::Deserialize;
use serde_json::Value;
use switchback_control::SignIn;
use switchback_control::https::{Plain, client, root_of};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::SignInLimits;

/// Longest document of an issuer in bytes. Entra ID's keys, each with its certificate, have some 20 KiB.
const DOCUMENT_LEN_MAX: usize = 256 << 10;
/// Keys of an issuer at most; the rest is left out.
const KEYS_MAX: usize = 64;

/// All issuers that are asked.
#[derive(Debug)]
pub(super) struct Keys {
    limits: SignInLimits,
    issuers: Mutex<HashMap<Source, Arc<Issuer>>>,
}

/// What keys depend on: a sign-in that changes in it begins anew.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Source {
    issuer: String,
    authority: Option<String>,
}

impl Source {
    fn of(sign_in: &SignIn) -> Self {
        Self { issuer: sign_in.issuer.clone(), authority: sign_in.authority.clone() }
    }
}

/// One issuer.
#[derive(Debug)]
pub(super) struct Issuer {
    address: String,
    http: reqwest::Client,
    limits: SignInLimits,
    state: Mutex<State>,
    /// Held by whoever asks. Until there is an answer all others who need it come here: `tried` tells of answers.
    asking: tokio::sync::Mutex<()>,
    waiting: Semaphore,
}

#[derive(Debug, Default)]
struct State {
    keys: Vec<Key>,
    endpoints: Endpoints,
    fetched: Option<Instant>,
    tried: Option<Instant>,
    /// Why the last try gave nothing.
    failure: Option<String>,
}

struct Key {
    id: Option<String>,
    /// If the issuer says that it is for one only.
    algorithm: Option<KeyAlgorithm>,
    key: DecodingKey,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Where people and codes are sent (OpenID Connect Discovery 1.0, section 3), as far as the issuer says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Endpoints {
    #[serde(rename = "authorization_endpoint")]
    pub(super) authorization: Option<String>,
    #[serde(rename = "token_endpoint")]
    pub(super) token: Option<String>,
    /// How clients prove at the latter that they are who they are; without it by `client_secret_basic`.
    #[serde(rename = "token_endpoint_auth_methods_supported")]
    pub(super) proofs: Option<Vec<String>>,
}

/// Why there is no key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum KeyError {
    /// The issuer has no such key.
    Unknown,
    /// It cannot be asked.
    Unavailable { detail: String, retry_after: Duration },
}

impl Keys {
    pub(super) fn new(limits: SignInLimits) -> Self {
        Self { limits, issuers: Mutex::default() }
    }

    /// Lets those go that no sign-in names any more, so that what is kept is as bounded as the sign-ins are.
    pub(super) fn forget_all_but(&self, sign_ins: &[SignIn]) {
        let mut issuers = self.issuers.lock().unwrap_or_else(PoisonError::into_inner);
        issuers.retain(|source, _| sign_ins.iter().any(|sign_in| Source::of(sign_in) == *source));
    }

    /// A sign-in's issuer, or why it cannot be asked at all.
    pub(super) fn of(&self, sign_in: &SignIn) -> Result<Arc<Issuer>, String> {
        let source = Source::of(sign_in);
        let mut issuers = self.issuers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(issuer) = issuers.get(&source) {
            return Ok(Arc::clone(issuer));
        }
        let issuer = Arc::new(Issuer {
            address: sign_in.issuer.clone(),
            http: client(sign_in.authority.as_deref(), self.limits.fetch_max, Plain::Never)?,
            limits: self.limits,
            state: Mutex::default(),
            asking: tokio::sync::Mutex::new(()),
            waiting: Semaphore::new(self.limits.waiting_max),
        });
        issuers.insert(source, Arc::clone(&issuer));
        Ok(issuer)
    }
}

impl Issuer {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is sent to it by https, without redirects.
    pub(super) const fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// The key of that id, for that algorithm. Without an id: the only one that fits.
    pub(super) async fn key(
        self: &Arc<Self>,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<DecodingKey, KeyError> {
        self.find(|state| state.key(id, algorithm)).await
    }

    /// Where people and codes are sent.
    pub(super) async fn endpoints(self: &Arc<Self>) -> Result<Endpoints, KeyError> {
        self.find(|state| Some(state.endpoints.clone())).await
    }

    /// What is in memory, or is there once the issuer has been asked.
    async fn find<T>(self: &Arc<Self>, look: impl Fn(&State) -> Option<T>) -> Result<T, KeyError> {
        if let Some((found, is_fresh)) = self.kept(&look) {
            if !is_fresh && self.may_ask() {
                let issuer = Arc::clone(self);
                tokio::spawn(async move { issuer.ask_if_nobody_does().await });
            }
            return Ok(found);
        }
        if self.may_ask() {
            let Ok(_place) = self.waiting.try_acquire() else {
                let detail = "many requests wait for them already".to_owned();
                return Err(KeyError::Unavailable { detail, retry_after: Duration::from_secs(1) });
            };
            let _asking = self.asking.lock().await;
            // Whoever had it before may have asked for the same.
            if self.may_ask() {
                self.ask().await;
            }
        }
        if let Some((found, _)) = self.kept(&look) {
            return Ok(found);
        }
        match &self.state().failure {
            Some(failure) => {
                Err(KeyError::Unavailable { detail: failure.clone(), retry_after: self.limits.ask_every })
            }
            None => Err(KeyError::Unknown),
        }
    }

    /// Asks the issuer now, however lately it was asked: how many keys it has that signatures are checked by, or why that cannot be told.
    pub(super) async fn ask_now(&self) -> Result<usize, String> {
        let _asking = self.asking.lock().await;
        self.ask().await;
        let state = self.state();
        state.failure.clone().map_or(Ok(state.keys.len()), Err)
    }

    fn may_ask(&self) -> bool {
        self.state().tried.is_none_or(|tried| tried.elapsed() >= self.limits.ask_every)
    }

    /// What is in memory and can still be used, and whether it is fresh.
    fn kept<T>(&self, look: impl Fn(&State) -> Option<T>) -> Option<(T, bool)> {
        let state = self.state();
        let age = state.fetched?.elapsed();
        if age > self.limits.kept_for {
            return None;
        }
        Some((look(&state)?, age <= self.limits.fresh_for))
    }

    async fn ask_if_nobody_does(&self) {
        let Ok(_asking) = self.asking.try_lock() else { return };
        if self.may_ask() {
            self.ask().await;
        }
    }

    async fn ask(&self) {
        let limit = self.limits.fetch_max;
        let answer = tokio::time::timeout(limit, fetch(&self.http, &self.address)).await;
        let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {} s", limit.as_secs_f32())));
        let mut state = self.state();
        state.tried = Some(Instant::now());
        match answer {
            Ok((keys, endpoints)) => {
                tracing::debug!(issuer = self.address, keys = keys.len(), "the issuer's keys were fetched");
                *state = State { keys, endpoints, fetched: state.tried, tried: state.tried, failure: None };
            }
            Err(failure) => {
                tracing::warn!(issuer = self.address, %failure, "the issuer's keys cannot be had");
                state.failure = Some(failure);
            }
        }
    }
}

impl State {
    fn key(&self, id: Option<&str>, algorithm: Algorithm) -> Option<DecodingKey> {
        let mut fitting = self.keys.iter().filter(|key| key.fits(id, algorithm));
        let key = fitting.next()?;
        // Which of several it is cannot be told without an id.
        if id.is_none() && fitting.next().is_some() {
            return None;
        }
        Some(key.key.clone())
    }
}

impl Key {
    /// A key of the issuer's document, if it is one that signatures are checked by here.
    fn of(value: Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(value).ok()?;
        if jwk.common.public_key_use.as_ref().is_some_and(|usage| *usage != PublicKeyUse::Signature) {
            return None;
        }
        match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => {}
            AlgorithmParameters::EllipticCurve(parameters) if parameters.curve == EllipticCurve::P256 => {}
            _ => return None,
        }
        let key = DecodingKey::from_jwk(&jwk).ok()?;
        Some(Self { id: jwk.common.key_id, algorithm: jwk.common.key_algorithm, key })
    }

    fn fits(&self, id: Option<&str>, algorithm: Algorithm) -> bool {
        let (family, name) = match algorithm {
            Algorithm::RS256 => (AlgorithmFamily::Rsa, KeyAlgorithm::RS256),
            Algorithm::PS256 => (AlgorithmFamily::Rsa, KeyAlgorithm::PS256),
            Algorithm::ES256 => (AlgorithmFamily::Ec, KeyAlgorithm::ES256),
            _ => return false,
        };
        self.key.family() == family
            && self.algorithm.is_none_or(|only| only == name)
            && id.is_none_or(|id| self.id.as_deref() == Some(id))
    }
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
    #[serde(flatten)]
    endpoints: Endpoints,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

/// Asks an issuer: where its keys are (OpenID Connect Discovery 1.0, section 4), and for these (RFC 7517, section 5).
async fn fetch(http: &reqwest::Client, issuer: &str) -> Result<(Vec<Key>, Endpoints), String> {
    let address = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
    let discovery: Discovery = document(http, &address).await?;
    if discovery.issuer != issuer {
        let shown = super::token::printable(&discovery.issuer);
        return Err(format!("the issuer calls itself {shown:?} at {address}"));
    }
    let set: KeySet = document(http, &discovery.jwks_uri).await?;
    // Keys for other purposes and of other kinds may be among them.
    let keys: Vec<_> = set.keys.into_iter().take(KEYS_MAX).filter_map(Key::of).collect();
    if keys.is_empty() {
        return Err("the issuer has no key for RS256, PS256 or ES256".into());
    }
    Ok((keys, discovery.endpoints))
}

async fn document<T: serde::de::DeserializeOwned>(http: &reqwest::Client, url: &str) -> Result<T, String> {
    let shown = super::token::printable(url);
    let failed = |error: reqwest::Error| format!("{shown}: {}", root_of(&error));
    let response = http.get(url).send().await.map_err(failed)?;
    if response.status() != reqwest::StatusCode::OK {
        return Err(format!("{shown} answers with {}", response.status()));
    }
    let body = body(response).await.map_err(|error| format!("{shown}: {error}"))?;
    serde_json::from_slice(&body).map_err(|error| format!("{shown} is not what it should be: {error}"))
}

/// An answer's body, which has a limit. It is wiped: tokens may be in it.
pub(super) async fn body(mut response: reqwest::Response) -> Result<Zeroizing<Vec<u8>>, String> {
    let mut body = Zeroizing::new(Vec::new());
    while let Some(chunk) = response.chunk().await.map_err(|error| root_of(&error))? {
        if body.len() + chunk.len() > DOCUMENT_LEN_MAX {
            return Err(format!("the answer is over {DOCUMENT_LEN_MAX} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
