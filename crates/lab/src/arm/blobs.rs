//! A shelf for blobs, as far as the product's site asks for it: whole blobs with conditions, ranges, lists in pages, one container each.
//!
//! For tests that have no Azurite; blobs live in memory. A page blob is put whole.

use std::fmt::Write as _;

use super::ACCOUNT;
use super::answer::{Answer, ArmError, Request};
use super::world::World;

/// The query that opens it.
pub(super) const SAS: &str = "sv=2021-12-02&sp=rcwdl&sig=c2hlbGY%3D";
/// `sig` of it, decoded.
const SIGNATURE: &str = "c2hlbGY=";
const PAGE_LEN: usize = 2;

/// A blob.
#[derive(Debug, Clone)]
pub(super) struct Blob {
    bytes: Vec<u8>,
    etag: String,
    kind: String,
}

/// Answers `/blobs/ACCOUNT/CONTAINER/BLOB`; `None`: it is no request for one.
pub(super) fn answer(world: &World, request: &Request) -> Option<Answer> {
    let [first, account, container, name @ ..] = request.segments.as_slice() else { return None };
    if first != "blobs" {
        return None;
    }
    let token = request.header("authorization").strip_prefix("Bearer ");
    let is_open = match token {
        Some(token) => world.state().tokens.contains(token),
        None => request.query("sig") == SIGNATURE,
    };
    if account != ACCOUNT || !is_open {
        let is_expired = token.is_some() && account == ACCOUNT;
        return Some(if is_expired {
            refused(401, "InvalidAuthenticationInfo")
        } else {
            refused(403, "AuthenticationFailed")
        });
    }
    let key = format!("{container}/{}", name.join("/"));
    Some(match (request.method.as_str(), name.is_empty()) {
        ("GET" | "HEAD", true) if request.query("comp") == "list" => list(world, request, container),
        ("GET" | "HEAD", true) if request.query("restype") == "container" => Answer::empty(200),
        ("PUT", false) => put(world, request, key),
        ("GET" | "HEAD", false) => get(world, request, &key),
        ("DELETE", false) => delete(world, request, &key),
        _ => ArmError::not_emulated("this request to storage").into(),
    })
}

fn refused(status: u16, code: &'static str) -> Answer {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><Error><Code>{code}</Code><Message>{code}</Message></Error>"
    );
    Answer::empty(status)
        .header("x-ms-error-code", code)
        .header("content-type", "application/xml")
        .bytes(body.into_bytes())
}

/// Whether the request's conditions hold for what is there.
fn must_fit(request: &Request, there: Option<&Blob>) -> Result<(), Answer> {
    let (wanted, unwanted) = (request.header("if-match"), request.header("if-none-match"));
    if unwanted == "*" && there.is_some() {
        return Err(refused(409, "BlobAlreadyExists"));
    }
    let fits = |blob: &Blob| wanted == "*" || blob.etag == wanted;
    if !wanted.is_empty() && !there.is_some_and(fits) {
        return Err(refused(412, "ConditionNotMet"));
    }
    Ok(())
}

fn put(world: &World, request: &Request, key: String) -> Answer {
    let mut state = world.state();
    if let Err(refusal) = must_fit(request, state.blobs.get(&key)) {
        return refusal;
    }
    let kind = request.header("x-ms-blob-type").to_owned();
    if !matches!(kind.as_str(), "BlockBlob" | "PageBlob") {
        return refused(400, "MissingRequiredHeader");
    }
    let etag = format!("\"0x{:X}\"", state.number());
    let answer = Answer::empty(201).header("etag", etag.clone());
    state.blobs.insert(key, Blob { bytes: request.body.clone(), etag, kind });
    answer
}

fn get(world: &World, request: &Request, key: &str) -> Answer {
    let state = world.state();
    let Some(blob) = state.blobs.get(key) else { return refused(404, "BlobNotFound") };
    let range = request.header("x-ms-range").strip_prefix("bytes=").and_then(|range| {
        let (from, to) = range.split_once('-')?;
        Some((from.parse::<usize>().ok()?, to.parse::<usize>().ok()?))
    });
    let (status, bytes) = match range {
        Some((from, to)) => (206, blob.bytes.get(from..(to + 1).min(blob.bytes.len())).unwrap_or_default()),
        None => (200, blob.bytes.as_slice()),
    };
    Answer::empty(status)
        .header("etag", blob.etag.clone())
        .header("x-ms-blob-type", blob.kind.clone())
        .header("content-length", bytes.len().to_string())
        .bytes(bytes.to_vec())
}

fn delete(world: &World, request: &Request, key: &str) -> Answer {
    let mut state = world.state();
    if let Err(refusal) = must_fit(request, state.blobs.get(key)) {
        return refusal;
    }
    match state.blobs.remove(key) {
        Some(_) => Answer::empty(202),
        None => refused(404, "BlobNotFound"),
    }
}

fn list(world: &World, request: &Request, container: &str) -> Answer {
    let (prefix, marker) = (request.query("prefix"), request.query("marker"));
    let state = world.state();
    let own = format!("{container}/");
    let names: Vec<&str> = state
        .blobs
        .keys()
        .filter_map(|key| key.strip_prefix(&own))
        .filter(|name| name.starts_with(prefix) && *name >= marker)
        .collect();
    let mut body = String::from("<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults><Blobs>");
    for name in names.iter().take(PAGE_LEN) {
        let name = name.replace('&', "&amp;").replace('<', "&lt;");
        // Writing to a text cannot fail.
        let _ = write!(body, "<Blob><Name>{name}</Name><Properties></Properties></Blob>");
    }
    let next = names.get(PAGE_LEN).copied().unwrap_or_default();
    let _ = write!(body, "</Blobs><NextMarker>{next}</NextMarker></EnumerationResults>");
    Answer::empty(200).header("content-type", "application/xml").bytes(body.into_bytes())
}

impl World {
    /// The bytes of a blob of the shelf by its URL; `None`: it is elsewhere.
    pub(super) fn shelved(&self, uri: &str) -> Option<Result<Vec<u8>, ()>> {
        let path = uri.strip_prefix(&format!("{}/blobs/{ACCOUNT}/", self.url))?;
        let key = path.split('?').next().unwrap_or_default();
        Some(self.state().blobs.get(key).map(|blob| blob.bytes.clone()).ok_or(()))
    }
}
