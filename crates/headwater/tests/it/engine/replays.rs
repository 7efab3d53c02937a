//! Streams that replay, on their shard. Look here for what ends them while their clients have a
//! long history to read.

use std::net::SocketAddr;
use std::time::Duration;

use headwater::Hub;
use headwater::access::Revocation;
use headwater::broker::MemoryBroker;
use headwater::log::RetentionRules;
use headwater::stream::CloseReason;
use headwater_test_support::{EventStream, eventually, stream::End};

use super::{channel, on_shards, publish, router, serve};

const EVENT_BYTES: usize = 60_000;

/// A hub with a history of 24 MB, more than the buffers of a connection take.
async fn hub() -> Hub {
    let rules = RetentionRules::new().with_rule("* events=1000 bytes=64MiB").unwrap();
    let hub = Hub::new(MemoryBroker::with_retention(rules));
    for _ in 0..400 {
        publish(&hub, "a", "x".repeat(EVENT_BYTES)).await;
    }
    hub
}

/// A stream that has begun to replay, and whose client does not read on.
async fn replaying(hub: &Hub, address: SocketAddr, path: &str) -> EventStream {
    let mut stream = EventStream::open_with(address, path, &[], Some(4096)).await;
    assert_eq!(stream.next().await.expect("an event").data.len(), EVENT_BYTES);
    eventually("it waits for its client", || async {
        hub.shards().iter().any(|shard| shard.backlog_bytes > 0)
    })
    .await;
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_replays_is_on_a_shard_with_one_page() {
    let hub = hub().await;
    let address = serve(router(hub.clone()), 1).await;
    let mut stream = replaying(&hub, address, "/a/rewind").await;
    assert_eq!(on_shards(&hub), 1);
    // Another page would follow soon.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let waiting: usize = hub.shards().iter().map(|shard| shard.backlog_bytes).sum();
    assert!(waiting <= 300 << 10, "{waiting} bytes");
    publish(&hub, "a", "last").await;
    let mut events = 1;
    while stream.next().await.expect("an open stream").data != "last" {
        events += 1;
    }
    assert_eq!(events, 400);
    publish(&hub, "a", "live").await;
    assert_eq!(stream.next().await.expect("an open stream").data, "live");
    assert_eq!(hub.stats().events_sent, 402);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_replays_ends_like_one_that_is_live() {
    let hub_with_history = hub().await;
    let rounds = [
        ("/a/rewind", CloseReason::Revoked, Some(End::Clean)),
        ("/a/rewind-short", CloseReason::Lifetime, Some(End::Clean)),
        ("/a/rewind-brief", CloseReason::Stalled, None),
        ("/a/rewind", CloseReason::ClientGone, None),
        ("/a/rewind", CloseReason::Drain, Some(End::Clean)),
    ];
    let hub = &hub_with_history;
    let address = serve(router(hub.clone()), 1).await;
    for (path, reason, end) in rounds {
        let stream = replaying(hub, address, path).await;
        let mut stream = Some(stream);
        match reason {
            CloseReason::Revoked => {
                hub.revoke(&Revocation::Channel(channel("a"))).await.unwrap();
            }
            CloseReason::ClientGone => drop(stream.take()),
            CloseReason::Drain => hub.drain(),
            _ => {}
        }
        eventually("it ends", || async { hub.subscribers(&channel("a")) == 0 }).await;
        if let Some((expected, stream)) = end.zip(stream.as_mut()) {
            // The kernel's buffers, and at most one page.
            let mut events = 0;
            let end = loop {
                match stream.next().await {
                    Ok(event) => assert_eq!(event.data.len(), EVENT_BYTES, "{reason}"),
                    Err(end) => break end,
                }
                events += 1;
            };
            assert_eq!(end, expected, "{reason}");
            assert!(events < 200, "{reason}: {events} events after the end");
        }
        eventually("it has ended", || async { hub.streams() == 0 && on_shards(hub) == 0 }).await;
        assert_eq!(hub.stats().streams_ended.by(reason), 1, "{reason}");
        let backlog: usize = hub.shards().iter().map(|shard| shard.backlog_bytes).sum();
        assert_eq!(backlog, 0, "{reason}");
    }
}
