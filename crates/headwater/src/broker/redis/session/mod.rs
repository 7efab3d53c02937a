//! One subscriber connection, from HELLO to its loss. Look here for batching, confirmations, and the way
//! of a message from Redis to the hub.
//!
//! A channel is given to the hub from a known point of the log on. When Redis has confirmed a batch of
//! channels, the node asks, in one transaction, where the log and these channels are, and publishes a
//! marker to itself. When the marker comes in, everything from before has come in too: that is the
//! point. If Redis' answer is not there yet, or missing events must be read first, the input rests
//! until it is: Redis keeps what comes meanwhile.

mod receive;
mod subscribe;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;

use ::redis::{RedisError, RedisResult};
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::oneshot;

use super::catch_up::CatchUp;
use super::connect::Connection;
use super::envelope::Place;
use super::log::LogState;
use super::probe::{Due, Probe};
use super::subscriber::{Known, Subscriber};
use super::{LogMode, is_refused, log};
use crate::channel::Channel;
use crate::error::Error;
use crate::event::Event;
use crate::gap::GapReason;
use crate::position::Epoch;

/// What one read takes at most, and what the buffer keeps between messages.
const READ_BYTES: usize = 64 << 10;

/// A subscriber connection and what is known about it.
pub(super) struct Session<'a> {
    reader: ReadHalf<Box<dyn Connection>>,
    writer: WriteHalf<Box<dyn Connection>>,
    node: &'a Subscriber,
    known: &'a mut Known,
    input: BytesMut,
    output: BytesMut,
    /// Channels to bring in line with what is wanted, in batches that fit one command.
    todo: VecDeque<Vec<Channel>>,
    /// Channels that Redis was asked for. Each has one command on its way at most, so that a
    /// confirmation can only be for that one.
    asked: HashMap<Channel, Phase>,
    unconfirmed: VecDeque<PendingCommand>,
    /// Redis channels of the node's own that were asked for and not answered, in their order.
    own_unanswered: VecDeque<NodeChannel>,
    /// Questions where the log is, in the order of their markers.
    syncs: VecDeque<Sync>,
    sync_count: u64,
    /// Whether what was missed before this session is still to be read; nothing of the log is given
    /// until then.
    is_behind: bool,
    /// What the input waits for.
    work: Option<Pin<Box<dyn Future<Output = Done> + Send>>>,
    /// The note on its way to Redis that channels get plain events, and how many of `Known::unmarked` it
    /// is for.
    marking: Option<(usize, Marking)>,
    /// A note failed; the next one goes out with the next probe.
    mark_rests: bool,
    probe: Probe,
}

type Marking = Pin<Box<dyn Future<Output = RedisResult<()>> + Send>>;

/// Where a channel is between asked for and ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Subscribing,
    /// Redis sends its messages, and it is not known yet from where on.
    Subscribed,
    /// Its messages go to the hub.
    Synced,
    Unsubscribing,
}

/// A Redis channel of the node's own.
enum NodeChannel {
    Probe,
    Revocations,
}

/// A SUBSCRIBE or UNSUBSCRIBE that is not wholly confirmed.
struct PendingCommand {
    /// Empty for a Redis channel of the node's own.
    channels: Vec<Channel>,
    is_subscribe: bool,
    confirmations_left: usize,
}

/// A question where the log is.
struct Sync {
    marker: String,
    channels: Vec<Channel>,
    answer: Option<oneshot::Receiver<RedisResult<LogState>>>,
    state: Option<LogState>,
}

/// What the input waited for.
enum Done {
    Answered(Vec<Channel>, RedisResult<LogState>),
    CaughtUp(LogState, RedisResult<CatchUp>),
    Healed { channel: Channel, event: Event, place: Place, missed: RedisResult<CatchUp> },
}

