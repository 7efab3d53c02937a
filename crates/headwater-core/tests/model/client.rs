//! A client in the model: what it has received, what it may miss, and what it must receive next.
//! Look here for the assertions.

use std::collections::HashMap;
use std::time::Duration;

use super::CHANNELS;
use super::script::{Record, Script, channel};
use headwater_core::frame::Frame;
use headwater_core::gap::GapReason;
use headwater_core::{Hub, Subscription};

/// Longer than several retries of a replay's read. Time is paused, so it costs nothing.
const QUIET: Duration = Duration::from_secs(10);

/// A client that connects, reads, is disconnected, and reconnects with its last event id.
pub(super) struct Client {
    /// Whether events must be missing wherever a gap is reported.
    is_strict: bool,
    subscription: Option<Subscription>,
    channels: Vec<usize>,
    /// The id of the last frame that had one.
    id: Option<String>,
    /// The index that the id stands for. Gaps reported before it are not reported again.
    id_at: usize,
    /// For each channel, the index before which the client has all events.
    at: [usize; CHANNELS],
    /// For each channel, the index after its last received event.
    received_before: [usize; CHANNELS],
    /// For each channel, the index before which a gap was reported.
    reported_before: [usize; CHANNELS],
    /// Channels with a reported gap, until their next event. The value is the client's index when
    /// the gap was reported, if an event after it must be missing.
    gaps: HashMap<usize, Option<usize>>,
    /// Channels with a reported gap, and the index before which ephemeral events may be missing. It
    /// is separate because such a gap is reported before the events of the log are delivered.
    ephemeral_gaps: HashMap<usize, usize>,
}

impl Client {
    pub(super) fn new(is_strict: bool) -> Self {
        Self {
            is_strict,
            subscription: None,
            channels: Vec::new(),
            id: None,
            id_at: 0,
            at: [0; CHANNELS],
            received_before: [0; CHANNELS],
            reported_before: [0; CHANNELS],
            gaps: HashMap::new(),
            ephemeral_gaps: HashMap::new(),
        }
    }

    pub(super) fn disconnect(&mut self) {
        self.subscription = None;
        let newest = self.at.into_iter().max().unwrap_or(0).max(self.id_at);
        for (channel, _) in self.gaps.drain() {
            // With ephemeral events, the id may stand for an index before the reported gap.
            let reported = self.ephemeral_gaps.get(&channel).filter(|_| !self.is_strict);
            self.reported_before[channel] = newest.max(reported.copied().unwrap_or(0));
        }
    }

    /// Connects to channels. A client that reconnects uses the same channels as before.
    pub(super) async fn connect(&mut self, hub: &Hub, script: &Script, channels: Vec<usize>) {
        self.disconnect();
        if self.id.is_none() {
            self.channels = channels;
        }
        let names = self.channels.iter().copied().map(channel);
        let mut subscription = hub.subscribe(names).unwrap().after(self.id.clone());
        if self.id.is_none() {
            subscription.ready().await;
            self.at = [script.count(); CHANNELS];
        }
        self.subscription = Some(subscription);
    }

    /// Reads `count` frames, or as many as there are.
    pub(super) async fn read(&mut self, script: &Script, count: usize) {
        for _ in 0..count {
            let Some(subscription) = &mut self.subscription else { return };
            let next = std::future::poll_fn(|context| subscription.poll_frame(context));
            match tokio::time::timeout(QUIET, next).await {
                Ok(Some(frame)) => self.take(script, &frame),
                // The queue overflowed; the client reconnects later.
                Ok(None) => return self.disconnect(),
                Err(_) => {
                    let end = script.count();
                    return self.check_missing(script, &self.channels, end);
                }
            }
        }
    }

    fn take(&mut self, script: &Script, frame: &Frame) {
        if let Some(gap) = frame.gap() {
            let number = gap.channel.as_str()[1..].parse().unwrap();
            self.take_gap(script, number, gap.reason);
        } else if !frame.is_marker() {
            self.take_event(script, frame.event().data().trim_end().parse().unwrap());
        }
        let Some(position) = frame.position() else { return };
        self.id = Some(position.to_string());
        // A position that the node assigned to an ephemeral event is in no log.
        let Some(count) = script.count_up_to(position) else { return };
        self.id_at = self.id_at.max(count);
        let is_reset = self.gaps.values().any(Option::is_none);
        if is_reset && (frame.is_marker() || frame.gap().is_some()) {
            self.at = self.at.map(|at| at.max(count));
        }
    }

    fn take_gap(&mut self, script: &Script, number: usize, reason: GapReason) {
        assert!(
            self.channels.contains(&number),
            "a gap in channel {number}, which is not subscribed to"
        );
        self.ephemeral_gaps.insert(number, script.count());
        match reason {
            GapReason::Epoch => {
                assert!(script.epoch_number() > 0, "the log was never reset");
                // Events of the old epoch are missing; no later event need be.
                self.gaps.insert(number, None);
            }
            GapReason::Trimmed => {
                self.gaps.entry(number).or_insert(Some(self.at[number]));
            }
            // Only ephemeral events are missing.
            GapReason::BrokerLost => {}
            other => panic!("unexpected reason for a gap: {other}"),
        }
    }

    fn take_event(&mut self, script: &Script, index: usize) {
        let record = script.record(index);
        assert!(self.channels.contains(&record.channel), "{index} is of another channel");
        // The order of ephemeral events is not defined relative to the events of channels that the
        // node does not receive yet, nor to a position of the log that the client received with a
        // gap event.
        let at = match (self.is_strict, record.offset) {
            (true, _) => self.at.into_iter().max().expect("at least one channel"),
            (false, Some(_)) => self.at[record.channel],
            (false, None) => self.received_before[record.channel],
        };
        assert!(
            index >= at,
            "{index} is a duplicate or late: the client has all events before {at}"
        );
        let checked = if self.is_strict { &self.channels[..] } else { &[record.channel] };
        self.check_missing(script, checked, index);
        if let Some(Some(reported_at)) = self.gaps.remove(&record.channel)
            && self.is_strict
        {
            let mut between = (reported_at..index).map(|index| script.record(index));
            let is_missing = between.any(|other| other.channel == record.channel);
            assert!(is_missing, "a gap was reported before {index}, but no event is missing");
        }
        self.received_before[record.channel] = index + 1;
        self.at[record.channel] = self.at[record.channel].max(index + 1);
    }

    /// Asserts that a gap was reported for each event before `until` that was not received.
    fn check_missing(&self, script: &Script, channels: &[usize], until: usize) {
        for channel in channels {
            for index in self.at[*channel].max(self.reported_before[*channel])..until {
                let record = script.record(index);
                assert!(
                    record.channel != *channel || self.is_excused(script, index, &record),
                    "{index} of channel {channel} is missing, and no gap was reported"
                );
            }
        }
    }

    fn is_excused(&self, script: &Script, index: usize, record: &Record) -> bool {
        // The first ephemeral events of a channel leave no trace if no node receives the channel.
        let leaves_no_trace = || !script.received_ephemeral(record.channel, index + 1);
        let is_reported =
            self.ephemeral_gaps.get(&record.channel).is_some_and(|until| index < *until);
        self.gaps.contains_key(&record.channel)
            || (record.offset.is_none() && (is_reported || leaves_no_trace()))
    }
}
