//! The log in memory: offsets, retention, idempotency keys, and ended channels.

use std::future::poll_fn;
use std::task::Poll;

use super::MemoryBroker;
use super::kept::Sharing;
use super::log::Log;
use crate::broker::{Broker as _, History, ReadRange};
use crate::budget::{Budget, Share};
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
    Log::new(RetentionRules::new().with_rule(rule).unwrap(), &Budget::new(1 << 30))
}

fn append(log: &mut Log, publish: Publish, now_ms: u64) -> u64 {
    let receipts =
        log.append(vec![publish], now_ms, &mut Sharing::default(), |_, _, _| {}).unwrap();
    receipts[0].position.unwrap().offset()
}

fn read_page(log: &mut Log, channel: &Channel, range: ReadRange, now_ms: u64) -> History {
    log.read(channel, range, now_ms).encode()
}

fn offsets(history: &History) -> Vec<u64> {
    history.frames.iter().map(|frame| frame.key().unwrap().offset).collect()
}

#[test]
fn offsets_are_shared_by_all_channels_and_previous_is_per_channel() {
    let mut log = log("* events=1000");
    let mut delivered = Vec::new();
    let batch = ["a", "b", "a", "b", "b"].map(|name| publish(name, "x")).into();
    log.append(batch, 0, &mut Sharing::default(), |channel, event, previous| {
        delivered.push((channel.to_string(), event.offset(), previous));
    })
    .unwrap();
    let expected = [("a", 1, 0), ("b", 2, 0), ("a", 3, 1), ("b", 4, 2), ("b", 5, 4)];
    let expected = expected.map(|(name, offset, previous)| (name.to_owned(), offset, previous));
    assert_eq!(delivered, expected);
    let after = read_page(&mut log, &channel("b"), ReadRange::After { offset: 2, count: 9 }, 0);
    assert_eq!((offsets(&after), after.previous, after.log_last), (vec![4, 5], 2, 5));
    let newest = read_page(&mut log, &channel("b"), ReadRange::Newest { count: 1 }, 0);
    assert_eq!((offsets(&newest), newest.previous), (vec![5], 4));
}

#[test]
fn history_is_trimmed_by_count_bytes_and_age_and_the_last_offset_is_remembered() {
    let mut log = log("* events=3 age=10s bytes=1KiB");
    for _ in 0..5 {
        append(&mut log, publish("a", "x"), 1000);
    }
    let all = ReadRange::After { offset: 0, count: 99 };
    let history = read_page(&mut log, &channel("a"), all, 1000);
    assert_eq!((offsets(&history), history.previous), (vec![3, 4, 5], 2));
    append(&mut log, publish("a", &"x".repeat(900)), 2000);
    assert_eq!(offsets(&read_page(&mut log, &channel("a"), all, 2000)).last(), Some(&6));
    append(&mut log, publish("a", &"x".repeat(900)), 2000);
    assert_eq!(offsets(&read_page(&mut log, &channel("a"), all, 2000)), [7]);
    append(&mut log, publish("a", &"x".repeat(9000)), 2000);
    assert_eq!(
        offsets(&read_page(&mut log, &channel("a"), all, 2000)),
        [8],
        "the newest event is retained"
    );
    assert_eq!(
        offsets(&read_page(&mut log, &channel("a"), all, 12_001)),
        [0; 0],
        "the newest event expires by age"
    );
    assert_eq!(log.baseline(&channel("a")).last, 8);
    append(&mut log, publish("b", "x"), 13_000 + 2 * 86_400_000);
    assert_eq!(log.baseline(&channel("a")).last, 8, "forgotten, so it may have had events up to 8");
    append(&mut log, publish("a", "x"), 13_000 + 2 * 86_400_000);
    let history = read_page(&mut log, &channel("a"), all, 13_000 + 2 * 86_400_000);
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
    let rejected = log.append(
        vec![publish("b", "x"), publish("a", "x")],
        0,
        &mut Sharing::default(),
        |_, _, _| {},
    );
    assert_eq!(rejected.unwrap_err().kind(), ErrorKind::Ended);
    assert_eq!(log.last(), 1, "the whole batch is rejected");
    assert_eq!(append(&mut log, end, 0), 1, "a repeated end is deduplicated");
    let twice = vec![publish("c", "x").with_end(true), publish("c", "x")];
    assert!(log.append(twice, 0, &mut Sharing::default(), |_, _, _| {}).is_err());
    let end = publish("d", "x").with_end(true).with_key(IdempotencyKey::new("k").unwrap());
    let receipts =
        log.append(vec![end.clone(), end], 0, &mut Sharing::default(), |_, _, _| {}).unwrap();
    assert_eq!(receipts[0], receipts[1], "deduplicated within one batch");
    assert_eq!(log.last(), 2);
}

