//! The connection limit, and the wait for the last connection to close. Look here for what delays a
//! graceful shutdown.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Notify, Semaphore};

/// A server's connection slots.
pub(crate) struct ConnectionSlots {
    free: Semaphore,
    open: AtomicUsize,
    empty: Notify,
}

/// The slot of one connection, freed on drop. Streams of the engine hold it too, so it is only one
/// pointer.
pub(crate) struct ConnectionSlot(Arc<ConnectionSlots>);

impl ConnectionSlots {
    pub(crate) fn new(slots: usize) -> Arc<Self> {
        let free = Semaphore::new(slots);
        Arc::new(Self { free, open: AtomicUsize::new(0), empty: Notify::new() })
    }

    pub(crate) fn is_full(&self) -> bool {
        self.free.available_permits() == 0
    }

    /// Waits for a free slot. Cancel safe.
    pub(crate) async fn acquire(self: &Arc<Self>) -> ConnectionSlot {
        // Always a permit, since the semaphore is never closed.
        if let Ok(permit) = self.free.acquire().await {
            permit.forget();
        }
        self.open.fetch_add(1, Ordering::AcqRel);
        ConnectionSlot(Arc::clone(self))
    }

    /// Resolves when all slots are free. Cancel safe.
    pub(crate) async fn emptied(&self) {
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
