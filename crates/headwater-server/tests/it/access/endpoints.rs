//! Every endpoint, with every kind of credential, to every kind of channel.

use std::net::SocketAddr;

use headwater_test_support::http::{self, Answer};
use headwater_test_support::{EventStream, Node};
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use serde_json::{Value, json};

use crate::support::BINARY;
use crate::support::access::{RsaKeys, SECRET, SecretFile, by_hand, claims, now, pem, sign, token};

const ENDPOINTS: [Endpoint; 10] = [
    Endpoint::Stream,
    Endpoint::Head,
    Endpoint::Rewind,
    Endpoint::Resume,
    Endpoint::Many,
    Endpoint::Publish,
    Endpoint::Batch,
    Endpoint::MixedBatch,
    Endpoint::Ticket,
    Endpoint::Admin,
];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Endpoint {
    Stream,
    Head,
    Rewind,
    Resume,
    /// A stream of a channel that is granted and this one.
    Many,
    Publish,
    Batch,
    /// A batch whose first line goes to a channel that is granted.
    MixedBatch,
    Ticket,
    Admin,
}

/// A channel as it stands in a URL, as it is called, and whether the right token grants it.
const CHANNELS: [(&str, &str, bool); 13] = [
    ("news", "news", true),
    ("user:42:a", "user:42:a", true),
    ("user%3A42%3Aa", "user:42:a", true),
    ("user:43:a", "user:43:a", false),
    ("user:42/../43", "user:42/../43", false),
    ("user:42%2F..%2F43", "user:42/../43", false),
    ("User:42:a", "User:42:a", false),
    ("NEWS", "NEWS", false),
    ("us%D0%B5r:42:a", "us\u{435}r:42:a", false),
    ("user%253A42%253Aa", "user%3A42%3Aa", false),
    ("*", "*", false),
    ("user:*", "user:*", false),
    ("news+", "news ", false),
];

impl Endpoint {
    async fn request(
        self,
        node: SocketAddr,
        credential: Option<&str>,
        channel: (&str, &str),
    ) -> Answer {
        let bearer = credential.map(|token| format!("Bearer {token}"));
        let mut headers: Vec<(&str, &str)> = Vec::new();
        headers.extend(bearer.as_deref().map(|bearer| ("authorization", bearer)));
        let (in_url, name) = channel;
        let line = |name: &str| json!({ "channel": name, "data": "x" }).to_string();
        let (method, path, body) = match self {
            Self::Stream => ("GET", format!("/sse/stream?channel={in_url}"), String::new()),
            Self::Head => ("HEAD", format!("/sse/stream?channel={in_url}"), String::new()),
            Self::Rewind => {
                ("GET", format!("/sse/stream?channel={in_url}&rewind=all"), String::new())
            }
            Self::Resume => {
                headers.push(("last-event-id", "1-1"));
                ("GET", format!("/sse/stream?channel={in_url}"), String::new())
            }
            Self::Many => {
                ("GET", format!("/sse/stream?channel=news&channel={in_url}"), String::new())
            }
            Self::Publish => ("POST", format!("/sse/publish?channel={in_url}"), "x".to_owned()),
            Self::Batch => ("POST", "/sse/publish".to_owned(), line(name)),
            Self::MixedBatch => {
                ("POST", "/sse/publish".to_owned(), line("news") + "\n" + &line(name))
            }
            Self::Ticket => ("POST", format!("/sse/ticket?channel={in_url}"), String::new()),
            Self::Admin => ("DELETE", "/admin/streams?user=eve".to_owned(), String::new()),
        };
        if matches!(self, Self::Batch | Self::MixedBatch) {
            headers.push(("content-type", "application/x-ndjson"));
        }
        if method == "GET" {
            // A stream does not end; what is no stream is asked for again, to read it whole.
            let stream = EventStream::open_with(node, &path, &headers, None).await;
            if stream.status == 200 {
                return Answer { status: 200, headers: stream.headers, body: Vec::new() };
            }
        }
        http::request(node, method, &path, &headers, body.as_bytes()).await
    }
}

/// What the right token says.
fn right() -> Value {
    json!({
        "sub": "42", "aud": ["other", "hw"], "iss": "me", "exp": now() + 600.5, "nbf": now() - 1.0,
        "headwater": { "subscribe": ["news", "user:42:*"], "publish": ["news", "user:42:*"] },
    })
}

fn with(change: &Value) -> Value {
    let mut claims = right();
    for (name, value) in change.as_object().expect("claims") {
        claims[name] = value.clone();
    }
    claims
}

