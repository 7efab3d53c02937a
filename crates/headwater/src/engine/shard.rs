//! The tables of one shard, and the writes to its streams. Look here for what a shard's thread
//! owns; its loop is in `turn`.

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use headwater_core::close::CloseReason;
use headwater_core::frame::Frame;
use headwater_core::transport::{Message, ShardPort, WaitingBounds};
use mio::{Interest, Poll, Token};
use slab::Slab;

use super::batch::Batch;
use super::channels::Channels;
use super::replays::Replays;
use super::stream::{Profile, Stream};
use super::wheel::TimerWheel;

/// The poll token of the mailbox. A stream's token is its key.
pub(super) const MAILBOX: Token = Token(usize::MAX);

/// The state of a shard's thread.
pub(super) struct Shard {
    /// Shared, because cleaning up after a failed shard needs it.
    pub(super) port: Arc<ShardPort>,
    pub(super) poll: Poll,
    pub(super) streams: Slab<Stream>,
    pub(super) channels: Channels,
    pub(super) replays: Replays,
    pub(super) wheel: TimerWheel,
    pub(super) began: Instant,
    /// The current tick, counted from `began`.
    pub(super) now: u32,
    pub(super) bounds: WaitingBounds,
    pub(super) profiles: Vec<Rc<Profile>>,
    /// Empty between turns; swapped with the mailbox's queue.
    pub(super) inbox: Vec<Message>,
    /// Messages taken out of the mailbox and not processed yet.
    pub(super) pending: VecDeque<Message>,
    /// The slots of the frames that the turn has processed; empty between turns.
    pub(super) handled: Vec<u32>,
    pub(super) batch: Batch,
    pub(super) scratch: Box<[u8]>,
    pub(super) looked: Looked,
}

/// When a shard looked at its backlogs last, and how large they were.
#[derive(Default)]
pub(super) struct Looked {
    pub(super) tick: u32,
    pub(super) backlog_bytes: usize,
}

impl Shard {
    pub(super) fn new(port: ShardPort, poll: Poll) -> Self {
        let bounds = port.backlog_bounds();
        Self {
            port: Arc::new(port),
            poll,
            streams: Slab::new(),
            channels: Channels::default(),
            replays: Replays::default(),
            wheel: TimerWheel::at(0),
            began: Instant::now(),
            now: 0,
            bounds,
            profiles: Vec::new(),
            inbox: Vec::new(),
            pending: VecDeque::new(),
            handled: Vec::new(),
            batch: Batch::default(),
            scratch: vec![0; 4096].into(),
            looked: Looked::default(),
        }
    }
}

impl Shard {
    /// Writes to a stream and updates the counters. Bytes that the socket does not accept are
    /// queued.
    pub(super) fn write(&mut self, key: u32, bytes: &[u8]) -> io::Result<()> {
        let Some(stream) = self.streams.get_mut(key as usize) else { return Ok(()) };
        let before = stream.backlog_bytes();
        stream.written = self.now + 1;
        let wrote = stream.write_or_queue(bytes, self.now);
        let (after, held) = (stream.backlog_bytes(), stream.take_held());
        self.port.mailbox().counts.writes.add(1);
        self.port.backlog_changed(before, after, held);
        wrote
    }

    /// Writes bytes and frames that must be sent whatever waits, after what waits: the head of a
    /// response, and a page of a replay.
    pub(super) fn write_page<'a>(
        &mut self,
        key: u32,
        head: Vec<u8>,
        frames: impl Iterator<Item = &'a Frame>,
    ) -> io::Result<()> {
        let Some(stream) = self.streams.get_mut(key as usize) else { return Ok(()) };
        let (before, named) = (stream.backlog_bytes(), stream.profile.is_named());
        let backlog = stream.backlog_at(self.now);
        if !head.is_empty() {
            backlog.push_bytes(head.into());
        }
        let (mut events, mut bytes) = (0, 0);
        for frame in frames {
            backlog.push_replayed(frame, named);
            events += u64::from(!frame.is_marker());
            bytes += frame.body_len(named);
        }
        self.port.sent(events, bytes);
        self.flush_from(key, before)
    }

    /// Writes from the backlog of a stream whose socket is writable again.
    pub(super) fn flush(&mut self, key: u32) -> io::Result<()> {
        let Some(stream) = self.streams.get(key as usize) else { return Ok(()) };
        self.flush_from(key, stream.backlog_bytes())
    }

    /// Writes from the backlog, which had this many bytes when they were counted last.
    fn flush_from(&mut self, key: u32, before: usize) -> io::Result<()> {
        let Some(stream) = self.streams.get_mut(key as usize) else { return Ok(()) };
        let Some(backlog) = &mut stream.backlog else { return Ok(()) };
        let written = backlog.write(&mut stream.socket, stream.profile.is_named());
        let (after, held) = (backlog.bytes(), backlog.take_held());
        if backlog.is_empty() {
            stream.backlog = None;
        } else if let Ok(written) = &written
            && written.bytes > 0
        {
            backlog.pace.sent(written.bytes, self.now);
        }
        stream.written = self.now + 1;
        self.port.backlog_changed(before, after, held);
        self.port.mailbox().counts.writes.add(written?.writes);
        Ok(())
    }

    /// Sets a stream's timer, and waits for its socket to become writable if it has a backlog.
    pub(super) fn watch(&mut self, key: u32) {
        let Some(stream) = self.streams.get_mut(key as usize) else { return };
        match stream.due() {
            Some(due) => self.wheel.set(key, due),
            None => self.wheel.clear(key),
        }
        if stream.backlog.is_none() || stream.watches_writes {
            return;
        }
        stream.watches_writes = true;
        let both = Interest::READABLE | Interest::WRITABLE;
        let token = Token(key as usize);
        if let Err(error) = self.poll.registry().reregister(&mut stream.socket, token, both) {
            tracing::error!("closing a stream whose socket cannot be polled: {error}");
            self.finish(key, CloseReason::Internal);
        }
    }
}
