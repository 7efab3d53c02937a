//! From the bytes of the subscriber connection to the hub: plain events, events of the log in their
//! order, and what was missed.

use std::borrow::Cow;

use bytes::{Buf, BytesMut};

use super::{Done, Phase, READ_BYTES, Session, SessionEnd};
use crate::broker::redis::ENVELOPE_PREFIX;
use crate::broker::redis::catch_up::{self, CatchUp};
use crate::broker::redis::envelope::{self, Place};
use crate::broker::redis::log::LogState;
use crate::broker::redis::resp::{self, Parsed, Value};
use crate::broker::redis::revoke;
use crate::broker::{Baseline, LoggedEvent};
use crate::channel::Channel;
use crate::event::Event;
use crate::gap::GapReason;
use crate::limits::EVENT_DATA_BYTES_MAX;
use crate::position::{Epoch, Position};

impl Session<'_> {
    /// Takes what is in the buffer, until something must be waited for.
    pub(super) fn take_input(&mut self) -> Result<(), SessionEnd> {
        while self.work.is_none() {
            // Taken out while values borrow from it.
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
                        // One large message must not be paid for ever.
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
                // Other pushes are not for us.
                _ => {}
            },
            Value::Error(message) => self.on_error(message),
            Value::Text(_) | Value::Integer(_) | Value::Null => {
                return Err(SessionEnd::ProbeTimeout("Redis answered what was not asked"));
            }
        }
        Ok(())
    }

    fn on_message(&mut self, name: &[u8], payload: &[u8]) -> Result<(), SessionEnd> {
        if name == self.probe.channel.as_bytes() {
            self.on_probe_back(payload);
            return self.on_marker(payload);
        }
        if name == revoke::REVOCATIONS_CHANNEL.as_bytes() {
            revoke::receive(payload, &self.node.sink);
            return Ok(());
        }
        let Ok(name) = std::str::from_utf8(name) else { return Ok(()) };
        let own_name = name.strip_prefix(ENVELOPE_PREFIX);
        // Messages still come after UNSUBSCRIBE was sent; nobody listens to them.
        let asked = self.asked.get_key_value(own_name.unwrap_or(name));
        let Some((channel, phase)) = asked else { return Ok(()) };
        let has_begun = *phase == Phase::Synced || self.known.lasts.contains_key(channel);
        if !has_begun && !self.is_behind {
            // From before the point where its stream begins.
            return Ok(());
        }
        let channel = channel.clone();
        let headers_max = if own_name.is_some() { envelope::HEADERS_BYTES_MAX } else { 0 };
        if payload.len() > EVENT_DATA_BYTES_MAX + headers_max {
            tracing::warn!(%channel, bytes = payload.len(), "dropped an event from Redis: at most {EVENT_DATA_BYTES_MAX} bytes of data are allowed");
            self.node.sink.count_rejected();
            return Ok(());
        }
        if own_name.is_none() {
            let data = String::from_utf8_lossy(payload);
            self.count_sanitized(&channel, matches!(data, Cow::Owned(_)));
            self.deliver_ephemeral(&channel, &Event::new(data));
            return Ok(());
        }
        match envelope::decode(payload) {
            Ok(opened) => {
                self.count_sanitized(&channel, opened.replaced);
                match opened.place {
                    Some(place) => self.on_log_event(channel, opened.event, place),
                    None => self.deliver_ephemeral(&channel, &opened.event),
                }
            }
            Err(error) => {
                tracing::warn!(%channel, "dropped an envelope from Redis: {error}");
                self.node.sink.count_rejected();
            }
        }
        Ok(())
    }

    fn count_sanitized(&self, channel: &Channel, replaced: bool) {
        if replaced {
            tracing::debug!(%channel, "an event from Redis is not UTF-8: U+FFFD stands for the bad bytes");
            self.node.sink.count_sanitized();
        }
    }

    // === events of the log ===

    fn on_log_event(&mut self, channel: Channel, event: Event, place: Place) {
        let Place { position, previous, .. } = place;
        if self.is_behind {
            // It will be read with what was missed, or comes after the point up to which that is read.
            return;
        }
        if self.known.epoch != Some(position.epoch()) {
            // The log lost its data while we were connected.
            self.set_log(position.epoch(), position.offset().saturating_sub(1));
        }
        match self.known.lasts.get(&channel) {
            Some(last) if position.offset() <= *last => {}
            Some(last) if previous > *last => {
                tracing::info!(%channel, "events are missing, reading them: {last} is the last, {previous} should be");
                let channels = vec![(channel.clone(), *last)];
                let commands = self.node.commands.clone();
                self.work = Some(Box::pin(async move {
                    let until = position.offset() - 1;
                    let missed = catch_up::catch_up(commands, channels, until).await;
                    Done::Healed { channel, event, place, missed }
                }));
            }
            _ => self.deliver(&channel, &event, place),
        }
    }

    /// Gives the event whose hole was filled as far as the log still has what was in it.
    pub(super) fn deliver_healed(&mut self, channel: &Channel, event: &Event, place: Place) {
        if self.known.lasts.get(channel).is_some_and(|last| place.previous > *last) {
            self.node.sink.gap(channel, GapReason::Trimmed);
        }
        self.deliver(channel, event, place);
    }

    fn note_last(&mut self, channel: Channel, offset: u64) {
        let last = self.known.lasts.entry(channel).or_default();
        *last = offset.max(*last);
    }

    pub(super) fn deliver(&mut self, channel: &Channel, event: &Event, place: Place) {
        let Place { position, previous, time_ms, end } = place;
        // Without an event before it that Redis remembers, nothing is known of what was before.
        let previous = if previous == 0 { position.offset().saturating_sub(1) } else { previous };
        self.known.lasts.insert(channel.clone(), position.offset());
        self.node.sink.deliver(LoggedEvent { channel, event, position, previous, time_ms, end });
    }

    // === what was missed ===

    /// The input is at a point of the log; what was missed is read up to it.
    pub(super) fn begin_catch_up(&mut self, state: LogState) {
        if self.known.epoch != Some(state.epoch) {
            // The log lost its data: there is nothing to catch up with.
            self.set_log(state.epoch, state.last);
        }
        let known = &self.known.lasts;
        let behind = known.iter().filter(|(channel, _)| self.asked.contains_key(*channel));
        let channels = behind.map(|(channel, last)| (channel.clone(), *last)).collect();
        let commands = self.node.commands.clone();
        self.work = Some(Box::pin(async move {
            let missed = catch_up::catch_up(commands, channels, state.last).await;
            Done::CaughtUp(state, missed)
        }));
    }

    pub(super) fn deliver_missed(&mut self, epoch: Epoch, missed: CatchUp) {
        let healed = missed.events.len() as u64;
        for (channel, reason, last) in missed.gaps {
            self.node.sink.gap(&channel, reason);
            self.note_last(channel, last);
        }
        for (channel, entry) in missed.events {
            self.count_sanitized(&channel, entry.replaced);
            let position = Position::new(epoch, entry.offset);
            let (previous, time_ms, end) = (entry.previous, entry.time_ms, entry.end);
            self.deliver(&channel, &entry.event, Place { position, previous, time_ms, end });
        }
        if healed > 0 {
            tracing::info!(events = healed, "missed events were read and given in their place");
            self.node.wanted.update_health(|health| health.healed += healed);
        }
    }

    /// Known channels go on from the point; the others must be asked about.
    pub(super) fn end_catch_up(&mut self, state: &LogState) {
        self.is_behind = false;
        self.set_log(state.epoch, state.last);
        let mut unknown = Vec::new();
        for (channel, phase) in &mut self.asked {
            if *phase != Phase::Subscribed {
                continue;
            }
            if self.known.lasts.contains_key(channel) {
                *phase = Phase::Synced;
                self.node.wanted.confirm(channel);
            } else {
                // What comes from here on is given: if the log began anew, listeners were told that it
                // is complete from here. What the channel had before must still be asked.
                self.known.lasts.insert(channel.clone(), state.last);
                unknown.push(channel.clone());
            }
        }
        for batch in unknown.chunks(super::subscribe::BATCH_CHANNELS) {
            self.sync(batch.to_vec());
        }
    }

    /// The input is at the point of the log that was asked for: these channels begin here.
    pub(super) fn on_synced(&mut self, channels: Vec<Channel>, baselines: &[Baseline]) {
        for (channel, baseline) in channels.into_iter().zip(baselines) {
            let Some(phase @ Phase::Subscribed) = self.asked.get_mut(&channel) else { continue };
            *phase = Phase::Synced;
            self.node.sink.baseline(&channel, *baseline);
            self.node.wanted.confirm(&channel);
            self.note_last(channel, baseline.last);
        }
    }
}
