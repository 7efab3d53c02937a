//! Errors at startup: a Redis that is unreachable, a port in use. Look here for messages about the
//! surroundings; wrong settings have settings.rs.

use std::net::TcpListener;
use std::process::{Output, Stdio};

use headwater_test_support::{Node, PATIENCE, free_port};
use tokio::process::Command;
use tokio::time::timeout;

use crate::support::BINARY;
use crate::support::starting::{PASSWORD, check_serving_without_redis};

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

#[tokio::test]
async fn an_invalid_redis_url_fails_the_start_without_showing_its_password() {
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
async fn a_redis_that_cannot_be_reached_is_retried() {
    let url = format!("redis://u:{PASSWORD}@127.0.0.1:{}", free_port());
    let node = Node::start(BINARY, &["--redis", &url, "--heartbeat", "1s"]);
    node.wait_for_log("retrying, streams stay open");
    assert!(node.log().contains("cannot connect"), "{}", node.log());
    check_serving_without_redis(&node).await;
    // Said once, not at each attempt; those who look for more at `debug` find it.
    let log = node.log();
    let warnings = log.lines().filter(|line| line.contains("\"level\":\"WARN\""));
    let logged = warnings.filter(|line| line.contains("cannot connect"));
    assert_eq!(logged.count(), 1, "{log}");
}

#[tokio::test]
async fn an_address_in_use_is_named_with_a_remedy() {
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
