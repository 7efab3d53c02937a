//! What wrong requests get: a problem document that says what to do, and nothing else happens. Look
//! here for the table of mistakes.

use bytes::Bytes;
use headwater_test_support::http::{self, Answer};
use headwater_test_support::{EventStream, Node};
use http_body_util::Full;
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::support::BINARY;

const NDJSON: &[(&str, &str)] = &[("content-type", "application/x-ndjson")];

/// A stream that is open while others make mistakes. It subscribes to every channel that a mistake
/// could reach, and must notice nothing.
struct Witness(EventStream);

impl Witness {
    async fn open(node: &Node) -> Self {
        let path = "/sse/stream?channel=default&channel=a&channel=b";
        Self(EventStream::open(node.address(), path).await)
    }

    async fn noticed_nothing(mut self, node: &Node) {
        let answer = http::post(node.address(), "/sse/publish?channel=a", b"the first event").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let first = self.0.next().await.expect("the stream is still open");
        assert_eq!(first.data, "the first event");
    }
}

#[track_caller]
fn assert_problem(answer: &Answer, status: u16, parts: &[&str], what: &str) {
    let detail = answer.problem(status);
    for part in parts {
        assert!(detail.contains(part), "{what}: {detail:?} lacks {part:?}");
    }
}

fn channels(count: usize) -> String {
    (0..count).map(|number| format!("channel=c{number}&")).collect::<Vec<_>>().concat()
}

#[tokio::test]
async fn wrong_queries_get_a_reason_and_do_not_affect_streams() {
    let node = Node::start(BINARY, &[]);
    let witness = Witness::open(&node).await;
    let (too_long, longest) = ("ä".repeat(128), "x".repeat(255));

    let of_both: Vec<(String, &[&str])> = vec![
        ("channel=".into(), &["empty"]),
        ("channel".into(), &["empty"]),
        (format!("channel={too_long}"), &["256 bytes", "at most 255"]),
        (format!("channel={longest}y"), &["256 bytes", "at most 255"]),
        ("channel=a%0Ab".into(), &["U+000A", "leave it out"]),
        ("channel=a%00".into(), &["U+0000"]),
        ("channel=%C2%85".into(), &["U+0085"]),
        ("channel=headwater:x".into(), &["reserved", "choose another name"]),
        ("channel=headwater%3Ax".into(), &["reserved"]),
        ("channel=%FF".into(), &["not UTF-8"]),
        ("channel=a%C3".into(), &["not UTF-8"]),
        ("chanel=a".into(), &["\"chanel\"", "did you mean \"channel\"?"]),
        ("Channel=a".into(), &["did you mean \"channel\"?"]),
        (channels(101), &["101 channels", "at most 100"]),
    ];
    for (query, parts) in &of_both {
        let answer = http::get(node.address(), &format!("/sse/stream?{query}")).await;
        assert_problem(&answer, 400, parts, &format!("listen {query}"));
        let answer = http::post(node.address(), &format!("/sse/publish?{query}"), b"x").await;
        assert_problem(&answer, 400, parts, &format!("publish {query}"));
    }

    let of_streams: &[(&str, &[&str])] = &[
        ("as=name", &["only as=channel"]),
        ("last_event_ID=7", &["did you mean \"last_event_id\"?"]),
    ];
    for (query, parts) in of_streams {
        let answer = http::get(node.address(), &format!("/sse/stream?{query}")).await;
        assert_problem(&answer, 400, parts, query);
    }

    let of_publishing: &[(&str, &[&str])] = &[
        ("event=", &["empty"]),
        ("event=a%0Aid:%207", &["U+000A"]),
        ("event=a%0Db", &["U+000D"]),
        ("event=a%00", &["U+0000"]),
        ("id=", &["empty"]),
        ("id=a%0Ab", &["id"]),
        ("id=a%00", &["id"]),
        ("id=a%20b", &["id"]),
        ("id=%C3%A4", &["id"]),
        ("id=5f3a9c01d2e7-1042", &["written as a position of the log"]),
        ("id=a-1~b-2", &["written as a position of the log"]),
        ("id=1&id=2", &["id is in the query twice"]),
        ("retry=soon", &["\"soon\"", "no number of milliseconds"]),
        ("retry=-1", &["no number of milliseconds"]),
        ("retry=1.5", &["no number of milliseconds"]),
        ("retry=99", &["from 100 to 300000"]),
        ("retry=300001", &["from 100 to 300000"]),
        ("event=error", &["choose another name"]),
        ("event=open", &["choose another name"]),
        ("evnt=a", &["did you mean \"event\"?"]),
        ("retri=1", &["did you mean \"retry\"?"]),
    ];
    for (query, parts) in of_publishing {
        let answer = http::post(node.address(), &format!("/sse/publish?{query}"), b"x").await;
        assert_problem(&answer, 400, parts, query);
    }

    witness.noticed_nothing(&node).await;
}

