//! Tokens of issuers: good ones, every way of being wrong, issuers that change their keys or are not there.

use std::time::Duration;

use serde_json::{Value, json};
use switchback_api::{ApiLimits, SignInLimits, Vault};
use switchback_control::{RoleMapping, SignIn};
use switchback_disk::Clock as _;
use switchback_model::AccessRole;

use crate::issuer::{Issuer, Key, Mood, encode, unsigned};
use crate::server::{Answered, Server};

const AUDIENCE: &str = "api://switchback";

fn uri(path: &str) -> String {
    format!("{}/{path}?api-version=2024-04-01", Vault::default().id())
}

fn sign_in(name: &str, issuer: &Issuer) -> SignIn {
    let mapped = |role, value: &str| RoleMapping { role, value: value.into() };
    SignIn {
        name: name.parse().unwrap(),
        issuer: issuer.address.clone(),
        audiences: vec![AUDIENCE.into(), "6e1c0d6b-client".into()],
        claim: "roles".into(),
        roles: vec![
            mapped(AccessRole::Reader, "Dr.Read"),
            mapped(AccessRole::Contributor, "Dr.All"),
            mapped(AccessRole::Operator, "Dr.Operate"),
        ],
        authority: Some(issuer.authority.clone()),
        portal: None,
    }
}

/// A server that takes the tokens of one issuer with one RSA key, `k1`.
struct Rig {
    server: Server,
    issuer: Issuer,
    key: Key,
}

impl Rig {
    async fn new() -> Self {
        Self::with(SignInLimits::default()).await
    }

    async fn with(sign_in_limits: SignInLimits) -> Self {
        let key = Key::rsa();
        let issuer = Issuer::start(&[("k1", &key)]).await;
        let server = Server::with_limits(ApiLimits { sign_in: sign_in_limits, ..ApiLimits::default() });
        // Times before 1970 are none.
        server.world.clock.advance(1_800_000_000);
        server.world.control.set_sign_in(sign_in("entra", &issuer), None).unwrap();
        Self { server, issuer, key }
    }

    fn now(&self) -> u64 {
        self.server.world.clock.now().0 / 1000
    }

    /// Good claims of a user with a role.
    fn claims(&self, role: &str) -> Value {
        let now = self.now();
        json!({
            "iss": self.issuer.address, "aud": AUDIENCE, "exp": now + 3600, "nbf": now, "iat": now,
            "sub": "AAAAb1", "preferred_username": "alice@example.com", "roles": [role],
        })
    }

    fn token(&self, claims: &Value) -> String {
        self.key.token("RS256", Some("k1"), claims)
    }

    async fn read(&self, token: &str) -> Answered {
        self.server.raw("GET", &uri("replicationPolicies/PG1"), Some(token), Vec::new()).await
    }
}

fn refused(answered: &Answered, because: &str) {
    let message = answered.body["error"]["message"].as_str().unwrap_or_default();
    assert_eq!(answered.status, 401, "{because}: {:#}", answered.body);
    assert!(message.contains(because), "{because}: {message}");
    let challenge = answered.header("www-authenticate");
    assert!(challenge.starts_with("Bearer error=\"invalid_token\", error_description=\""), "{challenge}");
    assert!(["InvalidAuthenticationToken", "ExpiredAuthenticationToken"].contains(&answered.code()));
}

#[tokio::test]
async fn roles_come_from_the_token_and_the_audit_log_says_whose_it_was() {
    let rig = Rig::new().await;
    let reader = rig.token(&rig.claims("Dr.Read"));
    assert_eq!(rig.read(&reader).await.status, 200);
    let policy = uri("replicationPolicies/PG1");
    let delete = async |token: &str| rig.server.raw("DELETE", &policy, Some(token), Vec::new()).await;
    let answered = delete(&reader).await;
    assert_eq!((answered.status.as_u16(), answered.code()), (403, "AuthorizationFailed"));
    assert!(answered.body.to_string().contains("entra/alice@example.com"), "{:#}", answered.body);
    // An application has no user; the highest of its roles counts.
    let mut claims = rig.claims("Dr.Read");
    claims.as_object_mut().unwrap().remove("preferred_username");
    claims["azp"] = "11112222-app".into();
    claims["roles"] = json!(["Dr.Read", "Dr.All", "Dr.Operate", "Dr.Unknown"]);
    assert_eq!(delete(&rig.token(&claims)).await.status, 204);
    // A name that tries to look like another, or like two lines.
    claims = rig.claims("Dr.Read");
    claims["preferred_username"] = format!("root\n\u{202e}{}", "x".repeat(500)).into();
    assert_eq!(delete(&rig.token(&claims)).await.status, 403);

    let audit = rig.server.get("switchbackAudit").await;
    let lines = audit["value"].as_array().unwrap().iter();
    let mut lines: Vec<_> =
        lines.map(|line| (line["by"].as_str().unwrap(), line["status"].as_u64().unwrap())).collect();
    lines.sort_unstable();
    let long = format!("entra/root__{}", "x".repeat(122));
    assert_eq!(lines, [("entra/11112222-app", 204), ("entra/alice@example.com", 403), (long.as_str(), 403)]);
}

