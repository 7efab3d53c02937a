//! The recent frames of one channel, for streams that resume. It does no IO. Look here for when the
//! broker's history is needed, and for how a ring is bounded.
//!
//! The ring knows how far back it is complete: a stream whose position is after that point resumes
//! from the ring alone, any other stream needs the broker's history first.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OnceCell;

use crate::broker::{Baseline, History};
use crate::budget::Account;
use crate::frame::Frame;
use crate::limits::{RING_AGE_MAX, RING_BYTES_MAX, RING_FRAMES_MAX};
use crate::log::{Continuity, Cursor, Key, LogState, follows};

/// The cost of a frame besides its bytes: its allocations and its entry in the ring.
const FRAME_OVERHEAD_BYTES: usize = 200;

pub(super) struct Ring {
    /// In the order of their arrival.
    pub(super) entries: VecDeque<(Key, Frame)>,
    /// Whether the offsets of the entries ascend, which is not so if events were missed meanwhile.
    is_ascending: bool,
    /// The newest frames that were ever added, even if they were too large to be retained.
    newest: Cursor,
    /// The offset of the channel's last event that this node has. `None` until the broker has
    /// reported the channel's baseline, or an event of the log has arrived.
    last: Option<u64>,
    /// Whether `last` is where the log was when it was reset, and not an event of the channel.
    is_reset: bool,
    pub(super) bytes: usize,
    /// The bytes of all rings.
    total: Account,
    /// The ring has every event of the log with a larger offset. `None` as long as `last`.
    complete_since: Option<u64>,
    /// Whether the broker has reported the channel's baseline.
    has_baseline: bool,
    /// The offset of the event that ended the channel.
    ended: Option<u64>,
    /// Ephemeral events up to this number are unknown: the node did not receive the channel yet,
    /// or the ring has dropped them.
    unknown: u64,
    has_ephemeral: bool,
    /// Whether there may have been ephemeral events although that is not known.
    is_uncertain: bool,
    /// Whether streams have started although the broker does not deliver the channel.
    is_unconfirmed: bool,
    /// In ascending order.
    late: Vec<Late>,
    /// Set when the ring was filled from the broker's history, which happens once; other streams
    /// wait for the one that reads. `None` until a stream needs it, which is never for most
    /// channels.
    backfill: Option<Arc<OnceCell<()>>>,
}

/// A part of the log in which this node has missed events of the channel, and received none.
#[derive(Clone, Copy)]
pub(super) struct Late {
    /// It is after this offset.
    pub(super) after: u64,
    /// A stream of several channels that has no more than this may have moved past the missing
    /// events.
    pub(super) noticed: Cursor,
}

/// The number of such parts that a ring remembers; with more, the oldest is forgotten. They are
/// rare: a connection was lost, or the broker denied a publication.
const LATE_MAX: usize = 16;

impl Ring {
    pub(super) fn new(joined: u64, total: Account) -> Self {
        Self {
            entries: VecDeque::new(),
            is_ascending: true,
            newest: Cursor::default(),
            last: None,
            is_reset: false,
            bytes: 0,
            total,
            complete_since: None,
            has_baseline: false,
            ended: None,
            unknown: joined,
            has_ephemeral: false,
            is_uncertain: false,
            is_unconfirmed: false,
            late: Vec::new(),
            backfill: None,
        }
    }

    /// Takes what the broker knows of the channel. The first time, this is where its events start
    /// to arrive, and `joined` returns a new number of the node's own log. Later it is what the
    /// channel had while the connection was lost: if the node has missed something, returns the
    /// last offset that it has. `now` is what it has heard of all channels.
    pub(super) fn set_baseline(
        &mut self,
        baseline: Baseline,
        now: LogState,
        joined: impl FnOnce() -> u64,
    ) -> Option<u64> {
        self.has_ephemeral |= baseline.ephemeral;
        self.is_uncertain |= baseline.uncertain;
        if !std::mem::replace(&mut self.has_baseline, true) {
            // When the first subscriber arrived, the node may not have known the log's position
            // yet.
            self.unknown = joined();
            if let Some(has) = self.last.filter(|has| baseline.last > *has) {
                // Events have arrived before, and then some that were not passed on.
                self.skip_to(baseline.last, now.cursor());
                self.ended = baseline.ended.then_some(baseline.last);
                return Some(has);
            }
            let since = *self.complete_since.get_or_insert(baseline.last);
            // Earlier ephemeral events would be mixed with what is read from the history.
            while self.entries.front().is_some_and(|(key, _)| key.offset < since) {
                self.pop_front();
            }
            self.complete_since = Some(since);
            self.last = self.last.max(Some(baseline.last));
            self.newest.offset = self.newest.offset.max(baseline.last);
            self.ended = baseline.ended.then_some(baseline.last);
            return None;
        }
        let has = self.last.unwrap_or(0);
        if self.is_reset && baseline.last <= has {
            self.ended = baseline.ended.then_some(baseline.last);
            return self.ended.map(|_| has);
        }
        if baseline.last < has {
            // It was read before events that have arrived since.
            return None;
        }
        let is_behind = baseline.last > has && (!baseline.forgotten || baseline.last > now.heard);
        let is_end_missed = baseline.ended && self.ended.is_none();
        self.ended = baseline.ended.then_some(baseline.last);
        if is_behind {
            self.skip_to(baseline.last, now.cursor());
        }
        (is_behind || is_end_missed).then_some(has)
    }

