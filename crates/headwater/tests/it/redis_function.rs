//! The contract of the Redis function `headwater_publish`, in docs/redis-function.md: one suite over both ways to call
//! it, FCALL and EVAL, on a real Redis and without any Headwater.

use std::collections::BTreeMap;
use std::thread;

use headwater_test_support::{PATIENCE, RedisServer};
use redis::{Connection, FromRedisValue, PubSub, RedisResult};

const LIBRARY: &str = include_str!("../../src/broker/redis/publish.lua");
const PREFIX: &str = "headwater:{0}";

/// Runs a test over both ways.
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

over_both_ways! {
    ids_count_through_all_channels,
    entries_have_their_fields,
    envelopes_are_exact,
    an_event_names_the_one_before_it_also_when_that_is_trimmed,
    the_number_of_events_is_bounded,
    the_bytes_of_data_are_bounded,
    old_events_go,
    what_may_be_forgotten_is_told,
    one_call_trims_a_bounded_number,
    one_call_trims_a_bounded_number_of_bytes,
    what_is_kept_has_a_time_to_live,
    a_repeated_key_publishes_nothing,
    an_ended_channel_takes_no_more,
    with_retention_off_only_pubsub_is_left,
    the_first_rule_that_matches_counts,
    broken_rules_are_told,
    the_epoch_is_made_once_for_each_log,
    a_lost_sequence_begins_a_new_epoch,
    concurrent_publishers_get_every_number_once,
}

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Function,
    Script,
}

/// A log on a Redis of its own.
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

    /// Publishes, and takes the position apart.
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
    fn nothing_kept(&mut self, words: &[&str]) {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        assert_eq!(self.call(&words).unwrap(), None);
    }

    #[track_caller]
    fn refused(&mut self, words: &[&[u8]], code: &str, part: &str) {
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

    fn lives_ms(&self, name: &str) -> i64 {
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

/// Listens to all Redis channels.
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
    log.publish(&["a", "", "event", "n:1", "ID", "i/1", "Retry", "007", "end", "1"]);
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
            ("r", "7"),
            ("t", time)
        ])
    );
}

