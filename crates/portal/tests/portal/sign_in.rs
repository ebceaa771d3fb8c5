//! Signing in at an issuer of our own: the way there and back, and all that may be tried on it.

use serde_json::{Value, json};
use switchback_control::{PortalClient, RoleMapping, SignIn};
use switchback_disk::Clock as _;
use switchback_model::AccessRole;
use url::Url;
use zeroize::Zeroizing;

use crate::browser::{Answered, Browser, Server};
use crate::issuer::{Issuer, Key, Mood, Registered};

const SESSION: &str = "__Host-switchback";
const ATTEMPT: &str = "__Host-switchback-sign-in";
const SECRET: &str = "s3cret: +&";

/// A server that sends people to an issuer of ours.
struct Rig {
    server: Server,
    issuer: Issuer,
    _home: tempfile::TempDir,
}

impl Rig {
    async fn new(secret: Option<&str>) -> Self {
        let server = Server::new();
        let home = server.give_home(&["cs.example:443", "10.0.0.1:443"]);
        server.world.clock.advance(1_800_000_000);
        let key = Key::rsa();
        let issuer = Issuer::start(&[("k1", &key)]).await;
        let now = server.world.clock.now().0 / 1000;
        let client = Registered {
            id: "portal".into(),
            secret: secret.map(str::to_owned),
            redirect_uri: "https://cs.example/portal/sign-in/corp/answer".into(),
            key: (key, "k1".into()),
            claims: json!({
                "iss": issuer.address, "aud": "api://switchback", "exp": now + 3600, "iat": now, "sub": "a1",
                "preferred_username": "alice@example.com", "roles": ["Dr.Operate"],
            }),
            id_claims: json!({}),
        };
        issuer.served.lock().unwrap().client = Some(client);
        let sign_in = SignIn {
            name: "corp".parse().unwrap(),
            issuer: issuer.address.clone(),
            audiences: vec!["api://switchback".into()],
            claim: "roles".into(),
            roles: vec![RoleMapping { role: AccessRole::Operator, value: "Dr.Operate".into() }],
            authority: Some(issuer.authority.clone()),
            portal: Some(PortalClient::new("portal", vec!["api://switchback/use".into(), "openid".into()])),
        };
        let secret = secret.map(|secret| Zeroizing::new(secret.to_owned()));
        server.world.control.set_sign_in(sign_in, secret.as_ref()).unwrap();
        Self { server, issuer, _home: home }
    }

    /// Claims are these from now on: of the access token, or of the ID token alone.
    fn says(&self, which: fn(&mut Registered) -> &mut Value, claim: &str, value: Value) {
        let mut served = self.issuer.served.lock().unwrap();
        which(served.client.as_mut().unwrap())[claim] = value;
    }

    /// Clicks the link; where the issuer would send the browser with a yes and with a no.
    async fn begin(&self, browser: &mut Browser<'_>) -> (String, String) {
        let page = browser.page("/portal/sign-in?next=%2Fportal%2Fmachines%3Fq%3Dweb").await;
        let link = page.split_once("class=\"button primary\" href=\"").unwrap().1.split_once('"').unwrap().0;
        let path = link.strip_prefix("https://cs.example").unwrap_or_else(|| panic!("{link}"));
        let there = browser.get(path).await.location().to_owned();
        let query = there.strip_prefix(&format!("{}/authorize?", self.issuer.address)).unwrap();
        let (yes, no) = self.issuer.served.lock().unwrap().authorize(query);
        (path_of(&yes), path_of(&no))
    }

    /// A whole way, with what the issuer is made to say, is refused so.
    async fn refused(&self, status: u16, because: &str) {
        let mut browser = self.server.browser();
        let (yes, _) = self.begin(&mut browser).await;
        is_refused(&browser.get(&yes).await, status, because);
        assert_eq!((browser.cookie(SESSION), browser.cookie(ATTEMPT)), (None, None));
    }
}

/// What comes behind the host.
fn path_of(address: &str) -> String {
    let url = Url::parse(address).unwrap();
    assert_eq!(url.host_str(), Some("cs.example"));
    format!("{}?{}", url.path(), url.query().unwrap())
}