    /// A stream starts although the broker does not deliver the channel. False if it does by now.
    pub(super) fn start_unconfirmed(&mut self) -> bool {
        self.is_unconfirmed |= !self.has_baseline;
        !self.has_baseline
    }

    /// Whether streams may lack ephemeral events, or all events, that were published before this
    /// baseline: the connection was lost, or the broker has denied the channel until now.
    pub(super) fn was_lost(&mut self, baseline: Baseline) -> bool {
        self.has_ephemeral |= baseline.ephemeral;
        let was_unconfirmed = std::mem::take(&mut self.is_unconfirmed);
        was_unconfirmed || (self.has_baseline && self.has_ephemeral && !baseline.received)
    }

    /// How an event relates to what the ring has.
    pub(super) fn follows(&self, previous: u64, offset: u64) -> Continuity {
        follows(self.last, previous, offset)
    }

    /// Adds an event of the log. `previous` is the offset of the channel's event before it, 0 if
    /// the log knows none.
    pub(super) fn push(&mut self, key: Key, frame: Frame, previous: u64) {
        let previous = if previous == 0 { key.offset.saturating_sub(1) } else { previous };
        self.complete_since.get_or_insert(previous);
        self.last = Some(key.offset);
        self.is_reset = false;
        // An event after an end means that the log has forgotten the end: the channel is open
        // again.
        self.ended = frame.is_end().then_some(key.offset);
        self.push_back(key, frame);
    }

    /// Skips the events up to an offset, which this node has missed: streams read them from the
    /// history. Streams up to `noticed` may have moved past them.
    pub(super) fn skip_to(&mut self, offset: u64, noticed: Cursor) {
        while !self.entries.is_empty() {
            self.pop_front();
        }
        if self.late.len() == LATE_MAX {
            self.late.remove(0);
        }
        let after = self.last.unwrap_or(0);
        self.late.push(Late { after, noticed });
        self.last = Some(offset);
        self.is_reset = false;
        self.complete_since = Some(offset);
        self.newest.offset = self.newest.offset.max(offset);
        // What was or is being read has a hole.
        self.backfill = None;
    }

    /// The part of the log in which a stream with this cursor may have moved past missed events, of
    /// those that end after `seen`.
    pub(super) fn late_for(&self, cursor: Cursor, seen: u64) -> Option<Late> {
        let is_past = |late: &&Late| {
            late.noticed.offset > seen
                && (late.after + 1..=late.noticed.offset).contains(&cursor.offset)
                && cursor.number <= late.noticed.number
        };
        self.late.iter().find(is_past).copied()
    }

    /// The end of the last such part.
    pub(super) fn late_noticed(&self) -> u64 {
        self.late.last().map_or(0, |late| late.noticed.offset)
    }

    /// Adds an ephemeral event or a gap event.
    pub(super) fn push_ephemeral(&mut self, key: Key, frame: Frame) {
        self.has_ephemeral |= frame.gap().is_none();
        self.push_back(key, frame);
    }

    fn push_back(&mut self, key: Key, frame: Frame) {
        debug_assert!(!self.newest.has(key), "keys only grow");
        self.newest.advance(key);
        self.add_bytes(&frame);
        let now_ms = frame.time_ms();
        self.is_ascending = match self.entries.back() {
            Some((last, _)) => self.is_ascending && last.offset <= key.offset,
            None => true,
        };
        self.entries.push_back((key, frame));
        while self.exceeds_bounds() {
            if self.total.is_over() {
                self.total.evicted(1);
            }
            self.pop_front();
        }
        self.expire(now_ms);
    }

