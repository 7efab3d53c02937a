//! One subscriber connection, from HELLO to its loss. Look here for batching, confirmations, and the way
//! of a message from Redis to the hub.
//!
//! A channel is given to the hub from a known point of the log on. When Redis has confirmed a batch of
//! channels, the node asks, in one transaction, where the log and these channels are, and publishes a
//! marker to itself. When the marker comes in, everything from before has come in too: that is the
//! point. If Redis' answer is not there yet, or missing events must be read first, the input rests
//! until it is: Redis keeps what comes meanwhile.

mod channels;
mod receive;
mod state;

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;

use bytes::BytesMut;
use headwater_core::broker::Baseline;
use headwater_core::clock::now_ms;
use headwater_core::gap::GapReason;
use headwater_core::log::Epoch;
use headwater_core::{Channel, Event};
use redis::{RedisError, RedisResult};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

use crate::errors::is_denied;
use crate::history::{self, LogState};
use crate::library::LogMode;
use crate::probe::Due;
use channels::BATCH_CHANNELS;
use state::{BaselineQuery, Done, Noting, Phase};
pub(crate) use state::{Session, SessionEnd};

impl Session<'_> {
    /// Serves until the connection is lost.
    pub(crate) async fn run(mut self) -> SessionEnd {
        self.subscribe_own();
        let all = self.node.wanted.begin();
        // What left while there was no connection is forgotten, also if it came back.
        let wanted = &self.node.wanted;
        self.known.lasts.retain(|channel, _| wanted.had_baseline(channel));
        self.known.ephemeral.retain(|channel| wanted.had_baseline(channel));
        self.announce_lost_ephemeral(&all);
        self.add_todo(&all);
        loop {
            self.ask();
            self.note_ephemeral();
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
            (answer, at) = next_answer(&mut self.queries) => self.on_answer(answer, at),
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
            (count, noted) = wait_for_note(&mut self.noting) => self.on_noted(count, noted),
        }
        Ok(())
    }

    /// Gives an event that is in no log, and notes that the channel gets such.
    fn deliver_ephemeral(&mut self, channel: &Channel, event: &Event) {
        self.node.sink.ephemeral(channel, event);
        self.known.ephemeral.insert(channel);
        let is_retained = self.node.wanted.log_mode() != LogMode::Denied;
        if is_retained && self.known.ephemeral.note_due(channel, now_ms()) {
            self.known.unnoted.push(channel.clone());
        }
    }

    /// One note at a time, for all channels that wait for one.
    fn note_ephemeral(&mut self) {
        if self.noting.is_some() || self.note_rests || self.known.unnoted.is_empty() {
            return;
        }
        let channels = self.known.unnoted.clone();
        let (count, commands) = (channels.len(), self.node.commands.clone());
        self.noting = Some((count, Box::pin(history::note_ephemeral(commands, channels))));
    }

    /// Without the note, a stream that moves to another node may miss plain events without being told.
    fn on_noted(&mut self, count: usize, noted: RedisResult<()>) {
        match noted {
            Ok(()) => drop(self.known.unnoted.drain(..count)),
            Err(error) => {
                tracing::warn!(
                    "it cannot be noted in Redis, under headwater:{{0}}:plain:*, which channels get a plain PUBLISH; trying again: {error}"
                );
                self.note_rests = true;
            }
        }
    }

    /// Plain events that were published while there was no connection are kept nowhere. Only channels
    /// that had some are told.
    fn announce_lost_ephemeral(&self, channels: &[Channel]) {
        if self.known.epoch.is_none() {
            return;
        }
        for channel in channels.iter().filter(|channel| self.known.ephemeral.contains(channel)) {
            self.node.sink.gap(channel, GapReason::BrokerLost);
        }
    }

    // === the probe ===

    fn on_probe_due(&mut self, due: Due) -> Result<(), SessionEnd> {
        match due {
            Due::Send => {
                self.probe.send();
                self.note_rests = false;
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
                self.node.wanted.update_status(|status| status.ready = false);
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
        self.node.wanted.update_status(|status| {
            status.ready = true;
            status.lag = Some(lag);
        });
    }

    // === where the log is ===

    /// Asks where the log is, and some channels of it.
    fn query_baseline(&mut self, channels: Vec<Channel>) {
        self.query_count += 1;
        let marker = format!("sync {}", self.query_count);
        let (answered, answer) = oneshot::channel();
        let mut commands = self.node.commands.clone();
        let (names, to, with) = (channels.clone(), self.probe.channel.clone(), marker.clone());
        tokio::spawn(async move {
            let _ = answered.send(history::query_baseline(&mut commands, &names, &to, &with).await);
        });
        self.queries.push_back(BaselineQuery {
            marker,
            channels,
            answer: Some(answer),
            state: None,
        });
    }

    /// Asks again for channels whose question failed.
    fn ask_again(&mut self) {
        if self.is_behind || !self.queries.is_empty() {
            self.catch_up_if_all_confirmed();
            return;
        }
        let unsynced = self.asked.iter().filter(|(_, phase)| **phase == Phase::Subscribed);
        let unsynced: Vec<Channel> = unsynced.map(|(channel, _)| channel.clone()).collect();
        for batch in unsynced.chunks(BATCH_CHANNELS) {
            self.query_baseline(batch.to_vec());
        }
    }

    /// On a new connection, when Redis sends everything, what was missed can be read up to a point.
    fn catch_up_if_all_confirmed(&mut self) {
        let all_confirmed = self.todo.is_empty() && self.unconfirmed.is_empty();
        if self.is_behind && all_confirmed && self.queries.is_empty() && self.work.is_none() {
            self.query_baseline(Vec::new());
        }
    }

    fn on_answer(&mut self, answer: RedisResult<LogState>, at: usize) {
        match answer {
            Ok(state) => self.queries[at].state = Some(state),
            // The marker was not published, so nothing waits for it.
            Err(error) => {
                let Some(query) = self.queries.remove(at) else { return };
                self.on_query_failed(query.channels, &error);
            }
        }
    }

    fn on_query_failed(&mut self, channels: Vec<Channel>, error: &RedisError) {
        let denied = is_denied(error) || self.node.wanted.log_mode() == LogMode::Denied;
        if !denied {
            tracing::debug!("cannot find out where the log is, asking again: {error}");
            self.probe.retry_soon();
            return;
        }
        if self.node.wanted.log_mode() != LogMode::Denied {
            tracing::warn!(
                "events are not kept: the Redis user may not use the keys headwater:{{0}}:* ({error})"
            );
            self.node.wanted.set_log_mode(LogMode::Denied);
        }
        self.is_behind = false;
        self.go_without_log(channels);
    }

    /// Without the log's keys, the node numbers events by itself, in a log of its own.
    fn go_without_log(&mut self, channels: Vec<Channel>) {
        let epoch = *self.known.epoch.get_or_insert_with(Epoch::random);
        self.node.sink.log(epoch, 0);
        let nothing = Baseline::new(0);
        let baselines = vec![nothing; channels.len()];
        self.on_baselines(channels, &baselines);
    }

    /// The input has come to a marker.
    fn on_marker(&mut self, marker: &[u8]) -> Result<(), SessionEnd> {
        let position = self.queries.iter().position(|query| query.marker.as_bytes() == marker);
        let Some(query) = position.and_then(|at| self.queries.remove(at)) else { return Ok(()) };
        let BaselineQuery { channels, answer, state, .. } = query;
        if let Some(state) = state {
            return self.on_done(Done::Answered(channels, Ok(state)));
        }
        if let Some(answer) = answer {
            self.work = Some(Box::pin(async move {
                let answer = answer.await.unwrap_or_else(|_| {
                    Err(RedisError::from((redis::ErrorKind::Client, "the question was dropped")))
                });
                Done::Answered(channels, answer)
            }));
        }
        Ok(())
    }

    fn on_done(&mut self, done: Done) -> Result<(), SessionEnd> {
        match done {
            Done::Answered(channels, Err(error)) => self.on_query_failed(channels, &error),
            Done::Answered(channels, Ok(state)) if self.is_behind => {
                debug_assert!(channels.is_empty(), "the question that ends being behind has none");
                self.begin_catch_up(state);
            }
            Done::Answered(channels, Ok(state)) => {
                self.set_log(state.epoch, state.last);
                self.on_baselines(channels, &state.baselines);
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
async fn wait_for_note(noting: &mut Option<(usize, Noting)>) -> (usize, RedisResult<()>) {
    match noting {
        Some((count, running)) => {
            let (count, noted) = (*count, running.await);
            *noting = None;
            (count, noted)
        }
        None => std::future::pending().await,
    }
}

/// Waits for the first answer that is not there yet.
async fn next_answer(queries: &mut VecDeque<BaselineQuery>) -> (RedisResult<LogState>, usize) {
    for (at, query) in queries.iter_mut().enumerate() {
        if let Some(answer) = &mut query.answer {
            let answered = answer.await.unwrap_or_else(|_| {
                Err(RedisError::from((redis::ErrorKind::Client, "the question was dropped")))
            });
            query.answer = None;
            return (answered, at);
        }
    }
    std::future::pending().await
}
