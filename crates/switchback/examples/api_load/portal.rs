//! Pages of the portal, asked for as a browser does: with a session.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use reqwest::header::{COOKIE, ORIGIN, SET_COOKIE};
use rustls::ClientConfig;
use switchback::client::parse_authority;

/// What they are called, and their addresses.
pub(crate) const PAGES: [(&str, &str); 5] = [
    ("portal: overview", "/portal/"),
    ("portal: the first 50 machines", "/portal/machines"),
    ("portal: the last, by RPO", "/portal/machines?sort=rpo&page=20"),
    ("portal: machines found", "/portal/machines?q=machine05&state=protected"),
    ("portal: a machine", "/portal/machines/machine0500"),
];

/// Somebody who has signed in.
pub(crate) struct Visitor {
    http: reqwest::Client,
    server: String,
    cookie: String,
}

impl Visitor {
    /// Signs in with the first token of the configuration server in `data`.
    pub(crate) async fn sign_in(data: &Path, port: u16) -> anyhow::Result<Self> {
        let roots = parse_authority(&fs::read_to_string(data.join("ca.pem"))?)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let tls = tls.with_root_certificates(roots).with_no_client_auth();
        let http = reqwest::Client::builder().tls_backend_preconfigured(tls);
        let http = http.redirect(reqwest::redirect::Policy::none()).build()?;
        let server = format!("https://127.0.0.1:{port}");
        let token = fs::read_to_string(data.join("admin-token"))?;
        let asked = http.post(format!("{server}/portal/sign-in")).header(ORIGIN, &server);
        // A token is letters, digits and `_`: nothing to encode.
        let answer = asked.body(format!("token={}", token.trim())).send().await?;
        let cookie = answer.headers().get(SET_COOKIE).context("the portal gives no session")?.to_str()?;
        let cookie = cookie.split(';').next().unwrap_or_default().to_owned();
        Ok(Self { http, server, cookie })
    }

    /// A page.
    pub(crate) async fn page(&self, path: &str) -> anyhow::Result<String> {
        let asked = self.http.get(format!("{}{path}", self.server)).header(COOKIE, &self.cookie);
        let answer = asked.send().await?;
        ensure!(answer.status().is_success(), "{path}: {}", answer.status());
        Ok(answer.text().await?)
    }
}
