//! The fan-out of a node: publish, subscribe, deliver, drain. Look here for the path of an event.

mod attach;
mod backpressure;
mod channel_cursor;
mod config;
mod entry;
mod fanout;
mod inner;
mod lifecycle;
mod linger;
mod pages;
mod recall;
mod registry;
mod replay;
mod revoked;
mod ring;
#[cfg(test)]
mod ring_tests;
mod search;
mod searches;
pub(crate) mod shard_port;
mod shard_replay;
mod start;
mod stats;
mod subscription;
mod table;

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::runtime::Handle;

use crate::broker::{Broker, BrokerStatus, Inlet, Sink};
use crate::budget::Budget;
use crate::channel::Channel;
use crate::close::CloseReason;
use crate::error::{Error, ErrorKind};
use crate::event::Event;
use crate::limits;
use crate::log::RetentionRules;
use crate::memory::MemoryBroker;
use crate::pattern::ChannelPatterns;
use crate::publish::{Publish, Receipt};
use crate::revocation::{Revocation, RevocationMark};
use crate::sse::encoded_len_max;
use crate::stream::mailbox::{Mailbox, Message};
use crate::stream::queue::Queue;

use config::HubConfig;
use fanout::Fanout;
use inner::HubInner;
use lifecycle::Lifecycle;
use linger::Linger;
use recall::Recall;
pub use start::Rewind;
pub use stats::{EndedStreams, Gaps, HubStats, ShardStats};
pub use subscription::{Started, Subscription};

/// The fan-out of this node: publishers pass events to it, streams subscribe to channels.
///
/// It is cheap to clone and made to be injected, for example as the state of a web framework.
///
/// ```
/// use headwater::{Channel, Event, Hub};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), headwater::Error> {
/// let hub = Hub::in_memory();
/// let news = Channel::new("news")?;
/// let mut subscription = hub.subscribe([news.clone()])?;
/// hub.publish(&news, Event::new("hello")).await?;
/// let frame = subscription.next().await.expect("the hub is not draining");
/// assert_eq!(frame.event().data(), "hello");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Hub {
    inner: Arc<HubInner>,
}

/// Builds a [`Hub`] with bounds other than the defaults in [`limits`].
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct HubBuilder {
    config: HubConfig,
}

impl Hub {
    /// A hub over a broker, with the default bounds.
    pub fn new(broker: impl Broker) -> Self {
        Self::builder().build(broker)
    }

    /// A hub over the embedded broker: events stay in this process.
    pub fn in_memory() -> Self {
        let builder = Self::builder();
        let broker = MemoryBroker::with_budget(RetentionRules::default(), &builder.config.budget);
        builder.build(broker)
    }

    /// A hub with other bounds.
    pub fn builder() -> HubBuilder {
        HubBuilder::default()
    }

    /// Publishes an event to all subscribers of a channel, on every node.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] if the data exceeds [`limits::EVENT_DATA_BYTES_MAX`];
    /// [`ErrorKind::Unavailable`] or [`ErrorKind::PermissionDenied`] if the broker did not accept
    /// it.
    ///
    /// # Cancel safety
    /// If the future is dropped before it resolves, the event may or may not have been published.
    pub async fn publish(&self, channel: &Channel, event: Event) -> Result<Receipt, Error> {
        let mut receipts = self.publish_all([(channel.clone(), event)]).await?;
        receipts
            .pop()
            .ok_or_else(|| Error::new(ErrorKind::Protocol, "the broker returned no receipt"))
    }

