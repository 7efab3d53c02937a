//! What the function retains, and for how long. Look here for trimming and for the retention rules.

use super::{Log, PREFIX, Way, subscribe};

over_both_ways! {
    the_number_of_events_is_bounded,
    the_bytes_of_data_are_bounded,
    old_events_are_trimmed,
    events_that_may_be_forgotten_are_reported,
    one_call_trims_a_bounded_number,
    one_call_trims_a_bounded_number_of_bytes,
    all_retained_data_has_a_time_to_live,
    without_retention_events_are_only_published,
    the_first_matching_rule_applies,
    invalid_rules_are_rejected,
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
    log.publish(&["a", "larger than the bound for all events"]);
    assert_eq!(log.offsets("a"), [5], "the newest event is retained");
    log.publish(&["a", "1234567890"]);
    assert_eq!(log.offsets("a"), [6]);
    log.publish(&["a", ""]);
    assert_eq!(log.offsets("a"), [6, 7]);
    // The next event corrects a wrong size.
    log.set("size:a", "1000000 0");
    log.publish(&["a", "12345"]);
    assert_eq!(log.offsets("a"), [8]);
    log.publish(&["a", "67890"]);
    assert_eq!(log.offsets("a"), [8, 9]);
}

fn old_events_are_trimmed(log: &mut Log) {
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
    assert_eq!(log.key("size:a"), Some(format!("2 {now} 8388608")));
}

/// The last offset of a channel is retained for a day longer than its history.
fn events_that_may_be_forgotten_are_reported(log: &mut Log) {
    const HOUR_MS: u64 = 3_600_000;
    log.publish(&["a", "d"]);
    let now: u64 = log.entries("a")[0].1["t"].parse().unwrap();
    let expected = format!("{now} 0 {now} 0");
    assert_eq!(log.key("horizon"), Some(expected.clone()), "noted with the first event");
    log.publish(&["b", "d"]);
    let previous = |log: &Log, channel: &str| log.entries(channel).last().unwrap().1["p"].clone();
    assert_eq!(previous(log, "b"), "0", "nothing is forgotten");
    assert_eq!(log.key("horizon"), Some(expected), "not noted again within half a day");
    for (hours, noted_again, within_a_day) in
        [(13, true, true), (25, true, false), (11, false, true)]
    {
        let then = now - hours * HOUR_MS;
        log.set("horizon", &format!("{} 1 {then} 2", then - 13 * HOUR_MS / 2));
        log.remove("last:a");
        log.remove("log:a");
        let offset = log.offset(&["a", "d"]);
        // The older note is from 6.5 hours before.
        let expected = if within_a_day { 1 } else { offset - 1 };
        assert_eq!(previous(log, "a"), expected.to_string(), "{hours} hours ago");
        let horizon = log.key("horizon").unwrap();
        assert_eq!(horizon.starts_with(&format!("{then} 2 ")), noted_again, "{hours}: {horizon}");
    }
    log.remove("epoch");
    log.publish(&["a", "d"]);
    assert!(!log.key("horizon").unwrap().contains(" 2"), "a new epoch has a new horizon");
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
    // One entry exceeds the bound alone; an event lets the call trim as much as it adds.
    for (data, expected) in [("d", 20), ("d", 20), (&mebibyte, 19)] {
        log.publish(&["a", data]);
        assert_eq!(log.offsets("a").len(), expected);
    }
}

fn all_retained_data_has_a_time_to_live(log: &mut Log) {
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
        let ttl = log.ttl_ms(name);
        assert!(ttl <= expected && ttl > expected - 5_000, "{name}: {ttl}");
    }
    assert_eq!((log.ttl_ms("seq"), log.ttl_ms("epoch")), (-1, -1));
}

fn without_retention_events_are_only_published(log: &mut Log) {
    log.set("rules", "* off\n");
    let before = log.dump();
    let mut connection = log.server.connection();
    let mut messages = subscribe(&mut connection);
    log.publish_unretained(&["a", "event: no\n"]);
    log.publish_unretained(&["a", "x", "event", "n"]);
    log.publish_unretained(&["a", "y", "id", "i", "retry", "100"]);
    assert_eq!(log.dump(), before);
    log.publish_unretained(&["a", "z", "key", "k"]);
    log.publish_unretained(&["a", "not again", "key", "k"]);
    log.publish_unretained(&["a", "last"]);
    for (channel, expected) in [
        ("a", "event: no\n"),
        ("headwater:{0}:a", "event: n\n\nx"),
        ("headwater:{0}:a", "id: i\nretry: 100\n\ny"),
        ("a", "z"),
        ("a", "last"),
    ] {
        let message = messages.get_message().unwrap();
        assert_eq!(message.get_channel_name(), channel);
        assert_eq!(message.get_payload::<String>().unwrap(), expected);
    }
    log.rejected(&[b"a", b"d", b"end", b"1"], "ERR", "retention is off");
}

fn the_first_matching_rule_applies(log: &mut Log) {
    log.set("rules", "chat:7 2 60000 1000\nchat:* off\nwith space 1 60000 1000\n\n* 3 60000 1000");
    for _ in 0..5 {
        for channel in ["chat:7", "with space", "chat", "with space 1"] {
            log.publish(&[channel, "d"]);
        }
        log.publish_unretained(&["chat:", "d"]);
        log.publish_unretained(&["chat:77", "d"]);
    }
    for (channel, expected) in [("chat:7", 2), ("with space", 1), ("chat", 3), ("with space 1", 3)]
    {
        assert_eq!(log.offsets(channel).len(), expected, "{channel}");
    }
    log.set("rules", "chat 1 60000 1000");
    log.publish(&["chat", "d"]);
    assert_eq!(log.offsets("chat").len(), 1, "new rules apply at once");
    for _ in 0..5 {
        log.publish(&["chat:", "d"]);
    }
    assert_eq!(log.offsets("chat:").len(), 5, "the default applies if no rule matches");
}

fn invalid_rules_are_rejected(log: &mut Log) {
    for broken in ["* 1 2", "*", "* on", "* 0 1 1", "* 1 1 9007199254740993", "* -1 1 1", " off"] {
        log.set("rules", &format!("a 1 1 1\n{broken}\n"));
        let before = log.dump();
        log.rejected(&[b"a", b"d"], "ERR", "line 2 of the retention rules is broken");
        assert_eq!(log.dump(), before, "{broken}");
    }
    log.set("rules", &"x".repeat(65_537));
    log.rejected(&[b"a", b"d"], "ERR", "at most 65536 are allowed");
    log.set("rules", "a 1 60000 1\n");
    assert_eq!(log.offset(&["a", "d"]), 1);
}