    fn exceeds_bounds(&self) -> bool {
        self.entries.len() > RING_FRAMES_MAX
            || self.bytes > RING_BYTES_MAX
            || (self.total.is_over() && !self.entries.is_empty())
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

    pub(super) fn pop_front(&mut self) {
        let Some((key, frame)) = self.entries.pop_front() else { return };
        self.remove_bytes(&frame);
        if key.number == 0 {
            self.complete_since = Some(key.offset);
        } else {
            self.unknown = self.unknown.max(key.number);
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
        let newest = complete_since;
        self.is_ascending &= self.entries.iter().all(|(key, _)| key.offset >= newest);
        for (at, (key, frame)) in older.iter().enumerate().rev() {
            let full = self.entries.len() >= RING_FRAMES_MAX
                || self.bytes + cost(frame) > RING_BYTES_MAX
                || self.total.used() + cost(frame) > self.total.limit();
            if full {
                return;
            }
            self.add_bytes(frame);
            self.entries.push_front((*key, (*frame).clone()));
            let is_after_hole = history.has_hole_before(at);
            let before = at.checked_sub(1).filter(|_| !is_after_hole);
            let previous = before.map_or(key.offset - 1, |before| older[before].0.offset);
            self.complete_since = Some(if at == 0 { history.previous } else { previous });
            if is_after_hole {
                return;
            }
        }
    }

    /// Whether the ring has all events of the log after an offset.
    pub(super) fn covers(&self, offset: u64) -> bool {
        self.complete_since.is_some_and(|since| offset >= since)
    }

    /// How far back the ring is complete.
    pub(super) fn complete_since(&self) -> Option<u64> {
        self.complete_since
    }

    /// The entries that one cursor lacks and another has, at most `count_max`.
    pub(super) fn range(
        &self,
        after: Cursor,
        until: Cursor,
        count_max: usize,
    ) -> impl Iterator<Item = &(Key, Frame)> {
        // Without newer ephemeral events, all that is lacking comes after the offset.
        let from = if self.is_ascending && after.number >= self.newest.number {
            self.entries.partition_point(|(key, _)| key.offset < after.offset)
        } else {
            0
        };
        let lacking = move |key: Key| !after.has(key) && until.has(key);
        self.entries.range(from..).filter(move |(key, _)| lacking(*key)).take(count_max)
    }

    /// The point before the last `count` entries, if the ring has so many.
    pub(super) fn before_last(&self, count: usize) -> Option<Cursor> {
        self.before(self.entries.len().checked_sub(count)?)
    }

    /// The point before the first entry published at or after a time, if the ring reaches back that
    /// far.
    pub(super) fn before_time(&self, since_ms: u64) -> Option<Cursor> {
        let at = self.entries.partition_point(|(_, frame)| frame.time_ms() < since_ms);
        if at == 0 { None } else { self.before(at) }
    }

    /// The point before an entry.
    fn before(&self, at: usize) -> Option<Cursor> {
        let mut point = Cursor { offset: self.complete_since?, number: self.unknown };
        self.entries.range(..at).for_each(|(key, _)| point.advance(*key));
        Some(point)
    }

    /// The oldest event to which its publisher gave this ID.
    pub(super) fn find_publisher_id(&self, id: &str) -> Option<&Frame> {
        self.entries.iter().map(|(_, frame)| frame).find(|frame| frame.publisher_id() == Some(id))
    }

    /// The number up to which ephemeral events are unknown.
    pub(super) fn unknown(&self) -> u64 {
        self.unknown
    }

    /// Whether the ring has ephemeral events that a client with this cursor may or may not have.
    /// `is_foreign` if the client's last event was an ephemeral one of another node.
    pub(super) fn has_doubtful(&self, cursor: Cursor, is_foreign: bool) -> bool {
        self.newest.number > cursor.number
            && self.entries.iter().any(|(key, _)| {
                key.number > cursor.number && (is_foreign || key.offset < cursor.offset)
            })
    }

    pub(super) fn has_ephemeral(&self) -> bool {
        self.has_ephemeral
    }

    /// Whether there may have been ephemeral events, for all that is known.
    pub(super) fn may_have_ephemeral(&self) -> bool {
        self.has_ephemeral || self.is_uncertain
    }

    pub(super) fn ended(&self) -> Option<u64> {
        self.ended
    }

    /// The newest frames that were ever added.
    pub(super) fn newest(&self) -> Cursor {
        self.newest
    }

    pub(super) fn backfill(&mut self) -> Arc<OnceCell<()>> {
        Arc::clone(self.backfill.get_or_insert_default())
    }

    /// Empties the ring: the log was reset, and positions of the old epoch have no meaning. It is
    /// complete from here on.
    pub(super) fn reset(&mut self, now: LogState) {
        let total = self.total.clone();
        let mut empty = Self::new(now.number, total);
        // Of a channel that the node does not receive yet, nothing is known.
        empty.last = self.last.map(|_| now.heard);
        empty.is_reset = true;
        empty.complete_since = empty.last;
        empty.newest = now.cursor();
        empty.has_baseline = self.has_baseline;
        // The broker may have lost its mark of ephemeral events with the log, so the ring retains
        // it.
        empty.has_ephemeral = self.has_ephemeral;
        empty.is_unconfirmed = self.is_unconfirmed;
        *self = empty;
    }

    fn add_bytes(&mut self, frame: &Frame) {
        self.bytes += cost(frame);
        self.total.add(cost(frame));
    }

    fn remove_bytes(&mut self, frame: &Frame) {
        self.bytes -= cost(frame);
        self.total.remove(cost(frame));
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.total.remove(self.bytes);
    }
}

fn cost(frame: &Frame) -> usize {
    frame.len() + FRAME_OVERHEAD_BYTES
}

const _: () = assert!(RING_AGE_MAX.as_millis() < Duration::from_secs(86_400).as_millis());
