//! One subscriber connection, from HELLO to its loss. Look here for the session's loop, and for how
//! the starting point of a channel is determined.
//!
//! A channel is delivered to the hub from a known point of the log on. When Redis has confirmed a
//! batch of channels, the node queries, in one transaction, the position of the log and the
//! baselines of these channels, and publishes a marker to itself. When the marker and the answer
//! have arrived, everything published before has arrived too: that is the point. Until then the
//! session passes no event of these channels on, and remembers their last one: it is in the log,
//! and the baseline covers it.
//!
//! After a lost connection, the channels that the hub knows are restored together, since a stream
//! may have several of them: see `restore`. Channels that are added meanwhile start after that.

mod channels;
mod queries;
mod query;
mod receive;
mod restore;
mod state;

use bytes::BytesMut;
use headwater_core::broker::Part;
use headwater_core::clock::now_ms;
use headwater_core::log::Position;
use headwater_core::{Channel, Event};
use redis::RedisResult;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use crate::history;
use crate::library::LogMode;
use crate::limits::{CONFIRM_TIMEOUT, NOTES_MAX, REDIS_RESPONSE_TIMEOUT, SESSION_TICK};
use state::NoteFuture;
pub(crate) use state::{Session, SessionEnd};

impl Session<'_> {
    /// Serves until the connection is lost.
    pub(crate) async fn run(mut self) -> SessionEnd {
        self.subscribe_node_channels();
        let all = self.node.desired.begin();
        let desired = &self.node.desired;
        self.carried.ephemeral.retain(|channel| desired.had_baseline(channel));
        self.begin_restore(&all);
        self.enqueue(&all);
        loop {
            self.send_pending();
            self.note_ephemeral();
            self.query_for_waiters();
            if let Err(lost) = self.turn().await {
                return lost;
            }
        }
    }

    async fn turn(&mut self) -> Result<(), SessionEnd> {
        tokio::select! {
            read = self.reader.read_buf(&mut self.input) => {
                if read.map_err(SessionEnd::Io)? == 0 {
                    return Err(SessionEnd::Closed);
                }
                self.last_input = Instant::now();
                self.take_input()?;
            }
            Some((number, answer)) = self.answers.recv() => self.on_answer(number, answer)?,
            written = self.writer.write_buf(&mut self.output), if !self.output.is_empty() => {
                written.map_err(SessionEnd::Io)?;
                if self.output.is_empty() {
                    self.output = BytesMut::new();
                    self.writer.flush().await.map_err(SessionEnd::Io)?;
                }
            }
            () = self.node.desired.changed() => {
                if self.node.desired.must_restart() {
                    return Err(SessionEnd::LogMode);
                }
                let changes = self.node.desired.take_changes();
                self.enqueue(&changes);
            }
            _ = self.ticks.tick() => self.on_tick()?,
            (channels, noted) = wait_for_note(&mut self.note) => self.on_noted(&channels, noted),
        }
        Ok(())
    }

    /// Looks for what must be repeated, and for a connection that is dead.
    fn on_tick(&mut self) -> Result<(), SessionEnd> {
        self.check_alive()?;
        self.retry_refused();
        self.note_paused = false;
        self.waiters_paused = false;
        self.probe_if_due();
        self.query_again();
        Ok(())
    }

    /// A connection is dead if a marker or a confirmation is due and nothing arrives, and if it
    /// carries probes but not what was sent over it.
    fn check_alive(&mut self) -> Result<(), SessionEnd> {
        let was_suspended = self.ticked_at.elapsed() > 2 * SESSION_TICK;
        self.ticked_at = Instant::now();
        if was_suspended {
            // The bytes may have arrived meanwhile: read first.
            return Ok(());
        }
        let silent_for = self.last_input.elapsed();
        let marker_due = self.queries.due_since();
        let marker_due = marker_due.filter(|at| at.elapsed() >= REDIS_RESPONSE_TIMEOUT);
        let unconfirmed = self.unconfirmed.front().map(|command| command.sent_at);
        // Redis may be busy, so that it has not received the command yet.
        let is_unconfirmed = unconfirmed.is_some_and(|at| at.elapsed() >= CONFIRM_TIMEOUT);
        if marker_due.is_some() && silent_for >= REDIS_RESPONSE_TIMEOUT
            || is_unconfirmed && silent_for >= CONFIRM_TIMEOUT
        {
            return Err(SessionEnd::Silent);
        }
        if unconfirmed.is_some_and(|at| self.returned_probe_at > Some(at + REDIS_RESPONSE_TIMEOUT))
        {
            return Err(SessionEnd::Unconfirmed);
        }
        if marker_due.is_some() {
            let late = Part::failed(
                "events from Redis are late: the connection receives them more slowly than they \
                 are published",
            );
            self.node.desired.update_status(|status| status.delivers = late);
        }
        Ok(())
    }

    /// Delivers an ephemeral event, and records that the channel receives such events.
    fn deliver_ephemeral(&mut self, channel: &Channel, event: &Event) {
        self.node.sink.ephemeral(channel, event);
        let is_retained = self.node.desired.log_mode() != LogMode::Denied;
        if is_retained && self.carried.ephemeral.note_due(channel, now_ms()) {
            self.carried.unnoted.insert(channel.clone());
        }
    }

    /// Sends a note for all channels that wait for one, unless one is in flight. In a new session,
    /// and in a new epoch, Redis may have lost the notes of all.
    fn note_ephemeral(&mut self) {
        let epoch = self.node.sink.heard().map(Position::epoch);
        if self.noted_in != epoch {
            self.noted_in = epoch;
            let all = self.carried.ephemeral.note_again(now_ms());
            self.carried.unnoted.extend(all);
        }
        if self.note.is_some() || self.note_paused || self.carried.unnoted.is_empty() {
            return;
        }
        let noted = self.carried.unnoted.iter().take(NOTES_MAX).cloned();
        let (channels, commands) = (noted.collect::<Vec<_>>(), self.node.commands.clone());
        let note = history::note_ephemeral(commands, channels.clone());
        self.note = Some((channels, Box::pin(note)));
    }

    /// A failed note is retried: without it, a stream that moves to another node may miss ephemeral
    /// events without a gap event.
    fn on_noted(&mut self, channels: &[Channel], noted: RedisResult<()>) {
        // A channel that the hub no longer wants is noted by the nodes that do.
        let wanted = |channel: &Channel| self.node.desired.had_baseline(channel);
        for channel in channels.iter().filter(|channel| noted.is_ok() || !wanted(channel)) {
            self.carried.unnoted.remove(channel);
        }
        match noted {
            Ok(()) => self.note_failed = false,
            Err(error) => {
                if !self.note_failed {
                    tracing::warn!(
                        "cannot note in Redis, under headwater:{{0}}:plain:*, which channels \
                         receive a plain PUBLISH, retrying: {error}"
                    );
                }
                (self.note_paused, self.note_failed) = (true, true);
            }
        }
    }
}

/// Waits for the note in flight, if there is one.
async fn wait_for_note(
    note: &mut Option<(Vec<Channel>, NoteFuture)>,
) -> (Vec<Channel>, RedisResult<()>) {
    match note {
        Some((channels, running)) => {
            let noted = running.await;
            let channels = std::mem::take(channels);
            *note = None;
            (channels, noted)
        }
        None => std::future::pending().await,
    }
}
