//! What strangers can do to the log, and to a terminal. Look here for floods of lines, and for text
//! of other servers.

use std::time::Duration;

use headwater_test_support::{EventStream, Node, http, wait_for};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::BINARY;
use crate::support::backend::{Backend, answer};
use crate::support::commands::run;

/// Most lines of one kind in ten seconds.
const LINES_MAX: usize = 8;

fn lines(node: &Node, part: &str) -> usize {
    node.log().lines().filter(|line| line.contains(part)).count()
}

#[tokio::test]
async fn what_a_stranger_repeats_is_counted() {
    let backend = Backend::start(&answer("500 Oops", "text/html", "")).await;
    let url = backend.url("/");
    let node = Node::start_quiet(BINARY, &["--authorize-url", &url]);
    for number in 0..40 {
        let path = format!("/sse/stream?channel=c{number}");
        http::get(node.address(), &path).await.problem(503);
    }
    backend.answer_with("no HTTP\r\n\r\n", Duration::ZERO);
    for number in 0..40 {
        let path = format!("/sse/stream?channel=d{number}");
        http::get(node.address(), &path).await.problem(503);
    }
    // Both kinds share one allowance.
    node.wait_for_log("request denied");
    assert!(lines(&node, "request denied") <= LINES_MAX, "{}", node.log());
}

#[tokio::test]
async fn a_full_server_says_so_once() {
    let arguments = ["--max-connections", "2", "--admin", "127.0.0.1:0"];
    let node = Node::start_quiet(BINARY, &arguments);
    let _stream = EventStream::open(node.address(), "/sse/stream").await;
    for _ in 0..40 {
        // Each is the last that fits.
        http::get(node.address(), "/sse/demo/info").await;
    }
    wait_for("the log", || lines(&node, "connection limit reached") > 0);
    assert_eq!(lines(&node, "connection limit reached"), 1, "{}", node.log());
}

async fn say(mut socket: TcpStream, error: &str) {
    let mut buffer = [0; 4096];
    while let Ok(bytes @ 1..) = socket.read(&mut buffer).await {
        let commands = String::from_utf8_lossy(&buffer[..bytes]).matches('*').count();
        let answers = format!("-{error}\r\n").repeat(commands);
        if socket.write_all(answers.as_bytes()).await.is_err() {
            break;
        }
    }
}

/// A server that answers every command with this error.
async fn redis_that_says(error: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("redis://{}", listener.local_addr().expect("its address"));
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(say(socket, error));
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_redis_says_moves_no_cursor() {
    let url = redis_that_says("ERR \u{1b}[2J\u{202e}forged").await;
    let node = Node::start_quiet(BINARY, &["--redis", &url]);
    node.wait_for_log("forged");
    let log = node.log();
    // JSON would write it as \u001b, and a viewer would restore it.
    for part in ["\u{1b}", "u001b", "\u{202e}", "u202e\""] {
        assert!(!log.contains(part), "{part:?} {log}");
    }
    assert!(log.contains(r"\\u{1b}[2J"), "{log}");
}

#[tokio::test]
async fn what_a_server_says_moves_no_cursor_of_a_client() {
    let problem = r#"{"title": "no", "detail": "no\n\u001b[2Jforged\u0007"}"#;
    let said = answer("400 Bad Request", "application/problem+json", problem);
    let backend = Backend::start(&said).await;
    // The backend answers where the head of a request may end.
    let publish = ["publish", "news", "\r\n\r\n", "--url", &backend.url("")];
    let (code, text) = run(&publish, &[]).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains(r"\u{1b}[2Jforged\u{7}"), "{text}");
    assert!(!text.trim_end().contains(|c: char| c.is_control()), "{text:?}");
}
