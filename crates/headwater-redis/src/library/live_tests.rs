//! Tests of the function in a real Redis: installing, replacing, calling. They need a
//! `redis-server`.

use std::time::Duration;

use headwater_core::publish::IdempotencyKey;
use headwater_core::{Channel, Event, Publish};
use headwater_test_support::{RedisServer, RedisVersion};
use redis::{Value, pipe};

use super::agreement_tests::{RULES, call_with, check_answer, retention_of, value_of};
use super::*;
use crate::commands::Commands;
use crate::errors::{is_ended, is_missing};
use crate::keys::LOG as PREFIX;
use crate::link::Deadlines;

fn connect(server: &RedisServer) -> Commands {
    Commands::to(&server.url(), Deadlines::default())
}

fn publish_of(event: &Event) -> Publish {
    Publish::to(Channel::new("a").unwrap(), event.clone())
}

async fn publish(
    commands: &mut Commands,
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
    let mut commands = connect(&server);
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
    let mut commands = connect(&server);
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
            let mut commands = connect(&server);
            tokio::spawn(async move { install(&mut commands, None).await })
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
        ("1-0", &["d", "d", "n", "n", "i", "i", "r", "300000", "e", "1"].map(String::from)[..])
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
    let mut commands = connect(&server);
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
    assert_eq!(install(&mut commands, None).await.unwrap(), Mode::Script);
    write_rules(&mut commands, "a off\n").await.unwrap();
    let mut commands = connect(&server);
    let mut pipeline = pipe();
    add_publish(&mut pipeline, Mode::Script, &publish_of(&Event::new("d")), true);
    let answers: (Option<String>,) = pipeline.query_async(&mut commands).await.unwrap();
    assert_eq!(answers, (None,));
}

#[test]
fn every_version_agrees_with_the_table() {
    for version in RedisVersion::ALL {
        let server = version.start(&["--save", ""]);
        let mut connection = server.connection();
        let body = SOURCE.split_once('\n').unwrap().1;
        let script: String = server.run(&["SCRIPT", "LOAD", body]);
        let mut publish = |words: &[&[u8]]| -> RedisResult<Option<String>> {
            let mut command = cmd("EVALSHA");
            command.arg(&script).arg(1).arg(PREFIX).arg(words).query(&mut connection)
        };
        for line in RULES.lines() {
            let case: serde_json::Value = serde_json::from_str(line).unwrap();
            if case["rule"] == "retention" {
                let (rules, channel) = retention_of(&case);
                server.run::<()>(&["SET", &format!("{PREFIX}:rules"), &rules]);
                let position = publish(&[channel.as_str().as_bytes(), b"d"]).unwrap();
                assert_eq!(position.is_none(), case["keeps"] == "off", "{version:?}: {case}");
                continue;
            }
            let value = value_of(&case);
            let answer = publish(&call_with(case["rule"].as_str().unwrap(), &value));
            let answer = answer.map(drop).map_err(|error| error.to_string());
            check_answer(&case, &answer);
        }
    }
}

#[tokio::test]
async fn the_probe_fails_as_a_publish_does() {
    let server = RedisServer::start_with(&["--save", "3600 1"]);
    let mut commands = connect(&server);
    install(&mut commands, None).await.unwrap();
    PUBLISH.load_async(&mut commands).await.unwrap();
    let set = |name: &str, value: &str| server.run::<()>(&["CONFIG", "SET", name, value]);
    let mut number = 0;
    let mut check = async |expected: Option<&str>| {
        for mode in [Mode::Function, Mode::Script] {
            number += 1;
            let publish = publish_of(&Event::new("d"));
            let mut pipeline = pipe();
            add_publish(&mut pipeline, mode, &publish, true);
            let published: RedisResult<(Value,)> = pipeline.query_async(&mut commands).await;
            let probed = probe(&mut commands, mode, None).await;
            for error in [published.err(), probed.err()] {
                let code = error.as_ref().and_then(|error| {
                    let errors = error.clone().into_server_errors()?;
                    Some(errors[0].1.code().to_owned())
                });
                assert_eq!(code.as_deref(), expected, "{mode:?}: {error:?}");
            }
        }
    };
    check(None).await;
    set("maxmemory", "1");
    check(Some("OOM")).await;
    set("maxmemory", "0");
    set("min-replicas-to-write", "1");
    check(Some("NOREPLICAS")).await;
    set("min-replicas-to-write", "0");
    server.run::<()>(&["REPLICAOF", "127.0.0.1", "1"]);
    check(Some("READONLY")).await;
    set("replica-read-only", "no");
    check(Some("READONLY")).await;
    server.run::<()>(&["REPLICAOF", "NO", "ONE"]);
    server.run::<()>(&["ACL", "SETUSER", "default", "resetkeys", "%R~*"]);
    check(Some("NOPERM")).await;
    server.run::<()>(&["ACL", "SETUSER", "default", "resetkeys", "~*"]);
    check(None).await;
    std::fs::remove_dir_all(server.directory()).unwrap();
    server.run::<()>(&["BGSAVE"]);
    headwater_test_support::wait_for("a failed BGSAVE", || {
        server.run::<String>(&["INFO", "persistence"]).contains("rdb_last_bgsave_status:err")
    });
    check(Some("MISCONF")).await;
    set("stop-writes-on-bgsave-error", "no");
    check(None).await;
}

