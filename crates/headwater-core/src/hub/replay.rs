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

use super::channel_cursor::{ChannelCursor, fill};
use super::entry::ChannelEntry;
use super::recall::{Credit, Recall};
use crate::budget::Taken;
use crate::channel::Channel;
use crate::close::CloseReason;
use crate::frame::Frame;
use crate::gap::GapReason;
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
    /// The memory of the pages whose last events the last step returned.
    returned: Vec<Taken>,
    credit: Credit,
}

/// What receives live events once the replay is complete.
pub(super) enum Target {
    /// The queue of a subscription.
    Queue(Arc<Queue>),
    /// The replay with this number, of a stream on a shard.
    Shard(Arc<Mailbox>, u64),
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

impl Replay {
    pub(super) fn new(
        recall: Arc<Recall>,
        target: Target,
        epoch: Epoch,
        cursors: Vec<ChannelCursor>,
        since_ms: u64,
    ) -> Self {
        let credit = match target {
            Target::Queue(_) => Credit::OfShare,
            Target::Shard(..) => Credit::Any,
        };
        Self {
            recall,
            target,
            epoch,
            cursors,
            since_ms,
            delivered: 0,
            is_of_missed: false,
            returned: Vec::new(),
            credit,
        }
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
        let mut replay = Self::new(recall, target, epoch, cursors, 0).after(delivered);
        replay.is_of_missed = true;
        replay
    }

    /// Returns the next frames, or attaches the stream. It never fails: if the broker does not
    /// answer, it waits. The client has accepted what the last step returned.
    pub(super) async fn step(mut self) -> (Self, Step) {
        self.returned.clear();
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
                // The client must have accepted them before the stream is live.
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
                if !fill(&self.recall, &mut self.credit, cursor, target).await {
                    return self.end_for_lack_of_room().await;
                }
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
        if first.buffer.is_empty() {
            self.returned.extend(first.page.take());
        }
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

    /// Closes the stream, whose client resumes later, and gives back what it has.
    async fn end_for_lack_of_room(&mut self) -> Option<(Key, Frame)> {
        self.recall.refuse();
        self.cursors.clear();
        self.returned.clear();
        if let Target::Queue(queue) = &self.target {
            queue.close(CloseReason::Overflow);
        }
        // A stream whose queue is closed is not polled again.
        std::future::pending().await
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
