//! Wall-clock time as logs record it. Look here for the unit of every `_ms` in the log.

use std::time::{SystemTime, UNIX_EPOCH};

/// Now, in milliseconds since 1970; 0 before that.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
