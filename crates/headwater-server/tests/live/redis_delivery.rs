//! From `PUBLISH` in Redis to every subscriber: completeness, order, and what it costs Redis.

use headwater_test_support::{EventStream, Node, RedisServer, eventually};

use crate::support::BINARY;

async fn start(arguments: &[&str]) -> (RedisServer, Node) {
    let redis = RedisServer::start();
    let url = redis.url();
    let node = Node::start_quiet(BINARY, &[&["--redis", url.as_str()], arguments].concat());
    node.wait_until_ready().await;
    (redis, node)
}

/// Publishes numbers, all in one go.
fn publish_numbers(redis: &RedisServer, channel: &str, count: usize) {
    let mut pipeline = redis::pipe();
    for number in 0..count {
        pipeline.cmd("PUBLISH").arg(channel).arg(number).ignore();
    }
    pipeline.exec(&mut redis.connection()).expect("PUBLISH");
}

#[tokio::test(flavor = "multi_thread")]
async fn three_streams_get_ten_thousand_events_each_in_order() {
    let (redis, node) = start(&[]).await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(EventStream::open(node.address(), "/sse/stream?channel=numbers").await);
    }
    publish_numbers(&redis, "numbers", 10_000);
    for stream in &mut streams {
        for number in 0..10_000 {
            assert_eq!(stream.next().await.expect("an event").data, number.to_string());
        }
    }
    redis.publish("numbers", b"nothing is left over");
    for stream in &mut streams {
        assert_eq!(stream.next().await.expect("an event").data, "nothing is left over");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_on_one_redis_get_the_same() {
    let (redis, one) = start(&[]).await;
    let two = Node::start_quiet(BINARY, &["--redis", &redis.url()]);
    two.wait_until_ready().await;
    let mut here = EventStream::open(one.address(), "/sse/stream?channel=both").await;
    let mut there = EventStream::open(two.address(), "/sse/stream?channel=both").await;
    let path = "/sse/publish?channel=both&event=n&id=7&retry=1200";
    let answer = headwater_test_support::http::post(one.address(), path, b"hello").await;
    assert_eq!(answer.json(), serde_json::json!({ "id": "7", "channel": "both" }));
    let message = here.next().await.expect("an event");
    assert_eq!(
        (message.name.as_str(), message.id.as_str(), message.data.as_str()),
        ("n", "7", "hello")
    );
    assert_eq!(there.next().await.expect("an event"), message);
}

/// A new stream is open only when Redis has confirmed its channels, so that who publishes in answer
/// to an open stream reaches it.
#[tokio::test(flavor = "multi_thread")]
async fn events_published_as_soon_as_a_stream_is_open_arrive() {
    let (redis, node) = start(&["--linger", "0s"]).await;
    for round in 0..200 {
        let mut stream = EventStream::open(node.address(), "/sse/stream?channel=soon").await;
        redis.publish("soon", round.to_string().as_bytes());
        assert_eq!(stream.next().await.expect("an event").data, round.to_string());
    }
}

fn growth(before: u64, after: u64) -> i64 {
    after.cast_signed() - before.cast_signed()
}

/// How many connections the node has to Redis.
fn connections(redis: &RedisServer) -> usize {
    let clients: String = redis.run(&["CLIENT", "LIST"]);
    // One is the connection that asks.
    clients.lines().count() - 1
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_come_and_go_without_a_trace() {
    const STREAMS: usize = 1_000;
    const CHANNELS: usize = 200;
    // In bytes for a round: half a kilobyte for each stream.
    const GROWTH_MAX: i64 = 512_000;
    let (redis, node) = start(&["--linger", "2s"]).await;
    let names: Vec<_> = (0..CHANNELS).map(|channel| format!("churn {channel}")).collect();
    let mut memory = Vec::new();
    for _ in 0..20 {
        let streams: Vec<_> = (0..STREAMS)
            .map(|stream| {
                let path = format!("/sse/stream?channel=churn+{}", stream % CHANNELS);
                let address = node.address();
                tokio::spawn(async move { EventStream::open(address, &path).await })
            })
            .collect();
        let mut open = Vec::new();
        for stream in streams {
            open.push(stream.await.expect("an open stream"));
        }
        assert!(connections(&redis) <= 4, "{} connections", connections(&redis));
        let mut numsub = vec!["PUBSUB", "NUMSUB"];
        numsub.extend(names.iter().map(String::as_str));
        let subscribers: Vec<(String, u64)> = redis.run(&numsub);
        assert!(subscribers.iter().all(|(_, count)| *count == 1), "{subscribers:?}");
        memory.push(node.memory_bytes());
        drop(open);
        node.wait_for_metric("headwater_streams", 0.0).await;
    }
    println!("memory after each round: {memory:?}");
    // What leaks grows in every round; what an allocator holds goes up and down, by megabytes in
    // one step.
    let mut growth: Vec<i64> =
        memory[1..].windows(2).map(|pair| growth(pair[0], pair[1])).collect();
    growth.sort_unstable();
    let median = growth[growth.len() / 2];
    assert!(median < GROWTH_MAX, "memory grew by {median} in most rounds: {memory:?}");
    eventually("Redis has no channel of the node left", || async {
        let channels: Vec<String> = redis.run(&["PUBSUB", "CHANNELS", "*churn*"]);
        channels.is_empty()
    })
    .await;
}
