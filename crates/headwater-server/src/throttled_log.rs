//! A rate limit for warnings that clients can cause. Look here for how a flood of the same warning
//! is kept out of the log.

use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use crate::limits::WARNING_INTERVAL;

/// Allows one warning per [`WARNING_INTERVAL`], and counts those that it suppresses.
#[derive(Default)]
pub(crate) struct ThrottledLog(Mutex<State>);

#[derive(Default)]
struct State {
    logged_at: Option<Instant>,
    suppressed: u64,
}

impl ThrottledLog {
    /// Logs a warning, unless it is too early. `warn` gets the number of those that were
    /// suppressed.
    pub(crate) fn warn(&self, warn: impl FnOnce(u64)) {
        let suppressed = {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if state.logged_at.is_some_and(|at| at.elapsed() < WARNING_INTERVAL) {
                state.suppressed += 1;
                return;
            }
            state.logged_at = Some(Instant::now());
            std::mem::take(&mut state.suppressed)
        };
        warn(suppressed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_warnings_is_counted() {
        let log = ThrottledLog::default();
        let logged = || {
            let mut logged = None;
            log.warn(|suppressed| logged = Some(suppressed));
            logged
        };
        assert_eq!([logged(), logged(), logged()], [Some(0), None, None]);
        tokio::time::advance(WARNING_INTERVAL).await;
        assert_eq!([logged(), logged()], [Some(2), None]);
    }
}
