//! `GET /openapi.json` and `GET /docs`: the document for programs and for people, to whoever asks: there are no data in it.
//!
//! The page is plain HTML made once from the document; it has no script, and asks for nothing but its own style sheet.

use std::sync::LazyLock;

use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};

use super::{DOCUMENT, show};

pub(crate) const DOCUMENT_PATH: &str = "/openapi.json";
pub(crate) const PAGE_PATH: &str = "/docs";
pub(crate) const STYLE_PATH: &str = "/docs/style.css";

const STYLE: &str = include_str!("style.css");
/// What the page may do: have our style, and nothing else.
const POLICY: &str =
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

static PAGE: LazyLock<String> = LazyLock::new(|| show::page(DOCUMENT));

pub(crate) async fn document() -> Response {
    answer("application/json", DOCUMENT)
}

pub(crate) async fn page() -> Response {
    answer("text/html; charset=utf-8", &PAGE)
}

pub(crate) async fn style() -> Response {
    answer("text/css; charset=utf-8", STYLE)
}

fn answer(media_type: &'static str, text: &'static str) -> Response {
    let headers: [(HeaderName, HeaderValue); 4] = [
        (header::CONTENT_TYPE, HeaderValue::from_static(media_type)),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ];
    (headers, text).into_response()
}
