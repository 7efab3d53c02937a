//! From a turn's frames to the sockets. Look here for the one write per stream and for what happens when it is short.

use headwater_core::close::CloseReason;
use headwater_core::frame::Frame;
use headwater_core::transport::{ShardPort, WaitingBounds};

use super::batch::{Batch, Item, Run};
use super::shard::Shard;
use super::stream::Stream;
use crate::limits::BACKLOG_TOTAL_BYTES_MAX;

/// What is to be done with streams when all have been written to; lists of streams do not change before.
#[derive(Default)]
pub(super) struct Deferred {
    gone: Vec<u32>,
    over: Vec<(u32, CloseReason)>,
    blocked: Vec<u32>,
}

impl Deferred {
    pub(super) fn gone(&mut self, key: u32) {
        self.gone.push(key);
    }

    /// A stream's timer, or what its socket is watched for, has changed.
    pub(super) fn look_at(&mut self, key: u32) {
        self.blocked.push(key);
    }
}

/// What became of a write.
#[derive(Clone, Copy)]
enum Outcome {
    Sent,
    /// Something waits.
    Kept,
    Full,
    Gone,
}

/// What a write must know beside its stream.
struct Writer<'a> {
    port: &'a ShardPort,
    bounds: WaitingBounds,
    now: u32,
}

impl Shard {
    /// Hands the frames of the batch to the streams.
    pub(super) fn deliver(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let mut batch = std::mem::take(&mut self.batch);
        batch.sort();
        let (mut after, mut mixing) = (Deferred::default(), Vec::new());
        for run in batch.runs() {
            let frames = Run::new(run.iter().map(|item| &item.frame).collect());
            self.deliver_run(run[0].channel, frames, &mut mixing, &mut after);
        }
        let mut mix = Vec::new();
        for key in mixing {
            self.mix(key, &batch, &mut mix);
            self.give(key, mix.iter().map(|item| &item.frame), &mut after);
        }
        batch.clear();
        self.batch = batch;
        self.apply(after);
    }

    /// One frame to every stream.
    pub(super) fn deliver_to_all(&mut self, frame: &Frame) {
        let keys: Vec<usize> = self.streams.iter().map(|(key, _)| key).collect();
        let mut after = Deferred::default();
        for key in keys {
            let key = u32::try_from(key).unwrap_or(u32::MAX);
            self.give(key, std::iter::once(frame), &mut after);
        }
        self.apply(after);
    }

    /// The frames of one channel to its streams, each with one write of the same bytes. Streams that have
    /// more channels or need a closer look are put on a list.
    fn deliver_run(
        &mut self,
        channel: u32,
        mut run: Run<'_>,
        mixing: &mut Vec<u32>,
        after: &mut Deferred,
    ) {
        let Self { channels, streams, port, bounds, now, .. } = self;
        let writer = Writer { port, bounds: *bounds, now: *now };
        let Some(entry) = channels.get(channel) else { return };
        for &key in &entry.streams {
            let Some(stream) = streams.get_mut(key as usize) else { continue };
            let is_plain = run.is_simple
                && stream.backlog.is_none()
                && stream.channels.as_slice().len() == 1
                && run.lowest.is_none_or(|lowest| lowest > stream.progress.until);
            if is_plain {
                after.note(key, writer.write_run(stream, &mut run));
            } else if !std::mem::replace(&mut stream.is_mixing, true) {
                mixing.push(key);
            }
        }
    }

    /// All frames of the batch that are for one stream, in their order.
    fn mix<'a>(&mut self, key: u32, batch: &'a Batch, into: &mut Vec<&'a Item>) {
        into.clear();
        let Some(stream) = self.streams.get_mut(key as usize) else { return };
        stream.is_mixing = false;
        batch.mix(stream.channels.as_slice().iter().map(|it| it.slot), into);
    }

    /// Gives frames to one stream, those that it was not progress before.
    pub(super) fn give<'a>(
        &mut self,
        key: u32,
        frames: impl Iterator<Item = &'a Frame>,
        after: &mut Deferred,
    ) {
        let Some(stream) = self.streams.get_mut(key as usize) else { return };
        let frames: Vec<&Frame> = frames.filter(|frame| stream.progress.note(frame)).collect();
        let is_over = stream.progress.open == 0;
        if !frames.is_empty() {
            let Self { streams, port, bounds, now, .. } = self;
            let writer = Writer { port, bounds: *bounds, now: *now };
            let outcome = match streams.get_mut(key as usize) {
                Some(stream) => writer.write_run(stream, &mut Run::new(frames)),
                None => return,
            };
            after.note(key, outcome);
        }
        if is_over {
            after.over.push((key, CloseReason::Finished));
        }
    }

    /// Does what had to wait until all streams were written to.
    pub(super) fn apply(&mut self, after: Deferred) {
        for key in after.gone {
            self.finish(key, CloseReason::ClientGone);
        }
        for (key, reason) in after.over {
            self.end(key, reason);
        }
        for key in after.blocked {
            self.watch(key);
        }
    }
}

impl Deferred {
    fn note(&mut self, key: u32, outcome: Outcome) {
        match outcome {
            Outcome::Sent => {}
            Outcome::Kept => self.blocked.push(key),
            Outcome::Full => self.over.push((key, CloseReason::Overflow)),
            Outcome::Gone => self.gone.push(key),
        }
    }
}

impl Writer<'_> {
    /// Writes frames with one write, or keeps those that the socket does not take.
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
        let outcome = self.keep(stream, &run.frames, sent, named);
        self.port.backlog_changed(before, stream.backlog_bytes());
        outcome
    }

    /// Puts frames into the backlog, of which the first so many bytes went out.
    fn keep(
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
            let has_room = is_first || total + backlog.bytes() <= BACKLOG_TOTAL_BYTES_MAX;
            if !has_room || !backlog.push_frame(frame, named, self.bounds) {
                return Outcome::Full;
            }
            if is_first {
                backlog.begin_at(std::mem::take(&mut sent));
            }
        }
        Outcome::Kept
    }
}
