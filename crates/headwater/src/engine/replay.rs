//! Streams of a shard that replay what their node has missed. The hub reads, one page at a time;
//! the shard writes. Look here for when the next page is asked for.

use std::collections::HashMap;

use headwater_core::Channel;
use headwater_core::close::CloseReason;
use headwater_core::frame::Frame;
use headwater_core::transport::{Cursor, Missed, Progress, ReplayFrom};
use tokio::sync::oneshot;

use super::shard::Shard;

/// The replays of a shard, by the keys of their streams.
#[derive(Default)]
pub(super) struct Replays {
    running: HashMap<u32, Running>,
    count: u32,
}

struct Running {
    /// The replay's number: its count, and the stream's key, so that a page for a stream that is
    /// closed does not reach another one with the same key.
    number: u64,
    /// Asks for the next page when it is sent; ends the replay when it is dropped.
    written: Option<oneshot::Sender<()>>,
}

impl Replays {
    fn start(&mut self, key: u32) -> u64 {
        self.count = self.count.wrapping_add(1);
        let number = u64::from(self.count) << 32 | u64::from(key);
        self.running.insert(key, Running { number, written: None });
        number
    }

    /// The key of the stream, if this replay is running.
    fn key_of(&self, number: u64) -> Option<u32> {
        let key = u32::try_from(number & u64::from(u32::MAX)).ok()?;
        self.running.get(&key).is_some_and(|it| it.number == number).then_some(key)
    }

    /// Ends the replay of a stream that is closed.
    pub(super) fn remove(&mut self, key: u32) {
        if !self.running.is_empty() {
            self.running.remove(&key);
        }
    }

    fn wait(&mut self, key: u32, written: oneshot::Sender<()>) {
        if let Some(running) = self.running.get_mut(&key) {
            running.written = Some(written);
        }
    }

    /// Asks for the next page of a stream whose socket has accepted everything.
    pub(super) fn next(&mut self, key: u32) {
        let written = self.running.get_mut(&key).and_then(|running| running.written.take());
        if let Some(written) = written {
            // The replay may have ended.
            let _ = written.send(());
        }
    }
}

impl Shard {
    /// Starts replays for the streams of a channel of which the node has missed events.
    pub(super) fn replay_channel(&mut self, slot: u32, from: ReplayFrom) {
        let Some(channel) = self.channels.name(slot).cloned() else { return };
        let missed = Missed { channel, from };
        for key in self.channels.streams_on(slot) {
            self.replay(u32::try_from(key).unwrap_or(u32::MAX), &missed);
        }
    }

    /// Starts a replay, unless one is running: it reads the missing events too.
    pub(super) fn replay(&mut self, key: u32, missed: &Missed) {
        let Some(stream) = self.streams.get_mut(key as usize) else { return };
        if !stream.is_live() || stream.progress.is_replaying() {
            return;
        }
        let until = std::mem::replace(&mut stream.progress.until, Cursor::END);
        let names = stream.channels.as_slice().iter();
        let channels: Vec<Channel> =
            names.filter_map(|it| self.channels.name(it.slot).cloned()).collect();
        let number = self.replays.start(key);
        self.port.replay(number, &channels, missed, until);
    }

    /// Writes a page of a replay.
    pub(super) fn on_page(&mut self, number: u64, frames: &[Frame], written: oneshot::Sender<()>) {
        let Some(key) = self.replays.key_of(number) else { return };
        self.replays.wait(key, written);
        self.deliver_page(key, frames);
        if self.streams.get(key as usize).is_some_and(|stream| stream.backlog.is_none()) {
            self.replays.next(key);
        }
    }

    /// The stream of a replay is live again.
    pub(super) fn on_live(&mut self, number: u64, progress: Progress) {
        let Some(key) = self.replays.key_of(number) else { return };
        self.replays.remove(key);
        let Some(stream) = self.streams.get_mut(key as usize) else { return };
        stream.progress = progress;
        if progress.open == 0 {
            self.end(key, CloseReason::Finished);
        }
    }
}
