//! The recent frames of one channel, for streams that come back. No IO in here.
//!
//! The ring knows how far back it is complete: a stream that left off after that point is resumed from
//! the ring alone, every other one needs the broker's history first.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::OnceCell;

use crate::broker::{Baseline, History};
use crate::frame::Frame;
#[cfg(feature = "redis")]
use crate::limits::EPHEMERAL_NOTE_INTERVAL;
use crate::limits::{RING_AGE_MAX, RING_BYTES_MAX, RING_FRAMES_MAX, RING_TOTAL_BYTES_MAX};
use crate::position::Key;

/// What a frame costs beside its bytes: its allocations and its place in the ring.
const FRAME_OVERHEAD_BYTES: usize = 200;

pub(super) struct Ring {
    entries: VecDeque<(Key, Frame)>,
    /// The newest that was ever in here: what is too large is given up at once.
    last: Key,
    bytes: usize,
    /// All rings' bytes.
    total: Arc<AtomicUsize>,
    /// Every event of the log with a larger offset is in here. `None` until the broker has told where
    /// the channel stood when its events began to arrive.
    complete_since: Option<u64>,
    /// Whether the broker has told where the channel stood.
    has_baseline: bool,
    /// The offset of the event that ended the channel.
    ended: Option<u64>,
    /// The node receives the channel since this point; plain events from before are unknown.
    joined: Key,
    /// The newest plain event, or announcement of a gap, that was given up.
    plain_lost: Option<Key>,
    has_ephemeral: bool,
    /// When the broker was last asked to note that there are plain events, in milliseconds since 1970.
    #[cfg(feature = "redis")]
    marked_at_ms: u64,
    /// Filled from the broker's history, once; whoever comes meanwhile waits for the one who reads.
    /// `None` until somebody asks: most channels' rings never are.
    backfill: Option<Arc<OnceCell<()>>>,
}

impl Ring {
    pub(super) fn new(joined: Key, total: Arc<AtomicUsize>) -> Self {
        Self {
            entries: VecDeque::new(),
            last: Key::default(),
            bytes: 0,
            total,
            complete_since: None,
            has_baseline: false,
            ended: None,
            joined,
            plain_lost: None,
            has_ephemeral: false,
            #[cfg(feature = "redis")]
            marked_at_ms: 0,
            backfill: None,
        }
    }

    /// What the broker knows of the channel now that its events begin to arrive, which is after `joined`.
    pub(super) fn set_baseline(&mut self, baseline: Baseline, joined: impl FnOnce() -> Key) {
        self.has_ephemeral |= baseline.ephemeral;
        if !std::mem::replace(&mut self.has_baseline, true) {
            // When the first subscriber came, the node may not have known yet where the log is.
            self.joined = joined();
            let since = *self.complete_since.get_or_insert(baseline.last);
            // Plain events from before that point would stand among what is read from the history.
            while self.entries.front().is_some_and(|(key, _)| key.offset < since) {
                let Some((key, frame)) = self.entries.pop_front() else { break };
                self.remove_bytes(&frame);
                self.plain_lost = Some(key);
            }
        }
        self.ended = baseline.ended.then_some(baseline.last);
    }

    /// Adds an event of the log. `previous` is the offset of the channel's event before it.
    pub(super) fn push(&mut self, key: Key, frame: Frame, previous: u64) {
        self.complete_since.get_or_insert(previous);
        // An end that was forgotten is none: the channel goes on.
        self.ended = frame.is_end().then_some(key.offset);
        self.push_back(key, frame);
    }

    /// Adds an event that is in no log, or the announcement of a gap.
    pub(super) fn push_ephemeral(&mut self, key: Key, frame: Frame) {
        self.has_ephemeral |= frame.gap().is_none();
        self.push_back(key, frame);
    }

    fn push_back(&mut self, key: Key, frame: Frame) {
        debug_assert!(self.last < key, "keys only grow");
        self.last = key;
        self.add_bytes(&frame);
        let now_ms = frame.time_ms();
        self.entries.push_back((key, frame));
        while self.is_over_its_bounds() {
            self.pop_front();
        }
        self.expire(now_ms);
    }

