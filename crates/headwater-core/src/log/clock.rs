//! Where the log is, as far as this node knows, and the numbers of the node's own log. Look here
//! for what a position of another node means on this one.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::cursor::Cursor;
use super::position::{Epoch, Position};

/// How often the two logs are related to each other at most; beyond it the oldest are dropped. One
/// takes 16 bytes.
const SIGHTINGS_MAX: usize = 1 << 14;

/// The clock of the log. The only place that records where the log is.
pub(crate) struct LogClock {
    /// This node's own epoch, of its own log.
    node: Epoch,
    /// The bits of the log's epoch, for a check without the lock; 0 until it is known.
    epoch: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    now: LogState,
    /// Pairs of an offset and a number: events of the log after that offset were published after
    /// all ephemeral events up to that number. Both ascend.
    sightings: VecDeque<(u64, u64)>,
    /// Whether no ephemeral event was numbered since the log was last sighted, so that `now.heard`
    /// was the end of the log when the last number was assigned.
    is_exact: bool,
}

/// The position of the log, as far as this node has heard it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LogState {
    /// `None` until the broker has reported it.
    pub(crate) epoch: Option<Epoch>,
    /// Every event up to this offset, on the subscribed channels, is in the rings.
    pub(crate) heard: u64,
    /// The last number that was assigned in the node's own log.
    pub(crate) number: u64,
    /// The offset after which the epoch began. What is older was left of the epoch before.
    pub(crate) begun: u64,
}

impl LogState {
    /// What a stream has that received everything.
    pub(crate) fn cursor(self) -> Cursor {
        Cursor { offset: self.heard, number: self.number }
    }
}

/// What the log's position is learned from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sighting {
    /// An event at this offset.
    Event,
    /// The broker's report that the log ended with this offset.
    Report,
}

/// How a position relates to what this node knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Relation {
    /// It was given out in another epoch.
    OtherEpoch,
    /// It is after everything that this node knows: made up, or the node is behind.
    Ahead,
    /// The client has what the cursor says. `is_exact` is false if its position does not say which
    /// events of this node's own log it has: it may then have later ones too.
    Within { cursor: Cursor, is_exact: bool },
}