    /// Publishes events in order, as one batch: a networked broker needs one round trip.
    ///
    /// # Errors
    /// As [`publish`](Self::publish), and [`ErrorKind::Ended`] for a channel that has ended. Sizes
    /// are checked before the first event is published; after an error of the broker, part of the
    /// batch may have been published.
    ///
    /// # Backpressure
    /// A batch of more than [`limits::PUBLISH_BYTES_MAX`] is published in parts. Before each, the
    /// publisher waits up to [`limits::PUBLISH_WAIT_MAX`] while this node is far behind on the
    /// part's channels.
    pub async fn publish_all<P: Into<Publish>>(
        &self,
        batch: impl IntoIterator<Item = P>,
    ) -> Result<Vec<Receipt>, Error> {
        let batch: Vec<Publish> = batch.into_iter().map(Into::into).collect();
        for Publish { channel, event, .. } in &batch {
            if event.data().len() > limits::EVENT_DATA_BYTES_MAX {
                return Err(Error::new(
                    ErrorKind::TooLarge,
                    format!(
                        "the event for channel {channel} has {} bytes of data: at most {} are \
                         allowed",
                        event.data().len(),
                        limits::EVENT_DATA_BYTES_MAX
                    ),
                ));
            }
        }
        let mut receipts = Vec::with_capacity(batch.len());
        for part in parts(batch) {
            receipts.extend(self.publish_part(part).await?);
        }
        Ok(receipts)
    }

    async fn publish_part(&self, part: Vec<Publish>) -> Result<Vec<Receipt>, Error> {
        let fanout = &self.inner.fanout;
        let slots_in = |mailbox: &Arc<Mailbox>| {
            let slot = |publish: &Publish| {
                fanout.table.with(&publish.channel, |entry| entry.slot_in(mailbox)).flatten()
            };
            part.iter().filter_map(slot).collect()
        };
        fanout.pressure.admit(&fanout.stats, slots_in).await;
        let count = part.len() as u64;
        let result = self.inner.broker.publish(part).await;
        match &result {
            Ok(_) => fanout.stats.published.add(count),
            Err(_) => fanout.stats.publish_errors.add(1),
        }
        result
    }