/// Credentials that are none, by name.
fn wrong(keys: &RsaKeys) -> Vec<(&'static str, Option<String>)> {
    let signed = |claims: &Value| Some(sign(Algorithm::RS256, &keys.private, claims));
    let good = sign(Algorithm::RS256, &keys.private, &right());
    let parts: Vec<&str> = good.split('.').collect();
    let as_secret = EncodingKey::from_secret(keys.public_pem.as_bytes());
    let forged = by_hand(&json!({ "alg": "RS256" }), &with(&json!({ "sub": "43" })), b"");
    let forged: Vec<&str> = forged.split('.').collect();
    // The right key signed it; what must be understood is not.
    let crit = by_hand(&json!({ "alg": "RS256", "crit": ["b64"] }), &right(), b"");
    let crit_signed = crit.trim_end_matches('.').as_bytes();
    let crit_signature = crypto::sign(crit_signed, &keys.private, Algorithm::RS256);
    let mut no_audience = right();
    no_audience.as_object_mut().expect("claims").remove("aud");
    vec![
        ("none", None),
        ("garbage", Some("garbage".into())),
        ("dots", Some("..".into())),
        ("no JSON", Some("YQ.YQ.YQ".into())),
        ("alg none", Some(by_hand(&json!({ "alg": "none" }), &right(), b""))),
        ("alg None", Some(by_hand(&json!({ "alg": "None" }), &right(), b""))),
        ("no alg", Some(by_hand(&json!({ "typ": "JWT" }), &right(), b""))),
        ("the public key as a secret", Some(sign(Algorithm::HS256, &as_secret, &right()))),
        ("another key", Some(sign(Algorithm::RS256, &RsaKeys::new().private, &right()))),
        ("another secret", Some(token(&right()))),
        ("no signature", Some(format!("{}.{}.", parts[0], parts[1]))),
        ("two parts", Some(format!("{}.{}", parts[0], parts[1]))),
        ("four parts", Some(format!("{good}.x"))),
        ("claims of another", Some(format!("{}.{}.{}", parts[0], forged[1], parts[2]))),
        ("crit", Some(format!("{crit}{}", crit_signature.expect("a signature")))),
        ("aud", signed(&with(&json!({ "aud": "other" })))),
        ("no aud", signed(&no_audience)),
        ("iss", signed(&with(&json!({ "iss": "you" })))),
        ("expired", signed(&with(&json!({ "exp": now() - 1.0 })))),
        ("not yet valid", signed(&with(&json!({ "nbf": now() + 60.0 })))),
        ("exp as a text", signed(&with(&json!({ "exp": (now() + 60.0).to_string() })))),
        ("exp null", signed(&with(&json!({ "exp": null })))),
        ("nbf as a text", signed(&with(&json!({ "nbf": "0" })))),
    ]
}

struct Guarded {
    node: Node,
    keys: RsaKeys,
    _directory: tempfile::TempDir,
}

fn guarded() -> Guarded {
    let keys = RsaKeys::new();
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("public.pem");
    keys.write_public(&path);
    let path = path.to_str().expect("a path that is UTF-8");
    let rules = ["--jwt-public-key", path, "--jwt-audience", "hw", "--jwt-issuer", "me"];
    // What is tried here is wrong more often than that.
    let arguments = [&rules[..], &["--max-failed-logins", "off"]].concat();
    let node = Node::start(BINARY, &arguments);
    Guarded { node, keys, _directory: directory }
}

#[tokio::test]
async fn no_endpoint_opens_without_the_right_credentials() {
    let guarded = guarded();
    let address = guarded.node.address();
    for (name, credential) in wrong(&guarded.keys) {
        let mut detail = None;
        for endpoint in ENDPOINTS {
            for (in_url, channel, _) in CHANNELS {
                let answer =
                    endpoint.request(address, credential.as_deref(), (in_url, channel)).await;
                let what = format!("{endpoint:?} with {name} to {channel:?}: {}", answer.text());
                assert_eq!(answer.status, 401, "{what}");
                let challenge = answer.header("www-authenticate").unwrap_or_default();
                assert!(challenge.starts_with("Bearer realm=\"headwater\""), "{what}");
                let is_bad = credential.is_some();
                assert_eq!(challenge.contains("error=\"invalid_token\""), is_bad, "{what}");
                if endpoint != Endpoint::Head {
                    // Word for word the same, whatever is behind the endpoint.
                    let first = detail.get_or_insert_with(|| answer.problem(401));
                    assert_eq!(*first, answer.problem(401), "{what}");
                }
            }
        }
    }
    guarded.node.wait_for_metric("headwater_streams_opened_total", 0.0).await;
    guarded.node.wait_for_metric("headwater_events_published_total", 0.0).await;
}

#[tokio::test]
async fn the_right_token_opens_what_it_grants_and_nothing_else() {
    let guarded = guarded();
    let address = guarded.node.address();
    let token = sign(Algorithm::RS256, &guarded.keys.private, &right());
    let mut detail = None;
    for endpoint in ENDPOINTS {
        for (in_url, channel, is_granted) in CHANNELS {
            let answer = endpoint.request(address, Some(&token), (in_url, channel)).await;
            let what = format!("{endpoint:?} to {channel:?}: {}", answer.text());
            let is_granted = is_granted && endpoint != Endpoint::Admin;
            assert_eq!(answer.status, if is_granted { 200 } else { 403 }, "{what}");
            if !is_granted && endpoint != Endpoint::Head {
                let first = detail.get_or_insert_with(|| answer.problem(403));
                assert_eq!(*first, answer.problem(403), "{what}");
            }
        }
    }
    let mut claims = right();
    claims["headwater"] = json!({ "admin": true });
    let admin = sign(Algorithm::RS256, &guarded.keys.private, &claims);
    let answer = Endpoint::Admin.request(address, Some(&admin), ("", "")).await;
    assert_eq!(answer.status, 204, "{}", answer.text());
    let answer = Endpoint::Stream.request(address, Some(&admin), ("news", "news")).await;
    assert_eq!(answer.status, 403, "who ends streams need not read them");
}

