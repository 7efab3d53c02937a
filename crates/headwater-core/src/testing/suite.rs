//! The contract of [`Broker`] as a suite of checks that every implementation
//! passes.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::broker::Broker;
use crate::channel::Channel;
use crate::event::Event;
use crate::hub::{Hub, HubBuilder, Rewind, Started, Subscription};
use crate::publish::Publish;

/// How long the suite waits for a broker to get ready, and for an event to arrive.
pub const SUITE_PATIENCE: Duration = Duration::from_secs(20);

/// Checks that a broker satisfies its contract. `make` creates a broker that no hub uses yet; all
/// of them may share one backend, whose channels named `suite:...` nothing else may use meanwhile.
///
/// A broker that returns positions in its receipts is also checked for replay.
///
/// # Panics
/// If the broker breaks the contract; the message says where.
///
/// ```no_run
/// # async fn test() {
/// use headwater::broker::MemoryBroker;
///
/// headwater::testing::suite(async || MemoryBroker::new()).await;
/// # }
/// ```
pub async fn suite<B: Broker>(make: impl AsyncFn() -> B) {
    let hub = async |builder: HubBuilder| {
        let hub = builder.build(make().await);
        wait_until_ready(&hub).await;
        hub
    };
    let large = || Hub::builder().queue_frames_max(5_000);
    every_subscriber_receives_every_event_in_order(&hub(large()).await).await;
    events_keep_all_their_parts(&hub(Hub::builder()).await).await;
    concurrent_publishers_are_seen_in_one_order(&hub(large()).await).await;
    a_batch_keeps_its_order_across_channels(&hub(Hub::builder()).await).await;
    for linger in [Duration::ZERO, Duration::from_millis(1), Duration::from_secs(60)] {
        let hub = hub(Hub::builder().linger(linger)).await;
        a_channel_left_and_joined_again_delivers(&hub, linger).await;
    }
    many_channels_on_one_subscription(&hub(Hub::builder()).await).await;
    retained_events_are_replayed(&hub(Hub::builder()).await).await;
}

fn channel(name: &str) -> Channel {
    Channel::new(format!("suite:{name}")).expect("a valid name")
}

async fn wait_until_ready(hub: &Hub) {
    let deadline = Instant::now() + SUITE_PATIENCE;
    while !hub.status().is_ready() {
        assert!(Instant::now() < deadline, "the broker's status never became ready");
        sleep(Duration::from_millis(5)).await;
    }
}

async fn subscribe<const N: usize>(hub: &Hub, channels: [Channel; N]) -> Subscription {
    let mut subscription = hub.subscribe(channels).expect("a subscription");
    if let Started::Unconfirmed(error) = subscription.ready().await {
        panic!("`subscribed` failed for a channel of the suite: {error}");
    }
    subscription
}

async fn publish(hub: &Hub, channel: &Channel, event: Event) {
    hub.publish(channel, event).await.expect("the broker accepts the event");
}

async fn next(subscription: &mut Subscription) -> Event {
    let frame = timeout(SUITE_PATIENCE, subscription.next()).await;
    let frame = frame.expect("a published event did not arrive");
    let frame = frame.expect("the subscription closed though its queue has room");
    assert!(frame.gap().is_none(), "a gap was reported though nothing is missing: {frame:?}");
    frame.event()
}

async fn every_subscriber_receives_every_event_in_order(hub: &Hub) {
    let name = channel("order");
    let mut subscriptions = Vec::new();
    for _ in 0..3 {
        subscriptions.push(subscribe(hub, [name.clone()]).await);
    }
    for number in 0..2_000 {
        publish(hub, &name, Event::new(number.to_string())).await;
    }
    for subscription in &mut subscriptions {
        for number in 0..2_000 {
            assert_eq!(next(subscription).await.data(), number.to_string(), "events in order");
        }
    }
}

async fn events_keep_all_their_parts(hub: &Hub) {
    let name = channel("a: b/ü");
    let mut subscription = subscribe(hub, [name.clone()]).await;
    let data = Event::new("two\nlines");
    let named = data.clone().with_name("price").expect("a valid name");
    let all = named.clone().with_id("x-1").expect("a valid id");
    let all = all.with_retry(Duration::from_millis(1234));
    for event in [data, named, all, Event::new("")] {
        let receipt = hub.publish(&name, event.clone()).await.expect("the broker accepts it");
        assert_eq!(receipt.channel, name, "the receipt names the channel");
        let own = event.id().cloned();
        assert!(own.is_none() || own == receipt.id, "the publisher's id is in the receipt");
        let seen = next(&mut subscription).await;
        assert_eq!(
            (seen.data(), seen.name(), seen.retry()),
            (event.data(), event.name(), event.retry()),
            "data, name and retry arrive as they were published"
        );
        if let Some(id) = &receipt.id {
            assert_eq!(seen.id(), Some(id), "clients see the id of the receipt");
        }
    }
}

