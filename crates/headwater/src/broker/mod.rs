//! What carries events between nodes, as a contract. Look here before you write or call a broker.

mod memory;
#[cfg(feature = "redis")]
pub(crate) mod redis;

use std::future::Future;
use std::pin::Pin;
use std::sync::Weak;
use std::time::Duration;

use crate::channel::Channel;
use crate::error::Error;
use crate::event::{Event, EventId};
use crate::hub::HubInner;

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
///    including those published on this node: an event has one road. Events of one channel that come
///    from one publisher keep their order, and all nodes see them in the same order.
/// 3. `listen` and `unlisten` return at once and never block. They are called in pairs, under a lock,
///    so they must not call back into the hub.
/// 4. `publish` resolves when the broker has taken the events. After an error a beginning of the batch
///    may have been published. It can be dropped at any time; then the batch is published as a whole,
///    in part or not at all.
/// 5. Losing the connection to other nodes is not an error of `listen`: the broker reconnects for
///    ever, listens again to all it should, and tells its state in `health`.
pub trait Broker: Send + Sync + 'static {
    /// Takes the sink for events, and begins to work.
    fn start(&mut self, sink: Sink);

    /// Publishes events, in their order.
    fn publish(
        &self,
        batch: Vec<(Channel, Event)>,
    ) -> BrokerFuture<'_, Result<Vec<Receipt>, Error>>;

    /// The first listener of a channel came.
    fn listen(&self, channel: &Channel);

    /// The last listener of a channel left, and the linger is over.
    fn unlisten(&self, channel: &Channel);

    /// Resolves when events of a channel that is listened to are known to arrive, or at once if that
    /// cannot be known soon: without a connection. Cancel safe.
    fn confirmed<'a>(&'a self, channel: &'a Channel) -> BrokerFuture<'a, ()>;

    /// How the broker is, without waiting.
    fn health(&self) -> Health;
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

    /// Gives an event to everybody who listens to the channel on this node. Never waits.
    pub fn deliver(&self, channel: &Channel, event: &Event) {
        if let Some(hub) = self.hub.upgrade() {
            hub.deliver(channel, event);
        }
    }

    /// Counts an event whose bytes were not UTF-8, so that U+FFFD stands in it.
    pub fn count_replaced(&self) {
        if let Some(hub) = self.hub.upgrade() {
            hub.stats.replaced.add(1);
        }
    }

    /// Counts an event that could not be taken: too large, or not understood.
    pub fn count_refused(&self) {
        if let Some(hub) = self.hub.upgrade() {
            hub.stats.refused.add(1);
        }
    }
}

/// What a publisher gets back for one event.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// The channel that took the event.
    pub channel: Channel,
    /// The id under which clients see the event, if it has one.
    pub id: Option<EventId>,
}

impl Receipt {
    /// A receipt for an event as it was published.
    pub fn new(channel: Channel, event: &Event) -> Self {
        Self { channel, id: event.id().cloned() }
    }
}

/// How a broker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Health {
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
}
