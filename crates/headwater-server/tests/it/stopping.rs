//! How the server ends: streams on a whole event, requests in flight with their answer, and within
//! the drain time whatever clients do. Look here for SIGTERM, SIGINT and the maximum lifetime.

use std::time::{Duration, Instant};

use headwater::event::Item;
use headwater_test_support::stream::End;
use headwater_test_support::{EventStream, Node, PATIENCE, eventually, http};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::BINARY;

async fn publish(node: &Node, channel: &str, data: &[u8]) {
    let path = format!("/sse/publish?channel={channel}");
    let answer = http::post(node.address(), &path, data).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// A stream that holds up the end: an event waits for it that its socket has no room for, and it
/// reads nothing.
async fn open_stuck(node: &Node) -> EventStream {
    let path = "/sse/stream?channel=stuck";
    let stream = EventStream::open_with(node.address(), path, &[], Some(4096)).await;
    publish(node, "stuck", &vec![b'x'; 8 << 20]).await;
    node.wait_for_metric("headwater_events_sent_total", 1.0).await;
    stream
}

/// Reads to the end, which must be a clean one right after a `retry:`.
async fn assert_ends_well(mut stream: EventStream, events: &[&str]) {
    let mut data = Vec::new();
    let mut last = None;
    let end = loop {
        match stream.next_item().await {
            Ok(item) => {
                if let Item::Event(event) = &item {
                    data.push(event.data.clone());
                }
                last = Some(item);
            }
            Err(end) => break end,
        }
    };
    assert_eq!(end, End::Clean);
    assert!(data == events, "{} events came, not the {} expected", data.len(), events.len());
    let Some(Item::Retry(retry)) = last else { panic!("no retry came last") };
    // Two seconds by default, and up to half as long again.
    assert!((2000..=3000).contains(&retry.as_millis()), "{retry:?}");
}

async fn wait_until_refused(node: &Node) {
    let address = node.address();
    eventually(
        "connections are refused",
        || async move { TcpStream::connect(address).await.is_err() },
    )
    .await;
}

#[tokio::test]
async fn both_signals_end_streams_on_a_whole_event() {
    for signal in ["TERM", "INT"] {
        let mut node = Node::start(BINARY, &[]);
        let mut streams = Vec::new();
        for _ in 0..20 {
            let path = "/sse/stream?channel=news";
            streams.push(EventStream::open(node.address(), path).await);
        }
        // Nobody has read these when the signal comes; the last one is larger than any buffer but
        // the client's.
        let large = "x".repeat(700_000);
        let events = ["one", "two\nlines", &large];
        for data in events {
            publish(&node, "news", data.as_bytes()).await;
        }
        node.signal(signal);
        for stream in streams {
            assert_ends_well(stream, &events).await;
        }
        let status = node.wait_for_end(Duration::from_secs(10));
        assert_eq!(status.code(), Some(0), "{signal}: {}", node.log());
        node.wait_for_log("\"message\":\"stopped\"");
        assert!(TcpStream::connect(node.address()).await.is_err(), "nobody listens any more");
    }
}

#[tokio::test]
async fn no_connection_is_accepted_while_draining() {
    let mut node = Node::start(BINARY, &["--drain-timeout", "60s"]);
    let mut stuck = open_stuck(&node).await;
    let healthy = EventStream::open(node.address(), "/sse/stream?channel=news").await;
    node.signal("TERM");
    node.wait_for_log("shutting down");
    assert_ends_well(healthy, &[]).await;
    wait_until_refused(&node).await;
    assert!(node.is_running(), "it waits for the stuck one: {}", node.log());
    // When the slow client reads after all, it gets everything, and that is the end.
    assert_eq!(stuck.next().await.expect("the event").data.len(), 8 << 20);
    assert_eq!(stuck.end().await, End::Clean);
    assert_eq!(node.wait_for_end(PATIENCE).code(), Some(0), "{}", node.log());
}

#[tokio::test]
async fn a_request_in_flight_gets_its_response() {
    let mut node = Node::start(BINARY, &["--drain-timeout", "60s"]);
    let mut socket = TcpStream::connect(node.address()).await.expect("the server listens");
    let head = "POST /sse/publish?channel=a HTTP/1.1\r\nhost: [::1]\r\n\
        content-length: 10\r\nexpect: \
        100-continue\r\n\r\nfirst";
    socket.write_all(head.as_bytes()).await.expect("half of the request is sent");
    // The server has read the head, and waits for the body.
    let mut go_on = [0; b"HTTP/1.1 100 Continue\r\n\r\n".len()];
    let read = tokio::time::timeout(PATIENCE, socket.read_exact(&mut go_on)).await;
    read.expect("an answer in time").expect("an answer");
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    node.signal("TERM");
    node.wait_for_log("shutting down");
    wait_until_refused(&node).await;
    socket.write_all(b"later").await.expect("the other half is sent");
    let answer = http::read_answer(&mut socket).await;
    assert_eq!((answer.status, answer.json()["channel"].as_str()), (200, Some("a")));
    assert_eq!(node.wait_for_end(PATIENCE).code(), Some(0), "{}", node.log());
}

#[tokio::test]
async fn idle_connections_do_not_delay_the_shutdown() {
    let mut node = Node::start(BINARY, &["--drain-timeout", "60s", "--header-timeout", "60s"]);
    let mut idle = Vec::new();
    // Half of a head is a request in flight, and is waited for until the header timeout.
    for request in
        ["", "PRI * HTTP/2.0\r\n", "GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n"]
    {
        let mut socket = TcpStream::connect(node.address()).await.expect("the server listens");
        socket.write_all(request.as_bytes()).await.expect("it is sent");
        idle.push(socket);
    }
    assert_eq!(http::get(node.address(), "/health/live").await.status, 200);
    node.signal("TERM");
    assert_eq!(node.wait_for_end(PATIENCE).code(), Some(0), "{}", node.log());
}

#[tokio::test]
async fn a_client_that_never_reads_is_disconnected_at_the_drain_timeout() {
    let mut node = Node::start(BINARY, &["--drain-timeout", "1s"]);
    let mut stuck = open_stuck(&node).await;
    let healthy = EventStream::open(node.address(), "/sse/stream?channel=news").await;
    let begin = Instant::now();
    node.signal("TERM");
    assert_ends_well(healthy, &[]).await;
    let status = node.wait_for_end(PATIENCE);
    let lasted = begin.elapsed();
    assert_eq!(status.code(), Some(0), "{}", node.log());
    assert!(lasted >= Duration::from_millis(900), "it ended after {lasted:?}");
    // Far from the send timeout of 30 s, which is the other way to get rid of it.
    assert!(lasted < Duration::from_secs(10), "it ended after {lasted:?}");
    node.wait_for_log("did not end within 1s");
    assert_eq!(stuck.end().await, End::Cut);
}

#[tokio::test]
async fn a_second_signal_stops_at_once() {
    for (first, second) in [("TERM", "TERM"), ("INT", "INT"), ("TERM", "INT")] {
        let mut node = Node::start(BINARY, &["--drain-timeout", "600s", "--send-timeout", "600s"]);
        let _stuck = open_stuck(&node).await;
        node.signal(first);
        node.wait_for_log("shutting down");
        wait_until_refused(&node).await;
        assert!(node.is_running(), "it waits for the stuck one: {}", node.log());
        node.signal(second);
        let status = node.wait_for_end(PATIENCE);
        assert_eq!(status.code(), Some(1), "{first}, {second}: {}", node.log());
        node.wait_for_log("stopped at once by a second signal");
    }
}

#[tokio::test]
async fn streams_that_reach_the_maximum_lifetime_end_well() {
    let node = Node::start(BINARY, &["--max-lifetime", "1s"]);
    let begin = Instant::now();
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(EventStream::open(node.address(), "/sse/stream?channel=news").await);
    }
    publish(&node, "news", b"early").await;
    for stream in streams {
        assert_ends_well(stream, &["early"]).await;
    }
    // Up to a tenth earlier, so that clients do not reconnect all at once.
    assert!(begin.elapsed() >= Duration::from_millis(900), "{:?}", begin.elapsed());
    node.wait_for_metric("headwater_streams_ended_total{reason=\"lifetime\"}", 3.0).await;
    node.wait_for_metric("headwater_streams", 0.0).await;
}

#[tokio::test]
async fn sighup_without_certificates_changes_nothing() {
    let mut node = Node::start(BINARY, &[]);
    let mut stream = EventStream::open(node.address(), "/sse/stream?channel=news").await;
    for _ in 0..2 {
        node.signal("HUP");
    }
    node.wait_for_log("nothing to reload");
    assert!(node.is_running());
    let published = http::post(node.address(), "/sse/publish?channel=news", b"x").await;
    assert_eq!(published.status, 200);
    assert_eq!(stream.next().await.expect("the stream is open").data, "x");
}
