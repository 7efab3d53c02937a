//! The shares of a small memory, each filled by a client: what is refused then, who goes on, and
//! what the process uses at most. Look here for how a client fills a share.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use headwater_test_support::{EventStream, Node, PATIENCE, eventually, http};
use http_body_util::Empty;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::BINARY;
use crate::support::access::{SecretFile, claims, token};
use crate::support::backend::{Backend, json as yes};
use crate::support::http2::Connection;

/// The memory of the node.
const MEMORY: &str = "16MiB";

/// What the process uses at most, from its start: the budget, and what has no share, such as the
/// buffers of the sockets of this test and the pages that the allocator keeps.
const PEAK_BYTES_MAX: u64 = (16 << 20) + (48 << 20);

struct Filled {
    node: Node,
    bearer: String,
    stream: EventStream,
    _secret: SecretFile,
}

impl Filled {
    async fn start() -> Self {
        let secret = SecretFile::new();
        let arguments = ["--jwt-secret-file", secret.path(), "--memory", MEMORY];
        let node = Node::start_quiet(BINARY, &arguments);
        let mut claims = claims(&["*"], &["*"]);
        claims["headwater"]["admin"] = json!(true);
        let bearer = format!("Bearer {}", token(&claims));
        let headers = [("authorization", &*bearer)];
        let path = "/sse/stream?channel=healthy";
        let stream = EventStream::open_with(node.address(), path, &headers, None).await;
        node.forget_peak();
        Self { node, bearer, stream, _secret: secret }
    }

    async fn ask(&self, method: &str, path: &str, body: &[u8]) -> http::Answer {
        let headers = [("authorization", &*self.bearer)];
        http::request(self.node.address(), method, path, &headers, body).await
    }

    async fn count(&self, what: &str, share: &str) -> f64 {
        self.node.metric(&format!("headwater_memory_{what}{{share=\"{share}\"}}")).await
    }

    /// A user of other shares notices nothing, and the process is within its bounds.
    async fn check_the_rest(&mut self, share: &str) {
        let path = "/sse/publish?channel=healthy";
        assert_eq!(self.ask("POST", path, share.as_bytes()).await.status, 200, "{share}");
        assert_eq!(self.stream.next().await.expect("an open stream").data, share);
        let [used, limit] = ["used_bytes", "limit_bytes"].map(|what| self.count(what, share));
        let (used, limit) = (used.await, limit.await);
        let peak = self.node.peak_bytes();
        println!("{share}: {used} of {limit} bytes, the process used {} KiB", peak >> 10);
        assert!(peak <= PEAK_BYTES_MAX, "{share}: {peak}");
    }
}

#[tokio::test]
async fn tickets_that_nobody_uses_are_refused_when_their_share_is_full() {
    let mut filled = Filled::start().await;
    let channels: Vec<_> =
        (0..100).map(|at| format!("channel={at:02}{}", "n".repeat(200))).collect();
    let path = format!("/sse/ticket?{}", channels.join("&"));
    // Of many users, since one has a part of the share.
    let mut users = 0;
    let refused = loop {
        users += 1;
        let mut claims = claims(&["*"], &["*"]);
        claims["sub"] = json!(users.to_string());
        let bearer = format!("Bearer {}", token(&claims));
        let headers = [("authorization", &*bearer)];
        let answer = http::request(filled.node.address(), "POST", &path, &headers, b"").await;
        if answer.status != 200 {
            break answer;
        }
    };
    refused.problem(503);
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert!(filled.count("refusals_total", "tickets").await >= 1.0);
    assert!(filled.count("used_bytes", "tickets").await > 100_000.0);
    filled.check_the_rest("tickets").await;
}

#[tokio::test]
async fn requests_over_http2_are_refused_when_their_share_is_full() {
    let mut filled = Filled::start().await;
    let mut streams = Vec::new();
    let mut connection = Connection::open(&filled.node).await;
    let refused = loop {
        let uri = format!("{}/sse/stream?channel=a", connection.origin);
        let request = http_request(&uri, &filled.bearer);
        let answer = timeout(PATIENCE, connection.requests.send_request(request)).await;
        let answer = answer.expect("an answer in time").expect("an answer");
        if answer.status() != 200 {
            break answer;
        }
        streams.push(answer);
        assert!(streams.len() < 250, "nothing is refused");
    };
    assert_eq!(
        (refused.status().as_u16(), refused.headers()["retry-after"].as_bytes()),
        (503, &b"1"[..])
    );
    assert!(filled.count("refusals_total", "connections").await >= 1.0);
    filled.check_the_rest("connections").await;
    drop((streams, connection, refused));
    eventually("everything is given back", || async {
        filled.count("used_bytes", "connections").await < 10_000.0
    })
    .await;
}

