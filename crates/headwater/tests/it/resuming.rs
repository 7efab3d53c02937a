//! Resuming streams: no event is lost, duplicated or reordered, and a gap is reported when that is
//! impossible. Look here for the guarantees of `after` and `rewind`.

use std::time::Duration;

use headwater::broker::MemoryBroker;
use headwater::event::IdempotencyKey;
use headwater::log::RetentionRules;
use headwater::stream::{CloseReason, Frame, GapReason};
use headwater::{Channel, ErrorKind, Event, Hub, Publish, Rewind, Subscription};
use headwater_test_support::PATIENCE;
use tokio::time::timeout;

fn channel(name: &str) -> Channel {
    Channel::new(name).unwrap()
}

fn hub(rule: &str) -> Hub {
    Hub::new(MemoryBroker::with_retention(RetentionRules::new().with_rule(rule).unwrap()))
}

async fn publish(hub: &Hub, name: &str, data: impl ToString) -> String {
    let receipt = hub.publish(&channel(name), Event::new(data.to_string())).await.unwrap();
    receipt.id.expect("an id").to_string()
}

/// The next frame, as text: the data of an event, the reason of a gap.
async fn next(subscription: &mut Subscription) -> Option<String> {
    let frame = timeout(PATIENCE, subscription.next()).await.expect("a frame in time")?;
    Some(describe(&frame))
}

fn describe(frame: &Frame) -> String {
    match frame.gap() {
        Some(gap) => format!("gap {} {}", gap.channel, gap.reason),
        None => frame.event().data().to_owned(),
    }
}

/// The next `count` frames, as one text.
async fn take(subscription: &mut Subscription, count: usize) -> String {
    let mut taken = Vec::new();
    for _ in 0..count {
        taken.push(next(subscription).await.expect("an open subscription"));
    }
    taken.join(" ")
}

#[tokio::test]
async fn one_id_resumes_several_channels_in_order() {
    let hub = hub("* events=1000");
    for number in 0..3 {
        publish(&hub, "a", format!("a{number}")).await;
        publish(&hub, "b", format!("b{number}")).await;
        publish(&hub, "c", format!("c{number}")).await;
    }
    let id = publish(&hub, "a", "seen").await;
    for number in 3..6 {
        publish(&hub, "b", format!("b{number}")).await;
        publish(&hub, "a", format!("a{number}")).await;
        publish(&hub, "c", format!("c{number}")).await;
    }
    let mut resumed = hub.subscribe([channel("a"), channel("b")]).unwrap().after(id);
    assert_eq!(take(&mut resumed, 6).await, "b3 a3 b4 a4 b5 a5");
    publish(&hub, "b", "live").await;
    assert_eq!(next(&mut resumed).await.unwrap(), "live");
}

#[tokio::test]
async fn replay_joins_live_without_gap_or_duplicate_while_others_publish() {
    let hub = Hub::builder().queue_frames_max(100_000).build(MemoryBroker::with_retention(
        RetentionRules::new().with_rule("* events=100000 bytes=64MiB").unwrap(),
    ));
    let first = publish(&hub, "a", 0).await;
    let publisher = tokio::spawn({
        let hub = hub.clone();
        async move {
            for number in 1..=5_000 {
                publish(&hub, if number % 3 == 0 { "b" } else { "a" }, number).await;
                if number % 50 == 0 {
                    tokio::task::yield_now().await;
                }
            }
        }
    });
    let mut id = first;
    let mut expected = 1;
    while expected <= 5_000 {
        let mut stream = hub.subscribe([channel("a"), channel("b")]).unwrap().after(id.clone());
        // Each reads a random number of events before it is dropped.
        for _ in 0..fastrand::usize(1..700) {
            let frame = timeout(PATIENCE, stream.next()).await.unwrap().unwrap();
            assert_eq!(frame.event().data(), expected.to_string());
            id = frame.position().unwrap().to_string();
            expected += 1;
            if expected > 5_000 {
                break;
            }
        }
    }
    publisher.await.unwrap();
}

