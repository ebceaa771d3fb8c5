//! Paths as Azure Resource Manager takes them: types and actions without regard to case, names with theirs.
//!
//! Invariant: normalising twice is normalising once. A path alternates between types and names
//! (`/subscriptions/{s}/resourceGroups/{g}/providers/{namespace}/vaults/{v}/{type}/{name}/…/{action}`), so the types are every second
//! segment from the first, and the namespace, the one literal among the names, is the sixth. No table of known segments is needed.

use axum::extract::Request;
use axum::http::Uri;
use axum::http::uri::PathAndQuery;

/// Position of the namespace (`Microsoft.RecoveryServices`) among the segments.
const NAMESPACE: usize = 5;

/// The path with types and actions in lower case, and without empty segments (a client's base address may end with a slash).
pub(crate) fn normalise(path: &str) -> String {
    let mut normal = String::with_capacity(path.len());
    for (index, segment) in path.split('/').filter(|segment| !segment.is_empty()).enumerate() {
        normal.push('/');
        if index % 2 == 0 || index == NAMESPACE {
            normal.push_str(&segment.to_ascii_lowercase());
        } else {
            normal.push_str(segment);
        }
    }
    if normal.is_empty() { "/".into() } else { normal }
}

/// A request with its path normalised; its query stays as it is.
pub(crate) fn normalise_request(mut request: Request) -> Request {
    let uri = request.uri();
    let path = normalise(uri.path());
    if path != uri.path() {
        let path_and_query = match uri.query() {
            Some(query) => format!("{path}?{query}"),
            None => path,
        };
        let mut parts = uri.clone().into_parts();
        // Both halves come from a valid one, so this holds; if not, the request goes on as it came and is not found.
        if let Ok(valid) = path_and_query.parse::<PathAndQuery>() {
            parts.path_and_query = Some(valid);
            if let Ok(uri) = Uri::from_parts(parts) {
                *request.uri_mut() = uri;
            }
        }
    }
    request
}

/// A name as a segment of a path, or a value of a query: everything but unreserved characters (RFC 3986, 2.3) is percent-encoded.
#[must_use]
pub fn encode(name: &str) -> String {
    let mut encoded = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// The reverse of [`encode`]; what is not valid stays as it is.
pub(crate) fn decode(segment: &str) -> String {
    let bytes = segment.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let digit = |offset: usize| bytes.get(at + offset).and_then(|digit| char::from(*digit).to_digit(16));
        match (byte, digit(1), digit(2)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push(u8::try_from(high * 16 + low).unwrap_or(b'?'));
                at += 3;
            }
            _ => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(decoded).unwrap_or_else(|_| segment.to_owned())
}

#[cfg(test)]
mod tests {
    use super::{decode, encode, normalise, normalise_request};

    #[test]
    fn types_lose_their_case_and_names_keep_it() {
        let mixed = "/Subscriptions/S-1/resourceGroups/RG/Providers/microsoft.recoveryservices/Vaults/V1/replicationFabrics/Home\
                     /replicationProtectionContainers/Cloud_1/replicationProtectedItems/Web01/unplannedFailover";
        let normal = "/subscriptions/S-1/resourcegroups/RG/providers/microsoft.recoveryservices/vaults/V1/replicationfabrics/Home\
                      /replicationprotectioncontainers/Cloud_1/replicationprotecteditems/Web01/unplannedfailover";
        assert_eq!(normalise(mixed), normal);
        assert_eq!(normalise(normal), normal);
    }

    #[test]
    fn empty_segments_go_away() {
        assert_eq!(normalise("//subscriptions/S//"), "/subscriptions/S");
        assert_eq!(normalise("/"), "/");
        assert_eq!(normalise(""), "/");
    }

    #[test]
    fn a_query_is_left_alone() {
        let request = axum::http::Request::get("/SUBSCRIPTIONS/S?Api-Version=A%20B")
            .body(axum::body::Body::empty())
            .unwrap();
        assert_eq!(normalise_request(request).uri(), "/subscriptions/S?Api-Version=A%20B");
    }

    #[test]
    fn names_survive_a_path() {
        for name in ["web01", "VM Network", "a/b", "bridge br0 (10.1.0.0/24)", "Zürich", "100%", "%41"] {
            assert_eq!(decode(&encode(name)), name);
            assert!(!encode(name).contains(['/', ' ']), "{name}");
        }
        assert_eq!(decode("%zz%4"), "%zz%4");
    }
}
