//! What happens to open streams when Redis is killed, restarted, frozen or slow: nothing.

use std::time::{Duration, Instant};

use headwater::event::Item;
use headwater_test_support::{EventStream, Node, RedisServer, eventually, http};

use crate::support::BINARY;
use crate::support::follower::gap_in;

/// What users were promised: events arrive again this soon after Redis is back.
const BACK_WITHIN: Duration = Duration::from_secs(5);

struct World {
    redis: RedisServer,
    node: Node,
    streams: Vec<EventStream>,
    /// The gaps that were reported to streams: the stream, and the reason.
    gaps: Vec<(usize, String)>,
}

impl World {
    async fn new() -> Self {
        let redis = RedisServer::start();
        let node = Node::start(BINARY, &["--redis", &redis.url(), "--heartbeat", "1s"]);
        node.wait_until_ready().await;
        let mut streams = Vec::new();
        for number in 0..10 {
            let path = format!("/sse/stream?channel=fault-{number}");
            streams.push(EventStream::open(node.address(), &path).await);
        }
        Self { redis, node, streams, gaps: Vec::new() }
    }

    /// Heartbeats come on every stream for the time of an outage, and nothing else.
    async fn heartbeats_go_on(&mut self, outage: Duration) {
        let over = Instant::now() + outage;
        for stream in &mut self.streams {
            let mut beats = 0;
            while Instant::now() < over || beats == 0 {
                match stream.next_item().await.expect("streams stay open") {
                    Item::Comment(_) => beats += 1,
                    Item::Retry(_) => {}
                    other => panic!("{other:?} during the outage"),
                }
            }
        }
    }

    /// An ephemeral event can arrive before the node has found out that the log was reset.
    async fn read_to_gaps(&mut self) {
        for (number, stream) in self.streams.iter_mut().enumerate() {
            while self.gaps.iter().all(|(reported, _)| *reported != number) {
                let message = stream.next().await.expect("a gap");
                self.gaps.extend(gap_in(&message).map(|(_, reason)| (number, reason)));
            }
        }
    }

