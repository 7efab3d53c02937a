//! Channels that their publisher ends: the terminal event, the end of streams, and 204 for clients
//! that comes after it.

use headwater_test_support::stream::End;
use headwater_test_support::{EventStream, Node, PATIENCE, RedisServer, http};

use crate::follower::{Follower, Wire};

const BINARY: &str = env!("CARGO_BIN_EXE_headwater");

async fn over_both() -> Vec<(Node, Option<RedisServer>)> {
    let redis = RedisServer::start();
    let node = Node::start(BINARY, &["--redis", &redis.url()]);
    node.wait_until_ready().await;
    vec![(Node::start(BINARY, &[]), None), (node, Some(redis))]
}

async fn publish(node: &Node, query: &str, data: &str) -> String {
    let answer =
        http::post(node.address(), &format!("/sse/publish?{query}"), data.as_bytes()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["id"].as_str().expect("an id").to_owned()
}

async fn status_of(node: &Node, query: &str, last_id: &str) -> u16 {
    let header = [("last-event-id", last_id)];
    let headers = if last_id.is_empty() { &[][..] } else { &header };
    let path = format!("/sse/stream?{query}");
    EventStream::open_with(node.address(), &path, headers, None).await.status
}

/// What a stream gives until its end, which must be a clean one.
async fn to_its_end(stream: &mut EventStream) -> Vec<String> {
    let mut got = Vec::new();
    loop {
        match stream.next().await {
            Ok(message) => got.push(message.data),
            Err(end) => {
                assert_eq!(end, End::Clean);
                return got;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listeners_get_the_terminal_event_and_a_clean_end() {
    for (node, _redis) in over_both().await {
        let mut streams = Vec::new();
        for _ in 0..3 {
            streams.push(EventStream::open(node.address(), "/sse/stream?channel=answer").await);
        }
        let first = publish(&node, "channel=answer", "to be").await;
        let last = publish(&node, "channel=answer&event=done&end=1", "or not").await;
        for stream in &mut streams {
            assert_eq!(to_its_end(stream).await, ["to be", "or not"]);
            assert_eq!(stream.last_event_id(), last);
        }
        // 204 makes a browser stop.
        assert_eq!(status_of(&node, "channel=answer", &last).await, 204);
        assert_eq!(status_of(&node, "channel=answer", "").await, 204);
        // Who has not got everything yet gets it.
        let path = "/sse/stream?channel=answer";
        let header = [("last-event-id", &*first)];
        let mut late = EventStream::open_with(node.address(), path, &header, None).await;
        assert_eq!(to_its_end(&mut late).await, ["or not"]);
        let mut late = EventStream::open(node.address(), &format!("{path}&rewind=all")).await;
        assert_eq!(to_its_end(&mut late).await, ["to be", "or not"]);
        let refused = http::post(node.address(), "/sse/publish?channel=answer", b"more").await;
        assert!(refused.problem(409).contains("ended by its publisher"));
        let again = http::post(node.address(), "/sse/publish?channel=answer&end=1", b"x").await;
        again.problem(409);
        // The connections of streams that ended are gone; other channels go on.
        node.wait_for_metric("headwater_streams", 0.0).await;
        publish(&node, "channel=next", "hello").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_several_channels_ends_with_the_last_of_them() {
    for (node, _redis) in over_both().await {
        let path = "/sse/stream?channel=a&channel=b&channel=c";
        let mut stream = EventStream::open(node.address(), path).await;
        publish(&node, "channel=b&end=1", "end of b").await;
        publish(&node, "channel=a", "a goes on").await;
        publish(&node, "channel=a&end=1", "end of a").await;
        let mut got = Vec::new();
        for _ in 0..3 {
            got.push(stream.next().await.expect("an open stream").data);
        }
        // One that opens when some have ended, as this node knows now, waits for the others, too.
        let mut late = EventStream::open(node.address(), path).await;
        publish(&node, "channel=c", "c goes on").await;
        publish(&node, "channel=c&end=1", "end of c").await;
        got.extend(to_its_end(&mut stream).await);
        assert_eq!(got, ["end of b", "a goes on", "end of a", "c goes on", "end of c"]);
        assert_eq!(to_its_end(&mut late).await, ["c goes on", "end of c"]);
        assert_eq!(status_of(&node, "channel=a&channel=b&channel=c", "").await, 204);
        assert_eq!(status_of(&node, "channel=a&channel=d", "").await, 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_while_a_client_was_away_is_replayed() {
    for (node, _redis) in over_both().await {
        let mut stream = EventStream::open(node.address(), "/sse/stream?channel=a").await;
        let first = publish(&node, "channel=a", "1").await;
        assert_eq!(stream.next().await.expect("an open stream").id, first);
        drop(stream);
        publish(&node, "channel=a", "2").await;
        let last = publish(&node, "channel=a&end=1", "3").await;
        let header = [("last-event-id", &*first)];
        let path = "/sse/stream?channel=a";
        let mut back = EventStream::open_with(node.address(), path, &header, None).await;
        assert_eq!(to_its_end(&mut back).await, ["2", "3"]);
        assert_eq!(status_of(&node, "channel=a", &last).await, 204);
    }
}

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
async fn an_end_that_the_node_missed_is_healed() {
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
async fn a_channel_that_keeps_nothing_is_plain_pubsub() {
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
    // Such a channel has no end that could be kept, and no history on other nodes.
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

/// The history of the ended channel is gone too: the client gets one gap event, then it stops
/// reconnecting.
#[tokio::test]
async fn whoever_comes_after_the_end_and_its_history_is_told_once() {
    // Without a linger, so that the node's own memory of the channel goes with the last client.
    let node = Node::start(BINARY, &["--retention", "* age=1s", "--linger", "0s"]);
    let first = publish(&node, "channel=answer", "to be").await;
    publish(&node, "channel=answer", "or not").await;
    publish(&node, "channel=answer&end=1", "to be").await;
    let path = "/sse/stream?channel=answer";
    let header = [("last-event-id", &*first)];
    let last_id = eventually_told(&node, path, &header).await;
    assert_ne!(last_id, first, "the gap has moved the client's position");
    assert_eq!(status_of(&node, "channel=answer", &last_id).await, 204);
}

/// Reconnects until the history is gone; the id that the client has then.
async fn eventually_told(node: &Node, path: &str, header: &[(&str, &str)]) -> String {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let mut stream = EventStream::open_with(node.address(), path, header, None).await;
        let got = to_its_end(&mut stream).await;
        if let [gap] = &*got {
            assert!(gap.contains("trimmed"), "{gap}");
            return stream.last_event_id().to_owned();
        }
        assert!(std::time::Instant::now() < deadline, "it is still there: {got:?}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// A stream that opens while Redis is away must learn that its channel has ended, also if the node
/// had the channel before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_that_comes_back_during_an_outage_is_asked_about() {
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

/// There are no events and never will be, so no client is to reconnect.
#[tokio::test]
async fn rewinding_a_channel_that_has_ended_and_keeps_nothing_gives_204() {
    let node = Node::start(BINARY, &["--retention", "* age=1s", "--linger", "0s"]);
    publish(&node, "channel=answer&end=1", "to be").await;
    let path = "channel=answer&rewind=all";
    let mut status = 200;
    let deadline = std::time::Instant::now() + PATIENCE;
    while status == 200 {
        assert!(std::time::Instant::now() < deadline, "it is still there, or never ends");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        status = status_of(&node, path, "").await;
    }
    assert_eq!(status, 204);
}
