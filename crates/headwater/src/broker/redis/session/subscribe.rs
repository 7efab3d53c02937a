//! Bringing what Redis sends in line with what is wanted, in bounded batches.

use std::collections::VecDeque;

use super::{NodeChannel, PendingCommand, Phase, Session};
use crate::broker::redis::revoke::{self, REVOCATIONS_CHANNEL};
use crate::broker::redis::{ENVELOPE_PREFIX, LogMode, resp};
use crate::channel::Channel;
use crate::limits::{SUBSCRIBE_BATCH_MAX, SUBSCRIBE_UNCONFIRMED_MAX};

/// Redis channels per channel of ours: its own name, and the one for envelopes.
const NAMES_PER_CHANNEL: usize = 2;

/// Channels in one command.
pub(super) const BATCH_CHANNELS: usize = SUBSCRIBE_BATCH_MAX / NAMES_PER_CHANNEL;

impl Session<'_> {
    /// Subscribes to the Redis channels that are the node's own. Each has a command of its own, since
    /// the Redis user may be allowed one and not the other.
    pub(super) fn subscribe_own(&mut self) {
        for name in [self.probe.channel.as_str(), REVOCATIONS_CHANNEL] {
            resp::encode_command([b"SUBSCRIBE".as_slice(), name.as_bytes()], &mut self.output);
            let asked =
                PendingCommand { channels: Vec::new(), is_subscribe: true, confirmations_left: 1 };
            self.unconfirmed.push_back(asked);
        }
        self.own_unanswered = VecDeque::from([NodeChannel::Probe, NodeChannel::Revocations]);
    }

    pub(super) fn add_todo(&mut self, channels: &[Channel]) {
        self.todo.extend(channels.chunks(BATCH_CHANNELS).map(<[_]>::to_vec));
    }

    /// Sends what there is to do, as far as the bound on unconfirmed commands allows.
    pub(super) fn ask(&mut self) {
        // A batch can make two commands.
        while self.unconfirmed.len() + 1 < SUBSCRIBE_UNCONFIRMED_MAX {
            let Some(batch) = self.todo.pop_front() else { return };
            let (mut wanted, mut unwanted) = self.node.wanted.partition(batch);
            wanted.retain(|channel| self.begin_subscribing(channel));
            unwanted.retain(|channel| self.begin_unsubscribing(channel));
            self.ask_for(b"SUBSCRIBE", wanted);
            self.ask_for(b"UNSUBSCRIBE", unwanted);
        }
    }

    /// Whether there is a command to send. A channel on its way is looked at again when it is there.
    fn begin_subscribing(&mut self, channel: &Channel) -> bool {
        match self.asked.get_mut(channel) {
            // It went and came back between two looks: the hub must be told anew where it stands. It was
            // received all the time, so what comes until then is given.
            Some(phase @ Phase::Synced) => {
                *phase = Phase::Subscribed;
                self.on_subscribed(vec![channel.clone()]);
            }
            Some(_) => {}
            None => {
                self.asked.insert(channel.clone(), Phase::Subscribing);
                return true;
            }
        }
        false
    }

    fn begin_unsubscribing(&mut self, channel: &Channel) -> bool {
        match self.asked.get_mut(channel) {
            Some(phase @ (Phase::Subscribed | Phase::Synced)) => {
                *phase = Phase::Unsubscribing;
                self.known.lasts.remove(channel);
                true
            }
            _ => false,
        }
    }

    fn ask_for(&mut self, command: &[u8], channels: Vec<Channel>) {
        if channels.is_empty() {
            return;
        }
        let envelopes: Vec<String> =
            channels.iter().map(|channel| format!("{ENVELOPE_PREFIX}{channel}")).collect();
        let mut words = vec![command];
        for (channel, envelope) in channels.iter().zip(&envelopes) {
            words.push(envelope.as_bytes());
            if self.node.ephemeral.contains(channel) {
                words.push(channel.as_str().as_bytes());
            }
        }
        let confirmations_left = words.len() - 1;
        resp::encode_command(words, &mut self.output);
        let is_subscribe = command == b"SUBSCRIBE";
        self.unconfirmed.push_back(PendingCommand { channels, is_subscribe, confirmations_left });
    }

    pub(super) fn on_confirmation(&mut self, name: &[u8]) {
        let Some(front) = self.unconfirmed.front_mut() else { return };
        front.confirmations_left -= 1;
        if front.confirmations_left > 0 {
            return;
        }
        if name == self.probe.channel.as_bytes() {
            self.probe.interval.reset_immediately();
            self.own_unanswered.pop_front();
        }
        if name == REVOCATIONS_CHANNEL.as_bytes() {
            self.own_unanswered.pop_front();
            // From here on they come; what came before must be read.
            let (commands, sink) = (self.node.commands.clone(), self.node.sink.clone());
            tokio::spawn(revoke::catch_up(commands, sink, self.known.lost_ms));
        }
        let Some(PendingCommand { channels, is_subscribe, .. }) = self.unconfirmed.pop_front()
        else {
            return;
        };
        // What is wanted may have changed on the way.
        let (wanted, unwanted) = self.node.wanted.partition(channels.clone());
        self.add_todo(if is_subscribe { &unwanted } else { &wanted });
        for channel in &channels {
            if is_subscribe {
                self.asked.insert(channel.clone(), Phase::Subscribed);
            } else {
                self.asked.remove(channel);
            }
        }
        if is_subscribe {
            self.on_subscribed(wanted);
        }
        self.catch_up_if_all_confirmed();
    }

    /// Redis sends the messages of these channels; now the hub must know from where on.
    fn on_subscribed(&mut self, channels: Vec<Channel>) {
        if self.is_behind || channels.is_empty() {
            // Catching up does it for all of them.
            return;
        }
        if self.node.wanted.durability() == LogMode::Off {
            self.go_without_log(channels);
        } else {
            self.sync(channels);
        }
    }

    /// Redis refuses a command as a whole when it refuses one of its channels, so find out which.
    pub(super) fn on_error(&mut self, message: &[u8]) {
        let message = String::from_utf8_lossy(message);
        let Some(PendingCommand { mut channels, .. }) = self.unconfirmed.pop_front() else {
            tracing::warn!("Redis reported an error on the subscriber connection: {message}");
            return;
        };
        for channel in &channels {
            self.asked.remove(channel);
        }
        match channels.len() {
            0 if matches!(self.own_unanswered.pop_front(), Some(NodeChannel::Revocations)) => {
                tracing::error!(
                    "Redis refuses to subscribe to {REVOCATIONS_CHANNEL}, so this node does not hear what others revoke: {message}"
                );
            }
            0 => tracing::error!(
                "Redis refuses the probe's channel {}: {message}",
                self.probe.channel
            ),
            1 => {
                self.node.wanted.refuse(&channels[0]);
                tracing::error!(channel = %channels[0], "Redis refuses to subscribe: {message}");
            }
            count => {
                self.todo.push_back(channels.split_off(count / 2));
                self.todo.push_back(channels);
            }
        }
        self.catch_up_if_all_confirmed();
    }
}
