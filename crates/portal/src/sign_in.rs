//! Signing in and out.
//!
//! With a token, one of ours or an issuer's access token: whatever the API takes. It is pasted, or fetched from an issuer ([`issuer`]). A session is made anew each time, with an id that nobody can have
//! known before; what was signed in with before, in the same browser, ends. A token that is not good counts against the address, as at the API.

pub(crate) mod issuer;

use std::net::IpAddr;
use std::sync::Arc;

use askama::Template;
use axum::Extension;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse as _, Redirect, Response};
use switchback_api::Refusal;
use zeroize::Zeroizing;

use crate::Portal;
use crate::cookie;
use crate::failure::Failure;
use crate::gate;
use crate::layout::{self, Frame, Theme};
use crate::session::Session;

#[derive(Template)]
#[template(path = "sign_in.html")]
struct Page<'a> {
    frame: Frame,
    next: &'a str,
    refusal: Option<&'a Refusal>,
    /// Names of issuers where people can sign in, and where they go for it.
    issuers: Vec<(String, String)>,
}

async fn show(portal: &Portal, theme: Theme, next: &str, refusal: Option<&Refusal>) -> Response {
    let issuers = issuer::links(portal, next).await;
    let page = Page { frame: Frame::bare("Sign in", theme), next, refusal, issuers };
    let html = match page.render() {
        Ok(html) => Html(html),
        Err(error) => return layout::failed(None, &error.into()),
    };
    let mut response = (refusal.map_or(StatusCode::OK, |refusal| refusal.status), html).into_response();
    if let Some(seconds) = refusal.and_then(|refusal| refusal.retry_after_s) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// `GET /portal/sign-in?next=…`.
pub(crate) async fn page(State(portal): State<Arc<Portal>>, request: Request) -> Response {
    let query = gate::pairs(request.uri().query().unwrap_or_default().as_bytes());
    let next = query.iter().find(|(name, _)| name == "next").map_or("", |(_, value)| value);
    show(&portal, Theme::of(request.headers()), gate::local(next), None).await
}

/// `POST /portal/sign-in`.
pub(crate) async fn sign_in(State(portal): State<Arc<Portal>>, request: Request) -> Response {
    let address = gate::address_of(&request);
    let (parts, body) = request.into_parts();
    let form = match gate::check_origin(&parts.headers) {
        Ok(()) => gate::read_form(&portal, body).await,
        Err(failure) => Err(failure),
    };
    let form = match form {
        Ok(form) => form,
        Err(failure) => return layout::failed(None, &failure),
    };
    let field = |name: &str| form.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.trim());
    let (token, next) = (Zeroizing::new(field("token").to_owned()), gate::local(field("next")));
    match admit(&portal, &parts.headers, address, token).await {
        Ok(cookie) => ([(header::SET_COOKIE, cookie)], Redirect::to(next)).into_response(),
        Err(Failure(refusal)) => show(&portal, Theme::of(&parts.headers), next, Some(&refusal)).await,
    }
}

/// Begins the session of whoever has a token, and ends the one before; its cookie.
async fn admit(
    portal: &Portal,
    headers: &HeaderMap,
    address: IpAddr,
    token: Zeroizing<String>,
) -> Result<HeaderValue, Failure> {
    // An identity counts as a request in hand until it is dropped.
    let caller = portal.api.identify(address, &token).await?.name;
    gate::end_session_of(portal, headers);
    let begun = portal.sessions.begin(&caller, token);
    let id = begun.map_err(|_| Failure::internal(&"the system gives no random numbers"))?;
    tracing::info!(caller, %address, "signed in at the portal");
    Ok(cookie::set(cookie::SESSION, &id, None))
}

/// `POST /portal/sign-out`.
pub(crate) async fn sign_out(
    State(portal): State<Arc<Portal>>,
    Extension(session): Extension<Session>,
) -> Response {
    portal.sessions.end(session.key);
    ([(header::SET_COOKIE, cookie::set(cookie::SESSION, "", Some(0)))], Redirect::to("/portal/sign-in"))
        .into_response()
}
