//! The files that pages need, inside the program. A file's address has a hash of its contents in it, so a browser keeps it for ever and never an old one.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};

/// What a browser keeps for ever.
const KEPT: &str = "public, max-age=31536000, immutable";

/// A file.
#[derive(Debug)]
struct Asset {
    name: &'static str,
    /// With the hash in it.
    address: String,
    etag: String,
    media_type: &'static str,
    contents: &'static [u8],
}

macro_rules! asset {
    ($file:literal, $media_type:literal) => {
        Asset::new($file, $media_type, include_bytes!(concat!("../assets/", $file)))
    };
}

static ASSETS: LazyLock<Vec<Asset>> = LazyLock::new(|| {
    vec![
        asset!("portal.css", "text/css; charset=utf-8"),
        asset!("icon.svg", "image/svg+xml"),
        asset!("plan.js", "text/javascript; charset=utf-8"),
        asset!("vendored/htmx.min.js", "text/javascript; charset=utf-8"),
        asset!("vendored/htmx-ext-sse.min.js", "text/javascript; charset=utf-8"),
    ]
});

impl Asset {
    fn new(file: &'static str, media_type: &'static str, contents: &'static [u8]) -> Self {
        let name = file.rsplit('/').next().unwrap_or(file);
        let hash = blake3::hash(contents).to_hex();
        let (stem, extension) = name.rsplit_once('.').unwrap_or((name, ""));
        let address = format!("{stem}.{}.{extension}", &hash[..16]);
        Self { name, address, etag: format!("\"{}\"", &hash[..32]), media_type, contents }
    }
}

/// A file's address.
pub(crate) fn address(name: &str) -> String {
    let asset = ASSETS.iter().find(|asset| asset.name == name);
    debug_assert!(asset.is_some(), "there is no file {name}");
    format!("{}assets/{}", crate::HOME, asset.map_or(name, |asset| &asset.address))
}

/// `GET /portal/assets/{name}`, to anybody.
pub(crate) async fn serve(Path(name): Path<String>, headers: HeaderMap) -> Response {
    let Some(asset) = ASSETS.iter().find(|asset| asset.address == name) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let head = [
        (header::CONTENT_TYPE, asset.media_type),
        (header::CACHE_CONTROL, KEPT),
        (header::ETAG, asset.etag.as_str()),
    ];
    let known = headers.get(header::IF_NONE_MATCH).and_then(|known| known.to_str().ok()).unwrap_or_default();
    if known.contains(&asset.etag) {
        return (StatusCode::NOT_MODIFIED, head).into_response();
    }
    (head, asset.contents).into_response()
}