fn http_request(uri: &str, bearer: &str) -> hyper::Request<Empty<Bytes>> {
    let request = hyper::Request::get(uri).header("authorization", bearer);
    request.body(Empty::new()).expect("a request")
}

/// The application is asked about a batch only when it was read.
#[tokio::test]
async fn batches_of_strangers_that_do_not_come_leave_room_for_users() {
    let secret = SecretFile::new();
    let backend = Backend::start(&yes("{}")).await;
    let url = backend.url("/");
    let arguments = [
        ["--jwt-secret-file", secret.path(), "--authorize-url", &url, "--memory", MEMORY],
        ["--trusted-proxy", "127.0.0.1", "--client-address-header", "x-real-ip", "--log", "info"],
    ];
    let node = Node::start(BINARY, &arguments.concat());
    let mut strangers = Vec::new();
    for number in 0..40 {
        let mut socket = TcpStream::connect(node.address()).await.expect("it listens");
        let head = format!(
            "POST /sse/publish HTTP/1.1\r\nhost: a\r\nx-real-ip: 192.0.2.{number}\r\n\
             content-type: application/x-ndjson\r\nexpect: 100-continue\r\n\
             content-length: 20000\r\n\r\n"
        );
        socket.write_all(head.as_bytes()).await.expect("it is sent");
        // The answer to the head: it has its room, or is refused.
        let mut status = [0; 12];
        timeout(PATIENCE, socket.read_exact(&mut status)).await.expect("in time").expect("it");
        strangers.push((socket, String::from_utf8_lossy(&status).into_owned()));
    }
    let are = |status: &str| strangers.iter().filter(|(_, it)| it.ends_with(status)).count();
    assert!(are("100") >= 10 && are("503") >= 10, "{} and {}", are("100"), are("503"));
    let bearer = format!("Bearer {}", token(&claims(&["*"], &["*"])));
    let headers = [("authorization", &*bearer)];
    let path = "/sse/publish?channel=healthy";
    let body = vec![b'x'; 50_000];
    let answer = http::request(node.address(), "POST", path, &headers, &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test]
async fn streams_that_miss_much_end_when_the_share_of_replays_is_full() {
    let mut filled = Filled::start().await;
    let data = "d".repeat(250_000);
    // More than rings keep, of each of eight channels.
    for number in 0..24 {
        let path = format!("/sse/publish?channel=c{}", number % 8);
        assert_eq!(filled.ask("POST", &path, data.as_bytes()).await.status, 200);
    }
    let channels: Vec<_> = (0..8).map(|number| format!("channel=c{number}")).collect();
    let path = format!("/sse/stream?rewind=all&{}", channels.join("&"));
    let bearer = filled.bearer.clone();
    let headers = [("authorization", &*bearer)];
    let address = filled.node.address();
    let open = || EventStream::open_with(address, &path, &headers, Some(4 << 10));
    let mut streams = Vec::new();
    for _ in 0..4 {
        streams.push(open().await);
    }
    let name = "headwater_memory_refusals_total{share=\"replays\"}";
    eventually("a stream was refused", || async { filled.node.metric(name).await >= 1.0 }).await;
    filled.check_the_rest("replays").await;
    drop(streams);
    eventually("everything is given back", || async {
        filled.count("used_bytes", "replays").await < 1.0
    })
    .await;
    let mut stream = open().await;
    for _ in 0..8 {
        assert_eq!(stream.next().await.expect("an event").data.len(), data.len());
    }
}

#[tokio::test]
async fn the_revocation_that_ends_first_is_forgotten_when_the_share_is_full() {
    let mut filled = Filled::start().await;
    let begin = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let mut revoked = 0u64;
    while filled.count("evictions_total", "revocations").await < 1.0 {
        for _ in 0..100 {
            revoked += 1;
            let id = format!("{revoked:0200}");
            let path = format!("/admin/streams?token={id}&expires={}", begin + 60 + revoked);
            assert_eq!(filled.ask("DELETE", &path, b"").await.status, 204);
        }
        assert!(revoked < 5_000, "nothing is forgotten");
    }
    let used = filled.count("used_bytes", "revocations").await;
    assert!(used <= filled.count("limit_bytes", "revocations").await);
    filled.check_the_rest("revocations").await;
}
