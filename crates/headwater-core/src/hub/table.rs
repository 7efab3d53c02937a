//! The channel table: channel -> subscribers and recent frames. It does no IO. Look here for the
//! locks of the fan-out, and for how the first and the last subscriber of a channel are detected.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::entry::{ChannelEntry, Departure};
use super::ring::Ring;
use crate::budget::Account;
use crate::channel::Channel;
use crate::stream::mailbox::{ChannelSlot, Mailbox};
use crate::stream::queue::Queue;

/// The number of locks that the table is divided into, so that channels rarely contend. A power of
/// two well above the number of cores; chosen arbitrarily.
const PARTS: usize = 64;

/// The channel table.
///
/// The lock of a part is held while an event is delivered to all subscribers of a channel. That
/// gives all of them the same order, and makes the calls to `first` and `last` reach the broker in
/// order.
pub(super) struct ChannelTable {
    // Clients choose the names, so the hash is keyed (SipHash).
    hasher: RandomState,
    parts: Box<[Mutex<Part>]>,
    /// Channels with at least one subscriber.
    channels: AtomicUsize,
    /// Bytes in all rings.
    ring_bytes: Account,
}

/// Entries are boxed because a hash map can be half empty, and empty buckets should be small.
type Part = HashMap<Channel, Box<ChannelEntry>>;

impl ChannelTable {
    pub(super) fn new(ring_bytes: Account) -> Self {
        Self {
            hasher: RandomState::new(),
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
            channels: AtomicUsize::new(0),
            ring_bytes,
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

    /// Adds a subscriber; calls `joined` and `first` if the channel was not in the table. Ephemeral
    /// events up to the number that `joined` returns are unknown.
    pub(super) fn insert(
        &self,
        channel: &Channel,
        queue: &Arc<Queue>,
        latest_only: impl FnOnce() -> bool,
        joined: impl FnOnce() -> u64,
        first: impl FnOnce(),
    ) -> usize {
        let mut part = self.part(channel);
        let entry = part.entry(channel.clone()).or_insert_with(|| {
            first();
            Box::new(ChannelEntry::new(Ring::new(joined(), self.ring_bytes.clone()), latest_only()))
        });
        if entry.is_idle() {
            self.channels.fetch_add(1, Ordering::Relaxed);
        }
        entry.insert(queue)
    }

    /// Removes a subscriber. Without a linger, calls `last` if it was the last one; with a linger,
    /// returns whether the channel must be added to the linger's list.
    pub(super) fn remove(
        &self,
        channel: &Channel,
        departure: Departure<'_>,
        linger: Duration,
        last: impl FnOnce(),
    ) -> bool {
        let mut part = self.part(channel);
        let Some(entry) = part.get_mut(channel) else { return false };
        if entry.is_idle() {
            return false;
        }
        entry.remove(departure);
        if !entry.is_idle() {
            return false;
        }
        self.channels.fetch_sub(1, Ordering::Relaxed);
        if linger.is_zero() {
            part.remove(channel);
            last();
            return false;
        }
        entry.start_linger()
    }

    /// Removes a channel whose linger is over, and calls `last`. Returns the time of the next check
    /// if the linger is not over yet.
    pub(super) fn sweep(
        &self,
        channel: &Channel,
        linger: Duration,
        last: impl FnOnce(),
    ) -> Option<Instant> {
        let mut part = self.part(channel);
        let entry = part.get_mut(channel)?;
        let idle_since = entry.idle_since()?;
        if Instant::now() < idle_since + linger {
            return Some(idle_since + linger);
        }
        part.remove(channel);
        // Frees the memory of a table that was much larger.
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

    /// Calls `visit` with several channels while all of them are locked, so that nothing is
    /// delivered to them meanwhile. `None` if one of them is not in the table.
    pub(super) fn with_all<'a, T>(
        &self,
        channels: impl Iterator<Item = &'a Channel> + Clone,
        visit: impl FnOnce(&[&ChannelEntry]) -> T,
    ) -> Option<T> {
        // Locks are taken in the order of their index, so that two callers cannot deadlock.
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

    /// Locks several channels: nothing is delivered to any of them until the result is dropped.
    pub(super) fn lock_all<'a>(
        &self,
        channels: impl Iterator<Item = &'a Channel>,
    ) -> LockedChannels<'_> {
        let mut indexes: Vec<usize> = channels.map(|channel| self.part_index(channel)).collect();
        indexes.sort_unstable();
        indexes.dedup();
        // In the order of their index, like `with_all`.
        let parts = indexes.into_iter().map(|index| (index, self.lock(index))).collect();
        LockedChannels { table: self, parts }
    }

    /// The channels on which a shard has streams.
    pub(super) fn channels_of(&self, mailbox: &Arc<Mailbox>) -> Vec<Channel> {
        let mut channels = Vec::new();
        self.each(|channel, entry| {
            if entry.has_streams_of(mailbox) {
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
        self.ring_bytes.used()
    }

    pub(super) fn subscribers(&self, channel: &Channel) -> usize {
        self.part(channel).get(channel).map_or(0, |entry| entry.count())
    }
}

/// The locks of several channels.
pub(super) struct LockedChannels<'a> {
    table: &'a ChannelTable,
    parts: Vec<(usize, MutexGuard<'a, Part>)>,
}

impl LockedChannels<'_> {
    /// Moves a subscriber of one of the channels to a shard.
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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn first_and_last_are_called_once_and_in_order() {
        let table = ChannelTable::new(Account::of(1 << 20));
        let calls = RefCell::new(Vec::new());
        let first = || calls.borrow_mut().push("first");
        let last = || calls.borrow_mut().push("last");
        let queue = Arc::new(Queue::new(1, 1));
        let linger = Duration::from_secs(60);
        let channel = Channel::new("a").unwrap();
        let insert = || table.insert(&channel, &queue, || false, || 0, first);

        let (one, two) = (insert(), insert());
        assert_eq!((table.channels(), table.subscribers(&channel)), (1, 2));
        assert!(!table.remove(&channel, Departure::Subscriber(one), linger, last));
        assert!(table.remove(&channel, Departure::Subscriber(two), linger, last), "must be listed");
        assert_eq!((table.channels(), table.subscribers(&channel)), (0, 0));

        // A subscriber that joins and leaves within the linger does not list the channel again.
        tokio::time::advance(Duration::from_secs(40)).await;
        let three = insert();
        assert!(
            !table.remove(&channel, Departure::Subscriber(three), linger, last),
            "is listed already"
        );
        tokio::time::advance(Duration::from_secs(20)).await;
        let next_check = table.sweep(&channel, linger, last).expect("the linger is not over");
        assert_eq!(next_check - Instant::now(), Duration::from_secs(40));
        assert_eq!(*calls.borrow(), ["first"]);

        tokio::time::advance(Duration::from_secs(40)).await;
        assert_eq!(table.sweep(&channel, linger, last), None);
        assert_eq!(*calls.borrow(), ["first", "last"]);
        insert();
        assert_eq!(*calls.borrow(), ["first", "last", "first"]);
    }

    #[tokio::test]
    async fn without_a_linger_the_last_subscriber_unsubscribes_the_channel() {
        let table = ChannelTable::new(Account::of(1 << 20));
        let queue = Arc::new(Queue::new(1, 1));
        let channel = Channel::new("a").unwrap();
        let key = table.insert(&channel, &queue, || false, || 0, || {});
        let mut last = false;
        assert!(
            !table.remove(&channel, Departure::Subscriber(key), Duration::ZERO, || last = true)
        );
        assert!(last);
    }
}
