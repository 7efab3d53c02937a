//! The contract of the Redis function `headwater_publish`, in docs/redis-function.md: one suite
//! over both ways to call it, FCALL and EVAL, on a real Redis without a node.

use std::collections::BTreeMap;
use std::thread;

use headwater_test_support::{PATIENCE, RedisServer};
use redis::{Connection, FromRedisValue, PubSub, RedisResult};

pub(crate) const LIBRARY: &str = concat!(
    include_str!("../../src/library/arguments.lua"),
    include_str!("../../src/library/rules.lua"),
    include_str!("../../src/library/log.lua"),
    include_str!("../../src/library/last.lua"),
    include_str!("../../src/library/publish.lua"),
);
pub(crate) const PREFIX: &str = "headwater:{0}";

/// Runs each test over both ways.
macro_rules! over_both_ways {
    ($($test:ident,)*) => {
        mod function {
            $(#[test]
            fn $test() {
                super::$test(&mut super::Log::start(super::Way::Function));
            })*
        }

        mod script {
            $(#[test]
            fn $test() {
                super::$test(&mut super::Log::start(super::Way::Script));
            })*
        }
    };
}

mod arguments;
mod retention;

over_both_ways! {
    ids_count_through_all_channels,
    entries_have_their_fields,
    envelopes_are_exact,
    an_event_names_the_previous_one_even_if_that_is_trimmed,
    a_repeated_key_publishes_nothing,
    an_ended_channel_accepts_no_events,
    the_epoch_is_made_once_for_each_log,
    a_lost_sequence_starts_a_new_epoch,
    concurrent_publishers_get_every_number_once,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Way {
    Function,
    Script,
}

/// A log on its own Redis server.
struct Log {
    server: RedisServer,
    connection: Connection,
    way: Way,
}

type Fields = BTreeMap<String, String>;

impl Log {
    fn start(way: Way) -> Self {
        Self::start_on(RedisServer::start(), way)
    }

    fn start_on(server: RedisServer, way: Way) -> Self {
        let connection = server.connection();
        if way == Way::Function {
            server.run::<()>(&["FUNCTION", "LOAD", LIBRARY]);
        }
        Self { server, connection, way }
    }

    fn call(&mut self, words: &[&[u8]]) -> RedisResult<Option<String>> {
        call(&mut self.connection, self.way, words)
    }

    /// Publishes; returns the two parts of the position.
    #[track_caller]
    fn publish(&mut self, words: &[&str]) -> (String, u64) {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        let id = self.call(&words).unwrap().expect("a position");
        let (epoch, offset) = id.split_once('-').expect("EPOCH-OFFSET");
        (epoch.to_owned(), offset.parse().unwrap())
    }

    #[track_caller]
    fn offset(&mut self, words: &[&str]) -> u64 {
        self.publish(words).1
    }

    #[track_caller]
    fn publish_unretained(&mut self, words: &[&str]) {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        assert_eq!(self.call(&words).unwrap(), None);
    }

    #[track_caller]
    fn rejected(&mut self, words: &[&[u8]], code: &str, part: &str) {
        let error = self.call(words).expect_err("an error");
        let errors = error.clone().into_server_errors().expect("an error of Redis");
        let message = errors[0].1.details().unwrap_or_default();
        let shown: Vec<_> = words.iter().map(|word| String::from_utf8_lossy(word)).collect();
        assert_eq!(errors[0].1.code(), code, "{shown:?}: {error}");
        assert!(message.starts_with("headwater: "), "{shown:?}: {message}");
        assert!(message.contains(part), "{shown:?}: {message:?} lacks {part:?}");
    }

    fn run<T: FromRedisValue>(&self, words: &[&str]) -> T {
        self.server.run(words)
    }

    fn key(&self, name: &str) -> Option<String> {
        self.run(&["GET", &format!("{PREFIX}:{name}")])
    }

    fn set(&self, name: &str, value: &str) {
        self.run::<()>(&["SET", &format!("{PREFIX}:{name}"), value]);
    }

    fn remove(&self, name: &str) {
        self.run::<()>(&["DEL", &format!("{PREFIX}:{name}")]);
    }

    fn ttl_ms(&self, name: &str) -> i64 {
        self.run(&["PTTL", &format!("{PREFIX}:{name}")])
    }

    fn entries(&self, channel: &str) -> Vec<(String, Fields)> {
        self.run(&["XRANGE", &format!("{PREFIX}:log:{channel}"), "-", "+"])
    }

    fn offsets(&self, channel: &str) -> Vec<u64> {
        let number = |id: String| id.strip_suffix("-0").unwrap().parse().unwrap();
        self.entries(channel).into_iter().map(|(id, _)| number(id)).collect()
    }

    /// Everything in Redis.
    fn dump(&self) -> BTreeMap<String, Vec<u8>> {
        let keys: Vec<String> = self.run(&["KEYS", "*"]);
        keys.into_iter().map(|key| (key.clone(), self.run(&["DUMP", &key]))).collect()
    }
}

fn call(connection: &mut Connection, way: Way, words: &[&[u8]]) -> RedisResult<Option<String>> {
    let mut command = redis::Cmd::new();
    match way {
        Way::Function => command.arg("FCALL").arg("headwater_publish"),
        Way::Script => command.arg("EVAL").arg(LIBRARY.split_once('\n').unwrap().1),
    };
    command.arg(1).arg(PREFIX).arg(words).query(connection)
}

/// Subscribes to all Redis channels.
fn subscribe(connection: &mut Connection) -> PubSub<'_> {
    let mut messages = connection.as_pubsub();
    messages.psubscribe("*").unwrap();
    messages.set_read_timeout(Some(PATIENCE)).unwrap();
    messages
}

