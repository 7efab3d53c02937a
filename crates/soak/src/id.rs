//! Event ids as a client sees them, parsed independently of the product. Look here for the form of
//! an id and for which id may follow which.

use std::collections::HashMap;

/// A parsed id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Id<'a> {
    /// A position in the log, or after one.
    Position(Position),
    /// An id set by the publisher.
    Publisher(&'a str),
    /// Neither: empty, or of another form.
    Invalid,
}

/// A position in the log or, with `node`, of an ephemeral event that a node numbered after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The epoch of the log.
    pub epoch: u64,
    /// The offset in the log.
    pub offset: u64,
    /// The node's own epoch and number.
    pub node: Option<(u64, u64)>,
}

/// The prefix of the ids that the checker's publishers set; no position begins with it.
pub const PUBLISHER_PREFIX: &str = "own.";

/// The id that the checker sets on an event, when it sets one.
pub fn publisher_id(channel: &str, number: u64) -> String {
    format!("{PUBLISHER_PREFIX}{channel}.{number}")
}

/// Parses an id.
pub fn parse(id: &str) -> Id<'_> {
    if id.starts_with(PUBLISHER_PREFIX) {
        return Id::Publisher(id);
    }
    if id.is_empty() || id.len() > 64 {
        return Id::Invalid;
    }
    parse_position(id).map_or(Id::Invalid, Id::Position)
}

fn parse_position(id: &str) -> Option<Position> {
    let (log, node) = match id.split_once('~') {
        Some((log, node)) => (log, Some(parse_part(node)?)),
        None => (id, None),
    };
    let (epoch, offset) = parse_part(log)?;
    Some(Position { epoch, offset, node })
}

fn parse_part(part: &str) -> Option<(u64, u64)> {
    let (epoch, number) = part.split_once('-')?;
    Some((u64::from_str_radix(epoch, 16).ok()?, number.parse().ok()?))
}

/// Tracks the positions of one client, over all its channels and streams.
#[derive(Default)]
pub struct Order {
    last: Option<Position>,
    /// The last number of each node, by the node's epoch.
    nodes: HashMap<u64, u64>,
    past_epochs: Vec<u64>,
}

/// Why a position may not follow the previous one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disorder {
    /// It is not greater.
    Back,
    /// The epoch is new.
    NewEpoch,
    /// The epoch has already ended.
    OldEpoch,
}

impl Order {
    /// Judges the next position, and compares the one after it with this one in any case.
    pub fn next(&mut self, next: Position) -> Option<Disorder> {
        let last = self.last.replace(next);
        let number_grows = next.node.is_none_or(|(node, number)| {
            self.nodes.insert(node, number).is_none_or(|last| number > last)
        });
        let last = last?;
        if next.epoch != last.epoch {
            let is_past = self.past_epochs.contains(&next.epoch);
            self.past_epochs.push(last.epoch);
            return Some(if is_past { Disorder::OldEpoch } else { Disorder::NewEpoch });
        }
        let offset_grows = match next.node {
            None => next.offset > last.offset,
            Some(_) => next.offset >= last.offset,
        };
        (!offset_grows || !number_grows).then_some(Disorder::Back)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(ids: &[&str]) -> Vec<Option<Disorder>> {
        let mut order = Order::default();
        let position = |id: &&str| match parse(id) {
            Id::Position(position) => position,
            other => panic!("{id}: {other:?}"),
        };
        ids.iter().map(|id| order.next(position(id))).collect()
    }

    #[test]
    fn ids_are_parsed() {
        let ephemeral = Position { epoch: 0xab, offset: 7, node: Some((0xcd, 3)) };
        assert_eq!(parse("ab-7~cd-3"), Id::Position(ephemeral));
        assert_eq!(parse("ab-7"), Id::Position(Position { node: None, ..ephemeral }));
        assert_eq!(parse("own.a.1"), Id::Publisher("own.a.1"));
        for invalid in ["", "7", "ab-", "xy-1", "ab-7~", "ab-7~cd"] {
            assert_eq!(parse(invalid), Id::Invalid, "{invalid}");
        }
    }

    #[test]
    fn positions_must_grow() {
        use Disorder::{Back, NewEpoch, OldEpoch};
        assert_eq!(order(&["a-1", "a-3", "a-3~c-1", "a-3~c-2", "a-4"]), [None; 5]);
        assert_eq!(order(&["a-2", "a-2"]), [None, Some(Back)]);
        assert_eq!(order(&["a-3", "a-2"]), [None, Some(Back)]);
        assert_eq!(order(&["a-3~c-1", "a-3"]), [None, Some(Back)]);
        assert_eq!(order(&["a-3~c-2", "a-4~c-2"]), [None, Some(Back)]);
        assert_eq!(order(&["a-3~c-2", "a-3~d-1", "a-3~c-3"]), [None; 3]);
        assert_eq!(order(&["a-3", "a-2~c-1"]), [None, Some(Back)]);
        assert_eq!(order(&["a-9", "b-1", "a-10"]), [None, Some(NewEpoch), Some(OldEpoch)]);
    }
}
