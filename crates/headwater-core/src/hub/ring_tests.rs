//! Tests of the ring: its bounds, its holes, and what is prepended. Look here for what a ring
//! knows.

use super::ring::Ring;
use crate::broker::{Baseline, History};
use crate::budget::Account;
use crate::channel::Channel;
use crate::event::Event;
use crate::frame::{Frame, Published};
use crate::limits::{RING_AGE_MAX, RING_BYTES_MAX, RING_FRAMES_MAX, RING_TOTAL_BYTES_MAX};
use crate::log::{Continuity, Cursor, Epoch, LogState, Position};

fn epoch() -> Epoch {
    Epoch::from_bits(1).unwrap()
}

fn frame(offset: u64, number: u64, data: &str) -> Frame {
    let position = match number {
        0 => Position::new(epoch(), offset),
        _ => Position::ephemeral(epoch(), offset, epoch(), number),
    };
    let published = Published { position: Some(position), time_ms: 1000, end: false };
    Frame::of_channel(&Channel::new("c").unwrap(), &Event::new(data), published)
}

fn ring() -> Ring {
    Ring::new(0, Account::of(RING_TOTAL_BYTES_MAX))
}

fn push(ring: &mut Ring, offset: u64, previous: u64) {
    let frame = frame(offset, 0, "x");
    ring.push(frame.key().unwrap(), frame, previous);
}

fn offsets(ring: &Ring, after: u64) -> Vec<u64> {
    let after = Cursor { offset: after, number: u64::MAX };
    let all = ring.range(after, Cursor::END, usize::MAX);
    all.map(|(key, _)| key.offset).collect()
}

#[test]
fn a_ring_knows_how_far_back_it_is_complete() {
    let mut ring = ring();
    assert!(!ring.covers(100), "nothing is known yet");
    push(&mut ring, 7, 5);
    push(&mut ring, 9, 7);
    for (offset, covered) in [(4, false), (5, true), (6, true), (9, true), (12, true)] {
        assert_eq!(ring.covers(offset), covered, "{offset}");
    }
    assert_eq!(offsets(&ring, 5), [7, 9]);
    assert_eq!(offsets(&ring, 7), [9]);
    for offset in 10..=9 + RING_FRAMES_MAX as u64 {
        push(&mut ring, offset, offset - 1);
    }
    assert!(!ring.covers(8) && ring.covers(9), "two were dropped");
}

#[test]
fn events_after_a_baseline_supersede_it() {
    let mut ring = ring();
    let baseline = |last| Baseline::new(last);
    let never = || unreachable!("the channel is received already");
    let heard = |heard| LogState { epoch: Some(epoch()), heard, number: 0, begun: 0 };
    assert_eq!(ring.set_baseline(baseline(5), heard(0), || 7), None);
    assert_eq!((ring.complete_since(), ring.unknown(), ring.has_ephemeral()), (Some(5), 7, false));
    let forgotten = Baseline::forgotten(8).with_ephemeral(true);
    assert_eq!(ring.set_baseline(forgotten, heard(8), never), None, "no event was missed");
    assert_eq!((ring.complete_since(), ring.has_ephemeral()), (Some(5), true));
    let end = baseline(5).with_end(true);
    assert_eq!(ring.set_baseline(end, heard(8), never), Some(5), "the end was missed");
    assert_eq!(ring.ended(), Some(5));
    push(&mut ring, 9, 0);
    assert_eq!(ring.ended(), None, "an event after the end reopens the channel");
}

#[test]
fn a_hole_restarts_the_ring() {
    let mut ring = ring();
    let now = LogState { epoch: Some(epoch()), heard: 7, number: 1, begun: 0 };
    ring.set_baseline(Baseline::new(0), now, || 1);
    push(&mut ring, 3, 0);
    assert_eq!(ring.follows(3, 8), Continuity::Next);
    assert_eq!(ring.follows(5, 8), Continuity::Hole { after: 3 });
    ring.skip_to(5, now.cursor());
    push(&mut ring, 8, 5);
    assert_eq!((offsets(&ring, 0), ring.complete_since()), (vec![8], Some(5)));
    for (offset, number, after) in
        [(3, 0, None), (4, 0, Some(3)), (7, 1, Some(3)), (7, 2, None), (8, 0, None)]
    {
        let late = ring.late_for(Cursor { offset, number }, 0);
        assert_eq!(late.map(|late| late.after), after, "{offset} {number}");
    }
    assert!(ring.late_for(Cursor { offset: 4, number: 0 }, 7).is_none(), "noticed before");
    let now = LogState { heard: 9, ..now };
    assert_eq!(ring.set_baseline(Baseline::new(12), now, || 2), Some(8), "12 was missed");
    assert_eq!((offsets(&ring, 0), ring.complete_since()), (vec![], Some(12)));
    let older = ring.set_baseline(Baseline::new(11), now, || 2);
    assert_eq!(older, None, "older than what is known");
}

