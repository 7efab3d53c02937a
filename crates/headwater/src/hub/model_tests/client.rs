//! A client in the model: what it has, what it may miss, what it must get next. Look here for what is
//! asserted.

use std::collections::HashMap;
use std::time::Duration;

use super::script::{Record, Script, channel};
use crate::gap::GapReason;
use crate::hub::{Hub, Subscription};

/// In paused time: longer than a replay waits before it reads again, several times.
const QUIET: Duration = Duration::from_secs(10);

/// A client that connects, reads, is cut off and comes back with the last id.
pub(super) struct Client {
    /// Whether a gap that is told must be one.
    is_strict: bool,
    /// Whether the node goes on receiving channels that nobody listens to.
    lingers: bool,
    subscription: Option<Subscription>,
    channels: Vec<usize>,
    /// The id of what it got last.
    id: Option<String>,
    /// Whether that is the id of an event in no log.
    from_plain: bool,
    /// Whether it came back with such an id.
    came_from_plain: bool,
    /// It has all events of its channels before this place.
    at: usize,
    /// Channels that something is said to be missing of, until their next event; and the client's place
    /// when it was said, if something must be missing after it.
    told: HashMap<usize, Option<usize>>,
    /// Channels of which events in no log are said to be missing, before a place: that is said before
    /// what the log has.
    told_plain: HashMap<usize, usize>,
}

impl Client {
    pub(super) fn new(is_strict: bool, lingers: bool) -> Self {
        Self {
            is_strict,
            lingers,
            subscription: None,
            channels: Vec::new(),
            id: None,
            from_plain: false,
            came_from_plain: false,
            at: 0,
            told: HashMap::new(),
            told_plain: HashMap::new(),
        }
    }

    pub(super) fn disconnect(&mut self) {
        self.subscription = None;
        self.told.clear();
        self.told_plain.clear();
    }

    /// Connects to channels; to the same ones as before if it comes back.
    pub(super) async fn connect(&mut self, hub: &Hub, script: &Script, channels: Vec<usize>) {
        self.disconnect();
        if self.id.is_none() {
            self.channels = channels;
        }
        let names = self.channels.iter().copied().map(channel);
        let mut subscription = hub.subscribe(names).unwrap().since(self.id.clone());
        if self.id.is_none() {
            subscription.confirmed().await;
            self.at = script.count();
            self.from_plain = false;
        }
        self.came_from_plain = self.from_plain;
        self.subscription = Some(subscription);
    }

    /// Reads so many frames, or what there is.
    pub(super) async fn read(&mut self, script: &Script, count: usize) {
        let mut left = count;
        // A log that began anew is announced for each channel, and the first moves the position.
        while left > 0 || self.is_between_announcements() {
            left = left.saturating_sub(1);
            let Some(subscription) = &mut self.subscription else { return };
            match tokio::time::timeout(QUIET, subscription.next()).await {
                Ok(Some(frame)) => match frame.gap() {
                    Some(gap) => {
                        let number = gap.channel.as_str()[1..].parse().unwrap();
                        self.take_gap(script, number, gap.reason);
                        if let Some(position) = frame.position() {
                            self.id = Some(position.to_string());
                            self.from_plain = !position.is_durable();
                            if gap.reason == GapReason::Epoch {
                                self.at = self.at.max(script.count_up_to(position));
                            }
                        }
                    }
                    None => {
                        let place = frame.event().data().trim_end().parse().unwrap();
                        self.take_event(script, place);
                        let position = frame.position().expect("a position");
                        (self.id, self.from_plain) =
                            (Some(position.to_string()), !position.is_durable());
                    }
                },
                // Its queue was too full: it comes back.
                Ok(None) => return self.disconnect(),
                Err(_) => {
                    let end = script.count();
                    return self.check_missing(script, end);
                }
            }
        }
    }

    fn is_between_announcements(&self) -> bool {
        let epoch = self.told.values().filter(|told| told.is_none()).count();
        epoch > 0 && self.channels.iter().any(|channel| !self.told.contains_key(channel))
    }

    fn take_gap(&mut self, script: &Script, number: usize, reason: GapReason) {
        assert!(self.channels.contains(&number), "a gap of a channel that is not listened to");
        self.told_plain.insert(number, script.count());
        match reason {
            GapReason::Epoch => {
                assert!(script.life() > 0, "the log never began anew");
                for channel in &self.channels {
                    // All are missing what is not there any more.
                    self.told.insert(*channel, None);
                }
            }
            GapReason::Trimmed => {
                self.told.entry(number).or_insert(Some(self.at));
            }
            other => panic!("no such gap can be: {other}"),
        }
    }

    fn take_event(&mut self, script: &Script, place: usize) {
        let record = script.record(place);
        assert!(self.channels.contains(&record.channel), "{place} is of another channel");
        assert!(
            place >= self.at,
            "{place} came twice or late: the client has all before {}",
            self.at
        );
        self.check_missing(script, place);
        if let Some(Some(told_at)) = self.told.remove(&record.channel)
            && self.is_strict
        {
            let mut between = (told_at..place).map(|place| script.record(place));
            let is_missing = between.any(|other| other.channel == record.channel);
            assert!(is_missing, "a gap was told before {place}, and nothing is missing");
        }
        self.at = place + 1;
    }

    /// What is before a place and did not come must have been told.
    fn check_missing(&self, script: &Script, until: usize) {
        for place in self.at..until {
            let record = script.record(place);
            if self.channels.contains(&record.channel) && !self.is_excused(place, &record) {
                panic!("{place} of channel {} is missing, and nobody said so", record.channel);
            }
        }
    }

    fn is_excused(&self, place: usize, record: &Record) -> bool {
        // A stream that resumes from the log is told what is missing of the log, and of the ring as long
        // as there is one.
        let is_known = record.offset.is_some() || self.came_from_plain;
        let unknown = !is_known && !(record.received && self.lingers);
        let told_plain = self.told_plain.get(&record.channel).is_some_and(|until| place < *until);
        self.told.contains_key(&record.channel)
            || unknown
            || (record.offset.is_none() && told_plain)
    }
}
