//! Who subscribes to what: channel -> subscribers and recent frames. Says who is first and who is last. No
//! IO in here.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use slab::Slab;
use tokio::time::Instant;

use super::mailbox::{ChannelSlot, Mailbox, Message, Revoked};
use super::queue::Queue;
use super::ring::Ring;
use crate::channel::Channel;
use crate::frame::Frame;
use crate::position::Key;

/// How many locks the table is divided into, so that channels seldom wait for one another. A power of
/// two well over the number of cores; chosen arbitrarily.
const PARTS: usize = 64;

/// The channel table.
///
/// The lock of a part is held while an event is handed to all subscribers of a channel: that is what keeps
/// the order the same for all of them, and keeps "first" and "last" in order for the broker.
pub(super) struct ChannelTable {
    // Names come from outside, so the hash is keyed (SipHash).
    hasher: RandomState,
    parts: Box<[Mutex<Part>]>,
    /// Channels with at least one subscriber.
    channels: AtomicUsize,
    /// Bytes in all rings.
    ring_bytes: Arc<AtomicUsize>,
}

/// In boxes, since a table is half empty at times and a thousand channels must not pay for the empty half.
type Part = HashMap<Channel, Box<ChannelEntry>>;

/// A channel in the table.
pub(super) struct ChannelEntry {
    subscribers: Slab<Arc<Queue>>,
    /// Shards with streams on the channel.
    recipients: Vec<Recipient>,
    pub(super) ring: Ring,
    /// Whether a slow client gets only the newest event.
    latest_only: bool,
    /// When the last subscriber left, while there is none.
    idle_since: Option<Instant>,
    /// Whether the linger has this channel on its list already: at most once, so the list is bounded
    /// by the table.
    is_on_linger_list: bool,
}

/// A shard with streams on a channel.
struct Recipient {
    mailbox: Arc<Mailbox>,
    /// The channel's slot in the mailbox.
    slot: u32,
    /// How many of the shard's streams are on it.
    streams: u32,
}

impl ChannelEntry {
    fn new(ring: Ring, latest_only: bool) -> Self {
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

    /// Hands a frame to all subscribers. Never waits.
    pub(super) fn deliver(&self, frame: &Frame) {
        self.queues().for_each(|queue| queue.push(frame, self.latest_only));
        for Recipient { mailbox, slot, .. } in &self.recipients {
            // A shard that is gone has no streams any more.
            let _ = mailbox.push(Message::Deliver { slot: *slot, frame: frame.clone() });
        }
    }

    /// Ends all streams on the channel, which their clients may not have any more.
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

    fn is_idle(&self) -> bool {
        self.subscribers.is_empty() && self.recipients.is_empty()
    }

    /// A subscriber becomes a stream of a shard. To be called with the locks of all its channels held.
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
        let slot = self.join(mailbox);
        ChannelSlot { channel: channel.clone(), slot }
    }

    fn join(&mut self, mailbox: &Arc<Mailbox>) -> u32 {
        let is_same = |recipient: &&mut Recipient| Arc::ptr_eq(&recipient.mailbox, mailbox);
        if let Some(recipient) = self.recipients.iter_mut().find(is_same) {
            recipient.streams += 1;
            return recipient.slot;
        }
        let slot = mailbox.allocate_slot();
        // Channels are many, and most have streams on one shard or on all.
        self.recipients.reserve_exact(1);
        self.recipients.push(Recipient { mailbox: Arc::clone(mailbox), slot, streams: 1 });
        slot
    }

