//! Who listens to what: channel -> listeners. Says who is first and who is last. No IO in here.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use slab::Slab;
use tokio::time::Instant;

use super::queue::Queue;
use crate::channel::Channel;

/// How many locks the table is divided into, so that channels seldom wait for one another. A power of
/// two well over the number of cores; chosen arbitrarily.
const PARTS: usize = 64;

/// The table of interest.
///
/// The lock of a part is held while an event is handed to all listeners of a channel: that is what keeps the
/// order the same for all of them, and keeps "first" and "last" in order for the broker.
pub(super) struct Interest {
    // Names come from outside, so the hash is keyed (SipHash).
    hasher: RandomState,
    parts: Box<[Mutex<Part>]>,
    /// Channels with at least one listener.
    channels: AtomicUsize,
}

type Part = HashMap<Channel, Entry>;

struct Entry {
    listeners: Slab<Arc<Queue>>,
    /// When the last listener left, while there is none.
    idle_since: Option<Instant>,
    /// Whether the linger has this channel on its list already: at most once, so the list is bounded
    /// by the table.
    on_linger_list: bool,
}

impl Interest {
    pub(super) fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
            channels: AtomicUsize::new(0),
        }
    }

    fn part(&self, channel: &Channel) -> MutexGuard<'_, Part> {
        let hash = usize::try_from(self.hasher.hash_one(channel) % PARTS as u64).unwrap_or(0);
        self.parts[hash].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a listener; calls `first` if the channel was not in the table.
    pub(super) fn insert(
        &self,
        channel: &Channel,
        queue: &Arc<Queue>,
        first: impl FnOnce(),
    ) -> usize {
        let mut part = self.part(channel);
        let entry = part.entry(channel.clone()).or_insert_with(|| {
            first();
            Entry { listeners: Slab::new(), idle_since: None, on_linger_list: false }
        });
        if entry.listeners.is_empty() {
            self.channels.fetch_add(1, Ordering::Relaxed);
        }
        entry.idle_since = None;
        entry.listeners.insert(Arc::clone(queue))
    }

    /// Removes a listener. Without a linger, calls `last` if it was the last one; with one, says whether
    /// the channel must go on the linger's list.
    pub(super) fn remove(
        &self,
        channel: &Channel,
        key: usize,
        linger: Duration,
        last: impl FnOnce(),
    ) -> bool {
        let mut part = self.part(channel);
        let Some(entry) = part.get_mut(channel) else { return false };
        entry.listeners.try_remove(key);
        if !entry.listeners.is_empty() {
            return false;
        }
        self.channels.fetch_sub(1, Ordering::Relaxed);
        if linger.is_zero() {
            part.remove(channel);
            last();
            return false;
        }
        entry.idle_since = Some(Instant::now());
        // A thousand listeners must not leave their memory behind for the linger.
        entry.listeners.shrink_to_fit();
        !std::mem::replace(&mut entry.on_linger_list, true)
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
            entry.on_linger_list = false;
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

    /// Calls `deliver` with the listeners of a channel, if there are any.
    pub(super) fn with_listeners(
        &self,
        channel: &Channel,
        deliver: impl FnOnce(&mut dyn Iterator<Item = &Queue>),
    ) {
        let part = self.part(channel);
        if let Some(entry) = part.get(channel).filter(|entry| !entry.listeners.is_empty()) {
            deliver(&mut entry.listeners.iter().map(|(_, queue)| &**queue));
        }
    }

    /// Calls `visit` for every listener; one that listens to several channels is visited for each.
    pub(super) fn each_queue(&self, mut visit: impl FnMut(&Queue)) {
        for part in &self.parts {
            let part = part.lock().unwrap_or_else(PoisonError::into_inner);
            for (_, queue) in part.values().flat_map(|entry| &entry.listeners) {
                visit(queue);
            }
        }
    }

    pub(super) fn channels(&self) -> usize {
        self.channels.load(Ordering::Relaxed)
    }

    pub(super) fn listeners(&self, channel: &Channel) -> usize {
        self.part(channel).get(channel).map_or(0, |entry| entry.listeners.len())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn first_and_last_are_told_once_and_in_order() {
        let interest = Interest::new();
        let calls = RefCell::new(Vec::new());
        let first = || calls.borrow_mut().push("first");
        let last = || calls.borrow_mut().push("last");
        let queue = Arc::new(Queue::new(1, 1));
        let linger = Duration::from_secs(60);
        let channel = Channel::new("a").unwrap();

        let one = interest.insert(&channel, &queue, first);
        let two = interest.insert(&channel, &queue, first);
        assert_eq!((interest.channels(), interest.listeners(&channel)), (1, 2));
        assert!(!interest.remove(&channel, one, linger, last));
        assert!(interest.remove(&channel, two, linger, last), "goes on the list");
        assert_eq!((interest.channels(), interest.listeners(&channel)), (0, 0));

        // Back within the linger, and away again: one place on the list is enough.
        tokio::time::advance(Duration::from_secs(40)).await;
        let three = interest.insert(&channel, &queue, first);
        assert!(!interest.remove(&channel, three, linger, last), "is on the list");
        tokio::time::advance(Duration::from_secs(20)).await;
        let again = interest.sweep(&channel, linger, last).expect("not over yet");
        assert_eq!(again - Instant::now(), Duration::from_secs(40));
        assert_eq!(*calls.borrow(), ["first"]);

        tokio::time::advance(Duration::from_secs(40)).await;
        assert_eq!(interest.sweep(&channel, linger, last), None);
        assert_eq!(*calls.borrow(), ["first", "last"]);
        interest.insert(&channel, &queue, first);
        assert_eq!(*calls.borrow(), ["first", "last", "first"]);
    }

    #[tokio::test]
    async fn without_linger_the_last_one_unsubscribes() {
        let interest = Interest::new();
        let queue = Arc::new(Queue::new(1, 1));
        let channel = Channel::new("a").unwrap();
        let key = interest.insert(&channel, &queue, || {});
        let mut last = false;
        assert!(!interest.remove(&channel, key, Duration::ZERO, || last = true));
        assert!(last);
    }
}
