//! The loop of a shard: its mailbox, timers and sockets. Look here for the order of a turn.

use std::io;
use std::time::Duration;

use headwater_core::close::CloseReason;
use headwater_core::frame::Frame;
use headwater_core::transport::{Due, Message, Tick};
use mio::Events;
use mio::event::Event;

use super::shard::{MAILBOX, ReplayPage, Shard};
use crate::limits::{TICK, TURN_ATTACHES_MAX, TURN_BYTES_MAX, TURN_MESSAGES_MAX};

/// Whether the loop continues.
#[derive(PartialEq, Eq)]
pub(super) enum Flow {
    Continue,
    Stop,
}

impl Shard {
    /// Runs until `Message::Stop`.
    ///
    /// # Errors
    /// If polling fails.
    pub(super) fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        loop {
            self.now = self.tick();
            if self.turn() == Flow::Stop {
                self.stop();
                return Ok(());
            }
            self.fire_timers();
            match self.poll.poll(&mut events, self.poll_timeout()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                polled => polled?,
            }
            self.now = self.tick();
            for event in &events {
                if event.token() != MAILBOX {
                    self.on_socket(event);
                }
            }
            self.look_at_backlogs();
            self.port.mailbox().look_for_room();
        }
    }

    fn tick(&self) -> Tick {
        u32::try_from(self.began.elapsed().as_millis() / TICK.as_millis()).unwrap_or(u32::MAX)
    }

    /// How long the loop may sleep; `None` until the next socket event or message.
    fn poll_timeout(&self) -> Option<Duration> {
        if !self.pending.is_empty() || !self.pages.is_empty() {
            return Some(Duration::ZERO);
        }
        let due = self.wheel.next().map(|next| TICK * next);
        let timeout = due.map(|due| due.saturating_sub(self.began.elapsed()));
        if self.port.mailbox().has_congested() {
            // Publishers wait until the shard has looked again.
            return Some(timeout.unwrap_or(TICK).min(TICK));
        }
        timeout
    }

    // === the mailbox ===

    /// Takes all messages out of the mailbox and processes a bounded number of them.
    ///
    /// Every turn checks the mailbox, even while messages are pending: the loop may sleep only
    /// after a check, because a wake-up may have been consumed since the previous one.
    pub(super) fn turn(&mut self) -> Flow {
        let dropped = self.port.mailbox().take(&mut self.inbox);
        let pages = self.pages.len();
        for message in self.inbox.drain(..) {
            match message {
                Message::Page { replay, frames, written } => {
                    self.pages.push_back(ReplayPage { replay, frames, written });
                }
                message => self.pending.push_back(message),
            }
        }
        if self.pages.len() > pages {
            // A page that waits here is no reason for publishers to wait.
            self.port.mailbox().done(self.pages.len() - pages, 0, &mut self.handled);
        }
        // Release the memory of a burst: here, and in the mailbox once the two vectors are swapped.
        self.inbox.shrink_to(TURN_MESSAGES_MAX);
        if !dropped.is_empty() || self.port.mailbox().is_overrun() {
            self.discard_overrun(dropped);
        }
        if self.pending.is_empty() && self.pages.is_empty() {
            return Flow::Continue;
        }
        self.port.mailbox().counts.turns.add(1);
        let (mut flow, mut messages, mut attaches) = (Flow::Continue, 0, 0);
        // Of live frames, which the mailbox counts, and of replayed ones.
        let (mut bytes, mut replayed) = (0, 0);
        while messages < TURN_MESSAGES_MAX
            && bytes + replayed < TURN_BYTES_MAX
            && attaches < TURN_ATTACHES_MAX
            && flow == Flow::Continue
            && let Some(message) = self.pending.pop_front()
        {
            messages += 1;
            match message {
                Message::Deliver { slot, frame } => {
                    bytes += frame.len();
                    self.handled.push(slot);
                    self.batch.push(slot, frame);
                }
                Message::DeliverToAll(frame) => {
                    self.deliver();
                    self.deliver_to_all(&frame);
                }
                Message::Attach(attachment) => {
                    // Frames that arrived before the attachment are not part of this stream.
                    self.deliver();
                    replayed += attachment.start.replayed_bytes();
                    self.attach(*attachment);
                    attaches += 1;
                }
                Message::Join { replay, joined } => {
                    // Frames that arrived before are not for this stream.
                    self.deliver();
                    self.on_join(replay, *joined);
                }
                Message::Close { replay, reason } => self.on_close(replay, reason),
                Message::Drain => {
                    self.deliver();
                    self.end_all(CloseReason::Drain);
                }
                Message::Revoke(whose) => {
                    self.deliver();
                    self.revoke(whose);
                }
                Message::Replay { slot, from } => {
                    self.deliver();
                    self.replay_channel(slot, from);
                }
                // Taken out above.
                Message::Page { .. } => {}
                Message::Live { replay, progress } => {
                    // Frames that arrived before are not for this stream.
                    self.deliver();
                    self.on_live(replay, progress);
                }
                Message::Stop => flow = Flow::Stop,
            }
        }
        self.deliver();
        // At least one, so that live frames never keep a replay from its end.
        while let Some(page) = self.pages.pop_front() {
            replayed += page.frames.iter().map(Frame::len).sum::<usize>();
            self.on_page(page);
            if replayed >= TURN_BYTES_MAX {
                break;
            }
        }
        if self.pending.is_empty() {
            self.pending.shrink_to(TURN_MESSAGES_MAX);
        }
        self.port.mailbox().done(messages, bytes, &mut self.handled);
        flow
    }

    // === timers and sockets ===

    fn fire_timers(&mut self) {
        let mut due = Vec::new();
        self.wheel.advance(self.now, &mut due);
        for key in due {
            self.on_timer(key);
        }
    }

    fn on_timer(&mut self, key: u32) {
        let now = self.now;
        let Some(stream) = self.streams.get_mut(key as usize) else { return };
        match stream.due(now) {
            Some(Due::Stall) => return self.finish(key, CloseReason::Stalled),
            Some(Due::End(reason)) => return self.end(key, reason),
            Some(Due::Heartbeat) => {
                let before = stream.state.backlog_bytes();
                let sent = stream.send_heartbeat(now);
                self.count_backlog(key, before);
                self.port.mailbox().counts.writes.add(1);
                if sent.is_err() {
                    return self.finish(key, CloseReason::ClientGone);
                }
            }
            None => {}
        }
        self.watch(key);
    }

    fn on_socket(&mut self, event: &Event) {
        let Ok(key) = u32::try_from(event.token().0) else { return };
        let Some(stream) = self.streams.get_mut(key as usize) else { return };
        if event.is_error() {
            // `TimedOut`: the kernel gave up waiting for the client's acknowledgement.
            let error = stream.socket.take_error().ok().flatten();
            let timed_out = error.is_some_and(|error| error.kind() == io::ErrorKind::TimedOut);
            return self.finish(
                key,
                if timed_out { CloseReason::Stalled } else { CloseReason::ClientGone },
            );
        }
        // A client that closes only its sending direction counts as gone, as it does for hyper.
        let gone = event.is_read_closed()
            || (event.is_readable() && !stream.read_stray(&mut self.scratch));
        if gone {
            return self.finish(key, CloseReason::ClientGone);
        }
        if event.is_writable() {
            let before = stream.state.backlog_bytes();
            match self.flush(key, before) {
                Ok(()) => self.after_flush(key),
                Err(_) => self.finish(key, CloseReason::ClientGone),
            }
        }
    }

    /// Closes the socket of a stream that has ended and has nothing left to send; otherwise updates
    /// what it is watched for.
    pub(super) fn after_flush(&mut self, key: u32) {
        let Some(stream) = self.streams.get(key as usize) else { return };
        if stream.state.backlog().is_none() {
            if let Some(reason) = stream.state.closing() {
                return self.finish(key, reason);
            }
            self.replays.next(key);
        }
        self.watch(key);
    }
}
