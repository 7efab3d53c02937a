//! The position of an event in a log, and its form as an SSE id. Look here for the meaning of `id:`
//! and `Last-Event-ID`.
//!
//! ```text
//! 5f3a9c01d2e7-1042             event 1042 of the log 5f3a9c01d2e7
//! 5f3a9c01d2e7-1042~9be1-17     ephemeral event 17 of node 9be1, after event 1042
//! ```
//! A log has one sequence for all channels, so one id is enough to resume a stream of any of them.
//! Ephemeral events are in no log: the node numbers them, and their positions also hold the offset
//! of the last event of the log before them.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;
use crate::event::is_position_part;
use crate::limits::EPOCH_DIGITS_MAX;

/// Bits of an epoch.
const EPOCH_BITS: usize = 4 * EPOCH_DIGITS_MAX;

/// Identifies a log until it loses its data: it then continues under a new epoch, so that old
/// positions are recognised as lost. 48 bits, never zero, written in hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch(u64);

/// The position of an event among all events that a node delivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Position {
    epoch: Epoch,
    offset: u64,
    ephemeral: Option<EphemeralPart>,
}

/// The number of an ephemeral event, and the node that numbered it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct EphemeralPart {
    pub(crate) node: Epoch,
    pub(crate) number: u64,
}

/// A position as a sort key, comparable within one epoch and one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Key {
    /// The offset in the log.
    pub offset: u64,
    /// The node's number of an ephemeral event; 0 for an event of the log.
    pub number: u64,
}

impl Epoch {
    /// A random epoch.
    pub fn random() -> Self {
        Self(fastrand::u64(1..1 << EPOCH_BITS))
    }

    /// The epoch with these bits; `None` if they are zero or more than 48.
    pub fn from_bits(bits: u64) -> Option<Self> {
        (1..1 << EPOCH_BITS).contains(&bits).then_some(Self(bits))
    }

    /// The bits of the epoch.
    pub fn to_bits(self) -> u64 {
        self.0
    }
}

impl Position {
    /// The position of an event in a log.
    pub fn new(epoch: Epoch, offset: u64) -> Self {
        Self { epoch, offset, ephemeral: None }
    }

    pub(crate) fn ephemeral(epoch: Epoch, offset: u64, node: Epoch, number: u64) -> Self {
        Self { epoch, offset, ephemeral: Some(EphemeralPart { node, number }) }
    }

    /// The epoch of the log.
    pub fn epoch(self) -> Epoch {
        self.epoch
    }

    /// The offset of the event in the log; for an ephemeral event, of the log's last event before
    /// it.
    pub fn offset(self) -> u64 {
        self.offset
    }

    /// Whether the event is in a log, where every node finds it. False for ephemeral events.
    pub fn is_durable(self) -> bool {
        self.ephemeral.is_none()
    }

    pub(crate) fn ephemeral_part(self) -> Option<EphemeralPart> {
        self.ephemeral
    }

    pub(crate) fn key(self) -> Key {
        Key { offset: self.offset, number: self.ephemeral.map_or(0, |ephemeral| ephemeral.number) }
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl FromStr for Epoch {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let is_canonical = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        u64::from_str_radix(text, 16)
            .ok()
            .filter(|_| is_canonical && !text.starts_with('0'))
            .and_then(Self::from_bits)
            .ok_or_else(|| Error::invalid("an epoch is 1 to 12 hexadecimal digits"))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.offset)?;
        match self.ephemeral {
            Some(EphemeralPart { node, number }) => write!(f, "~{node}-{number}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Position {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (log, ephemeral) = match text.split_once('~') {
            Some((log, ephemeral)) => (log, Some(ephemeral)),
            None => (text, None),
        };
        let (epoch, offset) = parse_part(log)?;
        let ephemeral = ephemeral.map(parse_part).transpose()?;
        let ephemeral = ephemeral.map(|(node, number)| EphemeralPart { node, number });
        Ok(Self { epoch, offset, ephemeral })
    }
}

fn parse_part(text: &str) -> Result<(Epoch, u64), Error> {
    let malformed = || Error::invalid("a position is EPOCH-OFFSET or EPOCH-OFFSET~NODE-NUMBER");
    // Only the form that `Display` writes is accepted. No publisher can choose an id of that form.
    let parts = text.split_once('-').filter(|_| is_position_part(text));
    let (epoch, offset) = parts.ok_or_else(malformed)?;
    Ok((epoch.parse()?, offset.parse().map_err(|_| malformed())?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{EventId, is_position};
    use crate::limits::OFFSET_MAX;

    #[test]
    fn positions_are_formatted_and_parsed() {
        let epoch = Epoch::from_bits(0x5f3a_9c01_d2e7).unwrap();
        let node = Epoch::from_bits(0x9be1).unwrap();
        for (position, text) in [
            (Position::new(epoch, 1042), "5f3a9c01d2e7-1042"),
            (Position::new(epoch, 0), "5f3a9c01d2e7-0"),
            (Position::ephemeral(epoch, 1042, node, 17), "5f3a9c01d2e7-1042~9be1-17"),
        ] {
            assert_eq!(position.to_string(), text);
            assert_eq!(text.parse::<Position>().unwrap(), position);
            assert!(EventId::new(text).is_err(), "a publisher cannot choose it");
        }
    }

    #[test]
    fn the_longest_position_is_a_safe_id() {
        let epoch = Epoch::from_bits((1 << EPOCH_BITS) - 1).unwrap();
        let id = Position::ephemeral(epoch, OFFSET_MAX, epoch, OFFSET_MAX).to_string();
        assert!(id.len() <= 64, "{id}");
        assert!(id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._~-".contains(&byte)));
        assert!(id.parse::<Position>().is_ok());
    }

    #[test]
    fn malformed_positions_are_rejected() {
        for text in [
            "",
            "-",
            "1",
            "1-",
            "-1",
            "0-1",
            "01-1",
            "1-01",
            "1-+1",
            "1--1",
            "G-1",
            "A-1",
            "1-1~",
            "1-1~2",
            "1-1~2-3~4-5",
            "1234567890abc-1",
            "1-9007199254740992",
            " 1-1",
            "1-1 ",
            "…-1",
        ] {
            assert!(text.parse::<Position>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn keys_order_by_offset_then_by_number() {
        let epoch = Epoch::random();
        let durable = |offset| Position::new(epoch, offset).key();
        let ephemeral = |offset, number| Position::ephemeral(epoch, offset, epoch, number).key();
        let order = [durable(1), ephemeral(1, 1), ephemeral(1, 2), durable(2), ephemeral(2, 3)];
        assert!(order.is_sorted());
    }

    proptest::proptest! {
        #[test]
        fn no_publisher_can_choose_what_is_parsed(
            text in "[0-9a-fA-FgG]{0,13}-[+]?[0-9]{0,17}(~[0-9a-f]{0,3}-?[0-9]{0,3}){0,2}",
        ) {
            proptest::prop_assert_eq!(text.parse::<Position>().is_ok(), is_position(&text));
            proptest::prop_assert_eq!(is_position(&text), EventId::new(&text).is_err());
        }

        #[test]
        fn any_text_parses_without_panic_and_in_one_form(text: String) {
            if let Ok(position) = text.parse::<Position>() {
                proptest::prop_assert_eq!(position.to_string(), text);
            }
        }
    }
}
