//! The fan-out of a node: publish, subscribe, deliver, drain. Look here for the road of an event.

mod interest;
mod linger;
mod queue;
mod stats;
mod subscription;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::broker::{Broker, Health, MemoryBroker, Receipt, Sink};
use crate::channel::Channel;
use crate::closed::Closed;
use crate::error::{Error, ErrorKind};
use crate::event::Event;
use crate::frame::Frame;
use crate::limits;

use interest::Interest;
use linger::Linger;
use queue::Queue;
pub(crate) use stats::Stats;
pub use stats::{EndedStreams, HubStats};
pub use subscription::Subscription;

/// The fan-out of this node: publishers give it events, streams subscribe to channels.
///
/// Cheap to clone, and meant to be injected: put it into axum's `State`.
///
/// ```
/// use headwater::{Channel, Event, Hub};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), headwater::Error> {
/// let hub = Hub::in_memory();
/// let news = Channel::new("news")?;
/// let mut subscription = hub.subscribe([news.clone()])?;
/// hub.publish(&news, Event::new("hello")).await?;
/// let frame = subscription.next().await.expect("the hub is not ending");
/// assert_eq!(frame.event().data(), "hello");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Hub {
    inner: Arc<HubInner>,
}

/// Sets up a [`Hub`] with other bounds than the defaults of [`limits`].
#[derive(Debug, Clone)]
#[must_use]
pub struct HubBuilder {
    linger: Duration,
    queue_frames_max: usize,
    queue_bytes_max: usize,
    channels_per_stream_max: usize,
}

pub(crate) struct HubInner {
    broker: Box<dyn Broker>,
    interest: Interest,
    linger: Arc<Linger>,
    settings: HubBuilder,
    draining: AtomicBool,
    /// How many subscriptions there are, to wait for the last one.
    streams: watch::Sender<usize>,
    pub(crate) stats: Stats,
}

impl Hub {
    /// A hub over a broker, with the default bounds.
    pub fn new(broker: impl Broker) -> Self {
        Self::builder().build(broker)
    }

    /// A hub over the embedded broker: events stay in this process.
    pub fn in_memory() -> Self {
        Self::new(MemoryBroker::new())
    }

    /// A hub with other bounds.
    pub fn builder() -> HubBuilder {
        HubBuilder::default()
    }

    /// Publishes an event to everybody who listens to the channel, on every node.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] if the data is over [`limits::EVENT_DATA_BYTES_MAX`];
    /// [`ErrorKind::Unavailable`] or [`ErrorKind::Refused`] if the broker did not take it.
    ///
    /// # Cancel safety
    /// When the future is dropped before it resolves, the event is published or not.
    pub async fn publish(&self, channel: &Channel, event: Event) -> Result<Receipt, Error> {
        let mut receipts = self.publish_all(vec![(channel.clone(), event)]).await?;
        receipts.pop().ok_or_else(|| Error::new(ErrorKind::Protocol, "the broker gave no receipt"))
    }

    /// Publishes events in their order, in one go: with Redis, in one round trip.
    ///
    /// # Errors
    /// As [`publish`](Self::publish). Sizes are checked before the first event is published; after an
    /// error of the broker a beginning of the batch may have been published.
    pub async fn publish_all(&self, batch: Vec<(Channel, Event)>) -> Result<Vec<Receipt>, Error> {
        for (channel, event) in &batch {
            if event.data().len() > limits::EVENT_DATA_BYTES_MAX {
                return Err(Error::new(
                    ErrorKind::TooLarge,
                    format!(
                        "the event for channel {channel} has {} bytes of data: at most {} are allowed",
                        event.data().len(),
                        limits::EVENT_DATA_BYTES_MAX
                    ),
                ));
            }
        }
        let count = batch.len() as u64;
        let result = self.inner.broker.publish(batch).await;
        match &result {
            Ok(_) => self.inner.stats.published.add(count),
            Err(_) => self.inner.stats.publish_errors.add(1),
        }
        result
    }

