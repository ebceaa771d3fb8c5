//! Signing in at an issuer, by clicking: OpenID Connect's authorization code flow, whose requests and judgement are the API's (`switchback_api::Attempt`).
//!
//! ```text
//! link on the sign-in page ─▶ GET sign-in/NAME: a cookie with a random value, and on to the issuer
//! issuer                   ─▶ GET sign-in/NAME/answer: cookie and state fit? ─▶ code for a token ─▶ a session, as with a pasted token
//!                                                                             ─▶ a page of ours that leads on
//! ```
//! Invariants: where an issuer sends people back is below the configured address, whatever a request says, and another place for each sign-in, so that no
//! issuer's answer is taken for another's (RFC 9700, section 4.4.2). An answer counts in the browser that began, for ten minutes, once: its cookie is deleted,
//! and the issuer takes a code once. The way there is a link, because a form's would need the issuer in the policy (`form-action`). The page
//! at the end is ours, because the session's cookie does not come with a request that another site caused (`Strict`), and a redirect would still be that.

use std::net::IpAddr;
use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{AppendHeaders, Html, IntoResponse as _, Redirect, Response};
use switchback_api::{Attempt, Refusal};
use switchback_model::{ObjectName, UnixMillis};

use super::{admit, show};
use crate::Portal;
use crate::cookie;
use crate::failure::Failure;
use crate::gate;
use crate::layout::{self, Frame, Theme};
use crate::session;
use crate::visit::Pairs;

/// How long somebody may take at the issuer, in seconds.
const ATTEMPT_MAX_S: u64 = 600;
/// Longest way back in bytes; who comes from a longer one goes to the overview.
const NEXT_LEN_MAX: usize = 1024;

#[derive(Template)]
#[template(path = "signed_in.html")]
struct SignedIn<'a> {
    frame: Frame,
    next: &'a str,
}

/// Issuers where people can sign in, each with where they go for it: none where this server was not told its address.
pub(super) async fn links(portal: &Portal, next: &str) -> Vec<(String, String)> {
    let Some(url) = portal.api.public_url() else { return Vec::new() };
    let sign_ins = portal.api.portal_sign_ins().await.unwrap_or_else(|refusal| {
        tracing::warn!(%refusal, "the sign-in page has no issuers");
        Vec::new()
    });
    let next: String = url::form_urlencoded::byte_serialize(next.as_bytes()).collect();
    let link = |name: ObjectName| (name.to_string(), format!("{url}/portal/sign-in/{name}?next={next}"));
    sign_ins.into_iter().map(|sign_in| link(sign_in.name)).collect()
}

/// Where the issuer sends people back.
fn answer_url(portal: &Portal, name: &ObjectName) -> Result<String, Failure> {
    let url = portal.api.public_url().ok_or_else(|| {
        let message = "this configuration server was not told the address that browsers reach it at";
        Failure::new(StatusCode::CONFLICT, "portal.no-address", message)
            .cause("an issuer sends people back to a configured address alone")
            .remedy("start it with --public-url or --advertise; sign in with a token meanwhile")
    })?;
    Ok(format!("{url}/portal/sign-in/{name}/answer"))
}

/// What the cookie keeps: a random value, when it was made, and where to go afterwards. All of it makes the attempt, so none of it can be exchanged.
struct Kept {
    value: String,
    next: String,
}

impl Kept {
    fn new(next: &str, now: UnixMillis) -> Result<Self, Failure> {
        let random =
            session::random().map_err(|_| Failure::internal(&"the system gives no random numbers"))?;
        let next = if next.len() > NEXT_LEN_MAX { crate::HOME } else { next };
        let hex: String = next.bytes().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { value: format!("{}.{}.{hex}", *random, now.0 / 1000), next: next.to_owned() })
    }

    fn read(headers: &HeaderMap, now: UnixMillis) -> Option<Self> {
        let value = cookie::find(headers, cookie::ATTEMPT)?;
        let mut parts = value.split('.');
        let (random, made_s, hex) = (parts.next()?, parts.next()?.parse::<u64>().ok()?, parts.next()?);
        let age_s = (now.0 / 1000).checked_sub(made_s)?;
        if random.is_empty() || age_s >= ATTEMPT_MAX_S || hex.len() % 2 != 0 {
            return None;
        }
        let byte = |at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
        let next: Option<Vec<u8>> = (0..hex.len()).step_by(2).map(byte).collect();
        let next = String::from_utf8(next?).ok()?;
        Some(Self { value: value.to_owned(), next: gate::local(&next).to_owned() })
    }
}

/// `GET /portal/sign-in/{name}?next=…`: on to the issuer.
pub(crate) async fn begin(
    State(portal): State<Arc<Portal>>,
    Path(name): Path<String>,
    request: Request,
) -> Response {
    let (address, (parts, _)) = (gate::address_of(&request), request.into_parts());
    let query = gate::pairs(parts.uri.query().unwrap_or_default().as_bytes());
    let next = gate::local(value(&query, "next")).to_owned();
    let begun = async {
        let name = name_of(&name)?;
        let kept = Kept::new(&next, portal.control.now())?;
        let (attempt, answer) = (Attempt::of(&kept.value, &name), answer_url(&portal, &name)?);
        let there = portal.api.authorization(address, &name, &answer, &attempt).await?;
        Ok((cookie::set(cookie::ATTEMPT, &kept.value, Some(ATTEMPT_MAX_S)), there))
    };
    let begun: Result<(HeaderValue, String), Failure> = begun.await;
    match begun {
        Ok((cookie, there)) => ([(header::SET_COOKIE, cookie)], Redirect::to(&there)).into_response(),
        Err(Failure(refusal)) => show(&portal, Theme::of(&parts.headers), &next, Some(&refusal)).await,
    }
}

