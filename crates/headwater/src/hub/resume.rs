//! From where a stream left off, or rewinds to, up to what is live: without a gap, without a duplicate,
//! in order. Look here for what happens to a `Last-Event-ID`.
//!
//! While a stream replays it gets nothing from the fan-out. It reads in rounds: each round has a target,
//! the last event that the node had delivered when the round began, and takes from the rings (or, for
//! what is older, from the broker) all that stands before it, merged over the stream's channels in the
//! order of the log. When a round ends and nothing came meanwhile, the stream is attached to the
//! fan-out, under the locks of all its channels.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::queue::Queue;
use super::ring::Ring;
use super::{HubInner, LogState};
use crate::broker::{History, ReadRange};
use crate::channel::Channel;
use crate::frame::{Frame, now_ms};
use crate::gap::{Gap, GapReason};
use crate::limits::{REPLAY_BYTES_MAX, REPLAY_FRAMES_MAX, REWIND_AGE_MAX, REWIND_EVENTS_MAX};
use crate::position::{Epoch, Key, Position};

/// How far back a new stream begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rewind {
    /// With the last so many events of each channel.
    Events(usize),
    /// With what was published in the last so long.
    Age(Duration),
    /// With the oldest event that is kept.
    All,
}

/// Where a stream begins.
#[derive(Debug, Clone)]
pub(super) enum Start {
    /// With what is published from now on.
    Now,
    /// After the event with this id.
    After(String),
    /// With what was published before.
    Rewind(Rewind),
}

/// What has been found out when a stream begins.
pub(super) enum Started {
    /// It is attached; how many of its channels are not finished, and its position.
    Live { open: usize, position: Option<Position> },
    /// There is something to replay, or may be.
    Replay(Replay),
}

/// A stream that is not live yet.
pub(super) struct Replay {
    hub: Arc<HubInner>,
    queue: Arc<Queue>,
    epoch: Epoch,
    cursors: Vec<Cursor>,
    /// Events from before this time are passed over.
    since_ms: u64,
}

/// How far a replay is with one channel.
struct Cursor {
    channel: Channel,
    /// What was read up to here is given or in the buffer.
    filled: Key,
    /// Plain events up to here may be missing, and the stream knows.
    told: Key,
    buffer: VecDeque<(Key, Frame)>,
}

/// What one step of a replay gave.
pub(super) struct Step {
    pub(super) frames: VecDeque<Frame>,
    /// Says that the stream is attached.
    pub(super) live: Option<Attached>,
}

/// A stream that has replayed all there was.
pub(super) struct Attached {
    /// How many of its channels are not finished.
    pub(super) open: usize,
    /// Up to where everything was given.
    pub(super) given: Key,
    /// The same, for a client that has no id yet.
    pub(super) position: Position,
}

/// Begins a stream whose queue is in the channel table already.
pub(super) async fn start(
    hub: Arc<HubInner>,
    queue: Arc<Queue>,
    channels: Vec<Channel>,
    start: Start,
) -> Started {
    for channel in &channels {
        hub.broker.subscribed(channel).await;
    }
    let log = hub.log();
    let Some(epoch) = log.epoch else {
        // A broker without a log: nothing can be resumed, everything is from now on.
        queue.resume_push();
        return Started::Live { open: channels.len(), position: None };
    };
    let cursors = match start {
        Start::Now => {
            let open = hub.open_or_ending(&channels, &queue);
            return Started::Live {
                open,
                position: Some(hub.position(&channels, epoch, log.last)),
            };
        }
        Start::After(id) => after(&hub, &channels, &id, &log, epoch).await,
        Start::Rewind(rewind) => return begin_rewind(hub, queue, channels, rewind, epoch).await,
    };
    Started::Replay(Replay { hub, queue, epoch, cursors, since_ms: 0 })
}

/// Where each channel is resumed, with announcements of what is known to be missing.
async fn after(
    hub: &HubInner,
    channels: &[Channel],
    id: &str,
    log: &LogState,
    epoch: Epoch,
) -> Vec<Cursor> {
    let parsed = id.parse::<Position>().ok();
    let position = match parsed.filter(|position| position.epoch() == epoch) {
        Some(position) if hub.is_ahead(&channels[0], position, log.last).await => None,
        Some(position) => Some(position),
        None => hub.find_publisher_id(channels, id).await,
    };
    let Some(position) = position else {
        let reason = match parsed {
            Some(position) if position.epoch() != epoch => GapReason::Epoch,
            _ => GapReason::UnknownId,
        };
        let now = hub.position(channels, epoch, log.last);
        return Cursor::all_after_gap(channels, reason, log.last, now);
    };
    let from_ephemeral = position.ephemeral_part().is_some();
    let is_ephemeral: Vec<bool> =
        channels.iter().map(|channel| hub.has_ephemeral(channel)).collect();
    // If it is not known which channel the id's event came from, it may be each of them.
    let none_known = from_ephemeral && !is_ephemeral.contains(&true);
    let with_ephemeral =
        channels.iter().zip(is_ephemeral.iter().map(|is_ephemeral| *is_ephemeral || none_known));
    with_ephemeral
        .map(|(channel, is_ephemeral)| {
            since_position(hub, channel, position, log.last, is_ephemeral)
        })
        .collect()
}

