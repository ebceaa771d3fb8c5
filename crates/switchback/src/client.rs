//! The REST API's client: the one place that knows how Azure Resource Manager's conventions look from outside.
//!
//! What it is: [`Client`] speaks to one configuration server, whose vault's paths ([`path`]), pages, refusals ([`ClientError`]) and long-running
//! operations ([`Operation`]) it knows. What it never does: know what a resource means (that is the commands'), so resources are
//! [`Value`]s as they came.
//!
//! Invariants: the token goes to the server it is for and nowhere else: TLS only, one authority as the only root, links that answers
//! contain are followed on that server alone. Every wait and every length has a limit.

mod connect;
mod error;
mod operation;
pub mod path;
pub mod profiles;
mod token;

use std::time::Duration;

use reqwest::{Method, StatusCode, header};
use serde_json::Value;

pub use connect::{AuthorityError, parse_authority};
pub use error::{ClientError, Refusal};
pub use operation::{JobEnd, Operation, WaitOptions};
pub use token::{Token, TokenError};

/// The version of the contract that is spoken.
pub const API_VERSION: &str = "2024-04-01";
/// The vault's id where the server does not tell another.
pub const DEFAULT_VAULT: &str = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/switchback/providers/\
                                 Microsoft.RecoveryServices/vaults/switchback";
/// TLS included. Generous: on the worst day of the year the server is busy.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);
/// Longer than the server gives itself for a request, so that its own explanation arrives.
const REQUEST_LIMIT: Duration = Duration::from_secs(90);
/// Longest answer in bytes: a page of a list, or a console's text.
const ANSWER_LEN_MAX: usize = 64 << 20;
/// Most pages of a list.
const PAGES_MAX: usize = 10_000;

/// Where a server is, and by what it is known.
#[derive(Debug)]
pub struct Endpoint {
    /// `https://HOST[:PORT]`.
    pub server: String,
    /// The authority that issued its certificate, in PEM.
    pub authority: String,
    /// Whose requests these are.
    pub token: Token,
}

/// A client of one configuration server.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    /// `https://HOST[:PORT]` without a slash at the end.
    base: String,
    vault: String,
    token: Token,
}

/// What a request that changes something led to.
#[derive(Debug)]
pub enum Reply {
    /// It is done; the resource as it is now, or null when nothing was told.
    Done(Value),
    /// A job works on it.
    Started(Operation),
}

struct Answer {
    status: StatusCode,
    headers: header::HeaderMap,
    body: Vec<u8>,
}

impl Client {
    /// A client; nothing is sent yet.
    ///
    /// # Errors
    /// When the address or the authority's certificate is not one.
    pub fn new(endpoint: Endpoint) -> Result<Self, ClientError> {
        let base = endpoint.server.trim_end_matches('/').to_owned();
        let parsed = reqwest::Url::parse(&base);
        if !parsed.is_ok_and(|url| url.scheme() == "https" && url.has_host() && url.path() == "/") {
            return Err(ClientError::Address { server: base });
        }
        let tls = connect::client_config(&endpoint.authority)?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .https_only(true)
            // The server is on the sites' own networks; a proxy between would see the token.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_LIMIT)
            .timeout(REQUEST_LIMIT)
            .user_agent(concat!("switchback-cli/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|source| ClientError::Setup { source })?;
        Ok(Self { http, base, vault: DEFAULT_VAULT.to_owned(), token: endpoint.token })
    }

    /// Asks the server for its vault; one that does not tell has the default one.
    ///
    /// # Errors
    /// As for every request.
    pub async fn discover(&mut self) -> Result<(), ClientError> {
        match self.send(Method::GET, "/", None).await.and_then(|answer| self.json(&answer)) {
            Ok(found) => {
                if let Some(vault) = found.pointer("/vault").and_then(Value::as_str)
                    && vault.starts_with('/')
                {
                    vault.trim_end_matches('/').clone_into(&mut self.vault);
                }
                Ok(())
            }
            Err(ClientError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The server's address.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.base
    }

    /// The id of something in the vault.
    #[must_use]
    pub fn id(&self, rest: &str) -> String {
        format!("{}/{rest}", self.vault)
    }

    /// A resource.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn get(&self, id: &str) -> Result<Value, ClientError> {
        let answer = self.send(Method::GET, &versioned(id, &[]), None).await?;
        self.json(&answer)
    }

    /// A resource that is text, not JSON.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn text(&self, id: &str, query: &[(&str, &str)]) -> Result<String, ClientError> {
        let answer = self.send(Method::GET, &versioned(id, query), None).await?;
        Ok(String::from_utf8_lossy(&answer.body).into_owned())
    }

    /// A resource that is neither text nor JSON.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn bytes(&self, id: &str) -> Result<Vec<u8>, ClientError> {
        Ok(self.send(Method::GET, &versioned(id, &[]), None).await?.body)
    }

    /// All elements of a list, page by page; with `enough`, not many more than so many.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn list(
        &self,
        id: &str,
        query: &[(&str, &str)],
        enough: Option<usize>,
    ) -> Result<Vec<Value>, ClientError> {
        let mut found = Vec::new();
        let mut next = Some(versioned(id, query));
        for _ in 0..PAGES_MAX {
            let Some(target) = next.take() else { return Ok(found) };
            let answer = self.send(Method::GET, &target, None).await?;
            let mut page = self.json(&answer)?;
            let Some(Value::Array(elements)) = page.get_mut("value").map(Value::take) else {
                return Err(self.strange(&target, "it is no list"));
            };
            found.extend(elements);
            if enough.is_some_and(|enough| found.len() >= enough) {
                found.truncate(enough.unwrap_or(usize::MAX));
                return Ok(found);
            }
            next =
                page.get("nextLink").and_then(Value::as_str).map(|link| self.target_of(link)).transpose()?;
        }
        Err(self.strange(id, "the list does not end"))
    }

