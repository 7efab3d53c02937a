//! One stream of a shard: a slab entry. Look here for what an idle stream costs, and for its timers.

use std::io::{self, Read, Write};
use std::rc::Rc;
use std::time::Duration;

use mio::net::TcpStream;

use super::outbox::Outbox;
use crate::close::CloseReason;
use crate::hub::mailbox::Given;
use crate::limits::{STRAY_BYTES_MAX, TICK};
use crate::response::{Callbacks, Settings};
use crate::serve::chunked::chunk;
use crate::serve::slots::ConnectionSlot;

/// How streams are set up. Equal for most streams of a shard, so they share one.
pub(super) struct Profile {
    pub(super) settings: Settings,
    /// The heartbeat in its chunk.
    heartbeat: Box<[u8]>,
    heartbeat_ticks: Option<u32>,
    send_timeout_ticks: Option<u32>,
}

impl Profile {
    pub(super) fn new(settings: Settings) -> Self {
        let heartbeat = settings.heartbeat.as_ref();
        Self {
            heartbeat: heartbeat.map(|it| chunk(it.bytes())).unwrap_or_default().into(),
            heartbeat_ticks: heartbeat.map(|it| ticks(it.interval())),
            send_timeout_ticks: settings.send_timeout.map(ticks),
            settings,
        }
    }

    pub(super) fn is_named(&self) -> bool {
        self.settings.name_by_channel
    }
}

/// A stream.
pub(super) struct Stream {
    pub(super) socket: TcpStream,
    /// Bytes that the client sent although nothing is expected.
    pub(super) stray_bytes: u32,
    pub(super) given: Given,
    pub(super) channels: Memberships,
    /// `None` while everything went out.
    pub(super) outbox: Option<Box<Outbox>>,
    pub(super) profile: Rc<Profile>,
    /// What belongs to the program that serves; dropped when the stream ends.
    pub(super) user: Option<Box<Callbacks>>,
    pub(super) place: ConnectionSlot,
    /// The tick after the last write.
    pub(super) written: u32,
    /// Its place in the hub's registry; 0 if it has no owner.
    pub(super) number: u64,
    /// When its time is over; `u32::MAX` for never.
    pub(super) time_over: u32,
    /// Whether what its client was allowed is over then, and not its lifetime.
    pub(super) expires: bool,
    pub(super) state: State,
    /// Whether it is on the list of those that get a mix of channels in this turn.
    pub(super) is_mixing: bool,
    /// Whether the poll loop tells when the socket takes bytes again.
    pub(super) watches_writes: bool,
}

/// How far a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Live,
    /// The last bytes are on their way.
    Ending(CloseReason),
}

/// A channel that a stream is on, and its place in the channel's list.
#[derive(Clone, Copy)]
pub(super) struct Membership {
    pub(super) slot: u32,
    pub(super) place: u32,
}

/// The channels of a stream. Most have one, which needs no allocation.
pub(super) enum Memberships {
    One(Membership),
    Many(Box<[Membership]>),
}

impl Memberships {
    pub(super) fn as_slice(&self) -> &[Membership] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }

    /// The stream's place in a channel's list has changed.
    pub(super) fn moved(&mut self, slot: u32, place: u32) {
        let all = match self {
            Self::One(one) => std::slice::from_mut(one),
            Self::Many(many) => many,
        };
        all.iter_mut().filter(|it| it.slot == slot).for_each(|it| it.place = place);
    }

    pub(super) fn take(&mut self) -> Self {
        std::mem::replace(self, Self::Many(Box::default()))
    }
}

impl Stream {
    pub(super) fn is_live(&self) -> bool {
        self.state == State::Live
    }

    /// When its timer must ring next.
    pub(super) fn due(&self) -> Option<u32> {
        if !self.is_live() {
            return self.stalls_at();
        }
        let time_over = (self.time_over != u32::MAX).then_some(self.time_over);
        [self.stalls_at(), self.beats_at(), time_over].into_iter().flatten().min()
    }

    fn stalls_at(&self) -> Option<u32> {
        let (outbox, timeout) = self.outbox.as_ref().zip(self.profile.send_timeout_ticks)?;
        Some(outbox.since.saturating_add(timeout))
    }

    fn beats_at(&self) -> Option<u32> {
        Some(self.written.saturating_add(self.profile.heartbeat_ticks?))
    }

    /// Whether the client took nothing for its send timeout.
    pub(super) fn is_stalled(&self, now: u32) -> bool {
        self.stalls_at().is_some_and(|due| now >= due)
    }

    pub(super) fn heartbeat_is_due(&self, now: u32) -> bool {
        self.beats_at().is_some_and(|due| now >= due)
    }

    /// Writes a heartbeat, unless the client has more to read than that.
    pub(super) fn send_heartbeat(&mut self, now: u32) -> io::Result<()> {
        self.written = now + 1;
        if self.outbox.is_some() {
            return Ok(());
        }
        let profile = Rc::clone(&self.profile);
        self.write_or_keep(&profile.heartbeat, now)
    }

    /// Writes bytes that are one whole, if nothing waits; what the socket does not take waits in the outbox.
    pub(super) fn write_or_keep(&mut self, bytes: &[u8], now: u32) -> io::Result<()> {
        let sent = if self.outbox.is_none() { self.try_write(bytes)? } else { 0 };
        if sent < bytes.len() {
            self.outbox_at(now).push_bytes(bytes[sent..].into());
        }
        Ok(())
    }

    /// One write; how much went out, which may be nothing.
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

    /// Reads and throws away; false if the client is gone, or sends more than it may.
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

    pub(super) fn outbox_at(&mut self, now: u32) -> &mut Outbox {
        self.outbox.get_or_insert_with(|| Box::new(Outbox::since(now)))
    }
}

/// A duration in whole ticks, rounded up, so that nothing rings early.
pub(super) fn ticks(duration: Duration) -> u32 {
    u32::try_from(duration.as_nanos().div_ceil(TICK.as_nanos())).unwrap_or(u32::MAX - 1)
}

// What an idle stream is: 15,000 of them must stay in a few megabytes. If this fails, find another place
// for what was added, or write down what the bytes buy.
const _: () = assert!(size_of::<Stream>() <= 144);
const _: () = assert!(size_of::<Memberships>() <= 16);
