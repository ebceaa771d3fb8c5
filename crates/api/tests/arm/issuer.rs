//! An issuer of OpenID Connect tokens: an HTTPS server with an authority and keys of its own, and a signer that shares no code with who checks.
//!
//! Tokens are put together by hand from RFC 7515 and 7519, and signed by aws-lc-rs.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA256,
    RsaEncoding, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
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
        let discovery =
            json!({ "issuer": address, "jwks_uri": format!("{address}/keys"), "token_endpoint": "x" });
        let served = Served { mood: Mood::Well, discovery, keys: Value::Null };
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
    let body = {
        let served = served.lock().unwrap();
        match path.as_str() {
            "/tenant/.well-known/openid-configuration" => served.discovery.to_string(),
            "/tenant/keys" => {
                asked.fetch_add(1, Ordering::SeqCst);
                served.keys.to_string()
            }
            other => panic!("{other}"),
        }
    };
    let answer =
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    // Whoever has read enough may have gone.
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}
