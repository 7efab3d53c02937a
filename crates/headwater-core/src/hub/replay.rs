//! Replay: from a stream's start up to live events, without loss, without duplicates and in order.
//! Look here for how a stream that resumes or rewinds becomes live; `start` resolves where it
//! starts.
//!
//! While a stream replays, the fan-out delivers nothing to it. It reads in rounds: each round has a
//! target, the last event that the node had delivered when the round started. The round reads all
//! events up to the target from the rings or, for older events, from the broker, merged over the
//! stream's channels in the order of the log. If nothing was delivered during a round, the stream
//! is attached to the fan-out, under the locks of all its channels.

use std::collections::VecDeque;
use std::sync::Arc;

use super::fanout::LogState;
use super::recall::Recall;
use super::ring::Ring;
use crate::broker::{History, ReadRange};
use crate::channel::Channel;
use crate::frame::Frame;
use crate::gap::{Gap, GapReason};
use crate::limits::{REPLAY_BYTES_MAX, REPLAY_FRAMES_MAX};
use crate::log::{Epoch, Key, Position};
use crate::stream::queue::Queue;

/// A stream that is not live yet.
pub(super) struct Replay {
    pub(super) recall: Arc<Recall>,
    pub(super) queue: Arc<Queue>,
    pub(super) epoch: Epoch,
    pub(super) cursors: Vec<ChannelCursor>,
    /// The time before which events are skipped, in milliseconds since 1970.
    pub(super) since_ms: u64,
}

/// The progress of a replay on one channel.
pub(super) struct ChannelCursor {
    channel: Channel,
    /// Everything up to here was read, and is delivered or in the buffer.
    pub(super) filled: Key,
    /// The stream was notified that ephemeral events up to here may be missing.
    pub(super) reported: Key,
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
    /// The number of its channels that have not ended.
    pub(super) open: usize,
    /// Everything up to here was delivered.
    pub(super) delivered: Key,
    /// The same as a position, for a client that has no ID yet.
    pub(super) position: Position,
}

impl ChannelCursor {
    pub(super) fn new(channel: &Channel, filled: Key) -> Self {
        let (channel, reported) = (channel.clone(), Key::default());
        Self { channel, filled, reported, buffer: VecDeque::new() }
    }

    /// Cursors that start live with a gap event for each channel, because the client's position is
    /// unknown. Only the last gap event moves that position: a client that is disconnected between
    /// two of them receives all of them again.
    pub(super) fn all_after_gap(
        channels: &[Channel],
        reason: GapReason,
        last: Key,
        now: Position,
    ) -> Vec<Self> {
        let cursors = channels.iter().enumerate().map(|(at, channel)| {
            let mut cursor = Self::new(channel, last);
            cursor.announce(reason, (at + 1 == channels.len()).then_some(now));
            cursor
        });
        cursors.collect()
    }

    pub(super) fn announce(&mut self, reason: GapReason, position: Option<Position>) {
        let gap = Gap { channel: self.channel.clone(), reason };
        tracing::debug!(channel = %self.channel, %reason, "sending a gap event");
        self.buffer.push_back((self.filled, Frame::of_gap(gap, position)));
    }

    fn needs_more(&self, target: Key) -> bool {
        self.buffer.is_empty() && self.filled < target
    }
}

impl Replay {
    /// Returns the next frames, or attaches the stream. It never fails: if the broker does not
    /// answer, it waits.
    pub(super) async fn step(mut self) -> (Self, Step) {
        let mut frames = VecDeque::new();
        let mut bytes = 0;
        loop {
            let log = self.recall.fanout.log();
            if log.epoch != Some(self.epoch) {
                self.reset(&log);
            }
            let target = log.last;
            while let Some((_, frame)) = self.next(target).await {
                if frame.gap().is_none() && frame.time_ms() < self.since_ms {
                    continue;
                }
                if let Some(gap) = frame.gap() {
                    self.recall.fanout.stats.gap(gap.reason);
                }
                bytes += frame.len();
                frames.push_back(frame);
                if frames.len() >= REPLAY_FRAMES_MAX || bytes >= REPLAY_BYTES_MAX {
                    return (self, Step { frames, live: None });
                }
            }
            let live = self.attach(target);
            if live.is_some() || !frames.is_empty() {
                return (self, Step { frames, live });
            }
            tokio::task::yield_now().await;
        }
    }

    /// Starts over after a reset of the log: what was to be replayed is gone.
    fn reset(&mut self, log: &LogState) {
        let Some(epoch) = log.epoch else { return };
        self.epoch = epoch;
        let channels: Vec<Channel> =
            self.cursors.iter().map(|cursor| cursor.channel.clone()).collect();
        let now = self.recall.position(&channels, epoch, log.last);
        self.cursors = ChannelCursor::all_after_gap(&channels, GapReason::Epoch, log.last, now);
    }

