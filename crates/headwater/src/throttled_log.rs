//! A rate limit for log lines that unauthenticated clients can cause, or that a failure repeats.
//! Look here for how such lines are prevented from filling the log.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::limits::REJECTION_LOG_INTERVAL;

/// Allows one line per [`REJECTION_LOG_INTERVAL`], and counts the lines it suppresses.
#[derive(Debug, Default)]
pub(crate) struct ThrottledLog(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    logged_at: Option<Instant>,
    suppressed: u64,
}

impl ThrottledLog {
    /// If a line may be logged now, returns how many were suppressed since the last one. Otherwise
    /// counts this line as suppressed, and returns `None`.
    pub(crate) fn due(&self) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.logged_at.is_some_and(|at| at.elapsed() < REJECTION_LOG_INTERVAL) {
            state.suppressed += 1;
            return None;
        }
        state.logged_at = Some(Instant::now());
        Some(std::mem::take(&mut state.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_per_interval_is_allowed_and_the_others_are_counted() {
        let throttled_log = ThrottledLog::default();
        assert_eq!(throttled_log.due(), Some(0));
        assert_eq!((throttled_log.due(), throttled_log.due()), (None, None));
        throttled_log.0.lock().expect("the lock is not poisoned").logged_at =
            Instant::now().checked_sub(REJECTION_LOG_INTERVAL);
        assert_eq!(throttled_log.due(), Some(2));
    }
}
