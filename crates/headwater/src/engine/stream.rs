//! One stream of a shard, as an entry of its slab. Look here for the memory of an idle stream, and
//! for its timers.

use std::io::{self, Read, Write};
use std::rc::Rc;
use std::time::Duration;

use headwater_core::close::CloseReason;
use headwater_core::frame::chunk;
use headwater_core::transport::Progress;
use mio::net::TcpStream;

use super::backlog::Backlog;
use super::slots::ConnectionSlot;
use crate::limits::{STRAY_BYTES_MAX, TICK};
use crate::response::{Callbacks, StreamOptions};

/// The settings of a stream. Most streams of a shard have the same settings, and share one
/// `Profile`.
pub(super) struct Profile {
    pub(super) options: StreamOptions,
    /// The heartbeat as a chunk; empty if there is none.
    heartbeat: Box<[u8]>,
    heartbeat_ticks: Option<u32>,
    send_timeout_ticks: Option<u32>,
}

impl Profile {
    pub(super) fn new(options: StreamOptions) -> Self {
        let heartbeat = options.heartbeat.as_ref();
        Self {
            heartbeat: heartbeat.map(|it| chunk(&it.frame())).unwrap_or_default().into(),
            heartbeat_ticks: heartbeat.map(|it| ticks(it.interval())),
            send_timeout_ticks: options.send_timeout.map(ticks),
            options,
        }
    }

    pub(super) fn is_named(&self) -> bool {
        self.options.name_by_channel
    }
}

/// A stream and its connection.
pub(super) struct Stream {
    pub(super) socket: TcpStream,
    /// Bytes the client has sent after its request; bounded by `STRAY_BYTES_MAX`.
    pub(super) stray_bytes: u32,
    pub(super) progress: Progress,
    pub(super) channels: Memberships,
    /// `None` while the socket has accepted everything.
    pub(super) backlog: Option<Box<Backlog>>,
    pub(super) profile: Rc<Profile>,
    /// The application's callback and body, dropped when the stream ends.
    pub(super) callbacks: Option<Box<Callbacks>>,
    pub(super) slot: ConnectionSlot,
    /// The tick after the last write.
    pub(super) written: u32,
    /// The stream's number in the hub's registry; 0 if it has no owner.
    pub(super) number: u64,
    /// The tick at which the stream ends, by `expires_at` or `lifetime_max`; `u32::MAX` for never.
    pub(super) ends_at: u32,
    /// Whether the client's permission expires at that tick, as opposed to the stream's lifetime.
    pub(super) expires: bool,
    pub(super) state: State,
    /// Whether the stream is already on this turn's list of streams that need frames of several
    /// channels merged.
    pub(super) is_merging: bool,
    /// Whether the poll loop reports when the socket becomes writable.
    pub(super) watches_writes: bool,
}

/// The phase of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Live,
    /// The last bytes are in flight.
    Ending(CloseReason),
}

/// A channel that a stream subscribes to, and the stream's index in the channel's list.
#[derive(Clone, Copy)]
pub(super) struct Membership {
    pub(super) slot: u32,
    pub(super) index: u32,
}

/// The channels of a stream. Most have one, which needs no allocation.
pub(super) enum Memberships {
    One(Membership),
    Many(Box<[Membership]>),
}

impl Default for Memberships {
    fn default() -> Self {
        Self::Many(Box::default())
    }
}

impl Memberships {
    pub(super) fn as_slice(&self) -> &[Membership] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }

    /// Records the stream's new index in a channel's list.
    pub(super) fn moved(&mut self, slot: u32, index: u32) {
        let all = match self {
            Self::One(one) => std::slice::from_mut(one),
            Self::Many(many) => many,
        };
        all.iter_mut().filter(|it| it.slot == slot).for_each(|it| it.index = index);
    }

    pub(super) fn take(&mut self) -> Self {
        std::mem::take(self)
    }
}