fn ids_count_through_all_channels(log: &mut Log) {
    let (epoch, first) = log.publish(&["a", "1"]);
    assert!(epoch.len() == 12 && !epoch.starts_with('0'), "{epoch}");
    assert!(epoch.bytes().all(|byte| b"0123456789abcdef".contains(&byte)), "{epoch}");
    assert_eq!(first, 1);
    for (channel, expected) in [("b", 2), ("a", 3), ("c", 4), ("b", 5)] {
        assert_eq!(log.publish(&[channel, "d"]), (epoch.clone(), expected));
    }
    assert_eq!(log.offsets("a"), [1, 3]);
    assert_eq!(log.offsets("b"), [2, 5]);
    assert_eq!(log.key("seq").as_deref(), Some("5"));
    assert_eq!(log.key("last:b").as_deref(), Some("5"));
}

fn entries_have_their_fields(log: &mut Log) {
    let (seconds, _): (u64, u64) = log.run(&["TIME"]);
    log.publish(&["a", "data\n\nmore"]);
    log.publish(&["a", "", "event", "n:1", "ID", "i/1", "Retry", "00700", "end", "1"]);
    let entries = log.entries("a");
    let time_ms: u64 = entries[0].1["t"].parse().unwrap();
    assert!(time_ms >= seconds * 1000 && time_ms < seconds * 1000 + 60_000, "{time_ms}");
    let fields = |fields: &[(&str, &str)]| -> Fields {
        fields.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    let time = entries[0].1["t"].as_str();
    assert_eq!(entries[0].1, fields(&[("d", "data\n\nmore"), ("p", "0"), ("t", time)]));
    let time = entries[1].1["t"].as_str();
    assert_eq!(
        entries[1].1,
        fields(&[
            ("d", ""),
            ("e", "1"),
            ("i", "i/1"),
            ("n", "n:1"),
            ("p", "1"),
            ("r", "700"),
            ("t", time)
        ])
    );
}

fn envelopes_are_exact(log: &mut Log) {
    let mut connection = log.server.connection();
    let mut messages = subscribe(&mut connection);
    let (epoch, _) = log.publish(&["a", "plain"]);
    log.publish(&["ü b", "x: y\n\nz", "retry", "500", "event", "n", "id", "i"]);
    log.publish(&["a", "", "end", "1"]);
    let time = |channel: &str, at: usize| log.entries(channel)[at].1["t"].clone();
    for (channel, expected) in [
        ("a", format!("epoch: {epoch}\noffset: 1\nprev: 0\ntime: {}\n\nplain", time("a", 0))),
        (
            "ü b",
            format!(
                "epoch: {epoch}\noffset: 2\nprev: 0\ntime: {}\nevent: n\nid: i\nretry: 500\n\n\
                 x: y\n\nz",
                time("ü b", 0)
            ),
        ),
        ("a", format!("epoch: {epoch}\noffset: 3\nprev: 1\ntime: {}\nend: 1\n\n", time("a", 1))),
    ] {
        let message = messages.get_message().unwrap();
        assert_eq!(message.get_channel_name(), format!("{PREFIX}:{channel}"));
        assert_eq!(String::from_utf8_lossy(message.get_payload_bytes()), expected);
    }
}

fn an_event_names_the_previous_one_even_if_that_is_trimmed(log: &mut Log) {
    log.set("rules", "* 1 60000 1000\n");
    for channel in ["a", "b", "a", "a"] {
        log.publish(&[channel, "d"]);
    }
    let previous = |log: &Log, channel: &str| log.entries(channel)[0].1["p"].clone();
    assert_eq!((log.offsets("a"), previous(log, "a")), (vec![4], "3".to_owned()));
    assert_eq!(previous(log, "b"), "0");
    log.remove("log:a");
    log.publish(&["a", "d"]);
    assert_eq!(previous(log, "a"), "4");
}

fn a_repeated_key_publishes_nothing(log: &mut Log) {
    let first = log.publish(&["a", "one", "key", "k"]);
    let before = log.dump();
    assert_eq!(log.publish(&["a", "other", "key", "k"]), first);
    assert_eq!(log.dump(), before);
    assert_eq!(log.offset(&["b", "one", "key", "k"]), 2, "a key belongs to its channel");
    assert_eq!(log.offset(&["a", "two", "key", "K"]), 3);

    assert_eq!(log.offset(&["a:b", "d", "key", "c"]), 4);
    assert_eq!(
        log.offset(&["a", "d", "key", "b:c"]),
        5,
        "another channel and key that join to the same text"
    );

    assert_eq!(log.offset(&["a", "last", "key", "end", "end", "1"]), 6);
    assert_eq!(
        log.offset(&["a", "last", "key", "end", "end", "1"]),
        6,
        "a repeat succeeds even after the end"
    );
    log.remove("key:1:b:k");
    assert_eq!(log.offset(&["b", "one", "key", "k"]), 7, "the idempotency window is over");
}

fn an_ended_channel_accepts_no_events(log: &mut Log) {
    log.publish(&["a", "d"]);
    assert_eq!(log.offset(&["a", "bye", "end", "1"]), 2);
    assert_eq!(log.key("last:a").as_deref(), Some("2 end"));
    let before = log.dump();
    log.rejected(&[b"a", b"d"], "ENDED", "the channel has ended");
    log.rejected(&[b"a", b"d", b"end", b"1", b"key", b"k"], "ENDED", "another name");
    log.set("rules", "* off\n");
    log.rejected(&[b"a", b"d"], "ENDED", "the channel has ended");
    log.remove("rules");
    assert_eq!(log.dump(), before);
    assert_eq!(log.offset(&["b", "d"]), 3);
    log.remove("last:a");
    // The history has the end, too.
    log.rejected(&[b"a", b"d"], "ENDED", "the channel has ended");
    log.remove("log:a");
    assert_eq!(log.offset(&["a", "again"]), 4, "once its end is forgotten");
}

fn the_epoch_is_made_once_for_each_log(log: &mut Log) {
    let (first, _) = log.publish(&["a", "d"]);
    assert_eq!(log.publish(&["b", "d"]).0, first);
    assert_eq!(log.key("epoch").as_ref(), Some(&first));
    log.run::<()>(&["FLUSHALL"]);
    let (second, offset) = log.publish(&["a", "d"]);
    assert_ne!(second, first);
    assert_eq!(offset, 1);
    for _ in 0..100 {
        log.run::<()>(&["FLUSHALL"]);
        let (epoch, _) = log.publish(&["a", "d"]);
        assert!(epoch.len() == 12 && !epoch.starts_with('0'), "{epoch}");
    }
    log.run::<()>(&["FLUSHALL"]);
    log.set("epoch", "abc");
    log.set("seq", "41");
    let (epoch, offset) = log.publish(&["a", "d"]);
    assert_eq!(epoch, if log.way == Way::Script { "abc".to_owned() } else { epoch.clone() });
    assert!(offset > 41, "{offset}: a log of which the writer is not known jumps");
}

fn a_lost_sequence_starts_a_new_epoch(log: &mut Log) {
    let (first, _) = log.publish(&["a", "d"]);
    log.publish(&["b", "d"]);
    log.remove("seq");
    let (second, offset) = log.publish(&["a", "d"]);
    assert_ne!(second, first);
    assert!(offset > 1_000_000_000, "{offset} is above all offsets in the logs");
    assert_eq!(log.publish(&["b", "d"]), (second.clone(), offset + 1));

    log.remove("epoch");
    let (third, next) = log.publish(&["a", "d"]);
    assert_ne!(third, second);
    assert_eq!(next, offset + 2);

    log.remove("seq");
    log.remove("epoch");
    let (fourth, offset) = log.publish(&["a", "d"]);
    assert_ne!(fourth, third);
    assert!(offset > next + 1, "{offset} is above all offsets in the histories");
    assert_eq!(log.entries("a").len(), 4, "no history is deleted");

    for malformed in ["", "x", "-1", "1.5", "9007199254740991", "99999999999999999"] {
        let (before, _) = log.publish(&["a", "d"]);
        log.set("seq", malformed);
        let (after, next) = log.publish(&["a", "d"]);
        assert!(after != before && next > offset, "{malformed:?} {next}");
    }
    for malformed in ["", "x", "0123", "ABC", "1234567890abc"] {
        log.set("epoch", malformed);
        let (epoch, _) = log.publish(&["a", "d"]);
        assert!(epoch != malformed && epoch.len() == 12, "{malformed:?} {epoch}");
    }
}

fn concurrent_publishers_get_every_number_once(log: &mut Log) {
    let mut offsets: Vec<u64> = thread::scope(|scope| {
        let publishers: Vec<_> = (0..10)
            .map(|publisher| {
                let (server, way) = (&log.server, log.way);
                scope.spawn(move || {
                    let mut connection = server.connection();
                    let channel = format!("c{}", publisher % 3);
                    let publish = |_| {
                        let id = call(&mut connection, way, &[channel.as_bytes(), b"d"]);
                        let id = id.unwrap().unwrap();
                        id.split_once('-').unwrap().1.parse::<u64>().unwrap()
                    };
                    (0..100).map(publish).collect::<Vec<_>>()
                })
            })
            .collect();
        publishers.into_iter().flat_map(|publisher| publisher.join().unwrap()).collect()
    });
    offsets.sort_unstable();
    assert!(offsets.into_iter().eq(1..=1000));
    for channel in ["c0", "c1", "c2"] {
        let mut previous = 0;
        for (id, fields) in log.entries(channel) {
            assert_eq!(fields["p"], previous.to_string(), "{channel} {id}");
            previous = id.strip_suffix("-0").unwrap().parse().unwrap();
        }
    }
}

#[test]
fn no_offset_is_repeated_after_a_restart() {
    let durable = ["--save", "", "--appendonly", "yes", "--appendfsync", "always"];
    let mut log = Log::start_on(RedisServer::start_with(&durable), Way::Function);
    let (epoch, first) = log.publish(&["a", "d"]);
    log.server.kill();
    log.server.restart();
    log.connection = log.server.connection();
    // Even if Redis had lost events that subscribers have seen, these offsets would be unused.
    let (same, next) = log.publish(&["a", "d"]);
    assert_eq!(same, epoch);
    assert!(next > first + (1 << 32), "{next}");
    assert_eq!(log.publish(&["a", "d"]), (epoch, next + 1));
    assert_eq!(log.entries("a")[1].1["p"], "1");
}

#[test]
fn the_version_can_be_queried_without_a_key() {
    let log = Log::start(Way::Function);
    assert_eq!(log.run::<u64>(&["FCALL_RO", "headwater_version", "0"]), 3);
    assert_eq!(log.run::<u64>(&["FCALL_RO", "headwater_version", "1", PREFIX]), 3);
}

#[test]
fn the_documented_permissions_are_sufficient() {
    let mut log = Log::start(Way::Function);
    let rules = ACL.split_whitespace().collect::<Vec<_>>();
    log.run::<()>(&[&["ACL", "SETUSER", "publisher", "on", "nopass"], &rules[..]].concat());
    redis::cmd("AUTH").arg("publisher").arg("").exec(&mut log.connection).unwrap();
    assert_eq!(log.offset(&["a", "d", "key", "k", "end", "1"]), 1);
    log.set("rules", "* off");
    log.publish_unretained(&["news", "d", "event", "n"]);
    log.publish_unretained(&["news", "d"]);
    let denied = log.call(&[b"other", b"d"]).unwrap_err();
    assert!(denied.to_string().contains("may not call PUBLISH on other"), "{denied}");
}

/// As in docs/redis-function.md.
const ACL: &str = "resetkeys ~headwater:{0}* resetchannels &headwater:{0}:* &news -@all +fcall \
                   +fcall_ro +get +mget +set +del +time +xadd +xlen +xrange +xtrim +pexpire \
                   +publish +info";

#[test]
fn a_call_that_is_denied_changes_nothing() {
    let mut log = Log::start(Way::Function);
    log.publish(&["a", "d"]);
    let before = log.dump();
    let commands = ["set", "xadd", "xlen", "xrange", "xtrim", "pexpire", "publish"];
    let keys = ["seq", "log:a", "last:a", "size:a", "key:1:a:k"];
    let without_command = commands.map(|it| ACL.replace(&format!(" +{it}"), ""));
    // Write permission for all keys but one.
    let without_key = keys.map(|denied| {
        let all = ["rules", "epoch", "writer", "jumps", "horizon"];
        let names = all.iter().chain(&keys).filter(|name| **name != denied);
        let patterns = names.map(|name| format!("~{PREFIX}:{name}")).collect::<Vec<_>>().join(" ");
        ACL.replace("~headwater:{0}*", &format!("~{PREFIX} %R~{PREFIX}:{denied} {patterns}"))
    });
    let without_channel = [ACL.replace(" &headwater:{0}:*", "")];
    for rules in without_command.iter().chain(&without_key).chain(&without_channel) {
        let rules = rules.split_whitespace().collect::<Vec<_>>();
        log.run::<()>(&[&["ACL", "SETUSER", "poor", "reset", "on", "nopass"], &rules[..]].concat());
        let mut connection = log.server.connection();
        redis::cmd("AUTH").arg("poor").arg("").exec(&mut connection).unwrap();
        let error = call(&mut connection, log.way, &[b"a", b"x", b"key", b"k"]).unwrap_err();
        assert_eq!(error.code(), Some("NOPERM"), "{rules:?}: {error}");
        assert_eq!(log.dump(), before, "{rules:?}");
    }
    assert_eq!(log.offset(&["a", "d", "key", "k"]), 2);
}
