//! Where a stream starts: now, after the client's last event, or at an earlier point. Look here for
//! how a `Last-Event-ID` is resolved; `replay` reads from there on.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::channel_cursor::ChannelCursor;
use super::entry::ChannelEntry;
use super::recall::Recall;
use super::replay::{Replay, Target};
use super::search::find_publisher_id;
use crate::channel::Channel;
use crate::clock::now_ms;
use crate::error::Error;
use crate::gap::GapReason;
use crate::limits::{CONFIRM_TIMEOUT, REWIND_AGE_MAX, REWIND_EVENTS_MAX};
use crate::log::{Cursor, LogState, Position, Relation};
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
    /// Where the log was when the stream was opened, since the broker confirmed it only later.
    Late(LogState),
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
    let opened = (Instant::now(), recall.fanout.clock.now());
    let (mut unconfirmed, mut is_late) = (None, false);
    for channel in &channels {
        if let Err(error) = recall.broker.subscribed(channel).await {
            unconfirmed.get_or_insert(error);
            let start = |entry: &mut ChannelEntry| entry.ring.start_unconfirmed();
            is_late |= recall.fanout.table.with(channel, start) == Some(false);
        }
    }
    is_late |= opened.0.elapsed() >= CONFIRM_TIMEOUT / 2;
    let start = match start {
        Start::Now if is_late => Start::Late(opened.1),
        start => start,
    };
    let kind = begin(recall, queue, channels, start).await;
    Begun { kind, unconfirmed }
}

async fn begin(
    recall: Arc<Recall>,
    queue: Arc<Queue>,
    channels: Vec<Channel>,
    start: Start,
) -> BegunKind {
    let log = recall.fanout.clock.now();
    let Some(epoch) = log.epoch else {
        // The broker has no log: nothing can be resumed, so the stream starts now.
        queue.resume_push();
        return BegunKind::Live { open: channels.len(), position: None };
    };
    let mut has = 0;
    let (cursors, since_ms) = match start {
        Start::Now => {
            let open = recall.open_or_ending(&channels, &queue);
            let position = Some(recall.position(&channels, epoch, log.cursor()));
            return BegunKind::Live { open, position };
        }
        Start::After(id) => {
            let cursors = after(&recall, &channels, &id).await;
            has = cursors.iter().map(ChannelCursor::offset).max().unwrap_or(0);
            (cursors, 0)
        }
        Start::Late(opened) => {
            queue.pause();
            (late(&recall, &channels, opened), 0)
        }
        Start::Rewind(rewind) => rewound(&recall, &channels, rewind).await,
    };
    let replay = Replay::new(recall, Target::Queue(queue), epoch, cursors, since_ms);
    BegunKind::Replay(replay.after(has))
}

/// Where the channels of a stream start that was open before the broker confirmed them: where the
/// log was then, or with gap events if that is not known.
fn late(recall: &Recall, channels: &[Channel], opened: LogState) -> Vec<ChannelCursor> {
    let log = recall.fanout.clock.now();
    if opened.epoch != log.epoch {
        let was_known = opened.epoch.is_some();
        let reason = if was_known { GapReason::Epoch } else { GapReason::BrokerLost };
        return all_after_gap(recall, channels, reason);
    }
    let from = |channel| {
        let is_ephemeral = recall.fanout.has_ephemeral(channel);
        after_cursor(recall, channel, opened.cursor(), GapReason::Trimmed, is_ephemeral)
    };
    channels.iter().map(from).collect()
}

fn all_after_gap(recall: &Recall, channels: &[Channel], reason: GapReason) -> Vec<ChannelCursor> {
    let log = recall.fanout.clock.now();
    // The log has a position, or the stream would have started at once.
    let Some(epoch) = log.epoch else { return Vec::new() };
    let now = recall.position(channels, epoch, log.cursor());
    ChannelCursor::all_after_gap(channels, reason, log.cursor(), now)
}

