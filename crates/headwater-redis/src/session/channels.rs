//! Subscribes and unsubscribes channels in Redis as the hub wants, in bounded batches. Look here
//! for what happens when Redis confirms or denies a channel.

use headwater_core::Channel;
use headwater_core::broker::Part;
use tokio::time::Instant;

use super::state::{NodeChannel, PendingCommand, Phase, Session};
use crate::errors;
use crate::keys::{self, REVOCATIONS_CHANNEL};
use crate::limits::{PROBE_INTERVAL, SUBSCRIBE_BATCH_MAX, SUBSCRIBE_UNCONFIRMED_MAX};
use crate::resp;

/// Redis channels per channel: one of its own name, and one for envelopes.
const NAMES_PER_CHANNEL: usize = 2;

/// Channels in one command.
pub(crate) const BATCH_CHANNELS: usize = SUBSCRIBE_BATCH_MAX / NAMES_PER_CHANNEL;

impl Session<'_> {
    /// Subscribes to the Redis channels that belong to the node, each with a separate command,
    /// since Redis may allow one and deny the other.
    pub(crate) fn subscribe_node_channels(&mut self) {
        for node_channel in [NodeChannel::Markers, NodeChannel::Revocations] {
            self.subscribe_node_channel(node_channel);
        }
    }

    fn subscribe_node_channel(&mut self, node_channel: NodeChannel) {
        let name = match node_channel {
            NodeChannel::Markers => self.marker_channel.as_str(),
            NodeChannel::Revocations => REVOCATIONS_CHANNEL,
        };
        resp::encode_command([b"SUBSCRIBE".as_slice(), name.as_bytes()], &mut self.output);
        self.await_confirmations(Vec::new(), true, 1);
        self.unanswered_node_channels.push_back(node_channel);
    }

    fn await_confirmations(
        &mut self,
        channels: Vec<Channel>,
        is_subscribe: bool,
        confirmations_left: usize,
    ) {
        let sent_at = Instant::now();
        let command = PendingCommand { channels, is_subscribe, confirmations_left, sent_at };
        self.unconfirmed.push_back(command);
    }

    /// Subscribes again to what Redis has refused, if the last attempt was long enough ago.
    pub(super) fn retry_refused(&mut self) {
        let is_due = self.refused.tried_at.is_some_and(|at| at.elapsed() >= PROBE_INTERVAL);
        if !is_due || !self.unconfirmed.is_empty() {
            return;
        }
        self.refused.tried_at = Some(Instant::now());
        // What the hub no longer wants is not subscribed to again.
        let (wanted, unwanted) =
            self.node.desired.partition(self.refused.channels.iter().cloned().collect());
        for channel in &unwanted {
            self.refused.channels.remove(channel);
        }
        self.enqueue(&wanted);
        for node_channel in self.refused.node_channels.clone() {
            self.subscribe_node_channel(node_channel);
        }
    }

    /// Schedules channels for a check against what the hub wants.
    pub(crate) fn enqueue(&mut self, channels: &[Channel]) {
        self.pending_batches.extend(channels.chunks(BATCH_CHANNELS).map(<[_]>::to_vec));
    }

    /// Sends commands for pending batches, as far as the bound on unconfirmed commands allows.
    pub(crate) fn send_pending(&mut self) {
        // A batch can result in two commands.
        while self.unconfirmed.len() + 1 < SUBSCRIBE_UNCONFIRMED_MAX {
            let Some(batch) = self.pending_batches.pop_front() else { return };
            let (mut wanted, mut unwanted) = self.node.desired.partition(batch);
            wanted.retain(|channel| self.start_subscribing(channel));
            unwanted.retain(|channel| self.start_unsubscribing(channel));
            self.send_command(b"SUBSCRIBE", wanted);
            self.send_command(b"UNSUBSCRIBE", unwanted);
        }
    }

    /// Whether a SUBSCRIBE must be sent. A channel whose command is in flight is checked again when
    /// Redis confirms that.
    fn start_subscribing(&mut self, channel: &Channel) -> bool {
        match self.subscriptions.get_mut(channel) {
            // It was removed and added again before this check, so the hub needs a new baseline.
            // The channel was received all the time, so events until then are delivered.
            Some(phase @ Phase::Synced) => {
                *phase = Phase::Renewed;
                self.on_subscribed(vec![channel.clone()]);
            }
            Some(_) => {}
            None => {
                self.subscriptions.insert(channel.clone(), Phase::Subscribing);
                return true;
            }
        }
        false
    }

    /// Whether an UNSUBSCRIBE must be sent.
    fn start_unsubscribing(&mut self, channel: &Channel) -> bool {
        match self.subscriptions.get_mut(channel) {
            Some(phase @ (Phase::Subscribed | Phase::Renewed | Phase::Synced)) => {
                *phase = Phase::Unsubscribing;
                self.held.remove(channel);
                self.carried.ephemeral.remove(channel);
                true
            }
            _ => false,
        }
    }

    fn send_command(&mut self, command: &[u8], channels: Vec<Channel>) {
        if channels.is_empty() {
            return;
        }
        let envelopes: Vec<String> = channels.iter().map(keys::envelopes).collect();
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
        self.await_confirmations(channels, is_subscribe, confirmations_left);
    }

    pub(crate) fn on_confirmation(&mut self, name: &[u8]) {
        let Some(front) = self.unconfirmed.front_mut() else { return };
        front.confirmations_left -= 1;
        if front.confirmations_left > 0 {
            return;
        }
        if name == self.marker_channel.as_bytes() {
            self.on_node_channel();
            self.probe(Vec::new());
            self.restore_if_confirmed();
        }
        if name == REVOCATIONS_CHANNEL.as_bytes() {
            self.on_node_channel();
            // Revocations arrive from here on; earlier ones must be read.
            self.node.desired.read_revocations(self.carried.missed_since_ms);
        }
        let Some(PendingCommand { channels, is_subscribe, .. }) = self.unconfirmed.pop_front()
        else {
            return;
        };
        // What the hub wants may have changed while the command was in flight.
        let (wanted, unwanted) = self.node.desired.partition(channels.clone());
        self.enqueue(if is_subscribe { &unwanted } else { &wanted });
        for channel in &channels {
            if is_subscribe {
                self.refused.channels.remove(channel);
                self.subscriptions.insert(channel.clone(), Phase::Subscribed);
            } else {
                self.subscriptions.remove(channel);
            }
        }
        if is_subscribe {
            self.on_restored(&channels);
            self.on_subscribed(wanted);
        }
    }

    /// A Redis channel that belongs to the node is subscribed.
    fn on_node_channel(&mut self) {
        let confirmed = self.unanswered_node_channels.pop_front();
        self.refused.node_channels.retain(|denied| Some(*denied) != confirmed);
    }

    /// Redis sends the messages of these channels: determine the point of the log at which they
    /// start.
    fn on_subscribed(&mut self, channels: Vec<Channel>) {
        // A restore covers those that the hub knows; the others start after it.
        if self.restore.is_none() && !channels.is_empty() {
            self.start_channels(channels);
        }
    }

    /// Redis denies a whole command if it denies one of its channels. The batch is halved until the
    /// denied channel is found.
    pub(crate) fn on_error(&mut self, message: &[u8]) {
        let message = String::from_utf8_lossy(message);
        let Some(PendingCommand { mut channels, .. }) = self.unconfirmed.pop_front() else {
            tracing::warn!("Redis reported an error on the subscriber connection: {message}");
            return;
        };
        for channel in &channels {
            self.subscriptions.remove(channel);
        }
        self.refused.tried_at.get_or_insert_with(Instant::now);
        if !channels.is_empty() && !errors::is_denial(&message) {
            tracing::warn!("Redis refuses to subscribe, retrying: {message}");
            self.refused.channels.extend(channels);
            return;
        }
        match channels.len() {
            0 => self.on_node_channel_refused(&message),
            1 => {
                if self.refused.channels.insert(channels[0].clone()) {
                    tracing::error!(channel = %channels[0], "Redis denies subscribing: {message}");
                }
                self.node.desired.deny(&channels[0]);
                self.on_restored(&channels);
            }
            count => {
                self.pending_batches.push_back(channels.split_off(count / 2));
                self.pending_batches.push_back(channels);
            }
        }
    }

    /// Redis has refused a Redis channel that belongs to the node.
    fn on_node_channel_refused(&mut self, message: &str) {
        let Some(refused) = self.unanswered_node_channels.pop_front() else { return };
        let reason = match refused {
            NodeChannel::Markers => format!(
                "Redis refuses to subscribe to the probe's channel {}: {message}",
                self.marker_channel
            ),
            NodeChannel::Revocations => format!(
                "Redis refuses to subscribe to {REVOCATIONS_CHANNEL}, so this node does not \
                 receive revocations of other nodes: {message}"
            ),
        };
        if !self.refused.node_channels.contains(&refused) {
            self.refused.node_channels.push(refused);
            tracing::error!("{reason}");
        }
        self.node.desired.update_status(|status| match refused {
            NodeChannel::Markers => status.delivers = Part::failed(reason),
            NodeChannel::Revocations => status.access = Part::failed(reason),
        });
    }
}
