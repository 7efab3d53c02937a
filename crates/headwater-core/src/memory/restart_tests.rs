//! The log over restarts: what survives in its directory, and what a restart must not change.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::kept::Sharing;
use super::log::Log;
use super::*;
use crate::broker::Baseline;
use crate::event::Event;
use crate::publish::IdempotencyKey;

const SECOND: u64 = 1000;
const HOUR: u64 = 3600 * SECOND;

fn channel(name: &str) -> Channel {
    Channel::new(name).unwrap()
}

fn publish(name: &str) -> Publish {
    Publish::to(channel(name), Event::new("x"))
}

fn keyed(name: &str, key: &str) -> Publish {
    publish(name).with_key(IdempotencyKey::new(key).unwrap())
}

fn open(directory: &Path, rule: &str, now_ms: u64) -> Log {
    let rules = RetentionRules::new().with_rule(rule).unwrap();
    Log::open(rules, &Budget::new(1 << 30), directory, now_ms).unwrap()
}

fn append(log: &mut Log, publish: Publish, now_ms: u64) -> Receipt {
    log.append(vec![publish], now_ms, &mut Sharing::default(), |_, _, _| {}).unwrap().remove(0)
}

fn upkeep(log: &mut Log, now_ms: u64) {
    if let Some(work) = log.begin_upkeep(now_ms) {
        log.end_upkeep(work.run());
    }
}

/// A copy of the directory as a crash at this moment would leave it.
fn killed(directory: &TempDir) -> TempDir {
    let copy = TempDir::new().unwrap();
    for entry in fs::read_dir(directory.path()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    copy
}

fn segments(directory: &TempDir) -> usize {
    let paths = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "log")).count()
}

fn baseline(log: &Log, name: &str) -> (u64, bool) {
    let Baseline { last, ended, .. } = log.baseline(&channel(name));
    (last, ended)
}

#[test]
fn ends_and_last_offsets_survive_the_deletion_of_their_segments() {
    const RULE: &str = "* age=1s";
    let directory = TempDir::new().unwrap();
    let mut log = open(directory.path(), RULE, SECOND);
    append(&mut log, publish("quiet"), SECOND);
    append(&mut log, publish("ended").with_end(true), SECOND);
    append(&mut log, publish("busy"), SECOND);
    upkeep(&mut log, 100 * SECOND);
    assert_eq!(segments(&directory), 0);
    append(&mut log, publish("busy"), 100 * SECOND);
    drop(log);

    // Twice, so that the second restart reads the list that the first one wrote.
    let mut directory = directory;
    for hours in [1, 12] {
        let now_ms = hours * HOUR;
        let mut log = open(directory.path(), RULE, now_ms);
        assert_eq!((baseline(&log, "quiet"), baseline(&log, "ended")), ((1, false), (2, true)));
        assert_eq!(baseline(&log, "never used"), (0, false), "nothing was forgotten");
        log.append(vec![publish("ended")], now_ms, &mut Sharing::default(), |_, _, _| {})
            .unwrap_err();
        append(&mut log, publish("busy"), now_ms);
        upkeep(&mut log, now_ms + 100 * SECOND);
        assert_eq!(segments(&directory), 0);
        directory = killed(&directory);
    }

    // After a day a restarted process forgets, as one that kept running would.
    let mut log = open(directory.path(), RULE, 24 * HOUR + 3 * SECOND);
    assert_eq!((baseline(&log, "ended"), baseline(&log, "never used")), ((2, false), (2, false)));
    assert_eq!(baseline(&log, "busy").0, 6);
    append(&mut log, publish("ended"), 24 * HOUR + 3 * SECOND);
}

#[test]
fn records_take_precedence_over_the_list_of_channels() {
    const RULE: &str = "* age=1s";
    let directory = TempDir::new().unwrap();
    let mut log = open(directory.path(), RULE, SECOND);
    append(&mut log, publish("a"), SECOND);
    upkeep(&mut log, 100 * SECOND);
    append(&mut log, publish("a"), 100 * SECOND);
    append(&mut log, publish("a").with_end(true), 100 * SECOND);
    let directory = killed(&directory);
    let log = open(directory.path(), RULE, 100 * SECOND);
    assert_eq!(baseline(&log, "a"), (3, true));
}

