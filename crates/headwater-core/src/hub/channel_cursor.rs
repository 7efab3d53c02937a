//! One channel of a stream that replays: how far it was read, and what was read and is not
//! delivered. Look here for which events come from the ring, and which from the broker.

use std::collections::VecDeque;

use super::recall::{Credit, Recall};
use super::ring::Ring;
use crate::broker::ReadRange;
use crate::budget::Taken;
use crate::channel::Channel;
use crate::frame::Frame;
use crate::gap::{Gap, GapReason};
use crate::limits::REPLAY_FRAMES_MAX;
use crate::log::{Cursor, Key, Position};
use crate::stream::mailbox::Missed;

/// The progress of a replay on one channel.
pub(super) struct ChannelCursor {
    pub(super) channel: Channel,
    /// Everything up to here was read, and is delivered or in the buffer.
    pub(super) filled: Cursor,
    /// The stream was notified that ephemeral events up to here may be missing.
    pub(super) reported: u64,
    /// Events of the log up to this offset come too late for the stream, whose client has a later
    /// ID: it gets a gap event instead.
    late_until: u64,
    /// What the node has missed was considered, as far as it had noticed at this offset.
    pub(super) late_seen: u64,
    is_late_reported: bool,
    pub(super) buffer: VecDeque<(Key, Frame)>,
    /// The memory of the page that the buffer is from.
    pub(super) page: Option<Taken>,
}

impl ChannelCursor {
    pub(super) fn new(channel: &Channel, filled: Cursor) -> Self {
        let (channel, buffer) = (channel.clone(), VecDeque::new());
        Self {
            channel,
            filled,
            reported: 0,
            late_until: 0,
            late_seen: 0,
            is_late_reported: false,
            buffer,
            page: None,
        }
    }

    /// Cursors that start live with a gap event for each channel, because the client's position is
    /// unknown. Only the last gap event moves that position: a client that is disconnected between
    /// two of them receives all of them again.
    pub(super) fn all_after_gap(
        channels: &[Channel],
        reason: GapReason,
        last: Cursor,
        now: Position,
    ) -> Vec<Self> {
        let cursors = channels.iter().enumerate().map(|(at, channel)| {
            let mut cursor = Self::new(channel, last);
            cursor.announce(reason, (at + 1 == channels.len()).then_some(now));
            cursor
        });
        cursors.collect()
    }

    /// Where a channel of a live stream continues after its node has missed events of `missed`,
    /// which may be another channel of the stream. `until` is where the stream was attached.
    pub(super) fn continued(
        channel: &Channel,
        missed: &Missed,
        alone: bool,
        until: Cursor,
    ) -> Self {
        let has = missed.from.cursor.max(until);
        let mut cursor = Self::new(channel, has);
        cursor.reported = has.number;
        let after = missed.from.after;
        if alone && *channel == missed.channel && until.offset <= after {
            // It has received nothing after that.
            cursor.filled.offset = after;
            cursor.late_seen = missed.from.cursor.offset;
        }
        cursor
    }

    pub(super) fn announce(&mut self, reason: GapReason, position: Option<Position>) {
        let gap = Gap { channel: self.channel.clone(), reason };
        tracing::debug!(channel = %self.channel, %reason, "sending a gap event");
        let place = Key { offset: self.filled.offset, number: self.filled.number };
        self.buffer.push_back((place, Frame::of_gap(gap, position)));
    }

    /// Everything up to this offset was read.
    pub(super) fn offset(&self) -> u64 {
        self.filled.offset
    }

    /// Skips ephemeral events up to a number, with a gap event.
    pub(super) fn skip_ephemeral(&mut self, number: u64, reason: GapReason) {
        self.filled.number = number;
        self.reported = self.reported.max(number);
        if self.buffer.is_empty() {
            self.announce(reason, None);
        }
    }

    pub(super) fn needs_more(&self, target: Cursor) -> bool {
        self.buffer.is_empty() && !self.filled.covers(target)
    }

    /// Adds the next event.
    fn push(&mut self, key: Key, frame: Frame) {
        self.filled.advance(key);
        if key.number > 0 || key.offset > self.late_until {
            self.buffer.push_back((key, frame));
        } else if !std::mem::replace(&mut self.is_late_reported, true) {
            self.announce_late();
        }
    }

    /// Goes back to missed events that the stream has moved past, if there are any.
    pub(super) fn look_back(&mut self, recall: &Recall) {
        let (filled, seen) = (self.filled, self.late_seen);
        let late = recall.fanout.table.with(&self.channel, |entry| {
            (entry.ring.late_for(filled, seen), entry.ring.late_noticed())
        });
        let Some((late, noticed)) = late else { return };
        if let Some(late) = late {
            self.late_until = filled.offset;
            self.filled.offset = late.after;
            self.is_late_reported = false;
        }
        self.late_seen = noticed;
    }

