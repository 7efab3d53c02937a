//! Connections over HTTP/1.1: limits, silence, clients that leave. Look here for timeouts and
//! counts; http2.rs has the same for HTTP/2, slow_client.rs the client that never reads.

use std::time::{Duration, Instant};

use headwater::event::Item;
use headwater_test_support::{EventStream, Node, PATIENCE, http};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::BINARY;

async fn connect(node: &Node) -> TcpStream {
    TcpStream::connect(node.address()).await.expect("the server listens")
}

/// Waits until the server closes the connection; returns what it sent before, and the time.
async fn read_until_closed(mut socket: TcpStream, since: Instant) -> (String, Duration) {
    let mut bytes = Vec::new();
    let read = timeout(PATIENCE, socket.read_to_end(&mut bytes)).await;
    // A reset is an end too.
    let _ = read.expect("the server closes the connection in time");
    (String::from_utf8_lossy(&bytes).into_owned(), since.elapsed())
}

#[tokio::test]
async fn a_closed_client_is_noticed_without_a_publish() {
    // No heartbeat would find out either.
    let node = Node::start(BINARY, &["--heartbeat", "off"]);
    let path = "/sse/stream?channel=news";
    let stays = EventStream::open(node.address(), path).await;
    for _ in 0..10 {
        let stream = EventStream::open(node.address(), path).await;
        node.wait_for_metric("headwater_streams", 2.0).await;
        let begin = Instant::now();
        drop(stream);
        node.wait_for_metric("headwater_streams", 1.0).await;
        assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    }
    node.wait_for_metric("headwater_streams_ended_total{reason=\"client\"}", 10.0).await;
    node.wait_for_metric("headwater_channels", 1.0).await;
    drop(stays);
    node.wait_for_metric("headwater_channels", 0.0).await;
}

/// A client that closes only its own direction is taken for gone, as hyper does by default: no
/// browser or proxy does that and goes on reading, while a FIN is how a client's end usually shows.
#[tokio::test]
async fn a_half_closed_client_is_noticed() {
    let node = Node::start(BINARY, &["--heartbeat", "off"]);
    let mut socket = connect(&node).await;
    let request = "GET /sse/stream?channel=news HTTP/1.1\r\nhost: localhost\r\n\r\n";
    socket.write_all(request.as_bytes()).await.expect("the request is sent");
    node.wait_for_metric("headwater_streams", 1.0).await;
    let begin = Instant::now();
    socket.shutdown().await.expect("its half is closed");
    node.wait_for_metric("headwater_streams", 0.0).await;
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    node.wait_for_metric("headwater_streams_ended_total{reason=\"client\"}", 1.0).await;
    let (text, _) = read_until_closed(socket, begin).await;
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
}

#[tokio::test]
async fn connections_that_begin_no_request_are_closed() {
    let node = Node::start(BINARY, &["--header-timeout", "1s"]);
    let mut stream = EventStream::open(node.address(), "/sse/stream?channel=news").await;
    let begin = Instant::now();
    let mut sockets = Vec::new();
    for request in [
        "",
        // The beginning of HTTP/2's preface, and of a method that looks like it.
        "P",
        "PRI * HTTP/2.0\r\n\r\nSM",
        "GET /sse/stream HTTP/1.1\r\nhost: localhost\r\n",
        "GET /sse/stream",
        // A second request that does not come to its end, on a connection that served one.
        "GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\nGET /health",
        // And one that never begins.
        "GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n",
    ] {
        let mut socket = connect(&node).await;
        socket.write_all(request.as_bytes()).await.expect("it is sent");
        sockets.push((request, socket));
    }
    for (request, socket) in sockets {
        let (text, lasted) = read_until_closed(socket, begin).await;
        assert!(lasted >= Duration::from_millis(900), "{request:?} after {lasted:?}");
        assert!(lasted < Duration::from_secs(10), "{request:?} after {lasted:?}");
        assert_eq!(
            text.contains("200 OK"),
            request.contains("/health/live"),
            "{request:?}: {text}"
        );
    }
    // A stream is a request that came, and stays.
    http::post(node.address(), "/sse/publish?channel=news", b"x").await;
    assert_eq!(stream.next().await.expect("the stream is open").data, "x");
}

