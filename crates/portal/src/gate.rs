//! The gate that everything but the sign-in passes, and what the head of every answer says.
//!
//! Invariants: whoever passes has a session whose token was found good just now, by the API and within its limits; a request that changes something comes from a
//! page of this server (its `Origin`) and of this session (the token in the form); its form is read here, so no page can forget either. A browser may do with a page
//! what it is for and nothing else: no script, style, picture or connection but this server's own, none inline, in no other site's frame.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Redirect, Response};

use crate::Portal;
use crate::action::Sender;
use crate::cookie;
use crate::failure::Failure;
use crate::layout::{self, Theme};
use crate::session::{Session, SessionKey};
use crate::visit::{Pairs, Visit};

/// The form token's field.
pub(crate) const FORM_TOKEN: &str = "form-token";

/// What htmx says of its requests: it fetches a page's live part.
const BY_SCRIPT: &str = "hx-request";

/// Says on every answer what a browser may do with it.
///
/// `same-origin` and not `no-referrer`: with the latter browsers say `Origin: null` in forms, and it could not be told from where those come (Fetch, section 3.2).
const HEADERS: [(HeaderName, &str); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; \
         frame-ancestors 'none'; base-uri 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "same-origin"),
    (header::STRICT_TRANSPORT_SECURITY, "max-age=31536000"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Adds what every answer says. What says nothing of caching is not kept anywhere.
pub(crate) async fn secure(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Where a request comes from. Without a network, as in tests, all come from one place.
pub(crate) fn address_of(request: &Request) -> IpAddr {
    let address = request.extensions().get::<ConnectInfo<SocketAddr>>();
    address.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |ConnectInfo(address)| address.ip())
}

/// The part of an address that leads to a page of the portal, for ways back: never to another server.
pub(crate) fn local(path: &str) -> &str {
    let is_local = path.starts_with(crate::HOME) && path.bytes().all(|byte| (b'!'..=b'~').contains(&byte));
    if is_local { path } else { crate::HOME }
}

/// Lets those pass who may.
pub(crate) async fn pass(State(portal): State<Arc<Portal>>, request: Request, next: Next) -> Response {
    let is_use = !is_by_itself(request.headers());
    let session =
        cookie::find(request.headers(), cookie::SESSION).and_then(|id| portal.sessions.of(id, is_use));
    let Some(session) = session else { return to_sign_in(&request) };
    let identity = match portal.api.identify(address_of(&request), &session.token).await {
        Ok(identity) => identity,
        Err(refusal) if refusal.status == StatusCode::UNAUTHORIZED => {
            portal.sessions.end(session.key);
            return to_sign_in(&request);
        }
        Err(refusal) => return layout::failed(None, &refusal.into()),
    };
    let (mut parts, mut body) = request.into_parts();
    // A nested route sees the rest of its path alone.
    let asked =
        parts.extensions.get::<axum::extract::OriginalUri>().map_or(&parts.uri, |original| &original.0);
    let mut visit = Visit {
        caller: identity.name.clone(),
        role: identity.role,
        form_token: Arc::clone(&session.form_token),
        theme: Theme::of(&parts.headers),
        now: portal.control.now(),
        vault: portal.api.vault().clone(),
        build: portal.api.build().to_owned(),
        host: host_of(&parts.headers),
        here: asked.path_and_query().map_or_else(|| crate::HOME.to_owned(), ToString::to_string),
        params: Vec::new(),
        query: pairs(parts.uri.query().unwrap_or_default().as_bytes()),
        form: Vec::new(),
    };
    if !matches!(parts.method, Method::GET | Method::HEAD) {
        match form(&portal, &parts.headers, &session, body).await {
            Ok(form) => visit.form = form,
            Err(failure) => return layout::failed(Some(&visit), &failure),
        }
        body = Body::empty();
    }
    let address = parts.extensions.get::<ConnectInfo<SocketAddr>>().copied();
    parts.extensions.insert(Sender { token: Arc::clone(&session.token), address });
    parts.extensions.insert(visit);
    parts.extensions.insert(session);
    let response = next.run(Request::from_parts(parts, body)).await;
    drop(identity);
    response
}

/// `HOST:PORT` that was asked.
fn host_of(headers: &HeaderMap) -> String {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if has_port { host.to_owned() } else { format!("{host}:443") }
}

/// Whether a page asks, and not a person.
fn is_by_itself(headers: &HeaderMap) -> bool {
    headers.contains_key(BY_SCRIPT) || is_stream(headers)
}

fn is_stream(headers: &HeaderMap) -> bool {
    headers.get(header::ACCEPT).is_some_and(|accept| accept == "text/event-stream")
}

/// To whoever has no session. A script is told so that the whole page goes there, and not a part of it.
fn to_sign_in(request: &Request) -> Response {
    let original = request.extensions().get::<axum::extract::OriginalUri>();
    let asked: &Uri = original.map_or_else(|| request.uri(), |original| &original.0);
    let asked = asked.path_and_query().map_or("", |asked| asked.as_str());
    let is_page = *request.method() == Method::GET;
    let next: String = url::form_urlencoded::byte_serialize(local(asked).as_bytes()).collect();
    let there = if is_page { format!("/portal/sign-in?next={next}") } else { "/portal/sign-in".to_owned() };
    if request.headers().contains_key(BY_SCRIPT) {
        let there = HeaderValue::from_static("/portal/sign-in");
        return (StatusCode::UNAUTHORIZED, [(HeaderName::from_static("hx-redirect"), there)]).into_response();
    }
    if is_stream(request.headers()) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    Redirect::to(&there).into_response()
}

/// Names and values of a query or a form.
pub(crate) fn pairs(text: &[u8]) -> Pairs {
    url::form_urlencoded::parse(text).map(|(name, value)| (name.into_owned(), value.into_owned())).collect()
}

/// A form of this session.
async fn form(portal: &Portal, headers: &HeaderMap, session: &Session, body: Body) -> Result<Pairs, Failure> {
    check_origin(headers)?;
    let form = read_form(portal, body).await?;
    let token = form.iter().find(|(name, _)| name == FORM_TOKEN).map_or("", |(_, token)| token);
    if session.made_form(token) {
        return Ok(form);
    }
    Err(Failure::new(
        StatusCode::FORBIDDEN,
        "portal.foreign-form",
        "the form is not one of this session; nothing was done",
    )
    .cause("you have signed in anew since the page was loaded, or another site tries to act in your name")
    .remedy("load the page again and repeat it there"))
}

/// The fields of a form, whoever made it.
pub(crate) async fn read_form(portal: &Portal, body: Body) -> Result<Pairs, Failure> {
    let limits = &portal.limits;
    let read = axum::body::to_bytes(body, limits.form_len_max);
    match tokio::time::timeout(limits.form_time_max, read).await {
        Ok(Ok(body)) => Ok(pairs(&body)),
        Ok(Err(_)) => {
            let message = format!("the form was cut off, or is longer than {} bytes", limits.form_len_max);
            Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "portal.form-too-long", message))
        }
        Err(_) => {
            let message = format!("the form did not arrive within {} s", limits.form_time_max.as_secs());
            Err(Failure::new(StatusCode::REQUEST_TIMEOUT, "portal.form-too-slow", message))
        }
    }
}

