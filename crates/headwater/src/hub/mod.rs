//! The fan-out of a node: publish, subscribe, deliver, drain. Look here for the road of an event.

mod history;
mod linger;
#[cfg(test)]
mod loom_tests;
pub(crate) mod mailbox;
#[cfg(test)]
mod mailbox_tests;
#[cfg(test)]
mod model_tests;
mod pages;
mod queue;
mod registry;
mod resume;
mod ring;
mod shards;
mod stats;
mod subscription;
mod table;

/// What `mailbox.rs` is made of; `loom_tests.rs` has others for it.
mod sync {
    pub(super) use std::sync::atomic::AtomicBool;
    pub(super) use std::sync::{Mutex, MutexGuard};
}

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::broker::{Baseline, Broker, BrokerStatus, LoggedEvent, MemoryBroker, Receipt, Sink};
use crate::channel::Channel;
use crate::close::CloseReason;
use crate::error::{Error, ErrorKind};
use crate::event::Event;
use crate::frame::{Frame, Published, now_ms};
use crate::gap::{Gap, GapReason};
use crate::limits;
use crate::pattern::ChannelPatterns;
use crate::position::{Epoch, Key, Position};
use crate::publish::Publish;

use linger::Linger;
use mailbox::{Mailbox, Message};
use pages::Pages;
use queue::Queue;
use registry::Registry;
pub use resume::Rewind;
pub(crate) use stats::Stats;
pub use stats::{EndedStreams, Gaps, HubStats, ShardStats};
pub use subscription::Subscription;
use table::{ChannelTable, Departure};

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
    latest_only: ChannelPatterns,
}

pub(crate) struct HubInner {
    broker: Box<dyn Broker>,
    table: ChannelTable,
    registry: Registry,
    linger: Arc<Linger>,
    settings: HubBuilder,
    draining: AtomicBool,
    /// This node's own epoch, for events that are in no log.
    node: Epoch,
    log: Mutex<LogState>,
    /// History that is being read for streams that resume.
    reads: Mutex<Pages>,
    /// How many subscriptions there are, to wait for the last one.
    streams: watch::Sender<usize>,
    /// The mailboxes of the engine's shards that serve this hub.
    shards: Mutex<Vec<Arc<Mailbox>>>,
    /// Whether there are any.
    has_shards: AtomicBool,
    /// Bytes in all outboxes.
    pub(crate) outbox_bytes: AtomicUsize,
    pub(crate) stats: Stats,
}

/// Where the log is, as this node has delivered it.
#[derive(Debug, Clone, Copy, Default)]
struct LogState {
    /// `None` until the broker has told.
    epoch: Option<Epoch>,
    /// Everything up to here is in the rings.
    last: Key,
    /// The last number that this node gave to an event that is in no log.
    number: u64,
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
    /// [`ErrorKind::Unavailable`] or [`ErrorKind::PermissionDenied`] if the broker did not take it.
    ///
    /// # Cancel safety
    /// When the future is dropped before it resolves, the event is published or not.
    pub async fn publish(&self, channel: &Channel, event: Event) -> Result<Receipt, Error> {
        let mut receipts = self.publish_all([(channel.clone(), event)]).await?;
        receipts.pop().ok_or_else(|| Error::new(ErrorKind::Protocol, "the broker gave no receipt"))
    }