/// Why a session ended.
pub(super) enum SessionEnd {
    Closed,
    Io(io::Error),
    Protocol(Error),
    ProbeTimeout(&'static str),
    Log(RedisError),
}

impl<'a> Session<'a> {
    pub(super) fn new(
        connection: Box<dyn Connection>,
        node: &'a Subscriber,
        known: &'a mut Known,
    ) -> Self {
        let (reader, writer) = tokio::io::split(connection);
        let is_behind = known.epoch.is_some() && node.wanted.durability() != LogMode::Off;
        Self {
            reader,
            writer,
            node,
            known,
            input: BytesMut::with_capacity(READ_BYTES),
            output: BytesMut::new(),
            todo: VecDeque::new(),
            asked: HashMap::new(),
            unconfirmed: VecDeque::new(),
            own_unanswered: VecDeque::new(),
            syncs: VecDeque::new(),
            sync_count: 0,
            is_behind,
            work: None,
            marking: None,
            mark_rests: false,
            probe: Probe::new(node.commands.clone()),
        }
    }

    /// Serves until the connection is lost.
    pub(super) async fn run(mut self) -> SessionEnd {
        self.subscribe_own();
        let all = self.node.wanted.begin();
        // What left while there was no connection is forgotten, also if it came back.
        let wanted = &self.node.wanted;
        self.known.lasts.retain(|channel, _| wanted.had_baseline(channel));
        self.announce_lost_ephemeral(&all);
        self.add_todo(&all);
        loop {
            self.ask();
            self.mark();
            if let Err(lost) = self.turn().await {
                return lost;
            }
        }
    }

    async fn turn(&mut self) -> Result<(), SessionEnd> {
        tokio::select! {
            done = wait_for_work(&mut self.work) => {
                self.on_done(done)?;
                self.take_input()?;
            }
            (answer, at) = next_answer(&mut self.syncs) => self.on_answer(answer, at),
            read = self.reader.read_buf(&mut self.input), if self.work.is_none() => {
                if read.map_err(SessionEnd::Io)? == 0 {
                    return Err(SessionEnd::Closed);
                }
                self.take_input()?;
            }
            written = self.writer.write_buf(&mut self.output), if !self.output.is_empty() => {
                written.map_err(SessionEnd::Io)?;
                if self.output.is_empty() {
                    self.output = BytesMut::new();
                    self.writer.flush().await.map_err(SessionEnd::Io)?;
                }
            }
            () = self.node.wanted.changed() => {
                let changes = self.node.wanted.take_changes();
                self.add_todo(&changes);
            }
            due = self.probe.due() => self.on_probe_due(due)?,
            (count, marked) = wait_for_mark(&mut self.marking) => self.on_marked(count, marked),
        }
        Ok(())
    }

    /// Gives an event that is in no log, and notes that the channel gets such.
    fn deliver_ephemeral(&mut self, channel: &Channel, event: &Event) {
        self.node.sink.deliver_ephemeral(channel, event);
        let is_kept = self.node.wanted.durability() != LogMode::Off;
        if is_kept && self.node.sink.ephemeral_note_due(channel) {
            self.known.unmarked.push(channel.clone());
        }
    }

    /// One note at a time, for all channels that wait for one.
    fn mark(&mut self) {
        if self.marking.is_some() || self.mark_rests || self.known.unmarked.is_empty() {
            return;
        }
        let channels = self.known.unmarked.clone();
        let (count, commands) = (channels.len(), self.node.commands.clone());
        self.marking = Some((count, Box::pin(log::note_ephemeral(commands, channels))));
    }

    /// Without the note, a stream that moves to another node may miss plain events without being told.
    fn on_marked(&mut self, count: usize, marked: RedisResult<()>) {
        match marked {
            Ok(()) => drop(self.known.unmarked.drain(..count)),
            Err(error) => {
                tracing::warn!(
                    "it cannot be noted in Redis, under headwater:{{0}}:plain:*, which channels get a plain PUBLISH; trying again: {error}"
                );
                self.mark_rests = true;
            }
        }
    }

    /// Plain events that were published while there was no connection are kept nowhere. Only channels
    /// that had some are told.
    fn announce_lost_ephemeral(&self, channels: &[Channel]) {
        if self.known.epoch.is_none() {
            return;
        }
        for channel in channels.iter().filter(|channel| self.node.sink.has_ephemeral(channel)) {
            self.node.sink.gap(channel, GapReason::BrokerLost);
        }
    }

