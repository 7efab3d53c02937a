//! What carries events between nodes, as a contract. Look here before you write or call a broker.

mod history;
mod sink;
mod status;

use std::future::{Future, ready};
use std::pin::Pin;

use crate::channel::Channel;
use crate::clock::now_ms;
use crate::error::Error;
use crate::publish::{Publish, Receipt};
use crate::revocation::Revocation;

pub use history::{Baseline, History, LoggedEvent, ReadRange};
pub(crate) use sink::Inlet;
pub use sink::Sink;
pub use status::{BrokerStatus, Part};

/// A future as a broker returns it.
pub type BrokerFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Carries events between nodes. One broker serves one [`Hub`](crate::Hub), which owns it.
///
/// The contract, which `testing::suite` (feature `testing`) checks for any implementation:
/// 1. `start` is called once, before anything else.
/// 2. After `subscribe(channel)`, every event published to the channel, on any node, is passed to
///    the sink. That includes events published on this node: an event has one path. One thread at a
///    time calls the sink, and positions only grow. The hub finds missing events by their
///    `previous`, and reads them with `read`.
/// 3. `subscribe` and `unsubscribe` return at once and never block. They are called in pairs, under
///    a lock, so they must not call the sink.
/// 4. `publish` resolves when the broker has accepted the events. After an error, part of the batch
///    may have been published. Its future can be dropped at any time; then all of the batch is
///    published, part of it, or none.
/// 5. A lost connection to other nodes is not an error of `subscribe`: the broker reconnects until
///    it is dropped, subscribes again to everything, and reports its state in `status`.
///
/// A broker without a log implements `start`, `publish`, `subscribe`, `unsubscribe` and `status`,
/// and passes events to [`Sink::ephemeral`]. A broker with a log also calls [`Sink::log`] before
/// the first event and implements `subscribed`, which calls [`Sink::baseline`], and `read`.
///
/// Methods that are added later have a default.
pub trait Broker: Send + Sync + 'static {
    /// Takes the sink for events, and starts to work.
    fn start(&mut self, sink: Sink);

    /// Publishes events, in their order. The receipts are in the same order.
    fn publish(&self, batch: Vec<Publish>) -> BrokerFuture<'_, Result<Vec<Receipt>, Error>>;

    /// The first subscriber of a channel on this node arrived.
    fn subscribe(&self, channel: &Channel);

    /// The last subscriber of a channel on this node left, and the linger is over.
    fn unsubscribe(&self, channel: &Channel);

    /// Resolves when events of a subscribed channel are known to arrive, after [`Sink::baseline`]
    /// was called for it. Cancel safe.
    ///
    /// The default resolves at once: for a broker whose subscriptions take effect at once, and that
    /// has no log.
    ///
    /// # Errors
    /// If the channel's events will not arrive, and why: the broker denies the channel, for
    /// example.
    fn subscribed<'a>(&'a self, channel: &'a Channel) -> BrokerFuture<'a, Result<(), Error>> {
        let _ = channel;
        Box::pin(ready(Ok(())))
    }

    /// Reads what is retained of a channel. The default is no history.
    ///
    /// # Errors
    /// If the log cannot be read now. The hub asks again, unless the kind is
    /// [`PermissionDenied`](crate::ErrorKind::PermissionDenied).
    fn read<'a>(
        &'a self,
        channel: &'a Channel,
        range: ReadRange,
    ) -> BrokerFuture<'a, Result<History, Error>> {
        let _ = (channel, range);
        Box::pin(ready(Ok(History::default())))
    }

    /// Asks the log where it is: a client may have seen more of it than this node. Resolves when
    /// the sink has every event that the log had when this was called, on the subscribed channels,
    /// and [`Sink::log`] was called with a position at or after the log's at that time. Cancel
    /// safe.
    ///
    /// The default is for a broker that no other node publishes to.
    ///
    /// # Errors
    /// If the log does not answer now. The hub asks again, unless the kind is
    /// [`PermissionDenied`](crate::ErrorKind::PermissionDenied).
    fn head(&self) -> BrokerFuture<'_, Result<(), Error>> {
        Box::pin(ready(Ok(())))
    }

    /// Sends a revocation to all other nodes: each passes it to [`Sink::revoke`]. A node that
    /// cannot be reached now receives it when it reconnects. Resolves to the time of the
    /// revocation, in milliseconds since 1970, by one clock for all nodes. The default is for a
    /// broker of one node.
    ///
    /// # Errors
    /// If other nodes may not receive it.
    fn revoke<'a>(&'a self, revocation: &'a Revocation) -> BrokerFuture<'a, Result<u64, Error>> {
        let _ = revocation;
        Box::pin(ready(Ok(now_ms())))
    }

    /// The state of the broker, without waiting.
    fn status(&self) -> BrokerStatus;
}
