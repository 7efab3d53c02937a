//! Idempotency keys of several publishers. Look here for whose key it is.

use headwater_test_support::http::Answer;
use headwater_test_support::{EventStream, Node, http};
use serde_json::{Value, json};

use crate::support::access::{SecretFile, claims, token};

/// A token that may publish to all channels, with other claims.
fn publisher(changes: &[(&str, Value)]) -> String {
    let mut claims = claims(&["*"], &["*"]);
    for (name, value) in changes {
        match value {
            Value::Null => drop(claims.as_object_mut().expect("claims").remove(*name)),
            _ => claims[*name] = value.clone(),
        }
    }
    token(&claims)
}

async fn publish(node: &Node, token: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    let headers = [&[("authorization", bearer.as_str())], headers].concat();
    let path = "/sse/publish?channel=orders";
    http::request(node.address(), "POST", path, &headers, body.as_bytes()).await
}

/// A publisher is known by its `sub`, or by its `jti` without one; and a batch has the same keys as
/// single events.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_of_another_publisher_is_another_key() {
    let secret = SecretFile::new();
    let (node, _redis) =
        crate::broker::start_node(&["--jwt-secret-file", secret.path(), "--public", "orders"])
            .await;
    let mut stream = EventStream::open(node.address(), "/sse/stream?channel=orders").await;
    let publishers = [
        publisher(&[("sub", json!("mallory"))]),
        publisher(&[("sub", json!("alice"))]),
        publisher(&[("sub", json!("alice:")), ("jti", json!("alice"))]),
        publisher(&[("sub", Value::Null), ("jti", json!("alice"))]),
        publisher(&[("sub", Value::Null)]),
    ];
    let key = [("idempotency-key", "order-4711")];
    let mut ids = Vec::new();
    for (number, token) in publishers.iter().enumerate() {
        let answer = publish(&node, token, &key, &number.to_string()).await;
        ids.push(answer.json()["id"].as_str().expect("an id").to_owned());
        assert_eq!(stream.next().await.expect("an event").data, number.to_string());
    }
    for (number, token) in publishers.iter().enumerate() {
        let again = publish(&node, token, &key, "again").await;
        assert_eq!(again.json()["id"], ids[number]);
        let line = r#"{"data":"again","key":"order-4711"}"#;
        let batch = [("content-type", "application/x-ndjson")];
        let again = publish(&node, token, &batch, line).await;
        assert_eq!(again.json()[0]["id"], ids[number]);
    }
    publish(&node, &publishers[0], &[], "the end").await;
    assert_eq!(stream.next().await.expect("an event").data, "the end", "no repeat was published");
}
