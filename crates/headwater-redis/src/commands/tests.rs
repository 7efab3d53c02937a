//! Tests of the command connection against a scripted Redis: silent, slow, closed, demoted.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use headwater_core::ErrorKind;
use redis::{RedisResult, cmd};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use super::Commands;
use crate::connect::Connection;
use crate::errors::{publish_error, read_error};
use crate::link::Deadlines;
use crate::resp::{self, Parsed, Value};

const DEADLINES: Deadlines = Deadlines {
    silence: Duration::from_millis(250),
    command: Duration::from_millis(1500),
    replace: Duration::from_millis(50),
};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a connection does after HELLO.
#[derive(Debug, Clone, Copy)]
enum Script {
    Answers,
    /// Reads, and never answers.
    Deaf,
    /// Answers with this many bytes, one each 100 ms.
    Trickles(usize),
    /// Refuses every command.
    Replica,
    /// Closes after the first answer.
    ClosesWhenIdle,
    /// Closes instead of an answer.
    ClosesOnCommand,
}

/// Each connection follows the next script; the last one is repeated.
struct FakeRedis {
    scripts: Mutex<VecDeque<Script>>,
    /// The number of the connection, and the command's first word.
    received: Mutex<Vec<(usize, String)>>,
    opened: Mutex<usize>,
    closed: Notify,
}

impl FakeRedis {
    fn new(scripts: &[Script]) -> Arc<Self> {
        Arc::new(Self {
            scripts: Mutex::new(scripts.iter().copied().collect()),
            received: Mutex::default(),
            opened: Mutex::default(),
            closed: Notify::new(),
        })
    }

    /// Starts on a free port; returns the URL.
    async fn start(self: &Arc<Self>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let fake = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(Arc::clone(&fake).serve(Box::new(stream)));
            }
        });
        url
    }

    async fn serve(self: Arc<Self>, mut stream: Box<dyn Connection>) {
        let number = {
            let mut opened = self.opened.lock().unwrap();
            *opened += 1;
            *opened - 1
        };
        let script = {
            let mut scripts = self.scripts.lock().unwrap();
            if scripts.len() > 1 { scripts.pop_front() } else { scripts.front().copied() }
        };
        let mut input = BytesMut::new();
        while let Some(word) = next_command(&mut stream, &mut input).await {
            self.received.lock().unwrap().push((number, word.clone()));
            let answer = match script.unwrap() {
                _ if word == "HELLO" => "%0\r\n".to_owned(),
                Script::Answers | Script::ClosesWhenIdle => "+OK\r\n".to_owned(),
                Script::Deaf => continue,
                Script::Replica => {
                    "-READONLY You can't write against a read only replica.\r\n".into()
                }
                Script::ClosesOnCommand => break,
                Script::Trickles(count) => {
                    let head = format!("${count}\r\n");
                    let _ = stream.write_all(head.as_bytes()).await;
                    for _ in 0..count {
                        sleep(Duration::from_millis(100)).await;
                        let _ = stream.write_all(b"x").await;
                    }
                    "\r\n".to_owned()
                }
            };
            let _ = stream.write_all(answer.as_bytes()).await;
            if matches!(script, Some(Script::ClosesWhenIdle)) && word != "HELLO" {
                break;
            }
        }
        drop(stream);
        self.closed.notify_one();
    }

    fn connections_of(&self, word: &str) -> Vec<usize> {
        let received = self.received.lock().unwrap();
        received.iter().filter(|(_, it)| it == word).map(|(number, _)| *number).collect()
    }

    fn opened(&self) -> usize {
        *self.opened.lock().unwrap()
    }
}

async fn next_command(stream: &mut Box<dyn Connection>, input: &mut BytesMut) -> Option<String> {
    loop {
        if let Ok(Parsed::Value(Value::List(words), length)) = resp::parse(input) {
            let Value::Text(word) = words[0] else { panic!("{words:?}") };
            let word = String::from_utf8(word.to_vec()).unwrap();
            input.advance(length);
            return Some(word);
        }
        if stream.read_buf(input).await.ok()? == 0 {
            return None;
        }
    }
}

