//! What a broker reads from its log, and what it knows of a channel. Look here for what `previous`
//! and a baseline mean.

use crate::channel::Channel;
use crate::event::Event;
use crate::frame::{Frame, Published};
use crate::log::{Continuity, Position, follows};

/// Which part of a channel's history to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReadRange {
    /// The oldest events after an offset, at most `count`.
    After {
        /// Selects events with a larger offset.
        offset: u64,
        /// At most this many; at least 1.
        count: usize,
    },
    /// The newest events, at most `count`.
    Newest {
        /// At most this many; at least 1.
        count: usize,
    },
    /// The newest events before an offset, at most `count`.
    Before {
        /// Selects events with a smaller offset.
        offset: u64,
        /// At most this many; at least 1.
        count: usize,
    },
}

impl ReadRange {
    /// The offsets of this range, among all offsets that are retained of a channel, in ascending
    /// order.
    pub fn select(self, offsets: &[u64]) -> impl Iterator<Item = u64> {
        let index_after = |offset: u64| offsets.partition_point(|it| *it <= offset);
        let (from, to) = match self {
            Self::After { offset, count } => {
                let from = index_after(offset);
                (from, from.saturating_add(count).min(offsets.len()))
            }
            Self::Newest { count } => (offsets.len().saturating_sub(count), offsets.len()),
            Self::Before { offset, count } => {
                let to = index_after(offset.saturating_sub(1));
                (to.saturating_sub(count), to)
            }
        };
        offsets[from..to].iter().copied()
    }
}

/// Part of a channel's history, oldest event first. It holds fewer events than the
/// [range](ReadRange) allows only if there are no more, or if they are large.
#[derive(Debug, Clone, Default)]
pub struct History {
    pub(crate) frames: Vec<Frame>,
    pub(crate) previous: u64,
    pub(crate) log_last: u64,
    /// The indexes of events that do not follow the one before them: the log has lost events.
    pub(crate) holes: Vec<usize>,
}

impl History {
    /// An empty part of a log whose last offset, of all channels, is `log_last`.
    pub fn new(log_last: u64) -> Self {
        Self { log_last, ..Self::default() }
    }

    /// Adds an event, newer than those before it. All events are of one channel.
    pub fn push(&mut self, event: LoggedEvent<'_>) {
        let before = self.frames.last().and_then(Frame::key).map(|key| key.offset);
        let offset = event.position.offset();
        match before {
            None => self.previous = event.previous,
            Some(_) => match follows(before, event.previous, offset) {
                Continuity::Next => {}
                Continuity::Hole { .. } => self.holes.push(self.frames.len()),
                Continuity::Duplicate => return,
            },
        }
        self.frames.push(event.to_frame());
    }

    /// How many events there are.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// The events, oldest first, encoded.
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// The offset of the channel's event before the first of these, retained or not; 0 if there was
    /// none.
    pub fn previous(&self) -> u64 {
        self.previous
    }

    /// Whether events are missing between an event of this part and the one before it.
    pub(crate) fn has_hole_before(&self, index: usize) -> bool {
        self.holes.contains(&index)
    }

    /// The last offset of the whole log when this was read.
    pub fn log_last(&self) -> u64 {
        self.log_last
    }
}

/// An event of the log, as a broker passes it on.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct LoggedEvent<'a> {
    /// Its channel.
    pub channel: &'a Channel,
    /// The event as it was published.
    pub event: &'a Event,
    /// Its place in the log.
    pub position: Position,
    /// The offset of the channel's event before it; 0 if there was none.
    pub previous: u64,
    /// When it was published, in milliseconds since 1970.
    pub time_ms: u64,
    /// Whether it ends its channel.
    pub end: bool,
}

impl<'a> LoggedEvent<'a> {
    /// An event at a position, after the channel's event at the offset `previous` (0 for none),
    /// that was published at `time_ms`, in milliseconds since 1970.
    pub fn new(
        channel: &'a Channel,
        event: &'a Event,
        position: Position,
        previous: u64,
        time_ms: u64,
    ) -> Self {
        Self { channel, event, position, previous, time_ms, end: false }
    }

    /// Whether the event ends its channel.
    #[must_use]
    pub fn with_end(mut self, end: bool) -> Self {
        self.end = end;
        self
    }

    pub(crate) fn to_frame(self) -> Frame {
        let published =
            Published { position: Some(self.position), time_ms: self.time_ms, end: self.end };
        Frame::of_channel(self.channel, self.event, published)
    }
}

/// What a broker knows of a channel when its events start to arrive, or when they arrive again
/// after the connection was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Baseline {
    /// The offset of the channel's last event so far; 0 if there is none.
    pub last: u64,
    /// Whether that event ended the channel.
    pub ended: bool,
    /// Whether the channel is known to receive ephemeral events, on any node. A stream that resumes
    /// from before its node received the channel then gets a gap event, since it may have missed
    /// some.
    pub ephemeral: bool,
    /// Whether the channel may receive ephemeral events although that is not known: the log was
    /// reset, and what was known may be lost. Then a stream whose ID is that of an ephemeral event
    /// gets a gap event, too.
    pub uncertain: bool,
    /// Whether there may be no event at `last`: the log knows none of the channel, and has
    /// forgotten what it had up to there.
    pub forgotten: bool,
    /// Whether the channel's events have arrived all the time, so that no ephemeral event was lost.
    pub received: bool,
}

impl Baseline {
    /// A channel whose last event has this offset; 0 for none. It has not ended, and no ephemeral
    /// events are known.
    pub fn new(last: u64) -> Self {
        Self {
            last,
            ended: false,
            ephemeral: false,
            uncertain: false,
            forgotten: false,
            received: false,
        }
    }

    /// A channel of which the log knows no event, and may have forgotten some up to this offset.
    pub fn forgotten(up_to: u64) -> Self {
        Self { forgotten: true, ..Self::new(up_to) }
    }

    /// Whether the last event ended the channel.
    #[must_use]
    pub fn with_end(mut self, ended: bool) -> Self {
        self.ended = ended;
        self
    }

    /// Whether the channel's events have arrived all the time.
    #[must_use]
    pub fn with_received(mut self, received: bool) -> Self {
        self.received = received;
        self
    }

    /// Whether the channel may receive ephemeral events although that is not known.
    #[must_use]
    pub fn with_uncertain(mut self, uncertain: bool) -> Self {
        self.uncertain = uncertain;
        self
    }

    /// Whether the channel is known to receive ephemeral events.
    #[must_use]
    pub fn with_ephemeral(mut self, ephemeral: bool) -> Self {
        self.ephemeral = ephemeral;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_select_offsets() {
        let check = |range: ReadRange, expected: &[u64]| {
            let selected: Vec<u64> = range.select(&[2, 3, 5, 8]).collect();
            assert_eq!(selected, expected, "{range:?}");
        };
        check(ReadRange::After { offset: 0, count: 9 }, &[2, 3, 5, 8]);
        check(ReadRange::After { offset: 2, count: 2 }, &[3, 5]);
        check(ReadRange::After { offset: 8, count: usize::MAX }, &[]);
        check(ReadRange::Newest { count: 2 }, &[5, 8]);
        check(ReadRange::Newest { count: 9 }, &[2, 3, 5, 8]);
        check(ReadRange::Before { offset: 5, count: 1 }, &[3]);
        check(ReadRange::Before { offset: 4, count: 9 }, &[2, 3]);
        check(ReadRange::Before { offset: 0, count: 9 }, &[]);
    }
}