fn heard(epoch: Epoch, offset: u64) -> Heard {
    Heard { epoch, offset, ended: Vec::new(), accepted: Vec::new() }
}

/// As after a restart that lost what the node has heard of.
#[tokio::test]
async fn a_log_that_lacks_what_was_heard_gets_a_new_epoch() {
    let server = RedisServer::start();
    let mut commands = connect(&server);
    let mode = install(&mut commands, None).await.unwrap();
    let epoch =
        || -> Epoch { server.run::<String>(&["GET", &format!("{PREFIX}:epoch")]).parse().unwrap() };
    let first = publish(&mut commands, mode, &Event::new("d"), false).await.unwrap();
    let (other, foreign) = (Epoch::from_bits(7).unwrap(), Epoch::from_bits(8).unwrap());
    let ago = |age: Duration| Instant::now().checked_sub(age).unwrap();
    let (now, long_ago) = (Instant::now(), ago(Duration::from_secs(600)));
    let accepted = |epoch, offset, at| Accepted { epoch, offset, at };
    for heard in [
        None,
        Some(heard(epoch(), 0)),
        Some(heard(epoch(), 1)),
        Some(heard(other, 99)),
        Some(Heard { ended: vec![foreign], ..heard(other, 99) }),
        Some(Heard { accepted: vec![accepted(epoch(), 1, Some(now))], ..heard(epoch(), 1) }),
        // Accepted before this epoch began, or by this server.
        Some(Heard { accepted: vec![accepted(other, 9, Some(long_ago))], ..heard(epoch(), 1) }),
        Some(Heard { accepted: vec![accepted(other, 9, None)], ..heard(epoch(), 1) }),
    ] {
        let heard = heard.as_ref();
        install(&mut commands, heard).await.unwrap();
        assert_eq!(probe(&mut commands, mode, heard).await.unwrap(), Some(epoch()));
        begin(&mut commands, heard).await.unwrap();
        assert_eq!(format!("{}-1", epoch()), first, "{heard:?}");
    }
    let mut last = epoch();
    let mut check_new = |epoch: Epoch| {
        assert_ne!(epoch, last);
        last = epoch;
    };
    install(&mut commands, Some(&heard(epoch(), 2))).await.unwrap();
    check_new(epoch());
    for mode in [mode, Mode::Script] {
        probe(&mut commands, mode, Some(&heard(epoch(), 2))).await.unwrap();
        check_new(epoch());
        // An older copy, of an epoch that has ended.
        let ended = vec![foreign, epoch()];
        let copy = Heard { ended, ..heard(other, 1) };
        probe(&mut commands, mode, Some(&copy)).await.unwrap();
        check_new(epoch());
        // The node has not received its own event.
        for heard in [heard(epoch(), 0), heard(other, 99)] {
            let own = Heard { accepted: vec![accepted(epoch(), 2, None)], ..heard };
            probe(&mut commands, mode, Some(&own)).await.unwrap();
            check_new(epoch());
        }
        // Another primary accepted an event after this epoch began.
        for before in [heard(epoch(), 0), heard(other, 99)] {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let recently = Some(ago(Duration::from_millis(5)));
            let late = vec![accepted(foreign, 1, Some(long_ago)), accepted(other, 0, recently)];
            let late = Heard { accepted: late, ..before };
            probe(&mut commands, mode, Some(&late)).await.unwrap();
            let new = epoch();
            check_new(new);
            tokio::time::sleep(Duration::from_millis(20)).await;
            begin(&mut commands, Some(&late)).await.unwrap();
            assert_eq!(epoch(), new, "the new epoch began after that event");
        }
    }
    // Many restarts are noted, so that older offsets are not known. Ephemeral events have none, and
    // what was accepted long ago was compared before.
    let jumps: Vec<String> = (11..=42).map(|number| number.to_string()).collect();
    server.run::<()>(&["SET", &format!("{PREFIX}:jumps"), &jumps.join(" ")]);
    let last: u64 = server.run(&["GET", &format!("{PREFIX}:seq")]);
    let before = epoch();
    for offset in [0, 1] {
        let all = Heard { accepted: vec![accepted(before, offset, None)], ..heard(before, last) };
        probe(&mut commands, mode, Some(&all)).await.unwrap();
        assert_eq!(epoch(), before, "accepted {offset}");
    }
    let unheard = Heard { accepted: vec![accepted(before, 1, None)], ..heard(before, 0) };
    probe(&mut commands, mode, Some(&unheard)).await.unwrap();
    assert_ne!(epoch(), before);
}
