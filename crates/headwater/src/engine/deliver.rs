//! Delivery of a turn's frames to the sockets. Look here for the one write per stream, and for what
//! happens when the socket accepts only a part.

use headwater_core::close::CloseReason;
use headwater_core::frame::Frame;
use headwater_core::transport::ShardPort;

use super::backlog::Bounds;
use super::batch::{Batch, Item, Run};
use super::shard::Shard;
use super::stream::Stream;
use crate::limits::BACKLOG_TOTAL_BYTES_MAX;

/// Actions on streams that must wait until all frames are written: lists of streams must not change
/// before.
#[derive(Default)]
pub(super) struct Deferred {
    gone: Vec<u32>,
    ended: Vec<(u32, CloseReason)>,
    changed: Vec<u32>,
}

impl Deferred {
    pub(super) fn gone(&mut self, key: u32) {
        self.gone.push(key);
    }

    /// A stream's timer, or the readiness that its socket is watched for, has changed.
    pub(super) fn changed(&mut self, key: u32) {
        self.changed.push(key);
    }
}

/// The outcome of a write.
#[derive(Clone, Copy)]
enum Outcome {
    Sent,
    /// A part is in the backlog.
    Queued,
    /// The backlog is full.
    Full,
    Gone,
}

/// The context of a write.
struct Writer<'a> {
    port: &'a ShardPort,
    bounds: Bounds,
    now: u32,
}

impl Shard {
    /// Delivers the frames of the batch to the streams.
    pub(super) fn deliver(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let mut batch = std::mem::take(&mut self.batch);
        batch.sort();
        let (mut deferred, mut mixing) = (Deferred::default(), Vec::new());
        for run in batch.runs() {
            let frames = Run::new(run.iter().map(|item| &item.frame).collect());
            self.deliver_run(run[0].channel, frames, &mut mixing, &mut deferred);
        }
        let mut mix = Vec::new();
        for key in mixing {
            self.mix(key, &batch, &mut mix);
            self.deliver_to(key, mix.iter().map(|item| &item.frame), &mut deferred);
        }
        batch.clear();
        self.batch = batch;
        self.apply(deferred);
    }

    /// Delivers one frame to every stream.
    pub(super) fn deliver_to_all(&mut self, frame: &Frame) {
        let keys: Vec<usize> = self.streams.iter().map(|(key, _)| key).collect();
        let mut deferred = Deferred::default();
        for key in keys {
            let key = u32::try_from(key).unwrap_or(u32::MAX);
            self.deliver_to(key, std::iter::once(frame), &mut deferred);
        }
        self.apply(deferred);
    }

    /// Delivers the frames of one channel to its streams, each with one write of the same bytes.
    /// Streams that have several channels, a backlog, or progress to check are added to `mixing`.
    fn deliver_run(
        &mut self,
        channel: u32,
        mut run: Run<'_>,
        mixing: &mut Vec<u32>,
        deferred: &mut Deferred,
    ) {
        let Self { channels, streams, port, bounds, now, .. } = self;
        let writer = Writer { port, bounds: *bounds, now: *now };
        let Some(entry) = channels.get(channel) else { return };
        for &key in &entry.streams {
            let Some(stream) = streams.get_mut(key as usize) else { continue };
            let can_share = run.is_simple
                && stream.backlog.is_none()
                && stream.channels.as_slice().len() == 1
                && run.lowest.is_none_or(|lowest| lowest > stream.progress.until);
            if can_share {
                deferred.note(key, writer.write_run(stream, &mut run));
            } else if !std::mem::replace(&mut stream.is_mixing, true) {
                mixing.push(key);
            }
        }
    }

    /// Collects all frames of the batch for one stream, in order.
    fn mix<'a>(&mut self, key: u32, batch: &'a Batch, into: &mut Vec<&'a Item>) {
        into.clear();
        let Some(stream) = self.streams.get_mut(key as usize) else { return };
        stream.is_mixing = false;
        batch.mix(stream.channels.as_slice().iter().map(|it| it.slot), into);
    }

    /// Delivers frames to one stream, except those that it has received already.
    pub(super) fn deliver_to<'a>(
        &mut self,
        key: u32,
        frames: impl Iterator<Item = &'a Frame>,
        deferred: &mut Deferred,
    ) {
        let Some(stream) = self.streams.get_mut(key as usize) else { return };
        let frames: Vec<&Frame> = frames.filter(|frame| stream.progress.note(frame)).collect();
        let has_ended = stream.progress.open == 0;
        if !frames.is_empty() {
            let Self { streams, port, bounds, now, .. } = self;
            let writer = Writer { port, bounds: *bounds, now: *now };
            let outcome = match streams.get_mut(key as usize) {
                Some(stream) => writer.write_run(stream, &mut Run::new(frames)),
                None => return,
            };
            deferred.note(key, outcome);
        }
        if has_ended {
            deferred.ended.push((key, CloseReason::Finished));
        }
    }

    /// Applies the deferred actions, after all frames were written.
    pub(super) fn apply(&mut self, deferred: Deferred) {
        for key in deferred.gone {
            self.finish(key, CloseReason::ClientGone);
        }
        for (key, reason) in deferred.ended {
            self.end(key, reason);
        }
        for key in deferred.changed {
            self.watch(key);
        }
    }
}

impl Deferred {
    fn note(&mut self, key: u32, outcome: Outcome) {
        match outcome {
            Outcome::Sent => {}
            Outcome::Queued => self.changed.push(key),
            Outcome::Full => self.ended.push((key, CloseReason::Overflow)),
            Outcome::Gone => self.gone.push(key),
        }
    }
}

impl Writer<'_> {
    /// Writes frames with one write, and queues what the socket does not accept.
    fn write_run(&self, stream: &mut Stream, run: &mut Run<'_>) -> Outcome {
        let named = stream.profile.is_named();
        stream.written = self.now + 1;
        self.port.sent(run.events, run.body_len(named));
        let mut sent = 0;
        if stream.backlog.is_none() {
            let bytes = run.bytes(named);
            self.port.mailbox().counts.writes.add(1);
            sent = match stream.try_write(bytes) {
                Ok(sent) if sent == bytes.len() => return Outcome::Sent,
                Ok(sent) => sent,
                Err(_) => return Outcome::Gone,
            };
        }
        let before = stream.backlog_bytes();
        let outcome = self.enqueue(stream, &run.frames, sent, named);
        self.port.backlog_changed(before, stream.backlog_bytes());
        outcome
    }

    /// Appends frames to the backlog, without those that are within the first `sent` bytes.
    fn enqueue(
        &self,
        stream: &mut Stream,
        frames: &[&Frame],
        mut sent: usize,
        named: bool,
    ) -> Outcome {
        let total = self.port.backlog_bytes();
        let backlog = stream.backlog_at(self.now);
        for frame in frames {
            let len = frame.chunks(named).len();
            if sent >= len {
                sent -= len;
                continue;
            }
            if self.port.conflates(frame) {
                backlog.conflate(frame, named);
            }
            let is_first = backlog.is_empty();
            let fits_total = is_first || total + backlog.bytes() <= BACKLOG_TOTAL_BYTES_MAX;
            if !fits_total || !backlog.push_frame(frame, named, self.bounds) {
                return Outcome::Full;
            }
            if is_first {
                backlog.start_at(std::mem::take(&mut sent));
            }
        }
        Outcome::Queued
    }
}
