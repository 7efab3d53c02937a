//! The verdict: compares what was published with what each client received. No IO. Look here for
//! what "lossless" means.
//!
//! For each client and channel, from the client's first position to the end: every acknowledged
//! event arrives once, in order. An event that was not acknowledged arrives at every client if it
//! arrives at any, once, and never before an event that was acknowledged before it was sent.
//! Positions increase over all channels of a stream. A gap event reports missing events in their
//! place that were sent before it arrived, and none is sent where the rules allow no gap. Where the
//! log may be reset, each channel has a gap event before its first event of the new epoch; events
//! that were sent before that gap event and are left of the log may arrive between it and the place
//! of the missing ones. A client that is disconnected before its first ephemeral event may have a
//! gap event, too.

mod reference;

use std::collections::{HashMap, HashSet};

use crate::id::{self, Disorder, Id, Order, Position, publisher_id};
use crate::ledger::{Channel, Kind, Outcome, Published};
use crate::log::{ClientLog, Entry, Line};

use reference::Reference;

/// Counterexamples per kind and client, at most: the first ones show what is wrong.
const ALIKE_MAX: usize = 2;
/// Counterexamples in total, at most.
const COUNTEREXAMPLES_MAX: usize = 12;

/// How soon a node must notice that its connection does not pass on everything.
const NOTICED_WITHIN_MS: u32 = 10_000;

/// When a gap event may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gaps {
    /// Never: nothing can be missing.
    Never,
    /// Only where an event is missing.
    Missing,
    /// Wherever an event may be missing as far as the node knows.
    Allowed,
}

/// What a scenario allows.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// For channels with durable events. On a stream that also has ephemeral events, `ephemeral`
    /// decides which gap events may be sent: a node that does not know the id of an ephemeral event
    /// cannot know which channels have such events. Which events may be missing is decided by this
    /// field even then.
    pub durable: Gaps,
    /// For channels with ephemeral events.
    pub ephemeral: Gaps,
    /// Whether the log may lose its data, and so be reset to a new epoch.
    pub new_epochs: bool,
}

/// A violation of the rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// Events are missing, and no gap event reports them in their place, or none may be missing.
    Missing {
        /// The channel.
        channel: usize,
        /// The numbers of the missing events.
        numbers: Vec<u64>,
    },
    /// An event arrived again.
    Twice {
        /// The channel.
        channel: usize,
        /// The number of the event.
        number: u64,
        /// The line where it arrived first.
        first_line: usize,
    },
    /// An event arrived after one that was published later.
    OutOfOrder {
        /// The channel.
        channel: usize,
        /// The number of the event.
        number: u64,
        /// The number of the event that it should precede.
        before: u64,
    },
    /// A position does not follow the previous one.
    Position {
        /// The id with the position.
        id: String,
        /// The reason.
        disorder: Disorder,
    },
    /// An event has another id than in its receipt or at another client.
    OtherId {
        /// The differing id.
        id: String,
        /// The first id seen for the event.
        first: String,
    },
    /// Two events have the same id.
    SameId {
        /// The id.
        id: String,
        /// The first event with the id: channel and number.
        first: (usize, u64),
    },
    /// The id of an event is not valid.
    InvalidId(String),
    /// A gap event that the scenario does not allow, or where nothing is missing.
    FalseGap {
        /// The channel.
        channel: usize,
    },
    /// The log has a new epoch, and the client received no gap event before.
    SilentEpoch,
    /// Something that was never published, or not for this client.
    Alien(String),
    /// A stream was rejected with this status.
    Rejected(u16),
    /// No stream of the client ever opened.
    NeverOpened,
}

/// A violation, and where it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counterexample {
    /// The client, by index.
    pub client: usize,
    /// The line of its log, approximately.
    pub line: usize,
    /// The violation.
    pub violation: Violation,
}

/// Compares what was published with what all clients received. Empty means lossless.
pub fn check(channels: &[Channel], clients: &[ClientLog], rules: Rules) -> Vec<Counterexample> {
    let mut found = Vec::new();
    let references = reference::build(channels, clients);
    let mut ids = Ids::from_publishers(channels);
    for (client, log) in clients.iter().enumerate() {
        let mut checker = Checker { channels, client, log, rules, found: &mut found };
        checker.lines(&mut ids);
        for (slot, channel) in log.channels.iter().enumerate() {
            checker.channel(*channel, slot, &references[*channel]);
        }
        if found.len() >= COUNTEREXAMPLES_MAX {
            found.truncate(COUNTEREXAMPLES_MAX);
            break;
        }
    }
    found
}

