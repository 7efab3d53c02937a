//! Streams of a shard that replay: before they are live, or what their node has missed. The hub
//! reads, one page at a time; the shard writes. Look here for when the next page is asked for.

use headwater_core::Channel;
use headwater_core::close::CloseReason;
use headwater_core::frame::Frame;
use headwater_core::transport::{Cursor, Missed, Progress, ReplayFrom};

use super::shard::{ReplayPage, Shard};
use crate::limits::{BACKLOG_TOTAL_BYTES_MAX, REPLAY_SEND_BUFFER_BYTES};

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
        if !stream.state.is_open() || stream.progress.is_replaying() {
            return;
        }
        let until = std::mem::replace(&mut stream.progress.until, Cursor::END);
        let names = stream.channels.as_slice().iter();
        let channels: Vec<Channel> =
            names.filter_map(|it| self.channels.name(it.slot).cloned()).collect();
        let number = self.replays.start(key);
        match self.port.replay(number, &channels, missed, until) {
            Some(task) => self.replays.run(key, task),
            None => self.end(key, CloseReason::Internal),
        }
    }

    /// Writes a page of a replay.
    pub(super) fn on_page(&mut self, page: ReplayPage) {
        let Some(key) = self.replays.key_of(page.replay) else { return };
        self.replays.wait(key, page.written);
        if let Some(stream) = self.streams.get(key as usize) {
            // What a slow client has missed waits in the log, not in the kernel.
            let socket = socket2::SockRef::from(&stream.socket);
            let _ = socket.set_send_buffer_size(REPLAY_SEND_BUFFER_BYTES);
        }
        self.send_page(key, &[], &page.frames);
        if self.streams.get(key as usize).is_some_and(|it| it.state.backlog().is_none()) {
            self.replays.next(key);
        }
    }

    /// Writes a page and what precedes it. The next one comes only when the client has accepted
    /// this one, so a backlog takes it however much it is, unless all backlogs together are full.
    pub(super) fn send_page(&mut self, key: u32, head: &[u8], frames: &[Frame]) {
        if head.is_empty() && frames.is_empty() {
            return;
        }
        if self.write_page(key, head, frames).is_err() {
            return self.finish(key, CloseReason::ClientGone);
        }
        let Some(stream) = self.streams.get(key as usize) else { return };
        if stream.state.backlog().is_some() && self.port.held_bytes() > BACKLOG_TOTAL_BYTES_MAX {
            return self.end(key, CloseReason::Overflow);
        }
        self.watch(key);
    }

    /// The stream of a replay was closed before it joined its channels.
    pub(super) fn on_close(&mut self, number: u64, reason: CloseReason) {
        if let Some(key) = self.replays.key_of(number) {
            self.end(key, reason);
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
