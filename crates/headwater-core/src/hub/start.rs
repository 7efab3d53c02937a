//! Where a stream starts: now, after the client's last event, or at an earlier point. Look here for
//! how a `Last-Event-ID` is resolved; `replay` reads from there on.

use std::sync::Arc;
use std::time::Duration;

use super::fanout::LogState;
use super::recall::Recall;
use super::replay::{ChannelCursor, Replay};
use crate::channel::Channel;
use crate::clock::now_ms;
use crate::error::Error;
use crate::gap::GapReason;
use crate::limits::{REWIND_AGE_MAX, REWIND_EVENTS_MAX};
use crate::log::{Epoch, Key, Position};
use crate::stream::queue::Queue;

/// How far back a new stream starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rewind {
    /// With this many of the newest events of each channel; at most [`REWIND_EVENTS_MAX`].
    Events(usize),
    /// With the events published within this time; at most [`REWIND_AGE_MAX`].
    Age(Duration),
    /// With the oldest retained event.
    All,
}

/// Where a stream starts.
#[derive(Debug, Clone)]
pub(super) enum Start {
    /// With events published from now on.
    Now,
    /// After the event with this ID.
    After(String),
    /// With events published before.
    Rewind(Rewind),
}

/// The result of starting a stream.
pub(super) struct Begun {
    pub(super) kind: BegunKind,
    /// Why a channel's events will not arrive, if the broker reports that.
    pub(super) unconfirmed: Option<Error>,
}

/// What a started stream does first.
pub(super) enum BegunKind {
    /// It is attached to the fan-out. `open` is the number of its channels that have not ended.
    Live { open: usize, position: Option<Position> },
    /// It replays, even if there turns out to be nothing to replay.
    Replay(Replay),
}

/// Starts a stream whose queue is in the channel table already.
pub(super) async fn start(
    recall: Arc<Recall>,
    queue: Arc<Queue>,
    channels: Vec<Channel>,
    start: Start,
) -> Begun {
    let mut unconfirmed = None;
    for channel in &channels {
        if let Err(error) = recall.broker.subscribed(channel).await {
            unconfirmed.get_or_insert(error);
        }
    }
    let kind = begin(recall, queue, channels, start).await;
    Begun { kind, unconfirmed }
}

async fn begin(
    recall: Arc<Recall>,
    queue: Arc<Queue>,
    channels: Vec<Channel>,
    start: Start,
) -> BegunKind {
    let log = recall.fanout.log();
    let Some(epoch) = log.epoch else {
        // The broker has no log: nothing can be resumed, so the stream starts now.
        queue.resume_push();
        return BegunKind::Live { open: channels.len(), position: None };
    };
    let (cursors, since_ms) = match start {
        Start::Now => {
            let open = recall.open_or_ending(&channels, &queue);
            let position = Some(recall.position(&channels, epoch, log.last));
            return BegunKind::Live { open, position };
        }
        Start::After(id) => (after(&recall, &channels, &id, &log, epoch).await, 0),
        Start::Rewind(rewind) => rewound(&recall, &channels, rewind).await,
    };
    BegunKind::Replay(Replay { recall, queue, epoch, cursors, since_ms })
}

/// Where each channel resumes, with gap events for what is known to be missing.
async fn after(
    recall: &Recall,
    channels: &[Channel],
    id: &str,
    log: &LogState,
    epoch: Epoch,
) -> Vec<ChannelCursor> {
    let parsed = id.parse::<Position>().ok();
    let position = match parsed.filter(|position| position.epoch() == epoch) {
        Some(position) if recall.is_ahead(&channels[0], position, log.last).await => None,
        Some(position) => Some(position),
        None => recall.find_publisher_id(channels, id).await,
    };
    let Some(position) = position else {
        let reason = match parsed {
            Some(position) if position.epoch() != epoch => GapReason::Epoch,
            _ => GapReason::UnknownId,
        };
        let now = recall.position(channels, epoch, log.last);
        return ChannelCursor::all_after_gap(channels, reason, log.last, now);
    };
    let from_ephemeral = position.ephemeral_part().is_some();
    let is_ephemeral: Vec<bool> =
        channels.iter().map(|channel| recall.fanout.has_ephemeral(channel)).collect();
    // If the channel of the ID's event is unknown, it may be any of them.
    let none_known = from_ephemeral && !is_ephemeral.contains(&true);
    let with_ephemeral =
        channels.iter().zip(is_ephemeral.iter().map(|is_ephemeral| *is_ephemeral || none_known));
    with_ephemeral
        .map(|(channel, is_ephemeral)| {
            after_position(recall, channel, position, log.last, is_ephemeral)
        })
        .collect()
}

/// Where a channel resumes. Only the node that received an ephemeral event retains it. A stream of
/// a channel with ephemeral events therefore gets a gap event if this node cannot know whether the
/// stream has all of them.
fn after_position(
    recall: &Recall,
    channel: &Channel,
    position: Position,
    last: Key,
    is_ephemeral: bool,
) -> ChannelCursor {
    let mut cursor = ChannelCursor::new(channel, position.key());
    let reason = match position.ephemeral_part() {
        Some(ephemeral) if ephemeral.node != recall.fanout.node => {
            // Another node assigned the number, or this one before it restarted. The client may
            // have seen what this node retains between the same two events of the log, so that is
            // skipped; it has not seen what arrives from now on.
            let begin = Key { offset: position.offset(), number: 0 };
            cursor.filled = last.min(Key::end_of(position.offset())).max(begin);
            cursor.reported = cursor.filled;
            GapReason::Epoch
        }
        _ => {
            let joined = recall.joined(channel);
            if joined <= position.key() {
                return cursor;
            }
            cursor.reported = joined;
            GapReason::Trimmed
        }
    };
    if is_ephemeral {
        cursor.announce(reason, None);
    }
    cursor
}

/// Where each channel starts, and the time before which events are skipped, in milliseconds since
/// 1970.
async fn rewound(
    recall: &Recall,
    channels: &[Channel],
    rewind: Rewind,
) -> (Vec<ChannelCursor>, u64) {
    let since_ms = match rewind {
        Rewind::Age(age) => {
            let age_ms = u64::try_from(age.min(REWIND_AGE_MAX).as_millis()).unwrap_or(u64::MAX);
            now_ms().saturating_sub(age_ms)
        }
        Rewind::Events(_) | Rewind::All => 0,
    };
    let mut cursors = Vec::with_capacity(channels.len());
    for channel in channels {
        recall.backfill(channel).await;
        let begin = match rewind {
            Rewind::Events(count) => {
                recall.before_last(channel, count.min(REWIND_EVENTS_MAX)).await
            }
            Rewind::Age(_) => recall.before_time(channel, since_ms).await,
            Rewind::All => recall.before_all(channel).await,
        };
        let mut cursor = ChannelCursor::new(channel, begin);
        // No client has seen what is no longer retained.
        cursor.reported = recall.lost_ephemeral(channel).unwrap_or_default();
        cursors.push(cursor);
    }
    (cursors, since_ms)
}
