//! The container of the replicas, as far as the site itself needs it: descriptions of machines, and whether a disk's blob is there.
//!
//! Azure Blob Storage's REST API, version 2021-12-02: whole block blobs, put with a condition (`If-Match`, `If-None-Match`), so that of two writers one
//! is told that it came too late.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use quick_xml::Reader;
use quick_xml::events::Event;
use reqwest::Method;
use zeroize::Zeroizing;

use switchback_model::azure::{AzureLimits, AzureSettings};

use super::arm::patiently;
use super::error::AzureError;
use super::http::{Call, Http, Reply};

use super::token::Tokens;

const VERSION: &str = "2021-12-02";
const PAGES_MAX: usize = 1000;

/// A blob's contents with what they are known by.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) bytes: Vec<u8>,
    pub(super) etag: String,
}

/// The container.
#[derive(Debug)]
pub(super) struct Container {
    http: Arc<Http>,
    tokens: Arc<Tokens>,
    audience: String,
    url: String,
    sas: Option<Zeroizing<String>>,
    limits: AzureLimits,
}

impl Container {
    pub(super) fn new(
        settings: &AzureSettings,
        http: Arc<Http>,
        tokens: Arc<Tokens>,
        sas: Option<Zeroizing<String>>,
    ) -> Self {
        Self {
            http,
            tokens,
            audience: settings.cloud.storage_audience.trim_end_matches('/').to_owned(),
            url: settings.container.trim_end_matches('/').to_owned(),
            sas: sas.map(|sas| sas.trim_start_matches('?').to_owned().into()),
            limits: settings.limits,
        }
    }