    /// A stream of a shard left.
    fn part(&mut self, mailbox: &Arc<Mailbox>) {
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

/// Who leaves a channel.
#[derive(Clone, Copy)]
pub(super) enum Departure<'a> {
    /// The subscriber at this place.
    Subscriber(usize),
    /// One of a shard's streams.
    Stream(&'a Arc<Mailbox>),
    /// All of a shard's streams: the shard is gone.
    Shard(&'a Arc<Mailbox>),
}

impl ChannelTable {
    pub(super) fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
            channels: AtomicUsize::new(0),
            ring_bytes: Arc::default(),
        }
    }

    fn part_index(&self, channel: &Channel) -> usize {
        usize::try_from(self.hasher.hash_one(channel) % PARTS as u64).unwrap_or(0)
    }

    fn lock(&self, index: usize) -> MutexGuard<'_, Part> {
        self.parts[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn part(&self, channel: &Channel) -> MutexGuard<'_, Part> {
        self.lock(self.part_index(channel))
    }

    /// Adds a subscriber; calls `joined` and `first` if the channel was not in the table. A channel that is
    /// new is received from `joined` on.
    pub(super) fn insert(
        &self,
        channel: &Channel,
        queue: &Arc<Queue>,
        latest_only: impl FnOnce() -> bool,
        joined: impl FnOnce() -> Key,
        first: impl FnOnce(),
    ) -> usize {
        let mut part = self.part(channel);
        let entry = part.entry(channel.clone()).or_insert_with(|| {
            first();
            Box::new(ChannelEntry::new(
                Ring::new(joined(), Arc::clone(&self.ring_bytes)),
                latest_only(),
            ))
        });
        if entry.is_idle() {
            self.channels.fetch_add(1, Ordering::Relaxed);
        }
        entry.idle_since = None;
        entry.subscribers.insert(Arc::clone(queue))
    }

    /// Removes a subscriber. Without a linger, calls `last` if it was the last one; with one, says whether
    /// the channel must go on the linger's list.
    pub(super) fn remove(
        &self,
        channel: &Channel,
        leaving: Departure<'_>,
        linger: Duration,
        last: impl FnOnce(),
    ) -> bool {
        let mut part = self.part(channel);
        let Some(entry) = part.get_mut(channel) else { return false };
        if entry.is_idle() {
            return false;
        }
        match leaving {
            Departure::Subscriber(key) => drop(entry.subscribers.try_remove(key)),
            Departure::Stream(mailbox) => entry.part(mailbox),
            Departure::Shard(mailbox) => {
                entry.recipients.retain(|recipient| !Arc::ptr_eq(&recipient.mailbox, mailbox));
            }
        }
        if !entry.is_idle() {
            return false;
        }
        self.channels.fetch_sub(1, Ordering::Relaxed);
        if linger.is_zero() {
            part.remove(channel);
            last();
            return false;
        }
        entry.idle_since = Some(Instant::now());
        // A thousand subscribers must not leave their memory behind for the linger.
        entry.subscribers = Slab::new();
        !std::mem::replace(&mut entry.is_on_linger_list, true)
    }

    /// Takes a channel out whose linger is over, and calls `last`; else says when to look again.
    pub(super) fn sweep(
        &self,
        channel: &Channel,
        linger: Duration,
        last: impl FnOnce(),
    ) -> Option<Instant> {
        let mut part = self.part(channel);
        let entry = part.get_mut(channel)?;
        let Some(idle_since) = entry.idle_since else {
            entry.is_on_linger_list = false;
            return None;
        };
        if Instant::now() < idle_since + linger {
            return Some(idle_since + linger);
        }
        part.remove(channel);
        // A table that was large once gives its memory back.
        if part.capacity() > 64 && part.len() < part.capacity() / 4 {
            part.shrink_to_fit();
        }
        last();
        None
    }

    /// Calls `visit` with a channel, if it is in the table.
    pub(super) fn with<T>(
        &self,
        channel: &Channel,
        visit: impl FnOnce(&mut ChannelEntry) -> T,
    ) -> Option<T> {
        self.part(channel).get_mut(channel).map(|entry| visit(entry))
    }

    /// Calls `visit` with several channels at one moment, so that nothing is delivered to one of them
    /// meanwhile. `None` if one is not in the table.
    pub(super) fn with_all<'a, T>(
        &self,
        channels: impl Iterator<Item = &'a Channel> + Clone,
        visit: impl FnOnce(&[&ChannelEntry]) -> T,
    ) -> Option<T> {
        // Locks are taken in the order of their index, so two of these cannot wait for each other.
        let mut parts = BTreeMap::new();
        for channel in channels.clone() {
            parts.insert(self.part_index(channel), None);
        }
        for (index, guard) in &mut parts {
            *guard = Some(self.lock(*index));
        }
        let entries = channels.map(|channel| {
            parts.get(&self.part_index(channel))?.as_ref()?.get(channel).map(|entry| &**entry)
        });
        let entries: Option<Vec<&ChannelEntry>> = entries.collect();
        entries.map(|entries| visit(&entries))
    }