async fn concurrent_publishers_are_seen_in_one_order(hub: &Hub) {
    let name = channel("one order");
    let mut one = subscribe(hub, [name.clone()]).await;
    let mut two = subscribe(hub, [name.clone()]).await;
    let publishers: Vec<_> = (0..4)
        .map(|publisher| {
            let (hub, name) = (hub.clone(), name.clone());
            tokio::spawn(async move {
                for number in 0..250 {
                    let event = Event::new(format!("{publisher} {number}"));
                    // Brokers may carry events with and without a name in two ways.
                    let event = match number % 2 {
                        0 => event,
                        _ => event.with_name("n").expect("a valid name"),
                    };
                    publish(&hub, &name, event).await;
                }
            })
        })
        .collect();
    for publisher in publishers {
        publisher.await.expect("a publisher's task");
    }
    let mut counts = [0; 4];
    for _ in 0..1_000 {
        let event = next(&mut one).await;
        assert_eq!(event, next(&mut two).await, "all subscribers see one order");
        let (publisher, number) = event.data().split_once(' ').expect("two words");
        let count = &mut counts[publisher.parse::<usize>().expect("a number")];
        assert_eq!(number, count.to_string(), "the events of a publisher keep their order");
        *count += 1;
    }
}

async fn a_batch_keeps_its_order_across_channels(hub: &Hub) {
    let names = [channel("a"), channel("b")];
    let mut subscription = subscribe(hub, names.clone()).await;
    let batch: Vec<Publish> = (0..100)
        .map(|number| (names[number % 2].clone(), Event::new(number.to_string())).into())
        .collect();
    let receipts = hub.publish_all(batch).await.expect("the broker accepts the batch");
    let channels = receipts.iter().map(|receipt| &receipt.channel);
    assert!(channels.eq(names.iter().cycle().take(100)), "one receipt per event, in order");
    for number in 0..100 {
        assert_eq!(next(&mut subscription).await.data(), number.to_string(), "the batch's order");
    }
}

async fn a_channel_left_and_joined_again_delivers(hub: &Hub, linger: Duration) {
    let name = channel("again");
    for round in 0..100 {
        let mut subscription = subscribe(hub, [name.clone()]).await;
        let data = format!("{} ms {round}", linger.as_millis());
        publish(hub, &name, Event::new(data.clone())).await;
        assert_eq!(next(&mut subscription).await.data(), data, "a subscription starts now");
        drop(subscription);
        assert_eq!((hub.streams(), hub.channels()), (0, 0));
    }
}

async fn many_channels_on_one_subscription(hub: &Hub) {
    let names: [Channel; 100] = std::array::from_fn(|number| channel(&format!("many {number}")));
    let mut subscription = subscribe(hub, names.clone()).await;
    for name in &names {
        publish(hub, name, Event::new("x")).await;
        let frame = timeout(SUITE_PATIENCE, subscription.next()).await.expect("an event in time");
        assert_eq!(frame.expect("an open subscription").channel(), Some(name));
    }
}

/// Only for brokers with a log, which return positions.
async fn retained_events_are_replayed(hub: &Hub) {
    let name = channel("replay");
    // A stream of the channel lets the hub see the log.
    let mut live = subscribe(hub, [name.clone()]).await;
    let mut receipts = Vec::new();
    for number in 0..5 {
        let event = Event::new(number.to_string());
        receipts.push(hub.publish(&name, event).await.expect("the broker accepts it"));
        next(&mut live).await;
    }
    let Some(positions): Option<Vec<_>> = receipts.iter().map(|it| it.position).collect() else {
        return;
    };
    let offsets = positions.iter().map(|position| position.offset());
    assert!(offsets.clone().is_sorted_by(|one, two| one < two), "positions grow");
    drop(live);

    let id = receipts[1].id.clone().expect("an event with a position has an id");
    let resumed = hub.subscribe([name.clone()]).expect("a subscription").after(id.to_string());
    expect_replay(resumed, &["2", "3", "4"]).await;
    let rewound = hub.subscribe([name.clone()]).expect("a subscription");
    expect_replay(rewound.rewind(Rewind::Events(2)), &["3", "4"]).await;
    // A hub that knows nothing of the channel reads it from the broker, if backends are shared.
}

async fn expect_replay(mut subscription: Subscription, expected: &[&str]) {
    let started = subscription.ready().await;
    assert!(matches!(started, Started::Replaying), "there is something to replay: {started:?}");
    for data in expected {
        assert_eq!(next(&mut subscription).await.data(), *data, "retained events, in order");
    }
}
