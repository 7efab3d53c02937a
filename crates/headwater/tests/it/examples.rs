//! The examples run, and the documents show `hello` verbatim. Look here when an example changes.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use headwater_test_support::stream::End;
use headwater_test_support::{EventStream, http};
use serde_json::json;

use crate::example::{Answer, Example, ask, binary, publish_message, resume};

const HELLO: &str = include_str!("../../examples/hello.rs");

#[tokio::test]
async fn hello_publishes_to_every_stream() {
    let hello = Example::start("hello", &[]).await;
    let mut first = EventStream::open(hello.address, "/events").await;
    let mut second = EventStream::open(hello.address, "/events").await;
    let answer = http::post(hello.address, "/publish", b"hello\nworld").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(first.next().await.expect("an event").data, "hello\nworld");
    assert_eq!(second.next().await.expect("an event").data, "hello\nworld");
}

#[tokio::test]
async fn axum_app_serves_without_redis_and_drains_its_streams() {
    let mut app = Example::start("axum_app", &[]).await;
    let page = http::get(app.address, "/").await;
    assert!(page.text().contains("new EventSource"), "{}", page.text());

    let mut stream = EventStream::open(app.address, "/events?room=lobby").await;
    let answer = publish_message(app.address, "hi").await;
    assert_eq!(answer.json(), json!({ "count": null }));
    assert_eq!(stream.next().await.expect("an event").data, r#"{"text":"hi"}"#);

    let answer = http::post(app.address, "/publish?room=", b"{}").await;
    assert!((400..500).contains(&answer.status), "{}", answer.text());
    let answer = http::get(app.address, "/events?room=").await;
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));

    app.interrupt();
    assert_eq!(stream.end().await, End::Clean);
    assert!(app.wait_for_end().success());
}

#[test]
fn axum_app_prints_its_address() {
    let mut process = Command::new(binary("axum_app"))
        .arg("127.0.0.1:0")
        .env_remove("REDIS_URL")
        .stdout(Stdio::piped())
        .spawn()
        .expect("the example starts");
    let output = BufReader::new(process.stdout.take().expect("its output"));
    let line = output.lines().next().expect("a line").expect("text");
    let _ = process.kill();
    let _ = process.wait();
    let port = line.strip_prefix("http://127.0.0.1:").expect("a URL");
    assert_ne!(port.parse(), Ok(0_u16));
}

#[tokio::test]
async fn ai_answer_survives_lost_connections_reloads_and_second_devices() {
    let app = Example::start("ai_answer", &[("TOKEN_MS", "20")]).await;
    let page = http::get(app.address, "/").await;
    assert!(page.text().contains("new EventSource"), "{}", page.text());
    let path = ask(&app).await;

    // The first client loses its connection after each third token.
    let mut first = Answer::default();
    while first.end.is_none() {
        let mut stream = if first.last_id.is_empty() {
            EventStream::open(app.address, &path).await
        } else {
            resume(&app, &path, &first.last_id).await
        };
        first = first.read(&mut stream, 3).await;
    }
    assert!(first.text.starts_with("You asked: why?\n\nA river"), "{first:?}");
    assert!(first.text.ends_with("not wait for you."), "{first:?}");
    assert_eq!(first.end.as_deref(), Some("done"));

    // A reload, or another device, has no last ID and gets everything, even after the end.
    let mut second = EventStream::open(app.address, &path).await;
    assert_eq!(Answer::default().read(&mut second, usize::MAX).await, first);
    assert_eq!(second.end().await, End::Clean);
    // A client that has everything does not reconnect after a 204.
    assert_eq!(resume(&app, &path, &first.last_id).await.status, 204);
}

/// The program without its module documentation.
fn hello_program() -> &'static str {
    let (_, program) = HELLO.split_once("\n\n").expect("an empty line after the documentation");
    assert!(program.lines().count() <= 20, "hello must not exceed 20 lines");
    program
}

#[test]
fn the_readme_shows_hello() {
    let readme = include_str!("../../../../README.md");
    let block = format!("```rust\n{}```\n", hello_program());
    assert!(readme.contains(&block), "copy examples/hello.rs into README.md:\n{block}");
}

#[test]
fn the_documentation_of_the_crate_shows_hello() {
    let documentation: Vec<&str> = include_str!("../../src/lib.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("//!"))
        .map(|line| line.strip_prefix(' ').unwrap_or(line))
        .collect();
    let documentation = documentation.join("\n");
    let block = format!("```no_run\n{}```\n", hello_program());
    assert!(documentation.contains(&block), "copy examples/hello.rs into src/lib.rs:\n{block}");
}