async fn send(commands: &Commands, word: &str) -> RedisResult<String> {
    timeout(PATIENCE, cmd(word).query_async(&mut commands.clone())).await.expect("an outcome")
}

async fn start(scripts: &[Script]) -> (Arc<FakeRedis>, Commands) {
    let fake = FakeRedis::new(scripts);
    let url = fake.start().await;
    (fake, Commands::to(&url, DEADLINES))
}

#[tokio::test]
async fn a_silent_connection_is_replaced_and_its_commands_are_not_repeated() {
    let (fake, commands) = start(&[Script::Deaf, Script::Answers]).await;
    let started = Instant::now();
    let error = publish_error(send(&commands, "A").await.unwrap_err());
    assert!(started.elapsed() < 4 * DEADLINES.silence, "{:?}", started.elapsed());
    assert_eq!((error.kind(), error.reason()), (ErrorKind::Unavailable, Some("timeout")));
    assert!(error.to_string().contains("may have been accepted"), "{error}");
    assert_eq!(send(&commands, "B").await.unwrap(), "OK");
    assert_eq!((fake.connections_of("A"), fake.connections_of("B")), (vec![0], vec![1]));
    assert_eq!(commands.generation(), 2);
    assert_eq!(timeout(PATIENCE, commands.replaced(1)).await.unwrap(), 2);
}

#[tokio::test]
async fn callers_that_give_up_early_do_not_keep_a_silent_connection_in_use() {
    let (fake, commands) = start(&[Script::Deaf, Script::Answers]).await;
    let patience = DEADLINES.silence / 4;
    let until_answered =
        async { while !matches!(timeout(patience, send(&commands, "A")).await, Ok(Ok(_))) {} };
    timeout(PATIENCE, until_answered).await.expect("an answer on another connection");
    assert_eq!(fake.opened(), 2);
}

#[tokio::test]
async fn a_slow_answer_that_arrives_in_pieces_is_awaited() {
    let (fake, commands) = start(&[Script::Trickles(5)]).await;
    let mut other = commands.clone();
    let waits_behind =
        tokio::spawn(async move { cmd("B").query_async::<String>(&mut other).await });
    assert_eq!(send(&commands, "A").await.unwrap(), "xxxxx");
    assert_eq!(timeout(PATIENCE, waits_behind).await.unwrap().unwrap().unwrap(), "xxxxx");
    assert_eq!(fake.opened(), 1);
}

