//! The examples run, and the documents show the first one as it is. Look here when one of them changed.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use headwater_test_support::stream::End;
use headwater_test_support::{EventStream, RedisServer, eventually, free_port, http, wait_for};
use serde_json::json;
use tokio::net::TcpStream;

const HELLO: &str = include_str!("../../examples/hello.rs");

/// A running example; it ends when this is dropped.
struct Example {
    process: Child,
    address: SocketAddr,
}

impl Example {
    async fn start(name: &str, variables: &[(&str, &str)]) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let process = Command::new(binary(name))
            .arg(address.to_string())
            .env_remove("REDIS_URL")
            .envs(variables.iter().copied())
            .stdout(Stdio::null())
            .spawn()
            .expect("the example starts");
        let mut example = Self { process, address };
        eventually(&format!("{name} listens"), || {
            let ended = example.process.try_wait().expect("the process");
            assert_eq!(ended, None, "{name} ended");
            async move { TcpStream::connect(address).await.is_ok() }
        })
        .await;
        example
    }

    fn interrupt(&self) {
        let process_id = self.process.id().to_string();
        let sent = Command::new("kill").args(["-INT", &process_id]).status();
        assert!(sent.expect("kill").success());
    }

    fn wait_for_end(&mut self) -> ExitStatus {
        let mut status = None;
        wait_for("the example ends", || {
            status = self.process.try_wait().expect("the process");
            status.is_some()
        });
        status.expect("waited for")
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The binary of an example, which cargo builds before it runs all tests of a package.
pub(crate) fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("this test's path");
    let profile = test.ancestors().nth(2).expect("target/<profile>/deps/<test>");
    let binary = profile.join("examples").join(name);
    let missing = "is missing: run `cargo build --package headwater --examples`, which \
                   `cargo test --test it` does not";
    assert!(binary.exists(), "{} {missing}", binary.display());
    binary
}

fn message(text: &str) -> Vec<u8> {
    json!({ "text": text }).to_string().into_bytes()
}

async fn publish_message(address: SocketAddr, text: &str) -> http::Answer {
    let json = [("content-type", "application/json")];
    http::request(address, "POST", "/publish?room=lobby", &json, &message(text)).await
}

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
async fn axum_app_serves_without_redis_and_ends_its_streams() {
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

#[tokio::test]
async fn axum_app_publishes_and_counts_over_one_redis() {
    let redis = RedisServer::start();
    let url = redis.url();
    let app = Example::start("axum_app", &[("REDIS_URL", &url)]).await;
    let mut stream = EventStream::open(app.address, "/events?room=lobby").await;
    eventually("the broker is connected, so that streams wait for Redis", || async {
        redis.run::<Vec<String>>(&["PUBSUB", "CHANNELS", "lobby"]) == ["lobby"]
    })
    .await;

    redis.publish("lobby", &message("from redis-cli"));
    assert_eq!(stream.next().await.expect("an event").data, r#"{"text":"from redis-cli"}"#);
    for count in 1..=2 {
        let answer = publish_message(app.address, "hi").await;
        assert_eq!(answer.json(), json!({ "count": count }));
        assert_eq!(stream.next().await.expect("an event").data, r#"{"text":"hi"}"#);
    }
}

#[test]
fn axum_app_says_where_it_is() {
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

/// What a client has of an answer: its text, the last id, and the name of the event that ended it.
#[derive(Debug, Default, PartialEq)]
struct Answer {
    text: String,
    last_id: String,
    end: Option<String>,
}

impl Answer {
    /// Reads on until the answer ends, or until so many tokens have come.
    async fn read(mut self, stream: &mut EventStream, tokens_max: usize) -> Self {
        for _ in 0..tokens_max {
            let event = stream.next().await.expect("an event");
            self.last_id = event.id;
            if event.name == "message" {
                self.text += &event.data;
            } else {
                self.end = Some(event.name);
                break;
            }
        }
        self
    }
}

async fn ask(app: &Example) -> String {
    let asked = http::post(app.address, "/ask", b"why?").await.json();
    format!("/answer/{}", asked["id"].as_str().expect("an id"))
}

async fn listen_after(app: &Example, path: &str, last_id: &str) -> EventStream {
    EventStream::open_with(app.address, path, &[("last-event-id", last_id)], None).await
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
            listen_after(&app, &path, &first.last_id).await
        };
        first = first.read(&mut stream, 3).await;
    }
    assert!(first.text.starts_with("You asked: why?\n\nA river"), "{first:?}");
    assert!(first.text.ends_with("wait for you."), "{first:?}");
    assert_eq!(first.end.as_deref(), Some("done"));

    // A reload, or another device, has no last id and gets everything, also when all is written.
    let mut second = EventStream::open(app.address, &path).await;
    assert_eq!(Answer::default().read(&mut second, usize::MAX).await, first);
    assert_eq!(second.end().await, End::Clean);
    // Who has everything is told not to come back.
    assert_eq!(listen_after(&app, &path, &first.last_id).await.status, 204);
}

#[tokio::test]
async fn ai_answer_is_stopped_by_a_word_and_not_by_a_disconnect() {
    let redis = RedisServer::start();
    let variables: &[(&str, &str)] = &[("REDIS_URL", &redis.url()), ("TOKEN_MS", "50")];
    let app = Example::start("ai_answer", variables).await;
    let other = Example::start("ai_answer", variables).await;
    let path = ask(&app).await;

    let mut stream = EventStream::open(app.address, &path).await;
    let begun = Answer::default().read(&mut stream, 2).await;
    drop(stream);
    // The other device is on another node, and the answer goes on.
    let mut stream = EventStream::open(other.address, &path).await;
    let more = Answer::default().read(&mut stream, 4).await;
    assert!(more.text.starts_with(&begun.text) && more.end.is_none(), "{more:?}");
    let stopped = http::post(other.address, &format!("{path}/stop"), b"").await;
    assert_eq!(stopped.status, 204, "{}", stopped.text());
    let stopped = Answer::default().read(&mut stream, usize::MAX).await;
    assert_eq!(stopped.end.as_deref(), Some("stopped"));

    let again = http::post(app.address, &format!("{path}/stop"), b"").await;
    assert_eq!(again.status, 204, "{}", again.text());
    assert_eq!(listen_after(&app, &path, &stopped.last_id).await.status, 204);
}

/// The program without its first lines of documentation.
fn hello_program() -> &'static str {
    let (_, program) = HELLO.split_once("\n\n").expect("an empty line after the documentation");
    assert!(program.lines().count() <= 20, "it is shown as a program of 20 lines");
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
