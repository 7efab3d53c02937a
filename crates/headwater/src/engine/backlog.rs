//! The bounded queue of bytes that a blocked socket has not accepted. Look here for how the engine
//! treats slow clients. A frame that has been sent in part is always completed.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};

use headwater_core::frame::Frame;
use headwater_core::transport::{WaitingBounds, replaced};

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
    /// The tick of the last progress, or of the first blocked write.
    pub(super) since: u32,
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
        Self { since: tick, ..Self::default() }
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
        self.bytes += bytes;
        self.pieces.push_back(Piece::Frame(frame.clone()));
        true
    }

    pub(super) fn push_bytes(&mut self, bytes: Box<[u8]>) {
        self.bytes += bytes.len();
        self.pieces.push_back(Piece::Bytes(bytes));
    }

    /// Removes the frame that a newer one of its channel replaces, unless it has been sent in part.
    pub(super) fn conflate(&mut self, newer: &Frame, named: bool) {
        let in_flight = usize::from(self.sent > 0);
        let waiting = self.pieces.iter().map(Piece::frame);
        let Some(at) = replaced(newer, waiting).filter(|at| *at >= in_flight) else { return };
        if let Some(piece) = self.pieces.remove(at) {
            self.bytes -= piece.bytes(named).len();
        }
    }

    /// Records how many bytes of the first piece have already been sent.
    pub(super) fn set_sent(&mut self, sent: usize) {
        self.sent = sent;
    }

    /// Discards everything except a piece that has been sent in part.
    pub(super) fn discard_unsent(&mut self, named: bool) {
        self.pieces.truncate(usize::from(self.sent > 0));
        self.bytes = self.pieces.iter().map(|piece| piece.bytes(named).len()).sum();
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
            self.bytes -= len;
            self.pieces.pop_front();
        }
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
