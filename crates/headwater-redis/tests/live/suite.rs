//! The contract of brokers, for the broker over Redis. Look here for how the suite is run.

use headwater_core::testing::suite;
use headwater_redis::RedisBroker;
use headwater_test_support::RedisServer;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_broker_over_redis_keeps_the_contract() {
    let server = RedisServer::start();
    suite(async || RedisBroker::connect(&server.url()).unwrap()).await;
}
