//! What a slow client gets: how much may wait for one stream, and which waiting frame a newer one
//! replaces. The only place of this policy; queues and backlogs ask it.

use crate::frame::Frame;

/// How much may wait for one stream.
#[derive(Debug, Clone, Copy)]
pub struct WaitingBounds {
    /// Most frames.
    pub frames_max: usize,
    /// Most bytes. One frame alone may be larger.
    pub bytes_max: usize,
}

impl WaitingBounds {
    /// Whether a frame fits where this much waits. If it does not, the stream is closed, with
    /// `overflow` as the reason: its client resumes from the last id that it received.
    #[inline]
    pub fn fits(self, frames: usize, bytes: usize, frame_bytes: usize) -> bool {
        frames < self.frames_max && (frames == 0 || bytes + frame_bytes <= self.bytes_max)
    }
}

/// The place of the frame that a newer one of its channel replaces, on a channel of which only the
/// newest event counts. An end is never replaced. `None` stands for bytes that are no frame.
pub fn replaced<'a>(
    newer: &Frame,
    mut waiting: impl DoubleEndedIterator<Item = Option<&'a Frame>> + ExactSizeIterator,
) -> Option<usize> {
    let channel = newer.channel()?;
    waiting.rposition(|frame| {
        frame.is_some_and(|frame| frame.channel() == Some(channel) && !frame.is_end())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_and_bytes_are_bounded_and_a_lone_frame_fits() {
        let bounds = WaitingBounds { frames_max: 2, bytes_max: 100 };
        let cases = [
            (0, 0, 500, true),
            (1, 60, 40, true),
            (1, 60, 41, false),
            (2, 20, 1, false),
            (1, 500, 1, false),
        ];
        for (frames, bytes, frame_bytes, fits) in cases {
            assert_eq!(bounds.fits(frames, bytes, frame_bytes), fits, "{frames} {bytes}");
        }
        assert!(!WaitingBounds { frames_max: 0, bytes_max: 1 }.fits(0, 0, 1));
    }
}
