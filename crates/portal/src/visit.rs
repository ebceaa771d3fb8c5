//! One request, as pages see it: who asks, for what, and what the form said. Pages are plain functions of it and the control plane; they run on threads that
//! may block, a few at a time.

use std::sync::Arc;

use axum::extract::{RawPathParams, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse as _, Response};
use axum::routing::{MethodRouter, get, post};
use switchback_api::Vault;
use switchback_control::Control;
use switchback_model::{AccessRole, ObjectName, UnixMillis};

use crate::Portal;
use crate::action::{self, Act};
use crate::failure::Failure;
use crate::layout::{self, Frame, Tab, Theme};

/// A page: from what there is to HTML.
pub(crate) type View = fn(&Control, &Visit) -> Result<String, Failure>;
/// A form that was sent: to what the API is asked for.
pub(crate) type Ask = fn(&Control, &Visit) -> Result<Act, Failure>;

/// Names and values, in the order they came.
pub(crate) type Pairs = Vec<(String, String)>;

/// One request of somebody who is signed in.
#[derive(Clone, Debug)]
pub(crate) struct Visit {
    /// The token's name, or `SIGN-IN/WHO`.
    pub(crate) caller: String,
    pub(crate) role: AccessRole,
    /// What every form has in it.
    pub(crate) form_token: Arc<str>,
    pub(crate) theme: Theme,
    pub(crate) now: UnixMillis,
    pub(crate) vault: Vault,
    /// The configuration server's version.
    pub(crate) build: String,
    /// `HOST:PORT` of the configuration server, as the browser reaches it.
    pub(crate) host: String,
    /// Path and query, as they were asked for.
    pub(crate) here: String,
    /// `{…}` of the route, decoded.
    pub(crate) params: Pairs,
    pub(crate) query: Pairs,
    /// Of a POST.
    pub(crate) form: Pairs,
}

fn value<'a>(pairs: &'a Pairs, name: &str) -> &'a str {
    pairs.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.trim())
}

impl Visit {
    /// A part of the path; empty when the route has none such.
    pub(crate) fn param(&self, name: &str) -> &str {
        value(&self.params, name)
    }

    /// A part of the path that names something.
    pub(crate) fn name(&self, param: &str) -> Result<ObjectName, Failure> {
        let text = self.param(param);
        text.parse().map_err(|_| Failure::not_found(param, text))
    }

    /// A value of the query; empty for none.
    pub(crate) fn query(&self, name: &str) -> &str {
        value(&self.query, name)
    }

    /// A field of the form; empty for none.
    pub(crate) fn field(&self, name: &str) -> &str {
        value(&self.form, name)
    }

    /// Whether a role's actions are shown. Whether they are done is the API's.
    pub(crate) fn may(&self, role: AccessRole) -> bool {
        self.role >= role
    }

    pub(crate) fn is_contributor(&self) -> bool {
        self.may(AccessRole::Contributor)
    }

    /// Refuses a page whose form the API would refuse: `what` needs a role.
    pub(crate) fn needs(&self, role: AccessRole, what: &str) -> Result<(), Failure> {
        if self.may(role) {
            return Ok(());
        }
        let message = format!("{} has the role {:?}; {what} needs {role:?}", self.caller, self.role);
        Err(Failure::new(StatusCode::FORBIDDEN, "AuthorizationFailed", message))
    }

    /// What is around a page.
    pub(crate) fn frame(&self, tab: Tab, title: impl Into<String>) -> Frame {
        Frame::of(self, tab, title.into())
    }
}

/// A page at a path.
pub(crate) fn page(view: View) -> MethodRouter<Arc<Portal>> {
    get(move |State(portal): State<Arc<Portal>>, request: Request| async move {
        show(portal, request, view).await
    })
}

/// A picture (PNG) at a path.
pub(crate) fn picture(view: fn(&Control, &Visit) -> Result<Vec<u8>, Failure>) -> MethodRouter<Arc<Portal>> {
    get(move |State(portal): State<Arc<Portal>>, request: Request| async move {
        let shown = match read(request).await {
            Ok((visit, _)) => {
                on_thread(&portal, &visit, view).await.map_err(|failure| (Some(visit), failure))
            }
            Err(failure) => Err((None, failure)),
        };
        match shown {
            Ok(png) => ([(header::CONTENT_TYPE, "image/png")], png).into_response(),
            Err((visit, failure)) => layout::failed(visit.as_ref(), &failure),
        }
    })
}

/// A page with a form that is sent to the same path.
pub(crate) fn form(view: View, ask: Ask) -> MethodRouter<Arc<Portal>> {
    page(view).merge(button(ask))
}

/// A form without a page of its own.
pub(crate) fn button(ask: Ask) -> MethodRouter<Arc<Portal>> {
    post(
        move |State(portal): State<Arc<Portal>>, request: Request| async move { act(portal, request, ask).await },
    )
}

async fn show(portal: Arc<Portal>, request: Request, view: View) -> Response {
    let visit = match read(request).await {
        Ok((visit, _)) => visit,
        Err(failure) => return layout::failed(None, &failure),
    };
    let shown = on_thread(&portal, &visit, view).await;
    shown.map_or_else(|failure| layout::failed(Some(&visit), &failure), |html| Html(html).into_response())
}

async fn act(portal: Arc<Portal>, request: Request, ask: Ask) -> Response {
    let (visit, sender) = match read(request).await {
        Ok(read) => read,
        Err(failure) => return layout::failed(None, &failure),
    };
    let done = match on_thread(&portal, &visit, ask).await {
        Ok(act) => action::send(&portal, &visit, sender, act).await,
        Err(failure) => Err(failure),
    };
    done.unwrap_or_else(|failure| layout::failed(Some(&visit), &failure))
}

/// The visit that the gate made, with the path's names; and with whose token the API is asked.
async fn read(request: Request) -> Result<(Visit, action::Sender), Failure> {
    let (mut parts, _) = request.into_parts();
    let params =
        <RawPathParams as axum::extract::FromRequestParts<()>>::from_request_parts(&mut parts, &()).await;
    let missing = || Failure::internal(&"a page is reached past the gate");
    let mut visit = parts.extensions.remove::<Visit>().ok_or_else(missing)?;
    let sender = parts.extensions.remove::<action::Sender>().ok_or_else(missing)?;
    visit.params = match params {
        Ok(params) => params.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        Err(error) if error.status() == StatusCode::BAD_REQUEST => {
            return Err(Failure::invalid(error.body_text()));
        }
        // A route without names has none to extract.
        Err(_) => Vec::new(),
    };
    Ok((visit, sender))
}

async fn on_thread<T: Send + 'static>(
    portal: &Portal,
    visit: &Visit,
    work: fn(&Control, &Visit) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let _room = portal.blocking.acquire().await.map_err(|error| Failure::internal(&error))?;
    let (control, visit) = (portal.control.clone(), visit.clone());
    let worked = tokio::task::spawn_blocking(move || work(&control, &visit)).await;
    worked.map_err(|error| Failure::internal(&error))?
}