/// Where a channel is resumed. Plain events are kept by nobody but the node that received them, so a
/// channel that has some is told what this node cannot know.
fn since_position(
    hub: &HubInner,
    channel: &Channel,
    position: Position,
    last: Key,
    is_ephemeral: bool,
) -> Cursor {
    let mut cursor = Cursor::new(channel, position.key());
    let reason = match position.ephemeral_part() {
        Some(ephemeral) if ephemeral.node != hub.node => {
            // Another node numbered it, or this one in another life. What this node has between the
            // same two events of the log may have been seen or not; what comes from now on was not.
            let begin = Key { offset: position.offset(), number: 0 };
            cursor.filled = last.min(Key::end_of(position.offset())).max(begin);
            cursor.told = cursor.filled;
            GapReason::Epoch
        }
        _ => {
            let joined = hub.joined(channel);
            if joined <= position.key() {
                return cursor;
            }
            cursor.told = joined;
            GapReason::Trimmed
        }
    };
    if is_ephemeral {
        cursor.announce(reason, None);
    }
    cursor
}

async fn begin_rewind(
    hub: Arc<HubInner>,
    queue: Arc<Queue>,
    channels: Vec<Channel>,
    rewind: Rewind,
    epoch: Epoch,
) -> Started {
    let mut cursors = Vec::with_capacity(channels.len());
    let since_ms = match rewind {
        Rewind::Age(age) => {
            let age_ms = u64::try_from(age.min(REWIND_AGE_MAX).as_millis()).unwrap_or(u64::MAX);
            now_ms().saturating_sub(age_ms)
        }
        Rewind::Events(_) | Rewind::All => 0,
    };
    for channel in &channels {
        hub.backfill(channel).await;
        let begin = match rewind {
            Rewind::Events(count) => hub.before_last(channel, count.min(REWIND_EVENTS_MAX)).await,
            Rewind::Age(_) => hub.before_time(channel, since_ms).await,
            Rewind::All => hub.before_all(channel).await,
        };
        let mut cursor = Cursor::new(channel, begin);
        // Nobody has seen what is no longer there.
        cursor.told = hub.lost_ephemeral(channel).unwrap_or_default();
        cursors.push(cursor);
    }
    Started::Replay(Replay { hub, queue, epoch, cursors, since_ms })
}

impl Cursor {
    fn new(channel: &Channel, filled: Key) -> Self {
        let (channel, told) = (channel.clone(), Key::default());
        Self { channel, filled, told, buffer: VecDeque::new() }
    }

