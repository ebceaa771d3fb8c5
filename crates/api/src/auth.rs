//! Who asks, and what that one may do. Whose a token is, the control plane says of ours (`sbt_…`), and `sign_in` of issuers'.
//!
//! Invariant: every request is judged here, in one place, before its handler runs; what the table does not know needs the highest role. A token is
//! never logged, neither in an error nor in the audit log.

use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use switchback_model::AccessRole;

use crate::arm::ArmError;
use crate::clients::Client;
use crate::sign_in;

/// Longest token in bytes that is looked at at all. Ours are short; those of Entra ID with 200 groups have some 10 KiB.
const TOKEN_LEN_MAX: usize = 16 << 10;

/// Whoever asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    /// The token's name, or `SIGN-IN/WHO`. No token's name has a `/`.
    pub(crate) name: String,
    /// Whose limits count.
    pub(crate) client: Client,
    pub(crate) standing: Standing,
}

/// What a caller may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Role(AccessRole),
    /// Nothing: the issuer vouches for the caller, but no sign-in gives that one a role. Says what was looked at.
    NoRole(String),
}

/// Actions on something, by the last segment of the path, that an Operator may do: what Azure's role "Site Recovery Operator" may, and what looks only.
const OPERATOR_ACTIONS: [&str; 14] = [
    "applyrecoverypoint",
    "cancel",
    "failovercancel",
    "failovercommit",
    "plannedfailover",
    "repairreplication",
    "reprotect",
    "restart",
    "resume",
    "testfailover",
    "testfailovercleanup",
    "unplannedfailover",
    // These change nothing.
    "resolvehealtherrors",
    "verify",
];
/// Types, by their segment, that only a Contributor may even look at: they tell who has access, or (addresses of webhooks) may give it.
const CONTRIBUTOR_TYPES: [&str; 6] = [
    "switchbacktokens",
    "switchbackaudit",
    "switchbackenrolment",
    "switchbackaccounts",
    "switchbacksignin",
    "switchbackalertdestinations",
];

/// The role that a request needs; `path` is normalised.
pub(crate) fn role_needed(method: &Method, path: &str) -> AccessRole {
    let mut types = path.split('/').skip(1).step_by(2);
    if types.any(|segment| CONTRIBUTOR_TYPES.contains(&segment)) {
        return AccessRole::Contributor;
    }
    let last = path.rsplit('/').next().unwrap_or_default();
    match *method {
        Method::GET | Method::HEAD => AccessRole::Reader,
        Method::POST if OPERATOR_ACTIONS.contains(&last) => AccessRole::Operator,
        _ => AccessRole::Contributor,
    }
}

/// The token of a request.
pub(crate) fn bearer(headers: &HeaderMap) -> Result<String, ArmError> {
    let value = headers.get(header::AUTHORIZATION).ok_or_else(|| {
        unauthenticated("the request has no Authorization header")
            .remedy("send `Authorization: Bearer TOKEN`")
    })?;
    let text = value.to_str().unwrap_or_default().trim();
    let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
    let token = token.trim();
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() || token.len() > TOKEN_LEN_MAX {
        return Err(unauthenticated("the Authorization header is not `Bearer TOKEN`"));
    }
    Ok(token.to_owned())
}

/// Nobody knows the token.
pub(crate) fn unknown_token() -> ArmError {
    unauthenticated("the token is not known here")
        .cause("it was deleted, it belongs to another configuration server, or it was not copied whole")
        .remedy("ask a Contributor for a new token")
}

fn unauthenticated(message: &str) -> ArmError {
    ArmError::new(StatusCode::UNAUTHORIZED, "AuthenticationFailed", message)
}

/// A refusal as an answer; for an issuer's token it says to programs what is wrong (RFC 6750, section 3).
pub(crate) fn refuse(refusal: ArmError) -> Response {
    let is_issuers = [sign_in::EXPIRED, sign_in::INVALID].contains(&refusal.error.code.as_str());
    let plain = |c: &char| c.is_ascii() && !c.is_ascii_control() && !matches!(c, '"' | '\\');
    let challenge = is_issuers.then(|| {
        let description: String = refusal.error.message.chars().filter(plain).collect();
        format!("Bearer error=\"invalid_token\", error_description=\"{description}\"")
    });
    let mut response = refusal.into_response();
    if let Some(value) = challenge.and_then(|text| HeaderValue::from_str(&text).ok()) {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, value);
    }
    response
}

