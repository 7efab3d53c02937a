//! Rules and limits together: failed logins, limits per user, the address behind a proxy. Look here
//! for whom a limit counts for once the rules know who it is.

use std::time::Duration;

use headwater_test_support::http::{self, Answer};
use headwater_test_support::{EventStream, Node, eventually};
use serde_json::json;

use crate::support::BINARY;
use crate::support::access::{SecretFile, claims, now, token};
use crate::support::backend::{Backend, answer, json as yes};
use crate::support::http2::Connection;

const BEHIND_A_PROXY: [&str; 4] =
    ["--trusted-proxy", "127.0.0.1", "--client-address-header", "X-Forwarded-For"];

fn node(secret: &SecretFile, arguments: &[&str]) -> Node {
    let keys = ["--jwt-secret-file", secret.path()];
    Node::start(BINARY, &[&keys, &BEHIND_A_PROXY[..], arguments].concat())
}

/// A request of a client at this address.
async fn ask(node: &Node, method: &str, path: &str, from: &str, token: Option<&str>) -> Answer {
    let bearer = token.map(|token| format!("Bearer {token}"));
    let mut headers = vec![("x-forwarded-for", from)];
    headers.extend(bearer.as_deref().map(|bearer| ("authorization", bearer)));
    http::request(node.address(), method, path, &headers, b"x").await
}

/// A client whose token has expired has to learn that, whatever others at its address show.
#[tokio::test]
async fn wrong_tokens_get_401_from_an_address_that_has_shown_too_many() {
    let secret = SecretFile::new();
    let node = node(&secret, &["--max-failed-logins", "3/h", "--public", "lobby"]);
    let good = token(&claims(&["news"], &["news"]));
    let head = async |path, from, token| ask(&node, "HEAD", path, from, token).await.status;
    let (news, lobby) = ("/sse/stream?channel=news", "/sse/stream?channel=lobby");
    for _ in 0..5 {
        assert_eq!(head(news, "192.0.2.1", None).await, 401, "who shows nothing fails at nothing");
    }
    for number in 0..10 {
        let wrong = format!("wrong{number}");
        let path = ["/sse/publish?channel=news", "/sse/ticket"][number % 2];
        ask(&node, "POST", path, "192.0.2.1", Some(&wrong)).await.problem(401);
    }
    let mut expired = claims(&["news"], &["news"]);
    expired["exp"] = json!(now() - 60.0);
    let expired = token(&expired);
    for path in ["/sse/publish?channel=news", "/sse/ticket"] {
        let refused = ask(&node, "POST", path, "192.0.2.1", Some(&expired)).await;
        assert!(refused.problem(401).contains("expired"));
        assert_eq!(ask(&node, "POST", path, "192.0.2.1", Some(&good)).await.status, 200);
    }
    assert_eq!(head("/sse/stream?channel=news&ticket=x", "192.0.2.1", None).await, 401);
    assert_eq!(head(news, "192.0.2.1", Some(&expired)).await, 401);
    assert_eq!(head(news, "192.0.2.1", Some(&expired)).await, 429, "the very same again and again");
    assert_eq!(head(news, "192.0.2.1", Some(&good)).await, 200, "what verifies always passes");
    assert_eq!(head(lobby, "192.0.2.1", Some(&good)).await, 200, "it is open to all");
    assert!(node.metric("headwater_refusals_total{reason=\"failed-logins\"}").await >= 1.0);
}

#[tokio::test]
async fn a_wrong_credential_is_not_verified_again_and_again_wherever_it_comes_from() {
    let secret = SecretFile::new();
    let node = node(&secret, &["--max-failed-logins", "3/h"]);
    let path = "/sse/publish?channel=news";
    for (last, expected) in [(1, 401), (2, 401), (3, 401), (4, 429), (5, 429)] {
        let from = format!("192.0.2.{last}");
        let answer = ask(&node, "POST", path, &from, Some("wrong")).await;
        assert_eq!(answer.status, expected, "{from}");
    }
    let good = token(&claims(&[], &["news"]));
    assert_eq!(ask(&node, "POST", path, "192.0.2.5", Some(&good)).await.status, 200);
}

