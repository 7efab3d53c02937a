//! Frames that wait for one client. Look here for what a slow client gets: how much may wait for
//! it, and which waiting frame a newer one replaces. The only place of this policy.

use std::collections::VecDeque;

use crate::frame::Frame;

/// How much may wait for one stream.
#[derive(Debug, Clone, Copy)]
pub struct WaitingBounds {
    /// Most frames.
    pub frames_max: usize,
    /// Most bytes. One frame alone may be larger.
    pub bytes_max: usize,
}

/// Which bytes of a frame a transport takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    /// The event in its longer form, without framing.
    Body,
    /// HTTP/1.1 chunks, with channel names or without.
    Chunks {
        /// Whether events are named after their channel.
        named: bool,
    },
}

impl View {
    #[inline]
    fn len(self, frame: &Frame) -> usize {
        match self {
            Self::Body => frame.len(),
            Self::Chunks { named } => frame.chunks(named).len(),
        }
    }
}

/// More waits than may: the stream closes, and its client resumes from the last ID that it
/// received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overflow;

/// Frames that wait, in order.
#[derive(Default)]
pub(crate) struct Waiting {
    frames: VecDeque<Frame>,
    bytes: usize,
}

impl Waiting {
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.frames.len()
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    #[inline]
    pub(crate) fn front(&self) -> Option<&Frame> {
        self.frames.front()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Frame> {
        self.frames.iter()
    }

    /// Adds a frame, however much waits.
    #[inline]
    pub(crate) fn push(&mut self, frame: &Frame, view: View) {
        self.bytes += view.len(frame);
        self.frames.push_back(frame.clone());
    }

    /// Whether a frame fits. One alone always does.
    #[inline]
    pub(crate) fn fits(&self, frame: &Frame, view: View, bounds: WaitingBounds) -> bool {
        let bytes = || self.bytes + view.len(frame) <= bounds.bytes_max;
        self.len() < bounds.frames_max && (self.is_empty() || bytes())
    }

    /// Removes the frame that a newer one of its channel replaces, on a channel of which only the
    /// newest event counts. Neither an end is replaced, nor one of the first `begun` frames.
    pub(crate) fn conflate(&mut self, newer: &Frame, begun: usize, view: View) -> Option<Frame> {
        let channel = newer.channel()?;
        let is_replaced = |frame: &Frame| frame.channel() == Some(channel) && !frame.is_end();
        let at = self.frames.iter().rposition(is_replaced).filter(|at| *at >= begun)?;
        let replaced = self.frames.remove(at)?;
        self.bytes -= view.len(&replaced);
        Some(replaced)
    }

    #[inline]
    pub(crate) fn pop_front(&mut self, view: View) -> Option<Frame> {
        let frame = self.frames.pop_front()?;
        self.bytes -= view.len(&frame);
        Some(frame)
    }

    pub(crate) fn pop_back(&mut self, view: View) -> Option<Frame> {
        let frame = self.frames.pop_back()?;
        self.bytes -= view.len(&frame);
        Some(frame)
    }

    pub(crate) fn take(&mut self) -> VecDeque<Frame> {
        self.bytes = 0;
        std::mem::take(&mut self.frames)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;

    #[test]
    fn frames_and_bytes_are_bounded_and_a_lone_frame_fits() {
        let frame = |bytes: usize| Frame::new(&Event::new("x".repeat(bytes - "data: \n\n".len())));
        let bounds = WaitingBounds { frames_max: 2, bytes_max: 100 };
        let cases = [
            (&[][..], 500, true),
            (&[60], 40, true),
            (&[60], 41, false),
            (&[10, 10], 10, false),
            (&[500], 10, false),
        ];
        for (waiting, bytes, fits) in cases {
            let mut frames = Waiting::default();
            for bytes in waiting {
                frames.push(&frame(*bytes), View::Body);
            }
            assert_eq!(frames.fits(&frame(bytes), View::Body, bounds), fits, "{waiting:?} {bytes}");
        }
        let none = WaitingBounds { frames_max: 0, bytes_max: 1 };
        assert!(!Waiting::default().fits(&frame(10), View::Body, none));
    }
}
