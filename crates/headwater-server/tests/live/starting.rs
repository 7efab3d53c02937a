//! A Redis that asks for a password. Look here for what is said about a wrong one.

use headwater_test_support::{EventStream, Node, RedisServer, http};

use crate::support::BINARY;
use crate::support::starting::{PASSWORD, check_serving_without_redis};

/// A Redis that wants a password.
fn guarded_redis() -> RedisServer {
    RedisServer::start_with(&["--requirepass", PASSWORD, "--save", ""])
}

fn url_with(password: &str, redis: &RedisServer) -> String {
    format!("redis://:{password}@127.0.0.1:{}", redis.port())
}

#[tokio::test]
async fn a_rejected_password_is_reported_differently_from_an_unreachable_redis() {
    let redis = guarded_redis();
    for (url, code) in [(url_with("wr0ng-w0rd", &redis), "WRONGPASS"), (redis.url(), "NOAUTH")] {
        let node = Node::start(BINARY, &["--redis", &url, "--heartbeat", "1s"]);
        node.wait_for_log("rejects the user or password");
        check_serving_without_redis(&node).await;
        let answer = http::post(node.address(), "/sse/publish", b"x").await;
        let problem = answer.problem(503);
        assert!(problem.contains("rejects the user or password"), "{problem}");
        assert!(problem.contains(code), "{problem}");
        let log = node.log();
        assert!(log.contains(code) && log.contains("\"level\":\"ERROR\""), "{log}");
        assert!(!log.contains("cannot connect"), "{log}");
    }
}

#[tokio::test]
async fn the_right_password_works_from_end_to_end_and_is_never_shown() {
    let redis = guarded_redis();
    let url = url_with(PASSWORD, &redis);
    let node = Node::start(BINARY, &["--redis", &url]);
    node.wait_until_ready().await;
    let mut stream = EventStream::open(node.address(), "/sse/stream?channel=news").await;
    node.wait_for_metric("headwater_redis_channels_confirmed", 1.0).await;
    let answer = http::post(node.address(), "/sse/publish?channel=news", b"by POST").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(stream.next().await.expect("the stream is open").data, "by POST");
    let mut connection =
        redis::Client::open(url).and_then(|client| client.get_connection()).expect("the password");
    let publish = redis::cmd("PUBLISH").arg("news").arg("by PUBLISH").exec(&mut connection);
    publish.expect("PUBLISH");
    assert_eq!(stream.next().await.expect("the stream is open").data, "by PUBLISH");
}
