//! Tests of the checker itself: rounds of a few events, line by line, for what each rule allows.

use super::tests::{STRICT, event};
use super::*;
use crate::ledger::{Published, Route};

/// A round of one or two channels, whose event number `n` was sent at `10 * n` ms.
struct Round {
    channels: Vec<Channel>,
    rules: Rules,
}

impl Round {
    fn new(kinds: &[Kind], events: u32, rules: Rules) -> Self {
        let published = |number| Published {
            route: Route::Post,
            at_ms: 10 * number,
            outcome: Outcome::Acknowledged(None),
        };
        let channel = |(at, kind): (usize, &Kind)| Channel {
            name: format!("c{at}"),
            kind: *kind,
            published: (1..=events).map(published).collect(),
        };
        Self { channels: kinds.iter().enumerate().map(channel).collect(), rules }
    }

    /// What is found in the log of one client: its lines, each with its time.
    fn found(&self, left: bool, lines: Vec<(u32, Entry)>) -> Vec<Violation> {
        let lines = lines.into_iter().map(|(at_ms, entry)| Line { at_ms, entry }).collect();
        let channels = (0..self.channels.len()).collect();
        let log = ClientLog { name: "client".to_owned(), channels, lines, left };
        let found = check(&self.channels, &[log], self.rules);
        found.into_iter().map(|found| found.violation).collect()
    }
}

const LOSSY: Rules = Rules { durable: Gaps::Allowed, ephemeral: Gaps::Allowed, new_epochs: true };

fn opened(resumed_from: Option<&str>, begun: &[u64]) -> Entry {
    let resumed_from = resumed_from.map(str::to_owned);
    Entry::Opened { node: 0, resumed_from, begun: begun.to_vec() }
}

fn gap(channel: usize) -> Entry {
    Entry::Gap { channel, reason: "broker-lost".to_owned() }
}

#[test]
fn a_gap_event_does_not_excuse_what_was_sent_after_it_arrived() {
    for kind in [Kind::Durable, Kind::Ephemeral] {
        let round = Round::new(&[kind], 5, LOSSY);
        let lost = |gap_ms| {
            let first = event(0, 1, "e-1~f-1");
            let last = event(0, 5, "e-1~f-5");
            let lines = vec![(0, opened(None, &[0])), (11, first), (gap_ms, gap(0)), (51, last)];
            round.found(false, lines)
        };
        let missing =
            |numbers: &[u64]| vec![Violation::Missing { channel: 0, numbers: numbers.to_vec() }];
        assert_eq!(lost(45), []);
        assert_eq!(lost(40), []);
        assert_eq!(lost(35), missing(&[4]));
        assert_eq!(lost(25), missing(&[3, 4]));
        assert_eq!(lost(12), missing(&[2, 3, 4]));
    }
}

#[test]
fn what_a_reset_log_has_left_may_come_between_the_gap_event_and_the_place_of_the_missing_ones() {
    let round = Round::new(&[Kind::Durable], 5, LOSSY);
    let received = |gap_ms, left: &[u64]| {
        let mut lines = vec![(0, opened(Some("e-9"), &[0])), (gap_ms, gap(0))];
        lines.extend(left.iter().map(|number| (60, event(0, *number, &format!("e-{number}")))));
        round.found(false, lines)
    };
    let missing =
        |numbers: &[u64]| vec![Violation::Missing { channel: 0, numbers: numbers.to_vec() }];
    assert_eq!(received(45, &[1, 2, 5]), []);
    // The fourth was sent after the gap event, and so was the second in the next case.
    assert_eq!(received(35, &[1, 2, 5]), missing(&[4]));
    assert_eq!(received(15, &[1, 2, 5]), missing(&[3, 4]));
}

