//! The embedded broker within its bounds: large batches, and channels that linger. Look here for
//! what one client may cost the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use headwater_core::broker::{Broker, BrokerFuture, BrokerStatus, Sink};
use headwater_core::budget::{Budget, Share};
use headwater_core::close::CloseReason;
use headwater_core::limits::{APPEND_EVENTS_MAX, LINGERING_CHANNELS_MAX};
use headwater_core::log::RetentionRules;
use headwater_core::memory::MemoryBroker;
use headwater_core::publish::IdempotencyKey;
use headwater_core::{Channel, Error, ErrorKind, Event, Hub, Publish, Receipt, Rewind};

fn channel(name: &str) -> Channel {
    Channel::new(name).unwrap()
}

/// The events of a large batch keep their order, and those of another publisher come between them
/// instead of after all.
#[tokio::test]
async fn a_large_batch_lets_others_publish() {
    let hub = Hub::in_memory();
    let mut stream = hub.subscribe([channel("a")]).unwrap();
    let count = 4 * APPEND_EVENTS_MAX + 1;
    let batch = (0..count).map(|number| (channel("a"), Event::new(number.to_string())));
    let (receipts, between) = tokio::join!(hub.publish_all(batch), async {
        hub.publish(&channel("b"), Event::new("between")).await.unwrap().position.unwrap().offset()
    });
    let receipts = receipts.unwrap();
    let offsets: Vec<u64> = receipts.iter().map(|it| it.position.unwrap().offset()).collect();
    assert!(offsets.is_sorted() && offsets.len() == count);
    assert!(offsets[0] < between && between < offsets[count - 1], "{between}");
    for number in 0..count {
        assert_eq!(stream.next().await.unwrap().event().data(), number.to_string());
    }
}

/// What makes a batch invalid is found before its first part is published.
#[tokio::test]
async fn a_large_batch_that_is_invalid_publishes_nothing() {
    let hub = Hub::in_memory();
    let event = |number: usize| Publish::to(channel("a"), Event::new(number.to_string()));
    let key = || IdempotencyKey::new("k").unwrap();
    let last = 3 * APPEND_EVENTS_MAX;
    let mut batch: Vec<Publish> = (0..=last).map(event).collect();
    batch[last - 1] = event(0).with_end(true);
    let refused = hub.publish_all(batch.clone()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Ended);
    batch[0] = event(0).with_key(key());
    batch[last] = event(0).with_key(key());
    let receipts = hub.publish_all(batch).await.unwrap();
    assert_eq!(receipts[0].position.unwrap().offset(), 1, "nothing was published before");
    assert_eq!(receipts[0], receipts[last], "keys are compared across parts");
}

#[tokio::test]
async fn one_body_to_many_channels_is_delivered_to_each_and_kept_once() {
    let budget = Budget::new(256 << 20);
    let broker = MemoryBroker::with_budget(RetentionRules::default(), &budget);
    let hub = Hub::builder().budget(&budget).queue_bytes_max(usize::MAX).build(broker);
    let mut stream = hub.subscribe([channel("c7"), channel("c50")]).unwrap();
    let event = Event::new("0123456789\n".repeat(300_000)).shared();
    let batch = (0..60).map(|number| (channel(&format!("c{number}")), event.clone()));
    hub.publish_all(batch).await.unwrap();
    let used = budget.account(Share::Log).used();
    assert!(used < event.data().len() + (1 << 20), "{used}");
    for name in ["c7", "c50"] {
        let frame = stream.next().await.unwrap();
        assert_eq!(frame.channel(), Some(&channel(name)));
        assert_eq!(frame.event().data(), event.data());
    }
    assert!(budget.account(Share::Rings).used() <= budget.account(Share::Rings).limit());
}

/// A stream whose channels alone need more than the share gets it, one at a time; others wait until
/// there is room, or end and resume.
#[tokio::test(start_paused = true)]
async fn replays_share_their_memory() {
    let budget = Budget::new(96 << 20);
    let replays = budget.account(Share::Replays);
    let broker = MemoryBroker::with_budget(RetentionRules::default(), &budget);
    let hub = Hub::builder().budget(&budget).build(broker);
    let channels: Vec<_> = (0..30).map(|number| channel(&format!("c{number}"))).collect();
    let data = "d".repeat(400_000);
    // More than rings hold.
    for channel in channels.iter().cycle().take(90) {
        hub.publish(channel, Event::new(data.clone())).await.unwrap();
    }
    let open = || {
        let names = channels.iter().cloned();
        hub.subscribe(names).unwrap().rewind(Rewind::Events(10))
    };
    let (mut first, mut second) = (open(), open());
    assert!(first.next().await.is_some());
    assert!(replays.used() > replays.limit(), "one may have more than there is");
    assert!(replays.used() < 31 * 400_100, "a page of each channel: {}", replays.used());
    assert!(second.next().await.is_none());
    assert_eq!(second.closed(), Some(CloseReason::Overflow));
    assert_eq!(replays.refusals(), 1);
    for _ in 1..90 {
        assert!(first.next().await.is_some());
    }
    hub.publish(&channels[0], Event::new("live")).await.unwrap();
    assert_eq!(first.next().await.unwrap().event().data(), "live");
    drop(second);
    assert_eq!(replays.used(), 0, "everything was given back");
    let mut third = open();
    assert!(third.next().await.is_some());
}

/// Counts the channels that are subscribed in it.
#[derive(Default)]
struct Counts(Arc<AtomicUsize>);

impl Broker for Counts {
    fn start(&mut self, _sink: Sink) {}

    fn publish(&self, _batch: Vec<Publish>) -> BrokerFuture<'_, Result<Vec<Receipt>, Error>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    fn subscribe(&self, _channel: &Channel) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn unsubscribe(&self, _channel: &Channel) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    fn status(&self) -> BrokerStatus {
        BrokerStatus::ready()
    }
}

#[tokio::test]
async fn streams_of_ever_new_channels_leave_a_bounded_number_of_them() {
    let subscribed = Arc::<AtomicUsize>::default();
    let hub = Hub::new(Counts(Arc::clone(&subscribed)));
    let kept = hub.subscribe([channel("kept")]).unwrap();
    for stream in 0..LINGERING_CHANNELS_MAX / 50 {
        // Two of each hundred are the same in all streams.
        let new = (0..98).map(|number| channel(&format!("{stream}:{number}")));
        drop(hub.subscribe(new.chain([channel("kept"), channel("shared")])).unwrap());
        assert!(subscribed.load(Ordering::Relaxed) <= LINGERING_CHANNELS_MAX + 1 + 100);
    }
    assert!(subscribed.load(Ordering::Relaxed) >= LINGERING_CHANNELS_MAX);
    assert_eq!((hub.streams(), hub.subscribers(&channel("kept"))), (1, 1));
    drop(kept);
}