    /// Makes or replaces a resource.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn put(&self, id: &str, body: &Value) -> Result<Reply, ClientError> {
        self.change(Method::PUT, id, Some(body)).await
    }

    /// Changes parts of a resource.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn patch(&self, id: &str, body: &Value) -> Result<Reply, ClientError> {
        self.change(Method::PATCH, id, Some(body)).await
    }

    /// An action on a resource.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn post(&self, id: &str, body: Option<&Value>) -> Result<Reply, ClientError> {
        self.change(Method::POST, id, body).await
    }

    /// Removes a resource.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn delete(&self, id: &str) -> Result<Reply, ClientError> {
        self.change(Method::DELETE, id, None).await
    }

    async fn change(&self, method: Method, id: &str, body: Option<&Value>) -> Result<Reply, ClientError> {
        let target = versioned(id, &[]);
        let answer = self.send(method, &target, body).await?;
        if answer.status == StatusCode::ACCEPTED {
            return match Operation::of(&answer.headers) {
                Some(operation) => Ok(Reply::Started(operation)),
                None => Err(self.strange(&target, "work was begun, but its job is not named")),
            };
        }
        if answer.body.iter().all(u8::is_ascii_whitespace) {
            return Ok(Reply::Done(Value::Null));
        }
        self.json(&answer).map(Reply::Done)
    }

    async fn send(&self, method: Method, target: &str, body: Option<&Value>) -> Result<Answer, ClientError> {
        let mut request = self
            .http
            .request(method, format!("{}{target}", self.base))
            .header(header::AUTHORIZATION, self.token.bearer()?);
        if let Some(body) = body {
            request = request.json(body);
        }
        let failed = |error| ClientError::of_transport(&self.base, error);
        let mut response = request.send().await.map_err(failed)?;
        let (status, headers) = (response.status(), response.headers().clone());
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > ANSWER_LEN_MAX {
                return Err(self.strange(target, "it is too long"));
            }
            body.extend_from_slice(&chunk);
        }
        if status.is_success() {
            Ok(Answer { status, headers, body })
        } else {
            Err(ClientError::of_status(&self.base, status, &body))
        }
    }

    fn json(&self, answer: &Answer) -> Result<Value, ClientError> {
        serde_json::from_slice(&answer.body).map_err(|error| self.strange("", &error.to_string()))
    }

    fn strange(&self, target: &str, what: &str) -> ClientError {
        ClientError::Strange { server: format!("{}{target}", self.base), what: what.to_owned() }
    }

    /// Path and query of a link that the server gave. They are used on the server that was asked, whatever name it goes by itself: so the token
    /// stays there.
    fn target_of(&self, link: &str) -> Result<String, ClientError> {
        let url = reqwest::Url::parse(&self.base).and_then(|base| base.join(link));
        let url = url.map_err(|_| self.strange("", &format!("its link {link:?} leads nowhere")))?;
        Ok(match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        })
    }
}

/// An id with the version and what else is asked.
fn versioned(id: &str, query: &[(&str, &str)]) -> String {
    let more = query.iter().map(|(name, value)| format!("&{name}={}", path::encode(value)));
    format!("{id}?api-version={API_VERSION}{}", more.collect::<String>())
}
