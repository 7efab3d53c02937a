//! Clients that drop and resume over Redis. Look here for ephemeral events and HTTP/2.

use headwater_test_support::{Node, RedisServer};

use crate::support::BINARY;
use crate::support::drops::{Away, FIVE, KEEP, check};
use crate::support::follower::Wire;
use crate::support::http2;
use crate::support::load::Via;

fn over_redis() -> (RedisServer, Node) {
    let redis = RedisServer::start();
    let node = Node::start(BINARY, &["--redis", &redis.url(), "--retention", KEEP]);
    (redis, node)
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
async fn a_client_that_drops_loses_no_ephemeral_event_of_its_node() {
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
