//! Health, metrics and logs: what operators see. Look here for the form of /metrics, and for where
//! the three are served.

use std::net::SocketAddr;

use headwater_test_support::{EventStream, Node, free_port, http, wait_for};

use crate::support::BINARY;
use crate::support::openmetrics::check_openmetrics;

const PATHS: [&str; 3] = ["/health/live", "/health/ready", "/metrics"];

async fn assert_served(address: SocketAddr) {
    let live = http::get(address, "/health/live").await;
    assert_eq!((live.status, live.json()), (200, serde_json::json!({"status": "live"})));
    let ready = http::get(address, "/health/ready").await;
    assert_eq!((ready.status, ready.json()["status"].as_str()), (200, Some("ready")));
    let metrics = http::get(address, "/metrics").await;
    let content_type = metrics.header("content-type").expect("a content type");
    assert!(content_type.starts_with("application/openmetrics-text; version=1.0.0"));
    assert_eq!(metrics.status, 200);
    check_openmetrics(&metrics.text());
}

#[tokio::test]
async fn a_loopback_listener_serves_them_itself() {
    let node = Node::start(BINARY, &[]);
    assert_served(node.address()).await;
    let ready = http::get(node.address(), "/health/ready").await.json();
    let ok = serde_json::json!({"state": "ok"});
    let parts = serde_json::json!({"delivers": ok, "keeps": ok, "reads": ok, "access": ok});
    let expected = serde_json::json!({"status": "ready", "broker": "memory", "parts": parts});
    assert_eq!(ready, expected);
    let unknown = http::get(node.address(), "/health/ready?parts=writes").await;
    assert!(unknown.problem(400).contains("delivers, keeps, reads, access"), "{}", unknown.text());
    let head = http::request(node.address(), "HEAD", "/health/ready", &[], b"").await;
    assert_eq!((head.status, head.text().as_str()), (200, ""));
}

#[tokio::test]
async fn an_admin_address_serves_them_alone() {
    let node = Node::start(BINARY, &["--admin", "127.0.0.1:0"]);
    let admin = node.admin_address().expect("the log says where");
    assert_served(admin).await;
    for path in PATHS {
        assert!(http::get(node.address(), path).await.problem(404).contains(path));
    }
    for path in ["/", "/sse/stream", "/sse/publish", "/sse/demo"] {
        assert!(http::get(admin, path).await.problem(404).contains(path));
    }
    let answer = http::request(admin, "POST", "/metrics", &[], b"").await;
    answer.problem(405);
    assert_eq!(answer.header("allow"), Some("GET, HEAD"));
}

#[tokio::test]
async fn an_address_that_others_reach_does_not_serve_them() {
    let listen = format!("0.0.0.0:{}", free_port());
    let node = Node::start_on(BINARY, &listen, &["--open"]);
    let address = SocketAddr::from(([127, 0, 0, 1], node.address().port()));
    for path in PATHS {
        http::get(address, path).await.problem(404);
    }
    assert_eq!(http::get(address, "/sse/demo").await.status, 200);
}

#[tokio::test]
async fn ids_of_revocations_are_bounded() {
    let node = Node::start(BINARY, &[]);
    for (kind, more) in
        [("user", ""), ("stream", ""), ("token", "&expires=9999999999"), ("token", "")]
    {
        for (bytes, status) in [(1, 204), (255, 204), (256, 400), (20_000, 400)] {
            let path = format!("/admin/streams?{kind}={}{more}", "j".repeat(bytes));
            let answer = http::request(node.address(), "DELETE", &path, &[], b"").await;
            assert_eq!(answer.status, status, "{kind} {bytes}");
        }
    }
    for (bytes, status) in [(255, 204), (256, 400)] {
        let path = format!("/admin/streams?channel={}", "c".repeat(bytes));
        let answer = http::request(node.address(), "DELETE", &path, &[], b"").await;
        assert_eq!(answer.status, status, "channel {bytes}");
    }
}

#[tokio::test]
async fn streams_write_nothing_to_the_log_at_the_default_level() {
    let node = Node::start_quiet(BINARY, &[]);
    let before = node.log();
    let mut streams = Vec::new();
    for number in 0..200 {
        let path = format!("/sse/stream?channel=c{}", number % 7);
        streams.push(EventStream::open(node.address(), &path).await);
    }
    http::post(node.address(), "/sse/publish?channel=c1", b"x").await;
    assert_eq!(http::get(node.address(), "/sse/stream?channel=").await.status, 400);
    streams.truncate(100);
    node.wait_for_metric("headwater_streams", 100.0).await;
    // What was logged before this line is in the log when this line is.
    node.signal("TERM");
    node.wait_for_log("shutting down");
    wait_for("the rest of the log", || node.log().contains("\"stopped\""));
    let log = node.log();
    let new: Vec<&str> = log.lines().skip(before.lines().count()).collect();
    assert_eq!(new.len(), 2, "{new:#?}");
}

#[tokio::test]
async fn the_setting_names_the_parts_that_are_required() {
    let node = Node::start(BINARY, &["--ready-requires", "keeps,reads"]);
    let ready = http::get(node.address(), "/health/ready").await;
    assert_eq!(ready.status, 200, "{}", ready.text());
    assert_eq!(ready.json()["parts"].as_object().map(serde_json::Map::len), Some(4));
}
