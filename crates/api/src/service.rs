//! The way of a request through the server: limits, token, role, handler, audit log.
//!
//! Invariants: nothing runs for a caller who may not; a request that changes something runs to its end and is recorded even when its client goes
//! away or loses patience; the number of requests in hand, their size and their time are limited, and a limit is answered in
//! the contract's own shape; so is what one client may ask (`clients`). Handlers block, so they run on threads for that, `blocking_max` at a time.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::Bytes;
use axum::extract::{ConnectInfo, RawPathParams, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter};
use switchback_control::{Control, SignIn, trace_context};
use switchback_identity::network_of;
use switchback_model::{AccessRole, ObjectName};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use crate::additions::program::DOWNLOADS_MAX;
use crate::arm::{self, Answer, ArmError, Call, Refusal, Vault};
use crate::auth::{Caller, Standing};
use crate::body::{self, BodyError};
use crate::clients::{Client, Clients, Place};
use crate::routes::Methods;
use crate::sign_in::{self, Attempt, SignIns};
use crate::{ApiConfig, audit, auth};

/// By what a client knows its request.
const CLIENT_REQUEST_ID: HeaderName = HeaderName::from_static("x-ms-client-request-id");
/// Longest in bytes that is told back; clients send GUIDs.
const CLIENT_ID_LEN_MAX: usize = 128;
/// Longest header of a trace in bytes: what W3C Trace Context has everybody keep (section 3.3.1.5).
const TRACE_HEADER_LEN_MAX: usize = 512;

/// What a resource's file provides for each method.
pub(crate) type Handler = fn(&Control, &Call) -> Result<Answer, ArmError>;

/// The server's state: nothing that a restart must not lose.
#[derive(Debug)]
pub(crate) struct Api {
    control: Control,
    config: ApiConfig,
    in_hand: Arc<Semaphore>,
    clients: Clients,
    sign_ins: SignIns,
    blocking: Semaphore,
    downloads: Arc<Semaphore>,
    requests: AtomicU64,
}

/// The API: one for all that ask through it, however they come, so that its limits are the limits of all of them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Service {
    api: Arc<Api>,
}

impl Service {
    /// The API over a control plane.
    #[must_use]
    pub fn new(control: Control, config: ApiConfig) -> Self {
        let api = Arc::new(Api {
            in_hand: Arc::new(Semaphore::new(config.limits.requests_max)),
            clients: Clients::new(config.limits.client),
            sign_ins: SignIns::new(config.limits.sign_in),
            blocking: Semaphore::new(config.limits.blocking_max),
            downloads: Arc::new(Semaphore::new(DOWNLOADS_MAX)),
            requests: AtomicU64::new(0),
            control,
            config,
        });
        Self { api }
    }

    /// As a router, to be served over TLS.
    pub fn router(&self) -> axum::Router {
        let routes = arm::routes()
            .merge(crate::additions::routes())
            .into_axum()
            .fallback(unknown_path)
            .layer(from_fn_with_state(Arc::clone(&self.api), guard))
            .with_state(Arc::clone(&self.api));
        // Routes are matched before any layer of their router runs, so the path is normalised outside of it.
        axum::Router::new().fallback_service(
            tower::ServiceBuilder::new().map_request(arm::normalise_request).service(routes),
        )
    }

    /// The vault that everything is in.
    #[must_use]
    pub fn vault(&self) -> &Vault {
        &self.api.config.vault
    }

    /// The program's version.
    #[must_use]
    pub fn build(&self) -> &str {
        &self.api.config.build
    }

    /// Whose token it is that came from an address, for those who show something without asking the API for it. Counted as a request of that client,
    /// and a token that is not good as a failure of the address.
    ///
    /// # Errors
    /// As a request with this token would be refused.
    pub async fn identify(&self, address: IpAddr, token: &str) -> Result<Identity, Refusal> {
        let (caller, place) = self.api.enter(address, token).await?;
        let role = auth::role_of(&caller)?;
        Ok(Identity { name: caller.name, role, _place: place })
    }
}