    // === the probe ===

    fn on_probe_due(&mut self, due: Due) -> Result<(), SessionEnd> {
        match due {
            Due::Send => {
                self.probe.send();
                self.mark_rests = false;
                self.ask_again();
            }
            Due::Sent(Ok(0)) => {
                return Err(SessionEnd::ProbeTimeout("Redis no longer knows this subscriber"));
            }
            Due::Sent(Ok(_)) => {}
            Due::Sent(Err(error)) => {
                // That publishing fails says nothing about this connection.
                if self.node.wanted.status().ready {
                    tracing::warn!("not ready: the probe cannot be published to Redis: {error}");
                }
                self.probe.in_flight = None;
                self.probe.retry_soon();
                self.node.wanted.update_health(|health| health.ready = false);
            }
            Due::Overdue => {
                return Err(SessionEnd::ProbeTimeout("a probe through Redis did not come back"));
            }
        }
        Ok(())
    }

    fn on_probe_back(&mut self, payload: &[u8]) {
        let Some(probe) = &self.probe.in_flight else { return };
        if payload != probe.number.to_string().as_bytes() {
            return;
        }
        let lag = probe.sent_at.elapsed();
        self.probe.in_flight = None;
        self.node.wanted.update_health(|health| {
            health.ready = true;
            health.lag = Some(lag);
        });
    }

    // === where the log is ===

    /// Asks where the log is, and some channels of it.
    fn sync(&mut self, channels: Vec<Channel>) {
        self.sync_count += 1;
        let marker = format!("sync {}", self.sync_count);
        let (answered, answer) = oneshot::channel();
        let mut commands = self.node.commands.clone();
        let (names, to, with) = (channels.clone(), self.probe.channel.clone(), marker.clone());
        tokio::spawn(async move {
            let _ = answered.send(log::sync(&mut commands, &names, &to, &with).await);
        });
        self.syncs.push_back(Sync { marker, channels, answer: Some(answer), state: None });
    }

    /// Asks again for channels whose question failed.
    fn ask_again(&mut self) {
        if self.is_behind || !self.syncs.is_empty() {
            self.catch_up_if_all_confirmed();
            return;
        }
        let unsynced = self.asked.iter().filter(|(_, phase)| **phase == Phase::Subscribed);
        let unsynced: Vec<Channel> = unsynced.map(|(channel, _)| channel.clone()).collect();
        for batch in unsynced.chunks(subscribe::BATCH_CHANNELS) {
            self.sync(batch.to_vec());
        }
    }

    /// On a new connection, when Redis sends everything, what was missed can be read up to a point.
    fn catch_up_if_all_confirmed(&mut self) {
        let all_confirmed = self.todo.is_empty() && self.unconfirmed.is_empty();
        if self.is_behind && all_confirmed && self.syncs.is_empty() && self.work.is_none() {
            self.sync(Vec::new());
        }
    }

    fn on_answer(&mut self, answer: RedisResult<LogState>, at: usize) {
        match answer {
            Ok(state) => self.syncs[at].state = Some(state),
            // The marker was not published, so nothing waits for it.
            Err(error) => {
                let Some(sync) = self.syncs.remove(at) else { return };
                self.on_sync_failed(sync.channels, &error);
            }
        }
    }

    fn on_sync_failed(&mut self, channels: Vec<Channel>, error: &RedisError) {
        let refused = is_refused(error) || self.node.wanted.durability() == LogMode::Off;
        if !refused {
            tracing::debug!("cannot find out where the log is, asking again: {error}");
            self.probe.retry_soon();
            return;
        }
        if self.node.wanted.durability() != LogMode::Off {
            tracing::warn!(
                "events are not kept: the Redis user may not use the keys headwater:{{0}}:* ({error})"
            );
            self.node.wanted.set_durability(LogMode::Off);
        }
        self.is_behind = false;
        self.go_without_log(channels);
    }