#[tokio::test]
async fn input_at_its_limits_is_accepted() {
    let node = Node::start(BINARY, &[]);
    let path = format!("/sse/stream?{}", channels(100));
    assert_eq!(EventStream::open(node.address(), &path).await.status, 200);
    let path = format!("/sse/stream?channel={}&utm_source=mail&_=17", "x".repeat(255));
    let mut stream = EventStream::open(node.address(), &path).await;
    let path = format!("/sse/publish?channel={}&retry=100&id=~&event=a%20%C3%A4", "x".repeat(255));
    assert_eq!(http::post(node.address(), &path, b"x").await.status, 200);
    let event = stream.next().await.expect("the stream is open");
    assert_eq!((&*event.name, &*event.id, &*event.data), ("a ä", "~", "x"));
}

#[tokio::test]
async fn bodies_over_the_limit_are_rejected_however_they_are_framed() {
    let node = Node::start(BINARY, &["--max-body", "4KiB"]);
    let witness = Witness::open(&node).await;
    let (fits, over) = (vec![b'x'; 4096], vec![b'x'; 4097]);
    let path = "/sse/publish?channel=b2";
    assert_eq!(http::post(node.address(), path, &fits).await.status, 200);
    let parts = &["more than 4096 bytes", "max-body"];
    let answer = http::post(node.address(), path, &over).await;
    assert_problem(&answer, 413, parts, "content-length");
    let answer = http::request(node.address(), "POST", path, NDJSON, &over).await;
    assert_problem(&answer, 413, parts, "a batch");

    let chunked = |body: &[u8]| {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ntransfer-encoding: \
             chunked\r\n\r\n"
        );
        let mut request = head.into_bytes();
        for chunk in body.chunks(1000) {
            request.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            request.extend_from_slice(chunk);
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"0\r\n\r\n");
        request
    };
    let answer = http::exchange(node.address(), &chunked(&fits)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answer = http::exchange(node.address(), &chunked(&over)).await;
    assert_problem(&answer, 413, parts, "chunked");
    // A chunk that never ends is rejected as soon as it is too long.
    let endless = [&chunked(&[])[..chunked(&[]).len() - 5], b"ffffff\r\n", &over].concat();
    let answer = http::exchange(node.address(), &endless).await;
    assert_problem(&answer, 413, parts, "an endless chunk");
    witness.noticed_nothing(&node).await;
}

#[tokio::test]
async fn clients_that_send_all_before_they_read_receive_the_refusal() {
    let node = Node::start(BINARY, &["--max-body", "4KiB"]);
    let witness = Witness::open(&node).await;
    let length = 8 << 20;
    let head = format!(
        "POST /sse/publish?channel=b2 HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-length: {length}\r\n\r\n"
    );
    let request = [head.as_bytes(), &vec![b'x'; length]].concat();
    let send = async || {
        let mut socket = TcpStream::connect(node.address()).await.expect("the server listens");
        // A client that fails here does not read.
        socket.write_all(&request).await.expect("the server takes all of it");
        http::read_answer(&mut socket).await
    };
    // More than are read at a time.
    for answer in futures_util::future::join_all((0..20).map(|_| send())).await {
        assert_problem(&answer, 413, &["more than 4096 bytes"], "one of many");
    }
    witness.noticed_nothing(&node).await;
}

