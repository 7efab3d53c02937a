//! Which plain Redis channels are delivered.

use std::time::Duration;

use headwater_test_support::{EventStream, Node, RedisServer, http};

use crate::support::BINARY;
use crate::support::access::{SecretFile, claims, token};

async fn open(node: &Node, channel: &str) -> EventStream {
    let bearer = format!("Bearer {}", token(&claims(&["*"], &["*"])));
    let headers = [("authorization", &*bearer)];
    let path = format!("/sse/stream?channel={channel}");
    let stream = EventStream::open_with(node.address(), &path, &headers, None).await;
    assert_eq!(stream.status, 200);
    stream
}

async fn publish(node: &Node, channel: &str, data: &str) {
    let bearer = format!("Bearer {}", token(&claims(&["*"], &["*"])));
    let headers = [("authorization", &*bearer)];
    let path = format!("/sse/publish?channel={channel}");
    let answer = http::request(node.address(), "POST", &path, &headers, data.as_bytes()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test]
async fn nothing_else_in_redis_is_reachable() {
    let redis = RedisServer::start();
    let secret = SecretFile::new();
    let url = redis.url();
    let arguments = [
        "--jwt-secret-file",
        secret.path(),
        "--redis",
        &url,
        "--redis-channels",
        "news:*",
        "--retention",
        "off:* off",
    ];
    let node = Node::start(BINARY, &arguments);
    node.wait_until_ready().await;
    let mut news = open(&node, "news:a").await;
    let mut jobs = open(&node, "jobs").await;
    let mut off = open(&node, "off:a").await;
    node.wait_for_metric("headwater_redis_channels_confirmed", 3.0).await;
    let heard = |name: &str| redis.run::<i64>(&["PUBLISH", name, "plain"]);
    assert_eq!(heard("news:a"), 1);
    assert_eq!((heard("jobs"), heard("off:a"), heard("secret")), (0, 0, 0));
    assert_eq!(news.next().await.expect("it is open").data, "plain");
    // What is published through Headwater arrives, and is not put where other programs listen.
    let mut subscriber = redis.connection();
    let mut subscriber = subscriber.as_pubsub();
    subscriber.subscribe(&["jobs", "off:a"]).expect("SUBSCRIBE");
    publish(&node, "jobs", "ours").await;
    publish(&node, "off:a", "ours").await;
    assert_eq!(jobs.next().await.expect("it is open").data, "ours");
    assert_eq!(off.next().await.expect("it is open").data, "ours");
    subscriber.set_read_timeout(Some(Duration::from_millis(200))).expect("a time-out");
    assert!(subscriber.get_message().is_err(), "other programs must not hear it");
    let internal = http::get(node.address(), "/sse/stream?channel=headwater:{0}:seq").await;
    assert!(internal.problem(400).contains("reserved"));
}

#[tokio::test]
async fn under_rules_only_listed_redis_channels_are_delivered() {
    let redis = RedisServer::start();
    let secret = SecretFile::new();
    let node = Node::start(BINARY, &["--jwt-secret-file", secret.path(), "--redis", &redis.url()]);
    node.wait_until_ready().await;
    let mut jobs = open(&node, "jobs").await;
    node.wait_for_metric("headwater_redis_channels_confirmed", 1.0).await;
    assert_eq!(redis.run::<i64>(&["PUBLISH", "jobs", "plain"]), 0);
    publish(&node, "jobs", "ours").await;
    assert_eq!(jobs.next().await.expect("it is open").data, "ours");
}
