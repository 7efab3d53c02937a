//! The events of this node that Redis has accepted. Look here for what a node reports when it
//! reaches another Redis.

use std::collections::VecDeque;

use headwater_core::log::Epoch;
use tokio::time::Instant;

use crate::library::Accepted;
use crate::limits::EPOCHS_MAX;

/// The last event that Redis accepted in each of the last epochs.
#[derive(Default)]
pub(super) struct AcceptedEvents(VecDeque<Last>);

struct Last {
    epoch: Epoch,
    /// Its offset in the log; 0 if only ephemeral events were accepted.
    offset: u64,
    /// When the answer arrived.
    at: Instant,
    /// The generation of the connection.
    generation: u64,
}

impl AcceptedEvents {
    pub(super) fn record(&mut self, epoch: Epoch, offset: u64, generation: u64) {
        let at = Instant::now();
        if let Some(last) = self.0.iter_mut().find(|last| last.epoch == epoch) {
            *last = Last { epoch, offset: offset.max(last.offset), at, generation };
            return;
        }
        if self.0.len() == EPOCHS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(Last { epoch, offset, at, generation });
    }

    /// What is reported over the connection with this generation. An event has a time if it was
    /// accepted before, so perhaps by another server: what one server accepts is ordered with the
    /// epochs that begin there.
    pub(super) fn report(&self, generation: u64) -> Vec<Accepted> {
        let reported = |last: &Last| Accepted {
            epoch: last.epoch,
            offset: last.offset,
            at: (last.generation < generation).then_some(last.at),
        };
        self.0.iter().map(reported).collect()
    }

    /// Forgets the events of other epochs of which the Redis of this connection, which is in this
    /// epoch, knows: it accepted them itself, or they were reported.
    pub(super) fn forget(&mut self, reported: &[Accepted], generation: u64, epoch: Epoch) {
        let is_reported = |last: &Last| {
            reported.iter().any(|it| it.epoch == last.epoch && it.at == Some(last.at))
        };
        let is_known = |last: &Last| last.generation == generation || is_reported(last);
        self.0.retain(|last| last.epoch == epoch || !is_known(last));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn epoch(bits: u64) -> Epoch {
        Epoch::from_bits(bits).unwrap()
    }

    /// Epoch, offset, and whether another server may have accepted it.
    fn report(accepted: &AcceptedEvents, generation: u64) -> Vec<(Epoch, u64, bool)> {
        let all = accepted.report(generation).into_iter();
        all.map(|it| (it.epoch, it.offset, it.at.is_some())).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_an_earlier_connection_accepted_is_reported_once() {
        let mut accepted = AcceptedEvents::default();
        accepted.record(epoch(1), 7, 1);
        // Ephemeral.
        accepted.record(epoch(1), 0, 1);
        assert_eq!(report(&accepted, 1), [(epoch(1), 7, false)]);
        assert_eq!(report(&accepted, 2), [(epoch(1), 7, true)]);

        let reported = accepted.report(2);
        tokio::time::advance(Duration::from_millis(1)).await;
        // The old connection answers late.
        accepted.record(epoch(1), 8, 1);
        accepted.forget(&reported, 2, epoch(2));
        assert_eq!(report(&accepted, 2), [(epoch(1), 8, true)]);
        accepted.forget(&accepted.report(2), 2, epoch(2));
        assert_eq!(report(&accepted, 2), []);
    }

    #[tokio::test(start_paused = true)]
    async fn the_epoch_that_redis_is_in_is_kept_and_its_own_earlier_ones_are_not() {
        let mut accepted = AcceptedEvents::default();
        accepted.record(epoch(1), 7, 1);
        accepted.record(epoch(2), 3, 1);
        accepted.forget(&[], 1, epoch(2));
        assert_eq!(report(&accepted, 2), [(epoch(2), 3, true)]);
        for bits in 3..3 + EPOCHS_MAX as u64 {
            accepted.record(epoch(bits), 1, 1);
        }
        assert_eq!(accepted.0.len(), EPOCHS_MAX);
    }
}
