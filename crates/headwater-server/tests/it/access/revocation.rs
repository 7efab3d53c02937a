//! Ending streams of others, and whatever was decided before.

use std::time::Duration;

use headwater_test_support::{Node, eventually, http};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::BINARY;
use crate::support::access::{SecretFile, claims, token};
use crate::support::backend::{Backend, answer, json as yes};
use crate::support::revocation::{bearer, check, check_earlier_decisions, is_open, open, revoke};

#[tokio::test]
async fn streams_end_now_on_one_node() {
    let secret = SecretFile::new();
    let node = Node::start(BINARY, &["--jwt-secret-file", secret.path()]);
    check(&node, &node).await;
}

#[tokio::test]
async fn a_user_or_token_that_could_not_be_revoked_is_denied() {
    let secret = SecretFile::new();
    let node = Node::start(BINARY, &["--jwt-secret-file", secret.path()]);
    for claim in ["sub", "jti"] {
        for (bytes, expected) in [(255, 200), (256, 403), (4_000, 403)] {
            let mut claims = claims(&["news"], &["news"]);
            claims[claim] = "i".repeat(bytes).into();
            let bearer = format!("Bearer {}", token(&claims));
            let headers = [("authorization", &*bearer)];
            for (method, path) in [
                ("HEAD", "/sse/stream?channel=news"),
                ("POST", "/sse/publish?channel=news"),
                ("POST", "/sse/ticket?channel=news"),
            ] {
                let answer = http::request(node.address(), method, path, &headers, b"x").await;
                assert_eq!(answer.status, expected, "{claim} {bytes} {method} {path}");
            }
        }
    }
}

#[tokio::test]
async fn what_was_decided_before_a_revocation_does_not_count_after_it() {
    let secret = SecretFile::new();
    let backend = Backend::start("").await;
    let url = backend.url("/");
    let arguments = ["--jwt-secret-file", secret.path(), "--authorize-url", &url];
    let node = Node::start(BINARY, &arguments);
    check_earlier_decisions(&node, &node, &backend).await;
}

#[tokio::test]
async fn an_answer_to_a_question_from_before_a_revocation_does_not_count() {
    let secret = SecretFile::new();
    let backend = Backend::start("").await;
    let url = backend.url("/");
    let arguments = ["--jwt-secret-file", secret.path(), "--authorize-url", &url];
    let node = Node::start(BINARY, &arguments);
    for (number, query) in ["user=42", "channel=a"].into_iter().enumerate() {
        let cookie = format!("session={number}");
        let session = [("cookie", &*cookie)];
        let (asked, slowly) = (backend.requests().len(), Duration::from_millis(500));
        backend.answer_with(&yes(r#"{"user": "42"}"#), slowly);
        // Two of them share the question.
        let path = "/sse/stream?channel=a";
        let opens = [0, 1].map(|_| http::request(node.address(), "HEAD", path, &session, b""));
        let revoked = async {
            eventually("the question", || async { backend.requests().len() > asked }).await;
            backend.answer_with(&answer("401 Unauthorized", "text/html", "no"), Duration::ZERO);
            revoke(&node, query).await;
        };
        let (opens, ()) = tokio::join!(futures_util::future::join_all(opens), revoked);
        for open in opens {
            assert_eq!(open.status, 401, "{query}");
        }
        assert_eq!(backend.requests().len(), asked + 2, "it is asked once more: {query}");
    }
}

/// A publish that says how much it will send, and waits for what the server says to that.
fn head_of_publish(media_type: &str, credentials: &str, body_bytes: usize) -> String {
    format!(
        "POST /sse/publish?channel=a HTTP/1.1\r\nhost: a\r\n{credentials}content-type: \
         {media_type}\r\ncontent-length: {body_bytes}\r\nexpect: 100-continue\r\nconnection: \
         close\r\n\r\n"
    )
}

#[tokio::test]
async fn who_may_publish_nothing_sends_no_body() {
    let secret = SecretFile::new();
    let node = Node::start(BINARY, &["--jwt-secret-file", secret.path()]);
    let listener = format!("authorization: Bearer {}\r\n", token(&claims(&["*"], &[])));
    for media_type in ["text/plain", "application/x-ndjson"] {
        for (credentials, status) in [("", 401), (&*listener, 403)] {
            let head = head_of_publish(media_type, credentials, 1 << 20);
            http::exchange(node.address(), head.as_bytes()).await.problem(status);
        }
    }
}

#[tokio::test]
async fn a_body_that_takes_long_outlives_no_decision() {
    let secret = SecretFile::new();
    let node = Node::start(BINARY, &["--jwt-secret-file", secret.path()]);
    let mut stream = open(&node, "channel=a", &bearer("listener", "l")).await;
    let mut number = 0;
    for media_type in ["text/plain", "application/x-ndjson"] {
        for (query, status) in [("token=TOKEN", 401), ("user=USER", 503), ("channel=a", 503)] {
            number += 1;
            let (user, id) = (format!("user-{number}"), format!("token-{number}"));
            let body = "{\"channel\": \"a\", \"data\": \"late\"}";
            let credentials = format!("authorization: {}\r\n", bearer(&user, &id));
            let head = head_of_publish(media_type, &credentials, body.len());
            let mut socket = TcpStream::connect(node.address()).await.expect("it listens");
            socket.write_all(head.as_bytes()).await.expect("it is sent");
            // The server wants the body: it has decided.
            let decided = &mut [0; 25];
            socket.read_exact(decided).await.expect("it wants the body");
            assert_eq!(decided, b"HTTP/1.1 100 Continue\r\n\r\n");
            if query == "channel=a" {
                revoke(&node, query).await;
                stream.end().await;
                stream = open(&node, "channel=a", &bearer("listener", "l")).await;
            } else {
                revoke(&node, &query.replace("TOKEN", &id).replace("USER", &user)).await;
            }
            socket.write_all(body.as_bytes()).await.expect("it is sent");
            http::read_answer(&mut socket).await.problem(status);
        }
    }
    is_open(&mut stream, &node, "a").await;
}