    /// Publishes events in their order, in one go: with Redis, in one round trip.
    ///
    /// # Errors
    /// As [`publish`](Self::publish), and [`ErrorKind::Ended`] for a channel that was ended. Sizes are
    /// checked before the first event is published; after an error of the broker a part of the batch
    /// may have been published.
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
                        "the event for channel {channel} has {} bytes of data: at most {} are allowed",
                        event.data().len(),
                        limits::EVENT_DATA_BYTES_MAX
                    ),
                ));
            }
        }
        let count = batch.len() as u64;
        self.inner.admit_publish().await;
        let result = self.inner.broker.publish(batch).await;
        match &result {
            Ok(_) => self.inner.stats.published.add(count),
            Err(_) => self.inner.stats.publish_errors.add(1),
        }
        result
    }

    /// Listens to channels. A channel named twice counts once.
    ///
    /// The subscription begins now, which with Redis is when it has confirmed the channels: see
    /// [`Subscription::ready`]. To begin earlier, say so before you read from it:
    /// [`since`](Subscription::after) the event that a client got last, or with a
    /// [`rewind`](Subscription::rewind).
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
                let key = self.inner.join(&channel, &queue);
                (channel, key)
            })
            .collect();
        let subscription = Subscription::new(Arc::clone(&self.inner), queue, entries);
        // A drain that began meanwhile may have missed this one.
        if self.is_draining() {
            subscription.queue().close(CloseReason::Drain);
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
    /// [`CloseReason::Drain`] as the reason. New subscriptions are refused from now on; publishing goes on.
    pub fn drain(&self) {
        self.inner.draining.store(true, Ordering::SeqCst);
        self.inner
            .table
            .each(|_, entry| entry.queues().for_each(|queue| queue.close(CloseReason::Drain)));
        for mailbox in self.inner.shards() {
            // A shard that is gone has no streams.
            let _ = mailbox.push(Message::Drain);
        }
    }

    /// Whether [`drain`](Self::drain) was called.
    pub fn is_draining(&self) -> bool {
        self.inner.is_draining()
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

    /// How many channels have at least one subscriber.
    pub fn channels(&self) -> usize {
        self.inner.table.channels()
    }

    /// How many subscribers a channel has on this node.
    pub fn subscribers(&self, channel: &Channel) -> usize {
        self.inner.table.subscribers(channel)
    }

    /// How many bytes the recent frames of all channels take.
    pub fn ring_bytes(&self) -> usize {
        self.inner.table.ring_bytes()
    }

    /// What the hub has counted since it began.
    pub fn stats(&self) -> HubStats {
        self.inner.stats.snapshot()
    }

    /// What the engine's shards that serve this hub tell of themselves; empty until
    /// [`serve`](crate::serve()) has taken over a stream.
    pub fn shards(&self) -> Vec<ShardStats> {
        self.inner.shards().iter().map(|mailbox| ShardStats::of(mailbox)).collect()
    }

    /// How the broker is.
    pub fn status(&self) -> BrokerStatus {
        self.inner.broker.status()
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
            latest_only: ChannelPatterns::default(),
        }
    }
}

impl HubBuilder {
    /// How long a channel stays subscribed in the broker after its last subscriber left. Default 60 s;
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

    /// Channels on which a client that is too slow gets only the newest event, instead of losing its
    /// stream: for values of which only the last counts, like prices. An event that another one of its
    /// channel follows is passed over; the id of the later one moves the client's position over both.
    /// Default none.
    pub fn latest_only(mut self, channels: ChannelPatterns) -> Self {
        self.latest_only = channels;
        self
    }

    /// The hub over a broker.
    pub fn build(self, mut broker: impl Broker) -> Hub {
        let inner = Arc::new_cyclic(|hub: &Weak<HubInner>| {
            broker.start(Sink::new(hub.clone()));
            HubInner {
                broker: Box::new(broker),
                table: ChannelTable::new(),
                registry: Registry::default(),
                linger: Arc::new(Linger::new(self.linger)),
                settings: self,
                draining: AtomicBool::new(false),
                node: Epoch::random(),
                log: Mutex::default(),
                reads: Mutex::default(),
                streams: watch::Sender::new(0),
                shards: Mutex::default(),
                has_shards: AtomicBool::new(false),
                outbox_bytes: AtomicUsize::new(0),
                stats: Stats::default(),
            }
        });
        Hub { inner }
    }
}

// === what a broker tells ===

