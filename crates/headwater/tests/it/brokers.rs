//! The contract of `Broker`, held for every implementation by one suite.

use std::time::Duration;

use headwater::{
    Channel, CloseReason, ErrorKind, Event, Hub, HubBuilder, MemoryBroker, RedisBroker,
    Subscription,
};
use headwater_test_support::{PATIENCE, RedisServer, eventually};
use tokio::time::timeout;

/// Runs a test over both brokers.
macro_rules! over_both_brokers {
    ($($test:ident,)*) => {
        mod memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test(|builder| builder.build(super::MemoryBroker::new())).await;
            })*
        }

        mod redis {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                let server = super::RedisServer::start();
                super::$test(|builder| {
                    builder.build(super::RedisBroker::connect(&server.url()).unwrap())
                })
                .await;
            })*
        }
    };
}

over_both_brokers! {
    every_listener_gets_every_event_in_order,
    events_keep_all_their_parts,
    concurrent_publishers_are_seen_in_one_order,
    a_batch_keeps_its_order_over_channels,
    a_channel_left_and_joined_again_delivers,
    many_channels_on_one_subscription,
    a_subscription_that_is_not_read_ends,
    drain_gives_what_waits_and_refuses_new_ones,
    too_much_is_refused,
}

fn channel(name: &str) -> Channel {
    Channel::new(name).unwrap()
}

/// Waits until the broker is connected and all channels are confirmed.
async fn ready(hub: &Hub) {
    eventually("all channels are confirmed", || async {
        let health = hub.status();
        health.ready && health.channels_confirmed == health.channels_wanted
    })
    .await;
}

async fn next(subscription: &mut Subscription) -> Event {
    let frame = timeout(PATIENCE, subscription.next()).await.expect("an event in time");
    frame.expect("an open subscription").event()
}

async fn every_listener_gets_every_event_in_order(build: impl Fn(HubBuilder) -> Hub) {
    let hub = build(Hub::builder().queue_frames_max(5_000));
    let mut subscriptions: Vec<_> =
        (0..3).map(|_| hub.subscribe([channel("a")]).unwrap()).collect();
    ready(&hub).await;
    for number in 0..2_000 {
        hub.publish(&channel("a"), Event::new(number.to_string())).await.unwrap();
    }
    for subscription in &mut subscriptions {
        for number in 0..2_000 {
            assert_eq!(next(subscription).await.data(), number.to_string());
        }
    }
}

async fn events_keep_all_their_parts(build: impl Fn(HubBuilder) -> Hub) {
    let hub = build(Hub::builder());
    let mut subscription = hub.subscribe([channel("a: b/ü")]).unwrap();
    ready(&hub).await;
    let plain = Event::new("two\nlines");
    let named = plain.clone().with_name("price").unwrap();
    let all = named.clone().with_id("x-1").unwrap().with_retry(Duration::from_millis(1234));
    for event in [plain, named, all, Event::new("")] {
        let receipt = hub.publish(&channel("a: b/ü"), event.clone()).await.unwrap();
        let id = receipt.id.expect("an id");
        assert!(event.id().is_none_or(|own| *own == id));
        let seen = event.with_id(id.as_str()).unwrap();
        assert_eq!(next(&mut subscription).await, seen);
    }
}

async fn concurrent_publishers_are_seen_in_one_order(build: impl Fn(HubBuilder) -> Hub) {
    let hub = build(Hub::builder().queue_frames_max(5_000));
    let mut one = hub.subscribe([channel("a")]).unwrap();
    let mut two = hub.subscribe([channel("a")]).unwrap();
    ready(&hub).await;
    let publishers: Vec<_> = (0..4)
        .map(|publisher| {
            let hub = hub.clone();
            tokio::spawn(async move {
                for number in 0..250 {
                    let event = Event::new(format!("{publisher} {number}"));
                    // Plain and in an envelope in turn: two ways through Redis, one order.
                    let event = if number % 2 == 0 { event } else { event.with_name("n").unwrap() };
                    hub.publish(&channel("a"), event).await.unwrap();
                }
            })
        })
        .collect();
    for publisher in publishers {
        publisher.await.unwrap();
    }
    let mut counts = [0; 4];
    for _ in 0..1_000 {
        let event = next(&mut one).await;
        assert_eq!(event, next(&mut two).await);
        let (publisher, number) = event.data().split_once(' ').unwrap();
        let count = &mut counts[publisher.parse::<usize>().unwrap()];
        assert_eq!(number, count.to_string(), "a publisher's events keep their order");
        *count += 1;
    }
}

