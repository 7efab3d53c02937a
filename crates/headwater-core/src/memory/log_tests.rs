//! The log in memory: offsets, retention, idempotency keys, and ended channels.

use super::log::Log;
use crate::broker::{History, ReadRange};
use crate::channel::Channel;
use crate::error::ErrorKind;
use crate::event::Event;
use crate::log::RetentionRules;
use crate::publish::{IdempotencyKey, Publish};

fn channel(name: &str) -> Channel {
    Channel::new(name).unwrap()
}

fn publish(name: &str, data: &str) -> Publish {
    Publish::to(channel(name), Event::new(data))
}

fn log(rule: &str) -> Log {
    Log::new(RetentionRules::new().with_rule(rule).unwrap())
}

fn append(log: &mut Log, publish: Publish, now_ms: u64) -> u64 {
    let receipts = log.append(vec![publish], now_ms, |_, _, _| {}).unwrap();
    receipts[0].position.unwrap().offset()
}

fn offsets(history: &History) -> Vec<u64> {
    history.frames.iter().map(|frame| frame.key().unwrap().offset).collect()
}

#[test]
fn offsets_are_shared_by_all_channels_and_previous_is_per_channel() {
    let mut log = log("* events=1000");
    let mut delivered = Vec::new();
    let batch = ["a", "b", "a", "b", "b"].map(|name| publish(name, "x")).into();
    log.append(batch, 0, |channel, frame, previous| {
        delivered.push((channel.to_string(), frame.key().unwrap().offset, previous));
    })
    .unwrap();
    let expected = [("a", 1, 0), ("b", 2, 0), ("a", 3, 1), ("b", 4, 2), ("b", 5, 4)];
    let expected = expected.map(|(name, offset, previous)| (name.to_owned(), offset, previous));
    assert_eq!(delivered, expected);
    let after = log.read(&channel("b"), ReadRange::After { offset: 2, count: 9 }, 0);
    assert_eq!((offsets(&after), after.previous, after.log_last), (vec![4, 5], 2, 5));
    let newest = log.read(&channel("b"), ReadRange::Newest { count: 1 }, 0);
    assert_eq!((offsets(&newest), newest.previous), (vec![5], 4));
}

#[test]
fn history_is_trimmed_by_count_bytes_and_age_and_the_last_offset_is_remembered() {
    let mut log = log("* events=3 age=10s bytes=1KiB");
    for _ in 0..5 {
        append(&mut log, publish("a", "x"), 1000);
    }
    let all = ReadRange::After { offset: 0, count: 99 };
    let history = log.read(&channel("a"), all, 1000);
    assert_eq!((offsets(&history), history.previous), (vec![3, 4, 5], 2));
    append(&mut log, publish("a", &"x".repeat(900)), 2000);
    assert_eq!(offsets(&log.read(&channel("a"), all, 2000)).last(), Some(&6));
    append(&mut log, publish("a", &"x".repeat(900)), 2000);
    assert_eq!(offsets(&log.read(&channel("a"), all, 2000)), [7]);
    append(&mut log, publish("a", &"x".repeat(9000)), 2000);
    assert_eq!(offsets(&log.read(&channel("a"), all, 2000)), [8], "the newest event is retained");
    assert_eq!(
        offsets(&log.read(&channel("a"), all, 12_001)),
        [0; 0],
        "the newest event expires by age"
    );
    assert_eq!(log.baseline(&channel("a")).last, 8);
    append(&mut log, publish("b", "x"), 13_000 + 2 * 86_400_000);
    assert_eq!(log.baseline(&channel("a")).last, 8, "forgotten, so it may have had events up to 8");
    append(&mut log, publish("a", "x"), 13_000 + 2 * 86_400_000);
    let history = log.read(&channel("a"), all, 13_000 + 2 * 86_400_000);
    assert_eq!((offsets(&history), history.previous), (vec![10], 8));
}

#[test]
fn an_idempotency_key_deduplicates_within_its_window() {
    let mut log = log("* events=1000");
    let keyed = |name: &str| publish(name, "x").with_key(IdempotencyKey::new("k").unwrap());
    assert_eq!(append(&mut log, keyed("a"), 0), 1);
    assert_eq!(append(&mut log, keyed("a"), 599_999), 1);
    assert_eq!(append(&mut log, keyed("b"), 599_999), 2);
    assert_eq!(append(&mut log, keyed("a"), 600_001), 3);
}

#[test]
fn an_ended_channel_rejects_events() {
    let mut log = log("* events=1000");
    let end = publish("a", "last").with_end(true).with_key(IdempotencyKey::new("k").unwrap());
    append(&mut log, end.clone(), 0);
    assert!(log.baseline(&channel("a")).ended);
    let rejected = log.append(vec![publish("b", "x"), publish("a", "x")], 0, |_, _, _| {});
    assert_eq!(rejected.unwrap_err().kind(), ErrorKind::Ended);
    assert_eq!(log.last(), 1, "the whole batch is rejected");
    assert_eq!(append(&mut log, end, 0), 1, "a repeated end is deduplicated");
    let twice = vec![publish("c", "x").with_end(true), publish("c", "x")];
    assert!(log.append(twice, 0, |_, _, _| {}).is_err());
    let end = publish("d", "x").with_end(true).with_key(IdempotencyKey::new("k").unwrap());
    let receipts = log.append(vec![end.clone(), end], 0, |_, _, _| {}).unwrap();
    assert_eq!(receipts[0], receipts[1], "deduplicated within one batch");
    assert_eq!(log.last(), 2);
}

#[test]
fn without_retention_events_have_positions_but_no_history() {
    let mut log = log("* off");
    append(&mut log, publish("a", "x"), 0);
    append(&mut log, publish("a", "x"), 0);
    let history = log.read(&channel("a"), ReadRange::After { offset: 0, count: 9 }, 0);
    assert_eq!((offsets(&history), history.log_last), (vec![], 2));
    assert_eq!(log.baseline(&channel("a")).last, 2);
}

#[test]
fn the_first_event_of_a_channel_follows_nothing_for_those_that_listen() {
    const DAY_MS: u64 = 24 * 3600 * 1000;
    let mut log = log("* events=3");
    append(&mut log, publish("forgotten", "x"), 0);
    let mut previous = Vec::new();
    let later = vec![publish("a", "x"), publish("a", "y")];
    log.append(later, 2 * DAY_MS, |_, _, it| previous.push(it)).unwrap();
    assert_eq!(previous, [0, 2]);
    // A client that reconnects does not know whether the forgotten event was of this channel.
    let all = ReadRange::After { offset: 0, count: 99 };
    assert_eq!(log.read(&channel("a"), all, 2 * DAY_MS).previous, 1);
}
