//! Replay: from a stream's start, or from where its node has missed events, up to live events,
//! without loss, without duplicates and in order. Look here for how a stream that resumes or
//! rewinds becomes live; `start` resolves where it starts.
//!
//! While a stream replays, the fan-out delivers nothing to it. It reads in rounds: each round has a
//! target, the last event that the node had delivered when the round started. The round reads all
//! events up to the target from the rings or, for older events, from the broker, merged over the
//! stream's channels in the order of the log. If nothing was delivered during a round, the stream
//! is attached to the fan-out, under the locks of all its channels.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::entry::ChannelEntry;
use super::recall::Recall;
use super::ring::Ring;
use crate::broker::ReadRange;
use crate::channel::Channel;
use crate::frame::Frame;
use crate::gap::{Gap, GapReason};
use crate::limits::{REPLAY_BYTES_MAX, REPLAY_FRAMES_MAX};
use crate::log::{Cursor, Epoch, Key, LogState, Position};
use crate::stream::mailbox::{Mailbox, Message, Missed};
use crate::stream::progress::Progress;
use crate::stream::queue::Queue;

/// How often a replay looks whether the broker has passed what it has reported.
const REPLAY_WAIT: Duration = Duration::from_millis(5);

/// A stream that is not live yet, or not any more.
pub(super) struct Replay {
    recall: Arc<Recall>,
    target: Target,
    epoch: Epoch,
    cursors: Vec<ChannelCursor>,
    /// The time before which events are skipped, in milliseconds since 1970.
    since_ms: u64,
    /// The offset of the newest event of the log that was delivered.
    delivered: u64,
    /// Whether the stream was live before.
    is_of_missed: bool,
}

/// What receives live events once the replay is complete.
pub(super) enum Target {
    /// The queue of a subscription.
    Queue(Arc<Queue>),
    /// The replay with this number, of a stream on a shard.
    Shard(Arc<Mailbox>, u64),
}

/// The progress of a replay on one channel.
pub(super) struct ChannelCursor {
    channel: Channel,
    /// Everything up to here was read, and is delivered or in the buffer.
    filled: Cursor,
    /// The stream was notified that ephemeral events up to here may be missing.
    pub(super) reported: u64,
    /// Events of the log up to this offset come too late for the stream, whose client has a later
    /// ID: it gets a gap event instead.
    late_until: u64,
    /// What the node has missed was considered, as far as it had noticed at this offset.
    late_seen: u64,
    is_late_reported: bool,
    buffer: VecDeque<(Key, Frame)>,
}

/// The result of one step of a replay.
pub(super) struct Step {
    pub(super) frames: VecDeque<Frame>,
    /// Set if the stream is attached.
    pub(super) live: Option<Attached>,
}

