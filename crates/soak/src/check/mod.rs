//! The verdict: compares what was published with what each client got. No IO. Look here for what
//! "lossless" means.
//!
//! For each client and channel, from its first position to the end: every acknowledged event once, in
//! order; of events that were not acknowledged, those that anybody saw, once, and never before an event
//! that was acknowledged before they were sent. Positions grow over all channels of a stream. What is
//! missing is announced in its place, and nothing is announced where the rules allow no gap.

mod reference;

use std::collections::HashMap;

use crate::id::{self, Disorder, Id, Order};
use crate::ledger::{Channel, Kind, Outcome, Published};
use crate::log::{ClientLog, Entry};

use reference::Reference;

/// Most counterexamples of one kind and client, and of all: the first tell what is wrong.
const ALIKE_MAX: usize = 2;
/// See [`ALIKE_MAX`].
const COUNTEREXAMPLES_MAX: usize = 12;

/// When a gap may be announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gaps {
    /// Never: nothing can be missing.
    Never,
    /// Where something is missing, and nowhere else.
    Missing,
    /// Where something may be missing as far as the node can know.
    Allowed,
}

/// What a scenario allows.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Gaps of channels with durable events. On a stream that has plain events too, `plain` tells what
    /// may be announced: a node that does not know a plain event's id cannot know either which of the
    /// channels have plain events. What may be missing, this tells all the same.
    pub durable: Gaps,
    /// Gaps of channels with plain events.
    pub plain: Gaps,
    /// Whether the log may lose its data, and so get a new epoch.
    pub new_epochs: bool,
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// Events did not come, and no gap was announced in their place, or none may be.
    Missing {
        /// Of this channel.
        channel: usize,
        /// These numbers.
        numbers: Vec<u64>,
    },
    /// An event came again; it had come at a line before.
    Twice {
        /// Of this channel.
        channel: usize,
        /// This number.
        number: u64,
        /// Where it came first.
        first_line: usize,
    },
    /// An event came after one that was published later.
    OutOfOrder {
        /// Of this channel.
        channel: usize,
        /// This number.
        number: u64,
        /// It should have come before this one.
        before: u64,
    },
    /// A position does not follow the one before it.
    Position {
        /// This one.
        id: String,
        /// Why.
        disorder: Disorder,
    },
    /// An event has another id than the publisher or another client was told.
    OtherId {
        /// This one.
        id: String,
        /// The one told first.
        first: String,
    },
    /// Two events have the same id.
    SameId {
        /// This one.
        id: String,
        /// The event that had it first: channel and number.
        first: (usize, u64),
    },
    /// An event has an id that is no id.
    StrangeId(String),
    /// A gap was announced that the scenario does not allow, or where nothing is missing.
    FalseGap {
        /// In this channel.
        channel: usize,
    },
    /// The log has a new epoch, and the client was told of no gap before.
    SilentEpoch,
    /// Something that nobody published, or not for this client.
    Alien(String),
    /// A stream was refused.
    Refused(u16),
    /// The client never had a stream.
    NeverOpened,
}

/// What is wrong with what a client got, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counterexample {
    /// Which client.
    pub client: usize,
    /// Around which line of its log.
    pub line: usize,
    /// What.
    pub violation: Violation,
}

