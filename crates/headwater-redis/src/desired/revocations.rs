//! The revocations that this node has made, and in which epoch of the log. Look here for which of
//! them Redis gets again.

use std::collections::{HashSet, VecDeque};

use headwater_core::clock::now_ms;
use headwater_core::log::Epoch;

use crate::limits::OWN_REVOCATIONS_MAX;

/// A revocation as Redis retains it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Retained {
    /// Until when, in milliseconds since 1970.
    pub(crate) until_ms: u64,
    pub(crate) text: String,
}

/// The revocations that this node has made, as long as they are retained: a Redis that lost its
/// data, or another server, gets them again. Each with the epoch of the log in which Redis has it,
/// if that is known.
#[derive(Default)]
pub(super) struct OwnRevocations(VecDeque<(Retained, Option<Epoch>)>);

impl OwnRevocations {
    pub(super) fn push(&mut self, retained: Retained, epoch: Option<Epoch>) {
        if self.0.len() == OWN_REVOCATIONS_MAX {
            let now_ms = now_ms();
            self.0.retain(|(older, _)| older.until_ms > now_ms);
        }
        if self.0.len() == OWN_REVOCATIONS_MAX {
            self.0.pop_front();
        }
        self.0.push_back((retained, epoch));
    }

    /// Those that Redis may not have in this epoch, and must.
    pub(super) fn not_in(&self, epoch: Epoch) -> Vec<Retained> {
        let now_ms = now_ms();
        let lacking = |(retained, of): &&(Retained, Option<Epoch>)| {
            *of != Some(epoch) && retained.until_ms > now_ms
        };
        self.0.iter().filter(lacking).map(|(retained, _)| retained.clone()).collect()
    }

    /// Records that Redis has these in this epoch.
    pub(super) fn are_in(&mut self, repeated: &[Retained], epoch: Epoch) {
        let repeated: HashSet<&str> = repeated.iter().map(|retained| &*retained.text).collect();
        for (retained, of) in &mut self.0 {
            if repeated.contains(&*retained.text) {
                *of = Some(epoch);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept_and_expired_ones_are_dropped_first() {
        let mut own = OwnRevocations::default();
        let retained = |until_ms, number: usize| Retained { until_ms, text: number.to_string() };
        let epoch = Epoch::random();
        own.push(retained(u64::MAX, 0), None);
        (1..OWN_REVOCATIONS_MAX).for_each(|number| own.push(retained(1, number), None));
        assert_eq!(own.not_in(epoch), [retained(u64::MAX, 0)]);
        let more = || OWN_REVOCATIONS_MAX..2 * OWN_REVOCATIONS_MAX;
        more().for_each(|number| own.push(retained(u64::MAX, number), None));
        let expected: Vec<_> = more().map(|number| retained(u64::MAX, number)).collect();
        assert_eq!(own.not_in(epoch), expected);
    }

    #[test]
    fn one_that_another_server_acknowledged_late_is_lacking() {
        let mut own = OwnRevocations::default();
        let retained = |text: &str| Retained { until_ms: u64::MAX, text: text.to_owned() };
        let (old, new) = (Epoch::random(), Epoch::random());
        own.push(retained("a"), Some(old));
        assert_eq!(own.not_in(old), []);
        let repeated = own.not_in(new);
        assert_eq!(repeated, [retained("a")]);
        own.push(retained("b"), Some(old));
        own.push(retained("c"), Some(new));
        own.are_in(&repeated, new);
        assert_eq!(own.not_in(new), [retained("b")]);
    }
}