#[tokio::test]
async fn users_of_the_application_stay_where_others_fail() {
    let backend = Backend::start(&yes("{}")).await;
    let url = backend.url("/sse-auth");
    let arguments = ["--authorize-url", &url, "--max-failed-logins", "3/h"];
    let node = Node::start(BINARY, &[&arguments, &BEHIND_A_PROXY[..]].concat());
    let head = async |channel: &str, cookie: &str, from: &str| {
        let headers = [("x-forwarded-for", from), ("cookie", cookie)];
        let path = format!("/sse/stream?channel={channel}");
        http::request(node.address(), "HEAD", &path, &headers, b"").await.status
    };
    assert_eq!(head("a", "session=good", "192.0.2.1").await, 200);
    backend.answer_with(&answer("401 Unauthorized", "text/html", "no"), Duration::ZERO);
    for number in 0..5 {
        let cookie = format!("session=wrong{number}");
        let expected = if number < 3 { 401 } else { 429 };
        assert_eq!(head("a", &cookie, "192.0.2.1").await, expected, "{cookie}");
    }
    let asked = backend.requests().len();
    backend.answer_with(&yes("{}"), Duration::ZERO);
    assert_eq!(head("b", "session=good", "192.0.2.1").await, 200, "it was accepted lately");
    assert_eq!(head("b", "session=wrong", "192.0.2.1").await, 429);
    assert_eq!(backend.requests().len(), asked + 1, "strangers do not reach the application");
}

#[tokio::test]
async fn only_what_the_application_accepted_passes_where_others_fail() {
    let backend = Backend::start(&answer("401 Unauthorized", "text/html", "no")).await;
    let url = backend.url("/sse-auth");
    let arguments = ["--authorize-url", &url, "--max-failed-logins", "3/h"];
    let node = Node::start(BINARY, &[&arguments, &BEHIND_A_PROXY[..]].concat());
    let publish = async |guess: &str, kind: &str, body: &[u8]| {
        let headers =
            [("x-forwarded-for", "192.0.2.1"), ("authorization", guess), ("content-type", kind)];
        let path = "/sse/publish?channel=a";
        http::request(node.address(), "POST", path, &headers, body).await.status
    };
    // The application is not asked about a batch without events, or one that is invalid.
    for body in [&b""[..], b"not JSON"] {
        assert_eq!(publish("Basic guess", "application/x-ndjson", body).await, 400);
    }
    assert_eq!(backend.requests().len(), 0);
    for number in 0..3 {
        assert_eq!(publish(&format!("Basic wrong{number}"), "text/plain", b"x").await, 401);
    }
    for kind in ["text/plain", "application/x-ndjson"] {
        assert_eq!(publish("Basic guess", kind, b"{\"data\":1}").await, 429, "{kind}");
    }
    assert_eq!(backend.requests().len(), 3);
}

#[tokio::test]
async fn one_site_of_ipv6_has_limits_together() {
    let backend = Backend::start(&answer("401 Unauthorized", "text/html", "no")).await;
    let url = backend.url("/sse-auth");
    let arguments = ["--max-failed-logins", "3/h", "--max-streams-per-address", "2"];
    let rules = ["--authorize-url", &url, "--public", "news"];
    let node = Node::start(BINARY, &[&rules, &BEHIND_A_PROXY[..], &arguments].concat());
    let (mut streams, mut failures) = (Vec::new(), 0);
    for number in 0..60 {
        let from = format!("2001:db8:7:{number:x}::1");
        let headers = [("x-forwarded-for", &*from)];
        let path = "/sse/stream?channel=news";
        let stream = EventStream::open_with(node.address(), path, &headers, None).await;
        streams.extend(Some(stream).filter(|stream| stream.status == 200));
        let wrong = format!("wrong{number}");
        let answer = ask(&node, "POST", "/sse/publish?channel=a", &from, Some(&wrong)).await;
        failures += usize::from(answer.status == 401);
    }
    assert_eq!((streams.len(), failures), (16, 24), "eight times as much as one address");
    let of_version_4 = ask(&node, "POST", "/sse/publish?channel=a", "192.0.2.1", Some("w")).await;
    assert_eq!(of_version_4.status, 401);
}

