//! Tests of the function in a real Redis: installing, replacing, calling. They need a
//! `redis-server`.

use std::time::Duration;

use headwater_core::publish::IdempotencyKey;
use headwater_core::{Channel, Event, Publish};
use headwater_test_support::RedisServer;
use redis::aio::ConnectionManager;
use redis::pipe;

use super::*;
use crate::errors::{is_ended, is_missing};
use crate::keys::LOG as PREFIX;

async fn connect(server: &RedisServer) -> ConnectionManager {
    let client = redis::Client::open(server.url()).unwrap();
    ConnectionManager::new(client).await.unwrap()
}

fn publish_of(event: &Event) -> Publish {
    Publish::to(Channel::new("a").unwrap(), event.clone())
}

async fn publish(
    commands: &mut ConnectionManager,
    mode: Mode,
    event: &Event,
    end: bool,
) -> RedisResult<String> {
    let key = IdempotencyKey::new("k").unwrap();
    let publish = publish_of(event).with_end(end).with_key(key);
    let mut pipeline = pipe();
    add_publish(&mut pipeline, mode, &publish, true);
    let answers: RedisResult<(String,)> = pipeline.query_async(commands).await;
    answers.map(|(id,)| id)
}

#[tokio::test]
async fn an_older_function_is_replaced_and_a_newer_one_is_not() {
    let server = RedisServer::start();
    let mut commands = connect(&server).await;
    let mut check = async |installed: Option<u64>, expected: u64| {
        server.run::<()>(&["FUNCTION", "FLUSH"]);
        if let Some(version) = installed {
            let other = SOURCE.replace(
                &format!("local VERSION = {VERSION}"),
                &format!("local VERSION = {version}"),
            );
            server.run::<()>(&["FUNCTION", "LOAD", &other]);
        }
        assert_eq!(install(&mut commands, None).await.unwrap(), Mode::Function);
        assert_eq!(installed_version(&mut commands).await.unwrap(), Some(expected));
    };
    check(None, VERSION).await;
    check(Some(1), VERSION).await;
    check(Some(VERSION), VERSION).await;
    check(Some(99), 99).await;
}

#[tokio::test]
async fn the_first_event_of_a_log_has_offset_one() {
    let server = RedisServer::start();
    let mut commands = connect(&server).await;
    let mode = install(&mut commands, None).await.unwrap();
    let epoch: String = server.run(&["GET", &format!("{PREFIX}:epoch")]);
    install(&mut commands, None).await.unwrap();
    let first = publish(&mut commands, mode, &Event::new("d"), false).await.unwrap();
    assert_eq!(first, format!("{epoch}-1"));
}

#[tokio::test]
async fn nodes_that_start_together_install_one_function() {
    let server = RedisServer::start();
    let nodes: Vec<_> = (0..8)
        .map(|_| {
            let client = redis::Client::open(server.url()).unwrap();
            tokio::spawn(async move {
                install(&mut ConnectionManager::new(client).await.unwrap(), None).await
            })
        })
        .collect();
    for node in nodes {
        assert_eq!(node.await.unwrap().unwrap(), Mode::Function);
    }
}

#[tokio::test]
async fn every_part_of_an_event_is_passed_to_the_function() {
    let server = RedisServer::start();
    let mut commands = connect(&server).await;
    let mode = install(&mut commands, None).await.unwrap();
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
    add_publish(&mut pipeline, mode, &publish_of(&event), true);
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
    let mut commands = connect(&server).await;
    let mode = install(&mut commands, None).await.unwrap();
    assert_eq!(mode, Mode::Script);
    let first = publish(&mut commands, mode, &Event::new("d"), false).await.unwrap();
    assert!(first.ends_with("-1"), "{first}");

    server.run::<()>(&["SCRIPT", "FLUSH"]);
    let event = Event::new("after a restart");
    let missing = publish(&mut commands, mode, &event, false).await.unwrap_err();
    assert!(is_missing(&missing) && !is_ended(&missing), "{missing}");
    install(&mut commands, None).await.unwrap();
    server.run::<()>(&["DEL", &format!("{PREFIX}:key:1:a:k")]);
    let second = publish(&mut commands, mode, &event, false).await.unwrap();
    assert!(second.ends_with("-2"), "the same server wrote last: {second}");
}

#[tokio::test]
async fn a_missing_function_is_recognized() {
    let server = RedisServer::start();
    let mut commands = connect(&server).await;
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
    let mut commands = connect(&server).await;
    assert_eq!(install(&mut commands, None).await.unwrap(), Mode::Script);
    write_rules(&mut commands, "a off\n").await.unwrap();
    let client = redis::Client::open(server.url()).unwrap();
    let mut commands = ConnectionManager::new(client).await.unwrap();
    let mut pipeline = pipe();
    add_publish(&mut pipeline, Mode::Script, &publish_of(&Event::new("d")), true);
    let answers: (Option<String>,) = pipeline.query_async(&mut commands).await.unwrap();
    assert_eq!(answers, (None,));
}
