//! One-time tickets: made with credentials, good for one stream.

use std::net::TcpListener;
use std::time::Duration;

use headwater_test_support::http::{self};
use headwater_test_support::{EventStream, Node};
use serde_json::json;

use crate::support::BINARY;
use crate::support::access::{SecretFile, claims, now, token};
use crate::support::backend::{Backend, answer, json as yes};
use crate::support::tickets::{get_ticket, open, ticket_of};

#[tokio::test]
async fn a_ticket_opens_one_stream_of_what_the_token_grants() {
    let secret = SecretFile::new();
    let node = Node::start(BINARY, &["--jwt-secret-file", secret.path()]);
    let bearer = format!("Bearer {}", token(&claims(&["news", "user:42:*"], &["news"])));
    let bearer = [("authorization", &*bearer)];
    let ticket = ticket_of(&get_ticket(&node, "", &bearer).await);
    assert_eq!(open(&node, "user:42:a", &ticket).await, 200);
    assert_eq!(open(&node, "user:42:a", &ticket).await, 401, "it is used up");
    let ticket = ticket_of(&get_ticket(&node, "", &bearer).await);
    assert_eq!(open(&node, "user:43:a", &ticket).await, 403);
    assert_eq!(open(&node, "news", &ticket).await, 401, "a wrong try uses it up too");
    let narrow = ticket_of(&get_ticket(&node, "?channel=news", &bearer).await);
    assert_eq!(open(&node, "user:42:a", &narrow).await, 403);
    get_ticket(&node, "?channel=user:43:a", &bearer).await.problem(403);
    get_ticket(&node, "", &[]).await.problem(401);
    // It is for listening only, and makes no other ticket.
    let ticket = ticket_of(&get_ticket(&node, "", &bearer).await);
    let publish = format!("/sse/publish?channel=news&ticket={ticket}");
    http::post(node.address(), &publish, b"x").await.problem(401);
    for query in [format!("?ticket={ticket}"), format!("?channel=news&ticket={ticket}")] {
        get_ticket(&node, &query, &[]).await.problem(401);
    }
    assert_eq!(open(&node, "news", &ticket).await, 200);
    for wrong in ["x", "", &"x".repeat(100)] {
        assert_eq!(open(&node, "news", wrong).await, 401);
    }
}

#[tokio::test]
async fn a_stream_by_ticket_ends_with_the_token() {
    let secret = SecretFile::new();
    let node = Node::start(BINARY, &["--jwt-secret-file", secret.path()]);
    let mut short = claims(&["news"], &[]);
    short["exp"] = json!(now() + 2.0);
    let bearer = format!("Bearer {}", token(&short));
    let ticket = ticket_of(&get_ticket(&node, "", &[("authorization", &*bearer)]).await);
    let path = format!("/sse/stream?channel=news&ticket={ticket}");
    let mut stream = EventStream::open(node.address(), &path).await;
    assert_eq!(stream.status, 200);
    stream.end().await;
    node.wait_for_metric("headwater_streams_ended_total{reason=\"expired\"}", 1.0).await;
}

#[tokio::test]
async fn the_application_authorizes_tickets_too() {
    let backend = Backend::start(&yes("{}")).await;
    let node = Node::start(BINARY, &["--authorize-url", &backend.url("/")]);
    // A page of the server's own: a cookie alone could be any page's.
    let session = [("cookie", "session=1"), ("sec-fetch-site", "same-origin")];
    let refused = get_ticket(&node, "", &session).await;
    assert!(refused.problem(401).contains("POST /sse/ticket?channel=NAME"));
    let ticket = ticket_of(&get_ticket(&node, "?channel=a", &session).await);
    assert_eq!(open(&node, "b", &ticket).await, 403);
    let ticket = ticket_of(&get_ticket(&node, "?channel=a", &session).await);
    assert_eq!(open(&node, "a", &ticket).await, 200);
}

/// Only what is authorised asks Redis for the time.
#[tokio::test]
async fn without_redis_a_ticket_is_still_denied_for_its_credentials() {
    let backend = Backend::start(&answer("401 Unauthorized", "text/plain", "no")).await;
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let redis = format!("redis://{}", free.local_addr().expect("its address"));
    drop(free);
    let node =
        Node::start_quiet(BINARY, &["--authorize-url", &backend.url("/"), "--redis", &redis]);
    let session = [("cookie", "session=1"), ("sec-fetch-site", "same-origin")];
    get_ticket(&node, "?channel=a", &session).await.problem(401);
    backend.answer_with(&yes("{}"), Duration::ZERO);
    let session = [("cookie", "session=2"), ("sec-fetch-site", "same-origin")];
    get_ticket(&node, "?channel=a", &session).await.problem(503);
}

#[tokio::test]
async fn strangers_and_single_clients_do_not_use_up_the_tickets() {
    let secret = SecretFile::new();
    let backend = Backend::start(&yes("{}")).await;
    let url = backend.url("/");
    let arguments =
        ["--jwt-secret-file", secret.path(), "--public", "news", "--authorize-url", &url];
    let node = Node::start(BINARY, &arguments);
    let user = |name: &str| {
        let mut claims = claims(&["inbox"], &[]);
        claims["sub"] = name.into();
        format!("Bearer {}", token(&claims))
    };
    let (greedy, other) = (user("greedy"), user("other"));
    // Whose tickets, how many of them more than a client may have, and what the last one gets.
    for (query, headers, is_bounded) in [
        ("?channel=news", vec![], false),
        ("", vec![("authorization", &*greedy)], true),
        ("?channel=a", vec![("cookie", "session=1"), ("sec-fetch-site", "same-origin")], true),
    ] {
        let mut refused = 0;
        for _ in 0..1_200 {
            let answer = get_ticket(&node, query, &headers).await;
            if answer.status == 200 {
                continue;
            }
            answer.problem(429);
            assert!(answer.header("retry-after").is_some());
            refused += 1;
        }
        assert_eq!(refused > 0, is_bounded, "{refused} {query}");
        ticket_of(&get_ticket(&node, "", &[("authorization", &*other)]).await);
    }
    // A ticket for what is public opens it, however often.
    let ticket = ticket_of(&get_ticket(&node, "?channel=news", &[]).await);
    for _ in 0..2 {
        assert_eq!(open(&node, "news", &ticket).await, 200);
    }
    assert_eq!(open(&node, "inbox", &ticket).await, 401);
    assert!(!node.log().contains("unused tickets"), "{}", node.log());
}
