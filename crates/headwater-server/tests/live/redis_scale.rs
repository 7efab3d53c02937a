//! A hundred thousand channels on one subscriber connection, with Redis' default output limits.

use std::time::{Duration, Instant};

use headwater_test_support::{EventStream, Node, RedisServer, eventually};

use crate::support::BINARY;

const STREAMS: u32 = 1_000;
const CHANNELS_PER_STREAM: u32 = 100;

async fn wait_until_confirmed(node: &Node, channels: f64) {
    eventually(&format!("{channels} channels are confirmed"), || async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        (node.metric("headwater_redis_channels_confirmed").await - channels).abs() < 0.5
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_channels_are_resubscribed_in_ten_seconds() {
    let mut redis = RedisServer::start();
    let node = Node::start_quiet(BINARY, &["--redis", &redis.url()]);
    node.wait_until_ready().await;
    let mut streams = Vec::new();
    for stream in 0..STREAMS {
        let channels = (0..CHANNELS_PER_STREAM).map(|number| format!("channel=c{stream}.{number}"));
        let query = channels.collect::<Vec<_>>().join("&");
        streams.push(EventStream::open(node.address(), &format!("/sse/stream?{query}")).await);
    }
    let all = f64::from(STREAMS * CHANNELS_PER_STREAM);
    wait_until_confirmed(&node, all).await;

    let killed = Instant::now();
    redis.run::<i64>(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    node.wait_for_metric("headwater_redis_reconnects_total", 1.0).await;
    wait_until_confirmed(&node, all).await;
    let after_kill = killed.elapsed();

    redis.kill();
    node.wait_for_metric("headwater_redis_channels_confirmed", 0.0).await;
    redis.restart();
    let restarted = Instant::now();
    wait_until_confirmed(&node, all).await;
    let after_restart = restarted.elapsed();

    println!(
        "resubscribed {all} channels: {after_kill:?} after a kill, {after_restart:?} after a \
         restart"
    );
    assert!(after_kill < Duration::from_secs(10) && after_restart < Duration::from_secs(10));
    let reconnects = node.metric("headwater_redis_reconnects_total").await;
    assert!(reconnects < 2.5, "Redis dropped the subscriber again: {reconnects} reconnects");
    for (number, stream) in (0..).zip(&mut streams).step_by(97) {
        // Redis restarted without its data, and each channel gets a gap event.
        for _ in 0..CHANNELS_PER_STREAM {
            let gap = stream.next().await.expect("a gap");
            assert!(gap.name == "headwater-gap" && gap.data.contains("epoch"), "{gap:?}");
        }
        redis.publish(&format!("c{number}.{}", number % CHANNELS_PER_STREAM), b"here");
        assert_eq!(stream.next().await.expect("an event").data, "here");
    }
}
