//! The bounded queue of bytes that a blocked socket has not accepted. Look here for how the engine
//! treats slow clients. A frame that has been sent in part is always completed.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};

use headwater_core::frame::Frame;
use headwater_core::transport::{WaitingBounds, replaced};

/// The interval in which a client's pace is measured: one second.
const PACE_TICKS: u32 = 10;

/// A client that takes less than this in an interval does not count as reading: 16 KiB a second is
/// a slow telephone line.
const PACE_BYTES_MIN: usize = 16 << 10;

/// Maximum pieces per write. Linux accepts 1024, but more than this rarely fit in a socket's
/// buffer.
const PIECES_MAX: usize = 64;

/// The unsent bytes of one stream.
#[derive(Default)]
pub(super) struct Backlog {
    pieces: VecDeque<Piece>,
    /// Bytes of the first piece that have been sent.
    sent: usize,
    /// Total bytes of the pieces, including the part of the first that has been sent.
    bytes: usize,
    /// By how much the bytes in all backlogs have changed, since it was asked last. A frame that
    /// several backlogs hold counts once.
    held: isize,
    pub(super) pace: Pace,
}

enum Piece {
    Frame(Frame),
    /// A response head, a heartbeat, or the end of a stream.
    Bytes(Box<[u8]>),
}

impl Piece {
    fn bytes(&self, named: bool) -> &[u8] {
        match self {
            Self::Frame(frame) => frame.chunks(named),
            Self::Bytes(bytes) => bytes,
        }
    }

    fn frame(&self) -> Option<&Frame> {
        match self {
            Self::Frame(frame) => Some(frame),
            Self::Bytes(_) => None,
        }
    }
}

impl Backlog {
    /// An empty backlog for a socket that blocked at this tick.
    pub(super) fn since(tick: u32) -> Self {
        Self { pace: Pace::since(tick), ..Self::default() }
    }

    /// By how much the bytes in all backlogs have changed since the last call.
    pub(super) fn take_held(&mut self) -> isize {
        std::mem::take(&mut self.held)
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Adds a frame. False if it exceeds the bounds; an empty backlog accepts any frame.
    pub(super) fn push_frame(&mut self, frame: &Frame, named: bool, bounds: WaitingBounds) -> bool {
        let bytes = frame.chunks(named).len();
        if !bounds.fits(self.pieces.len(), self.bytes, bytes) {
            return false;
        }
        self.push(Piece::Frame(frame.clone()), named);
        true
    }

    /// Adds a frame, however much waits: one of a page, of which there is one at a time.
    pub(super) fn push_replayed(&mut self, frame: &Frame, named: bool) {
        self.push(Piece::Frame(frame.clone()), named);
    }

    pub(super) fn push_bytes(&mut self, bytes: Box<[u8]>) {
        self.push(Piece::Bytes(bytes), false);
    }

    fn push(&mut self, piece: Piece, named: bool) {
        self.bytes += piece.bytes(named).len();
        self.held += match &piece {
            Piece::Frame(frame) => frame.hold(),
            Piece::Bytes(bytes) => bytes.len(),
        }
        .cast_signed();
        self.pieces.push_back(piece);
    }

    /// Notes that a piece was removed.
    fn removed(&mut self, piece: &Piece, named: bool) {
        self.bytes -= piece.bytes(named).len();
        self.held -= match piece {
            Piece::Frame(frame) => frame.release(),
            Piece::Bytes(bytes) => bytes.len(),
        }
        .cast_signed();
    }

    /// Removes the frame that a newer one of its channel replaces, unless it has been sent in part.
    pub(super) fn conflate(&mut self, newer: &Frame, named: bool) {
        let in_flight = usize::from(self.sent > 0);
        let waiting = self.pieces.iter().map(Piece::frame);
        let Some(at) = replaced(newer, waiting).filter(|at| *at >= in_flight) else { return };
        if let Some(piece) = self.pieces.remove(at) {
            self.removed(&piece, named);
        }
    }

    /// Records how many bytes of the first piece have already been sent.
    pub(super) fn set_sent(&mut self, sent: usize) {
        self.sent = sent;
    }

    /// Discards everything except a piece that has been sent in part, and the response's head.
    pub(super) fn discard_unsent(&mut self, named: bool) {
        let is_head = matches!(self.pieces.front(), Some(Piece::Bytes(_)));
        self.truncate(usize::from(self.sent > 0 || is_head), named);
    }

    /// Discards everything: the stream is gone.
    pub(super) fn clear(&mut self, named: bool) {
        self.truncate(0, named);
    }

    fn truncate(&mut self, len: usize, named: bool) {
        while self.pieces.len() > len {
            let Some(piece) = self.pieces.pop_back() else { return };
            self.removed(&piece, named);
        }
    }

    /// Writes until the backlog is empty or the socket blocks.
    ///
    /// # Errors
    /// If the connection failed. A blocked socket is not an error.
    pub(super) fn write(&mut self, socket: &mut impl Write, named: bool) -> io::Result<Written> {
        let mut written = Written::default();
        while !self.pieces.is_empty() {
            match self.write_once(socket, named) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => {
                    written.writes += 1;
                    written.bytes += bytes;
                    self.advance(bytes, named);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(written)
    }

    fn write_once(&self, socket: &mut impl Write, named: bool) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); PIECES_MAX];
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            let from = if count == 0 { self.sent } else { 0 };
            *slice = IoSlice::new(&piece.bytes(named)[from..]);
            count += 1;
        }
        if count == 1 { socket.write(&slices[0]) } else { socket.write_vectored(&slices[..count]) }
    }

    fn advance(&mut self, bytes: usize, named: bool) {
        self.sent += bytes;
        while let Some(first) = self.pieces.front() {
            let len = first.bytes(named).len();
            if self.sent < len {
                return;
            }
            self.sent -= len;
            if let Some(piece) = self.pieces.pop_front() {
                self.removed(&piece, named);
            }
        }
    }
}