#[tokio::test]
async fn one_event_is_bounded_even_where_bodies_may_be_larger() {
    let node = Node::start(BINARY, &["--max-body", "16MiB"]);
    let witness = Witness::open(&node).await;
    let over = vec![b'x'; (8 << 20) + 1];
    let answer = http::post(node.address(), "/sse/publish?channel=a", &over).await;
    let parts = &["channel a", "8388609 bytes", "at most 8388608"];
    assert_problem(&answer, 413, parts, "one event");
    let batch = format!(
        "{{\"data\":\"good\"}}\n{{\"data\":\"{}\"}}\n",
        std::str::from_utf8(&over).expect("it is ASCII")
    );
    let answer =
        http::request(node.address(), "POST", "/sse/publish", NDJSON, batch.as_bytes()).await;
    assert_problem(&answer, 413, &["channel default", "8388609 bytes"], "in a batch");
    witness.noticed_nothing(&node).await;
}

#[tokio::test]
async fn a_body_that_is_not_utf8_is_rejected_with_the_offset() {
    let node = Node::start(BINARY, &[]);
    let witness = Witness::open(&node).await;
    for (body, place) in [
        (&b"abc\xff"[..], "at byte 3"),
        (b"\xed\xa0\x80", "at byte 0"),
        (b"ok\xf0\x9f\x98", "at byte 2"),
    ] {
        let answer = http::post(node.address(), "/sse/publish?channel=a", body).await;
        assert_problem(&answer, 400, &["not UTF-8", place, "base64"], place);
    }
    witness.noticed_nothing(&node).await;
}

