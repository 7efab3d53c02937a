//! What a stream has received. Look here for which frames are not delivered to it again.

use crate::frame::Frame;
use crate::gap::GapReason;
use crate::log::Cursor;

/// The progress of a stream: what must not be delivered again, and when the stream ends.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// What had been delivered when the stream was attached; [`Cursor::END`] while it replays.
    pub until: Cursor,
    /// Number of channels that have not ended.
    pub open: u32,
    /// Number of channels.
    pub channels: u32,
}

impl Progress {
    /// The progress of a stream that has not joined its channels.
    pub const REPLAYING: Self = Self { until: Cursor::END, open: 1, channels: 1 };

    /// Records a live frame, and returns whether to deliver it.
    pub fn note(&mut self, frame: &Frame) -> bool {
        if self.is_replaying() {
            return false;
        }
        if frame.gap().is_some_and(|gap| gap.reason == GapReason::Epoch) {
            // The log was reset: offsets start over, and it knows no ends.
            self.until.offset = 0;
            self.open = self.channels;
        }
        // An end counts even if the client has it already: its channel is closed.
        if frame.is_end() {
            self.open = self.open.saturating_sub(1);
        }
        // Only a client that is ahead of this node has such a frame already. Nothing else is pushed
        // twice.
        !frame.key().is_some_and(|key| self.until.has(key))
    }

    /// Whether the stream replays: live frames are not for it.
    pub fn is_replaying(&self) -> bool {
        self.until == Cursor::END
    }
}
