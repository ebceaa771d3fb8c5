//! A configuration server without a network: the router, called directly, and the world that its control plane works on.

use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode, header};
use serde_json::Value;
use switchback_api::{ApiConfig, ApiLimits, ClientLimits, Vault, router};
use switchback_control::Turn;
use switchback_control::backup::ServerHome;
use switchback_disk::SystemClock;
use switchback_identity::{Allowance, Authority};
use switchback_model::AccessRole;
use tower::ServiceExt as _;

use crate::world::World;
use crate::{conformance, document};

/// Turns of the executor and rounds of the world that any job ends within.
const TURNS_MAX: usize = 400;

pub(crate) struct Server {
    pub(crate) world: World,
    router: Router,
    /// A Contributor's.
    pub(crate) token: String,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// `Null` for none.
    pub(crate) body: Value,
}

impl Answered {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The names of a list.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.body["value"]
            .as_array()
            .unwrap()
            .iter()
            .map(|resource| resource["name"].as_str().unwrap())
            .collect()
    }

    pub(crate) fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }
}

impl Server {
    pub(crate) fn new() -> Self {
        Self::with_limits(ApiLimits::default())
    }

    pub(crate) fn with_limits(limits: ApiLimits) -> Self {
        Self::over(World::new(), limits)
    }

    /// Gives it a directory to keep what is not in its store.
    pub(crate) fn keeps(&self, directory: &Path) {
        self.world.control.keeps(ServerHome {
            directory: directory.into(),
            build: "test".into(),
            settings: Default::default(),
            addresses: Vec::new(),
            authority: Vec::new(),
        });
    }

    /// One client may ask as much as it can.
    pub(crate) fn unlimited() -> Self {
        let requests = Allowance { burst: u32::MAX, refill_ms: 1 };
        let client = ClientLimits { requests, failures: requests, ..ClientLimits::default() };
        Self::with_limits(ApiLimits { client, ..ApiLimits::default() })
    }

    pub(crate) fn over(world: World, limits: ApiLimits) -> Self {
        let token = world.control.create_token(&"root".parse().unwrap(), AccessRole::Contributor).unwrap();
        let config = ApiConfig {
            vault: Vault::default(),
            public_url: None,
            build: "test".into(),
            authority: Some(Arc::new(Authority::ephemeral(Arc::new(SystemClock)))),
            clock: world.clock.clone(),
            limits,
        };
        Self { router: router(world.control.clone(), config), world, token }
    }

    pub(crate) fn router(&self) -> Router {
        self.router.clone()
    }

    /// Any request; the answer is checked against our OpenAPI document.
    pub(crate) async fn raw(&self, method: &str, uri: &str, token: Option<&str>, body: Vec<u8>) -> Answered {
        let mut request = Request::builder().method(method).uri(uri).header(header::HOST, "cs.example:443");
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let response = self.router.clone().oneshot(request.body(Body::from(body)).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, 8 << 20).await.unwrap();
        let body = match serde_json::from_slice(&body) {
            Ok(json) => json,
            Err(_) if body.is_empty() => Value::Null,
            Err(_) => Value::String(String::from_utf8_lossy(&body).into_owned()),
        };
        let errors = document::check(method, uri, parts.status.as_u16(), &body);
        assert!(errors.is_empty(), "{method} {uri}: {errors:#?}\n{body:#}");
        Answered { status: parts.status, headers: parts.headers, body }
    }

    /// A request to the vault as a Contributor; a success is checked against the contract.
    pub(crate) async fn call(&self, method: &str, path: &str, body: Option<Value>) -> Answered {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let uri = format!("{}/{path}?api-version=2024-04-01&{query}", Vault::default().id());
        let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        let answered = self.raw(method, &uri, Some(&self.token), body).await;
        if answered.status.is_success() {
            let body = Some(&answered.body).filter(|body| !body.is_null());
            let errors =
                conformance::check(&method.to_ascii_lowercase(), path, answered.status.as_u16(), body);
            assert!(errors.is_empty(), "{method} {path}: {errors:#?}\n{:#}", answered.body);
        }
        answered
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let answered = self.call("GET", path, None).await;
        assert_eq!(answered.status, 200, "{path}: {:#}", answered.body);
        answered.body
    }

