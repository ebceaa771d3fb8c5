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

/// Whether a request names a version that is spoken.
pub(crate) fn check(pairs: &[(String, String)]) -> Result<(), ArmError> {
    let known = VERSIONS.join(", ");
    match query(pairs, QUERY) {
        Some(version) if VERSIONS.contains(&version) => Ok(()),
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

#[cfg(test)]
mod tests {
    use super::{VERSIONS, check};

    #[test]
    fn known_versions_pass_and_others_are_told_which() {
        let checked = |name: &str, value: &str| check(&[(name.into(), value.into())]);
        for version in VERSIONS {
            assert!(checked("Api-Version", version).is_ok(), "{version}");
        }
        let refusal = checked("api-version", "2018-01-10").unwrap_err();
        assert_eq!(
            (refusal.status.as_u16(), refusal.error.code.as_str()),
            (400, "InvalidApiVersionParameter")
        );
        assert!(VERSIONS.iter().all(|version| refusal.error.message.contains(version)));
        assert_eq!(check(&[]).unwrap_err().error.code, "MissingApiVersionParameter");
    }
}
