//! The number of a hub's streams, and its drain. Look here for when a stream counts as opened and
//! as closed.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

use super::stats::Stats;
use crate::close::CloseReason;

/// The streams of a hub, from the first opened to the last closed.
pub(super) struct Lifecycle {
    draining: AtomicBool,
    /// The number of subscriptions; a drain waits for zero.
    streams: watch::Sender<usize>,
}

impl Lifecycle {
    pub(super) fn new() -> Self {
        Self { draining: AtomicBool::new(false), streams: watch::Sender::new(0) }
    }

    pub(super) fn stream_opened(&self, stats: &Stats) {
        self.streams.send_modify(|streams| *streams += 1);
        stats.opened.add(1);
    }

    pub(super) fn stream_ended(&self, reason: CloseReason, stats: &Stats) {
        stats.ended(reason);
        self.streams.send_modify(|streams| *streams -= 1);
    }

    pub(super) fn streams(&self) -> usize {
        *self.streams.borrow()
    }

    pub(super) fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Resolves when no stream is left. Cancel safe.
    pub(super) async fn drained(&self) {
        let mut streams = self.streams.subscribe();
        // Fails only when the sender is dropped, and `self` owns it.
        let _ = streams.wait_for(|streams| *streams == 0).await;
    }
}
