//! What carries events between nodes, as a contract. Look here before you write or call a broker.

mod memory;
#[cfg(feature = "redis")]
pub(crate) mod redis;
mod store;

use std::future::Future;
use std::pin::Pin;
use std::sync::Weak;
use std::time::Duration;

use crate::channel::Channel;
use crate::error::Error;
use crate::event::{Event, EventId};
use crate::frame::Frame;
use crate::gap::GapReason;
use crate::hub::HubInner;
use crate::position::{Epoch, Position};
use crate::publish::Publish;
use crate::revocation::Revocation;

pub use memory::MemoryBroker;
#[cfg(feature = "redis")]
pub use redis::RedisBroker;

/// A future as a broker returns it.
pub type BrokerFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Carries events between nodes. One broker serves one [`Hub`](crate::Hub), which owns it.
///
/// The contract, which one test suite holds for every implementation:
/// 1. `start` is called once, before anything else.
/// 2. After `listen(channel)` every event published to the channel, on any node, is given to the sink;
///    including those published on this node: an event has one road. The sink is called by one thread
///    at a time, and positions only grow: the sink sees the log in its order, with no event of a
///    listened channel left out. What was missed is read again and given in its place, or announced
///    by [`Sink::gap`].
/// 3. `listen` and `unsubscribe` return at once and never block. They are called in pairs, under a lock,
///    so they must not call the sink.
/// 4. `publish` resolves when the broker has taken the events. After an error a part of the batch
///    may have been published. It can be dropped at any time; then the batch is published as a whole,
///    in part or not at all.
/// 5. Losing the connection to other nodes is not an error of `listen`: the broker reconnects for
///    ever, listens again to all it should, and tells its state in `health`.
pub trait Broker: Send + Sync + 'static {
    /// Takes the sink for events, and begins to work.
    fn start(&mut self, sink: Sink);

    /// Publishes events, in their order.
    fn publish(&self, batch: Vec<Publish>) -> BrokerFuture<'_, Result<Vec<Receipt>, Error>>;

    /// The first listener of a channel came.
    fn subscribe(&self, channel: &Channel);

    /// The last listener of a channel left, and the linger is over.
    fn unsubscribe(&self, channel: &Channel);

    /// Resolves when events of a channel that is listened to are known to arrive, after
    /// [`Sink::baseline`] was called for it; or when that will not happen, since the broker refuses the
    /// channel. Cancel safe.
    fn subscribed<'a>(&'a self, channel: &'a Channel) -> BrokerFuture<'a, ()>;

    /// Reads what is kept of a channel.
    fn read<'a>(
        &'a self,
        channel: &'a Channel,
        range: ReadRange,
    ) -> BrokerFuture<'a, Result<History, Error>>;

    /// Tells all other nodes that streams must end: each gives it to [`Sink::revoke`]. A node that cannot be
    /// reached now gets it when it is back. A broker of one node has nobody to tell.
    fn revoke<'a>(&'a self, revocation: &'a Revocation) -> BrokerFuture<'a, Result<(), Error>> {
        let _ = revocation;
        Box::pin(std::future::ready(Ok(())))
    }

    /// How the broker is, without waiting.
    fn status(&self) -> BrokerStatus;
}

/// Which part of a channel's history to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReadRange {
    /// The oldest events after an offset, at most so many.
    After {
        /// Events with a larger offset are wanted.
        offset: u64,
        /// At most so many, at least one.
        count: usize,
    },
    /// The newest events, at most so many.
    Newest {
        /// At most so many, at least one.
        count: usize,
    },
    /// The newest events before an offset, at most so many.
    Before {
        /// Events with a smaller offset are wanted.
        offset: u64,
        /// At most so many, at least one.
        count: usize,
    },
}

/// Part of a channel's history.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// The events, oldest first. Fewer than asked for only if there are no more, or if they are large.
    pub frames: Vec<Frame>,
    /// The offset of the channel's event before the first of these, kept or not; 0 if there was none.
    pub previous: u64,
    /// The last offset of the whole log when this was read.
    pub log_last: u64,
}

/// What a broker knows of a channel when it begins to receive it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Baseline {
    /// The offset of the channel's last event so far; 0 if there is none.
    pub last: u64,
    /// Whether that event ended the channel.
    pub ended: bool,
    /// Whether the channel is known to get events that are in no log, on any node. A stream that comes
    /// back from before the channel was received is then told that it may have missed some.
    pub ephemeral: bool,
}

/// Where a broker gives the events that it receives.
#[derive(Clone)]
pub struct Sink {
    hub: Weak<HubInner>,
}