fn is_refused(answered: &Answered, status: u16, because: &str) {
    assert_eq!(answered.status.as_u16(), status, "{because}: {}", answered.text);
    let alert = answered.text.split_once("role=\"alert\"").unwrap().1.split_once("</div>").unwrap().0;
    assert!(alert.contains(because) && alert.contains("What to do"), "{because}: {alert}");
    assert!(!answered.text.contains(SECRET), "{}", answered.text);
}

fn replaced(address: &str, name: &str, value: &str) -> String {
    let mut url = Url::parse(&format!("https://cs.example{address}")).unwrap();
    let kept: Vec<(String, String)> = url.query_pairs().into_owned().filter(|(key, _)| key != name).collect();
    url.query_pairs_mut().clear().extend_pairs(kept).append_pair(name, value);
    path_of(url.as_str())
}

fn query(address: &str, name: &str) -> String {
    let url = Url::parse(&format!("https://cs.example{address}")).unwrap();
    url.query_pairs().into_owned().find(|(key, _)| key == name).unwrap().1
}

#[tokio::test]
async fn people_sign_in_at_an_issuer_and_are_what_their_token_says() {
    for (secret, proofs) in [(None, None), (Some(SECRET), None), (Some(SECRET), Some("client_secret_post"))] {
        let rig = Rig::new(secret).await;
        if let Some(proofs) = proofs {
            let mut served = rig.issuer.served.lock().unwrap();
            served.discovery["token_endpoint_auth_methods_supported"] = json!([proofs]);
        }
        let mut browser = rig.server.browser();
        let (yes, _) = rig.begin(&mut browser).await;
        let kept = browser.cookie(ATTEMPT).unwrap().to_owned();
        assert!(!yes.contains(&kept[..16]), "what the browser keeps is in no address");
        let back = browser.get(&yes).await;
        let page = "<meta http-equiv=\"refresh\" content=\"0; url=/portal/machines?q=web\">";
        assert!(back.status == 200 && back.text.contains(page), "{}", back.text);
        assert_eq!(back.header("cache-control"), "no-store");
        assert_eq!(browser.cookie(ATTEMPT), None);
        let page = browser.page("/portal/machines?q=web").await;
        assert!(page.contains("<b>corp/alice@example.com</b> <span>Operator</span>"), "{page}");
        // The same answer again: nothing of it is left in this browser, and with what was there the issuer knows the code.
        let session = browser.cookie(SESSION).unwrap().to_owned();
        is_refused(&browser.get(&yes).await, 403, "does not belong to a sign-in of this browser");
        browser.cookies.push((ATTEMPT.into(), kept));
        is_refused(&browser.get(&yes).await, 401, "corp refuses it (invalid_grant)");
        assert_eq!(browser.cookie(SESSION), Some(session.as_str()), "the session is as it was");
        // A session does not live longer than its token.
        assert_eq!(browser.get("/portal/machines").await.status, 200);
        rig.server.world.clock.advance(3_700);
        assert!(browser.get("/portal/machines").await.location().starts_with("/portal/sign-in"));
    }
}