#[tokio::test]
async fn ids_that_cannot_be_found_cause_one_gap_and_then_live_events() {
    let hub = hub("* events=1000");
    publish(&hub, "a", "old").await;
    let long = "x".repeat(10_000);
    for (id, reason) in [
        ("abc-1", GapReason::Epoch),
        ("abc-1~def-7", GapReason::Epoch),
        ("nonsense", GapReason::UnknownId),
        ("two words\u{1}", GapReason::UnknownId),
        (long.as_str(), GapReason::UnknownId),
        ("…", GapReason::UnknownId),
    ] {
        let mut stream = hub.subscribe([channel("a")]).unwrap().after(id.to_owned());
        let frame = timeout(PATIENCE, stream.next()).await.unwrap().unwrap();
        assert_eq!(frame.gap().expect("a gap").reason, reason, "{id}");
        let moved_to = frame.position().expect("the client's position moves").to_string();
        publish(&hub, "a", "live").await;
        assert_eq!(next(&mut stream).await.unwrap(), "live");
        // A client that resumes from the position of the gap gets no other gap.
        let mut again = hub.subscribe([channel("a")]).unwrap().after(moved_to);
        assert_eq!(next(&mut again).await.unwrap(), "live");
    }
    // An offset that this log never reached.
    let last = publish(&hub, "a", "last").await;
    let (epoch, _) = last.split_once('-').unwrap();
    let mut stream = hub.subscribe([channel("a")]).unwrap().after(format!("{epoch}-99999"));
    assert_eq!(next(&mut stream).await.unwrap(), "gap a unknown-id");
    publish(&hub, "a", "live").await;
    assert_eq!(next(&mut stream).await.unwrap(), "live");
    assert_eq!(hub.stats().gaps.by(GapReason::UnknownId), 5);
}

#[tokio::test]
async fn without_an_id_a_stream_starts_now() {
    let hub = hub("* events=1000");
    publish(&hub, "a", "old").await;
    for id in [None, Some(String::new())] {
        let mut stream = hub.subscribe([channel("a")]).unwrap().after(id);
        stream.ready().await;
        publish(&hub, "a", "new").await;
        assert_eq!(next(&mut stream).await.unwrap(), "new");
    }
}

#[tokio::test]
async fn trimmed_history_is_reported_and_the_rest_is_replayed() {
    let hub = hub("* events=3");
    let id = publish(&hub, "a", 0).await;
    let other = publish(&hub, "b", "other").await;
    for number in 1..=5 {
        publish(&hub, "a", number).await;
    }
    let mut stream = hub.subscribe([channel("a")]).unwrap().after(id);
    assert_eq!(take(&mut stream, 4).await, "gap a trimmed 3 4 5");
    // Only a has missing events, so only a gets a gap.
    let mut stream = hub.subscribe([channel("a"), channel("b")]).unwrap().after(other);
    assert_eq!(take(&mut stream, 4).await, "gap a trimmed 3 4 5");
    let mut stream = hub.subscribe([channel("b")]).unwrap().after(publish(&hub, "a", 6).await);
    publish(&hub, "b", "live").await;
    assert_eq!(next(&mut stream).await.unwrap(), "live");
}

#[tokio::test]
async fn without_history_the_ring_of_a_lingering_channel_is_replayed() {
    let hub = hub("* off");
    let mut stream = hub.subscribe([channel("a")]).unwrap();
    stream.ready().await;
    let id = publish(&hub, "a", 1).await;
    drop(stream);
    // The channel lingers without subscribers.
    publish(&hub, "a", 2).await;
    publish(&hub, "a", 3).await;
    let mut stream = hub.subscribe([channel("a")]).unwrap().after(id.clone());
    assert_eq!(take(&mut stream, 2).await, "2 3");

    let hub = Hub::builder()
        .linger(Duration::ZERO)
        .build(MemoryBroker::with_retention(RetentionRules::new().with_rule("* off").unwrap()));
    let id = publish(&hub, "a", 1).await;
    publish(&hub, "a", 2).await;
    let mut stream = hub.subscribe([channel("a")]).unwrap().after(id);
    assert_eq!(next(&mut stream).await.unwrap(), "gap a trimmed");
}

#[tokio::test]
async fn a_publisher_id_resumes_too() {
    let hub = hub("* events=5000 bytes=64MiB");
    let with_id = |id: &str, data: &str| Event::new(data).with_id(id).unwrap();
    let a = channel("a");
    publish(&hub, "a", "before").await;
    hub.publish(&a, with_id("order-1", "one")).await.unwrap();
    publish(&hub, "b", "between").await;
    hub.publish(&a, with_id("order-1", "one again")).await.unwrap();
    let mut stream = hub.subscribe([a.clone(), channel("b")]).unwrap().after("order-1".to_owned());
    assert_eq!(take(&mut stream, 2).await, "between one again");
    // Even if it is older than the ring.
    for number in 0..2_000 {
        publish(&hub, "a", number).await;
    }
    let mut stream = hub.subscribe([a]).unwrap().after("order-1".to_owned());
    assert_eq!(take(&mut stream, 3).await, "one again 0 1");
}

