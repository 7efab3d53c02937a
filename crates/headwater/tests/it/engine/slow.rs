//! Clients of the engine that do not read, that leave, or that send unexpected bytes. Look here for
//! when a stream overflows or stalls.

use std::net::SocketAddr;
use std::time::Duration;

use headwater::Hub;
use headwater::broker::MemoryBroker;
use headwater::channel::ChannelPatterns;
use headwater::stream::CloseReason;
use headwater_test_support::{EventStream, PATIENCE, eventually, stream::End};
use tokio::io::AsyncWriteExt;

use super::client::Raw;
use super::{channel, on_shards, publish, router, serve};

/// A stream whose client reads nothing, with a small receive buffer.
async fn open_stuck(address: SocketAddr, path: &str) -> EventStream {
    EventStream::open_with(address, path, &[], Some(4096)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_backlog_closes_its_stream_after_a_whole_event() {
    let hub = Hub::builder().queue_bytes_max(1 << 20).build(MemoryBroker::new());
    let address = serve(router(hub.clone()), 1).await;
    let mut stuck = open_stuck(address, "/a").await;
    let mut healthy = EventStream::open(address, "/a").await;
    let mut published = 0;
    while hub.subscribers(&channel("a")) == 2 {
        publish(&hub, "a", "x".repeat(50_000)).await;
        assert_eq!(healthy.next().await.unwrap().data.len(), 50_000);
        published += 1;
        assert!(published < 1000, "the stuck stream never ends");
    }
    // A partially sent event is completed before the end.
    let mut events = 0;
    let end = loop {
        match stuck.next().await {
            Ok(event) => {
                assert_eq!(event.data.len(), 50_000);
                events += 1;
            }
            Err(end) => break end,
        }
    };
    assert_eq!(end, End::Clean);
    assert!((1..published).contains(&events), "{events} of {published}");
    eventually("it is counted", || async {
        hub.stats().streams_ended.by(CloseReason::Overflow) == 1
    })
    .await;
    assert_eq!(hub.streams(), 1);
    let backlog_bytes = hub.shards().iter().map(|shard| shard.backlog_bytes).sum::<usize>();
    assert_eq!(backlog_bytes, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_accepts_no_data_is_stalled_whatever_is_published() {
    let hub = Hub::builder().queue_bytes_max(64 << 20).build(MemoryBroker::new());
    let address = serve(router(hub.clone()), 1).await;
    let _stuck = open_stuck(address, "/a/brief").await;
    publish(&hub, "a", "x".repeat(8 << 20)).await;
    let began = std::time::Instant::now();
    // New events do not reset the timeout.
    while hub.streams() == 1 {
        publish(&hub, "a", "more").await;
        assert!(began.elapsed() < PATIENCE, "the stream never ends");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    assert_eq!(hub.stats().streams_ended.by(CloseReason::Stalled), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_clients_of_latest_only_channels_get_the_newest_with_and_without_the_engine() {
    let patterns = ChannelPatterns::new().with("price:*").unwrap();
    for shards in [0, 1] {
        let hub = Hub::builder()
            .queue_bytes_max(1 << 20)
            .latest_only(patterns.clone())
            .build(MemoryBroker::new());
        let address = serve(router(hub.clone()), shards).await;
        let mut stuck = open_stuck(address, "/price:a,price:b").await;
        let large = "x".repeat(100_000);
        for number in 0..200 {
            publish(&hub, "price:a", format!("{number} {large}")).await;
        }
        publish(&hub, "price:b", "other").await;
        publish(&hub, "price:a", "last").await;
        assert_eq!(hub.streams(), 1, "the stream stays open");
        let mut numbers = Vec::new();
        loop {
            let event = stuck.next().await.expect("an open stream");
            if event.data == "last" {
                break;
            }
            numbers.push(event.data.split(' ').next().unwrap().to_owned());
        }
        assert!(numbers.len() < 150, "{shards}: received {} of 200", numbers.len());
        assert_eq!(numbers.last().map(String::as_str), Some("other"), "{shards}");
        assert_eq!(hub.stats().streams_ended.by(CloseReason::Overflow), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_leave_or_flood_are_disconnected() {
    let hub = Hub::in_memory();
    let address = serve(router(hub.clone()), 1).await;
    let mut half_closed = Raw::open(address, "/a").await;
    let mut stray = Raw::open(address, "/a").await;
    let mut flooding = Raw::open(address, "/a").await;
    let leaving = Raw::open(address, "/a").await;
    eventually("all streams are on shards", || async { on_shards(&hub) == 4 }).await;
    drop(leaving);
    half_closed.socket.shutdown().await.unwrap();
    stray.socket.write_all(&[b'x'; 1000]).await.unwrap();
    // The connection may be cut during this write.
    let _ = flooding.socket.write_all(&vec![b'x'; 1 << 20]).await;
    eventually("three streams are gone", || async { hub.streams() == 1 }).await;
    publish(&hub, "a", "still open").await;
    stray.until(|body| body.ends_with(b"data: still open\n\n")).await;
    assert_eq!(hub.stats().streams_ended.by(CloseReason::ClientGone), 3);
    half_closed.until_closed().await;
}
