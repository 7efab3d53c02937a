//! One channel: its subscribers, the shards with streams on it, and its ring. Look here for the
//! memory that a channel costs.

use std::sync::Arc;

use slab::Slab;
use tokio::time::Instant;

use super::ring::Ring;
use crate::channel::Channel;
use crate::frame::Frame;
use crate::stream::mailbox::{ChannelSlot, Mailbox, Message, ReplayFrom, Revoked};
use crate::stream::queue::Queue;

/// A channel in the table.
pub(super) struct ChannelEntry {
    subscribers: Slab<Arc<Queue>>,
    /// Shards with streams on the channel.
    recipients: Vec<Recipient>,
    pub(super) ring: Ring,
    /// Whether a slow client receives only the newest event.
    latest_only: bool,
    /// When the last subscriber left; `None` while there is one.
    idle_since: Option<Instant>,
    /// Whether the channel is on the linger's list. It is listed at most once, so the table bounds
    /// the list.
    is_on_linger_list: bool,
}

/// What leaves a channel.
#[derive(Clone, Copy)]
pub(super) enum Departure<'a> {
    /// The subscriber with this key.
    Subscriber(usize),
    /// One of a shard's streams.
    Stream(&'a Arc<Mailbox>),
    /// All of a shard's streams, because the shard is gone.
    Shard(&'a Arc<Mailbox>),
}

/// A shard with streams on a channel.
struct Recipient {
    mailbox: Arc<Mailbox>,
    /// The channel's slot in the mailbox.
    slot: u32,
    /// The number of the shard's streams on the channel.
    streams: u32,
}

impl ChannelEntry {
    pub(super) fn new(ring: Ring, latest_only: bool) -> Self {
        Self {
            subscribers: Slab::new(),
            recipients: Vec::new(),
            ring,
            latest_only,
            idle_since: None,
            is_on_linger_list: false,
        }
    }

    /// The subscribers that are not on a shard.
    pub(super) fn queues(&self) -> impl Iterator<Item = &Queue> {
        self.subscribers.iter().map(|(_, queue)| &**queue)
    }

    /// Delivers a frame to all subscribers. Never waits.
    pub(super) fn deliver(&self, frame: &Frame) {
        self.queues().for_each(|queue| queue.push(frame, self.latest_only));
        for Recipient { mailbox, slot, .. } in &self.recipients {
            // A shard that is gone has no streams to deliver to.
            let _ = mailbox.push(Message::Deliver { slot: *slot, frame: frame.clone() });
        }
    }

    /// Lets all streams on the channel replay: events are missing.
    pub(super) fn replay(&self, channel: &Channel, from: ReplayFrom) {
        self.queues().for_each(|queue| queue.replay(channel, from));
        for Recipient { mailbox, slot, .. } in &self.recipients {
            let _ = mailbox.push(Message::Replay { slot: *slot, from });
        }
    }

    /// Closes all streams on the channel: their clients are no longer allowed to receive it.
    pub(super) fn revoke(&self) {
        self.queues().for_each(Queue::revoke);
        for Recipient { mailbox, slot, .. } in &self.recipients {
            let _ = mailbox.push(Message::Revoke(Revoked::Channel(*slot)));
        }
    }

    pub(super) fn count(&self) -> usize {
        let on_shards: usize =
            self.recipients.iter().map(|recipient| recipient.streams as usize).sum();
        self.subscribers.len() + on_shards
    }

    pub(super) fn is_idle(&self) -> bool {
        self.subscribers.is_empty() && self.recipients.is_empty()
    }

    /// Adds a subscriber; returns its key.
    pub(super) fn insert(&mut self, queue: &Arc<Queue>) -> usize {
        self.idle_since = None;
        self.subscribers.insert(Arc::clone(queue))
    }

    pub(super) fn remove(&mut self, departure: Departure<'_>) {
        match departure {
            Departure::Subscriber(key) => drop(self.subscribers.try_remove(key)),
            Departure::Stream(mailbox) => self.remove_stream(mailbox),
            Departure::Shard(mailbox) => {
                self.recipients.retain(|recipient| !Arc::ptr_eq(&recipient.mailbox, mailbox));
            }
        }
    }

    /// Starts the linger after the last subscriber left. Returns whether the channel must be added
    /// to the linger's list.
    pub(super) fn start_linger(&mut self) -> bool {
        self.idle_since = Some(Instant::now());
        // Frees the slots of what may have been thousands of subscribers.
        self.subscribers = Slab::new();
        !std::mem::replace(&mut self.is_on_linger_list, true)
    }

    /// When the last subscriber left. If there is a subscriber again, this takes the channel off
    /// the linger's list.
    pub(super) fn idle_since(&mut self) -> Option<Instant> {
        if self.idle_since.is_none() {
            self.is_on_linger_list = false;
        }
        self.idle_since
    }

    /// The channel's slot in a mailbox, if the shard has streams on the channel.
    pub(super) fn slot_in(&self, mailbox: &Arc<Mailbox>) -> Option<u32> {
        let recipient = self.recipients.iter().find(|it| Arc::ptr_eq(&it.mailbox, mailbox))?;
        Some(recipient.slot)
    }

    pub(super) fn has_streams_of(&self, mailbox: &Arc<Mailbox>) -> bool {
        self.recipients.iter().any(|recipient| Arc::ptr_eq(&recipient.mailbox, mailbox))
    }

    /// Moves a subscriber to a shard. The caller holds the locks of all channels of the subscriber.
    pub(super) fn attach(
        &mut self,
        channel: &Channel,
        key: usize,
        mailbox: &Arc<Mailbox>,
    ) -> ChannelSlot {
        self.subscribers.try_remove(key);
        if self.subscribers.is_empty() {
            self.subscribers = Slab::new();
        }
        let slot = self.add_stream(mailbox);
        ChannelSlot { channel: channel.clone(), slot }
    }

    /// Counts one more stream of a shard; returns the channel's slot there.
    fn add_stream(&mut self, mailbox: &Arc<Mailbox>) -> u32 {
        let is_same = |recipient: &&mut Recipient| Arc::ptr_eq(&recipient.mailbox, mailbox);
        if let Some(recipient) = self.recipients.iter_mut().find(is_same) {
            recipient.streams += 1;
            return recipient.slot;
        }
        let slot = mailbox.allocate_slot();
        // There are many channels, and most have streams on one shard or on all of them.
        self.recipients.reserve_exact(1);
        self.recipients.push(Recipient { mailbox: Arc::clone(mailbox), slot, streams: 1 });
        slot
    }

    fn remove_stream(&mut self, mailbox: &Arc<Mailbox>) {
        let is_same = |recipient: &Recipient| Arc::ptr_eq(&recipient.mailbox, mailbox);
        let Some(at) = self.recipients.iter().position(is_same) else { return };
        self.recipients[at].streams -= 1;
        if self.recipients[at].streams == 0 {
            let recipient = self.recipients.swap_remove(at);
            mailbox.free_slot(recipient.slot);
            self.recipients.shrink_to_fit();
        }
    }
}

// The cost of a channel besides its name, its share of the table and its frames: a hundred thousand
// channels with one stream each must fit in some tens of megabytes.
const _: () = assert!(size_of::<ChannelEntry>() <= 320);
