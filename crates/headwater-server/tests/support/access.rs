//! Keys, tokens and the secret of the access tests. Look here for what a valid token contains.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::KeyPair as _;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use headwater_test_support::Node;
use headwater_test_support::secrets::{keep, keep_credential};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::BINARY;

/// A secret of 32 bytes, which no log may hold.
pub(crate) const SECRET: &str = "s3cret-s3cret-s3cret-s3cret-s3cr";

/// A directory with the secret in a file.
pub(crate) struct SecretFile {
    _directory: TempDir,
    path: PathBuf,
}

impl SecretFile {
    pub(crate) fn new() -> Self {
        keep(SECRET);
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("secret");
        fs::write(&path, format!("{SECRET}\n")).expect("the file is written");
        Self { _directory: directory, path }
    }

    pub(crate) fn path(&self) -> &str {
        self.path.to_str().expect("a path that is UTF-8")
    }
}

/// Two nodes with the same settings, both ready.
pub(crate) async fn two_nodes(arguments: &[&str]) -> [Node; 2] {
    let nodes = [0, 1].map(|_| Node::start(BINARY, arguments));
    for node in &nodes {
        node.wait_until_ready().await;
    }
    nodes
}

/// Seconds since 1970.
pub(crate) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

/// Claims that are valid for a minute.
pub(crate) fn claims(subscribe: &[&str], publish: &[&str]) -> Value {
    json!({
        "sub": "42",
        "exp": now() + 60.0,
        "headwater": { "subscribe": subscribe, "publish": publish },
    })
}

/// A token with these claims, signed with [`SECRET`].
pub(crate) fn token(claims: &Value) -> String {
    sign(Algorithm::HS256, &EncodingKey::from_secret(SECRET.as_bytes()), claims)
}

pub(crate) fn sign(algorithm: Algorithm, key: &EncodingKey, claims: &Value) -> String {
    let token = jsonwebtoken::encode(&Header::new(algorithm), claims, key).expect("a token");
    keep_credential(&token);
    token
}

/// A token that is assembled by hand, so that it can be invalid.
pub(crate) fn by_hand(head: &Value, claims: &Value, signature: &[u8]) -> String {
    let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let (head, claims) = (head.to_string(), claims.to_string());
    format!("{}.{}.{}", part(head.as_bytes()), part(claims.as_bytes()), part(signature))
}

/// A pair of RSA keys.
pub(crate) struct RsaKeys {
    pub(crate) private: EncodingKey,
    pub(crate) public_pem: String,
}

impl RsaKeys {
    pub(crate) fn new() -> Self {
        let pair = KeyPair::generate(KeySize::Rsa2048).expect("a pair of keys");
        let private = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).expect("its private part");
        let private = pem("PRIVATE KEY", private.as_ref());
        let public = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key());
        let public_pem = pem("PUBLIC KEY", public.expect("its public part").as_ref());
        let private = EncodingKey::from_rsa_pem(private.as_bytes()).expect("a key");
        Self { private, public_pem }
    }

    pub(crate) fn write_public(&self, path: &Path) {
        fs::write(path, &self.public_pem).expect("the file is written");
    }
}

pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> =
        (0..text.len()).step_by(64).map(|at| &text[at..(at + 64).min(text.len())]).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
