//! Sets of keys: read, read again, and not more often than they should be.

use std::fs;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use headwater_test_support::{Node, eventually, http};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, Header};
use serde_json::{Value, json};

use crate::support::BINARY;
use crate::support::access::{RsaKeys, SECRET, claims, token};
use crate::support::backend::{Backend, answer, json as yes};

fn as_jwk(keys: &RsaKeys, id: &str) -> Value {
    let jwk = Jwk::from_encoding_key(&keys.private, Algorithm::RS256).expect("a JWK");
    let mut jwk = serde_json::to_value(jwk).expect("JSON");
    (jwk["kid"], jwk["use"]) = (id.into(), "sig".into());
    jwk
}

fn set(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

async fn status(node: &Node, keys: &RsaKeys, id: Option<&str>) -> u16 {
    let mut header = Header::new(Algorithm::RS256);
    header.kid = id.map(ToOwned::to_owned);
    let token = jsonwebtoken::encode(&header, &claims(&["news"], &[]), &keys.private);
    let bearer = format!("Bearer {}", token.expect("a token"));
    let headers = [("authorization", &*bearer)];
    http::request(node.address(), "HEAD", "/sse/stream?channel=news", &headers, b"").await.status
}

// Starting a node blocks a thread; the set of keys is served by another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_change_without_a_restart_and_without_a_stampede() {
    let [old, new] = [RsaKeys::new(), RsaKeys::new()];
    let backend = Backend::start(&yes(&set(&[as_jwk(&old, "old")]))).await;
    let url = backend.url("/jwks.json");
    let node = Node::start(BINARY, &["--jwks", &url, "--max-failed-logins", "off"]);
    assert_eq!(backend.requests().len(), 1);
    assert_eq!(status(&node, &old, Some("old")).await, 200);
    assert_eq!(status(&node, &old, None).await, 200, "a token need not name its key");
    assert_eq!(status(&node, &new, Some("new")).await, 401);
    backend.answer_with(&yes(&set(&[as_jwk(&old, "old"), as_jwk(&new, "new")])), Duration::ZERO);
    eventually("the new key counts", || async { status(&node, &new, Some("new")).await == 200 })
        .await;
    assert_eq!(status(&node, &old, Some("old")).await, 200);
    let asked = backend.requests().len();
    assert!(asked <= 5, "{asked} times in some seconds");
    // Tokens that name unknown keys must not reload the set each time.
    let many = (0..200).map(|number| {
        let (node, new) = (&node, &new);
        async move { status(node, new, Some(&format!("unknown-{number}"))).await }
    });
    let many = futures_util::future::join_all(many).await;
    assert!(many.iter().all(|status| *status == 401));
    assert!(backend.requests().len() <= asked + 2, "{} times", backend.requests().len());
    // A server of keys that fails takes no key away.
    backend.answer_with(&answer("500 Oops", "text/html", ""), Duration::ZERO);
    let asked = backend.requests().len();
    eventually("it is asked again", || async {
        assert_eq!(status(&node, &new, Some("unknown")).await, 401);
        backend.requests().len() > asked
    })
    .await;
    assert_eq!(status(&node, &new, Some("new")).await, 200);
    assert_eq!(status(&node, &old, Some("old")).await, 200);
}

// Starting a node blocks a thread; the set of keys is served by another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_that_cannot_be_read_at_start_is_read_later() {
    let keys = RsaKeys::new();
    let backend = Backend::start(&answer("503 Later", "text/html", "")).await;
    let node = Node::start(BINARY, &["--jwks", &backend.url("/")]);
    assert_eq!(status(&node, &keys, Some("k")).await, 401);
    let answer = http::get(node.address(), "/health/ready").await;
    assert!(answer.problem(503).contains("access: no keys to verify tokens"), "{}", answer.text());
    backend.answer_with(&yes(&set(&[as_jwk(&keys, "k")])), Duration::ZERO);
    // No token causes it: a load balancer sends none to a node that is not ready.
    eventually("the node is ready", || async {
        http::get(node.address(), "/health/ready").await.status == 200
    })
    .await;
    assert_eq!(status(&node, &keys, Some("k")).await, 200);
}

#[tokio::test]
async fn only_what_proves_signatures_counts() {
    let [good, for_encryption, other] = [RsaKeys::new(), RsaKeys::new(), RsaKeys::new()];
    let mut encryption = as_jwk(&for_encryption, "e");
    encryption["use"] = "enc".into();
    let mut only_512 = as_jwk(&other, "o");
    only_512["alg"] = "RS512".into();
    for (more, expected) in [
        (json!({ "key_ops": ["verify"] }), 200),
        (json!({ "key_ops": ["sign", "verify"] }), 200),
        (json!({ "use": null, "key_ops": ["verify"], "alg": "RS256" }), 200),
        (json!({ "key_ops": [] }), 401),
        (json!({ "key_ops": ["sign"] }), 401),
        (json!({ "key_ops": ["encrypt", "wrapKey"] }), 401),
        (json!({ "key_ops": ["deriveKey", "deriveBits"] }), 401),
        (json!({ "key_ops": ["VERIFY"] }), 401),
        (json!({ "key_ops": "verify" }), 401),
        (json!({ "key_ops": ["verify"], "use": "enc" }), 401),
        (json!({ "use": "" }), 401),
        (json!({ "use": "signature" }), 401),
        (json!({ "alg": "PS256" }), 401),
        (json!({ "alg": "ES256" }), 401),
        (json!({ "alg": "RSA-OAEP" }), 401),
        (json!({ "alg": "none" }), 401),
    ] {
        let mut key = as_jwk(&other, "o");
        for (name, value) in more.as_object().expect("members") {
            key[name] = value.clone();
        }
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("jwks.json");
        fs::write(&path, set(&[as_jwk(&good, "g"), key])).expect("the file is written");
        let node = Node::start(BINARY, &["--jwks", path.to_str().expect("UTF-8")]);
        assert_eq!(status(&node, &other, Some("o")).await, expected, "{more}");
    }
    let secret = json!({ "kty": "oct", "kid": "s", "k": URL_SAFE_NO_PAD.encode(SECRET) });
    let unknown = json!({ "kty": "future", "kid": "f" });
    let all = [unknown, secret, encryption, only_512, as_jwk(&good, "g")];
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("jwks.json");
    fs::write(&path, set(&all)).expect("the file is written");
    let node = Node::start(BINARY, &["--jwks", path.to_str().expect("UTF-8")]);
    assert_eq!(status(&node, &good, Some("g")).await, 200);
    assert_eq!(status(&node, &good, Some("o")).await, 401, "the key of that name is another");
    assert_eq!(status(&node, &for_encryption, Some("e")).await, 401);
    assert_eq!(status(&node, &other, Some("o")).await, 401, "it is for RS512 only");
    let token = token(&claims(&["news"], &[]));
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", &*bearer)];
    let path = "/sse/stream?channel=news";
    let answer = http::request(node.address(), "HEAD", path, &headers, b"").await;
    assert_eq!(answer.status, 401, "a secret has no place in a set of public keys");
}
