//! One subscriber connection, from HELLO to its loss. Look here for the session's loop, and for how
//! the starting point of a channel is determined.
//!
//! A channel is delivered to the hub from a known point of the log on. When Redis has confirmed a
//! batch of channels, the node queries, in one transaction, the position of the log and the
//! baselines of these channels, and publishes a marker to itself. When the marker arrives,
//! everything published before has arrived too: that is the point. If the answer to the query has
//! not arrived yet, or missing events must be read first, the session stops reading the connection
//! until then; Redis buffers what it sends meanwhile.

mod channels;
mod receive;
mod state;

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;

use bytes::BytesMut;
use headwater_core::broker::{Baseline, Part};
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
use state::{BaselineQuery, NoteFuture, Phase, TaskResult};
pub(crate) use state::{Session, SessionEnd};

impl Session<'_> {
    /// Serves until the connection is lost.
    pub(crate) async fn run(mut self) -> SessionEnd {
        self.subscribe_node_channels();
        let all = self.node.wanted.begin();
        // Forget channels that were removed while there was no connection, even if they were added
        // again.
        let wanted = &self.node.wanted;
        self.known.last_offsets.retain(|channel, _| wanted.had_baseline(channel));
        self.known.ephemeral.retain(|channel| wanted.had_baseline(channel));
        self.report_lost_ephemeral(&all);
        self.enqueue(&all);
        loop {
            self.send_pending();
            self.note_ephemeral();
            if let Err(lost) = self.turn().await {
                return lost;
            }
        }
    }

    async fn turn(&mut self) -> Result<(), SessionEnd> {
        tokio::select! {
            done = run_task(&mut self.task) => {
                self.on_task_result(done)?;
                self.take_input()?;
            }
            (answer, at) = next_answer(&mut self.queries) => self.on_answer(answer, at),
            read = self.reader.read_buf(&mut self.input), if self.task.is_none() => {
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
                self.enqueue(&changes);
            }
            due = self.probe.due() => self.on_probe_due(due)?,
            (count, noted) = wait_for_note(&mut self.note) => self.on_noted(count, noted),
        }
        Ok(())
    }

    /// Delivers an ephemeral event, and records that the channel receives such events.
    fn deliver_ephemeral(&mut self, channel: &Channel, event: &Event) {
        self.node.sink.ephemeral(channel, event);
        self.known.ephemeral.insert(channel);
        let is_retained = self.node.wanted.log_mode() != LogMode::Denied;
        if is_retained && self.known.ephemeral.note_due(channel, now_ms()) {
            self.known.unnoted.push(channel.clone());
        }
    }

    /// Sends a note for all channels that wait for one, unless one is in flight.
    fn note_ephemeral(&mut self) {
        if self.note.is_some() || self.note_paused || self.known.unnoted.is_empty() {
            return;
        }
        let channels = self.known.unnoted.clone();
        let (count, commands) = (channels.len(), self.node.commands.clone());
        self.note = Some((count, Box::pin(history::note_ephemeral(commands, channels))));
    }

    /// A failed note is retried: without it, a stream that moves to another node may miss ephemeral
    /// events without a gap event.
    fn on_noted(&mut self, count: usize, noted: RedisResult<()>) {
        match noted {
            Ok(()) => drop(self.known.unnoted.drain(..count)),
            Err(error) => {
                tracing::warn!(
                    "cannot note in Redis, under headwater:{{0}}:plain:*, which channels receive a \
                     plain PUBLISH, retrying: {error}"
                );
                self.note_paused = true;
            }
        }
    }

    /// Reports a gap for each channel that is known to receive ephemeral events: those published
    /// while there was no connection are not retained anywhere.
    fn report_lost_ephemeral(&self, channels: &[Channel]) {
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
                self.note_paused = false;
                self.query_again();
            }
            Due::Sent(Ok(0)) => {
                return Err(SessionEnd::ProbeTimeout("Redis no longer knows this subscriber"));
            }
            Due::Sent(Ok(_)) => {}
            Due::Sent(Err(error)) => {
                // A failed PUBLISH concerns the command connection, not this one.
                if self.node.wanted.status().is_ready() {
                    tracing::warn!("not ready: the probe cannot be published to Redis: {error}");
                }
                self.probe.in_flight = None;
                self.probe.retry_soon();
                let why = Part::failed(format!("the probe cannot be published to Redis: {error}"));
                self.node.wanted.update_status(|status| status.delivers = why);
            }
            Due::Overdue => {
                return Err(SessionEnd::ProbeTimeout(
                    "a probe through Redis did not return in time",
                ));
            }
        }
        Ok(())
    }

    fn on_probe_returned(&mut self, payload: &[u8]) {
        let Some(probe) = &self.probe.in_flight else { return };
        if payload != probe.number.to_string().as_bytes() {
            return;
        }
        let lag = probe.sent_at.elapsed();
        self.probe.in_flight = None;
        self.node.wanted.update_status(|status| {
            status.delivers = Part::ok();
            status.lag = Some(lag);
        });
    }

    // === the position of the log ===

    /// Queries the position of the log and the baselines of channels.
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

    /// Repeats the query for channels whose query failed.
    fn query_again(&mut self) {
        if self.needs_catch_up || !self.queries.is_empty() {
            self.catch_up_if_all_confirmed();
            return;
        }
        let unsynced = self.subscriptions.iter().filter(|(_, phase)| **phase == Phase::Subscribed);
        let unsynced: Vec<Channel> = unsynced.map(|(channel, _)| channel.clone()).collect();
        for batch in unsynced.chunks(BATCH_CHANNELS) {
            self.query_baseline(batch.to_vec());
        }
    }

    /// Starts catching up on a new connection, once Redis has confirmed all channels: then missed
    /// events need to be read only up to a point.
    fn catch_up_if_all_confirmed(&mut self) {
        let all_confirmed = self.pending_batches.is_empty() && self.unconfirmed.is_empty();
        if self.needs_catch_up && all_confirmed && self.queries.is_empty() && self.task.is_none() {
            self.query_baseline(Vec::new());
        }
    }

    fn on_answer(&mut self, answer: RedisResult<LogState>, at: usize) {
        match answer {
            Ok(state) => self.queries[at].state = Some(state),
            // The marker was not published, so the input cannot reach it.
            Err(error) => {
                let Some(query) = self.queries.remove(at) else { return };
                self.on_query_failed(query.channels, &error);
            }
        }
    }

    fn on_query_failed(&mut self, channels: Vec<Channel>, error: &RedisError) {
        let denied = is_denied(error) || self.node.wanted.log_mode() == LogMode::Denied;
        if !denied {
            tracing::debug!("cannot read the position of the log, retrying: {error}");
            self.probe.retry_soon();
            return;
        }
        if self.node.wanted.log_mode() != LogMode::Denied {
            tracing::warn!("retention disabled: Redis denies the keys headwater:{{0}}:* ({error})");
            self.node.wanted.set_log_mode(LogMode::Denied);
        }
        self.needs_catch_up = false;
        self.go_without_log(channels);
    }

    /// Starts channels without a log in Redis: the node numbers events itself, under a random
    /// epoch.
    fn go_without_log(&mut self, channels: Vec<Channel>) {
        let epoch = *self.known.epoch.get_or_insert_with(Epoch::random);
        self.node.sink.log(epoch, 0);
        let baselines = vec![Baseline::new(0); channels.len()];
        self.on_baselines(channels, &baselines);
    }

    /// Handles a marker in the input.
    fn on_marker(&mut self, marker: &[u8]) -> Result<(), SessionEnd> {
        let position = self.queries.iter().position(|query| query.marker.as_bytes() == marker);
        let Some(query) = position.and_then(|at| self.queries.remove(at)) else { return Ok(()) };
        let BaselineQuery { channels, answer, state, .. } = query;
        if let Some(state) = state {
            return self.on_task_result(TaskResult::Answered(channels, Ok(state)));
        }
        if let Some(answer) = answer {
            self.task = Some(Box::pin(async move {
                let answer = answer.await.unwrap_or_else(|_| {
                    Err(RedisError::from((redis::ErrorKind::Client, "the query was dropped")))
                });
                TaskResult::Answered(channels, answer)
            }));
        }
        Ok(())
    }

    fn on_task_result(&mut self, done: TaskResult) -> Result<(), SessionEnd> {
        match done {
            TaskResult::Answered(channels, Err(error)) => self.on_query_failed(channels, &error),
            TaskResult::Answered(channels, Ok(state)) if self.needs_catch_up => {
                debug_assert!(channels.is_empty(), "the query for catching up has no channels");
                self.start_catch_up(state);
            }
            TaskResult::Answered(channels, Ok(state)) => {
                self.set_log(state.epoch, state.last);
                self.on_baselines(channels, &state.baselines);
            }
            TaskResult::CaughtUp(state, missed) => {
                let missed = missed.map_err(SessionEnd::Log)?;
                self.deliver_missed(state.epoch, missed);
                self.finish_catch_up(&state);
            }
            TaskResult::Healed { channel, event, headers, missed } => {
                let missed = missed.map_err(SessionEnd::Log)?;
                self.deliver_missed(headers.position.epoch(), missed);
                self.deliver_after_hole(&channel, &event, headers);
            }
        }
        Ok(())
    }

    fn set_log(&mut self, epoch: Epoch, last: u64) {
        if self.known.epoch.replace(epoch) != Some(epoch) {
            self.known.last_offsets.clear();
            // After the gap event of the reset, no event may be missing from here on.
            let synced = self.subscriptions.iter().filter(|(_, phase)| **phase == Phase::Synced);
            self.known.last_offsets.extend(synced.map(|(channel, _)| (channel.clone(), last)));
        }
        self.node.wanted.set_epoch(epoch);
        self.node.sink.log(epoch, last);
    }
}

/// Runs the task, if there is one.
async fn run_task(
    work: &mut Option<Pin<Box<dyn Future<Output = TaskResult> + Send>>>,
) -> TaskResult {
    match work {
        Some(running) => {
            let done = running.await;
            *work = None;
            done
        }
        None => std::future::pending().await,
    }
}

/// Waits for the note in flight, if there is one.
async fn wait_for_note(note: &mut Option<(usize, NoteFuture)>) -> (usize, RedisResult<()>) {
    match note {
        Some((count, running)) => {
            let (count, noted) = (*count, running.await);
            *note = None;
            (count, noted)
        }
        None => std::future::pending().await,
    }
}

/// Waits for the first outstanding answer.
async fn next_answer(queries: &mut VecDeque<BaselineQuery>) -> (RedisResult<LogState>, usize) {
    for (at, query) in queries.iter_mut().enumerate() {
        if let Some(answer) = &mut query.answer {
            let answered = answer.await.unwrap_or_else(|_| {
                Err(RedisError::from((redis::ErrorKind::Client, "the query was dropped")))
            });
            query.answer = None;
            return (answered, at);
        }
    }
    std::future::pending().await
}
