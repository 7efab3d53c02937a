//! The loop of a shard: its mailbox, its timers and its sockets. Look here for what happens in which order.

use std::io;
use std::time::Duration;

use headwater_core::close::CloseReason;
use headwater_core::transport::Message;
use mio::Events;
use mio::event::Event;

use super::shard::{MAILBOX, Shard};
use super::stream::State;
use crate::limits::{TICK, TURN_ATTACHES_MAX, TURN_BYTES_MAX, TURN_MESSAGES_MAX};

/// Whether the loop goes on.
#[derive(PartialEq, Eq)]
pub(super) enum Flow {
    On,
    Stop,
}

impl Shard {
    /// Runs until it is told to stop.
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
            self.port.mailbox().look_for_room();
        }
    }

    fn tick(&self) -> u32 {
        u32::try_from(self.began.elapsed().as_millis() / TICK.as_millis()).unwrap_or(u32::MAX)
    }

    /// How long it may sleep.
    fn poll_timeout(&self) -> Option<Duration> {
        if !self.pending.is_empty() {
            return Some(Duration::ZERO);
        }
        let due = TICK * self.wheel.next()?;
        Some(due.saturating_sub(self.began.elapsed()))
    }

    // === the mailbox ===

    /// Takes what waits in the mailbox, and works off a slice of it.
    ///
    /// It looks into the mailbox in every turn, also while there is a pending: the loop may sleep only after
    /// a look, since a wake-up may have been used up since the last one.
    pub(super) fn turn(&mut self) -> Flow {
        let has_hole = self.port.mailbox().take(&mut self.inbox);
        self.pending.extend(self.inbox.drain(..));
        // A burst must not leave its memory behind, neither here nor, after the next look, in the mailbox.
        self.inbox.shrink_to(TURN_MESSAGES_MAX);
        if has_hole {
            tracing::warn!("a shard is too far behind: its streams end, to resume");
            self.give_up_backlog();
        }
        if self.pending.is_empty() {
            return Flow::On;
        }
        self.port.mailbox().counts.turns.add(1);
        let (mut flow, mut messages, mut bytes, mut attaches) = (Flow::On, 0, 0, 0);
        while messages < TURN_MESSAGES_MAX
            && bytes < TURN_BYTES_MAX
            && attaches < TURN_ATTACHES_MAX
            && flow == Flow::On
            && let Some(message) = self.pending.pop_front()
        {
            messages += 1;
            match message {
                Message::Deliver { slot, frame } => {
                    bytes += frame.len();
                    self.batch.push(slot, frame);
                }
                Message::DeliverToAll(frame) => {
                    self.deliver();
                    self.deliver_to_all(&frame);
                }
                Message::Attach(attachment) => {
                    // What came before is not the attachment's.
                    self.deliver();
                    self.attach(*attachment);
                    attaches += 1;
                }
                Message::Drain => {
                    self.deliver();
                    self.end_all(CloseReason::Drain);
                }
                Message::Revoke(whose) => {
                    self.deliver();
                    self.revoke(whose);
                }
                Message::Stop => flow = Flow::Stop,
            }
        }
        self.deliver();
        if self.pending.is_empty() {
            self.pending.shrink_to(TURN_MESSAGES_MAX);
        }
        self.port.mailbox().done(messages, bytes);
        flow
    }

    /// Ends all streams, those too that are about to join: one of the frames that were dropped may have been
    /// theirs.
    fn give_up_backlog(&mut self) {
        let (mut messages, mut bytes) = (0, 0);
        while let Some(message) = self.pending.pop_front() {
            match message {
                Message::Stop => {
                    self.pending.push_front(message);
                    break;
                }
                Message::Deliver { frame, .. } => bytes += frame.len(),
                Message::DeliverToAll(_) => {}
                Message::Attach(attachment) => self.attach(*attachment),
                Message::Drain => self.end_all(CloseReason::Drain),
                Message::Revoke(whose) => self.revoke(whose),
            }
            messages += 1;
        }
        self.end_all(CloseReason::Overflow);
        self.port.mailbox().done(messages, bytes);
    }

    // === timers and sockets ===

    fn fire_timers(&mut self) {
        let mut rung = Vec::new();
        self.wheel.advance(self.now, &mut rung);
        for key in rung {
            self.on_timer(key);
        }
    }

    fn on_timer(&mut self, key: u32) {
        let now = self.now;
        let Some(stream) = self.streams.get_mut(key as usize) else { return };
        if stream.is_stalled(now) {
            return self.finish(key, CloseReason::Stalled);
        }
        if stream.is_live() && now >= stream.time_over {
            let reason = if stream.expires { CloseReason::Expired } else { CloseReason::Lifetime };
            return self.end(key, reason);
        }
        if stream.is_live() && stream.heartbeat_is_due(now) {
            let before = stream.backlog_bytes();
            let beat = stream.send_heartbeat(now);
            let after = stream.backlog_bytes();
            self.account(before, after);
            self.port.mailbox().counts.writes.add(1);
            if beat.is_err() {
                return self.finish(key, CloseReason::ClientGone);
            }
        }
        self.watch(key);
    }

    fn on_socket(&mut self, event: &Event) {
        let Ok(key) = u32::try_from(event.token().0) else { return };
        let Some(stream) = self.streams.get_mut(key as usize) else { return };
        // A client that closes only its own direction is gone as well, as it is for hyper.
        if event.is_error() {
            // The kernel gave up waiting for the client's acknowledgement.
            let error = stream.socket.take_error().ok().flatten();
            let timed_out = error.is_some_and(|error| error.kind() == io::ErrorKind::TimedOut);
            return self.finish(
                key,
                if timed_out { CloseReason::Stalled } else { CloseReason::ClientGone },
            );
        }
        let gone = event.is_read_closed()
            || (event.is_readable() && !stream.read_stray(&mut self.scratch));
        if gone {
            return self.finish(key, CloseReason::ClientGone);
        }
        if event.is_writable() {
            match self.flush(key) {
                Ok(()) => self.after_flush(key),
                Err(_) => self.finish(key, CloseReason::ClientGone),
            }
        }
    }

    pub(super) fn after_flush(&mut self, key: u32) {
        let Some(stream) = self.streams.get(key as usize) else { return };
        match stream.state {
            State::Ending(reason) if stream.backlog.is_none() => self.finish(key, reason),
            _ => self.watch(key),
        }
    }
}
