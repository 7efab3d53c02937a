//! Revocation across nodes, and after an interrupted Redis connection. Look here for what one node
//! learns from another.

use std::time::Duration;

use headwater_test_support::stream::End;
use headwater_test_support::{Node, RedisServer, eventually, http, secrets};

use crate::support::BINARY;
use crate::support::access::{SecretFile, claims, now, token, two_nodes};
use crate::support::backend::Backend;
use crate::support::revocation::{
    admin, bearer, check, check_earlier_decisions, is_open, open, revoke,
};
use crate::support::tickets::{get_ticket, ticket_of};

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

#[tokio::test]
async fn what_was_decided_before_a_revocation_does_not_count_on_any_node() {
    let redis = RedisServer::start();
    let secret = SecretFile::new();
    let backend = Backend::start("").await;
    let (url, redis_url) = (backend.url("/"), redis.url());
    let arguments =
        ["--jwt-secret-file", secret.path(), "--authorize-url", &url, "--redis", &redis_url];
    let [one, two] = two_nodes(&arguments).await;
    check_earlier_decisions(&one, &two, &backend).await;
}

/// A stream by GET, as curl asks for it: with a status that says why not.
async fn status(node: &Node, query: &str, bearer: &str) -> u16 {
    let headers = [("authorization", bearer)];
    let path = format!("/sse/stream?{query}");
    let answer = http::request(node.address(), "HEAD", &path, &headers, b"").await;
    if answer.status == 503 {
        assert!(answer.header("retry-after").is_some());
    }
    answer.status
}

#[tokio::test]
async fn what_could_be_revoked_waits_until_revocations_are_known() {
    let redis = RedisServer::start();
    let secret = SecretFile::new();
    secrets::keep("l1mited-s3cret");
    let rules = ["+@all", "~*", "resetchannels", "&headwater:probe:*", "&headwater:{0}:*", "&*x"];
    let limited = redis.add_user("limited", "l1mited-s3cret", &rules);
    let arguments =
        |url: &str| ["--jwt-secret-file", secret.path(), "--redis", url].map(ToOwned::to_owned);
    let start = |url: &str| {
        let arguments = arguments(url);
        Node::start(BINARY, &arguments.each_ref().map(String::as_str))
    };
    let knowing = start(&redis.url());
    knowing.wait_until_ready().await;
    // It hears of no revocation.
    let other = start(&limited);
    eventually("it delivers", || async {
        http::get(other.address(), "/health/ready?parts=delivers").await.status == 200
    })
    .await;
    let user = bearer("ann", "1");
    let ticket = ticket_of(&get_ticket(&knowing, "?channel=a", &[("authorization", &*user)]).await);
    let by_ticket = format!("channel=a&ticket={ticket}");
    revoke(&knowing, &format!("token=2&expires={:.0}", now() + 60.0)).await;
    assert_eq!(status(&other, "channel=a", &user).await, 503, "its ID may be revoked");
    assert_eq!(status(&other, "channel=a", &bearer("ann", "2")).await, 503, "it is");
    let anonymous = http::get(other.address(), &format!("/sse/stream?{by_ticket}")).await;
    anonymous.problem(503);
    get_ticket(&other, "", &[("authorization", &*user)]).await.problem(503);
    // A token without an ID cannot be revoked.
    let token = format!("Bearer {}", token(&claims(&["*"], &["*"])));
    assert_eq!(status(&other, "channel=a", &token).await, 200);
    assert_eq!(open(&knowing, &by_ticket, "").await.status, 200, "the ticket was not spent");
    // As soon as it knows, it decides.
    let _: String =
        redis.run(&["ACL", "SETUSER", "limited", "&headwater:revoked:*", "&headwater:revoked:{0}"]);
    other.wait_until_ready().await;
    assert_eq!(status(&other, "channel=a", &user).await, 200);
    assert_eq!(status(&other, "channel=a", &bearer("ann", "2")).await, 401);
}

#[tokio::test]
async fn a_node_that_starts_or_reconnects_knows_which_tickets_are_revoked() {
    let redis = RedisServer::start();
    let secret = SecretFile::new();
    let url = redis.url();
    let arguments = ["--jwt-secret-file", secret.path(), "--redis", &url];
    let [one, two] = two_nodes(&arguments).await;
    let ticket = async |user: &str| {
        let bearer = bearer(user, "j");
        ticket_of(&get_ticket(&one, "?channel=a", &[("authorization", &*bearer)]).await)
    };
    let tickets = [ticket("ann").await, ticket("ann").await, ticket("ben").await];
    let mut ben = open(&two, "channel=b", &bearer("ben", "2")).await;
    revoke(&one, "user=ann").await;
    let _: i64 = redis.run(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    let three = Node::start(BINARY, &arguments);
    for (node, ticket) in [(&two, &tickets[0]), (&three, &tickets[1])] {
        // Denied at once if the node is not ready yet, and the ticket is not spent by that.
        let path = format!("/sse/stream?channel=a&ticket={ticket}");
        eventually("a decision", || async {
            let status = http::request(node.address(), "HEAD", &path, &[], b"").await.status;
            assert!(status == 503 || status == 401, "{status}");
            status == 401
        })
        .await;
    }
    let path = format!("/sse/stream?channel=a&ticket={}", tickets[2]);
    assert_eq!(http::request(three.address(), "HEAD", &path, &[], b"").await.status, 200);
    two.wait_until_ready().await;
    is_open(&mut ben, &two, "b").await;
}
