//! A client that drops at random moments while 2,000 events a second are published, and reconnects
//! with its last id: nothing lost, nothing twice, in order. HEADWATER_TEST_FULL=1 runs 100 drops in
//! 20 s instead of 30 in 5 s.

use std::time::{Duration, Instant};

use headwater_test_support::{Node, RedisServer};

use crate::follower::{Follower, Wire, is_full};
use crate::http2;
use crate::load::{Load, Via};

const BINARY: &str = env!("CARGO_BIN_EXE_headwater");
const PER_SECOND: u64 = 2_000;
/// More than is published while a client is away, on the slowest machine.
const KEEP: &str = "* events=100000 bytes=64MiB";
const FIVE: [&str; 5] = ["a", "b", "c", "d", "e"];

/// How long a client stays away: mostly no time, seldom a second.
enum Away {
    UpToASecond,
    /// No longer than the ring of a channel lasts, which is 1,024 events.
    Short,
}

async fn check(node: &Node, wire: Wire, via: Via, channels: &[&str], away: Away) {
    let (lasts, drops) = if is_full() { (20_000, 100) } else { (5_000, 30) };
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let query: Vec<String> = channels.iter().map(|channel| format!("channel={channel}")).collect();
    let path = format!("/sse/stream?{}", query.join("&"));
    let mut follower = Follower::open(node, wire, &path).await;
    let begin = Instant::now();
    let load = Load::start(via, channels, PER_SECOND);
    let mut moments: Vec<u64> = (0..drops).map(|_| random.u64(0..lasts)).collect();
    moments.sort_unstable();
    for moment in moments {
        let moment = begin + Duration::from_millis(moment);
        follower.read_for(moment.saturating_duration_since(Instant::now())).await;
        follower.go_away();
        let away_ms = match away {
            _ if random.u8(0..3) > 0 => 0,
            Away::UpToASecond if random.u8(0..8) == 0 => random.u64(0..1_000),
            _ => random.u64(0..50),
        };
        tokio::time::sleep(Duration::from_millis(away_ms)).await;
        follower.resume().await;
    }
    let end = begin + Duration::from_millis(lasts);
    follower.read_for(end.saturating_duration_since(Instant::now())).await;
    let published = load.stop();
    follower.read_to(published - 1).await;
    follower.assert_gapless(published);
    println!("{published} events, {drops} drops, {:?}", begin.elapsed());
    assert!(published >= PER_SECOND * lasts / 1000 / 2, "the publisher was held up: {published}");
}

fn over_redis() -> (RedisServer, Node) {
    let redis = RedisServer::start();
    let node = Node::start(BINARY, &["--redis", &redis.url(), "--retention", KEEP]);
    (redis, node)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_drops_loses_nothing_on_the_embedded_broker() {
    let node = Node::start(BINARY, &["--retention", KEEP]);
    let via = Via::Http(node.address());
    check(&node, Wire::Http1, via, &["news"], Away::UpToASecond).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_five_channels_loses_nothing_on_the_embedded_broker() {
    let node = Node::start(BINARY, &["--retention", KEEP]);
    let via = Via::Http(node.address());
    check(&node, Wire::Http1, via, &FIVE, Away::UpToASecond).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_drops_loses_nothing_over_redis() {
    let (_redis, node) = over_redis();
    node.wait_until_ready().await;
    let via = Via::Http(node.address());
    check(&node, Wire::Http1, via, &["news"], Away::UpToASecond).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_five_channels_loses_nothing_over_redis() {
    let (_redis, node) = over_redis();
    node.wait_until_ready().await;
    let via = Via::Http(node.address());
    check(&node, Wire::Http1, via, &FIVE, Away::UpToASecond).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_drops_loses_no_plain_publish_on_its_node() {
    let (redis, node) = over_redis();
    node.wait_until_ready().await;
    let via = Via::Redis(redis.connection());
    check(&node, Wire::Http1, via, &FIVE, Away::Short).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_drops_loses_nothing_over_http2() {
    let (_redis, node) = over_redis();
    node.wait_until_ready().await;
    let wire = Wire::Http2(http2::Connection::open(&node).await);
    let via = Via::Http(node.address());
    check(&node, wire, via, &FIVE, Away::UpToASecond).await;
}