#[test]
fn without_retention_events_have_positions_but_no_history() {
    let mut log = log("* off");
    append(&mut log, publish("a", "x"), 0);
    append(&mut log, publish("a", "x"), 0);
    let history = read_page(&mut log, &channel("a"), ReadRange::After { offset: 0, count: 9 }, 0);
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
    log.append(later, 2 * DAY_MS, &mut Sharing::default(), |_, _, it| previous.push(it)).unwrap();
    assert_eq!(previous, [0, 2]);
    // A client that reconnects does not know whether the forgotten event was of this channel.
    let all = ReadRange::After { offset: 0, count: 99 };
    assert_eq!(read_page(&mut log, &channel("a"), all, 2 * DAY_MS).previous, 1);
}

fn small(budget: &Budget) -> Log {
    Log::new(RetentionRules::new().with_rule("* events=1000000 age=1h bytes=1GiB").unwrap(), budget)
}

fn append_to(log: &mut Log, names: &[String], event: &Event) {
    let batch = names.iter().map(|name| Publish::to(channel(name), event.clone())).collect();
    log.append(batch, 0, &mut Sharing::default(), |_, _, _| {}).unwrap();
}

/// Whatever the events are, no more is kept than the share; the newest is, and the oldest is not.
#[test]
fn the_events_of_all_channels_stay_within_their_share() {
    for (channels, data) in
        [(1, "x".repeat(100)), (7, "\n".repeat(9000)), (500, "x".repeat(20_000))]
    {
        let budget = Budget::new(16 << 20);
        let account = budget.account(Share::Log);
        let mut log = small(&budget);
        let names: Vec<String> = (0..channels).map(|number| format!("c{number}")).collect();
        while account.evictions() == 0 {
            for name in &names {
                append(&mut log, publish(name, &data), 0);
                assert!(account.used() <= account.limit());
            }
        }
        assert!(account.used() > account.limit() / 4 * 3, "{channels}: {}", account.used());
        let newest = log.last();
        let range = ReadRange::Newest { count: 1 };
        assert_eq!(
            offsets(&read_page(&mut log, &channel(&names[channels - 1]), range, 0)),
            [newest]
        );
        // What was dropped is noticed: the first event that is left has one before it.
        let all = ReadRange::After { offset: 0, count: 1 };
        let oldest = read_page(&mut log, &channel("c0"), all, 0);
        assert!(oldest.is_empty() || oldest.previous > 0, "{channels}");
        assert!(log.baseline(&channel("c0")).last > 0, "{channels}");
    }
}

#[test]
fn data_that_is_published_to_many_channels_is_kept_once_and_unencoded() {
    const LEN: usize = 1 << 20;
    let names: Vec<String> = (0..60).map(|number| format!("c{number}")).collect();
    for data in ["x", "\n", "\r\n"] {
        let data = data.repeat(LEN / data.len());
        let budget = Budget::new(64 << 20);
        let account = budget.account(Share::Log);
        let mut log = small(&budget);
        append_to(&mut log, &names, &Event::new(data.clone()).shared());
        assert!(account.used() < LEN + LEN / 8, "{} bytes", account.used());
        assert_eq!(account.evictions(), 0);
        let read = read_page(&mut log, &channel("c59"), ReadRange::Newest { count: 1 }, 0);
        let frame = Event::new(data.clone()).with_id("i").unwrap().encode().len();
        assert!(read.frames[0].bytes().len().abs_diff(frame) < 64, "as published");
        // The charge ends with the last channel that has it.
        for name in &names {
            read_page(&mut log, &channel(name), ReadRange::Newest { count: 1 }, 2 * 3_600_000);
        }
        assert_eq!(account.used(), 0);
    }
}

#[test]
fn names_of_channels_stay_within_their_share_and_what_is_forgotten_is_a_gap() {
    for rule in ["* off", "* events=1"] {
        let budget = Budget::new(16 << 20);
        let names = budget.account(Share::Channels);
        let mut log = Log::new(RetentionRules::new().with_rule(rule).unwrap(), &budget);
        let end = publish("ended", "x").with_end(rule != "* off");
        append(&mut log, end, 0);
        let mut number = 0;
        while names.evictions() == 0 {
            append(&mut log, publish(&format!("{number:0>200}"), "x"), 0);
            assert!(names.used() <= names.limit());
            number += 1;
        }
        let forgotten = log.baseline(&channel("ended"));
        assert!(forgotten.forgotten && forgotten.last >= 1, "{rule}");
        let newest = log.baseline(&channel(&format!("{:0>200}", number - 1)));
        assert!(!newest.forgotten && newest.last == log.last(), "{rule}");
    }
}

