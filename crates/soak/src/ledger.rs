//! The ledger of published events: each is numbered in its channel before it is sent, and its
//! outcome is recorded. Look here for what counts as acknowledged.

use std::collections::VecDeque;
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use fastrand::Rng;

use crate::id::{self, Id};

/// How the events of a channel are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Through Headwater or the Redis function: retained in the log.
    Durable,
    /// By `PUBLISH` from a Redis client: ephemeral, in the nodes' rings only.
    Ephemeral,
}

/// The way an event was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// `POST /sse/publish`.
    Post,
    /// `POST /sse/publish` or `FCALL` with an idempotency key, repeated until acknowledged.
    Keyed,
    /// `POST /sse/publish` with NDJSON.
    Batch,
    /// `FCALL headwater_publish`.
    Function,
    /// `PUBLISH`.
    Publish,
}

/// The outcome of publishing an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// No response, an error, or no response yet: it may arrive once, in its place or later.
    Unknown,
    /// The server has it. With the position of a durable event, if the receipt has one.
    Acknowledged(Option<String>),
}

/// One event.
#[derive(Debug, Clone)]
pub struct Published {
    /// How it was sent.
    pub route: Route,
    /// When sending began, in milliseconds since the start of the round.
    pub at_ms: u32,
    /// The outcome.
    pub outcome: Outcome,
}

/// All events of a channel; number `n` is at `n - 1`.
#[derive(Debug, Clone)]
pub struct Channel {
    /// The name.
    pub name: String,
    /// The kind of its events.
    pub kind: Kind,
    /// Its events.
    pub published: Vec<Published>,
}

/// The events of a round, recorded while it runs.
pub struct Ledger {
    begin: Instant,
    channels: Vec<Mutex<Channel>>,
    receipts: Mutex<VecDeque<Given>>,
}

/// An id that was given out, and the highest number of each channel that it may stand for: a client
/// that resumes from it receives what was sent later.
#[derive(Debug, Clone)]
pub struct Given {
    /// The id.
    pub id: String,
    /// The numbers, by channel.
    pub begun: Vec<u64>,
}

/// The name in Headwater of a channel of the ledger: events of two kinds can share one.
pub fn name_in_headwater(name: &str) -> &str {
    name.split_once('/').map_or(name, |(name, _)| name)
}

/// Receipts from which clients choose one.
const RECEIPTS_MAX: usize = 200;

impl Ledger {
    /// A ledger for some channels; its clock starts now.
    pub fn new(channels: impl IntoIterator<Item = (String, Kind)>) -> Self {
        let channel = |(name, kind)| Mutex::new(Channel { name, kind, published: Vec::new() });
        Self {
            begin: Instant::now(),
            channels: channels.into_iter().map(channel).collect(),
            receipts: Mutex::default(),
        }
    }

    /// Milliseconds since the start of the round.
    pub fn now_ms(&self) -> u32 {
        u32::try_from(self.begin.elapsed().as_millis()).unwrap_or(u32::MAX)
    }

    /// The number of channels.
    pub fn channels(&self) -> usize {
        self.channels.len()
    }

    /// The name of a channel.
    pub fn name(&self, channel: usize) -> String {
        self.lock(channel).name.clone()
    }

    /// The kind of a channel.
    pub fn kind(&self, channel: usize) -> Kind {
        self.lock(channel).kind
    }

    /// The channel with a name.
    pub fn find(&self, name: &str) -> Option<usize> {
        (0..self.channels.len()).find(|channel| self.lock(*channel).name == name)
    }

    /// The channels whose events have this name in Headwater.
    pub fn find_all(&self, name: &str) -> Vec<usize> {
        let has_name = |channel: &usize| name_in_headwater(&self.lock(*channel).name) == name;
        (0..self.channels.len()).filter(has_name).collect()
    }

    /// One of the last receipts. Half of the time the very last: not every node knows of it yet.
    pub fn receipt(&self, rng: &mut Rng) -> Option<Given> {
        let receipts = self.receipts.lock().unwrap_or_else(PoisonError::into_inner);
        let among = if rng.bool() { 1 } else { receipts.len() };
        rng.choice(receipts.iter().take(among)).cloned()
    }