struct Checker<'a> {
    channels: &'a [Channel],
    client: usize,
    log: &'a ClientLog,
    rules: Rules,
    found: &'a mut Vec<Counterexample>,
}

impl Checker<'_> {
    fn report(&mut self, line: usize, violation: Violation) {
        let kind = std::mem::discriminant(&violation);
        let is_alike = |found: &&Counterexample| {
            found.client == self.client && std::mem::discriminant(&found.violation) == kind
        };
        if self.found.iter().filter(is_alike).count() < ALIKE_MAX {
            self.found.push(Counterexample { client: self.client, line, violation });
        }
    }

    fn report_unless(&mut self, is_fine: bool, line: usize, violation: Violation) {
        if !is_fine {
            self.report(line, violation);
        }
    }

    /// Finds the violations that show line by line.
    fn lines(&mut self, ids: &mut Ids) {
        let mut epochs = Epochs::default();
        for (at, line) in self.log.lines.iter().enumerate() {
            match &line.entry {
                Entry::Event { channel, number, id } => {
                    self.event(at, *channel, *number);
                    self.id(at, (*channel, *number), id, ids);
                    if let Id::Position(position) = id::parse(id) {
                        self.position(at, (*channel, position), id, &mut epochs);
                    }
                }
                Entry::Gap { channel, .. } => {
                    epochs.gap(*channel);
                    let has_ephemeral = self.has_ephemeral() && self.rules.ephemeral != Gaps::Never;
                    if !self.log.channels.contains(channel) {
                        self.report(at, Violation::Alien("a gap of another channel".to_owned()));
                    } else if self.gaps_of(*channel) == Gaps::Never
                        && !has_ephemeral
                        && !self.is_before_ephemeral(at, *channel)
                    {
                        self.report(at, Violation::FalseGap { channel: *channel });
                    }
                }
                Entry::Alien(what) => self.report(at, Violation::Alien(what.clone())),
                Entry::Rejected(status) => self.report(at, Violation::Rejected(*status)),
                Entry::Opened { .. } | Entry::Dropped | Entry::Ended(_) => {}
            }
        }
    }

    fn gaps_of(&self, channel: usize) -> Gaps {
        match self.channels[channel].kind {
            Kind::Durable => self.rules.durable,
            Kind::Ephemeral => self.rules.ephemeral,
        }
    }

    fn has_ephemeral(&self) -> bool {
        let is_ephemeral = |channel: &usize| self.channels[*channel].kind == Kind::Ephemeral;
        self.log.channels.iter().any(is_ephemeral)
    }

    fn event(&mut self, at: usize, channel: usize, number: u64) {
        if !self.log.channels.contains(&channel) {
            self.report(at, Violation::Alien("an event of another channel".to_owned()));
        }
        if self.channels[channel].event(number).is_none() {
            self.report(at, Violation::Alien("an event that was never published".to_owned()));
        }
    }

    fn position(
        &mut self,
        at: usize,
        (channel, position): (usize, Position),
        id: &str,
        epochs: &mut Epochs,
    ) {
        let is_silent = epochs.event(channel, position.epoch);
        match epochs.order.next(position) {
            Some(Disorder::NewEpoch) if self.rules.new_epochs => {
                // A channel whose first event this is counts as well.
                let is_reported = std::mem::take(&mut epochs.any_reported) && !is_silent;
                self.report_unless(is_reported, at, Violation::SilentEpoch);
            }
            Some(disorder) => {
                self.report(at, Violation::Position { id: id.to_owned(), disorder });
            }
            None => {
                let is_fine = !is_silent || !self.rules.new_epochs;
                self.report_unless(is_fine, at, Violation::SilentEpoch);
            }
        }
    }

    fn id(&mut self, at: usize, event: (usize, u64), id: &str, ids: &mut Ids) {
        let (channel, number) = event;
        match id::parse(id) {
            Id::Invalid => return self.report(at, Violation::InvalidId(id.to_owned())),
            Id::Publisher(own) if own != publisher_id(&self.channels[channel].name, number) => {
                self.report(at, Violation::InvalidId(id.to_owned()));
            }
            Id::Position(position) => {
                // Each node numbers ephemeral events by itself.
                let node = position.node.map(|(node, _)| node);
                let first = ids.by_event.entry((event, node)).or_insert_with(|| id.to_owned());
                // A replay may deliver an ephemeral event after later events of the log.
                let is_same = match (id::parse(first), position.node) {
                    (Id::Position(first), Some(node)) => first.node == Some(node),
                    // What is left of the log in a new epoch has a position in that, too.
                    (Id::Position(first), None) if self.rules.new_epochs => {
                        first.node.is_none() && first.offset == position.offset
                    }
                    _ => first == id,
                };
                if !is_same {
                    let violation =
                        Violation::OtherId { id: id.to_owned(), first: first.to_owned() };
                    self.report(at, violation);
                }
            }
            Id::Publisher(_) => {}
        }
        let first = *ids.by_id.entry(id.to_owned()).or_insert(event);
        if first != event {
            self.report(at, Violation::SameId { id: id.to_owned(), first });
        }
    }

    /// Finds missing, repeated and misplaced events of one channel.
    fn channel(&mut self, channel: usize, slot: usize, reference: &Reference) {
        let received = self.received(channel);
        let Some((mark, opened)) = self.opened(slot, received.first().map(|(_, line)| *line))
        else {
            return self.report(0, Violation::NeverOpened);
        };
        let mut lines: HashMap<u64, usize> = HashMap::new();
        let mut highest = 0;
        for (number, line) in &received {
            if let Some(first_line) = lines.insert(*number, *line) {
                let violation = Violation::Twice { channel, number: *number, first_line };
                self.report(*line, violation);
                continue;
            }
            let acknowledged =
                self.channels[channel].event(*number).is_some_and(Published::is_acknowledged);
            if *number < highest && acknowledged {
                let violation = Violation::OutOfOrder { channel, number: *number, before: highest };
                self.report(*line, violation);
            }
            highest = highest.max(*number);
        }
        self.holes(channel, reference, &lines, mark, opened);
    }

    /// The received events of a channel, each with its line.
    fn received(&self, channel: usize) -> Vec<(u64, usize)> {
        let lines = self.log.lines.iter().enumerate();
        lines
            .filter_map(|(line, entry)| match &entry.entry {
                Entry::Event { channel: of, number, .. } if *of == channel => Some((*number, line)),
                _ => None,
            })
            .collect()
    }

    /// From where on events must arrive: the highest number assigned when the client last opened a
    /// stream without a `Last-Event-ID`, or that belongs to the id with which it began, and the
    /// line of that stream.
    fn opened(&self, slot: usize, before: Option<usize>) -> Option<(u64, usize)> {
        let lines = self.log.lines.iter().enumerate().take(before.unwrap_or(usize::MAX));
        let mut opened = lines.filter_map(|(line, entry)| match &entry.entry {
            Entry::Opened { resumed_from, begun, .. } => {
                Some((resumed_from.is_none(), begun[slot], line))
            }
            _ => None,
        });
        let first = opened.next()?;
        let last = opened.rfind(|(is_start, ..)| *is_start);
        let (_, begun, line) = last.unwrap_or(first);
        Some((begun, line))
    }

    fn holes(
        &mut self,
        channel: usize,
        reference: &Reference,
        lines: &HashMap<u64, usize>,
        mark: u64,
        opened: usize,
    ) {
        let gaps: Vec<usize> = self.gaps(channel);
        let mut explained = vec![false; gaps.len()];
        let must_from = reference
            .numbers
            .iter()
            .position(|number| *number > mark || lines.contains_key(number))
            .unwrap_or(reference.numbers.len());
        let mut missing = Vec::new();
        let mut before = opened;
        let end = (!self.log.left).then_some((u64::MAX, Some(self.log.lines.len())));
        let must = reference.numbers[must_from..].iter();
        let must = must.map(|number| (*number, lines.get(number).copied()));
        for (number, line) in must.chain(end) {
            let Some(line) = line else {
                missing.push(number);
                continue;
            };
            if !missing.is_empty() {
                let mut numbers = std::mem::take(&mut missing);
                let mut reported_ms = None;
                for (gap, explained) in gaps.iter().zip(&mut explained) {
                    if (before..line).contains(gap) || self.precedes_rest(*gap, before, channel) {
                        reported_ms = reported_ms.max(Some(self.log.lines[*gap].at_ms));
                        *explained = true;
                    }
                }
                // A gap event reports what was sent before it arrived. A Redis that passes on only
                // some of what is sent is noticed after later ephemeral events.
                let is_reported_later = |sent: u32| {
                    let noticed = sent..sent + NOTICED_WITHIN_MS;
                    self.channels[channel].kind == Kind::Ephemeral
                        && gaps.iter().any(|gap| noticed.contains(&self.log.lines[*gap].at_ms))
                };
                numbers.retain(|number| {
                    let sent = self.channels[channel].event(*number).map(|event| event.at_ms);
                    self.gaps_of(channel) == Gaps::Never
                        || (sent > reported_ms && !sent.is_some_and(is_reported_later))
                });
                if !numbers.is_empty() {
                    self.report(before, Violation::Missing { channel, numbers });
                }
            }
            before = line;
        }
        let only_missing = self.gaps_of(channel) == Gaps::Missing;
        for (gap, _) in gaps.iter().zip(explained).filter(|(_, explained)| !explained) {
            if only_missing && !self.is_before_ephemeral(*gap, channel) {
                self.report(*gap, Violation::FalseGap { channel });
            }
        }
    }

    /// Whether all events of the channel from the gap event to this line were sent before the gap
    /// event arrived: they are what a log that was reset has left.
    fn precedes_rest(&self, gap: usize, to: usize, channel: usize) -> bool {
        let gap_ms = self.log.lines[gap].at_ms;
        let is_left = |line: &Line| match &line.entry {
            Entry::Event { channel: of, number, .. } if *of == channel => {
                self.channels[channel].event(*number).is_some_and(|event| event.at_ms <= gap_ms)
            }
            _ => true,
        };
        self.rules.new_epochs && gap < to && self.log.lines[gap..=to].iter().all(is_left)
    }

    /// Whether a client resumed without having received any ephemeral event of the channel: its id
    /// does not say that it subscribed before the first one, so a gap event is right.
    fn is_before_ephemeral(&self, gap: usize, channel: usize) -> bool {
        let before = &self.log.lines[..gap];
        let opened = before.iter().rev().find_map(|line| match &line.entry {
            Entry::Opened { resumed_from, .. } => Some(resumed_from.as_deref().map(id::parse)),
            _ => None,
        });
        let is_event =
            |line: &Line| matches!(line.entry, Entry::Event { channel: of, .. } if of == channel);
        self.channels[channel].kind == Kind::Ephemeral
            && matches!(opened, Some(Some(Id::Position(Position { node: None, .. }))))
            && !before.iter().any(is_event)
    }

    fn gaps(&self, channel: usize) -> Vec<usize> {
        let lines = self.log.lines.iter().enumerate();
        lines
            .filter(
                |(_, line)| matches!(&line.entry, Entry::Gap { channel: of, .. } if *of == channel),
            )
            .map(|(at, _)| at)
            .collect()
    }
}