/// `GET /portal/sign-in/{name}/answer?code=…&state=…`: back from the issuer.
pub(crate) async fn answer(
    State(portal): State<Arc<Portal>>,
    Path(name): Path<String>,
    request: Request,
) -> Response {
    let (address, (parts, _)) = (gate::address_of(&request), request.into_parts());
    let theme = Theme::of(&parts.headers);
    let query = gate::pairs(parts.uri.query().unwrap_or_default().as_bytes());
    let kept = Kept::read(&parts.headers, portal.control.now());
    let next = kept.as_ref().map_or_else(|| crate::HOME.to_owned(), |kept| kept.next.clone());
    let judged = judge(&portal, (&parts.headers, address), &name, kept.as_ref(), &query).await;
    let mut response = match judged {
        Err(Failure(refusal)) => show(&portal, theme, &next, Some(&refusal)).await,
        Ok(session) => match (SignedIn { frame: Frame::bare("Signed in", theme), next: &next }).render() {
            Ok(html) => (AppendHeaders([(header::SET_COOKIE, session)]), Html(html)).into_response(),
            Err(error) => layout::failed(None, &error.into()),
        },
    };
    response.headers_mut().append(header::SET_COOKIE, cookie::set(cookie::ATTEMPT, "", Some(0)));
    response
}

/// The session's cookie of whoever comes back, or why there is none.
async fn judge(
    portal: &Portal,
    (headers, address): (&HeaderMap, IpAddr),
    name: &str,
    kept: Option<&Kept>,
    query: &Pairs,
) -> Result<HeaderValue, Failure> {
    let name = name_of(name)?;
    let attempt = kept.map(|kept| Attempt::of(&kept.value, &name));
    // Before this nothing that the answer says is believed, or shown.
    let attempt = attempt.filter(|attempt| attempt.made_state(value(query, "state"))).ok_or_else(foreign)?;
    if query.iter().any(|(key, _)| key == "error") {
        let (error, description) = (value(query, "error"), value(query, "error_description"));
        let refusal: Refusal = portal.api.issuer_refused(&name, error, description).await;
        return Err(refusal.into());
    }
    let answer = answer_url(portal, &name)?;
    let code = (answer.as_str(), value(query, "code"));
    let token = portal.api.redeem(address, &name, code, &attempt).await?;
    admit(portal, headers, address, token).await
}

fn foreign() -> Failure {
    let message =
        "this answer of an issuer does not belong to a sign-in of this browser; nobody was signed in";
    Failure::new(StatusCode::FORBIDDEN, "portal.foreign-sign-in", message)
        .cause("more than ten minutes went by, it was used before, or somebody tries to have you signed in as somebody else")
        .remedy("begin anew here")
}

fn name_of(name: &str) -> Result<ObjectName, Failure> {
    name.parse().map_err(|_| Failure::not_found("sign-in", name))
}

fn value<'a>(pairs: &'a Pairs, name: &str) -> &'a str {
    pairs.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderMap, HeaderValue, header};
    use switchback_model::UnixMillis;

    use super::Kept;

    fn read(value: &str, now_s: u64) -> Option<String> {
        let mut headers = HeaderMap::new();
        let cookie = format!("__Host-switchback-sign-in={value}");
        headers.insert(header::COOKIE, HeaderValue::from_str(&cookie).unwrap());
        Kept::read(&headers, UnixMillis(now_s * 1000)).map(|kept| kept.next)
    }

    #[test]
    fn an_attempt_lasts_ten_minutes_and_leads_to_the_portal() {
        let value = Kept::new("/portal/machines?q=a%20b", UnixMillis(1_000_000)).unwrap().value;
        let there = Some("/portal/machines?q=a%20b".to_owned());
        assert_eq!((read(&value, 1_000), read(&value, 1_599)), (there.clone(), there));
        assert_eq!((read(&value, 1_600), read(&value, 999)), (None, None));
        let elsewhere = value.rsplit_once('.').unwrap().0.to_owned() + ".2f2f6578616d706c65";
        assert_eq!(read(&elsewhere, 1_000).as_deref(), Some("/portal/"));
        for wrong in ["", "a", "a.1000", "a.1000.2", "a.1000.zz", ".1000.2f", "a.x.2f", "a.1000.ff"] {
            assert_eq!(read(wrong, 1_000), None, "{wrong}");
        }
        let long = Kept::new(&format!("/portal/{}", "x".repeat(2000)), UnixMillis(0)).unwrap();
        assert_eq!((long.next.as_str(), long.value.len() < 200), ("/portal/", true));
    }
}