#[tokio::test]
async fn an_invalid_line_of_a_batch_publishes_nothing_and_is_named() {
    let node = Node::start(BINARY, &[]);
    let witness = Witness::open(&node).await;
    let good = r#"{"channel":"a","data":"must not arrive"}"#;
    for (bad, part) in [
        ("nonsense", "column"),
        ("[]", "invalid"),
        (r#"{"channel":"a"}"#, "missing field `data`"),
        (r#"{"data":"x","chanel":"a"}"#, "unknown field `chanel`"),
        (r#"{"data":"x","channel":""}"#, "empty"),
        (r#"{"data":"x","channel":"headwater:a"}"#, "reserved"),
        (r#"{"data":"x","event":"a\nb"}"#, "U+000A"),
        (r#"{"data":"x","id":"a\u0000b"}"#, "id"),
        (r#"{"data":"x","id":"5f3a9c01d2e7-1042"}"#, "written as a position of the log"),
        (r#"{"data":"x","retry":"soon"}"#, "string"),
        (r#"{"data":"x","retry":0}"#, "from 100 to 300000"),
        (r#"{"data":"x","event":"error"}"#, "choose another name"),
    ] {
        let mut lines = [good; 9];
        lines[6] = bad;
        let body = lines.join("\n");
        let answer =
            http::request(node.address(), "POST", "/sse/publish", NDJSON, body.as_bytes()).await;
        assert_problem(&answer, 400, &["line 7 ", "nothing was published", part], bad);
    }
    for (query, body, part) in [
        ("", "", "the batch is empty"),
        ("?event=x", good, "leave them out of the query"),
        ("?channel=a&channel=b", good, "one channel in the query at most"),
    ] {
        let path = format!("/sse/publish{query}");
        let answer = http::request(node.address(), "POST", &path, NDJSON, body.as_bytes()).await;
        assert_problem(&answer, 400, &[part], query);
    }
    let many = "{\"data\":0}\n".repeat(10_001);
    let answer =
        http::request(node.address(), "POST", "/sse/publish", NDJSON, many.as_bytes()).await;
    assert_problem(&answer, 400, &["more than 10000 events", "in parts"], "many");
    witness.noticed_nothing(&node).await;
}

#[tokio::test]
async fn wrong_methods_get_405_with_allow_on_every_route() {
    let node = Node::start(BINARY, &[]);
    let witness = Witness::open(&node).await;
    let reading = [
        "/",
        "/sse/stream?channel=a",
        "/sse/demo",
        "/sse/demo/demo.js",
        "/health/live",
        "/health/ready",
        "/metrics",
    ];
    for path in reading {
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"] {
            let answer = http::request(node.address(), method, path, &[], b"x").await;
            assert_problem(&answer, 405, &["GET"], &format!("{method} {path}"));
            assert_eq!(answer.header("allow"), Some("GET, HEAD"), "{method} {path}");
        }
    }
    for method in ["GET", "PUT", "DELETE", "OPTIONS"] {
        let path = "/sse/publish?channel=a";
        let answer = http::request(node.address(), method, path, &[], b"").await;
        let parts = &["publish with POST", "curl --data-binary", "/sse/publish?channel="];
        assert_problem(&answer, 405, parts, method);
        assert_eq!(answer.header("allow"), Some("POST"), "{method}");
    }
    let answer = http::request(node.address(), "HEAD", "/sse/publish", &[], b"").await;
    assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")));
    witness.noticed_nothing(&node).await;
}

#[tokio::test]
async fn head_returns_the_headers_of_get_and_ends() {
    let node = Node::start(BINARY, &[]);
    let head = |path| http::request(node.address(), "HEAD", path, &[], b"");
    let answer = head("/sse/stream?channel=a").await;
    assert_eq!((answer.status, &*answer.text()), (200, ""));
    assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    assert_eq!(answer.header("cache-control"), Some("no-cache, no-transform"));
    assert_eq!(answer.header("x-accel-buffering"), Some("no"));
    let stream = EventStream::open(node.address(), "/sse/stream?channel=a").await;
    for (name, value) in &stream.headers {
        if !["date", "transfer-encoding"].contains(&&**name) {
            assert_eq!(answer.header(name), Some(&**value), "{name}");
        }
    }
    assert!((node.metric("headwater_streams").await - 1.0).abs() < f64::EPSILON, "one is a stream");

    let (answer, page) = (head("/sse/demo").await, http::get(node.address(), "/sse/demo").await);
    assert_eq!((answer.status, &*answer.text()), (200, ""));
    for name in ["content-type", "content-length", "content-security-policy"] {
        assert_eq!(answer.header(name), page.header(name), "{name}");
        assert!(page.header(name).is_some(), "{name}");
    }
    let answer = head("/sse/stream?channel=").await;
    assert_eq!((answer.status, &*answer.text()), (400, ""));
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
}

#[tokio::test]
async fn unknown_paths_name_the_endpoints() {
    let node = Node::start(BINARY, &[]);
    for path in ["/nowhere", "/sse", "/sse/stream/a", "/sse/streams", "/health", "//"] {
        for method in ["GET", "POST"] {
            let answer = http::request(node.address(), method, path, &[], b"").await;
            assert_problem(&answer, 404, &[path, "/sse/stream", "/sse/publish", "/sse/demo"], path);
        }
    }
    for path in ["/sse/demo/nothing.js", "/sse/demo/%FF", "/sse/demo/..%2fCargo.toml"] {
        let answer = http::get(node.address(), path).await;
        assert_problem(&answer, 404, &["no such file"], path);
    }
    let answer = http::get(node.address(), "/").await;
    assert_eq!((answer.status, answer.header("location")), (307, Some("sse/demo")));
}

/// The connection of a request that is refused must not be reset while its client still sends.
#[tokio::test]
async fn a_client_that_sends_a_large_body_receives_the_refusal() {
    let node = Node::start(BINARY, &["--jwt-secret", "a secret of more than 32 bytes, for tests"]);
    let (address, body) = (node.address(), Bytes::from(vec![b'x'; 6 << 20]));
    let publish = async || {
        let socket = TcpStream::connect(address).await.expect("a connection");
        let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await.expect("HTTP");
        tokio::spawn(connection);
        let request = Request::post("/sse/publish?channel=a").header("host", "localhost");
        let request = request.body(Full::new(body.clone())).expect("a request");
        sender.send_request(request).await.map(|response| response.status())
    };
    for status in futures_util::future::join_all((0..40).map(|_| publish())).await {
        assert_eq!(status.expect("a response"), 401);
    }
}
