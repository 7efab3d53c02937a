//! From the bytes of the subscriber connection to the hub: ephemeral events, events of the log in
//! order, and missed events. Look here for how a hole in the log's events is detected and filled.

use std::borrow::Cow;

use bytes::{Buf, BytesMut};

use headwater_core::broker::{Baseline, LoggedEvent};
use headwater_core::gap::GapReason;
use headwater_core::limits::EVENT_DATA_BYTES_MAX;
use headwater_core::log::{Epoch, Position};
use headwater_core::{Channel, Event};

use super::channels::BATCH_CHANNELS;
use super::state::{Phase, READ_BYTES, Session, SessionEnd, TaskResult};
use crate::catch_up::{self, CatchUp};
use crate::envelope::{self, LogHeaders};
use crate::history::LogState;
use crate::keys::{ENVELOPES, REVOCATIONS_CHANNEL};
use crate::resp::{self, Parsed, Value};
use crate::revocations;

impl Session<'_> {
    /// Handles the values in the buffer, until one of them must wait for a read of the log.
    pub(crate) fn take_input(&mut self) -> Result<(), SessionEnd> {
        while self.task.is_none() {
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
        Ok(())
    }

    fn on_value(&mut self, value: &Value<'_>) -> Result<(), SessionEnd> {
        match value {
            Value::List(items) => match items.as_slice() {
                [Value::Text(b"message"), Value::Text(name), Value::Text(payload)] => {
                    self.on_message(name, payload)?;
                }
                [Value::Text(b"subscribe" | b"unsubscribe"), Value::Text(name), _] => {
                    self.on_confirmation(name);
                }
                // Other pushes are of no interest.
                _ => {}
            },
            Value::Error(message) => self.on_error(message),
            Value::Text(_) | Value::Integer(_) | Value::Null => {
                return Err(SessionEnd::ProbeTimeout("Redis sent an answer without a command"));
            }
        }
        Ok(())
    }

    fn on_message(&mut self, name: &[u8], payload: &[u8]) -> Result<(), SessionEnd> {
        if name == self.probe.channel.as_bytes() {
            self.on_probe_returned(payload);
            return self.on_marker(payload);
        }
        if name == REVOCATIONS_CHANNEL.as_bytes() {
            revocations::receive(payload, &self.node.sink);
            return Ok(());
        }
        let Ok(name) = std::str::from_utf8(name) else { return Ok(()) };
        let channel_name = name.strip_prefix(ENVELOPES);
        // Messages still arrive after UNSUBSCRIBE was sent; they have no subscribers.
        let subscription = self.subscriptions.get_key_value(channel_name.unwrap_or(name));
        let Some((channel, phase)) = subscription else { return Ok(()) };
        let has_start = *phase == Phase::Synced || self.known.last_offsets.contains_key(channel);
        if !has_start && !self.needs_catch_up {
            // It was sent before the point of the log at which the channel starts.
            return Ok(());
        }
        let channel = channel.clone();
        let headers_max = if channel_name.is_some() { envelope::HEADERS_BYTES_MAX } else { 0 };
        if payload.len() > EVENT_DATA_BYTES_MAX + headers_max {
            tracing::warn!(
                %channel,
                bytes = payload.len(),
                "dropped an event from Redis: at most {EVENT_DATA_BYTES_MAX} bytes of data are \
                 allowed"
            );
            self.node.sink.count_rejected();
            return Ok(());
        }
        if channel_name.is_none() {
            let data = String::from_utf8_lossy(payload);
            self.count_sanitized(&channel, matches!(data, Cow::Owned(_)));
            self.deliver_ephemeral(&channel, &Event::new(data));
            return Ok(());
        }
        match envelope::decode(payload) {
            Ok(decoded) => {
                self.count_sanitized(&channel, decoded.sanitized);
                match decoded.log {
                    Some(headers) => self.on_log_event(channel, decoded.event, headers),
                    None => self.deliver_ephemeral(&channel, &decoded.event),
                }
            }
            Err(error) => {
                tracing::warn!(%channel, "dropped an envelope from Redis: {error}");
                self.node.sink.count_rejected();
            }
        }
        Ok(())
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

    // === events of the log ===

    fn on_log_event(&mut self, channel: Channel, event: Event, headers: LogHeaders) {
        let LogHeaders { position, previous, .. } = headers;
        if self.needs_catch_up {
            // Catching up reads this event too: the connection has not reached the point up to
            // which missed events are read.
            return;
        }
        if self.known.epoch != Some(position.epoch()) {
            // The log lost its data during this session.
            self.set_log(position.epoch(), position.offset().saturating_sub(1));
        }
        match self.known.last_offsets.get(&channel) {
            Some(last) if position.offset() <= *last => {}
            Some(last) if previous > *last => {
                tracing::info!(
                    %channel,
                    "events are missing, reading them: the last offset is {last}, expected \
                     {previous}"
                );
                let channels = vec![(channel.clone(), *last)];
                let commands = self.node.commands.clone();
                self.task = Some(Box::pin(async move {
                    let until = position.offset() - 1;
                    let missed = catch_up::catch_up(commands, channels, until).await;
                    TaskResult::Healed { channel, event, headers, missed }
                }));
            }
            _ => self.deliver(&channel, &event, headers),
        }
    }

    /// Delivers the event after a hole, once the hole is filled with the events that the log still
    /// has.
    pub(crate) fn deliver_after_hole(
        &mut self,
        channel: &Channel,
        event: &Event,
        headers: LogHeaders,
    ) {
        if self.known.last_offsets.get(channel).is_some_and(|last| headers.previous > *last) {
            self.node.sink.gap(channel, GapReason::Trimmed);
        }
        self.deliver(channel, event, headers);
    }

    fn advance_last(&mut self, channel: Channel, offset: u64) {
        let last = self.known.last_offsets.entry(channel).or_default();
        *last = offset.max(*last);
    }

    pub(crate) fn deliver(&mut self, channel: &Channel, event: &Event, headers: LogHeaders) {
        let LogHeaders { position, previous, time_ms, end } = headers;
        // Redis knows no event of the channel before this one: earlier ones are unknown.
        let previous = if previous == 0 { position.offset().saturating_sub(1) } else { previous };
        self.known.last_offsets.insert(channel.clone(), position.offset());
        let logged = LoggedEvent::new(channel, event, position, previous, time_ms);
        self.node.sink.event(logged.with_end(end));
    }

    // === missed events ===

    /// Reads missed events, up to the point of the log that the input has reached.
    pub(crate) fn start_catch_up(&mut self, state: LogState) {
        if self.known.epoch != Some(state.epoch) {
            // The log lost its data: there is nothing to catch up with.
            self.set_log(state.epoch, state.last);
        }
        let known = &self.known.last_offsets;
        let behind = known.iter().filter(|(channel, _)| self.subscriptions.contains_key(*channel));
        let channels = behind.map(|(channel, last)| (channel.clone(), *last)).collect();
        let commands = self.node.commands.clone();
        self.task = Some(Box::pin(async move {
            let missed = catch_up::catch_up(commands, channels, state.last).await;
            TaskResult::CaughtUp(state, missed)
        }));
    }

    pub(crate) fn deliver_missed(&mut self, epoch: Epoch, missed: CatchUp) {
        let healed = missed.events.len() as u64;
        for (channel, reason, last) in missed.gaps {
            self.node.sink.gap(&channel, reason);
            self.advance_last(channel, last);
        }
        for (channel, entry) in missed.events {
            self.count_sanitized(&channel, entry.sanitized);
            let position = Position::new(epoch, entry.offset);
            let (previous, time_ms, end) = (entry.previous, entry.time_ms, entry.end);
            self.deliver(&channel, &entry.event, LogHeaders { position, previous, time_ms, end });
        }
        if healed > 0 {
            tracing::info!(events = healed, "read missed events and delivered them in order");
            self.node.wanted.update_status(|status| status.healed += healed);
        }
    }

    /// Known channels continue from this point of the log; the baselines of the others are queried.
    pub(crate) fn finish_catch_up(&mut self, state: &LogState) {
        self.needs_catch_up = false;
        self.set_log(state.epoch, state.last);
        let mut unknown = Vec::new();
        for (channel, phase) in &mut self.subscriptions {
            if *phase != Phase::Subscribed {
                continue;
            }
            if self.known.last_offsets.contains_key(channel) {
                *phase = Phase::Synced;
                self.node.wanted.confirm(channel);
            } else {
                // Events are delivered from here on: if the log was reset, subscribers were
                // notified that it is complete from here. The channel's earlier state must still be
                // queried.
                self.known.last_offsets.insert(channel.clone(), state.last);
                unknown.push(channel.clone());
            }
        }
        for batch in unknown.chunks(BATCH_CHANNELS) {
            self.query_baseline(batch.to_vec());
        }
    }

    /// Starts these channels: the input has reached the point of the log that the baselines are
    /// for.
    pub(crate) fn on_baselines(&mut self, channels: Vec<Channel>, baselines: &[Baseline]) {
        for (channel, baseline) in channels.into_iter().zip(baselines) {
            let Some(phase @ Phase::Subscribed) = self.subscriptions.get_mut(&channel) else {
                continue;
            };
            *phase = Phase::Synced;
            if baseline.ephemeral {
                self.known.ephemeral.insert(&channel);
            }
            self.node.sink.baseline(&channel, *baseline);
            self.node.wanted.confirm(&channel);
            self.advance_last(channel, baseline.last);
        }
    }
}