    fn is_over_its_bounds(&self) -> bool {
        self.entries.len() > RING_FRAMES_MAX
            || self.bytes > RING_BYTES_MAX
            || (self.total.load(Ordering::Relaxed) > RING_TOTAL_BYTES_MAX
                && !self.entries.is_empty())
    }

    /// Gives up what is older than is kept.
    pub(super) fn expire(&mut self, now_ms: u64) {
        let age_max_ms = u64::try_from(RING_AGE_MAX.as_millis()).unwrap_or(u64::MAX);
        let oldest_ms = now_ms.saturating_sub(age_max_ms);
        while self.entries.front().is_some_and(|(_, frame)| frame.time_ms() < oldest_ms) {
            self.pop_front();
        }
        if self.entries.is_empty() {
            // A channel that was busy once keeps no buffer.
            self.entries = VecDeque::new();
        }
    }

    fn pop_front(&mut self) {
        let Some((key, frame)) = self.entries.pop_front() else { return };
        self.remove_bytes(&frame);
        if is_in_log(&frame) {
            self.complete_since = Some(key.offset);
        } else {
            self.plain_lost = Some(key);
        }
    }

    /// Adds older events in front, as far as there is room.
    pub(super) fn prepend(&mut self, history: &History) {
        let Some(complete_since) = self.complete_since else { return };
        let keyed = history.frames.iter().filter_map(|frame| Some((frame.key()?, frame)));
        let older: Vec<_> = keyed.filter(|(key, _)| key.offset <= complete_since).collect();
        if older.last().is_none_or(|(key, _)| key.offset != complete_since) {
            // The ring gave up events that came after the history was read: there is a hole between.
            return;
        }
        for (at, (key, frame)) in older.iter().enumerate().rev() {
            let full = self.entries.len() >= RING_FRAMES_MAX
                || self.bytes + cost(frame) > RING_BYTES_MAX
                || self.total.load(Ordering::Relaxed) + cost(frame) > RING_TOTAL_BYTES_MAX;
            if full {
                return;
            }
            self.add_bytes(frame);
            self.entries.push_front((*key, (*frame).clone()));
            let previous = if at == 0 { history.previous } else { older[at - 1].0.offset };
            self.complete_since = Some(previous);
        }
    }

    /// Whether everything of the log after a point is in here.
    pub(super) fn covers(&self, point: Key) -> bool {
        self.complete_since.is_some_and(|since| point.offset >= since)
    }

    /// How far back the ring is complete.
    pub(super) fn complete_since(&self) -> Option<u64> {
        self.complete_since
    }

    /// The entries after one point and up to another, at most so many.
    pub(super) fn range(
        &self,
        after: Key,
        until: Key,
        count_max: usize,
    ) -> impl Iterator<Item = &(Key, Frame)> {
        let from = self.entries.partition_point(|(key, _)| *key <= after);
        let to = self.entries.partition_point(|(key, _)| *key <= until).max(from);
        self.entries.range(from..to).take(count_max)
    }

    /// Where one must begin to get the last events, if the ring has so many.
    pub(super) fn before_last(&self, count: usize) -> Option<Key> {
        match self.entries.len().checked_sub(count)? {
            0 => self.complete_since.map(|offset| Key { offset, number: 0 }),
            at => Some(self.entries[at - 1].0),
        }
    }

    /// Where one must begin to get what was published since a time, if the ring reaches back so far.
    pub(super) fn before_time(&self, since_ms: u64) -> Option<Key> {
        let at = self.entries.partition_point(|(_, frame)| frame.time_ms() < since_ms);
        Some(self.entries.get(at.checked_sub(1)?)?.0)
    }

    /// The oldest event with an id of its publisher's.
    pub(super) fn find_publisher_id(&self, id: &str) -> Option<&Frame> {
        self.entries.iter().map(|(_, frame)| frame).find(|frame| frame.publisher_id() == Some(id))
    }

    /// The newest plain event, or announcement of a gap, after a point that is no longer in here.
    pub(super) fn lost_ephemeral_after(&self, point: Key) -> Option<Key> {
        self.plain_lost.filter(|lost| *lost > point)
    }

    pub(super) fn joined(&self) -> Key {
        self.joined
    }

