//! What a blocked socket has not taken yet: bounded, and begun frames are finished. Look here for slow clients of the
//! engine.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};

use headwater_core::frame::Frame;
use headwater_core::transport::{WaitingBounds, replaced};

/// Most pieces of one write. Linux takes 1024; what fits a socket's buffer is rarely more than this.
const PIECES_MAX: usize = 64;

/// The unsent bytes of one stream.
#[derive(Default)]
pub(super) struct Backlog {
    pieces: VecDeque<Piece>,
    /// How much of the first piece went out.
    sent: usize,
    /// Bytes of the pieces, sent or not.
    bytes: usize,
    /// The tick of the last progress, or of the first blocked write.
    pub(super) since: u32,
}

enum Piece {
    Frame(Frame),
    /// A head, or the end of a stream.
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
    /// An empty one, of a socket that blocked at this tick.
    pub(super) fn since(tick: u32) -> Self {
        Self { since: tick, ..Self::default() }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Adds a frame, or says that it does not fit. A frame always fits an empty backlog.
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

    /// Takes out what a newer frame of a channel makes useless, unless it has begun to go out.
    pub(super) fn conflate(&mut self, newer: &Frame, named: bool) {
        let begun = usize::from(self.sent > 0);
        let waiting = self.pieces.iter().map(Piece::frame);
        let Some(at) = replaced(newer, waiting).filter(|at| *at >= begun) else { return };
        if let Some(piece) = self.pieces.remove(at) {
            self.bytes -= piece.bytes(named).len();
        }
    }

    /// The first so many bytes of the first piece went out already.
    pub(super) fn begin_at(&mut self, sent: usize) {
        self.sent = sent;
    }

    /// Gives up everything but what has begun to go out.
    pub(super) fn cut_to_begun(&mut self, named: bool) {
        self.pieces.truncate(usize::from(self.sent > 0));
        self.bytes = self.pieces.iter().map(|piece| piece.bytes(named).len()).sum();
    }

    /// Writes as much as the socket takes; says how many writes that took. Not an error if it blocks.
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

/// What a round of writing did.
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

    /// A socket that takes so many bytes and then blocks.
    struct Narrow {
        room: usize,
        taken: Vec<u8>,
    }

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.room);
            if count == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.room -= count;
            self.taken.extend_from_slice(&bytes[..count]);
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
    fn whatever_the_socket_takes_at_a_time_all_bytes_come_in_order() {
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
            let mut socket = Narrow { room: 0, taken: Vec::new() };
            while !backlog.is_empty() {
                socket.room = step;
                backlog.write(&mut socket, true).unwrap();
            }
            assert_eq!((socket.taken, backlog.bytes()), (expected, 0));
        }
    }

    #[test]
    fn it_is_bounded_but_takes_a_lone_frame() {
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
    fn only_what_has_not_begun_is_given_up_or_superseded() {
        let mut backlog = Backlog::default();
        for data in ["1", "2"] {
            assert!(backlog.push_frame(&frame("c", data, false), false, BOUNDS));
        }
        backlog.write(&mut Narrow { room: 3, taken: Vec::new() }, false).unwrap();
        backlog.conflate(&frame("c", "3", false), false);
        assert_eq!(backlog.pieces.len(), 1, "the second was superseded");
        backlog.conflate(&frame("c", "3", false), false);
        assert_eq!(backlog.pieces.len(), 1, "the first has begun");
        assert!(backlog.push_frame(&frame("c", "end", true), false, BOUNDS));
        backlog.conflate(&frame("c", "4", false), false);
        backlog.conflate(&frame("d", "4", false), false);
        assert_eq!(backlog.pieces.len(), 2, "an end stays, and so does another channel");
        backlog.cut_to_begun(false);
        let first = frame("c", "1", false).chunks(false).to_vec();
        assert_eq!(backlog.bytes(), first.len());
        let mut socket = Narrow { room: 1000, taken: Vec::new() };
        backlog.write(&mut socket, false).unwrap();
        assert_eq!(socket.taken, first[3..]);
    }
}