    /// Assigns the next number to an event that is about to be sent.
    pub fn begin(&self, channel: usize, route: Route) -> u64 {
        let at_ms = self.now_ms();
        let mut channel = self.lock(channel);
        channel.published.push(Published { route, at_ms, outcome: Outcome::Unknown });
        channel.published.len() as u64
    }

    /// The highest number assigned so far.
    pub fn begun(&self, channel: usize) -> u64 {
        self.lock(channel).published.len() as u64
    }

    /// Records that the server has an event, and the id of its receipt.
    pub fn acknowledge(&self, channel: usize, number: u64, id: Option<&str>) {
        let position = id.filter(|id| matches!(id::parse(id), Id::Position(_)));
        if let Some(id) = position {
            let begun = (0..self.channels.len()).map(|channel| self.begun(channel)).collect();
            let mut receipts = self.receipts.lock().unwrap_or_else(PoisonError::into_inner);
            receipts.truncate(RECEIPTS_MAX - 1);
            receipts.push_front(Given { id: id.to_owned(), begun });
        }
        let mut channel = self.lock(channel);
        let index = usize::try_from(number).unwrap_or(usize::MAX).wrapping_sub(1);
        if let Some(published) = channel.published.get_mut(index) {
            published.outcome = Outcome::Acknowledged(position.map(str::to_owned));
        }
    }

    /// The highest number that is acknowledged.
    pub fn last_acknowledged(&self, channel: usize) -> u64 {
        let channel = self.lock(channel);
        let last = channel.published.iter().rposition(Published::is_acknowledged);
        last.map_or(0, |index| index as u64 + 1)
    }

    /// A copy of all channels.
    pub fn snapshot(&self) -> Vec<Channel> {
        (0..self.channels.len()).map(|channel| self.lock(channel).clone()).collect()
    }

    fn lock(&self, channel: usize) -> MutexGuard<'_, Channel> {
        self.channels[channel].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Published {
    /// Whether the server has it.
    pub fn is_acknowledged(&self) -> bool {
        matches!(self.outcome, Outcome::Acknowledged(_))
    }
}

impl Channel {
    /// Takes back the acknowledgment of events that a program published in Redis within a time, if
    /// nobody received them. Redis was restored from an older copy then: if no node had heard of an
    /// event, no node can report that it is missing.
    pub fn forget_unheard(&mut self, time: RangeInclusive<u32>, is_heard: impl Fn(u64) -> bool) {
        for (published, number) in self.published.iter_mut().zip(1..) {
            let may_be_lost = published.route == Route::Function && time.contains(&published.at_ms);
            if may_be_lost && !is_heard(number) {
                published.outcome = Outcome::Unknown;
            }
        }
    }

    /// An event by its number.
    pub fn event(&self, number: u64) -> Option<&Published> {
        self.published.get(usize::try_from(number.checked_sub(1)?).ok()?)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Post => "POST",
            Self::Keyed => "keyed publish",
            Self::Batch => "batch",
            Self::Function => "FCALL",
            Self::Publish => "PUBLISH",
        })
    }
}

impl fmt::Display for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {} ms, ", self.route, self.at_ms)?;
        match &self.outcome {
            Outcome::Unknown => f.write_str("not acknowledged"),
            Outcome::Acknowledged(None) => f.write_str("acknowledged"),
            Outcome::Acknowledged(Some(id)) => write!(f, "acknowledged as {id}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_heard_before_a_restore_is_forgotten() {
        let events = [
            (Route::Function, 10),
            (Route::Function, 20),
            (Route::Post, 20),
            (Route::Function, 21),
            (Route::Function, 30),
        ];
        let published = events.map(|(route, at_ms)| Published {
            route,
            at_ms,
            outcome: Outcome::Acknowledged(None),
        });
        let mut channel =
            Channel { name: "a".to_owned(), kind: Kind::Durable, published: published.into() };
        channel.forget_unheard(15..=25, |number| number == 4);
        let acknowledged = channel.published.iter().map(Published::is_acknowledged);
        assert_eq!(acknowledged.collect::<Vec<_>>(), [true, false, true, true, true]);
    }
}