/// Where each channel resumes, with gap events for what is known to be missing.
async fn after(recall: &Arc<Recall>, channels: &[Channel], id: &str) -> Vec<ChannelCursor> {
    let parsed = id.parse::<Position>().ok();
    let relate = || Some(recall.relate(parsed?));
    let mut relation = relate();
    let is_settled = match (parsed, relation) {
        (Some(position), Some(relation)) => !needs_settling(relation, position),
        // A publisher's ID: this node may not have heard of its event yet.
        _ => false,
    };
    if !is_settled {
        recall.settle(&channels[0]).await;
        relation = relate();
    }
    if relation.is_none_or(|relation| relation == Relation::OtherEpoch)
        && let Some(position) = find_publisher_id(recall, channels, id).await
    {
        return resume(recall, channels, position, recall.relate(position));
    }
    match (parsed, relation) {
        (Some(position), Some(relation @ Relation::Within { .. })) => {
            resume(recall, channels, position, relation)
        }
        (_, Some(Relation::OtherEpoch)) => all_after_gap(recall, channels, GapReason::Epoch),
        _ => all_after_gap(recall, channels, GapReason::UnknownId),
    }
}

/// Whether another node may have delivered what this one has not heard yet: of the log, of a newer
/// epoch, or ephemeral events, which would be repeated if they arrived after the client.
fn needs_settling(relation: Relation, position: Position) -> bool {
    match relation {
        Relation::Ahead | Relation::OtherEpoch => true,
        Relation::Within { is_exact, .. } => !is_exact && !position.is_durable(),
    }
}

/// Where each channel resumes after a position.
fn resume(
    recall: &Recall,
    channels: &[Channel],
    position: Position,
    relation: Relation,
) -> Vec<ChannelCursor> {
    let Relation::Within { cursor, is_exact } = relation else {
        return all_after_gap(recall, channels, GapReason::UnknownId);
    };
    let is_foreign = !is_exact && !position.is_durable();
    let reason = if is_foreign { GapReason::Epoch } else { GapReason::Trimmed };
    let is_ephemeral: Vec<bool> =
        channels.iter().map(|channel| recall.fanout.has_ephemeral(channel)).collect();
    // If the channel of the ID's event is unknown, it may be any of them.
    let none_known = !position.is_durable() && !is_ephemeral.contains(&true);
    let with_ephemeral = channels.iter().zip(is_ephemeral).map(|(channel, known)| {
        let may_be = || !position.is_durable() && recall.fanout.may_have_ephemeral(channel);
        (channel, known || none_known || may_be())
    });
    // Between what is left of the epoch before and this one, events may be lost.
    let is_before = cursor.offset < recall.fanout.clock.now().begun;
    let resumed = with_ephemeral.map(|(channel, is_ephemeral)| {
        let mut resumed = after_cursor(recall, channel, cursor, reason, is_ephemeral);
        if is_before {
            resumed.announce(GapReason::Epoch, None);
        }
        if !is_exact && recall.has_doubtful(channel, cursor, is_foreign) {
            // The client may have some of the ephemeral events that this node retains, so they are
            // skipped; it has not seen what arrives from now on.
            resumed.skip_ephemeral(recall.fanout.clock.now().number, reason);
        }
        resumed
    });
    resumed.collect()
}

/// Where a channel resumes. Only the nodes that received an ephemeral event retain it. A stream of
/// a channel with ephemeral events therefore gets a gap event if this node cannot know whether the
/// stream has all of them.
fn after_cursor(
    recall: &Recall,
    channel: &Channel,
    cursor: Cursor,
    reason: GapReason,
    is_ephemeral: bool,
) -> ChannelCursor {
    let mut resumed = ChannelCursor::new(channel, cursor);
    let unknown = recall.unknown(channel);
    if unknown > cursor.number {
        if is_ephemeral {
            resumed.announce(reason, None);
        }
        resumed.reported = unknown;
    }
    resumed
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
        cursor.reported = recall.unknown(channel);
        cursors.push(cursor);
    }
    (cursors, since_ms)
}