/// A stream that has replayed everything and is attached to the fan-out.
pub(super) struct Attached {
    /// What was delivered, and the channels that have not ended.
    pub(super) progress: Progress,
    /// The same as a position, for a client that has no ID yet.
    pub(super) position: Position,
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
    fn continued(channel: &Channel, missed: &Missed, alone: bool, until: Cursor) -> Self {
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

    fn needs_more(&self, target: Cursor) -> bool {
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
    fn look_back(&mut self, recall: &Recall) {
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

impl Replay {
    pub(super) fn new(
        recall: Arc<Recall>,
        target: Target,
        epoch: Epoch,
        cursors: Vec<ChannelCursor>,
        since_ms: u64,
    ) -> Self {
        Self { recall, target, epoch, cursors, since_ms, delivered: 0, is_of_missed: false }
    }

    /// The replay of a client that has everything up to an offset.
    pub(super) fn after(mut self, offset: u64) -> Self {
        self.delivered = offset;
        self
    }

    /// The replay of a live stream whose node has missed events of a channel. `until` is where the
    /// stream was attached.
    pub(super) fn of_missed(
        recall: Arc<Recall>,
        target: Target,
        channels: &[Channel],
        missed: &Missed,
        until: Cursor,
    ) -> Self {
        let alone = channels.len() == 1;
        let continued = |channel| ChannelCursor::continued(channel, missed, alone, until);
        let cursors = channels.iter().map(continued).collect();
        let epoch = missed.from.epoch;
        let delivered = missed.from.cursor.max(until).offset;
        Self { recall, target, epoch, cursors, since_ms: 0, delivered, is_of_missed: true }
    }

    /// Returns the next frames, or attaches the stream. It never fails: if the broker does not
    /// answer, it waits.
    pub(super) async fn step(mut self) -> (Self, Step) {
        let mut frames = VecDeque::new();
        let (mut bytes, mut before) = (0, None);
        loop {
            let log = self.recall.fanout.clock.now();
            if log.epoch != Some(self.epoch) {
                self.reset(&log);
            }
            let target = log.cursor();
            for cursor in &mut self.cursors {
                cursor.look_back(&self.recall);
            }
            while let Some((_, frame)) = self.next(target).await {
                if frame.gap().is_none() && frame.time_ms() < self.since_ms {
                    continue;
                }
                if let Some(gap) = frame.gap() {
                    self.recall.fanout.stats.gap(gap.reason);
                }
                if self.is_of_missed && frame.gap().is_none() {
                    self.recall.fanout.stats.missed.add(1);
                }
                bytes += frame.len();
                frames.push_back(frame);
                if frames.len() >= REPLAY_FRAMES_MAX || bytes >= REPLAY_BYTES_MAX {
                    return (self, Step { frames, live: None });
                }
            }
            if let Target::Shard(..) = self.target
                && !frames.is_empty()
            {
                // They must be in the mailbox before the stream is live.
                return (self, Step { frames, live: None });
            }
            let live = self.attach(target);
            if live.is_some() || !frames.is_empty() {
                return (self, Step { frames, live });
            }
            if before.replace(target) == Some(target) {
                // The broker has reported events of a channel that are after what it has passed.
                tokio::time::sleep(REPLAY_WAIT).await;
            } else {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Starts over after a reset of the log: what was to be replayed is gone.
    fn reset(&mut self, log: &LogState) {
        let Some(epoch) = log.epoch else { return };
        self.epoch = epoch;
        self.delivered = 0;
        let channels = self.channels();
        let now = self.recall.position(&channels, epoch, log.cursor());
        let reason = GapReason::Epoch;
        self.cursors = ChannelCursor::all_after_gap(&channels, reason, log.cursor(), now);
    }

    fn channels(&self) -> Vec<Channel> {
        self.cursors.iter().map(|cursor| cursor.channel.clone()).collect()
    }

    /// The position of a stream that has received all that was read; `None` if more was read, or of
    /// one channel less than of another.
    pub(super) fn position(&self) -> Option<Position> {
        let filled = self.cursors.first()?.filled;
        let is_even = self.cursors.iter().all(|it| it.buffer.is_empty() && it.filled == filled);
        is_even.then(|| self.recall.position(&self.channels(), self.epoch, filled))
    }

    /// The next entry over all channels, in order, up to the target. `None` also if the log was
    /// reset.
    async fn next(&mut self, target: Cursor) -> Option<(Key, Frame)> {
        for cursor in &mut self.cursors {
            while cursor.needs_more(target) {
                fill(&self.recall, cursor, target).await;
                if !self.recall.fanout.clock.is_in(self.epoch) {
                    // What was read may come from either epoch.
                    return None;
                }
            }
        }
        // An ephemeral event comes after what the node had heard when it arrived, and before all
        // that it may not have heard: an ID of that says that the client has the event.
        let with_next = self.cursors.iter_mut().filter(|cursor| !cursor.buffer.is_empty());
        let first = with_next.min_by_key(|cursor| cursor.buffer.front().map(|(key, _)| *key))?;
        let (key, frame) = first.buffer.pop_front()?;
        let position = frame.position();
        if let Some(position) = position
            && !position.is_durable()
            && position.offset() < self.delivered
        {
            let cursor = Cursor { offset: self.delivered, number: key.number };
            let position = self.recall.fanout.clock.position(self.epoch, cursor, true);
            return Some((key, frame.at(position)));
        }
        self.delivered = position.map_or(self.delivered, |it| it.offset().max(self.delivered));
        Some((key, frame))
    }

    /// Attaches the stream to the fan-out if nothing was delivered after the target.
    fn attach(&self, target: Cursor) -> Option<Attached> {
        let until = self.cursors.iter().map(|cursor| cursor.filled).fold(target, Cursor::max);
        let channels = self.channels();
        let position = self.recall.position(&channels, self.epoch, until);
        let attach = |entries: &[&ChannelEntry]| {
            // What the node has noticed since the replay looked back is read first.
            let is_late = |(entry, cursor): (&&ChannelEntry, &ChannelCursor)| {
                entry.ring.late_noticed() > cursor.late_seen
            };
            if entries.iter().zip(&self.cursors).any(is_late) {
                return None;
            }
            if entries.iter().any(|entry| !until.covers(entry.ring.newest())) {
                return None;
            }
            // If the log was reset since the target was read, all other streams received gap
            // events, but this one was paused. A reset after this point reaches this stream too.
            if !self.recall.fanout.clock.is_in(self.epoch) {
                return None;
            }
            let open = entries.iter().filter(|entry| entry.ring.ended().is_none()).count();
            let count = |channels| u32::try_from(channels).unwrap_or(u32::MAX);
            let progress = Progress { until, open: count(open), channels: count(entries.len()) };
            match &self.target {
                Target::Queue(queue) => queue.resume_push(),
                // A shard that is gone has no streams.
                Target::Shard(mailbox, replay) => {
                    let _ = mailbox.push(Message::Live { replay: *replay, progress });
                }
            }
            Some(Attached { progress, position })
        };
        self.recall.fanout.table.with_all(channels.iter(), attach)?
    }
}

/// Reads the next frames of a channel, up to the target.
async fn fill(recall: &Recall, cursor: &mut ChannelCursor, target: Cursor) {
    if cursor.filled.offset >= target.offset {
        // What is left are ephemeral events, which only the ring has.
        take_from_ring(recall, cursor, target, |_| true);
        return;
    }
    if fill_from_ring(recall, cursor, target) {
        return;
    }
    recall.backfill(&cursor.channel).await;
    if fill_from_ring(recall, cursor, target) {
        return;
    }
    let after = cursor.filled.offset;
    // Retained events that are older than this are in the history, since they were published before
    // the history is read. Events that the ring drops meanwhile need not be.
    let known_begin = recall.ring_begin(&cursor.channel);
    let ring_begin = known_begin.unwrap_or(0);
    let range = ReadRange::After { offset: after, count: REPLAY_FRAMES_MAX };
    let history = recall.read_page_to(&cursor.channel, range, ring_begin).await;
    let knows_now = known_begin.is_none() && recall.ring_begin(&cursor.channel).is_some();
    if knows_now || fill_from_ring(recall, cursor, target) {
        return;
    }
    let unknown = recall.unknown(&cursor.channel);
    let is_trimmed = history.previous > after || (history.frames.is_empty() && ring_begin > after);
    if is_trimmed || unknown > cursor.filled.number.max(cursor.reported) {
        cursor.reported = cursor.reported.max(unknown);
        cursor.announce(GapReason::Trimmed, None);
    }
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
