//! Ending streams of others, on one node and on all.

use std::time::Duration;

use headwater_test_support::stream::End;
use headwater_test_support::{EventStream, Node, RedisServer, http};
use serde_json::json;

use super::{BINARY, SecretFile, claims, now, token, two_nodes};

fn bearer(user: &str, id: &str) -> String {
    let mut claims = claims(&["*"], &["*"]);
    (claims["sub"], claims["jti"]) = (user.into(), id.into());
    format!("Bearer {}", token(&claims))
}

fn admin() -> String {
    format!("Bearer {}", token(&json!({ "exp": now() + 60.0, "headwater": { "admin": true } })))
}

async fn open(node: &Node, channels: &str, bearer: &str) -> EventStream {
    let headers = [("authorization", bearer)];
    let path = format!("/sse/stream?{channels}");
    EventStream::open_with(node.address(), &path, &headers, None).await
}

async fn revoke(node: &Node, query: &str) {
    let path = format!("/admin/streams?{query}");
    let headers = [("authorization", &*admin())];
    let answer = http::request(node.address(), "DELETE", &path, &headers, b"").await;
    assert_eq!(answer.status, 204, "{query}: {}", answer.text());
}

async fn is_open(stream: &mut EventStream, node: &Node, channel: &str) {
    let headers = [("authorization", &*bearer("publisher", "p"))];
    let path = format!("/sse/publish?channel={channel}");
    let answer = http::request(node.address(), "POST", &path, &headers, b"still here").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(stream.next().await.expect("it is open").data, "still here");
}

/// Everything that can be revoked, by one node, of streams of another (or of itself).
async fn check(one: &Node, two: &Node) {
    let mut ann = open(two, "channel=a", &bearer("ann", "1")).await;
    let mut ben = open(two, "channel=b&channel=c", &bearer("ben", "2")).await;
    let mut cid = open(two, "channel=d", &bearer("cid", "3")).await;
    let mut dan = open(two, "channel=e", &bearer("dan", "4")).await;
    let mut eve = open(two, "channel=f", &bearer("eve", "5")).await;
    let id = cid.headers.iter().find(|(name, _)| name == "headwater-stream").expect("an id");
    let by_id = format!("stream={}", id.1);
    revoke(one, "user=nobody").await;
    revoke(one, "user=ann").await;
    assert_eq!(ann.end().await, End::Clean);
    revoke(one, "channel=c").await;
    assert_eq!(ben.end().await, End::Clean);
    revoke(one, &by_id).await;
    assert_eq!(cid.end().await, End::Clean);
    revoke(one, &format!("token=4&expires={:.0}", now() + 60.0)).await;
    assert_eq!(dan.end().await, End::Clean);
    two.wait_for_metric("headwater_streams_ended_total{reason=\"revoked\"}", 4.0).await;
    is_open(&mut eve, two, "f").await;
    // Whose token is revoked stays out; the others may reconnect.
    assert_eq!(open(two, "channel=e", &bearer("dan", "4")).await.status, 401);
    assert_eq!(open(one, "channel=e", &bearer("dan", "4")).await.status, 401);
    assert_eq!(open(two, "channel=e", &bearer("dan", "6")).await.status, 200);
    assert_eq!(open(two, "channel=a", &bearer("ann", "1")).await.status, 200);
}

#[tokio::test]
async fn streams_end_now_on_one_node() {
    let secret = SecretFile::new();
    let node = Node::start(BINARY, &["--jwt-secret-file", secret.path()]);
    check(&node, &node).await;
}

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
async fn a_node_that_was_cut_off_ends_them_when_it_is_back() {
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
async fn what_is_no_revocation_changes_nothing() {
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