impl Service {
    /// The address that users' browsers reach this server at: as configured, else the first that is advertised. `None`: nobody has said. Never what a request says.
    #[must_use]
    pub fn public_url(&self) -> Option<String> {
        let configured = self.api.config.public_url.as_ref().map(|url| url.trim_end_matches('/').to_owned());
        configured.or_else(|| {
            let address = self.api.control.address()?;
            Some(format!("https://{}", address.strip_suffix(":443").unwrap_or(&address)))
        })
    }

    /// Sign-ins that people can be sent to.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn portal_sign_ins(&self) -> Result<Vec<SignIn>, Refusal> {
        let mut all = self.api.blocking(|control| Ok(control.sign_ins()?)).await?;
        all.retain(|sign_in| sign_in.portal.is_some());
        Ok(all)
    }

    async fn portal_sign_in(&self, name: &ObjectName) -> Result<SignIn, ArmError> {
        let all = self.api.blocking(|control| Ok(control.sign_ins()?)).await?;
        self.api.sign_ins.forget_all_but(&all);
        let found = all.into_iter().find(|sign_in| sign_in.name == *name && sign_in.portal.is_some());
        found.ok_or_else(|| sign_in::unknown(name))
    }

    /// Where a browser goes to sign in at an issuer, to come back at `redirect_uri`. Counted as a request of the address.
    ///
    /// # Errors
    /// 404 for no such sign-in; 503 when its issuer cannot be asked where that is.
    pub async fn authorization(
        &self,
        address: IpAddr,
        name: &ObjectName,
        redirect_uri: &str,
        attempt: &Attempt,
    ) -> Result<String, Refusal> {
        let _place = self.api.clients.admit(&Client::Address(network_of(address)))?;
        let sign_in = self.portal_sign_in(name).await?;
        Ok(self.api.sign_ins.authorization(&sign_in, redirect_uri, attempt).await?.into())
    }

    /// The access token that the issuer gives for the code it has sent with a browser. Counted as a token that is shown, and a code that is not good as a failure
    /// of the address.
    ///
    /// # Errors
    /// What the issuer, or what is wrong with what it sent, says.
    pub async fn redeem(
        &self,
        address: IpAddr,
        name: &ObjectName,
        (redirect_uri, code): (&str, &str),
        attempt: &Attempt,
    ) -> Result<Zeroizing<String>, Refusal> {
        let api = &self.api;
        let _place = api.clients.enter_unknown(address, code)?;
        let sign_in = self.portal_sign_in(name).await?;
        let (read, secret) = api
            .blocking(move |control| {
                let secret = control.sign_in_secret(&sign_in)?;
                Ok((sign_in, secret))
            })
            .await?;
        let secret = secret.as_ref().map(|secret| secret.as_str());
        let now = api.config.clock.now();
        let token = api.sign_ins.redeem(&read, secret, (redirect_uri, code), attempt, now).await;
        if token.as_ref().is_err_and(|refusal| refusal.status == StatusCode::UNAUTHORIZED) {
            api.clients.failed(address);
        }
        Ok(token?)
    }

    /// What an issuer has said instead of a code, in words.
    pub async fn issuer_refused(&self, name: &ObjectName, error: &str, description: &str) -> Refusal {
        match self.portal_sign_in(name).await {
            Ok(sign_in) => sign_in::issuer_refused(&sign_in, error, description).into(),
            Err(refusal) => refusal.into(),
        }
    }
}

/// Whoever has shown a token. Until it is dropped, a request of that client is in hand.
#[derive(Debug)]
pub struct Identity {
    /// The token's name, or `SIGN-IN/WHO`.
    pub name: String,
    /// What that one may do.
    pub role: AccessRole,
    _place: Place,
}

/// The API as a router, to be served over TLS.
pub fn router(control: Control, config: ApiConfig) -> axum::Router {
    Service::new(control, config).router()
}

/// The methods of a path.
pub(crate) fn methods<const N: usize>(handlers: [(MethodFilter, Handler); N]) -> Methods<Arc<Api>> {
    methods_of(handlers)
}

