//! A configuration server without a network, and a browser without scripts: it keeps cookies, follows nothing by itself, fills in forms.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode, header};
use switchback_api::{ApiConfig, ApiLimits, Service, Vault};
use switchback_control::Turn;
use switchback_control::backup::ServerHome;
use switchback_disk::SystemClock;
use switchback_identity::Authority;
use switchback_model::{AccessRole, Phase};
use switchback_portal::{PortalLimits, router};
use tower::ServiceExt as _;

use crate::world::{World, protect};

/// Turns of the executor and rounds of the world that any job ends within.
const TURNS_MAX: usize = 400;

pub(crate) struct Server {
    pub(crate) world: World,
    router: Router,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

/// What a browser keeps.
pub(crate) struct Browser<'a> {
    server: &'a Server,
    pub(crate) cookies: Vec<(String, String)>,
    /// The last page's form token.
    pub(crate) form_token: String,
}

impl Answered {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Where it leads.
    pub(crate) fn location(&self) -> &str {
        assert_eq!(self.status, 303, "{}", self.text);
        self.header("location")
    }

    /// The value of the first field of a name.
    pub(crate) fn field(&self, name: &str) -> String {
        let start = format!("name=\"{name}\" value=\"");
        let rest = self.text.split_once(&start).unwrap_or_else(|| panic!("no {name} in {}", self.text)).1;
        rest.split_once('"').unwrap().0.to_owned()
    }
}

impl Server {
    pub(crate) fn new() -> Self {
        Self::over(World::new(), ApiLimits::default(), PortalLimits::default())
    }

    pub(crate) fn over(world: World, limits: ApiLimits, portal: PortalLimits) -> Self {
        let config = ApiConfig {
            vault: Vault::default(),
            public_url: None,
            build: "test".into(),
            authority: Some(Arc::new(Authority::ephemeral(Arc::new(SystemClock)))),
            clock: world.clock.clone(),
            limits,
        };
        let api = Service::new(world.control.clone(), config);
        Self { router: router(world.control.clone(), api, portal), world }
    }

    pub(crate) fn token(&self, name: &str, role: AccessRole) -> String {
        self.world.control.create_token(&name.parse().unwrap(), role).unwrap()
    }

    /// The configuration server's directory, until dropped, and the addresses that it is reached at.
    pub(crate) fn give_home(&self, addresses: &[&str]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        self.world.control.keeps(ServerHome {
            directory: directory.path().to_owned(),
            build: "test".into(),
            settings: BTreeMap::new(),
            addresses: addresses.iter().map(ToString::to_string).collect(),
            authority: Vec::new(),
        });
        directory
    }

    /// Everything that is to be done is done.
    pub(crate) fn settle(&mut self) {
        for _ in 0..TURNS_MAX {
            if self.world.control.work_once(None).unwrap() == Turn::Idle {
                self.world.round();
                let is_busy = self.world.control.items().unwrap().iter().any(|view| {
                    let phase = view.item.protection.phase;
                    view.item.job.is_some() || matches!(phase, Phase::Enabling | Phase::Reprotecting)
                });
                if !is_busy {
                    return;
                }
            }
        }
        panic!("it does not come to rest: {:#?}", self.world.control.jobs(None, None, 5, |_| true).unwrap());
    }

    /// Protects `web01`.
    pub(crate) fn protect(&mut self) {
        self.world.control.protect("tester", protect()).unwrap();
        self.settle();
    }

    /// An answer that goes on.
    pub(crate) async fn open(&self, request: Request<Body>) -> axum::response::Response {
        self.router.clone().oneshot(request).await.unwrap()
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answered {
        let response = self.open(request).await;
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, 8 << 20).await.unwrap();
        Answered {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8_lossy(&body).into_owned(),
        }
    }

    pub(crate) fn browser(&self) -> Browser<'_> {
        Browser { server: self, cookies: Vec::new(), form_token: String::new() }
    }

    /// A browser whose user has signed in.
    pub(crate) async fn signed_in(&self, name: &str, role: AccessRole) -> Browser<'_> {
        let mut browser = self.browser();
        let token = self.token(name, role);
        assert_eq!(browser.sign_in(&token).await.location(), "/portal/");
        browser
    }
}

impl Browser<'_> {
    pub(crate) fn cookie(&self, name: &str) -> Option<&str> {
        self.cookies.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn request(&self, method: &str, path: &str) -> axum::http::request::Builder {
        let cookies: Vec<_> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let request = Request::builder().method(method).uri(path).header(header::HOST, "cs.example");
        let request = request.header(header::ACCEPT, "text/html");
        if cookies.is_empty() { request } else { request.header(header::COOKIE, cookies.join("; ")) }
    }

    pub(crate) async fn send(&mut self, request: Request<Body>) -> Answered {
        let answered = self.server.send(request).await;
        for cookie in answered.headers.get_all(header::SET_COOKIE) {
            let (name, rest) = cookie.to_str().unwrap().split_once('=').unwrap();
            self.cookies.retain(|(known, _)| known != name);
            if !rest.contains("Max-Age=0") {
                self.cookies.push((name.into(), rest.split(';').next().unwrap().into()));
            }
        }
        if answered.text.contains("name=\"form-token\"") {
            self.form_token = answered.field("form-token");
        }
        answered
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answered {
        let request = self.request("GET", path).body(Body::empty()).unwrap();
        self.send(request).await
    }

    /// A page that is there.
    pub(crate) async fn page(&mut self, path: &str) -> String {
        let answered = self.get(path).await;
        assert_eq!(answered.status, 200, "{path}: {}", answered.text);
        answered.text
    }

    /// A form as a page of this server sends it.
    pub(crate) async fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Answered {
        let token = self.form_token.clone();
        let fields: Vec<_> = [("form-token", token.as_str())].iter().chain(fields).copied().collect();
        self.post_raw(path, &fields, Some("https://cs.example")).await
    }

    pub(crate) async fn post_raw(
        &mut self,
        path: &str,
        fields: &[(&str, &str)],
        origin: Option<&str>,
    ) -> Answered {
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let mut request = self.request("POST", path);
        if let Some(origin) = origin {
            request = request.header(header::ORIGIN, origin);
        }
        let request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        self.send(request.body(Body::from(body)).unwrap()).await
    }

    pub(crate) async fn sign_in(&mut self, token: &str) -> Answered {
        self.post_raw("/portal/sign-in", &[("token", token), ("next", "")], Some("https://cs.example")).await
    }
}