    pub(super) fn has_ephemeral(&self) -> bool {
        self.has_ephemeral
    }

    /// Whether the broker should note, now, that the channel gets plain events; it is asked for it then.
    #[cfg(feature = "redis")]
    pub(super) fn take_note_due(&mut self, now_ms: u64) -> bool {
        let interval_ms = u64::try_from(EPHEMERAL_NOTE_INTERVAL.as_millis()).unwrap_or(u64::MAX);
        let due = self.has_ephemeral && now_ms.saturating_sub(self.marked_at_ms) >= interval_ms;
        if due {
            self.marked_at_ms = now_ms;
        }
        due
    }

    pub(super) fn ended(&self) -> Option<u64> {
        self.ended
    }

    /// The newest that was ever in here.
    pub(super) fn last(&self) -> Key {
        self.last
    }

    pub(super) fn backfill(&mut self) -> Arc<OnceCell<()>> {
        Arc::clone(self.backfill.get_or_insert_default())
    }

    /// The log began anew: nothing of the old one is of use.
    pub(super) fn reset(&mut self, joined: Key) {
        let total = Arc::clone(&self.total);
        // The mark may be lost with the log's data, so it is made again.
        let has_ephemeral = self.has_ephemeral;
        *self = Self::new(joined, total);
        self.has_ephemeral = has_ephemeral;
    }

    fn add_bytes(&mut self, frame: &Frame) {
        self.bytes += cost(frame);
        self.total.fetch_add(cost(frame), Ordering::Relaxed);
    }