    /// The next entry over all channels, in order, up to the target. `None` also if the log was
    /// reset.
    async fn next(&mut self, target: Key) -> Option<(Key, Frame)> {
        for cursor in &mut self.cursors {
            while cursor.needs_more(target) {
                fill(&self.recall, cursor, target).await;
                if self.recall.fanout.log().epoch != Some(self.epoch) {
                    // What was read may come from either epoch.
                    return None;
                }
            }
        }
        let with_next = self.cursors.iter_mut().filter(|cursor| !cursor.buffer.is_empty());
        let first = with_next.min_by_key(|cursor| cursor.buffer.front().map(|(key, _)| *key))?;
        first.buffer.pop_front()
    }

    /// Attaches the stream to the fan-out if nothing was delivered after the target.
    fn attach(&self, target: Key) -> Option<Attached> {
        let delivered = self.cursors.iter().map(|cursor| cursor.filled).fold(target, Key::max);
        let channels: Vec<Channel> =
            self.cursors.iter().map(|cursor| cursor.channel.clone()).collect();
        let position = self.recall.position(&channels, self.epoch, delivered);
        self.recall.fanout.table.with_all(channels.iter(), |entries| {
            if entries.iter().any(|entry| entry.ring.last() > delivered) {
                return None;
            }
            // If the log was reset since the target was read, all other streams received gap
            // events, but this one was paused. A reset after this point reaches this stream too.
            if self.recall.fanout.log().epoch != Some(self.epoch) {
                return None;
            }
            self.queue.resume_push();
            let open = entries.iter().filter(|entry| entry.ring.ended().is_none()).count();
            Some(Attached { open, delivered, position })
        })?
    }
}

/// Reads the next frames of a channel, up to the target.
async fn fill(recall: &Recall, cursor: &mut ChannelCursor, target: Key) {
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
    let history = read_after(recall, cursor, ring_begin).await;
    let knows_now = known_begin.is_none() && recall.ring_begin(&cursor.channel).is_some();
    if knows_now || fill_from_ring(recall, cursor, target) {
        return;
    }
    let reported = cursor.filled.max(cursor.reported);
    let lost = recall
        .fanout
        .table
        .with(&cursor.channel, |entry| entry.ring.lost_ephemeral_after(reported));
    let lost_ephemeral = lost.flatten();
    let is_trimmed = history.previous > after || (history.frames.is_empty() && ring_begin > after);
    if is_trimmed || lost_ephemeral.is_some() {
        cursor.reported = lost_ephemeral.unwrap_or(cursor.reported);
        cursor.announce(GapReason::Trimmed, None);
    }
    for frame in history.frames {
        let Some(key) = frame.key() else { continue };
        // From where the ring begins, take from it: it has ephemeral events too.
        if key > target || (ring_begin > after && key.offset > ring_begin) {
            break;
        }
        cursor.filled = key;
        cursor.buffer.push_back((key, frame));
    }
    if cursor.filled.offset == after {
        // The history has no more events. The ring has the rest; if it does not know how far back
        // it is complete, that is ephemeral events only.
        if ring_begin > after {
            cursor.filled = target.min(Key { offset: ring_begin, number: 0 });
        } else {
            take_from_ring(recall, cursor, target, |_| true);
        }
    }
}

/// The next page of a channel's history.
async fn read_after(recall: &Recall, cursor: &ChannelCursor, ring_begin: u64) -> History {
    let range = ReadRange::After { offset: cursor.filled.offset, count: REPLAY_FRAMES_MAX };
    match recall.read_page(&cursor.channel, range).await {
        // The page is shared, and may have been read before the wanted events were published.
        Some(page) if page.frames.is_empty() && page.log_last < ring_begin => {
            recall.read(&cursor.channel, range).await
        }
        page => page.unwrap_or_default(),
    }
}

/// Takes the next frames from the ring if it reaches back far enough; returns whether it does.
fn fill_from_ring(recall: &Recall, cursor: &mut ChannelCursor, target: Key) -> bool {
    let filled = cursor.filled;
    take_from_ring(recall, cursor, target, |ring| ring.covers(filled))
}

fn take_from_ring(
    recall: &Recall,
    cursor: &mut ChannelCursor,
    target: Key,
    is_enough: impl FnOnce(&Ring) -> bool,
) -> bool {
    let taken = recall.fanout.table.with(&cursor.channel, |entry| {
        is_enough(&entry.ring).then(|| {
            let range = entry.ring.range(cursor.filled, target, REPLAY_FRAMES_MAX);
            let lost = entry.ring.lost_ephemeral_after(cursor.filled.max(cursor.reported));
            (range.cloned().collect::<VecDeque<_>>(), lost)
        })
    });
    let Some((entries, lost)) = taken.flatten() else { return false };
    if let Some(lost) = lost {
        cursor.reported = lost;
        cursor.announce(GapReason::Trimmed, None);
    }
    cursor.filled = match entries.back() {
        Some((last, _)) if entries.len() == REPLAY_FRAMES_MAX => *last,
        _ => target,
    };
    cursor.buffer.extend(entries);
    true
}