#[tokio::test]
async fn an_answer_counts_in_the_browser_that_began_for_a_while() {
    let rig = Rig::new(None).await;
    let (mut victim, mut thief) = (rig.server.browser(), rig.server.browser());
    let (of_thief, _) = rig.begin(&mut thief).await;
    // Somebody else's answer, to have the victim signed in as that one: without having begun, and having begun.
    is_refused(&victim.get(&of_thief).await, 403, "does not belong to a sign-in of this browser");
    let (of_victim, no) = rig.begin(&mut victim).await;
    let kept = victim.cookies.clone();
    is_refused(&victim.get(&of_thief).await, 403, "tries to have you signed in as somebody else");
    // A code of another attempt with the state of this one: the verifier does not fit.
    victim.cookies.clone_from(&kept);
    let mixed = replaced(&of_victim, "code", &query(&of_thief, "code"));
    is_refused(&victim.get(&mixed).await, 401, "the verifier does not fit");
    // An error is shown to whoever began, as text; and to nobody else.
    is_refused(&thief.get(&no).await, 403, "does not belong");
    victim.cookies.clone_from(&kept);
    let said_no = victim.get(&no).await;
    is_refused(&said_no, 401, "corp refuses it (access_denied): the &#60;b&#62;user&#60;/b&#62; said no");
    // Another sign-in's answer is not this one's.
    victim.cookies.clone_from(&kept);
    let elsewhere = of_victim.replace("/corp/", "/other/");
    is_refused(&victim.get(&elsewhere).await, 403, "does not belong");
    victim.cookies.clone_from(&kept);
    rig.server.world.clock.advance(600);
    is_refused(&victim.get(&of_victim).await, 403, "more than ten minutes");
    assert_eq!((victim.cookie(SESSION), thief.cookie(SESSION)), (None, None));
}

#[tokio::test]
async fn what_an_issuer_sends_is_judged_as_at_the_api() {
    let rig = Rig::new(Some(SECRET)).await;
    let id: fn(&mut Registered) -> &mut Value = |client| &mut client.id_claims;
    let access: fn(&mut Registered) -> &mut Value = |client| &mut client.claims;
    for (claim, wrong, right, because) in [
        ("nonce", json!("another"), Value::Null, "of another sign-in than the one that was begun here"),
        ("aud", json!("api://switchback"), json!("portal"), "and not for the portal"),
        ("azp", json!("other"), json!("portal"), "and not for the portal"),
        ("iss", json!("https://other.example"), json!(rig.issuer.address), "InvalidIssuer"),
        ("exp", json!(1_800_000_000), json!(1_900_000_000_u64), "expired"),
    ] {
        rig.says(id, claim, wrong);
        rig.refused(401, because).await;
        rig.says(id, claim, right);
        if claim == "nonce" {
            rig.issuer.served.lock().unwrap().client.as_mut().unwrap().id_claims = json!({});
        }
    }
    rig.issuer.served.lock().unwrap().client.as_mut().unwrap().id_claims = json!({});
    rig.says(access, "aud", json!("api://other"));
    rig.refused(401, "and not for api://switchback").await;
    rig.says(access, "aud", json!("api://switchback"));
    rig.says(access, "roles", json!(["Dr.Nothing"]));
    rig.refused(403, "has no role here").await;
    rig.says(access, "roles", json!(["Dr.Operate"]));
    rig.issuer.served.lock().unwrap().client.as_mut().unwrap().secret = Some("another".into());
    rig.refused(401, "corp refuses it (invalid_client)").await;
    let mut browser = rig.server.browser();
    let (yes, _) = rig.begin(&mut browser).await;
    rig.issuer.is(Mood::Down);
    is_refused(&browser.get(&yes).await, 503, "cannot be had");
}

#[tokio::test]
async fn there_is_a_way_to_an_issuer_only_from_a_configured_address() {
    let rig = Rig::new(None).await;
    let mut browser = rig.server.browser();
    is_refused(&browser.get("/portal/sign-in/nobody").await, 404, "there is no sign-in");
    let page = browser.page("/portal/sign-in").await;
    assert!(page.contains("Sign in with corp") && page.contains("name=\"token\""), "{page}");
    let control = &rig.server.world.control;
    let mut sign_in = control.sign_ins().unwrap().remove(0);
    let portal = sign_in.portal.take();
    control.set_sign_in(sign_in.clone(), None).unwrap();
    assert!(!browser.page("/portal/sign-in").await.contains("Sign in with corp"));
    is_refused(&browser.get("/portal/sign-in/corp").await, 404, "there is no sign-in");
    // A server that was not told its address believes none that a request says.
    let server = Server::new();
    server.world.control.set_sign_in(SignIn { portal, ..sign_in }, None).unwrap();
    let mut browser = server.browser();
    assert!(!browser.page("/portal/sign-in").await.contains("Sign in with corp"));
    is_refused(&browser.get("/portal/sign-in/corp").await, 409, "was not told the address");
}
