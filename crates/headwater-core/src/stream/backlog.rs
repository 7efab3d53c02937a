//! What a client has not taken yet, of a transport that writes bytes. Look here for the order of
//! the bytes, and for what a stream that is closed early still sends.

use std::io::IoSlice;
use std::iter;

use super::pace::Pace;
use super::schedule::Tick;
use super::waiting::{Overflow, View, Waiting, WaitingBounds};
use crate::frame::Frame;

/// How much may wait, and what a newer frame replaces.
#[derive(Debug, Clone, Copy)]
pub struct Offer {
    /// Bytes of the frame that the client has taken already, if nothing else waits.
    pub sent: usize,
    /// Whether events are named after their channel.
    pub named: bool,
    /// What may wait for the stream.
    pub bounds: WaitingBounds,
    /// Whether the frame replaces the waiting one of its channel.
    pub latest_only: bool,
    /// Whether so much waits for all streams together that only one frame may wait.
    pub is_full: bool,
}

/// The bytes that wait for one client, in this order: what began before any frame waited, frames,
/// and the end of the body.
#[derive(Default)]
pub struct Backlog {
    /// The head of a response, or a heartbeat.
    lead: Box<[u8]>,
    frames: Waiting,
    end: Box<[u8]>,
    /// Bytes of the first piece that the client has taken.
    sent: usize,
    /// By how much the bytes in all backlogs have changed, since it was asked last. A frame that
    /// several backlogs hold counts once.
    held: isize,
    pace: Pace,
}

impl Backlog {
    /// An empty backlog of a client that took everything until this tick.
    pub(super) fn since(now: Tick) -> Self {
        Self { pace: Pace::since(now), ..Self::default() }
    }

    /// All bytes that wait, and those of the first piece that the client has taken.
    pub fn bytes(&self) -> usize {
        self.lead.len() + self.frames.bytes() + self.end.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.lead.is_empty() && self.frames.is_empty() && self.end.is_empty()
    }

    /// How fast the client reads.
    pub fn pace(&self) -> &Pace {
        &self.pace
    }

    /// By how much the bytes in all backlogs have changed since the last call.
    pub(super) fn take_held(&mut self) -> isize {
        std::mem::take(&mut self.held)
    }

    /// Starts an empty backlog with bytes of which the client has taken `sent`.
    pub(super) fn lead(&mut self, bytes: Box<[u8]>, sent: usize) {
        debug_assert!(self.is_empty());
        self.held += bytes.len().cast_signed();
        (self.lead, self.sent) = (bytes, sent);
    }

    /// Adds a frame, if it fits.
    pub(super) fn offer(&mut self, frame: &Frame, offer: &Offer) -> Result<(), Overflow> {
        let view = View::Chunks { named: offer.named };
        if offer.latest_only
            && let Some(replaced) = self.frames.conflate(frame, self.begun(), view)
        {
            self.held -= replaced.release().cast_signed();
        }
        let is_first = self.is_empty();
        if (offer.is_full && !is_first) || !self.frames.fits(frame, view, offer.bounds) {
            return Err(Overflow);
        }
        if is_first {
            self.sent = offer.sent;
        }
        self.push(frame, offer.named);
        Ok(())
    }

    /// Adds a frame, however much waits.
    pub(super) fn push(&mut self, frame: &Frame, named: bool) {
        self.frames.push(frame, View::Chunks { named });
        self.held += frame.hold().cast_signed();
    }

    /// Adds the end of the body.
    pub(super) fn end(&mut self, bytes: Box<[u8]>) {
        self.held += bytes.len().cast_signed();
        self.end = bytes;
    }

    /// How many frames the client has taken in part.
    fn begun(&self) -> usize {
        usize::from(self.sent > 0 && self.lead.is_empty() && !self.frames.is_empty())
    }

    /// Discards the frames that the client has not begun to take.
    pub(super) fn discard_unsent(&mut self, named: bool) {
        while self.frames.len() > self.begun()
            && let Some(frame) = self.frames.pop_back(View::Chunks { named })
        {
            self.held -= frame.release().cast_signed();
        }
    }

    /// Discards everything: the stream is gone.
    pub(super) fn clear(&mut self, named: bool) {
        self.sent = 0;
        self.discard_unsent(named);
        let bytes = std::mem::take(&mut self.lead).len() + std::mem::take(&mut self.end).len();
        self.held -= bytes.cast_signed();
    }

    /// Fills `slices` with what to write next, and returns how many it has filled.
    pub fn slices<'a>(&'a self, named: bool, slices: &mut [IoSlice<'a>]) -> usize {
        let frames = self.frames.iter().map(|frame| frame.chunks(named));
        let pieces = iter::once(&*self.lead).chain(frames).chain(iter::once(&*self.end));
        let (mut count, mut sent) = (0, self.sent);
        for (slice, piece) in slices.iter_mut().zip(pieces.filter(|piece| !piece.is_empty())) {
            *slice = IoSlice::new(&piece[std::mem::take(&mut sent)..]);
            count += 1;
        }
        count
    }

    /// Removes what the client has taken.
    pub(super) fn advance(&mut self, bytes: usize, named: bool, now: Tick) {
        self.pace.took(bytes, now);
        self.sent += bytes;
        if !take_whole(&mut self.lead, &mut self.sent, &mut self.held) {
            return;
        }
        while let Some(first) = self.frames.front() {
            let len = first.chunks(named).len();
            if self.sent < len {
                return;
            }
            self.sent -= len;
            if let Some(frame) = self.frames.pop_front(View::Chunks { named }) {
                self.held -= frame.release().cast_signed();
            }
        }
        take_whole(&mut self.end, &mut self.sent, &mut self.held);
    }

    /// The end of the body, of a stream whose frames do not wait here.
    pub(super) fn take_end(&mut self) -> Box<[u8]> {
        std::mem::take(&mut self.end)
    }
}

/// Removes bytes if all of them were sent. Returns whether none are left.
fn take_whole(bytes: &mut Box<[u8]>, sent: &mut usize, held: &mut isize) -> bool {
    if *sent < bytes.len() {
        return false;
    }
    let taken = std::mem::take(bytes);
    *sent -= taken.len();
    *held -= taken.len().cast_signed();
    true
}