/// A form is sent by a page of this server: every browser says so.
pub(crate) fn check_origin(headers: &HeaderMap) -> Result<(), Failure> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (origin, host) = (text(header::ORIGIN), text(header::HOST));
    let is_own = !host.is_empty()
        && origin.strip_prefix("https://").is_some_and(|from| from.eq_ignore_ascii_case(host));
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    if is_own && site.is_none_or(|site| site == b"same-origin") {
        return Ok(());
    }
    let message = "the form does not come from a page of this server; nothing was done";
    Err(Failure::new(StatusCode::FORBIDDEN, "portal.foreign-origin", message)
        .cause("another site tries to act in your name, or a proxy changes the headers Host or Origin")
        .remedy("open the portal by its own address; let a proxy hand Host on as it is"))
}

/// Ends the session of a cookie, if it has one.
pub(crate) fn end_session_of(portal: &Portal, headers: &HeaderMap) {
    if let Some(id) = cookie::find(headers, cookie::SESSION) {
        portal.sessions.end(SessionKey::of(id));
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderMap, HeaderValue};

    use super::{check_origin, local, pairs};

    fn judged(headers: &[(&'static str, &'static str)]) -> bool {
        let headers =
            headers.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
        check_origin(&headers.collect::<HeaderMap>()).is_ok()
    }

    #[test]
    fn forms_come_from_this_server() {
        let host = ("host", "cs.example:8443");
        let own = ("origin", "https://cs.example:8443");
        assert!(judged(&[host, own]));
        assert!(judged(&[host, own, ("sec-fetch-site", "same-origin")]));
        assert!(judged(&[("host", "CS.example"), ("origin", "https://cs.EXAMPLE")]));
        for origin in [
            "https://cs.example",
            "http://cs.example:8443",
            "https://evil.example",
            "null",
            "",
            "https://cs.example:8443.evil.example",
        ] {
            assert!(!judged(&[host, ("origin", origin)]), "{origin}");
        }
        assert!(!judged(&[host]) && !judged(&[own]) && !judged(&[]));
        assert!(!judged(&[host, own, ("sec-fetch-site", "same-site")]));
    }

    #[test]
    fn ways_back_lead_to_the_portal() {
        for good in ["/portal/", "/portal/machines?q=a%20b&page=2"] {
            assert_eq!(local(good), good);
        }
        for bad in [
            "",
            "/",
            "//evil.example",
            "/portalx",
            "https://evil.example/portal/",
            "/portal/\r\nx: y",
            "/portal/ä",
        ] {
            assert_eq!(local(bad), "/portal/", "{bad:?}");
        }
    }

    #[test]
    fn a_form_is_names_and_values_in_order() {
        let read = pairs(b"a=1+2&b=%3Cb%3E&a=3&c");
        let expected = [("a", "1 2"), ("b", "<b>"), ("a", "3"), ("c", "")];
        assert_eq!(read, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}
