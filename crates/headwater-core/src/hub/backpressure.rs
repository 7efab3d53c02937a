//! Backpressure: publishers wait for a bounded time while a shard is far behind. Look here for the
//! list of shards that serve a hub.

use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::stats::Stats;
use crate::limits;
use crate::stream::mailbox::Mailbox;

/// The shards that serve a hub, and the bytes of their backlogs.
#[derive(Default)]
pub(super) struct Backpressure {
    shards: Mutex<Vec<Arc<Mailbox>>>,
    /// Whether there ever was a shard; without one, `admit` takes no lock.
    has_shards: AtomicBool,
    /// Bytes in the backlogs of all streams, those that streams share counted once.
    pub(super) held_bytes: AtomicIsize,
}

impl Backpressure {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Mailbox>>> {
        self.shards.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn shards(&self) -> Vec<Arc<Mailbox>> {
        self.lock().clone()
    }

    /// Adds a shard; a restarted one replaces `before`.
    pub(super) fn add_shard(&self, mailbox: Arc<Mailbox>, before: Option<&Mailbox>) {
        let mut shards = self.lock();
        let replaced = shards
            .iter_mut()
            .find(|it| before.is_some_and(|old| std::ptr::eq(Arc::as_ptr(it), old)));
        match replaced {
            Some(replaced) => *replaced = mailbox,
            None => shards.push(mailbox),
        }
        self.has_shards.store(true, Ordering::Release);
    }

    pub(super) fn remove_shard(&self, mailbox: &Mailbox) {
        self.lock().retain(|other| !std::ptr::eq(Arc::as_ptr(other), mailbox));
    }

    /// Waits while a shard is far behind on one of the channels whose slots in its mailbox
    /// `slots_in` returns; at most for [`limits::PUBLISH_WAIT_MAX`].
    pub(super) async fn admit(&self, stats: &Stats, slots_in: impl Fn(&Arc<Mailbox>) -> Vec<u32>) {
        if !self.has_shards.load(Ordering::Acquire) {
            return;
        }
        let may_delay = |mailbox: &&Arc<Mailbox>| mailbox.is_full() || mailbox.has_congested();
        let mut behind: Vec<_> = self
            .lock()
            .iter()
            .filter(may_delay)
            .map(|mailbox| (Arc::clone(mailbox), Vec::new()))
            .collect();
        for (mailbox, slots) in &mut behind {
            *slots = slots_in(mailbox);
        }
        behind.retain(|(mailbox, slots)| mailbox.delays(slots));
        let room = async {
            for (mailbox, slots) in &behind {
                mailbox.has_room(slots).await;
            }
        };
        if !behind.is_empty() {
            stats.publishes_delayed.add(1);
            let _ = tokio::time::timeout(limits::PUBLISH_WAIT_MAX, room).await;
        }
    }
}
