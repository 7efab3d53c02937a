//! How much a stream, a client or a ring has: one component for the log, one for the node's own
//! log. Look here for how two of them compare.

use super::position::Key;

/// How much of each log a stream, a client or a ring has.
///
/// The components are compared separately: an ephemeral event is numbered in the node's own log, so
/// that a client that is ahead of its node in one of them is not ahead in the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cursor {
    /// Everything up to this offset of the log.
    pub offset: u64,
    /// Everything up to this number of the node's own log.
    pub number: u64,
}

impl Cursor {
    /// Has everything: nothing passes it.
    pub const END: Self = Self { offset: u64::MAX, number: u64::MAX };

    /// Whether the event at this place is included.
    #[inline]
    pub fn has(self, key: Key) -> bool {
        if key.number == 0 { key.offset <= self.offset } else { key.number <= self.number }
    }

    /// Includes the event at this place, and all before it in the same log.
    pub fn advance(&mut self, key: Key) {
        if key.number == 0 {
            self.offset = self.offset.max(key.offset);
        } else {
            self.number = self.number.max(key.number);
        }
    }

    /// Has what either of them has.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self { offset: self.offset.max(other.offset), number: self.number.max(other.number) }
    }

    /// Whether everything that `other` has is included.
    pub fn covers(self, other: Self) -> bool {
        other.offset <= self.offset && other.number <= self.number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_components_are_independent() {
        let cursor = Cursor { offset: 100, number: 7 };
        for (offset, number, has) in [
            (100, 0, true),
            (101, 0, false),
            (90, 7, true),
            // Numbered at an older offset, and still not seen.
            (90, 8, false),
            (110, 7, true),
        ] {
            assert_eq!(cursor.has(Key { offset, number }), has, "{offset} {number}");
        }
        let mut advanced = cursor;
        advanced.advance(Key { offset: 90, number: 9 });
        assert_eq!(advanced, Cursor { offset: 100, number: 9 });
        assert!(advanced.covers(cursor) && !cursor.covers(advanced));
        assert!(Cursor::END.covers(advanced));
    }
}