/// Compares everything with everything. Empty is lossless.
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

    /// What can be seen line by line.
    fn lines(&mut self, ids: &mut Ids) {
        let mut order = Order::default();
        let mut told_of_gap = false;
        for (at, line) in self.log.lines.iter().enumerate() {
            match &line.entry {
                Entry::Event { channel, number, id } => {
                    self.event(at, *channel, *number);
                    self.id(at, (*channel, *number), id, ids);
                    if let Id::Position(position) = id::parse(id) {
                        let disorder = order.next(position);
                        self.disorder(at, id, disorder, &mut told_of_gap);
                    }
                }
                Entry::Gap { channel, .. } => {
                    told_of_gap = true;
                    let has_plain = self.has_plain() && self.rules.plain != Gaps::Never;
                    if !self.log.channels.contains(channel) {
                        self.report(at, Violation::Alien("a gap of another channel".to_owned()));
                    } else if self.gaps_of(*channel) == Gaps::Never && !has_plain {
                        self.report(at, Violation::FalseGap { channel: *channel });
                    }
                }
                Entry::Alien(what) => self.report(at, Violation::Alien(what.clone())),
                Entry::Refused(status) => self.report(at, Violation::Refused(*status)),
                Entry::Opened { .. } | Entry::Dropped | Entry::Ended(_) => {}
            }
        }
    }

    fn gaps_of(&self, channel: usize) -> Gaps {
        match self.channels[channel].kind {
            Kind::Durable => self.rules.durable,
            Kind::Plain => self.rules.plain,
        }
    }

    fn has_plain(&self) -> bool {
        let is_plain = |channel: &usize| self.channels[*channel].kind == Kind::Plain;
        self.log.channels.iter().any(is_plain)
    }

    fn event(&mut self, at: usize, channel: usize, number: u64) {
        if !self.log.channels.contains(&channel) {
            self.report(at, Violation::Alien("an event of another channel".to_owned()));
        }
        if self.channels[channel].event(number).is_none() {
            self.report(at, Violation::Alien("an event that was never published".to_owned()));
        }
    }

    fn disorder(&mut self, at: usize, id: &str, disorder: Option<Disorder>, told: &mut bool) {
        let Some(disorder) = disorder else { return };
        if disorder == Disorder::NewEpoch && self.rules.new_epochs {
            if !std::mem::take(told) {
                self.report(at, Violation::SilentEpoch);
            }
        } else {
            self.report(at, Violation::Position { id: id.to_owned(), disorder });
        }
    }

    fn id(&mut self, at: usize, event: (usize, u64), id: &str, ids: &mut Ids) {
        let (channel, number) = event;
        match id::parse(id) {
            Id::Strange => return self.report(at, Violation::StrangeId(id.to_owned())),
            Id::Own(own) if own != own_id(&self.channels[channel].name, number) => {
                self.report(at, Violation::StrangeId(id.to_owned()));
            }
            Id::Position(position) => {
                // Every node numbers plain events by itself.
                let node = position.plain.map(|(node, _)| node);
                let first = ids.by_event.entry((event, node)).or_insert_with(|| id.to_owned());
                if first != id {
                    let violation =
                        Violation::OtherId { id: id.to_owned(), first: first.to_owned() };
                    self.report(at, violation);
                }
            }
            Id::Own(_) => {}
        }
        let first = *ids.by_id.entry(id.to_owned()).or_insert(event);
        if first != event {
            self.report(at, Violation::SameId { id: id.to_owned(), first });
        }
    }

    /// What is missing, came twice or in disorder in one channel.
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

    /// The events of a channel, each with its line.
    fn received(&self, channel: usize) -> Vec<(u64, usize)> {
        let lines = self.log.lines.iter().enumerate();
        lines
            .filter_map(|(line, entry)| match &entry.entry {
                Entry::Event { channel: of, number, .. } if *of == channel => Some((*number, line)),
                _ => None,
            })
            .collect()
    }

    /// From when on the client must get everything: the highest number begun when its last stream
    /// opened that resumed from nowhere, and that stream's line.
    fn opened(&self, slot: usize, before: Option<usize>) -> Option<(u64, usize)> {
        let lines = self.log.lines.iter().enumerate().take(before.unwrap_or(usize::MAX));
        lines
            .filter_map(|(line, entry)| match &entry.entry {
                Entry::Opened { resumed_from: None, begun, .. } => Some((begun[slot], line)),
                _ => None,
            })
            .next_back()
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
        let end = (u64::MAX, self.log.lines.len());
        let must = reference.numbers[must_from..].iter();
        let must = must.map(|number| (*number, lines.get(number).copied()));
        for (number, line) in must.chain([(end.0, Some(end.1))]) {
            let Some(line) = line else {
                missing.push(number);
                continue;
            };
            if !missing.is_empty() {
                let numbers = std::mem::take(&mut missing);
                let mut is_told = false;
                for (gap, explained) in gaps.iter().zip(&mut explained) {
                    if (before..line).contains(gap) {
                        is_told = true;
                        *explained = true;
                    }
                }
                if !is_told || self.gaps_of(channel) == Gaps::Never {
                    self.report(before, Violation::Missing { channel, numbers });
                }
            }
            before = line;
        }
        let only_missing = self.gaps_of(channel) == Gaps::Missing;
        for (gap, _) in gaps.iter().zip(explained).filter(|(_, explained)| !explained) {
            if only_missing {
                self.report(*gap, Violation::FalseGap { channel });
            }
        }
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

/// The id that the checker gives to an event when it gives one.
pub fn own_id(channel: &str, number: u64) -> String {
    format!("{}{channel}.{number}", id::OWN)
}

/// Which event has which id, over all clients.
struct Ids {
    /// By channel and number, and the node if that made it.
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
mod tests;