    /// Listens to channels from now on. A channel named twice counts once. With Redis "now" is when it
    /// has confirmed them: see [`Subscription::confirmed`].
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] without a channel; [`ErrorKind::TooLarge`] with more than the hub allows on one stream
    /// (100 by default); [`ErrorKind::Draining`] when the hub is ending its streams;
    /// [`ErrorKind::NoRuntime`] outside of a Tokio runtime.
    pub fn subscribe(
        &self,
        channels: impl IntoIterator<Item = Channel>,
    ) -> Result<Subscription, Error> {
        let mut channels: Vec<Channel> = channels.into_iter().collect();
        channels.sort_unstable();
        channels.dedup();
        self.check_subscribe(channels.len())?;
        let settings = &self.inner.settings;
        let queue = Arc::new(Queue::new(settings.queue_frames_max, settings.queue_bytes_max));
        self.inner.streams.send_modify(|streams| *streams += 1);
        self.inner.stats.opened.add(1);
        let entries = channels
            .into_iter()
            .map(|channel| {
                let key = self.inner.listen(&channel, &queue);
                (channel, key)
            })
            .collect();
        let subscription = Subscription::new(Arc::clone(&self.inner), queue, entries);
        // A drain that began meanwhile may have missed this one.
        if self.is_draining() {
            subscription.queue().close(Closed::Drain);
        }
        Ok(subscription)
    }

    fn check_subscribe(&self, channels: usize) -> Result<(), Error> {
        let channels_max = self.inner.settings.channels_per_stream_max;
        if channels == 0 {
            return Err(Error::invalid("a subscription needs at least one channel"));
        }
        if channels > channels_max {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!(
                    "{channels} channels on one stream: at most {channels_max} are allowed, so open more streams"
                ),
            ));
        }
        if self.is_draining() {
            return Err(Error::new(
                ErrorKind::Draining,
                "the node is stopping and takes no new streams: try again in a moment",
            ));
        }
        let runtime = Handle::try_current().map_err(|error| {
            Error::new(ErrorKind::NoRuntime, "subscribe inside of a Tokio runtime")
                .with_source(error)
        })?;
        self.inner.linger.start(&runtime, || Arc::downgrade(&self.inner));
        Ok(())
    }

    /// Ends all streams in an orderly way: each gets what is waiting for it, then its end, with
    /// [`Closed::Drain`] as the reason. New subscriptions are refused from now on; publishing goes on.
    pub fn drain(&self) {
        self.inner.draining.store(true, Ordering::SeqCst);
        self.inner.interest.each_queue(|queue| queue.close(Closed::Drain));
    }

    /// Whether [`drain`](Self::drain) was called.
    pub fn is_draining(&self) -> bool {
        self.inner.draining.load(Ordering::SeqCst)
    }

    /// Resolves when no stream is left. Cancel safe.
    pub async fn drained(&self) {
        let mut streams = self.inner.streams.subscribe();
        // Fails only when the sender is gone, and we hold it.
        let _ = streams.wait_for(|streams| *streams == 0).await;
    }

    /// How many subscriptions are open.
    pub fn streams(&self) -> usize {
        *self.inner.streams.borrow()
    }

    /// How many channels have at least one listener.
    pub fn channels(&self) -> usize {
        self.inner.interest.channels()
    }

    /// How many listeners a channel has on this node.
    pub fn listeners(&self, channel: &Channel) -> usize {
        self.inner.interest.listeners(channel)
    }

    /// What the hub has counted since it began.
    pub fn stats(&self) -> HubStats {
        self.inner.stats.snapshot()
    }

    /// How the broker is.
    pub fn health(&self) -> Health {
        self.inner.broker.health()
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub")
            .field("streams", &self.streams())
            .field("channels", &self.channels())
            .finish_non_exhaustive()
    }
}

impl Default for HubBuilder {
    fn default() -> Self {
        Self {
            linger: limits::LINGER_DEFAULT,
            queue_frames_max: limits::QUEUE_FRAMES_MAX,
            queue_bytes_max: limits::QUEUE_BYTES_MAX,
            channels_per_stream_max: limits::CHANNELS_PER_STREAM_MAX,
        }
    }
}

impl HubBuilder {
    /// How long a channel stays subscribed in the broker after its last listener left. Default 60 s;
    /// zero unsubscribes at once.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// Most frames that may wait for one stream; at least 1. Default [`limits::QUEUE_FRAMES_MAX`].
    pub fn queue_frames_max(mut self, frames: usize) -> Self {
        self.queue_frames_max = frames.max(1);
        self
    }

    /// Most bytes that may wait for one stream; one frame alone may be larger. Default
    /// [`limits::QUEUE_BYTES_MAX`].
    pub fn queue_bytes_max(mut self, bytes: usize) -> Self {
        self.queue_bytes_max = bytes;
        self
    }

    /// Most channels of one stream. Default [`limits::CHANNELS_PER_STREAM_MAX`].
    pub fn channels_per_stream_max(mut self, channels: usize) -> Self {
        self.channels_per_stream_max = channels;
        self
    }

    /// The hub over a broker.
    pub fn build(self, mut broker: impl Broker) -> Hub {
        let inner = Arc::new_cyclic(|hub: &Weak<HubInner>| {
            broker.start(Sink::new(hub.clone()));
            HubInner {
                broker: Box::new(broker),
                interest: Interest::new(),
                linger: Arc::new(Linger::new(self.linger)),
                settings: self,
                draining: AtomicBool::new(false),
                streams: watch::Sender::new(0),
                stats: Stats::default(),
            }
        });
        Hub { inner }
    }
}

impl HubInner {
    /// Gives an event to all who listen to the channel. Never waits: a stream whose queue is full ends.
    pub(crate) fn deliver(&self, channel: &Channel, event: &Event) {
        self.stats.received.add(1);
        self.interest.with_listeners(channel, |listeners| {
            let frame = Frame::of_channel(channel, event);
            for queue in listeners {
                queue.push(&frame);
            }
        });
    }

    fn listen(&self, channel: &Channel, queue: &Arc<Queue>) -> usize {
        self.interest.insert(channel, queue, || self.broker.listen(channel))
    }

    /// A listener left. The channel stays subscribed for the linger.
    fn leave(&self, channel: &Channel, key: usize) {
        let unlisten = || self.broker.unlisten(channel);
        if self.interest.remove(channel, key, self.linger.period(), unlisten) {
            self.linger.add(channel.clone());
        }
    }

    /// The linger of a channel may be over; says when to look again if it is not.
    fn linger_over(&self, channel: &Channel) -> Option<tokio::time::Instant> {
        self.interest.sweep(channel, self.linger.period(), || self.broker.unlisten(channel))
    }

    fn stream_ended(&self, reason: Closed) {
        self.stats.ended(reason);
        self.streams.send_modify(|streams| *streams -= 1);
    }
}

impl Drop for HubInner {
    fn drop(&mut self) {
        self.linger.stop();
    }
}
