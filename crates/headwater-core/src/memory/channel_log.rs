//! The history of one channel in the log of the embedded broker. Look here for how retention is
//! applied, and for how long a channel without events is remembered.

use std::collections::VecDeque;
use std::time::Duration;

use crate::frame::Frame;
use crate::log::Retention;

/// How long an ended or silent channel is remembered beyond the age of its retention.
const CHANNEL_MEMORY: Duration = Duration::from_secs(24 * 3600);

/// The retained events of one channel, and what is remembered of it.
#[derive(Default)]
pub(super) struct ChannelLog {
    /// Each frame with the offset of the channel's event before it.
    pub(super) entries: VecDeque<(u64, Frame)>,
    pub(super) bytes: usize,
    /// The offset of the channel's last event, retained or not.
    pub(super) last: u64,
    /// Whether that event ended the channel.
    pub(super) ended: bool,
    /// When that event was published, in milliseconds since 1970.
    pub(super) published_at_ms: u64,
}

impl ChannelLog {
    /// The offset of the oldest retained event.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.entries.front()?.1.key().map(|key| key.offset)
    }

    /// Whether the channel is still remembered, with retained events or without.
    pub(super) fn is_known(&self, retention: Option<Retention>, now_ms: u64) -> bool {
        let age = retention.map_or(Duration::ZERO, |retention| retention.age);
        let forget_at_ms = self.published_at_ms.saturating_add(whole_ms(age + CHANNEL_MEMORY));
        !self.entries.is_empty() || now_ms < forget_at_ms
    }

    /// Drops events that exceed the retention. The newest event is dropped only for its age,
    /// however large it is.
    pub(super) fn trim(&mut self, retention: &Retention, now_ms: u64) {
        let oldest_ms = now_ms.saturating_sub(whole_ms(retention.age));
        while let Some((_, oldest)) = self.entries.front() {
            let is_too_large =
                self.entries.len() > retention.events || self.bytes > retention.bytes;
            let exceeds = is_too_large && self.entries.len() > 1;
            if !exceeds && oldest.time_ms() >= oldest_ms {
                break;
            }
            self.bytes -= oldest.len();
            self.entries.pop_front();
        }
        if self.entries.is_empty() {
            self.entries = VecDeque::new();
        }
    }

    /// The index of the first retained event after an offset.
    pub(super) fn index_after(&self, offset: u64) -> usize {
        self.entries
            .partition_point(|(_, frame)| frame.key().is_some_and(|key| key.offset <= offset))
    }
}

/// A duration in milliseconds, rounded down, at most [`u64::MAX`].
pub(super) fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
