//! HTTP/2 without TLS: many streams on one connection. Look here for what differs from HTTP/1.1.

use std::time::{Duration, Instant};

use bytes::Bytes;
use headwater::event::{Decoder, Item, Message};
use headwater_test_support::{Node, PATIENCE, http as http1};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

const BINARY: &str = env!("CARGO_BIN_EXE_headwater");

/// One connection, with prior knowledge.
pub(crate) struct Connection {
    requests: SendRequest<Empty<Bytes>>,
    origin: String,
}

impl Connection {
    pub(crate) async fn open(node: &Node) -> Self {
        let socket = TcpStream::connect(node.address()).await.expect("the server listens");
        Self::over(socket, format!("http://{}", node.address())).await
    }

    /// On a socket that is open already.
    pub(crate) async fn over<S>(socket: S, origin: String) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let shaken = handshake(TokioExecutor::new(), TokioIo::new(socket)).await;
        let (requests, connection) = shaken.expect("the server speaks HTTP/2");
        tokio::spawn(connection);
        Self { requests, origin }
    }

    async fn get(&mut self, path: &str) -> (HeaderMap, Incoming) {
        self.get_after(path, "").await
    }

    async fn get_after(&mut self, path: &str, last_event_id: &str) -> (HeaderMap, Incoming) {
        let mut request = Request::get(format!("{}{path}", self.origin));
        if !last_event_id.is_empty() {
            request = request.header("last-event-id", last_event_id);
        }
        let request = request.body(Empty::new()).expect("a request");
        let answer = timeout(PATIENCE, self.requests.send_request(request)).await;
        let (head, body) = answer.expect("an answer in time").expect("an answer").into_parts();
        assert_eq!(head.status, 200);
        assert_eq!(head.version, http::Version::HTTP_2);
        (head.headers, body)
    }

    /// The status for a publish of nothing.
    pub(crate) async fn post(&mut self, path: &str, headers: &[(&str, &str)]) -> StatusCode {
        let mut request = Request::post(format!("{}{path}", self.origin));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Empty::new()).expect("a request");
        let answer = timeout(PATIENCE, self.requests.send_request(request)).await;
        answer.expect("an answer in time").expect("an answer").status()
    }

    pub(crate) async fn stream(&mut self, path: &str) -> Stream {
        self.stream_after(path, "").await
    }

    pub(crate) async fn stream_after(&mut self, path: &str, last_event_id: &str) -> Stream {
        let (headers, body) = self.get_after(path, last_event_id).await;
        let mut stream = Stream { headers, body, decoder: Decoder::new() };
        assert!(matches!(stream.next_item().await, Some(Item::Comment(_))));
        stream
    }
}

pub(crate) struct Stream {
    headers: HeaderMap,
    body: Incoming,
    pub(crate) decoder: Decoder,
}

impl Stream {
    /// `None` is a clean end. Cancel safe.
    pub(crate) async fn next_item(&mut self) -> Option<Item> {
        loop {
            if let Some(item) = self.decoder.next_item() {
                return Some(item);
            }
            let frame = timeout(PATIENCE, self.body.frame()).await.expect("something in time")?;
            let data = frame.expect("the stream is not reset").into_data().unwrap_or_default();
            self.decoder.push(&data).expect("an event stream");
        }
    }

    pub(crate) async fn next(&mut self) -> Option<Message> {
        loop {
            if let Item::Event(event) = self.next_item().await? {
                return Some(event);
            }
        }
    }
}

#[tokio::test]
async fn one_connection_carries_150_streams() {
    let node = Node::start(BINARY, &[]);
    let mut connection = Connection::open(&node).await;
    let mut streams = Vec::new();
    for number in 0..150 {
        let path = format!("/sse/stream?channel=all&channel=c{number}");
        streams.push(connection.stream(&path).await);
    }
    node.wait_for_metric("headwater_streams", 150.0).await;
    for path in ["/sse/publish?channel=all", "/sse/publish?channel=c77&id=7"] {
        assert_eq!(http1::post(node.address(), path, b"hello").await.status, 200);
    }
    for (number, stream) in streams.iter_mut().enumerate() {
        assert_eq!(stream.headers["content-type"], "text/event-stream");
        for name in ["connection", "transfer-encoding", "keep-alive", "content-length"] {
            assert!(!stream.headers.contains_key(name), "{name} has no place in HTTP/2");
        }
        let event = stream.next().await.expect("the stream is open");
        assert_eq!((&*event.data, event.id.contains('-')), ("hello", true), "{number}");
        if number == 77 {
            assert_eq!(stream.next().await.expect("the stream is open").id, "7");
        }
    }
    // Other requests find their way between them.
    let (_, page) = connection.get("/sse/demo").await;
    assert!(!page.collect().await.expect("the page").to_bytes().is_empty());
}

