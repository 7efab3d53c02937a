//! Restores the channels that the hub had before the connection was lost. Look here for how missed
//! events are noticed.
//!
//! A stream may have several channels, and its client's ID covers all of them. So no event of the
//! log is passed on until it is known of every channel whether it was missed: first Redis confirms
//! all of them, then their baselines are queried, in batches. Events that arrive meanwhile are in
//! the log. When the last query is complete, the hub gets the baselines, and then the position of
//! the log: its streams replay what was missed.
//!
//! The baseline of a channel is of the moment of its own query. An event between that moment and
//! the last query's has arrived over this connection after the marker of the channel's query, and
//! was held; so the larger of both offsets is the last one before the last marker.

use std::collections::HashSet;

use headwater_core::Channel;
use headwater_core::broker::Baseline;
use headwater_core::log::Epoch;

use super::channels::BATCH_CHANNELS;
use super::query::Purpose;
use super::state::{Phase, Restore, Session};
use crate::history::LogState;

impl Session<'_> {
    /// Prepares to restore those of the channels that the hub has a baseline of.
    pub(super) fn begin_restore(&mut self, all: &[Channel]) {
        let desired = &self.node.desired;
        let had = all.iter().filter(|channel| desired.had_baseline(channel));
        let channels: Vec<Channel> = had.cloned().collect();
        if self.node.sink.heard().is_none() {
            return;
        }
        self.restore = Some(Restore {
            number: 0,
            unconfirmed: channels.iter().cloned().collect(),
            channels,
            baselines: Vec::new(),
            epoch: None,
            queries_left: None,
            may_lack_notes: desired.may_lack_notes(),
        });
    }

    /// Notes that Redis confirmed or denied channels.
    pub(super) fn on_restored(&mut self, channels: &[Channel]) {
        if let Some(restore) = &mut self.restore {
            for channel in channels {
                restore.unconfirmed.remove(channel);
            }
            self.restore_if_confirmed();
        }
    }

    /// Queries the baselines, once Redis has answered for all channels.
    pub(super) fn restore_if_confirmed(&mut self) {
        let is_marking = self.probed_at.is_some();
        let Some(restore) = &mut self.restore else { return };
        // A channel that the hub no longer wants is not confirmed.
        let desired = &self.node.desired;
        restore.unconfirmed.retain(|channel| desired.had_baseline(channel));
        if !is_marking || restore.queries_left.is_some() || !restore.unconfirmed.is_empty() {
            return;
        }
        restore.number += 1;
        restore.baselines.clear();
        restore.epoch = None;
        let (number, channels) = (restore.number, restore.channels.clone());
        let batches: Vec<Vec<Channel>> = match channels.len() {
            0 => vec![Vec::new()],
            _ => channels.chunks(BATCH_CHANNELS).map(<[_]>::to_vec).collect(),
        };
        restore.queries_left = Some(batches.len());
        if self.is_without_log() {
            return self.restore_without_log(channels);
        }
        for batch in batches {
            self.query(Purpose::Restore(number, batch));
        }
    }

    pub(super) fn on_restore_failed(&mut self, number: u64) {
        if let Some(restore) = self.restore.as_mut().filter(|it| it.number == number) {
            // The next tick asks again, for all of them.
            restore.queries_left = None;
            restore.number += 1;
        }
    }

    pub(super) fn on_restore_answer(
        &mut self,
        number: u64,
        channels: Vec<Channel>,
        state: LogState,
    ) {
        let Some(restore) = self.restore.as_mut().filter(|it| it.number == number) else { return };
        if *restore.epoch.get_or_insert(state.epoch) != state.epoch {
            // The log was reset between two queries.
            return self.on_restore_failed(number);
        }
        restore.baselines.extend(channels.into_iter().zip(state.baselines));
        let left = restore.queries_left.map_or(0, |left| left - 1);
        restore.queries_left = Some(left);
        if left == 0 {
            // Queries are answered in their order, so this is the last one.
            self.finish_restore(state.epoch, state.begun, state.last);
        }
    }

    fn finish_restore(&mut self, epoch: Epoch, begun: Option<u64>, last: u64) {
        if self.held.values().any(|held| held.epoch != epoch) {
            // The log was reset meanwhile.
            let number = self.restore.as_ref().map_or(0, |restore| restore.number);
            self.held.retain(|_, held| held.epoch == epoch);
            return self.on_restore_failed(number);
        }
        let Some(restore) = self.restore.take() else { return };
        let sink = self.node.sink.clone();
        self.announce_epoch(epoch, begun, last);
        let (mut heard, mut baselines) = (last, Vec::with_capacity(restore.baselines.len()));
        for (channel, baseline) in restore.baselines {
            let is_had = self.node.desired.had_baseline(&channel);
            let Some(phase) = self.subscriptions.get_mut(&channel).filter(|_| is_had) else {
                continue;
            };
            if *phase != Phase::Subscribed {
                continue;
            }
            *phase = Phase::Synced;
            let is_ephemeral = baseline.ephemeral
                || restore.may_lack_notes
                || self.carried.dropped_ephemeral.contains(&channel);
            let baseline = self.take_held(&channel, baseline).with_ephemeral(is_ephemeral);
            heard = heard.max(baseline.last);
            baselines.push((channel, baseline));
        }
        sink.baselines(&baselines);
        self.carried.dropped_ephemeral = HashSet::new();
        sink.log(epoch, heard);
        self.confirm_synced();
        // Channels that were added meanwhile.
        self.query_again();
    }

    /// Reports a new epoch to the hub. What the epoch has is replayed after the gap events.
    pub(super) fn announce_epoch(&self, epoch: Epoch, begun: Option<u64>, last: u64) {
        if self.node.sink.heard().is_none_or(|heard| heard.epoch() != epoch) {
            self.node.sink.log(epoch, begun.unwrap_or(last));
        }
        if let Some(begun) = begun {
            self.node.sink.begun(epoch, begun);
        }
    }

    /// The baseline with an event that was held after it.
    pub(super) fn take_held(&mut self, channel: &Channel, baseline: Baseline) -> Baseline {
        match self.held.remove(channel) {
            Some(held) if held.offset > baseline.last || baseline.forgotten => {
                Baseline::new(held.offset).with_end(held.end).with_ephemeral(baseline.ephemeral)
            }
            _ => baseline,
        }
    }

    fn confirm_synced(&self) {
        for (channel, phase) in &self.subscriptions {
            if *phase == Phase::Synced {
                self.node.desired.confirm(channel);
            }
        }
    }

    fn restore_without_log(&mut self, channels: Vec<Channel>) {
        self.restore = None;
        self.start_channels(channels);
        self.query_again();
    }
}