/// How fast a client reads that has a backlog.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Pace {
    /// The tick of the last progress, or of the first blocked write.
    pub(super) since: u32,
    /// The tick at which the current interval began, and the bytes sent in it.
    interval: (u32, usize),
    /// The bytes sent in the interval before.
    before: usize,
}

impl Pace {
    fn since(tick: u32) -> Self {
        // A client that has just fallen behind has read until now.
        Self { since: tick, interval: (tick, 0), before: PACE_BYTES_MIN }
    }

    /// Records that bytes were sent.
    pub(super) fn sent(&mut self, bytes: usize, now: u32) {
        self.since = now;
        if now.saturating_sub(self.interval.0) >= PACE_TICKS {
            let is_next = now - self.interval.0 < 2 * PACE_TICKS;
            self.before = if is_next { self.interval.1 } else { 0 };
            self.interval = (now, 0);
        }
        self.interval.1 += bytes;
    }

    /// Whether the client reads at all: it has taken some in the last interval or two.
    pub(super) fn is_reading(&self, now: u32) -> bool {
        let is_current = now.saturating_sub(self.interval.0) < 2 * PACE_TICKS;
        is_current && self.interval.1 + self.before >= PACE_BYTES_MIN
    }
}

/// What one call of [`Backlog::write`] has written.
#[derive(Debug, Default, PartialEq, Eq, Clone, Copy)]
pub(super) struct Written {
    pub(super) writes: u64,
    pub(super) bytes: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use headwater_core::Channel;
    use headwater_core::Event;
    use headwater_core::transport::Published;