#[test]
fn a_mute_stream_is_found() {
    for kind in [Kind::Durable, Kind::Ephemeral] {
        let round = Round::new(&[kind], 4, LOSSY);
        let (first, second) = (event(0, 1, "e-1~f-1"), event(0, 2, "e-1~f-2"));
        let begin = vec![(0, opened(None, &[0])), (11, first), (21, second)];
        let missing = Violation::Missing { channel: 0, numbers: vec![3, 4] };
        assert_eq!(round.found(false, begin.clone()), std::slice::from_ref(&missing));
        // Nor does an earlier gap event excuse it.
        let mut reported = begin.clone();
        reported.insert(1, (5, gap(0)));
        assert_eq!(round.found(false, reported), std::slice::from_ref(&missing));
        // A client that left needs nothing more, but what it has is whole.
        assert_eq!(round.found(true, begin.clone()), []);
        let mut with_hole = begin;
        with_hole.push((41, event(0, 4, "e-1~f-4")));
        let missing = Violation::Missing { channel: 0, numbers: vec![3] };
        assert_eq!(round.found(true, with_hole), [missing]);
    }
}

#[test]
fn a_client_that_begins_with_an_id_receives_what_was_sent_after_it() {
    let round = Round::new(&[Kind::Durable], 5, STRICT);
    let from = |begun, numbers: &[u64]| {
        let mut lines = vec![(0, opened(Some("e-9"), &[begun]))];
        lines.extend(numbers.iter().map(|number| (60, event(0, *number, &format!("e-{number}")))));
        round.found(false, lines)
    };
    assert_eq!(from(2, &[3, 4, 5]), []);
    // An event that was sent about when the id was given out may come before or after it.
    assert_eq!(from(3, &[3, 4, 5]), []);
    let missing = Violation::Missing { channel: 0, numbers: vec![3] };
    assert_eq!(from(2, &[4, 5]), [missing]);
    let missing = Violation::Missing { channel: 0, numbers: vec![3, 4, 5] };
    assert_eq!(from(2, &[]), [missing]);
}

#[test]
fn a_new_epoch_is_reported_on_each_channel() {
    let round = Round::new(&[Kind::Durable, Kind::Ephemeral], 2, LOSSY);
    let changes = |reported: &[usize]| {
        let mut lines = vec![(0, opened(None, &[0, 0]))];
        lines.extend([(11, event(0, 1, "a-1")), (11, event(1, 1, "a-1~f-1"))]);
        lines.extend(reported.iter().map(|channel| (12, gap(*channel))));
        lines.extend([(21, event(0, 2, "b-1")), (21, event(1, 2, "b-1~f-2"))]);
        round.found(false, lines)
    };
    assert_eq!(changes(&[0, 1]), []);
    assert_eq!(changes(&[0]), [Violation::SilentEpoch]);
    assert_eq!(changes(&[1]), [Violation::SilentEpoch]);
    assert_eq!(changes(&[]).len(), 2);
    // Afterwards, the epoch that ended is not used again.
    let mut lines = vec![(0, opened(None, &[0, 1])), (11, event(0, 1, "a-1"))];
    lines.extend([(12, gap(0)), (12, gap(1)), (13, event(1, 2, "b-1~f-1")), (14, gap(0))]);
    lines.push((21, event(0, 2, "a-2")));
    let position = Violation::Position { id: "a-2".to_owned(), disorder: Disorder::OldEpoch };
    assert_eq!(round.found(false, lines), [position]);
}

#[test]
fn one_id_for_two_events_is_found() {
    for (first, second) in [("e-1", "e-1"), ("e-1~f-1", "e-1~f-1")] {
        let round = Round::new(&[Kind::Durable, Kind::Durable], 1, LOSSY);
        let lines = vec![
            (0, opened(None, &[0, 0])),
            (11, event(0, 1, first)),
            (11, gap(1)),
            (12, event(1, 1, second)),
        ];
        let found = round.found(false, lines);
        let same = Violation::SameId { id: second.to_owned(), first: (0, 1) };
        assert!(found.contains(&same), "{found:?}");
    }
}
