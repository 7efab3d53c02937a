//! The send timeout of a stream, shared by its body and the owner of its socket. Look here for how
//! a client that stopped reading is detected.
//!
//! A body is not polled while its client does not read, so it cannot detect that itself. Under
//! `headwater::serve` over HTTP/1 the socket is watched, and the body is notified. Everywhere else
//! a task watches the body.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

#[derive(Clone)]
pub(crate) struct Watch(Arc<Inner>);

struct Inner {
    send_timeout: Duration,
    socket_watched: AtomicBool,
    stalled: AtomicBool,
}

impl Watch {
    pub(super) fn new(send_timeout: Duration) -> Self {
        let (socket_watched, stalled) = (AtomicBool::new(false), AtomicBool::new(false));
        Self(Arc::new(Inner { send_timeout, socket_watched, stalled }))
    }

    pub(crate) fn send_timeout(&self) -> Duration {
        self.0.send_timeout
    }

    /// Records that the caller watches the socket, and will call [`stalled`](Self::stalled).
    pub(crate) fn watch_socket(&self) {
        self.0.socket_watched.store(true, Ordering::Relaxed);
    }

    pub(super) fn socket_is_watched(&self) -> bool {
        self.0.socket_watched.load(Ordering::Relaxed)
    }

    /// Records that the client accepted no data within the send timeout.
    pub(crate) fn stalled(&self) {
        self.0.stalled.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.0.stalled.load(Ordering::Relaxed)
    }
}
