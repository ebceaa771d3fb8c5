//! One exchange with the server: a request, an answer, limits on both.

use std::error::Error;
use std::io::Read;
use std::time::Duration;

use reqwest::blocking::Client;
use reqwest::header;
use reqwest::redirect::Policy;

use super::{ACTION, Trust, VimError};

/// TLS included.
const CONNECT_LIMIT: Duration = Duration::from_secs(20);
/// A connection that was idle for longer is not used again: the server may just be closing it, and a change would be lost on it.
const IDLE_LIMIT: Duration = Duration::from_secs(15);
/// Longest answer in bytes: a page of 100 machines with some KiB each, and far beyond.
const ANSWER_LEN_MAX: usize = 64 << 20;
/// How much of an answer is read at once.
const CHUNK_LEN: usize = 64 << 10;
/// The cookie that says whose request it is, on vCenter and on ESXi.
const SESSION_COOKIE: &str = "vmware_soap_session";

/// What came back.
#[derive(Debug)]
pub(in super::super) struct Answer {
    pub(in super::super) status: u16,
    /// The session's cookie as it is to be sent back, if the server set one.
    pub(in super::super) cookie: Option<String>,
    pub(in super::super) body: String,
}

/// The way to one server.
#[derive(Debug)]
pub(in super::super) struct Http {
    client: Client,
    url: String,
}

impl Http {
    /// `url` is `https://HOST[:PORT]/sdk`, or less of it.
    pub(in super::super) fn new(url: &str, trust: &Trust) -> Result<Self, VimError> {
        let url = address(url)?;
        let client = Client::builder()
            .tls_backend_preconfigured(trust.client_config()?)
            .https_only(true)
            // The server is on the site's own networks; a proxy between would see the password.
            .no_proxy()
            .redirect(Policy::none())
            .connect_timeout(CONNECT_LIMIT)
            .pool_idle_timeout(IDLE_LIMIT)
            .http1_only()
            .user_agent(concat!("switchback/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| VimError::Settings(format!("HTTP cannot be set up: {error}")))?;
        Ok(Self { client, url })
    }

    /// Where it leads.
    pub(in super::super) fn url(&self) -> &str {
        &self.url
    }

    /// Sends a request and reads the answer, in `limit` at most.
    pub(in super::super) fn post(
        &self,
        method: &'static str,
        body: String,
        cookie: Option<&str>,
        limit: Duration,
    ) -> Result<Answer, VimError> {
        let mut request = self
            .client
            .post(&self.url)
            // For all of it: a server that sends a byte now and then is as bad as one that sends none.
            .timeout(limit)
            .header(header::CONTENT_TYPE, "text/xml; charset=utf-8")
            .header("SOAPAction", ACTION)
            .body(body);
        if let Some(cookie) = cookie {
            let mut value = header::HeaderValue::from_str(cookie).map_err(|_| VimError::Protocol {
                method,
                detail: "its session cookie is no text".to_owned(),
            })?;
            value.set_sensitive(true);
            request = request.header(header::COOKIE, value);
        }
        let mut response = request.send().map_err(|error| self.failed(method, &error, limit))?;
        let cookies = response.headers().get_all(header::SET_COOKIE).iter();
        let cookie = cookies
            .filter_map(|value| value.to_str().ok()?.split(';').next())
            .find(|pair| pair.trim_start().starts_with(SESSION_COOKIE))
            .map(|pair| pair.trim().to_owned());
        let status = response.status().as_u16();
        let mut bytes = Vec::new();
        let mut chunk = vec![0; CHUNK_LEN];
        loop {
            let len = response.read(&mut chunk).map_err(|error| self.failed(method, &error, limit))?;
            if len == 0 {
                break;
            }
            bytes.extend_from_slice(&chunk[..len]);
            if bytes.len() > ANSWER_LEN_MAX {
                let detail = format!("the answer is longer than {ANSWER_LEN_MAX} bytes");
                return Err(VimError::Protocol { method, detail });
            }
        }
        let body = String::from_utf8(bytes).map_err(|_| VimError::Protocol {
            method,
            detail: format!("HTTP status {status}, and the answer is not in UTF-8"),
        })?;
        if matches!(status, 502..=504) {
            let detail = format!("it answers with HTTP status {status}: its services are starting, or down");
            return Err(VimError::Unreachable { server: self.url.clone(), detail });
        }
        Ok(Answer { status, cookie, body })
    }

    fn failed(&self, method: &'static str, error: &(dyn Error + 'static), limit: Duration) -> VimError {
        let server = self.url.clone();
        let mut is_timeout = false;
        let mut chain = Vec::new();
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(rustls::Error::InvalidCertificate(problem)) = error.downcast_ref() {
                let detail = match problem {
                    rustls::CertificateError::Other(other) => other.to_string(),
                    other => other.to_string(),
                };
                return VimError::Untrusted { server, detail };
            }
            is_timeout |= error.downcast_ref().is_some_and(reqwest::Error::is_timeout);
            // An I/O error that wraps another hides it from `source`.
            cause = match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
                Some(inner) => Some(inner),
                None => {
                    chain.push(error.to_string());
                    error.source()
                }
            };
        }
        if is_timeout {
            return VimError::Slow { server, method, limit };
        }
        let detail = chain.pop().unwrap_or_else(|| error.to_string());
        VimError::Unreachable { server, detail }
    }
}

/// Where the API is: people write the host alone as well.
fn address(text: &str) -> Result<String, VimError> {
    let wrong =
        |detail: &str| VimError::Settings(format!("`url`, {text:?}, {detail}: https://HOST[:PORT]/sdk"));
    let full = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let mut url = reqwest::Url::parse(&full).map_err(|_| wrong("is no address"))?;
    if url.scheme() != "https" {
        return Err(wrong("is not for HTTPS"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(VimError::Settings(
            "`url` has an account in it: give that as the site's credentials".to_owned(),
        ));
    }
    match url.path() {
        "/" | "" => url.set_path("/sdk"),
        _ => {}
    }
    Ok(url.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_completed_or_refused() {
        let complete = "https://vcenter.example/sdk";
        for text in ["vcenter.example", "https://vcenter.example", "https://vcenter.example/", complete] {
            assert_eq!(address(text).unwrap(), complete);
        }
        assert_eq!(address("esx:8443").unwrap(), "https://esx:8443/sdk");
        for (text, told) in [
            ("http://vcenter.example", "is not for HTTPS"),
            ("https://a:b@vcenter.example/sdk", "credentials"),
            ("https://", "is no address"),
        ] {
            let error = address(text).unwrap_err().to_string();
            assert!(error.contains(told) && !error.contains("a:b"), "{error}");
        }
    }
}
