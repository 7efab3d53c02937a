//! A long history that is replayed to a slow reader. Look here for how its memory is measured.

use std::time::{Duration, Instant};

use headwater_test_support::{EventStream, Node, RedisServer, http};

use super::BINARY;
use crate::support::follower::is_full;

// === a long history ===

pub(crate) const EVENT_BYTES: usize = 10_000;

/// What a node may hold for one replay, beside what it held before: the ring and one read for it, 1
/// MiB each, and one page of the history, 256 KiB; each as Redis' answer, as events and as frames
/// at the same time; and as much again for the allocator. Measured: 2 to 4 MiB.
pub(crate) const REPLAY_MEMORY_MAX: u64 = 16 << 20;

pub(crate) async fn check_replay(redis: Option<&RedisServer>) -> u64 {
    let events = if is_full() { 10_000 } else { 3_000 };
    let retention = "* events=100000 bytes=200MiB age=1h";
    let url = redis.map(RedisServer::url);
    let mut arguments = vec!["--retention", retention];
    if let Some(url) = &url {
        arguments.extend(["--redis", url]);
    }
    let mut node = Node::start_quiet(BINARY, &arguments);
    node.wait_until_ready().await;
    let filler = "x".repeat(EVENT_BYTES - 6);
    let path = "/sse/publish?channel=long";
    let headers = [("content-type", "application/x-ndjson")];
    for batch in 0..events / 100 {
        let mut body = String::new();
        for number in batch * 100..(batch + 1) * 100 {
            body += &format!("{{\"data\": \"{number:06}{filler}\"}}\n");
        }
        let answer = http::request(node.address(), "POST", path, &headers, body.as_bytes()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    if redis.is_some() {
        // One that holds nothing yet, not even what publishing took.
        node = Node::start_quiet(BINARY, &arguments);
        node.wait_until_ready().await;
    }
    let before = node.memory_bytes();
    let mut highest = before;
    let begin = Instant::now();
    let path = "/sse/stream?channel=long&rewind=all";
    let mut stream = EventStream::open_with(node.address(), path, &[], Some(16 << 10)).await;
    for number in 0..events {
        let message = stream.next().await.expect("an open stream");
        assert_eq!(message.data.len(), EVENT_BYTES);
        assert_eq!(message.data[..6], format!("{number:06}"));
        if number % 50 == 0 {
            // A slow reader: this is the pause that lets data pile up.
            tokio::time::sleep(Duration::from_millis(10)).await;
            highest = highest.max(node.memory_bytes());
        }
    }
    let grown = highest - before;
    println!(
        "{} MB replayed in {:?}; memory {} KiB before, {} KiB more at most",
        events * EVENT_BYTES / 1_000_000,
        begin.elapsed(),
        before >> 10,
        grown >> 10
    );
    http::post(node.address(), "/sse/publish?channel=long", b"live").await;
    assert_eq!(stream.next().await.expect("an open stream").data, "live");
    grown
}
