//! The revocations that this node has made. Look here for which of them Redis gets again.

use std::collections::VecDeque;

use headwater_core::clock::now_ms;

use crate::limits::OWN_REVOCATIONS_MAX;

/// A revocation as Redis retains it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Retained {
    /// Until when, in milliseconds since 1970.
    pub(crate) until_ms: u64,
    pub(crate) text: String,
}

/// The revocations that this node has made, as long as they are retained: a Redis that lost its
/// data, or another server, gets them again.
#[derive(Default)]
pub(super) struct OwnRevocations(VecDeque<Retained>);

impl OwnRevocations {
    pub(super) fn push(&mut self, retained: Retained) {
        if self.0.len() == OWN_REVOCATIONS_MAX {
            let now_ms = now_ms();
            self.0.retain(|older| older.until_ms > now_ms);
        }
        if self.0.len() == OWN_REVOCATIONS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(retained);
    }

    pub(super) fn all(&self) -> Vec<Retained> {
        let now_ms = now_ms();
        self.0.iter().filter(|retained| retained.until_ms > now_ms).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept_and_expired_ones_are_dropped_first() {
        let mut own = OwnRevocations::default();
        let retained = |until_ms, number: usize| Retained { until_ms, text: number.to_string() };
        own.push(retained(u64::MAX, 0));
        (1..OWN_REVOCATIONS_MAX).for_each(|number| own.push(retained(1, number)));
        assert_eq!(own.all(), [retained(u64::MAX, 0)]);
        let more = || OWN_REVOCATIONS_MAX..2 * OWN_REVOCATIONS_MAX;
        more().for_each(|number| own.push(retained(u64::MAX, number)));
        let expected: Vec<_> = more().map(|number| retained(u64::MAX, number)).collect();
        assert_eq!(own.all(), expected);
    }
}