fn envelopes_are_exact(log: &mut Log) {
    let mut connection = log.server.connection();
    let mut messages = subscribe(&mut connection);
    let (epoch, _) = log.publish(&["a", "plain"]);
    log.publish(&["ü b", "x: y\n\nz", "retry", "5", "event", "n", "id", "i"]);
    log.publish(&["a", "", "end", "1"]);
    let time = |channel: &str, at: usize| log.entries(channel)[at].1["t"].clone();
    for (channel, expected) in [
        ("a", format!("epoch: {epoch}\noffset: 1\nprev: 0\ntime: {}\n\nplain", time("a", 0))),
        (
            "ü b",
            format!(
                "epoch: {epoch}\noffset: 2\nprev: 0\ntime: {}\nevent: n\nid: i\nretry: 5\n\nx: y\n\nz",
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

fn an_event_names_the_one_before_it_also_when_that_is_trimmed(log: &mut Log) {
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

fn the_number_of_events_is_bounded(log: &mut Log) {
    log.set("rules", "small 3 60000 1000\n");
    for _ in 0..10 {
        log.publish(&["small", "d"]);
    }
    assert_eq!(log.offsets("small"), [8, 9, 10]);
    for _ in 0..1005 {
        log.publish(&["usual", "d"]);
    }
    let offsets = log.offsets("usual");
    assert_eq!((offsets.len(), offsets[0]), (1000, 16));
}

fn the_bytes_of_data_are_bounded(log: &mut Log) {
    log.set("rules", "* 1000 60000 10\n");
    for data in ["1234", "5678", "90"] {
        log.publish(&["a", data]);
    }
    assert_eq!(log.offsets("a"), [1, 2, 3]);
    log.publish(&["a", "x"]);
    assert_eq!(log.offsets("a"), [2, 3, 4]);
    log.publish(&["a", "larger than all that is allowed"]);
    assert_eq!(log.offsets("a"), [5], "the newest stays");
    log.publish(&["a", "1234567890"]);
    assert_eq!(log.offsets("a"), [6]);
    log.publish(&["a", ""]);
    assert_eq!(log.offsets("a"), [6, 7]);
    // Should the counter be wrong, the next event sets it right.
    log.set("size:a", "1000000 0");
    log.publish(&["a", "12345"]);
    assert_eq!(log.offsets("a"), [8]);
    log.publish(&["a", "67890"]);
    assert_eq!(log.offsets("a"), [8, 9]);
}

/// The last offset of a channel is known for a day longer than its history.
fn what_may_be_forgotten_is_told(log: &mut Log) {
    const HOUR_MS: u64 = 3_600_000;
    log.publish(&["a", "d"]);
    let now: u64 = log.entries("a")[0].1["t"].parse().unwrap();
    let expected = format!("{now} 0 {now} 0");
    assert_eq!(log.key("horizon"), Some(expected.clone()), "noted with the first event");
    log.publish(&["b", "d"]);
    let previous = |log: &Log, channel: &str| log.entries(channel).last().unwrap().1["p"].clone();
    assert_eq!(previous(log, "b"), "0", "all is known");
    assert_eq!(log.key("horizon"), Some(expected), "and not again within half a day");
    for (hours, noted_anew, within_a_day) in
        [(13, true, true), (25, true, false), (11, false, true)]
    {
        let then = now - hours * HOUR_MS;
        log.set("horizon", &format!("{} 1 {then} 2", then - 13 * HOUR_MS / 2));
        log.remove("last:a");
        let offset = log.offset(&["a", "d"]);
        // The older note is from 6.5 hours before.
        let expected = if within_a_day { 1 } else { offset - 1 };
        assert_eq!(previous(log, "a"), expected.to_string(), "{hours} hours ago");
        let horizon = log.key("horizon").unwrap();
        assert_eq!(horizon.starts_with(&format!("{then} 2 ")), noted_anew, "{hours}: {horizon}");
    }
    log.remove("epoch");
    log.publish(&["a", "d"]);
    assert!(!log.key("horizon").unwrap().contains(" 2"), "a new epoch begins anew");
}

fn old_events_go(log: &mut Log) {
    log.publish(&["b", "d"]);
    let now = log.entries("b")[0].1["t"].clone();
    let ages_ago = (now.parse::<u64>().unwrap() - 700_000).to_string();
    let key = format!("{PREFIX}:log:a");
    for (id, time) in [("0-1", &ages_ago), ("0-2", &ages_ago), ("1-0", &now)] {
        log.run::<()>(&["XADD", &key, id, "t", time, "p", "0", "d", "d"]);
    }
    log.set("size:a", &format!("3 {ages_ago}"));
    log.publish(&["a", "d"]);
    assert_eq!(log.offsets("a"), [1, 2]);
    assert_eq!(log.key("size:a"), Some(format!("2 {now}")));
}

fn one_call_trims_a_bounded_number(log: &mut Log) {
    for _ in 0..200 {
        log.publish(&["a", "d"]);
    }
    log.set("rules", "* 10 60000 1000\n");
    for expected in [137, 74, 11, 10, 10] {
        log.publish(&["a", "d"]);
        assert_eq!(log.offsets("a").len(), expected);
    }
}

fn one_call_trims_a_bounded_number_of_bytes(log: &mut Log) {
    log.set("rules", "* 1000 60000 1000000000\n");
    let mebibyte = "x".repeat(1 << 20);
    for _ in 0..20 {
        log.publish(&["a", &mebibyte]);
    }
    log.set("rules", "* 1 60000 1000\n");
    for expected in [13, 6, 1] {
        log.publish(&["a", "d"]);
        assert_eq!(log.offsets("a").len(), expected);
    }
}

fn what_is_kept_has_a_time_to_live(log: &mut Log) {
    log.set("rules", "b 10 5000 1000\n");
    log.publish(&["a", "d"]);
    log.publish(&["b", "d", "key", "k"]);
    let day = 86_400_000;
    for (name, expected) in [
        ("log:a", 600_000),
        ("size:a", 600_000),
        ("last:a", 600_000 + day),
        ("log:b", 5_000),
        ("size:b", 5_000),
        ("last:b", 5_000 + day),
        ("key:1:b:k", 600_000),
    ] {
        let lives = log.lives_ms(name);
        assert!(lives <= expected && lives > expected - 5_000, "{name}: {lives}");
    }
    assert_eq!((log.lives_ms("seq"), log.lives_ms("epoch")), (-1, -1));
}

fn a_repeated_key_publishes_nothing(log: &mut Log) {
    let first = log.publish(&["a", "one", "key", "k"]);
    let before = log.dump();
    assert_eq!(log.publish(&["a", "other", "key", "k"]), first);
    assert_eq!(log.dump(), before);
    assert_eq!(log.offset(&["b", "one", "key", "k"]), 2, "a key belongs to its channel");
    assert_eq!(log.offset(&["a", "two", "key", "K"]), 3);

    assert_eq!(log.offset(&["a:b", "d", "key", "c"]), 4);
    assert_eq!(log.offset(&["a", "d", "key", "b:c"]), 5, "another channel and key, joined alike");

    assert_eq!(log.offset(&["a", "last", "key", "end", "end", "1"]), 6);
    assert_eq!(log.offset(&["a", "last", "key", "end", "end", "1"]), 6, "also after the end");
    log.remove("key:1:b:k");
    assert_eq!(log.offset(&["b", "one", "key", "k"]), 7, "the window is over");
}

fn an_ended_channel_takes_no_more(log: &mut Log) {
    log.publish(&["a", "d"]);
    assert_eq!(log.offset(&["a", "bye", "end", "1"]), 2);
    assert_eq!(log.key("last:a").as_deref(), Some("2 end"));
    let before = log.dump();
    log.refused(&[b"a", b"d"], "ENDED", "the channel has ended");
    log.refused(&[b"a", b"d", b"end", b"1", b"key", b"k"], "ENDED", "another name");
    log.set("rules", "* off\n");
    log.refused(&[b"a", b"d"], "ENDED", "the channel has ended");
    log.remove("rules");
    assert_eq!(log.dump(), before);
    assert_eq!(log.offset(&["b", "d"]), 3);
    log.remove("last:a");
    assert_eq!(log.offset(&["a", "again"]), 4, "once its end is forgotten");
}

fn with_retention_off_only_pubsub_is_left(log: &mut Log) {
    log.set("rules", "* off\n");
    let before = log.dump();
    let mut connection = log.server.connection();
    let mut messages = subscribe(&mut connection);
    log.nothing_kept(&["a", "event: no\n"]);
    log.nothing_kept(&["a", "x", "event", "n"]);
    log.nothing_kept(&["a", "y", "id", "i", "retry", "0"]);
    assert_eq!(log.dump(), before);
    log.nothing_kept(&["a", "z", "key", "k"]);
    log.nothing_kept(&["a", "not again", "key", "k"]);
    log.nothing_kept(&["a", "last"]);
    for (channel, expected) in [
        ("a", "event: no\n"),
        ("headwater:{0}:a", "event: n\n\nx"),
        ("headwater:{0}:a", "id: i\nretry: 0\n\ny"),
        ("a", "z"),
        ("a", "last"),
    ] {
        let message = messages.get_message().unwrap();
        assert_eq!(message.get_channel_name(), channel);
        assert_eq!(message.get_payload::<String>().unwrap(), expected);
    }
    log.refused(&[b"a", b"d", b"end", b"1"], "ERR", "retention is off");
}

fn the_first_rule_that_matches_counts(log: &mut Log) {
    log.set("rules", "chat:7 2 60000 1000\nchat:* off\nwith space 1 60000 1000\n\n* 3 60000 1000");
    for _ in 0..5 {
        for channel in ["chat:7", "with space", "chat", "with space 1"] {
            log.publish(&[channel, "d"]);
        }
        log.nothing_kept(&["chat:", "d"]);
        log.nothing_kept(&["chat:77", "d"]);
    }
    for (channel, expected) in [("chat:7", 2), ("with space", 1), ("chat", 3), ("with space 1", 3)]
    {
        assert_eq!(log.offsets(channel).len(), expected, "{channel}");
    }
    log.set("rules", "chat 1 60000 1000");
    log.publish(&["chat", "d"]);
    assert_eq!(log.offsets("chat").len(), 1, "new rules count at once");
    for _ in 0..5 {
        log.publish(&["chat:", "d"]);
    }
    assert_eq!(log.offsets("chat:").len(), 5, "what no rule matches is kept as usual");
}

fn broken_rules_are_told(log: &mut Log) {
    for broken in ["* 1 2", "*", "* on", "* 0 1 1", "* 1 1 9007199254740993", "* -1 1 1", " off"] {
        log.set("rules", &format!("a 1 1 1\n{broken}\n"));
        let before = log.dump();
        log.refused(&[b"a", b"d"], "ERR", "line 2 of the retention rules is broken");
        assert_eq!(log.dump(), before, "{broken}");
    }
    log.set("rules", &"x".repeat(65_537));
    log.refused(&[b"a", b"d"], "ERR", "at most 65536 are allowed");
    log.set("rules", "a 1 60000 1\n");
    assert_eq!(log.offset(&["a", "d"]), 1);
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
    if log.way == Way::Script {
        assert_eq!(log.publish(&["a", "d"]), ("abc".to_owned(), 42), "a node may have made it");
    }
}

fn a_lost_sequence_begins_a_new_epoch(log: &mut Log) {
    let (first, _) = log.publish(&["a", "d"]);
    log.publish(&["b", "d"]);
    log.remove("seq");
    let (second, offset) = log.publish(&["a", "d"]);
    assert_ne!(second, first);
    assert!(offset > 1_000_000_000, "{offset} is above what the logs have");
    assert_eq!(log.publish(&["b", "d"]), (second.clone(), offset + 1));

    log.remove("epoch");
    let (third, next) = log.publish(&["a", "d"]);
    assert_ne!(third, second);
    assert_eq!(next, offset + 2);

    log.remove("seq");
    log.remove("epoch");
    assert_eq!(log.offset(&["a", "d"]), 1);
    assert_eq!(log.offsets("a"), [1], "the log of the lost sequence is gone");
    assert_eq!(log.entries("a")[0].1["p"], "0");

    log.set("seq", "9007199254740990");
    log.refused(&[b"a", b"d"], "ERR", "the sequence is at its end");
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
fn after_a_restart_no_number_comes_twice() {
    let durable = ["--save", "", "--appendonly", "yes", "--appendfsync", "always"];
    let mut log = Log::start_on(RedisServer::start_with(&durable), Way::Function);
    let (epoch, first) = log.publish(&["a", "d"]);
    log.server.kill();
    log.server.restart();
    log.connection = log.server.connection();
    // Had the log been older than what listeners saw, these numbers would be free all the same.
    assert_eq!(log.publish(&["a", "d"]), (epoch.clone(), first + (1 << 32) + 1));
    assert_eq!(log.publish(&["a", "d"]), (epoch, first + (1 << 32) + 2));
    assert_eq!(log.entries("a")[1].1["p"], "1");
}

#[test]
fn the_version_can_be_asked_without_a_key() {
    let log = Log::start(Way::Function);
    assert_eq!(log.run::<u64>(&["FCALL_RO", "headwater_version", "0"]), 1);
    assert_eq!(log.run::<u64>(&["FCALL_RO", "headwater_version", "1", PREFIX]), 1);
}

#[test]
fn these_permissions_are_enough() {
    let mut log = Log::start(Way::Function);
    let rules = ACL.split_whitespace().collect::<Vec<_>>();
    log.run::<()>(&[&["ACL", "SETUSER", "publisher", "on", "nopass"], &rules[..]].concat());
    redis::cmd("AUTH").arg("publisher").arg("").exec(&mut log.connection).unwrap();
    assert_eq!(log.offset(&["a", "d", "key", "k", "end", "1"]), 1);
    log.set("rules", "* off");
    log.nothing_kept(&["news", "d", "event", "n"]);
    log.nothing_kept(&["news", "d"]);
    let refused = log.call(&[b"other", b"d"]).unwrap_err();
    assert!(refused.to_string().contains("can't publish to the channel"), "{refused}");
}

/// As in docs/redis-function.md.
const ACL: &str = "resetkeys ~headwater:{0}* resetchannels &headwater:{0}:* &news -@all +fcall +fcall_ro +get +mget \
                   +set +del +time +xadd +xlen +xrange +xtrim +pexpire +publish";

#[test]
fn an_event_that_is_kept_and_cannot_be_published_is_kept_once() {
    let mut log = Log::start(Way::Function);
    let rules = ACL.replace(" &headwater:{0}:*", "");
    let rules = rules.split_whitespace().collect::<Vec<_>>();
    log.run::<()>(&[&["ACL", "SETUSER", "publisher", "on", "nopass"], &rules[..]].concat());
    redis::cmd("AUTH").arg("publisher").arg("").exec(&mut log.connection).unwrap();
    let words: [&[u8]; 4] = [b"a", b"d", b"key", b"k"];
    let refused = log.call(&words).unwrap_err();
    assert!(refused.to_string().contains("can't publish to the channel"), "{refused}");
    let (_, offset) = log.publish(&["a", "d", "key", "k"]);
    assert_eq!((offset, log.offsets("a")), (1, vec![1]));
}
