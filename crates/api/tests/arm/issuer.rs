//! An issuer of OpenID Connect tokens: an HTTPS server with an authority and keys of its own, and a signer that shares no code with who checks.
//!
//! Tokens are put together by hand from RFC 7515 and 7519, and signed by aws-lc-rs. It signs people in, too ([`Registered`]), as RFC 6749 and 7636 have it: a page
//! where somebody says yes or no, and a token endpoint that takes each code once, with the verifier that fits it. Tests of others include this file, by its path.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA256,
    RsaEncoding, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer as Signer, KeyPair};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What signs.
pub(crate) enum Key {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
}

impl Key {
    pub(crate) fn rsa() -> Self {
        Self::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())
    }

    pub(crate) fn ec() -> Self {
        Self::Ec(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    /// As the issuer shows it (RFC 7518, section 6), with what Entra ID has beside.
    pub(crate) fn shown(&self, id: &str) -> Value {
        let mut shown = match self {
            // RSAPublicKey of 2048 bits (RFC 8017, appendix A.1.1): a modulus of 256 bytes from byte 9, then 65537.
            Self::Rsa(key) => {
                let der = key.public_key().as_ref();
                assert_eq!((der.len(), &der[265..]), (270, &[2, 3, 1, 0, 1][..]));
                json!({ "kty": "RSA", "n": encode(&der[9..265]), "e": "AQAB", "x5c": ["AAAA"] })
            }
            Self::Ec(key) => {
                let point = key.public_key().as_ref();
                json!({ "kty": "EC", "crv": "P-256", "x": encode(&point[1..33]), "y": encode(&point[33..]) })
            }
        };
        shown["kid"] = id.into();
        shown["use"] = "sig".into();
        shown["issuer"] = "https://issuer.example/{tenantid}".into();
        shown
    }

    fn sign(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Ec(key) => key.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::Rsa(key) => {
                let encoding: &'static dyn RsaEncoding =
                    if algorithm == "PS256" { &RSA_PSS_SHA256 } else { &RSA_PKCS1_SHA256 };
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(encoding, &random, message, &mut signature).unwrap();
                signature
            }
        }
    }

    /// A token with these claims.
    pub(crate) fn token(&self, algorithm: &str, id: Option<&str>, claims: &Value) -> String {
        let mut head = json!({ "typ": "JWT", "alg": algorithm });
        if let Some(id) = id {
            head["kid"] = id.into();
        }
        self.token_with(&head, claims)
    }

    pub(crate) fn token_with(&self, head: &Value, claims: &Value) -> String {
        let message = unsigned(head, claims);
        let signature = self.sign(head["alg"].as_str().unwrap(), message.as_bytes());
        format!("{message}.{}", encode(&signature))
    }
}

/// Head and claims.
pub(crate) fn unsigned(head: &Value, claims: &Value) -> String {
    format!("{}.{}", encode(head.to_string().as_bytes()), encode(claims.to_string().as_bytes()))
}

pub(crate) fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// How it behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    Well,
    /// Closes each connection.
    Down,
    /// Takes requests and says nothing.
    Silent,
}

/// What it serves.
pub(crate) struct Served {
    pub(crate) mood: Mood,
    pub(crate) discovery: Value,
    pub(crate) keys: Value,
    /// The one client that people are sent by.
    pub(crate) client: Option<Registered>,
    codes: HashMap<String, Pairs>,
}

/// Names and values of a query or a form.
type Pairs = HashMap<String, String>;

/// A client that sends people here, and what they get.
pub(crate) struct Registered {
    pub(crate) id: String,
    pub(crate) secret: Option<String>,
    pub(crate) redirect_uri: String,
    /// What signs, and its id.
    pub(crate) key: (Key, String),
    /// The claims of the access token. The ID token has them, too, but for its audience and its nonce.
    pub(crate) claims: Value,
    /// … and these, whatever should be in them.
    pub(crate) id_claims: Value,
}