    /// Without the log's keys, the node numbers events by itself, in a log of its own.
    fn go_without_log(&mut self, channels: Vec<Channel>) {
        let epoch = *self.known.epoch.get_or_insert_with(Epoch::random);
        self.node.sink.log(epoch, 0);
        let nothing = crate::broker::Baseline { last: 0, ended: false, ephemeral: false };
        let baselines = vec![nothing; channels.len()];
        self.on_synced(channels, &baselines);
    }

    /// The input has come to a marker.
    fn on_marker(&mut self, marker: &[u8]) -> Result<(), SessionEnd> {
        let position = self.syncs.iter().position(|sync| sync.marker.as_bytes() == marker);
        let Some(sync) = position.and_then(|at| self.syncs.remove(at)) else { return Ok(()) };
        let Sync { channels, answer, state, .. } = sync;
        if let Some(state) = state {
            return self.on_done(Done::Answered(channels, Ok(state)));
        }
        if let Some(answer) = answer {
            self.work = Some(Box::pin(async move {
                let answer = answer.await.unwrap_or_else(|_| {
                    Err(RedisError::from((::redis::ErrorKind::Client, "the question was dropped")))
                });
                Done::Answered(channels, answer)
            }));
        }
        Ok(())
    }

    fn on_done(&mut self, done: Done) -> Result<(), SessionEnd> {
        match done {
            Done::Answered(channels, Err(error)) => self.on_sync_failed(channels, &error),
            Done::Answered(channels, Ok(state)) if self.is_behind => {
                debug_assert!(channels.is_empty(), "the question that ends being behind has none");
                self.begin_catch_up(state);
            }
            Done::Answered(channels, Ok(state)) => {
                self.set_log(state.epoch, state.last);
                self.on_synced(channels, &state.baselines);
            }
            Done::CaughtUp(state, missed) => {
                let missed = missed.map_err(SessionEnd::Log)?;
                self.deliver_missed(state.epoch, missed);
                self.end_catch_up(&state);
            }
            Done::Healed { channel, event, place, missed } => {
                let missed = missed.map_err(SessionEnd::Log)?;
                self.deliver_missed(place.position.epoch(), missed);
                self.deliver_healed(&channel, &event, place);
            }
        }
        Ok(())
    }

    fn set_log(&mut self, epoch: Epoch, last: u64) {
        if self.known.epoch.replace(epoch) != Some(epoch) {
            self.known.lasts.clear();
            // Listeners are told that nothing is missing from here on.
            let begun = self.asked.iter().filter(|(_, phase)| **phase == Phase::Synced);
            self.known.lasts.extend(begun.map(|(channel, _)| (channel.clone(), last)));
        }
        self.node.wanted.set_epoch(epoch);
        self.node.sink.log(epoch, last);
    }
}

/// Waits for work that is there.
async fn wait_for_work(work: &mut Option<Pin<Box<dyn Future<Output = Done> + Send>>>) -> Done {
    match work {
        Some(running) => {
            let done = running.await;
            *work = None;
            done
        }
        None => std::future::pending().await,
    }
}

/// Waits for a note that is on its way.
async fn wait_for_mark(marking: &mut Option<(usize, Marking)>) -> (usize, RedisResult<()>) {
    match marking {
        Some((count, running)) => {
            let (count, marked) = (*count, running.await);
            *marking = None;
            (count, marked)
        }
        None => std::future::pending().await,
    }
}

/// Waits for the first answer that is not there yet.
async fn next_answer(syncs: &mut VecDeque<Sync>) -> (RedisResult<LogState>, usize) {
    for (at, sync) in syncs.iter_mut().enumerate() {
        if let Some(answer) = &mut sync.answer {
            let answered = answer.await.unwrap_or_else(|_| {
                Err(RedisError::from((::redis::ErrorKind::Client, "the question was dropped")))
            });
            sync.answer = None;
            return (answered, at);
        }
    }
    std::future::pending().await
}

impl fmt::Display for SessionEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("Redis closed it"),
            Self::Io(error) => write!(f, "{error}"),
            Self::Protocol(error) => write!(f, "{error}"),
            Self::ProbeTimeout(why) => f.write_str(why),
            Self::Log(error) => write!(f, "missed events cannot be read: {error}"),
        }
    }
}
