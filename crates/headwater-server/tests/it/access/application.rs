//! The application decides: what it is asked, and that access stays denied when it does not
//! answer.

use std::time::{Duration, Instant};

use headwater_test_support::http::{self, Answer};
use headwater_test_support::stream::End;
use headwater_test_support::{EventStream, Node, free_port};

use crate::support::BINARY;
use crate::support::backend::{Backend, answer, json};

async fn guarded_by(answer: &str) -> (Backend, Node) {
    let backend = Backend::start(answer).await;
    let url = backend.url("/sse-auth");
    let node = Node::start(BINARY, &["--authorize-url", &url, "--authorize-timeout", "1s"]);
    (backend, node)
}

/// Asks for a stream as curl does, with another cookie each time, so that no answer is remembered.
async fn ask(node: &Node, cookie: &str, channels: &str) -> Answer {
    let headers = [("cookie", cookie)];
    let path = format!("/sse/stream?{channels}");
    http::request(node.address(), "GET", &path, &headers, b"").await
}

#[tokio::test]
async fn it_receives_the_session_and_the_requested_access() {
    let (backend, node) = guarded_by(&json(r#"{"user": 42, "expires_in": 600}"#)).await;
    let headers = [("cookie", "session=abc"), ("authorization", "Basic x"), ("x-other", "y")];
    let path = "/sse/stream?channel=a&channel=b%26c";
    let stream = EventStream::open_with(node.address(), path, &headers, None).await;
    assert_eq!(stream.status, 200);
    assert!(stream.headers.iter().any(|(name, _)| name == "headwater-stream"));
    let origin = format!("http://{}", node.address());
    let headers = [("cookie", "session=abc"), ("origin", &*origin)];
    let publish = http::request(node.address(), "POST", "/sse/publish?channel=a", &headers, b"x");
    assert_eq!(publish.await.status, 200);
    let requests = backend.requests();
    let [subscribe, publish] = &requests[..] else { panic!("{requests:?}") };
    for part in [
        "GET /sse-auth?action=subscribe&channel=a&channel=b%26c HTTP/1.1\r\n",
        "\r\ncookie: session=abc\r\n",
        "\r\nauthorization: Basic x\r\n",
        "\r\nx-forwarded-for: 127.0.0.1\r\n",
    ] {
        assert!(subscribe.contains(part), "{part:?} is not in {subscribe:?}");
    }
    assert!(!subscribe.contains("x-other"), "{subscribe}");
    assert!(publish.starts_with("GET /sse-auth?action=publish&channel=a HTTP"), "{publish}");
}

#[tokio::test]
async fn it_may_deny_and_it_may_narrow() {
    let (backend, node) = guarded_by(&answer("401 Unauthorized", "text/html", "no")).await;
    let refused = ask(&node, "a=1", "channel=a").await;
    refused.problem(401);
    assert!(refused.header("www-authenticate").is_some());
    backend.answer_with(&answer("403 Forbidden", "text/html", "no"), Duration::ZERO);
    ask(&node, "a=2", "channel=a").await.problem(403);
    backend.answer_with(&json(r#"{"channels": ["b", "z"]}"#), Duration::ZERO);
    ask(&node, "a=3", "channel=a").await.problem(403);
    let headers = [("cookie", "a=4")];
    let path = "/sse/stream?channel=a&channel=b";
    let mut stream = EventStream::open_with(node.address(), path, &headers, None).await;
    assert_eq!(stream.status, 200);
    backend.answer_with(&json("{}"), Duration::ZERO);
    for channel in ["a", "z", "b"] {
        let path = format!("/sse/publish?channel={channel}");
        let answer = http::post(node.address(), &path, channel.as_bytes()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert_eq!(stream.next().await.expect("it is open").data, "b", "only what is left");
}

#[tokio::test]
async fn its_expiry_ends_the_stream() {
    let (_backend, node) = guarded_by(&json(r#"{"expires_in": 1.5}"#)).await;
    let began = Instant::now();
    let mut stream = EventStream::open(node.address(), "/sse/stream?channel=a").await;
    assert_eq!(stream.status, 200);
    assert_eq!(stream.end().await, End::Clean);
    assert!((1.0..4.0).contains(&began.elapsed().as_secs_f64()), "{:?}", began.elapsed());
    node.wait_for_metric("headwater_streams_ended_total{reason=\"expired\"}", 1.0).await;
}

#[tokio::test]
async fn every_failure_denies() {
    let (backend, node) = guarded_by("").await;
    let redirect = "HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n";
    for (number, (wrong, after)) in [
        (answer("500 Internal Server Error", "text/html", ""), 0),
        (answer("404 Not Found", "text/html", ""), 0),
        (redirect.to_owned(), 0),
        (json("not JSON"), 0),
        (json("[]"), 0),
        (json(r#"{"channels": "all"}"#), 0),
        (json(r#"{"channels": null}"#), 0),
        (json(r#"{"allowed": false}"#), 0),
        (json(r#"{"expires_in": "long"}"#), 0),
        // Meant as a yes, and it names another channel: nothing may be read out of it.
        (answer("200 OK", "text/html", r#"{"channels": ["b"]}"#), 0),
        (answer("200 OK", "text/html; charset=utf-8", r#"{"channels": ["b"]}"#), 0),
        (answer("200 OK", "text/plain", r#"{"channels": ["b"]}"#), 0),
        (answer("200 OK", "", "{}"), 0),
        (answer("200 OK", "application/x-www-form-urlencoded", "channels=a"), 0),
        (answer("200 OK", "text/html", "<form action=/login>"), 0),
        (answer("201 Created", "application/json", "{}"), 0),
        (answer("202 Accepted", "application/json", "{}"), 0),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}".to_owned(), 0),
        ("HTTP/1.1 200 OK\r\n\r\n".to_owned(), 0),
        ("HTTP/1.1 303 See Other\r\nlocation: /\r\ncontent-length: 0\r\n\r\n".to_owned(), 0),
        (json(&" ".repeat(1 << 20)), 0),
        ("garbage\r\n\r\n".to_owned(), 0),
        ("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nx".to_owned(), 0),
        (String::new(), 0),
        (json("{}"), 3),
    ]
    .into_iter()
    .enumerate()
    {
        backend.answer_with(&wrong, Duration::from_secs(after));
        let cookie = format!("a={number}");
        let refused = ask(&node, &cookie, "channel=a").await;
        refused.problem(503);
        assert_eq!(refused.header("retry-after"), Some("1"), "{wrong}");
        let headers = [("cookie", &*cookie), ("sec-fetch-site", "same-origin")];
        let path = "/sse/publish?channel=a";
        http::request(node.address(), "POST", path, &headers, b"x").await.problem(503);
    }
    // An EventSource would not reconnect after a 503: it gets a stream that ends.
    let mut soft = EventStream::open_with(
        node.address(),
        "/sse/stream?channel=a",
        &[("cookie", "a=0"), ("accept", "text/event-stream")],
        None,
    )
    .await;
    assert_eq!((soft.status, soft.end().await), (200, End::Clean));
    node.wait_for_metric("headwater_streams_opened_total", 0.0).await;
    node.wait_for_metric("headwater_events_published_total", 0.0).await;
}

#[tokio::test]
async fn a_yes_may_have_no_body() {
    let (backend, node) = guarded_by("").await;
    for (number, yes) in [
        answer("200 OK", "text/html; charset=utf-8", ""),
        answer("200 OK", "application/json", ""),
        "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
    ]
    .into_iter()
    .enumerate()
    {
        backend.answer_with(&yes, Duration::ZERO);
        let cookie = format!("a={number}");
        let headers = [("cookie", &*cookie)];
        let path = "/sse/stream?channel=a";
        let stream = EventStream::open_with(node.address(), path, &headers, None).await;
        assert_eq!(stream.status, 200, "{yes}");
        stream_stays_open(&node, stream).await;
    }
}

async fn stream_stays_open(node: &Node, mut stream: EventStream) {
    let headers = [("cookie", "publisher=1"), ("sec-fetch-site", "same-origin")];
    let path = "/sse/publish?channel=a";
    let answer = http::request(node.address(), "POST", path, &headers, b"x").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(stream.next().await.expect("it is open").data, "x");
}

#[tokio::test]
async fn a_question_that_is_too_long_is_refused_for_good() {
    let (backend, node) = guarded_by(&json("{}")).await;
    // The application may accept less than what can be sent.
    let long = "\u{20ac}".repeat(80);
    let lines = |count: usize| {
        let line = |it| format!("{{\"channel\": \"{it}{long}\", \"data\": 1}}");
        (0..count).map(line).collect::<Vec<_>>().join("\n")
    };
    let batch = async |count| {
        let headers = [("authorization", "Basic x"), ("content-type", "application/x-ndjson")];
        let body = lines(count);
        http::request(node.address(), "POST", "/sse/publish", &headers, body.as_bytes()).await
    };
    assert_eq!(batch(10).await.status, 200);
    let asked = backend.requests().len();
    assert!(batch(100).await.problem(400).contains("too many channels"));
    assert_eq!(backend.requests().len(), asked);
    // Each of these is three bytes in a URL that is encoded.
    let marks = "!".repeat(240);
    let names: Vec<_> = (0..100).map(|it| format!("channel={it}{marks}")).collect();
    let stream = ask(&node, "a=1", &names.join("&")).await;
    assert!(stream.problem(400).contains("too many channels"));
    backend.answer_with(&answer("414 URI Too Long", "text/html", "no"), Duration::ZERO);
    assert!(ask(&node, "a=2", "channel=a").await.problem(400).contains("too many channels"));
}

#[tokio::test]
async fn an_application_that_is_down_denies() {
    let url = format!("http://127.0.0.1:{}/", free_port());
    let node = Node::start(BINARY, &["--authorize-url", &url, "--public", "news"]);
    ask(&node, "a=1", "channel=a").await.problem(503);
    let public = EventStream::open(node.address(), "/sse/stream?channel=news").await;
    assert_eq!(public.status, 200, "it is not asked about what is public");
}

#[tokio::test]
async fn a_thousand_reconnecting_streams_do_not_stampede_it() {
    let (backend, node) = guarded_by(&json("{}")).await;
    backend.answer_with(&json("{}"), Duration::from_millis(5));
    let open = async |cookie: String| {
        let headers = [("cookie", &*cookie)];
        let path = "/sse/stream?channel=a";
        let stream = EventStream::open_with(node.address(), path, &headers, None).await;
        assert_eq!(stream.status, 200);
        stream
    };
    // One session with a thousand streams is one question, as long as the answer is fresh.
    let began = Instant::now();
    let same = futures_util::future::join_all((0..500).map(|_| open("a=same".into()))).await;
    let asked = backend.requests().len();
    let fresh = 1 + usize::try_from(began.elapsed().as_secs()).unwrap_or(usize::MAX) / 2;
    assert!(asked <= fresh + 1, "{asked} questions in {:?}", began.elapsed());
    // A thousand sessions are a thousand questions, few at a time.
    let each = (0..500).map(|number| open(format!("a={number}")));
    let others = futures_util::future::join_all(each).await;
    assert!(backend.most_at_once() <= 32, "{} at once", backend.most_at_once());
    assert_eq!(same.len() + others.len(), 1_000);
}