impl Sink {
    pub(crate) fn new(hub: Weak<HubInner>) -> Self {
        Self { hub }
    }

    /// The log that positions are in, and its last offset now. To be called before the first event,
    /// and again when the log lost its data and began anew: listeners are told of the gap.
    pub fn log(&self, epoch: Epoch, last: u64) {
        self.with(|hub| hub.set_log(epoch, last));
    }

    /// What is known of a channel when its events begin to arrive.
    pub fn baseline(&self, channel: &Channel, baseline: Baseline) {
        self.with(|hub| hub.set_baseline(channel, baseline));
    }

    /// Gives an event of the log to everybody who listens to its channel on this node. Never waits.
    pub fn deliver(&self, event: LoggedEvent<'_>) {
        self.with(|hub| hub.deliver_log_event(event));
    }

    /// Gives a frame that is encoded already.
    pub(crate) fn deliver_frame(&self, channel: &Channel, frame: &Frame, previous: u64) {
        self.with(|hub| hub.deliver(channel, frame, previous));
    }

    /// Gives an event that is in no log: the node numbers it.
    pub fn deliver_ephemeral(&self, channel: &Channel, event: &Event) {
        self.with(|hub| hub.deliver_ephemeral(channel, event));
    }

    /// Tells all who listen to a channel that events are missing.
    pub fn gap(&self, channel: &Channel, reason: GapReason) {
        self.with(|hub| hub.deliver_gap(channel, reason));
    }

    /// Ends the streams that are meant, on this node. It can be said more than once.
    pub fn revoke(&self, revocation: &Revocation) {
        self.with(|hub| hub.apply_revocation(revocation));
    }

    /// Whether the broker should note, for other nodes and the next start, that a channel gets events
    /// that are in no log. Says so once a day.
    #[cfg(feature = "redis")]
    pub(crate) fn ephemeral_note_due(&self, channel: &Channel) -> bool {
        self.hub.upgrade().is_some_and(|hub| hub.ephemeral_note_due(channel))
    }

    /// Whether the channel had an event that is in no log, as far as is known.
    #[cfg(feature = "redis")]
    pub(crate) fn has_ephemeral(&self, channel: &Channel) -> bool {
        self.hub.upgrade().is_some_and(|hub| hub.has_ephemeral(channel))
    }

    /// Counts an event whose bytes were not UTF-8, so that U+FFFD stands in it.
    pub fn count_sanitized(&self) {
        self.with(|hub| hub.stats.replaced.add(1));
    }

    /// Counts an event that could not be taken: too large, or not understood.
    pub fn count_rejected(&self) {
        self.with(|hub| hub.stats.refused.add(1));
    }

    fn with(&self, call: impl FnOnce(&HubInner)) {
        if let Some(hub) = self.hub.upgrade() {
            call(&hub);
        }
    }
}

/// An event of the log, as a broker gives it.
#[derive(Debug, Clone, Copy)]
pub struct LoggedEvent<'a> {
    /// Its channel.
    pub channel: &'a Channel,
    /// The event as it was published.
    pub event: &'a Event,
    /// Its place.
    pub position: Position,
    /// The offset of the channel's event before it; 0 if there was none.
    pub previous: u64,
    /// When it was published, in milliseconds since 1970.
    pub time_ms: u64,
    /// Whether it ends its channel.
    pub end: bool,
}

/// What a publisher gets back for one event.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// The channel that took the event.
    pub channel: Channel,
    /// The id under which clients see the event: the publisher's own, else the position. `None` for an
    /// event that is in no log, since each node numbers it by itself.
    pub id: Option<EventId>,
    /// The place of the event in the log.
    pub position: Option<Position>,
}

impl Receipt {
    /// A receipt for an event as it was published.
    pub fn new(channel: Channel, event: &Event, position: Option<Position>) -> Self {
        let from_position =
            || position.and_then(|position| EventId::new(position.to_string()).ok());
        let id = event.id().cloned().or_else(from_position);
        Self { channel, id, position }
    }
}

/// How a broker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct BrokerStatus {
    /// Whether events are known to arrive: for Redis, that the last probe came back in time.
    pub ready: bool,
    /// How long the last probe took through the broker and back; `None` where nothing is between.
    pub lag: Option<Duration>,
    /// How many times the connection to the broker was lost.
    pub reconnects: u64,
    /// How many channels the node is known to receive, and how many it should.
    pub channels_confirmed: usize,
    /// See [`channels_confirmed`](Self::channels_confirmed).
    pub channels_wanted: usize,
    /// How many times missing events were read again and given in their place.
    pub healed: u64,
}
