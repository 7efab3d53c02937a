//! The metrics of a node over Redis. Look here for what each one counts.

use headwater::event::Message;
use headwater_test_support::{EventStream, Node, RedisServer, http};

use crate::support::BINARY;
use crate::support::openmetrics::check_openmetrics;

const CHANNEL: &str = "a-channel-nobody-else-has";

#[tokio::test]
async fn metrics_count_what_happens_and_name_no_channel() {
    let redis = RedisServer::start();
    let node = Node::start(BINARY, &["--redis", &redis.url()]);
    node.wait_until_ready().await;
    let path = format!("/sse/stream?channel={CHANNEL}&channel={CHANNEL}-2");
    let mut stream = EventStream::open(node.address(), &path).await;
    let other = EventStream::open(node.address(), &format!("/sse/stream?channel={CHANNEL}")).await;
    node.wait_for_metric("headwater_redis_channels_confirmed", 2.0).await;
    // Both streams began with a block that is only an id, `EPOCH-0`.
    let mut sent_bytes = 2 * "id: 0123456789ab-0\n\n".len();
    let block = |event: &Message| format!("id: {}\ndata: {}\n\n", event.id, event.data).len();
    for _ in 0..3 {
        let path = format!("/sse/publish?channel={CHANNEL}");
        assert_eq!(http::post(node.address(), &path, b"0123456789").await.status, 200);
        sent_bytes += 2 * block(&stream.next().await.expect("the stream is open"));
    }
    redis.publish(&format!("{CHANNEL}-2"), b"\xff");
    sent_bytes += block(&stream.next().await.expect("the stream is open"));
    #[expect(clippy::cast_precision_loss, reason = "they are few")]
    let sent_bytes = sent_bytes as f64;
    for (name, value) in [
        ("headwater_streams", 2.0),
        ("headwater_channels", 2.0),
        ("headwater_streams_opened_total", 2.0),
        ("headwater_events_published_total", 3.0),
        ("headwater_publish_errors_total", 0.0),
        ("headwater_events_received_total", 4.0),
        ("headwater_events_sanitized_total", 1.0),
        ("headwater_events_rejected_total", 0.0),
        ("headwater_events_sent_total", 7.0),
        ("headwater_sent_bytes_total", sent_bytes),
        ("headwater_redis_ready", 1.0),
        ("headwater_redis_reconnects_total", 0.0),
        ("headwater_redis_channels_wanted", 2.0),
    ] {
        node.wait_for_metric(name, value).await;
    }
    drop(other);
    node.wait_for_metric("headwater_streams_ended_total{reason=\"client\"}", 1.0).await;
    node.wait_for_metric("headwater_streams", 1.0).await;
    let metrics = http::get(node.address(), "/metrics").await.text();
    check_openmetrics(&metrics);
    assert!(metrics.contains("\nheadwater_redis_lag_seconds 0."), "{metrics}");
    assert!(!metrics.contains(CHANNEL), "{metrics}");
    let ready = http::get(node.address(), "/health/ready").await.json();
    assert_eq!(ready["broker"], "redis");
    assert!(ready["lag_ms"].as_f64().is_some_and(|lag| lag > 0.0), "{ready}");
}
