//! Publishers wait while a shard is far behind, for a bounded time. Look here for the shards that serve
//! a hub.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::stats::Stats;
use crate::limits;
use crate::stream::mailbox::Mailbox;

/// The shards that serve a hub, and how far behind they are.
#[derive(Default)]
pub(super) struct Backpressure {
    shards: Mutex<Vec<Arc<Mailbox>>>,
    /// Whether there are any.
    has_shards: AtomicBool,
    /// Bytes in the backlogs of all streams.
    pub(super) backlog_bytes: AtomicUsize,
}

impl Backpressure {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Mailbox>>> {
        self.shards.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn shards(&self) -> Vec<Arc<Mailbox>> {
        self.lock().clone()
    }

    /// Adds a shard; in the place of `before` if it is restarted.
    pub(super) fn add_shard(&self, mailbox: Arc<Mailbox>, before: Option<&Mailbox>) {
        let mut shards = self.lock();
        let place = shards
            .iter_mut()
            .find(|it| before.is_some_and(|old| std::ptr::eq(Arc::as_ptr(it), old)));
        match place {
            Some(place) => *place = mailbox,
            None => shards.push(mailbox),
        }
        self.has_shards.store(true, Ordering::Release);
    }

    pub(super) fn remove_shard(&self, mailbox: &Mailbox) {
        self.lock().retain(|other| !std::ptr::eq(Arc::as_ptr(other), mailbox));
    }

    /// Waits while a shard is far behind, for a bounded time.
    pub(super) async fn admit(&self, stats: &Stats) {
        if !self.has_shards.load(Ordering::Acquire) {
            return;
        }
        let behind: Vec<_> =
            self.lock().iter().filter(|mailbox| mailbox.is_full()).cloned().collect();
        let room = async {
            for mailbox in &behind {
                mailbox.has_room().await;
            }
        };
        if !behind.is_empty() {
            stats.publishes_delayed.add(1);
            let _ = tokio::time::timeout(limits::PUBLISH_WAIT_MAX, room).await;
        }
    }
}