    /// Subscribes to channels. A channel named twice counts once.
    ///
    /// The subscription starts now, which with a networked broker is when that broker has confirmed
    /// the channels: see [`Subscription::ready`]. To start earlier, call one of these before the
    /// first read: [`after`](Subscription::after) with the ID of the client's last event, or
    /// [`rewind`](Subscription::rewind).
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] without a channel; [`ErrorKind::TooLarge`] with more channels than
    /// the hub allows on one stream (100 by default); [`ErrorKind::Draining`] while the hub is
    /// draining; [`ErrorKind::NoRuntime`] outside a Tokio runtime.
    pub fn subscribe(
        &self,
        channels: impl IntoIterator<Item = Channel>,
    ) -> Result<Subscription, Error> {
        let mut channels: Vec<Channel> = channels.into_iter().collect();
        channels.sort_unstable();
        channels.dedup();
        self.check_subscribe(channels.len())?;
        let config = &self.inner.fanout.config;
        let queue = Arc::new(Queue::new(config.queue_frames_max, config.queue_bytes_max));
        self.inner.lifecycle.stream_opened(&self.inner.fanout.stats);
        let entries = channels
            .into_iter()
            .map(|channel| {
                let key = self.inner.join(&channel, &queue);
                (channel, key)
            })
            .collect();
        let subscription = Subscription::new(Arc::clone(&self.inner), queue, entries);
        // A drain that started meanwhile may have missed this subscription.
        if self.is_draining() {
            subscription.queue().close(CloseReason::Drain);
        }
        Ok(subscription)
    }

    fn check_subscribe(&self, channels: usize) -> Result<(), Error> {
        let channels_max = self.inner.fanout.config.channels_per_stream_max;
        if channels == 0 {
            return Err(Error::invalid("a subscription needs at least one channel"));
        }
        if channels > channels_max {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!(
                    "{channels} channels on one stream: at most {channels_max} are allowed, so \
                     open more streams"
                ),
            ));
        }
        if self.is_draining() {
            return Err(Error::new(
                ErrorKind::Draining,
                "the node is shutting down and accepts no new streams: retry in a moment",
            ));
        }
        let runtime = Handle::try_current().map_err(|error| {
            Error::new(ErrorKind::NoRuntime, "subscribe inside a Tokio runtime").with_source(error)
        })?;
        let runtime = self.inner.runtime.get_or_init(|| runtime);
        self.inner.linger.start(runtime, || {
            let hub = Arc::downgrade(&self.inner);
            move |due, expires| Some(hub.upgrade()?.sweep(due, expires))
        });
        Ok(())
    }

    /// Closes all streams gracefully: each delivers the frames that wait in its queue and then ends
    /// with [`CloseReason::Drain`]. From now on new subscriptions are rejected; publishing still
    /// works.
    pub fn drain(&self) {
        self.inner.lifecycle.drain();
        self.inner
            .fanout
            .table
            .each(|_, entry| entry.queues().for_each(|queue| queue.close(CloseReason::Drain)));
        for mailbox in self.inner.fanout.pressure.shards() {
            // A shard that is gone has no streams to drain.
            let _ = mailbox.push(Message::Drain);
        }
    }

    /// Whether [`drain`](Self::drain) was called.
    pub fn is_draining(&self) -> bool {
        self.inner.lifecycle.is_draining()
    }

    /// Resolves when no stream is left. Cancel safe.
    pub async fn drained(&self) {
        self.inner.lifecycle.drained().await;
    }

    /// The number of open subscriptions.
    pub fn streams(&self) -> usize {
        self.inner.lifecycle.streams()
    }

    /// The number of channels with at least one subscriber.
    pub fn channels(&self) -> usize {
        self.inner.fanout.table.channels()
    }

    /// The number of subscribers that a channel has on this node.
    pub fn subscribers(&self, channel: &Channel) -> usize {
        self.inner.fanout.table.subscribers(channel)
    }

    /// The size of the recent frames in the rings of all channels, in bytes.
    pub fn ring_bytes(&self) -> usize {
        self.inner.fanout.table.ring_bytes()
    }

    /// The memory that the node may keep, and what it does keep.
    pub fn budget(&self) -> &Budget {
        &self.inner.fanout.config.budget
    }

    /// The hub's counters since it was created.
    pub fn stats(&self) -> HubStats {
        self.inner.fanout.stats.snapshot()
    }

    /// The figures of the engine's shards that serve this hub. Empty until `serve` has attached a
    /// stream to a shard.
    pub fn shards(&self) -> Vec<ShardStats> {
        self.inner.fanout.pressure.shards().iter().map(|mailbox| ShardStats::of(mailbox)).collect()
    }

    /// The state of the broker.
    pub fn status(&self) -> BrokerStatus {
        self.inner.broker.status()
    }

    /// Closes streams on every node with [`CloseReason::Revoked`]; frames that wait for them are
    /// not sent. The streams of this node are closed before the broker notifies the other nodes.
    /// Clients reconnect automatically, so the application must deny them from now on: only
    /// [`Revocation::Token`] does that by itself. Decisions that were made before do not count any
    /// more: see [`is_revoked_since`](Self::is_revoked_since).
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the id of a user, token or stream is empty or longer than
    /// [`OWNER_ID_BYTES_MAX`](crate::limits::OWNER_ID_BYTES_MAX).
    /// [`ErrorKind::Unavailable`] or [`ErrorKind::PermissionDenied`] if other nodes may not have
    /// received the revocation: revoke again.
    pub async fn revoke(&self, revocation: &Revocation) -> Result<(), Error> {
        revocation.check()?;
        self.inner.fanout.revoke(revocation, 0);
        let time_ms = self.inner.broker.revoke(revocation).await?;
        self.inner.fanout.registry.set_time(revocation, time_ms);
        Ok(())
    }

    /// A mark for a decision about access that begins now, for
    /// [`is_revoked_since`](Self::is_revoked_since).
    pub fn revocation_mark(&self) -> RevocationMark {
        self.inner.fanout.registry.mark()
    }

    /// Whether a decision was revoked after its mark: its user, its token, or one of its channels.
    /// To be asked when a subscription has its owner, and before a decision is used again: a
    /// revocation from then on closes the subscription.
    pub fn is_revoked_since(
        &self,
        mark: RevocationMark,
        user: Option<&str>,
        token_id: Option<&str>,
        channels: &[Channel],
    ) -> bool {
        self.inner.fanout.registry.is_revoked_since(mark, user, token_id, channels)
    }

    /// Whether this node knows what other nodes have revoked. Until it does, what could be revoked
    /// should be denied, with [`ErrorKind::Unavailable`] or a `503`.
    pub fn knows_revocations(&self) -> bool {
        self.status().access.is_ok()
    }

    /// Whether the token with this ID is revoked.
    pub fn is_token_revoked(&self, id: &str) -> bool {
        self.inner.fanout.registry.is_revoked(id)
    }
}

