//! A stream's state, driven alone: every sequence of what a driver may do, against a list of the
//! pieces that wait. Look here when bytes are lost, or follow the end.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::time::Duration;

use proptest::prelude::*;

use super::backlog::Offer;
use super::envelope::Framing;
use super::schedule::{Due, Intervals, Tick};
use super::state::{Ending, StreamState};
use super::waiting::WaitingBounds;
use crate::channel::Channel;
use crate::close::CloseReason;
use crate::event::Event;
use crate::frame::{Frame, LAST_CHUNK, Published};

const BOUNDS: WaitingBounds = WaitingBounds { frames_max: 4, bytes_max: 300 };

const HEARTBEAT: &[u8] = b"3\r\n:\n\n\r\n";

const REASONS: [CloseReason; 6] = [
    CloseReason::Drain,
    CloseReason::Finished,
    CloseReason::Lifetime,
    CloseReason::Overflow,
    CloseReason::Expired,
    CloseReason::Revoked,
];

#[derive(Debug, Clone)]
enum Step {
    Heartbeat { sent: usize },
    Offer { channel: &'static str, bytes: usize, sent: usize, latest_only: bool, is_full: bool },
    Page { bytes: usize },
    Take { bytes: usize },
    Pass { ticks: u32 },
    Close { reason: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let offer = |(is_a, bytes, sent, latest_only, is_full)| Step::Offer {
        channel: if is_a { "a" } else { "b" },
        bytes,
        sent,
        latest_only,
        is_full,
    };
    prop_oneof![
        2 => (0..8_usize).prop_map(|sent| Step::Heartbeat { sent }),
        8 => (any::<bool>(), 1..150_usize, 0..20_usize, any::<bool>(), prop::bool::weighted(0.1))
            .prop_map(offer),
        2 => (1..400_usize).prop_map(|bytes| Step::Page { bytes }),
        6 => (0..300_usize).prop_map(|bytes| Step::Take { bytes }),
        3 => (0..400_u32).prop_map(|ticks| Step::Pass { ticks }),
        1 => (0..REASONS.len()).prop_map(|reason| Step::Close { reason }),
    ]
}

/// A piece that waits: a frame of a channel, or other bytes.
struct Piece {
    channel: Option<&'static str>,
    bytes: Vec<u8>,
}

/// The state, and what it should be.
struct World {
    state: StreamState,
    intervals: Intervals,
    now: Tick,
    pieces: VecDeque<Piece>,
    /// Bytes of the first piece that were taken.
    sent: usize,
    held: isize,
    closed: Option<CloseReason>,
    /// When the client began to take nothing, and when something was written last.
    waiting: Option<Tick>,
    written: Tick,
}

fn frame(channel: &str, bytes: usize) -> Frame {
    let channel = Channel::new(channel).unwrap();
    Frame::of_channel(&channel, &Event::new("x".repeat(bytes)), Published::default())
}

impl World {
    fn new() -> Self {
        let seconds = Duration::from_secs;
        Self {
            state: StreamState::new(0, None),
            intervals: Intervals::new(Some(seconds(15)), Some(seconds(30))),
            now: 0,
            pieces: VecDeque::new(),
            sent: 0,
            held: 0,
            closed: None,
            waiting: None,
            written: 1,
        }
    }

    fn add(&mut self, channel: Option<&'static str>, bytes: &[u8], sent: usize) {
        if self.pieces.is_empty() {
            self.sent = sent;
        }
        self.waiting.get_or_insert(self.now);
        self.pieces.push_back(Piece { channel, bytes: bytes.to_vec() });
    }

    fn run(&mut self, step: &Step) {
        let now = self.now;
        match *step {
            Step::Heartbeat { sent } if self.pieces.is_empty() && self.closed.is_none() => {
                self.state.wrote(now);
                self.state.queue_bytes(HEARTBEAT, sent, now);
                self.add(None, HEARTBEAT, sent);
                self.written = now + 1;
            }
            Step::Heartbeat { .. } => {}
            Step::Offer { channel, bytes, sent, latest_only, is_full } => {
                let frame = frame(channel, bytes);
                let sent = sent.min(frame.chunks(false).len() - 1);
                let offer = Offer { sent, named: false, bounds: BOUNDS, latest_only, is_full };
                let outcome = self.state.offer(&frame, &offer, now);
                if self.closed.is_none() {
                    let fits = self.offer(channel, frame.chunks(false), &offer);
                    assert_eq!(outcome.is_ok(), fits);
                } else {
                    assert!(outcome.is_ok());
                }
            }
            Step::Page { bytes } => {
                let frame = frame("a", bytes);
                self.state.push_replayed(&frame, false, now);
                if self.closed.is_none() {
                    self.add(Some("a"), frame.chunks(false), 0);
                }
            }
            Step::Take { bytes } => self.take(bytes),
            Step::Pass { ticks } => self.now += ticks,
            Step::Close { reason } => self.close(REASONS[reason]),
        }
        self.held += self.state.settle();
    }

    fn offer(&mut self, channel: &'static str, bytes: &[u8], offer: &Offer) -> bool {
        let is_begun = |at: usize| at == 0 && self.sent > 0;
        if offer.latest_only
            && let Some(at) = self.pieces.iter().rposition(|piece| piece.channel == Some(channel))
            && !is_begun(at)
        {
            self.pieces.remove(at);
        }
        let frames = self.pieces.iter().filter(|piece| piece.channel.is_some());
        let (count, size) =
            frames.fold((0, 0), |(count, size), piece| (count + 1, size + piece.bytes.len()));
        let fits = count < BOUNDS.frames_max
            && (count == 0 || size + bytes.len() <= BOUNDS.bytes_max)
            && (!offer.is_full || self.pieces.is_empty());
        if fits {
            self.add(Some(channel), bytes, offer.sent);
        } else if self.pieces.is_empty() {
            self.waiting = None;
        }
        fits
    }

    fn take(&mut self, bytes: usize) {
        let waiting: usize = self.pieces.iter().map(|piece| piece.bytes.len()).sum();
        let bytes = bytes.min(waiting - self.sent);
        if bytes == 0 {
            return;
        }
        self.state.took(bytes, false, self.now);
        self.waiting = Some(self.now);
        self.sent += bytes;
        while let Some(first) = self.pieces.front()
            && self.sent >= first.bytes.len()
        {
            self.sent -= first.bytes.len();
            self.pieces.pop_front();
        }
        if self.pieces.is_empty() {
            self.waiting = None;
        }
    }

    fn close(&mut self, reason: CloseReason) {
        let ending = Ending { reason, retry: None, framing: Framing::Chunked, named: false };
        assert_eq!(self.state.close(&ending, self.now), self.closed.is_none(), "once");
        if self.closed.is_some() {
            return;
        }
        self.closed = Some(reason);
        self.written = self.now + 1;
        if matches!(reason, CloseReason::Overflow | CloseReason::Expired | CloseReason::Revoked) {
            let sent = self.sent;
            let mut at = 0;
            self.pieces.retain(|piece| {
                at += 1;
                piece.channel.is_none() || (at == 1 && sent > 0)
            });
        }
        let sent = if self.pieces.is_empty() { 0 } else { self.sent };
        self.add(None, LAST_CHUNK, sent);
    }

    fn check(&self) {
        let mut slices = [IoSlice::new(&[]); 64];
        let count = self.state.backlog().map_or(0, |it| it.slices(false, &mut slices));
        let waits: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
        let pieces = self.pieces.iter().flat_map(|piece| piece.bytes.clone());
        let expected: Vec<u8> = pieces.skip(self.sent).collect();
        assert_eq!(String::from_utf8(waits).unwrap(), String::from_utf8(expected).unwrap());
        let held: usize = self.pieces.iter().map(|piece| piece.bytes.len()).sum();
        assert_eq!(self.state.backlog_bytes(), held);
        assert!(self.held >= held.cast_signed(), "what is held counts a frame whole");
        assert_eq!(self.state.backlog().is_none(), self.pieces.is_empty());
        assert_eq!(self.state.closing(), self.closed, "the first reason stays");
        assert_eq!(self.state.waiting_since(), self.waiting);
        let stalls = self.waiting.map(|since| since + 301);
        let heartbeat = self.closed.is_none().then_some(self.written + 150);
        let next = stalls.into_iter().chain(heartbeat).min();
        assert_eq!(self.state.next(&self.intervals), next);
        let is_due = |at: Option<Tick>| at.is_some_and(|at| self.now >= at);
        let due = match (is_due(stalls), is_due(heartbeat)) {
            (true, _) => Some(Due::Stall),
            (false, true) => Some(Due::Heartbeat),
            (false, false) => None,
        };
        assert_eq!(self.state.due(self.now, &self.intervals), due);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pieces_are_sent_whole_and_in_order_and_nothing_follows_the_end(
        steps in prop::collection::vec(step(), 0..60),
    ) {
        let mut world = World::new();
        for step in &steps {
            world.run(step);
            world.check();
        }
        world.close(CloseReason::Drain);
        world.take(usize::MAX);
        world.held += world.state.settle();
        world.check();
        prop_assert_eq!((world.held, world.state.backlog_bytes()), (0, 0));
        let reason = world.state.abandon(CloseReason::ClientGone, false).0;
        prop_assert_eq!(Some(reason), world.closed);
    }
}

#[test]
fn an_end_is_not_replaced_and_neither_is_an_event_of_another_channel() {
    let mut state = StreamState::new(0, None);
    let offer = Offer { sent: 0, named: false, bounds: BOUNDS, latest_only: true, is_full: false };
    let channel = Channel::new("a").unwrap();
    let end = Published { end: true, ..Published::default() };
    let end = Frame::of_channel(&channel, &Event::new("end"), end);
    for frame in [end, frame("a", 1), frame("b", 1), frame("a", 2), frame("b", 2)] {
        state.offer(&frame, &offer, 0).unwrap();
    }
    let mut slices = [IoSlice::new(&[]); 64];
    let count = state.backlog().unwrap().slices(false, &mut slices);
    assert_eq!(count, 3, "the end, and the newest of each");
    state.abandon(CloseReason::ClientGone, false);
}

#[test]
fn bytes_that_backlogs_share_count_once() {
    let frame = frame("a", 1);
    let len = frame.chunks(true).len().cast_signed();
    let (mut one, mut two) = (StreamState::new(0, None), StreamState::new(0, None));
    for (state, held) in [(&mut one, len), (&mut two, 0)] {
        state.push_replayed(&frame, false, 0);
        assert_eq!(state.settle(), held);
    }
    assert_eq!(one.abandon(CloseReason::ClientGone, false).1, 0, "the frame is held still");
    two.took(frame.chunks(false).len(), false, 0);
    assert_eq!((two.settle(), two.backlog_bytes()), (-len, 0));
}
