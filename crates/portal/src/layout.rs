//! What all pages have around them, how they look, and the page that says why there is none.

use std::sync::Arc;

use askama::Template;
use axum::Extension;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse as _, Redirect, Response};
use switchback_api::Refusal;
use switchback_model::AccessRole;

use crate::assets;
use crate::cookie;
use crate::failure::Failure;
use crate::gate;
use crate::visit::Visit;

/// A year: how long a choice of looks is kept by the browser.
const THEME_KEPT_S: u64 = 31_536_000;

/// The tabs, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tab {
    Overview,
    Machines,
    Plans,
    Jobs,
    Servers,
    Sites,
    Events,
    Settings,
    /// A page of none of them.
    None,
}

impl Tab {
    /// Each with its address and its name.
    const ALL: [(Self, &'static str, &'static str); 8] = [
        (Self::Overview, "/portal/", "Overview"),
        (Self::Machines, "/portal/machines", "Machines"),
        (Self::Plans, "/portal/plans", "Recovery Plans"),
        (Self::Jobs, "/portal/jobs", "Jobs"),
        (Self::Servers, "/portal/servers", "Servers"),
        (Self::Sites, "/portal/sites", "Sites"),
        (Self::Events, "/portal/events", "Events"),
        (Self::Settings, "/portal/settings", "Settings"),
    ];
}

/// How pages look: as the system does, unless somebody chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Theme {
    System,
    Light,
    Dark,
}

impl Theme {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        Self::named(cookie::find(headers, cookie::THEME).unwrap_or_default())
    }

    fn named(name: &str) -> Self {
        match name {
            "light" => Self::Light,
            "dark" => Self::Dark,
            _ => Self::System,
        }
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Light => "light",
            Self::Dark => "dark",
        }
    }
}

/// What is around a page.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) title: String,
    pub(crate) tab: Tab,
    /// Who is signed in.
    pub(crate) who: Option<(String, AccessRole)>,
    pub(crate) form_token: Arc<str>,
    pub(crate) theme: Theme,
    /// Where the page is, to be fetched anew from.
    pub(crate) here: String,
}

impl Frame {
    pub(crate) fn of(visit: &Visit, tab: Tab, title: String) -> Self {
        Self {
            title,
            tab,
            who: Some((visit.caller.clone(), visit.role)),
            form_token: Arc::clone(&visit.form_token),
            theme: visit.theme,
            here: visit.here.clone(),
        }
    }

    /// Around a page for those who are not signed in.
    pub(crate) fn bare(title: &str, theme: Theme) -> Self {
        let form_token = Arc::from("");
        Self { title: title.into(), tab: Tab::None, who: None, form_token, theme, here: crate::HOME.into() }
    }

    pub(crate) fn tabs(&self) -> impl Iterator<Item = (bool, &'static str, &'static str)> {
        Tab::ALL.into_iter().map(|(tab, address, name)| (tab == self.tab, address, name))
    }

    /// Each look, and whether it is the one.
    pub(crate) fn themes(&self) -> [(&'static str, bool); 3] {
        [Theme::System, Theme::Light, Theme::Dark].map(|theme| (theme.as_str(), theme == self.theme))
    }

    pub(crate) fn asset(&self, name: &str) -> String {
        assets::address(name)
    }
}

#[derive(Template)]
#[template(path = "failed.html")]
struct Failed<'a> {
    frame: Frame,
    refusal: &'a Refusal,
}

/// The page that says why there is none, or why nothing was done.
pub(crate) fn failed(visit: Option<&Visit>, failure: &Failure) -> Response {
    let refusal = &failure.0;
    let title = match refusal.status {
        StatusCode::NOT_FOUND => "Not found",
        status if status.is_server_error() => "Something failed",
        _ => "Not done",
    };
    let frame = match visit {
        Some(visit) => visit.frame(Tab::None, title),
        None => Frame::bare(title, Theme::System),
    };
    let html = Failed { frame, refusal }.render().unwrap_or_else(|error| {
        tracing::error!(%error, "the page that says what failed cannot be shown");
        "The page cannot be shown. See the configuration server's log.".into()
    });
    let mut response = (refusal.status, Html(html)).into_response();
    if let Some(seconds) = refusal.retry_after_s {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// `POST /portal/theme`: how pages look from now on.
pub(crate) async fn set_theme(Extension(visit): Extension<Visit>) -> Response {
    let theme = Theme::named(visit.field("theme")).as_str();
    let cookie = cookie::set(cookie::THEME, theme, Some(THEME_KEPT_S));
    ([(header::SET_COOKIE, cookie)], Redirect::to(gate::local(visit.field("back")))).into_response()
}
