//! Waiting for a condition with a deadline, instead of sleeping for a fixed time.

use std::future::Future;
use std::time::{Duration, Instant};

/// The longest that a test waits for anything, unless it says otherwise. Generous, since it only
/// matters when a test fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How often a condition is checked.
const INTERVAL: Duration = Duration::from_millis(5);

/// Waits until a condition holds.
///
/// # Panics
/// With the name of the condition, when it does not hold within [`PATIENCE`].
#[track_caller]
pub fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "timed out after {PATIENCE:?}: {what}");
        std::thread::sleep(INTERVAL);
    }
}

/// Waits until an async condition holds.
///
/// # Panics
/// With the name of the condition, when it does not hold within [`PATIENCE`].
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "timed out after {PATIENCE:?}: {what}");
        tokio::time::sleep(INTERVAL).await;
    }
}
