//! The parts of a hub that its subscriptions and shards share. Look here for how a channel is subscribed
//! in the broker, and left.

use std::sync::Arc;

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

/// What a hub is made of.
pub(crate) struct HubInner {
    pub(super) broker: Arc<dyn Broker>,
    pub(super) fanout: Arc<Fanout>,
    pub(super) recall: Arc<Recall>,
    pub(super) lifecycle: Lifecycle,
    pub(super) linger: Arc<Linger>,
}

impl HubInner {
    /// A subscriber of a channel arrived; returns its place among them.
    pub(super) fn join(&self, channel: &Channel, queue: &Arc<Queue>) -> usize {
        let Fanout { table, config, .. } = &*self.fanout;
        let latest_only = || config.latest_only.matches(channel.as_str());
        let (joined, first) = (|| self.fanout.next_joined(), || self.broker.subscribe(channel));
        table.insert(channel, queue, latest_only, joined, first)
    }

    /// A subscriber left. The channel stays subscribed for the linger.
    pub(super) fn leave(&self, channel: &Channel, departure: Departure<'_>) {
        let unsubscribe = || self.broker.unsubscribe(channel);
        if self.fanout.table.remove(channel, departure, self.linger.period(), unsubscribe) {
            self.linger.add(channel.clone());
        }
    }

    /// Unsubscribes channels whose linger is over; returns the others, and when to look again.
    pub(super) fn sweep(&self, due: Vec<Channel>, expires: bool) -> Vec<(Instant, Channel)> {
        if expires {
            self.fanout.expire_rings();
        }
        let look_again = |channel: Channel| {
            let unsubscribe = || self.broker.unsubscribe(&channel);
            let again = self.fanout.table.sweep(&channel, self.linger.period(), unsubscribe);
            again.map(|at| (at, channel))
        };
        due.into_iter().filter_map(look_again).collect()
    }

    pub(super) fn stream_ended(&self, reason: CloseReason) {
        self.lifecycle.stream_ended(reason, &self.fanout.stats);
    }

    /// A stream that had an owner is gone; 0 is none.
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
