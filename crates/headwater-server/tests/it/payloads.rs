//! What is published arrives as it was, over both brokers and on every road. Look here for the
//! payloads.

use headwater::event::Item;
use headwater::log::Position;
use headwater_test_support::{EventStream, Node, RedisServer, http};

const BINARY: &str = env!("CARGO_BIN_EXE_headwater");

const MIB: usize = 1 << 20;

/// How a payload gets to the node.
enum Road {
    /// `POST /sse/publish`, with further words in the query.
    Post(&'static str),
    /// `PUBLISH` from any Redis client.
    Publish(redis::Connection),
}

impl Road {
    async fn send(&mut self, node: &Node, data: &str) {
        match self {
            Self::Post(query) => {
                let path = format!("/sse/publish?channel=news{query}");
                let answer = http::post(node.address(), &path, data.as_bytes()).await;
                assert_eq!(answer.status, 200, "{}", answer.text());
            }
            Self::Publish(connection) => publish(connection, "news", data.as_bytes()),
        }
    }
}

fn publish(connection: &mut redis::Connection, channel: &str, data: &[u8]) {
    let mut publish = redis::cmd("PUBLISH");
    let receivers: i64 = publish.arg(channel).arg(data).query(connection).expect("PUBLISH");
    assert_eq!(receivers, 1, "the node is subscribed once");
}

/// Payloads that broken implementations change, cut, join or take for fields.
fn payloads() -> Vec<String> {
    let mut payloads: Vec<String> = [
        "",
        " ",
        "  two leading",
        "trailing  ",
        "\t",
        "\n",
        "\n\n",
        "\n\n\n",
        "a\n",
        "\na",
        "a\n\nb",
        " \n ",
        ":",
        ":c",
        "::",
        "data: x",
        "data",
        "data:",
        "event: x\ndata: y",
        "id: 7",
        "retry: 1",
        "\u{feff}",
        "\u{feff}data",
        "\0",
        "a\0b",
        "\u{2028}",
        "a\u{2028}b\u{2029}c\u{85}d\u{b}e\u{c}f",
        "grüße 👋🏽 \u{10ffff}",
        "b'bytes'",
        "null",
        // Line ends of three kinds, each an attempt to begin fields and events of its own.
        "x\nevent: forged\ndata: y\nid: 9\nretry: 1\n\ndata: second\n\n",
        "x\revent: forged\rdata: y\rid: 9\rretry: 1\r\rdata: second\r\r",
        "x\r\nevent: forged\r\ndata: y\r\nid: 9\r\nretry: 1\r\n\r\ndata: second\r\n\r\n",
        "\rid: 9\n\revent: forged\r\n\n",
        "\r",
        "\r\n",
        "\n\r",
        "\r\r\n\n",
        "a\r",
        "\u{feff}\rdata: x",
    ]
    .map(Into::into)
    .into();
    payloads.push("x".repeat(5 * MIB));
    // 20,000 lines of different length, 1 MiB in all.
    let lines = (0..20_000).map(|number| format!("{number:0>0$}\n", 5 + number % 90));
    let mut lines = lines.collect::<Vec<_>>().concat();
    lines.truncate(MIB);
    lines.extend(std::iter::repeat_n('z', MIB - lines.len()));
    payloads.push(lines);
    payloads
}

/// What a client gets: the format has no way to carry a CR.
fn arriving(data: &str) -> String {
    data.replace("\r\n", "\n").replace('\r', "\n")
}

/// Sends every payload, and expects each as the data of one event and nothing else.
async fn check_road(node: &Node, mut road: Road, name: &str, id: Option<&str>) {
    let mut stream = EventStream::open(node.address(), "/sse/stream?channel=news").await;
    for payload in payloads() {
        road.send(node, &payload).await;
        let event = stream.next().await.expect("the stream is open");
        let (shown, length): (String, _) = (payload.chars().take(80).collect(), payload.len());
        let wanted = arriving(&payload);
        // Not assert_eq: nobody wants to read megabytes.
        assert!(event.data == wanted, "{length} bytes, {shown:?}: got {} bytes", event.data.len());
        assert_eq!(event.name, name, "{shown:?}");
        check_id(&event.id, id);
    }
    road.send(node, "the end").await;
    assert_eq!(stream.next().await.expect("the stream is open").data, "the end");
}

/// An event has the id of its publisher, else its position.
#[track_caller]
fn check_id(id: &str, own: Option<&str>) {
    match own {
        Some(own) => assert_eq!(id, own),
        None => assert!(id.parse::<Position>().is_ok(), "{id:?}"),
    }
}

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

#[test]
fn the_large_payloads_are_what_they_are_called() {
    let payloads = payloads();
    let [.., line, lines] = payloads.as_slice() else { panic!("two large ones") };
    assert_eq!((line.len(), line.matches('\n').count()), (5 * MIB, 0));
    assert_eq!(lines.len(), MIB);
    assert!(lines.matches('\n').count() >= 20_000, "{}", lines.matches('\n').count());
}

#[tokio::test]
async fn payloads_arrive_through_the_embedded_broker() {
    let node = Node::start(BINARY, &[]);
    check_road(&node, Road::Post(""), "message", None).await;
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
            _ => format!("{{\"data\":\"{number}\",\"id\":\"i{number}\",\"retry\":{number}}}\n"),
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
            assert_eq!(retry_ms, Some(number as u128), "{number}");
        }
        check_id(&event.id, own_id.as_deref());
    }
}

#[tokio::test]
async fn a_name_given_by_the_channel_does_not_hide_the_publishers_own() {
    let node = Node::start(BINARY, &[]);
    let path = "/sse/stream?channel=a&channel=b&as=channel";
    let mut stream = EventStream::open(node.address(), path).await;
    for (query, name) in [("channel=a", "a"), ("channel=b", "b"), ("channel=a&event=own", "own")] {
        http::post(node.address(), &format!("/sse/publish?{query}"), b"x").await;
        assert_eq!(stream.next().await.expect("the stream is open").name, name);
    }
}
