//! A node that is killed and restarted over Redis. Look here for what survives.

use headwater_test_support::RedisServer;

use crate::support::kills::{KEEP, check};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_killed_loses_nothing_over_redis() {
    let redis = RedisServer::start();
    check(&["--redis", &redis.url(), "--retention", KEEP]).await;
}