    /// Where a blob is, as everybody may read it.
    pub(super) fn place(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("{}/{name}", self.url))
    }

    /// Whether it is there and lets us in.
    pub(super) fn reach(&self) -> Result<(), AzureError> {
        self.send(Method::GET, &self.url, "restype=container", &[], &[]).map(drop)
    }

    /// Reads a blob of the container; `None`: it is not there.
    pub(super) fn get(&self, name: &str) -> Result<Option<Found>, AzureError> {
        match self.send(Method::GET, &self.address(name), "", &[], &[]) {
            Ok(reply) => Ok(Some(Found { etag: etag(&reply)?, bytes: reply.body })),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What a blob is known by; `None`: it is not there.
    pub(super) fn etag(&self, place: &Path) -> Result<Option<String>, AzureError> {
        let place = place.to_string_lossy();
        if !place.starts_with(&format!("{}/", self.url)) {
            return Err(AzureError::Impossible(format!(
                "{place} is not in the site's container {} [azure-foreign-blob]",
                self.url
            )));
        }
        match self.send(Method::HEAD, &place, "", &[], &[]) {
            Ok(reply) => etag(&reply).map(Some),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes a blob: over the one that is known by `etag`, or where there is none. `None`: somebody was faster.
    pub(super) fn put(
        &self,
        name: &str,
        bytes: &[u8],
        over: Option<&str>,
    ) -> Result<Option<String>, AzureError> {
        let condition = match over {
            Some(etag) => ("if-match", etag),
            None => ("if-none-match", "*"),
        };
        let headers = [("x-ms-blob-type", "BlockBlob"), ("content-type", "application/json"), condition];
        match self.send(Method::PUT, &self.address(name), "", &headers, bytes) {
            Ok(reply) => etag(&reply).map(Some),
            Err(AzureError::Refused { status: 409 | 412, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Deletes a blob. One that is not there is.
    pub(super) fn delete(&self, name: &str) -> Result<(), AzureError> {
        match self.send(Method::DELETE, &self.address(name), "", &[], &[]) {
            Err(error) if !is_absent(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// The names of all blobs that begin with `prefix`.
    pub(super) fn list(&self, prefix: &str) -> Result<Vec<String>, AzureError> {
        let (mut names, mut marker) = (Vec::new(), String::new());
        for _ in 0..PAGES_MAX {
            let query = url::form_urlencoded::Serializer::new(String::new())
                .extend_pairs([
                    ("restype", "container"),
                    ("comp", "list"),
                    ("prefix", prefix),
                    ("marker", &marker),
                ])
                .finish();
            let reply = self.send(Method::GET, &self.url, &query, &[], &[])?;
            marker = read_page(&reply.body, &mut names)?;
            if marker.is_empty() {
                return Ok(names);
            }
        }
        Err(AzureError::Protocol(format!("a list of blobs has more than {PAGES_MAX} pages")))
    }

    fn address(&self, name: &str) -> String {
        format!("{}/{name}", self.url)
    }

    fn send(
        &self,
        method: Method,
        address: &str,
        query: &str,
        headers: &[(&'static str, &str)],
        body: &[u8],
    ) -> Result<Reply, AzureError> {
        let sas = self.sas.as_ref().map_or("", |sas| sas.as_str());
        let query: Vec<&str> = [query, sas].into_iter().filter(|part| !part.is_empty()).collect();
        let address =
            if query.is_empty() { address.to_owned() } else { format!("{address}?{}", query.join("&")) };
        let mut call = Call::new(method, address).header("x-ms-version", VERSION);
        for (name, value) in headers {
            call = call.header(name, *value);
        }
        call.body = body.to_vec();
        patiently(&self.limits, || self.once(&mut call))
    }

    fn once(&self, call: &mut Call) -> Result<Reply, (AzureError, Option<std::time::Duration>)> {
        let alone = |error| (error, None);
        if self.sas.is_none() {
            call.bearer = Some(self.tokens.get(&self.http, &self.audience, None).map_err(alone)?);
        }
        let mut reply = self.http.send(call, self.limits.request()).map_err(alone)?;
        if let (401, Some(refused)) = (reply.status, call.bearer.clone()) {
            call.bearer = Some(self.tokens.get(&self.http, &self.audience, Some(&refused)).map_err(alone)?);
            reply = self.http.send(call, self.limits.request()).map_err(alone)?;
        }
        if (200..300).contains(&reply.status) {
            return Ok(reply);
        }
        let code = reply.header("x-ms-error-code").unwrap_or("Unknown").to_owned();
        let message = format!("the storage at {} refuses {}", super::http::origin(&call.url), call.method);
        Err((AzureError::Refused { status: reply.status, code, message }, reply.retry_after()))
    }
}

fn etag(reply: &Reply) -> Result<String, AzureError> {
    let etag = reply.header("etag").map(str::to_owned);
    etag.ok_or_else(|| AzureError::Protocol("a blob has no ETag".into()))
}

/// Of a `HEAD` there is a status alone.
fn is_absent(error: &AzureError) -> bool {
    matches!(error, AzureError::Refused { status: 404, code, .. } if code == "BlobNotFound" || code == "Unknown")
}

/// Adds the names of a page, and gives the marker of the next one.
fn read_page(body: &[u8], names: &mut Vec<String>) -> Result<String, AzureError> {
    let wrong =
        |error: &dyn ToString| AzureError::Protocol(format!("a list of blobs: {}", error.to_string()));
    // Storage puts a byte order mark before it.
    let text = std::str::from_utf8(body).map_err(|error| wrong(&error))?.trim_start_matches('\u{feff}');
    let mut reader = Reader::from_str(text);
    let (mut element, mut content, mut marker) = (Vec::new(), String::new(), String::new());
    loop {
        match reader.read_event().map_err(|error| wrong(&error))? {
            Event::Start(start) => {
                element = start.name().as_ref().to_vec();
                content.clear();
            }
            Event::Text(part) => content.push_str(&part.decode().map_err(|error| wrong(&error))?),
            Event::GeneralRef(name) => {
                let name = name.decode().map_err(|error| wrong(&error))?;
                let entity = quick_xml::escape::unescape(&format!("&{name};"))
                    .map_err(|error| wrong(&error))?
                    .into_owned();
                content.push_str(&entity);
            }
            Event::End(end) if end.name().as_ref() == element.as_slice() => match element.as_slice() {
                b"Name" => names.push(std::mem::take(&mut content)),
                b"NextMarker" => marker = std::mem::take(&mut content),
                _ => {}
            },
            Event::Eof => return Ok(marker),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_names_is_read() {
        let page = "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults><Prefix>machines/</Prefix><Blobs>\
            <Blob><Name>machines/a&amp;b.json</Name><Properties><Etag>0x1</Etag></Properties></Blob>\
            <Blob><Name>machines/c.json</Name></Blob></Blobs><NextMarker>2!x</NextMarker></EnumerationResults>";
        let mut names = Vec::new();
        assert_eq!(read_page(page.as_bytes(), &mut names).unwrap(), "2!x");
        assert_eq!(names, ["machines/a&b.json", "machines/c.json"]);
        let last = "<EnumerationResults><Blobs /><NextMarker /></EnumerationResults>";
        assert_eq!(read_page(last.as_bytes(), &mut names).unwrap(), "");
        assert!(read_page(b"<a", &mut names).is_err());
    }
}
