//! From the bytes of the subscriber connection to the hub: ephemeral events and events of the log.
//! Look here for which messages are passed on.

use std::borrow::Cow;

use bytes::{Buf, BytesMut};

use headwater_core::broker::{Baseline, LoggedEvent};
use headwater_core::limits::EVENT_DATA_BYTES_MAX;
use headwater_core::log::Epoch;
use headwater_core::{Channel, Error, ErrorKind, Event};

use super::state::{Held, Phase, READ_BYTES, Session, SessionEnd};
use crate::envelope::{self, LogHeaders};
use crate::history::LogState;
use crate::keys::{ENVELOPES, REVOCATIONS_CHANNEL};
use crate::resp::{self, Parsed, Value};
use crate::revocations;

impl Session<'_> {
    /// Handles the values in the buffer.
    pub(crate) fn take_input(&mut self) -> Result<(), SessionEnd> {
        loop {
            // Moved out because the parsed values borrow from it.
            let mut input = std::mem::take(&mut self.input);
            let parsed = resp::parse(&input).map_err(SessionEnd::Protocol)?;
            let taken = match parsed {
                Parsed::Value(value, length) => {
                    self.on_value(&value)?;
                    length
                }
                Parsed::Incomplete(needed) => {
                    let missing = needed.saturating_sub(input.len()).max(READ_BYTES);
                    if input.is_empty() && input.capacity() > 4 * READ_BYTES {
                        // One large message must not occupy memory until the session ends.
                        input = BytesMut::new();
                    }
                    input.reserve(missing);
                    self.input = input;
                    return Ok(());
                }
            };
            input.advance(taken);
            self.input = input;
        }
    }

    fn on_value(&mut self, value: &Value<'_>) -> Result<(), SessionEnd> {
        match value {
            Value::List(items) => match items.as_slice() {
                [Value::Text(b"message"), Value::Text(name), Value::Text(payload)] => {
                    self.on_message(name, payload);
                }
                [Value::Text(b"subscribe" | b"unsubscribe"), Value::Text(name), _] => {
                    self.on_confirmation(name);
                }
                // Other pushes are of no interest.
                _ => {}
            },
            Value::Error(message) => self.on_error(message),
            Value::Text(_) | Value::Integer(_) | Value::Null => {
                let message = "Redis sent an answer without a command";
                return Err(SessionEnd::Protocol(Error::new(ErrorKind::Protocol, message)));
            }
        }
        Ok(())
    }

    fn on_message(&mut self, name: &[u8], payload: &[u8]) {
        if name == self.marker_channel.as_bytes() {
            return self.on_marker(payload);
        }
        if name == REVOCATIONS_CHANNEL.as_bytes() {
            return revocations::receive(payload, &self.node.sink);
        }
        let Ok(name) = std::str::from_utf8(name) else { return };
        let channel_name = name.strip_prefix(ENVELOPES);
        // Messages still arrive after UNSUBSCRIBE was sent; they have no subscribers.
        let subscription = self.subscriptions.get_key_value(channel_name.unwrap_or(name));
        let Some((channel, phase)) = subscription else { return };
        let (channel, phase) = (channel.clone(), *phase);
        let headers_max = if channel_name.is_some() { envelope::HEADERS_BYTES_MAX } else { 0 };
        if payload.len() > EVENT_DATA_BYTES_MAX + headers_max {
            tracing::warn!(
                %channel,
                bytes = payload.len(),
                "dropped an event from Redis: at most {EVENT_DATA_BYTES_MAX} bytes of data are \
                 allowed"
            );
            return self.node.sink.count_rejected();
        }
        if channel_name.is_none() {
            let data = String::from_utf8_lossy(payload);
            self.count_sanitized(&channel, matches!(data, Cow::Owned(_)));
            return self.on_ephemeral(&channel, phase, &Event::new(data));
        }
        match envelope::decode(payload) {
            Ok(decoded) => {
                self.count_sanitized(&channel, decoded.sanitized);
                match decoded.log {
                    Some(headers) => self.on_log_event(&channel, phase, &decoded.event, headers),
                    None => self.on_ephemeral(&channel, phase, &decoded.event),
                }
            }
            Err(error) => {
                tracing::warn!(%channel, "dropped an envelope from Redis: {error}");
                self.node.sink.count_rejected();
            }
        }
    }

    fn count_sanitized(&self, channel: &Channel, sanitized: bool) {
        if sanitized {
            tracing::debug!(
                %channel,
                "an event from Redis is not UTF-8: invalid bytes are replaced by U+FFFD"
            );
            self.node.sink.count_sanitized();
        }
    }

    /// Passes on an ephemeral event, unless the hub does not receive the channel yet. During a
    /// restore, the gap event for those that were missed comes first, and covers this one too.
    fn on_ephemeral(&mut self, channel: &Channel, phase: Phase, event: &Event) {
        if matches!(phase, Phase::Synced | Phase::Renewed) {
            self.deliver_ephemeral(channel, event);
        } else if self.restore.is_some() {
            self.carried.dropped_ephemeral.insert(channel.clone());
        }
    }

    /// Passes on an event of the log, or holds it until its channel starts.
    fn on_log_event(
        &mut self,
        channel: &Channel,
        phase: Phase,
        event: &Event,
        headers: LogHeaders,
    ) {
        let LogHeaders { position, previous, time_ms, end } = headers;
        if phase == Phase::Unsubscribing {
            return;
        }
        if !matches!(phase, Phase::Synced | Phase::Renewed) {
            let (epoch, offset) = (position.epoch(), position.offset());
            self.held.insert(channel.clone(), Held { epoch, offset, end });
        } else if self.is_without_log() {
            // Its position has no meaning here: what comes before it cannot be read.
            self.node.sink.ephemeral(channel, event);
        } else if self.enter_epoch(position.epoch()) {
            let logged = LoggedEvent::new(channel, event, position, previous, time_ms);
            self.node.sink.event(logged.with_end(end));
        }
    }

    // === the start of channels ===

    /// Starts channels that Redis has confirmed.
    pub(super) fn start_channels(&mut self, channels: Vec<Channel>) {
        if !self.is_without_log() {
            return self.query_start(&channels);
        }
        // The node numbers events itself, under a random epoch, and claims nothing of the past.
        let epoch = *self.carried.local_epoch.get_or_insert_with(Epoch::random);
        self.node.sink.log(epoch, 0);
        for channel in channels {
            self.start(&channel, Baseline::new(0).with_ephemeral(true));
        }
    }

    /// Starts these channels: everything before the point of the log that the baselines are for has
    /// arrived.
    pub(super) fn on_baselines(&mut self, channels: Vec<Channel>, state: &LogState) {
        if channels.iter().any(|it| self.held.get(it).is_some_and(|held| held.epoch != state.epoch))
        {
            // The log was reset between them: the next tick asks again. What was held of the newer
            // log is in its baseline then.
            return self.held.retain(|_, held| held.epoch == state.epoch);
        }
        self.announce_epoch(state.epoch, state.begun, state.last);
        // An event that was held arrived after all before it.
        let held = channels.iter().filter_map(|channel| self.held.get(channel));
        let heard = held.map(|held| held.offset).fold(state.last, u64::max);
        self.node.sink.log(state.epoch, heard);
        let may_lack_notes = self.node.desired.may_lack_notes();
        for (channel, baseline) in channels.into_iter().zip(&state.baselines) {
            let baseline = self.take_held(&channel, *baseline);
            // Of a channel that was received all the time, the hub knows.
            let is_new = self.subscriptions.get(&channel) == Some(&Phase::Subscribed);
            self.start(&channel, baseline.with_uncertain(may_lack_notes && is_new));
        }
    }

    fn start(&mut self, channel: &Channel, baseline: Baseline) {
        let Some(phase @ (Phase::Subscribed | Phase::Renewed)) =
            self.subscriptions.get_mut(channel)
        else {
            return;
        };
        let is_received = *phase == Phase::Renewed;
        *phase = Phase::Synced;
        self.node.sink.baseline(channel, baseline.with_received(is_received));
        self.node.desired.confirm(channel);
    }
}