impl Stream {
    pub(super) fn is_live(&self) -> bool {
        self.state == State::Live
    }

    /// The tick at which the stream's timer is due.
    pub(super) fn due(&self) -> Option<u32> {
        if !self.is_live() {
            return self.stalls_at();
        }
        let ends_at = (self.ends_at != u32::MAX).then_some(self.ends_at);
        [self.stalls_at(), self.heartbeat_at(), ends_at].into_iter().flatten().min()
    }

    fn stalls_at(&self) -> Option<u32> {
        let (backlog, timeout) = self.backlog.as_ref().zip(self.profile.send_timeout_ticks)?;
        Some(backlog.pace.since.saturating_add(timeout))
    }

    fn heartbeat_at(&self) -> Option<u32> {
        Some(self.written.saturating_add(self.profile.heartbeat_ticks?))
    }

    /// Whether the client has accepted nothing for the send timeout.
    pub(super) fn is_stalled(&self, now: u32) -> bool {
        self.stalls_at().is_some_and(|due| now >= due)
    }

    pub(super) fn heartbeat_is_due(&self, now: u32) -> bool {
        self.heartbeat_at().is_some_and(|due| now >= due)
    }

    /// Writes a heartbeat, unless a backlog already waits for the client.
    pub(super) fn send_heartbeat(&mut self, now: u32) -> io::Result<()> {
        self.written = now + 1;
        if self.backlog.is_some() {
            return Ok(());
        }
        let profile = Rc::clone(&self.profile);
        self.write_or_queue(&profile.heartbeat, now)
    }

    /// Writes bytes that form a unit. If there is a backlog, or the socket does not accept all of
    /// them, the rest is queued in the backlog.
    pub(super) fn write_or_queue(&mut self, bytes: &[u8], now: u32) -> io::Result<()> {
        let sent = if self.backlog.is_none() { self.try_write(bytes)? } else { 0 };
        if sent < bytes.len() {
            let backlog = self.backlog_at(now);
            let is_first = backlog.is_empty();
            backlog.push_bytes(bytes.into());
            if is_first {
                // What has been sent in part must be completed.
                backlog.set_sent(sent);
            }
        }
        Ok(())
    }

    /// Makes one write. Returns how many bytes the socket accepted, 0 if it is blocked.
    pub(super) fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.socket.write(bytes) {
                Ok(sent) => return Ok(sent),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads and discards. False if the client is gone or has exceeded `STRAY_BYTES_MAX`.
    pub(super) fn read_stray(&mut self, scratch: &mut [u8]) -> bool {
        loop {
            match self.socket.read(scratch) {
                Ok(0) => return false,
                Ok(bytes) => {
                    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
                    self.stray_bytes = self.stray_bytes.saturating_add(bytes);
                    if self.stray_bytes > STRAY_BYTES_MAX {
                        return false;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }

    pub(super) fn backlog_bytes(&self) -> usize {
        self.backlog.as_ref().map_or(0, |backlog| backlog.bytes())
    }

    /// By how much the bytes in all backlogs have changed since the last call.
    pub(super) fn take_held(&mut self) -> isize {
        self.backlog.as_mut().map_or(0, |backlog| backlog.take_held())
    }

    /// The backlog, created at this tick if there is none.
    pub(super) fn backlog_at(&mut self, now: u32) -> &mut Backlog {
        self.backlog.get_or_insert_with(|| Box::new(Backlog::since(now)))
    }
}

/// A duration in whole ticks, rounded up so that no timer fires early.
pub(super) fn ticks(duration: Duration) -> u32 {
    u32::try_from(duration.as_nanos().div_ceil(TICK.as_nanos())).unwrap_or(u32::MAX - 1)
}

// 15,000 idle streams must fit in a few megabytes. If this fails, move the added field elsewhere,
// or record here what its bytes are worth.
const _: () = assert!(size_of::<Stream>() <= 144);
const _: () = assert!(size_of::<Memberships>() <= 16);
