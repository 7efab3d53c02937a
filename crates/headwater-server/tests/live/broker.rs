//! Redis, for the tests that hold over either broker.

use headwater_test_support::{Node, RedisServer};

use crate::support::BINARY;

/// A node over a Redis of its own, ready; the Redis has to live as long as the node.
pub(crate) async fn start_node(arguments: &[&str]) -> (Node, Option<RedisServer>) {
    let redis = RedisServer::start();
    let node = Node::start(BINARY, &[&["--redis", &redis.url()], arguments].concat());
    node.wait_until_ready().await;
    (node, Some(redis))
}
