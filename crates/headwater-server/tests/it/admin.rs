//! Health, metrics and logs: what operators see. Look here for the form of /metrics, and for where
//! the three are served.

use std::collections::HashSet;
use std::net::SocketAddr;

use headwater::event::Message;
use headwater_test_support::{EventStream, Node, RedisServer, free_port, http, wait_for};

const BINARY: &str = env!("CARGO_BIN_EXE_headwater");

const PATHS: [&str; 3] = ["/health/live", "/health/ready", "/metrics"];

const CHANNEL: &str = "a-channel-nobody-else-has";

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

/// Reads the OpenMetrics text format, as strictly as we write it.
#[track_caller]
fn check_openmetrics(text: &str) {
    let Some(lines) = text.strip_suffix("# EOF\n") else { panic!("no # EOF ends {text}") };
    let is_name = |name: &str| {
        name.starts_with("headwater_")
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    let mut described = HashSet::new();
    let mut family = "";
    let mut kind = "";
    let mut seen = HashSet::new();
    for line in lines.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (word, name) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
            let rest = words.next().unwrap_or_default();
            assert!(is_name(name) && !rest.is_empty(), "{line}");
            match word {
                "HELP" => {
                    assert!(described.insert(name), "{name} is described twice");
                    family = name;
                }
                "TYPE" => {
                    assert!(["counter", "gauge"].contains(&rest), "{line}");
                    kind = rest;
                }
                "UNIT" => assert!(name.ends_with(&format!("_{rest}")), "{line}"),
                _ => panic!("{line}"),
            }
            assert_eq!(name, family, "{line}");
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?}"));
        let value: f64 = value.parse().unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(value.is_finite() && value >= 0.0, "{line}");
        let name = series.split('{').next().unwrap_or_default();
        let suffix = if kind == "counter" { "_total" } else { "" };
        assert_eq!(name, format!("{family}{suffix}"), "{line}");
        if let Some(labels) = series.strip_prefix(name).filter(|labels| !labels.is_empty()) {
            let value_of = |label| labels.strip_prefix(label)?.strip_suffix("\"}");
            let is_word = |byte: u8| byte.is_ascii_lowercase() || byte == b'-';
            match (value_of("{reason=\""), value_of("{shard=\"")) {
                (Some(reason), _) => assert!(reason.bytes().all(is_word), "{line}"),
                (_, Some(shard)) => assert!(shard.parse::<u8>().is_ok(), "{line}"),
                _ => panic!("only reason and shard are labels: {line}"),
            }
        }
        assert!(seen.insert(series), "{series} stands there twice");
    }
    assert!(!seen.is_empty());
}

#[tokio::test]
async fn a_loopback_listener_serves_them_itself() {
    let node = Node::start(BINARY, &[]);
    assert_served(node.address()).await;
    let ready = http::get(node.address(), "/health/ready").await.json();
    assert_eq!(ready, serde_json::json!({"status": "ready", "broker": "memory"}));
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
async fn metrics_count_what_happens_and_name_no_channel() {
    let redis = RedisServer::start();
    let node = Node::start(BINARY, &["--redis", &redis.url()]);
    node.wait_until_ready().await;
    let path = format!("/sse/stream?channel={CHANNEL}&channel={CHANNEL}-2");
    let mut stream = EventStream::open(node.address(), &path).await;
    let other = EventStream::open(node.address(), &format!("/sse/stream?channel={CHANNEL}")).await;
    node.wait_for_metric("headwater_redis_channels_confirmed", 2.0).await;
    // Both streams began with a block that is only an id, `EPOCH-0`.
    let mut sent_bytes = 2 * "id: 0123456789ab-0\n\n".len();
    let block = |event: &Message| format!("id: {}\ndata: {}\n\n", event.id, event.data).len();
    for _ in 0..3 {
        let path = format!("/sse/publish?channel={CHANNEL}");
        assert_eq!(http::post(node.address(), &path, b"0123456789").await.status, 200);
        sent_bytes += 2 * block(&stream.next().await.expect("the stream is open"));
    }
    redis.publish(&format!("{CHANNEL}-2"), b"\xff");
    sent_bytes += block(&stream.next().await.expect("the stream is open"));
    #[expect(clippy::cast_precision_loss, reason = "they are few")]
    let sent_bytes = sent_bytes as f64;
    for (name, value) in [
        ("headwater_streams", 2.0),
        ("headwater_channels", 2.0),
        ("headwater_streams_opened_total", 2.0),
        ("headwater_events_published_total", 3.0),
        ("headwater_publish_errors_total", 0.0),
        ("headwater_events_received_total", 4.0),
        ("headwater_events_sanitized_total", 1.0),
        ("headwater_events_rejected_total", 0.0),
        ("headwater_events_sent_total", 7.0),
        ("headwater_sent_bytes_total", sent_bytes),
        ("headwater_redis_ready", 1.0),
        ("headwater_redis_reconnects_total", 0.0),
        ("headwater_redis_channels_wanted", 2.0),
    ] {
        node.wait_for_metric(name, value).await;
    }
    drop(other);
    node.wait_for_metric("headwater_streams_ended_total{reason=\"client\"}", 1.0).await;
    node.wait_for_metric("headwater_streams", 1.0).await;
    let metrics = http::get(node.address(), "/metrics").await.text();
    check_openmetrics(&metrics);
    assert!(metrics.contains("\nheadwater_redis_lag_seconds 0."), "{metrics}");
    assert!(!metrics.contains(CHANNEL), "{metrics}");
    let ready = http::get(node.address(), "/health/ready").await.json();
    assert_eq!(ready["broker"], "redis");
    assert!(ready["lag_ms"].as_f64().is_some_and(|lag| lag > 0.0), "{ready}");
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