impl Registered {
    /// Where whoever says yes is sent, with a code; what is asked for has to be whole.
    fn authorize(&self, codes: &mut HashMap<String, Pairs>, asked: Pairs) -> (String, String) {
        let has = |name: &str, value: &str| asked.get(name).is_some_and(|given| given == value);
        assert!(has("client_id", &self.id) && has("redirect_uri", &self.redirect_uri), "{asked:?}");
        assert!(has("response_type", "code") && has("code_challenge_method", "S256"), "{asked:?}");
        assert!(asked["scope"].split(' ').any(|scope| scope == "openid"), "{asked:?}");
        for (secret, len_min) in [("state", 43), ("nonce", 43), ("code_challenge", 43)] {
            assert!(asked[secret].len() >= len_min, "{asked:?}");
        }
        let code = format!("code-{}", codes.len());
        let back = |answer: &[(&str, &str)]| {
            let mut url = url::Url::parse(&self.redirect_uri).unwrap();
            url.query_pairs_mut().extend_pairs(answer).append_pair("state", &asked["state"]);
            url.to_string()
        };
        let yes = back(&[("code", &code)]);
        let no = back(&[("error", "access_denied"), ("error_description", "the <b>user</b> said no")]);
        codes.insert(code, asked);
        (yes, no)
    }

    /// What a token endpoint answers: status and body.
    fn grant(
        &self,
        discovery: &Value,
        codes: &mut HashMap<String, Pairs>,
        head: &str,
        body: &str,
    ) -> (u16, Value) {
        let refused = |error: &str, because: &str| {
            (400, json!({ "error": error, "error_description": format!("TEST0001: {because}.") }))
        };
        let form: Pairs = url::form_urlencoded::parse(body.as_bytes()).into_owned().collect();
        let given = |name: &str| form.get(name).map_or("", String::as_str);
        let basic = head.lines().find_map(|line| {
            let encoded = line.strip_prefix("authorization: Basic ")?;
            String::from_utf8(STANDARD.decode(encoded).unwrap()).ok()
        });
        let shown = basic.as_ref().and_then(|pair| pair.split_once(':')).map(|(_, secret)| secret);
        let shown = shown.or(form.get("client_secret").map(String::as_str));
        let expected = self.secret.as_ref().map(|secret| encoded(secret, basic.is_some()));
        let way = if basic.is_some() { "client_secret_basic" } else { "client_secret_post" };
        let ways = discovery["token_endpoint_auth_methods_supported"].as_array();
        let is_way = ways.map_or(way == "client_secret_basic", |ways| ways.iter().any(|known| known == way));
        let is_wrong_way = self.secret.is_some() && !is_way;
        if is_wrong_way || given("client_id") != self.id || shown != expected.as_deref() {
            return refused("invalid_client", "the client is not who it says");
        }
        let Some(asked) = codes.get_mut(given("code")).map(std::mem::take).filter(|asked| !asked.is_empty())
        else {
            return refused("invalid_grant", "the code was used, or is none of ours");
        };
        let hash = encode(digest::digest(&digest::SHA256, given("code_verifier").as_bytes()).as_ref());
        if given("grant_type") != "authorization_code" || given("redirect_uri") != asked["redirect_uri"] {
            return refused("invalid_request", "it is not the redirect address that was asked with");
        }
        if hash != asked["code_challenge"] {
            return refused("invalid_grant", "the verifier does not fit");
        }
        let mut id_claims = self.claims.clone();
        (id_claims["iss"], id_claims["aud"], id_claims["nonce"]) =
            (discovery["issuer"].clone(), self.id.as_str().into(), asked["nonce"].as_str().into());
        id_claims.as_object_mut().unwrap().extend(self.id_claims.as_object().unwrap().clone());
        let (key, id) = &self.key;
        let sign = |claims| key.token("RS256", Some(id), claims);
        let tokens = json!({
            "token_type": "Bearer", "expires_in": 3600, "access_token": sign(&self.claims), "id_token": sign(&id_claims),
        });
        (200, tokens)
    }
}

/// A secret as it is sent: form-encoded, when it is half of a Basic header (RFC 6749, section 2.3.1).
fn encoded(secret: &str, is_basic: bool) -> String {
    if is_basic {
        url::form_urlencoded::byte_serialize(secret.as_bytes()).collect()
    } else {
        secret.to_owned()
    }
}

/// The server.
pub(crate) struct Issuer {
    /// `https://localhost:PORT/tenant`.
    pub(crate) address: String,
    /// The authority of its TLS, PEM.
    pub(crate) authority: String,
    pub(crate) served: Arc<Mutex<Served>>,
    /// How often its keys were asked for, or would have been.
    pub(crate) asked: Arc<AtomicUsize>,
}

