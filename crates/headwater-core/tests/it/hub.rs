//! The behaviour of a hub that does not depend on its broker: bounds, slow subscriptions, draining,
//! and what `ready` returns.

use std::time::Duration;

use headwater_core::broker::{Broker, BrokerFuture, BrokerStatus, Sink};
use headwater_core::close::CloseReason;
use headwater_core::revocation::Revocation;
use headwater_core::{
    Channel, Error, ErrorKind, Event, Hub, Publish, Receipt, Rewind, Started, limits,
};
use tokio::time::timeout;

fn channel(name: &str) -> Channel {
    Channel::new(name).unwrap()
}

#[tokio::test]
async fn a_subscription_that_is_not_read_is_closed() {
    let hub =
        Hub::builder().queue_frames_max(10).build(headwater_core::memory::MemoryBroker::new());
    let mut slow = hub.subscribe([channel("a")]).unwrap();
    let mut fast = hub.subscribe([channel("a")]).unwrap();
    for number in 0..30 {
        hub.publish(&channel("a"), Event::new(number.to_string())).await.unwrap();
        assert_eq!(fast.next().await.unwrap().event().data(), number.to_string());
    }
    assert!(slow.next().await.is_none());
    assert_eq!(slow.closed(), Some(CloseReason::Overflow));
    assert_eq!(fast.closed(), None);
    drop(slow);
    assert_eq!(hub.stats().streams_ended.by(CloseReason::Overflow), 1);
    assert_eq!(hub.streams(), 1);
}

#[tokio::test]
async fn a_drain_delivers_queued_events_and_rejects_new_subscriptions() {
    let hub = Hub::in_memory();
    let mut subscription = hub.subscribe([channel("a")]).unwrap();
    let other = hub.subscribe([channel("a")]).unwrap();
    hub.publish(&channel("a"), Event::new("last")).await.unwrap();
    hub.drain();
    assert_eq!(subscription.next().await.unwrap().event().data(), "last");
    assert!(subscription.next().await.is_none());
    assert_eq!(subscription.closed(), Some(CloseReason::Drain));
    let rejected = hub.subscribe([channel("a")]).unwrap_err();
    assert_eq!(rejected.kind(), ErrorKind::Draining);
    drop(other);
    assert!(
        timeout(Duration::from_millis(20), hub.drained()).await.is_err(),
        "one subscription is left"
    );
    drop(subscription);
    hub.drained().await;
    hub.publish(&channel("a"), Event::new("publishing continues")).await.unwrap();
}

#[tokio::test]
async fn exceeding_a_bound_is_an_error() {
    let hub = Hub::in_memory();
    assert_eq!(hub.subscribe([]).unwrap_err().kind(), ErrorKind::Invalid);
    let many = (0..101).map(|number| channel(&format!("{number}")));
    let error = hub.subscribe(many).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert!(error.to_string().contains("101 channels"), "{error}");
    let large = Event::new("x".repeat(limits::EVENT_DATA_BYTES_MAX + 1));
    let error = hub.publish(&channel("a"), large).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert_eq!((hub.streams(), hub.channels()), (0, 0));
}

#[tokio::test]
async fn a_channel_named_twice_counts_once() {
    let hub = Hub::in_memory();
    let subscription = hub.subscribe([channel("a"), channel("b"), channel("a")]).unwrap();
    assert_eq!((hub.streams(), hub.channels(), hub.subscribers(&channel("a"))), (1, 2, 1));
    assert_eq!(subscription.channels().count(), 2);
}

#[tokio::test]
async fn ready_reports_how_a_subscription_starts() {
    let hub = Hub::in_memory();
    let news = channel("news");
    let mut live = hub.subscribe([news.clone()]).unwrap();
    assert!(matches!(live.ready().await, Started::Live));
    hub.publish(&news, Event::new("1")).await.unwrap();
    let mut rewound = hub.subscribe([news.clone()]).unwrap().rewind(Rewind::All);
    assert!(matches!(rewound.ready().await, Started::Replaying));
    let end = Publish::to(news.clone(), Event::new("2")).with_end(true);
    let receipt = hub.publish_all([end]).await.unwrap().remove(0);
    let id = receipt.id.unwrap().to_string();
    let mut ended = hub.subscribe([news.clone()]).unwrap().after(id);
    assert!(matches!(ended.ready().await, Started::Ended));
    assert!(ended.is_finished());
}

/// Delivers nothing. `subscribed` is denied if `denies`, and never answers otherwise.
struct Silent {
    denies: bool,
}

impl Broker for Silent {
    fn start(&mut self, _: Sink) {}

    fn publish(&self, _: Vec<Publish>) -> BrokerFuture<'_, Result<Vec<Receipt>, Error>> {
        Box::pin(async { Err(Error::new(ErrorKind::Unavailable, "this broker cannot publish")) })
    }

    fn subscribe(&self, _: &Channel) {}

    fn unsubscribe(&self, _: &Channel) {}

    fn subscribed<'a>(&'a self, _: &'a Channel) -> BrokerFuture<'a, Result<(), Error>> {
        Box::pin(async {
            if self.denies {
                return Err(Error::new(ErrorKind::PermissionDenied, "channel denied"));
            }
            std::future::pending().await
        })
    }

    fn status(&self) -> BrokerStatus {
        BrokerStatus::default()
    }
}

#[tokio::test(start_paused = true)]
async fn ready_reports_a_broker_that_denies_or_does_not_answer() {
    for (denies, kind) in [(true, ErrorKind::PermissionDenied), (false, ErrorKind::Unavailable)] {
        let hub = Hub::new(Silent { denies });
        let mut subscription = hub.subscribe([channel("a")]).unwrap();
        match subscription.ready().await {
            Started::Unconfirmed(error) => assert_eq!(error.kind(), kind),
            other => panic!("{other:?}"),
        }
    }
}

/// Neither what waits in the queue, nor what was read ahead, nor another page.
#[tokio::test]
async fn a_revoked_subscription_delivers_nothing_more_in_any_phase() {
    let hub = Hub::in_memory();
    let data = "x".repeat(10_000);
    for _ in 0..500 {
        hub.publish(&channel("a"), Event::new(data.as_str())).await.unwrap();
    }
    let own = |subscription: headwater_core::Subscription| subscription.owned_by(Some("ann"), None);
    let subscribe = || own(hub.subscribe([channel("a")]).unwrap());
    let mut live = subscribe();
    live.ready().await;
    let mut replaying = subscribe().rewind(Rewind::All);
    replaying.ready().await;
    let mut read_ahead = subscribe().rewind(Rewind::All);
    assert!(read_ahead.next().await.is_some());
    let mut unread = subscribe().rewind(Rewind::All);
    hub.publish(&channel("a"), Event::new("queued")).await.unwrap();
    hub.revoke(&Revocation::User("ann".into())).await.unwrap();
    for (phase, subscription) in [
        ("live", &mut live),
        ("replaying", &mut replaying),
        ("read ahead", &mut read_ahead),
        ("unread", &mut unread),
    ] {
        assert!(subscription.take_waiting(usize::MAX).is_none(), "{phase}");
        assert!(subscription.next().await.is_none(), "{phase}");
        assert_eq!(subscription.closed(), Some(CloseReason::Revoked), "{phase}");
    }
}
