//! What was published: every event is numbered in its channel before it is sent, and what became of
//! the sending is noted. Look here for what counts as acknowledged.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::id::{self, Id};

/// Where the events of a channel come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Through Headwater or the function in Redis: kept in the log.
    Durable,
    /// By `PUBLISH` from a Redis client: kept by the node only.
    Plain,
}

/// The way that an event took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// `POST /sse/publish`.
    Post,
    /// The same with an idempotency key, repeated until it is acknowledged, also by another way.
    Keyed,
    /// `POST /sse/publish` with NDJSON.
    Batch,
    /// `FCALL headwater_publish`.
    Function,
    /// `PUBLISH`.
    Plain,
}

/// What became of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// No answer, an error, or no answer yet: it may arrive, in its place or later, and once.
    Unknown,
    /// The server has it. For a durable event with its position, if the server told it.
    Acknowledged(Option<String>),
}

/// One event.
#[derive(Debug, Clone)]
pub struct Published {
    /// How it was sent.
    pub route: Route,
    /// When that began, in milliseconds since the beginning of the round.
    pub at_ms: u32,
    /// What became of it.
    pub outcome: Outcome,
}

/// All events of a channel; number `n` is at `n - 1`.
#[derive(Debug, Clone)]
pub struct Channel {
    /// Its name.
    pub name: String,
    /// What kind of events it has.
    pub kind: Kind,
    /// Its events.
    pub published: Vec<Published>,
}

/// What is published in a round, while it is.
pub struct Ledger {
    begin: Instant,
    channels: Vec<Mutex<Channel>>,
}

impl Ledger {
    /// A ledger for some channels, which begins now.
    pub fn new(channels: impl IntoIterator<Item = (String, Kind)>) -> Self {
        let channel = |(name, kind)| Mutex::new(Channel { name, kind, published: Vec::new() });
        Self { begin: Instant::now(), channels: channels.into_iter().map(channel).collect() }
    }

    /// Milliseconds since the beginning.
    pub fn now_ms(&self) -> u32 {
        u32::try_from(self.begin.elapsed().as_millis()).unwrap_or(u32::MAX)
    }

    /// How many channels there are.
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

    /// Which channel has a name.
    pub fn find(&self, name: &str) -> Option<usize> {
        (0..self.channels.len()).find(|channel| self.lock(*channel).name == name)
    }

    /// Gives the next event its number, before it is sent.
    pub fn begin(&self, channel: usize, route: Route) -> u64 {
        let at_ms = self.now_ms();
        let mut channel = self.lock(channel);
        channel.published.push(Published { route, at_ms, outcome: Outcome::Unknown });
        channel.published.len() as u64
    }

    /// The highest number given so far.
    pub fn begun(&self, channel: usize) -> u64 {
        self.lock(channel).published.len() as u64
    }

    /// Notes that the server has an event, and what it said its id is.
    pub fn acknowledge(&self, channel: usize, number: u64, id: Option<&str>) {
        let position = id.filter(|id| matches!(id::parse(id), Id::Position(_)));
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

    /// What is in it now.
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
    /// An event by its number.
    pub fn event(&self, number: u64) -> Option<&Published> {
        self.published.get(usize::try_from(number.checked_sub(1)?).ok()?)
    }
}

impl fmt::Display for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} begun at {} ms, ", self.route, self.at_ms)?;
        match &self.outcome {
            Outcome::Unknown => f.write_str("not acknowledged"),
            Outcome::Acknowledged(None) => f.write_str("acknowledged"),
            Outcome::Acknowledged(Some(id)) => write!(f, "acknowledged as {id}"),
        }
    }
}
