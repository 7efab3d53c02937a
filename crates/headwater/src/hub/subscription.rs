//! A stream's interest in channels: frames come out, in order. Look here for the async side of the hub.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;

use super::HubInner;
use super::queue::Queue;
use crate::channel::Channel;
use crate::closed::Closed;
use crate::frame::Frame;
use crate::limits::CONFIRM_TIMEOUT;

/// An async stream of [`Frame`]s of the channels it was made for, from
/// [`Hub::subscribe`](crate::Hub::subscribe).
///
/// Its queue is bounded: a subscription that is not read fast enough ends, with
/// [`Closed::Overflow`], and costs the others nothing. Dropping it unsubscribes.
///
/// # Cancel safety
/// [`next`](Self::next) can be dropped at any time without losing a frame.
#[must_use = "a subscription that is dropped gets nothing"]
pub struct Subscription {
    hub: Arc<HubInner>,
    queue: Arc<Queue>,
    /// The channels, each with the place of this listener in the table of interest.
    entries: Box<[(Channel, usize)]>,
}

impl Subscription {
    pub(super) fn new(
        hub: Arc<HubInner>,
        queue: Arc<Queue>,
        entries: Box<[(Channel, usize)]>,
    ) -> Self {
        Self { hub, queue, entries }
    }

    pub(super) fn queue(&self) -> &Queue {
        &self.queue
    }

    /// The next frame; `None` when the subscription has ended, and [`closed`](Self::closed) says why.
    pub async fn next(&mut self) -> Option<Frame> {
        std::future::poll_fn(|context| self.poll_frame(context)).await
    }

    /// Waits until what is published to the channels from now on is known to arrive, for a second at
    /// most. With the embedded broker that is at once; with Redis it takes one round trip for the
    /// first listener of a channel.
    ///
    /// Wait for it before you answer a request, and a client that publishes as soon as its stream is
    /// open gets its own event. When Redis cannot be reached there is no wait. Cancel safe.
    pub async fn confirmed(&self) {
        let confirmed = async {
            for (channel, _) in &self.entries {
                self.hub.broker.confirmed(channel).await;
            }
        };
        // Late is better than never: the stream opens all the same.
        let _ = tokio::time::timeout(CONFIRM_TIMEOUT, confirmed).await;
    }

    /// Why the subscription ended, if it did.
    pub fn closed(&self) -> Option<Closed> {
        self.queue.closed()
    }

    /// The channels, sorted, each once.
    pub fn channels(&self) -> impl Iterator<Item = &Channel> {
        self.entries.iter().map(|(channel, _)| channel)
    }

    pub(crate) fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Frame>> {
        self.queue.poll_pop(context)
    }

    /// Frames that wait already, up to a number of bytes.
    pub(crate) fn take_waiting(&self, bytes_max: usize, take: impl FnMut(Frame)) {
        self.queue.pop_more(bytes_max, take);
    }

    /// Ends the subscription for a reason of its owner's.
    pub(crate) fn close(&self, reason: Closed) {
        self.queue.close(reason);
    }

    pub(crate) fn count_sent(&self, frames: u64, bytes: usize) {
        self.hub.stats.sent.add(frames);
        self.hub.stats.sent_bytes.add(bytes as u64);
    }
}

impl Stream for Subscription {
    type Item = Frame;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Frame>> {
        self.poll_frame(context)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        for (channel, key) in &self.entries {
            self.hub.leave(channel, *key);
        }
        self.hub.stream_ended(self.queue.closed().unwrap_or(Closed::Client));
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("channels", &self.entries)
            .field("closed", &self.closed())
            .finish_non_exhaustive()
    }
}
