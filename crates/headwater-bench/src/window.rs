//! Which events of a channel a stream has had. Look here for how duplicates are told from events that overtook
//! others.

use crate::limits::WINDOW_HOLES_MAX;

/// How far one event may overtake another of its channel and cost nothing.
const WIDTH: u32 = u128::BITS;

/// The numbers that were seen: all below `first_open` but the holes, and those in `seen` from there on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Window {
    first_open: u64,
    seen: u128,
    /// What was left behind without having been seen. An event is that late when the connection that it is
    /// published over waits to be accepted.
    holes: Vec<u64>,
}

impl Window {
    /// A window before an event: those before it do not count.
    pub(crate) fn starting_at(sequence: u64) -> Self {
        Self { first_open: sequence, seen: 0, holes: Vec::new() }
    }

    /// Notes an event. `false` if it was seen before.
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
    fn what_comes_twice_is_known() {
        let mut window = Window::starting_at(5);
        let marks: Vec<bool> = [5, 7, 6, 7, 4, 8, 5].map(|number| window.mark(number)).to_vec();
        assert_eq!(marks, [true, true, true, false, false, true, false]);
    }

    #[test]
    fn a_jump_leaves_behind_what_is_missing() {
        let mut window = Window::starting_at(0);
        assert!(window.mark(1_000_000));
        assert!(window.mark(999_999));
        // It comes late, once.
        assert!(window.mark(3));
        assert!(!window.mark(3));
        // Of holes, so many are known.
        assert!(!window.mark(500_000));
    }

    proptest! {
        /// As long as few are overtaken, it knows as much as a set.
        #[test]
        fn it_is_a_set(steps in prop::collection::vec(0_u64..200, 1..400)) {
            let mut window = Window::starting_at(0);
            let mut set = HashSet::new();
            for (index, step) in steps.into_iter().enumerate() {
                let sequence = index as u64 / 16 + step;
                prop_assert_eq!(window.mark(sequence), set.insert(sequence));
            }
        }
    }
}
