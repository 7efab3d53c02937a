//! What the shards of the engine ask of the hub. Look here for how a shard is known, leaves and holds publishers up.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

use super::HubInner;
use super::mailbox::{Mailbox, Message};
use super::table::Departure;
use crate::channel::Channel;
use crate::close::CloseReason;
use crate::frame::Frame;
use crate::limits;

impl HubInner {
    fn lock_shards(&self) -> MutexGuard<'_, Vec<Arc<Mailbox>>> {
        self.shards.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn shards(&self) -> Vec<Arc<Mailbox>> {
        self.lock_shards().clone()
    }

    /// A shard begins to serve this hub; at its old place, if it begins anew.
    pub(crate) fn add_shard(&self, mailbox: Arc<Mailbox>, before: Option<&Mailbox>) {
        let mut shards = self.lock_shards();
        let place = shards
            .iter_mut()
            .find(|it| before.is_some_and(|old| std::ptr::eq(Arc::as_ptr(it), old)));
        match place {
            Some(place) => *place = mailbox,
            None => shards.push(mailbox),
        }
        self.has_shards.store(true, Ordering::Release);
    }

    /// A shard ends for good.
    pub(crate) fn remove_shard(&self, mailbox: &Mailbox) {
        self.lock_shards().retain(|other| !std::ptr::eq(Arc::as_ptr(other), mailbox));
    }

    /// A mailbox's shard is gone; with it all its streams that it did not end itself. Those on their way to
    /// it are given back.
    pub(crate) fn close_mailbox(&self, mailbox: &Arc<Mailbox>) -> Vec<Message> {
        let left = mailbox.close();
        self.registry.remove_shard(mailbox);
        for channel in self.table.channels_of(mailbox) {
            self.leave(&channel, Departure::Shard(mailbox));
        }
        left
    }

    /// A stream of a shard left a channel.
    pub(crate) fn leave_shard(&self, channel: &Channel, mailbox: &Arc<Mailbox>) {
        self.leave(channel, Departure::Stream(mailbox));
    }

    /// A stream of a shard ended.
    pub(crate) fn shard_stream_ended(&self, mailbox: &Mailbox, reason: CloseReason) {
        mailbox.counts.streams.fetch_sub(1, Ordering::Relaxed);
        self.stream_ended(reason);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Whether a frame makes older ones of its channel useless to a slow client.
    pub(crate) fn is_latest_only(&self, frame: &Frame) -> bool {
        frame.channel().is_some_and(|channel| self.settings.latest_only.matches(channel.as_str()))
    }

    pub(crate) fn queue_bounds(&self) -> (usize, usize) {
        (self.settings.queue_frames_max, self.settings.queue_bytes_max)
    }

    /// Makes a publisher wait while a shard is far behind, for a bounded time.
    pub(super) async fn admit_publish(&self) {
        if !self.has_shards.load(Ordering::Acquire) {
            return;
        }
        let behind: Vec<_> =
            self.lock_shards().iter().filter(|mailbox| mailbox.is_full()).cloned().collect();
        let room = async {
            for mailbox in &behind {
                mailbox.has_room().await;
            }
        };
        if !behind.is_empty() {
            self.stats.publishes_delayed.add(1);
            let _ = tokio::time::timeout(limits::PUBLISH_WAIT_MAX, room).await;
        }
    }
}
