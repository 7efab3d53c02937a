//! Payloads through Redis: from any client and from the endpoint. Look here for events that are
//! sanitized or dropped.

use headwater::event::Item;
use headwater_test_support::{EventStream, Node, RedisServer, http};

use crate::support::BINARY;
use crate::support::payloads::{MIB, Road, check_id, check_road, publish};

/// A node on a Redis, ready and subscribed to the channel `news`; the stream keeps it so.
async fn node_on(redis: &RedisServer) -> (Node, EventStream) {
    node_with(redis, &[]).await
}

async fn node_with(redis: &RedisServer, flags: &[&str]) -> (Node, EventStream) {
    let node = Node::start(BINARY, &[&["--redis", &redis.url()], flags].concat());
    node.wait_until_ready().await;
    let stream = EventStream::open(node.address(), "/sse/stream?channel=news").await;
    node.wait_for_metric("headwater_redis_channels_confirmed", 1.0).await;
    (node, stream)
}

#[tokio::test]
async fn payloads_arrive_from_any_redis_client() {
    let redis = RedisServer::start();
    let (node, _stream) = node_on(&redis).await;
    check_road(&node, Road::Publish(redis.connection()), "message", None).await;
}

#[tokio::test]
async fn payloads_arrive_through_redis_from_a_post() {
    let redis = RedisServer::start();
    let (node, _stream) = node_on(&redis).await;
    check_road(&node, Road::Post(""), "message", None).await;
}

#[tokio::test]
async fn payloads_arrive_through_redis_with_a_name_and_an_id() {
    let redis = RedisServer::start();
    let (node, _stream) = node_on(&redis).await;
    check_road(&node, Road::Post("&event=n%3A&id=i-1"), "n:", Some("i-1")).await;
}

#[tokio::test]
async fn bytes_that_are_not_utf8_are_replaced_and_counted() {
    let redis = RedisServer::start();
    let (node, mut stream) = node_on(&redis).await;
    let mut connection = redis.connection();
    for (payload, wanted) in [
        (&b"a\xffb"[..], "a\u{fffd}b"),
        (b"\x80", "\u{fffd}"),
        (b"cut \xf0\x9f\x98", "cut \u{fffd}"),
        (b"good", "good"),
    ] {
        publish(&mut connection, "news", payload);
        assert_eq!(stream.next().await.expect("the stream is open").data, wanted);
    }
    node.wait_for_metric("headwater_events_sanitized_total", 3.0).await;
    node.wait_for_metric("headwater_events_received_total", 4.0).await;
}

#[tokio::test]
async fn an_event_over_8_mib_is_dropped_counted_and_logged_and_the_next_arrives() {
    let redis = RedisServer::start();
    let (node, mut stream) = node_on(&redis).await;
    let mut connection = redis.connection();
    let largest = vec![b'x'; 8 * MIB];
    publish(&mut connection, "news", &largest);
    let event = stream.next().await.expect("the stream is open");
    assert_eq!(event.data.len(), largest.len());
    // Redis itself drops a subscriber for whom more than 32 MB wait.
    for size in [8 * MIB + 1, 9 * MIB, 20 * MIB] {
        publish(&mut connection, "news", &vec![b'x'; size]);
        publish(&mut connection, "news", b"the next");
        let event = stream.next().await.expect("the stream is open");
        assert!(event.data == "the next", "{} bytes came", event.data.len());
        node.wait_for_log(&format!("\"bytes\":{size}"));
    }
    assert_eq!(node.log().matches("dropped an event from Redis").count(), 3);
    node.wait_for_metric("headwater_events_rejected_total", 3.0).await;
}

#[tokio::test]
async fn names_ids_and_retries_survive_redis_in_the_order_of_the_publisher() {
    let redis = RedisServer::start();
    let (node, stream) = node_on(&redis).await;
    check_order(&node, stream).await;
}

/// Without retention every other event is data only and goes as a plain PUBLISH, the others in an
/// envelope.
#[tokio::test]
async fn names_ids_and_retries_survive_redis_in_order_without_retention() {
    let redis = RedisServer::start();
    let (node, stream) = node_with(&redis, &["--retention", "* off"]).await;
    check_order(&node, stream).await;
}

async fn check_order(node: &Node, mut stream: EventStream) {
    const EVENTS: usize = 400;
    let batch: String = (0..EVENTS)
        .map(|number| match number % 4 {
            0 | 2 => format!("{{\"data\":\"{number}\"}}\n"),
            1 => format!("{{\"data\":\"{number}\",\"event\":\"name {number}\"}}\n"),
            _ => {
                let retry = 1_000 + number;
                format!("{{\"data\":\"{number}\",\"id\":\"i{number}\",\"retry\":{retry}}}\n")
            }
        })
        .collect();
    let headers = &[("content-type", "application/x-ndjson")];
    let path = "/sse/publish?channel=news";
    let answer = http::request(node.address(), "POST", path, headers, batch.as_bytes()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let receipts = answer.json();
    assert_eq!(receipts.as_array().map(Vec::len), Some(EVENTS));
    assert_eq!(receipts[3], serde_json::json!({"id": "i3", "channel": "news"}));

    // The stream's own comes first.
    let mut retry_ms = None;
    for number in 0..EVENTS {
        let event = loop {
            match stream.next_item().await.expect("the stream is open") {
                Item::Event(event) => break event,
                Item::Retry(retry) => retry_ms = Some(retry.as_millis()),
                _ => {}
            }
        };
        assert_eq!(event.data, number.to_string());
        let name = if number % 4 == 1 { format!("name {number}") } else { "message".into() };
        assert_eq!(event.name, name);
        let own_id = (number % 4 == 3).then(|| format!("i{number}"));
        if own_id.is_some() {
            assert_eq!(retry_ms, Some(1_000 + number as u128), "{number}");
        }
        check_id(&event.id, own_id.as_deref());
    }
}
