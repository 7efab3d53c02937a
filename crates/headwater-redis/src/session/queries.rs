//! Queries for the position of the log: each has an answer, over the connection for commands, and a
//! marker, over the subscriber connection. Look here for what is asked, and when it is complete.

use headwater_core::Channel;
use headwater_core::broker::Part;
use headwater_core::log::{Epoch, Position};
use redis::{RedisError, RedisResult};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::channels::BATCH_CHANNELS;
use super::query::{Answer, Purpose, Query};
use super::state::{Phase, Session, SessionEnd};
use crate::errors::{self, is_denied};
use crate::history::{self, LogState};
use crate::library::LogMode;
use crate::limits::{PROBE_INTERVAL, PROBE_RETRY};

impl Session<'_> {
    pub(super) fn is_without_log(&self) -> bool {
        self.node.desired.log_mode() == LogMode::Denied
    }

    /// Sends a query.
    pub(super) fn query(&mut self, purpose: Purpose) {
        self.queries.count += 1;
        let number = self.queries.count;
        let (answered, to) = (self.queries.answered.clone(), self.marker_channel.clone());
        let mut commands = self.node.commands.clone();
        let marker = number.to_string();
        if self.is_without_log() {
            tokio::spawn(async move {
                let mut publish = redis::cmd("PUBLISH");
                let receivers = publish.arg(to).arg(marker).query_async(&mut commands).await;
                // The session may have ended.
                let _ = answered.send((number, receivers.map(Answer::Published)));
            });
        } else {
            let channels = purpose.channels().to_vec();
            let heard = self.node.heard();
            tokio::spawn(async move {
                let state =
                    history::query_baseline(&mut commands, &channels, &to, &marker, heard.as_ref())
                        .await;
                let _ = answered.send((number, state.map(Answer::State)));
            });
        }
        let query = Query {
            purpose,
            sent_at: Instant::now(),
            epoch: self.node.sink.heard().map(Position::epoch),
            answer: None,
            answered_at: None,
            is_marked: false,
        };
        self.queries.open.insert(number, query);
    }

    /// Queries the baselines of channels that Redis has confirmed.
    pub(super) fn query_start(&mut self, channels: &[Channel]) {
        for batch in channels.chunks(BATCH_CHANNELS) {
            self.query(Purpose::Start(batch.to_vec()));
        }
    }

    /// Repeats queries that failed.
    pub(super) fn query_again(&mut self) {
        if self.restore.is_some() {
            return self.restore_if_confirmed();
        }
        if self.queries.is_starting() {
            return;
        }
        let unsynced = self
            .subscriptions
            .iter()
            .filter(|(_, phase)| matches!(phase, Phase::Subscribed | Phase::Renewed));
        let unsynced: Vec<Channel> = unsynced.map(|(channel, _)| channel.clone()).collect();
        self.start_channels(unsynced);
    }

    /// Sends a probe, if the last one was sent long enough ago and has returned.
    pub(super) fn probe_if_due(&mut self) {
        let is_ready = self.node.desired.status().delivers.is_ok();
        let interval = if is_ready { PROBE_INTERVAL } else { PROBE_RETRY };
        let is_due = self.probed_at.is_some_and(|at| at.elapsed() >= interval);
        if is_due && !self.queries.is_probing() {
            self.probe(Vec::new());
        }
    }

    /// Sends a probe for those that wait until this node has heard everything that the log has.
    pub(super) fn query_for_waiters(&mut self) {
        let is_possible = self.restore.is_none() && self.probed_at.is_some();
        if !is_possible || self.waiters_paused || self.queries.is_probing() {
            return;
        }
        let waiters = self.node.desired.take_behind();
        if !waiters.is_empty() {
            self.probe(waiters);
        }
    }

    pub(super) fn probe(&mut self, waiters: Vec<oneshot::Sender<()>>) {
        self.probed_at = Some(Instant::now());
        self.query(Purpose::Probe(waiters));
    }

    pub(super) fn on_answer(
        &mut self,
        number: u64,
        answer: RedisResult<Answer>,
    ) -> Result<(), SessionEnd> {
        let Some(query) = self.queries.open.get_mut(&number) else { return Ok(()) };
        match answer {
            Ok(answer) => {
                let receivers = match &answer {
                    Answer::State(state) => state.receivers,
                    Answer::Published(receivers) => *receivers,
                };
                // Confirmed by Redis earlier in this session, so it has forgotten.
                if receivers == 0 && self.probed_at.is_some() {
                    return Err(SessionEnd::Unsubscribed);
                }
                query.answer = Some(answer);
                query.answered_at = Some(Instant::now());
                self.complete_if_marked(number);
            }
            // The marker was not published, so it will not arrive.
            Err(error) => {
                if let Some(query) = self.queries.open.remove(&number) {
                    self.on_query_failed(query.purpose, &error);
                }
            }
        }
        Ok(())
    }

    /// Handles a marker in the input.
    pub(super) fn on_marker(&mut self, marker: &[u8]) {
        let number = std::str::from_utf8(marker).ok().and_then(|marker| marker.parse().ok());
        let Some(number) = number else { return };
        if let Some(query) = self.queries.open.get_mut(&number) {
            query.is_marked = true;
            self.complete_if_marked(number);
        }
    }

    fn complete_if_marked(&mut self, number: u64) {
        let is_complete = |query: &Query| query.is_marked && query.answer.is_some();
        if !self.queries.open.get(&number).is_some_and(is_complete) {
            return;
        }
        let Some(query) = self.queries.open.remove(&number) else { return };
        let Query { purpose, sent_at, epoch, answer: Some(answer), .. } = query else { return };
        match answer {
            Answer::State(state) if self.is_outdated(epoch, state.epoch) => self.retry(purpose),
            Answer::State(state) if !self.enter_epoch(state.epoch) => self.retry(purpose),
            Answer::State(state) => self.complete(purpose, sent_at, state),
            Answer::Published(_) => self.complete_without_log(purpose, sent_at),
        }
    }

    /// Whether events of another epoch have arrived since a query was sent, so that its answer may
    /// be of the log before.
    fn is_outdated(&self, sent_in: Option<Epoch>, answer: Epoch) -> bool {
        let now = self.node.sink.heard().map(Position::epoch);
        now != sent_in && now != Some(answer)
    }

    /// Whether an epoch is not one that has ended. If it is, Redis was restored from an older copy,
    /// and the reconciler begins a new one.
    pub(super) fn enter_epoch(&mut self, epoch: Epoch) -> bool {
        if self.epoch != Some(epoch) {
            self.epoch = Some(epoch).filter(|epoch| self.node.desired.enter_epoch(*epoch));
            if self.epoch.is_some() {
                self.renew();
            }
        }
        self.epoch.is_some()
    }

    /// Queries the baselines of all channels again: the hub knows no ends of a new epoch, and the
    /// log may still have them.
    fn renew(&mut self) {
        let phases = self.subscriptions.iter_mut();
        let synced = phases.filter(|(_, phase)| **phase == Phase::Synced);
        let synced = synced.map(|(channel, phase)| {
            *phase = Phase::Renewed;
            channel.clone()
        });
        let channels: Vec<Channel> = synced.collect();
        self.query_start(&channels);
    }

    fn complete(&mut self, purpose: Purpose, sent_at: Instant, state: LogState) {
        match purpose {
            Purpose::Start(channels) => self.on_baselines(channels, &state),
            Purpose::Restore(number, channels) => self.on_restore_answer(number, channels, state),
            Purpose::Probe(waiters) => {
                self.on_probe_returned(sent_at);
                if self.restore.is_some() {
                    // Missed events are not reported yet.
                    self.node.desired.return_behind(waiters);
                    return;
                }
                self.announce_epoch(state.epoch, state.begun, state.last);
                self.node.sink.log(state.epoch, state.last);
                notify(waiters);
            }
        }
    }

    fn complete_without_log(&mut self, purpose: Purpose, sent_at: Instant) {
        match purpose {
            Purpose::Start(channels) => self.start_channels(channels),
            Purpose::Restore(..) => self.restore_if_confirmed(),
            Purpose::Probe(waiters) => {
                self.on_probe_returned(sent_at);
                notify(waiters);
            }
        }
    }

    fn on_probe_returned(&mut self, sent_at: Instant) {
        self.returned_probe_at = Some(sent_at);
        let lag = sent_at.elapsed();
        let delivers = match self.restore {
            None => Part::ok(),
            Some(_) => Part::failed("connected again, but missed events are not known yet"),
        };
        self.node.desired.update_status(|status| {
            status.delivers = delivers;
            status.lag = Some(lag);
        });
    }

    fn on_query_failed(&mut self, purpose: Purpose, error: &RedisError) {
        tracing::debug!("cannot read the position of the log, retrying: {error}");
        if matches!(purpose, Purpose::Probe(_)) {
            let part = errors::part(error);
            if self.node.desired.status().delivers.is_ok() {
                tracing::warn!("not ready: events may not arrive: {part}");
            }
            self.node.desired.update_status(|status| status.delivers = part);
        }
        if is_denied(error) {
            self.node.deny_log();
        }
        self.retry(purpose);
    }

    fn retry(&mut self, purpose: Purpose) {
        match purpose {
            // The next tick asks again.
            Purpose::Start(_) => {}
            Purpose::Restore(number, _) => self.on_restore_failed(number),
            Purpose::Probe(waiters) => {
                self.waiters_paused = true;
                self.node.desired.return_behind(waiters);
            }
        }
    }
}

fn notify(waiters: Vec<oneshot::Sender<()>>) {
    for waiter in waiters {
        // The receiver may be gone.
        let _ = waiter.send(());
    }
}
