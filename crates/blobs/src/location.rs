//! Where a replica's blobs are: the URL of a container, and a prefix in it. A SAS in the URL is a secret from the first moment.

use std::fmt;

use url::Url;

use crate::access::Secret;

/// A container, a prefix, and perhaps a SAS. Shown without that.
#[derive(Clone)]
pub struct Location {
    pub(crate) container: Url,
    pub(crate) sas: Option<Secret>,
    pub(crate) prefix: String,
    name: String,
}

/// Why a text is not the URL of a container.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is not the URL of a container: {detail}; it should be https://ACCOUNT.blob.core.windows.net/CONTAINER"
)]
pub struct LocationError {
    detail: &'static str,
}

impl Location {
    /// A container by its URL, with a SAS behind it or without; `prefix` is the folder of a replica in it.
    ///
    /// # Errors
    /// [`LocationError`], which does not show the URL.
    pub fn new(url: &str, prefix: &str) -> Result<Self, LocationError> {
        let refuse = |detail| Err(LocationError { detail });
        let Ok(mut container) = Url::parse(url) else { return refuse("it cannot be read") };
        if !matches!(container.scheme(), "https" | "http") || container.host_str().is_none() {
            return refuse("it does not begin with https://");
        }
        if !container.username().is_empty() || container.password().is_some() {
            return refuse("there is a user's name in it");
        }
        let sas = container.query().filter(|query| !query.is_empty()).map(|query| Secret::new(query.into()));
        container.set_query(None);
        container.set_fragment(None);
        if container.path().trim_matches('/').is_empty() {
            return refuse("the container's name is missing");
        }
        if prefix.is_empty() || prefix.starts_with('/') || prefix.ends_with('/') {
            return refuse("its folder must have a name, without / before or behind it");
        }
        let name = format!("{container}/{prefix}");
        Ok(Self { container, sas, prefix: prefix.into(), name })
    }

    /// What it is called in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Location").field(&self.name).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::Location;

    #[test]
    fn a_signature_is_never_shown() {
        let url = "https://acc.blob.core.windows.net/replicas?sv=2024&sig=SECRET%2Babc";
        let location = Location::new(url, "web-1").unwrap();
        assert_eq!(location.name(), "https://acc.blob.core.windows.net/replicas/web-1");
        assert!(!format!("{location:?}").contains("SECRET"));
        for wrong in ["ftp://h/c?sig=SECRET", "https://h/?sig=SECRET", "https://u:SECRET@h/c", "SECRET"] {
            let error = Location::new(wrong, "web-1").unwrap_err();
            assert!(!format!("{error} {error:?}").contains("SECRET"), "{error:?}");
        }
        Location::new(url, "a/").unwrap_err();
    }
}
