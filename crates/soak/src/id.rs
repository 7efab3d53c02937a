//! Ids of events as a client sees them, read independently of the product. Look here for what an id
//! must look like and which may follow which.

use std::collections::HashMap;

/// What an id says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Id<'a> {
    /// A place in the log, or after one.
    Position(Position),
    /// What the publisher gave.
    Own(&'a str),
    /// Neither: none, or one that breaks the rules for ids.
    Strange,
}

/// A place in the log, or, with `plain`, in what a node numbered after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The life of the log.
    pub epoch: u64,
    /// The number in the log.
    pub offset: u64,
    /// The node's own epoch and number.
    pub plain: Option<(u64, u64)>,
}

/// Ids that publishers of the checker give begin with this; no position does.
pub const OWN: &str = "own.";

/// Reads an id.
pub fn parse(id: &str) -> Id<'_> {
    if id.starts_with(OWN) {
        return Id::Own(id);
    }
    if id.is_empty() || id.len() > 64 {
        return Id::Strange;
    }
    parse_position(id).map_or(Id::Strange, Id::Position)
}

fn parse_position(id: &str) -> Option<Position> {
    let (log, plain) = match id.split_once('~') {
        Some((log, plain)) => (log, Some(parse_part(plain)?)),
        None => (id, None),
    };
    let (epoch, offset) = parse_part(log)?;
    Some(Position { epoch, offset, plain })
}

fn parse_part(part: &str) -> Option<(u64, u64)> {
    let (epoch, number) = part.split_once('-')?;
    Some((u64::from_str_radix(epoch, 16).ok()?, number.parse().ok()?))
}

/// Follows the positions of one client, over all its channels and streams.
#[derive(Default)]
pub struct Order {
    last: Option<Position>,
    /// The last number of each node.
    nodes: HashMap<u64, u64>,
    past_epochs: Vec<u64>,
}

/// What is wrong with a position where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disorder {
    /// It is not after the one before it.
    Back,
    /// The log has another epoch than before.
    NewEpoch,
    /// The log has an epoch that was over already.
    OldEpoch,
}

impl Order {
    /// Takes the next position. What follows is compared with it, whatever was wrong with it.
    pub fn next(&mut self, next: Position) -> Option<Disorder> {
        let last = self.last.replace(next);
        let number_grows = next.plain.is_none_or(|(node, number)| {
            self.nodes.insert(node, number).is_none_or(|last| number > last)
        });
        let last = last?;
        if next.epoch != last.epoch {
            let is_past = self.past_epochs.contains(&next.epoch);
            self.past_epochs.push(last.epoch);
            return Some(if is_past { Disorder::OldEpoch } else { Disorder::NewEpoch });
        }
        let offset_grows = match next.plain {
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
    fn ids_are_read() {
        let plain = Position { epoch: 0xab, offset: 7, plain: Some((0xcd, 3)) };
        assert_eq!(parse("ab-7~cd-3"), Id::Position(plain));
        assert_eq!(parse("ab-7"), Id::Position(Position { plain: None, ..plain }));
        assert_eq!(parse("own.a.1"), Id::Own("own.a.1"));
        for strange in ["", "7", "ab-", "xy-1", "ab-7~", "ab-7~cd"] {
            assert_eq!(parse(strange), Id::Strange, "{strange}");
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
