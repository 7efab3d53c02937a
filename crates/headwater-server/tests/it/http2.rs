//! HTTP/2 without TLS: many streams on one connection. Look here for what differs from HTTP/1.1.

use std::time::{Duration, Instant};

use headwater::event::Item;
use headwater_test_support::{Node, PATIENCE, http as http1};
use http_body_util::BodyExt;

use crate::support::BINARY;
use crate::support::http2::Connection;

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
async fn a_connection_that_closes_ends_its_streams() {
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
async fn a_stream_that_is_not_read_ends_and_the_others_do_not() {
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