#[tokio::test]
async fn tokens_of_entra_id_say_who_it_is_in_their_own_ways() {
    let rig = Rig::new().await;
    let cases = [
        // v1, a user by way of the Azure CLI.
        (json!({ "appid": "cli", "upn": "bob@example.com", "scp": "user_impersonation" }), "bob@example.com"),
        (
            json!({ "appid": "cli", "unique_name": "live.com#carol@example.com" }),
            "live.com#carol@example.com",
        ),
        // A user without a name, and not the program.
        (json!({ "azp": "cli", "scp": "user_impersonation" }), "AAAAb1"),
        (json!({ "appid": "automation", "appidacr": "1" }), "automation"),
        (json!({ "azp": "automation", "preferred_username": "" }), "automation"),
        (json!({}), "AAAAb1"),
    ];
    for (extra, who) in cases {
        let mut claims = rig.claims("Nothing");
        let all = claims.as_object_mut().unwrap();
        all.remove("preferred_username");
        all.extend(extra.as_object().unwrap().clone());
        let message = rig.read(&rig.token(&claims)).await.body["error"]["message"].to_string();
        assert!(message.contains(&format!("the token of entra/{who} is good")), "{who}: {message}");
    }
}

#[tokio::test]
async fn all_algorithms_audiences_and_claims_that_are_taken() {
    let rig = Rig::new().await;
    let ec = Key::ec();
    rig.issuer.show(&[("k1", &rig.key), ("e1", &ec)]);
    let claims = rig.claims("Dr.Read");
    let tokens = [
        rig.key.token("RS256", Some("k1"), &claims),
        rig.key.token("PS256", Some("k1"), &claims),
        ec.token("ES256", Some("e1"), &claims),
        // Each kind of key is there once, so that no id is needed.
        rig.key.token("RS256", None, &claims),
    ];
    for (n, token) in tokens.iter().enumerate() {
        let answered = rig.read(token).await;
        assert_eq!(answered.status, 200, "{n}: {:#}", answered.body);
    }
    let changed = |name: &str, value: Value| {
        let mut claims = claims.clone();
        claims[name] = value;
        rig.token(&claims)
    };
    let now = rig.now();
    for token in [
        changed("aud", json!(["https://other", "6e1c0d6b-client"])),
        changed("roles", json!("Dr.Read")),
        changed("nbf", json!(now + 59)),
        changed("exp", json!(now - 59)),
        changed("exp", json!(f64::from(u32::try_from(now).unwrap()) + 0.5)),
    ] {
        assert_eq!(rig.read(&token).await.status, 200);
    }
    let nested = SignIn { claim: "/realm_access/roles".into(), ..sign_in("entra", &rig.issuer) };
    rig.server.world.control.set_sign_in(nested, None).unwrap();
    assert_eq!(rig.read(&changed("realm_access", json!({ "roles": ["Dr.Read"] }))).await.status, 200);
    assert_eq!(rig.issuer.asked(), 1);
}

