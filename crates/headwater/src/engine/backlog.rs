//! The unsent bytes of a blocked socket. The backlog is bounded, and a partially sent frame is
//! always completed. Look here for slow clients of the engine.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};

use headwater_core::frame::Frame;

/// Maximum number of pieces per write. Linux accepts 1024; a socket's buffer rarely holds more than
/// this.
const PIECES_MAX: usize = 64;

/// The unsent bytes of one stream.
#[derive(Default)]
pub(super) struct Backlog {
    pieces: VecDeque<Piece>,
    /// How much of the first piece was sent, in bytes.
    sent: usize,
    /// Size of the pieces in bytes, sent or not.
    bytes: usize,
    /// The tick of the last progress, or of the first blocked write.
    pub(super) since: u32,
}

enum Piece {
    Frame(Frame),
    /// A head, a heartbeat, or the end of a stream.
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

/// The bounds of one backlog.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    pub(super) frames_max: usize,
    pub(super) bytes_max: usize,
}

impl Backlog {
    /// An empty backlog, of a socket that blocked at this tick.
    pub(super) fn since(tick: u32) -> Self {
        Self { since: tick, ..Self::default() }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Appends a frame; false if it does not fit. A frame always fits an empty backlog.
    pub(super) fn push_frame(&mut self, frame: &Frame, named: bool, bounds: Bounds) -> bool {
        let bytes = frame.chunks(named).len();
        let full = self.pieces.len() >= bounds.frames_max
            || (!self.pieces.is_empty() && self.bytes + bytes > bounds.bytes_max);
        if full {
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

    /// Removes the frame that a newer frame of its channel supersedes, unless a part of it was
    /// sent.
    pub(super) fn conflate(&mut self, newer: &Frame, named: bool) {
        let started = usize::from(self.sent > 0);
        let Some(channel) = newer.channel() else { return };
        let is_older = |piece: &Piece| {
            piece.frame().is_some_and(|it| it.channel() == Some(channel) && !it.is_end())
        };
        let Some(at) = self.pieces.iter().rposition(is_older).filter(|at| *at >= started) else {
            return;
        };
        if let Some(piece) = self.pieces.remove(at) {
            self.bytes -= piece.bytes(named).len();
        }
    }

    /// Records that the first `sent` bytes of the first piece were sent already.
    pub(super) fn start_at(&mut self, sent: usize) {
        self.sent = sent;
    }

    /// Drops everything except a partially sent piece.
    pub(super) fn cut_to_started(&mut self, named: bool) {
        self.pieces.truncate(usize::from(self.sent > 0));
        self.bytes = self.pieces.iter().map(|piece| piece.bytes(named).len()).sum();
    }

    /// Writes as much as the socket accepts. It is not an error if the socket blocks.
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

/// The result of writing a backlog: the number of writes, and of bytes sent.
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

    /// A socket that accepts `capacity` bytes and then blocks.
    struct Narrow {
        capacity: usize,
        received: Vec<u8>,
    }

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.capacity);
            if count == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.capacity -= count;
            self.received.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    const BOUNDS: Bounds = Bounds { frames_max: 3, bytes_max: 100 };

    fn frame(channel: &str, data: &str, end: bool) -> Frame {
        let published = Published { end, ..Published::default() };
        Frame::of_channel(&Channel::new(channel).unwrap(), &Event::new(data), published)
    }

    #[test]
    fn all_bytes_are_sent_in_order_however_small_the_writes() {
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
            let mut socket = Narrow { capacity: 0, received: Vec::new() };
            while !backlog.is_empty() {
                socket.capacity = step;
                backlog.write(&mut socket, true).unwrap();
            }
            assert_eq!((socket.received, backlog.bytes()), (expected, 0));
        }
    }

    #[test]
    fn a_backlog_is_bounded_but_holds_any_single_frame() {
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
    fn a_partially_sent_frame_is_neither_dropped_nor_conflated() {
        let mut backlog = Backlog::default();
        for data in ["1", "2"] {
            assert!(backlog.push_frame(&frame("c", data, false), false, BOUNDS));
        }
        backlog.write(&mut Narrow { capacity: 3, received: Vec::new() }, false).unwrap();
        backlog.conflate(&frame("c", "3", false), false);
        assert_eq!(backlog.pieces.len(), 1, "the second was superseded");
        backlog.conflate(&frame("c", "3", false), false);
        assert_eq!(backlog.pieces.len(), 1, "the first is partially sent");
        assert!(backlog.push_frame(&frame("c", "end", true), false, BOUNDS));
        backlog.conflate(&frame("c", "4", false), false);
        backlog.conflate(&frame("d", "4", false), false);
        assert_eq!(backlog.pieces.len(), 2, "an end stays, and so does another channel");
        backlog.cut_to_started(false);
        let first = frame("c", "1", false).chunks(false).to_vec();
        assert_eq!(backlog.bytes(), first.len());
        let mut socket = Narrow { capacity: 1000, received: Vec::new() };
        backlog.write(&mut socket, false).unwrap();
        assert_eq!(socket.received, first[3..]);
    }
}
