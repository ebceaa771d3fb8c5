//! The versions of the contract that are spoken. Their models of VMware and physical machines are the same.

use axum::http::StatusCode;

use super::call::query;
use super::error::ArmError;

/// The query's name for it.
pub(crate) const QUERY: &str = "api-version";
/// What is spoken: the newest SDK for JavaScript sends the first, the specification is the second, the newest for Python sends the third.
pub(crate) const VERSIONS: [&str; 3] = ["2023-06-01", "2024-04-01", "2025-08-01"];
/// The newest of them.
pub(crate) const NEWEST: &str = VERSIONS[2];

/// Whether a request names a version that is spoken. Vaults themselves are of another contract, with versions of its own: what is shown of them is
/// the same in all, so any is good.
pub(crate) fn check(pairs: &[(String, String)], is_vault: bool) -> Result<(), ArmError> {
    let known = VERSIONS.join(", ");
    match query(pairs, QUERY) {
        Some(version) if VERSIONS.contains(&version) || (is_vault && is_date(version)) => Ok(()),
        Some(version) => Err(ArmError::new(
            StatusCode::BAD_REQUEST,
            "InvalidApiVersionParameter",
            format!("the api-version {version:?} is not spoken here; those are: {known}"),
        )),
        None => Err(ArmError::new(
            StatusCode::BAD_REQUEST,
            "MissingApiVersionParameter",
            format!("the query parameter api-version is missing; it can be: {known}"),
        )),
    }
}

/// `YYYY-MM-DD`, or the same with `-preview`.
fn is_date(version: &str) -> bool {
    let date = version.strip_suffix("-preview").unwrap_or(version);
    let lengths: Vec<usize> = date.split('-').map(str::len).collect();
    lengths == [4, 2, 2] && date.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::{VERSIONS, check};

    #[test]
    fn known_versions_pass_and_others_are_told_which() {
        let checked = |name: &str, value: &str| check(&[(name.into(), value.into())], false);
        for version in VERSIONS {
            assert!(checked("Api-Version", version).is_ok(), "{version}");
        }
        let refusal = checked("api-version", "2018-01-10").unwrap_err();
        assert_eq!(
            (refusal.status.as_u16(), refusal.error.code.as_str()),
            (400, "InvalidApiVersionParameter")
        );
        assert!(VERSIONS.iter().all(|version| refusal.error.message.contains(version)));
        assert_eq!(check(&[], false).unwrap_err().error.code, "MissingApiVersionParameter");
    }

    #[test]
    fn a_vault_itself_is_shown_in_any_version() {
        let checked = |value: &str| check(&[("api-version".into(), value.into())], true);
        for version in ["2026-11-01", "2016-06-01", "2025-02-28-preview"] {
            assert!(checked(version).is_ok(), "{version}");
        }
        for wrong in ["latest", "2026-1-01", "2026-11-01-beta", "20261101"] {
            assert!(checked(wrong).is_err(), "{wrong}");
        }
    }
}
