//! The recent frames of one channel, for streams that resume. It does no IO. Look here for when the
//! broker's history is needed, and for how a ring is bounded.
//!
//! The ring knows how far back it is complete: a stream whose position is after that point resumes
//! from the ring alone, any other stream needs the broker's history first.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::OnceCell;

use crate::broker::{Baseline, History};
use crate::frame::Frame;
use crate::limits::{RING_AGE_MAX, RING_BYTES_MAX, RING_FRAMES_MAX, RING_TOTAL_BYTES_MAX};
use crate::log::Key;

/// The cost of a frame besides its bytes: its allocations and its entry in the ring.
const FRAME_OVERHEAD_BYTES: usize = 200;

pub(super) struct Ring {
    entries: VecDeque<(Key, Frame)>,
    /// The key of the newest frame that was ever added, even if it was too large to be retained.
    last: Key,
    bytes: usize,
    /// The bytes of all rings.
    total: Arc<AtomicUsize>,
    /// The ring has every event of the log with a larger offset. `None` until the broker has
    /// reported the channel's baseline, or an event of the log has arrived.
    complete_since: Option<u64>,
    /// Whether the broker has reported the channel's baseline.
    has_baseline: bool,
    /// The offset of the event that ended the channel.
    ended: Option<u64>,
    /// The node has received the channel since this point; earlier ephemeral events are unknown.
    joined: Key,
    /// The newest ephemeral event, or gap event, that was dropped.
    ephemeral_lost: Option<Key>,
    has_ephemeral: bool,
    /// Set when the ring was filled from the broker's history, which happens once; other streams
    /// wait for the one that reads. `None` until a stream needs it, which is never for most
    /// channels.
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
            ephemeral_lost: None,
            has_ephemeral: false,
            backfill: None,
        }
    }

    /// Takes what the broker knows of the channel when its events start to arrive. `joined` returns
    /// the point since which the node receives them.
    pub(super) fn set_baseline(&mut self, baseline: Baseline, joined: impl FnOnce() -> Key) {
        self.has_ephemeral |= baseline.ephemeral;
        if !std::mem::replace(&mut self.has_baseline, true) {
            // When the first subscriber arrived, the node may not have known the log's position
            // yet.
            self.joined = joined();
            let since = *self.complete_since.get_or_insert(baseline.last);
            // Earlier ephemeral events would be mixed with what is read from the history.
            while self.entries.front().is_some_and(|(key, _)| key.offset < since) {
                let Some((key, frame)) = self.entries.pop_front() else { break };
                self.remove_bytes(&frame);
                self.ephemeral_lost = Some(key);
            }
        }
        self.ended = baseline.ended.then_some(baseline.last);
    }

    /// Adds an event of the log. `previous` is the offset of the channel's event before it.
    pub(super) fn push(&mut self, key: Key, frame: Frame, previous: u64) {
        self.complete_since.get_or_insert(previous);
        // An event after an end means that the log has forgotten the end: the channel is open
        // again.
        self.ended = frame.is_end().then_some(key.offset);
        self.push_back(key, frame);
    }

    /// Adds an ephemeral event or a gap event.
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
        while self.exceeds_bounds() {
            self.pop_front();
        }
        self.expire(now_ms);
    }

    fn exceeds_bounds(&self) -> bool {
        self.entries.len() > RING_FRAMES_MAX
            || self.bytes > RING_BYTES_MAX
            || (self.total.load(Ordering::Relaxed) > RING_TOTAL_BYTES_MAX
                && !self.entries.is_empty())
    }

    /// Drops frames that are older than rings retain.
    pub(super) fn expire(&mut self, now_ms: u64) {
        let age_max_ms = u64::try_from(RING_AGE_MAX.as_millis()).unwrap_or(u64::MAX);
        let oldest_ms = now_ms.saturating_sub(age_max_ms);
        while self.entries.front().is_some_and(|(_, frame)| frame.time_ms() < oldest_ms) {
            self.pop_front();
        }
        if self.entries.is_empty() {
            // Frees the buffer of a channel that is idle now.
            self.entries = VecDeque::new();
        }
    }

    fn pop_front(&mut self) {
        let Some((key, frame)) = self.entries.pop_front() else { return };
        self.remove_bytes(&frame);
        if is_in_log(&frame) {
            self.complete_since = Some(key.offset);
        } else {
            self.ephemeral_lost = Some(key);
        }
    }

    /// Adds older events at the front, as far as there is room.
    pub(super) fn prepend(&mut self, history: &History) {
        let Some(complete_since) = self.complete_since else { return };
        let keyed = history.frames.iter().filter_map(|frame| Some((frame.key()?, frame)));
        let older: Vec<_> = keyed.filter(|(key, _)| key.offset <= complete_since).collect();
        if older.last().is_none_or(|(key, _)| key.offset != complete_since) {
            // The ring has dropped events that arrived after the history was read, so there is a
            // hole.
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

    /// Whether the ring has all events of the log after a point.
    pub(super) fn covers(&self, point: Key) -> bool {
        self.complete_since.is_some_and(|since| point.offset >= since)
    }

    /// How far back the ring is complete.
    pub(super) fn complete_since(&self) -> Option<u64> {
        self.complete_since
    }

    /// The entries after one point and up to another, at most `count_max`.
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

    /// The point before the last `count` entries, if the ring has so many.
    pub(super) fn before_last(&self, count: usize) -> Option<Key> {
        match self.entries.len().checked_sub(count)? {
            0 => self.complete_since.map(|offset| Key { offset, number: 0 }),
            at => Some(self.entries[at - 1].0),
        }
    }

    /// The point before the first entry published at or after a time, if the ring reaches back that
    /// far.
    pub(super) fn before_time(&self, since_ms: u64) -> Option<Key> {
        let at = self.entries.partition_point(|(_, frame)| frame.time_ms() < since_ms);
        Some(self.entries.get(at.checked_sub(1)?)?.0)
    }

    /// The oldest event to which its publisher gave this ID.
    pub(super) fn find_publisher_id(&self, id: &str) -> Option<&Frame> {
        self.entries.iter().map(|(_, frame)| frame).find(|frame| frame.publisher_id() == Some(id))
    }

    /// The newest ephemeral event or gap event that was dropped, if it is after a point.
    pub(super) fn lost_ephemeral_after(&self, point: Key) -> Option<Key> {
        self.ephemeral_lost.filter(|lost| *lost > point)
    }

    pub(super) fn joined(&self) -> Key {
        self.joined
    }

    pub(super) fn has_ephemeral(&self) -> bool {
        self.has_ephemeral
    }

    pub(super) fn ended(&self) -> Option<u64> {
        self.ended
    }

    /// The key of the newest frame that was ever added.
    pub(super) fn last(&self) -> Key {
        self.last
    }

    pub(super) fn backfill(&mut self) -> Arc<OnceCell<()>> {
        Arc::clone(self.backfill.get_or_insert_default())
    }

    /// Empties the ring: the log was reset, and positions of the old epoch have no meaning.
    pub(super) fn reset(&mut self, joined: Key) {
        let total = Arc::clone(&self.total);
        // The broker may have lost its mark of ephemeral events with the log, so the ring retains
        // it.
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
    use crate::log::{Epoch, Position};

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
    fn a_ring_knows_how_far_back_it_is_complete() {
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
        assert!(!ring.covers(Key::end_of(8)) && ring.covers(Key::end_of(9)), "two were dropped");
    }

    #[test]
    fn events_after_a_baseline_supersede_it() {
        let mut ring = ring();
        let baseline = |last, ended, ephemeral| Baseline { last, ended, ephemeral };
        ring.set_baseline(baseline(5, false, false), || Key { offset: 7, number: 1 });
        ring.set_baseline(baseline(8, false, false), || {
            unreachable!("the channel is received already")
        });
        assert_eq!(ring.complete_since(), Some(5));
        assert_eq!((ring.joined(), ring.has_ephemeral()), (Key { offset: 7, number: 1 }, false));
        ring.set_baseline(baseline(8, true, true), || {
            unreachable!("the channel is received already")
        });
        assert_eq!((ring.ended(), ring.has_ephemeral()), (Some(8), true));
        push(&mut ring, 9, 0);
        assert_eq!(ring.ended(), None, "an event after the end reopens the channel");
    }

    #[test]
    fn history_is_prepended_without_duplicates() {
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
    fn ephemeral_events_are_ordered_between_events_of_the_log() {
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
    fn bytes_and_age_are_bounded_and_bytes_are_released() {
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