/// Divides a batch into parts that a shard can take at once, by the size of the encoded events.
fn parts(batch: Vec<Publish>) -> Vec<Vec<Publish>> {
    let (mut parts, mut bytes) = (vec![Vec::new()], 0);
    for publish in batch {
        let len = encoded_len_max(&publish.event, None);
        if bytes + len > limits::PUBLISH_BYTES_MAX && bytes > 0 {
            parts.push(Vec::new());
            bytes = 0;
        }
        bytes += len;
        if let Some(part) = parts.last_mut() {
            part.push(publish);
        }
    }
    parts
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub")
            .field("streams", &self.streams())
            .field("channels", &self.channels())
            .finish_non_exhaustive()
    }
}

impl HubBuilder {
    /// How long a channel stays subscribed in the broker after its last subscriber left. Default
    /// 60 s; zero unsubscribes at once.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.config.linger = linger;
        self
    }

    /// Maximum number of frames that wait for one stream; at least 1. Default
    /// [`limits::QUEUE_FRAMES_MAX`].
    pub fn queue_frames_max(mut self, frames: usize) -> Self {
        self.config.queue_frames_max = frames.max(1);
        self
    }

    /// Maximum number of bytes that wait for one stream; a single frame may be larger. Default
    /// [`limits::QUEUE_BYTES_MAX`].
    pub fn queue_bytes_max(mut self, bytes: usize) -> Self {
        self.config.queue_bytes_max = bytes;
        self
    }

    /// Maximum number of channels on one stream. Default [`limits::CHANNELS_PER_STREAM_MAX`].
    pub fn channels_per_stream_max(mut self, channels: usize) -> Self {
        self.config.channels_per_stream_max = channels;
        self
    }

    /// Channels on which a slow client receives only the newest event instead of being
    /// disconnected: for values of which only the latest matters, such as prices. A waiting event
    /// that a newer one of its channel follows is skipped; the newer event's ID moves the client's
    /// position past both. Default none.
    pub fn latest_only(mut self, channels: ChannelPatterns) -> Self {
        self.config.latest_only = channels;
        self
    }

    /// The memory that the node may keep. Default: 70 % of what the process may use. The embedded
    /// broker takes the same: [`MemoryBroker::with_budget`].
    pub fn budget(mut self, budget: &Budget) -> Self {
        self.config.budget = budget.clone();
        self
    }

    /// The hub over a broker.
    pub fn build(self, mut broker: impl Broker) -> Hub {
        let linger = Arc::new(Linger::new(self.config.linger));
        let fanout = Arc::new(Fanout::new(self.config));
        broker.start(Sink::new(&fanout));
        let broker: Arc<dyn Broker> = Arc::new(broker);
        let recall = Arc::new(Recall::new(Arc::clone(&fanout), Arc::clone(&broker)));
        let lifecycle = Lifecycle::new();
        let runtime = OnceLock::new();
        Hub { inner: Arc::new(HubInner { broker, fanout, recall, lifecycle, linger, runtime }) }
    }
}