impl LogClock {
    pub(crate) fn new() -> Self {
        Self { node: Epoch::random(), epoch: AtomicU64::new(0), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This node's own epoch.
    pub(crate) fn node(&self) -> Epoch {
        self.node
    }

    /// Whether the log is in this epoch.
    #[inline]
    pub(crate) fn is_in(&self, epoch: Epoch) -> bool {
        self.epoch.load(Ordering::Relaxed) == epoch.to_bits()
    }

    pub(crate) fn now(&self) -> LogState {
        self.state().now
    }

    /// Records that everything up to an offset was heard. Returns the state before if the epoch is
    /// new: the log lost its data.
    pub(crate) fn sight(&self, epoch: Epoch, offset: u64, by: Sighting) -> Option<LogState> {
        let mut state = self.state();
        let before = state.now;
        if before.epoch != Some(epoch) {
            state.now.epoch = Some(epoch);
            self.epoch.store(epoch.to_bits(), Ordering::Relaxed);
            state.now.heard = offset;
            state.now.begun = 0;
            state.sightings.clear();
            state.relate(offset);
            state.is_exact = true;
            return before.epoch.map(|_| before);
        }
        if offset >= before.heard {
            // An event was published after the ephemeral events that arrived before it.
            state.relate(match by {
                Sighting::Event => offset.saturating_sub(1),
                Sighting::Report => offset,
            });
            state.now.heard = offset;
            state.is_exact = true;
        }
        None
    }

    /// Records after which offset an epoch began.
    pub(crate) fn begin(&self, epoch: Epoch, offset: u64) {
        let mut state = self.state();
        if state.now.epoch == Some(epoch) {
            state.now.begun = offset;
        }
    }

    /// The position of the next event of the node's own log; `None` until the log is known.
    pub(crate) fn next_local(&self) -> Option<Position> {
        let mut state = self.state();
        let epoch = state.now.epoch?;
        state.now.number += 1;
        state.is_exact = false;
        Some(Position::ephemeral(epoch, state.now.heard, self.node, state.now.number))
    }

    /// The position of a stream with this cursor, with or without the number of the node's own log.
    pub(crate) fn position(&self, epoch: Epoch, cursor: Cursor, with_number: bool) -> Position {
        match cursor.number {
            number if with_number && number > 0 => {
                Position::ephemeral(epoch, cursor.offset, self.node, number)
            }
            _ => Position::new(epoch, cursor.offset),
        }
    }

    /// A new number, larger than those of all streams: for a channel that the node receives from
    /// now on.
    pub(crate) fn next_joined(&self) -> u64 {
        let mut state = self.state();
        state.now.number += 1;
        if state.is_exact {
            let heard = state.now.heard;
            state.relate(heard);
        }
        state.now.number
    }

    /// How a client's position relates to this node.
    pub(crate) fn relate(&self, position: Position) -> Relation {
        let state = self.state();
        if state.now.epoch != Some(position.epoch()) {
            return Relation::OtherEpoch;
        }
        let offset = position.offset();
        if offset > state.now.heard {
            return Relation::Ahead;
        }
        match position.ephemeral_part() {
            Some(own) if own.node == self.node => {
                if own.number > state.now.number {
                    return Relation::Ahead;
                }
                let cursor = Cursor { offset, number: own.number };
                Relation::Within { cursor, is_exact: true }
            }
            _ => {
                let cursor = Cursor { offset, number: state.number_before(offset) };
                Relation::Within { cursor, is_exact: false }
            }
        }
    }
}

impl State {
    /// Records that events after `offset` were published after the ephemeral events so far.
    fn relate(&mut self, offset: u64) {
        let number = self.now.number;
        match self.sightings.back_mut() {
            Some((_, known)) if *known == number => {}
            Some((after, known)) if *after == offset => *known = number,
            _ => {
                if self.sightings.len() == SIGHTINGS_MAX {
                    self.sightings.pop_front();
                }
                self.sightings.push_back((offset, number));
            }
        }
    }

    /// The number up to which ephemeral events were published before the log's event at `offset`.
    fn number_before(&self, offset: u64) -> u64 {
        let at = self.sightings.partition_point(|(after, _)| *after < offset);
        at.checked_sub(1).map_or(0, |at| self.sightings[at].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock() -> (LogClock, Epoch) {
        let (clock, epoch) = (LogClock::new(), Epoch::random());
        assert!(clock.sight(epoch, 10, Sighting::Report).is_none(), "the first epoch is not new");
        (clock, epoch)
    }

    #[track_caller]
    fn number_at(clock: &LogClock, epoch: Epoch, offset: u64) -> u64 {
        match clock.relate(Position::new(epoch, offset)) {
            Relation::Within { cursor, is_exact: false } => cursor.number,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_position_of_the_log_shows_which_ephemeral_events_came_before_it() {
        let (clock, epoch) = clock();
        let number =
            |position: Option<Position>| position.unwrap().ephemeral_part().unwrap().number;
        assert_eq!(number(clock.next_local()), 1);
        clock.sight(epoch, 20, Sighting::Event);
        assert_eq!(number(clock.next_local()), 2);
        clock.sight(epoch, 30, Sighting::Report);
        // Between 10 and 20 the order is not known, so a client there is taken to have neither.
        for (offset, expected) in [(5, 0), (10, 0), (15, 0), (19, 0), (20, 1), (25, 1), (30, 1)] {
            assert_eq!(number_at(&clock, epoch, offset), expected, "{offset}");
        }
        clock.sight(epoch, 31, Sighting::Event);
        assert_eq!(number_at(&clock, epoch, 31), 2, "31 is after the report at 30");
        assert_eq!(clock.relate(Position::new(epoch, 32)), Relation::Ahead);
        assert_eq!(clock.relate(Position::new(Epoch::random(), 5)), Relation::OtherEpoch);
    }

    #[test]
    fn a_number_of_this_node_is_exact_and_one_of_another_node_is_not() {
        let (clock, epoch) = clock();
        let own = clock.next_local().unwrap();
        clock.next_local();
        let cursor = Cursor { offset: 10, number: 1 };
        assert_eq!(clock.relate(own), Relation::Within { cursor, is_exact: true });
        let foreign = Position::ephemeral(epoch, 10, Epoch::random(), 9);
        let cursor = Cursor { offset: 10, number: 0 };
        assert_eq!(clock.relate(foreign), Relation::Within { cursor, is_exact: false });
        let made_up = Position::ephemeral(epoch, 10, clock.node(), 9);
        assert_eq!(clock.relate(made_up), Relation::Ahead);
    }

    #[test]
    fn a_channel_is_joined_after_all_streams_and_before_later_events() {
        let (clock, epoch) = clock();
        let joined = clock.next_joined();
        assert!(joined > 0);
        assert!(number_at(&clock, epoch, 10) < joined, "it may have missed some since 10");
        clock.sight(epoch, 12, Sighting::Event);
        assert_eq!(number_at(&clock, epoch, 11), joined);
        clock.next_local();
        let late = clock.next_joined();
        clock.sight(epoch, 13, Sighting::Event);
        assert_eq!((number_at(&clock, epoch, 12), number_at(&clock, epoch, 13)), (joined, late));
    }

    #[test]
    fn the_clock_never_runs_backwards_within_an_epoch() {
        let (clock, epoch) = clock();
        clock.sight(epoch, 5, Sighting::Report);
        clock.sight(epoch, 6, Sighting::Event);
        assert_eq!(clock.now().heard, 10);
        let next = Epoch::random();
        assert_eq!(clock.sight(next, 3, Sighting::Report).map(|before| before.heard), Some(10));
        assert_eq!((clock.now().epoch, clock.now().heard), (Some(next), 3));
    }

    #[test]
    fn sightings_are_bounded() {
        let (clock, epoch) = clock();
        for offset in 11..40_000 {
            clock.next_local();
            clock.sight(epoch, offset, Sighting::Event);
        }
        assert_eq!(clock.state().sightings.len(), SIGHTINGS_MAX);
        assert_eq!(number_at(&clock, epoch, 11), 0, "forgotten: the client may have missed all");
        assert_eq!(number_at(&clock, epoch, 39_999), 39_989);
    }
}