async fn a_batch_keeps_its_order_over_channels(build: impl Fn(HubBuilder) -> Hub) {
    let hub = build(Hub::builder());
    let mut subscription = hub.subscribe([channel("a"), channel("b")]).unwrap();
    ready(&hub).await;
    let batch: Vec<_> = (0..100)
        .map(|number| {
            let name = if number % 2 == 0 { "a" } else { "b" };
            (channel(name), Event::new(number.to_string()))
        })
        .collect();
    let receipts = hub.publish_all(batch).await.unwrap();
    assert_eq!(receipts.len(), 100);
    assert_eq!(receipts[1].channel, channel("b"));
    for number in 0..100 {
        assert_eq!(next(&mut subscription).await.data(), number.to_string());
    }
}

async fn a_channel_left_and_joined_again_delivers(build: impl Fn(HubBuilder) -> Hub) {
    for linger in [Duration::ZERO, Duration::from_millis(1), Duration::from_secs(60)] {
        let hub = build(Hub::builder().linger(linger));
        ready(&hub).await;
        for round in 0..100 {
            let mut subscription = hub.subscribe([channel("a")]).unwrap();
            subscription.ready().await;
            let event = Event::new(format!("{linger:?} {round}"));
            hub.publish(&channel("a"), event.clone()).await.unwrap();
            assert_eq!(next(&mut subscription).await.data(), event.data());
            drop(subscription);
            assert_eq!((hub.streams(), hub.channels()), (0, 0));
        }
    }
}

async fn many_channels_on_one_subscription(build: impl Fn(HubBuilder) -> Hub) {
    let hub = build(Hub::builder());
    let names: Vec<_> = (0..100).map(|number| channel(&format!("many {number}"))).collect();
    let twice = names.iter().chain(&names).cloned();
    let mut subscription = hub.subscribe(twice).unwrap();
    assert_eq!((hub.streams(), hub.channels()), (1, 100));
    ready(&hub).await;
    for name in &names {
        hub.publish(name, Event::new("x")).await.unwrap();
        let frame = timeout(PATIENCE, subscription.next()).await.unwrap().unwrap();
        assert_eq!(frame.channel(), Some(name));
    }
}

async fn a_subscription_that_is_not_read_ends(build: impl Fn(HubBuilder) -> Hub) {
    let hub = build(Hub::builder().queue_frames_max(10));
    let mut slow = hub.subscribe([channel("a")]).unwrap();
    let mut fast = hub.subscribe([channel("a")]).unwrap();
    ready(&hub).await;
    for number in 0..30 {
        hub.publish(&channel("a"), Event::new(number.to_string())).await.unwrap();
        assert_eq!(next(&mut fast).await.data(), number.to_string());
    }
    assert!(timeout(PATIENCE, slow.next()).await.unwrap().is_none());
    assert_eq!(slow.closed(), Some(CloseReason::Overflow));
    assert_eq!(fast.closed(), None);
    drop(slow);
    assert_eq!(hub.stats().streams_ended.by(CloseReason::Overflow), 1);
    assert_eq!(hub.streams(), 1);
}

async fn drain_gives_what_waits_and_refuses_new_ones(build: impl Fn(HubBuilder) -> Hub) {
    let hub = build(Hub::builder());
    let mut subscription = hub.subscribe([channel("a")]).unwrap();
    let mut witness = hub.subscribe([channel("a")]).unwrap();
    ready(&hub).await;
    hub.publish(&channel("a"), Event::new("last")).await.unwrap();
    next(&mut witness).await;
    hub.drain();
    assert_eq!(next(&mut subscription).await.data(), "last");
    assert!(subscription.next().await.is_none());
    assert_eq!(subscription.closed(), Some(CloseReason::Drain));
    let refused = hub.subscribe([channel("a")]).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Draining);
    drop(witness);
    assert!(timeout(Duration::from_millis(20), hub.drained()).await.is_err(), "one is left");
    drop(subscription);
    timeout(PATIENCE, hub.drained()).await.unwrap();
    hub.publish(&channel("a"), Event::new("publishing goes on")).await.unwrap();
}

async fn too_much_is_refused(build: impl Fn(HubBuilder) -> Hub) {
    let hub = build(Hub::builder());
    assert_eq!(hub.subscribe([]).unwrap_err().kind(), ErrorKind::Invalid);
    let many = (0..101).map(|number| channel(&format!("{number}")));
    let error = hub.subscribe(many).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert!(error.to_string().contains("101 channels"), "{error}");
    let large = Event::new("x".repeat(headwater::limits::EVENT_DATA_BYTES_MAX + 1));
    let error = hub.publish(&channel("a"), large).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert_eq!((hub.streams(), hub.channels()), (0, 0));
}
