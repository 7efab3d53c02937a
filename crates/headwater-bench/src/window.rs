//! Which events of a channel a stream has had. Look here for how duplicates are told from events that overtook
//! others.

/// How far one event may overtake another of its channel and still be known.
pub(crate) const WIDTH: u32 = u128::BITS;

/// The numbers that were seen: all below `first_open`, and those in `seen` from there on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    first_open: u64,
    seen: u128,
}

impl Window {
    /// A window before an event: those before it do not count.
    pub(crate) fn starting_at(sequence: u64) -> Self {
        Self { first_open: sequence, seen: 0 }
    }

    /// Notes an event. `false` if it was seen before, or is so late that this cannot be told any more.
    pub(crate) fn mark(&mut self, sequence: u64) -> bool {
        let Some(mut ahead) = sequence.checked_sub(self.first_open) else { return false };
        if ahead >= u64::from(WIDTH) {
            // What slides out without having been seen is missing, and stays so.
            let slide = ahead - u64::from(WIDTH) + 1;
            self.slide(slide);
            ahead -= slide;
        }
        let bit = 1 << ahead;
        let is_new = self.seen & bit == 0;
        self.seen |= bit;
        self.slide(u64::from(self.seen.trailing_ones()));
        is_new
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
        assert!(!window.mark(3));
    }

    proptest! {
        /// As long as nothing is overtaken by more than the width, it knows as much as a set.
        #[test]
        fn it_is_a_set(steps in prop::collection::vec(0_u64..120, 1..400)) {
            let mut window = Window::starting_at(0);
            let mut set = HashSet::new();
            for (index, step) in steps.into_iter().enumerate() {
                let sequence = index as u64 / 16 + step;
                prop_assert_eq!(window.mark(sequence), set.insert(sequence));
            }
        }
    }
}