    /// A resource by its full id, or by an absolute link to it.
    pub(crate) async fn follow(&self, link: &str) -> Answered {
        self.raw("GET", link, Some(&self.token), Vec::new()).await
    }

    /// A long-running operation to its end, as the contract's clients do it; returns the status and the final answer. `Null`: without a body.
    pub(crate) async fn operate(&mut self, method: &str, path: &str, body: Value) -> (Value, Answered) {
        let accepted = self.call(method, path, Some(body).filter(|body| !body.is_null())).await;
        assert_eq!(accepted.status, 202, "{method} {path}: {:#}", accepted.body);
        assert!(accepted.body.is_null());
        let (status_link, location) =
            (accepted.header("azure-asyncoperation").to_owned(), accepted.header("location").to_owned());
        assert!(accepted.header("x-ms-request-id").contains("/replicationJobs/"), "{:?}", accepted.headers);
        let first = self.follow(&location).await;
        assert_eq!(first.status, 202, "it runs: {:#}", first.body);
        for _ in 0..TURNS_MAX {
            let looked = self.follow(&status_link).await;
            let is_over = looked.body["status"] != "InProgress";
            assert_eq!(looked.header("retry-after").is_empty(), is_over, "it says when to look again");
            let status = looked.body;
            if is_over {
                return (status, self.follow(&location).await);
            }
            if self.world.control.work_once(None).unwrap() == Turn::Idle {
                self.world.round();
            }
        }
        panic!("{method} {path} does not end");
    }

    /// The same, which must succeed; returns the resource.
    pub(crate) async fn done(&mut self, method: &str, path: &str, body: Value) -> Value {
        let (status, answered) = self.operate(method, path, body).await;
        assert_eq!(status["status"], "Succeeded", "{method} {path}: {status:#}");
        assert!(answered.status.is_success(), "{:#}", answered.body);
        answered.body
    }

    /// The path of a site's container below the vault.
    pub(crate) async fn container(&self, site: &str) -> String {
        let path = format!("replicationFabrics/{site}/replicationProtectionContainers");
        let list = self.call("GET", &path, None).await;
        format!("{path}/{}", list.names()[0])
    }

    /// Begins to protect `web01`; returns its path below the vault.
    pub(crate) async fn protect(&mut self) -> String {
        let container = self.container("home").await;
        let vault = Vault::default().id();
        let item = format!("{container}/replicationProtectedItems/web01");
        let body = serde_json::json!({ "properties": {
            "policyId": format!("{vault}/replicationPolicies/PG1"),
            "protectableItemId": format!("{vault}/{container}/replicationProtectableItems/web01"),
            "providerSpecificDetails": { "instanceType": "InMageAzureV2" },
        } });
        self.done("PUT", &item, body).await;
        self.until(&item, "Protected").await;
        item
    }

    /// Lets the world go on until an item is shown in a state.
    pub(crate) async fn until(&mut self, item: &str, state: &str) {
        for _ in 0..30 {
            if self.get(item).await["properties"]["protectionState"] == state {
                return;
            }
            while self.world.control.work_once(None).unwrap() != Turn::Idle {}
            self.world.round();
        }
        panic!("it does not become {state}: {:#}", self.get(item).await);
    }
}

/// What a GET with a token is answered with, for a task of its own.
pub(crate) async fn status_of(router: Router, uri: &str, token: &str) -> StatusCode {
    let request = Request::builder().uri(uri).header(header::AUTHORIZATION, format!("Bearer {token}"));
    router.oneshot(request.body(Body::empty()).unwrap()).await.unwrap().status()
}
