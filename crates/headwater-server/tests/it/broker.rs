//! The embedded broker, for the tests that hold over either one.

use headwater_test_support::{Node, RedisServer};

use crate::support::BINARY;

/// A node over the embedded broker. There is no Redis; `live` has one in its place.
#[expect(
    clippy::unused_async,
    reason = "the same signature as over Redis, which has to be awaited"
)]
pub(crate) async fn start_node(arguments: &[&str]) -> (Node, Option<RedisServer>) {
    (Node::start(BINARY, arguments), None)
}