/// What the caller may do in general.
pub(crate) fn role_of(caller: &Caller) -> Result<AccessRole, ArmError> {
    match &caller.standing {
        Standing::Role(role) => Ok(*role),
        Standing::NoRole(looked_at) => {
            let message = format!("the token of {} is good, but has no role here: {looked_at}", caller.name);
            Err(forbidden(message)
                .cause("its issuer gives this user or application nothing that a role is mapped to")
                .remedy("let the issuer give it such a role or group, or map one that it has with `switchback sign-in set`"))
        }
    }
}

/// Whether the caller may.
pub(crate) fn authorise(caller: &Caller, method: &Method, path: &str) -> Result<(), ArmError> {
    let (role, needed) = (role_of(caller)?, role_needed(method, path));
    if role >= needed {
        return Ok(());
    }
    let message =
        format!("the token {} has the role {role:?}; {method} {path} needs {needed:?}", caller.name);
    Err(forbidden(message).remedy(format!("use a token with the role {needed:?}")))
}

fn forbidden(message: String) -> ArmError {
    ArmError::new(StatusCode::FORBIDDEN, "AuthorizationFailed", message)
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderMap, HeaderValue, Method, header};
    use switchback_model::AccessRole::{Contributor, Operator, Reader};

    use super::{Caller, Standing, authorise, bearer, role_needed};
    use crate::clients::Client;

    fn vault(rest: &str) -> String {
        format!("/subscriptions/s/resourcegroups/g/providers/microsoft.recoveryservices/vaults/v/{rest}")
    }

    #[test]
    fn each_request_needs_its_role() {
        let item =
            "replicationfabrics/home/replicationprotectioncontainers/c/replicationprotecteditems/web01";
        let cases = [
            (Method::GET, item.to_owned(), Reader),
            (Method::GET, "replicationjobs".into(), Reader),
            (Method::POST, format!("{item}/unplannedfailover"), Operator),
            (Method::POST, format!("{item}/reprotect"), Operator),
            (Method::POST, "replicationjobs/1/cancel".into(), Operator),
            (Method::POST, format!("{item}/remove"), Contributor),
            (Method::POST, "switchbackprotectedmachines/web01/verify".into(), Operator),
            (Method::GET, "switchbackprotectedmachines/web01/proofs/1/picture".into(), Reader),
            (Method::PUT, "switchbackprotectedmachines/web01/proving".into(), Contributor),
            (Method::POST, format!("{item}/somethingnew"), Contributor),
            (Method::PUT, item.to_owned(), Contributor),
            (Method::DELETE, "replicationpolicies/pg1".into(), Contributor),
            (Method::PATCH, "replicationrecoveryplans/rp".into(), Contributor),
            (Method::GET, "switchbacktokens".into(), Contributor),
            (Method::GET, "switchbackaudit".into(), Contributor),
            (Method::GET, "switchbackalertdestinations/mail".into(), Contributor),
            (Method::POST, "switchbackalertdestinations/mail/test".into(), Contributor),
            (Method::POST, "switchbackenrolment/default/showpassphrase".into(), Contributor),
            // A machine that is called like a type is not one.
            (Method::GET, "replicationpolicies/switchbacktokens".into(), Reader),
        ];
        for (method, path, role) in cases {
            assert_eq!(role_needed(&method, &vault(&path)), role, "{method} {path}");
        }
    }

    #[test]
    fn a_lower_role_is_refused_by_name_and_a_higher_one_may() {
        let path = vault("replicationpolicies/pg1");
        let caller = |role| Caller {
            name: "ci".into(),
            client: Client::Token("ci".into()),
            standing: Standing::Role(role),
        };
        let refusal = authorise(&caller(Operator), &Method::PUT, &path).unwrap_err();
        assert_eq!(refusal.status, 403);
        assert!(refusal.error.message.contains("ci") && refusal.error.message.contains("Contributor"));
        assert!(authorise(&caller(Contributor), &Method::PUT, &path).is_ok());
        assert!(authorise(&caller(Reader), &Method::GET, &path).is_ok());
    }

    #[test]
    fn a_token_is_read_and_never_repeated() {
        let read = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
            bearer(&headers)
        };
        assert_eq!(read("Bearer sbt_1").unwrap(), "sbt_1");
        assert_eq!(read("bearer  sbt_1 ").unwrap(), "sbt_1");
        for bad in [
            "Basic secretsecret",
            "Bearer",
            "Bearer ",
            "secretsecret",
            &format!("Bearer {}", "x".repeat(20_000)),
        ] {
            let refusal = read(bad).unwrap_err();
            assert_eq!(refusal.status, 401, "{bad}");
            assert!(!refusal.to_string().contains("secretsecret"), "{refusal}");
        }
        assert_eq!(bearer(&HeaderMap::new()).unwrap_err().status, 401);
    }
}