#[test]
fn history_is_prepended_without_duplicates() {
    let mut ring = ring();
    ring.set_baseline(Baseline::new(6), LogState::default(), || 0);
    push(&mut ring, 8, 6);
    let history = |offsets: &[u64], holes| History {
        frames: offsets.iter().map(|offset| frame(*offset, 0, "x")).collect(),
        previous: 2,
        log_last: 8,
        holes,
    };
    ring.prepend(&history(&[3, 6, 8], Vec::new()));
    assert_eq!(offsets(&ring, 0), [3, 6, 8]);
    assert_eq!(ring.complete_since(), Some(2));
    let before = |count| ring.before_last(count).map(|point| point.offset);
    assert_eq!((before(2), before(3), before(4)), (Some(3), Some(2), None));

    let mut with_hole = self::ring();
    with_hole.set_baseline(Baseline::new(6), LogState::default(), || 0);
    with_hole.prepend(&history(&[3, 6], vec![1]));
    assert_eq!((offsets(&with_hole, 0), with_hole.complete_since()), (vec![6], Some(5)));
}

#[test]
fn ephemeral_events_are_in_the_order_of_their_arrival() {
    let mut ring = ring();
    push(&mut ring, 1, 0);
    for number in 1..3 {
        let frame = frame(1, number, "x");
        ring.push_ephemeral(frame.key().unwrap(), frame);
    }
    push(&mut ring, 4, 1);
    let lacking = |offset, number| {
        let range = ring.range(Cursor { offset, number }, Cursor::END, 9);
        range.map(|(key, _)| (key.offset, key.number)).collect::<Vec<_>>()
    };
    assert_eq!(lacking(0, 0), [(1, 0), (1, 1), (1, 2), (4, 0)]);
    assert_eq!(lacking(1, 1), [(1, 2), (4, 0)]);
    assert_eq!(lacking(4, 1), [(1, 2)], "a client that is ahead in the log");
    assert_eq!(lacking(1, 2), [(4, 0)]);
    let doubtful = |offset, number| ring.has_doubtful(Cursor { offset, number }, false);
    assert!(doubtful(2, 0) && !doubtful(1, 0) && !doubtful(2, 2));
    assert!(ring.has_doubtful(Cursor { offset: 1, number: 1 }, true));
    assert_eq!(ring.unknown(), 0);
    while !ring.entries.is_empty() {
        ring.pop_front();
    }
    assert_eq!(ring.unknown(), 2);
}

#[test]
fn bytes_and_age_are_bounded_and_bytes_are_released() {
    let total = Account::of(RING_TOTAL_BYTES_MAX);
    let mut ring = Ring::new(0, total.clone());
    let large = "x".repeat(RING_BYTES_MAX / 4);
    for offset in 1..=8 {
        let frame = frame(offset, 0, &large);
        ring.push(frame.key().unwrap(), frame, offset - 1);
    }
    assert_eq!(offsets(&ring, 0), [6, 7, 8]);
    assert_eq!(total.used(), ring.bytes);
    let huge = frame(9, 0, &"x".repeat(RING_BYTES_MAX));
    ring.push(huge.key().unwrap(), huge, 8);
    assert_eq!((offsets(&ring, 0), ring.complete_since()), (vec![], Some(9)));
    push(&mut ring, 10, 9);
    let age_ms = u64::try_from(RING_AGE_MAX.as_millis()).unwrap();
    ring.expire(1000 + age_ms);
    assert_eq!(offsets(&ring, 0), [10]);
    ring.expire(1001 + age_ms);
    assert_eq!((offsets(&ring, 0), total.used()), (vec![], 0));
}

#[test]
fn all_rings_share_their_account() {
    let total = Account::of(1000);
    let (mut one, mut two) = (Ring::new(0, total.clone()), Ring::new(0, total.clone()));
    for offset in 1..=100 {
        let ring = if offset % 2 == 0 { &mut one } else { &mut two };
        push(ring, offset, offset - 1);
        assert!(total.used() <= total.limit());
    }
    assert!(total.evictions() > 90);
    drop((one, two));
    assert_eq!(total.used(), 0);
}
