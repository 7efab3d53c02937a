//! Examples as running processes. Look here for how `tests/it` and `tests/live` start them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use headwater_test_support::{EventStream, eventually, free_port, http, wait_for};
use serde_json::json;
use tokio::net::TcpStream;

/// A running example. The process is killed on drop.
pub(crate) struct Example {
    pub(crate) process: Child,
    pub(crate) address: SocketAddr,
}

impl Example {
    pub(crate) async fn start(name: &str, variables: &[(&str, &str)]) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let process = Command::new(binary(name))
            .arg(address.to_string())
            .env_remove("REDIS_URL")
            .envs(variables.iter().copied())
            .stdout(Stdio::null())
            .spawn()
            .expect("the example starts");
        let mut example = Self { process, address };
        eventually(&format!("{name} accepts connections"), || {
            let ended = example.process.try_wait().expect("the process");
            assert_eq!(ended, None, "{name} ended");
            async move { TcpStream::connect(address).await.is_ok() }
        })
        .await;
        example
    }

    #[allow(dead_code, reason = "only tests/it stops an example")]
    pub(crate) fn interrupt(&self) {
        let process_id = self.process.id().to_string();
        let sent = Command::new("kill").args(["-INT", &process_id]).status();
        assert!(sent.expect("kill").success());
    }

    #[allow(dead_code, reason = "only tests/it stops an example")]
    pub(crate) fn wait_for_end(&mut self) -> ExitStatus {
        let mut status = None;
        wait_for("the example ends", || {
            status = self.process.try_wait().expect("the process");
            status.is_some()
        });
        status.expect("the process has ended")
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The path of an example's binary. Cargo builds it before it runs all tests of a package.
pub(crate) fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("this test's path");
    let profile = test.ancestors().nth(2).expect("target/<profile>/deps/<test>");
    let binary = profile.join("examples").join(name);
    let missing = "is missing: run `cargo build --package headwater --examples`, which \
                   `cargo test --test it` does not";
    assert!(binary.exists(), "{} {missing}", binary.display());
    binary
}

pub(crate) fn message(text: &str) -> Vec<u8> {
    json!({ "text": text }).to_string().into_bytes()
}

pub(crate) async fn publish_message(address: SocketAddr, text: &str) -> http::Answer {
    let json = [("content-type", "application/json")];
    http::request(address, "POST", "/publish?room=lobby", &json, &message(text)).await
}

/// What a client has received of an answer: its text, the last event ID, and the name of the event
/// that ended it.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) last_id: String,
    pub(crate) end: Option<String>,
}

impl Answer {
    /// Continues reading until the answer ends, or until `tokens_max` tokens were received.
    pub(crate) async fn read(mut self, stream: &mut EventStream, tokens_max: usize) -> Self {
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

pub(crate) async fn ask(app: &Example) -> String {
    let asked = http::post(app.address, "/ask", b"why?").await.json();
    format!("/answer/{}", asked["id"].as_str().expect("an id"))
}

pub(crate) async fn resume(app: &Example, path: &str, last_id: &str) -> EventStream {
    EventStream::open_with(app.address, path, &[("last-event-id", last_id)], None).await
}
