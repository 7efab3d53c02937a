//! What `serve` prints at its start: every command in it works when it is pasted into a shell.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use headwater_test_support::tls::{Files, write_private};
use headwater_test_support::{EventStream, PATIENCE, RedisServer, free_port, secrets};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::support::BINARY;

/// A server that prints for people, and what it printed.
struct Started {
    process: Child,
    text: String,
    address: SocketAddr,
}

impl Started {
    async fn with(arguments: &[&str]) -> Self {
        let mut command = Command::new(BINARY);
        command.args(["serve", "--listen", "127.0.0.1:0"]).args(arguments).env_clear();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.kill_on_drop(true).spawn().expect("it runs");
        let mut lines = BufReader::new(process.stdout.take().expect("its output")).lines();
        let mut text = String::new();
        while !text.contains("Ctrl-C stops it.") {
            let line = timeout(PATIENCE, lines.next_line()).await.expect("a banner in time");
            let line = line.expect("UTF-8").expect("a banner to its end");
            let _ = writeln!(text, "{line}");
        }
        let authority = text.split("://").nth(1).and_then(|rest| rest.split('/').next());
        let address = authority.and_then(|it| it.parse().ok()).expect("an address in it");
        Self { process, text, address }
    }

    /// The command of a line; the line may have no name.
    fn command(&self, name: &str) -> Option<&str> {
        let line = self.text.lines().find(|line| line.starts_with(&format!("  {name:<9}  ")));
        line.map(|line| &line[13..])
    }

    /// Runs commands in a shell that finds the binary.
    async fn paste(&self, commands: &[&str]) -> String {
        let directory = Path::new(BINARY).parent().expect("a folder").display().to_string();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut shell = Command::new("sh");
        shell.args(["-ec", &commands.join("\n")]).env("PATH", format!("{directory}:{path}"));
        shell.stdin(Stdio::null()).kill_on_drop(true);
        let output = timeout(PATIENCE, shell.output()).await.expect("it ends in time");
        let output = output.expect("a shell");
        let text = String::from_utf8([output.stdout, output.stderr].concat()).expect("UTF-8");
        assert!(output.status.success(), "{commands:?}: {text}");
        text
    }

    /// Waits until its log, as text, has this.
    async fn wait_for_log(&mut self, part: &str) {
        let mut lines = BufReader::new(self.process.stderr.take().expect("its log")).lines();
        loop {
            let line = timeout(PATIENCE, lines.next_line()).await.expect("it is logged in time");
            if line.expect("UTF-8").expect("it is logged").contains(part) {
                return;
            }
        }
    }
}

#[tokio::test]
async fn commands_of_an_open_server_work() {
    let redis = RedisServer::start();
    let started = Started::with(&["--redis", &redis.url()]).await;
    let mut stream = EventStream::open(started.address, "/sse/stream?channel=news").await;
    let publish = started.command("Publish").expect("a command");
    let answer = started.paste(&[publish]).await;
    assert!(answer.contains("\"channel\":\"news\""), "{answer}");
    assert_eq!(stream.next().await.expect("the stream is open").data, "hello");
    let publish = started.command("").expect("a command of Redis");
    assert!(publish.starts_with(&format!("redis-cli -u redis://127.0.0.1:{}", redis.port())));
    started.paste(&[publish]).await;
    assert_eq!(stream.next().await.expect("the stream is open").data, "hello");
}

#[tokio::test]
async fn rules_need_a_token_and_silence_plain_publish() {
    let redis = RedisServer::start();
    let directory = tempfile::tempdir().expect("a directory");
    let secret = directory.path().join("a secret's file");
    secrets::keep("b4nner-s3cret-of-32-bytes-or-longer");
    write_private(&secret, "b4nner-s3cret-of-32-bytes-or-longer");
    let file = secret.to_str().expect("UTF-8");
    let rules = ["--redis", &redis.url(), "--jwt-secret-file", file, "--jwt-audience", "a b"];
    let mut started = Started::with(&rules).await;
    assert!(!started.text.contains("PUBLISH"), "{}", started.text);
    started.wait_for_log("plain PUBLISH messages are not delivered").await;
    let token = started.command("Token").expect("a command");
    let publish = started.command("Publish").expect("a command");
    let answer = started.paste(&[token, publish]).await;
    assert!(answer.contains("\"channel\":\"news\""), "{answer}");

    let named = Started::with(&[&rules[..], &["--redis-channels", "ne*"]].concat()).await;
    assert!(named.text.contains("PUBLISH news hello"), "{}", named.text);
    let others = Started::with(&[&rules[..], &["--redis-channels", "jobs"]].concat()).await;
    assert!(!others.text.contains("PUBLISH"), "{}", others.text);
    for (more, is_warned) in [(&[][..], true), (&["--redis-channels", "jobs"], false)] {
        let mut check = Command::new(BINARY);
        check.arg("check").args(rules).args(more).env_clear().kill_on_drop(true);
        let output = timeout(PATIENCE, check.output()).await.expect("it ends").expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(text.contains("plain PUBLISH messages are not delivered"), is_warned, "{text}");
    }
}

#[tokio::test]
async fn without_a_key_to_sign_with_there_is_only_what_is_public() {
    let url = ["--authorize-url", "http://127.0.0.1:9/auth"];
    let started = Started::with(&url).await;
    assert!(!started.text.contains("curl"), "{}", started.text);
    let started = Started::with(&[&url[..], &["--public", "news"]].concat()).await;
    let listen = started.command("Subscribe").expect("a command").replace("curl", "curl --head");
    let head = started.paste(&[&listen]).await;
    assert!(head.starts_with("HTTP/1.1 200") && !started.text.contains("--data"), "{head}");
}

#[tokio::test]
async fn tls_and_an_unreachable_redis_are_shown() {
    let files = Files::new();
    let (certificate, key) = (files.certificate_path(), files.key_path());
    let [certificate_file, key_file] = [&certificate, &key].map(|it| it.to_str().unwrap());
    let tls = ["--open", "--tls-cert", certificate_file, "--tls-key", key_file];
    let started = Started::with(&tls).await;
    let publish = started.command("Publish").expect("a command");
    let trusting = publish.replace("curl", &format!("curl --cacert {}", certificate.display()));
    let answer = started.paste(&[&trusting]).await;
    assert!(answer.contains("\"channel\":\"news\""), "{answer}");

    let redis = format!("redis://127.0.0.1:{}", free_port());
    let started = Started::with(&["--redis", &redis]).await;
    let shown = started.command("Redis").expect("a line about it");
    assert_eq!(shown, format!("{redis} is unreachable: retrying (see the log)"));
    assert!(!started.text.contains("PUBLISH"), "{}", started.text);
}
