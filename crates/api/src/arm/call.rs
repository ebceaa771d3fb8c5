//! One request as a handler sees it: names from the path, query, body, and who asks.
//!
//! Invariant: handlers see nothing of HTTP beyond this and [`Answer`](super::Answer); so they are plain functions that may block.

use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode, header};
use serde::de::DeserializeOwned;
use switchback_model::{ObjectName, UnixMillis};

use super::error::ArmError;
use super::id::Vault;
use super::page::query_of;
use super::version;
use crate::additions::ServerFacts;

/// A request. See the file's header.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) vault: Vault,
    /// The name of the token it came with.
    pub(crate) by: String,
    pub(crate) now: UnixMillis,
    /// `https://HOST:PORT` that links begin with.
    pub(crate) base: String,
    /// Normalised.
    pub(crate) path: String,
    pub(crate) params: Vec<(String, String)>,
    pub(crate) query: Vec<(String, String)>,
    pub(crate) body: Bytes,
    pub(crate) page_len_max: usize,
    /// What the server is, for the resources that tell.
    pub(crate) server: ServerFacts,
}

impl Call {
    /// A name from the path as it was given.
    pub(crate) fn text(&self, param: &str) -> &str {
        self.params.iter().find(|(name, _)| name == param).map_or("", |(_, value)| value)
    }

    /// A name from the path.
    pub(crate) fn name(&self, param: &str) -> Result<ObjectName, ArmError> {
        name(self.text(param))
    }

    /// A value from the query, whose names have no case.
    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        query(&self.query, name)
    }

    /// The version that the client speaks.
    pub(crate) fn api_version(&self) -> &str {
        self.query(version::QUERY).unwrap_or(version::NEWEST)
    }

    /// The body as JSON.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, ArmError> {
        let refuse =
            |why: String| ArmError::invalid(format!("the body is not what {} takes: {why}", self.path));
        // An array would be read as an object's values in their order.
        if self.body.trim_ascii_start().first() == Some(&b'[') {
            return Err(refuse("it is an array".into()));
        }
        serde_json::from_slice(&self.body).map_err(|error| refuse(error.to_string()))
    }

    /// The body as JSON, if there is one.
    pub(crate) fn json_if_any<T: DeserializeOwned + Default>(&self) -> Result<T, ArmError> {
        if self.body.iter().all(u8::is_ascii_whitespace) { Ok(T::default()) } else { self.json() }
    }

    /// An absolute link to a resource.
    pub(crate) fn link(&self, id: &str) -> String {
        format!("{}{id}?{}={}", self.base, version::QUERY, self.api_version())
    }

    /// An absolute link to this very path with another query.
    pub(crate) fn link_to_self(&self, pairs: &[(&str, Option<&str>)]) -> String {
        format!("{}{}", self.link(&self.path), query_of(pairs))
    }

    pub(crate) const fn page_len_max(&self) -> usize {
        self.page_len_max
    }

    /// A call as the router makes it, for tests of what needs nothing else.
    #[cfg(test)]
    pub(crate) fn for_test(path: &str, query: &str, page_len_max: usize) -> Self {
        Self {
            vault: Vault::default(),
            by: "test".into(),
            now: UnixMillis(1_732_441_234_567),
            base: "https://cs.example:443".into(),
            path: path.into(),
            params: Vec::new(),
            query: parse_query(&format!("/?api-version=2024-04-01&{query}").parse().unwrap()),
            body: Bytes::new(),
            page_len_max,
            server: ServerFacts::default(),
        }
    }
}

/// A name that a user gave to something.
pub(crate) fn name(text: &str) -> Result<ObjectName, ArmError> {
    text.parse().map_err(|error: switchback_model::InvalidName| {
        ArmError::new(StatusCode::BAD_REQUEST, "InvalidResourceName", error.to_string())
    })
}

/// The pairs of a query.
pub(crate) fn parse_query(uri: &axum::http::Uri) -> Vec<(String, String)> {
    axum::extract::Query::try_from_uri(uri).map(|axum::extract::Query(pairs)| pairs).unwrap_or_default()
}

/// The value of a name in a query.
pub(crate) fn query<'a>(pairs: &'a [(String, String)], name: &str) -> Option<&'a str> {
    pairs.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// What links begin with: as configured, or as the client reached us. The listener speaks TLS only.
pub(crate) fn base_of(public_url: Option<&str>, headers: &HeaderMap) -> String {
    if let Some(url) = public_url {
        return url.trim_end_matches('/').to_owned();
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let plain = |host: &&str| {
        !host.is_empty()
            && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']'))
    };
    format!("https://{}", host.filter(plain).unwrap_or("localhost"))
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderMap, HeaderValue, header};

    use super::{Call, base_of};

    #[test]
    fn links_lead_where_the_client_came_from_unless_configured() {
        let mut headers = HeaderMap::new();
        assert_eq!(base_of(None, &headers), "https://localhost");
        headers.insert(header::HOST, HeaderValue::from_static("cs.example:8443"));
        assert_eq!(base_of(None, &headers), "https://cs.example:8443");
        assert_eq!(base_of(Some("https://sr.example/"), &headers), "https://sr.example");
        headers.insert(header::HOST, HeaderValue::from_static("evil/path?x"));
        assert_eq!(base_of(None, &headers), "https://localhost");
    }

    #[test]
    fn a_link_carries_the_version_that_was_asked_for() {
        let call = Call::for_test("/x", "", 1);
        assert_eq!(call.link("/y"), "https://cs.example:443/y?api-version=2024-04-01");
    }
}