impl Issuer {
    /// Serves these keys, until the test's runtime ends.
    pub(crate) async fn start(keys: &[(&str, &Key)]) -> Self {
        let (tls, authority) = tls();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("https://localhost:{}/tenant", listener.local_addr().unwrap().port());
        let discovery = json!({
            "issuer": address, "jwks_uri": format!("{address}/keys"),
            "authorization_endpoint": format!("{address}/authorize"), "token_endpoint": format!("{address}/token"),
        });
        let (mood, codes) = (Mood::Well, HashMap::new());
        let served = Served { mood, discovery, keys: Value::Null, client: None, codes };
        let (served, asked) = (Arc::new(Mutex::new(served)), Arc::new(AtomicUsize::new(0)));
        let issuer = Self { address, authority, served: Arc::clone(&served), asked: Arc::clone(&asked) };
        issuer.show(keys);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(answer(tls.clone(), stream, Arc::clone(&served), Arc::clone(&asked)));
            }
        });
        issuer
    }

    /// From now on it has these keys, and one for encryption that must not count.
    pub(crate) fn show(&self, keys: &[(&str, &Key)]) {
        let mut shown: Vec<_> = keys.iter().map(|(id, key)| key.shown(id)).collect();
        let mut other = keys.first().map_or(Value::Null, |(_, key)| key.shown("for-encryption"));
        other["use"] = "enc".into();
        shown.extend([other, json!({ "kty": "something new" })]);
        self.served.lock().unwrap().keys = json!({ "keys": shown });
    }

    pub(crate) fn is(&self, mood: Mood) {
        self.served.lock().unwrap().mood = mood;
    }

    /// Waits until it was asked once more than so often.
    pub(crate) async fn is_asked_after(&self, count: usize) {
        let asked = async {
            while self.asked() == count {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(30), asked).await.unwrap();
    }

    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Served {
    /// Somebody's browser comes to sign in: where it goes with a yes, and with a no.
    pub(crate) fn authorize(&mut self, query: &str) -> (String, String) {
        let asked = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        self.client.as_ref().unwrap().authorize(&mut self.codes, asked)
    }

    /// The page where somebody says yes or no.
    fn page(&mut self, query: &str) -> String {
        let (yes, no) = self.authorize(query);
        let link =
            |there: String, text| format!("<p><a href=\"{}\">{text}</a></p>", there.replace('&', "&amp;"));
        let links = link(yes, "Continue as Alice") + &link(no, "Cancel");
        format!("<!doctype html><html lang=en><title>Issuer</title><h1>The issuer</h1>{links}</html>")
    }

    fn grant(&mut self, head: &str, body: &str) -> (u16, Value) {
        self.client.as_ref().unwrap().grant(&self.discovery, &mut self.codes, head, body)
    }
}

fn tls() -> (tokio_rustls::TlsAcceptor, String) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&authority_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let params_of_server = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params_of_server.signed_by(&key, &Signer::new(params, &authority_key)).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key.serialize_der().try_into().unwrap())
        .unwrap();
    (Arc::new(config).into(), authority.pem())
}

/// One request, and the connection is over.
async fn answer(
    tls: tokio_rustls::TlsAcceptor,
    stream: TcpStream,
    served: Arc<Mutex<Served>>,
    asked: Arc<AtomicUsize>,
) {
    let mood = served.lock().unwrap().mood.clone();
    if mood == Mood::Down {
        asked.fetch_add(1, Ordering::SeqCst);
        return;
    }
    // A client that does not trust us goes away.
    let Ok(mut stream) = tls.accept(stream).await else { return };
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap().to_owned();
    if mood == Mood::Silent {
        asked.fetch_add(1, Ordering::SeqCst);
        std::future::pending::<()>().await;
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let mut posted = vec![0; length.unwrap_or(0)];
    if stream.read_exact(&mut posted).await.is_err() {
        return;
    }
    let (path, query) = path.split_once('?').unwrap_or((&path, ""));
    let (status, media_type, body) = {
        let mut served = served.lock().unwrap();
        match path {
            "/tenant/.well-known/openid-configuration" => {
                (200, "application/json", served.discovery.to_string())
            }
            "/tenant/keys" => {
                asked.fetch_add(1, Ordering::SeqCst);
                (200, "application/json", served.keys.to_string())
            }
            "/tenant/authorize" => (200, "text/html", served.page(query)),
            "/tenant/token" => {
                let (status, answer) = served.grant(&head, &String::from_utf8(posted).unwrap());
                (status, "application/json", answer.to_string())
            }
            "/favicon.ico" => (200, "image/x-icon", String::new()),
            other => panic!("{other}"),
        }
    };
    let answer = format!(
        "HTTP/1.1 {status} X\r\nContent-Type: {media_type}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    // Whoever has read enough may have gone.
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}
