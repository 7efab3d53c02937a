//! The history of one channel in the embedded broker. Look here for how retention trims it, and how
//! a page of it is read.

use std::collections::VecDeque;
use std::time::Duration;

use crate::broker::{History, ReadRange};
use crate::channel::Channel;
use crate::frame::Frame;
use crate::limits::REPLAY_BYTES_MAX;
use crate::log::Retention;
use crate::memory::store::KnownChannel;

/// How long, beyond the retention's age, the broker remembers that a channel had events or was
/// ended.
const CHANNEL_MEMORY: Duration = Duration::from_secs(24 * 3600);

/// The retained events of one channel, and what is remembered once they are gone.
#[derive(Default)]
pub(super) struct ChannelHistory {
    /// Each event with the offset of the channel's previous one, oldest first.
    entries: VecDeque<(u64, Frame)>,
    /// The length of all frames in `entries`.
    bytes: usize,
    /// The offset of the channel's last event, retained or not; 0 if there was none.
    last: u64,
    ended: bool,
    /// When the last event was published, in milliseconds since 1970.
    published_at_ms: u64,
}

impl ChannelHistory {
    /// A channel whose events are gone.
    pub(super) fn without_events(last: u64, ended: bool, published_at_ms: u64) -> Self {
        Self { last, ended, published_at_ms, ..Self::default() }
    }

    pub(super) fn last(&self) -> u64 {
        self.last
    }

    pub(super) fn is_ended(&self) -> bool {
        self.ended
    }

    /// The offset of the oldest retained event.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.entries.front()?.1.key().map(|key| key.offset)
    }

    /// What the store must know of the channel once its records are deleted.
    pub(super) fn known(&self, channel: Channel) -> KnownChannel {
        let Self { last, ended, published_at_ms: time_ms, .. } = *self;
        KnownChannel { channel, last, time_ms, ended }
    }

    /// Whether the channel's last offset and end must still be remembered.
    pub(super) fn is_known(&self, retention: Option<Retention>, now_ms: u64) -> bool {
        let age = retention.map_or(Duration::ZERO, |retention| retention.age);
        let forget_at_ms = self.published_at_ms.saturating_add(whole_ms(age + CHANNEL_MEMORY));
        !self.entries.is_empty() || now_ms < forget_at_ms
    }

    /// Takes note of an event, retained or not, as the channel's last.
    pub(super) fn advance(&mut self, offset: u64, ended: bool, published_at_ms: u64) {
        // A restored channel may already know of a later event, whose record the disk lost.
        if offset >= self.last {
            self.last = offset;
            self.ended = ended;
            self.published_at_ms = published_at_ms;
        }
    }

    /// Retains an event. The caller then trims.
    pub(super) fn push(&mut self, previous: u64, frame: Frame) {
        self.bytes += frame.len();
        self.entries.push_back((previous, frame));
    }

    /// Drops what exceeds the retention. The newest event is dropped only by age, however large it
    /// is.
    pub(super) fn trim(&mut self, retention: &Retention, now_ms: u64) {
        let oldest_ms = now_ms.saturating_sub(whole_ms(retention.age));
        while let Some((_, oldest)) = self.entries.front() {
            let is_too_much = self.entries.len() > retention.events || self.bytes > retention.bytes;
            let is_over = is_too_much && self.entries.len() > 1;
            if !is_over && oldest.time_ms() >= oldest_ms {
                break;
            }
            self.bytes -= oldest.len();
            self.entries.pop_front();
        }
        if self.entries.is_empty() {
            // Frees the allocation, which an idle channel does not need.
            self.entries = VecDeque::new();
        }
    }

    /// Reads a range. Only a range of [`ReadRange::After`] is paged by bytes.
    pub(super) fn read(&self, range: ReadRange, log_last: u64) -> History {
        let (from, count) = match range {
            ReadRange::After { offset, count } => (self.index_after(offset), count),
            ReadRange::Newest { count } => (self.entries.len().saturating_sub(count), count),
            ReadRange::Before { offset, count } => {
                let until = self.index_after(offset.saturating_sub(1));
                let from = until.saturating_sub(count);
                (from, until - from)
            }
        };
        let previous = self.entries.get(from).map_or(0, |(previous, _)| *previous);
        let mut bytes = 0;
        let paged = matches!(range, ReadRange::After { .. });
        let frames = self.entries.range(from..).take(count).map(|(_, frame)| frame.clone());
        // A page has at least one event, however large it is.
        let frames = frames.take_while(|frame| {
            let first = bytes == 0;
            bytes += frame.len();
            first || !paged || bytes <= REPLAY_BYTES_MAX
        });
        History { frames: frames.collect(), previous, log_last, holes: Vec::new() }
    }

    fn index_after(&self, offset: u64) -> usize {
        self.entries
            .partition_point(|(_, frame)| frame.key().is_some_and(|key| key.offset <= offset))
    }
}

/// A duration in milliseconds, rounded down.
pub(super) fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