#[tokio::test]
async fn every_way_of_being_wrong_is_refused_and_said() {
    let rig = Rig::new().await;
    let (good, now) = (rig.claims("Dr.All"), rig.now());
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        rig.token(&claims)
    };
    let without = |name: &str| {
        let mut claims = good.clone();
        claims.as_object_mut().unwrap().remove(name);
        rig.token(&claims)
    };
    assert_eq!(rig.read(&rig.token(&good)).await.status, 200);
    let cases = [
        (with("iss", json!("https://login.example/other")), "no sign-in here has the token's issuer"),
        (with("iss", json!(format!("{}/", rig.issuer.address))), "no sign-in here has"),
        (
            with("aud", json!("https://management.azure.com")),
            "for \"https://management.azure.com\", and not for",
        ),
        (with("aud", json!(["a", 7])), "for \"a\", and not for"),
        (without("aud"), "for nothing (it is not there)"),
        (with("exp", json!(now - 60)), "the token expired 60 s ago"),
        (without("exp"), "no end"),
        (with("exp", json!("soon")), "`exp` is no time"),
        (with("nbf", json!(now + 61)), "the token is good only in 61 s"),
        (with("exp", json!(now + 31 * 3600)), "lives longer than"),
        (with("iat", json!(now - 40 * 3600)), "lives longer than"),
        (without("iss"), "`iss`"),
    ];
    for (token, because) in &cases {
        refused(&rig.read(token).await, because);
    }
    assert_eq!(rig.read(&cases[5].0).await.code(), "ExpiredAuthenticationToken");
    assert_eq!(rig.issuer.asked(), 1);
}

#[tokio::test]
async fn nobody_but_the_issuer_can_sign() {
    let rig = Rig::new().await;
    let good = rig.claims("Dr.All");
    let (stranger, head) = (Key::rsa(), |alg: &str| json!({ "alg": alg, "kid": "k1" }));
    let shown = rig.key.shown("k1");
    // The public key, which everybody knows, as a shared secret: its bytes, and the document that it is shown in.
    let secret = |secret: &[u8]| {
        let message = unsigned(&head("HS256"), &good);
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret);
        let tag = aws_lc_rs::hmac::sign(&key, message.as_bytes());
        format!("{message}.{}", encode(tag.as_ref()))
    };
    let (one, other) = (rig.token(&good), rig.token(&rig.claims("Dr.Read")));
    let mut parts: Vec<_> = other.split('.').collect();
    parts[1] = one.split('.').nth(1).unwrap();
    let ec = Key::ec();
    for (token, because) in [
        (format!("{}.", unsigned(&head("none"), &good)), "signed by \"none\""),
        (format!("{}.", unsigned(&head("RS256"), &good)), "not good"),
        (secret(shown["n"].as_str().unwrap().as_bytes()), "signed by \"HS256\""),
        (secret(shown.to_string().as_bytes()), "signed by \"HS256\""),
        (stranger.token("RS256", Some("k1"), &good), "not good"),
        (parts.join("."), "not good"),
        // A key of the other family under the id of the right one.
        (ec.token("ES256", Some("k1"), &good), "names the key \"k1\""),
        (stranger.token("RS256", Some("unknown"), &good), "names the key \"unknown\""),
        (rig.key.token("RS256", Some("for-encryption"), &good), "names the key \"for-encryption\""),
        (
            rig.key.token_with(&json!({ "alg": "RS256", "kid": "k1", "crit": ["x"] }), &good),
            "demands extensions",
        ),
        (rig.key.token("RS384", Some("k1"), &good), "signed by \"RS384\""),
        ("a.b.c".into(), "head cannot be read"),
        ("..".into(), "head cannot be read"),
    ] {
        refused(&rig.read(&token).await, because);
    }
    assert_eq!(rig.issuer.asked(), 1, "nobody makes us ask again and again");
    let enormous = rig.read(&format!("{}.{}.c", "a".repeat(20_000), "b".repeat(20_000))).await;
    assert_eq!((enormous.status.as_u16(), enormous.code()), (401, "AuthenticationFailed"));
}