/// Room for one event or channel was made by looking at all of them, and by dropping thousands at
/// once, under the lock that all need.
#[test]
fn only_as_much_is_dropped_as_is_needed_and_the_oldest_first() {
    let budget = Budget::new(16 << 20);
    let (events, names) = (budget.account(Share::Log), budget.account(Share::Channels));
    let mut log = small(&budget);
    let data = "x".repeat(2_000);
    let fill = |log: &mut Log, number: usize| {
        append(log, publish(&format!("{number:0>200}"), &data), 0);
    };
    let mut number = 0;
    while events.evictions() < 100 || names.evictions() < 100 {
        fill(&mut log, number);
        number += 1;
        for account in [events, names] {
            assert!(account.evictions() == 0 || account.used() > account.limit() - 4_000);
        }
    }
    // All that were forgotten came before all that are known, and those have lost events in order.
    let mut found: Vec<(bool, bool)> = (0..number)
        .map(|number| {
            let channel = channel(&format!("{number:0>200}"));
            let read = read_page(&mut log, &channel, ReadRange::Newest { count: 1 }, 0);
            (!log.baseline(&channel).forgotten, !read.is_empty())
        })
        .collect();
    assert!(found.is_sorted(), "in the order of time");
    found.dedup();
    assert_eq!(found, [(false, false), (true, false), (true, true)]);
}

/// Ten thousand events were a hundred million comparisons, under the lock that all need.
#[test]
fn a_batch_takes_time_in_proportion_to_its_size() {
    let time = |count: usize| {
        let batch: Vec<Publish> = (0..count)
            .map(|number| {
                let key = IdempotencyKey::new(format!("k{number}")).unwrap();
                publish(&format!("{number:0>200}"), "x").with_key(key)
            })
            .collect();
        let attempt = |batch: Vec<Publish>| {
            let mut log = log("* events=10");
            let start = std::time::Instant::now();
            log.append(batch, 0, &mut Sharing::default(), |_, _, _| {}).unwrap();
            start.elapsed()
        };
        (0..3).map(|_| attempt(batch.clone())).min().unwrap()
    };
    let (small, large) = (time(1000), time(16_000));
    // With comparisons of all pairs it would be 256 times the time. Other tests run meanwhile.
    assert!(large < small * 100, "{small:?}, {large:?}");
}

#[test]
fn a_key_of_another_publisher_is_another_key() {
    let mut log = log("* events=10");
    let keyed = |publisher: Option<&str>| {
        let publish = publish("a", "x").with_key(IdempotencyKey::new("k").unwrap());
        match publisher {
            Some(publisher) => publish.with_publisher(publisher),
            None => publish,
        }
    };
    let publishers = [None, Some("u"), Some("v"), Some("")];
    for (offset, publisher) in (1..).zip(publishers) {
        assert_eq!(append(&mut log, keyed(publisher), 0), offset, "{publisher:?}");
    }
    for (offset, publisher) in (1..).zip(publishers) {
        assert_eq!(append(&mut log, keyed(publisher), 0), offset, "{publisher:?} again");
    }
    let batch = publishers.map(|it| keyed(it).with_key(IdempotencyKey::new("l").unwrap()));
    let receipts = log.append(batch.into(), 0, &mut Sharing::default(), |_, _, _| {}).unwrap();
    let offsets: Vec<u64> = receipts.iter().map(|it| it.position.unwrap().offset()).collect();
    assert_eq!(offsets, [5, 6, 7, 8], "in one batch");
}

#[tokio::test]
async fn large_events_are_encoded_while_other_tasks_run() {
    let broker = MemoryBroker::new();
    broker.publish(vec![publish("a", &"x".repeat(8 << 20))]).await.unwrap();
    let channel = channel("a");
    let mut read = broker.read(&channel, ReadRange::Newest { count: 1 });
    let is_pending = poll_fn(|context| Poll::Ready(read.as_mut().poll(context).is_pending()));
    assert!(is_pending.await);
    assert_eq!(read.await.unwrap().frames.len(), 1);
}
