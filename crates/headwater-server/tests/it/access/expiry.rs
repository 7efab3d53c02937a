//! Streams end when what allowed them does.

use std::time::{Duration, Instant};

use headwater_test_support::stream::End;
use headwater_test_support::{EventStream, Node, http};
use serde_json::json;

use crate::support::BINARY;
use crate::support::access::{SecretFile, claims, now, token};

#[tokio::test]
async fn a_stream_ends_with_its_token_on_a_whole_event() {
    let secret = SecretFile::new();
    let node = Node::start(BINARY, &["--jwt-secret-file", secret.path()]);
    let publisher = format!("Bearer {}", token(&claims(&[], &["news"])));
    let publish = async |data: &str| {
        let headers = [("authorization", &*publisher)];
        let address = node.address();
        let path = "/sse/publish?channel=news";
        let answer = http::request(address, "POST", path, &headers, data.as_bytes()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    let mut short = claims(&["news"], &[]);
    short["exp"] = json!(now() + 3.0);
    let listener = format!("Bearer {}", token(&short));
    let headers = [("authorization", &*listener)];
    let opened_at = Instant::now();
    let path = "/sse/stream?channel=news";
    let mut stream = EventStream::open_with(node.address(), path, &headers, None).await;
    assert_eq!(stream.status, 200);
    tokio::time::sleep_until((opened_at + Duration::from_secs(1)).into()).await;
    publish("at 1 s").await;
    assert_eq!(stream.next().await.expect("the stream is open").data, "at 1 s");
    assert_eq!(stream.end().await, End::Clean);
    let lasted = opened_at.elapsed().as_secs_f64();
    assert!((2.5..5.0).contains(&lasted), "it lasted {lasted} s");
    node.wait_for_metric("headwater_streams_ended_total{reason=\"expired\"}", 1.0).await;
    publish("later").await;
    let again = http::request(node.address(), "GET", path, &headers, b"").await;
    again.problem(401);
    assert!(again.header("www-authenticate").is_some_and(|it| it.contains("invalid_token")));
}