/// The same, of any number.
pub(crate) fn methods_of(handlers: impl IntoIterator<Item = (MethodFilter, Handler)>) -> Methods<Arc<Api>> {
    let handlers: Vec<_> = handlers.into_iter().collect();
    let names: Vec<_> = handlers.iter().map(|(method, _)| *method).collect();
    let unknown = MethodRouter::new().fallback(unknown_method);
    let router = handlers.into_iter().fold(unknown, |methods, (method, handler)| {
        let serve = move |State(api): State<Arc<Api>>, request: Request| async move {
            api.serve(handler, request).await
        };
        methods.on(method, serve)
    });
    Methods::new(router, &names)
}

async fn unknown_path(request: Request) -> ArmError {
    let path = request.uri().path();
    let cause = "a typing error, or a part of Azure's API that is not served here";
    let segments: Vec<&str> = path.split('/').collect();
    match segments[..] {
        [_, _, _, _, _, _, _, "vaults", _, kind, ..] => ArmError::new(
            StatusCode::NOT_FOUND,
            "InvalidResourceType",
            format!(
                "The resource type 'vaults/{kind}' could not be found in the namespace 'Microsoft.RecoveryServices': there is nothing at {path}"
            ),
        ),
        _ => ArmError::not_found("resource", path),
    }
    .cause(cause)
}

pub(crate) async fn unknown_method(request: Request) -> ArmError {
    let message = format!("{} is not possible with {}", request.method(), request.uri().path());
    ArmError::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
}

/// Judges every request before its handler, and records it afterwards.
async fn guard(State(api): State<Arc<Api>>, mut request: Request, next: Next) -> Response {
    let Ok(permit) = Arc::clone(&api.in_hand).try_acquire_owned() else {
        let message = format!("{} requests are in hand already", api.config.limits.requests_max);
        return ArmError::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message)
            .retry_after(1)
            .into_response();
    };
    let id = api.request_id();
    let client_id = client_id(request.headers());
    let limit = api.config.limits.request_time_max;
    let span = tracing::info_span!("request", id, method = %request.method(), path = request.uri().path());
    trace_context::follow(&span, &trace_headers(request.headers()));
    let work = async move {
        // Dropped when the work is done, not when the client has left: what is in hand is what works.
        let _permit = permit;
        let response = match api.admit(&mut request).await {
            Err(refusal) => auth::refuse(refusal),
            Ok((None, _place)) => next.run(request).await,
            Ok((Some(caller), _place)) => api.run_recorded(caller, request, next).await,
        };
        tracing::debug!(status = response.status().as_u16(), "answered");
        response
    };
    let mut task = tokio::spawn(tracing::Instrument::instrument(work, span));
    let mut response = match tokio::time::timeout(limit, &mut task).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => {
            tracing::error!(%error, "a request ended in a panic");
            internal("a bug in the configuration server").into_response()
        }
        Err(_) => {
            let message = format!("not answered within {} s", limit.as_secs());
            ArmError::new(StatusCode::GATEWAY_TIMEOUT, "GatewayTimeout", message)
                .cause("a site or the store is slow")
                .remedy("look whether it has been done before asking again: it goes on")
                .into_response()
        }
    };
    if let Ok(value) = HeaderValue::from_str(&id)
        && !response.headers().contains_key(arm::REQUEST_ID)
    {
        response.headers_mut().insert(arm::REQUEST_ID, value);
    }
    if let Some(value) = client_id {
        response.headers_mut().insert(CLIENT_REQUEST_ID, value);
    }
    response
}

/// By what the client knows its request, to be told back.
fn client_id(headers: &HeaderMap) -> Option<HeaderValue> {
    headers.get(CLIENT_REQUEST_ID).filter(|id| id.len() <= CLIENT_ID_LEN_MAX).cloned()
}

/// What says whose trace the request is a part of.
fn trace_headers(headers: &HeaderMap) -> trace_context::TraceHeaders {
    let said = |name: &str| {
        let value = headers.get(name)?.to_str().ok()?;
        (value.len() <= TRACE_HEADER_LEN_MAX).then(|| (name.to_owned(), value.to_owned()))
    };
    [trace_context::TRACEPARENT, trace_context::TRACESTATE].into_iter().filter_map(said).collect()
}