#[test]
fn a_directory_without_the_list_of_channels_opens() {
    let directory = TempDir::new().unwrap();
    let mut log = open(directory.path(), "* age=1s", SECOND);
    append(&mut log, publish("a"), SECOND);
    upkeep(&mut log, 100 * SECOND);
    drop(log);
    fs::remove_file(directory.path().join("channels")).unwrap();
    let log = open(directory.path(), "* age=1s", 100 * SECOND);
    assert_eq!(
        (baseline(&log, "a"), log.last()),
        ((1, false), 1),
        "the channel may have been forgotten"
    );
}

#[test]
fn keys_of_events_that_are_no_longer_retained_survive_a_restart() {
    for rule in ["* events=10", "* age=1s", "* bytes=1KiB events=1", "* off"] {
        let directory = TempDir::new().unwrap();
        let mut log = open(directory.path(), rule, SECOND);
        let own = keyed("a", "own").with_end(false);
        let own = Publish { event: Event::new("x").with_id("my-id").unwrap(), ..own };
        let mut first = vec![append(&mut log, own.clone(), SECOND)];
        for number in 0..10 {
            first.push(append(&mut log, keyed("a", &format!("k{number}")), SECOND));
        }
        append(&mut log, publish("a"), 300 * SECOND);
        upkeep(&mut log, 400 * SECOND);
        let killed = killed(&directory);
        drop(log);
        for directory in [directory, killed] {
            let now_ms = 600 * SECOND;
            let mut log = open(directory.path(), rule, now_ms);
            assert_eq!(append(&mut log, own.clone(), now_ms), first[0], "{rule}");
            for (number, first) in first[1..].iter().enumerate() {
                let again = append(&mut log, keyed("a", &format!("k{number}")), now_ms);
                assert_eq!(again, *first, "{rule}");
            }
            assert_eq!(log.last(), 12);
            // Expired keys no longer deduplicate, and need no segment.
            let now_ms = 602 * SECOND;
            assert_eq!(append(&mut log, own.clone(), now_ms).position.unwrap().offset(), 13);
            upkeep(&mut log, 1300 * SECOND);
            assert_eq!(segments(&directory), 0, "{rule}");
        }
    }
}

#[test]
fn a_reused_key_returns_the_later_receipt() {
    let directory = TempDir::new().unwrap();
    let rule = "* events=1";
    let mut log = open(directory.path(), rule, SECOND);
    append(&mut log, keyed("a", "k"), SECOND);
    let second = append(&mut log, keyed("a", "k"), 700 * SECOND);
    append(&mut log, publish("a"), 700 * SECOND);
    drop(log);
    let mut log = open(directory.path(), rule, 701 * SECOND);
    assert_eq!(append(&mut log, keyed("a", "k"), 701 * SECOND), second);
}

/// A sync can take seconds; only the upkeep itself waits for it.
#[tokio::test]
async fn the_log_is_unlocked_during_a_sync() {
    let directory = TempDir::new().unwrap();
    let broker = MemoryBroker::open(directory.path(), RetentionRules::default()).unwrap();
    broker.publish(vec![publish("a")]).await.unwrap();
    let work = broker.log().begin_upkeep(now_ms()).unwrap();
    assert!(broker.log.try_lock().is_ok());
    broker.publish(vec![publish("a")]).await.unwrap();
    broker.subscribed(&channel("a")).await.unwrap();
    let range = ReadRange::Newest { count: 9 };
    assert_eq!(broker.read(&channel("a"), range).await.unwrap().frames.len(), 2);
    broker.log().end_upkeep(work.run());
    assert!(broker.log().begin_upkeep(now_ms()).is_some(), "events published during the sync");
}
