//! Times as tokens and records write them: seconds since 1970.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How many seconds after 1970 it is.
pub(crate) fn seconds_since_1970(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// The time so many seconds after 1970; `None` if no clock can hold it.
pub(super) fn time_of(seconds: f64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?)
}