fn internal(cause: &str) -> ArmError {
    ArmError::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalServerError", "the request failed")
        .cause(cause)
        .remedy("see the configuration server's log")
}

impl Api {
    pub(crate) fn control(&self) -> &Control {
        &self.control
    }

    /// Places for those who fetch the program.
    pub(crate) fn downloads(&self) -> &Arc<Semaphore> {
        &self.downloads
    }

    fn request_id(&self) -> String {
        let number = self.requests.fetch_add(1, Ordering::Relaxed).to_string();
        arm::guid(&["request", &self.config.clock.now().0.to_string(), &number])
    }

    /// Whose request it is, counted among that one's; `None`: anybody's, for what tells nothing. Whoever may not is refused, and that recorded.
    async fn admit(self: &Arc<Self>, request: &mut Request) -> Result<(Option<Caller>, Place), ArmError> {
        // Without a network, as in tests, all come from one place.
        let address = request.extensions().get::<ConnectInfo<SocketAddr>>();
        let address = address.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |ConnectInfo(address)| address.ip());
        if crate::additions::is_public(request.method(), request.uri().path()) {
            return Ok((None, self.clients.admit(&Client::Address(network_of(address)))?));
        }
        let secret = auth::bearer(request.headers())?;
        let (caller, place) = self.enter(address, &secret).await?;
        request.extensions_mut().insert(caller.clone());
        Ok((Some(caller), place))
    }

    /// Whose token it is, counted among that one's requests.
    async fn enter(self: &Arc<Self>, address: IpAddr, secret: &str) -> Result<(Caller, Place), ArmError> {
        let caller = {
            let _place = self.clients.enter_unknown(address, secret)?;
            self.identify(secret).await
        };
        match &caller {
            Ok(_) => self.clients.succeeded(secret),
            Err(refusal) if refusal.status == StatusCode::UNAUTHORIZED => {
                tracing::warn!(%address, reason = refusal.error.message, "refused: no valid token");
                self.clients.failed(address);
            }
            Err(_) => {}
        }
        let caller = caller?;
        let place = self.clients.admit(&caller.client)?;
        Ok((caller, place))
    }

    /// Whose token it is: one of ours, or an issuer's.
    async fn identify(self: &Arc<Self>, secret: &str) -> Result<Caller, ArmError> {
        if sign_in::looks_like_one(secret) {
            let sign_ins = self.blocking(|control| Ok(control.sign_ins()?)).await?;
            return self.sign_ins.identify(secret, &sign_ins, self.config.clock.now()).await;
        }
        let secret = secret.to_owned();
        let known = self.blocking(move |control| Ok(control.authenticate(&secret)?)).await?;
        let (name, role) = known.ok_or_else(auth::unknown_token)?;
        Ok(Caller {
            name: name.to_string(),
            client: Client::Token(name.key()),
            standing: Standing::Role(role),
        })
    }

    async fn run_recorded(self: &Arc<Self>, caller: Caller, request: Request, next: Next) -> Response {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let allowed = auth::authorise(&caller, &method, &path).and_then(|()| self.check_address(&request));
        let response = match allowed {
            Ok(()) => next.run(request).await,
            Err(refusal) => refusal.into_response(),
        };
        if audit::is_recorded(&method) {
            let (time, status) = (self.config.clock.now(), response.status());
            let line = audit::request_line(&method, &path);
            let recorded = self
                .blocking(move |control| {
                    audit::record(control, time, caller.name, line, status);
                    Ok(())
                })
                .await;
            if let Err(error) = recorded {
                tracing::error!(%error, "not in the audit log");
            }
        }
        response
    }

    /// Whether a request is for our vault, in a version that we speak.
    fn check_address(&self, request: &Request) -> Result<(), ArmError> {
        let segments: Vec<&str> = request.uri().path().split('/').skip(1).collect();
        if let ["subscriptions", subscription, "resourcegroups", group, "providers", _, "vaults", vault, ..] =
            segments[..]
        {
            let [subscription, group, vault] = [subscription, group, vault].map(arm::decode);
            let is_vault = segments.len() == 8;
            arm::check_version(&arm::parse_query(request.uri()), is_vault)?;
            let own = &self.config.vault;
            let missing = if !own.subscription.eq_ignore_ascii_case(&subscription) {
                let message = format!("The subscription '{subscription}' could not be found.");
                ArmError::new(StatusCode::NOT_FOUND, "SubscriptionNotFound", message)
            } else if !own.resource_group.eq_ignore_ascii_case(&group) {
                let message = format!("Resource group '{group}' could not be found.");
                ArmError::new(StatusCode::NOT_FOUND, "ResourceGroupNotFound", message)
            } else if !own.name.eq_ignore_ascii_case(&vault) {
                ArmError::not_found("vault", &vault)
            } else {
                return Ok(());
            };
            return Err(missing.remedy(format!("this configuration server has one vault: {}", own.id())));
        }
        Ok(())
    }

    /// Runs a handler.
    async fn serve(self: Arc<Self>, handler: Handler, request: Request) -> Response {
        let changes = audit::is_recorded(request.method());
        match self.call_of(request).await {
            Err(refusal) => refusal.into_response(),
            Ok(call) => {
                let done = self
                    .blocking(move |control| {
                        // What is changed here would be changed on a server that nobody follows any more.
                        if changes {
                            control.check_not_superseded()?;
                        }
                        let answer = handler(control, &call);
                        Ok((answer, call))
                    })
                    .await;
                match done {
                    Ok((Ok(answer), call)) => answer.into_response(&call),
                    Ok((Err(refusal), call)) => refusal.of_contract(&call.path).into_response(),
                    Err(refusal) => refusal.into_response(),
                }
            }
        }
    }

    async fn call_of(&self, request: Request) -> Result<Call, ArmError> {
        let (mut parts, body) = request.into_parts();
        // A route without names has none to extract.
        let params =
            match <RawPathParams as axum::extract::FromRequestParts<()>>::from_request_parts(&mut parts, &())
                .await
            {
                Ok(params) => {
                    params.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
                }
                Err(error) if error.status().is_client_error() => {
                    return Err(ArmError::invalid(error.body_text()));
                }
                Err(_) => Vec::new(),
            };
        let limits = &self.config.limits;
        let read = body::read(body, limits.body_len_max);
        let body: Bytes = match tokio::time::timeout(limits.body_time_max, read).await {
            Ok(Ok(body)) => body,
            Ok(Err(BodyError::CutOff)) => return Err(ArmError::invalid("the body was cut off")),
            Ok(Err(BodyError::TooLong)) => {
                let message = format!("the body is longer than {} bytes", limits.body_len_max);
                return Err(ArmError::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", message));
            }
            Err(_) => {
                let message = format!("the body did not arrive within {} s", limits.body_time_max.as_secs());
                return Err(ArmError::new(StatusCode::REQUEST_TIMEOUT, "RequestTimeout", message));
            }
        };
        let by = parts.extensions.get::<Caller>().map(|caller| caller.name.clone()).unwrap_or_default();
        Ok(Call {
            vault: self.config.vault.clone(),
            by,
            now: self.config.clock.now(),
            base: arm::base_of(self.config.public_url.as_deref(), &parts.headers),
            path: parts.uri.path().to_owned(),
            params,
            query: arm::parse_query(&parts.uri),
            body,
            page_len_max: limits.page_len_max,
            server: crate::additions::ServerFacts {
                build: self.config.build.clone(),
                authority: self.config.authority.clone(),
            },
        })
    }

    /// Runs what blocks on a thread for that, when there is room.
    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Control) -> Result<T, ArmError> + Send + 'static,
    ) -> Result<T, ArmError> {
        let _room = self.blocking.acquire().await.map_err(|_| internal("the server is shutting down"))?;
        let control = self.control.clone();
        let span = tracing::Span::current();
        match tokio::task::spawn_blocking(move || span.in_scope(|| work(&control))).await {
            Ok(result) => result,
            Err(error) => {
                tracing::error!(%error, "a handler ended in a panic");
                Err(internal("a bug in the configuration server"))
            }
        }
    }
}
