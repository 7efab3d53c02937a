//! Clients and publishers that cost others nothing: clients that do not read, and floods of events.
//! Look here for when publishers wait.

use std::time::{Duration, Instant};

use headwater::broker::MemoryBroker;
use headwater::stream::CloseReason;
use headwater::{Event, Hub, Publish};
use headwater_test_support::{EventStream, eventually};

use super::{channel, on_shards, publish, router, serve};

/// Less than publishers wait at most, even on a busy machine.
const SOON: Duration = Duration::from_millis(1200);

/// More than a node takes for congestion, if they read.
const MANY: usize = 120;

/// A hub whose streams may have a large backlog.
fn hub() -> Hub {
    Hub::builder().queue_bytes_max(16 << 20).build(MemoryBroker::new())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_do_not_read_delay_no_publisher() {
    let hub = hub();
    let address = serve(router(hub.clone()), 1).await;
    let mut stuck = Vec::new();
    for _ in 0..MANY {
        stuck.push(EventStream::open_with(address, "/busy", &[], Some(4096)).await);
    }
    let mut quiet = EventStream::open(address, "/quiet").await;
    eventually("all streams are on the shard", || async { on_shards(&hub) == MANY + 1 }).await;
    publish(&hub, "busy", "x".repeat(8 << 20)).await;
    // The shard has written to all of them, as much as their sockets take.
    let is_done = || async { hub.shards().iter().all(|shard| shard.mailbox == 0) };
    eventually("the event is processed", is_done).await;
    let slowest = async |name: &str| {
        let mut slowest = Duration::ZERO;
        for number in 0..10 {
            let began = Instant::now();
            publish(&hub, name, number).await;
            slowest = slowest.max(began.elapsed());
        }
        slowest
    };
    let slowest_of_quiet = slowest("quiet").await;
    assert!(slowest_of_quiet < SOON, "{slowest_of_quiet:?}");
    for number in 0..10 {
        assert_eq!(quiet.next().await.unwrap().data, number.to_string());
    }
    // After a second without progress they do not delay their own publishers either.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(slowest("busy").await < SOON);
    assert_eq!(on_shards(&hub), MANY + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishers_wait_for_clients_that_read_slowly_and_those_of_other_channels_do_not() {
    let hub = Hub::builder().queue_bytes_max(2 << 20).build(MemoryBroker::new());
    let address = serve(router(hub.clone()), 1).await;
    for _ in 0..MANY {
        let mut client = EventStream::open_with(address, "/busy", &[], Some(64 << 10)).await;
        tokio::spawn(async move {
            // 64 KiB each 100 ms.
            while client.next().await.is_ok() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
    }
    eventually("all streams are on the shard", || async { on_shards(&hub) == MANY }).await;
    let others = tokio::spawn({
        let hub = hub.clone();
        async move {
            let mut slowest = Duration::ZERO;
            for number in 0..30 {
                let began = Instant::now();
                publish(&hub, "quiet", number).await;
                slowest = slowest.max(began.elapsed());
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            slowest
        }
    });
    let (began, mut published) = (Instant::now(), 0);
    while began.elapsed() < Duration::from_secs(3) {
        publish(&hub, "busy", "x".repeat(64 << 10)).await;
        published += 1;
    }
    assert!(hub.stats().publishes_delayed > 0, "{published} published");
    // On a busy machine, a few clients may read more slowly than they should.
    let overflows = hub.stats().streams_ended.by(CloseReason::Overflow);
    assert!(overflows < MANY as u64 / 10, "{overflows} closed, {published} published");
    let slowest = others.await.unwrap();
    assert!(slowest < SOON, "{slowest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_batch_ends_no_stream_of_another_channel() {
    let hub = hub();
    let address = serve(router(hub.clone()), 1).await;
    let mut quiet = EventStream::open(address, "/quiet").await;
    let mut stuck = Vec::new();
    for number in 0..12 {
        let path = format!("/m{number}");
        stuck.push(EventStream::open_with(address, &path, &[], Some(4096)).await);
    }
    eventually("all streams are on the shard", || async { on_shards(&hub) == 13 }).await;
    let large = Event::new("x".repeat(8 << 20));
    let batch = (0..12).map(|number| Publish::to(channel(&format!("m{number}")), large.clone()));
    assert_eq!(hub.publish_all(batch).await.unwrap().len(), 12);
    publish(&hub, "quiet", "after").await;
    assert_eq!(quiet.next().await.unwrap().data, "after");
    assert_eq!(hub.stats().streams_ended.by(CloseReason::Overflow), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_slowest_clients_are_closed_when_the_node_holds_too_much() {
    let hub = hub();
    let address = serve(router(hub.clone()), 2).await;
    let mut stuck = Vec::new();
    for number in 0..40 {
        let path = format!("/m{number}");
        stuck.push(EventStream::open_with(address, &path, &[], Some(4096)).await);
    }
    // It pauses for a moment, while 280 MB wait for clients that do not read.
    let mut pausing = EventStream::open_with(address, "/quiet", &[], Some(4096)).await;
    eventually("all streams are on shards", || async { on_shards(&hub) == 41 }).await;
    for number in 0..35 {
        publish(&hub, &format!("m{number}"), "x".repeat(8 << 20)).await;
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    for _ in 0..100 {
        publish(&hub, "quiet", "x".repeat(50_000)).await;
    }
    for _ in 0..100 {
        assert_eq!(pausing.next().await.unwrap().data.len(), 50_000);
    }
    assert!(hub.stats().streams_ended.by(CloseReason::Overflow) > 0);
    assert!(on_shards(&hub) > 6, "only as many as necessary: {}", on_shards(&hub));
}
