//! The place of an event in a log, and how it is written as an SSE id. Look here for what `id:` and
//! `Last-Event-ID` mean.
//!
//! ```text
//! 5f3a9c01d2e7-1042             event 1042 of the log 5f3a9c01d2e7
//! 5f3a9c01d2e7-1042~9be1-17     event 17 that node 9be1 numbered by itself, after event 1042
//! ```
//! A log has one sequence for all its channels, so one id is enough to resume a stream of any of them.
//! Events of a ephemeral Redis `PUBLISH` are in no log: the node numbers them, and their position says too
//! which events of the log came before.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;

/// Bits of an epoch: enough that two never meet by accident, and few enough for a short id.
const EPOCH_BITS: u32 = 48;

/// The largest offset: what Redis' Lua can count exactly. At a million events a second it takes 285
/// years.
const OFFSET_MAX: u64 = (1 << 53) - 1;

/// A word that tells one life of a log from the next: when a log loses its data, it gets a new one, so
/// that old positions are recognised as lost. 48 bits, never zero, written in hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch(u64);

/// The place of an event among all that a node delivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Position {
    epoch: Epoch,
    offset: u64,
    ephemeral: Option<EphemeralPart>,
}

/// The number of an event that is in no log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct EphemeralPart {
    pub(crate) node: Epoch,
    pub(crate) number: u64,
}

/// A position within one epoch and one node, as far as order goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Key {
    pub(crate) offset: u64,
    pub(crate) number: u64,
}

impl Key {
    /// After every event, in the log or not, that came before the log's next one.
    pub(crate) fn end_of(offset: u64) -> Self {
        Self { offset, number: u64::MAX }
    }
}

impl Epoch {
    /// A new one.
    pub fn random() -> Self {
        Self(fastrand::u64(1..1 << EPOCH_BITS))
    }

    /// The epoch with these bits, if there are 1 to 48 of them.
    pub fn from_bits(bits: u64) -> Option<Self> {
        (1..1 << EPOCH_BITS).contains(&bits).then_some(Self(bits))
    }

    /// Its bits.
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

    /// The life of the log.
    pub fn epoch(self) -> Epoch {
        self.epoch
    }

    /// The number of the event in the log; for an event that is in no log, of the last one before it.
    pub fn offset(self) -> u64 {
        self.offset
    }

    /// Whether the event is in a log, so that every node finds it.
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
        let is_ours = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        u64::from_str_radix(text, 16)
            .ok()
            .filter(|_| is_ours && !text.starts_with('0'))
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
    let no_position = || Error::invalid("a position is EPOCH-OFFSET or EPOCH-OFFSET~NODE-NUMBER");
    let (epoch, digits) = text.split_once('-').ok_or_else(no_position)?;
    // What we write has one form only.
    let is_ours = digits == "0" || !digits.starts_with(['0', '+']);
    let offset = digits.parse().ok().filter(|offset| is_ours && *offset <= OFFSET_MAX);
    Ok((epoch.parse()?, offset.ok_or_else(no_position)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_written_and_read() {
        let epoch = Epoch::from_bits(0x5f3a_9c01_d2e7).unwrap();
        let node = Epoch::from_bits(0x9be1).unwrap();
        for (position, text) in [
            (Position::new(epoch, 1042), "5f3a9c01d2e7-1042"),
            (Position::new(epoch, 0), "5f3a9c01d2e7-0"),
            (Position::ephemeral(epoch, 1042, node, 17), "5f3a9c01d2e7-1042~9be1-17"),
        ] {
            assert_eq!(position.to_string(), text);
            assert_eq!(text.parse::<Position>().unwrap(), position);
        }
    }

    #[test]
    fn the_longest_is_a_good_id() {
        let epoch = Epoch::from_bits((1 << EPOCH_BITS) - 1).unwrap();
        let id = Position::ephemeral(epoch, OFFSET_MAX, epoch, OFFSET_MAX).to_string();
        assert!(id.len() <= 64, "{id}");
        assert!(id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._~-".contains(&byte)));
        assert!(id.parse::<Position>().is_ok());
    }

    #[test]
    fn what_is_none_is_refused() {
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
    fn order_is_the_logs_then_the_nodes() {
        let epoch = Epoch::random();
        let durable = |offset| Position::new(epoch, offset).key();
        let ephemeral = |offset, number| Position::ephemeral(epoch, offset, epoch, number).key();
        let order = [
            durable(1),
            ephemeral(1, 1),
            ephemeral(1, 2),
            Key::end_of(1),
            durable(2),
            ephemeral(2, 3),
        ];
        assert!(order.is_sorted());
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_without_panic_and_in_one_form(text: String) {
            if let Ok(position) = text.parse::<Position>() {
                proptest::prop_assert_eq!(position.to_string(), text);
            }
        }
    }
}
