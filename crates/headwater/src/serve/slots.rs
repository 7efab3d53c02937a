//! How many connections there may be, and waiting until there is none. Look here for what holds up a graceful end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Notify, Semaphore};

/// The room for connections.
pub(super) struct ConnectionSlots {
    free: Semaphore,
    open: AtomicUsize,
    empty: Notify,
}

/// The place of one connection, also when it has become a stream of the engine. One pointer.
pub(crate) struct ConnectionSlot(Arc<ConnectionSlots>);

impl ConnectionSlots {
    pub(super) fn new(places: usize) -> Arc<Self> {
        let free = Semaphore::new(places);
        Arc::new(Self { free, open: AtomicUsize::new(0), empty: Notify::new() })
    }

    pub(super) fn is_full(&self) -> bool {
        self.free.available_permits() == 0
    }

    /// A place, as soon as there is one. Cancel safe.
    pub(super) async fn enter(self: &Arc<Self>) -> ConnectionSlot {
        // The semaphore is never closed, so this is always a permit.
        if let Ok(permit) = self.free.acquire().await {
            permit.forget();
        }
        self.open.fetch_add(1, Ordering::AcqRel);
        ConnectionSlot(Arc::clone(self))
    }

    /// Resolves when no place is taken. Cancel safe.
    pub(super) async fn emptied(&self) {
        loop {
            let notified = self.empty.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if self.open.load(Ordering::Acquire) == 0 {
                return;
            }
            notified.await;
        }
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.0.free.add_permits(1);
        if self.0.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.empty.notify_waiters();
        }
    }
}