#[tokio::test]
async fn a_head_that_is_too_large_is_rejected() {
    let node = Node::start(BINARY, &[]);
    let fits = "x".repeat(40 << 10);
    let headers: &[(&str, &str)] = &[("cookie", &fits)];
    let answer = http::request(node.address(), "GET", "/health/live", headers, b"").await;
    assert_eq!(answer.status, 200);
    let over = "x".repeat(70 << 10);
    let headers: &[(&str, &str)] = &[("cookie", &over)];
    let answer = http::request(node.address(), "GET", "/health/live", headers, b"").await;
    assert_eq!(answer.status, 431);
    let many: Vec<String> = (0..200).map(|number| format!("x-{number}: 1\r\n")).collect();
    let request = format!("GET /health/live HTTP/1.1\r\nhost: localhost\r\n{}\r\n", many.concat());
    assert_eq!(http::exchange(node.address(), request.as_bytes()).await.status, 431);
    assert_eq!(http::exchange(node.address(), b"nonsense\r\n\r\n").await.status, 400);
    assert_eq!(http::get(node.address(), "/health/live").await.status, 200);
}

#[tokio::test]
async fn connections_over_the_limit_wait_for_a_slot() {
    let arguments = ["--max-connections", "5", "--admin", "127.0.0.1:0"];
    let node = Node::start(BINARY, &arguments);
    let path = "/sse/stream?channel=news";
    let mut streams = Vec::new();
    for _ in 0..5 {
        streams.push(EventStream::open(node.address(), path).await);
    }
    node.wait_for_log("connection limit reached");
    let mut sixth = connect(&node).await;
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    sixth.write_all(request.as_bytes()).await.expect("the request is sent");
    let mut byte = [0];
    let answered = timeout(Duration::from_millis(300), sixth.read(&mut byte)).await;
    assert!(answered.is_err(), "the sixth is served: {answered:?}");
    // Those who look after the server still reach it.
    let admin = node.admin_address().expect("the log says where");
    assert!(http::get(admin, "/metrics").await.text().contains("\nheadwater_streams 5.0\n"));
    drop(streams.pop());
    let read = timeout(PATIENCE, sixth.read(&mut byte)).await;
    assert_eq!(read.expect("it is served now").expect("it is open"), 1);
    for stream in &mut streams {
        assert_eq!(stream.next_within(Duration::ZERO).await, None, "the others notice nothing");
    }
}

#[tokio::test]
async fn idle_streams_get_heartbeats_and_busy_ones_do_not() {
    let node = Node::start(BINARY, &["--heartbeat", "1s"]);
    let begin = Instant::now();
    let mut stream = EventStream::open(node.address(), "/sse/stream?channel=news").await;
    let mut off = EventStream::open(node.address(), "/sse/stream?channel=quiet").await;
    assert!(matches!(stream.next_item().await, Ok(Item::Retry(_))));
    for beats in 1..=3 {
        assert_eq!(stream.next_item().await, Ok(Item::Comment(String::new())));
        // Timers may ring late, never early.
        assert!(begin.elapsed() >= Duration::from_millis(beats * 1000 - 50), "{beats}");
    }
    // An event puts the next one off.
    let published = Instant::now();
    http::post(node.address(), "/sse/publish?channel=news", b"x").await;
    assert_eq!(stream.next().await.expect("the stream is open").data, "x");
    assert_eq!(stream.next_item().await, Ok(Item::Comment(String::new())));
    assert!(published.elapsed() >= Duration::from_millis(950), "{:?}", published.elapsed());
    assert!(matches!(off.next_item().await, Ok(Item::Retry(_))));
    assert_eq!(off.next_item().await, Ok(Item::Comment(String::new())));
}