    /// Begins with what is live, since what was before cannot be found. The last announcement moves
    /// the client's position: a stream that is cut between two is told of both again.
    fn all_after_gap(
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

    fn announce(&mut self, reason: GapReason, position: Option<Position>) {
        let gap = Gap { channel: self.channel.clone(), reason };
        tracing::debug!(channel = %self.channel, %reason, "a stream is told of a gap");
        self.buffer.push_back((self.filled, Frame::of_gap(gap, position)));
    }

    fn needs_more(&self, target: Key) -> bool {
        self.buffer.is_empty() && self.filled < target
    }
}

impl Replay {
    /// Reads on: gives the next frames, or attaches the stream. Fails never; it waits for a broker that
    /// does not answer.
    pub(super) async fn step(mut self) -> (Self, Step) {
        let mut frames = VecDeque::new();
        let mut bytes = 0;
        loop {
            let log = self.hub.log();
            if log.epoch != Some(self.epoch) {
                self.reset(&log);
            }
            let target = log.last;
            while let Some((_, frame)) = self.next(target).await {
                if frame.gap().is_none() && frame.time_ms() < self.since_ms {
                    continue;
                }
                if let Some(gap) = frame.gap() {
                    self.hub.stats.gap(gap.reason);
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

    /// The log lost its data: what was to be replayed is gone.
    fn reset(&mut self, log: &LogState) {
        let Some(epoch) = log.epoch else { return };
        self.epoch = epoch;
        let channels: Vec<Channel> =
            self.cursors.iter().map(|cursor| cursor.channel.clone()).collect();
        let now = self.hub.position(&channels, epoch, log.last);
        self.cursors = Cursor::all_after_gap(&channels, GapReason::Epoch, log.last, now);
    }

    /// The next entry over all channels, in order, up to the target; `None` too when the log begins anew.
    async fn next(&mut self, target: Key) -> Option<(Key, Frame)> {
        for cursor in &mut self.cursors {
            while cursor.needs_more(target) {
                fill(&self.hub, cursor, target).await;
                if self.hub.log().epoch != Some(self.epoch) {
                    // What was read may be of either log.
                    return None;
                }
            }
        }
        let with_next = self.cursors.iter_mut().filter(|cursor| !cursor.buffer.is_empty());
        let first = with_next.min_by_key(|cursor| cursor.buffer.front().map(|(key, _)| *key))?;
        first.buffer.pop_front()
    }

    /// Attaches the stream to the fan-out if nothing came after the target.
    fn attach(&self, target: Key) -> Option<Attached> {
        let given = self.cursors.iter().map(|cursor| cursor.filled).fold(target, Key::max);
        let channels: Vec<Channel> =
            self.cursors.iter().map(|cursor| cursor.channel.clone()).collect();
        let position = self.hub.position(&channels, self.epoch, given);
        self.hub.table.with_all(channels.iter(), |entries| {
            if entries.iter().any(|entry| entry.ring.last() > given) {
                return None;
            }
            // A log that began anew since the target was read has told all but this stream, which took
            // nothing; one that begins anew after this tells this one too.
            if self.hub.log().epoch != Some(self.epoch) {
                return None;
            }
            self.queue.resume_push();
            let open = entries.iter().filter(|entry| entry.ring.ended().is_none()).count();
            Some(Attached { open, given, position })
        })?
    }
}

/// Reads the next frames of a channel, up to the target.
async fn fill(hub: &HubInner, cursor: &mut Cursor, target: Key) {
    if fill_from_ring(hub, cursor, target) {
        return;
    }
    hub.backfill(&cursor.channel).await;
    if fill_from_ring(hub, cursor, target) {
        return;
    }
    let after = cursor.filled.offset;
    // What is older than this is in the history, if it is kept: it was published before the history is
    // read. What the ring gives up meanwhile need not be.
    let known_begin = hub.ring_begin(&cursor.channel);
    let ring_begin = known_begin.unwrap_or(0);
    let history = read_after(hub, cursor, ring_begin).await;
    let knows_now = known_begin.is_none() && hub.ring_begin(&cursor.channel).is_some();
    if knows_now || fill_from_ring(hub, cursor, target) {
        return;
    }
    let told = cursor.filled.max(cursor.told);
    let lost = hub.table.with(&cursor.channel, |entry| entry.ring.lost_ephemeral_after(told));
    let lost_ephemeral = lost.flatten();
    let is_trimmed = history.previous > after || (history.frames.is_empty() && ring_begin > after);
    if is_trimmed || lost_ephemeral.is_some() {
        cursor.told = lost_ephemeral.unwrap_or(cursor.told);
        cursor.announce(GapReason::Trimmed, None);
    }
    for frame in history.frames {
        let Some(key) = frame.key() else { continue };
        // Beyond where the ring begins, it has plain events too.
        if key > target || (ring_begin > after && key.offset > ring_begin) {
            break;
        }
        cursor.filled = key;
        cursor.buffer.push_back((key, frame));
    }
    if cursor.filled.offset == after {
        // There is no more in the history: the ring has the rest, if only plain events because it does
        // not know how far back it is complete.
        if ring_begin > after {
            cursor.filled = target.min(Key { offset: ring_begin, number: 0 });
        } else {
            take_from_ring(hub, cursor, target, |_| true);
        }
    }
}

/// The next page of a channel's history.
async fn read_after(hub: &HubInner, cursor: &Cursor, ring_begin: u64) -> History {
    let range = ReadRange::After { offset: cursor.filled.offset, count: REPLAY_FRAMES_MAX };
    match hub.read_page(&cursor.channel, range).await {
        // It is shared, and may have been read before what is looked for was published.
        Some(page) if page.frames.is_empty() && page.log_last < ring_begin => {
            hub.read(&cursor.channel, range).await
        }
        page => page.unwrap_or_default(),
    }
}

/// Whether the ring reaches back far enough; if so, takes from it.
fn fill_from_ring(hub: &HubInner, cursor: &mut Cursor, target: Key) -> bool {
    let filled = cursor.filled;
    take_from_ring(hub, cursor, target, |ring| ring.covers(filled))
}

fn take_from_ring(
    hub: &HubInner,
    cursor: &mut Cursor,
    target: Key,
    is_enough: impl FnOnce(&Ring) -> bool,
) -> bool {
    let taken = hub.table.with(&cursor.channel, |entry| {
        is_enough(&entry.ring).then(|| {
            let range = entry.ring.range(cursor.filled, target, REPLAY_FRAMES_MAX);
            let lost = entry.ring.lost_ephemeral_after(cursor.filled.max(cursor.told));
            (range.cloned().collect::<VecDeque<_>>(), lost)
        })
    });
    let Some((entries, lost)) = taken.flatten() else { return false };
    if let Some(lost) = lost {
        cursor.told = lost;
        cursor.announce(GapReason::Trimmed, None);
    }
    cursor.filled = match entries.back() {
        Some((last, _)) if entries.len() == REPLAY_FRAMES_MAX => *last,
        _ => target,
    };
    cursor.buffer.extend(entries);
    true
}
