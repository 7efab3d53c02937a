//! The last IDs that a client may send, valid and invalid, and how far back a new stream can start.
//! Look here for `Last-Event-ID`, `last_event_id`, `rewind` and idempotency keys.

use std::time::{Duration, Instant};

use headwater_test_support::{EventStream, Node, PATIENCE, http};

use crate::support::follower::gap_in;

/// So few events that a history is soon trimmed.
const KEEP: &str = "few* events=3";

async fn publish(node: &Node, query: &str, data: &str) -> String {
    publish_with(node, query, &[], data).await
}

async fn publish_with(node: &Node, query: &str, headers: &[(&str, &str)], data: &str) -> String {
    let path = format!("/sse/publish?{query}");
    let answer = http::request(node.address(), "POST", &path, headers, data.as_bytes()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["id"].as_str().expect("an id").to_owned()
}

/// What comes on a new stream until an event that is published when it is open: the data of events,
/// and the reasons of gaps.
async fn begins_with(node: &Node, query: &str, header: Option<&str>) -> Vec<String> {
    let path = format!("/sse/stream?{query}");
    let header = header.map(|id| ("last-event-id", id));
    let mut stream = EventStream::open_with(node.address(), &path, header.as_slice(), None).await;
    assert_eq!(stream.status, 200, "{query:.60} {header:?}");
    let channel = query.split('&').next().expect("a channel");
    let live = format!("live-{:x}", fastrand::u64(..));
    publish(node, channel, &live).await;
    let mut begins = Vec::new();
    loop {
        let message = stream.next().await.expect("an open stream");
        if message.data == live {
            return begins;
        }
        let gap = gap_in(&message).map(|(channel, reason)| format!("gap {channel} {reason}"));
        begins.push(gap.unwrap_or(message.data));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_id_gets_one_gap_event_then_live_events() {
    let (node, _redis) = crate::broker::start_node(&["--retention", KEEP]).await;
    let id = publish(&node, "channel=news", "first").await;
    let (epoch, offset) = id.split_once('-').expect("a position");
    let trimmed = publish(&node, "channel=few", "0").await;
    for number in 1..=4 {
        publish(&node, "channel=few", &number.to_string()).await;
    }
    let large = "x".repeat(10_000);
    let ahead = format!("{epoch}-{}", offset.parse::<u64>().expect("a number") + 1_000_000);
    let other_epoch = format!("abc123-{offset}");
    let other_node = format!("{epoch}-{offset}~abc123-7");
    let percent = "%00%0a%F0%9F%98%80%FE";
    for (given, reason) in [
        ("never-seen", "unknown-id"),
        (&*ahead, "unknown-id"),
        (&*other_epoch, "epoch"),
        (&*other_node, "epoch"),
        ("\u{1F600}\t{}[]\"'", "unknown-id"),
        ("-", "unknown-id"),
        ("0", "unknown-id"),
        (&*large, "unknown-id"),
    ] {
        let begins = begins_with(&node, "channel=news", Some(given)).await;
        assert_eq!(begins[0], format!("gap news {reason}"), "{given:.40}: {begins:?}");
        // What another node numbered after a known event of the log is lost; the log's events
        // are not.
        let is_partly_known = given == other_node;
        assert!(begins.len() == 1 || is_partly_known, "{given:.40}: {begins:?}");
        if given.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-~".contains(&byte)) {
            let query = format!("channel=news&last_event_id={given}");
            let begins = begins_with(&node, &query, None).await;
            assert_eq!(begins[0], format!("gap news {reason}"), "{given:.40}: {begins:?}");
        }
    }
    let query = format!("channel=news&last_event_id={percent}");
    assert_eq!(begins_with(&node, &query, None).await, ["gap news unknown-id"]);
    // Of two channels each gets its gap.
    let begins = begins_with(&node, "channel=news&channel=few", Some("never-seen")).await;
    assert_eq!(begins, ["gap few unknown-id", "gap news unknown-id"]);
    // One gap event, then what is left.
    let begins = begins_with(&node, "channel=few", Some(&trimmed)).await;
    assert_eq!(begins, ["gap few trimmed", "2", "3", "4"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_header_wins_over_the_query_and_an_empty_id_is_none() {
    let (node, _redis) = crate::broker::start_node(&["--retention", KEEP]).await;
    let one = publish(&node, "channel=news", "1").await;
    let two = publish(&node, "channel=news", "2").await;
    publish(&node, "channel=other", "other").await;
    publish(&node, "channel=news", "3").await;
    // Each look publishes an event of its own, so only the beginning is compared.
    let check = async |query: &str, header, expected: &[&str]| {
        let begins = begins_with(&node, query, header).await;
        let known = begins.iter().filter(|data| !data.starts_with("live-"));
        assert_eq!(known.collect::<Vec<_>>(), expected, "{query} {header:?}");
    };
    let query = format!("channel=news&last_event_id={one}");
    check(&query, None, &["2", "3"]).await;
    check(&query, Some(&two), &["3"]).await;
    check("channel=news", Some(&one), &["2", "3"]).await;
    check("channel=news", Some(""), &[]).await;
    check(&query, Some(""), &[]).await;
    check("channel=news&last_event_id=", None, &[]).await;
    check("channel=news", None, &[]).await;
    // A client that reconnects does not rewind.
    check("channel=news&rewind=all", Some(&two), &["3"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_stream_rewinds_by_count_by_time_or_to_the_beginning() {
    let (node, _redis) = crate::broker::start_node(&["--retention", KEEP]).await;
    for number in 0..6 {
        publish(
            &node,
            if number % 2 == 0 { "channel=a" } else { "channel=b" },
            &number.to_string(),
        )
        .await;
    }
    let check = async |query: &str, expected: &[&str]| {
        let begins = begins_with(&node, query, None).await;
        assert_eq!(begins, expected, "{query}");
    };
    // `c` comes first so that what the looks publish goes there.
    check("channel=c1&channel=a&rewind=2", &["2", "4"]).await;
    check("channel=c2&channel=a&channel=b&rewind=1", &["4", "5"]).await;
    check("channel=c3&channel=a&channel=b&rewind=2m", &["0", "1", "2", "3", "4", "5"]).await;
    check("channel=c4&channel=a&channel=b&rewind=all", &["0", "1", "2", "3", "4", "5"]).await;
    check("channel=c5&channel=a&rewind=1000", &["0", "2", "4"]).await;
    check("channel=c6&channel=a&rewind=0", &[]).await;
    // Only the last events of a history that is trimmed, without a word about the others: no client
    // requested more than there is.
    for number in 0..6 {
        publish(&node, "channel=few", &number.to_string()).await;
    }
    check("channel=c7&channel=few&rewind=all", &["3", "4", "5"]).await;
    let wait = http::get(node.address(), "/sse/stream?channel=a&rewind=never").await;
    assert!(wait.problem(400).contains("rewind=2m"));
}

/// More than fits the ring, or one answer of the broker.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rewind_by_count_delivers_as_many_large_events() {
    let (node, _redis) = crate::broker::start_node(&["--retention", KEEP]).await;
    let filler = "x".repeat(5_000);
    let lines = (0..600).map(|number| format!("{{\"data\": \"{number} {filler}\"}}\n"));
    let body = lines.collect::<String>();
    let path = "/sse/publish?channel=large";
    let headers = [("content-type", "application/x-ndjson")];
    let taken = http::request(node.address(), "POST", path, &headers, body.as_bytes()).await;
    assert_eq!(taken.status, 200, "{}", taken.text());
    let begins = begins_with(&node, "channel=c&channel=large&rewind=500", None).await;
    let numbers = begins.iter().map(|data| data.split(' ').next().expect("a number"));
    let wanted = (100..600).map(|number| number.to_string());
    assert_eq!(numbers.collect::<Vec<_>>(), wanted.collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_older_than_the_rewind_are_not_replayed() {
    let (node, _redis) = crate::broker::start_node(&["--retention", KEEP]).await;
    publish(&node, "channel=a", "old").await;
    // The one wait here is the subject of the test.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    publish(&node, "channel=a", "new").await;
    let begins = begins_with(&node, "channel=c&channel=a&rewind=1s", None).await;
    assert!(begins.is_empty() || begins == ["new"], "{begins:?}");
    let begins = begins_with(&node, "channel=c&channel=a&rewind=1h", None).await;
    assert_eq!(begins[..2], ["old", "new"], "{begins:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publishers_own_id_resumes_at_its_earliest_event() {
    let (node, _redis) = crate::broker::start_node(&["--retention", KEEP]).await;
    publish(&node, "channel=a", "0").await;
    assert_eq!(publish(&node, "channel=a&id=order-1", "1").await, "order-1");
    publish(&node, "channel=a", "2").await;
    publish(&node, "channel=a&id=order-1", "3").await;
    publish(&node, "channel=a", "4").await;
    let begins = begins_with(&node, "channel=c&channel=a", Some("order-1")).await;
    assert_eq!(begins, ["2", "3", "4"]);
    let mut stream = EventStream::open(node.address(), "/sse/stream?channel=a&rewind=all").await;
    for id in ["", "order-1", "", "order-1", ""] {
        let message = stream.next().await.expect("an open stream");
        assert!(if id.is_empty() { message.id.contains('-') } else { message.id == id });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_idempotency_key_publishes_nothing() {
    let (node, _redis) = crate::broker::start_node(&["--retention", KEEP]).await;
    let mut stream = EventStream::open(node.address(), "/sse/stream?channel=a").await;
    let key = [("idempotency-key", "7f1c-1")];
    let first = publish_with(&node, "channel=a", &key, "once").await;
    assert_eq!(publish_with(&node, "channel=a", &key, "twice").await, first);
    let other = [("idempotency-key", "7f1c-2")];
    let second = publish_with(&node, "channel=a", &other, "next").await;
    assert_ne!(second, first);
    for (data, id) in [("once", first), ("next", second)] {
        let message = stream.next().await.expect("an open stream");
        assert_eq!((message.data, message.id), (data.to_owned(), id));
    }
    let bad = [("idempotency-key", "with a space")];
    let path = "/sse/publish?channel=a";
    let answer = http::request(node.address(), "POST", path, &bad, b"x").await;
    assert!(answer.problem(400).contains("idempotency key"));
}

/// The stream begins with an `id:` of its own, so that a client that got nothing yet has where to
/// go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_received_nothing_yet_resumes_and_loses_nothing() {
    let (node, _redis) = crate::broker::start_node(&["--retention", KEEP]).await;
    publish(&node, "channel=a", "before").await;
    let path = "/sse/stream?channel=a&channel=b";
    let mut stream = EventStream::open(node.address(), path).await;
    let deadline = Instant::now() + PATIENCE;
    while stream.last_event_id().is_empty() {
        assert!(Instant::now() < deadline, "the stream does not say where it begins");
        assert_eq!(stream.next_within(Duration::from_millis(5)).await, None);
    }
    let id = stream.last_event_id().to_owned();
    drop(stream);
    publish(&node, "channel=a", "0").await;
    publish(&node, "channel=b", "1").await;
    let begins = begins_with(&node, "channel=c&channel=a&channel=b", Some(&id)).await;
    assert_eq!(begins, ["0", "1"]);
}
