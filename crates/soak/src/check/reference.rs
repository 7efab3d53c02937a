//! The order that every client must see in a channel: acknowledged events by number, and those not
//! acknowledged but received, in their place. Look here for where unacknowledged events belong.

use std::collections::HashMap;

use crate::id::{self, Id, Position};
use crate::ledger::{Channel, Kind, Outcome};
use crate::log::{ClientLog, Entry};

/// The events of a channel, in order.
pub(super) struct Reference {
    pub(super) numbers: Vec<u64>,
}

/// The references of all channels.
pub(super) fn build(channels: &[Channel], clients: &[ClientLog]) -> Vec<Reference> {
    let mut seen: Vec<HashMap<u64, Position>> = vec![HashMap::new(); channels.len()];
    for line in clients.iter().flat_map(|client| &client.lines) {
        if let Entry::Event { channel, number, id } = &line.entry
            && let Id::Position(position) = id::parse(id)
        {
            seen[*channel].insert(*number, position);
        }
    }
    channels.iter().zip(&seen).map(|(channel, seen)| of_channel(channel, seen)).collect()
}

fn of_channel(channel: &Channel, seen: &HashMap<u64, Position>) -> Reference {
    let mut numbers = Vec::new();
    let mut late: Vec<(u64, Position)> = Vec::new();
    for (published, number) in channel.published.iter().zip(1..) {
        match (&published.outcome, seen.get(&number)) {
            (Outcome::Acknowledged(_), _) => numbers.push(number),
            // An unacknowledged ephemeral event has no position that two nodes agree on.
            (Outcome::Unknown, Some(position)) if channel.kind == Kind::Durable => {
                late.push((number, *position));
            }
            (Outcome::Unknown, _) => {}
        }
    }
    let position_of = |number: u64| {
        let published = channel.event(number)?;
        let acknowledged = match &published.outcome {
            Outcome::Acknowledged(Some(id)) => match id::parse(id) {
                Id::Position(position) => Some(position),
                _ => None,
            },
            _ => None,
        };
        acknowledged.or_else(|| seen.get(&number).copied())
    };
    // By position, so that each finds its predecessors already in place.
    late.sort_by_key(|(number, position)| (position.epoch, position.offset, *number));
    for (number, position) in late {
        let after = numbers.iter().rposition(|other| {
            position_of(*other).is_some_and(|other| {
                other.epoch == position.epoch && other.offset < position.offset
            })
        });
        let mut place = match after {
            Some(after) => after + 1,
            None => numbers.iter().position(|other| *other > number).unwrap_or(numbers.len()),
        };
        // Nothing shows the position of an event with a publisher's ID: it follows the one that was
        // published before.
        while numbers.get(place).is_some_and(|it| *it < number && position_of(*it).is_none()) {
            place += 1;
        }
        // After the last acknowledged event it is not required.
        if place < numbers.len() {
            numbers.insert(place, number);
        }
    }
    Reference { numbers }
}
