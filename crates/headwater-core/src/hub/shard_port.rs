//! The interface of a hub for the shards of an engine, and the only one that an engine uses. Look
//! here before you let a transport use anything else of a hub.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::task::AbortHandle;

use super::entry::Departure;
use super::inner::HubInner;
use super::replay::{Replay, Target};
use super::shard_replay;
use crate::channel::Channel;
use crate::close::CloseReason;
use crate::frame::Frame;
use crate::log::Cursor;
use crate::stream::mailbox::{Mailbox, Message, Missed};
use crate::stream::waiting::WaitingBounds;

/// A hub, as an engine sees it.
#[derive(Clone)]
pub struct HubRef(Arc<HubInner>);

/// The connection of one shard to its hub: the mailbox, and the shard's reports and queries.
pub struct ShardPort {
    hub: Arc<HubInner>,
    mailbox: Arc<Mailbox>,
}

impl HubRef {
    pub(super) fn new(hub: Arc<HubInner>) -> Self {
        Self(hub)
    }

    /// Whether both are the same hub.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Adds a shard, which the hub wakes by calling `wake`. It replaces `before`, a shard that
    /// failed.
    pub fn open(
        &self,
        before: Option<&Mailbox>,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> ShardPort {
        let mailbox = Arc::new(Mailbox::new(wake));
        if let Some(before) = before {
            let panics = before.counts.panics.load(Ordering::Relaxed);
            mailbox.counts.panics.store(panics, Ordering::Relaxed);
        }
        self.0.fanout.pressure.add_shard(Arc::clone(&mailbox), before);
        ShardPort { hub: Arc::clone(&self.0), mailbox }
    }

    /// The mailboxes of the shards that serve the hub.
    pub fn shards(&self) -> Vec<Arc<Mailbox>> {
        self.0.fanout.pressure.shards()
    }

    /// The number of streams that have an owner.
    pub fn owned_streams(&self) -> usize {
        self.0.fanout.registry.streams()
    }

    /// Removes a shard that does not restart.
    pub fn remove(&self, mailbox: &Mailbox) {
        self.0.fanout.pressure.remove_shard(mailbox);
    }
}

impl ShardPort {
    /// The shard's mailbox.
    pub fn mailbox(&self) -> &Arc<Mailbox> {
        &self.mailbox
    }

    /// How much may wait in one stream's backlog.
    pub fn backlog_bounds(&self) -> WaitingBounds {
        let config = &self.hub.fanout.config;
        WaitingBounds { frames_max: config.queue_frames_max, bytes_max: config.queue_bytes_max }
    }

    /// Whether a frame replaces older ones of its channel for a slow client.
    pub fn conflates(&self, frame: &Frame) -> bool {
        let latest_only = &self.hub.fanout.config.latest_only;
        frame.channel().is_some_and(|channel| latest_only.matches(channel.as_str()))
    }

    /// Whether the hub is draining.
    pub fn is_draining(&self) -> bool {
        self.hub.lifecycle.is_draining()
    }

    /// Replays what the node has missed to a stream of the shard, as [`Message::Page`]s of the
    /// replay with this number, until it is [`Message::Live`] again. `until` is where the stream
    /// was attached. Returns the task, to be aborted when the stream closes; `None` if there is no
    /// runtime to run it.
    pub fn replay(
        &self,
        number: u64,
        channels: &[Channel],
        missed: &Missed,
        until: Cursor,
    ) -> Option<AbortHandle> {
        let (recall, mailbox) = (Arc::clone(&self.hub.recall), Arc::clone(&self.mailbox));
        let target = Target::Shard(Arc::clone(&mailbox), number);
        let replay = Replay::of_missed(recall, target, channels, missed, until);
        self.hub.spawn(shard_replay::run(replay, mailbox, number))
    }

    /// Reports that a stream left a channel.
    pub fn left(&self, channel: &Channel) {
        self.hub.leave(channel, Departure::Stream(&self.mailbox));
    }

    /// Counts frames that were sent, and their bytes.
    pub fn sent(&self, frames: u64, bytes: usize) {
        let stats = &self.hub.fanout.stats;
        stats.sent.add(frames);
        stats.sent_bytes.add(bytes as u64);
    }

    /// The bytes in the backlogs of all shards together, those that streams share counted once.
    pub fn held_bytes(&self) -> usize {
        self.hub.fanout.pressure.held_bytes.load(Ordering::Relaxed).try_into().unwrap_or(0)
    }

    /// Wakes all other shards, which then look at their backlogs.
    pub fn wake_others(&self) {
        let shards = self.hub.fanout.pressure.shards();
        let others = shards.iter().filter(|mailbox| !Arc::ptr_eq(mailbox, &self.mailbox));
        others.for_each(|mailbox| mailbox.wake());
    }

    /// Reports that a stream's backlog changed from `before` to `after` bytes, and that the bytes
    /// in all backlogs changed by `held`.
    pub fn backlog_changed(&self, before: usize, after: usize, held: isize) {
        let of_shard = &self.mailbox.counts.backlog_bytes;
        if after >= before {
            of_shard.fetch_add(after - before, Ordering::Relaxed);
        } else {
            of_shard.fetch_sub(before - after, Ordering::Relaxed);
        }
        if held != 0 {
            self.mailbox.counts.held_bytes.fetch_add(held, Ordering::Relaxed);
            self.hub.fanout.pressure.held_bytes.fetch_add(held, Ordering::Relaxed);
        }
        let blocked = &self.mailbox.counts.blocked;
        match (before, after) {
            (0, 1..) => blocked.fetch_add(1, Ordering::Relaxed),
            (1.., 0) => blocked.fetch_sub(1, Ordering::Relaxed),
            _ => 0,
        };
    }

    /// Removes a closed stream from the registry; the number 0 means that it has no owner.
    pub fn forget_owner(&self, number: u64) {
        self.hub.forget_owner(number);
    }

    /// Reports that a stream closed.
    pub fn ended(&self, reason: CloseReason) {
        self.mailbox.counts.streams.fetch_sub(1, Ordering::Relaxed);
        self.hub.stream_ended(reason);
    }

    /// Closes the port: the shard is gone, and with it all of its streams. Returns the messages
    /// that were not handled, among them streams that were being attached.
    pub fn close(&self) -> Vec<Message> {
        let unhandled = self.mailbox.close();
        self.hub.fanout.registry.remove_shard(&self.mailbox);
        for channel in self.hub.fanout.table.channels_of(&self.mailbox) {
            self.hub.leave(&channel, Departure::Shard(&self.mailbox));
        }
        unhandled
    }

    /// Counts the streams and bytes that a failed shard could not account for.
    pub fn write_off(&self) {
        let counts = &self.mailbox.counts;
        let lost = counts.streams.load(Ordering::Relaxed);
        (0..lost).for_each(|_| self.ended(CloseReason::Internal));
        counts.backlog_bytes.store(0, Ordering::Relaxed);
        let held = counts.held_bytes.swap(0, Ordering::Relaxed);
        self.hub.fanout.pressure.held_bytes.fetch_sub(held, Ordering::Relaxed);
    }
}
