//! Delivery of a turn's frames to the sockets. Look here for the one write per stream, and for what
//! follows a short write.

use headwater_core::close::CloseReason;
use headwater_core::frame::Frame;
use headwater_core::transport::{Offer, Overflow, ShardPort, Tick, WaitingBounds};

use super::batch::{Batch, Item, Run};
use super::shard::Shard;
use super::stream::Stream;
use crate::limits::BACKLOG_TOTAL_BYTES_MAX;

/// Actions deferred until every stream has been written to, because they change the lists of
/// streams that delivery iterates over.
#[derive(Default)]
pub(super) struct Deferred {
    gone: Vec<u32>,
    ended: Vec<(u32, CloseReason)>,
    watched: Vec<u32>,
}

/// The outcome of a write.
#[derive(Clone, Copy)]
enum Outcome {
    Sent,
    /// Some bytes are in the backlog.
    Queued,
    /// The backlog is full.
    Full,
    Gone,
}

/// What a write needs besides its stream.
struct Writer<'a> {
    port: &'a ShardPort,
    bounds: WaitingBounds,
    now: Tick,
}

impl Shard {
    /// Writes the frames of the batch to the streams, and empties it.
    pub(super) fn deliver(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let mut batch = std::mem::take(&mut self.batch);
        batch.sort();
        let (mut deferred, mut merging) = (Deferred::default(), Vec::new());
        for run in batch.runs() {
            let frames = Run::new(run.iter().map(|item| &item.frame).collect());
            self.deliver_run(run[0].channel, frames, &mut merging, &mut deferred);
        }
        let mut merged = Vec::new();
        for key in merging {
            self.merge(key, &batch, &mut merged);
            self.deliver_to(key, merged.iter().map(|item| &item.frame), &mut deferred);
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

    /// Delivers the frames of one channel to its streams, with one write of the same bytes to each.
    /// Streams with several channels, a backlog, or progress to check are added to `merging`
    /// instead.
    fn deliver_run(
        &mut self,
        channel: u32,
        mut run: Run<'_>,
        merging: &mut Vec<u32>,
        deferred: &mut Deferred,
    ) {
        let Self { channels, streams, port, bounds, now, .. } = self;
        let writer = Writer { port, bounds: *bounds, now: *now };
        let Some(entry) = channels.get(channel) else { return };
        for &key in &entry.streams {
            let Some(stream) = streams.get_mut(key as usize) else { continue };
            let takes_run = run.is_simple
                && stream.state.backlog().is_none()
                && stream.channels.as_slice().len() == 1
                && run.is_new_to(stream.progress.until);
            if takes_run {
                deferred.note(key, writer.write_run(stream, &mut run));
            } else if !std::mem::replace(&mut stream.is_merging, true) {
                merging.push(key);
            }
        }
    }

    /// Collects all frames of the batch for one stream, in the order of the turn.
    fn merge<'a>(&mut self, key: u32, batch: &'a Batch, into: &mut Vec<&'a Item>) {
        into.clear();
        let Some(stream) = self.streams.get_mut(key as usize) else { return };
        stream.is_merging = false;
        batch.merge(stream.channels.as_slice().iter().map(|it| it.slot), into);
    }

    /// Delivers to one stream those frames that it has not received before.
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

    /// Carries out the deferred actions. Must not run while the lists of streams are iterated.
    pub(super) fn apply(&mut self, deferred: Deferred) {
        for key in deferred.gone {
            self.finish(key, CloseReason::ClientGone);
        }
        for (key, reason) in deferred.ended {
            self.end(key, reason);
        }
        for key in deferred.watched {
            self.watch(key);
        }
    }
}

impl Deferred {
    fn note(&mut self, key: u32, outcome: Outcome) {
        match outcome {
            Outcome::Sent => {}
            Outcome::Queued => self.watched.push(key),
            Outcome::Full => self.ended.push((key, CloseReason::Overflow)),
            Outcome::Gone => self.gone.push(key),
        }
    }
}

impl Writer<'_> {
    /// Writes frames with one write, and queues what the socket does not accept. Does not write if
    /// there is a backlog, since its bytes come first.
    fn write_run(&self, stream: &mut Stream, run: &mut Run<'_>) -> Outcome {
        let named = stream.profile.is_named();
        stream.state.wrote(self.now);
        self.port.sent(run.events, run.body_len(named));
        let mut sent = 0;
        if stream.state.backlog().is_none() {
            let bytes = run.bytes(named);
            self.port.mailbox().counts.writes.add(1);
            sent = match stream.try_write(bytes) {
                Ok(sent) if sent == bytes.len() => return Outcome::Sent,
                Ok(sent) => sent,
                Err(_) => return Outcome::Gone,
            };
        }
        let before = stream.state.backlog_bytes();
        let outcome = self.queue(stream, &run.frames, sent, named);
        let held = stream.state.settle();
        self.port.backlog_changed(before, stream.state.backlog_bytes(), held);
        match outcome {
            Ok(()) => Outcome::Queued,
            Err(Overflow) => Outcome::Full,
        }
    }

    /// Queues frames, except for their first `sent` bytes.
    fn queue(
        &self,
        stream: &mut Stream,
        frames: &[&Frame],
        mut sent: usize,
        named: bool,
    ) -> Result<(), Overflow> {
        let is_full = self.port.held_bytes() > BACKLOG_TOTAL_BYTES_MAX;
        for frame in frames {
            let len = frame.chunks(named).len();
            if sent >= len {
                sent -= len;
                continue;
            }
            let (bounds, latest_only) = (self.bounds, self.port.conflates(frame));
            let sent = std::mem::take(&mut sent);
            let offer = Offer { sent, named, bounds, latest_only, is_full };
            stream.state.offer(frame, &offer, self.now)?;
        }
        Ok(())
    }
}