#[tokio::test]
async fn a_reset_stream_is_gone_and_the_others_stay() {
    let node = Node::start(BINARY, &["--heartbeat", "off"]);
    let mut connection = Connection::open(&node).await;
    let mut stays = connection.stream("/sse/stream?channel=news").await;
    let goes = connection.stream("/sse/stream?channel=news").await;
    node.wait_for_metric("headwater_streams", 2.0).await;
    let begin = Instant::now();
    // hyper resets the stream.
    drop(goes);
    node.wait_for_metric("headwater_streams", 1.0).await;
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    node.wait_for_metric("headwater_streams_ended_total{reason=\"client\"}", 1.0).await;
    http1::post(node.address(), "/sse/publish?channel=news", b"x").await;
    assert_eq!(stays.next().await.expect("the stream is open").data, "x");
}

#[tokio::test]
async fn a_connection_that_closes_takes_its_streams_along() {
    let node = Node::start(BINARY, &["--heartbeat", "off"]);
    let mut connection = Connection::open(&node).await;
    let mut streams = Vec::new();
    for _ in 0..5 {
        streams.push(connection.stream("/sse/stream?channel=news").await);
    }
    node.wait_for_metric("headwater_streams", 5.0).await;
    let begin = Instant::now();
    drop((connection, streams));
    node.wait_for_metric("headwater_streams", 0.0).await;
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn a_stream_that_nobody_reads_ends_and_the_others_do_not() {
    let node = Node::start(BINARY, &["--send-timeout", "1s"]);
    let mut connection = Connection::open(&node).await;
    let mut healthy = connection.stream("/sse/stream?channel=news").await;
    let stalled = connection.stream("/sse/stream?channel=news&channel=flood").await;
    // More than the window of a stream and what the server keeps for it.
    let path = "/sse/publish?channel=flood";
    let mut opened = Connection::open(&node).await;
    let mut reader = opened.stream("/sse/stream?channel=flood").await;
    for number in 0..40 {
        let data = format!("{number} {}", "x".repeat(200_000));
        assert_eq!(http1::post(node.address(), path, data.as_bytes()).await.status, 200);
        assert!(reader.next().await.expect("it reads").data.starts_with(&format!("{number} ")));
    }
    // Ended with one of the two reasons, whichever came first.
    headwater_test_support::eventually("the stalled stream has ended", || async {
        let overflow = node.metric("headwater_streams_ended_total{reason=\"overflow\"}").await;
        let stalled = node.metric("headwater_streams_ended_total{reason=\"stalled\"}").await;
        overflow + stalled > 0.5
    })
    .await;
    node.wait_for_metric("headwater_streams", 2.0).await;
    http1::post(node.address(), "/sse/publish?channel=news", b"x").await;
    assert_eq!(healthy.next().await.expect("the stream is open").data, "x");
    drop(stalled);
}

// On more than one thread, because the client must answer the server's last ping while the test
// waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_end_well_when_the_server_stops() {
    let mut node = Node::start(BINARY, &["--drain-timeout", "60s"]);
    let mut connection = Connection::open(&node).await;
    let mut stream = connection.stream("/sse/stream?channel=news").await;
    http1::post(node.address(), "/sse/publish?channel=news", b"x").await;
    node.signal("TERM");
    assert_eq!(stream.next().await.expect("the event").data, "x");
    assert!(matches!(stream.next_item().await, Some(Item::Retry(_))));
    assert_eq!(stream.next_item().await, None);
    assert_eq!(node.wait_for_end(PATIENCE).code(), Some(0), "{}", node.log());
}
