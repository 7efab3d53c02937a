//! What a node without a usable Redis still does. Look here for its answers.

use headwater_test_support::{EventStream, Node, http};

pub(crate) const PASSWORD: &str = "s3cret-w0rd";

/// What a node without a working Redis still does: it serves streams, and says that it is not
/// ready.
pub(crate) async fn check_serving_without_redis(node: &Node) -> EventStream {
    let mut stream = EventStream::open(node.address(), "/sse/stream?channel=news").await;
    assert_eq!(stream.status, 200);
    let ready = http::get(node.address(), "/health/ready").await;
    assert!(ready.problem(503).contains("streams stay open"), "{}", ready.text());
    assert_eq!(ready.header("retry-after"), Some("1"));
    assert_eq!(http::get(node.address(), "/health/live").await.status, 200);
    // Twice, since the first attempt and the later ones fail in different places.
    for _ in 0..2 {
        let answer = http::post(node.address(), "/sse/publish?channel=news", b"x").await;
        assert!(answer.problem(503).contains("Redis"), "{}", answer.text());
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    node.wait_for_metric("headwater_publish_errors_total", 2.0).await;
    node.wait_for_metric("headwater_redis_ready", 0.0).await;
    for _ in 0..3 {
        // Its opening and its heartbeats.
        stream.next_item().await.expect("the stream stays open");
    }
    stream
}
