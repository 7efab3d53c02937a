//! The events of a channel that a stream has received. Look here for how duplicates are
//! distinguished from events that overtook others.

use crate::limits::WINDOW_HOLES_MAX;

/// How far an event may overtake others of its channel without an entry in `holes`.
const WIDTH: u32 = u128::BITS;

/// The numbers seen: all below `first_open` except the holes, and from there on those in `seen`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Window {
    first_open: u64,
    seen: u128,
    /// Numbers below `first_open` that were not seen. An event is that late when the connection
    /// that publishes it waits to be accepted.
    holes: Vec<u64>,
}

impl Window {
    /// A window that starts at an event: earlier ones do not count.
    pub(crate) fn starting_at(sequence: u64) -> Self {
        Self { first_open: sequence, seen: 0, holes: Vec::new() }
    }

    /// Records an event. `false` if it was seen before.
    pub(crate) fn mark(&mut self, sequence: u64) -> bool {
        let Some(mut ahead) = sequence.checked_sub(self.first_open) else {
            return self.fill(sequence);
        };
        if ahead >= u64::from(WIDTH) {
            let slide = ahead - u64::from(WIDTH) + 1;
            self.leave_behind(slide);
            self.slide(slide);
            ahead -= slide;
        }
        let bit = 1 << ahead;
        let is_new = self.seen & bit == 0;
        self.seen |= bit;
        self.slide(u64::from(self.seen.trailing_ones()));
        is_new
    }

    fn fill(&mut self, sequence: u64) -> bool {
        let hole = self.holes.iter().position(|hole| *hole == sequence);
        hole.map(|index| self.holes.swap_remove(index)).is_some()
    }

    fn leave_behind(&mut self, numbers: u64) {
        for offset in 0..numbers {
            let is_seen = offset < u64::from(WIDTH) && self.seen >> offset & 1 == 1;
            if self.holes.len() >= WINDOW_HOLES_MAX {
                break;
            }
            if !is_seen {
                self.holes.push(self.first_open + offset);
            }
        }
    }

    fn slide(&mut self, numbers: u64) {
        self.first_open += numbers;
        let bits = u32::try_from(numbers).unwrap_or(WIDTH);
        self.seen = self.seen.checked_shr(bits).unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn duplicates_are_recognised() {
        let mut window = Window::starting_at(5);
        let marks: Vec<bool> = [5, 7, 6, 7, 4, 8, 5].map(|number| window.mark(number)).to_vec();
        assert_eq!(marks, [true, true, true, false, false, true, false]);
    }

    #[test]
    fn late_events_after_a_jump_are_counted_once() {
        let mut window = Window::starting_at(0);
        assert!(window.mark(1_000_000));
        assert!(window.mark(999_999));
        // Late, but only once.
        assert!(window.mark(3));
        assert!(!window.mark(3));
        // The number of holes is bounded.
        assert!(!window.mark(500_000));
    }

    proptest! {
        /// As long as few events are overtaken, a window is as exact as a set.
        #[test]
        fn a_window_equals_a_set(steps in prop::collection::vec(0_u64..200, 1..400)) {
            let mut window = Window::starting_at(0);
            let mut set = HashSet::new();
            for (index, step) in steps.into_iter().enumerate() {
                let sequence = index as u64 / 16 + step;
                prop_assert_eq!(window.mark(sequence), set.insert(sequence));
            }
        }
    }
}