impl HubInner {
    fn lock_log(&self) -> MutexGuard<'_, LogState> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self) -> LogState {
        *self.lock_log()
    }

    /// The broker's log and its last offset. A new epoch means that the log lost its data.
    pub(crate) fn set_log(&self, epoch: Epoch, last: u64) {
        let before = {
            let mut log = self.lock_log();
            let before = log.epoch.replace(epoch);
            let now = Key { offset: last, number: log.number };
            log.last = if before == Some(epoch) { log.last.max(now) } else { now };
            before
        };
        if before.is_some_and(|before| before != epoch) {
            self.reset(epoch, last);
        }
    }

    fn reset(&self, epoch: Epoch, last: u64) {
        tracing::warn!(%epoch, "the log lost its data and began anew: subscribers are told of the gap");
        self.table.each(|channel, entry| {
            entry.ring.reset(Key { offset: last, number: 0 });
            let gap = Gap { channel: channel.clone(), reason: GapReason::Epoch };
            entry.deliver(&Frame::of_gap(gap, None));
            (0..entry.count()).for_each(|_| self.stats.gap(GapReason::Epoch));
        });
        // Only now do clients move to the new log: a stream of several channels that is cut before has been
        // told of some, and is told of all when it comes back.
        let marker = Frame::marker(Position::new(epoch, last));
        self.table.each(|_, entry| entry.queues().for_each(|queue| queue.push(&marker, false)));
        for mailbox in self.shards() {
            // A shard that is gone has no streams.
            let _ = mailbox.push(Message::DeliverToAll(marker.clone()));
        }
    }

    pub(crate) fn set_baseline(&self, channel: &Channel, baseline: Baseline) {
        self.table.with(channel, |entry| {
            entry.ring.set_baseline(baseline, || self.next_joined());
        });
    }

    pub(crate) fn deliver_log_event(&self, event: LoggedEvent<'_>) {
        let LoggedEvent { channel, position, previous, time_ms, end, .. } = event;
        let published = Published { position: Some(position), time_ms, end };
        self.deliver(channel, &Frame::of_channel(channel, event.event, published), previous);
    }

    /// Gives a frame of the log to all who listen to its channel. Never waits: a stream whose queue is
    /// full ends.
    pub(crate) fn deliver(&self, channel: &Channel, frame: &Frame, previous: u64) {
        self.stats.received.add(1);
        let Some(key) = frame.key() else { return };
        let given = self.table.with(channel, |entry| {
            entry.ring.push(key, frame.clone(), previous);
            self.advance_log(key);
            entry.deliver(frame);
        });
        if given.is_none() {
            self.advance_log(key);
        }
    }

    /// Everything up to here is in the rings. Before it is given to anybody: a client that has the event and
    /// comes back at once must find it there, and not once more among what is live.
    fn advance_log(&self, key: Key) {
        let mut log = self.lock_log();
        log.last = log.last.max(key);
    }

    /// Numbers an event that is in no log, and gives it to all who listen to its channel.
    pub(crate) fn deliver_ephemeral(&self, channel: &Channel, event: &Event) {
        self.stats.received.add(1);
        let position = self.next_local();
        let published = Published { position, time_ms: now_ms(), end: false };
        let frame = Frame::of_channel(channel, event, published);
        self.deliver_between(channel, &frame, frame.key());
    }

    pub(crate) fn deliver_gap(&self, channel: &Channel, reason: GapReason) {
        let gap = Gap { channel: channel.clone(), reason };
        let position = self.next_local();
        let frame = Frame::of_gap(gap, position);
        self.deliver_between(channel, &frame, position.map(Position::key));
        let subscribers = self.table.subscribers(channel);
        (0..subscribers).for_each(|_| self.stats.gap(reason));
    }

    /// Gives what stands between two events of the log.
    fn deliver_between(&self, channel: &Channel, frame: &Frame, key: Option<Key>) {
        let given = self.table.with(channel, |entry| {
            if let Some(key) = key {
                entry.ring.push_ephemeral(key, frame.clone());
                self.advance_log(key);
            }
            entry.deliver(frame);
        });
        if let (None, Some(key)) = (given, key) {
            self.advance_log(key);
        }
    }

    fn next_local(&self) -> Option<Position> {
        let mut log = self.lock_log();
        let epoch = log.epoch?;
        log.number += 1;
        Some(Position::ephemeral(epoch, log.last.offset, self.node, log.number))
    }

    #[cfg(feature = "redis")]
    pub(crate) fn ephemeral_note_due(&self, channel: &Channel) -> bool {
        let due = self.table.with(channel, |entry| entry.ring.take_note_due(now_ms()));
        due.unwrap_or(false)
    }

    pub(crate) fn has_ephemeral(&self, channel: &Channel) -> bool {
        self.table.with(channel, |entry| entry.ring.has_ephemeral()).unwrap_or(false)
    }
}

// === what subscriptions and the linger ask ===

impl HubInner {
    fn join(&self, channel: &Channel, queue: &Arc<Queue>) -> usize {
        let latest_only = || self.settings.latest_only.matches(channel.as_str());
        let (joined, first) = (|| self.next_joined(), || self.broker.subscribe(channel));
        self.table.insert(channel, queue, latest_only, joined, first)
    }

    /// A number of its own, after every event that was given before: what was published while a channel
    /// was not received is unknown also to a stream that has the newest of all.
    fn next_joined(&self) -> Key {
        let mut log = self.lock_log();
        log.number += 1;
        Key { offset: log.last.offset, number: log.number }
    }

    /// A subscriber left. The channel stays subscribed for the linger.
    fn leave(&self, channel: &Channel, leaving: Departure<'_>) {
        let unsubscribe = || self.broker.unsubscribe(channel);
        if self.table.remove(channel, leaving, self.linger.period(), unsubscribe) {
            self.linger.add(channel.clone());
        }
    }

    /// The linger of a channel may be over; says when to look again if it is not.
    fn linger_over(&self, channel: &Channel) -> Option<tokio::time::Instant> {
        self.table.sweep(channel, self.linger.period(), || self.broker.unsubscribe(channel))
    }

    /// Gives up recent frames that are older than is kept.
    fn expire_rings(&self) {
        let now_ms = now_ms();
        self.table.each(|_, entry| entry.ring.expire(now_ms));
    }

    fn stream_ended(&self, reason: CloseReason) {
        self.stats.ended(reason);
        self.streams.send_modify(|streams| *streams -= 1);
    }
}

impl Drop for HubInner {
    fn drop(&mut self) {
        self.linger.stop();
    }
}
