//! One stream of a shard, as an entry of its slab. Look here for the memory of an idle stream, and
//! for what reads from and writes to its socket.

use std::io::{self, IoSlice, Read, Write};
use std::rc::Rc;

use headwater_core::close::CloseReason;
use headwater_core::frame::chunk;
use headwater_core::transport::{
    Backlog, Due, Ending, Framing, Intervals, Progress, StreamState, Tick,
};
use mio::net::TcpStream;

use super::slots::ConnectionSlot;
use crate::limits::STRAY_BYTES_MAX;
use crate::response::{Callbacks, StreamOptions};

/// Maximum pieces per write. Linux accepts 1024, but more than this rarely fit in a socket's
/// buffer.
const PIECES_MAX: usize = 64;

/// The settings of a stream. Most streams of a shard have the same settings, and share one
/// `Profile`.
pub(super) struct Profile {
    pub(super) options: StreamOptions,
    pub(super) intervals: Intervals,
    /// The heartbeat as a chunk; empty if there is none.
    heartbeat: Box<[u8]>,
}

impl Profile {
    pub(super) fn new(options: StreamOptions) -> Self {
        let heartbeat = options.heartbeat.as_ref();
        Self {
            heartbeat: heartbeat.map(|it| chunk(&it.frame())).unwrap_or_default().into(),
            intervals: options.intervals(),
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
    pub(super) state: StreamState,
    pub(super) profile: Rc<Profile>,
    /// The application's callback and body, dropped when the stream ends.
    pub(super) callbacks: Option<Box<Callbacks>>,
    pub(super) slot: ConnectionSlot,
    /// The stream's number in the hub's registry; 0 if it has no owner.
    pub(super) number: u64,
    /// Whether the stream is already on this turn's list of streams that need frames of several
    /// channels merged.
    pub(super) is_merging: bool,
    /// Whether the poll loop reports when the socket becomes writable.
    pub(super) watches_writes: bool,
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
    /// When something is due next.
    pub(super) fn next(&self) -> Option<Tick> {
        self.state.next(&self.profile.intervals)
    }

    /// What is due now.
    pub(super) fn due(&self, now: Tick) -> Option<Due> {
        self.state.due(now, &self.profile.intervals)
    }

    /// Closes the stream, unless it is closing already.
    pub(super) fn close(&mut self, reason: CloseReason, now: Tick) -> bool {
        let StreamOptions { retry, name_by_channel: named, .. } = self.profile.options;
        self.state.close(&Ending { reason, retry, framing: Framing::Chunked, named }, now)
    }

    /// Writes a heartbeat, unless something already waits for the client.
    pub(super) fn send_heartbeat(&mut self, now: Tick) -> io::Result<()> {
        self.state.wrote(now);
        if self.state.backlog().is_none() {
            let profile = Rc::clone(&self.profile);
            let sent = self.try_write(&profile.heartbeat)?;
            self.state.queue_bytes(&profile.heartbeat, sent, now);
        }
        Ok(())
    }

    /// Writes what waits until nothing does or the socket blocks. Returns the number of writes.
    ///
    /// # Errors
    /// If the connection failed. A blocked socket is not an error.
    pub(super) fn flush(&mut self, now: Tick) -> io::Result<u64> {
        let named = self.profile.is_named();
        let mut writes = 0;
        while let Some(backlog) = self.state.backlog().filter(|backlog| !backlog.is_empty()) {
            match write_once(&mut self.socket, backlog, named) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => {
                    writes += 1;
                    self.state.took(bytes, named, now);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.state.wrote(now);
        Ok(writes)
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
}

fn write_once(socket: &mut impl Write, backlog: &Backlog, named: bool) -> io::Result<usize> {
    let mut slices = [IoSlice::new(&[]); PIECES_MAX];
    match backlog.slices(named, &mut slices) {
        1 => socket.write(&slices[0]),
        count => socket.write_vectored(&slices[..count]),
    }
}

// 15,000 idle streams must fit in a few megabytes. If this fails, move the added field elsewhere,
// or record here what its bytes are worth.
const _: () = assert!(size_of::<Stream>() <= 144);
const _: () = assert!(size_of::<Memberships>() <= 16);