    /// Reports missed events after everything that the client has.
    fn announce_late(&mut self) {
        let filled = self.filled.offset;
        self.filled.offset = filled.max(self.late_until);
        self.announce(GapReason::Trimmed, None);
        self.filled.offset = filled;
    }
}

/// Reads the next frames of a channel, up to the target. False if there is no room for them.
pub(super) async fn fill(
    recall: &Recall,
    credit: &mut Credit,
    cursor: &mut ChannelCursor,
    target: Cursor,
) -> bool {
    if cursor.filled.offset >= target.offset {
        // What is left are ephemeral events, which only the ring has.
        take_from_ring(recall, cursor, target, |_| true);
        return true;
    }
    if fill_from_ring(recall, cursor, target) {
        return true;
    }
    recall.backfill(&cursor.channel).await;
    if fill_from_ring(recall, cursor, target) {
        return true;
    }
    let Some(mut room) = recall.room(credit).await else { return false };
    let after = cursor.filled.offset;
    // Retained events that are older than this are in the history, since they were published before
    // the history is read. Events that the ring drops meanwhile need not be.
    let known_begin = recall.ring_begin(&cursor.channel);
    let ring_begin = known_begin.unwrap_or(0);
    let range = ReadRange::After { offset: after, count: REPLAY_FRAMES_MAX };
    let history = recall.read_page_to(&cursor.channel, range, ring_begin).await;
    let knows_now = known_begin.is_none() && recall.ring_begin(&cursor.channel).is_some();
    if knows_now || fill_from_ring(recall, cursor, target) {
        return true;
    }
    let unknown = recall.unknown(&cursor.channel);
    let is_trimmed = history.previous > after || (history.frames.is_empty() && ring_begin > after);
    if is_trimmed || unknown > cursor.filled.number.max(cursor.reported) {
        cursor.reported = cursor.reported.max(unknown);
        cursor.announce(GapReason::Trimmed, None);
    }
    room.set(history.frames.iter().map(Frame::len).sum());
    cursor.page = Some(room);
    for (at, frame) in history.frames.iter().enumerate() {
        let Some(key) = frame.key() else { continue };
        // From where the ring begins, take from it: it has ephemeral events too.
        if key.offset > target.offset || (ring_begin > after && key.offset > ring_begin) {
            break;
        }
        if history.has_hole_before(at) && key.offset > cursor.late_until {
            cursor.announce(GapReason::Trimmed, None);
        }
        cursor.push(key, frame.clone());
    }
    merge_ephemeral(recall, cursor, target);
    if cursor.filled.offset == after {
        // The history has no more events. The ring has the rest; if it does not know how far back
        // it is complete, that is ephemeral events only.
        if ring_begin > after {
            cursor.filled.offset = target.offset.min(ring_begin);
        } else {
            take_from_ring(recall, cursor, target, |_| true);
        }
    }
    true
}

/// Adds the ring's ephemeral events that were received before the newest event in the buffer, so
/// that IDs only grow.
fn merge_ephemeral(recall: &Recall, cursor: &mut ChannelCursor, target: Cursor) {
    let after = Cursor { offset: u64::MAX, ..cursor.filled };
    let newest = cursor.filled.offset;
    let earlier = recall.fanout.table.with(&cursor.channel, |entry| {
        let range = entry.ring.range(after, target, usize::MAX);
        range.take_while(|(key, _)| key.offset < newest).cloned().collect::<Vec<_>>()
    });
    for (key, frame) in earlier.unwrap_or_default() {
        cursor.push(key, frame);
    }
    cursor.buffer.make_contiguous().sort_by_key(|(key, _)| *key);
}

/// Takes the next frames from the ring if it reaches back far enough; returns whether it does.
fn fill_from_ring(recall: &Recall, cursor: &mut ChannelCursor, target: Cursor) -> bool {
    let offset = cursor.filled.offset;
    take_from_ring(recall, cursor, target, |ring| ring.covers(offset))
}

fn take_from_ring(
    recall: &Recall,
    cursor: &mut ChannelCursor,
    target: Cursor,
    is_enough: impl FnOnce(&Ring) -> bool,
) -> bool {
    let taken = recall.fanout.table.with(&cursor.channel, |entry| {
        is_enough(&entry.ring).then(|| {
            let range = entry.ring.range(cursor.filled, target, REPLAY_FRAMES_MAX);
            let entries = range.cloned().collect::<VecDeque<_>>();
            (entries, entry.ring.unknown())
        })
    });
    let Some((entries, unknown)) = taken.flatten() else { return false };
    if unknown > cursor.filled.number.max(cursor.reported) {
        cursor.reported = cursor.reported.max(unknown);
        cursor.announce(GapReason::Trimmed, None);
    }
    let is_all = entries.len() < REPLAY_FRAMES_MAX;
    for (key, frame) in entries {
        cursor.push(key, frame);
    }
    if is_all {
        cursor.filled = cursor.filled.max(target);
    }
    true
}
