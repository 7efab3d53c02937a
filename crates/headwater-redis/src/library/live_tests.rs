//! Tests of the function in a real Redis: installing, replacing, calling. They need a
//! `redis-server`.

use std::time::Duration;

use headwater_core::Event;
use headwater_test_support::RedisServer;
use redis::{RedisError, pipe};

use super::*;
use crate::commands::Commands;
use crate::errors::{is_ended, is_missing};
use crate::keys::LOG as PREFIX;
use crate::link::Deadlines;

fn connect(server: &RedisServer) -> Commands {
    Commands::to(&server.url(), Deadlines::default())
}

async fn publish(
    commands: &mut Commands,
    mode: Mode,
    event: &Event,
    end: bool,
) -> Result<String, RedisError> {
    let mut pipeline = pipe();
    add_publish(&mut pipeline, mode, "a", event, Some("k"), end);
    let answers: Result<(String,), _> = pipeline.query_async(commands).await;
    answers.map(|(id,)| id)
}

#[tokio::test]
async fn an_older_function_is_replaced_and_a_newer_one_is_not() {
    let server = RedisServer::start();
    let mut commands = connect(&server);
    let mut check = async |installed: Option<u64>, expected: u64| {
        server.run::<()>(&["FUNCTION", "FLUSH"]);
        if let Some(version) = installed {
            let other = library_source()
                .replace("local VERSION = 1", &format!("local VERSION = {version}"));
            server.run::<()>(&["FUNCTION", "LOAD", &other]);
        }
        assert_eq!(install(&mut commands).await.unwrap(), Mode::Function);
        assert_eq!(installed_version(&mut commands).await.unwrap(), Some(expected));
    };
    check(None, VERSION).await;
    check(Some(0), VERSION).await;
    check(Some(VERSION), VERSION).await;
    check(Some(99), 99).await;
}

#[tokio::test]
async fn the_first_event_of_a_log_has_offset_one() {
    let server = RedisServer::start();
    let mut commands = connect(&server);
    let mode = install(&mut commands).await.unwrap();
    let epoch: String = server.run(&["GET", &format!("{PREFIX}:epoch")]);
    install(&mut commands).await.unwrap();
    let first = publish(&mut commands, mode, &Event::new("d"), false).await.unwrap();
    assert_eq!(first, format!("{epoch}-1"));
}

#[tokio::test]
async fn nodes_that_start_together_install_one_function() {
    let server = RedisServer::start();
    let nodes: Vec<_> = (0..8)
        .map(|_| {
            let mut commands = connect(&server);
            tokio::spawn(async move { install(&mut commands).await })
        })
        .collect();
    for node in nodes {
        assert_eq!(node.await.unwrap().unwrap(), Mode::Function);
    }
}

#[tokio::test]
async fn every_part_of_an_event_is_passed_to_the_function() {
    let server = RedisServer::start();
    let mut commands = connect(&server);
    let mode = install(&mut commands).await.unwrap();
    let event = Event::new("d").with_name("n").unwrap().with_id("i").unwrap();
    let event = event.with_retry(Duration::MAX);
    let first = publish(&mut commands, mode, &event, true).await.unwrap();
    assert_eq!(publish(&mut commands, mode, &event, true).await.unwrap(), first);
    let log = format!("{PREFIX}:log:a");
    let entries: Vec<(String, Vec<String>)> = server.run(&["XRANGE", &log, "-", "+"]);
    let [(id, fields)] = &entries[..] else { panic!("{entries:?}") };
    assert_eq!(
        (id.as_str(), &fields[4..]),
        ("1-0", &["d", "d", "n", "n", "i", "i", "r", "4294967295", "e", "1"].map(String::from)[..])
    );

    let mut pipeline = pipe();
    add_publish(&mut pipeline, mode, "a", &event, None, false);
    let ended = pipeline.exec_async(&mut commands).await.unwrap_err();
    assert!(is_ended(&ended) && !is_missing(&ended), "{ended}");
}

#[tokio::test]
async fn without_functions_the_script_is_used() {
    let server = RedisServer::start_with(&[
        "--rename-command",
        "FCALL_RO",
        "",
        "--rename-command",
        "FUNCTION",
        "",
    ]);
    let mut commands = connect(&server);
    let mode = install(&mut commands).await.unwrap();
    assert_eq!(mode, Mode::Script);
    let first = publish(&mut commands, mode, &Event::new("d"), false).await.unwrap();
    assert!(first.ends_with("-1"), "{first}");

    server.run::<()>(&["SCRIPT", "FLUSH"]);
    let event = Event::new("after a restart");
    let missing = publish(&mut commands, mode, &event, false).await.unwrap_err();
    assert!(is_missing(&missing) && !is_ended(&missing), "{missing}");
    install(&mut commands).await.unwrap();
    server.run::<()>(&["DEL", &format!("{PREFIX}:key:1:a:k")]);
    let second = publish(&mut commands, mode, &event, false).await.unwrap();
    assert!(second.ends_with(&format!("-{}", 2 + RESTART_JUMP)), "{second}");
}

#[tokio::test]
async fn a_missing_function_is_recognized() {
    let server = RedisServer::start();
    let mut commands = connect(&server);
    let missing = publish(&mut commands, Mode::Function, &Event::new("d"), false).await;
    assert!(is_missing(&missing.unwrap_err()));
}

#[tokio::test]
async fn the_script_is_used_if_functions_are_denied() {
    let server = RedisServer::start();
    server.run::<()>(&[
        "ACL",
        "SETUSER",
        "default",
        "on",
        "nopass",
        "~*",
        "&*",
        "+@all",
        "-function|load",
    ]);
    let mut commands = connect(&server);
    assert_eq!(install(&mut commands).await.unwrap(), Mode::Script);
    write_rules(&mut commands, "a off\n").await.unwrap();
    let mut commands = connect(&server);
    let mut pipeline = pipe();
    add_publish(&mut pipeline, Mode::Script, "a", &Event::new("d"), None, false);
    let answers: (Option<String>,) = pipeline.query_async(&mut commands).await.unwrap();
    assert_eq!(answers, (None,));
}
