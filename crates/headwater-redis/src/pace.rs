//! The pace of publishing: no more than Redis can pass on. Look here for when a publisher waits
//! for what its node has published before.
//!
//! Redis disconnects a subscriber that has more than 32 MB to receive
//! (`client-output-buffer-limit pubsub`), and with it all channels of the node. A node that
//! publishes faster than it receives would cause that itself.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};

use headwater_core::limits::PUBLISH_WAIT_MAX;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::limits::UNHEARD_BYTES_MAX;

/// What was published and may not have been received yet.
#[derive(Default)]
pub(crate) struct Pace {
    unheard: AtomicUsize,
    /// Held by the publisher that asks whether all has been received.
    asking: Mutex<()>,
}

impl Pace {
    /// Waits before `bytes` are published, until the node has received nearly all before, which is
    /// so when `heard` resolves; at most for [`PUBLISH_WAIT_MAX`].
    pub(crate) async fn wait<T>(&self, bytes: usize, heard: impl Future<Output = T>) {
        let is_over = |bytes: usize| bytes > UNHEARD_BYTES_MAX;
        if !is_over(self.unheard.fetch_add(bytes, Ordering::Relaxed) + bytes) {
            return;
        }
        let waiting = async {
            let _asking = self.asking.lock().await;
            // Another publisher may have asked meanwhile.
            if is_over(self.unheard.load(Ordering::Relaxed)) {
                self.unheard.store(bytes, Ordering::Relaxed);
                heard.await;
            }
        };
        let _ = timeout(PUBLISH_WAIT_MAX, waiting).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn publishers_wait_while_too_much_was_not_received() {
        let (pace, part) = (Pace::default(), UNHEARD_BYTES_MAX / 2);
        let heard = || tokio::time::sleep(Duration::from_millis(100));
        let took = async |bytes| {
            let began = Instant::now();
            pace.wait(bytes, heard()).await;
            began.elapsed().as_millis()
        };
        assert_eq!((took(part).await, took(part).await), (0, 0));
        assert!(took(1).await >= 100, "all before must be received");
        assert_eq!(took(part).await, 0);
        // One question for all that wait for it.
        let (one, two) = tokio::join!(took(part), took(part / 2));
        assert!((100..110).contains(&one) && two < 110, "{one} {two}");
        // A connection that is lost delays nobody for long.
        pace.wait(UNHEARD_BYTES_MAX, async {}).await;
        let began = Instant::now();
        pace.wait(UNHEARD_BYTES_MAX, std::future::pending::<()>()).await;
        assert!(began.elapsed() <= PUBLISH_WAIT_MAX + Duration::from_millis(10));
    }
}