#[tokio::test]
async fn a_good_token_without_a_role_is_told_what_was_looked_at() {
    let rig = Rig::new().await;
    let mut claims = rig.claims("Something");
    let (token, policy) = (rig.token(&claims), uri("replicationPolicies/PG1"));
    let refusal = rig.server.raw("DELETE", &policy, Some(&token), Vec::new()).await;
    assert_eq!((refusal.status.as_u16(), refusal.code()), (403, "AuthorizationFailed"));
    let message = refusal.body["error"]["message"].as_str().unwrap().to_owned();
    assert!(
        message.contains("claim `roles` has \"Something\"") && message.contains("sign-in entra"),
        "{message}"
    );
    let audit = rig.server.get("switchbackAudit").await;
    assert_eq!(audit["value"][0]["by"], "entra/alice@example.com", "{audit:#}");
    for (roles, said) in [
        (json!([]), "has no text in it"),
        (json!((0..50).map(|n| format!("r{n}")).collect::<Vec<_>>()), "\"r9\" and 40 more"),
        (json!(["\u{1b}[31m"]), "has \"_[31m\""),
    ] {
        claims["roles"] = roles;
        let answered = rig.read(&rig.token(&claims)).await;
        assert_eq!(answered.status, 403);
        let message = answered.body["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.contains(said), "{said}: {message}");
    }
    // Entra ID leaves out the groups of whoever is in too many.
    claims.as_object_mut().unwrap().remove("roles");
    claims["_claim_names"] = json!({ "roles": "src1" });
    assert!(rig.read(&rig.token(&claims)).await.body.to_string().contains("left out by the issuer"));
}

#[tokio::test]
async fn keys_that_the_issuer_changes_are_found_and_old_ones_go() {
    let rig = Rig::with(SignInLimits { ask_every: Duration::ZERO, ..SignInLimits::default() }).await;
    let claims = rig.claims("Dr.Read");
    assert_eq!(rig.read(&rig.token(&claims)).await.status, 200);
    let new = Key::rsa();
    rig.issuer.show(&[("k2", &new)]);
    assert_eq!(rig.read(&new.token("RS256", Some("k2"), &claims)).await.status, 200);
    refused(&rig.read(&rig.token(&claims)).await, "names the key \"k1\"");
    // The same id, another key.
    rig.issuer.show(&[("k2", &rig.key)]);
    refused(&rig.read(&new.token("RS256", Some("k9"), &claims)).await, "names the key \"k9\"");
    refused(&rig.read(&new.token("RS256", Some("k2"), &claims)).await, "not good");
}

#[tokio::test]
async fn keys_outlive_their_issuer_for_a_while() {
    let limits =
        SignInLimits { ask_every: Duration::ZERO, fresh_for: Duration::ZERO, ..SignInLimits::default() };
    let rig = Rig::with(limits).await;
    let token = rig.token(&rig.claims("Dr.Read"));
    assert_eq!(rig.read(&token).await.status, 200);
    rig.issuer.is(Mood::Down);
    let asked = rig.issuer.asked();
    assert_eq!(rig.read(&token).await.status, 200, "answered from memory");
    rig.issuer.is_asked_after(asked).await;
    assert_eq!(rig.read(&token).await.status, 200, "after it was asked in vain");

    let limits = SignInLimits { kept_for: Duration::ZERO, ..limits };
    let rig = Rig::with(limits).await;
    let token = rig.token(&rig.claims("Dr.Read"));
    rig.issuer.is(Mood::Down);
    let answered = rig.read(&token).await;
    assert_eq!((answered.status.as_u16(), answered.code()), (503, "IssuerUnavailable"), "too old");
}

#[tokio::test]
async fn a_dead_issuer_costs_its_own_callers_an_answer_and_nobody_else_anything() {
    let limits =
        SignInLimits { waiting_max: 1, fetch_max: Duration::from_secs(3600), ..SignInLimits::default() };
    let rig = Rig::with(limits).await;
    rig.issuer.is(Mood::Silent);
    let token = rig.token(&rig.claims("Dr.Read"));
    let mut waiting = tokio::task::JoinSet::new();
    let (router, first) = (rig.server.router(), token.clone());
    waiting.spawn(async move { crate::server::status_of(router, &uri("replicationJobs"), &first).await });
    rig.issuer.is_asked_after(0).await;
    let answered = rig.read(&token).await;
    assert_eq!((answered.status.as_u16(), answered.header("retry-after")), (503, "1"), "{:#}", answered.body);
    assert_eq!(rig.read(&rig.server.token).await.status, 200);
    waiting.abort_all();

    let rig = Rig::new().await;
    rig.issuer.is(Mood::Down);
    for _ in 0..3 {
        let answered = rig.read(&rig.token(&rig.claims("Dr.Read"))).await;
        assert_eq!((answered.status.as_u16(), answered.code()), (503, "IssuerUnavailable"));
        assert_eq!(answered.header("retry-after"), "30");
        let message = answered.body["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.contains(&rig.issuer.address) && message.contains("entra"), "{message}");
    }
    assert_eq!(rig.issuer.asked(), 1);
    assert_eq!(rig.read(&rig.server.token).await.status, 200);
}

#[tokio::test]
async fn what_an_issuer_shows_is_not_believed_blindly() {
    let rig = Rig::with(SignInLimits { ask_every: Duration::ZERO, ..SignInLimits::default() }).await;
    let token = rig.token(&rig.claims("Dr.Read"));
    let discovery = rig.issuer.served.lock().unwrap().discovery.clone();
    let with = |name: &str, value: Value| {
        let mut discovery = discovery.clone();
        discovery[name] = value;
        discovery
    };
    let plain = discovery["jwks_uri"].as_str().unwrap().replace("https:", "http:");
    for (discovery, said) in [
        (with("issuer", json!("https://other.example")), "calls itself \"https://other.example\""),
        (with("jwks_uri", json!(plain)), "URL scheme is not allowed"),
        (with("jwks_uri", Value::Null), "is not what it should be"),
        (with("padding", json!("x".repeat(300_000))), "is over 262144 bytes"),
    ] {
        rig.issuer.served.lock().unwrap().discovery = discovery;
        let answered = rig.read(&token).await;
        let message = answered.body["error"]["message"].as_str().unwrap_or_default();
        assert!(answered.status == 503 && message.contains(said), "{said}: {message}");
    }
    rig.issuer.served.lock().unwrap().discovery = discovery;
    // By the host's authorities its certificate is nobody's.
    let public = SignIn { authority: None, ..sign_in("entra", &rig.issuer) };
    rig.server.world.control.set_sign_in(public, None).unwrap();
    let message = rig.read(&token).await.body["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("UnknownIssuer"), "{message}");
    rig.server.world.control.set_sign_in(sign_in("entra", &rig.issuer), None).unwrap();
    assert_eq!(rig.read(&token).await.status, 200);
}

#[tokio::test]
async fn two_issuers_vouch_for_their_own_only() {
    let rig = Rig::new().await;
    let other_key = Key::ec();
    let other = Issuer::start(&[("k1", &other_key)]).await;
    rig.server.world.control.set_sign_in(sign_in("keycloak", &other), None).unwrap();
    let mine = rig.claims("Dr.Read");
    let mut theirs = mine.clone();
    theirs["iss"] = other.address.clone().into();
    assert_eq!(rig.read(&rig.token(&mine)).await.status, 200);
    assert_eq!(rig.read(&other_key.token("ES256", Some("k1"), &theirs)).await.status, 200);
    refused(&rig.read(&other_key.token("ES256", Some("k1"), &mine)).await, "names the key");
    refused(&rig.read(&rig.token(&theirs)).await, "names the key");
    rig.server.world.control.delete_sign_in(&"entra".parse().unwrap()).unwrap();
    refused(&rig.read(&rig.token(&mine)).await, "no sign-in here has");
    assert_eq!(rig.read(&other_key.token("ES256", Some("k1"), &theirs)).await.status, 200);
}

#[tokio::test]
async fn sign_ins_are_resources_of_contributors() {
    let rig = Rig::new().await;
    let path = "switchbackSignIn/keycloak";
    let body = json!({ "properties": {
        "issuer": "https://idp.example/realms/dr", "audiences": ["switchback"], "roles": [{ "role": "Operator", "value": "dr" }],
    } });
    let made = rig.server.call("PUT", path, Some(body.clone())).await;
    assert_eq!((made.status.as_u16(), &made.body["properties"]["claim"]), (200, &json!("roles")));
    assert_eq!(rig.server.get(path).await, made.body);
    assert_eq!(rig.server.call("GET", "switchbackSignIn", None).await.names(), ["entra", "keycloak"]);
    let refuse = async |path: &str, name: &str, value: Value, status: u16| {
        let mut body = body.clone();
        body["properties"][name] = value;
        let answered = rig.server.call("PUT", path, Some(body)).await;
        assert_eq!(answered.status, status, "{name}: {:#}", answered.body);
    };
    refuse("switchbackSignIn/third", "audiences", json!(["x"]), 409).await;
    refuse(path, "issuer", json!("http://idp.example"), 400).await;
    refuse(path, "roles", json!([{ "role": "Owner", "value": "dr" }]), 400).await;
    refuse(path, "authority", json!("no certificate"), 400).await;
    refuse(path, "somethingElse", json!(1), 400).await;
    the_secret_of_the_portal_is_kept_and_not_shown(&rig, body).await;
    let operator = rig.token(&rig.claims("Dr.Operate"));
    assert_eq!(
        rig.server.raw("GET", &uri("switchbackSignIn"), Some(&operator), Vec::new()).await.status,
        403,
        "who may come in is not for everybody to know"
    );
    for _ in 0..2 {
        assert_eq!(rig.server.call("DELETE", path, None).await.status, 204);
    }
    assert_eq!(rig.server.call("GET", path, None).await.status, 404);
}

/// It stays when nothing is said of it, and goes when whom it is for is changed.
async fn the_secret_of_the_portal_is_kept_and_not_shown(rig: &Rig, mut body: Value) {
    let home = tempfile::tempdir().unwrap();
    rig.server.keeps(home.path());
    let put = async |body: &Value| {
        let made = rig.server.call("PUT", "switchbackSignIn/keycloak", Some(body.clone())).await;
        assert_eq!(made.status, 200, "{:#}", made.body);
        made.body["properties"]["portal"].clone()
    };
    let control = &rig.server.world.control;
    let secret = || {
        let all = control.sign_ins().unwrap();
        let kept = all.iter().find(|sign_in| sign_in.name.as_str() == "keycloak").unwrap();
        (control.sign_in_secret(kept).unwrap().map(|secret| secret.to_string()), format!("{kept:?}"))
    };
    body["properties"]["portal"] = json!({ "clientId": "portal", "secret": "open sesame" });
    let shown = json!({ "clientId": "portal", "scopes": [], "hasSecret": true });
    assert_eq!(put(&body).await, shown);
    let (kept, debug) = secret();
    assert!(kept.as_deref() == Some("open sesame") && !debug.contains("sesame"), "{debug}");
    // Sent back as it was shown.
    body["properties"]["portal"] = shown.clone();
    assert_eq!((put(&body).await, secret().0.as_deref()), (shown, Some("open sesame")));
    body["properties"]["issuer"] = "https://evil.example".into();
    assert_eq!((put(&body).await["hasSecret"].clone(), secret().0), (json!(false), None));
    body["properties"]["portal"]["secret"] = "another".into();
    assert_eq!(
        (put(&body).await["hasSecret"].clone(), secret().0.as_deref()),
        (json!(true), Some("another"))
    );
    body["properties"]["portal"]["clientId"] = "two words".into();
    assert_eq!(rig.server.call("PUT", "switchbackSignIn/keycloak", Some(body.clone())).await.status, 400);
    body["properties"]["portal"] = json!({ "clientId": "portal", "secret": "" });
    assert_eq!((put(&body).await["hasSecret"].clone(), secret().0), (json!(false), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_is_tried_out_with_and_without_a_token() {
    let rig = Rig::new().await;
    let test = async |path: &str, token: Option<&str>| {
        let body = json!({ "properties": token.map_or(json!({}), |token| json!({ "token": token })) });
        rig.server.call("POST", &format!("switchbackSignIn/{path}/test"), Some(body)).await
    };
    let found = async |token: Option<&str>| test("entra", token).await.body["properties"].clone();
    let nobody = json!({ "keys": 1, "problem": null, "name": null, "role": null, "withoutRole": null });
    assert_eq!(found(None).await, nobody);
    let operator = found(Some(&rig.token(&rig.claims("Dr.Operate")))).await;
    assert_eq!(
        (&operator["name"], &operator["role"]),
        (&json!("entra/alice@example.com"), &json!("Operator"))
    );
    let nothing = found(Some(&rig.token(&rig.claims("Dr.Other")))).await;
    assert_eq!((&nothing["role"], &nothing["problem"]), (&Value::Null, &Value::Null));
    assert!(nothing["withoutRole"].as_str().unwrap().contains("Dr.Other"), "{nothing:#}");
    let mut claims = rig.claims("Dr.Read");
    claims["aud"] = "api://another".into();
    let foreign = found(Some(&rig.token(&claims))).await;
    assert!(foreign["problem"]["message"].as_str().unwrap().contains("api://another"), "{foreign:#}");
    assert_eq!((&foreign["keys"], &foreign["name"]), (&json!(1), &Value::Null));
    // It is asked now, whatever is in memory.
    let good = rig.token(&rig.claims("Dr.Read"));
    assert_eq!(rig.read(&good).await.status, 200);
    rig.issuer.is(Mood::Down);
    assert_eq!(rig.read(&good).await.status, 200, "its key is in memory");
    let down = found(Some(&good)).await;
    assert_eq!(
        (&down["keys"], &down["problem"]["code"]),
        (&Value::Null, &json!("IssuerUnavailable")),
        "{down:#}"
    );
    assert_eq!(test("nobody", None).await.status, 404);
    let reader = rig.server.raw("POST", &uri("switchbackSignIn/entra/test"), Some(&good), Vec::new()).await;
    assert_eq!(reader.status, 403);
}
