//! The parts of a hub that its subscriptions and shards share. Look here for when a channel is
//! subscribed and unsubscribed in the broker.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::entry::Departure;
use super::fanout::Fanout;
use super::lifecycle::Lifecycle;
use super::linger::Linger;
use super::recall::Recall;
use crate::broker::Broker;
use crate::channel::Channel;
use crate::close::CloseReason;
use crate::stream::queue::Queue;

/// The shared parts of a hub.
pub(crate) struct HubInner {
    pub(super) broker: Arc<dyn Broker>,
    pub(super) fanout: Arc<Fanout>,
    pub(super) recall: Arc<Recall>,
    pub(super) lifecycle: Lifecycle,
    pub(super) linger: Arc<Linger>,
    /// The runtime of the hub's tasks; set by the first subscription.
    pub(super) runtime: OnceLock<Handle>,
}

impl HubInner {
    /// Adds a subscriber to a channel and returns its key in the channel's entry.
    pub(super) fn join(&self, channel: &Channel, queue: &Arc<Queue>) -> usize {
        let Fanout { table, config, .. } = &*self.fanout;
        let latest_only = || config.latest_only.matches(channel.as_str());
        let (joined, first) =
            (|| self.fanout.clock.next_joined(), || self.broker.subscribe(channel));
        table.insert(channel, queue, latest_only, joined, first)
    }

    /// Removes a subscriber. The channel stays subscribed in the broker for the linger.
    pub(super) fn leave(&self, channel: &Channel, departure: Departure<'_>) {
        let unsubscribe = || self.broker.unsubscribe(channel);
        if self.fanout.table.remove(channel, departure, self.linger.period(), unsubscribe)
            && let Some(oldest) = self.linger.add(channel.clone())
        {
            let unsubscribe = || self.broker.unsubscribe(&oldest);
            self.fanout.table.sweep(&oldest, Duration::ZERO, unsubscribe);
        }
    }

    /// Unsubscribes channels whose linger is over; returns the others with the time of their next
    /// check.
    pub(super) fn sweep(&self, due: Vec<Channel>, expires: bool) -> Vec<(Instant, Channel)> {
        if expires {
            self.fanout.expire_rings();
        }
        let sweep_channel = |channel: Channel| {
            let unsubscribe = || self.broker.unsubscribe(&channel);
            let next_check = self.fanout.table.sweep(&channel, self.linger.period(), unsubscribe);
            next_check.map(|at| (at, channel))
        };
        due.into_iter().filter_map(sweep_channel).collect()
    }

    /// Runs a task for a stream of this hub; `None` if the hub has no runtime.
    pub(super) fn spawn(
        &self,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> Option<AbortHandle> {
        self.runtime.get().map(|runtime| runtime.spawn(task).abort_handle())
    }

    pub(super) fn stream_ended(&self, reason: CloseReason) {
        self.lifecycle.stream_ended(reason, &self.fanout.stats);
    }

    /// Removes a closed stream from the registry; the number 0 means that it has no owner.
    pub(super) fn forget_owner(&self, number: u64) {
        if number > 0 {
            self.fanout.registry.remove(number);
        }
    }
}

impl Drop for HubInner {
    fn drop(&mut self) {
        self.linger.stop();
    }
}