#[tokio::test]
async fn rewinds_by_count_by_age_and_to_the_beginning() {
    let hub = hub("* events=5000 bytes=64MiB");
    for number in 0..3_000 {
        publish(&hub, "a", number).await;
    }
    let rewound = |rewind| hub.subscribe([channel("a"), channel("empty")]).unwrap().rewind(rewind);
    assert_eq!(take(&mut rewound(Rewind::Events(2)), 2).await, "2998 2999");
    assert_eq!(next(&mut rewound(Rewind::Events(2_500))).await.unwrap(), "500");
    assert_eq!(next(&mut rewound(Rewind::Events(9_999))).await.unwrap(), "0");
    assert_eq!(next(&mut rewound(Rewind::All)).await.unwrap(), "0");
    assert_eq!(next(&mut rewound(Rewind::Age(Duration::from_secs(60)))).await.unwrap(), "0");
    let mut none = rewound(Rewind::Events(0));
    none.ready().await;
    publish(&hub, "a", "live").await;
    assert_eq!(next(&mut none).await.unwrap(), "live");
    tokio::time::sleep(Duration::from_millis(60)).await;
    publish(&hub, "a", "young").await;
    let mut young = rewound(Rewind::Age(Duration::from_millis(50)));
    assert_eq!(next(&mut young).await.unwrap(), "young");
}

#[tokio::test]
async fn an_ended_channel_finishes_its_streams_and_stays_ended() {
    let hub = hub("* events=1000");
    let a = channel("a");
    let mut subscriber = hub.subscribe([a.clone()]).unwrap();
    let mut both = hub.subscribe([a.clone(), channel("b")]).unwrap();
    subscriber.ready().await;
    both.ready().await;
    let first = publish(&hub, "a", "first").await;
    let end = Publish::to(a.clone(), Event::new("end")).with_end(true);
    let last = hub.publish_all([end]).await.unwrap()[0].id.clone().unwrap().to_string();
    assert_eq!(take(&mut subscriber, 2).await, "first end");
    assert_eq!(next(&mut subscriber).await, None);
    assert_eq!(subscriber.closed(), Some(CloseReason::Finished));
    // Another channel is open, so the stream continues.
    assert_eq!(take(&mut both, 2).await, "first end");
    publish(&hub, "b", "more").await;
    assert_eq!(next(&mut both).await.unwrap(), "more");

    let error = hub.publish(&a, Event::new("too late")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Ended);

    let mut up_to_date = hub.subscribe([a.clone()]).unwrap().after(last);
    up_to_date.ready().await;
    assert!(up_to_date.is_finished());
    let mut new = hub.subscribe([a.clone()]).unwrap();
    new.ready().await;
    assert!(new.is_finished());
    let mut missed_end = hub.subscribe([a.clone()]).unwrap().after(first);
    missed_end.ready().await;
    assert!(!missed_end.is_finished());
    assert_eq!(next(&mut missed_end).await.unwrap(), "end");
    assert_eq!(next(&mut missed_end).await, None);
    let mut late = hub.subscribe([a]).unwrap().rewind(Rewind::All);
    assert_eq!(take(&mut late, 2).await, "first end");
    assert_eq!(next(&mut late).await, None);
}

#[tokio::test]
async fn a_repeated_publish_is_one_event() {
    let hub = hub("* events=1000");
    let mut subscriber = hub.subscribe([channel("a")]).unwrap();
    subscriber.ready().await;
    let keyed = || {
        Publish::to(channel("a"), Event::new("once")).with_key(IdempotencyKey::new("key").unwrap())
    };
    let first = hub.publish_all([keyed()]).await.unwrap();
    let second = hub.publish_all([keyed()]).await.unwrap();
    assert_eq!(first, second);
    publish(&hub, "a", "next").await;
    assert_eq!(take(&mut subscriber, 2).await, "once next");
}

/// A slow reader of a long history holds one page of it in memory, and events published meanwhile
/// do not overflow its queue.
#[tokio::test]
async fn a_replay_is_read_as_it_is_taken() {
    let hub = hub("* events=100000 bytes=512MiB");
    let id = publish(&hub, "a", "begin").await;
    let data = "x".repeat(10_000);
    for _ in 0..5_000 {
        hub.publish(&channel("a"), Event::new(data.clone())).await.unwrap();
    }
    let mut stream = hub.subscribe([channel("a")]).unwrap().after(id);
    for taken in 0..5_000 {
        if taken % 100 == 0 {
            // In total, more than a queue holds.
            hub.publish(&channel("a"), Event::new(data.clone())).await.unwrap();
        }
        assert_eq!(next(&mut stream).await.expect("an open stream").len(), data.len());
    }
    assert_eq!(stream.closed(), None);
}