    /// Publishes on every channel until it arrives, and fails when that takes longer than promised.
    async fn events_arrive_again(&mut self, back_since: Instant) {
        for (number, stream) in self.streams.iter_mut().enumerate() {
            loop {
                self.redis.publish(&format!("fault-{number}"), b"back");
                let Some(message) = stream.next_within(Duration::from_millis(50)).await else {
                    assert!(back_since.elapsed() < BACK_WITHIN, "channel {number} is deaf");
                    continue;
                };
                let Some((_, reason)) = gap_in(&message) else {
                    assert_eq!(message.data, "back");
                    break;
                };
                self.gaps.push((number, reason));
                assert!(back_since.elapsed() < BACK_WITHIN, "channel {number} is deaf");
            }
        }
        println!("all channels deliver {:?} after Redis is back", back_since.elapsed());
        assert!(back_since.elapsed() < BACK_WITHIN);
        self.node.wait_until_ready().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_subscriber_connection_reconnects() {
    let mut world = World::new().await;
    for _ in 0..5 {
        let killed: i64 = world.redis.run(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        assert_eq!(killed, 1);
        world.events_arrive_again(Instant::now()).await;
    }
    assert!(world.node.metric("headwater_redis_reconnects_total").await >= 5.0);
    // Plain PUBLISH messages are not retained; before the first kill there were none.
    let gaps = world.gaps;
    assert!(gaps.len() >= 30 && gaps.iter().all(|(_, reason)| reason == "broker-lost"), "{gaps:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_stopped_for_ten_seconds_ends_no_stream() {
    let mut world = World::new().await;
    world.redis.kill();
    let node = world.node.address();
    eventually("the node is not ready", || async {
        http::get(node, "/health/ready").await.status == 503
    })
    .await;
    let refused = http::post(node, "/sse/publish?channel=fault-0", b"x").await;
    assert_eq!(refused.status, 503);
    assert!(refused.json()["detail"].as_str().expect("a detail").contains("publish again"));
    // New streams open even without Redis.
    let late = EventStream::open(node, "/sse/stream?channel=fault-10").await;
    world.streams.push(late);
    world.heartbeats_go_on(Duration::from_secs(10)).await;
    world.redis.restart();
    world.events_arrive_again(Instant::now()).await;
    // It restarted without its data, and each stream gets one gap event.
    world.read_to_gaps().await;
    world.gaps.sort_unstable();
    // A channel that receives ephemeral events also gets one for these.
    world.gaps.retain(|(_, reason)| reason != "broker-lost");
    let expected: Vec<_> = (0..11).map(|number| (number, "epoch".to_owned())).collect();
    assert_eq!(world.gaps, expected);
    world.node.wait_for_log("lost the connection to Redis, streams stay open");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_frozen_for_ten_seconds_ends_no_stream() {
    let mut world = World::new().await;
    world.redis.freeze();
    world.heartbeats_go_on(Duration::from_secs(10)).await;
    let ready = http::get(world.node.address(), "/health/ready").await;
    assert_eq!(ready.status, 503, "a probe that does not return makes the node not ready");
    world.redis.thaw();
    world.events_arrive_again(Instant::now()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_sleeps_ends_no_stream() {
    let redis = RedisServer::start_with(&["--enable-debug-command", "local", "--save", ""]);
    let node = Node::start(BINARY, &["--redis", &redis.url(), "--heartbeat", "1s"]);
    node.wait_until_ready().await;
    let stream = EventStream::open(node.address(), "/sse/stream?channel=fault-0").await;
    let mut world = World { redis, node, streams: vec![stream], gaps: Vec::new() };
    let mut connection = world.redis.connection();
    let sleeping = std::thread::spawn(move || {
        redis::cmd("DEBUG").arg("SLEEP").arg(6).exec(&mut connection).expect("DEBUG SLEEP");
    });
    world.heartbeats_go_on(Duration::from_secs(5)).await;
    sleeping.join().expect("Redis slept");
    world.events_arrive_again(Instant::now()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_starts_late_is_found() {
    let mut redis = RedisServer::start();
    redis.kill();
    let node = Node::start(BINARY, &["--redis", &redis.url()]);
    node.wait_for_log("cannot connect");
    let mut stream = EventStream::open(node.address(), "/sse/stream?channel=late").await;
    redis.restart();
    node.wait_until_ready().await;
    eventually("the channel is confirmed", || async {
        node.metric("headwater_redis_channels_confirmed").await >= 1.0
    })
    .await;
    // Redis may have had events meanwhile.
    let gap = stream.next().await.expect("a gap");
    assert!(gap.name == "headwater-gap" && gap.data.contains("broker-lost"), "{gap:?}");
    redis.publish("late", b"hello");
    assert_eq!(stream.next().await.expect("an event").data, "hello");
}

/// Redis denies a SUBSCRIBE as a whole when the user may not subscribe to one of its channels.
#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_redis_denies_does_not_affect_others() {
    let redis = RedisServer::start();
    let rules = ["+@all", "resetchannels", "&ok*", "&headwater:*"];
    let url = redis.add_user("node", "n0de-pw", &rules);
    let node = Node::start(BINARY, &["--redis", &url]);
    node.wait_until_ready().await;
    let path = "/sse/stream?channel=ok1&channel=forbidden&channel=ok2&channel=ok3";
    let mut stream = EventStream::open(node.address(), path).await;
    node.wait_for_log("Redis denies subscribing");
    eventually("the others are confirmed", || async {
        node.metric("headwater_redis_channels_confirmed").await >= 3.0
    })
    .await;
    for channel in ["ok1", "ok2", "ok3"] {
        redis.publish(channel, channel.as_bytes());
        assert_eq!(stream.next().await.expect("an event").data, channel);
    }
    assert!(node.log().contains("NOPERM"), "{}", node.log());
}
