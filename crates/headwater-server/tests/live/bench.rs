//! `headwater bench --redis`. Look here for its load over Redis.

use headwater_test_support::RedisServer;

use crate::support::bench::{check_delivered, report};

#[test]
fn it_publishes_through_redis() {
    let redis = RedisServer::start();
    let report = report(&["--streams", "20", "--rate", "200", "--redis", &redis.url()]);
    check_delivered(&report, 4_000);
    assert_eq!(
        report["load"],
        "20 streams on 1 channel, 200 events/s of 100 B by Redis PUBLISH for 1 s"
    );
}
