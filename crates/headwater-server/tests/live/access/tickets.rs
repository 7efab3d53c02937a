//! Tickets that nodes share through Redis. Look here for their keys and lifetimes.

use headwater_test_support::http::{self};
use headwater_test_support::{Node, RedisServer};

use crate::support::BINARY;
use crate::support::access::{SecretFile, claims, token, two_nodes};
use crate::support::tickets::{get_ticket, open, ticket_of};

#[tokio::test]
async fn a_ticket_of_one_node_is_valid_once_on_all() {
    let redis = RedisServer::start();
    let secret = SecretFile::new();
    let arguments = ["--jwt-secret-file", secret.path(), "--redis", &redis.url()];
    let [one, two] = two_nodes(&arguments).await;
    let bearer = format!("Bearer {}", token(&claims(&["news"], &[])));
    let ticket = ticket_of(&get_ticket(&one, "", &[("authorization", &*bearer)]).await);
    let keys: Vec<String> = redis.run(&["KEYS", "headwater:{0}:ticket:*"]);
    assert_eq!(keys.len(), 1);
    assert!(!keys[0].contains(&ticket), "a reader of Redis cannot use it");
    let left: i64 = redis.run(&["TTL", &keys[0]]);
    assert!((1..=30).contains(&left), "{left}");
    assert_eq!(open(&two, "news", &ticket).await, 200);
    assert_eq!(open(&one, "news", &ticket).await, 401);
    let keys: Vec<String> = redis.run(&["KEYS", "headwater:{0}:ticket:*"]);
    assert!(keys.is_empty(), "{keys:?}");
}

#[tokio::test]
async fn without_redis_there_is_no_ticket() {
    let redis = RedisServer::start();
    let secret = SecretFile::new();
    let node = Node::start(BINARY, &["--jwt-secret-file", secret.path(), "--redis", &redis.url()]);
    node.wait_until_ready().await;
    drop(redis);
    let bearer = format!("Bearer {}", token(&claims(&["news"], &[])));
    get_ticket(&node, "", &[("authorization", &*bearer)]).await.problem(503);
    let path = "/sse/stream?channel=news&ticket=x";
    http::get(node.address(), path).await.problem(503);
}

#[tokio::test]
async fn tickets_are_bounded_in_redis_too() {
    let redis = RedisServer::start();
    let secret = SecretFile::new();
    let url = redis.url();
    let arguments = ["--jwt-secret-file", secret.path(), "--redis", &url, "--public", "news"];
    let node = Node::start(BINARY, &arguments);
    node.wait_until_ready().await;
    let stored = || redis.run::<Vec<String>>(&["KEYS", "headwater:{0}:ticket:*"]).len();
    for _ in 0..100 {
        ticket_of(&get_ticket(&node, "?channel=news", &[]).await);
    }
    assert_eq!(stored(), 0, "what is public needs none");
    let bearer = format!("Bearer {}", token(&claims(&["inbox"], &[])));
    let bearer = [("authorization", &*bearer)];
    let mut issued = 0;
    while get_ticket(&node, "", &bearer).await.status == 200 {
        issued += 1;
        assert!(issued < 3_000, "a client has its share");
    }
    assert!(stored() <= issued);
    get_ticket(&node, "", &bearer).await.problem(429);
}
