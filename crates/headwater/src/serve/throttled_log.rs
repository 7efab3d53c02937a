//! A bell that rings once in a while, for log lines that strangers can cause. Look here for how such a line is kept
//! from filling the log.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::limits::STRANGER_LOG_INTERVAL;

/// Rings once per interval, and counts when it does not.
#[derive(Debug, Default)]
pub(super) struct ThrottledLog(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    rang_at: Option<Instant>,
    silent: u64,
}

impl ThrottledLog {
    /// Rings, with how often it did not since the last time; or does not.
    pub(super) fn due(&self) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.rang_at.is_some_and(|at| at.elapsed() < STRANGER_LOG_INTERVAL) {
            state.silent += 1;
            return None;
        }
        state.rang_at = Some(Instant::now());
        Some(std::mem::take(&mut state.silent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rings_once_and_says_later_how_often_it_did_not() {
        let throttled_log = ThrottledLog::default();
        assert_eq!(throttled_log.due(), Some(0));
        assert_eq!((throttled_log.due(), throttled_log.due()), (None, None));
        throttled_log.0.lock().expect("the state").rang_at =
            Instant::now().checked_sub(STRANGER_LOG_INTERVAL);
        assert_eq!(throttled_log.due(), Some(2));
    }
}