    /// A socket that accepts `room` bytes and then blocks.
    struct Narrow {
        room: usize,
        accepted: Vec<u8>,
    }

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.room);
            if count == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.room -= count;
            self.accepted.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    const BOUNDS: WaitingBounds = WaitingBounds { frames_max: 3, bytes_max: 100 };

    fn frame(channel: &str, data: &str, end: bool) -> Frame {
        let published = Published { end, ..Published::default() };
        Frame::of_channel(&Channel::new(channel).unwrap(), &Event::new(data), published)
    }

    #[test]
    fn what_is_begun_is_completed_and_a_response_begins_with_its_head() {
        let (a, b) = (frame("a", "1", false), frame("b", "2", false));
        for (has_head, sent, left) in [(true, 0, 1), (true, 2, 1), (false, 2, 1), (false, 0, 0)] {
            let mut backlog = Backlog::default();
            if has_head {
                backlog.push_bytes(b"head".as_slice().into());
            }
            assert!(backlog.push_frame(&a, false, BOUNDS) && backlog.push_frame(&b, false, BOUNDS));
            backlog.set_sent(sent);
            backlog.discard_unsent(false);
            assert_eq!(backlog.pieces.len(), left, "{has_head} {sent}");
        }
    }

    #[test]
    fn bytes_that_backlogs_share_count_once() {
        let frame = frame("a", "1", false);
        let len = isize::try_from(frame.chunks(true).len()).unwrap();
        let (mut one, mut two) = (Backlog::default(), Backlog::default());
        for (backlog, held) in [(&mut one, len), (&mut two, 0)] {
            assert!(backlog.push_frame(&frame, false, BOUNDS));
            assert_eq!(backlog.take_held(), held);
        }
        one.push_bytes(b"head".as_slice().into());
        one.clear(false);
        assert_eq!(one.take_held(), 0, "four bytes came and went, the frame is held still");
        two.write(&mut Narrow { room: 1000, accepted: Vec::new() }, false).unwrap();
        assert_eq!((two.take_held(), two.bytes()), (-len, 0));
    }

    #[test]
    fn a_client_reads_while_it_takes_some_every_second() {
        let mut pace = Pace::since(100);
        assert!(pace.is_reading(100) && pace.is_reading(119) && !pace.is_reading(120));
        for tick in (101..200).step_by(5) {
            pace.sent(PACE_BYTES_MIN / 2, tick);
            assert!(pace.is_reading(tick + 5), "{tick}");
        }
        for tick in (200..240).step_by(5) {
            pace.sent(10, tick);
        }
        assert!(!pace.is_reading(240), "a trickle");
    }

    #[test]
    fn all_bytes_arrive_in_order_however_many_a_write_accepts() {
        for step in 1..40 {
            let mut backlog = Backlog::default();
            let mut expected = Vec::new();
            backlog.push_bytes(b"head".as_slice().into());
            expected.extend_from_slice(b"head");
            for data in ["one", "two"] {
                assert!(backlog.push_frame(&frame("c", data, false), true, BOUNDS));
                expected.extend_from_slice(frame("c", data, false).chunks(true));
            }
            assert_eq!(backlog.bytes(), expected.len());
            let mut socket = Narrow { room: 0, accepted: Vec::new() };
            while !backlog.is_empty() {
                socket.room = step;
                backlog.write(&mut socket, true).unwrap();
            }
            assert_eq!((socket.accepted, backlog.bytes()), (expected, 0));
        }
    }

    #[test]
    fn the_backlog_is_bounded_but_accepts_a_single_frame_of_any_size() {
        let mut backlog = Backlog::default();
        assert!(backlog.push_frame(&frame("c", &"x".repeat(500), false), false, BOUNDS));
        assert!(!backlog.push_frame(&frame("c", "x", false), false, BOUNDS), "bytes");
        let mut backlog = Backlog::default();
        for _ in 0..3 {
            assert!(backlog.push_frame(&frame("c", "x", false), false, BOUNDS));
        }
        assert!(!backlog.push_frame(&frame("c", "x", false), false, BOUNDS), "frames");
    }

    #[test]
    fn a_frame_sent_in_part_is_neither_discarded_nor_conflated() {
        let mut backlog = Backlog::default();
        for data in ["1", "2"] {
            assert!(backlog.push_frame(&frame("c", data, false), false, BOUNDS));
        }
        backlog.write(&mut Narrow { room: 3, accepted: Vec::new() }, false).unwrap();
        backlog.conflate(&frame("c", "3", false), false);
        assert_eq!(backlog.pieces.len(), 1, "the second is conflated");
        backlog.conflate(&frame("c", "3", false), false);
        assert_eq!(backlog.pieces.len(), 1, "the first has been sent in part");
        assert!(backlog.push_frame(&frame("c", "end", true), false, BOUNDS));
        backlog.conflate(&frame("c", "4", false), false);
        backlog.conflate(&frame("d", "4", false), false);
        assert_eq!(backlog.pieces.len(), 2, "an end is retained, and so is another channel");
        backlog.discard_unsent(false);
        let first = frame("c", "1", false).chunks(false).to_vec();
        assert_eq!(backlog.bytes(), first.len());
        let mut socket = Narrow { room: 1000, accepted: Vec::new() };
        backlog.write(&mut socket, false).unwrap();
        assert_eq!(socket.accepted, first[3..]);
    }
}