/// The epochs that a client has seen on each channel.
#[derive(Default)]
struct Epochs {
    order: Order,
    last: HashMap<usize, u64>,
    /// The channels with a gap event since their last event.
    reported: HashSet<usize>,
    /// Whether any channel had one since the epoch changed.
    any_reported: bool,
}

impl Epochs {
    fn gap(&mut self, channel: usize) {
        self.reported.insert(channel);
        self.any_reported = true;
    }

    /// Whether the event has another epoch than the one before it, without a gap event in between.
    fn event(&mut self, channel: usize, epoch: u64) -> bool {
        let is_reported = self.reported.remove(&channel);
        self.last.insert(channel, epoch).is_some_and(|last| last != epoch) && !is_reported
    }
}

/// The ids of all events, over all clients.
struct Ids {
    /// By channel and number, and the node if the node assigned the id.
    by_event: HashMap<((usize, u64), Option<u64>), String>,
    by_id: HashMap<String, (usize, u64)>,
}

impl Ids {
    fn from_publishers(channels: &[Channel]) -> Self {
        let mut ids = Self { by_event: HashMap::new(), by_id: HashMap::new() };
        for (channel, of) in channels.iter().enumerate() {
            for (published, number) in of.published.iter().zip(1..) {
                if let Outcome::Acknowledged(Some(id)) = &published.outcome {
                    ids.by_event.insert(((channel, number), None), id.clone());
                    ids.by_id.entry(id.clone()).or_insert((channel, number));
                }
            }
        }
        ids
    }
}

#[cfg(test)]
mod round_tests;
#[cfg(test)]
mod tests;
