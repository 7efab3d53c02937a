//! What is said when a start goes wrong: a Redis that is not there or says no, a port that is
//! taken. Look here for messages about the surroundings; wrong settings have settings.rs.

use std::net::TcpListener;
use std::process::{Output, Stdio};

use headwater_test_support::{EventStream, Node, PATIENCE, RedisServer, free_port, http};
use tokio::process::Command;
use tokio::time::timeout;

const BINARY: &str = env!("CARGO_BIN_EXE_headwater");

const PASSWORD: &str = "s3cret-w0rd";

/// Runs the binary, which must end by itself.
async fn run(arguments: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = Command::new(BINARY);
    command.args(arguments).env_clear().envs(variables.iter().copied());
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(PATIENCE, command.output()).await.expect("it ends in time");
    let Output { status, stdout, stderr } = output.expect("it runs");
    let text = [stdout, stderr].concat();
    (status.code(), String::from_utf8(text).expect("it writes UTF-8"))
}

/// A Redis that wants a password.
fn guarded_redis() -> RedisServer {
    RedisServer::start_with(&["--requirepass", PASSWORD, "--save", ""])
}

fn url_with(password: &str, redis: &RedisServer) -> String {
    format!("redis://:{password}@127.0.0.1:{}", redis.port())
}

/// What a node without a working Redis still does: it serves streams, and says that it is not
/// ready.
async fn check_serving_without_redis(node: &Node) -> EventStream {
    let mut stream = EventStream::open(node.address(), "/sse/stream?channel=news").await;
    assert_eq!(stream.status, 200);
    let ready = http::get(node.address(), "/health/ready").await;
    assert!(ready.problem(503).contains("streams stay open"), "{}", ready.text());
    assert_eq!(ready.header("retry-after"), Some("1"));
    assert_eq!(http::get(node.address(), "/health/live").await.status, 200);
    // Twice, since the first attempt and the later ones fail in different places.
    for _ in 0..2 {
        let answer = http::post(node.address(), "/sse/publish?channel=news", b"x").await;
        assert!(answer.problem(503).contains("Redis"), "{}", answer.text());
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    node.wait_for_metric("headwater_publish_errors_total", 2.0).await;
    node.wait_for_metric("headwater_redis_ready", 0.0).await;
    for _ in 0..3 {
        // Its opening and its heartbeats.
        stream.next_item().await.expect("the stream stays open");
    }
    stream
}

#[tokio::test]
async fn a_redis_url_that_is_wrong_ends_the_start_without_showing_its_password() {
    for url in [
        format!("http://u:{PASSWORD}@127.0.0.1"),
        format!("redis://u:{PASSWORD}@127.0.0.1:port"),
        format!("redis://u:{PASSWORD}@127.0.0.1:6379/news"),
        format!("redis://u:{PASSWORD}/x@127.0.0.1:6379"),
        format!("rediss://u:{PASSWORD}@127.0.0.1:6379/#insecure"),
        format!("{PASSWORD}@127.0.0.1"),
        format!("redis://u:{PASSWORD}@"),
    ] {
        let listen = ["serve", "--listen", "127.0.0.1:0"];
        let (code, by_flag) = run(&[&listen[..], &["--redis", &url]].concat(), &[]).await;
        assert_eq!(code, Some(2), "{by_flag}");
        let (code, by_variable) = run(&listen, &[("HEADWATER_REDIS", &url)]).await;
        assert_eq!(code, Some(2), "{by_variable}");
        for (text, name) in [(by_flag, "--redis"), (by_variable, "HEADWATER_REDIS")] {
            assert!(text.starts_with("error: ") && text.contains(name), "{text}");
            assert!(!text.contains(PASSWORD), "{text}");
        }
    }
}

#[tokio::test]
async fn a_redis_that_cannot_be_reached_is_waited_for() {
    let url = format!("redis://u:{PASSWORD}@127.0.0.1:{}", free_port());
    let node = Node::start(BINARY, &["--redis", &url, "--heartbeat", "1s"]);
    node.wait_for_log("cannot connect");
    assert!(node.log().contains("retrying, streams stay open"), "{}", node.log());
    check_serving_without_redis(&node).await;
    // Said once, not at each attempt; those who look for more at `debug` find it.
    let log = node.log();
    let warnings = log.lines().filter(|line| line.contains("\"level\":\"WARN\""));
    let logged = warnings.filter(|line| line.contains("cannot connect"));
    assert_eq!(logged.count(), 1, "{log}");
}

#[tokio::test]
async fn a_redis_that_refuses_the_password_is_not_taken_for_one_that_is_not_there() {
    let redis = guarded_redis();
    for (url, code) in [(url_with("wr0ng-w0rd", &redis), "WRONGPASS"), (redis.url(), "NOAUTH")] {
        let node = Node::start(BINARY, &["--redis", &url, "--heartbeat", "1s"]);
        node.wait_for_log("rejects the user or password");
        check_serving_without_redis(&node).await;
        let answer = http::post(node.address(), "/sse/publish", b"x").await;
        assert!(answer.problem(503).contains("denied"), "{}", answer.text());
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

#[tokio::test]
async fn an_address_in_use_is_named_with_what_to_do() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("its address").to_string();
    for (flag, other) in [("--listen", "--admin"), ("--admin", "--listen")] {
        let (code, text) = run(&["serve", flag, &address, other, "127.0.0.1:0"], &[]).await;
        assert_eq!(code, Some(1), "{text}");
        for part in [&*address, "in use", "stop the program", flag] {
            assert!(text.contains(part), "{text:?} lacks {part:?}");
        }
        assert!(!text.contains("serving"), "{text}");
    }
}
