//! The bounds of a hub. Look here for their defaults.

use std::time::Duration;

use crate::budget::Budget;
use crate::limits;
use crate::pattern::ChannelPatterns;

/// The bounds that a hub's builder sets.
#[derive(Debug, Clone)]
pub(crate) struct HubConfig {
    pub(crate) linger: Duration,
    pub(crate) queue_frames_max: usize,
    pub(crate) queue_bytes_max: usize,
    pub(crate) channels_per_stream_max: usize,
    pub(crate) latest_only: ChannelPatterns,
    pub(crate) budget: Budget,
}

impl Default for HubConfig {
    fn default() -> Self {
        Self {
            linger: limits::LINGER_DEFAULT,
            queue_frames_max: limits::QUEUE_FRAMES_MAX,
            queue_bytes_max: limits::QUEUE_BYTES_MAX,
            channels_per_stream_max: limits::CHANNELS_PER_STREAM_MAX,
            latest_only: ChannelPatterns::default(),
            budget: Budget::default(),
        }
    }
}
