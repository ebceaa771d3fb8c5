//! The portal's cookies: the session's id, how pages look, and what binds a sign-in at an issuer to its browser.
//!
//! Invariant: all are for this host and its whole port alone (`__Host-`), never sent without TLS, never with a request that another site caused, and not readable
//! by scripts. The last one alone comes with somebody who is led here from elsewhere (`Lax`): from the issuer.

use axum::http::{HeaderMap, HeaderValue, header};

/// The session's id.
pub(crate) const SESSION: &str = "__Host-switchback";
/// `light` or `dark`, where somebody chose.
pub(crate) const THEME: &str = "__Host-switchback-theme";

/// What an attempt to sign in at an issuer is made of.
pub(crate) const ATTEMPT: &str = "__Host-switchback-sign-in";

/// A cookie's value; the first, where there are several of one name.
pub(crate) fn find<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    all.flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(found, _)| *found == name)
        .map(|(_, value)| value)
}

/// A header that sets a cookie. `value` is ours: letters, digits, `.`, `-` and `_`. Without a time it goes when the browser is closed; 0 deletes it.
pub(crate) fn set(name: &str, value: &str, max_age_s: Option<u64>) -> HeaderValue {
    let age = max_age_s.map(|seconds| format!("; Max-Age={seconds}")).unwrap_or_default();
    let site = if name == ATTEMPT { "Lax" } else { "Strict" };
    let text = format!("{name}={value}; Path=/; Secure; HttpOnly; SameSite={site}{age}");
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderMap, HeaderValue, header};

    use super::{ATTEMPT, SESSION, find, set};

    #[test]
    fn a_cookie_is_found_by_its_whole_name() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, HeaderValue::from_static("x__Host-switchback=0; a=b"));
        headers
            .append(header::COOKIE, HeaderValue::from_static("c; __Host-switchback=1;__Host-switchback=2"));
        assert_eq!(
            (find(&headers, SESSION), find(&headers, "a"), find(&headers, "z")),
            (Some("1"), Some("b"), None)
        );
    }

    #[test]
    fn a_cookie_is_for_this_host_and_for_tls() {
        let text = set(SESSION, "abc", None);
        assert_eq!(text, "__Host-switchback=abc; Path=/; Secure; HttpOnly; SameSite=Strict");
        let attempt = set(ATTEMPT, "abc", Some(600)).to_str().unwrap().to_owned();
        assert!(attempt.ends_with("; Secure; HttpOnly; SameSite=Lax; Max-Age=600"), "{attempt}");
        assert!(set(SESSION, "", Some(0)).to_str().unwrap().ends_with("; Max-Age=0"));
    }
}
