//! Channels that their publisher ends, over Redis: several nodes, outages, and channels without
//! retention. Look here for what one node learns from another.

use headwater_test_support::{EventStream, Node, PATIENCE, RedisServer, http};

use crate::support::BINARY;
use crate::support::finished::{publish, status_of, to_its_end};
use crate::support::follower::{Follower, Wire};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_reaches_two_nodes_and_those_that_start_later() {
    let redis = RedisServer::start();
    let nodes = [(); 2].map(|()| Node::start(BINARY, &["--redis", &redis.url()]));
    let mut streams = Vec::new();
    for node in &nodes {
        node.wait_until_ready().await;
        streams.push(EventStream::open(node.address(), "/sse/stream?channel=a").await);
    }
    publish(&nodes[0], "channel=a", "1").await;
    let last = publish(&nodes[1], "channel=a&end=1", "2").await;
    for stream in &mut streams {
        assert_eq!(to_its_end(stream).await, ["1", "2"]);
    }
    let new = Node::start(BINARY, &["--redis", &redis.url()]);
    new.wait_until_ready().await;
    for node in nodes.iter().chain([&new]) {
        assert_eq!(status_of(node, "channel=a", &last).await, 204);
        assert_eq!(status_of(node, "channel=a", "").await, 204);
        let path = "/sse/stream?channel=a&rewind=all";
        let mut late = EventStream::open(node.address(), path).await;
        assert_eq!(to_its_end(&mut late).await, ["1", "2"]);
        http::post(node.address(), "/sse/publish?channel=a", b"x").await.problem(409);
    }
}

/// The end came while the node had no connection to Redis.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_the_node_missed_is_replayed() {
    let redis = RedisServer::start();
    let nodes = [(); 2].map(|()| Node::start(BINARY, &["--redis", &redis.url()]));
    for node in &nodes {
        node.wait_until_ready().await;
    }
    let mut stream = EventStream::open(nodes[0].address(), "/sse/stream?channel=a").await;
    publish(&nodes[1], "channel=a", "1").await;
    redis.run::<i64>(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    publish(&nodes[1], "channel=a&end=1", "2").await;
    assert_eq!(to_its_end(&mut stream).await, ["1", "2"]);
}

// === channels without retention ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_without_retention_is_plain_pubsub() {
    let redis = RedisServer::start();
    let arguments = ["--redis", &redis.url(), "--retention", "x* off"];
    let nodes = [(); 2].map(|()| Node::start(BINARY, &arguments));
    let path = "/sse/stream?channel=x1";
    let mut followers = Vec::new();
    for node in &nodes {
        node.wait_until_ready().await;
        followers.push(Follower::open(node, Wire::Http1, path).await);
    }
    let mut connection = redis.connection();
    connection.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut raw = connection.as_pubsub();
    raw.subscribe("x1").expect("SUBSCRIBE");
    let publish = async |query: &str, data: &[u8]| {
        http::post(nodes[0].address(), &format!("/sse/publish?{query}"), data).await
    };
    let answer = publish("channel=x1", b"seen by all").await;
    assert_eq!((answer.status, &answer.json()["id"]), (200, &serde_json::Value::Null));
    assert_eq!(publish("channel=x1&event=named&id=own", b"only here").await.json()["id"], "own");
    let message = raw.get_message().expect("a message");
    assert_eq!(message.get_payload::<String>().expect("text"), "seen by all");
    for follower in &mut followers {
        let first = follower.next().await.clone();
        assert_eq!((&*first.name, &*first.data), ("message", "seen by all"));
        assert!(first.id.contains('~'), "numbered by the node: {}", first.id);
        let second = follower.next().await;
        assert_eq!((&*second.name, &*second.data, &*second.id), ("named", "only here", "own"));
    }
    assert_ne!(followers[0].got[0].id, followers[1].got[0].id, "each node numbers for itself");
    // A client that reconnects to its node misses nothing.
    followers[0].go_away();
    publish("channel=x1", b"meanwhile").await;
    followers[0].resume().await;
    assert_eq!(followers[0].next().await.data, "meanwhile");
    // Such a channel has no end that could be stored, and no history on other nodes.
    let refused = publish("channel=x1&end=1", b"x").await;
    assert!(refused.problem(400).contains("retention is off for"));
    let embedded = Node::start(BINARY, &arguments[2..]);
    let path = "/sse/publish?channel=x1&end=1";
    let refused = http::post(embedded.address(), path, b"x").await;
    assert!(refused.problem(400).contains("retention is off for"));
    let keys: Vec<String> = redis.run(&["KEYS", "headwater:{0}:log:*"]);
    assert_eq!(keys, [""; 0]);
    let rewound = Follower::open(&nodes[1], Wire::Http1, "/sse/stream?channel=x2&rewind=all").await;
    assert!(rewound.got.is_empty());
}

/// A stream that opens while Redis is away must learn that its channel has ended, also if the node
/// had the channel before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_channel_is_queried_after_an_outage() {
    let durable = ["--save", "", "--appendonly", "yes", "--appendfsync", "always"];
    let mut redis = RedisServer::start_with(&durable);
    let node = Node::start(BINARY, &["--redis", &redis.url(), "--linger", "0s"]);
    node.wait_until_ready().await;
    let path = "/sse/stream?channel=answer&channel=other";
    let stream = EventStream::open(node.address(), path).await;
    publish(&node, "channel=answer&end=1", "the end").await;
    publish(&node, "channel=other&end=1", "the end").await;
    drop(stream);
    let listener = EventStream::open(node.address(), "/sse/stream?channel=third").await;
    node.wait_for_metric("headwater_channels", 1.0).await;
    let open = EventStream::open(node.address(), "/sse/stream?channel=third&channel=fourth").await;
    redis.kill();
    node.wait_for_metric("headwater_redis_ready", 0.0).await;
    drop((listener, open));
    node.wait_for_metric("headwater_channels", 0.0).await;
    let mut back = EventStream::open(node.address(), "/sse/stream?channel=third").await;
    redis.restart();
    node.wait_until_ready().await;
    publish(&node, "channel=third&end=1", "the end").await;
    assert_eq!(to_its_end(&mut back).await, ["the end"]);
    assert_eq!(status_of(&node, "channel=third", "").await, 204);
    assert_eq!(status_of(&node, "channel=answer", "").await, 204);
}
