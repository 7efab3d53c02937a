//! The frames of one turn of a shard, grouped by channel, with each group's bytes joined once. Look
//! here for how events that arrive together are written together.

use std::borrow::Cow;
use std::ops::Range;

use headwater_core::frame::Frame;
use headwater_core::transport::Cursor;

/// The frames of one turn.
#[derive(Default)]
pub(super) struct Batch {
    items: Vec<Item>,
}

/// A frame, the slot of its channel, and its number in the order of the turn.
pub(super) struct Item {
    pub(super) channel: u32,
    pub(super) order: u32,
    pub(super) frame: Frame,
}

impl Batch {
    pub(super) fn push(&mut self, channel: u32, frame: Frame) {
        let order = u32::try_from(self.items.len()).unwrap_or(u32::MAX);
        self.items.push(Item { channel, order, frame });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Groups the frames by channel, each group in the order of the turn.
    pub(super) fn sort(&mut self) {
        self.items.sort_unstable_by_key(|item| (item.channel, item.order));
    }

    /// The frames of each channel; the batch must be sorted.
    pub(super) fn runs(&self) -> impl Iterator<Item = &[Item]> {
        self.items.chunk_by(|one, next| one.channel == next.channel)
    }

    /// The frames of one channel; the batch must be sorted.
    fn of_channel(&self, channel: u32) -> &[Item] {
        let from = self.items.partition_point(|item| item.channel < channel);
        let to = self.items.partition_point(|item| item.channel <= channel);
        &self.items[Range { start: from, end: to }]
    }

    /// The frames of several channels, merged in the order of the turn; the batch must be sorted.
    pub(super) fn merge<'a>(
        &'a self,
        channels: impl Iterator<Item = u32>,
        into: &mut Vec<&'a Item>,
    ) {
        into.clear();
        channels.for_each(|channel| into.extend(self.of_channel(channel)));
        into.sort_unstable_by_key(|item| item.order);
    }

    pub(super) fn clear(&mut self) {
        self.items.clear();
        // Release the memory of a burst.
        self.items.shrink_to(1024);
    }
}

/// Frames that are written together to each stream that receives them.
pub(super) struct Run<'a> {
    pub(super) frames: Vec<&'a Frame>,
    /// The joined bytes without and with channel names, computed for the first stream that needs
    /// them.
    views: [Option<Cow<'a, [u8]>>; 2],
    /// Whether no frame is an end or a gap. A stream to which the run is new then receives all
    /// frames, and its progress does not change.
    pub(super) is_simple: bool,
    /// How many frames are not just markers.
    pub(super) events: u64,
    /// The lowest offset and the lowest number of the frames.
    lowest: Cursor,
}

impl<'a> Run<'a> {
    pub(super) fn new(frames: Vec<&'a Frame>) -> Self {
        let is_simple = !frames.iter().any(|frame| frame.is_end() || frame.gap().is_some());
        let mut lowest = Cursor::END;
        for key in frames.iter().filter_map(|frame| frame.key()) {
            match key.number {
                0 => lowest.offset = lowest.offset.min(key.offset),
                number => lowest.number = lowest.number.min(number),
            }
        }
        let events = frames.iter().filter(|frame| !frame.is_marker()).count() as u64;
        Self { frames, views: [None, None], is_simple, events, lowest }
    }

    /// Whether a stream that has what `until` says lacks all frames of the log, and all others.
    #[inline]
    pub(super) fn is_new_to(&self, until: Cursor) -> bool {
        self.lowest.offset > until.offset && self.lowest.number > until.number
    }

    /// The bytes with or without channel names. Those of a single frame are borrowed; those of
    /// several are joined once for all streams.
    pub(super) fn bytes(&mut self, named: bool) -> &[u8] {
        let frames = &self.frames;
        self.views[usize::from(named)].get_or_insert_with(|| match frames.as_slice() {
            [frame] => Cow::Borrowed(frame.chunks(named)),
            frames => Cow::Owned(
                frames.iter().map(|frame| frame.chunks(named)).collect::<Vec<_>>().concat(),
            ),
        })
    }

    /// The bytes of the response body, without the framing of chunks.
    pub(super) fn body_len(&self, named: bool) -> usize {
        self.frames.iter().map(|frame| frame.body_len(named)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use headwater_core::Event;

    fn batch(channels: &[u32]) -> Batch {
        let mut batch = Batch::default();
        for (at, channel) in channels.iter().enumerate() {
            batch.push(*channel, Frame::new(&Event::new(at.to_string())));
        }
        batch.sort();
        batch
    }

    #[test]
    fn runs_and_merges_are_in_the_order_of_the_turn() {
        let batch = batch(&[3, 1, 3, 2, 1]);
        let runs: Vec<Vec<u32>> =
            batch.runs().map(|run| run.iter().map(|item| item.order).collect()).collect();
        assert_eq!(runs, [vec![1, 4], vec![3], vec![0, 2]]);
        let mut merged = Vec::new();
        batch.merge([3, 1, 7].into_iter(), &mut merged);
        assert_eq!(merged.iter().map(|item| item.order).collect::<Vec<_>>(), [0, 1, 2, 4]);
    }

    #[test]
    fn a_single_frame_is_not_copied() {
        let frame = Frame::new(&Event::new("x"));
        let mut run = Run::new(vec![&frame]);
        assert_eq!(run.bytes(false).as_ptr(), frame.chunks(false).as_ptr());
        let mut run = Run::new(vec![&frame, &frame]);
        assert_eq!(run.bytes(false), [frame.chunks(false), frame.chunks(false)].concat());
        assert_eq!(run.body_len(false), 2 * frame.len());
    }
}
