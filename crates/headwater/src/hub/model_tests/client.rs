//! A client in the model: what it has, what it may miss, what it must get next. Look here for what is
//! asserted.

use std::collections::HashMap;
use std::time::Duration;

use super::CHANNELS;
use super::script::{Record, Script, channel};
use crate::frame::Frame;
use crate::gap::GapReason;
use crate::hub::{Hub, Subscription};

/// In paused time: longer than a replay waits before it reads again, several times.
const QUIET: Duration = Duration::from_secs(10);

/// A client that connects, reads, is cut off and comes back with the last id.
pub(super) struct Client {
    /// Whether a gap that is told must be one.
    is_strict: bool,
    subscription: Option<Subscription>,
    channels: Vec<usize>,
    /// The id of what it got last.
    id: Option<String>,
    /// The place that its id stands for: what was said to be missing before is not said again.
    id_at: usize,
    /// It has all events of a channel before this place.
    at: [usize; CHANNELS],
    /// It was told that events of a channel are missing before this place.
    told_before: [usize; CHANNELS],
    /// Channels that something is said to be missing of, until their next event; and the client's place
    /// when it was said, if something must be missing after it.
    told: HashMap<usize, Option<usize>>,
    /// Channels of which events in no log are said to be missing, before a place: that is said before
    /// what the log has.
    told_plain: HashMap<usize, usize>,
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
            told_before: [0; CHANNELS],
            told: HashMap::new(),
            told_plain: HashMap::new(),
        }
    }

    pub(super) fn disconnect(&mut self) {
        self.subscription = None;
        let newest = self.at.into_iter().max().unwrap_or(0).max(self.id_at);
        for (channel, _) in self.told.drain() {
            // Among events in no log, the id may stand for a place before what was said to be missing.
            let told = self.told_plain.get(&channel).filter(|_| !self.is_strict);
            self.told_before[channel] = newest.max(told.copied().unwrap_or(0));
        }
    }

    /// Connects to channels; to the same ones as before if it comes back.
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

    /// Reads so many frames, or what there is.
    pub(super) async fn read(&mut self, script: &Script, count: usize) {
        for _ in 0..count {
            let Some(subscription) = &mut self.subscription else { return };
            let next = std::future::poll_fn(|context| subscription.poll_frame(context));
            match tokio::time::timeout(QUIET, next).await {
                Ok(Some(frame)) => self.take(script, &frame),
                // Its queue was too full: it comes back.
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
        // A position of the node's own is in no log.
        let Some(count) = script.count_up_to(position) else { return };
        self.id_at = self.id_at.max(count);
        let is_anew = self.told.values().any(Option::is_none);
        if is_anew && (frame.is_marker() || frame.gap().is_some()) {
            self.at = self.at.map(|at| at.max(count));
        }
    }

    fn take_gap(&mut self, script: &Script, number: usize, reason: GapReason) {
        assert!(self.channels.contains(&number), "a gap of a channel that is not listened to");
        self.told_plain.insert(number, script.count());
        match reason {
            GapReason::Epoch => {
                assert!(script.life() > 0, "the log never began anew");
                // What is not there any more.
                self.told.insert(number, None);
            }
            GapReason::Trimmed => {
                self.told.entry(number).or_insert(Some(self.at[number]));
            }
            other => panic!("no such gap can be: {other}"),
        }
    }

    fn take_event(&mut self, script: &Script, place: usize) {
        let record = script.record(place);
        assert!(self.channels.contains(&record.channel), "{place} is of another channel");
        // Where an event in no log stands among those of channels that the node does not receive yet is
        // the node's affair.
        let at = if self.is_strict { self.at.iter().max() } else { self.at.get(record.channel) };
        let at = *at.expect("a place");
        assert!(place >= at, "{place} came twice or late: the client has all before {at}");
        let checked = if self.is_strict { &self.channels[..] } else { &[record.channel] };
        self.check_missing(script, checked, place);
        if let Some(Some(told_at)) = self.told.remove(&record.channel)
            && self.is_strict
        {
            let mut between = (told_at..place).map(|place| script.record(place));
            let is_missing = between.any(|other| other.channel == record.channel);
            assert!(is_missing, "a gap was told before {place}, and nothing is missing");
        }
        self.at[record.channel] = place + 1;
    }

    /// What is before a place and did not come must have been told.
    fn check_missing(&self, script: &Script, channels: &[usize], until: usize) {
        for channel in channels {
            for place in self.at[*channel].max(self.told_before[*channel])..until {
                let record = script.record(place);
                assert!(
                    record.channel != *channel || self.is_excused(script, place, &record),
                    "{place} of channel {channel} is missing, and nobody said so"
                );
            }
        }
    }

    fn is_excused(&self, script: &Script, place: usize, record: &Record) -> bool {
        // The first events in no log that a channel gets leave no trace if no node receives it.
        let leaves_no_trace = || !script.received_ephemeral(record.channel, place + 1);
        let told_plain = self.told_plain.get(&record.channel).is_some_and(|until| place < *until);
        self.told.contains_key(&record.channel)
            || (record.offset.is_none() && (told_plain || leaves_no_trace()))
    }
}