    /// Holds several channels still: while it is there, nothing is delivered to any of them.
    pub(super) fn lock_all<'a>(
        &self,
        channels: impl Iterator<Item = &'a Channel>,
    ) -> LockedChannels<'_> {
        let mut indexes: Vec<usize> = channels.map(|channel| self.part_index(channel)).collect();
        indexes.sort_unstable();
        indexes.dedup();
        // In the order of their index, as in `with_all`.
        let parts = indexes.into_iter().map(|index| (index, self.lock(index))).collect();
        LockedChannels { table: self, parts }
    }

    /// The channels that a shard has streams on.
    pub(super) fn channels_of(&self, mailbox: &Arc<Mailbox>) -> Vec<Channel> {
        let mut channels = Vec::new();
        self.each(|channel, entry| {
            if entry.recipients.iter().any(|recipient| Arc::ptr_eq(&recipient.mailbox, mailbox)) {
                channels.push(channel.clone());
            }
        });
        channels
    }

    /// Calls `visit` for every channel in the table.
    pub(super) fn each(&self, mut visit: impl FnMut(&Channel, &mut ChannelEntry)) {
        for index in 0..PARTS {
            for (channel, entry) in self.lock(index).iter_mut() {
                visit(channel, entry);
            }
        }
    }

    pub(super) fn channels(&self) -> usize {
        self.channels.load(Ordering::Relaxed)
    }

    pub(super) fn ring_bytes(&self) -> usize {
        self.ring_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn subscribers(&self, channel: &Channel) -> usize {
        self.part(channel).get(channel).map_or(0, |entry| entry.count())
    }
}

/// The locks of some channels.
pub(super) struct LockedChannels<'a> {
    table: &'a ChannelTable,
    parts: Vec<(usize, MutexGuard<'a, Part>)>,
}

impl LockedChannels<'_> {
    /// Makes a subscriber of one of the channels a stream of a shard.
    pub(super) fn attach(
        &mut self,
        channel: &Channel,
        key: usize,
        mailbox: &Arc<Mailbox>,
    ) -> Option<ChannelSlot> {
        let index = self.table.part_index(channel);
        let (_, part) = self.parts.iter_mut().find(|(at, _)| *at == index)?;
        Some(part.get_mut(channel)?.attach(channel, key, mailbox))
    }
}

// What a channel costs beside its name, its table's share and its frames: a hundred thousand channels of one
// stream must stay in some tens of megabytes.
const _: () = assert!(size_of::<ChannelEntry>() <= 320);

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn first_and_last_are_told_once_and_in_order() {
        let table = ChannelTable::new();
        let calls = RefCell::new(Vec::new());
        let first = || calls.borrow_mut().push("first");
        let last = || calls.borrow_mut().push("last");
        let queue = Arc::new(Queue::new(1, 1));
        let linger = Duration::from_secs(60);
        let channel = Channel::new("a").unwrap();
        let insert = || table.insert(&channel, &queue, || false, Key::default, first);

        let (one, two) = (insert(), insert());
        assert_eq!((table.channels(), table.subscribers(&channel)), (1, 2));
        assert!(!table.remove(&channel, Departure::Subscriber(one), linger, last));
        assert!(
            table.remove(&channel, Departure::Subscriber(two), linger, last),
            "goes on the list"
        );
        assert_eq!((table.channels(), table.subscribers(&channel)), (0, 0));

        // Back within the linger, and away again: one place on the list is enough.
        tokio::time::advance(Duration::from_secs(40)).await;
        let three = insert();
        assert!(
            !table.remove(&channel, Departure::Subscriber(three), linger, last),
            "is on the list"
        );
        tokio::time::advance(Duration::from_secs(20)).await;
        let again = table.sweep(&channel, linger, last).expect("not over yet");
        assert_eq!(again - Instant::now(), Duration::from_secs(40));
        assert_eq!(*calls.borrow(), ["first"]);

        tokio::time::advance(Duration::from_secs(40)).await;
        assert_eq!(table.sweep(&channel, linger, last), None);
        assert_eq!(*calls.borrow(), ["first", "last"]);
        insert();
        assert_eq!(*calls.borrow(), ["first", "last", "first"]);
    }

    #[tokio::test]
    async fn without_linger_the_last_one_unsubscribes() {
        let table = ChannelTable::new();
        let queue = Arc::new(Queue::new(1, 1));
        let channel = Channel::new("a").unwrap();
        let key = table.insert(&channel, &queue, || false, Key::default, || {});
        let mut last = false;
        assert!(
            !table.remove(&channel, Departure::Subscriber(key), Duration::ZERO, || last = true)
        );
        assert!(last);
    }
}
