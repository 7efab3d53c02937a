//! One-time tickets: made with credentials, good for one stream.

use headwater_test_support::http::{self, Answer};
use headwater_test_support::{EventStream, Node, RedisServer, secrets};
use serde_json::json;

use super::backend::{Backend, json as yes};
use super::{BINARY, SecretFile, claims, now, token, two_nodes};

async fn get_ticket(node: &Node, query: &str, headers: &[(&str, &str)]) -> Answer {
    let path = format!("/sse/ticket{query}");
    http::request(node.address(), "POST", &path, headers, b"").await
}

fn ticket_of(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.json()["expires_in"], 30);
    let ticket = answer.json()["ticket"].as_str().expect("a ticket").to_owned();
    secrets::keep(&ticket);
    ticket
}

async fn open(node: &Node, channel: &str, ticket: &str) -> u16 {
    let path = format!("/sse/stream?channel={channel}&ticket={ticket}");
    EventStream::open(node.address(), &path).await.status
}

#[tokio::test]
async fn a_ticket_opens_one_stream_of_what_the_token_grants() {
    let secret = SecretFile::new();
    let node = Node::start(BINARY, &["--jwt-secret-file", secret.path()]);
    let bearer = format!("Bearer {}", token(&claims(&["news", "user:42:*"], &["news"])));
    let bearer = [("authorization", &*bearer)];
    let ticket = ticket_of(&get_ticket(&node, "", &bearer).await);
    assert_eq!(open(&node, "user:42:a", &ticket).await, 200);
    assert_eq!(open(&node, "user:42:a", &ticket).await, 401, "it is used up");
    let ticket = ticket_of(&get_ticket(&node, "", &bearer).await);
    assert_eq!(open(&node, "user:43:a", &ticket).await, 403);
    assert_eq!(open(&node, "news", &ticket).await, 401, "a wrong try uses it up too");
    let narrow = ticket_of(&get_ticket(&node, "?channel=news", &bearer).await);
    assert_eq!(open(&node, "user:42:a", &narrow).await, 403);
    get_ticket(&node, "?channel=user:43:a", &bearer).await.problem(403);
    get_ticket(&node, "", &[]).await.problem(401);
    // It is for listening only, and makes no other ticket.
    let ticket = ticket_of(&get_ticket(&node, "", &bearer).await);
    let publish = format!("/sse/publish?channel=news&ticket={ticket}");
    http::post(node.address(), &publish, b"x").await.problem(401);
    for query in [format!("?ticket={ticket}"), format!("?channel=news&ticket={ticket}")] {
        get_ticket(&node, &query, &[]).await.problem(401);
    }
    assert_eq!(open(&node, "news", &ticket).await, 200);
    for wrong in ["x", "", &"x".repeat(100)] {
        assert_eq!(open(&node, "news", wrong).await, 401);
    }
}

#[tokio::test]
async fn a_stream_by_ticket_ends_with_the_token() {
    let secret = SecretFile::new();
    let node = Node::start(BINARY, &["--jwt-secret-file", secret.path()]);
    let mut short = claims(&["news"], &[]);
    short["exp"] = json!(now() + 2.0);
    let bearer = format!("Bearer {}", token(&short));
    let ticket = ticket_of(&get_ticket(&node, "", &[("authorization", &*bearer)]).await);
    let path = format!("/sse/stream?channel=news&ticket={ticket}");
    let mut stream = EventStream::open(node.address(), &path).await;
    assert_eq!(stream.status, 200);
    stream.end().await;
    node.wait_for_metric("headwater_streams_ended_total{reason=\"expired\"}", 1.0).await;
}

#[tokio::test]
async fn a_ticket_of_one_node_is_good_once_on_all() {
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
async fn the_application_gives_tickets_too() {
    let backend = Backend::start(&yes("{}")).await;
    let node = Node::start(BINARY, &["--authorize-url", &backend.url("/")]);
    let session = [("cookie", "session=1")];
    let refused = get_ticket(&node, "", &session).await;
    assert!(refused.problem(401).contains("POST /sse/ticket?channel=NAME"));
    let ticket = ticket_of(&get_ticket(&node, "?channel=a", &session).await);
    assert_eq!(open(&node, "b", &ticket).await, 403);
    let ticket = ticket_of(&get_ticket(&node, "?channel=a", &session).await);
    assert_eq!(open(&node, "a", &ticket).await, 200);
}
