//! Ending the streams of a shard, either in an orderly way or at once. Look here for the last bytes
//! of a stream, and for when application code runs.

use std::panic::{AssertUnwindSafe, catch_unwind};

use headwater_core::close::CloseReason;
use headwater_core::transport::Revoked;
use slab::Slab;

use super::channels::Channels;
use super::shard::Shard;
use super::stream::{Memberships, Stream};
use super::wheel::TimerWheel;
use crate::response::Callbacks;

impl Shard {
    /// Ends all streams in an orderly way.
    pub(super) fn end_all(&mut self, reason: CloseReason) {
        let keys: Vec<usize> = self.streams.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.end(u32::try_from(key).unwrap_or(u32::MAX), reason);
        }
    }

    /// Ends revoked streams.
    pub(super) fn revoke(&mut self, revoked: Revoked) {
        let keys: Vec<usize> = match revoked {
            Revoked::Streams(numbers) => {
                let is_revoked =
                    |(_, stream): &(usize, &Stream)| numbers.binary_search(&stream.number).is_ok();
                self.streams.iter().filter(is_revoked).map(|(key, _)| key).collect()
            }
            Revoked::Channel(channel) => self.channels.streams_on(channel),
        };
        for key in keys {
            self.end(u32::try_from(key).unwrap_or(u32::MAX), CloseReason::Revoked);
        }
    }

    /// Ends a stream in an orderly way: sends what may still be sent, and the end of the body.
    pub(super) fn end(&mut self, key: u32, reason: CloseReason) {
        let Some(stream) = self.streams.get_mut(key as usize) else { return };
        let before = stream.state.backlog_bytes();
        if !stream.close(reason, self.now) {
            return;
        }
        self.replays.remove(key);
        self.leave(key);
        match self.flush(key, before) {
            Ok(()) => self.after_flush(key),
            Err(_) => self.finish(key, reason),
        }
    }

    /// Removes a stream from its channels, so that no further events are delivered to it.
    fn leave(&mut self, key: u32) {
        let Some(stream) = self.streams.get_mut(key as usize) else { return };
        let memberships = stream.channels.take();
        self.leave_all(&memberships);
    }

    pub(super) fn leave_all(&mut self, memberships: &Memberships) {
        for left in memberships.as_slice() {
            let Some((channel, moved)) = self.channels.leave(*left) else { continue };
            if let Some(moved) = moved.and_then(|key| self.streams.get_mut(key as usize)) {
                moved.channels.moved(left.slot, left.index);
            }
            self.port.left(&channel);
        }
    }

    /// Closes a stream's socket immediately. A stream that was already ending retains its first
    /// reason.
    pub(super) fn finish(&mut self, key: u32, reason: CloseReason) {
        let Some(mut stream) = self.streams.try_remove(key as usize) else { return };
        self.wheel.clear(key);
        self.replays.remove(key);
        let memberships = stream.channels.take();
        self.leave_all(&memberships);
        let before = stream.state.backlog_bytes();
        let (reason, held) = stream.state.abandon(reason, stream.profile.is_named());
        self.port.backlog_changed(before, 0, held);
        // Unread bytes from the client would turn the close into a reset, and the client could lose
        // the last bytes.
        stream.read_stray(&mut self.scratch);
        let Stream { socket, callbacks, slot, number, .. } = stream;
        self.port.forget_owner(number);
        drop(socket);
        run_on_close(callbacks, reason);
        self.port.ended(reason);
        drop(slot);
        if self.streams.is_empty() {
            // Release the memory of a busy period.
            self.streams = Slab::new();
            self.channels = Channels::default();
            self.wheel = TimerWheel::at(self.now);
        }
    }

    /// Ends all streams in an orderly way, then closes their sockets without waiting for slow
    /// clients: the server has been dropped.
    pub(super) fn stop(&mut self) {
        self.end_all(CloseReason::Drain);
        self.close_all(CloseReason::Drain);
    }

    /// Closes all sockets immediately.
    pub(super) fn close_all(&mut self, reason: CloseReason) {
        let keys: Vec<usize> = self.streams.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.finish(u32::try_from(key).unwrap_or(u32::MAX), reason);
        }
    }
}

/// Runs application code; a panic in it must not affect other streams.
fn run_on_close(callbacks: Option<Box<Callbacks>>, reason: CloseReason) {
    let close = || callbacks.into_iter().for_each(|callbacks| callbacks.close(reason));
    if catch_unwind(AssertUnwindSafe(close)).is_err() {
        tracing::error!("panic in on_close or in the drop of a response body");
    }
}