#[tokio::test]
async fn the_streams_of_a_user_are_limited_across_addresses() {
    let secret = SecretFile::new();
    let node = node(&secret, &["--max-streams-per-user", "2"]);
    let of = |user| {
        let mut claims = claims(&["news"], &[]);
        claims["sub"] = json!(user);
        format!("Bearer {}", token(&claims))
    };
    let (ann, bob) = (of("ann"), of("bob"));
    let open = async |from, bearer: &str| {
        let headers = [("x-forwarded-for", from), ("authorization", bearer)];
        EventStream::open_with(node.address(), "/sse/stream?channel=news", &headers, None).await
    };
    let [first, second] = [open("192.0.2.1", &ann).await, open("192.0.2.2", &ann).await];
    assert_eq!((first.status, second.status), (200, 200));
    let headers = [("x-forwarded-for", "192.0.2.3"), ("authorization", &*ann)];
    let path = "/sse/stream?channel=news";
    let refused = http::request(node.address(), "GET", path, &headers, b"").await;
    assert!(refused.problem(429).contains("too many streams of this user"));
    assert_eq!(open("192.0.2.1", &bob).await.status, 200);
    drop(first);
    eventually("there is room again", || async {
        http::request(node.address(), "HEAD", path, &headers, b"").await.status == 200
            && open("192.0.2.3", &ann).await.status == 200
    })
    .await;
}

#[tokio::test]
async fn the_publishing_rate_of_a_user_is_limited_across_addresses() {
    let backend = Backend::start(&yes(r#"{"user": "ann"}"#)).await;
    let url = backend.url("/sse-auth");
    let arguments = ["--authorize-url", &url, "--max-publishes-per-user", "2/h"];
    let node = Node::start(BINARY, &[&arguments, &BEHIND_A_PROXY[..]].concat());
    let line = br#"{"channel": "news", "data": "x"}"#;
    let publish = async |from, kind| {
        let headers = [("x-forwarded-for", from), ("content-type", kind)];
        http::request(node.address(), "POST", "/sse/publish?channel=news", &headers, line).await
    };
    assert_eq!(publish("192.0.2.1", "text/plain").await.status, 200);
    // Whose batch it is, the application says when its channels are known.
    assert_eq!(publish("192.0.2.2", "application/x-ndjson").await.status, 200);
    for kind in ["text/plain", "application/x-ndjson"] {
        let refused = publish("192.0.2.3", kind).await;
        assert!(refused.problem(429).contains("too many events of this user"));
    }
}

#[tokio::test]
async fn the_application_receives_the_address_from_the_proxy() {
    let backend = Backend::start(&answer("401 Unauthorized", "text/html", "no")).await;
    let url = backend.url("/sse-auth");
    let arguments = ["--authorize-url", &url, "--max-failed-logins", "1/h"];
    let node = Node::start(BINARY, &[&arguments, &BEHIND_A_PROXY[..]].concat());
    let ask = async |from| {
        let headers = [("x-forwarded-for", from), ("cookie", "session=wrong")];
        http::request(node.address(), "GET", "/sse/stream?channel=a", &headers, b"").await
    };
    ask("192.0.2.1").await.problem(401);
    let requests = backend.requests();
    assert!(requests[0].contains("\r\nx-forwarded-for: 192.0.2.1\r\n"), "{requests:?}");
    ask("192.0.2.1").await.problem(429);
    assert_eq!(backend.requests().len(), 1, "it is not asked again");
    backend.answer_with(&yes("{}"), Duration::ZERO);
    let headers = [("x-forwarded-for", "192.0.2.2"), ("cookie", "session=wrong")];
    let path = "/sse/stream?channel=a";
    let stream = EventStream::open_with(node.address(), path, &headers, None).await;
    assert_eq!(stream.status, 200);
}

#[tokio::test]
async fn over_http2_too_a_cookie_publishes_only_from_listed_origins() {
    let secret = SecretFile::new();
    let node = node(&secret, &[]);
    let cookie = format!("headwater={}", token(&claims(&[], &["news"])));
    let own = format!("http://{}", node.address());
    let mut connection = Connection::open(&node).await;
    for (origin, expected) in [(&*own, 200), ("https://evil.example", 403)] {
        let headers = [("cookie", &*cookie), ("origin", origin)];
        let status = connection.post("/sse/publish?channel=news", &headers).await;
        assert_eq!(status, expected, "{origin}");
    }
}