    fn remove_bytes(&mut self, frame: &Frame) {
        self.bytes -= cost(frame);
        self.total.fetch_sub(cost(frame), Ordering::Relaxed);
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

fn is_in_log(frame: &Frame) -> bool {
    frame.key().is_some_and(|key| key.number == 0)
}

fn cost(frame: &Frame) -> usize {
    frame.len() + FRAME_OVERHEAD_BYTES
}

const _: () = assert!(RING_AGE_MAX.as_millis() < Duration::from_secs(86_400).as_millis());

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::Channel;
    use crate::event::Event;
    use crate::frame::Published;
    use crate::position::{Epoch, Position};

    fn epoch() -> Epoch {
        Epoch::from_bits(1).unwrap()
    }

    fn frame(offset: u64, number: u64, data: &str) -> Frame {
        let position = match number {
            0 => Position::new(epoch(), offset),
            _ => Position::ephemeral(epoch(), offset, epoch(), number),
        };
        let published = Published { position: Some(position), time_ms: 1000, end: false };
        Frame::of_channel(&Channel::new("c").unwrap(), &Event::new(data), published)
    }

    fn ring() -> Ring {
        Ring::new(Key::default(), Arc::default())
    }

    fn push(ring: &mut Ring, offset: u64, previous: u64) {
        let frame = frame(offset, 0, "x");
        ring.push(frame.key().unwrap(), frame, previous);
    }

    fn offsets(ring: &Ring, after: u64) -> Vec<u64> {
        let all = ring.range(Key::end_of(after), Key::end_of(u64::MAX), usize::MAX);
        all.map(|(key, _)| key.offset).collect()
    }

    #[test]
    fn it_knows_how_far_back_it_is_complete() {
        let mut ring = ring();
        assert!(!ring.covers(Key::end_of(100)), "nothing is known yet");
        push(&mut ring, 7, 5);
        push(&mut ring, 9, 7);
        for (offset, covered) in [(4, false), (5, true), (6, true), (9, true), (12, true)] {
            assert_eq!(ring.covers(Key { offset, number: 0 }), covered, "{offset}");
        }
        assert_eq!(offsets(&ring, 5), [7, 9]);
        assert_eq!(offsets(&ring, 7), [9]);
        for offset in 10..=9 + RING_FRAMES_MAX as u64 {
            push(&mut ring, offset, offset - 1);
        }
        assert!(!ring.covers(Key::end_of(8)) && ring.covers(Key::end_of(9)), "two were given up");
    }

    #[test]
    fn a_baseline_counts_until_events_say_more() {
        let mut ring = ring();
        let baseline = |last, ended, ephemeral| Baseline { last, ended, ephemeral };
        ring.set_baseline(baseline(5, false, false), || Key { offset: 7, number: 1 });
        ring.set_baseline(baseline(8, false, false), || unreachable!("it is received already"));
        assert_eq!(ring.complete_since(), Some(5));
        assert_eq!((ring.joined(), ring.has_ephemeral()), (Key { offset: 7, number: 1 }, false));
        ring.set_baseline(baseline(8, true, true), || unreachable!("it is received already"));
        assert_eq!((ring.ended(), ring.has_ephemeral()), (Some(8), true));
        push(&mut ring, 9, 0);
        assert_eq!(ring.ended(), None, "the end was forgotten, and the channel goes on");
    }

    #[cfg(feature = "redis")]
    #[test]
    fn plain_events_are_noted_once_a_day() {
        let mut ring = ring();
        let day_ms = u64::try_from(EPHEMERAL_NOTE_INTERVAL.as_millis()).unwrap();
        assert!(!ring.take_note_due(day_ms), "there is none");
        let frame = frame(0, 1, "x");
        ring.push_ephemeral(frame.key().unwrap(), frame);
        for (now_ms, due) in [(day_ms, true), (day_ms, false), (2 * day_ms, true)] {
            assert_eq!(ring.take_note_due(now_ms), due, "{now_ms}");
        }
    }

    #[test]
    fn history_goes_in_front_without_what_is_there() {
        let mut ring = ring();
        let baseline = Baseline { last: 6, ended: false, ephemeral: false };
        ring.set_baseline(baseline, Key::default);
        push(&mut ring, 8, 6);
        let frames = [3, 6, 8].map(|offset| frame(offset, 0, "x")).into();
        ring.prepend(&History { frames, previous: 2, log_last: 8 });
        assert_eq!(offsets(&ring, 0), [3, 6, 8]);
        assert_eq!(ring.complete_since(), Some(2));
        assert_eq!(ring.before_last(2), Some(Key { offset: 3, number: 0 }));
        assert_eq!(ring.before_last(3), Some(Key { offset: 2, number: 0 }));
        assert_eq!(ring.before_last(4), None);
    }

    #[test]
    fn plain_events_stand_between_those_of_the_log() {
        let mut ring = ring();
        push(&mut ring, 1, 0);
        for number in 1..3 {
            let frame = frame(1, number, "x");
            ring.push_ephemeral(frame.key().unwrap(), frame);
        }
        push(&mut ring, 4, 1);
        let after = |offset, number| ring.range(Key { offset, number }, Key::end_of(9), 9).count();
        assert_eq!((after(0, 0), after(1, 0), after(1, 1), after(1, 2)), (4, 3, 2, 1));
        assert!(ring.lost_ephemeral_after(Key::default()).is_none());
        while !ring.entries.is_empty() {
            ring.pop_front();
        }
        assert!(ring.lost_ephemeral_after(Key { offset: 1, number: 1 }).is_some());
        assert!(ring.lost_ephemeral_after(Key { offset: 1, number: 2 }).is_none());
    }

    #[test]
    fn bytes_and_age_are_bounded_and_given_back() {
        let total = Arc::new(AtomicUsize::new(0));
        let mut ring = Ring::new(Key::default(), Arc::clone(&total));
        let large = "x".repeat(RING_BYTES_MAX / 4);
        for offset in 1..=8 {
            let frame = frame(offset, 0, &large);
            ring.push(frame.key().unwrap(), frame, offset - 1);
        }
        assert_eq!(offsets(&ring, 0), [6, 7, 8]);
        assert_eq!(total.load(Ordering::Relaxed), ring.bytes);
        let huge = frame(9, 0, &"x".repeat(RING_BYTES_MAX));
        ring.push(huge.key().unwrap(), huge, 8);
        assert_eq!((offsets(&ring, 0), ring.complete_since()), (vec![], Some(9)));
        push(&mut ring, 10, 9);
        let age_ms = u64::try_from(RING_AGE_MAX.as_millis()).unwrap();
        ring.expire(1000 + age_ms);
        assert_eq!(offsets(&ring, 0), [10]);
        ring.expire(1001 + age_ms);
        assert_eq!((offsets(&ring, 0), total.load(Ordering::Relaxed)), (vec![], 0));
    }
}
