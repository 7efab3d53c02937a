//! One stream, as every transport drives it: when it acts, what waits for its client, and how it
//! ends. It has neither a clock nor a socket. Look here for the order of a stream's last bytes.

use std::time::Duration;

use super::backlog::{Backlog, Offer};
use super::envelope::{self, Framing};
use super::schedule::{Due, Intervals, Schedule, Tick};
use super::waiting::Overflow;
use crate::close::CloseReason;
use crate::frame::Frame;

/// The state of a stream. Its driver reports what it writes, and asks what is due.
pub struct StreamState {
    /// Why the stream is closing: nothing may be added, what waits is the last. `None` while events
    /// are replayed or delivered.
    closing: Option<CloseReason>,
    schedule: Schedule,
    /// `None` while the client has taken everything.
    backlog: Option<Box<Backlog>>,
}

/// How the body of a stream ends.
#[derive(Debug, Clone, Copy)]
pub struct Ending {
    /// Why.
    pub reason: CloseReason,
    /// How long the client waits before it reconnects, before jitter.
    pub retry: Option<Duration>,
    /// How the last bytes are framed.
    pub framing: Framing,
    /// Whether events are named after their channel.
    pub named: bool,
}

impl StreamState {
    /// A stream that begins at this tick. It ends when and because `ends` says so.
    pub fn new(now: Tick, ends: Option<(Tick, CloseReason)>) -> Self {
        Self { closing: None, schedule: Schedule::new(now, ends), backlog: None }
    }

    /// Whether the stream is not closing.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.closing.is_none()
    }

    /// Why the stream is closing, if it is.
    pub fn closing(&self) -> Option<CloseReason> {
        self.closing
    }

    /// What the client has not taken, if anything.
    #[inline]
    pub fn backlog(&self) -> Option<&Backlog> {
        self.backlog.as_deref()
    }

    /// The bytes that wait for the client.
    pub fn backlog_bytes(&self) -> usize {
        self.backlog().map_or(0, Backlog::bytes)
    }

    // === when it acts ===

    /// When something is due next.
    pub fn next(&self, intervals: &Intervals) -> Option<Tick> {
        self.schedule.next(intervals, !self.is_open())
    }

    /// What is due now; the first of them, if it is several.
    pub fn due(&self, now: Tick, intervals: &Intervals) -> Option<Due> {
        self.schedule.due(now, intervals, !self.is_open())
    }

    /// Since when the client has taken nothing of what waits for it.
    pub fn waiting_since(&self) -> Option<Tick> {
        self.schedule.waiting_since()
    }

    /// Records that the transport wrote, or that the stream queued instead.
    #[inline]
    pub fn wrote(&mut self, now: Tick) {
        self.schedule.wrote(now);
    }

    /// Records that the transport has bytes that the client has not taken.
    pub fn waits(&mut self, now: Tick) {
        self.schedule.waits(now);
    }

    /// Records that the client took everything that the transport had.
    pub fn took_all(&mut self) {
        self.schedule.took_all();
    }

    // === what waits ===

    fn backlog_at(&mut self, now: Tick) -> &mut Backlog {
        self.schedule.waits(now);
        self.backlog.get_or_insert_with(|| Box::new(Backlog::since(now)))
    }

    /// Queues bytes that begin a stream, or are between events; the client has taken `sent` of
    /// them. Nothing else may wait.
    pub fn queue_bytes(&mut self, bytes: &[u8], sent: usize, now: Tick) {
        if self.is_open() && sent < bytes.len() {
            self.backlog_at(now).lead(bytes.into(), sent);
        }
    }

    /// Queues a frame that the transport could not write, or not whole.
    ///
    /// # Errors
    /// If too much waits already: the stream must close.
    pub fn offer(&mut self, frame: &Frame, offer: &Offer, now: Tick) -> Result<(), Overflow> {
        if self.is_open() { self.backlog_at(now).offer(frame, offer) } else { Ok(()) }
    }

    /// Queues a frame of a page, however much waits: the next page comes when the client has taken
    /// this one.
    pub fn push_replayed(&mut self, frame: &Frame, named: bool, now: Tick) {
        if self.is_open() {
            self.backlog_at(now).push(frame, named);
        }
    }

    /// Records that the client took bytes of what waits.
    pub fn took(&mut self, bytes: usize, named: bool, now: Tick) {
        let Some(backlog) = &mut self.backlog else { return };
        backlog.advance(bytes, named, now);
        self.schedule.took_some(now);
    }

    /// Drops the backlog if it is empty. Returns by how much the bytes in all backlogs have changed
    /// since the last call. To be called after every change.
    pub fn settle(&mut self) -> isize {
        let Some(backlog) = &mut self.backlog else { return 0 };
        let held = backlog.take_held();
        if backlog.is_empty() {
            self.backlog = None;
            self.schedule.took_all();
        }
        held
    }

    // === how it ends ===

    /// Closes the stream, unless it is closing already. An event that was begun is completed;
    /// others that wait are sent unless the client may not have them, or takes too long. Then
    /// follows the end of the body.
    pub fn close(&mut self, ending: &Ending, now: Tick) -> bool {
        if !self.is_open() {
            return false;
        }
        let Ending { reason, retry, framing, named } = *ending;
        self.closing = Some(reason);
        let discards = [CloseReason::Overflow, CloseReason::Expired, CloseReason::Revoked];
        if discards.contains(&reason)
            && let Some(backlog) = &mut self.backlog
        {
            backlog.discard_unsent(named);
        }
        let end = envelope::ending(reason, retry, framing);
        if !end.is_empty() {
            self.backlog_at(now).end(end.into());
        }
        self.schedule.wrote(now);
        true
    }

    /// The end of the body, for a transport that has taken all events.
    pub fn take_end(&mut self) -> Option<Box<[u8]>> {
        self.backlog.take().map(|mut backlog| backlog.take_end())
    }

    /// Discards what waits: the connection is closed. Returns the reason that counts, and by how
    /// much the bytes in all backlogs have changed.
    pub fn abandon(&mut self, reason: CloseReason, named: bool) -> (CloseReason, isize) {
        let reason = self.closing().unwrap_or(reason);
        self.closing = Some(reason);
        if let Some(backlog) = &mut self.backlog {
            backlog.clear(named);
        }
        (reason, self.settle())
    }
}
