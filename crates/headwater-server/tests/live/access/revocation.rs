//! Revocation across nodes, and after an interrupted Redis connection. Look here for what one node
//! learns from another.

use std::time::Duration;

use headwater_test_support::stream::End;
use headwater_test_support::{Node, RedisServer, http};

use crate::support::BINARY;
use crate::support::access::{SecretFile, now, two_nodes};
use crate::support::revocation::{admin, bearer, check, is_open, open};

#[tokio::test]
async fn streams_end_now_on_all_nodes() {
    let redis = RedisServer::start();
    let secret = SecretFile::new();
    let arguments = ["--jwt-secret-file", secret.path(), "--redis", &redis.url()];
    let [one, two] = two_nodes(&arguments).await;
    check(&one, &two).await;
    // A node that starts later knows of it too.
    let three = Node::start(BINARY, &arguments);
    three.wait_until_ready().await;
    headwater_test_support::eventually("the third node knows it", || async {
        open(&three, "channel=e", &bearer("dan", "4")).await.status == 401
    })
    .await;
}

#[tokio::test]
async fn a_node_that_was_disconnected_closes_them_when_it_reconnects() {
    let redis = RedisServer::start();
    let secret = SecretFile::new();
    let arguments = ["--jwt-secret-file", secret.path(), "--redis", &redis.url()];
    let node = Node::start(BINARY, &arguments);
    node.wait_until_ready().await;
    let mut ann = open(&node, "channel=a", &bearer("ann", "1")).await;
    let mut ben = open(&node, "channel=b", &bearer("ben", "2")).await;
    // What another node would have left while this one had no connection.
    let notice = format!("{{\"at_ms\":{:.0},\"user\":\"ann\"}}", now() * 1e3);
    let until = ((now() + 600.0) * 1e3).to_string();
    let _: i64 = redis.run(&["ZADD", "headwater:{0}:revoked", &until, &notice]);
    let _: redis::Value = redis.run(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    assert_eq!(ann.end().await, End::Clean);
    node.wait_until_ready().await;
    is_open(&mut ben, &node, "b").await;
}

#[tokio::test]
async fn an_invalid_revocation_changes_nothing() {
    let redis = RedisServer::start();
    let secret = SecretFile::new();
    let node = Node::start(BINARY, &["--jwt-secret-file", secret.path(), "--redis", &redis.url()]);
    node.wait_until_ready().await;
    let mut ann = open(&node, "channel=a", &bearer("ann", "1")).await;
    for garbage in ["", "{}", "{\"at_ms\":1,\"all\":true}", "\u{0}"] {
        let _: i64 = redis.run(&["PUBLISH", "headwater:revoked:{0}", garbage]);
    }
    is_open(&mut ann, &node, "a").await;
    for query in ["", "user=", "user=a&channel=b", "all=1", "user=a&expires=1", "token=a&expires=x"]
    {
        let path = format!("/admin/streams?{query}");
        let headers = [("authorization", &*admin())];
        http::request(node.address(), "DELETE", &path, &headers, b"").await.problem(400);
    }
    is_open(&mut ann, &node, "a").await;
    assert!(ann.next_within(Duration::from_millis(1)).await.is_none());
}
