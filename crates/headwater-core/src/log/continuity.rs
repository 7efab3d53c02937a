//! Whether an event of the log follows what the receiver has. The only judge of holes.

/// How an event relates to what its receiver has of the channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Continuity {
    /// It is the next one.
    Next,
    /// The receiver has it already.
    Duplicate,
    /// Events between are missing.
    Hole {
        /// The last offset of the channel that the receiver has.
        after: u64,
    },
}

/// Compares an event with the channel's last offset that the receiver has, `None` if it has no
/// position in the channel yet. `previous` is the offset of the channel's event before this one, or
/// 0 if the log knows none.
pub fn follows(last: Option<u64>, previous: u64, offset: u64) -> Continuity {
    match last {
        Some(last) if offset <= last => Continuity::Duplicate,
        Some(last) if previous > last => Continuity::Hole { after: last },
        _ => Continuity::Next,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_follows_repeats_or_leaves_a_hole() {
        for (last, previous, offset, expected) in [
            (None, 0, 7, Continuity::Next),
            (None, 5, 7, Continuity::Next),
            (Some(5), 5, 7, Continuity::Next),
            // The log has forgotten older events, which the receiver has.
            (Some(5), 3, 7, Continuity::Next),
            (Some(5), 0, 7, Continuity::Next),
            (Some(5), 6, 7, Continuity::Hole { after: 5 }),
            (Some(7), 5, 7, Continuity::Duplicate),
            (Some(9), 5, 7, Continuity::Duplicate),
        ] {
            assert_eq!(follows(last, previous, offset), expected, "{last:?} {previous} {offset}");
        }
    }
}