#[tokio::test]
async fn a_batch_is_published_as_a_whole_or_not_at_all() {
    let guarded = guarded();
    let address = guarded.node.address();
    let token = sign(Algorithm::RS256, &guarded.keys.private, &right());
    let answer = Endpoint::MixedBatch.request(address, Some(&token), ("", "user:43:a")).await;
    assert_eq!(answer.status, 403);
    guarded.node.wait_for_metric("headwater_events_published_total", 0.0).await;
}

#[tokio::test]
async fn every_location_of_a_token_and_no_other() {
    let secret = SecretFile::new();
    let arguments = ["--jwt-secret-file", secret.path(), "--jwt-cookie", "__Host-hw"];
    let node = Node::start(BINARY, &arguments);
    let in_query = Node::start(BINARY, &[&arguments[..], &["--jwt-in-query"]].concat());
    let token = token(&claims(&["news"], &["news"]));
    let status = async |node: &Node, more: &str, headers: &[(&str, &str)]| {
        let path = format!("/sse/stream?channel=news{more}");
        EventStream::open_with(node.address(), &path, headers, None).await.status
    };
    let bearer = format!("Bearer {token}");
    let cookie = format!("a=b; __Host-hw={token}");
    assert_eq!(status(&node, "", &[("authorization", &bearer)]).await, 200);
    assert_eq!(status(&node, "", &[("cookie", &cookie)]).await, 200);
    assert_eq!(status(&node, &format!("&token={token}"), &[]).await, 401, "not unless it is on");
    assert_eq!(status(&in_query, &format!("&token={token}"), &[]).await, 200);
    let basic = format!("Basic {token}");
    assert_eq!(status(&node, "", &[("authorization", &basic)]).await, 401);
    assert_eq!(status(&node, "", &[("cookie", &format!("headwater={token}"))]).await, 401);
    // A header takes precedence over a cookie.
    let both = [("authorization", "Bearer x"), ("cookie", &*cookie)];
    assert_eq!(status(&node, "", &both).await, 401);
}

#[tokio::test]
async fn every_algorithm_of_a_key_and_no_other() {
    use Algorithm::{
        ES256, ES384, EdDSA, HS256, HS384, HS512, PS256, PS384, PS512, RS256, RS384, RS512,
    };
    use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
        Ed25519KeyPair, KeyPair,
    };
    let rsa = RsaKeys::new();
    let ec = |algorithm| {
        let random = aws_lc_rs::rand::SystemRandom::new();
        let private = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("a pair of keys");
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, private.as_ref()).expect("the same pair");
        let private = pem("PRIVATE KEY", private.as_ref());
        let public = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()).expect("public");
        let key = EncodingKey::from_ec_pem(private.as_bytes()).expect("a key");
        (key, pem("PUBLIC KEY", public.as_ref()))
    };
    let (p256, p256_pem) = ec(&ECDSA_P256_SHA256_FIXED_SIGNING);
    let (p384, p384_pem) = ec(&ECDSA_P384_SHA384_FIXED_SIGNING);
    let pair = Ed25519KeyPair::generate().expect("a pair of keys");
    let private = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).expect("its private part");
    let private = pem("PRIVATE KEY", private.as_ref());
    let ed = EncodingKey::from_ed_pem(private.as_bytes()).expect("a key");
    let public = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()).expect("public");
    let ed_pem = pem("PUBLIC KEY", public.as_ref());
    let secret = EncodingKey::from_secret(SECRET.as_bytes());
    let keys = [
        (Some(rsa.public_pem), &rsa.private, &[RS256, RS384, RS512, PS256, PS384, PS512][..]),
        (Some(p256_pem), &p256, &[ES256]),
        (Some(p384_pem), &p384, &[ES384]),
        (Some(ed_pem), &ed, &[EdDSA]),
        (None, &secret, &[HS256, HS384, HS512]),
    ];
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("key");
    let shown = path.to_str().expect("a path that is UTF-8");
    for (at, (public, ..)) in keys.iter().enumerate() {
        let (flag, text) = match public {
            Some(pem) => ("--jwt-public-key", pem.as_str()),
            None => ("--jwt-secret-file", SECRET),
        };
        std::fs::write(&path, text).expect("the file is written");
        let node = Node::start(BINARY, &[flag, shown]);
        for (other, (_, key, algorithms)) in keys.iter().enumerate() {
            for algorithm in *algorithms {
                let token = sign(*algorithm, key, &claims(&["news"], &[]));
                let answer =
                    Endpoint::Head.request(node.address(), Some(&token), ("news", "news")).await;
                let expected = if at == other { 200 } else { 401 };
                assert_eq!(answer.status, expected, "{algorithm:?} at a node with key {at}");
            }
        }
    }
}