#[tokio::test]
async fn the_wait_for_a_slow_answer_is_bounded() {
    let (_fake, commands) = start(&[Script::Trickles(1000)]).await;
    let started = Instant::now();
    let error = read_error(send(&commands, "A").await.unwrap_err());
    assert_eq!(error.reason(), Some("timeout"));
    assert!(started.elapsed() < 3 * DEADLINES.command, "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_command_after_an_idle_connection_was_closed_succeeds() {
    let (fake, commands) = start(&[Script::ClosesWhenIdle]).await;
    for _ in 0..20 {
        assert_eq!(send(&commands, "A").await.unwrap(), "OK");
        timeout(PATIENCE, fake.closed.notified()).await.unwrap();
    }
    assert_eq!(fake.connections_of("A"), (0..20).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_command_that_may_have_been_sent_is_not_repeated() {
    let (fake, commands) = start(&[Script::ClosesOnCommand, Script::Answers]).await;
    let error = publish_error(send(&commands, "A").await.unwrap_err());
    assert_eq!(error.reason(), Some("lost"));
    assert!(error.to_string().contains("may have been accepted"), "{error}");
    assert_eq!(send(&commands, "B").await.unwrap(), "OK");
    assert_eq!(fake.connections_of("A"), [0]);
}

#[tokio::test]
async fn a_replica_is_left_but_not_in_a_busy_loop() {
    let (fake, commands) = start(&[Script::Replica, Script::Replica, Script::Answers]).await;
    let error = publish_error(send(&commands, "A").await.unwrap_err());
    assert_eq!(error.reason(), Some("READONLY"));
    let until_answered = async { while send(&commands, "A").await.is_err() {} };
    timeout(PATIENCE, until_answered).await.unwrap();
    assert_eq!(fake.opened(), 3);

    let (fake, commands) = start(&[Script::Replica]).await;
    let started = Instant::now();
    while started.elapsed() < 10 * DEADLINES.replace {
        let error = send(&commands, "A").await.unwrap_err();
        assert_eq!(error.code(), Some("READONLY"), "{error}");
    }
    assert!(fake.opened() <= 11, "{} connections", fake.opened());
}

#[cfg(unix)]
#[tokio::test]
async fn after_a_failover_the_name_is_resolved_again() {
    use tokio::net::UnixListener;

    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let (old, new) = (FakeRedis::new(&[Script::Replica]), FakeRedis::new(&[Script::Answers]));
    for (name, fake) in [("old", &old), ("new", &new)] {
        let (listener, fake) = (UnixListener::bind(path(name)).unwrap(), Arc::clone(fake));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(Arc::clone(&fake).serve(Box::new(stream)));
            }
        });
    }
    // A symbolic link is the name.
    std::os::unix::fs::symlink(path("old"), path("name")).unwrap();
    let commands = Commands::to(&format!("unix://{}", path("name").display()), DEADLINES);
    assert!(send(&commands, "A").await.is_err());
    std::os::unix::fs::symlink(path("new"), path("next")).unwrap();
    std::fs::rename(path("next"), path("name")).unwrap();
    let until_answered = async { while send(&commands, "A").await.is_err() {} };
    timeout(PATIENCE, until_answered).await.unwrap();
    assert_eq!(new.opened(), 1);
}

#[tokio::test]
async fn commands_fail_at_once_while_redis_is_known_to_be_down() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let commands = Commands::to(&format!("redis://{address}"), DEADLINES);
    let error = publish_error(send(&commands, "A").await.unwrap_err());
    assert_eq!((error.kind(), error.reason()), (ErrorKind::Unavailable, Some("unreachable")));
    assert!(error.to_string().ends_with("; the event was not accepted"), "{error}");
    let started = Instant::now();
    send(&commands, "A").await.unwrap_err();
    assert!(started.elapsed() < DEADLINES.silence, "{:?}", started.elapsed());
    let listener = TcpListener::bind(address).await.unwrap();
    let fake = FakeRedis::new(&[Script::Answers]);
    let served = Arc::clone(&fake);
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        served.serve(Box::new(stream)).await;
    });
    let until_answered = async { while send(&commands, "A").await.is_err() {} };
    timeout(PATIENCE, until_answered).await.unwrap();
}

#[tokio::test]
async fn the_connection_is_closed_with_the_last_clone() {
    let (fake, commands) = start(&[Script::Answers]).await;
    let clone = commands.clone();
    drop(commands);
    assert_eq!(send(&clone, "A").await.unwrap(), "OK");
    drop(clone);
    timeout(PATIENCE, fake.closed.notified()).await.unwrap();
    sleep(2 * DEADLINES.replace).await;
    assert_eq!(fake.opened(), 1);
}

#[tokio::test]
async fn the_subscriber_can_request_another_connection() {
    let (fake, commands) = start(&[Script::Answers]).await;
    assert_eq!(send(&commands, "A").await.unwrap(), "OK");
    commands.reset("a reason of the subscriber");
    assert_eq!(timeout(PATIENCE, commands.replaced(1)).await.unwrap(), 2);
    assert_eq!(send(&commands, "A").await.unwrap(), "OK");
    assert_eq!(fake.connections_of("A"), [0, 1]);
}
